"""Small real stores, and the program run as a user runs it."""
import contextlib
import fcntl
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import imageio.v3 as iio

# Lists the fonts, where none has yet, before a process under test has to: one
# that takes long over it says so on stderr.
import matplotlib.font_manager  # noqa: F401
import numpy as np
import pytest
from absl import app
from skimage import morphology

import main
from histology import synthetic
from input_pipeline import store
from nets import NETS  # noqa: F401, for the tests

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Of processes that import from the tests.
PYTHONPATH = os.pathsep.join([ROOT, os.path.join(ROOT, 'tests')])
# What has not ended by then hangs. It is far more than anything here takes,
# also on a machine with other work to do.
SECONDS = 1800
# Images of `start_long`, which waits before the last three.
IMAGES = {'prepare': 40, 'eval': 12, 'predict': 12}
PROGRESS = re.compile(r'\d+ of \d+ \w+, .*(/s|s/\w+), .* left *')

# A Python with the other version of TensorFlow, if ./run.sh has set one up
# (1.15 needs Python 3.7).
OTHERS = [python for python in (
    os.path.join(ROOT, f'.venv-{engine}', 'bin', 'python')
    for engine in (['tf2'] if sys.version_info < (3, 8) else ['tf1-gpu', 'tf1']
                   )) if os.path.exists(python)][:1]

main.define_flags()
os.chdir(ROOT)  # what the flags name lies here


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
        for process in processes:
            # With what it said, where it was started by `start`.
            assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def run_here(*arguments):
    """Runs main.py with flags as `run` does, in this process: to import
    TensorFlow takes another one seconds. An error that is a bug is raised.
    """
    from nets.tf1 import tf
    handlers = {number: signal.getsignal(number)
                for number in (signal.SIGINT, signal.SIGTERM)}
    for name in main.FLAGS:
        main.FLAGS[name].unparse()
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), \
            contextlib.redirect_stderr(errors):
        try:
            app.run(main.main, ['main.py', *map(str, arguments)],
                    flags_parser=main.parse_flags)
        except SystemExit as end:
            status = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            tf.summary.FileWriterCache.clear()
    if isinstance(status, str):
        errors.write(status + '\n')
        status = 1
    return subprocess.CompletedProcess(arguments, status or 0,
                                       output.getvalue(), errors.getvalue())


def on_a_small_disk(script, disk, size, *arguments):
    """Runs sh on a disk of a size, say '8m', that is mounted on a folder.

    The script has disk, size, Python and arguments as $1 and so on.
    """
    if not shutil.which('unshare'):
        pytest.skip('mounts no disk')
    process = run('unshare', '--user', '--map-root-user', '--mount', 'sh',
                  '-c', 'mount -t tmpfs -o size="$2" tmpfs "$1" || exit 77\n'
                  + script, 'sh', disk, size, sys.executable, *arguments,
                  PYTHONPATH=PYTHONPATH)
    if process.returncode == 77 or 'unshare' in process.stderr:
        pytest.skip('no disk can be mounted here')
    return process


