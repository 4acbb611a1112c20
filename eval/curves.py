"""Learning curves of a training run, from its TensorBoard event files."""
import glob
import logging
import math
import os

import numpy as np

from histology.files import atomic_write

TAGS = ('loss', 'accuracy', 'f1', 'aji', 'pq')

# Part of the run that a point of the smoothed training curve averages.
WINDOW = 0.1


def plot_curves(model_dir):
    """Draw the scalars of TAGS over the steps into curves.png.

    Training values are of the mask that is learnt, with gaps between nuclei,
    and validation values of what predict writes.

    Args:
        model_dir: the Estimator's folder.

    Returns:
        path of the picture, or None if there are no values, as with weights
        from elsewhere
    """
    from matplotlib.figure import Figure
    events = [read_events(folder)
              for folder in (model_dir, os.path.join(model_dir, 'eval'))]
    curves = {tag: [scalar_points(part, tag) for part in events]
              for tag in TAGS}
    curves = {tag: points for tag, points in curves.items() if any(points)}
    if not curves:
        return None
    # A Figure of its own, not pyplot's, needs neither screen nor closing.
    figure = Figure(figsize=(5 * len(curves), 4.5))
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (tag, (training, validation)) in zip(axes, curves.items()):
        if training:
            _, steps, values = zip(*training)
            axis.plot(steps, values, color='C0', alpha=0.25)
            axis.plot(steps, _smoothed(values), color='C0', label='training')
        if validation:
            _, steps, values = zip(*validation)
            axis.plot(steps, values, 'o-', color='C1', markersize=4,
                      label='validation')
        axis.set(title=tag, xlabel='step')
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    path = os.path.join(model_dir, 'curves.png')
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=100)
    return path


def read_events(folder):
    """Read a folder's event files into an EventAccumulator, None without any.

    Steps that were done again after a restart are skipped, as in TensorBoard,
    and so is half a record at a file's end.
    """
    # Without one, 1.15's TensorBoard raises RuntimeError.
    if not glob.glob(os.path.join(glob.escape(folder), '*.tfevents.*')):
        return None
    from tensorboard.backend.event_processing import event_accumulator
    # It warns of the second graph and of the steps done again that every
    # resumed training has.
    logging.getLogger('tensorboard').setLevel(logging.CRITICAL)
    # It would keep a random 10000 of the scalars; 0 keeps all.
    return event_accumulator.EventAccumulator(
        folder, size_guidance={event_accumulator.SCALARS: 0}).Reload()


def scalar_points(events, tag):
    """Return the last finite value of each step of a curve, if any.

    Args:
        events: of `read_events`.
        tag: name of the scalar.

    Returns:
        list of (wall_time in seconds, step, value) by step
    """
    if events is None or tag not in events.Tags()['scalars']:
        return []
    points = {event.step: (event.wall_time, event.step, event.value)
              for event in events.Scalars(tag) if math.isfinite(event.value)}
    return [points[step] for step in sorted(points)]


def _smoothed(values):
    """Average over a window of about WINDOW of the run around each value.

    An exponential average would lag behind. Mirrored at the end, so that the
    last batch does not pass for the outcome.
    """
    from scipy import ndimage
    half = round(len(values) * WINDOW / 2)
    return ndimage.uniform_filter1d(np.array(values, float), 2 * half + 1)
