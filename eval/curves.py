"""Learning curves of a training run, from its TensorBoard event files."""
import glob
import math
import os

from input_pipeline.files import atomic_write

TAGS = ('loss', 'accuracy', 'f1')

# Part of the run that a point of the smoothed training curve averages.
WINDOW = 0.1


def plot_curves(model_dir):
    """Draws loss, accuracy and F1 over the steps into curves.png.

    Training values come from the event files of `model_dir`, validation
    values from those of its subfolder `eval`.

    Args:
        model_dir: the Estimator's folder.

    Returns:
        Path of the picture, MODEL_DIR/curves.png, or None where there are no
        event files, as with weights from elsewhere.

    Raises:
        InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure
    training = _read_scalars(model_dir)
    validation = _read_scalars(os.path.join(model_dir, 'eval'))
    if training is None and validation is None:
        return None
    # A Figure of its own, not pyplot's, needs neither screen nor closing.
    figure = Figure(figsize=(15, 4.5))
    for axis, tag in zip(figure.subplots(1, len(TAGS)), TAGS):
        if training and training[tag]:
            steps, values = zip(*sorted(training[tag].items()))
            axis.plot(steps, values, color='C0', alpha=0.25)
            axis.plot(steps, _smoothed(values), color='C0', label='training')
        if validation and validation[tag]:
            steps, values = zip(*sorted(validation[tag].items()))
            axis.plot(steps, values, 'o-', color='C1', markersize=4,
                      label='validation')
        axis.set_title(tag)
        axis.set_xlabel('step')
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    figure.tight_layout()
    path = os.path.join(model_dir, 'curves.png')
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=100)
    return path


def _read_scalars(folder):
    """Reads TAGS from a folder's event files.

    Returns:
        dict of tag to dict of step to value, or None without event files. Of
        a step done twice, as after a resume, the later value; NaN is left
        out.
    """
    from nets.tf1 import tf
    # Their names begin with the time they were opened.
    paths = sorted(glob.glob(
        os.path.join(glob.escape(folder), 'events.out.tfevents.*')))
    if not paths:
        return None
    scalars = {tag: {} for tag in TAGS}
    for path in paths:
        try:
            for event in tf.train.summary_iterator(path):
                for value in event.summary.value:
                    if (value.tag in scalars
                            and math.isfinite(value.simple_value)):
                        scalars[value.tag][event.step] = value.simple_value
        except tf.errors.DataLossError:
            # A killed training leaves half a record at the end of its file.
            continue
    return scalars


def _smoothed(values):
    """Mean over a window of about WINDOW of the run, centred on each value.

    Being centred it does not lag behind, as an exponential average would,
    which would show training as worse than it was. At the start, where the
    curve is steep, the window shrinks on both sides; at the end, where it is
    level, on the one without values alone, so that the last batch does not
    pass for the outcome.
    """
    half = round(len(values) * WINDOW / 2)
    smoothed = []
    for i in range(len(values)):
        before = min(half, i)
        window = values[i - before:i + before + 1]
        smoothed.append(sum(window) / len(window))
    return smoothed
