"""Finding the micrometres per pixel that files state."""
import html
import math
import re

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
MEASURED = 0.03  # the same, where areas are measured in micrometres

# Micrometres, of the tag ResolutionUnit, and of OME's and ImageJ's names.
UNITS = {'m': 1e6, 'inch': 25400.0, 'in': 25400.0, 'cm': 1e4, 'mm': 1e3,
         'nm': 1e-3, '\u00c5': 1e-4, 'pm': 1e-6,
         **dict.fromkeys(('um', '\u00b5m', '\u03bcm', '\\u00b5m', 'micron',
                          'microns', 'micrometer', 'micrometers',
                          'micrometre', 'micrometres'), 1.0)}
INCH = 2  # the tag's number, and its default
RESOLUTION_UNITS = {INCH: UNITS['inch'], 3: UNITS['cm']}


def read_microns_per_pixel(path):
    """Read the micrometres per pixel that an image file states.

    The order is: Aperio's MPP or AppMag, OME's PhysicalSize, the resolution
    in ImageJ's unit, and the resolution that TIFF, PNG and JPEG files have
    for printing.

    Returns:
        float, or None if it states nothing plausible
        whether it is the file's own word, and no resolution for printing
    """
    try:
        with listing.opened(path) as file:
            is_tiff = file.read(4) in tiff.MAGIC
            file.seek(0)
            for x, y, own in _of_tiff(file) if is_tiff else _of_others(file):
                if is_plausible(x, y):
                    return x, own
                if own and is_plausible(x, x) and is_plausible(y, y):
                    progress.warn('sides', path, (
                        f'its pixels are {x:.3g} x {y:.3g} micrometres; '
                        'resample it to square ones'))
    except (*images.DECODER_ERRORS, InputError):
        pass  # reading the pixels says what is wrong
    return None, False


def is_plausible(x, y):
    """Say whether a pixel of x by y micrometres is a microscope's."""
    return (PLAUSIBLE[0] <= x <= PLAUSIBLE[1]
            and abs(x - y) <= SAME_SIDES * x)


def _of_tiff(file):
    """Yield micrometres in x and y, and whether in the file's own words."""
    with tiff.opened(file) as content:
        page = tiff.largest(content).keyframe  # whose pixels are read
        size = str(page.imagewidth), str(page.imagelength)
        text = content.pages[0].description
        is_ome = '<OME' in text[:1000]  # of all images in the file
        if not is_ome:
            text = page.description
        x, y = map(page.tags.valueof, ('XResolution', 'YResolution'))
        unit = page.tags.valueof('ResolutionUnit', INCH)
    own, microns = False, RESOLUTION_UNITS.get(unit)
    if text.startswith('Aperio'):
        stated = {name: positive_number(value.strip('.,')) for name, value in
                  re.findall(r'\b(MPP|AppMag)\s*=\s*([\d.,]+)', text)}
        if stated.get('MPP'):
            yield stated['MPP'], stated['MPP'], True
        elif stated.get('AppMag'):
            side = MICRONS_AT_1X / stated['AppMag']
            yield side, side, True
    elif is_ome:
        sides = [_of_ome(text, axis, size) for axis in 'XY']
        if sides[0]:
            yield sides[0], sides[1] or sides[0], True  # or x alone
    elif text.startswith('ImageJ'):
        unit = re.search(r'^unit=(.*?)\s*$', text, re.M)
        if unit:
            microns, own = UNITS.get(unit.group(1).lower()), True
    if microns:
        yield microns * x[1] / x[0], microns * y[1] / y[0], own


def _of_ome(text, axis, size):
    """Return OME's size of a pixel along an axis in micrometres, or None.

    It is that of the image of `size`, (width, height) as text, or else of the
    first.
    """
    tags = re.findall(r'<(?:\w+:)?Pixels\b[^>]*', text) or ['']
    stated = [{name: html.unescape(value) for name, _, value in re.findall(
        r'\b(\w+)\s*=\s*(["\'])(.*?)\2', tag)} for tag in tags]
    ours = [one for one in stated if size == (
        one.get('SizeX'), one.get('SizeY'))]
    pixels = (ours or stated)[0]
    microns = positive_number(pixels.get(f'PhysicalSize{axis}', ''))
    unit = UNITS.get(pixels.get(f'PhysicalSize{axis}Unit', 'um'))
    return microns * unit if microns and unit else None


def positive_number(text):
    """Convert to a positive, finite float, or None; a comma may be used."""
    try:
        value = float(text.replace(',', '.'))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _of_others(file):
    """Do what `_of_tiff` does, of a PNG or JPEG file."""
    with images.pillow(file, '') as image:
        if 'dpi' in image.info:
            x, y = map(float, image.info['dpi'])
            yield UNITS['inch'] / x, UNITS['inch'] / y, False


class Resolution:
    """Settles the micrometres per pixel of each image, and says how.

    What the flags say is used, or else what the file says in its own words,
    or else the networks' own. Each thing is said once.

    Args:
        asked: micrometres per pixel by the flags, or None.
    """

    def __init__(self, asked):
        self.asked = asked
        self._said = set()

    def of_image(self, path):
        """Settle the micrometres per pixel of an image file.

        Returns:
            those that it is resampled from, or None if it stays as it is
            its own, or None if they are not known
        """
        return self.settle(path, *read_microns_per_pixel(path))

    def settle(self, path, stated, own):
        """Do what `of_image` does with what the file states."""
        if self.asked or not own:
            self.compare(path, stated, self.asked)
            if not (self.asked or stated):
                self._say('', f'{path}: states no resolution, taken as 40x '
                          f'({MICRONS_PER_PIXEL} micrometres per pixel); '
                          'another --magnification resamples it, and '
                          '--magnification=40 adds micrometres to results')
            return self.asked, self.asked
        if abs(stated / MICRONS_PER_PIXEL - 1) <= TOLERANCE:
            return None, stated
        self._say(stated, f'{path}: states {stated:.3g} micrometres per '
                  f'pixel, resampled to {MICRONS_PER_PIXEL}; if the file is '
                  'wrong, give --magnification or --microns_per_pixel')
        return stated, stated

    def compare(self, path, stated, used):
        """Print a line if a file states others than are used.

        Args:
            path: of the file.
            stated: its micrometres per pixel, or None.
            used: those of its image, or None for the networks' own.
        """
        tolerance = MEASURED if used else TOLERANCE
        used = used or MICRONS_PER_PIXEL
        if stated and abs(stated / used - 1) > tolerance:
            stated = f'{stated:.3g}'
            self._say((stated, used), f'{path}: says {stated} micrometres per '
                      f'pixel, read as {used:.3g}; if the file is right, give '
                      f'--microns_per_pixel={stated}', error=True)

    def _say(self, what, line, error=False):
        if what not in self._said:
            self._said.add(what)
            progress.say(line, error)

