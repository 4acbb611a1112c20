"""From an image of any size to the probability of nucleus at each pixel.

Evaluation, prediction and notebooks share this path, and the training
pipeline its padding, so that a network is measured on what its users get.
"""
import numpy as np

from eval import instances
from input_pipeline.files import InputError
from input_pipeline.preprocessing import MIN_SIDE, normalise, pad_to_stride

# Larger images are cut into tiles; 1000 x 1000, MoNuSeg's, goes through whole.
MAX_PIXELS = 1536 ** 2
# At the edge of a tile a network lacks context for about this many pixels.
MIN_OVERLAP = 64
# Of a tile's sides. Thin strips would need fewer pixels in all, but little of
# a strip is far from its edges, and a row of upright ones is a whole image.
MAX_ASPECT = 2
TURNS = 4  # right-angle rotations that are averaged over
# How far an image is after the network, and after the nuclei are told apart;
# with and without averaging.
PROGRESS = {True: (0.85, 0.9), False: (0.6, 0.75)}


def predict(model, images, max_pixels=MAX_PIXELS, average=False,
            microns_per_pixel=None):
    """Predicts images of any size, as --mode=predict does.

    Args:
        model: a Keras model of `nets.build`, with its weights.
        images: [N, H, W, 3], uint8 or float in [0, 1]; sides at least
            MIN_SIDE.
        max_pixels, average: as for `predict_rows`; --mode=predict averages
            unless told not to.
        microns_per_pixel: of the images, or None for the networks' own, to
            which they are resampled, and the probability back.

    Returns:
        float32 [N, H, W, 1] in [0, 1], the probability of nucleus.

    Raises:
        ValueError: `images` is of another shape or dtype, or its values leave
            their range.
        InputError: as `predict_rows` and `resolution.network_size`.
    """
    images = np.asarray(images)
    _check_images(images)
    size = None
    if microns_per_pixel is not None:
        from input_pipeline.resolution import network_size  # as below
        size = network_size(images.shape[1:3], microns_per_pixel, 'images')
    probability = np.empty(images.shape[:3] + (1,), np.float32)
    for image, out in zip(images, probability):
        # Keras's own `predict` draws a progress bar in some versions.
        rows = _resampled_rows(image, size, model.predict_on_batch,
                               model.stride, max_pixels, average)
        np.concatenate(list(rows), out=out[:, :, 0])
    return probability


def predict_rows(image, forward, stride, max_pixels, average=False,
                 progress=None):
    """Computes the probability of nucleus at every pixel of an image.

    An image of more than `max_pixels` is cut into equal, overlapping tiles
    (`_tile_grid`), whose probabilities are blended with Gaussian weights
    (sigma an eighth of the side, as in nnU-Net, Isensee et al., Nature
    Methods 2021), which leaves no seams. Memory: the image and one row of
    tiles.

    Args:
        image: [H, W, 3], uint8 or float in [0, 1]; sides at least MIN_SIDE.
            An array, or what gives arrays for slices of rows and columns, as
            `resolution.Resampled`.
        forward: the network's forward pass, a function from float32
            [1, h, w, 3] in [0, 1], h and w multiples of `stride`, to
            probabilities [1, h, w, 1].
        stride: the network's stride in pixels.
        max_pixels: most pixels that `forward` is given at once.
        average: average over the four right-angle rotations of the image,
            known as test-time augmentation; costs four times as much.
        progress: function called with the fraction of the image done.

    Yields:
        From top to bottom, float32 [h, W] in [0, 1] of rows that are done;
        they are the caller's.

    Raises:
        InputError: `max_pixels` is too small for a tile, or the network's
            output is not finite.
        ValueError: a side is below MIN_SIDE.
    """
    height, width = image.shape[:2]
    padded_width = _round_up(width, stride)
    rows, columns = [
        _tiles_along(*axis, stride) for axis in _tile_grid(
            _round_up(height, stride), padded_width, stride, max_pixels)]
    if average:
        forward = _test_time_augmentation(forward)
    begun = np.zeros((0, padded_width), np.float32)  # rows of two tiles
    for i, (y, row_share) in enumerate(rows):
        band = np.zeros((y.stop - y.start, padded_width), np.float32)
        band[:len(begun)] = begun
        for j, (x, column_share) in enumerate(columns):
            probability = _predict_tile(image[y, x], forward, stride)
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


