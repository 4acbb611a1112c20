"""Reading images and label images, and writing PNG and JPEG."""
import contextlib
import io
import struct
import tokenize
import warnings
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

from histology import listing, progress, tiff
from histology.files import InputError, atomic_write, write_bytes
from histology.tiff import STRIP

# What Pillow, tifffile and imagecodecs raise for damaged files, found by
# damaging files at random.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError,
                  IndexError, AttributeError, RuntimeError, ArithmeticError,
                  EOFError, struct.error, tokenize.TokenError, zlib.error)
MAX_TEXT = 2 ** 26  # bytes, of a text or colour profile in a PNG

PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
JPEG_MAGIC = b'\xff\xd8'
NPY_MAGIC = b'\x93NUMPY'
HEAD = 26  # bytes; a PNG says its bits in byte 24, its type of colour in 25
GREY = 0  # a type


def read_image(path):
    """Read a TIFF, PNG or JPEG file; its content says which it is.

    Of a pyramid, the largest image is read. Grey is repeated in the three
    channels, transparency is laid on white, and the image is turned as its
    orientation says. 16-bit RGB is scaled by the smallest bit depth that holds
    the brightest pixel. A warning says if the colours are not those of H&E.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: the file is missing or damaged, is of a kind that is not
            read, has more than `tiff.MAX_IMAGE_PIXELS`, or values of 0 and 1.
    """
    with _reading(path) as (file, head):
        if head.startswith(tiff.MAGIC):
            found = tiff.read(file, path)
        elif head.startswith(PNG_MAGIC) and head[24] == 16:
            raise InputError(f'{path}: PNG with more than 8 bits; save it '
                             'with 8 bits per channel')
        elif head.startswith((PNG_MAGIC, JPEG_MAGIC)):
            found = _read_pillow(file, path)
        else:
            raise InputError(f'{path}: cannot be read (no image of TIFF, PNG '
                             'or JPEG); give one of these')
    image = _as_rgb(*found, path)
    check_colours(image, path)
    return image


def read_labels(path):
    """Read a label image or a mask from a TIFF, PNG, .npy or .mat file.

    The indices of a palette count, not its colours. Of equal channels one is
    taken; different channels must hold one colour, and 0. Transparency says
    where nuclei are if the colour is the same all over.

    Returns:
        int or bool [H, W], not negative and at most 2 ** 31 - 1.

    Raises:
        InputError: the file is missing or damaged, or holds no such numbers.
    """
    with _reading(path) as (file, head):
        if str(path).lower().endswith('.mat'):
            values, alpha = _read_mat(file, path), False
        elif head.startswith(NPY_MAGIC):
            values, alpha = _read_npy(file, path), False
        elif head.startswith(tiff.MAGIC):
            values, alpha = tiff.read(file, path, labels=True)
        elif head.startswith(PNG_MAGIC):
            if head[24] == 16 and head[25] != GREY:
                raise InputError(f'{path}: PNG in colour with more than 8 '
                                 'bits; save it in grey')
            with pillow(file, path) as image:
                image.load()  # first: NumPy may not see that it is damaged
                values = tiff.upright(np.array(image), _orientation(image))
                alpha = image.mode[-1] == 'A'
        else:
            raise InputError(f'{path}: cannot be read (no image of TIFF, PNG '
                             'or .npy; JPEG changes the numbers that it '
                             'stores); give one of these')
    if values.ndim == 3:
        values = _one_channel(values, alpha, path)
    return _whole_numbers(values, path)


@contextlib.contextmanager
def _reading(path):
    """Yield an open file and its first bytes; say what is wrong with it."""
    try:
        with listing.opened(path) as file:
            head = file.read(HEAD)
            if not head:
                raise InputError(f'{path}: cannot be read (damaged: empty); '
                                 'copy or save it again')
            file.seek(0)
            yield file, head
    except DECODER_ERRORS as error:
        reason = (getattr(error, 'strerror', None)
                  or 'damaged, or of a rare kind')
        raise InputError(f'{path}: cannot be read ({reason}); copy or save '
                         'it again') from error


