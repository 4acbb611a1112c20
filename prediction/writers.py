"""Files of the nuclei of an image: a table, QuPath's GeoJSON and labels."""
import contextlib
import csv
import json
import os
import uuid

import numpy as np

from histology import tiff
from histology.files import atomic_write
from histology.images import DECODER_ERRORS, png_software, write_png
from prediction import measurements, polygons

# What is written for an image STEM.*, and what follows STEM in the names: the
# mask, 0 and 255; 255 times the probability, rounded; the outlines on the
# tissue; the nuclei, 0 and 1 to N, as TIFF if there are more than 65 535; and
# the files of `write_nuclei`.
OUTPUTS = {'mask': ('_mask.png',), 'probability': ('_probability.png',),
           'overlay': ('_overlay.png',),
           'labels': ('_labels.png', '_labels.tif'),
           'csv': ('_nuclei.csv',), 'geojson': ('_nuclei.geojson',)}

# Written into each file. Files without it are never overwritten.
SOFTWARE = 'nuclei segmentation'

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
}
# Units by that power, in pixels and in micrometres.
CSV_UNITS = ('', '_px', '_px2'), ('', '_um', '_um2')
QUPATH_UNITS = ('', ' px', ' px^2'), ('', ' \u00b5m', ' \u00b5m^2')
DECIMALS = 4

NUCLEUS = {'name': 'Nucleus', 'color': [200, 0, 0]}
# GeoJSON allows members of one's own: RFC 7946, 6.1.
GEOJSON_HEAD = ('{"type":"FeatureCollection","generator":'
                f'{json.dumps(SOFTWARE)},"features":[')
# Of the features' UUIDs, see RFC 4122, 4.3; drawn at random.
NAMESPACE = uuid.UUID('3f1c9a52-6d0e-4c56-9b57-0f6c4b0e8d21')

# Absent from haematoxylin and eosin, so it stands out on any tissue.
OUTLINE_COLOUR = (0, 255, 0)
STRIP = 1024  # rows drawn on at a time, for memory

MAX_PNG_LABEL = 2 ** 16 - 1
SOFTWARE_TAG = 305


def write_nuclei(csv_path, geojson_path, labels, probability, image,
                 microns_per_pixel=None):
    """Write a table and a GeoJSON file of nuclei.

    Both hold the measures of `measurements`, rounded to DECIMALS, in pixels
    and, if the image's resolution is known, also in micrometres. The GeoJSON
    file is for QuPath 0.4 and later: each nucleus is a detection, its polygon
    runs along the edges of its pixels, and its UUID is made of the file's
    name, the label and the polygon. Memory: some rows of the image.

    Args:
        csv_path, geojson_path: files to write, or None.
        labels, probability, image: as for `measurements.measure`.
        microns_per_pixel: float, or None if it is not known.

    Raises:
        InputError: as `files.atomic_write`.
    """
    if not (csv_path or geojson_path):
        return
    with contextlib.ExitStack() as stack:
        table, geojson = [
            path and stack.enter_context(open(
                stack.enter_context(atomic_write(path)), 'w', newline='\n',
                encoding='utf-8'))
            for path in (csv_path, geojson_path)]
        if table:
            table.write(_header(microns_per_pixel))
        if geojson:
            geojson.write(GEOJSON_HEAD)
        separator = '\n'
        for batch in measurements.measure(labels, probability, image):
            rows = list(zip(*_columns(batch.measures, microns_per_pixel)))
            if table:
                csv.writer(table, lineterminator='\n').writerows(rows)
            if geojson:
                for feature in _features(
                        batch, rows, os.path.basename(geojson_path),
                        microns_per_pixel):
                    geojson.write(separator + feature)
                    separator = ',\n'
        if geojson:
            geojson.write('\n]}\n')


def _csv_names(microns_per_pixel):
    """List the names of the table's columns."""
    return _with_units(MEASURES, CSV_UNITS, microns_per_pixel)


def _qupath_names(microns_per_pixel):
    """List the names of QuPath's measurements, one for each column."""
    return _with_units([name for _, name in MEASURES.values()], QUPATH_UNITS,
                       microns_per_pixel)


def _with_units(names, units, microns_per_pixel):
    """Add the units to the names of all measures, in the order of columns."""
    powers = [power for power, _ in MEASURES.values()]
    pixels, micrometres = units
    return [name + pixels[power] for name, power in zip(names, powers)] + [
        name + micrometres[power] for name, power in zip(names, powers)
        if power and microns_per_pixel]


def table(batches, microns_per_pixel=None):
    """Return the columns of the table of nuclei.

    Args:
        batches: iterable of `measurements.Batch`.
        microns_per_pixel: as for `write_nuclei`.

    Returns:
        dict of the columns' names to float64 arrays [N].
    """
    rows = [row for batch in batches
            for row in zip(*_columns(batch.measures, microns_per_pixel))]
    names = _csv_names(microns_per_pixel)
    return dict(zip(names, np.array(rows, float).reshape(-1, len(names)).T))


