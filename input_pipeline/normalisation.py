"""How pixels become network input: one rule for training and prediction."""
import numpy as np

# Stored beside a trained network, so that a later change of rule is noticed.
NORMALISATION = 'uint8 / 255'


def normalise(images):
    """Scales pixel values 0 to 255 to [0, 1].

    Args:
        images: NumPy uint8 array, or a float32 TensorFlow tensor that holds
            0 to 255; any shape.

    Returns:
        float32 array or tensor of the same shape.
    """
    if isinstance(images, np.ndarray):
        images = images.astype(np.float32)
    return images / 255
