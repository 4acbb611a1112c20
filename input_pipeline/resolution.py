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
RESOLUTION_UNITS = {2: 25400.0, 3: 10000.0}
UNITS = {'m': 1e6, 'cm': 1e4, 'mm': 1e3, 'nm': 1e-3, 'pm': 1e-6,
         '\u00c5': 1e-4, 'um': 1.0, '\u00b5m': 1.0, '\u03bcm': 1.0,
         '\\u00b5m': 1.0, '\\u00B5m': 1.0, 'micron': 1.0, 'microns': 1.0,
         'micrometer': 1.0, 'in': 25400.0, 'inch': 25400.0}


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
    except images.DAMAGED:
        return None  # whoever reads its pixels says what is wrong
    for sides in stated:
        x, y = sides
        if (PLAUSIBLE[0] <= x <= PLAUSIBLE[1]
                and abs(x - y) <= SAME_SIDES * x):
            return x
    return None


def _of_tiff(file):
    """Yields what a TIFF file says: micrometres per pixel in x and in y."""
    found = []
    with tiff.opened(file) as content:
        page = content.pages[0]
        tags = {name: page.tags[name].value for name in
                ('ImageDescription', 'XResolution', 'YResolution',
                 'ResolutionUnit') if name in page.tags}
    text = tags.get('ImageDescription')
    text = text if isinstance(text, str) else ''
    found += _of_aperio(text) + _of_ome(text)
    x, y = (_pixels_per_unit(tags.get(f'{axis}Resolution'))
            for axis in 'XY')
    if x and y:
        unit = re.search(r'^unit=(.*?)\s*$', text, re.M)
        if text.startswith('ImageJ') and unit:
            microns = UNITS.get(unit.group(1).lower())
        else:
            microns = RESOLUTION_UNITS.get(
                int(tags.get('ResolutionUnit', 2)))
        if microns:
            found.append((microns / x, microns / y))
    return found


def _pixels_per_unit(fraction):
    """A resolution tag's (numerator, denominator) as a float, or None."""
    if not fraction or not fraction[0] or not fraction[1]:
        return None
    return fraction[0] / fraction[1]


def _of_aperio(text):
    found = []
    for pattern, microns in ((r'\bMPP\s*=\s*([\d.,]+)', lambda value: value),
                             (r'\bAppMag\s*=\s*([\d.,]+)',
                              lambda value: MICRONS_AT_1X / value)):
        match = text.startswith('Aperio') and re.search(pattern, text)
        if match:
            value = _number(match.group(1))
            if value:
                found.append((microns(value),) * 2)
    return found


def _of_ome(text):
    if '<OME' not in text[:1000]:
        return []
    try:
        root = ElementTree.fromstring(text.strip().encode())
    except ElementTree.ParseError:
        return []
    for element in root.iter():
        if element.tag.rsplit('}', 1)[-1] == 'Pixels':
            sides = [(_number(element.get(f'PhysicalSize{axis}', '')),
                      UNITS.get(element.get(f'PhysicalSize{axis}Unit',
                                            '\u00b5m'))) for axis in 'XY']
            if all(size and unit for size, unit in sides):
                return [tuple(size * unit for size, unit in sides)]
            return []
    return []


def _number(text):
    """A positive float, also with a decimal comma, or None."""
    try:
        value = float(text.strip('.,').replace(',', '.'))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _of_others(file):
    """What a PNG or JPEG file says, as `_of_tiff` does."""
    with images.pillow(file, '') as image:
        dpi = image.info.get('dpi')
    if not dpi or not all(dpi):
        return []
    return [tuple(RESOLUTION_UNITS[2] / float(value) for value in dpi)]


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


def for_network(image, microns_per_pixel, name):
    """Resamples an image to the networks' micrometres per pixel.

    Args:
        image: uint8 [H, W, 3], RGB.
        microns_per_pixel: of the image, or None for the networks' own.
        name: for messages.

    Returns:
        uint8 [H', W', 3]; `image` itself where it has them.

    Raises:
        InputError: it would be too large.
    """
    height, width = image.shape[:2]
    factor = (microns_per_pixel or MICRONS_PER_PIXEL) / MICRONS_PER_PIXEL
    size = tuple(max(1, round(side * factor)) for side in (height, width))
    if size[0] * size[1] > images.MAX_PIXELS:
        raise InputError(f'{name}: {width} x {height} pixels would be '
                         f'{size[1]} x {size[0]} at {MICRONS_PER_PIXEL} '
                         'micrometres per pixel; cut it into parts, or give '
                         'another --magnification')
    return resample(image, size)


def resample(image, size):
    """Resamples an image, with a filter that keeps out aliases.

    Args:
        image: uint8 [H, W, 3] or [H, W].
        size: (height, width), pixels.

    Returns:
        uint8 [*size, 3] or [*size]; `image` itself if it has the size.
    """
    if image.shape[:2] == tuple(size):
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.BICUBIC))


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
