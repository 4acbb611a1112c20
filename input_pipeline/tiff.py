"""Reading TIFF files as they are stored, and what their tags say."""
import contextlib
import logging

import numpy as np

from input_pipeline.files import InputError

MAGIC = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
ORIENTATION_TAG = 274
# Extra samples that are transparency: colours multiplied by it, or not.
ASSOCIATED, UNASSOCIATED = 1, 2

# Values of tags.
_WHITE_IS_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 3, 5, 6
_JPEG = (6, 7)
_CCITT = (2, 3, 4)  # fax machines', which Pillow decodes
# Its pixels are not RGB, whatever the tags say.
_APERIO_YCBC = 33003


@contextlib.contextmanager
def opened(file):
    """Opens a TIFF file, without the warnings that tifffile logs.

    Args:
        file: path or binary file object.

    Yields:
        tifffile.TiffFile

    Raises:
        ValueError: the file is no TIFF, or damaged.
    """
    import tifffile  # here, for a fast start of main.py
    logger = logging.getLogger('tifffile')
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    try:
        with tifffile.TiffFile(file) as tiff:
            yield tiff
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


def read(file, name, max_pixels, indices=False):
    """Reads the first image of a TIFF file, of a pyramid the largest.

    Args:
        file: path or binary file object.
        name: for messages.
        max_pixels: more are refused.
        indices: whether a palette's indices are wanted, not its colours.

    Returns:
        None where Pillow has to convert the colours; or else
        array [H, W] or [H, W, C], of the type in the file, upright
        the kind of a fourth channel: ASSOCIATED, UNASSOCIATED or others

    Raises:
        InputError: it is too large, of a compression or layout that cannot
            be read, or not whole.
        what tifffile and imagecodecs raise for damaged files
    """
    with opened(file) as tiff:
        series = tiff.series[0]
        page = series.keyframe
        if page.imagelength * page.imagewidth > max_pixels:
            raise InputError(f'{name}: {page.imagewidth} x {page.imagelength} '
                             f'pixels, more than {max_pixels}; cut it into '
                             'parts')
        _check_whole(page, name, tiff.filehandle.size)
        if (page.photometric in (_WHITE_IS_ZERO, _CMYK)
                or page.bitspersample in (1, 2, 4)
                or page.photometric == _PALETTE and not indices):
            return None
        if page.photometric > _PALETTE and not (
                page.photometric == _YCBCR and page.compression in _JPEG):
            raise InputError(f'{name}: colours of the kind '
                             f'{_name(page.photometric)} are not supported; '
                             'save it in RGB')
        # Where the tag is missing, a fourth channel is transparency.
        extra = (page.extrasamples[0] if page.extrasamples else UNASSOCIATED)
        return _upright(_planes(series, page, name), page), extra


def _check_whole(page, name, size):
    """Refuses a compression that is not read, and parts that are missing."""
    import tifffile
    known = page.compression != _APERIO_YCBC
    if page.compression not in _CCITT:
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        except KeyError:
            known = False
    if not known:
        raise InputError(
            f'{name}: compression {_name(page.compression)} is not supported; '
            'save it uncompressed or with LZW')
    for offset, length in zip(page.dataoffsets, page.databytecounts):
        if not length or offset + length > size:
            raise InputError(f'{name}: cannot be read (damaged: a part of it '
                             'is missing); copy it again')


def _name(value):
    """A tag's value as number and, where it is known, name."""
    return f'{int(value)} ({getattr(value, "name", "unknown")})'


def _planes(series, page, name):
    """The pixels of the first image, [H, W] or [H, W, C]."""
    if page.samplesperpixel > 1:
        pixels = page.asarray()
        # [C, H, W] where each channel is stored for itself.
        return np.moveaxis(pixels, 0, -1) if page.planarconfig == 2 else pixels
    size = (page.imagelength, page.imagewidth)
    count = int(np.prod(series.shape)) // (size[0] * size[1])
    if count == 1:
        return page.asarray().reshape(size)
    if count != 3:
        raise InputError(f'{name}: {count} grey images in one file; save '
                         'the one that is meant, in RGB if it is tissue')
    return np.moveaxis(series.asarray().reshape(3, *size), 0, -1)


def _upright(pixels, page):
    tag = page.tags.get(ORIENTATION_TAG)
    return upright(pixels, int(tag.value) if tag else 1)


def upright(pixels, orientation):
    """Turns an image as the tag Orientation of TIFF and EXIF says.

    Args:
        pixels: array [H, W, ...].
        orientation: 1 to 8; others mean 1.

    Returns:
        array [H, W, ...] or [W, H, ...]; `pixels` itself where upright.
    """
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
