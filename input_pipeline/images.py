"""Reading images and label images, and writing PNG."""
import contextlib
import io
import struct
import sys
import warnings
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from input_pipeline import progress, tiff
from input_pipeline.files import InputError, atomic_write

# What Pillow, tifffile and imagecodecs raise for damaged files, found by
# damaging files at random.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError,
           AttributeError, RuntimeError, ArithmeticError, EOFError,
           struct.error, zlib.error)
STRIP = 256  # rows
MAX_PIXELS = 2 ** 29  # of an image: 1.5 GiB in RGB

PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
JPEG_MAGIC = b'\xff\xd8'
NPY_MAGIC = b'\x93NUMPY'
HEAD = 26  # bytes, in which a PNG says its bits and its type of colour
RGB_TYPES = (2, 6)  # of a PNG, without and with transparency

# Of the 16 that RGB is stored in.
DEPTHS = (8, 10, 12, 14, 16)


def read_image(path, data=None):
    """Reads a TIFF, PNG or JPEG file; its content says which it is.

    Of several images the first, of a pyramid the largest is read. Grey is
    repeated in the three channels, three grey images are RGB, transparency is
    laid on white, and the image is turned as its orientation says. 16-bit RGB
    is scaled from the bits that its highest value needs, float RGB from
    [0, 1].

    Args:
        path: file to read, or what to call `data` in messages.
        data: bytes of the file where they are already at hand.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: the file is missing or damaged, is of a kind that is not
            read, or has more than MAX_PIXELS pixels.
    """
    with _reading(path, data) as (file, head):
        found = None
        if head.startswith(tiff.MAGIC):
            found = tiff.read(file, path, MAX_PIXELS)
            file.seek(0)
        elif _is_deep_rgb(head):
            found = _read_deep_png(file, path)
        if found is None:
            with pillow(file, path) as image:
                return _pixels(image, path)
        return _as_rgb(*found, path)


def read_labels(path, data=None):
    """Reads a label image or a mask from a TIFF, PNG, JPEG or .npy file.

    A palette's indices count, not its colours. Of channels that are equal one
    is taken; those that differ must hold 0 and one other value, which counts
    wherever a channel has it. Transparency says nothing about nuclei.

    Args:
        path, data: as for `read_image`.

    Returns:
        int or bool [H, W], not negative and at most 2 ** 31 - 1.

    Raises:
        InputError: the file is missing or damaged, or holds no such numbers.
    """
    with _reading(path, data) as (file, head):
        found = None
        if head.startswith(NPY_MAGIC):
            found = [np.load(file, allow_pickle=False)]
            if found[0].ndim == 3 and found[0].shape[2] == 2:
                found = [found[0][..., 0]]  # numbers and classes, CoNSeP's
        elif head.startswith(tiff.MAGIC):
            found = tiff.read(file, path, MAX_PIXELS, indices=True)
            file.seek(0)
        elif _is_deep_rgb(head):
            found = _read_deep_png(file, path)
        if found is None:
            with pillow(file, path) as image:
                image.load()
                found = [tiff.upright(np.array(image), _orientation(image))]
        return _as_numbers(found[0], path)


@contextlib.contextmanager
def _reading(path, data):
    """Opens a file and says in one line what is wrong with it.

    Yields:
        binary file object, its first bytes
    """
    try:
        with (open(path, 'rb') if data is None else io.BytesIO(data)) as file:
            head = file.read(HEAD)
            file.seek(0)
            yield file, head
    except UnidentifiedImageError as error:
        reason = 'no image of a known kind'
        if head.startswith((PNG_MAGIC, JPEG_MAGIC)) or not head:
            reason = 'damaged'
        elif head.startswith(tiff.MAGIC):  # whole, as far as tifffile sees
            reason = 'its kind of colours is not supported'
        raise InputError(f'{path}: cannot be read ({reason}); give a whole '
                         'TIFF, PNG or JPEG file') from error
    except DAMAGED as error:
        reason = getattr(error, 'strerror', None) or 'damaged'
        raise InputError(f'{path}: cannot be read ({reason}); give a whole '
                         'TIFF, PNG or JPEG file') from error


