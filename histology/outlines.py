"""Which of the outlines in a file are nuclei of an image.

A nucleus is a list of polygons, and a polygon a list of rings: its outline,
then its holes, as in GeoJSON's MultiPolygon. A ring is float64 [V, 2],
vertices as (row, column) in pixels, counted from the upper left corner of the
upper left pixel, as ImageScope and QuPath do: the centre of pixel (r, c) is at
(r + 0.5, c + 0.5).
"""
import codecs
import collections
import re

import numpy as np

from histology import rasterize
from histology.files import InputError
from histology.progress import counted
from histology.resample import MICRONS_PER_PIXEL, PIXEL_AREA
from histology.tiff import STRIP

# Larger or longer than any nucleus, those of giant cells and of fibres
# included: regions of interest. Both also bound memory and time.
MOST_AREA = 2000  # square micrometres, a circle of 50 micrometres
MOST_LENGTH = 100  # micrometres, height or width
# An outline around more than MOST_WITHIN others is a region, too. Outlines
# around fewer are cells, if they are at least LEAST_CELLS and CELL_SHARE of
# all. In MoNuSeg at most one of 400 is around another.
MOST_WITHIN, LEAST_CELLS, CELL_SHARE = 2, 3, 0.4
# Otherwise one of them is a region if its area is REGION_AREAS times the
# median, of at least LEAST_OUTLINES.
REGION_AREAS, LEAST_OUTLINES = 10, 5
# Two outlines are of one nucleus if the intersection over union of their boxes
# is more. In MoNuSeg it is 0.53 at most.
SAME = 0.7
# And if more than this share of the smaller one lies in the other: slender
# nuclei that cross may have one box.
LEAST_COMMON = 0.5
CORNERS = (0, 1), (0, 3), (2, 1), (2, 3)  # columns of boxes, as of `box_of`
ALL_ANNOTATED = 0.9  # of the image; what lies outside larger regions is used
GRID = 1000  # squares along the longer side, on which that share is counted
# Of the nuclei. If as many lie in regions, the others are strays, and only the
# regions count as annotated.
LEAST_INSIDE = 0.8

# Classes and layers without nuclei: QuPath's with a star, and its background;
# MoNuSAC's of what the annotators were not sure of.
NO_NUCLEI = re.compile(r'.*\*|background|ambiguous', re.I)
REGION = re.compile(r'region\*', re.I)

# Some programs write names in Latin-1.
codecs.register_error('as latin-1', lambda error: (
    error.object[error.start:error.end].decode('latin-1'), error.end))

# What a file says: the nuclei; the name of the class or layer of each, or '';
# micrometres per pixel, or None; a Counter of what was skipped; and (height,
# width) of the image, or None.
Outlines = collections.namedtuple(
    'Outlines', 'nuclei names microns_per_pixel skipped size',
    defaults=[None])

