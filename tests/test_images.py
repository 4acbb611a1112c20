"""Reading images and label images from files of all kinds, real ones."""
import glob
import io
import os
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from conftest import ROOT
from histology import images, tiff
from histology.files import InputError
from inputs import from_bytes, message, with_tag

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
    said = message(from_bytes, function, 'a b.tif', data)
    assert said.startswith('a b.tif: ')
    return said


def check(data, expected, atol=0):
    found = from_bytes(images.read_image, 'a.tif', data)
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
    tiff_of(PIXELS, imagej=True)])
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
    assert np.abs(from_bytes(images.read_image, 'a', data).astype(int)
                  - PIXELS).mean() < 1.5


def test_the_largest_level_of_a_pyramid():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PIXELS, photometric='rgb', subifds=1, tile=(32, 32))
        writer.write(PIXELS[::2, ::2].copy(), photometric='rgb',
                     subfiletype=1, tile=(32, 32))
    check(file.getvalue(), PIXELS)


def pages(*arrays):
    """A TIFF file of pages, grey or in RGB."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for array in arrays:
            writer.write(
                np.ascontiguousarray(array), metadata=None,
                photometric='rgb' if array.ndim == 3 else 'minisblack')
    return file.getvalue()


@cases('data, expected', [
    (pages(PIXELS[::4, ::4], PIXELS), PIXELS),  # an overview first
    # Narrow, and higher than the image.
    (pages(PIXELS, np.zeros((120, 4, 3), np.uint8)), PIXELS),
    (pages(GREY, GREY[::2, ::2]), np.dstack([GREY] * 3))])
def test_the_largest_page_counts(data, expected):
    check(data, expected)


@cases('read, data', [
    (images.read_image, pages(PIXELS, PIXELS[:, :30])),  # two scenes
    (images.read_labels, pages(GREY, GREY.astype(np.uint16)))])
def test_two_pages_of_about_one_size_are_refused(read, data):
    assert '2 images of about one size in one file' in refused(read, data)


@cases('data', [
    saved(GREY), saved(GREY, 'TIFF'),
    tiff_of(GREY, photometric='minisblack')])
def test_grey_is_repeated(data):
    check(data, np.repeat(GREY[..., np.newaxis], 3, axis=2))


@cases('data', [
    tiff_of(np.dstack([GREY] * 2), photometric='minisblack',
            planarconfig='contig', extrasamples=['unspecified']),
    tiff_of(np.dstack([GREY] * 4), photometric='minisblack',
            planarconfig='contig'),
    tiff_of(np.stack([GREY] * 4), photometric='minisblack',
            planarconfig='separate')])
def test_other_numbers_of_grey_channels_are_refused(data):
    assert 'channels of uint8' in refused(images.read_image, data)


@pytest.mark.parametrize('compression', ['jpeg2000', 'jpeg'])
def test_a_slide_of_aperio(compression):
    text = 'Aperio Image Library v11\r\n90x60 (32x32)|AppMag = 40'
    file = io.BytesIO()
    options = {'photometric': 'rgb', 'description': text, 'metadata': None}
    level = dict(options, tile=(32, 32), compression=compression)
    with tifffile.TiffWriter(file) as writer:
        writer.write(PIXELS, **level)
        writer.write(PIXELS[::4, ::4].copy(), **options)  # the thumbnail
        writer.write(PIXELS[::2, ::2].copy(), **level)
        writer.write(PIXELS[::3, ::3].copy(), subfiletype=1, **options)
        # Of a small region the macro is larger than the image.
        macro = np.tile(PIXELS, (2, 2, 1))
        writer.write(macro, subfiletype=9, **options)
    found = from_bytes(images.read_image, 'a.svs', file.getvalue())
    assert found.shape == PIXELS.shape
    # Pillow decodes JPEG in TIFF by itself.
    expected = PIXELS
    if compression == 'jpeg':
        expected = np.array(Image.open(file).convert('RGB'))
    np.testing.assert_array_equal(found, expected)


def test_a_png_of_one_bit():
    check(saved(MASK), np.dstack([MASK * np.uint8(255)] * 3))


def as_palette(array):
    return Image.fromarray(array).convert('P', palette=Image.ADAPTIVE)


def test_the_palette_of_a_png():
    palette = as_palette(PIXELS)
    check(saved(palette), np.array(palette.convert('RGB')))


@cases('data, said', [
    (saved(Image.fromarray(PIXELS).convert('CMYK'), 'TIFF'), '5 (SEPARATED)'),
    (saved(Image.fromarray(PIXELS).convert('YCbCr'), 'TIFF'), '6 (YCBCR)'),
    (saved(as_palette(PIXELS), 'TIFF'), '3 (PALETTE)'),
    (tiff_of(GREY, photometric='miniswhite'), '0 (MINISWHITE)'),
    (saved(MASK, 'TIFF'), 'an image of 1 bits'),
    (rgb_tiff(HALF_CLEAR, extrasamples=['assocalpha']),
     'transparency multiplied into the colours'),
    (saved(MASK, 'TIFF', compression='group4'), '4 (CCITT_T6)')])
def test_rare_kinds_of_tiff_are_refused(data, said):
    line = refused(images.read_image, data)
    assert f'{said} is not supported' in line and 'convert it to RGB' in line


def test_a_jpeg_in_cmyk_is_refused():
    image = Image.fromarray(PIXELS).convert('CMYK')
    assert 'is in CMYK; save it in RGB' in refused(
        images.read_image, saved(image, 'JPEG'))


@cases('data', [
    saved(HALF_CLEAR), rgb_tiff(HALF_CLEAR, extrasamples=['unassalpha'])])
def test_transparency_is_laid_on_white(data):
    check(data, ON_WHITE)


def test_grey_with_transparency():
    half = np.dstack([GREY, HALF_CLEAR[..., 3]])
    expected = np.dstack([GREY] * 3)
    expected[30:] = 255
    half[30:, :, 0] = 0
    check(saved(half), expected)
    check(tiff_of(half, photometric='minisblack', planarconfig='contig',
                  extrasamples=['unassalpha']), expected)


def test_the_one_colour_of_a_png_that_is_transparent():
    clear = PIXELS.copy()
    clear[30:] = 10, 20, 30
    check(saved(clear, transparency=(10, 20, 30)), ON_WHITE)


def test_half_transparent_and_wholly():
    black = np.zeros((40, 40, 4), np.uint8)
    black[..., 3] = 51  # a fifth
    grey = np.full((40, 40, 3), 204)
    check(saved(black), grey)
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
    labels = from_bytes(images.read_labels, 'a', saved(
        LABELS.astype(np.uint16), 'TIFF', exif=exif))
    np.testing.assert_array_equal(
        labels, UPRIGHT[orientation](LABELS[..., np.newaxis])[..., 0])


@pytest.mark.parametrize('highest, depth', [
    (255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (65535, 16)])
def test_bits_in_16(capsys, highest, depth):
    deep = np.full((40, 40, 3), 200, np.uint16)
    deep[0, 0, 1] = highest
    expected = deep >> (depth - 8)
    for data in (rgb_tiff(deep),
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


@pytest.mark.parametrize('array, said', [
    (PIXELS.astype(np.int16), '3 channels of int16'),
    (PIXELS.astype(np.uint32), '3 channels of uint32'),
    ((PIXELS / 255).astype(np.float32), '3 channels of float32'),
    (HALF_CLEAR.astype(np.uint16), '3 channels of uint16 with transparency'),
    (GREY.astype(np.uint16), 'grey of uint16'),
    (GREY.astype(np.float32), 'grey of float32'),
    (np.stack([GREY] * 2), '2 images of about one size'),
    (PLANES, '3 images of about one size'),
    (np.stack([PIXELS, PIXELS]), '2 images of about one size'),
    (np.dstack([GREY] * 5), 'an image of 5 channels is not supported')])
def test_what_is_no_rgb_is_called_so(array, said):
    options = {'photometric': 'minisblack'}
    if array.shape[-1] in (3, 4):
        options = {'photometric': 'rgb'}
    elif array.shape[-1] == 5:
        options['planarconfig'] = 'contig'
    assert said in refused(images.read_image, tiff_of(array, **options))


@cases('data', [
    saved(MASK.astype(np.uint8)), saved(PIXELS // 128),
    rgb_tiff(PIXELS // 128), rgb_tiff((PIXELS // 128).astype(np.uint16)),
    saved(np.dstack([PIXELS // 128, HALF_CLEAR[..., 3]])),
    saved(PIXELS // 128, 'TIFF', compression='tiff_lzw')])
def test_zeros_and_ones_are_refused(data):
    assert refused(images.read_image, data) == (
        'a b.tif: its highest value is 1, and white is 255; multiply the '
        'values by 255 before you save it')


def lines_of(capsys, *arrays):
    """What is said of the colours of images, as 1 for each line of it."""
    said = []
    for array in arrays:
        from_bytes(images.read_image, 'a.png', saved(
            np.ascontiguousarray(array), compress_level=0))
        printed = capsys.readouterr()
        assert printed.out == '' and printed.err in ('', (
            'warning: a.png: its colours are not those of H&E (grey, '
            'fluorescence or a negative?); the shipped networks know only H&E '
            'on a bright ground\n'))
        said.append(bool(printed.err))
    return said


def no_tissue(image):
    """Pictures of H&E that are none: grey, negatives, and fluorescence."""
    grey = image.mean(axis=2).astype(np.uint8)
    stain, dark = 255 - grey, np.zeros_like(grey)
    return [grey, stain, 255 - image, np.dstack([dark, dark, stain]),
            np.dstack([dark, stain, dark]), np.dstack([stain, dark, dark]),
            np.dstack([stain // 9, stain // 2, stain])]


def test_what_is_no_tissue_is_called_so(capsys):
    for name in ('synthetic.png', 'unet_best.jpg', 'unet_worst.jpg'):
        image = images.read_image(os.path.join(ROOT, 'docs', 'figures', name))
        padded = np.pad(image, ((0, 2 * len(image)), (0, 0), (0, 0)),
                        mode='constant')
        pale = 255 - (255 - image) // 4
        assert not any(lines_of(capsys, image, image // 2, pale, padded))
        assert all(lines_of(capsys, *no_tissue(image)))


def test_a_blank_image_may_be_tissue(capsys):
    noise = np.random.RandomState(0).randint(-5, 6, (200, 300, 3))
    for level in (0, 5, 128, 210, 250, 255):
        blank = np.full((200, 300, 3), level, np.uint8)
        noisy = np.clip(blank + noise, 0, 255).astype(np.uint8)
        # A speck of dust, too.
        noisy[:20, :20] = 90
        assert not any(lines_of(capsys, blank, noisy))


@pytest.mark.skipif('MONUSEG_DIR' not in os.environ,
                    reason='MONUSEG_DIR does not name MoNuSeg')
def test_monuseg_is_tissue(capsys):
    paths = glob.glob(os.path.join(os.environ['MONUSEG_DIR'], '**', '*.tif'),
                      recursive=True)
    for path in paths:
        image = images.read_image(path)
        assert not any(lines_of(capsys, image, *(
            image[corner % 1000:, corner // 1000 * 250:][:250, :250]
            for corner in range(0, 4000, 250))))
        assert all(lines_of(capsys, *no_tissue(image)))


def test_deep_png_is_refused():
    for deep in (saved(GREY.astype(np.uint16)),
                 imagecodecs.png_encode(PIXELS.astype(np.uint16) * 257)):
        assert 'more than 8 bits' in refused(images.read_image, deep)


def test_what_cannot_be_decoded_is_called_by_its_name():
    said = refused(images.read_image, with_tag(rgb_tiff(PIXELS), 259, 33003))
    assert 'compression 33003 (APERIO_JP2000_YCBC) is not supported' in said
    said = refused(images.read_image, with_tag(rgb_tiff(PIXELS), 259, 60000))
    assert 'compression 60000' in said
    said = refused(images.read_image, tiff_of(PIXELS, photometric='cielab'))
    assert '8 (CIELAB) is not supported' in said
    for data in (b'some text', b'%PDF-1.4 and so on', bytes(100),
                 saved(PIXELS, 'BMP'), saved(PIXELS, 'GIF'), npy(PIXELS)):
        assert 'no image of TIFF, PNG or JPEG' in refused(images.read_image,
                                                          data)


@cases('data', [
    saved(PIXELS), saved(PIXELS, 'JPEG'), rgb_tiff(PIXELS),
    saved(PIXELS, 'TIFF', compression='tiff_lzw'),
    rgb_tiff(PIXELS, tile=(32, 32)),
    rgb_tiff(PIXELS, tile=(32, 32), compression='jpeg'),
    rgb_tiff(PIXELS, compression='deflate')])
def test_truncated(data):
    for share in (0, 0.02, 0.5, 0.95):
        for read in (images.read_image, images.read_labels):
            assert 'cannot be read' in refused(
                read, data[:int(share * len(data))])


def part_of(data, number, change):
    """A little-endian TIFF file with a changed byte count of strip or tile."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        tag = page.tags[325 if page.is_tiled else 279]
        size = {3: 2, 4: 4}[int(tag.dtype)]
        place = tag.valueoffset + number * size
        value = change(page.databytecounts[number])
    return data[:place] + value.to_bytes(size, 'little') + data[place + size:]


