"""What files say of their resolution, and resampling."""
import io
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from histology import progress, resample, resolution
from histology.files import InputError
from inputs import from_bytes

PIXELS = np.random.RandomState(0).randint(0, 256, (40, 50, 3), np.uint8)
OME = ('<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.'
       'openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
       'DimensionOrder="XYCZT" Type="uint8" SizeX="50" SizeY="40" SizeC="3" '
       'SizeZ="1" SizeT="1" PhysicalSizeX="{}" PhysicalSizeY="{}" {}/>'
       '</Image></OME>')
APERIO = 'Aperio Image|MPP = {}'
NM = 'PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm"'
PIXEL = 'PhysicalSizeXUnit="pixel" PhysicalSizeYUnit="pixel"'


def stated(data):
    return from_bytes(resolution.read_microns_per_pixel, 'x', data)[0]


def is_own(data):
    return from_bytes(resolution.read_microns_per_pixel, 'x', data)[1]


def tiff_of(tags=(), **options):
    """A TIFF file's bytes; tags are (number, type, value) of extra ones."""
    file = io.BytesIO()
    tifffile.imwrite(file, PIXELS, photometric='rgb', metadata=None,
                     extratags=[(number, kind, 1, value, True)
                                for number, kind, value in tags], **options)
    return file.getvalue()


