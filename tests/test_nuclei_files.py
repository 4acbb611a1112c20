"""Files of nuclei: their content, and that they appear only when whole."""
import csv
import json
import os
import uuid

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_nuclei import blobs

from conftest import on_a_small_disk
from eval import nuclei_metrics
from histology import annotations, listing
from histology.images import read_labels, write_png
from prediction import runs, writers
from prediction.predictor import Nuclei

IN_PIXELS = ('label,centroid_x_px,centroid_y_px,box_x_px,box_y_px,'
             'box_width_px,box_height_px,area_px2,perimeter_px,major_axis_px,'
             'minor_axis_px,eccentricity,solidity,mean_probability,'
             'mean_haematoxylin_od')
IN_MICROMETRES = ('centroid_x_um,centroid_y_um,box_x_um,box_y_um,'
                  'box_width_um,box_height_um,area_um2,perimeter_um,'
                  'major_axis_um,minor_axis_um')
LAST = ',touches_border'


def square_and_pieces():
    """Labels: a square of 2 x 2 at x 3, y 1, and two pixels apart."""
    labels = np.zeros((6, 8), np.int32)
    labels[1:3, 3:5] = 1
    labels[4, 0] = labels[5, 7] = 2
    image = np.full((6, 8, 3), 255, np.uint8)
    return labels, np.full((6, 8), 255, np.uint8), image


def nuclei_of(labels, probability, image, microns_per_pixel=None):
    return Nuclei(image, labels > 0, probability, labels, microns_per_pixel)


def write(folder, *arrays, **options):
    """Writes both files, and returns the table's lines and the GeoJSON."""
    paths = [str(folder / name) for name in ('a_nuclei.csv',
                                             'a_nuclei.geojson')]
    nuclei = nuclei_of(*arrays, **options)
    writers.write_csv(paths[:1], nuclei)
    writers.write_geojson(paths[1:], nuclei)
    with open(paths[0], newline='') as table, open(paths[1]) as geojson:
        return table.read().split('\n'), json.load(geojson)


def test_a_table_in_pixels(tmp_path):
    lines, _ = write(tmp_path, *square_and_pieces())
    # Crofton: 8 crossings of rows and columns, 12 of diagonals, pi / 8 (8 +
    # 12 / sqrt 2); and of each pixel 4 and 4, 2 pi / 8 (4 + 4 / sqrt 2).
    # The two pixels are 7 and 1 apart: 4 sqrt(50 / 4); their hull is 8 x 2
    # without two triangles of 7 x 1.
    assert lines == [
        IN_PIXELS + LAST,
        '1,4,2,3,1,2,2,4,6.4738,2,2,0,1,1,0,0',
        '2,4,5,0,4,8,2,2,5.363,14.1421,0,1,0.2222,1,0,1', '']


def test_a_table_in_micrometres_too(tmp_path):
    lines, _ = write(tmp_path, *square_and_pieces(), microns_per_pixel=0.5)
    assert lines[0] == IN_PIXELS + ',' + IN_MICROMETRES + LAST
    assert lines[1] == ('1,4,2,3,1,2,2,4,6.4738,2,2,0,1,1,0,'
                        '2,1,1.5,0.5,1,1,1,3.2369,1,1,0')


def test_geojson_for_qupath(tmp_path):
    _, content = write(tmp_path, *square_and_pieces(), microns_per_pixel=0.5)
    assert content['type'] == 'FeatureCollection'
    square, pieces = content['features']
    measurements = square['properties'].pop('measurements')
    identity = square.pop('id')
    assert uuid.UUID(identity).version == 5
    assert square == {
        'type': 'Feature',
        'geometry': {'type': 'Polygon', 'coordinates': [
            [[3, 1], [5, 1], [5, 3], [3, 3], [3, 1]]]},
        'properties': {'objectType': 'detection', 'classification': {
            'name': 'Nucleus', 'color': [200, 0, 0]}}}
    assert measurements == {
        'Label': 1, 'Centroid X px': 4, 'Centroid Y px': 2,
        'Bounding box X px': 3, 'Bounding box Y px': 1,
        'Bounding box width px': 2, 'Bounding box height px': 2,
        'Area px^2': 4, 'Perimeter px': 6.4738, 'Major axis length px': 2,
        'Minor axis length px': 2, 'Eccentricity': 0, 'Solidity': 1,
        'Probability mean': 1, 'Hematoxylin OD mean': 0,
        'Centroid X µm': 2, 'Centroid Y µm': 1, 'Bounding box X µm': 1.5,
        'Bounding box Y µm': 0.5, 'Bounding box width µm': 1,
        'Bounding box height µm': 1, 'Area µm^2': 1, 'Perimeter µm': 3.2369,
        'Major axis length µm': 1, 'Minor axis length µm': 1,
        'Touches border': 0}
    assert pieces['geometry'] == {'type': 'MultiPolygon', 'coordinates': [
        [[[0, 4], [1, 4], [1, 5], [0, 5], [0, 4]]],
        [[[7, 5], [8, 5], [8, 6], [7, 6], [7, 5]]]]}
    # Again the same; other files have others.
    _, again = write(tmp_path, *square_and_pieces())
    assert [feature['id'] for feature in again['features']] == [
        identity, pieces['id']]
    path = str(tmp_path / 'b.geojson')
    writers.write_geojson([path], nuclei_of(*square_and_pieces()))
    with open(path) as file:
        assert identity not in file.read()


