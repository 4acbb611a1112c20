"""The files that predict writes, each by one function in OUTPUTS.

A new output is a function here and a line in OUTPUTS.
"""
import contextlib
import csv
import gzip
import io
import json
import os
import uuid

import numpy as np

from histology import drawing, progress, resample, tiff
from histology.files import atomic_write
from histology.images import write_jpeg, write_png
from histology.listing import GEOJSON_HEAD, SOFTWARE, TIFF_MARK
from prediction import polygons, tissue

THUMBNAIL_SIDE = 320  # pixels, at most

# The power of the unit of length of each measure, and its name in QuPath.
MEASURES = {
    'label': (0, 'Label'),
    'centroid_x': (1, 'Centroid X'),
    'centroid_y': (1, 'Centroid Y'),
    'box_x': (1, 'Bounding box X'),
    'box_y': (1, 'Bounding box Y'),
    'box_width': (1, 'Bounding box width'),
    'box_height': (1, 'Bounding box height'),
    'area': (2, 'Area'),
    'perimeter': (1, 'Perimeter'),
    'major_axis': (1, 'Major axis length'),
    'minor_axis': (1, 'Minor axis length'),
    'eccentricity': (0, 'Eccentricity'),
    'solidity': (0, 'Solidity'),
    'mean_probability': (0, 'Probability mean'),
    'mean_haematoxylin_od': (0, 'Hematoxylin OD mean'),
    'touches_border': (0, 'Touches border'),  # stays last, see `columns`
}
# Units by that power, in pixels and in micrometres.
CSV_UNITS = ('', '_px', '_px2'), ('', '_um', '_um2')
QUPATH_UNITS = ('', ' px', ' px^2'), ('', ' \u00b5m', ' \u00b5m^2')
DECIMALS = 4

_json = json.JSONEncoder(separators=(',', ':'), allow_nan=False).encode
NUCLEUS = {'name': 'Nucleus', 'color': [200, 0, 0]}
GZIP_ABOVE = 100000  # nuclei
# Of the features' UUIDs, see RFC 4122, 4.3; drawn at random.
NAMESPACE = uuid.UUID('3f1c9a52-6d0e-4c56-9b57-0f6c4b0e8d21')


def write_mask(paths, nuclei):
    """Write the mask as PNG, 0 and 255."""
    write_png(paths[0], nuclei.mask * np.uint8(255), SOFTWARE)


def write_probability(paths, nuclei):
    """Write 255 times the probability as PNG, rounded."""
    write_png(paths[0], nuclei.probability_uint8, SOFTWARE)


def write_labels(paths, nuclei):
    """Write the label image, 0 and 1 to N, and remove an earlier one.

    It is PNG of 16 bits, or TIFF of 32 bits if there are more nuclei.
    """
    png, tif = paths
    labels = nuclei.labels
    fits = labels.max() < 2 ** 16
    if fits:
        write_png(png, labels.astype(np.uint16), SOFTWARE)
    else:
        import tifffile  # here, for a fast start of main.py
        with atomic_write(tif) as partial:
            tifffile.imwrite(
                partial, labels.view(np.uint32), photometric='minisblack',
                rowsperstrip=tiff.STRIP, compression='zlib', metadata=None,
                software=SOFTWARE)
    with contextlib.suppress(FileNotFoundError):
        os.remove(tif if fits else png)


def write_labels_colour(paths, nuclei):
    """Write the label image as RGB; nuclei that touch differ in colour."""
    labels = nuclei.labels
    colours = drawing.touching_colours(labels)
    coloured = np.empty((*labels.shape, 3), np.uint8)
    for row, numbers in zip(coloured, labels):  # by rows, for memory
        row[:] = colours[numbers]
    write_png(paths[0], coloured, SOFTWARE)


def write_thumbnail(paths, nuclei):
    """Write a small picture of the tissue and the outlines."""
    image, labels = nuclei.image, nuclei.labels
    factor = max(*labels.shape, THUMBNAIL_SIDE) / THUMBNAIL_SIDE
    size = [max(int(side / factor), 1) for side in labels.shape]
    write_jpeg(paths[0], drawing.overlay(
        resample.resample(image, size),
        resample.resample_labels(labels, size)), TIFF_MARK)


def write_csv(paths, nuclei):
    """Write the table of the nuclei's measures."""
    with text_file(paths[0]) as file:
        file.write(HEADERS[nuclei.microns_per_pixel is not None])
        for batch in nuclei.measured():
            csv.writer(file, lineterminator='\n').writerows(
                rows(batch, nuclei.microns_per_pixel))


def write_geojson(paths, nuclei):
    """Write the nuclei for QuPath 0.4 and later, as detections.

    Each has the measures of the table, and a polygon along the edges of its
    pixels. Its UUID is made of the file's name, the label and the polygon.
    """
    titles = [title for *_, title in columns(nuclei.microns_per_pixel)]
    separator = '\n'
    with text_file(paths[0]) as file:
        file.write(GEOJSON_HEAD)
        for batch in nuclei.measured():
            traced = polygons.trace(batch.corners)
            for row, pieces in zip(rows(batch, nuclei.microns_per_pixel),
                                   traced.values()):
                file.write(separator + _feature(
                    os.path.basename(paths[0]), dict(zip(titles, row)),
                    [[ring.tolist() for ring in rings] for rings in pieces]))
                separator = ',\n'
        file.write('\n]}\n')


