"""Whole slides, read in parts by OpenSlide, on Python 3.7 by tiffslide."""
import contextlib
import math
import sys

import numpy as np

from histology import images, resample, resolution, tiff
from histology.files import InputError

ENDINGS = ('.ndpi', '.mrxs', '.scn', '.vms', '.bif', '.svslide')
MAX_WHOLE_PIXELS = 2 ** 27  # for some 3 GB of memory: docs/engines.md
HAS_OPENSLIDE = sys.version_info >= (3, 9)
APERIO_JPEG_2000 = 33003  # which `tiff` does not read
JPEG_2000 = (APERIO_JPEG_2000, 33004, 33005, 34712)  # TIFF's numbers
READ_SIDE = 2048  # pixels that are read at once
LEVEL_TOLERANCE = 1.01  # a level of 4.0003 is one of 4


def is_slide(path, max_whole_pixels=MAX_WHOLE_PIXELS):
    """Say whether a file is predicted block by block.

    This is so if its ending is in ENDINGS, or if it is a tiled TIFF of 8 bits
    that has more than `max_whole_pixels` or is in Aperio's JPEG 2000. One that
    OpenSlide does not read is an image as long as `images.read_image` takes as
    many pixels.
    """
    if path.lower().endswith(ENDINGS):
        return True
    try:
        with open(path, 'rb') as file, tiff.opened(file) as content:
            page = tiff.largest(content).keyframe
            pixels = page.imagewidth * page.imagelength
            # OpenSlide shows 12 bits in 16 too dark.
            found = (page.is_tiled and page.bitspersample == 8
                     and (pixels > max_whole_pixels
                          or page.compression == APERIO_JPEG_2000))
        if found and pixels <= tiff.MAX_IMAGE_PIXELS:
            Slide(path)  # raises if OpenSlide does not read it
        return found
    except (*images.DECODER_ERRORS, InputError):
        return False  # reading the image says what is wrong


def open_slide(path, settled):
    """Open a slide and settle its micrometres per pixel.

    Args:
        path: file, as `is_slide` takes it.
        settled: resolution.Resolution.

    Returns:
        Slide; (height, width) at which the network sees it; its micrometres
        per pixel

    Raises:
        InputError: it cannot be opened, is too small, or does not state them.
    """
    slide = Slide(path)
    stated = slide.microns_per_pixel()
    if not (settled.asked or stated):
        raise InputError(f'{path}: states no resolution; give it, e.g. '
                         '--magnification=40 or --microns_per_pixel=0.25')
    network_microns, microns = settled.settle(path, stated, True)
    size = resample.scaled_size(
        slide.size, network_microns or resample.MICRONS_PER_PIXEL)
    resample.check_min_side(size, path)
    return slide, size, microns


