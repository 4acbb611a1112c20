"""Pictures of tissue, masks and nuclear outlines."""
import numpy as np

from eval import metrics
from input_pipeline import files

# Absent from haematoxylin and eosin, so it stands out on any tissue.
OUTLINE_COLOUR = (0, 255, 0)
STRIP = 1024  # rows drawn on at a time, for memory


def overlay(image, labels, out=None):
    """Draws the outlines of the nuclei on the tissue.

    Args:
        image: uint8 [H, W, 3].
        labels: [H, W], 0 in the background and a number for each nucleus, or
            a mask.
        out: `image` itself to draw on it, or None to draw on a copy.

    Returns:
        uint8 [H, W, 3]; see `nuclear_outlines`.
    """
    drawn = image.copy() if out is None else out
    for top in range(0, len(labels), STRIP):
        # With a row to either side, which an outline depends on.
        outer = slice(max(top - 1, 0), top + STRIP + 1)
        edges = nuclear_outlines(labels[outer])[top - outer.start:][:STRIP]
        np.copyto(drawn[top:top + STRIP], np.uint8(OUTLINE_COLOUR),
                  where=edges[..., np.newaxis])
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
    mask = _as_plane(mask, 'mask')
    image = _as_image(image, mask, 'mask')
    _show_row([(image_title, image), (mask_title, mask),
               ('Outlines', overlay(image, mask > 0.5))])


def display_nuclei(image, labels, image_title='Tissue Image',
                   labels_title='Nuclei'):
    """Shows tissue, single nuclei in false colours and their outlines.

    Otherwise as `display_masked`. Nuclei that touch mostly differ in colour.

    Args:
        image: [H, W, 3] or [1, H, W, 3], uint8 or float in [0, 1].
        labels: [H, W], [H, W, 1] or [1, H, W, 1], whole numbers: 0 in the
            background and another for each nucleus.
        image_title, labels_title: text above the first two panels.

    Raises:
        ValueError: as `display_masked`, or labels with fractions.
    """
    labels = _as_plane(labels, 'labels')
    if labels.dtype.kind not in 'biu':
        raise ValueError(f'labels is of {labels.dtype}; give whole numbers, '
                         'as eval.instances.separate does')
    image = _as_image(image, labels, 'labels')
    _show_row([(image_title, image),
               (f'{labels_title}: {len(np.unique(labels[labels > 0]))}',
                false_colours(labels)), ('Outlines', overlay(image, labels))])


def false_colours(labels):
    """A colour for each nucleus, black in the background.

    Args:
        labels: whole numbers [H, W], 0 in the background.

    Returns:
        uint8 [H, W, 3].
    """
    from matplotlib import cm
    # Steps of the golden ratio keep numbers that follow each other apart.
    hues = labels * 0.618034 % 1  # [H, W]
    colours = cm.hsv(hues, bytes=True)[..., :3]  # [H, W, 3]
    return colours * (labels > 0)[..., np.newaxis]


def _show_row(panels):
    """Shows (title, array) pairs from left to right."""
    import matplotlib.pyplot as plt
    _draw_row(plt.figure(figsize=(15, 5.5)), panels)
    plt.show()


def _as_plane(array, name):
    """A mask or labels as [H, W]."""
    array = _without_batch(np.asarray(array), name)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]  # [H, W]
    return array


def _as_image(image, plane, name):
    """An image as uint8 [H, W, 3], if `plane`, called `name`, fits it."""
    image = _as_uint8(_without_batch(np.asarray(image), 'image'))
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'image is {list(image.shape)}; give [H, W, 3] or '
                         '[1, H, W, 3]')
    if plane.shape != image.shape[:2]:
        raise ValueError(f'{name} is {list(plane.shape)} for an image of '
                         f'{list(image.shape)}; give [H, W], [H, W, 1] or '
                         '[1, H, W, 1] of the same height and width')
    return image


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