def test_both_files_hold_the_same(tmp_path):
    lines, content = write(tmp_path, *blobs(0), microns_per_pixel=0.25)
    rows = list(csv.reader(lines[1:-1]))
    assert len(rows) == len(content['features']) == blobs(0)[0].max()
    for row, feature in zip(rows, content['features']):
        assert [float(value) for value in row] == list(
            feature['properties']['measurements'].values())
    ids = {feature['id'] for feature in content['features']}
    assert len(ids) == len(rows)


@pytest.mark.parametrize('seed', range(2))
def test_geojson_read_as_an_annotation_gives_the_labels(tmp_path, seed):
    labels = blobs(seed)[0]
    write(tmp_path, *blobs(seed))
    source = str(tmp_path / 'a_nuclei.geojson')
    place = annotations.place(source, labels.shape, labels.shape)
    found, kind = annotations.load(source, labels.shape, labels.shape, place)
    assert (kind, place.skipped) == ('GeoJSON', [])
    np.testing.assert_array_equal(found, labels)
    assert nuclei_metrics.compute(nuclei_metrics.compare(found, labels))[
        'aji'] == 1


def test_no_nuclei(tmp_path):
    lines, content = write(
        tmp_path, np.zeros((5, 6), np.int32), np.zeros((5, 6), np.uint8),
        np.zeros((5, 6, 3), np.uint8))
    assert lines == [IN_PIXELS + LAST, ''] and content['features'] == []


def test_a_name_that_is_no_text(tmp_path):
    path = os.path.join(os.fsencode(str(tmp_path)), b'\xff_nuclei.geojson')
    writers.write_geojson([os.fsdecode(path)],
                          nuclei_of(*square_and_pieces()))
    with open(path) as file:
        assert len(json.load(file)['features']) == 2


# Label images


def label_paths(folder):
    return [str(folder / name) for name in ('a_labels.png', 'a_labels.tif')]


def write_labels(paths, labels):
    writers.write_labels(paths, nuclei_of(labels, None, None))


def test_labels_as_png(tmp_path):
    labels = np.zeros((30, 40), np.int32)
    labels[0, 1], labels[5:9, 30:] = 1, 65535
    write_labels(label_paths(tmp_path), labels)
    path = str(tmp_path / 'a_labels.png')
    assert os.listdir(str(tmp_path)) == ['a_labels.png']
    with Image.open(path) as image:
        assert image.mode.startswith('I')
        np.testing.assert_array_equal(np.array(image), labels)
    np.testing.assert_array_equal(read_labels(path), labels)
    assert runs.is_ours(path)


def test_more_labels_as_tiff(tmp_path):
    labels = np.zeros((300, 40), np.int32)
    labels[0, 1], labels[5:290, 30:] = 1, 65536
    write_labels(label_paths(tmp_path), labels)
    path = str(tmp_path / 'a_labels.tif')
    assert os.listdir(str(tmp_path)) == ['a_labels.tif']
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].dtype == np.uint32
        assert file.pages[0].compression == 8  # Deflate
        np.testing.assert_array_equal(file.asarray(), labels)
    np.testing.assert_array_equal(read_labels(path), labels)
    assert runs.is_ours(path)


def test_labels_in_colours(tmp_path):
    """A chain of nuclei that touch, a star of nine, and ones that do not."""
    labels = np.zeros((60, 80), np.int32)
    labels[2:6, 2:62] = np.arange(1, 61)
    labels[20:30, 10:28] = np.arange(61, 70).repeat(2)
    labels[30:34, 10:28], labels[18:20, 10:28] = 70, 71
    labels[50:, 70:] = 3
    nuclei = nuclei_of(labels, None, np.zeros((60, 80, 3), np.uint8))
    writers.write_labels_colour([str(tmp_path / 'a.png')], nuclei)
    with Image.open(tmp_path / 'a.png') as image:
        assert image.mode == 'RGB'
        found = np.array(image).astype(int)
    np.testing.assert_array_equal(found.any(axis=2), labels > 0)
    for label in range(1, 72):
        assert len(np.unique(found[labels == label], axis=0)) == 1
    for axis in (0, 1):
        one, other = [np.moveaxis(values, axis, 0) for values in (
            labels, found)]
        meet = (one[1:] != one[:-1]) & (one[1:] > 0) & (one[:-1] > 0)
        assert meet.any()
        assert np.abs(other[1:] - other[:-1]).max(axis=2)[meet].min() > 60


