"""Small real stores, and the program run as a user runs it."""
import functools
import os
import shutil
import subprocess
import sys
import time

import imageio.v3 as iio
import numpy as np
import pytest

from input_pipeline import sample, store

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Far more than any of these small runs takes: what ends by it hangs.
SECONDS = 600
NETS = ('segnet', 'unet', 'deeplabv3')


def run(*command, cwd=ROOT, **environment):
    """Runs a command to its end and returns the process."""
    return subprocess.run(
        list(map(str, command)), cwd=str(cwd),
        env=dict(os.environ, **environment), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True, timeout=SECONDS)


def wait_for(condition, *processes):
    """Waits for a condition while processes run."""
    deadline = time.time() + SECONDS
    while not condition():
        assert time.time() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


@pytest.fixture(scope='session')
def program():
    """A function that runs main.py with flags and returns the process."""
    return functools.partial(run, sys.executable, 'main.py')


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
    """Stores of synthetic images: 18 patches, and sizes no stride divides."""
    folder = tmp_path_factory.mktemp('data')
    for split, seed, count, size in (('train', 0, 2, 520),
                                     ('validation', 1, 2, 300)):
        rng = np.random.RandomState(seed)
        examples = []
        for index in range(count):
            image, instances = sample.make(rng, size)
            image, instances = image[:, :-7], instances[:, :-7]
            examples.append((f'{split}-{index}', image, instances > 0,
                             instances))
        store.write_store(str(folder / f'{split}.h5'),
                          {'source': 'synthetic sample', 'split': split,
                           'source_digest': 'made here', 'seed': 7,
                           'fold': '0'},
                          examples)
    return folder


def spoil(path, pattern):
    """Overwrites a pattern wherever it is in a file, which may be in use."""
    with open(path, 'r+b') as file:
        data = file.read()
        assert pattern in data
        file.seek(0)
        file.write(data.replace(pattern, bytes(len(pattern))))


def train_flags(data_dir, model_dir, net, steps):
    return ('--mode=train', f'--net={net}', f'--data_dir={data_dir}',
            f'--model_dir={model_dir}', f'--steps={steps}',
            '--evaluate_every=3', '--batch_size=2', '--crop_size=64',
            '--augment_threads=1', '--accelerate=off')


def start(*flags):
    """Starts main.py with flags and returns the process."""
    return subprocess.Popen(
        [sys.executable, 'main.py', *flags], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True)


def start_training(data_dir, model_dir):
    """Starts a long training and returns once it has its first checkpoint."""
    process = start(*train_flags(data_dir, model_dir, 'unet', 100000),
                    '--width=4')
    best = os.path.join(model_dir, 'unet', 'best', 'best.json')
    wait_for(lambda: os.path.exists(best), process)
    return process


def start_long(mode, data_dir, model_dir, folder):
    """Starts long work and returns once it has done a part.

    Args:
        mode: 'prepare', 'eval' or 'predict'.
        data_dir: of the fixture; eval reads its train.h5.
        model_dir: of the fixture `trained`, or a copy.
        folder: an empty one. prepare reads MoNuSeg's layout in folder/given
            and writes to folder/data; predict reads folder/images and writes
            to folder/out.

    Returns:
        The process.
    """
    def write(kind, array):
        for index in range(8):
            path = folder / kind.format(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            iio.imwrite(path, array, plugin='pillow')

    if mode != 'eval':
        image, instances = sample.make(np.random.RandomState(0), 520)
    if mode == 'prepare':
        write('given/Training/TissueImages/{}.tif', image)
        write('given/Training/GroundTruth/{}_bin_mask.png',
              np.uint8(instances > 0))
        flags = [f'--monuseg_dir={folder}/given', f'--data_dir={folder}/data']
        sign = 'data/.partial-*'
    else:
        # Many small tiles.
        flags = ['--net=unet', f'--model_dir={model_dir}', '--noaverage',
                 '--max_pixels=16384']
    if mode == 'eval':
        flags += [f'--data_dir={data_dir}', '--split=train']
        folder, sign = model_dir, 'unet/train_pictures/*.png'
    elif mode == 'predict':
        write('images/{}.png', image)
        flags += [f'--images={folder}/images/*.png',
                  f'--output_dir={folder}/out']
        sign = 'out/0_mask.png'
    process = start(f'--mode={mode}', *flags)
    wait_for(lambda: list(folder.glob(sign)), process)
    return process


def end_of(process, seconds):
    """Awaits the end of a process of `start`, which must come in time.

    Returns:
        The process, its stdout and stderr as `run` gives them.
    """
    begin = time.time()
    try:
        process.stdout, process.stderr = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert time.time() - begin < seconds
    return process


def one_line(process, *words):
    """Checks that a process ended by one clear line with these words."""
    assert process.returncode == 1
    assert process.stderr.startswith('error: ')
    assert process.stderr.count('\n') == 1, process.stderr
    for word in words:
        assert word in process.stderr


@pytest.fixture(scope='session')
def trained(program, data_dir, tmp_path_factory):
    """A folder with each network trained for a few steps."""
    folder = tmp_path_factory.mktemp('models')
    for net in NETS:
        # XLA takes a minute for SegNet and more for the others: one must do.
        accelerate = 'auto' if net == 'segnet' else 'off'
        process = program(*train_flags(data_dir, folder, net, 6), '--width=4',
                          f'--accelerate={accelerate}')
        assert process.returncode == 0, process.stderr
        assert process.stderr == ''
        assert 'step 6/6' in process.stdout
        assert 'step 3: validation loss' in process.stdout
    return folder


@pytest.fixture
def model_dir(trained, tmp_path):
    """A copy of `trained` for a test to change."""
    shutil.copytree(str(trained), str(tmp_path / 'models'))
    return tmp_path / 'models'
