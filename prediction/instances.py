"""From the mask and the probability of nucleus to single nuclei.

A watershed floods from every local maximum (Beucher and Meyer, "The
morphological approach to segmentation", 1993). Hills of too little height are
merged with their neighbour (Grimaud, "A new measure of contrast: the
dynamics", 1992). It stays by hand because scikit-image's h_maxima and
watershed give the same in three times the time.
"""
import itertools

import numpy as np

from histology import progress
from input_pipeline.preprocessing import GAP_CLOSING

# Lengths and areas are in pixels at 0.25 micrometres per pixel.
SIGMA = 1.5  # of the smoothing: less than the radius of any nucleus
PROBABILITY_WEIGHT = 10  # pixels of distance that a probability of 1 is worth
MIN_HEIGHT = 1.5  # of a hill above its saddle to a higher one
MIN_AREA = 60  # 3.75 square micrometres: debris
MAX_HOLE = 100  # smaller ones are filled, larger ones are between nuclei
THRESHOLD = 0.5  # nucleus is where the probability is above this
# Networks learn to leave gaps between touching nuclei. A gap is closed where
# the probability exceeds this share of the mask's threshold.
GAP_THRESHOLD = 0.4

# Larger images are separated in windows, for memory. Windows overlap by a
# margin: at most half a nucleus lies beyond its peak.
WINDOW = 2048
MARGIN = 128
STRIP = 256  # rows that are numbered at a time
NUCLEAR = 2  # a pixel of a piece large enough for a nucleus; of others it is 1


def separate(mask, probability, threshold=THRESHOLD, min_area=MIN_AREA,
             min_height=MIN_HEIGHT):
    """Separate the nuclei of a mask.

    The relief is the distance to the edge of the mask plus the probability,
    smoothed, and each of its hills is a nucleus. Memory: the results and one
    window.

    Args:
        mask: bool or uint8 [H, W], 0 in the background, at 0.25 micrometres
            per pixel.
        probability: uint8 [H, W], 255 times the probability of nucleus.
        threshold: of the mask.
        min_area, min_height: smaller pieces are debris, and smaller hills are
            merged; both in pixels.

    Returns:
        labels: int32 [H, W], 0 in the background, and 1 to N in the nuclei by
            their first pixels, row by row.
        closed: uint8 [H, W] of 0 and 1, the mask with small holes and gaps
            between touching nuclei filled. Its pixels are those of the nuclei
            and of pieces that are too small for one.
    """
    from scipy import ndimage  # here, for a fast start of main.py
    labels = np.zeros(mask.shape, np.int32)
    closed = np.zeros(mask.shape, np.uint8)
    count = 0
    parts = windows(mask.shape, WINDOW, MARGIN)
    for core, outer in parts:
        progress.check()
        regions, peaks, filled = _separate_window(
            mask[outer] > 0, probability[outer],
            255 * GAP_THRESHOLD * threshold, min_area, min_height)
        inner = tuple(slice(c.start - o.start, c.stop - o.start)
                      for c, o in zip(core, outer))
        closed[core] = filled[inner]
        # A nucleus belongs to the window whose core holds its peak.
        mine = np.all([(axis >= part.start) & (axis < part.stop)
                       for axis, part in zip(peaks, inner)], axis=0)
        count += _add(labels[outer], regions, mine, count)
    for core, _ in parts:
        # What reaches further than a margin from its peak.
        rest = (closed[core] == NUCLEAR) & (labels[core] == 0)
        if rest.any():
            rest, pieces = ndimage.label(_large(rest, min_area))
            count += _add(labels[core], rest, np.ones(pieces, bool), count)
    return in_reading_order(labels, count), np.minimum(closed, 1, out=closed)


def _add(labels, regions, chosen, count):
    """Add regions to labels in place where these are still 0; count them.

    Args:
        labels: int32 [H, W], 0 and 1 to `count`.
        regions: int [H, W], 0 and 1 to N.
        chosen: bool [N], of the regions to add.
    """
    numbers = np.zeros(len(chosen) + 1, np.int32)
    numbers[1:][chosen] = np.arange(count + 1, count + 1 + chosen.sum())
    np.copyto(labels, numbers.take(regions), where=labels == 0)
    return chosen.sum()


