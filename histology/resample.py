"""Images and label images at the networks' micrometres per pixel."""
import math

import numpy as np
from PIL import Image

from histology import tiff
from histology.files import InputError

# What the networks see, known as 40x.
MICRONS_PER_PIXEL = 0.25
PIXEL_AREA = MICRONS_PER_PIXEL ** 2  # square micrometres
# A nucleus is some 25 pixels wide. The networks' strides are at most half of
# this, so that sides can be reflected up to a multiple of them.
MIN_SIDE = 32
# A bicubic filter reaches two pixels of the coarser image to each side.
REACH = 2


def check_min_side(size, name):
    """Raise InputError if a side (height, width) is below MIN_SIDE."""
    height, width = size
    if min(height, width) < MIN_SIDE:
        raise InputError(f'{name}: {width} x {height} pixels; both sides must '
                         f'be at least {MIN_SIDE}, give a larger image')


def network_size(size, microns_per_pixel, name):
    """Compute (height, width) at the networks' micrometres per pixel.

    Args:
        size: (height, width) of the image, pixels.
        microns_per_pixel: of the image, or None for the networks' own.
        name: for messages.

    Raises:
        InputError: it would be too large or too small.
    """
    height, width = scaled_size(size, microns_per_pixel or MICRONS_PER_PIXEL)
    if (height, width) != tuple(size):
        name += f': resampled to {MICRONS_PER_PIXEL} micrometres per pixel'
        tiff.check_max_pixels(width, height, name)
    check_min_side((height, width), name)
    return height, width


def scaled_size(size, microns_per_pixel, new=MICRONS_PER_PIXEL):
    """Compute (height, width) at `new` micrometres per pixel.

    Args:
        size: (height, width) of the image, pixels.
        microns_per_pixel: of the image.
    """
    return tuple(max(round(side * (microns_per_pixel / new)), 1)
                 for side in size)


class Resampled:
    """An image at another size; its parts are made when they are read.

    `resampled[rows, columns]`, by two slices, is that part of the whole, up to
    rounding. The filter is Pillow's bicubic one, which avoids aliases; centres
    of pixels are at + 0.5.

    Args:
        image: uint8 [H, W, 3] or [H, W].
        size: (height, width), pixels.
    """

    def __init__(self, image, size):
        self.image = image
        self.shape = (*size, *image.shape[2:])

    def __getitem__(self, place):
        return _resize(self.image, 0, self.image.shape[:2], self.shape[:2],
                       place)


def resample(image, size):
    """Resample an image; memory: both images, and little more.

    Args:
        image, size: as for `Resampled`.

    Returns:
        uint8 [*size, 3] or [*size]; `image` itself if it has the size.
    """
    if image.shape[:2] == tuple(size):
        return image
    resampled = Resampled(image, size)
    whole = np.empty(resampled.shape, np.uint8)
    for top in range(0, size[0], tiff.STRIP):
        rows = slice(top, top + tiff.STRIP)
        whole[rows] = resampled[rows, :]
    return whole


def resample_rows(parts, size, new_size):
    """Resample an image that comes in parts, from top to bottom.

    Memory: a part and a strip of rows.

    Args:
        parts: iterable of float32 [h, W] in [0, 1], H rows in all.
        size: (H, W).
        new_size: (H', W').

    Yields:
        From top to bottom, float32 [h', W'] in [0, 1] of rows that are done.
    """
    scale = size[0] / new_size[0]
    kept, top, done = np.zeros((0, size[1]), np.float32), 0, 0
    for part in parts:
        for start in range(0, len(part), tiff.STRIP):
            kept = np.concatenate([kept, part[start:start + tiff.STRIP]])
            bottom = top + len(kept)
            ready = (new_size[0] if bottom == size[0]
                     else int((bottom - _margin(scale) - 1) / scale))
            if ready <= done:
                continue
            yield _resize(kept, top, size, new_size,
                          (slice(done, ready), slice(None)))
            done = ready
            first = max(0, math.floor(done * scale) - _margin(scale))
            kept, top = kept[max(0, first - top):], max(first, top)


def _margin(scale):
    """Count the pixels that the filter needs on each side of a part."""
    return math.ceil(REACH * max(scale, 1)) + 1


def _resize(array, top, size, new_size, place):
    """Resample a part of an image.

    Args:
        array: uint8 [h, W, 3] or [h, W], or float32 [h, W] in [0, 1], the
            rows that the part needs; the first one is `top`.
        size: (H, W), of the image.
        new_size: (H', W').
        place: slices of rows and columns at the new size.

    Returns:
        array of the part, of the same type.
    """
    needed, shape, starts, ends = [], [], [], []
    for old, new, part, offset in zip(size, new_size, place, (top, 0)):
        start, stop, _ = part.indices(new)
        shape.append(stop - start)
        # Of the old image, and then of what is needed of it.
        start, stop = start * old / new, stop * old / new
        first = max(0, math.floor(start) - _margin(old / new))
        last = min(old, math.ceil(stop) + _margin(old / new))
        needed.append(slice(first - offset, last - offset))
        starts.append(start - first)
        ends.append(stop - first)
    part = np.array(Image.fromarray(array[tuple(needed)]).resize(
        shape[::-1], Image.BICUBIC, box=(*starts[::-1], *ends[::-1])))
    return part if part.dtype == np.uint8 else part.clip(0, 1)


def resample_labels(labels, size):
    """Resample numbers, which are not mixed: the nearest pixel counts.

    Args:
        labels: [H, W], of any type.
        size: (height, width), pixels.

    Returns:
        array [*size] of the type; `labels` itself if it has the size.
    """
    if labels.shape == tuple(size):
        return labels
    rows, columns = (
        # The centre of pixel k is at k + 0.5.
        ((np.arange(length) + 0.5) * old / length).astype(np.int64)
        for old, length in zip(labels.shape, size))
    return labels[rows[:, np.newaxis], columns]