# Outlines laid on an image:
#   nuclei: dict of numbers, from 1 in the order of the file, to nuclei
#   classes: dict of all names of the file to int [K], the numbers of theirs
#   window: slices of rows and columns, the part of the image to use
#   regions: polygons, all that is annotated of it; [] if it is all annotated
#   skipped: list of texts
#   microns_per_pixel: as in Outlines
Placed = collections.namedtuple(
    'Placed', 'nuclei classes window regions skipped microns_per_pixel')


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
    """Say whether parts of an object, [N, 4] as of `box_of`, are nuclei.

    A nucleus that another one cuts in two has at most two large parts, and
    none is `far_apart`.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return (areas > areas.max() / 4).sum() > 2 or far_apart(boxes)


def far_apart(boxes):
    """Say if a part is further from the largest one than that is long."""
    sides = boxes[:, 2:] - boxes[:, :2]
    largest = sides.prod(axis=1).argmax()
    gaps = np.maximum(boxes[:, :2] - boxes[largest, 2:],
                      boxes[largest, :2] - boxes[:, 2:])
    return gaps.max() > sides[largest].max()


def place(outlines, height, width, classes=()):
    """Lay outlines on an image, and sort out which are nuclei.

    Args:
        outlines: Outlines, at the networks' micrometres per pixel.
        height, width: size of the image in pixels.
        classes: names of the wanted ones; () for all but NO_NUCLEI.

    Returns:
        Placed. If nearly all nuclei lie in regions, its window is around
        the regions.

    Raises:
        InputError: there are other objects or regions alone, or only classes
            without nuclei; or all nuclei lie outside the image or are smaller
            than a pixel.
    """
    nuclei, names, microns_per_pixel, skipped, _ = outlines
    lines = [f'{what}: {count}' for what, count in (+skipped).items()]
    boxes = np.array([box_of(nucleus) for nucleus in nuclei]).reshape(-1, 4)
    why = _why_skipped(nuclei, names, boxes, height, width, classes)
    for (text, is_region), count in collections.Counter(why.values()).items():
        lines.append(text if is_region else f'{text}: {count}')
    kept = [index for index in range(len(nuclei)) if index not in why]
    if kept and (boxes[kept, 2:] - boxes[kept, :2]).max() < 1:
        raise InputError(f'{counted(len(kept), "outline")}, none as long as a '
                         'pixel; export them in pixels of this image')
    # Without nuclei of the asked classes, all may be meant as background.
    if lines and not kept and not (nuclei and classes):
        raise InputError('holds no outline of a nucleus, only '
                         f'{"; ".join(lines[:3])}; export the outlines of '
                         'nuclei or, if there are none, remove the others')
    regions = [nuclei[index] for index, (_, is_region) in why.items()
               if is_region or REGION.fullmatch(names[index])]
    # Which nuclei have a corner in each region: its edge may cut them.
    covered = [np.any([covers(region, boxes[kept][:, corner])
                       for corner in CORNERS], axis=0) for region in regions]
    regions = [region for region, its in zip(regions, covered) if its.any()]
    box = np.array([0, 0, height, width])
    inside = np.any(covered, axis=0)
    if (regions and inside.mean() >= LEAST_INSIDE
            and _share(regions, height, width) <= ALL_ANNOTATED):
        low, high = np.split(box_of(sum(regions, [])), 2)
        box = np.clip([*np.floor(low), *np.ceil(high)], 0,
                      [height, width] * 2).astype(int)
        strays = np.count_nonzero(~inside)
        lines.append(
            f'all but the crop {_extent(box)}, for '
            + ('only ' + counted(strays, 'nucleus is', 'nuclei are')
               if strays else 'no nucleus is')
            + ' annotated outside ' + counted(len(regions), 'region'))
    else:
        regions = []
    return Placed(
        {index + 1: nuclei[index] for index in kept},
        {name: np.array([index + 1 for index in kept if names[index] == name],
                        int) for name in sorted(set(names) - {''})},
        (slice(box[0], box[2]), slice(box[1], box[3])), sum(regions, []),
        lines, microns_per_pixel)


def _share(regions, height, width):
    """Return the share of the image that regions cover; they may overlap."""
    step = max(height, width) / GRID
    grid = rasterize.fill(
        {1: [[ring / step for ring in polygon]
             for region in regions for polygon in region]},
        *np.maximum(np.divide([height, width], step).round(), 1).astype(int))
    return np.count_nonzero(grid) / grid.size


@np.errstate(over='ignore', invalid='ignore')
def _why_skipped(nuclei, names, boxes, height, width, classes):
    """Map the index of what is no nucleus to why, and if it is a region."""
    asked = set(map(str.casefold, classes))
    wanted = {name for name in names if name.casefold() in asked
              or not asked and not NO_NUCLEI.fullmatch(name)}
    why = {index: (f'outlines of the class {name or "without a name"}', False)
           for index, name in enumerate(names) if name not in wanted}
    others = [index for index in why if not NO_NUCLEI.fullmatch(names[index])]
    kept = np.setdiff1d(np.arange(len(nuclei)), list(why))
    its = boxes[kept]
    outside = kept[((its[:, 2:] <= 0) | (its[:, :2] >= (height, width))
                    ).any(axis=1)]
    if len(kept) and len(outside) == len(kept):
        extent = _extent([*its[:, :2].min(axis=0), *its[:, 2:].max(axis=0)])
        raise InputError(
            f'{counted(len(kept), "outline")}, all outside the image of '
            f'{width} x {height} pixels, {extent}; export them in pixels of '
            'this image, not of the slide')
    why.update(dict.fromkeys(outside, ('outlines outside the image', False)))
    kept = np.setdiff1d(kept, outside)
    areas = np.zeros(len(nuclei))  # pixels
    for index in (*kept, *others):  # a region may have a class of its own
        areas[index] = _area(nuclei[index])
        size = _too_large(boxes[index], areas[index], height, width)
        if size:
            why[index] = f'an outline of {size}, {_extent(boxes[index])}', True
    kept = np.setdiff1d(kept, list(why))
    around, copies = _compare(nuclei, boxes, kept)
    for index in kept[around[kept] > MOST_WITHIN]:
        why[index] = _around(around[index], boxes[index])
    kept = np.setdiff1d(kept, list(why))
    cells = around[kept] > 0
    if cells.sum() >= max(LEAST_CELLS, CELL_SHARE * len(kept)):
        names = np.array(names, object)[kept]
        for name in set(names) - {''}:  # those around no nucleus, too
            its = names == name
            cells[its] |= cells[its].mean() > 0.5
        why.update(dict.fromkeys(kept[cells],
                                 ('outlines of cells around nuclei', False)))
    elif len(kept) >= LEAST_OUTLINES:
        least = REGION_AREAS * np.median(areas[kept])
        for index in kept[cells & (areas[kept] >= least)]:
            why[index] = _around(around[index], boxes[index])
    for first, second in copies:
        if first not in why and second not in why and _share_in_common(
                nuclei[first], nuclei[second]) > LEAST_COMMON:
            why[second] = 'second outlines of a nucleus', False
    return why


def _too_large(box, pixels, height, width):
    """Say the size of an outline that is larger than nuclei, or None."""
    last = np.array((height - 1, width - 1))
    area = pixels * PIXEL_AREA
    length = (box[2:] - box[:2]).max() * MICRONS_PER_PIXEL
    if (pixels >= last.prod() and (box[:2] <= 1).all()
            and (box[2:] >= last).all()):
        return 'the whole image'
    if area > MOST_AREA:
        return f'{area:.0f} square micrometres'
    return f'{length:.0f} micrometres' if length > MOST_LENGTH else None


def crop(array, placed, value):
    """Cut an array [H, W, ...] of the image to the window of Placed.

    Pixels outside its regions, if it has any, get the value, in the array
    itself.
    """
    for top in range(0, len(array), STRIP) if placed.regions else ():
        strip = array[top:top + STRIP]  # for memory
        regions = [[outline - (top, 0) for outline in polygon]
                   for polygon in placed.regions]
        strip[rasterize.fill({1: regions}, *strip.shape[:2]) == 0] = value
    return array[placed.window]


def _around(count, box):
    return f'an outline around {counted(count, "other")}, {_extent(box)}', True


def _extent(box):
    top, left, bottom, right = box
    return f'at x {left:.0f} to {right:.0f} and y {top:.0f} to {bottom:.0f}'


def _area(nucleus):
    """Compute the area by the shoelace formula, relative to a vertex."""
    sides = [(outline - outline[0]).T for outline, *_ in nucleus]
    return sum(abs(rows[:-1] @ columns[1:] - columns[:-1] @ rows[1:]) / 2
               for rows, columns in sides)


def _compare(nuclei, boxes, kept):
    """Count the others within each outline, and list pairs of one nucleus."""
    around, copies = np.zeros(len(nuclei), int), []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index, near in zip(kept, overlapping(boxes[kept], boxes[kept])):
        near = kept[near]
        common = np.prod(np.minimum(boxes[near, 2:], boxes[index, 2:])
                         - np.maximum(boxes[near, :2], boxes[index, :2]), 1)
        same = common > SAME * (areas[near] + areas[index] - common)
        copies += [(index, other) for other in near[same & (near > index)]]
        inner = near[~same & (common == areas[near])]
        centres = (boxes[inner, :2] + boxes[inner, 2:]) / 2
        around[index] = covers(nuclei[index], centres).sum()
    return around, copies


def _share_in_common(*pair):
    """Compute which share of the smaller of two nuclei is in the other one."""
    low, high = np.split(box_of(sum(pair, [])), 2)
    one, other = (rasterize.fill(
        {1: [[outline - low] for outline, *_ in nucleus]},
        *np.ceil(high - low).astype(int)) for nucleus in pair)
    return np.sum(one & other) / max(min(one.sum(), other.sum()), 1)


def covers(nucleus, points):
    """Say which points, float64 [N, 2], lie in a nucleus."""
    from skimage.measure import points_in_poly
    return np.any([points_in_poly(points, outline)
                   for outline, *_ in nucleus], axis=0)


def overlapping(boxes, others):
    """Find which other boxes overlap each of some boxes, as of `box_of`.

    Yields:
        int [K] for each of `boxes`. It takes near linear time if none of
        `others` is far wider than most.
    """
    order = np.argsort(others[:, 1])
    lefts = others[order, 1]
    widest = (others[:, 3] - others[:, 1]).max() if len(others) else 0
    for top, left, bottom, right in boxes:
        near = order[slice(*np.searchsorted(lefts, (left - widest, right)))]
        found = others[near]
        yield near[(found[:, 0] < bottom) & (found[:, 2] > top)
                   & (found[:, 1] < right) & (found[:, 3] > left)]
