"""kill -9 at random moments: what is there is whole, the rest is done again.

Long: run it by `python -m pytest -m long`.
"""
import json
import os
import random
import subprocess
import sys
import time

import imageio.v3 as iio
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from conftest import ROOT, run, train_flags
from input_pipeline import store
from nets import saved

pytestmark = pytest.mark.long
KILLS = 5  # of each mode


def check_whole(folder):
    """Reads every file that has its final name."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if name.startswith('.partial-'):
                continue
            if name.endswith('.json'):
                with open(path) as file:
                    json.load(file)
            elif name.endswith('.png'):
                assert iio.imread(path).size
            elif name == 'weights.h5':
                assert saved.read_weights(path)[0]['net'] == 'unet'
            elif name.endswith('.h5'):
                with store.open_store(path) as file:
                    assert list(store.whole_images(file))


def kill_and_finish(flags, folder, seconds, rng):
    """Starts main.py and kills it some times, and then lets it finish.

    Args:
        flags: of main.py.
        folder: checked after each kill.
        seconds: a kill comes at most so long after a start.

    Returns:
        The output of the last run.
    """
    command = [sys.executable, 'main.py', *flags]
    for _ in range(KILLS):
        process = subprocess.Popen(command, cwd=ROOT,
                                   stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        process.wait()
        check_whole(folder)
    process = run(*command)
    assert process.returncode == 0, process.stderr
    check_whole(folder)
    return process.stdout


def test_kills(program, data_dir, tmp_path):
    rng = random.Random(0)
    folder = str(tmp_path)
    models, unkilled = f'{folder}/models', f'{folder}/unkilled'

    def duration(*flags):
        start = time.time()
        process = program(*flags)
        assert process.returncode == 0, process.stderr
        return time.time() - start

    prepare = ('--mode=prepare', '--sample', f'--data_dir={folder}/data')
    seconds = duration(*prepare[:2], f'--data_dir={unkilled}')
    kill_and_finish(prepare, folder, seconds, rng)
    for split in ('train', 'validation', 'test'):
        found = []
        for data in (f'{folder}/data', unkilled):
            with store.open_store(f'{data}/{split}.h5') as file:
                found.append(list(store.whole_images(file)))
        np.testing.assert_equal(*found)
    assert sorted(os.listdir(f'{folder}/data')) == sorted(
        os.listdir(unkilled))

    train = (*train_flags(data_dir, models, 'unet', 120), '--width=4',
             '--evaluate_every=10')
    output = kill_and_finish(train, folder, 20, rng)
    assert 'step 120/120' in output or 'trained to step 120' in output
    events = EventAccumulator(f'{models}/unet').Reload()
    steps = [event.step for event in events.Scalars('loss')]
    assert steps == sorted(set(steps))
    # A killed run takes with it what was not flushed.
    assert steps[-1] > 100 or 'already trained' in output

    evaluate = ('--mode=eval', '--net=unet', f'--data_dir={data_dir}')
    seconds = duration(*evaluate, f'--model_dir={models}')
    with open(f'{models}/unet/validation.json') as file:
        expected = json.load(file)
    os.remove(f'{models}/unet/validation.json')
    kill_and_finish((*evaluate, f'--model_dir={models}'), folder, seconds,
                    rng)
    with open(f'{models}/unet/validation.json') as file:
        assert json.load(file) == expected

    predict = ('--mode=predict', '--net=unet', f'--model_dir={models}',
               f'--data_dir={folder}/data', '--split=test')
    seconds = duration(*predict, f'--output_dir={unkilled}')
    kill_and_finish((*predict, f'--output_dir={folder}/predictions'), folder,
                    seconds, rng)
    names = sorted(os.listdir(f'{folder}/predictions'))
    assert [name for name in names if name.endswith('_mask.png')]
    for name in names:
        if name == 'index.html' or name.endswith(('.json', 'summary.csv')):
            continue  # with seconds and the command
        with open(f'{folder}/predictions/{name}', 'rb') as found, open(
                f'{unkilled}/{name}', 'rb') as expected:
            assert found.read() == expected.read(), name
