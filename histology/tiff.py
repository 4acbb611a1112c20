"""Reading TIFF files as they are stored, and what their tags say."""
import contextlib
import logging
import re

import numpy as np

from histology.files import InputError

MAGIC = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
MAX_IMAGE_PIXELS = 2 ** 29  # 1.5 GiB in RGB
ORIENTATION_TAG = 274
# Extra samples that are transparency: colours multiplied by it, or not.
ASSOCIATED, UNASSOCIATED = 1, 2
STRIP = 256  # rows that are converted at a time

# Values of tags.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_GREY_OR_RGB = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
_MOST_CHANNELS = 4
_REDUCED_OR_MASK = 5  # bits of NewSubfileType
_LZW, _JPEG = 5, 7
# None, LZW, JPEG, Deflate, PackBits, JPEG 2000 in RGB, LZMA, WebP, ZSTD. Of
# the others that imagecodecs knows, version 2021.11.20 ends the process for
# damaged PNG and JPEG XR, and JPEG 2000 of 33003 holds other colours.
_COMPRESSIONS = (1, _LZW, _JPEG, 8, 32773, 32946, 33005, 34712, 34925, 50000,
                 50001)
_PREDICTORS = (1, 2, 3)
_END_OF_JPEG = b'\xff\xd9'
_PADDING = 64  # bytes, at most, behind it


class _Complaints(logging.Handler):
    """Make an error of what tifffile fills with black and only logs."""

    def emit(self, record):
        if 'incomplete tile' in record.getMessage():
            raise ValueError(record.getMessage())


_logger = logging.getLogger('tifffile')
_logger.addHandler(_Complaints())
_logger.propagate = False  # the errors here say what concerns the user


@contextlib.contextmanager
def opened(file):
    """Open a TIFF file, without the warnings that tifffile logs.

    Args:
        file: path or binary file object.

    Yields:
        tifffile.TiffFile

    Raises:
        ValueError: the file is no TIFF, or damaged.
    """
    import tifffile  # here, for a fast start of main.py
    try:
        with tifffile.TiffFile(file) as tiff:
            yield tiff
    except (tifffile.TiffFileError, AssertionError) as error:
        raise ValueError(str(error)) from error


def read(file, name, labels=False):
    """Read the first image of a TIFF file, and the largest of a pyramid.

    Three grey images of one size are one in RGB.

    Args:
        file: path or binary file object.
        name: for messages.
        labels: whether the stored numbers are wanted, such as the indices of
            a palette, and not colours.

    Returns:
        array [H, W, C], of the type in the file, upright; colours of up to 8
            bits are uint8
        kind of its last channel: ASSOCIATED, UNASSOCIATED or None

    Raises:
        InputError: it is too large, of a kind that is not read, or not whole.
        what tifffile and imagecodecs raise for damaged files
    """
    with opened(file) as tiff:
        pages = list(tiff.pages)  # before tifffile takes them to be alike
        page = tiff.series[0].keyframe
        check_max_pixels(page.imagewidth, page.imagelength, name)
        _check_kind(page, labels, name)
        if labels:
            _check_label_kind(page, tiff, name)
        pages = [other for other in pages if other is page or (
            (other.imagelength, other.imagewidth)
            == (page.imagelength, page.imagewidth)
            and not other.subfiletype & _REDUCED_OR_MASK)]
        count = _count(tiff, page, pages)
        if count > 1 and (labels or count != 3 and _is_grey(page)):
            raise InputError(f'{name}: {count} images of one size in one '
                             'file; save the one that is meant'
                             + ('' if labels else ', or tissue in RGB'))
        if count == 3 and _is_grey(page):
            pixels = np.concatenate(_planes(tiff, page, pages, name), axis=2)
        else:
            pixels = _pixels(page, name, tiff.filehandle.size)
        pixels, alpha = _without_unknown(pixels, page)
        pixels = (_numbers if labels else _colours)(pixels, page, alpha)
        tag = page.tags.get(ORIENTATION_TAG)
        return upright(pixels, tag.value if tag else 1), alpha


