"""Pictures of tissue, masks and nuclear outlines."""
import numpy as np

from histology.drawing import false_colours, nuclear_outlines, overlay

# By how nuclei were found. By CIEDE2000 these colours are far from each other
# and from stained tissue, also for people who are colour-blind.
FOUND_COLOURS = {'true': (255, 255, 0), 'false': (0, 128, 255),
                 'missed': (213, 94, 0)}
FOUND_OPACITY = 0.6  # of these colours within the outlines


def found_nuclei(image, labels, truth, pairs):
    """Colour nuclei by FOUND_COLOURS.

    A found nucleus is true if it matches one (see `nuclei_metrics`), or else
    false. A true one without a match is missed.

    Args:
        image: uint8 [H, W, 3].
        labels, truth: int [H, W], label images of found and true nuclei.
        pairs: `nuclei_metrics.pair` of both.

    Returns:
        the coloured image, uint8 [H, W, 3], and a dict of the numbers
    """
    right = np.isin(labels, pairs.found[pairs.match])
    matched = np.isin(truth, pairs.true[pairs.match])
    kinds = {'true': labels * right, 'false': labels * ~right,
             'missed': truth * ~matched}
    drawn = image.copy()
    for kind, colour in FOUND_COLOURS.items():
        inside = kinds[kind] > 0
        drawn[inside] = np.rint((1 - FOUND_OPACITY) * image[inside]
                                + FOUND_OPACITY * np.array(colour))
    for kind, colour in FOUND_COLOURS.items():
        drawn[nuclear_outlines(kinds[kind])] = colour
    return drawn, {kind: np.count_nonzero(np.unique(shown))
                   for kind, shown in kinds.items()}


def display_masked(image, mask, image_title='Tissue Image',
                   mask_title='Predicted Mask'):
    """Show tissue, mask and the mask's outlines on the tissue side by side.

    Works in a notebook and in a script. Returns nothing: a notebook shows a
    figure that ends a cell a second time.

    Args:
        image: [H, W, 3] or [1, H, W, 3], uint8 or float in [0, 1].
        mask: [H, W], [H, W, 1] or [1, H, W, 1]; nucleus is above 0.5.
        image_title, mask_title: text above the first two panels.

    Raises:
        ValueError: the shapes do not fit, or a float image leaves [0, 1].
    """
    image, mask = _checked(image, mask, 'mask')
    _show_row([(image_title, image), (mask_title, mask),
               ('Outlines', overlay(image, mask > 0.5))])


def display_nuclei(image, labels, image_title='Tissue Image',
                   labels_title='Nuclei'):
    """Show tissue, nuclei in false colours and their outlines.

    Args:
        image, image_title, labels_title: as for `display_masked`.
        labels: label image in a shape of its masks.

    Raises:
        ValueError: as `display_masked`, or labels with fractions.
    """
    image, labels = _checked(image, labels, 'labels')
    if labels.dtype.kind not in 'biu':
        raise ValueError(f'labels is of {labels.dtype}; give whole numbers')
    _show_row([(image_title, image),
               (f'{labels_title}: {np.count_nonzero(np.unique(labels))}',
                false_colours(labels)), ('Outlines', overlay(image, labels))])


def _checked(image, plane, name):
    """Return uint8 [H, W, 3] and a mask or labels [H, W], out of batches."""
    image, plane = np.squeeze(image), np.squeeze(plane)
    if plane.ndim != 2 or image.shape != (*plane.shape, 3):
        raise ValueError(f'image is {list(image.shape)} and {name} is '
                         f'{list(plane.shape)}; give [H, W, 3] and [H, W], or '
                         'batches of one')
    if image.dtype != np.uint8:
        if not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(f'image holds {image.min()} to {image.max()}; '
                             'give uint8 or floats in [0, 1]')
        image = np.round(image * 255).astype(np.uint8)
    return image, plane


def _show_row(panels):
    """Show (title, array) pairs from left to right."""
    import matplotlib.pyplot as plt
    _draw_row(plt.figure(figsize=(15, 5.5)), panels)
    plt.show()


def comparison(whole, mask, labels, measures, pairs):
    """Draw tissue, true mask, predicted mask and nuclei as one Figure.

    Args:
        whole: `store.WholeImage`.
        mask: predicted, [H, W], boolean or 0 and 1.
        labels: predicted label image, int [H, W].
        measures: dict of the image's 'f1', 'aji' and 'pq', for the titles.
        pairs: `nuclei_metrics.pair` of `labels` and the truth, or None if
            `whole` has no instances; then the mask's outlines are drawn.
    """
    # A Figure of its own, not pyplot's, needs neither screen nor closing.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    panels = [('Tissue', whole.image), ('Truth', whole.instances > 0),
              ('Prediction, F1 {f1:.3f}'.format(**measures), mask)]
    figure = Figure(figsize=(16, 4.5))
    if pairs is None:
        _draw_row(figure, [*panels, ('Predicted outlines',
                                     overlay(whole.image, mask))])
    else:
        nuclei, numbers = found_nuclei(whole.image, labels, whole.instances,
                                       pairs)
        _draw_row(figure, [*panels, (
            'Nuclei, AJI {aji:.3f}, PQ {pq:.3f}'.format(**measures), nuclei)])
        # Below the picture, where it covers none of it.
        figure.axes[-1].legend(
            handles=[Patch(color=np.array(FOUND_COLOURS[kind]) / 255,
                           label=f'{number} {kind}')
                     for kind, number in numbers.items()],
            loc='upper center', bbox_to_anchor=(0.5, 0), ncol=len(numbers),
            frameon=False)
    return figure


def _draw_row(figure, panels):
    """Draw (title, array) pairs from left to right."""
    for axis, (title, array) in zip(figure.subplots(1, len(panels)), panels):
        # Fixed limits: an empty mask must show black, a full one white.
        axis.imshow(array, cmap='gray', vmin=0, vmax=1)
        axis.set_title(title)
        axis.axis('off')
    figure.tight_layout()