def write_large_geojson(paths, nuclei):
    """Write the nuclei of a slide for QuPath, gzipped if they are many."""
    many = nuclei.record['nuclei'] > GZIP_ABOVE
    chosen, other = paths[::-1] if many else paths
    write_geojson([chosen], nuclei)
    with contextlib.suppress(FileNotFoundError):
        os.remove(other)


def write_overlay(paths, nuclei):
    """Write the outlines on the tissue."""
    write_png(paths[0], drawing.overlay(nuclei.image, nuclei.labels), SOFTWARE)


def columns(microns_per_pixel):
    """List the columns of the table, those in micrometres if they are known.

    Returns:
        list of (name of the measure, factor, name of the column, name in
        QuPath)
    """
    pixels = [(name, 1, name + CSV_UNITS[0][power],
               title + QUPATH_UNITS[0][power])
              for name, (power, title) in MEASURES.items()]
    microns = [(name, microns_per_pixel ** power, name + CSV_UNITS[1][power],
                title + QUPATH_UNITS[1][power])
               for name, (power, title) in MEASURES.items()
               if microns_per_pixel and power]
    # The last is newer than the others, which keep their columns.
    return [*pixels[:-1], *microns, pixels[-1]]


def rows(batch, microns_per_pixel):
    """List the rows of the table, rounded, of a `measurements.Batch`."""
    return list(zip(*[
        [int(value) if value == int(value) else value for value in np.round(
            batch.measures[name] * factor, DECIMALS).tolist()]
        for name, factor, *_ in columns(microns_per_pixel)]))


@contextlib.contextmanager
def text_file(path):
    """Open a file to write UTF-8 to, atomically; gzipped if it ends so."""
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        if path.endswith('.gz'):
            # Our name as the file's, and no time: the same bytes each time.
            # By level 9 it is 3 % smaller, in three times the time.
            file = gzip.GzipFile(SOFTWARE, 'wb', 6, file, mtime=0)
        # What Python reads of names that are no UTF-8 is escaped.
        with io.TextIOWrapper(file, 'utf-8', 'backslashreplace', '\n') as text:
            yield text


def _feature(file_name, measures, pieces):
    """Return the text of a GeoJSON feature of a nucleus's polygons."""
    geometry = {'type': 'MultiPolygon', 'coordinates': pieces}
    if len(pieces) == 1:
        geometry = {'type': 'Polygon', 'coordinates': pieces[0]}
    geometry = _json(geometry)
    identity = uuid.uuid5(
        NAMESPACE, f'{file_name!a} {measures["Label"]} {geometry}')
    properties = _json({'objectType': 'detection', 'classification': NUCLEUS,
                        'measurements': measures})
    return (f'{{"type":"Feature","id":"{identity}","geometry":{geometry},'
            f'"properties":{properties}}}')


# Of the table, without and with micrometres.
HEADERS = [','.join(name for _, _, name, _ in columns(microns)) + '\n'
           for microns in (None, 1)]

# What is written for an image STEM.*: what follows STEM in the names, and the
# function that writes it, from the paths of these names and a
# `predictor.Nuclei`.
OUTPUTS = {
    'mask': (['_mask.png'], write_mask),
    'probability': (['_probability.png'], write_probability),
    'labels': (['_labels.png', '_labels.tif'], write_labels),
    'labels_colour': (['_labels_colour.png'], write_labels_colour),
    'csv': (['_nuclei.csv'], write_csv),
    'geojson': (['_nuclei.geojson'], write_geojson),
    'overlay': (['_overlay.png'], write_overlay),
}
# The same for a slide, of which `blocks.Nuclei` are written.
SLIDE_OUTPUTS = {
    'csv': OUTPUTS['csv'],
    'geojson': (['_nuclei.geojson', '_nuclei.geojson.gz'],
                write_large_geojson),
    'tissue': (['_tissue.png'], tissue.write_tissue),
    'overview': (['_overview.jpg'], tissue.write_overview),
}


def results_of(is_slide):
    """Return all that is written for an image or a slide, as a dict."""
    return {'thumbnail': (['_thumbnail.jpg'], write_thumbnail),
            **(SLIDE_OUTPUTS if is_slide else OUTPUTS),
            'record': (['.json'], None)}  # by `runs`


def is_wanted(output, outputs):
    """Say whether an output is written: if it is chosen, or always is."""
    return output in outputs or output not in OUTPUTS


def write_all(start, nuclei, outputs, is_slide):
    """Write all results of an image or a slide but the record.

    Args:
        start: of their paths.
        nuclei: `predictor.Nuclei`, or of a slide `blocks.Nuclei`.
        outputs: names of those of OUTPUTS that are wanted.
    """
    for output, (endings, write) in results_of(is_slide).items():
        if write and is_wanted(output, outputs):
            progress.check()
            write([start + ending for ending in endings], nuclei)
