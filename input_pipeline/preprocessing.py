"""From an image to network input, alike in training and prediction."""
import numpy as np

from histology.resample import MIN_SIDE

# Stored beside a trained network; until there were gaps no record said it.
TARGET, FORMER_TARGET = 'masks with gaps', 'masks'

# A closing with a square of this many pixels fills the gaps of
# `mask_with_gaps`. It finds them for their weight in the loss, and gives them
# back to the nuclei in prediction.
GAP_CLOSING = 5


def normalise(images):
    """Scale pixel values 0 to 255 to [0, 1].

    Args:
        images: NumPy uint8 array, or a float32 TensorFlow tensor that holds
            0 to 255; any shape.

    Returns:
        float32 array or tensor of the same shape.
    """
    if isinstance(images, np.ndarray):
        images = images.astype(np.float32)
    return images / 255


def pad_to_stride(image, stride):
    """Pad bottom and right up to the next multiple of `stride`.

    The tissue is reflected about its last row and column, which are not
    repeated. Zeros would be black, a colour that tissue never has.

    Args:
        image: [H, W, ...] array.
        stride: pixels.

    Returns:
        [H', W', ...] array; `image` itself if it needs no padding.

    Raises:
        ValueError: a side is below MIN_SIDE.
    """
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f'image of shape {list(image.shape)} has a side '
                         f'below {MIN_SIDE}')
    bottom, right = -height % stride, -width % stride
    if not bottom and not right:
        return image
    rest = [(0, 0)] * (image.ndim - 2)
    return np.pad(image, [(0, bottom), (0, right)] + rest, mode='reflect')


def mask_with_gaps(instances):
    """Return the mask that networks learn, with gaps between touching nuclei.

    A pixel of a nucleus is background if another nucleus is among its eight
    neighbours, so that a network learns to separate touching nuclei. After
    Ronneberger et al., arXiv:1505.04597.

    Args:
        instances: int [H, W], 0 in the background and 1 to N in the nuclei.

    Returns:
        bool [H, W].
    """
    from scipy import ndimage  # here, for a fast start of main.py
    nuclei = instances > 0
    highest = ndimage.maximum_filter(instances, 3)
    # Of nuclei alone: no other number is above the largest.
    lowest = ndimage.minimum_filter(
        np.where(nuclei, instances, instances.max()), 3)
    return nuclei & (highest == lowest)
