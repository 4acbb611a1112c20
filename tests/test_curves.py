"""Curves from event files that TensorFlow itself wrote."""
import imageio.v3
import pytest

from eval import curves


def write_events(folder, points, suffix=''):
    """Writes (step, tag, value) points as one event file; returns its path."""
    from nets.tf1 import tf
    with tf.Graph().as_default():
        writer = tf.summary.FileWriter(str(folder), filename_suffix=suffix)
        for step, tag, value in points:
            writer.add_summary(tf.Summary(value=[tf.Summary.Value(
                tag=tag, simple_value=value)]), step)
        writer.close()
    return next(folder.glob('events.out.tfevents.*' + suffix))


def test_scalars_of_a_resumed_run(tmp_path):
    # Names begin with the second of opening; the suffix decides within one.
    first = write_events(tmp_path, [
        (100, 'loss', 1.5), (100, 'f1', 0.25), (200, 'loss', 1.25),
        (200, 'other', 7), (200, 'f1', float('nan'))], '.a')
    first.rename(tmp_path / 'events.out.tfevents.1000')
    second = write_events(tmp_path, [(200, 'loss', 1.0), (300, 'loss', 0.5)],
                          '.b')
    second.rename(tmp_path / 'events.out.tfevents.2000')
    assert curves._read_scalars(str(tmp_path)) == {
        'loss': {100: 1.5, 200: 1.0, 300: 0.5}, 'accuracy': {},
        'f1': {100: 0.25}}


def test_half_a_record_at_the_end(tmp_path):
    path = write_events(tmp_path, [(1, 'loss', 2.0), (2, 'loss', 1.0)])
    path.write_bytes(path.read_bytes()[:-5])
    assert curves._read_scalars(str(tmp_path))['loss'] == {1: 2.0}


def test_smoothing():
    # Two on either side of 40 values, fewer at the start on both, at the end
    # on the right.
    values = [8, 1, 3, 5] + 34 * [0] + [7, 9]
    smoothed = curves._smoothed(values)
    assert len(smoothed) == 40
    assert smoothed[:6] == [8, 12 / 3, 17 / 5, 9 / 5, 8 / 5, 5 / 5]
    assert smoothed[-3:] == pytest.approx([16 / 5, 16 / 4, 16 / 3])


@pytest.mark.parametrize('with_validation', [True, False])
def test_picture(tmp_path, with_validation):
    write_events(tmp_path, [(step, tag, 1 / step) for step in range(1, 9)
                            for tag in ('loss', 'f1')])
    if with_validation:
        write_events(tmp_path / 'eval', [(4, 'loss', 0.5), (8, 'f1', 0.25)])
    path = curves.plot_curves(str(tmp_path))
    assert path == str(tmp_path / 'curves.png')
    assert imageio.v3.imread(path).shape == (450, 1500, 4)


def test_folder_without_event_files(tmp_path):
    assert curves.plot_curves(str(tmp_path)) is None
    assert not list(tmp_path.iterdir())
