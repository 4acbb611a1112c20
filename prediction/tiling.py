"""From an image of any size to the probability of nucleus at each pixel.

Tiling stays by hand: no library of either engine blends tiles of any network
in the memory of one row of tiles.
"""
import itertools

import numpy as np

from histology.files import InputError
from input_pipeline.preprocessing import normalise, pad, padded_side

# Larger images are cut into tiles; 1000 x 1000, MoNuSeg's, goes through whole.
MAX_TILE_PIXELS = 1536 ** 2
# At the edge of a tile a network lacks context for about this many pixels.
MIN_OVERLAP = 64
# Of a tile's sides: little of a thin strip is far from its edges, and a row of
# upright ones is a whole image.
MAX_ASPECT = 2
TURNS = 4  # right-angle rotations that are averaged over


def predict_rows(image, forward, stride, max_pixels, average=False,
                 progress=None):
    """Compute the probability of nucleus at every pixel of an image.

    An image of more than `max_pixels` is cut into equal, overlapping tiles.
    Gaussian weights (sigma an eighth of the side, as in nnU-Net, Isensee et
    al., Nature Methods 2021) blend them without seams. Memory: the image and
    one row of tiles.

    Args:
        image: uint8 [H, W, 3], sides at least `resample.MIN_SIDE`, or
            `resample.Resampled` of such.
        forward: the network's forward pass, a function from float32
            [1, h, w, 3] in [0, 1], h and w multiples of `stride`, to
            probabilities [1, h, w, 1].
        stride: the network's stride in pixels.
        max_pixels: most pixels that `forward` is given at once.
        average: average over the four right-angle rotations of the image
            (test-time augmentation).
        progress: function called with the fraction of the image done.

    Yields:
        float32 [h, W] in [0, 1], finished rows from top to bottom. The caller
        may change them.

    Raises:
        InputError: `max_pixels` is too small for a tile, or the network's
            output is not finite.
    """
    height, width = image.shape[:2]
    padded = _round_up(height, stride), _round_up(width, stride)
    grid = _tile_grid(*padded, stride, max_pixels)
    rows, columns = [_tiles_along(length, *tiles, stride)
                     for length, tiles in zip(padded, grid)]
    (tile_height, _), (tile_width, _) = grid
    padded_width = columns[-1][0].stop
    if average:
        forward = _test_time_augmentation(forward)
    # Rows that the next tiles reach, too.
    carry = np.zeros((0, padded_width), np.float32)
    for i, (y, row_share) in enumerate(rows):
        band = np.zeros((y.stop - y.start, padded_width), np.float32)
        band[:len(carry)] = carry
        for j, (x, column_share) in enumerate(columns):
            probability = _predict_tile(image[y, x], forward, tile_height,
                                        tile_width)
            band[:, x] += (probability * row_share[:, np.newaxis]
                           * column_share)
            if progress:
                progress((i * len(columns) + j + 1)
                         / (len(rows) * len(columns)))
        next_start = rows[i + 1][0].start if i + 1 < len(rows) else y.stop
        done, carry = np.split(band, [next_start - y.start])
        # Rounding can carry a sum of shares a hair over 1.
        np.minimum(done, 1, out=done)
        yield done[:height - y.start, :width]


def _predict_tile(tile, forward, height, width):
    """Compute the probability [height, width] of a tile, uint8 [h, w, 3].

    A tile at the right or lower edge can be smaller.
    """
    # [1, height, width, 3]
    batch = normalise(pad(tile, height, width))[np.newaxis]
    probability = forward(batch)[0, :, :, 0]  # [height, width]
    if not np.isfinite(probability).all():
        # NaN would pass for background further on.
        raise InputError('the network gives NaN, so its training diverged; '
                         'train again with a lower --learning_rate')
    return probability


def _round_up(pixels, stride):
    return -(-pixels // stride) * stride


def _tilings(length, stride):
    """Find the ways to cover an axis, a multiple of `stride`, by equal tiles.

    Returns:
        list of (side, number of tiles), from one tile on; of each number the
        shortest side, one of `padded_side`
    """
    sides = {1: padded_side(length, stride)}
    for side in range(length - stride,
                      2 * _round_up(MIN_OVERLAP, stride) - 1, -stride):
        if side == padded_side(side, stride):
            # Two tiles overlap by about a quarter.
            step = side - _round_up(max(MIN_OVERLAP, side // 4), stride)
            sides[1 + -(-(length - side) // step)] = side
    return [(side, count) for count, side in sides.items()]


def _tile_grid(height, width, stride, max_pixels):
    """Choose one tile if it fits, or the grid of the fewest pixels in all.

    An image that is just too large must not cost much: 1540 x 1540 at a
    stride of 16 goes through in two tiles of 896 x 1664, 1.2 times one pass.

    Args:
        height, width: multiples of `stride`.

    Returns:
        (tile height, rows), (tile width, columns)
    """
    tall, wide = _tilings(height, stride), _tilings(width, stride)
    grids = []
    for grid in itertools.product(tall, wide):
        (short, count), (long, _) = sorted(grid)
        # A side that is not cut may be as short as it is.
        if short * long <= max_pixels and (
                count == 1 or long <= MAX_ASPECT * short):
            grids.append(grid)
    if not grids:
        raise InputError(f'--max_pixels {max_pixels}: too small to tile an '
                         f'image; give at least {tall[-1][0] * wide[-1][0]}')

    def cost(grid):
        (tile_height, rows), (tile_width, columns) = grid
        # Whole if it fits. Of two equal grids, that with rows of less memory.
        return (rows * columns > 1, tile_height * rows * tile_width * columns,
                tile_height)

    return min(grids, key=cost)


def _tiles_along(length, side, count, stride):
    """Lay tiles over one axis.

    A Gaussian in 2-D is a product of two in 1-D, and so is the sum of these
    weights over a grid of tiles. So each axis has its own shares of the sum.

    Args:
        length: of the axis, pixels.
        side, count: of the tiles; one can be longer than the axis.

    Returns:
        list of (slice, float32 [side] share of the tile at each position);
        at each position of the axis the shares add up to 1
    """
    # Multiples of the stride, so that a pixel falls on the same place of the
    # network's poolings in all tiles. Spread evenly, all overlap enough.
    starts = [i * (length - side) // max(count - 1, 1) // stride * stride
              for i in range(count)]
    distance = np.arange(side) - (side - 1) / 2
    weight = np.exp(-0.5 * (distance / (side / 8)) ** 2)
    places = [slice(start, start + side) for start in starts]
    total = np.zeros(max(length, side))
    for place in places:
        total[place] += weight
    return [(place, (weight / total[place]).astype(np.float32))
            for place in places]


def _test_time_augmentation(forward):
    """Return `forward` averaged over the four right-angle rotations.

    Krizhevsky et al., NIPS 2012. Mirror images beside them change F1 by less
    than 0.001: docs/recipe.md.
    """
    def turned(batch, turns):
        return np.ascontiguousarray(np.rot90(batch, turns, axes=(1, 2)))

    return lambda batch: sum(turned(forward(turned(batch, turns)), -turns)
                             for turns in range(TURNS)) / TURNS