def check_max_pixels(width, height, name):
    """Raise InputError if an image has more than MAX_IMAGE_PIXELS pixels."""
    if width * height > MAX_IMAGE_PIXELS:
        raise InputError(f'{name}: {width} x {height} pixels, more than '
                         f'{MAX_IMAGE_PIXELS}; cut it into parts')


def _check_kind(page, labels, name):
    """Refuse what cannot be decoded, or is not in grey or RGB."""
    bits, channels = page.bitspersample, page.samplesperpixel
    reason = None
    if page.compression not in _COMPRESSIONS:
        reason = f'compression {_name(page.compression)}'
    elif page.predictor not in _PREDICTORS:
        reason = f'predictor {_name(page.predictor)}'
    elif page.dtype is None or bits < 8 and bits not in (1, 2, 4):
        reason = f'a sample of {bits} bits'
    elif channels < _colour_channels(page):
        reason = f'{_name(page.photometric)} of {channels} channels'
    elif page.imagedepth != 1:
        reason = f'an image of {page.imagedepth} layers'
    elif not labels and page.photometric not in _GREY_OR_RGB and (
            # In JPEG, the decoder turns it into RGB.
            page.photometric != _YCBCR or page.compression != _JPEG
            or (bits, channels, page.planarconfig) != (8, 3, 1)):
        reason = f'the kind of colours {_name(page.photometric)}'
    if reason:
        raise InputError(f'{name}: cannot be read ({reason} is not '
                         'supported); convert it to RGB with LZW, by QuPath '
                         'or libvips')
    if channels > _MOST_CHANNELS:  # before they take memory
        raise InputError(f'{name}: {channels} channels; save it in RGB')


def _check_label_kind(page, tiff, name):
    """Refuse what holds no numbers, or leaves open which they are."""
    reason = None
    if page.compression == _JPEG:
        reason = 'JPEG, which changes the numbers that it stores'
    elif page.photometric not in (*_GREY_OR_RGB, _PALETTE):
        reason = f'{_name(page.photometric)}, colours and no numbers'
    elif (page.photometric == _WHITE_IS_ZERO and page.bitspersample > 1
          and not tiff.is_imagej):  # which shows it so, and means the numbers
        reason = ('white is stored as 0, which leaves open whether nuclei '
                  'are what is white')
    if reason:
        raise InputError(f'{name}: {reason}; save it in grey, black as 0, '
                         'with LZW')


def _colour_channels(page):
    """Count the channels of a page without extra ones."""
    return 3 if page.photometric in (_RGB, _YCBCR) else 1


def _is_grey(page):
    return (page.samplesperpixel == 1
            and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO))


