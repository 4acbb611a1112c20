"""From outlines of nuclei to their pixels.

A nucleus is a list of polygons, and a polygon a list of rings: its outline,
then its holes, as in GeoJSON's MultiPolygon. A ring is float64 [V, 2],
vertices as (row, column) in pixels, counted from the upper left corner of the
upper left pixel, as ImageScope and QuPath do: the centre of pixel (r, c) is at
(r + 0.5, c + 0.5).
"""
import collections

import numpy as np

from histology.files import InputError
from histology.progress import counted
from histology.resample import MICRONS_PER_PIXEL

FILL_RULE = ('pixel centre, at (row + 0.5, column + 0.5), inside the outline; '
             'of centres on the outline, those on upper sides, and on the '
             'left where it is vertical, are in; where two overlap, the '
             'earlier outline wins')

CENTRE = 0.5  # of a pixel, from its corner

# Row and column, in pixels. Moving the outline up, and left by far less, by
# less than the last of the six decimals in the files settles on which side a
# centre on the outline lies, as MATLAB's poly2mask does.
NUDGE = np.array([1e-7, 1e-9])

# Larger or longer than any nucleus, those of giant cells and of fibres
# included: regions of interest. Both also bound memory and time.
MOST_AREA = 2000  # square micrometres, a circle of 50 micrometres
MOST_LENGTH = 100  # micrometres, height or width
# Outlines around more than so many others are regions, too.
MOST_WITHIN = 2

# What a file says: the nuclei; the name of the class or layer of each, or '';
# micrometres per pixel, or None; and a Counter of what was skipped.
Outlines = collections.namedtuple('Outlines',
                                  'nuclei names microns_per_pixel skipped')


def fill(nuclei, height, width):
    """Fill nuclei by FILL_RULE.

    Overlaps go to the earlier outline, as in the challenge's own conversion
    (Kumar et al., IEEE TMI 2020). A nucleus wholly under others has no pixel,
    and its number stays unused. Outlines that are no nuclei are skipped, and
    so are those outside the image; see MOST_AREA, MOST_LENGTH, MOST_WITHIN.
    An outline of the whole image is no nucleus either, however small it is.

    Args:
        nuclei: N nuclei, see the head of this module; at the networks'
            micrometres per pixel.
        height, width: size of the image in pixels; outlines are clipped.

    Returns:
        int32 [height, width], 0 in the background and 1 to N in the nuclei
        list of texts, what was skipped

    Raises:
        InputError: a vertex is not finite, or all nuclei lie outside the
            image.
    """
    if not all(np.isfinite(ring).all() for nucleus in nuclei
               for polygon in nucleus for ring in polygon):
        raise InputError('a vertex is not finite; export or download it again')
    instances = np.zeros((height, width), np.int32)
    boxes = np.array([_box(polygon[0] for polygon in nucleus)
                      for nucleus in nuclei]).reshape(-1, 4)
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= (height, width))
               ).any(axis=1)
    if len(nuclei) and outside.all():
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        raise InputError(
            f'{counted(len(nuclei), "outline")}, all outside the image of '
            f'{width} x {height} pixels, at x {low[1]:.0f} to {high[1]:.0f} '
            f'and y {low[0]:.0f} to {high[0]:.0f}; export them in pixels of '
            'this image, not of the slide')
    skipped = [f'outlines outside the image: {outside.sum()}'
               ] if outside.any() else []
    numbers = np.flatnonzero(~outside) + 1
    nuclei = [nuclei[number - 1] for number in numbers]
    boxes = boxes[~outside]
    regions = _regions(nuclei, boxes, height, width)
    for index in reversed(range(len(nuclei))):
        if index in regions:
            top, left, bottom, right = boxes[index]
            skipped.append(f'an outline {regions[index]}, at x {left:.0f} to '
                           f'{right:.0f} and y {top:.0f} to {bottom:.0f}')
            continue
        for polygon in nuclei[index]:
            window, inside = _inside(polygon, height, width)
            instances[window][inside] = numbers[index]
    return instances, skipped