def in_reading_order(labels, count):
    """Number labels of 1 to `count` by their first pixels, in place."""
    first = np.full(count + 1, labels.size)
    tops = range(0, len(labels), STRIP)
    for top in reversed(tops):
        strip = labels[top:top + STRIP].ravel()
        places = np.flatnonzero(strip)[::-1]
        # Of several values for one place the last is kept.
        first[strip[places]] = top * labels.shape[1] + places
    numbers = np.zeros(count + 1, np.int32)
    numbers[first[1:].argsort() + 1] = np.arange(1, count + 1)
    for top in tops:
        labels[top:top + STRIP] = numbers.take(labels[top:top + STRIP])
    return labels


def windows(shape, side, margin, shift=0):
    """List (core, outer), pairs of slices: the cores cover the image.

    Args:
        shape: (height, width) of the image.
        side: of a core, pixels.
        margin: of the outer part, around the core.
        shift: by how much the first core is shorter.
    """
    axes = [[(slice(max(start, 0), min(start + side, length)),
              slice(max(start - margin, 0),
                    min(start + side + margin, length)))
             for start in range(-shift, length, side)] for length in shape]
    return [((y, x), (outer_y, outer_x)) for (y, outer_y), (x, outer_x)
            in itertools.product(*axes)]


def _separate_window(mask, probability, gap_probability, min_area,
                     min_height):
    """Separate the nuclei of a window.

    Args:
        mask, probability: as for `separate`, the mask bool.
        gap_probability: a gap is nuclear above this, of 255.
        min_area, min_height: as for `separate`.

    Returns:
        int32 [H, W], 0 and 1 to N in the nuclei; (rows, columns) of their
        peaks, each int [N]; the mask without small holes and gaps, uint8,
        NUCLEAR in the nuclei and 1 in smaller pieces
    """
    from scipy import ndimage
    unclosed = _filled(mask)
    reach = GAP_CLOSING // 2  # beyond the edges, which are no obstacle
    closed = ndimage.grey_closing(np.pad(unclosed, reach), GAP_CLOSING)
    filled = unclosed | (closed[reach:-reach, reach:-reach]
                         & (probability > gap_probability))
    filled = _filled(filled)
    nuclei = _large(filled, min_area)
    inner = unclosed & nuclei
    if inner.all():
        relief = np.zeros(mask.shape)  # no edge to be distant from
    else:
        relief = ndimage.distance_transform_edt(inner)
        np.minimum(relief, MARGIN, out=relief)
    relief = relief.astype(np.float32)
    relief += probability * np.float32(PROBABILITY_WEIGHT / 255)
    relief = ndimage.gaussian_filter(relief, SIGMA)
    relief *= nuclei
    # With a frame, so that each pixel has four neighbours.
    frame = relief.min()
    relief = np.pad(relief, 1, constant_values=frame)
    basins, peaks = _steepest_ascent(relief, np.pad(nuclei, 1))
    roots = _merge(basins, relief, peaks, min_height, min_area)
    kept, numbers = np.unique(roots, return_inverse=True)
    regions = numbers.astype(np.int32).take(basins[1:-1, 1:-1])
    peaks = np.unravel_index(peaks[kept[1:]], relief.shape)
    return (regions, [axis - 1 for axis in peaks],
            np.add(filled, nuclei, dtype=np.uint8))


def _filled(mask):
    """Fill small holes of a bool [H, W]; what its border cuts is none."""
    ground = np.pad(~mask, 1, constant_values=True)
    return ~_large(ground, MAX_HOLE)[1:-1, 1:-1]


def _large(mask, min_area):
    """Return the pieces of a bool [H, W] that have at least some area."""
    from scipy import ndimage
    pieces, _ = ndimage.label(mask)
    return mask & (np.bincount(pieces.ravel()) >= min_area).take(pieces)