# In strips of ten rows, in tiles, and in one strip; LZW by Pillow, for which
# the codecs of Python 3.7 have no encoder.
ENDED = [rgb_tiff(PIXELS, rowsperstrip=10, compression=compression)
         for compression in ('deflate', 'packbits', 'jpeg')] + [
    rgb_tiff(PIXELS, tile=(32, 32), compression=compression)
    for compression in ('deflate', 'jpeg')] + [
    rgb_tiff(PIXELS, compression='jpeg'),
    saved(PIXELS, 'TIFF', compression='tiff_lzw')]
IN_PARTS = ENDED[:-1] + [
    rgb_tiff(PIXELS, rowsperstrip=10), rgb_tiff(PIXELS, tile=(32, 32)),
    rgb_tiff(PIXELS, rowsperstrip=10, compression='zstd'),
    rgb_tiff(PIXELS, tile=(32, 32), compression='jpeg2000')]


@cases('data', IN_PARTS)
def test_a_part_that_is_missing(data):
    for change in (lambda length: length // 2, lambda length: 0):
        assert 'damaged' in refused(images.read_image,
                                    part_of(data, 0, change))
    # More rows than there are parts for.
    assert 'damaged' in refused(images.read_image,
                                with_tag(data, 257, 200))


def without_parts(data, numbers):
    """The same file without some of its tiles or strips, as sparse ones."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        tags = [page.tags[number] for number in (
            (324, 325) if page.is_tiled else (273, 279))]
    data = bytearray(data)
    for tag in tags:
        size = {3: 2, 4: 4}[int(tag.dtype)]
        for number in numbers:
            start = tag.valueoffset + number * size
            data[start:start + size] = bytes(size)
    return bytes(data)


@pytest.mark.parametrize('compression', [None, 'deflate', 'zstd', 'jpeg',
                                         'jpeg2000'])
def test_tiles_that_are_not_stored_are_background(compression):
    tiles = [2, 3, 5]  # of 2 x 3 tiles of 32 x 32 pixels, in rows of 3
    data = rgb_tiff(PIXELS, tile=(32, 32), compression=compression)
    whole = from_bytes(images.read_image, 'a.tif', data)
    expected = whole.copy()
    expected[:32, 64:], expected[32:, :32], expected[32:, 64:] = (255,) * 3
    check(without_parts(data, tiles), expected)
    # One must be there; and strips are always stored, as nobody omits them.
    assert 'damaged or sparse' in refused(images.read_image,
                                          without_parts(data, range(6)))
    strips = rgb_tiff(PIXELS, rowsperstrip=10, compression=compression)
    assert 'damaged or sparse' in refused(images.read_image,
                                          without_parts(strips, [1]))


def test_tiles_that_are_not_stored_in_other_kinds():
    deep = rgb_tiff(PIXELS.astype(np.uint16) * 257, tile=(32, 32))
    expected = PIXELS.copy()
    expected[:32, :32] = 255
    check(without_parts(deep, [0]), expected)
    grey = tiff_of(GREY, photometric='minisblack', tile=(32, 32))
    check(without_parts(grey, [0]), np.dstack([np.where(
        np.arange(60)[:, np.newaxis] // 32 + np.arange(90) // 32, GREY, 255)
        .astype(np.uint8)] * 3))
    labels = tiff_of(LABELS, photometric='minisblack', tile=(32, 32))
    expected = LABELS.copy()
    expected[:32, :32] = 0
    check_labels(without_parts(labels, [0]), expected)


@cases('data', ENDED)
def test_a_part_that_ends_in_zeros(data):
    """As in downloads that reserve their space and are broken off.

    Of other compressions, or none, zeros may be pixels.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        start, length = page.dataoffsets[0], page.databytecounts[0]
    middle, end = start + length // 2, start + length
    assert 'damaged' in refused(
        images.read_image, data[:middle] + bytes(end - middle) + data[end:])


def test_what_is_of_no_matter_to_the_pixels():
    text = PngImagePlugin.PngInfo()
    text.add_text('a', 'x' * 3 * 2 ** 20, zip=True)
    check(saved(PIXELS, pnginfo=text), PIXELS)
    check(saved(PIXELS, icc_profile=bytes(3 * 2 ** 20)), PIXELS)
    check(saved(PIXELS, exif=b'no such thing'), PIXELS)
    for orientation in (0, 9):
        exif = Image.Exif()
        exif[tiff.ORIENTATION_TAG] = orientation
        check(saved(PIXELS, 'TIFF', exif=exif), PIXELS)


def test_nothing_of_pillows_is_changed_and_nothing_printed(capfd):
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    check(saved(PIXELS), PIXELS)
    # tifffile would log that this text is no tifffile's.
    check(rgb_tiff(PIXELS, metadata=None,
                   description='{"shape": [59, 90, 3]}'), PIXELS)
    refused(images.read_image, rgb_tiff(PIXELS)[:500])
    assert capfd.readouterr() == ('', '')
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK)


