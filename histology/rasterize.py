"""From outlines of nuclei, see `outlines`, to their pixels."""
import numpy as np

FILL_RULE = ('pixel centre, at (row + 0.5, column + 0.5), inside the outline; '
             'of centres on the outline, those on upper sides, and on the '
             'left where it is vertical, are in; where two overlap, the '
             'earlier outline wins; one that overlaps itself is filled whole')

# Row and column, in pixels. Moving the outline up, and left by far less, by
# less than the last of the six decimals in the files settles on which side a
# centre on the outline lies, as MATLAB's poly2mask does.
NUDGE = np.array([1e-7, 1e-9])

# Of the area of an outline that overlaps itself. A smaller overlap is a hole,
# as poly2mask has it: where the ends of MoNuSeg's outlines meet, up to 0.02.
LEAST_OVERLAP = 0.05
FARTHEST = 2 ** 30  # pixels, to which vertices are moved


def fill(nuclei, height, width):
    """Fill nuclei by FILL_RULE.

    Overlaps go to the earlier outline, as in the challenge's own conversion
    (Kumar et al., IEEE TMI 2020). A nucleus wholly under others has no pixel.

    Args:
        nuclei: dict of numbers to nuclei, see `outlines`.
        height, width: size of the image in pixels; outlines are clipped.

    Returns:
        int32 [height, width], 0 in the background
    """
    instances = np.zeros((height, width), np.int32)
    for number, nucleus in reversed(list(nuclei.items())):
        for polygon in nucleus:
            outline, *holes = (ring.clip(-FARTHEST, FARTHEST) - 0.5 - NUDGE
                               for ring in polygon)
            low, high = np.clip([outline.min(axis=0), outline.max(axis=0) + 2],
                                0, (height, width)).astype(int)
            window = instances[tuple(map(slice, low, high))]
            if window.size:
                inside = _enclosed(outline - low, window.shape)
                for hole in holes:
                    inside &= ~_enclosed(hole - low, window.shape)
                window[inside] = number
    return instances


def _enclosed(ring, shape):
    """Say which points at whole numbers a ring encloses, bool [*shape]."""
    height, width = shape
    rows, columns = ring.T
    down, right = np.roll(ring, -1, axis=0).T - ring.T
    ends = columns + right
    # Which columns of points each side crosses, and below which row.
    first = np.ceil(np.minimum(columns, ends)).clip(0, width).astype(int)
    stop = np.ceil(np.maximum(columns, ends)).clip(0, width).astype(int)
    count = stop - first
    side = np.repeat(np.arange(len(ring)), count)
    column = (np.arange(count.sum())
              - np.repeat(np.cumsum(count) - count - first, count))
    row = np.ceil(rows[side] + (column - columns[side])
                  * (down[side] / right[side])).clip(0, height).astype(int)
    crossed = np.bincount(row * width + column, np.sign(right[side]),
                          (height + 1) * width).reshape(height + 1, width)
    # How often the ring winds round each point.
    turns = np.cumsum(crossed, axis=0)[:-1]
    nonzero, odd = turns != 0, turns % 2 == 1
    area = np.count_nonzero(nonzero)
    overlap = area - np.count_nonzero(odd)
    return nonzero if overlap > LEAST_OVERLAP * area else odd
