"""Finding the micrometres per pixel that files state."""
import math
import operator
import re
import sys

from histology import images, listing, progress, tiff
from histology.files import InputError
from histology.resample import MICRONS_PER_PIXEL

# An objective of 40x has 0.25 micrometres per pixel, one of 20x has 0.5.
MICRONS_AT_1X = 10

# Of microscopes. Programs write 72 dots per inch, 353 micrometres, by default.
PLAUSIBLE = (0.05, 5)  # micrometres
SAME_SIDES = 0.01  # relative difference of a pixel's sides
# Scanners have 0.22 to 0.28 micrometres at 40x; see docs/data.md.
TOLERANCE = 0.15  # relative

# Micrometres, of the tag ResolutionUnit, and of OME's and ImageJ's names.
INCH = 2
RESOLUTION_UNITS = {INCH: 25400.0, 3: 10000.0}
UNITS = {'cm': 1e4, 'mm': 1e3, 'nm': 1e-3, 'um': 1.0, '\u00b5m': 1.0,
         '\u03bcm': 1.0, '\\u00b5m': 1.0, 'micron': 1.0, 'microns': 1.0}


def read_microns_per_pixel(path, data=None):
    """Read the micrometres per pixel that an image file states.

    The order is: Aperio's MPP or AppMag, OME's PhysicalSize, and the
    resolution that TIFF, PNG and JPEG files have for printing, in ImageJ's
    unit if there is one.

    Args:
        path, data: as for `images.read_image`.

    Returns:
        float, or None if it states nothing plausible.
    """
    try:
        with listing.opened(path, data) as file:
            is_tiff = file.read(4) in tiff.MAGIC
            file.seek(0)
            for x, y in _of_tiff(file) if is_tiff else _of_others(file):
                if (PLAUSIBLE[0] <= x <= PLAUSIBLE[1]
                        and abs(x - y) <= SAME_SIDES * x):
                    return x
    except (*images.DECODER_ERRORS, InputError):
        pass  # reading the pixels says what is wrong
    return None


def _of_tiff(file):
    """Yield what a TIFF file states: micrometres per pixel in x and in y."""
    with tiff.opened(file) as content:
        page = content.pages[0]
        tags = {name: page.tags[name].value for name in
                ('ImageDescription', 'XResolution', 'YResolution',
                 'ResolutionUnit') if name in page.tags}
    text = str(tags.get('ImageDescription'))
    microns = RESOLUTION_UNITS.get(tags.get('ResolutionUnit', INCH))
    if text.startswith('Aperio'):
        stated = {name: positive_number(value.strip('.,')) for name, value in
                  re.findall(r'\b(MPP|AppMag)\s*=\s*([\d.,]+)', text)}
        if stated.get('MPP'):
            yield stated['MPP'], stated['MPP']
        elif stated.get('AppMag'):
            yield (MICRONS_AT_1X / stated['AppMag'],) * 2
    elif '<OME' in text[:1000]:
        sides = [_of_ome(text, axis) for axis in 'XY']
        if sides[0]:
            yield sides[0], sides[1] or sides[0]  # some give x alone
    elif text.startswith('ImageJ'):
        unit = re.search(r'^unit=(.*?)\s*$', text, re.M)
        microns = UNITS.get(unit.group(1).lower()) if unit else microns
    x, y = (operator.truediv(*tags[f'{axis}Resolution']) for axis in 'XY')
    if microns:
        yield microns / x, microns / y


def _of_ome(text, axis):
    """Return OME's size of a pixel along an axis in micrometres, or None."""
    pixels = re.search(r'<(?:\w+:)?Pixels\b[^>]*', text)
    found = dict(re.findall(rf'\bPhysicalSize{axis}(Unit|)="([^"]*)"',
                            pixels.group() if pixels else ''))
    size = positive_number(found.get('', ''))
    unit = UNITS.get(found.get('Unit', 'um'))
    return size and unit and size * unit


def positive_number(text):
    """Convert to a positive, finite float, or None; a comma may be used."""
    try:
        value = float(text.replace(',', '.'))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _of_others(file):
    """List what a PNG or JPEG file states, as `_of_tiff` does."""
    with images.pillow(file, '') as image:
        dpi = image.info.get('dpi')
    return [[RESOLUTION_UNITS[INCH] / float(value) for value in dpi]
            ] if dpi else []


class ResolutionWarner:
    """Warns once of each unexpected resolution that files state.

    Args:
        asked: micrometres per pixel that the files are taken to have; None
            means MICRONS_PER_PIXEL.
    """

    def __init__(self, asked):
        self.asked = asked or MICRONS_PER_PIXEL
        self.stated = set()

    def __call__(self, path, stated):
        """Print a line if a file's micrometres per pixel are others."""
        if stated is None or abs(stated / self.asked - 1) <= TOLERANCE:
            return
        stated = f'{stated:.3g}'
        if stated not in self.stated:
            self.stated.add(stated)
            progress.say(f'{path}: says {stated} micrometres per pixel, read '
                         f'as {self.asked:.3g}; if the file is right, give '
                         f'--microns_per_pixel={stated}', sys.stderr)
