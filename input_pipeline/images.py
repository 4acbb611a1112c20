"""Reading images and masks from TIFF, PNG and JPEG files, writing PNG."""
import warnings

import imageio.v3 as iio
import numpy as np
from PIL import Image

from input_pipeline.files import InputError, written_whole

# What imageio and Pillow raise for damaged files, found by damaging files at
# random. AttributeError also comes of a TIFF that is both uncompressed and
# of several pages, which imageio's Pillow reader cannot read.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError,
           AttributeError, RuntimeError)


def read_image(path, data=None):
    """Reads the first page of a TIFF, PNG or JPEG file.

    Grey is repeated in the three channels and alpha is dropped. Of 16-bit
    RGB, Pillow keeps the upper eight bits.

    Args:
        path: file to read, or what to call `data` in messages.
        data: bytes of the file where they are already at hand.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: the file is missing or damaged, is grey with more than
            8 bits, or has more pixels than Pillow takes, about 179 million.
    """
    try:
        if data is None:
            with open(path, 'rb') as file:
                data = file.read()
        # Pillow by name: imageio would give a TIFF to tifffile wherever that
        # is installed, and tifffile alone cannot decode LZW.
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the errors below say it
            dtype = iio.improps(data, plugin='pillow', index=0).dtype
            if dtype in (np.uint8, np.bool_):
                return iio.imread(data, plugin='pillow', index=0, mode='RGB')
    except DAMAGED as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise InputError(f'{path}: more than {2 * Image.MAX_IMAGE_PIXELS} '
                             'pixels; cut it into parts') from error
        reason = getattr(error, 'strerror', None) or 'damaged or no image'
        raise InputError(f'{path}: cannot be read ({reason}); give a whole '
                         'TIFF, PNG or JPEG file') from error
    raise InputError(f'{path}: its pixels are {dtype}; save it with 8 bits '
                     'per channel')


def read_mask(path, data=None):
    """Reads a mask of one to four channels with values 0/1 or 0/255.

    Args:
        path: file to read, or what to call `data` in messages.
        data: bytes of the file where they are already at hand.

    Returns:
        bool [H, W], True in nuclei.

    Raises:
        InputError: the file is missing or damaged, or holds other values.
    """
    pixels = read_image(path, data)  # alpha says nothing about nuclei
    highest = pixels.max()
    if (highest not in (0, 1, 255)
            or not np.logical_or(pixels == 0, pixels == highest).all()):
        found = ', '.join(map(str, np.unique(pixels)[:5]))
        raise InputError(f'{path}: no binary mask (values {found} ...); give '
                         'one with values 0 and 1, or 0 and 255')
    return pixels.any(axis=-1)


def write_png(path, array):
    """Writes uint8 [H, W] or [H, W, 3] as PNG; it appears only when whole.

    Raises:
        InputError: as `files.written_whole`.
    """
    # imageio would leave a file of its own open on a full disk.
    with written_whole(path) as partial, open(partial, 'wb') as file:
        iio.imwrite(file, array, plugin='pillow', extension='.png')
