"""Reading TIFF files as they are stored, and what their tags say."""
import contextlib
import logging

import numpy as np

from histology.files import InputError

MAGIC = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
MAX_IMAGE_PIXELS = 2 ** 29  # 1.5 GiB in RGB
ORIENTATION_TAG = 274
STRIP = 256  # rows that are converted at a time

# Values of tags.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_MULTIPLIED = 1  # an extra sample: the colours are multiplied by it
_TRANSPARENCY = (_MULTIPLIED, 2)
_MOST_CHANNELS = 4
_UNCOMPRESSED, _JPEG = 1, 7
# None, LZW, JPEG, Deflate, PackBits, JPEG 2000 in RGB, LZMA, WebP, ZSTD. Of
# the others that imagecodecs knows, version 2021.11.20 ends the process for
# damaged PNG and JPEG XR, and JPEG 2000 of 33003 holds other colours.
_COMPRESSIONS = (_UNCOMPRESSED, 5, _JPEG, 8, 32773, 32946, 33005, 34712,
                 34925, 50000, 50001)
# Bytes at the end of a strip or tile. No encoder ends in so many zeros, but
# some fill up with fewer.
_END = 64
_END_OF_JPEG = b'\xff\xd9'


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
    """Open a binary file object as tifffile.TiffFile.

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
    """Read the only image of a TIFF file, or the largest of a pyramid.

    Args:
        file: binary file object.
        name: for messages.
        labels: whether the stored numbers are wanted, such as the indices of
            a palette, and not colours.

    Returns:
        array [H, W, C], of the type in the file, upright
        whether its last channel is transparency

    Raises:
        InputError: it is too large, of a kind that is not read, or not whole.
        what tifffile and imagecodecs raise for damaged files
    """
    with opened(file) as tiff:
        series = largest(tiff)
        page = series.keyframe
        check_max_pixels(page.imagewidth, page.imagelength, name)
        reason = _not_read(page, labels, tiff.is_imagej)
        if reason:
            raise InputError(f'{name}: cannot be read ({reason} is not '
                             'supported); ' + (
                                 'save it as PNG in grey' if labels else
                                 'convert it to RGB with LZW, by QuPath or '
                                 'libvips'))
        count = count_large(tiff)
        if count > 1:
            raise InputError(f'{name}: {count} images of about one size in '
                             'one file; save the one that is meant'
                             + ('' if labels else ', in RGB'))
        _check_whole(page, name, tiff.filehandle.size)
        # Of tiles that are not stored: background, which is white in tissue.
        page.nodata = (np.iinfo(page.dtype).max
                       if page.dtype.kind == 'u' and not labels else 0)
        pixels = page.asarray(squeeze=False)[:, 0]  # [planes, H, W, C]
        in_planes = page.planarconfig == 2 and page.samplesperpixel > 1
        pixels = (np.moveaxis(pixels[..., 0], 0, -1) if in_planes
                  else pixels[0])
        pixels, alpha = _without_unknown(pixels, page)
        return upright(pixels, page.tags.valueof(ORIENTATION_TAG, 1)), alpha


def largest(tiff):
    """Choose the series of the image that is meant in a tifffile.TiffFile."""
    # An overview may come first; the macro of a slide may be larger.
    return tiff.series[0] if tiff.is_svs else max(
        tiff.series, key=lambda found: _pixels(found.keyframe))


def count_large(tiff):
    """Count the images of about the size of `largest`.

    The next level of a pyramid has a quarter of its pixels, or says that it
    is one.
    """
    series = largest(tiff)
    most = _pixels(series.keyframe)
    count = series.size // (most * series.keyframe.samplesperpixel)
    # Of other types, say a label image beside the tissue, or other scenes.
    least = most / (1 if tiff.is_svs else 3)
    others = [one.keyframe for one in tiff.series if one is not series]
    return count + sum(
        _pixels(page) == most
        or (least <= _pixels(page) < most and not page.is_reduced)
        for page in others)


def check_max_pixels(width, height, name):
    """Raise InputError if an image has more than MAX_IMAGE_PIXELS pixels."""
    if width * height > MAX_IMAGE_PIXELS:
        raise InputError(f'{name}: {width} x {height} pixels, more than '
                         f'{MAX_IMAGE_PIXELS}; cut it into parts, or predict '
                         'it as a slide: --max_whole_pixels=1, docs/slides.md')


def _pixels(page):
    return page.imagelength * page.imagewidth


def _not_read(page, labels, is_imagej):
    """Say what of a page is not read as colours or as labels, or None."""
    kinds = [_BLACK_IS_ZERO, _RGB]
    if labels:
        # ImageJ shows white as 0, and means the numbers.
        kinds += [_PALETTE, _WHITE_IS_ZERO] if is_imagej else [_PALETTE]
    elif (page.compression, page.samplesperpixel, page.planarconfig) == (
            _JPEG, 3, 1):
        kinds.append(_YCBCR)  # the decoder turns it into RGB
    if page.compression not in _COMPRESSIONS:
        return f'compression {_name(page.compression)}'
    if page.samplesperpixel > _MOST_CHANNELS:
        return f'an image of {page.samplesperpixel} channels'
    if page.photometric not in kinds:
        return f'the kind of colours {_name(page.photometric)}'
    if labels:
        return ('JPEG, which changes the numbers that it stores,'
                if page.compression == _JPEG else None)
    if page.bitspersample < 8:
        return f'an image of {page.bitspersample} bits'
    return ('transparency multiplied into the colours'
            if _MULTIPLIED in page.extrasamples else None)


def _check_whole(page, name, size):
    """Refuse a page of which a part is missing, in a file of `size` bytes.

    Tiles without offset and length may be missing: Philips' slides have such
    ones for the background. It is checked here because decoders do not say it:
    they draw a missing part of JPEG in grey and one of other compressions in
    black, and what is missing of LZW is undefined in imagecodecs 2021.11.20.
    """
    parts = list(zip(page.dataoffsets, page.databytecounts))
    stored = list(filter(any, parts)) if page.is_tiled else parts
    if not stored or len(parts) < np.prod(page.chunked) or not all(
            length and offset + length <= size and _has_end(
                page, offset, length) for offset, length in stored):
        raise InputError(f'{name}: cannot be read (damaged or sparse: a '
                         'part is not stored); copy or save it again')


def _has_end(page, offset, length):
    """Say whether the end of a strip or tile is there, and not mere zeros.

    Downloads that reserve their space and are broken off end in zeros. In
    files without compression, zeros are black pixels.
    """
    file, count = page.parent.filehandle, min(length, _END)
    file.seek(offset + length - count)
    end = file.read(count)
    if page.compression == _JPEG:
        return _END_OF_JPEG in end
    return page.compression == _UNCOMPRESSED or any(end)


def _name(value):
    """Name a tag's value by its number and, if known, its name."""
    return f'{int(value)} ({getattr(value, "name", "unknown")})'


def _without_unknown(pixels, page):
    """Remove from RGB what is neither colour nor transparency.

    Returns:
        array [H, W, C]
        whether its last channel is transparency
    """
    is_rgb = page.photometric == _RGB
    if page.samplesperpixel <= (3 if is_rgb else 1):
        return pixels, False
    extra = [int(kind) for kind in page.extrasamples]
    # As Pillow takes it.
    alpha = extra[-1] in _TRANSPARENCY if extra else is_rgb
    return (pixels[..., :3] if is_rgb and not alpha else pixels), alpha


def upright(pixels, orientation):
    """Turn an image [H, W, ...] as the tag Orientation of TIFF and EXIF says.

    It is 1 to 8; others mean 1. `pixels` itself is returned if it is upright.
    """
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
