"""From an image to network input, alike in training and prediction."""
import numpy as np

# Stored beside a trained network.
TARGET = 'masks with gaps'

# A closing with a square of this many pixels fills the gaps of
# `mask_with_gaps`. It finds them for their weight in the loss, and gives them
# back to the nuclei in prediction.
GAP_CLOSING = 5

# Sides that a network sees are multiples of this many pixels, and beyond 2048
# of about an eighth of the side. On 2.15 oneDNN compiles kernels for each
# size, and they stay: some 4 MB a size. Images from 100 to 800 pixels have 49
# sizes this way, and 1936 in multiples of 16.
SIDE_STEP = 128
STEPS_IN_SIDE = 8


def normalise(images):
    """Scale a uint8 array, or a float32 tensor of 0 to 255, to [0, 1]."""
    return images / np.float32(255)


def padded_side(length, stride):
    """Round a side up to a multiple of `stride`, one of few: see SIDE_STEP."""
    step = -(-SIDE_STEP // stride) * stride
    while 2 * step * STEPS_IN_SIDE <= length:
        step *= 2
    return -(-length // step) * step


def pad(image, height, width):
    """Pad [H, W, ...] at bottom and right, by reflection, to a size in pixels.

    Zeros would be black, a colour that tissue never has. The last row and
    column are not repeated.
    """
    rest = [(0, 0)] * (image.ndim - 2)
    return np.pad(image, [(0, height - image.shape[0]),
                          (0, width - image.shape[1]), *rest], mode='reflect')


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
    # Background gets the largest number, so that it is never the lowest.
    lowest = ndimage.minimum_filter(
        np.where(nuclei, instances, instances.max()), 3)
    return nuclei & (highest == lowest)