@pytest.mark.parametrize('height, width', [(1, 90), (60, 1), (1, 1), (3, 3)])
def test_the_smallest(height, width):
    part = np.ascontiguousarray(PIXELS[:height, :width])
    for data in (saved(part), rgb_tiff(part),
                 rgb_tiff(np.ascontiguousarray(np.moveaxis(part, -1, 0)),
                          planarconfig='separate')):
        check(data, part)
    grey = np.ascontiguousarray(part[..., 0])
    check(tiff_of(grey, photometric='minisblack'), np.dstack([grey] * 3))
    check_labels(tiff_of(grey, photometric='minisblack'), grey)


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
    png[16:20] = bytes(4)  # no columns
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, 'big')
    assert 'cannot be read' in refused(images.read_image, bytes(png))


# Label images


def check_labels(data, expected=LABELS):
    found = from_bytes(images.read_labels, 'a.tif', data)
    assert found.dtype.kind in 'biu' and found.ndim == 2
    assert found.dtype.isnative
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
    tiff_of(LABELS.astype(np.uint16), byteorder='>'),
    tiff_of(LABELS, byteorder='>', tile=(16, 32)),
    tiff_of(LABELS.astype(np.uint16), imagej=True),
    tiff_of(LABELS.astype(np.uint16), photometric='palette',
            colormap=np.zeros((3, 65536), np.uint16)),
    pages(LABELS.astype(np.uint16), LABELS[::2, ::2].astype(np.uint16)),
    npy(LABELS), npy(LABELS.astype(np.uint64)), npy(LABELS.astype('>i4')),
    npy(np.asfortranarray(LABELS)), npy(LABELS.astype(float)),
    npy(np.dstack([LABELS, MASK])), npy(LABELS[..., np.newaxis])])
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
    (saved(np.dstack([MASK * np.uint8(255), MASK * np.uint8(0),
                      MASK * np.uint8(0)])), 255),
    (saved(np.dstack([MASK * np.uint8(255)] * 3)), 255),
    (saved(np.dstack([MASK * np.uint8(1)] * 3
                     + [np.full((60, 90), 255, np.uint8)])), 1),
    (saved(np.dstack([MASK * np.uint8(255),
                      np.full((60, 90), 9, np.uint8)])), 255),
    # One colour of several channels.
    (saved(np.dstack([MASK * np.uint8(200), MASK * np.uint8(0),
                      MASK * np.uint8(90)])), 200),
    # In the transparency alone.
    *((saved(np.dstack([np.full((60, 90), colour, np.uint8)] * 3
                       + [MASK * np.uint8(255)]), kind), 255)
      for colour in (0, 255) for kind in ('PNG', 'TIFF')),
    (saved(np.dstack([np.full((60, 90), 7, np.uint8),
                      MASK * np.uint8(255)])), 255)])