class Slide:
    """An open slide; `size` is its (height, width) at level 0.

    Pixels count from the upper left corner of what was scanned, as in QuPath:
    some scanners store empty space around it. `empty` is the grey value of
    what was not scanned, and `has_empty` says if any was read.

    Raises:
        InputError: it cannot be opened, or is a TIFF of several large images.
    """

    empty, has_empty = 255, False

    def __init__(self, path):
        self.path = path
        self._open()
        if not path.lower().endswith(ENDINGS):
            self._check_first()
        bounds = [self._property(f'bounds-{name}')
                  for name in ('x', 'y', 'width', 'height')]
        self._left, self._top, width, height = map(
            int, [0, 0, *self._file.dimensions] if None in bounds else bounds)
        self.size = height, width

    def _open(self):
        if HAS_OPENSLIDE:
            from openslide import OpenSlide as Reader
            from openslide import OpenSlideError as Damage
        else:
            from tiffslide import TiffFileError as Damage
            from tiffslide import TiffSlide as Reader
        self._errors = (Damage, *images.DECODER_ERRORS)
        lacking = InputError(
            f'{self.path}: this kind of slide needs TensorFlow 2.15; run '
            '"ENGINE=tf2 ./run.sh setup", then "source .venv/bin/activate"')
        try:
            if not HAS_OPENSLIDE and self.path.lower().endswith(ENDINGS):
                raise lacking
            self._file = Reader(self.path)
            if not HAS_OPENSLIDE:
                page = self._file.ts_tifffile.series[0].keyframe
                page.nodata = 255  # tiles that are not stored: white
                if page.compression in JPEG_2000:  # tiffslide garbles it
                    raise lacking
        except self._errors as error:
            raise InputError(f'{self.path}: cannot be opened as a slide '
                             f'({error}); copy it again, or save it as a '
                             'tiled TIFF by QuPath or libvips') from error

    def _check_first(self):
        """Refuse a file of several large images, or led by an overview."""
        with open(self.path, 'rb') as file, tiff.opened(file) as content:
            page = tiff.largest(content).keyframe
            count = tiff.count_large(content)
        width, height = self._file.dimensions
        if count > 1 or page.imagewidth > 2 * width or (
                page.imagelength > 2 * height):
            raise InputError(
                f'{self.path}: holds {count} images of about '
                f'{page.imagewidth} x {page.imagelength} pixels, and the '
                f'first of the file has {width} x {height}; save the one that '
                'is meant, in RGB, as a tiled TIFF by QuPath or libvips')

    def _property(self, name):
        prefix = 'openslide' if HAS_OPENSLIDE else 'tiffslide'
        return self._file.properties.get(f'{prefix}.{name}')

    def microns_per_pixel(self):
        """Return the micrometres per pixel that the file states, or None.

        Those that TIFF has for printing count: a scanner wrote them.
        """
        x, y = (resolution.positive_number(str(self._property(f'mpp-{axis}')))
                for axis in 'xy')
        if x and y and resolution.is_plausible(x, y):
            return x
        return resolution.read_microns_per_pixel(self.path)[0]

    def at(self, size):
        """Return the slide at a size as an array that is read in parts.

        It has `shape`, and is uint8 [h, w, 3] by two slices, which raise
        InputError where it is damaged.
        """
        most = LEVEL_TOLERANCE * self.size[0] / size[0]
        level = _Level(self, max([index for index, downsample in enumerate(
            self._file.level_downsamples) if downsample <= most], default=0))
        return (level if level.shape[:2] == tuple(size)
                else resample.Resampled(level, size))

    def read_whole(self, size):
        """Read it at a small size.

        Returns:
            uint8 [*size, 3], white where it is damaged or was not scanned
            bool [*size], True where it is damaged
            bool [*size], True where it was not scanned
        """
        whole, unread = self._read_whole(size)
        if not self.has_empty:
            return whole, unread, np.zeros(unread.shape, bool)
        self.empty = 0  # black: what was not scanned differs
        other, _ = self._read_whole(size)
        self.empty = 255
        return whole, unread, (whole != other).any(axis=2)

    def _read_whole(self, size):
        image = self.at(size)
        level = getattr(image, 'image', image)  # behind a Resampled
        side = max(READ_SIDE * size[0] // level.shape[0], 1)
        whole = np.full(image.shape, 255, np.uint8)
        unread = np.ones(image.shape[:2], bool)
        for top in range(0, size[0], side):
            for left in range(0, size[1], side):
                part = slice(top, top + side), slice(left, left + side)
                with contextlib.suppress(InputError):
                    whole[part] = image[part]
                    unread[part] = False
        return whole, unread

    def read_region(self, level, x, y, width, height):
        """Read a part of a level, in its pixels: uint8 [height, width, 3]."""
        downsample = self._file.level_downsamples[level]
        try:
            region = np.asarray(self._file.read_region(
                (self._left + math.ceil(x * downsample),
                 self._top + math.ceil(y * downsample)), level,
                (width, height)).convert('RGBA'))
        except self._errors as error:
            self._open()  # after an error OpenSlide reads nothing more
            raise InputError(f'{self.path}: damaged in level {level} at '
                             f'x = {x}, y = {y} ({error}); copy it again'
                             ) from error
        # What was never scanned is transparent.
        empty = region[..., 3:] == 0
        self.has_empty |= empty.any()
        return np.where(empty, np.uint8(self.empty), region[..., :3])


class _Level:
    """A level of a slide, with `shape` and parts as of an array."""

    def __init__(self, slide, level):
        self._slide, self._level = slide, level
        self.shape = (*(max(int(
            side / slide._file.level_downsamples[level]), 1)
            for side in slide.size), 3)

    def __getitem__(self, place):
        (top, bottom, _), (left, right, _) = (
            part.indices(side) for part, side in zip(place, self.shape))
        return self._slide.read_region(self._level, left, top, right - left,
                                       bottom - top)
