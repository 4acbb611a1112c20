"""Micrometres per pixel: what files say of them, and resampling to others."""
import io
import math
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
from PIL import Image

from input_pipeline import images, progress, tiff
from input_pipeline.files import InputError
from input_pipeline.preprocessing import MIN_SIDE, check_size

# What the networks see, known as 40x.
MICRONS_PER_PIXEL = 0.25
# An objective of 40x has 0.25 micrometres per pixel, one of 20x has 0.5.
MICRONS_AT_1X = 10

# No microscope's: 72 dots per inch, that programs write for want of any, are
# 353 micrometres.
PLAUSIBLE = (0.05, 5)  # micrometres
SAME_SIDES = 0.01  # relative difference of a pixel's sides
# Scanners have 0.22 to 0.28 micrometres at 40x; see docs/data.md.
TOLERANCE = 0.15  # relative

# Micrometres, of the tag ResolutionUnit, and of OME's and ImageJ's names.
INCH, CENTIMETRE = 2, 3
RESOLUTION_UNITS = {INCH: 25400.0, CENTIMETRE: 10000.0}
UNITS = {'m': 1e6, 'cm': 1e4, 'mm': 1e3, 'nm': 1e-3, 'pm': 1e-6,
         '\u00c5': 1e-4, 'um': 1.0, '\u00b5m': 1.0, '\u03bcm': 1.0,
         '\\u00b5m': 1.0, 'micron': 1.0, 'microns': 1.0,
         'micrometer': 1.0, 'in': 25400.0, 'inch': 25400.0}

# A bicubic filter reaches two pixels of the coarser image to each side.
REACH = 2


def read_microns_per_pixel(path, data=None):
    """What an image file says of its micrometres per pixel.

    Aperio's and OME's own words go before ImageJ's, and these before the
    resolution that TIFF, PNG and JPEG files have for printing.

    Args:
        path, data: as for `images.read_image`.

    Returns:
        float, or None where it says nothing plausible.
    """
    source = path if data is None else io.BytesIO(data)
    try:
        with open(source, 'rb') if data is None else source as file:
            is_tiff = file.read(4) in tiff.MAGIC
            file.seek(0)
            stated = _of_tiff(file) if is_tiff else _of_others(file)
    except images.DAMAGED + (InputError,):
        return None  # whoever reads its pixels says what is wrong
    for x, y in stated:
        if (PLAUSIBLE[0] <= x <= PLAUSIBLE[1]
                and abs(x - y) <= SAME_SIDES * x):
            return x
    return None


def _of_tiff(file):
    """What a TIFF file says: list of micrometres per pixel in x and in y."""
    with tiff.opened(file) as content:
        page = content.pages[0]
        tags = {name: page.tags[name].value for name in
                ('ImageDescription', 'XResolution', 'YResolution',
                 'ResolutionUnit') if name in page.tags}
    text = tags.get('ImageDescription')
    text = text if isinstance(text, str) else ''
    unit = tags.get('ResolutionUnit', INCH)
    microns = RESOLUTION_UNITS.get(unit if isinstance(unit, int) else None)
    imagej = re.search(r'^unit=(.*?)\s*$', text, re.M)
    if text.startswith('ImageJ') and imagej:
        microns = UNITS.get(imagej.group(1).lower())
    found = _of_aperio(text) + _of_ome(text)
    x, y = (_pixels_per_unit(tags.get(f'{axis}Resolution')) for axis in 'XY')
    if x and y and microns:
        found.append((microns / x, microns / y))
    return found


def _pixels_per_unit(value):
    """A resolution tag's number, or None; (numerator, denominator) mostly."""
    try:
        x, y = value if isinstance(value, tuple) else (value, 1)
        return x / y
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _of_aperio(text):
    found = []
    for pattern, microns in ((r'\bMPP\s*=\s*([\d.,]+)', lambda value: value),
                             (r'\bAppMag\s*=\s*([\d.,]+)',
                              lambda value: MICRONS_AT_1X / value)):
        match = text.startswith('Aperio') and re.search(pattern, text)
        if match:
            value = positive_number(match.group(1).strip('.,'))
            if value:
                found.append((microns(value),) * 2)
    return found


def _of_ome(text):
    if '<OME' not in text[:1000]:
        return []
    try:
        root = ElementTree.fromstring(text.strip().encode())
    except (ElementTree.ParseError, LookupError, ValueError):
        return []
    for element in root.iter():
        if element.tag.rsplit('}', 1)[-1] == 'Pixels':
            # Some give x alone.
            axes = 'XY' if 'PhysicalSizeY' in element.keys() else 'XX'
            sides = [(positive_number(element.get(f'PhysicalSize{axis}',
                                                  '').strip('.,')),
                      UNITS.get(element.get(f'PhysicalSize{axis}Unit',
                                            '\u00b5m'))) for axis in axes]
            if all(size and unit for size, unit in sides):
                return [tuple(size * unit for size, unit in sides)]
            return []
    return []