def _box(rings):
    """Find the least row and column, highest row and column, float64 [4]."""
    vertices = np.concatenate(list(rings))
    return np.concatenate([vertices.min(axis=0), vertices.max(axis=0)])


def _regions(nuclei, boxes, height, width):
    """Map the index of each nucleus that is a region to what tells so.

    Args:
        nuclei: those that lie at least partly in the image.
        boxes: theirs, float64 [N, 4].
        height, width: of the image.
    """
    regions, last = {}, np.array((height - 1, width - 1))
    with np.errstate(over='ignore', invalid='ignore'):
        for index, (nucleus, box) in enumerate(zip(nuclei, boxes)):
            sides = box[2:] - box[:2]
            # Parts all over an image are nuclei of one class, not a nucleus.
            pixels = (_area(nucleus[0][0]) if len(nucleus) == 1
                      else sides.prod())
            area = pixels * MICRONS_PER_PIXEL ** 2
            length = sides.max() * MICRONS_PER_PIXEL
            if (pixels >= last.prod() and (box[:2] <= 1).all()
                    and (box[2:] >= last).all()):
                regions[index] = 'of the whole image'
            elif area > MOST_AREA:
                regions[index] = f'of {area:.0f} square micrometres'
            elif length > MOST_LENGTH:
                regions[index] = f'of {length:.0f} micrometres'
    rest = np.setdiff1d(np.arange(len(boxes)), list(regions))
    for index, others in zip(rest, overlapping(boxes[rest], boxes[rest])):
        if len(others) > MOST_WITHIN:
            count = _count_within(nuclei[index], boxes[rest[others]])
            if count > MOST_WITHIN:
                regions[index] = f'around {count} others'
    return regions


def _area(ring):
    """Compute the area by the shoelace formula, relative to a vertex."""
    rows, columns = (ring - ring[0]).T
    return abs(rows[:-1] @ columns[1:] - columns[:-1] @ rows[1:]) / 2


def overlapping(boxes, others):
    """Find the boxes that overlap each of some boxes.

    Args:
        boxes: float64 [N, 4], least row and column, highest row and column.
        others: float64 [M, 4].

    Yields:
        for each of `boxes`, int [K], which of `others`. Near linear time if
        none of `others` is far wider than most.
    """
    order = np.argsort(others[:, 1])
    lefts = others[order, 1]
    widest = (others[:, 3] - others[:, 1]).max() if len(others) else 0
    for top, left, bottom, right in boxes:
        near = order[slice(*np.searchsorted(lefts, (left - widest, right)))]
        found = others[near]
        yield near[(found[:, 0] < bottom) & (found[:, 2] > top)
                   & (found[:, 1] < right) & (found[:, 3] > left)]


def _count_within(nucleus, boxes):
    """Count the boxes that lie within a nucleus."""
    from skimage.measure import points_in_poly
    outer = _box(polygon[0] for polygon in nucleus)
    within = boxes[(boxes[:, :2] > outer[:2]).all(axis=1)
                   & (boxes[:, 2:] < outer[2:]).all(axis=1)]
    centres = (within[:, :2] + within[:, 2:]) / 2
    return sum(points_in_poly(centres, polygon[0]).sum()
               for polygon in nucleus)


def _inside(polygon, height, width):
    """Find the pixels of a polygon: a window of the image and which of it.

    Returns:
        slices, and bool of the window's shape
    """
    from skimage.draw import polygon as pixels  # for a fast start of main.py
    rings = [ring - CENTRE - NUDGE for ring in polygon]
    low, high = (np.clip(corner, 0, (height, width)).astype(int) for corner in
                 (np.floor(rings[0].min(axis=0)),
                  np.ceil(rings[0].max(axis=0)) + 1))
    inside = np.zeros(high - low, bool)
    if inside.size:
        for ring, value in zip(rings, [True] + [False] * len(rings)):
            inside[pixels(*(ring - low).T, inside.shape)] = value
    return tuple(map(slice, low, high)), inside
