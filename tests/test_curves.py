"""Curves from event files that TensorFlow itself wrote."""
import math
import sys

import imageio.v3
import pytest

from conftest import run
from eval import curves


def write_events(folder, points, name='1000', start=None):
    """Writes (step, tag, value) points as one event file; returns its path.

    Args:
        name: of the file, after events.out.tfevents.
        start: step at which a training went on, or None for a first one.
    """
    from nets.tf1 import tf
    with tf.Graph().as_default():
        writer = tf.summary.FileWriter(str(folder), filename_suffix='.new')
        if start is not None:
            writer.add_session_log(
                tf.SessionLog(status=tf.SessionLog.START), start)
        for step, tag, value in points:
            writer.add_summary(tf.Summary(value=[tf.Summary.Value(
                tag=tag, simple_value=value)]), step)
        writer.close()
    written, = folder.glob('events.out.tfevents.*.new')
    path = folder / f'events.out.tfevents.{name}'
    written.rename(path)
    return path


def points_of(folder, tag):
    """(step, value) of the points of a curve."""
    return [(step, value) for _, step, value in
            curves.scalar_points(curves.read_events(str(folder)), tag)]


def test_scalars_of_a_resumed_run(tmp_path):
    write_events(tmp_path, [
        (100, 'loss', 1.5), (100, 'f1', 0.25), (200, 'loss', 1.25),
        (200, 'other', 7), (200, 'f1', float('nan')), (150, 'loss', 1.0),
        (300, 'f1', float('inf'))])
    write_events(tmp_path, [(200, 'loss', 1.0), (300, 'loss', 0.5)], '2000')
    assert points_of(tmp_path, 'loss') == [
        (100, 1.5), (150, 1.0), (200, 1.0), (300, 0.5)]
    assert points_of(tmp_path, 'f1') == [(100, 0.25)]
    assert points_of(tmp_path, 'accuracy') == []


def test_what_a_restart_does_again_is_left_out(tmp_path):
    write_events(tmp_path, [(100, 'loss', 4.0), (200, 'loss', 3.0),
                            (300, 'loss', 2.0)])
    # Killed after step 300, it goes on from the checkpoint of step 150.
    write_events(tmp_path, [(151, 'loss', 3.5), (251, 'loss', 2.5)], '2000',
                 start=151)
    assert points_of(tmp_path, 'loss') == [
        (100, 4.0), (151, 3.5), (251, 2.5)]


def test_half_a_record_at_the_end(tmp_path):
    path = write_events(tmp_path, [(1, 'loss', 2.0), (2, 'loss', 1.0)])
    path.write_bytes(path.read_bytes()[:-5])
    assert points_of(tmp_path, 'loss') == [(1, 2.0)]
    # What a later file holds is read all the same.
    write_events(tmp_path, [(3, 'loss', 0.5)], '2000')
    assert points_of(tmp_path, 'loss') == [(1, 2.0), (3, 0.5)]


def test_every_point_of_a_long_run_is_kept(tmp_path):
    expected = [(step, float(step % 97)) for step in range(1, 20001)]
    write_events(tmp_path, [(step, 'loss', value)
                            for step, value in expected])
    assert points_of(tmp_path, 'loss') == expected


def test_folder_named_like_a_pattern(tmp_path):
    folder = tmp_path / 'run [1]'
    write_events(folder, [(1, 'loss', 2.0)])
    assert points_of(folder, 'loss') == [(1, 2.0)]


def test_reader_writes_nothing(trained):
    # Trained on, it holds two graphs.
    process = run(sys.executable, '-c', 'import nets.tf1\n'
                  'from eval import curves\n'
                  f'events = curves.read_events({str(trained / "unet")!r})\n'
                  'print([step for _, step, _ in '
                  'curves.scalar_points(events, "loss")])')
    assert process.returncode == 0, process.stderr
    assert process.stdout == '[1]\n'
    assert process.stderr == ''


def test_smoothing():
    # Two on either side of 40 values, mirrored at both ends.
    values = [8, 1, 3, 5] + 34 * [0] + [7, 9]
    smoothed = curves._smoothed(values)
    assert len(smoothed) == 40
    assert smoothed[:6] == pytest.approx(
        [21 / 5, 25 / 5, 17 / 5, 9 / 5, 8 / 5, 5 / 5])
    assert smoothed[-3:] == pytest.approx([16 / 5, 25 / 5, 32 / 5])


@pytest.mark.parametrize('with_validation', [True, False])
def test_picture(tmp_path, with_validation):
    write_events(tmp_path, [(step, tag, 1 / step) for step in range(1, 9)
                            for tag in ('loss', 'f1')])
    if with_validation:
        write_events(tmp_path / 'eval',
                     [(4, 'loss', 0.5), (8, 'f1', 0.25)])
    path = curves.plot_curves(str(tmp_path))
    assert path == str(tmp_path / 'curves.png')
    # Of what there is, a panel each.
    assert imageio.v3.imread(path).shape == (450, 1000, 4)
    write_events(tmp_path / 'eval', [(8, 'aji', 0.5), (8, 'pq', math.nan)],
                 '2000')
    curves.plot_curves(str(tmp_path))
    assert imageio.v3.imread(path).shape == (450, 1500, 4)


def test_no_picture_without_a_value(tmp_path):
    write_events(tmp_path, [(1, 'other', 1.0), (1, 'f1', math.nan)])
    assert curves.plot_curves(str(tmp_path)) is None


def test_folder_without_event_files(tmp_path):
    assert curves.plot_curves(str(tmp_path)) is None
    assert not list(tmp_path.iterdir())
