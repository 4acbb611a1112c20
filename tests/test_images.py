"""Reading images and label images from files of all kinds, real ones."""
import io
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from input_pipeline import images, tiff
from input_pipeline.files import InputError

# Smooth, for the compressions that lose something.
PIXELS = np.array(Image.fromarray(np.random.RandomState(0).randint(
    0, 256, (10, 15, 3), np.uint8)).resize((90, 60), Image.BICUBIC))
GREY = np.ascontiguousarray(PIXELS[..., 0])
PLANES = np.ascontiguousarray(np.moveaxis(PIXELS, -1, 0))  # [3, 60, 90]
LABELS = np.zeros((60, 90), np.int32)
LABELS[5:20, 5:20] = 1
LABELS[30:50, 30:60] = 300
MASK = LABELS > 0
HALF_CLEAR = np.dstack([PIXELS, np.full((60, 90), 255, np.uint8)])
HALF_CLEAR[30:] = 0
ON_WHITE = PIXELS.copy()
ON_WHITE[30:] = 255


def cases(names, values):
    """pytest's parametrize, without files' bytes in the tests' names."""
    return pytest.mark.parametrize(names, values,
                                   ids=map(str, range(len(values))))


def tiff_of(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def rgb_tiff(array, **options):
    return tiff_of(array, photometric='rgb', **options)


def saved(array, form='PNG', **options):
    """A file that Pillow writes of an array or image, as bytes."""
    file = io.BytesIO()
    if isinstance(array, np.ndarray):
        array = Image.fromarray(array)
    array.save(file, form, **options)
    return file.getvalue()


def refused(function, data):
    """The one line that a user sees."""
    with pytest.raises(InputError) as caught:
        function('a b.tif', data)
    said = str(caught.value)
    assert said.startswith('a b.tif: ') and '\n' not in said
    return said


def check(data, expected, atol=0):
    found = images.read_image('a.tif', data)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=atol)


# Images