def _steepest_ascent(relief, nuclei):
    """Give each pixel the number of the peak that the steepest way leads to.

    This is the watershed, in a fifth of the time of scikit-image's. That one
    does the plateaus that are no peaks: no way leads up from their middle.

    Args:
        relief: float32 [H, W], 0 outside of `nuclei` and at least 0 in them,
            with a frame of one pixel of its minimum.
        nuclei: bool [H, W], not in the frame.

    Returns:
        basins: int32 [H, W], 0 outside of `nuclei`, and 1 to N.
        peaks: int [N + 1], the flat index of the first pixel of each basin's
            local maximum; the first is of none.
    """
    from scipy import ndimage
    heights, width = relief.ravel(), relief.shape[1]
    steps = 1, -1, width, -width
    places = np.flatnonzero(nuclei)  # [P]
    highest, way = heights[places], places.copy()
    for step in steps:
        height = heights.take(places + step)
        np.copyto(way, places + step, where=height > highest)
        np.maximum(highest, height, out=highest)
    tops = np.flatnonzero(way == places)  # indices into places
    at = places[tops]
    is_top = np.zeros(nuclei.shape, bool)
    is_top.ravel()[at] = True
    numbers, count = ndimage.label(is_top)
    numbers = numbers.ravel()[at]
    is_peak = np.arange(count + 1) > 0
    for step in steps:  # a plateau is no peak if a way leads up from its edge
        level = heights[at + step] == heights[at]
        is_peak[numbers[level & ~is_top.ravel()[at + step]]] = False
    numbers = (is_peak.cumsum() * is_peak)[numbers]  # of peaks from 1, else 0
    peaks = np.zeros(is_peak.sum() + 1, np.int64)
    peaks[numbers[::-1]] = at[::-1]  # the first pixel of each
    # From where a step leads to where two lead, four, and so on.
    ends = np.zeros(relief.size, np.int32)
    ends[places] = np.arange(len(places))
    ends = ends.take(way)  # [P], each an index into places
    further = ends.take(ends)
    while (further != ends).any():
        ends, further = further, further.take(further)
    found = np.zeros(len(places), np.int32)
    found[tops] = numbers
    basins = np.zeros(relief.shape, np.int32)
    basins.ravel()[places] = found.take(ends)
    if not is_peak[1:].all():
        from skimage.segmentation import watershed
        plateau = nuclei & (basins == 0)
        # With its shores alone: it takes the time of all pixels in its mask.
        near = ndimage.binary_dilation(plateau) & nuclei
        basins += plateau * watershed(-relief, basins * near, mask=near)
    return basins, peaks


def _merge(basins, relief, peaks, min_height, min_area):
    """Merge small hills with the neighbour at their highest saddle.

    Args:
        basins: int [H, W], 0 and 1 to N, with a frame of 0.
        relief: float [H, W].
        peaks: int [N + 1], the flat index of each basin's peak.
        min_height, min_area: smaller hills are merged.

    Returns:
        int [N + 1], the basin that each was merged with
    """
    pairs, saddles = [], []
    flat, levels = basins.ravel(), relief.ravel()
    for step in (basins.shape[1], 1):
        at = np.flatnonzero(flat[step:] != flat[:-step])
        at = at[(flat[at] > 0) & (flat[at + step] > 0)]
        pairs.append(np.stack([flat[at + step], flat[at]], axis=1))
        saddles.append(np.minimum(levels[at + step], levels[at]))
    pairs, saddles = np.concatenate(pairs), np.concatenate(saddles)
    order = np.argsort(-saddles, kind='stable')
    # If two hills stay apart at their highest saddle, they do at lower ones.
    lower, higher = np.sort(pairs[order]).T.astype(np.int64)
    _, highest = np.unique(lower * len(peaks) + higher, return_index=True)
    order = order[np.sort(highest)]
    heights = relief.ravel()[peaks].tolist()
    areas = np.bincount(basins.ravel(), minlength=len(peaks)).tolist()
    roots = list(range(len(peaks)))

    def root(basin):
        while roots[basin] != basin:
            roots[basin] = roots[roots[basin]]
            basin = roots[basin]
        return basin

    for (one, other), saddle in zip(pairs[order].tolist(),
                                    saddles[order].tolist()):
        one, other = root(one), root(other)
        if one == other:
            continue
        if heights[one] > heights[other]:
            one, other = other, one
        if heights[one] - saddle < min_height or min(
                areas[one], areas[other]) < min_area:
            roots[one] = other
            areas[other] += areas[one]
    return np.array([root(basin) for basin in range(len(roots))])
