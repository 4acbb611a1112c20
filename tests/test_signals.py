"""SIGINT and SIGTERM in each mode: whole files, one line, and the end."""
import os
import signal
import time

import pytest

import main
from conftest import (
    IMAGES,
    end_of,
    messages,
    start,
    start_long,
    start_training,
    train_flags,
    wait_for,
)
from histology import progress
from nets.tf1 import tf
from training import checkpoints

SIGNALS = pytest.mark.parametrize('number', [
    signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])


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
    latest = tf.train.latest_checkpoint(str(tmp_path / 'unet'))
    checkpoints.read_checkpoint(latest, '')
    shown = [int(line.split('/')[0].split()[1])
             for line in process.stdout.splitlines() if '/100000' in line]
    assert checkpoints.checkpoint_step(latest) >= max(shown, default=1)


# main.py whose evaluations do not end by themselves.
ENDLESS = '''
import itertools, runpy
from input_pipeline import queues
before = queues.validation_windows
queues.validation_windows = lambda *given: itertools.cycle(before(*given))
runpy.run_path('main.py', run_name='__main__')
'''


def test_training_stops_within_an_evaluation(program, data_dir, tmp_path):
    flags = (*train_flags(data_dir, tmp_path, 'unet', 3), '--width=4')
    process = start(*flags, code=ENDLESS)
    folder = tmp_path / 'unet'
    # It comes before the first image.
    wait_for((folder / 'eval').exists, process)
    end_by(process, signal.SIGINT)
    # The evaluation was not awaited, nothing of it is kept, and it is made up
    # for by the next run.
    assert 'step 3: validation' not in process.stdout
    assert not (folder / 'weights.h5').exists()
    latest = tf.train.latest_checkpoint(str(folder))
    checkpoints.read_checkpoint(latest, '')
    process = program(*flags)
    assert process.returncode == 0, process.stderr
    assert 'step 3: validation' in process.stdout


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
        assert not (tmp_path / 'data').exists()
    elif mode == 'eval':
        assert not (model_dir / 'unet' / 'train.json').exists()
    else:
        last = f'{IMAGES["predict"] - 1:02}_mask.png'
        assert not (tmp_path / 'out' / last).exists()


@pytest.fixture
def handler(monkeypatch):
    """main.py's handler of SIGTERM, which has had no signal before."""
    monkeypatch.setattr(progress, '_received', None)
    former = [(number, signal.getsignal(number))
              for number in progress.SIGNALS]
    signal.signal(signal.SIGTERM, progress.stop)
    yield
    for number, action in former:
        signal.signal(number, action)


def send_and_lose():
    """A signal to this process, whose exception something drops."""
    with pytest.raises(progress.Stopped):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:  # another thread may get it, and the main one a bit later
            time.sleep(0.01)


def test_work_ends_though_the_exception_was_lost(handler):
    with pytest.raises(progress.Stopped), progress.reporter(
            2, 'image') as report:
        report(1)
        send_and_lose()
        report(2)


def test_a_signal_is_seen_behind_an_error_raised_in_its_place(
        handler, monkeypatch, capsys):
    """As h5py's KeyError, where it takes back what the signal cut short."""
    def run_mode():
        send_and_lose()
        raise KeyError('record is not in B-tree')

    monkeypatch.setattr(main, 'run_mode', run_mode)
    assert main.main([]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == 'stopped\n'


def test_memory_that_runs_out_is_told(handler, monkeypatch):
    for raised in (MemoryError('Unable to allocate 9 TiB'), RuntimeError(
            'OOM when allocating tensor\nwith shape[4,2,2]')):
        def run_mode(raised=raised):
            raise raised

        monkeypatch.setattr(main, 'run_mode', run_mode)
        text = str(raised).replace('\n', r'\n')
        assert main.main([]) == (
            f'error: not enough memory ({text}); a lower --max_pixels '
            '(predict, eval) or --batch_size (train) needs less')


def test_a_bug_keeps_its_traceback(handler, monkeypatch):
    def run_mode():
        raise KeyError('of ours')

    monkeypatch.setattr(main, 'run_mode', run_mode)
    with pytest.raises(KeyError):
        main.main([])
