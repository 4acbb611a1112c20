"""Draw the pictures of results in docs/results.md.

    MONUSEG_DIR=DIR ./run.sh
    python -m benchmarks.results         # from the project's folder

writes into docs/figures NET_best.jpg and NET_worst.jpg, the validation images
on which each network has its highest and its lowest F1, nuclei.jpg, a part of
U-Net's best, and by_minutes.png.
"""
import json
import os

import imageio.v3 as iio
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import nets
from benchmarks.diagrams import save_figure, title_of
from eval import curves, display, nuclei_metrics
from histology.images import read_labels
from input_pipeline import store

MODELS = 'checkpoints'
STORE = store.store_path(os.path.join('data', 'monuseg'), 'validation')
PREDICTIONS = os.path.join('predictions', 'monuseg')
PART = slice(350, 650)  # of the rows and columns of nuclei.jpg


def draw_extremes(net):
    """Draw a network's best and worst validation image.

    Returns:
        dict of 'best' and 'worst' to (image name, F1).
    """
    with open(os.path.join(MODELS, net, 'validation.json')) as file:
        rows = json.load(file)['results']['per_image']
    rows.sort(key=lambda row: row['f1'])
    chosen = {'worst': rows[0], 'best': rows[-1]}
    with store.open_store(STORE) as file:
        images = {whole.name: whole for whole in store.whole_images(file)}
    for title, row in chosen.items():
        stem = os.path.join(PREDICTIONS, net, row['name'])
        mask = iio.imread(f'{stem}_mask.png') > 0
        labels = read_labels(f'{stem}_labels.png')
        whole = images[row['name']]
        save_figure(f'{net}_{title}.jpg', display.comparison(
            whole, mask, labels, row,
            nuclei_metrics.pair(labels, whole.instances)))
    return {title: (row['name'], row['f1']) for title, row in chosen.items()}


def draw_nuclei(net, name):
    """Draw a part of an image: tissue, nuclei in false colours, outlines.

    Args:
        net: the network.
        name: of a validation image.
    """
    with store.open_store(STORE) as file:
        image = next(whole.image for whole in store.whole_images(file)
                     if whole.name == name)
    labels = read_labels(os.path.join(PREDICTIONS, net, f'{name}_labels.png'))
    panels = [panel[PART, PART] for panel in (
        image, display.false_colours(labels), display.overlay(image, labels))]
    # Twice the size, or outlines of one pixel are hardly seen.
    row = np.concatenate([np.pad(panel.repeat(2, 0).repeat(2, 1),
                                 ((0, 0), (0, 12), (0, 0)), 'constant',
                                 constant_values=255)
                          for panel in panels], axis=1)
    figure = Figure(figsize=(row.shape[1] / 100, row.shape[0] / 100))
    figure.figimage(row)
    save_figure('nuclei.jpg', figure)


def draw_curves():
    """Draw F1 and AJI over the minutes of trainings without a break."""
    figure = Figure(figsize=(10, 4.5))
    axes = figure.subplots(1, 2)
    for net in nets.NETS:
        folder = os.path.join(MODELS, net)
        start = curves.read_events(folder).FirstEventTimestamp()
        evaluations = curves.read_events(os.path.join(folder, 'eval'))
        for axis, tag in zip(axes, ('f1', 'aji')):
            times, _, values = zip(*curves.scalar_points(evaluations, tag))
            axis.plot((np.array(times) - start) / 60, values, 'o-',
                      markersize=4, label=title_of(net))
    for axis, title in zip(axes, ('F1', 'AJI')):
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel('minutes since the start, evaluations included')
        axis.set_ylabel(f'{title} on the validation images')
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    save_figure('by_minutes.png', figure)


if __name__ == '__main__':
    for net in nets.NETS:
        extremes = draw_extremes(net)
        print(net, extremes)
        if net == 'unet':
            draw_nuclei(net, extremes['best'][0])
    draw_curves()
