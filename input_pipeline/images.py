"""Reading images and masks from TIFF, PNG and JPEG files, writing PNG."""
import io
import warnings

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from input_pipeline.files import InputError, atomic_write

# What Pillow raises for damaged files, found by damaging files at random.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError,
           AttributeError, RuntimeError)
STRIP = 256  # rows


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
    source = path if data is None else io.BytesIO(data)
    try:
        # Pillow itself: through imageio, reading takes 14 bytes a pixel, or
        # 17 of a TIFF, and this way 7.
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the errors below say it
            with Image.open(source) as image:
                mode = image.mode
                if not mode.startswith(('I', 'F')):
                    return _pixels(image)
    except Image.DecompressionBombError as error:
        raise InputError(f'{path}: more than {2 * Image.MAX_IMAGE_PIXELS} '
                         'pixels; cut it into parts') from error
    except DAMAGED as error:
        reason = getattr(error, 'strerror', None) or 'damaged or no image'
        raise InputError(f'{path}: cannot be read ({reason}); give a whole '
                         'TIFF, PNG or JPEG file') from error
    raise InputError(f'{path}: its pixels have more than 8 bits (Pillow mode '
                     f'{mode}); save it with 8 bits per channel')


def _pixels(image):
    """A Pillow image as uint8 [H, W, 3]."""
    image.load()
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        pixels[top:bottom] = image.crop((0, top, image.width, bottom)
                                        ).convert('RGB')
    return pixels


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


def write_png(path, array, software=None):
    """Writes uint8 [H, W] or [H, W, 3] as PNG; it appears only when whole.

    Args:
        path: file to write.
        array: the pixels.
        software: name of the program that made them, or None; kept in the
            file as PNG's text 'Software'.

    Raises:
        InputError: as `files.atomic_write`.
    """
    text = PngInfo()
    if software:
        text.add_text('Software', software)
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        Image.fromarray(array).save(file, 'PNG', pnginfo=text)


def png_software(path):
    """Returns the text 'Software' of a PNG file.

    None where there is no such text, or no whole PNG file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of its size, which is no matter
            with Image.open(path, formats=['PNG']) as image:
                return image.info.get('Software')
    except (Image.DecompressionBombError,) + DAMAGED:
        return None
def read_labels(path, data=None):
    import numpy as np, tifffile
    src = path if data is None else io.BytesIO(data)
    if str(path).endswith('npy'): return np.load(src)
    if str(path).endswith('tif'): return tifffile.imread(src)
    a = np.array(Image.open(src))
    return a if a.ndim == 2 else a[..., :3].max(-1)