def positive_number(text):
    """A positive, finite float, also with a decimal comma, or None."""
    try:
        value = float(text.replace(',', '.'))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _of_others(file):
    """What a PNG or JPEG file says, as `_of_tiff` does."""
    with images.pillow(file, '') as image:
        info = image.info
        if info.get('jfif_unit') == 2:  # some Pillows leave out centimetres
            per_unit, unit = info['jfif_density'], CENTIMETRE
        else:
            per_unit, unit = info.get('dpi'), INCH
    if not per_unit or not all(per_unit):
        return []
    return [tuple(RESOLUTION_UNITS[unit] / float(value)
                  for value in per_unit)]


class Check:
    """Says once, for each other resolution that files state, which it is.

    Args:
        asked: micrometres per pixel that the files are taken to have, or None
            where it was not said, which means MICRONS_PER_PIXEL.
    """

    def __init__(self, asked):
        self.asked = asked or MICRONS_PER_PIXEL
        self.said = set()

    def __call__(self, path, stated):
        """Prints a line where a file states another resolution.

        Args:
            path: of the file.
            stated: its micrometres per pixel, or None.
        """
        if stated is None or abs(stated / self.asked - 1) <= TOLERANCE:
            return
        stated = f'{stated:.3g}'
        if stated not in self.said:
            self.said.add(stated)
            progress.end_line()
            print(f'{path}: says {stated} micrometres per pixel, read as '
                  f'{self.asked:.3g}; if the file is right, give '
                  f'--microns_per_pixel={stated}', file=sys.stderr)


def network_size(size, microns_per_pixel, name):
    """The size of an image at the networks' micrometres per pixel.

    Args:
        size: (height, width), pixels.
        microns_per_pixel: of the image, or None for the networks' own.
        name: for messages.

    Returns:
        (height, width)

    Raises:
        InputError: it would be too large or too small.
    """
    factor = (microns_per_pixel or MICRONS_PER_PIXEL) / MICRONS_PER_PIXEL
    height, width = (round(side * factor) for side in size)
    if (height, width) == tuple(size):
        check_size(size, name)
        return height, width
    what = None
    if height * width > images.MAX_PIXELS:
        what = f'more than {images.MAX_PIXELS} pixels; cut it into parts'
    elif min(height, width) < MIN_SIDE:
        what = (f'and both sides must be at least {MIN_SIDE}; give a larger '
                'image')
    if what:
        raise InputError(f'{name}: {size[1]} x {size[0]} pixels would be '
                         f'{width} x {height} at {MICRONS_PER_PIXEL} '
                         f'micrometres per pixel, {what}, or give another '
                         '--magnification')
    return height, width


def for_network(image, microns_per_pixel, name):
    """Resamples an image to the networks' micrometres per pixel.

    Args:
        image: uint8 [H, W, 3], RGB.
        microns_per_pixel, name: as for `network_size`.

    Returns:
        uint8 [H', W', 3]; `image` itself where it has them.

    Raises:
        InputError: as `network_size`.
    """
    return resample(image, network_size(image.shape[:2], microns_per_pixel,
                                        name))


class Resampled:
    """An image at another size, of which parts are made when asked for.

    `resampled[rows, columns]`, two slices, is what they would be of the
    whole, up to rounding. The filter is Pillow's bicubic one, which keeps out
    aliases; centres of pixels are at + 0.5.

    Args:
        image: uint8 or float in [0, 1], [H, W, 3] or [H, W].
        size: (height, width), pixels.
    """

    def __init__(self, image, size):
        self.image = image
        self.shape = (*size, *image.shape[2:])

    def __getitem__(self, place):
        return _resize(self.image, 0, self.image.shape[:2], self.shape[:2],
                       place)


def resample(image, size):
    """Resamples an image; memory: beside both images, little.

    Args:
        image, size: as for `Resampled`.

    Returns:
        array [*size, 3] or [*size]; `image` itself if it has the size.
    """
    if image.shape[:2] == tuple(size):
        return image
    resampled = Resampled(image, size)
    whole = np.empty(resampled.shape, image.dtype)
    for top in range(0, size[0], tiff.STRIP):
        rows = slice(top, top + tiff.STRIP)
        whole[rows] = resampled[rows, :]
    return whole


def resample_rows(parts, size, new_size):
    """Resamples an image that comes in parts, from top to bottom.

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
    """Pixels that the filter needs beside those that a part covers."""
    return math.ceil(REACH * max(scale, 1)) + 1


def _resize(array, top, size, new_size, place):
    """Part of an image at another size.

    Args:
        array: [h, W, 3] or [h, W], uint8 or float in [0, 1], the rows from
            `top` on that the part needs.
        size: (H, W), of the image.
        new_size: (H', W').
        place: slices of rows and columns at the new size.

    Returns:
        array of the part, of the same type.
    """
    if array.ndim == 3 and array.dtype != np.uint8:
        return np.stack([_resize(array[..., channel], top, size, new_size,
                                 place)
                         for channel in range(array.shape[2])], axis=-1)
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
    part = array[tuple(needed)]
    if part.dtype != np.uint8:
        part = part.astype(np.float32)
    part = np.array(Image.fromarray(part).resize(
        shape[::-1], Image.BICUBIC, box=(*starts[::-1], *ends[::-1])))
    if array.dtype == np.uint8:
        return part
    return part.clip(0, 1).astype(array.dtype)  # the filter overshoots


def resample_labels(labels, size):
    """Resamples numbers, which are not mixed: the nearest pixel's is taken.

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
