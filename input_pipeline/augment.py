"""Change a training patch and its mask at random, as graph ops."""
import numpy as np

from histology.stains import STAINS
from input_pipeline.preprocessing import normalise
from nets.tf1 import tf

# Ranges of the uniform draws.
MAX_ROTATION = np.deg2rad(10)  # radians, on top of the right angles
SCALE = (0.8, 1.2)  # source pixels for one output pixel
BRIGHTNESS = 0.1  # added, of the range [0, 1]
CONTRAST = (0.8, 1.2)  # multiplied, about the patch's mean
STAIN_FACTOR = (0.6, 1.4)  # multiplied, in optical density
STAIN_SHIFT = 0.1  # added, in optical density to base e

# Rectangles like padding, glass and gaps of the scanner: without nuclei.
BLANK = 0.1  # share of the crops that get a blank rectangle
BLANK_SIDE = 2.0  # at most, in sides of the crop: some cover all of it
BLANK_COLOURS = ((0.0, 0.05), (0.9, 1.0), (0.0, 1.0))  # one range is drawn
BLANK_TINT = 0.03  # between the channels


def source_coordinates(patch_size, crop_size):
    """Draw where in a patch each pixel of a random crop comes from.

    One of the eight flips and right-angle rotations, a small rotation, a
    scale and a position are drawn. The scale is lowered if the crop would
    leave the patch, so that no padding is needed.

    Args:
        patch_size: side of the square patch, pixels.
        crop_size: side of the square crop, at most `patch_size`.

    Returns:
        (row, column) in the patch, each float32 [crop_size, crop_size] within
        [0, patch_size - 1].
    """
    angle = tf.random.uniform([], -MAX_ROTATION, MAX_ROTATION)
    cos, sin = tf.cos(angle), tf.sin(angle)
    reach = cos + tf.abs(sin)  # side of a rotated unit square's bounding box
    scale = tf.minimum(tf.random.uniform([], *SCALE),
                       (patch_size - 1) / ((crop_size - 1) * reach))
    flips = tf.sign(tf.random.uniform([2], -1, 1))
    linear = tf.stack([[cos, -sin], [sin, cos]]) * scale * flips
    linear = tf.cond(tf.random.uniform([]) < 0.5,
                     lambda: linear, lambda: tf.reverse(linear, [1]))

    half = (crop_size - 1) / 2
    slack = (patch_size - 1) / 2 - half * scale * reach
    centre = (patch_size - 1) / 2 + slack * tf.random.uniform([2], -1, 1)
    axis = tf.range(crop_size, dtype=tf.float32) - half
    # Rounding may step over the edge by a millionth.
    return [tf.clip_by_value(linear[i, 0] * axis[:, tf.newaxis]
                             + (linear[i, 1] * axis + centre[i]),
                             0, patch_size - 1) for i in range(2)]


def sample_bilinear(image, row, column):
    """Sample an image at fractional positions by bilinear interpolation.

    Args:
        image: uint8 [H, W, 4].
        row, column: float32 [h, w], within the image.

    Returns:
        float32 [h, w, 4].
    """
    height, width = image.shape.as_list()[:2]
    # The four channels of a pixel as one word, which a gather takes as fast as
    # a single channel.
    words = tf.reshape(tf.bitcast(image, tf.int32), [-1])  # [H * W]
    down = (row - tf.floor(row))[..., tf.newaxis]  # [h, w, 1]
    right = (column - tf.floor(column))[..., tf.newaxis]
    row, column = tf.cast(row, tf.int32), tf.cast(column, tf.int32)
    next_row = tf.minimum(row + 1, height - 1)
    next_column = tf.minimum(column + 1, width - 1)

    def pixels(row, column):
        found = tf.gather(words, row * width + column)  # [h, w]
        return tf.cast(tf.bitcast(found, tf.uint8), tf.float32)  # [h, w, 4]

    def between(start, end, share):
        return start + (end - start) * share

    top = between(pixels(row, column), pixels(row, next_column), right)
    bottom = between(pixels(next_row, column), pixels(next_row, next_column),
                     right)
    return between(top, bottom, down)


def jitter_stain(image):
    """Draw each stain's amount anew, in optical density.

    After Tellez et al., "Whole-slide mitosis detection in H&E breast
    histology", 2018. `image` and the result are float32 [h, w, 3] in [0, 1].
    """
    factors = tf.random.uniform([3], *STAIN_FACTOR)
    shifts = tf.random.uniform([3], -STAIN_SHIFT, STAIN_SHIFT)
    # Unmixing, scaling and mixing again are one 3 x 3 matrix.
    matrix = tf.matmul(np.linalg.inv(STAINS) * factors, STAINS)
    shift = tf.linalg.matvec(STAINS, shifts, transpose_a=True)
    light = tf.log(tf.maximum(image, 1 / 255))  # the density, negative
    light = tf.tensordot(light, matrix, 1) - shift
    return tf.clip_by_value(tf.exp(light), 0, 1)


def jitter_brightness_and_contrast(image):
    """Draw brightness and contrast anew; float32 [h, w, 3] in [0, 1]."""
    mean = tf.reduce_mean(image)
    image = (image - mean) * tf.random.uniform([], *CONTRAST) + mean
    image += tf.random.uniform([], -BRIGHTNESS, BRIGHTNESS)
    return tf.clip_by_value(image, 0, 1)


def blank_rectangle(image, mask):
    """Blank a random rectangle of some images, and clear the mask there.

    After random erasing, Zhong et al., arXiv:1708.04896. The rectangle has one
    colour: black, nearly white like glass, or any grey.

    Args:
        image: float32 [h, w, 3] in [0, 1].
        mask: float32 [h, w, 1].

    Returns:
        (image, mask), both changed.
    """
    height, width = image.shape.as_list()[:2]

    def within(length):  # bool [length]
        middle, side = tf.unstack(length * tf.random.uniform([2]))
        pixel = tf.range(length, dtype=tf.float32) + 0.5
        return tf.abs(pixel - middle) < side * BLANK_SIDE / 2

    drawn = tf.random.uniform([]) < BLANK
    blank = tf.logical_and(within(height)[:, tf.newaxis], within(width))
    blank = tf.cast(tf.logical_and(blank, drawn), tf.float32)[..., tf.newaxis]
    low, high = tf.unstack(tf.gather(BLANK_COLOURS, tf.random.uniform(
        [], 0, len(BLANK_COLOURS), tf.int32)))
    colour = tf.clip_by_value(
        tf.random.uniform([], low, high)
        + tf.random.uniform([3], -BLANK_TINT, BLANK_TINT), 0, 1)
    return image + (colour - image) * blank, mask * (1 - blank)


def augment(patch, crop_size):
    """Take a random crop of a training patch and change it at random.

    Args:
        patch: uint8 [P, P, 4]: red, green, blue and the mask, 0 or 1.
        crop_size: side of the crop, at most P.

    Returns:
        (image float32 [crop_size, crop_size, 3] in [0, 1],
        mask float32 [crop_size, crop_size, 1], 0 or 1).
    """
    patch = sample_bilinear(
        patch, *source_coordinates(patch.shape.as_list()[0], crop_size))
    image = normalise(patch[..., :3])
    image = jitter_brightness_and_contrast(jitter_stain(image))
    return blank_rectangle(image, tf.cast(patch[..., 3:] > 0.5, tf.float32))
