"""Measure a network on whole images."""
import contextlib
import glob
import os

import numpy as np

from eval import display, nuclei_metrics, pixel_metrics
from histology import listing, progress
from histology.files import InputError, atomic_write

# Enough to see what a number means without filling the folder.
MAX_PICTURES = 4

METRICS = pixel_metrics.METRICS + nuclei_metrics.METRICS
NO_INSTANCES = dict.fromkeys(nuclei_metrics.METRICS, float('nan'))


def evaluate(images, names, predictor, picture_folder=None):
    """Predict each image and compare it with its annotation.

    Pixels are compared with the masks that predict writes, after small holes
    and gaps are filled, and nuclei with its labels.

    Args:
        images: iterable of `store.WholeImage`.
        names: of the images.
        predictor: Predictor.
        picture_folder: where NAME.png of the first MAX_PICTURES images go, or
            None. Pictures of an earlier evaluation are removed.

    Returns:
        dict of 'per_image', a list of dicts of 'name' and METRICS, and of
        'pooled' and 'mean_per_image', a dict of METRICS each. Measures of
        nuclei are NaN if the annotation has no instances.

    Raises:
        InputError: a file from elsewhere is in the place of a picture, or as
            `predictor`.
    """
    if picture_folder:
        _make_room(picture_folder, names[:MAX_PICTURES])
    rows, counts, sums = [], [], []
    with progress.reporter(len(names), 'image') as report:
        for done, whole in enumerate(images):
            nuclei = predictor(
                whole.image, name=whole.name,
                progress=lambda part, done=done: report(done + part))
            pairs = (nuclei_metrics.pair(nuclei.labels, whole.instances)
                     if whole.has_instances else None)
            counts.append(pixel_metrics.confusion_matrix(
                nuclei.mask, whole.instances > 0))
            own = [nuclei_metrics.sums_of(pairs)] if pairs else []
            sums += own
            rows.append({'name': whole.name, **_measures(counts[-1:], own)})
            if picture_folder and done < MAX_PICTURES:
                _write_picture(
                    os.path.join(picture_folder, f'{whole.name}.png'),
                    display.comparison(whole, nuclei.mask, nuclei.labels,
                                       rows[-1], pairs))
    return {'per_image': rows,
            'pooled': _measures(counts, sums),
            'mean_per_image': pixel_metrics.mean_per_image(rows, METRICS)}


def _measures(counts, sums):
    """Compute METRICS, int or float, of lists of Counts and of Sums."""
    values = pixel_metrics.compute(pixel_metrics.pool(counts))
    values.update(nuclei_metrics.compute(pixel_metrics.pool(sums)) if sums
                  else NO_INSTANCES)
    return {name: np.asarray(value).item() for name, value in values.items()}


def _make_room(folder, names):
    """Remove the pictures of an earlier evaluation; renamed copies stay.

    Raises:
        InputError: another file is in the place of a picture.
    """
    for name in names:
        path = os.path.join(folder, f'{name}.png')
        if os.path.lexists(path) and not _is_ours(path):
            raise InputError(f'{path}: was not written by an evaluation of '
                             'this version; move it: eval writes a picture '
                             'of this name')
    for path in glob.glob(os.path.join(glob.escape(folder), '*.png')):
        if _is_ours(path):
            with contextlib.suppress(OSError):
                os.remove(path)


def _is_ours(path):
    """Say whether an evaluation wrote a picture, under its present name."""
    return f'tEXtTitle\0{_title(path)}'.encode() in listing.read_head(path)


def _title(path):
    # In ASCII: Pillow writes other text in another way.
    return f'{ascii(os.path.basename(path))[1:-1]} of an evaluation'


def _write_picture(path, figure):
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=100, metadata={'Title': _title(path)})