@contextlib.contextmanager
def pillow(file, path):
    """Open a PNG or JPEG by Pillow, with limits of size of our own."""
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, MAX_TEXT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the errors say it
            with Image.open(file, formats=['PNG', 'JPEG']) as image:
                tiff.check_max_pixels(image.width, image.height, path)
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits


def _orientation(image):
    try:
        return image.getexif().get(tiff.ORIENTATION_TAG, 1)
    except DECODER_ERRORS:
        return 1  # what cannot be read is of no matter to the pixels


def _read_pillow(file, path):
    """Return what `tiff.read` does, of a PNG or JPEG, as uint8."""
    with pillow(file, path) as image:
        if image.mode == 'CMYK':  # whose colours depend on its printer
            raise InputError(f'{path}: is in CMYK; save it in RGB')
        image.load()
        alpha = image.mode[-1] == 'A' or 'transparency' in image.info
        mode = 'RGBA' if alpha else 'RGB'
        pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
        for top in range(0, image.height, STRIP):
            bottom = min(top + STRIP, image.height)
            strip = image.crop((0, top, image.width, bottom))
            pixels[top:bottom] = strip.convert(mode)
        return tiff.upright(pixels, _orientation(image)), alpha


def _as_rgb(pixels, alpha, path):
    """Turn what `tiff.read` returns into uint8 [H, W, 3]."""
    channels = pixels.shape[2] - alpha
    if (pixels.dtype, channels, alpha) != (np.uint16, 3, False) and (
            pixels.dtype != np.uint8 or channels not in (1, 3)):
        kind = 'grey' if channels == 1 else f'{channels} channels'
        raise InputError(f'{path}: {kind} of {pixels.dtype}'
                         + (' with transparency' if alpha else '')
                         + '; save it in RGB with 8 bits per channel')
    if pixels[..., :channels].max() == 1:
        raise InputError(f'{path}: its highest value is 1, and white is 255; '
                         'multiply the values by 255 before you save it')
    if pixels.dtype == np.uint16:
        return _to_8_bits(pixels, path)
    if not alpha:
        return pixels if channels == 3 else pixels.repeat(3, axis=2)
    if not pixels[..., -1].any():
        raise InputError(f'{path}: wholly transparent; save it without '
                         'transparency')
    flat = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), STRIP):
        strip = pixels[top:top + STRIP].astype(np.uint16)
        colours, opacity = strip[..., :-1], strip[..., -1:]
        flat[top:top + STRIP] = (
            colours * opacity + 255 * (255 - opacity) + 127) // 255
    return flat


def check_colours(image, path):
    """Warn if an image [H, W, 3] is not blank, and hardly any of it pink."""
    step = max(image.shape[:2]) // 500 + 1
    pixels = image[::step, ::step].reshape(-1, 3).astype(np.int16)
    dark, bright = np.percentile(pixels.max(axis=1), (5, 95))
    red, green, _ = pixels.T
    pink = (red > green + 10) & (green > red / 10)
    # Of MoNuSeg's training images it is 75 to 100 %, with a contrast from 81.
    if bright - dark >= 20 and pink.mean() < 0.01:
        progress.warn('colours', path, (
            'its colours are not those of H&E (grey, fluorescence or a '
            'negative?); the shipped networks know only H&E on a bright '
            'ground'))


def _to_8_bits(pixels, path):
    """Scale RGB of 8 to 16 bits in 16 to uint8."""
    highest = pixels.max()
    depth = next(bits for bits in range(8, 17, 2) if highest < 2 ** bits)
    if depth < 16:
        progress.warn((depth, 'bits'), path, (
            f'its highest value is {highest}: read as {depth} bits in 16; if '
            'that is wrong, save it with 8 bits'))
    scaled = np.empty(pixels.shape, np.uint8)
    # The highest 8 of the bits in use.
    return np.right_shift(pixels, depth - 8, out=scaled, casting='unsafe')


