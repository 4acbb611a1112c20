"""From outlines of nuclei to their pixels.

A nucleus is a list of polygons, and a polygon a list of rings, of which the
first is its outline and the others are holes, as in GeoJSON's MultiPolygon. A
ring is float64 [V, 2], vertices as (row, column) in pixels, counted from the
upper left corner of the upper left pixel, as ImageScope and QuPath do: the
centre of pixel (r, c) is at (r + 0.5, c + 0.5).
"""
import collections

import numpy as np

from histology.files import InputError

FILL_RULE = ('pixel centre, at (row + 0.5, column + 0.5), inside the outline; '
             'of centres on the outline, those on upper sides, and on the '
             'left where it is vertical, are in; where two overlap, the '
             'earlier outline wins')

CENTRE = 0.5  # of a pixel, from its corner

# Row and column, in pixels. Moving the outline up, and left by far less, by
# less than the last of the six decimals in the files settles on which side a
# centre on the outline lies, as MATLAB's poly2mask does.
NUDGE = np.array([1e-7, 1e-9])

# Whoever outlines the region that was annotated, or the whole image, draws
# no nucleus: larger ones than this share of the image ...
MOST_OF_IMAGE = 0.25
# ... and those around so many others are left out.
MOST_WITHIN = 2

# What a file says: the nuclei; micrometres per pixel, or None; and what was
# left out, a list of texts.
Outlines = collections.namedtuple('Outlines',
                                  'nuclei microns_per_pixel left_out')


def checked(nuclei, microns_per_pixel, left_out, path):
    """Outlines, of which every vertex is finite, or else InputError."""
    if not all(np.isfinite(ring).all() for nucleus in nuclei
               for polygon in nucleus for ring in polygon):
        raise InputError(f'{path}: a vertex is not finite; export or download '
                         'it again')
    return Outlines(nuclei, microns_per_pixel,
                    [f'{what}: {count}' for what, count in left_out.items()
                     if count])


def fill(nuclei, height, width):
    """Fills nuclei by FILL_RULE.

    Overlaps go to the earlier outline, as in the challenge's own conversion
    (Kumar et al., IEEE TMI 2020). A nucleus wholly under others has no pixel,
    and its number stays unused. Outlines that are no nuclei are left out, see
    MOST_OF_IMAGE and MOST_WITHIN, and so are those outside the image.

    Args:
        nuclei: N nuclei, see the head of this module.
        height, width: size of the image in pixels; outlines are clipped.

    Returns:
        int32 [height, width], 0 in the background and 1 to N in the nuclei
        list of texts, what was left out

    Raises:
        InputError: all nuclei lie outside the image.
    """
    instances = np.zeros((height, width), np.int32)
    boxes = _boxes(nuclei)  # [N, 4]
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= (height, width))
               ).any(axis=1)
    if len(nuclei) and outside.all():
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        raise InputError(
            f'all {len(nuclei)} outlines lie outside the image of {width} x '
            f'{height} pixels, at x {low[1]:.0f} to {high[1]:.0f} and y '
            f'{low[0]:.0f} to {high[0]:.0f}; export them in pixels of this '
            'image, not of the slide')
    around = _around_others(nuclei, boxes)
    left_out = [f'outlines outside the image: {outside.sum()}'
                ] if outside.any() else []
    for index in np.flatnonzero(~outside)[::-1]:
        window, inside = _inside(nuclei[index], height, width)
        if inside is None:
            continue
        why = (f'around {around[index]} others' if index in around else
               f'of {inside.sum() / (height * width):.0%} of the image'
               if inside.sum() > MOST_OF_IMAGE * height * width else None)
        if why:
            left, top, right, bottom = boxes[index, [1, 0, 3, 2]]
            left_out.append(f'an outline {why}, at x {left:.0f} to '
                            f'{right:.0f} and y {top:.0f} to {bottom:.0f}')
        else:
            instances[window][inside] = index + 1
    return instances, left_out


def _boxes(nuclei):
    """float64 [N, 4]: least row and column, highest row and column."""
    boxes = np.empty((len(nuclei), 4))
    for box, nucleus in zip(boxes, nuclei):
        vertices = np.concatenate([polygon[0] for polygon in nucleus])
        box[:2], box[2:] = vertices.min(axis=0), vertices.max(axis=0)
    return boxes


def _around_others(nuclei, boxes):
    """Maps the index of each nucleus around many others to their number."""
    from skimage.measure import points_in_poly
    found = {}
    order = np.argsort(boxes[:, 1])
    lefts = boxes[order, 1]
    for index, (top, left, bottom, right) in enumerate(boxes):
        # Those whose left side lies within: few, but for a large outline.
        others = order[slice(*np.searchsorted(lefts, (left, right)))]
        others = others[(boxes[others, 0] > top) & (boxes[others, 2] < bottom)
                        & (boxes[others, 1] > left)
                        & (boxes[others, 3] < right)]
        if len(others) <= MOST_WITHIN:
            continue
        centres = (boxes[others, :2] + boxes[others, 2:]) / 2
        count = sum(points_in_poly(centres, polygon[0]).sum()
                    for polygon in nuclei[index])
        if count > MOST_WITHIN:
            found[index] = count
    return found


def _inside(nucleus, height, width):
    """The pixels of a nucleus: a window of the image and which of it.

    Returns:
        slices, and bool of the window's shape, or None where it has no pixel
    """
    from skimage.draw import polygon as pixels  # for a fast start of main.py
    rings = [[ring - CENTRE - NUDGE for ring in polygon]
             for polygon in nucleus]
    vertices = np.concatenate([polygon[0] for polygon in rings])
    low = np.maximum(np.floor(vertices.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(vertices.max(axis=0)) + 1,
                      (height, width)).astype(int)
    window = tuple(map(slice, low, high))
    if (low >= high).any():
        return window, None
    inside = np.zeros(high - low, bool)
    for polygon in rings:
        part = np.zeros_like(inside)
        for ring, value in zip(polygon, [True] + [False] * len(polygon)):
            part[pixels(*(ring - low).T, part.shape)] = value
        inside |= part
    return window, inside
