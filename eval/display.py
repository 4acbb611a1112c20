"""Pictures of tissue, masks and nuclear outlines."""
import numpy as np

from eval import metrics
from input_pipeline import files

# Absent from haematoxylin and eosin, so it stands out on any tissue.
OUTLINE_COLOUR = (0, 255, 0)


def overlay(image, mask, out=None):
    """Draws the outlines of the nuclei on the tissue.

    Args:
        image: uint8 [H, W, 3].
        mask: [H, W], boolean or 0 and 1.
        out: `image` itself to draw on it, or None to draw on a copy.

    Returns:
        uint8 [H, W, 3] with outlines two pixels thick, one on either side of
        the edge. They are those of scikit-image's find_boundaries, which
        takes eight bytes a pixel.
    """
    edges = np.zeros(mask.shape, bool)
    for values, found in ((mask, edges), (mask.T, edges.T)):
        differ = values[1:] != values[:-1]
        found[1:] |= differ
        found[:-1] |= differ
    drawn = image.copy() if out is None else out
    np.copyto(drawn, np.uint8(OUTLINE_COLOUR), where=edges[:, :, np.newaxis])
    return drawn


def display_masked(image, mask, image_title='Tissue Image',
                   mask_title='Predicted Mask'):
    """Shows tissue, mask and the mask's outlines on the tissue side by side.

    Works in a notebook and in a script. Returns nothing: a notebook would
    show a figure that ends a cell a second time. `save_comparison` writes one
    to a file.

    Args:
        image: [H, W, 3] or [1, H, W, 3], uint8 or float in [0, 1].
        mask: [H, W], [H, W, 1] or [1, H, W, 1]; probabilities or 0 and 1,
            nuclei where above 0.5.
        image_title, mask_title: text above the first two panels.

    Raises:
        ValueError: a shape is none of these, the two differ in size, or a
            float image leaves [0, 1].
    """
    import matplotlib.pyplot as plt
    image = _as_uint8(_without_batch(np.asarray(image), 'image'))
    mask = _without_batch(np.asarray(mask), 'mask')
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[:, :, 0]  # [H, W]
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'image is {list(image.shape)}; give [H, W, 3] or '
                         '[1, H, W, 3]')
    if mask.shape != image.shape[:2]:
        raise ValueError(f'mask is {list(mask.shape)} for an image of '
                         f'{list(image.shape)}; give [H, W], [H, W, 1] or '
                         '[1, H, W, 1] of the same height and width')
    figure = plt.figure(figsize=(15, 5.5))
    _draw_row(figure, [(image_title, image), (mask_title, mask),
                       ('Outlines', overlay(image, mask > 0.5))])
    plt.show()


def save_comparison(path, image, truth, prediction):
    """Writes tissue, true mask, predicted mask and its outlines as one PNG.

    Args:
        path: file to write.
        image: uint8 [H, W, 3].
        truth, prediction: [H, W], boolean or 0 and 1.

    Raises:
        InputError: the file cannot be written.
    """
    # A Figure of its own, not pyplot's, needs neither screen nor closing.
    from matplotlib.figure import Figure
    f1 = metrics.compute(metrics.confusion_matrix(prediction, truth))['f1']
    figure = Figure(figsize=(16, 4.5))
    _draw_row(figure, [('Tissue', image), ('Truth', truth),
                       (f'Prediction, F1 {f1:.3f}', prediction),
                       ('Predicted outlines', overlay(image, prediction))])
    with files.atomic_write(path) as partial:
        figure.savefig(partial, dpi=100)


def _draw_row(figure, panels):
    """Draws (title, array) pairs from left to right without axes."""
    axes = figure.subplots(1, len(panels))
    for axis, (title, array) in zip(axes, panels):
        # Fixed limits: an empty mask must show black, a full one white.
        axis.imshow(array, cmap='gray', vmin=0, vmax=1)
        axis.set_title(title)
        axis.axis('off')
    figure.tight_layout()


def _without_batch(array, name):
    """Takes the image out of a batch of one."""
    if array.ndim != 4:
        return array
    if array.shape[0] != 1:
        raise ValueError(f'{name} is {list(array.shape)}; give one at a time')
    return array[0]


def _as_uint8(image):
    if image.dtype == np.uint8:
        return image
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f'image holds {image.min()} to {image.max()}; give '
                         'uint8 or floats in [0, 1]')
    return np.round(image * 255).astype(np.uint8)