def _header(microns_per_pixel):
    return ','.join(_csv_names(microns_per_pixel)) + '\n'


def _columns(measures, microns_per_pixel):
    """Return lists of rounded numbers, one for each of `_csv_names`."""
    columns = [measures[name] for name in MEASURES]
    if microns_per_pixel:
        columns += [measures[name] * microns_per_pixel ** power
                    for name, (power, _) in MEASURES.items() if power]
    return [[int(value) if value == int(value) else value
             for value in np.round(column, DECIMALS).tolist()]
            for column in columns]


def _features(batch, rows, name, microns_per_pixel):
    """Yield the texts of GeoJSON's features.

    Args:
        batch: measurements.Batch.
        rows: its measures, as in the table.
        name: of the file.
        microns_per_pixel: as for `write_nuclei`.
    """
    titles = _qupath_names(microns_per_pixel)
    traced = polygons.trace(batch.corners, batch.left, batch.top)
    for row, pieces in zip(rows, traced.values()):
        pieces = [[ring.tolist() for ring in rings] for rings in pieces]
        geometry = _json(
            {'type': 'Polygon', 'coordinates': pieces[0]}
            if len(pieces) == 1 else
            {'type': 'MultiPolygon', 'coordinates': pieces})
        identity = uuid.uuid5(NAMESPACE, f'{name!a} {row[0]} {geometry}')
        properties = _json(
            {'objectType': 'detection', 'classification': NUCLEUS,
             'measurements': dict(zip(titles, row))})
        yield (f'{{"type":"Feature","id":"{identity}","geometry":{geometry},'
               f'"properties":{properties}}}')


def _json(content):
    return json.dumps(content, separators=(',', ':'), allow_nan=False)


def write_labels(paths, labels):
    """Write a label image.

    It is a PNG file of 16 bits, or a TIFF file of 32 bits if there are more
    than 65535 nuclei.

    Args:
        paths: of the PNG file and of the TIFF file.
        labels: int32 [H, W], not negative.

    Returns:
        the path that was written

    Raises:
        InputError: as `files.atomic_write`.
    """
    png, tif = paths
    if labels.max() <= MAX_PNG_LABEL:
        write_png(png, labels.astype(np.uint16), SOFTWARE)
        return png
    import tifffile  # here, for a fast start of main.py
    with atomic_write(tif) as partial:
        tifffile.imwrite(
            partial, labels.view(np.uint32), photometric='minisblack',
            rowsperstrip=tiff.STRIP, compression='zlib', metadata=None,
            software=SOFTWARE)
    return tif


def is_written_here(path):
    """Say whether a file was written by prediction.

    Its content decides: the text or tag Software of PNG and TIFF, the first
    line of a table, or the beginning of a GeoJSON file.

    Args:
        path: of a file, whatever it holds, or of none.
    """
    ending = os.path.splitext(path)[1]
    heads = {'.csv': [_header(None), _header(1)],
             '.geojson': [GEOJSON_HEAD]}.get(ending, [])
    if not os.path.isfile(path):
        return False  # a pipe, too: to read it could take for ever
    try:
        if ending == '.png':
            return png_software(path) == SOFTWARE
        if ending == '.tif':
            with tiff.opened(path) as file:
                tag = file.pages[0].tags.get(SOFTWARE_TAG)
                return tag is not None and tag.value == SOFTWARE
        with open(path, 'rb') as file:
            start = file.read(max(map(len, heads), default=0))
        return any(start.startswith(head.encode()) for head in heads)
    except DECODER_ERRORS:
        return False


def overlay(image, labels, out=None):
    """Draw the outlines of the nuclei on the tissue.

    Args:
        image: uint8 [H, W, 3].
        labels: [H, W], 0 in the background and a number for each nucleus, or
            a mask.
        out: `image` itself to draw on it, or None to draw on a copy.

    Returns:
        uint8 [H, W, 3]; see `nuclear_outlines`.
    """
    drawn = image.copy() if out is None else out
    for top in range(0, len(labels), STRIP):
        # With a row to either side, which an outline depends on.
        outer = slice(max(top - 1, 0), top + STRIP + 1)
        edges = nuclear_outlines(labels[outer])[top - outer.start:][:STRIP]
        np.copyto(drawn[top:top + STRIP], np.uint8(OUTLINE_COLOUR),
                  where=edges[..., np.newaxis])
    return drawn


def nuclear_outlines(labels):
    """Find the outermost pixels of each nucleus, also where two touch.

    Args:
        labels: int [H, W], 0 in the background and a number for each nucleus.

    Returns:
        bool [H, W], True at the pixels of a nucleus that have another label
        among their four neighbours. The image's edge is no neighbour.
    """
    outlines = np.zeros(labels.shape, bool)
    for values, found in ((labels, outlines), (labels.T, outlines.T)):
        differ = values[1:] != values[:-1]
        found[1:] |= differ
        found[:-1] |= differ
    outlines &= labels > 0
    return outlines