def _count(tiff, page, pages):
    """Count the images of one size that there are, or should be."""
    said = int(np.prod(tiff.series[0].shape, dtype=np.int64)) // (
        page.imagelength * page.imagewidth * page.samplesperpixel)
    in_imagej = (tiff.imagej_metadata or {}).get('images', 1)
    # Some images of OME may be in other files.
    element = re.search(r'<(\w+:)?Pixels\b[^>]*>', tiff.ome_metadata or '')
    in_ome = int(np.prod([int(size) for size in re.findall(
        r'\bSize[CZT]="(\d+)"', element.group() if element else '')]))
    return max(len(pages), said, int(in_imagej),
               in_ome // page.samplesperpixel)


def _check_whole(page, name, size):
    """Refuse a page of which a part is missing, in a file of `size` bytes.

    By hand, because the decoders do not say it: they draw a missing part of
    JPEG in grey and one of other compressions in black, and what is missing
    of LZW is undefined in imagecodecs 2021.11.20.
    """
    parts = list(zip(page.dataoffsets, page.databytecounts))
    if (len(parts) < np.prod(page.chunked)
            or any(not length or offset + length > size
                   for offset, length in parts)
            or not all(_is_whole(page, *part) for part in enumerate(parts))):
        raise InputError(f'{name}: cannot be read (damaged: a part of it is '
                         'missing); copy or save it again')


def _is_whole(page, number, place):
    """Say whether a strip or tile has all that decoders take to be there."""
    offset, length = place
    file = page.parent.filehandle
    if page.compression == _JPEG and page.jpegheader is None:
        padding = min(length, _PADDING)
        file.seek(offset + length - padding)
        return _END_OF_JPEG in file.read(padding)
    if page.compression == _LZW:
        import imagecodecs
        file.seek(offset)
        data = file.read(length)
        if page.fillorder == 2:
            data = imagecodecs.bitorder_decode(data)
        return len(imagecodecs.lzw_decode(data)) >= _length(page, number)
    return True


def _length(page, number):
    """Compute the bytes of a strip or tile when it is decoded."""
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    else:
        in_plane = -(-page.imagelength // page.rowsperstrip)
        top = number % in_plane * page.rowsperstrip
        rows = min(page.rowsperstrip, page.imagelength - top)
        columns = page.imagewidth
    samples = 1 if page.planarconfig == 2 else page.samplesperpixel
    return rows * ((columns * samples * page.bitspersample + 7) // 8)


def _name(value):
    """Name a tag's value by its number and, if known, its name."""
    return f'{int(value)} ({getattr(value, "name", "unknown")})'


def _pixels(page, name, size):
    """Read the pixels of a page, [H, W, C]."""
    _check_whole(page, name, size)
    pixels = page.asarray(squeeze=False)[:, 0]  # [planes, H, W, C]
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        return np.moveaxis(pixels[..., 0], 0, -1)
    return pixels[0]


def _planes(tiff, page, pages, name):
    """Read the pixels of three grey images, each [H, W, 1]."""
    size = tiff.filehandle.size
    if len(pages) == 3:
        if any((other.dtype, other.photometric, other.samplesperpixel)
               != (page.dtype, page.photometric, 1) for other in pages):
            raise InputError(f'{name}: three images of different types; save '
                             'the one that is meant')
        return [_pixels(other, name, size) for other in pages]
    # ImageJ and tifffile may write the tags of the first one alone.
    shape = (page.imagelength, page.imagewidth, 1)
    end = page.dataoffsets[0] + 3 * int(np.prod(shape)) * page.dtype.itemsize
    if (len(pages) != 1 or not (tiff.is_imagej or tiff.is_shaped)
            or not page.is_contiguous or page.bitspersample < 8
            or end > size):
        raise InputError(f'{name}: cannot be read (damaged, or of its three '
                         'images not all are in this file); save it in RGB')
    tiff.filehandle.seek(page.dataoffsets[0])
    planes = tiff.filehandle.read_array(
        page.dtype.newbyteorder(tiff.byteorder), 3 * int(np.prod(shape)))
    return list(planes.astype(page.dtype).reshape(3, *shape))


def _without_unknown(pixels, page):
    """Remove from RGB what is neither colour nor transparency.

    Returns:
        array [H, W, C]
        kind of its last channel: ASSOCIATED, UNASSOCIATED or None
    """
    extra = [int(kind) for kind in page.extrasamples or ()]
    if page.samplesperpixel > _colour_channels(page):
        if page.photometric == _RGB and not extra:
            return pixels, UNASSOCIATED  # as Pillow takes it
        if extra and extra[-1] in (ASSOCIATED, UNASSOCIATED):
            return pixels, extra[-1]
        if page.photometric == _RGB and page.samplesperpixel == 4:
            return pixels[..., :3], None
    return pixels, None


def _numbers(pixels, page, _):
    """Return the stored numbers; of one bit, True for white."""
    return (~pixels if pixels.dtype == bool
            and page.photometric == _WHITE_IS_ZERO else pixels)


def _colours(pixels, page, alpha):
    """Return grey or RGB, with the last channel unchanged if it is alpha."""
    if page.bitspersample < 8:
        step = 255 // (2 ** page.bitspersample - 1)
        pixels = pixels.astype(np.uint8) * np.uint8(step)
    if page.photometric == _WHITE_IS_ZERO and pixels.dtype == np.uint8:
        shades = pixels[..., :-1] if alpha else pixels
        np.subtract(255, shades, out=shades)
    return pixels


def upright(pixels, orientation):
    """Turn an image as the tag Orientation of TIFF and EXIF says.

    Args:
        pixels: array [H, W, ...].
        orientation: 1 to 8; others mean 1.

    Returns:
        array [H, W, ...] or [W, H, ...]; `pixels` itself if it is upright.
    """
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