def _read_npy(file, path):
    """Read an array [H, W]; of CoNSeP's [H, W, 2], the numbers."""
    try:
        values = np.load(file, allow_pickle=False)
    # Damaged; or Python objects, as Cellpose's.
    except (ValueError, MemoryError) as error:
        raise InputError(
            f'{path}: cannot be read ({error}); save whole numbers [height, '
            'width], or the masks of Cellpose as PNG or TIFF') from error
    if values.ndim != 2 and values.shape[2:] not in ((1,), (2,)):
        raise InputError(f'{path}: an array {list(values.shape)}; give a '
                         'label image [height, width]')
    return values if values.ndim == 2 else values[..., 0]


def _read_mat(file, path):
    """Read MATLAB's inst_map [H, W], as Kumar's, CPM's and CoNSeP's."""
    from scipy import io  # here, for a fast start of main.py
    try:
        values = io.loadmat(file, variable_names=['inst_map']).get('inst_map')
    except Exception as error:  # for damaged files scipy raises anything
        raise InputError(f'{path}: cannot be read (damaged, no MATLAB file, '
                         'or of version 7.3); save it with -v7') from error
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise InputError(f'{path}: holds no inst_map with a number for each '
                         'pixel; save the label image under this name')
    return values


def _whole_numbers(values, path):
    """Refuse other numbers [H, W] than labels; floats become int32."""
    values = values.astype(values.dtype.newbyteorder('='), copy=False)
    is_float = values.dtype.kind == 'f'
    with np.errstate(invalid='ignore'):  # NaN, which the comparison finds
        whole = values.astype(np.int32) if is_float else values
    if (whole.dtype.kind not in 'biu' or whole.min(initial=0) < 0
            or whole.max(initial=0) > np.iinfo(np.int32).max
            or is_float and (whole != values).any()):
        raise InputError(f'{path}: holds other numbers ({values.dtype}) than '
                         '0 in the background and 1 to 2 ** 31 - 1 in nuclei; '
                         'give whole numbers')
    return whole


def _one_channel(channels, alpha, path):
    """Reduce equal channels [H, W, C], or those of a mask, to one."""
    colours = channels[..., :channels.shape[2] - alpha]
    opacity = channels[..., -1]
    if alpha and (colours == colours[0, 0]).all() and np.ptp(opacity):
        return opacity
    values = colours.max(axis=-1)
    if colours.shape[2] > 1 and (colours != values[..., np.newaxis]).any():
        brightest = colours.reshape(-1, colours.shape[2])[values.argmax()]
        one_colour = (values > 0)[..., np.newaxis] * brightest
        if (colours != one_colour).any():
            raise InputError(
                f'{path}: coloured, or of several channels, which may be '
                'classes or borders; give a label image with a number for '
                'each nucleus in one channel, or a mask')
    return values


def write_jpeg(path, array, comment):
    """Write uint8 [H, W, 3] as JPEG with a comment, as `write_png`."""
    content = io.BytesIO()  # Pillow overlooks that a disk is full
    Image.fromarray(array).save(content, 'JPEG', quality=90, comment=comment)
    write_bytes(path, content.getvalue())


def write_png(path, array, software=None):
    """Write uint8 [H, W] or [H, W, 3], or uint16 [H, W], as PNG.

    It appears only when whole, with `software` as PNG's text 'Software'.
    Errors are those of `files.atomic_write`.
    """
    text = PngImagePlugin.PngInfo()
    if software:
        text.add_text('Software', software)
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        # Tissue takes a third of the default's time, and less room.
        Image.fromarray(array).save(file, 'PNG', pnginfo=text,
                                    compress_type=zlib.Z_RLE)
