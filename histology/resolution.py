"""Finding the micrometres per pixel that files state."""
import math
import re
import sys
import xml.etree.ElementTree as ElementTree

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
INCH, CENTIMETRE = 2, 3
RESOLUTION_UNITS = {INCH: 25400.0, CENTIMETRE: 10000.0}
UNITS = {'m': 1e6, 'cm': 1e4, 'mm': 1e3, 'nm': 1e-3, 'pm': 1e-6,
         '\u00c5': 1e-4, 'um': 1.0, '\u00b5m': 1.0, '\u03bcm': 1.0,
         '\\u00b5m': 1.0, 'micron': 1.0, 'microns': 1.0,
         'micrometer': 1.0, 'in': 25400.0, 'inch': 25400.0}


def read_microns_per_pixel(path, data=None):
    """Read the micrometres per pixel that an image file states.

    The order is: Aperio's and OME's own words, ImageJ's, and the resolution
    that TIFF, PNG and JPEG files have for printing.

    Args:
        path, data: as for `images.read_image`.

    Returns:
        float, or None if it states nothing plausible.
    """
    try:
        with listing.opened(path, data) as file:
            is_tiff = file.read(4) in tiff.MAGIC
            file.seek(0)
            stated = _of_tiff(file) if is_tiff else _of_others(file)
    except (*images.DECODER_ERRORS, InputError):
        return None  # reading the pixels says what is wrong
    for x, y in stated:
        if (PLAUSIBLE[0] <= x <= PLAUSIBLE[1]
                and abs(x - y) <= SAME_SIDES * x):
            return x
    return None


def _of_tiff(file):
    """List what a TIFF file states: micrometres per pixel in x and in y."""
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
    """Convert a resolution tag, a number or a fraction, to float or None."""
    try:
        x, y = value if isinstance(value, tuple) else (value, 1)
        return x / y
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _of_aperio(text):
    if not text.startswith('Aperio'):
        return []
    found = []
    for key, microns in (('MPP', lambda value: value),
                         ('AppMag', lambda value: MICRONS_AT_1X / value)):
        match = re.search(rf'\b{key}\s*=\s*([\d.,]+)', text)
        value = match and positive_number(match.group(1).strip('.,'))
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
    """Convert to a positive, finite float, or None; a comma may be used."""
    try:
        value = float(text.replace(',', '.'))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _of_others(file):
    """List what a PNG or JPEG file states, as `_of_tiff` does."""
    with images.pillow(file, '') as image:
        info = image.info
        if info.get('jfif_unit') == 2:  # some Pillows ignore centimetres
            per_unit, unit = info['jfif_density'], CENTIMETRE
        else:
            per_unit, unit = info.get('dpi'), INCH
    if not per_unit or not all(per_unit):
        return []
    return [tuple(RESOLUTION_UNITS[unit] / float(value)
                  for value in per_unit)]


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
        """Print a line if a file states another resolution.

        Args:
            path: of the file.
            stated: its micrometres per pixel, or None.
        """
        if stated is None or abs(stated / self.asked - 1) <= TOLERANCE:
            return
        stated = f'{stated:.3g}'
        if stated not in self.stated:
            self.stated.add(stated)
            progress.say(f'{path}: says {stated} micrometres per pixel, read '
                         f'as {self.asked:.3g}; if the file is right, give '
                         f'--microns_per_pixel={stated}', sys.stderr)
