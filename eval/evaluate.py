"""Measures a network on whole images and writes and shows the results."""
import os

import numpy as np

from eval import display, nuclei_metrics, pixel_metrics
from histology import progress

# Enough to see what a number means without filling the folder.
MAX_PICTURES = 4

METRICS = pixel_metrics.METRICS + nuclei_metrics.METRICS
NOT_TOLD_APART = dict.fromkeys(nuclei_metrics.METRICS, float('nan'))


def evaluate(images, total, predictor, picture_folder=None):
    """Predicts each image and compares it with its annotation.

    Pixels are those of the masks that predict writes, whose small holes and
    gaps are filled, and nuclei those of its labels.

    Args:
        images: iterable of `store.WholeImage`.
        total: number of images, for the progress line.
        predictor: Predictor.
        picture_folder: where NAME.png of the first MAX_PICTURES images go, or
            None.

    Returns:
        dict of 'per_image', a list of dicts of 'name' and METRICS, and of
        'pooled' and 'mean_per_image', a dict of METRICS each. Those of nuclei
        are NaN for an image whose annotation does not tell nuclei apart, and
        the rest from the others: `pooled` has their nuclei in all, and
        `mean_per_image` the mean number.

    Raises:
        InputError: an image is too small, or as `predictor`.
    """
    rows, counts, sums = [], [], []
    with progress.reporter(total, 'image') as report:
        for done, whole in enumerate(images):
            nuclei = predictor(
                whole.image, name=whole.name,
                progress=lambda part, done=done: report(done + part))
            counts.append([pixel_metrics.confusion_matrix(
                nuclei.mask, whole.instances > 0)])
            sums.append([nuclei_metrics.compare(nuclei.labels,
                                                whole.instances)]
                        if whole.has_instances else [])
            rows.append({'name': whole.name,
                         **_measures(counts[-1], sums[-1])})
            if picture_folder and done < MAX_PICTURES:
                display.save_comparison(
                    os.path.join(picture_folder, f'{whole.name}.png'), whole,
                    nuclei.mask, nuclei.labels)
            report(done + 1)
    return {'per_image': rows,
            'pooled': _measures(sum(counts, []), sum(sums, [])),
            'mean_per_image': pixel_metrics.mean_per_image(rows, METRICS)}


def _measures(counts, sums):
    """METRICS by name, int or float, of one image or of several pooled.

    Args:
        counts: list of `pixel_metrics.Counts`.
        sums: list of `nuclei_metrics.Sums`, of as many or fewer images.
    """
    values = pixel_metrics.compute(pixel_metrics.pool(counts))
    values.update(nuclei_metrics.compute(nuclei_metrics.pool(sums)) if sums
                  else NOT_TOLD_APART)
    return {name: np.asarray(value).item() for name, value in values.items()}


