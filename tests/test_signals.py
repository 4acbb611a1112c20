"""SIGINT and SIGTERM in each mode: whole files, one line, and the end."""
import signal

import pytest

from conftest import (IMAGES, end_of, messages, start_long,
                      start_training)
from training import checkpoints
from nets.tf1 import tf

SIGNALS = pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])


def end_by(process, number):
    """Sends a signal and awaits the end."""
    process.send_signal(number)
    end_of(process)
    assert process.returncode == 128 + number


@SIGNALS
def test_training_saves_a_last_checkpoint(data_dir, tmp_path, number):
    process = start_training(data_dir, tmp_path)
    end_by(process, number)
    assert process.stderr.startswith('stopped;')
    assert process.stderr.count('\n') == 1
    saved = tf.train.latest_checkpoint(str(tmp_path / 'unet'))
    assert checkpoints.checkpoint_flaw(saved) is None
    shown = [int(line.split('/')[0].split()[1])
             for line in process.stdout.splitlines() if '/100000' in line]
    assert checkpoints.checkpoint_step(saved) >= max(shown, default=3)


@SIGNALS
@pytest.mark.parametrize('mode', [
    'prepare', *(pytest.param(mode, marks=pytest.mark.long)
                 for mode in ('eval', 'predict'))])
def test_other_modes_leave_nothing_half_written(request, tmp_path, number,
                                                mode):
    # To prepare takes no network.
    model_dir = (None if mode == 'prepare'
                 else request.getfixturevalue('model_dir'))
    process = start_long(mode, model_dir, tmp_path)
    end_by(process, number)
    assert messages(process) == ['stopped']
    assert not list(tmp_path.rglob('.partial-*'))
    # What ends the work is not there.
    if mode == 'prepare':
        assert {path.name for path in (tmp_path / 'data').iterdir()} <= {
            '.lock'}
    elif mode == 'eval':
        assert not (model_dir / 'unet' / 'train.json').exists()
    else:
        last = f'{IMAGES["predict"] - 1:02}_mask.png'
        assert not (tmp_path / 'out' / last).exists()