def _resampled_rows(image, size, *arguments):
    """What `predict_rows` yields of an image that is seen at another size.

    Args:
        size: (height, width) at which the network sees it, or None for its
            own.
        image, arguments: as for `predict_rows`.
    """
    own_size = image.shape[:2]
    if size in (None, own_size):
        return predict_rows(image, *arguments)
    # Here, for a fast start of main.py.
    from input_pipeline.resolution import Resampled, resample_rows
    return resample_rows(predict_rows(Resampled(image, size), *arguments),
                         size, own_size)


def segment(image, forward, stride, threshold, max_pixels, average=False,
            progress=None, size=None):
    """Predicts an image and decides for each pixel: nucleus or background.

    Args:
        threshold: nucleus is where the probability is above this.
        size: (height, width) at which the network sees the image, or None
            for its own; what is returned has the image's own.
        image, forward, stride, max_pixels, average, progress: as for
            `predict_rows`.

    Returns:
        The mask, uint8 [H, W] of 0 and 1, and 255 times the probability,
        rounded, uint8 [H, W].

    Raises:
        InputError, ValueError: as `predict_rows`.
    """
    mask, probability_uint8 = np.empty((2, *image.shape[:2]), np.uint8)
    top = 0
    for probability in _resampled_rows(image, size, forward, stride,
                                       max_pixels, average, progress):
        rows = slice(top, top + len(probability))
        mask[rows] = probability > threshold
        probability *= 255
        probability_uint8[rows] = np.rint(probability, out=probability)
        top = rows.stop
    return mask, probability_uint8


def find_nuclei(image, forward, stride, threshold, max_pixels, average=False,
                progress=None, size=None):
    """Predicts an image and tells its nuclei apart.

    Args:
        the arguments: as for `segment`; `progress` gets to less than 1, for
            what is done with the nuclei takes time, too.

    Returns:
        The mask, without small holes and gaps between touching nuclei, uint8
        [H, W] of 0 and 1; 255 times the probability, rounded, uint8 [H, W];
        and the nuclei, int32 [H, W], see `instances.separate`.

    Raises:
        InputError, ValueError: as `predict_rows`.
    """
    def report(start, end):
        return progress and (
            lambda part: progress(start + (end - start) * part))

    forward_end, separation_end = PROGRESS[average]
    mask, probability = segment(image, forward, stride, threshold, max_pixels,
                                average, report(0, forward_end), size)
    scale = len(image) / (size or image.shape)[0]
    labels = instances.separate(mask, probability, scale, threshold,
                                progress=report(forward_end, separation_end))
    return mask, probability, labels


def _check_images(images):
    """Raises ValueError where `predict` cannot take the images."""
    shape = list(images.shape)
    if images.ndim == 3 and shape[2] == 3:
        raise ValueError(f'images is {shape}, a single image; give '
                         '[N, H, W, 3], here images[None]')
    if images.ndim == 4 and shape[3] == 4:
        raise ValueError(f'images is {shape}, with alpha; give '
                         '[N, H, W, 3], here images[..., :3]')
    if images.ndim != 4 or shape[3] != 3:
        raise ValueError(f'images is {shape}; give [N, H, W, 3], RGB')
    if min(shape[1:3]) < MIN_SIDE:
        raise ValueError(f'images is {shape}; height and width must be at '
                         f'least {MIN_SIDE}')
    if images.dtype == np.uint8:
        return
    if images.dtype.kind != 'f':
        raise ValueError(f'images is of {images.dtype}; give uint8, or '
                         'floats in [0, 1]')
    with np.errstate(invalid='ignore'):
        in_range = ((images >= 0) & (images <= 1)).all()  # NaN is not
    if not in_range:
        raise ValueError(f'images holds {images.min():g} to '
                         f'{images.max():g}; give floats in [0, 1], or '
                         'uint8 of 0 to 255')


