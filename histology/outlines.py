"""Which of the outlines in a file are nuclei of an image.

A nucleus is a list of polygons, and a polygon a list of rings: its outline,
then its holes, as in GeoJSON's MultiPolygon. A ring is float64 [V, 2],
vertices as (row, column) in pixels, counted from the upper left corner of the
upper left pixel, as ImageScope and QuPath do: the centre of pixel (r, c) is at
(r + 0.5, c + 0.5).
"""
import collections
import re

import numpy as np

from histology import rasterize
from histology.files import InputError
from histology.progress import counted
from histology.resample import MICRONS_PER_PIXEL
from histology.tiff import STRIP

# Larger or longer than any nucleus, those of giant cells and of fibres
# included: regions of interest. Both also bound memory and time.
MOST_AREA = 2000  # square micrometres, a circle of 50 micrometres
MOST_LENGTH = 100  # micrometres, height or width
# Outlines around more than so many others are regions, too. Around fewer they
# are cells, if they are as many and such a share of all. In MoNuSeg at most
# one of 400 is.
MOST_WITHIN, LEAST_CELLS, CELL_SHARE = 2, 3, 0.4
# Two outlines are of one nucleus if the intersection over union of their boxes
# is more. In MoNuSeg it is 0.53 at most.
SAME = 0.7
WHOLE = 'of the whole image'
ALL_ANNOTATED = 0.9  # of the image; what lies outside larger regions is used

# Classes and layers without nuclei: QuPath's with a star, and its background;
# MoNuSAC's of what the annotators were not sure of.
NO_NUCLEI = re.compile(r'.*\*|background|ambiguous', re.I)
REGION = re.compile(r'region\*', re.I)

# What a file says: the nuclei; the name of the class or layer of each, or '';
# micrometres per pixel, or None; and a Counter of what was skipped.
Outlines = collections.namedtuple('Outlines',
                                  'nuclei names microns_per_pixel skipped')

# Outlines laid on an image:
#   nuclei: those that are
#   names: of their classes, as in Outlines
#   numbers: int [N], theirs, from 1 in the order of the file
#   window: slices of rows and columns, the part of the image to use
#   regions: polygons, all that is annotated of it; [] if it is all annotated
#   skipped: list of texts
#   microns_per_pixel: as in Outlines
#   classes: set of the names of all classes and layers of the file
Placed = collections.namedtuple(
    'Placed', 'nuclei names numbers window regions skipped microns_per_pixel '
    'classes')


def ring(vertices):
    """Make a ring of an iterable of (row, column).

    Raises:
        ValueError: it encloses nothing, or a vertex is not finite.
    """
    vertices = np.array(vertices, np.float64)
    if len(vertices) < 3:
        raise ValueError('a ring of fewer than three vertices')
    if not np.isfinite(vertices).all():
        raise ValueError('a vertex is not finite')
    return vertices


def box_of(polygons):
    """Find the least row and column, highest row and column, float64 [4]."""
    vertices = np.concatenate([polygon[0] for polygon in polygons])
    return np.concatenate([vertices.min(axis=0), vertices.max(axis=0)])


