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
    """Compute an image's (height, width) at `new` micrometres per pixel."""
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
        needed, shape, starts, ends = [], [], [], []
        for old, new, part in zip(self.image.shape, self.shape, place):
            start, stop, _ = part.indices(new)
            shape.append(stop - start)
            # Of the old image, and then of what is needed of it.
            start, stop = start * old / new, stop * old / new
            margin = math.ceil(REACH * max(old / new, 1)) + 1
            first = max(0, math.floor(start) - margin)
            needed.append(slice(first, min(old, math.ceil(stop) + margin)))
            starts.append(start - first)
            ends.append(stop - first)
        return np.array(Image.fromarray(self.image[tuple(needed)]).resize(
            shape[::-1], Image.BICUBIC, box=(*starts[::-1], *ends[::-1])))


def resample(image, size):
    """Return all of `Resampled`, or `image` itself if it has the size.

    Memory: both images, and little more.
    """
    if image.shape[:2] == tuple(size):
        return image
    resampled = Resampled(image, size)
    whole = np.empty(resampled.shape, np.uint8)
    for top in range(0, size[0], tiff.STRIP):
        rows = slice(top, top + tiff.STRIP)
        whole[rows] = resampled[rows, :]
    return whole


def resample_labels(labels, size):
    """Resample numbers [H, W] of any type to a size: the nearest pixel counts.

    `labels` itself is returned if it has the size.
    """
    if labels.shape == tuple(size):
        return labels
    rows, columns = (
        # The centre of pixel k is at k + 0.5.
        ((np.arange(length) + 0.5) * old / length).astype(np.int64)
        for old, length in zip(labels.shape, size))
    return labels[rows[:, np.newaxis], columns]