def _predict_tile(tile, forward, stride):
    """[h, w, 3] to the probability [H, W], padded to the stride."""
    tile = pad_to_stride(tile, stride)  # [H, W, 3]
    if tile.dtype == np.uint8:
        tile = normalise(tile)
    batch = tile[np.newaxis].astype(np.float32)  # [1, H, W, 3]
    probability = forward(batch)[0, :, :, 0]  # [H, W]
    if not np.isfinite(probability).all():
        # NaN would pass for background further on.
        raise InputError('the network gives NaN, so its training diverged; '
                         'train again with a lower --learning_rate')
    return probability


def _round_up(pixels, stride):
    return -(-pixels // stride) * stride


def _overlap(side, stride):
    """Least overlap of two tiles, about a quarter of their side."""
    return _round_up(max(MIN_OVERLAP, side // 4), stride)


def _tile_sides(length, stride):
    """Ways to cover an axis, a multiple of `stride`, with equal tiles.

    Returns:
        dict from number of tiles to the shortest side that so many can have,
        a multiple of `stride`.
    """
    sides = {1: length}
    for side in range(length - stride,
                      2 * _round_up(MIN_OVERLAP, stride) - 1, -stride):
        step = side - _overlap(side, stride)
        sides[1 + -(-(length - side) // step)] = side
    return sides


def _tile_grid(height, width, stride, max_pixels):
    """Chooses the grid of equal tiles that has the fewest pixels in all.

    That an image is just too large must not cost much: 1540 x 1540 at a
    stride of 16 goes through in two tiles of 896 x 1552, 1.15 times one pass.

    Args:
        height, width: multiples of `stride`.

    Returns:
        (height, tile height, rows), (width, tile width, columns).

    Raises:
        InputError: `max_pixels` is too small for a tile.
    """
    tall, wide = _tile_sides(height, stride), _tile_sides(width, stride)
    best = None
    for rows, tile_height in tall.items():
        for columns, tile_width in wide.items():
            short, count = min((tile_height, rows), (tile_width, columns))
            # One tile may be as narrow as the image.
            thin = (count > 1 and
                    max(tile_height, tile_width) > MAX_ASPECT * short)
            if thin or tile_height * tile_width > max_pixels:
                continue
            # Of two equal ones, that whose rows take less memory.
            cost = rows * tile_height * columns * tile_width, tile_height
            if best is None or cost < best[0]:
                best = cost, ((height, tile_height, rows),
                              (width, tile_width, columns))
    if best is None:
        smallest = min(tall.values()) * min(wide.values())
        raise InputError(f'--max_pixels {max_pixels}: too small to tile an '
                         f'image; give at least {smallest}')
    return best[1]


def _tiles_along(length, side, count, stride):
    """Lays tiles over one axis; two axes together give the tiles in 2-D.

    A Gaussian in 2-D is a product of two in 1-D, and so is the sum of such
    weights over a grid of tiles. Shares of the sum can therefore be had for
    each axis alone, without a second array of the image's size.

    Args:
        length: of the axis, pixels.
        side: of the tiles.
        count: of the tiles.

    Returns:
        list of (slice, float32 [side] share of the tile at each position);
        at each position of the axis the shares add up to 1.
    """
    # Multiples of the stride, so that a pixel falls on the same place of the
    # network's poolings in all tiles. Spread evenly, all overlap enough.
    starts = [i * (length - side) // max(count - 1, 1) // stride * stride
              for i in range(count)]
    distance = np.arange(side) - (side - 1) / 2
    weight = np.exp(-0.5 * (distance / (side / 8)) ** 2)
    places = [slice(start, start + side) for start in starts]
    total = np.zeros(length)
    for place in places:
        total[place] += weight
    return [(place, (weight / total[place]).astype(np.float32))
            for place in places]


def _test_time_augmentation(forward):
    """Returns `forward` averaged over the four right-angle rotations.

    Each is undone on the output. Averaging over changed images: Krizhevsky et
    al., NIPS 2012. Mirror images beside them change F1 by less than 0.001:
    docs/recipe.md.
    """
    def averaged(batch):  # [1, h, w, 3]
        total = 0
        for turns in range(TURNS):
            view = np.rot90(batch, turns, axes=(1, 2))
            output = forward(np.ascontiguousarray(view))
            total = total + np.rot90(output, -turns, axes=(1, 2))
        return total / TURNS  # [1, h, w, 1]

    return averaged