def test_masks(data, value):
    check_labels(data, MASK * value)


@cases('data, said', [
    (tiff_of(LABELS - 1), 'numbers'),
    (npy(np.int64(2) ** 40 * LABELS), '2 ** 31'),
    (tiff_of(LABELS.astype(np.float32) + 0.5), 'other numbers'),
    (tiff_of(np.full((9, 9), np.nan, np.float32)), 'other numbers'),
    (tiff_of(np.stack([LABELS] * 2).astype(np.uint16)), '2 images of'),
    (tiff_of(PLANES, photometric='minisblack'), '3 images of'),
    (npy(np.array([{}], object), allow_pickle=True), 'Object arrays'),
    (npy(np.array(['a'])), '[1]'), (npy(LABELS + 1j), 'complex'),
    (npy(np.dstack([LABELS] * 4)), '[60, 90, 4]'),
    (npy(LABELS)[:200], 'cannot be read'),
    # Its head says more pixels than fit into memory.
    (npy(LABELS).replace(b'(60, 90), }' + 10 * b' ',
                         b'(4000000, 4000000), }'), 'cannot be read'),
    (saved(PIXELS), 'coloured'),
    (npy(np.array({'masks': LABELS}, object), allow_pickle=True), 'Cellpose'),
    # Borders, or classes.
    (saved(np.dstack([MASK * np.uint8(255), ~MASK * np.uint8(255),
                      MASK * np.uint8(0)])), 'borders'),
    # Of several channels none says that it is the one.
    (tiff_of(np.dstack([LABELS, LABELS % 7]).astype(np.uint16),
             photometric='minisblack', planarconfig='contig',
             extrasamples=['unspecified']), 'several channels'),
    (saved(MASK * np.uint8(255), 'JPEG'), 'JPEG'),
    (saved(MASK * np.uint8(255), 'TIFF', compression='jpeg'), 'JPEG'),
    (tiff_of(MASK * np.uint8(255), photometric='miniswhite'), 'MINISWHITE'),
    (tiff_of(~MASK, photometric='miniswhite'), 'MINISWHITE'),
    (imagecodecs.png_encode(np.dstack([LABELS.astype(np.uint16)] * 3)),
     'PNG in colour with more than 8 bits'),
    (saved(Image.fromarray(PIXELS).convert('CMYK'), 'TIFF'), 'SEPARATED'),
    (b'text', 'no image of TIFF, PNG or .npy')])
def test_what_is_no_label_image(data, said):
    assert said in refused(images.read_labels, data)


@pytest.mark.parametrize('array', [
    PIXELS, GREY, LABELS.astype(np.uint16) * 150])
def test_png(tmp_path, array):
    path = str(tmp_path / 'a.png')
    for software in (None, 'this program'):
        images.write_png(path, array, software)
        with Image.open(path) as image:
            assert image.info == ({'Software': software} if software else {})
            np.testing.assert_array_equal(np.array(image), array)