@contextlib.contextmanager
def pillow(file, path):
    """Opens an image by Pillow, whose limit of size is replaced by ours."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the errors say it
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(
                        f'{path}: {image.width} x {image.height} pixels, more '
                        f'than {MAX_PIXELS}; cut it into parts')
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _orientation(image):
    """The orientation that a loaded Pillow image still has to be turned by."""
    if image.format == 'TIFF':
        return 1  # Pillow has done it
    return image.getexif().get(tiff.ORIENTATION_TAG, 1)


def _pixels(image, path):
    """A Pillow image as uint8 [H, W, 3], upright, on white."""
    if image.mode.startswith(('I', 'F')):
        raise InputError(f'{path}: grey with more than 8 bits (Pillow mode '
                         f'{image.mode}); save it in RGB or with 8 bits')
    image.load()
    transparent = (image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La')
                   or 'transparency' in image.info)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    seen = not transparent
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        strip = image.crop((0, top, image.width, bottom))
        if transparent:
            strip = np.array(strip.convert('RGBA'))
            seen |= strip[..., 3].any()
            strip = _on_white(strip[..., :3], strip[..., 3:])
        else:
            strip = strip.convert('RGB')
        pixels[top:bottom] = strip
    _check_seen(seen, path)
    return tiff.upright(pixels, _orientation(image))


def _on_white(colours, alpha, multiplied=False):
    """Lays uint8 colours [H, W, 3] with alpha [H, W, 1] on white."""
    alpha = alpha.astype(np.uint16)
    if multiplied:
        return np.minimum(colours + (255 - alpha), 255).astype(np.uint8)
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255
            ).astype(np.uint8)


def _check_seen(seen, path):
    if not seen:
        raise InputError(f'{path}: wholly transparent; save it without '
                         'transparency')


def _is_deep_rgb(head):
    """Says whether a file begins as a PNG of RGB with 16 bits."""
    return (head.startswith(PNG_MAGIC) and len(head) == HEAD
            and head[24] == 16 and head[25] in RGB_TYPES)


def _read_deep_png(file, path):
    """What `tiff.read` returns, of a PNG of RGB with 16 bits.

    Pillow would keep the upper 8 bits: none where there are only 12.
    """
    import imagecodecs
    with pillow(file, path) as image:  # for the size, and what is turned
        orientation = _orientation(image)
    file.seek(0)
    return (tiff.upright(imagecodecs.png_decode(file.read()), orientation),
            tiff.UNASSOCIATED)


def _as_rgb(pixels, extra, path):
    """An array as in a file as uint8 [H, W, 3].

    Args:
        pixels: [H, W] or [H, W, C].
        extra: kind of the fourth channel, of `tiff`.
        path: for messages.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    deep = pixels.dtype != np.uint8
    if channels not in (1, 3, 4) or deep and channels == 1:
        kind = 'grey' if channels == 1 else f'{channels} channels'
        raise InputError(f'{path}: {kind} of {pixels.dtype}; save it in RGB'
                         + (' or with 8 bits' if deep else ''))
    if deep:
        pixels = _to_8_bits(pixels, path)
    if channels == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if channels == 4 and extra in (tiff.ASSOCIATED, tiff.UNASSOCIATED):
        _check_seen(pixels[..., 3].any(), path)
        flat = np.empty((*pixels.shape[:2], 3), np.uint8)
        for top in range(0, len(pixels), STRIP):
            strip = pixels[top:top + STRIP]
            flat[top:top + STRIP] = _on_white(
                strip[..., :3], strip[..., 3:], extra == tiff.ASSOCIATED)
        return flat
    return np.ascontiguousarray(pixels[..., :3])


def _to_8_bits(pixels, path):
    """Scales RGB of 16 bits, or of floats in [0, 1], to uint8."""
    if pixels.dtype == np.uint16:
        highest = int(pixels[..., :3].max())
        depth = next(bits for bits in DEPTHS if highest < 2 ** bits)
        if depth < 16:
            progress.end_line()
            print(f'{path}: its highest value is {highest}: read as {depth} '
                  'bits in 16; if that is wrong, save it with 8 bits',
                  file=sys.stderr)
        # The highest bits of both are the same.
        scaled = np.empty(pixels.shape, np.uint8)
        scaled[..., :3] = pixels[..., :3] >> (depth - 8)
        if pixels.shape[2] == 4:
            scaled[..., 3] = pixels[..., 3] >> 8
        return scaled
    if pixels.dtype.kind != 'f':
        raise InputError(f'{path}: RGB of {pixels.dtype}; save it with 8 bits '
                         'per channel')
    low, high = pixels.min(), pixels.max()
    if not 0 <= low <= high <= 1:
        raise InputError(f'{path}: RGB of {pixels.dtype} from {low:.4g} to '
                         f'{high:.4g}; save it with 8 bits per channel, or as '
                         'floats from 0 to 1')
    return np.rint(pixels * 255).astype(np.uint8)


def _as_numbers(values, path):
    """An array as in a file as numbers [H, W]; see `read_labels`."""
    if values.ndim == 3:
        if values.shape[2] not in (1, 2, 3, 4):
            raise InputError(f'{path}: {values.shape[2]} channels; give a '
                             'label image of one')
        colours = values[..., :1 if values.shape[2] < 3 else 3]
        values = colours[..., 0]
        if not (colours == values[..., np.newaxis]).all():
            highest = colours.max()
            if not np.isin(colours, (0, highest)).all():
                raise InputError(f'{path}: coloured; give a label image with '
                                 'a number for each nucleus in one channel, '
                                 'or a mask')
            values = colours.max(axis=-1)
    if values.ndim != 2 or not values.size:
        raise InputError(f'{path}: an array {list(values.shape)}; give a '
                         'label image [height, width]')
    if values.dtype.kind == 'f':
        with np.errstate(invalid='ignore'):  # NaN, which the next line finds
            whole = values.astype(np.int32)
        if not (whole == values).all():
            raise InputError(f'{path}: holds fractions or more than 2 ** 31; '
                             'give whole numbers')
        values = whole
    if values.dtype.kind not in 'biu':
        raise InputError(f'{path}: holds {values.dtype}; give whole numbers')
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise InputError(f'{path}: holds {values.min()} to {values.max()}; '
                         'give 0 in the background and numbers from 1 to '
                         '2 ** 31 - 1 in nuclei')
    return values


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