def test_a_thumbnail_shows_the_outlines(tmp_path):
    """Outlines of one pixel, which would vanish if drawn before."""
    labels = np.zeros((1600, 800), np.int32)
    labels[800:1200, 400:600] = 1
    nuclei = nuclei_of(labels, None, np.full((1600, 800, 3), 200, np.uint8))
    path = str(tmp_path / 'a_thumbnail.jpg')
    writers.write_thumbnail([path], nuclei)
    assert runs.is_ours(path)
    with Image.open(path) as image:
        assert image.size == (160, 320)
        found = np.array(image).astype(int)
    green = found[..., 1] - found[..., 0] > 60
    # A fifth of the size: rows 160 to 239, columns 80 to 119.
    expected = np.zeros((320, 160), bool)
    expected[160:240, 80:120] = True
    expected[161:239, 81:119] = False
    assert (green & expected).sum() > 0.95 * expected.sum()
    assert not green[:150].any() and not green[180:220, 90:110].any()


# Whose files they are


def test_files_written_here_are_known(tmp_path):
    for microns in (None, 0.25):
        write(tmp_path, *square_and_pieces(), microns_per_pixel=microns)
        for name in ('a_nuclei.csv', 'a_nuclei.geojson'):
            assert runs.is_ours(str(tmp_path / name))


@pytest.mark.parametrize('name', ['a.csv', 'a.geojson', 'a.tif', 'a.png',
                                  'a.html', '.json', 'a'])
def test_other_files_are_not(tmp_path, name):
    path = tmp_path / name
    assert not runs.is_ours(str(path))
    for content in (
            b'', b'\0', b'\xff' * 3000, b'II*\0', b'II*\0\x08\0\0\0\1\0',
            b'label,centroid_x_px\n1,2\n',
            (IN_PIXELS + LAST + ',mine\n').encode(),
            (IN_PIXELS + LAST).encode(), (IN_PIXELS + '\n').encode(),
            b'{"type":"FeatureCollection","features":[]}',
            writers.GEOJSON_HEAD.encode()[:-1], b'{"type":"Feature'):
        path.write_bytes(content)
        assert not runs.is_ours(str(path))
    path.unlink()
    os.mkfifo(str(path))  # to read it would take for ever
    assert not runs.is_ours(str(path))
    path.unlink()
    path.mkdir()
    assert not runs.is_ours(str(path))


def test_a_page_that_quotes_a_record_is_not(tmp_path):
    path = tmp_path / 'index.html'
    path.write_bytes(b'<pre>{\n  ' + listing.JSON_MARK + b',\n')
    assert not runs.is_ours(str(path))


def test_images_of_other_programs_are_not(tmp_path):
    paths = label_paths(tmp_path)
    labels = np.ones((3, 4), np.uint8)
    write_png(paths[0], labels, 'another')
    tifffile.imwrite(paths[1], labels, software='another')
    assert [runs.is_ours(path) for path in paths] == [False, False]
    tifffile.imwrite(paths[1], labels, software=False, metadata=None)
    assert not runs.is_ours(paths[1])


# Disks and folders that fail

WRITE = '''
import sys
import numpy as np
from prediction import writers
from histology.files import InputError
from test_nuclei import blobs
from test_nuclei_files import nuclei_of, write_labels
folder = sys.argv[1]
paths = folder + '/a_labels.png', folder + '/a_labels.tif'
nuclei = nuclei_of(*blobs(0))
noise = np.random.RandomState(0).randint(0, 2 ** 31, (200, 200))
for write in (
        lambda: write_labels(paths, nuclei.labels),
        lambda: write_labels(paths, noise.astype(np.int32)),
        lambda: writers.write_csv([folder + '/a.csv'], nuclei),
        lambda: writers.write_thumbnail([folder + '/a_thumbnail.jpg'],
                                        nuclei)):
    try:
        write()
    except InputError as error:
        print(error)
'''


def test_a_full_disk_leaves_no_part(tmp_path):
    process = on_a_small_disk('"$3" -c "$4" "$1"; ls -A "$1"', tmp_path, '4k',
                              WRITE)
    assert process.stdout.splitlines() == [
        f'{tmp_path}/{name}: cannot be written (No space left on device); '
        'choose another folder or make room' for name in (
            'a_labels.png', 'a_labels.tif', 'a.csv', 'a_thumbnail.jpg')]
    assert process.stderr == ''