@cases('data', [
    saved(PIXELS), saved(PIXELS, 'TIFF', compression='tiff_lzw'),
    saved(PIXELS, 'TIFF', compression='tiff_deflate'), rgb_tiff(PIXELS),
    rgb_tiff(PIXELS, byteorder='>'), rgb_tiff(PIXELS, bigtiff=True),
    rgb_tiff(PIXELS, tile=(32, 32)),
    rgb_tiff(PIXELS, tile=(32, 32), compression='zstd'),
    rgb_tiff(PIXELS, compression='jpeg2000'),
    tiff_of(PIXELS, photometric='minisblack', planarconfig='contig'),
    rgb_tiff(PLANES, planarconfig='separate'),
    # Three grey pages, and ImageJ's stacks and composites.
    tiff_of(PLANES, photometric='minisblack'), tiff_of(PLANES, imagej=True),
    tiff_of(PIXELS, imagej=True),
    # The first of two pages.
    rgb_tiff(np.stack([PIXELS, PIXELS // 2]))])
def test_rgb(data):
    check(data, PIXELS)


def test_a_file_on_disk_whatever_its_ending(tmp_path):
    path = tmp_path / 'alpha, π.PNG'
    path.write_bytes(rgb_tiff(PIXELS))
    np.testing.assert_array_equal(images.read_image(path), PIXELS)


@cases('data', [
    saved(PIXELS, 'JPEG', quality=100, subsampling=0),
    saved(PIXELS, 'TIFF', compression='jpeg', quality=100)])
def test_jpeg_is_close(data):
    check(data, PIXELS, atol=16)
    assert np.abs(images.read_image('a', data).astype(int)
                  - PIXELS).mean() < 1.5


def test_the_largest_level_of_a_pyramid():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PIXELS, photometric='rgb', subifds=1, tile=(32, 32))
        writer.write(PIXELS[::2, ::2].copy(), photometric='rgb',
                     subfiletype=1, tile=(32, 32))
    check(file.getvalue(), PIXELS)


@cases('data', [
    saved(GREY), saved(GREY, 'TIFF'),
    tiff_of(GREY, photometric='minisblack'),
    tiff_of(255 - GREY, photometric='miniswhite')])
def test_grey_is_repeated(data):
    check(data, np.repeat(GREY[..., np.newaxis], 3, axis=2))


def test_palettes_and_printers_colours():
    palette = Image.fromarray(PIXELS).convert('P', palette=Image.ADAPTIVE)
    for form in ('PNG', 'TIFF'):
        check(saved(palette, form), np.array(palette.convert('RGB')))
    for mode in ('CMYK', 'YCbCr'):
        image = Image.fromarray(PIXELS).convert(mode)
        check(saved(image, 'TIFF'), np.array(image.convert('RGB')))


@cases('data', [
    saved(HALF_CLEAR),
    rgb_tiff(HALF_CLEAR, extrasamples=['unassalpha']),
    rgb_tiff(HALF_CLEAR, extrasamples=['assocalpha']),
    rgb_tiff(HALF_CLEAR.astype(np.uint16) * 257, extrasamples=['unassalpha']),
    imagecodecs.png_encode(HALF_CLEAR.astype(np.uint16) * 257)])
def test_transparency_is_laid_on_white(data):
    check(data, ON_WHITE)


def test_half_transparent_and_wholly():
    black = np.zeros((40, 40, 4), np.uint8)
    black[..., 3] = 51  # a fifth
    grey = np.full((40, 40, 3), 204)
    check(saved(black), grey)
    check(rgb_tiff(black, extrasamples=['assocalpha']), grey)
    check(saved(black[..., 2:], 'PNG'), grey)  # grey with alpha
    one = Image.new('P', (40, 40))
    one.putpixel((3, 2), 1)
    one.putpalette([0, 0, 0, 10, 20, 30])
    expected = np.full((40, 40, 3), 255)
    expected[2, 3] = 10, 20, 30
    check(saved(one, transparency=0), expected)
    # What is no transparency, whatever it holds.
    check(rgb_tiff(HALF_CLEAR, extrasamples=['unspecified']),
          HALF_CLEAR[..., :3])
    clear = HALF_CLEAR * np.uint8([1, 1, 1, 0])
    assert 'wholly transparent' in refused(images.read_image, saved(clear))
    assert 'wholly transparent' in refused(
        images.read_image, rgb_tiff(clear, extrasamples=['unassalpha']))


UPRIGHT = {1: lambda image: image, 2: np.fliplr,
           3: lambda image: np.rot90(image, 2), 4: np.flipud,
           5: lambda image: image.transpose(1, 0, 2),
           6: lambda image: np.rot90(image, -1),
           7: lambda image: np.rot90(image, 2).transpose(1, 0, 2),
           8: np.rot90}


@pytest.mark.parametrize('orientation', UPRIGHT)
def test_orientation(orientation):
    exif = Image.Exif()
    exif[tiff.ORIENTATION_TAG] = orientation
    expected = UPRIGHT[orientation](PIXELS)
    for form in ('PNG', 'TIFF'):
        check(saved(PIXELS, form, exif=exif), expected)
    check(saved(PIXELS, 'JPEG', exif=exif, quality=100, subsampling=0),
          expected, atol=6)
    # Pillow turns this one.
    cmyk = Image.fromarray(PIXELS).convert('CMYK')
    check(saved(cmyk, 'TIFF', exif=exif), expected)
    labels = images.read_labels('a', saved(
        LABELS.astype(np.uint16), 'TIFF', exif=exif))
    np.testing.assert_array_equal(
        labels, UPRIGHT[orientation](LABELS[..., np.newaxis])[..., 0])


@pytest.mark.parametrize('highest, depth', [
    (255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (65535, 16)])
def test_bits_in_16(capsys, highest, depth):
    deep = np.full((40, 40, 3), 200, np.uint16)
    deep[0, 0, 1] = highest
    expected = deep >> (depth - 8)
    for data in (rgb_tiff(deep), imagecodecs.png_encode(deep),
                 rgb_tiff(deep, compression='deflate', predictor=True)):
        check(data, expected)
        said = capsys.readouterr().err
        if depth == 16:
            assert said == ''
        else:
            assert f'a.tif: its highest value is {highest}' in said
            assert f'{depth} bits' in said and said.count('\n') == 1


def test_16_bits_are_scaled_exactly(capsys):
    bright = PIXELS.copy()
    bright[0, 0] = 255
    for factor in (16, 257):
        check(rgb_tiff(bright.astype(np.uint16) * factor), bright)


def test_floats():
    for dtype in (np.float32, np.float64):
        check(rgb_tiff((PIXELS / 255).astype(dtype)), PIXELS)
    for array, said in ((PIXELS, 'from'), (PIXELS / 255 - 0.1, 'from'),
                        (np.full((40, 40, 3), np.nan), 'nan')):
        assert said in refused(images.read_image,
                               rgb_tiff(array.astype(np.float32)))


@pytest.mark.parametrize('array, said', [
    (PIXELS.astype(np.int16), 'RGB of int16'),
    (PIXELS.astype(np.uint32), 'RGB of uint32'),
    (GREY.astype(np.uint16), 'grey of uint16'),
    (GREY.astype(np.float32), 'grey of float32'),
    (np.stack([GREY] * 2), '2 images of one size'),
    (np.stack([GREY] * 5), '5 images of one size'),
    (np.dstack([GREY] * 5), '5 channels')])
def test_what_is_no_rgb_is_called_so(array, said):
    options = {'photometric': 'minisblack'}
    if array.ndim == 3 and array.shape[2] == 3:
        options = {'photometric': 'rgb'}
    elif array.ndim == 3 and array.shape[2] == 5:
        options['planarconfig'] = 'contig'
    assert said in refused(images.read_image, tiff_of(array, **options))


def test_deep_grey_png_is_refused():
    assert 'more than 8 bits' in refused(images.read_image,
                                         saved(GREY.astype(np.uint16)))


def with_tag(data, number, value, size=2):
    """A little-endian TIFF file with a tag of some bytes changed."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags[number].valueoffset
    return (data[:place] + value.to_bytes(size, 'little')
            + data[place + size:])


def test_what_cannot_be_decoded_is_called_by_its_name():
    said = refused(images.read_image, with_tag(rgb_tiff(PIXELS), 259, 33003))
    assert 'compression 33003 (APERIO_JP2000_YCBC) is not supported' in said
    said = refused(images.read_image, with_tag(rgb_tiff(PIXELS), 259, 60000))
    assert 'compression 60000' in said
    for data in (b'some text', b'%PDF-1.4 and so on', bytes(100)):
        assert 'no image of' in refused(images.read_image, data)


@cases('data', [
    saved(PIXELS), saved(PIXELS, 'JPEG'), rgb_tiff(PIXELS),
    saved(PIXELS, 'TIFF', compression='tiff_lzw'),
    rgb_tiff(PIXELS, tile=(32, 32)),
    rgb_tiff(PIXELS, tile=(32, 32), compression='jpeg'),
    rgb_tiff(PIXELS, compression='deflate'),
    imagecodecs.png_encode(PIXELS.astype(np.uint16) * 257)])
def test_truncated(data):
    for share in (0, 0.02, 0.5, 0.95):
        assert 'cannot be read' in refused(
            images.read_image, data[:int(share * len(data))])


def test_missing_and_too_large(tmp_path):
    path = tmp_path / 'none.tif'
    with pytest.raises(InputError, match='No such file'):
        images.read_image(path)
    # 2 ** 30 pixels each, by what their heads say.
    side = 2 ** 15
    png = bytearray(saved(GREY))
    png[16:24] = 2 * side.to_bytes(4, 'big')
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, 'big')
    large = rgb_tiff(PIXELS)
    for tag in (256, 257):
        large = with_tag(large, tag, side, 4)
    for data in (bytes(png), large):
        assert f'{side} x {side} pixels, more than 536870912' in refused(
            images.read_image, data)


# Label images


def check_labels(data, expected=LABELS):
    found = images.read_labels('a.tif', data)
    assert found.dtype.kind in 'biu' and found.ndim == 2
    np.testing.assert_array_equal(found, expected)


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@cases('data', [
    tiff_of(LABELS.astype(dtype)) for dtype in (
        np.uint16, np.int32, np.uint32, np.float32)] + [
    tiff_of(LABELS.astype(np.uint16), compression='deflate'),
    saved(LABELS.astype(np.uint16)),
    npy(LABELS), npy(LABELS.astype(np.uint64)),
    npy(np.dstack([LABELS, MASK])), npy(LABELS[..., np.newaxis]),
    imagecodecs.png_encode(np.dstack([LABELS.astype(np.uint16)] * 3))])
def test_labels(data):
    check_labels(data)


def test_labels_of_8_bits():
    check_labels(saved((LABELS % 256).astype(np.uint8)), LABELS % 256)


def palette_mask():
    image = Image.new('P', (90, 60))
    image.putdata(list(MASK.astype(np.uint8).ravel()))
    image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 750)
    return image


@cases('data, value', [
    (saved(palette_mask()), 1), (saved(palette_mask(), 'TIFF'), 1),
    (saved(MASK), 1), (saved(MASK, 'TIFF'), 1),
    (saved(MASK, 'TIFF', compression='group4'), 1),
    (saved(np.dstack([MASK * np.uint8(255), MASK * np.uint8(0),
                      MASK * np.uint8(0)])), 255),
    (saved(np.dstack([MASK * np.uint8(255)] * 3)), 255),
    (saved(np.dstack([MASK * np.uint8(1)] * 3
                     + [np.full((60, 90), 255, np.uint8)])), 1),
    (saved(np.dstack([MASK * np.uint8(255),
                      np.full((60, 90), 9, np.uint8)])), 255)])
def test_masks(data, value):
    check_labels(data, MASK * value)


@cases('data, said', [
    (tiff_of(LABELS - 1), '-1'), (npy(np.int64(2) ** 40 * LABELS), '2 ** 31'),
    (tiff_of(LABELS.astype(np.float32) + 0.5), 'fractions'),
    (tiff_of(np.full((9, 9), np.nan, np.float32)), 'fractions'),
    (tiff_of(np.stack([LABELS] * 2).astype(np.uint16)), '2 images of one size'),
    (npy(np.array([{}], object), allow_pickle=True), 'Python objects'),
    (npy(np.array(['a'])), '[1]'), (npy(LABELS + 1j), 'complex'),
    (npy(np.zeros((0, 4))), 'without pixels'), (npy(LABELS)[:200], 'cannot be read'),
    (saved(PIXELS), 'coloured'), (b'text', 'no image of')])
def test_what_is_no_label_image(data, said):
    assert said in refused(images.read_labels, data)