def lie_apart(boxes):
    """Say whether the parts of an object are nuclei of their own.

    A nucleus that another one cuts in two has at most two large parts, and
    none is further from the largest than that is long.

    Args:
        boxes: float64 [N, 4], theirs, as of `box_of`.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides.prod(axis=1)
    largest = areas.argmax()
    gaps = np.maximum(boxes[:, :2] - boxes[largest, 2:],
                      boxes[largest, :2] - boxes[:, 2:])
    return ((areas > areas[largest] / 4).sum() > 2
            or gaps.max() > sides[largest].max())


def place(outlines, height, width, classes=()):
    """Lay outlines on an image, and sort out which are nuclei.

    Skipped are outlines outside the image, of other classes, of regions (see
    MOST_AREA, MOST_LENGTH, MOST_WITHIN; and of the whole image, however small
    it is), and of cells around nuclei. If all nuclei lie in regions, nothing
    else is annotated, and the window is theirs.

    Args:
        outlines: Outlines, at the networks' micrometres per pixel.
        height, width: size of the image in pixels.
        classes: names of the wanted ones; () for all but NO_NUCLEI.

    Returns:
        Placed

    Raises:
        InputError: there are other objects alone, or all nuclei lie outside
            the image.
    """
    nuclei, names = outlines.nuclei, outlines.names
    lines = [f'{what}: {count}' for what, count in outlines.skipped.items()
             if count]
    if lines and not nuclei:
        raise InputError(f'holds no outline of a nucleus, only '
                         f'{"; ".join(lines)}; export the outlines of nuclei')
    boxes = np.array([box_of(nucleus) for nucleus in nuclei]).reshape(-1, 4)
    why, regions = _sort_out(nuclei, names, boxes, height, width, classes)
    lines += [text if text.startswith('an ') else f'{text}: {count}'
              for text, count in collections.Counter(why.values()).items()]
    kept = np.setdiff1d(np.arange(len(nuclei)), list(why))
    regions, box = _annotated([nuclei[index] for index in regions],
                              boxes[kept], height, width)
    if regions:
        lines.append(f'all but the crop {_extent(box)}, for no nucleus is '
                     'annotated outside ' + counted(len(regions), 'region'))
    return Placed([nuclei[index] for index in kept],
                  [names[index] for index in kept], kept + 1,
                  (slice(box[0], box[2]), slice(box[1], box[3])), regions,
                  lines, outlines.microns_per_pixel, set(names) - {''})


def _sort_out(nuclei, names, boxes, height, width, classes):
    """Map the index of each outline that is no nucleus to why; see `place`.

    Returns:
        dict
        list of the indices of those that are regions
    """
    why = {index: f'outlines of the class {name or "without a name"}'
           for index, name in enumerate(names)
           if (name not in classes if classes else NO_NUCLEI.fullmatch(name))}
    regions = [index for index in why if REGION.fullmatch(names[index])]

    def left():
        return np.setdiff1d(np.arange(len(nuclei)), list(why))

    why.update((index, 'outlines outside the image')
               for index in _outside(boxes, left(), height, width))
    large = _too_large(nuclei, boxes, left(), height, width)
    why.update(large)
    within, copies = _compare(nuclei, boxes, left())
    large.update(
        (index, f'an outline around {count} others, {_extent(boxes[index])}')
        for index, count in within.items() if count > MOST_WITHIN)
    why.update(large)
    why.update((index, 'outlines of cells around nuclei')
               for index in _cells(names, left(), within))
    for first, second in copies:
        if first not in why:
            why.setdefault(second, 'second outlines of a nucleus')
    return why, regions + [index for index, text in large.items()
                           if WHOLE not in text]


def crop(array, placed, value):
    """Cut an array [H, W, ...] of the image to the window of Placed.

    Pixels of no region get the value, in the array itself.
    """
    for top in range(0, len(array), STRIP) if placed.regions else ():
        strip = array[top:top + STRIP]  # for memory
        outside = np.ones(strip.shape[:2], bool)
        for polygon in placed.regions:
            rows_columns, inside = rasterize.inside(
                [outline - (top, 0) for outline in polygon], *outside.shape)
            outside[rows_columns] &= ~inside
        strip[outside] = value
    return array[placed.window]


def _extent(box):
    top, left, bottom, right = box
    return f'at x {left:.0f} to {right:.0f} and y {top:.0f} to {bottom:.0f}'


def _outside(boxes, kept, height, width):
    """List which of the indices are of boxes outside the image.

    Raises:
        InputError: all are.
    """
    its = boxes[kept]
    outside = ((its[:, 2:] <= 0) | (its[:, :2] >= (height, width))
               ).any(axis=1)
    if len(kept) and outside.all():
        extent = _extent([*its[:, :2].min(axis=0), *its[:, 2:].max(axis=0)])
        raise InputError(
            f'{counted(len(kept), "outline")}, all outside the image of '
            f'{width} x {height} pixels, {extent}; export them in pixels of '
            'this image, not of the slide')
    return kept[outside]


def _too_large(nuclei, boxes, kept, height, width):
    """Map the index of each outline larger than a nucleus to what tells so."""
    large, last = {}, np.array((height - 1, width - 1))
    with np.errstate(over='ignore', invalid='ignore'):
        for index in kept:
            box = boxes[index]
            pixels = sum(_area(polygon[0]) for polygon in nuclei[index])
            area = pixels * MICRONS_PER_PIXEL ** 2
            length = (box[2:] - box[:2]).max() * MICRONS_PER_PIXEL
            if (pixels >= last.prod() and (box[:2] <= 1).all()
                    and (box[2:] >= last).all()):
                text = WHOLE
            elif area > MOST_AREA:
                text = f'of {area:.0f} square micrometres'
            elif length > MOST_LENGTH:
                text = f'of {length:.0f} micrometres'
            else:
                continue
            large[index] = f'an outline {text}, {_extent(box)}'
    return large


def _area(outline):
    """Compute the area by the shoelace formula, relative to a vertex."""
    rows, columns = (outline - outline[0]).T
    return abs(rows[:-1] @ columns[1:] - columns[:-1] @ rows[1:]) / 2


def _compare(nuclei, boxes, kept):
    """Compare each outline, whose index is kept, with those that overlap it.

    Returns:
        dict of the indices of those around others to their number
        list of pairs of indices, the first before the second, of one nucleus
    """
    within, copies = {}, []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index, near in zip(kept, overlapping(boxes[kept], boxes[kept])):
        near = kept[near]
        inner = near[(boxes[near, :2] >= boxes[index, :2]).all(axis=1)
                     & (boxes[near, 2:] <= boxes[index, 2:]).all(axis=1)
                     & (areas[near] <= SAME * areas[index])]
        if len(inner):
            within[index] = np.count_nonzero(
                _covers([nuclei[index]], boxes[inner]))
        later = near[near > index]
        common = np.prod(np.minimum(boxes[later, 2:], boxes[index, 2:])
                         - np.maximum(boxes[later, :2], boxes[index, :2]), 1)
        same = common > SAME * (areas[later] + areas[index] - common)
        copies += [(index, other) for other in later[same]]
    return within, copies


def _covers(nuclei, boxes):
    """Say which boxes, float64 [N, 4], have their centre in a nucleus."""
    from skimage.measure import points_in_poly
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.any([points_in_poly(centres, polygon[0])
                   for nucleus in nuclei for polygon in nucleus], axis=0)


def _cells(names, kept, within):
    """List which of the indices are cells; `within` as of `_compare`."""
    cells = np.array([within.get(index, 0) > 0 for index in kept], bool)
    if cells.sum() < max(LEAST_CELLS, CELL_SHARE * len(kept)):
        return []
    names = np.array(names, object)[kept]
    for name in set(names) - {''}:  # those around no nucleus, too
        cells |= (names == name) & (cells[names == name].mean() > 0.5)
    return kept[cells]


def _annotated(regions, boxes, height, width):
    """Find the part of the image that is annotated.

    Args:
        regions: list of nuclei that are none.
        boxes: float64 [N, 4], of the nuclei.
        height, width: of the image.

    Returns:
        polygons of the regions that hold nuclei, if they hold all; or []
        int [4], as of `box_of`: theirs or the whole image's
    """
    box = np.array([0, 0, height, width])
    regions = [region for region in regions if _covers([region], boxes).any()]
    polygons = [polygon for region in regions for polygon in region]
    if (not regions or not _covers(regions, boxes).all()
            or sum(_area(outline) for outline, *_ in polygons)
            > ALL_ANNOTATED * height * width):
        return [], box
    whole = box_of(polygons)
    return polygons, np.concatenate([
        np.maximum(box[:2], np.floor(whole[:2])),
        np.minimum(box[2:], np.ceil(whole[2:]))]).astype(int)


def overlapping(boxes, others):
    """Find the boxes that overlap each of some boxes.

    Args:
        boxes: float64 [N, 4], as of `box_of`.
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
