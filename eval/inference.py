"""From an image of any size to the probability of nucleus at each pixel.

Evaluation and prediction share this path, and the training pipeline its
padding, so that a network is measured on what its users will get.
"""
import numpy as np

from input_pipeline.files import InputError
from input_pipeline.preprocessing import normalise, pad_to_stride

# At the edge of a tile a network lacks context for about this many pixels.
MIN_OVERLAP = 64


def predict_rows(image, forward, stride, max_pixels, average=False,
                 progress=None):
    """Computes the probability of nucleus at every pixel of an image.

    An image of more than `max_pixels` is cut into overlapping tiles, whose
    probabilities are blended with Gaussian weights (sigma an eighth of the
    side, as in nnU-Net, Isensee et al., Nature Methods 2021), which leaves
    no seams. Memory: the image and one row of tiles.

    Args:
        image: [H, W, 3], uint8 or float in [0, 1]; sides at least MIN_SIDE.
        forward: function from a float32 [1, h, w, 3] batch in [0, 1], h and w
            multiples of `stride`, to probabilities [1, h, w, 1].
        stride: the network's stride in pixels.
        max_pixels: most pixels that `forward` is given at once.
        average: mean over the eight flips and right-angle rotations, each
            undone on the output; costs eight times as much.
        progress: function called with the fraction of the image done.

    Yields:
        From top to bottom, float32 [h, W] in [0, 1] of rows that are done;
        they are the caller's.

    Raises:
        InputError: `max_pixels` is too small for a tile.
        ValueError: a side is below MIN_SIDE.
    """
    height, width = image.shape[:2]
    padded_height, padded_width = [_round_up(length, stride)
                                   for length in (height, width)]
    if padded_height * padded_width <= max_pixels:
        side = max(padded_height, padded_width)
    else:
        side = _tile_side(stride, max_pixels)
    rows = _tiles_along(padded_height, side, stride)
    columns = _tiles_along(padded_width, side, stride)

    if average:
        forward = _mean_of_eight(forward)
    begun = np.zeros((0, padded_width), np.float32)  # rows of two tiles
    for i, (y, row_share) in enumerate(rows):
        band = np.zeros((y.stop - y.start, padded_width), np.float32)
        band[:len(begun)] = begun
        for j, (x, column_share) in enumerate(columns):
            tile = pad_to_stride(image[y, x], stride)  # [h, w, 3]
            if tile.dtype == np.uint8:
                tile = normalise(tile)
            batch = tile[np.newaxis].astype(np.float32)  # [1, h, w, 3]
            probability = forward(batch)[0, :, :, 0]  # [h, w]
            band[:, x] += (probability * row_share[:, np.newaxis]
                           * column_share)
            if progress:
                progress((i * len(columns) + j + 1)
                         / (len(rows) * len(columns)))
        next_start = rows[i + 1][0].start if i + 1 < len(rows) else y.stop
        done, begun = np.split(band, [next_start - y.start])
        # Rounding can carry a sum of shares a hair over 1.
        np.minimum(done, 1, out=done)
        yield done[:height - y.start, :width]


def segment(image, forward, stride, threshold, max_pixels, average=False,
            progress=None):
    """Predicts an image and decides for each pixel: nucleus or background.

    Args:
        threshold: nucleus is where the probability is above this.
        image, forward, stride, max_pixels, average, progress: as for
            `predict_rows`.

    Returns:
        The mask, uint8 [H, W] of 0 and 1, and 255 times the probability,
        rounded, uint8 [H, W].

    Raises:
        InputError: the network's output is not finite, or as `predict_rows`.
    """
    mask, levels = np.empty((2, *image.shape[:2]), np.uint8)
    top = 0
    for probability in predict_rows(image, forward, stride, max_pixels,
                                    average, progress):
        if not np.isfinite(probability).all():
            # NaN would pass for background further on.
            raise InputError('the network gives NaN, so its training '
                             'diverged; train again with a lower '
                             '--learning_rate')
        bottom = top + len(probability)
        mask[top:bottom] = probability > threshold
        probability *= 255
        levels[top:bottom] = np.rint(probability, out=probability)
        top = bottom
    return mask, levels


def _round_up(pixels, stride):
    return -(-pixels // stride) * stride


def _tile_side(stride, max_pixels):
    """Largest multiple of `stride` whose square is within `max_pixels`."""
    side = int(max_pixels ** 0.5) // stride * stride
    smallest = 2 * _round_up(MIN_OVERLAP, stride)
    if side < smallest:
        raise InputError(f'--max_pixels {max_pixels}: too small to tile an '
                         f'image; give at least {smallest ** 2}')
    return side


def _tiles_along(length, side, stride):
    """Lays tiles over one axis; two axes together give the tiles in 2-D.

    A Gaussian in 2-D is a product of two in 1-D, and so is the sum of such
    weights over a grid of tiles. Shares of the sum can therefore be had for
    each axis alone, without a second array of the image's size.

    Returns:
        list of (slice, float32 [tile] share of the tile at each position);
        at each position of the axis the shares add up to 1.
    """
    if length <= side:
        side, starts = length, [0]
    else:
        overlap = _round_up(max(MIN_OVERLAP, side // 4), stride)
        starts = [*range(0, length - side, side - overlap), length - side]
    distance = np.arange(side) - (side - 1) / 2
    weight = np.exp(-0.5 * (distance / (side / 8)) ** 2)
    places = [slice(start, start + side) for start in starts]
    total = np.zeros(length)
    for place in places:
        total[place] += weight
    return [(place, (weight / total[place]).astype(np.float32))
            for place in places]


def _mean_of_eight(forward):
    """Returns `forward` averaged over the symmetries of the square."""
    def averaged(batch):  # [1, h, w, 3]
        total = 0
        for turns in range(4):
            for mirror in (1, -1):
                view = np.rot90(batch, turns, axes=(1, 2))[:, :, ::mirror]
                output = forward(np.ascontiguousarray(view))[:, :, ::mirror]
                total = total + np.rot90(output, -turns, axes=(1, 2))
        return total / 8  # [1, h, w, 1]

    return averaged