def on_a_terminal(code):
    """Runs Python code on a terminal; returns what it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ,
                struct.pack('HHHH', 24, 80, 0, 0))  # rows and columns
    process = subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, stdin=theirs, stdout=theirs,
        stderr=theirs, env=dict(os.environ, PYTHONPATH=PYTHONPATH))
    os.close(theirs)
    shown = b''
    with contextlib.suppress(OSError):  # the other end is closed
        for part in iter(lambda: os.read(ours, 4096), b''):
            shown += part
    os.close(ours)
    assert process.wait() == 0
    return shown.decode().replace('\r\n', '\n')


def run_main(*arguments, **variables):
    """Runs main.py with flags in a process of its own, as a user does."""
    return run(sys.executable, 'main.py', *arguments, **variables)


@pytest.fixture(scope='session')
def program():
    """A function that runs main.py with flags and returns what `run` does.

    It starts no process, unless it is to have variables of its own.
    """
    return lambda *arguments, **variables: (
        run_main(*arguments, **variables) if variables
        else run_here(*arguments))


@pytest.fixture(scope='session')
def once(tmp_path_factory):
    """A function that returns a folder which the first of the processes that
    share the tests fills.

    It takes the folder's name and a function that fills the empty folder.
    """
    def make_once(name, fill):
        parent = tmp_path_factory.getbasetemp()
        if 'PYTEST_XDIST_WORKER' in os.environ:
            parent = parent.parent
        folder, done = parent / name, parent / f'{name}.done'
        with open(str(parent / f'{name}.lock'), 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(str(folder), ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make_once


def red_channel(batch):
    """A network: the probability of nucleus is the red."""
    return batch[..., :1]


def example(name, image, instances, has_instances=True):
    """What `store.write_store` takes, of arrays or a mask."""
    annotation = store.Annotation(np.asarray(instances, np.int32),
                                  has_instances)
    return name, lambda: iter([image, annotation])


def write_stores(folder):
    """Writes train.h5 and validation.h5 of synthetic images."""
    for split, seed, count, size in (('train', 0, 2, 520),
                                     ('validation', 1, 2, 300)):
        rng = np.random.RandomState(seed)
        examples = []
        for index in range(count):
            image, instances = synthetic.make(rng, size)
            image, instances = image[:, :-7], instances[:, :-7]
            examples.append(example(f'{split}-{index}', image, instances))
        store.write_store(str(folder / f'{split}.h5'),
                          {'source': 'synthetic sample', 'split': split,
                           'source_digest': 'made here', 'seed': 7,
                           'fold': '0'},
                          examples)


@pytest.fixture(scope='session')
def data_dir(once):
    """Stores of synthetic images: 18 patches, and sizes no stride divides."""
    return once('data', write_stores)


def read_json(*path):
    with open(os.path.join(*map(str, path))) as file:
        return json.load(file)


def spoil(path, pattern):
    """Overwrites a pattern wherever it is in a file, which may be in use."""
    with open(path, 'r+b') as file:
        data = file.read()
        assert pattern in data
        file.seek(0)
        file.write(data.replace(pattern, bytes(len(pattern))))


def make_unreadable(path):
    """Makes every read of a file, from its start, fail with EIO."""
    path.unlink()
    path.symlink_to('/proc/self/mem')


def train_flags(data_dir, model_dir, net, steps):
    return ('--mode=train', f'--net={net}', f'--data_dir={data_dir}',
            f'--model_dir={model_dir}', f'--steps={steps}',
            '--evaluate_every=3', '--batch_size=2', '--crop_size=64',
            '--augment_threads=1', '--accelerate=off')


_started = []  # by the test that runs

# main.py, which waits when its progress has come to PART until FILE is there:
# it cannot end before a test has looked. Its arguments are PART, FILE, FLAGS.
HELD = '''
import contextlib, os, runpy, sys, time
from histology import progress
part, path = float(sys.argv[1]), sys.argv[2]
del sys.argv[1:3]
before = progress.reporter

@contextlib.contextmanager
def reporter(total, unit):
    with before(total, unit) as report:
        def held(done):
            report(done)
            while done >= part and not os.path.exists(path):
                time.sleep(0.01)
        yield held

progress.reporter = reporter
runpy.run_path('main.py', run_name='__main__')
'''


def start(*flags, code=None, group=False, stdout=subprocess.PIPE):
    """Starts main.py with flags, or code, and returns the process.

    It is killed at the end of the test, should it run that long. `group` makes
    it the first process of a group, as shells do.
    """
    process = subprocess.Popen(
        [sys.executable, *(['-c', code] if code else ['main.py']), *flags],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE,
        universal_newlines=True, start_new_session=group)
    _started.append(process)
    return process


@pytest.fixture(autouse=True)
def no_process_is_left():
    """Kills what a test that failed did not await."""
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()


def start_training(data_dir, model_dir):
    """Starts a long training and returns once it has its first checkpoint."""
    process = start(*train_flags(data_dir, model_dir, 'unet', 100000),
                    '--width=4', '--evaluate_every=1000')
    index = os.path.join(model_dir, 'unet', 'model.ckpt-0.index')
    wait_for(lambda: os.path.exists(index), process)
    return process


def start_long(mode, model_dir, folder):
    """Starts long work on IMAGES[mode] images; returns once a part is done.

    The last three wait for a file folder/go.

    Args:
        mode: 'prepare', 'eval' or 'predict'.
        model_dir: of the fixture `trained`, or a copy; None for prepare.
        folder: an empty one, pathlib.Path. prepare reads MoNuSeg's layout in
            folder/given and writes to folder/data; eval reads
            folder/data/train.h5; predict reads folder/images and writes to
            folder/out. The files are named 00, 01 and so on.

    Returns:
        The process.
    """
    image, instances = synthetic.make(np.random.RandomState(0), 520)
    # Images that differ.
    examples = [(f'{index:02}', np.roll(image, index, 0),
                 np.roll(instances, index, 0))
                for index in range(IMAGES[mode])]

    def write(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path, array, plugin='pillow')

    if mode == 'prepare':
        training = folder / 'given' / 'Training'
        for name, image, instances in examples:
            write(training / f'TissueImages/{name}.tif', image)
            write(training / f'GroundTruth/{name}_bin_mask.png',
                  np.uint8(instances > 0))
        flags = [f'--monuseg_dir={folder}/given', f'--data_dir={folder}/data']
        first_part = folder / 'data', '.partial-*'
    else:
        # Many small tiles.
        flags = ['--net=unet', f'--model_dir={model_dir}', '--noaverage',
                 '--max_pixels=16384']
    if mode == 'eval':
        (folder / 'data').mkdir()
        store.write_store(
            str(folder / 'data' / 'train.h5'),
            {'source': 'synthetic sample', 'split': 'train', 'seed': 7,
             'source_digest': 'made here', 'fold': '0'},
            (example(*parts) for parts in examples))
        flags += [f'--data_dir={folder}/data', '--split=train']
        first_part = model_dir / 'unet', 'train_pictures/*.png'
    elif mode == 'predict':
        for name, image, _ in examples:
            write(folder / f'images/{name}.png', image)
        flags += [f'--images={folder}/images/*.png',
                  f'--output_dir={folder}/out']
        first_part = folder / 'out', '00_mask.png'
    process = start(str(IMAGES[mode] - 3), f'{folder}/go', f'--mode={mode}',
                    *flags, code=HELD)
    parent, pattern = first_part
    wait_for(lambda: list(parent.glob(pattern)), process)
    return process


def end_of(process):
    """Awaits the end of a process of `start`.

    Returns:
        The process, its stdout and stderr as `run` gives them.
    """
    process.stdout, process.stderr = process.communicate(timeout=SECONDS)
    return process


def messages(process):
    """Lines of stderr without those of progress, which time decides on."""
    return [line for line in process.stderr.splitlines()
            if not PROGRESS.fullmatch(line)]


def one_line(process, *words):
    """Checks that a process ended by one clear line with these words."""
    assert process.returncode == 1
    line, = messages(process)
    assert line.startswith('error: ')
    for word in words:
        assert word in line


@pytest.fixture(scope='session')
def trained(once, program, data_dir):
    """A folder with each network trained for a few steps."""
    def train(folder):
        for net in NETS:
            # XLA takes a minute for SegNet and more for the others: one must
            # do.
            accelerate = 'auto' if net == 'segnet' else 'off'
            # Two checkpoints of one will do.
            every = 3 if net == 'unet' else 6
            process = program(*train_flags(data_dir, folder, net, 6),
                              '--width=4', f'--accelerate={accelerate}',
                              f'--evaluate_every={every}')
            assert process.returncode == 0, process.stderr
            assert process.stderr == ''
            assert 'step 6/6' in process.stdout
            assert 'step 6: validation loss' in process.stdout

    return once('models', train)


def masks_of(folder, net, path):
    """A network's masks of a store's images, as evaluation in training sees
    them: whole images, not averaged, small holes filled and gaps closed.

    Args:
        folder, net: as for `Predictor.load`.
        path: of the store.

    Returns:
        List of the masks, uint8 [H, W] of 0 and 1, and of the true ones.
    """
    # Here, for tests that need no TensorFlow.
    from prediction import Predictor
    predictor = Predictor.load(str(folder), net, average=False)
    with store.open_store(path) as file:
        return zip(*[(whole_mask(np.concatenate(list(
            predictor.rows(whole.image)))), whole.instances > 0)
            for whole in store.whole_images(file)])


def whole_mask(probability):
    """The mask of a float [H, W] without small holes and gaps, bool."""
    mask = without_small_holes(probability > 0.5)
    probability = np.rint(255 * probability)
    closed = morphology.binary_closing(np.pad(mask, 9, mode='constant'),
                                       np.ones((5, 5)))[9:-9, 9:-9]
    return without_small_holes(mask | closed & (probability > 51))  # a fifth


def without_small_holes(mask):
    """A bool [H, W] without holes of fewer than 100 pixels, also beside 0."""
    return morphology.remove_small_holes(
        np.pad(mask, 1, mode='constant'), 100)[1:-1, 1:-1]


@pytest.fixture(scope='session')
def shipped_unet():
    """The Predictor of the shipped U-Net, not averaged."""
    from prediction import Predictor
    return Predictor.load('checkpoints/pretrained/unet', average=False)


@pytest.fixture
def model_dir(trained, tmp_path):
    """A copy of `trained` for a test to change."""
    shutil.copytree(str(trained), str(tmp_path / 'models'))
    return tmp_path / 'models'