def saved(form, **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize('form', ['TIFF', 'PNG', 'JPEG'])
def test_dots_per_inch(form):
    # 25 400 micrometres / 50 800.
    assert stated(saved(form, dpi=(50800, 50800))) == pytest.approx(
        0.5, rel=1e-4)
    for dpi in ((72, 72), (300, 300), (50800, 101600)):
        assert stated(saved(form, dpi=dpi)) is None
    assert stated(saved(form)) is None


@pytest.mark.parametrize('unit, per_unit, microns', [
    (2, 101600, 0.25), (3, 20000, 0.5), (1, 4, None), (2, 72, None)])
def test_units_of_tiff(unit, per_unit, microns):
    data = saved('TIFF', tiffinfo={282: float(per_unit), 283: float(per_unit),
                                   296: unit})
    assert stated(data) == microns


def test_own_words_go_before_the_resolution_for_printing():
    tags = {282: 101600.0, 283: 101600.0, 296: 2}
    assert stated(saved('TIFF', tiffinfo=tags)) == 0.25
    for text in ('Aperio Image|MPP = 0.5', 'Aperio Image|AppMag = 20',
                 OME.format(0.5, 0.5, '')):
        data = saved('TIFF', tiffinfo={**tags, 270: text})
        assert stated(data) == 0.5 and is_own(data)
    for text in ('Aperio Image|MPP = 0', OME.format(1, 1, PIXEL), 'ImageJ=1'):
        data = saved('TIFF', tiffinfo={**tags, 270: text})
        assert stated(data) == 0.25 and not is_own(data)


@pytest.mark.parametrize('tags', [
    [(296, 'H', 0)], [(296, 's', 'inch')], [(282, 's', 'fine')],
    [(282, '2I', (0, 0))], [(282, 'd', float('nan'))]])
def test_senseless_tags_leave_the_description(tags):
    """XResolution and ResolutionUnit of a wrong type or value."""
    data = tiff_of([(283, 'I', 101600)] + tags,
                   description='Aperio Image|MPP = 0.5')
    assert stated(data) == 0.5
    assert stated(data.replace(b'Aperio', b'Others')) is None


@pytest.mark.parametrize('description, microns', [
    ('Aperio Image Library v12\n40x|AppMag = 40|MPP = 0.2632', 0.2632),
    ('Aperio Image|AppMag=20|MPP=0,5015', 0.5015),
    ('Aperio Image|AppMag = 20|Left = 3', 0.5),
    ('Aperio Image|MPP = 1000', None),
    ('some text, MPP = 0.5', None),
    (OME.format(0.5, 0.5, ''), 0.5), (OME.format(500, 500, NM), 0.5),
    (OME.format(1, 1, PIXEL), None),
    (OME.format(0.4, 0, '').replace(' PhysicalSizeY="0"', ''), 0.4),
    (OME.format(0.5, 0.7, ''), None),
    # As Python's ElementTree writes the sign of micro.
    (OME.format(0.5, 0.5, 'PhysicalSizeXUnit="&#181;m" '
                'PhysicalSizeYUnit="&#181;m"'), 0.5),
    (OME.format(0.5, 0.5, '').replace('"0.5"', "'0.5'"), 0.5),
    ('<OME>', None), ('<OME/>', None)])
def test_descriptions(description, microns):
    assert stated(tiff_of(description=description)) == microns


@pytest.mark.parametrize('unit, microns', [
    ('um', 0.5), ('micron', 0.5), ('Micrometers', 0.5), ('\\u00B5m', 0.5),
    ('mm', None), ('pixel', None)])
def test_imagej(unit, microns):
    file = io.BytesIO()
    tifffile.imwrite(file, PIXELS, imagej=True, resolution=(2.0, 2.0),
                     metadata={'unit': unit})
    assert stated(file.getvalue()) == microns
    assert is_own(file.getvalue()) == (microns is not None)


def test_imagej_in_inches():
    file = io.BytesIO()
    tifffile.imwrite(file, PIXELS, imagej=True, resolution=(50800, 50800),
                     metadata={'unit': 'inch'})
    assert stated(file.getvalue()) == 0.5


@pytest.mark.parametrize('ome', [False, True])
def test_of_two_images_the_larger_counts(tmp_path, ome):
    """It is the one whose pixels are read."""
    path = tmp_path / 'a.tif'
    with tifffile.TiffWriter(path, ome=ome) as file:
        for pixels, microns in ((PIXELS[:20, :30], 1), (PIXELS, 0.5)):
            metadata = {'PhysicalSizeX': microns, 'PhysicalSizeY': microns,
                        'PhysicalSizeXUnit': 'um', 'PhysicalSizeYUnit': 'um',
                        'axes': 'YXS'}
            file.write(pixels, photometric='rgb', **(
                {'metadata': metadata} if ome else {
                    'metadata': None, 'description': (
                        'an overview' if microns == 1 else
                        APERIO.format(microns))}))
    assert resolution.read_microns_per_pixel(path) == (0.5, True)


def test_pixels_that_are_not_square_are_said(tmp_path, capsys):
    path = tmp_path / 'a.tif'
    path.write_bytes(tiff_of(description=OME.format(0.25, 0.3, '')))
    with progress.reporter(1, 'image'):
        found = resolution.read_microns_per_pixel(path)
    assert found == (None, False)
    assert ('a.tif: its pixels are 0.25 x 0.3 micrometres; resample it'
            in capsys.readouterr().err)


def test_what_is_no_image_says_nothing(tmp_path):
    assert stated(b'') is None and stated(b'no image') is None
    whole = saved('TIFF', dpi=(50800, 50800))
    assert stated(whole[:20]) is None
    path = tmp_path / 'a.tif'
    path.write_bytes(whole)
    found = resolution.read_microns_per_pixel(path)
    assert found == (pytest.approx(0.5), False)
    assert resolution.read_microns_per_pixel(tmp_path / 'none.tif') == (
        None, False)


@pytest.mark.parametrize('asked, description, settled, said', [
    # The file's own word, near 40x and far from it.
    (None, APERIO.format(0.25), (None, 0.25), None),
    (None, APERIO.format(0.28), (None, 0.28), None),
    (None, APERIO.format(0.5), (0.5, 0.5), 'states 0.5 micrometres'),
    (None, OME.format(0.1, 0.1, ''), (0.1, 0.1), 'states 0.1 micrometres'),
    # A flag overrides it.
    (0.5, APERIO.format(0.5), (0.5, 0.5), None),
    (0.25, APERIO.format(0.5), (0.25, 0.25), 'says 0.5 .* read as 0.25; '),
    # So near, the network sees no difference, but areas are a quarter larger.
    (0.25, APERIO.format(0.22), (0.25, 0.25), 'says 0.22 .* read as 0.25; '),
    (0.25, APERIO.format(0.246), (0.25, 0.25), None),
    # Neither, and no more than dots for printing.
    (None, 'none', (None, None), 'no resolution, taken as 40x'),
    (0.5, 'none', (0.5, 0.5), None)])
def test_whose_word_counts(tmp_path, capsys, asked, description, settled,
                           said):
    path = tmp_path / 'a.tif'
    path.write_bytes(tiff_of(description=description, resolution=(72, 72)))
    of_run = resolution.Resolution(asked)
    for _ in range(2):  # once for all files
        assert of_run.of_image(path) == settled
    lines = ''.join(capsys.readouterr())
    assert lines.count('\n') == (said is not None)
    assert re.search(said or '', lines)


@pytest.mark.parametrize('asked, line', [
    (None, 'says 0.5 micrometres per pixel, read as 0.25; .*=0.5'),
    (0.5, '')])
def test_dots_for_printing_do_not_count(tmp_path, capsys, asked, line):
    path = tmp_path / 'a.png'
    path.write_bytes(saved('PNG', dpi=(50800, 50800)))
    assert resolution.Resolution(asked).of_image(path) == (asked, asked)
    assert re.search(line, capsys.readouterr().err)


def test_each_image_has_its_own(tmp_path, capsys):
    of_run, found = resolution.Resolution(None), []
    for name, microns in (('a', 0.25), ('b', 0.5), ('c', 0.5), ('d', 0.2)):
        path = tmp_path / f'{name}.tif'
        path.write_bytes(tiff_of(description=APERIO.format(microns)))
        found.append(of_run.of_image(path)[0])
    assert found == [None, 0.5, 0.5, 0.2]
    said = capsys.readouterr().out
    assert said.count('\n') == 2 and 'b.tif' in said and 'd.tif' in said


# Resampling


def test_labels_are_the_nearest():
    labels = np.arange(12).reshape(3, 4)
    twice = resample.resample_labels(labels, (6, 8))
    np.testing.assert_array_equal(twice, labels.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(
        resample.resample_labels(twice, (3, 4)), labels)
    # Of five columns, the centres of four are at 0.625, 1.875, 3.125, 4.375.
    np.testing.assert_array_equal(resample.resample_labels(
        np.arange(5)[np.newaxis], (1, 4)), [[0, 1, 3, 4]])
    assert resample.resample_labels(labels, (3, 4)) is labels
    mask = labels > 5
    assert resample.resample_labels(mask, (6, 8)).dtype == bool


@pytest.mark.parametrize('size', [(80, 100), (20, 25), (44, 57)])
def test_resampling_moves_nothing(size):
    found = resample.resample(PIXELS, size)
    assert found.shape == (*size, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(
        resample.resample(PIXELS[::-1, ::-1].copy(), size),
        found[::-1, ::-1])
    np.testing.assert_array_equal(
        resample.resample(np.full_like(PIXELS, 77), size), 77)
    # An edge in the middle stays there.
    edge = np.zeros((40, 50), np.uint8)
    edge[:, 25:] = 200
    row = resample.resample(edge, (40, 100))[0].astype(int)
    np.testing.assert_array_equal(row[:46], 0)
    np.testing.assert_array_equal(row[54:], 200)
    assert row[49] < 100 < row[50]


@pytest.mark.parametrize('size, new_size', [
    ((700, 90), (350, 45)), ((700, 90), (616, 80)), ((300, 40), (600, 80)),
    ((530, 60), (530, 61))])
def test_parts_are_those_of_the_whole(size, new_size):
    pixels = np.random.RandomState(1).randint(0, 256, (*size, 3), np.uint8)
    whole = np.array(Image.fromarray(pixels).resize(
        new_size[::-1], Image.BICUBIC)).astype(int)
    # The whole in one call of Pillow; rounding differs by where it begins.
    strips = resample.resample(pixels, new_size)
    assert np.abs(strips - whole).max() <= 1
    assert (strips != whole).mean() < 0.01
    resampled = resample.Resampled(pixels, new_size)
    assert resampled.shape == (*new_size, 3)
    for rows, columns in ((slice(0, 33), slice(7, 40)),
                          (slice(100, 230), slice(0, 45)),
                          (slice(290, 9999), slice(30, 9999))):
        part = resampled[rows, columns]
        assert np.abs(part - whole[rows, columns]).max() <= 1


def test_images_for_the_network():
    for microns, size in ((None, (40, 50)), (0.25, (40, 50)),
                          (0.5, (80, 100)), (0.22, (35, 44))):
        assert resample.network_size((40, 50), microns, 'x') == size
    assert resample.resample(PIXELS, (40, 50)) is PIXELS
    with pytest.raises(InputError, match='^x.png: resampled to 0.25 '
                       '.*: 1000000 x 800000 pixels, more than'):
        resample.network_size((40, 50), 5000.0, 'x.png')
    with pytest.raises(InputError, match='^x.png: resampled to 0.25 '
                       '.*: 10 x 8 pixels; both .* at least 32'):
        resample.network_size((40, 50), 0.05, 'x.png')
    with pytest.raises(InputError, match='^x.png: 50 x 31 .* at least 32'):
        resample.network_size((31, 50), None, 'x.png')
    # Small, but not to the network.
    assert resample.network_size((16, 20), 0.5, 'x') == (32, 40)
