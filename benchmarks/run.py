"""Measures the project on the engines that are set up beside it.

    ./run.sh benchmark

prints a table and writes it, with the machine and the versions, to
benchmarks/results.md. Every ratio is of processes that took turns.
"""
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import imageio.v3 as iio
import numpy as np

from benchmarks.turns import ratio, side_by_side
from histology import resample, synthetic
from histology.files import atomic_write
from input_pipeline import store
from nets import NETS
from nets.tf1 import has_bfloat16
from prediction import tiling
from training.records import TrainConfig

ENGINES = ('tf1', 'tf2')
STOCK = 'tf1-gpu'  # compared with PyTorch alone
# Of PyTorch's rates.
TORCH_GOALS = {('tf1', 'train'): 1.0, (STOCK, 'train'): 0.55,
               ('tf2', 'train'): 1.5, ('tf2', 'forward'): 1.0}
MEGAPIXELS = (1, 4, 16, 64)
# What keeps glibc's allocator from giving memory back after each step, which
# costs PyTorch a third of its speed.
MALLOC = {'MALLOC_MMAP_THRESHOLD_': '4000000000',
          'MALLOC_TRIM_THRESHOLD_': '16000000000',
          'MALLOC_TOP_PAD_': '100000000'}
# As in training by default; forward passes are of whole patches.
CROP, PATCH = str(TrainConfig.crop_size), str(store.PATCH_SIZE)
# Side of an image, as MoNuSeg's; for PyTorch padded to U-Net's stride.
IMAGE, TORCH_IMAGE = '1000', '1008'
IMAGE_MM2 = (int(IMAGE) * resample.MICRONS_PER_PIXEL / 1000) ** 2
IMAGES = '20'  # of a folder: while one is written the network sees the next
# Of StarDist's time, by an image of a folder.
STARDIST_GOALS = {'float32': 1.15, 'bfloat16': 0.8}
VIEWS = str(tiling.TURNS)  # of an image, averaged
SHIPPED = '--model_dir=checkpoints/pretrained'


def python(engine):
    """The interpreter that ./run.sh has set up for an engine."""
    return f'.venv-{engine}/bin/python'


def worker(engine, *arguments):
    """The command line of one of our processes to be timed."""
    return [python(engine), '-m', 'benchmarks.worker', *arguments]


def torch_worker(kind, precision, side=PATCH):
    """The command line of the same work in PyTorch."""
    settings = [f'{name}={value}' for name, value in MALLOC.items()]
    return ['env', *settings, python('torch'), '-m', 'benchmarks.unet_torch',
            kind, side, precision]


class Table:
    """Rows of what was measured, each printed as it comes."""

    def __init__(self):
        self.rows = []

    def add(self, what, engine, value, goal='', met=None):
        verdict = {None: '', True: 'met', False: 'missed'}[met]
        self.rows.append((what, engine, value, goal, verdict))
        print(*self.rows[-1], sep=' | ', flush=True)

    def add_ratio(self, what, engine, rates, goal, at_most=True):
        """Adds rates[0] / rates[1], at most or at least the goal, if any."""
        median, low, high = ratio(*rates)
        met = goal and (median <= goal if at_most else median >= goal)
        sign = '<=' if at_most else '>='
        self.add(what, engine, f'{median:.3g} ({low:.3g} to {high:.3g})',
                 f'{sign} {goal}' if goal else '', met)

    def markdown(self):
        """The table as the text of a Markdown file."""
        rows = [('measured', 'engine', 'median (range)', 'goal', ''),
                ('---',) * 5, *self.rows]
        return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def median_rate(rates):
    """The median as text."""
    return f'{statistics.median(rates):.3g}'


def accelerations(engine, kind):
    """Lists (value of --accelerate, how it computes) to measure."""
    if engine == STOCK:
        return [('on', 'XLA') if kind == 'train' else ('off', 'no XLA')]
    both = [('off', 'float32'), ('on', 'bfloat16')]
    return both if engine == 'tf2' and has_bfloat16() else both[:1]


def measure_pipeline(table, engine, path):
    """A training step fed from the store at `path` against a step on a
    constant batch, and the pipeline alone against the fastest step."""
    fastest = 0
    chosen = accelerations(engine, 'train')
    for net in NETS:
        for accelerate, how in chosen:
            fed, constant = side_by_side(
                [worker(engine, 'training_step', net, source, CROP, accelerate)
                 for source in (path, 'constant')])
            table.add(f'{net}, training, {how}, patches/s', engine,
                      median_rate(fed))
            table.add_ratio(f'{net}, {how}, step from HDF5 / from a constant',
                            engine, (constant, fed), 1.05)
            if statistics.median(constant) > fastest:
                fastest = statistics.median(constant)
                fastest_step = worker(engine, 'training_step', net, 'constant',
                                      CROP, accelerate)
                name = f'{net}, {how}'
    table.add_ratio(
        f'pipeline alone / fastest step ({name})', engine, side_by_side(
            [worker(engine, 'pipeline', path, CROP), fastest_step]),
        10, at_most=False)


def measure_torch(table, engine):
    """U-Net against the same in PyTorch, on 256 x 256 patches."""
    for kind in ('train', 'forward'):
        for accelerate, how in accelerations(engine, kind):
            precision = 'bfloat16' if how == 'bfloat16' else 'float32'
            ours = (('training_step', 'unet', 'constant') if kind == 'train'
                    else ('forward', 'unet'))
            rates = side_by_side([worker(engine, *ours, PATCH, accelerate),
                                  torch_worker(kind, precision)])
            table.add(f'unet, {kind}, {how}, patches/s, ours and PyTorch '
                      f'({precision})', engine,
                      ' and '.join(map(median_rate, rates)))
            table.add_ratio(f'unet, {kind}, {how}, ours / PyTorch '
                            f'({precision})', engine, rates,
                            TORCH_GOALS.get((engine, kind)), at_most=False)


def measure_image(table, engine):
    """Whole-image prediction against the bare forward passes."""
    for views in ('1', VIEWS):
        rows, bare = side_by_side(
            [worker(engine, 'image', 'unet', how, views)
             for how in ('rows', 'bare')])
        table.add_ratio(f'unet, image of 1000 x 1000, {views} views, '
                        'prediction / forward pass', engine, (bare, rows),
                        1.15)


def measure_files(table, engine):
    """From file to files, against what else users run on a processor."""
    chosen = accelerations(engine, 'forward')
    kinds = {'plain': ('1', '1'), 'averaged': (VIEWS, '1'),
             f'plain, {IMAGES} images': ('1', IMAGES)}
    names = [f'{what}, {how}' for what in kinds for _, how in chosen]
    *ours, stardist, instanseg, torch = side_by_side(
        [*(worker(engine, 'image_files', 'unet', views, accelerate, count)
           for views, count in kinds.values() for accelerate, _ in chosen),
         [python('stardist'), '-m', 'benchmarks.stardist_he', IMAGE],
         [python('torch'), '-m', 'benchmarks.instanseg_unet',
          str(int(IMAGE) // 2)],
         torch_worker('image', 'float32', TORCH_IMAGE)])
    for what, rates in (
            *zip([f'unet, prediction, {name}' for name in names], ours),
            ("StarDist's H&E network, forward pass", stardist),
            ("InstanSeg's network, forward pass at 0.5 micrometres",
             instanseg),
            ('unet in PyTorch, forward pass', torch)):
        seconds = 1 / statistics.median(rates)
        table.add(f'{what}, seconds per image of 1000 x 1000, per mm2',
                  engine, f'{seconds:.2f}, {seconds / IMAGE_MM2:.1f}')
    for index, (_, how) in enumerate(chosen):
        plain, averaged, many = ours[index::len(chosen)]
        for what, rates, goal in (('plain', plain, None), (
                f'plain, {IMAGES} images', many, STARDIST_GOALS[how])):
            table.add_ratio(f"unet, prediction, {what}, {how} / StarDist's "
                            'forward pass, time', engine, (stardist, rates),
                            goal)
        table.add_ratio(f'unet, prediction, {how}, averaged / plain, time',
                        engine, (plain, averaged), 3.2)


def measure_slides(table, engine):
    """Whole slides of 0.25 and 0.5 micrometres, from file to files."""
    for accelerate, how in accelerations(engine, 'forward'):
        for microns in ('0.25', '0.5'):
            rates, = side_by_side([worker(engine, 'slide_file', 'unet',
                                          microns, accelerate)])
            table.add(f'unet, slide at {microns} micrometres, plain, {how}, '
                      'seconds per mm2', engine,
                      f'{1 / statistics.median(rates):.1f}')


def run_main(engine, *flags):
    """Seconds and peak resident MiB of main.py."""
    start = time.perf_counter()
    process = subprocess.Popen([python(engine), 'main.py', *flags],
                               stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, flags
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def write_data(folder, copies):
    """Writes train.h5 of 9 * copies synthetic images, and validation.h5."""
    for split, seed, count in (('train', 0, 9 * copies),
                               ('validation', 1, 1)):
        image, instances = synthetic.make(np.random.RandomState(seed),
                                          synthetic.SIZE)
        with atomic_write(store.store_path(folder, split)) as partial:
            store.write_store(
                partial, {'source': 'synthetic sample', 'split': split,
                          'source_digest': '', 'seed': 0, 'fold': '0'},
                ((f'{index}',
                  lambda: iter([image, store.Annotation(instances, True)]))
                 for index in range(count)))


def measure_memory(table, engine, folder):
    """Peak resident memory against the sizes of store and image."""
    models = os.path.join(folder, engine)
    for copies in (1, 10):
        data = os.path.join(folder, f'data{copies}')
        _, peak = run_main(
            engine, '--mode=train', '--net=unet', f'--data_dir={data}',
            f'--model_dir={models}{copies}', '--steps=20', '--accelerate=off')
        table.add(f'unet, training, {81 * copies} patches, peak MiB', engine,
                  f'{peak:.0f}')
    tile, _ = synthetic.make(np.random.RandomState(0), 1000)
    for megapixels in MEGAPIXELS:
        times = round(megapixels ** 0.5)
        path = os.path.join(folder, f'{megapixels}.png')
        iio.imwrite(path, np.tile(tile, (times, times, 1)), plugin='pillow')
        seconds, peak = run_main(
            engine, '--mode=predict', '--net=unet', '--noaverage', SHIPPED,
            f'--images={path}', f'--output_dir={folder}/out')
        table.add(f'unet, prediction of {megapixels} megapixels, peak MiB, '
                  'seconds', engine, f'{peak:.0f}, {seconds:.1f}')


def drop_from_cache(folder):
    """Asks the system to forget the files below a folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path):
                with open(path, 'rb') as file:
                    os.posix_fadvise(file.fileno(), 0, 0,
                                     os.POSIX_FADV_DONTNEED)


def measure_start(table, engine, data):
    """From the command to the first step, with files cached or not."""
    for cache in ('cold', 'warm'):
        if cache == 'cold':
            drop_from_cache('.')
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            process = subprocess.Popen(
                [python(engine), 'main.py', '--mode=train', '--net=unet',
                 f'--data_dir={data}', f'--model_dir={folder}', '--steps=1'],
                stdout=subprocess.PIPE, universal_newlines=True)
            for line in process.stdout:
                if line.startswith('step 1/1 '):
                    seconds = time.perf_counter() - start
            assert process.wait() == 0
        table.add(f'unet, command to first step, {cache} cache, seconds',
                  engine, f'{seconds:.1f}')


def machine():
    """The processor and what runs on it, a line each."""
    with open('/proc/cpuinfo') as file:
        processor = next(line.split(':')[1].strip() for line in file
                         if line.startswith('model name'))
    lines = [f'{processor}, {os.cpu_count()} cores, {platform.system()}']
    for engine in ENGINES + (STOCK, 'torch', 'stardist'):
        module = engine if engine in ('torch', 'stardist') else 'tensorflow'
        lines.append(f'{engine}: ' + subprocess.run(
            [python(engine), '-c', 'import sys; from importlib import '
             f'import_module; print(import_module("{module}").__version__, '
             '"on Python", sys.version.split()[0])'],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            universal_newlines=True).stdout.strip())
    return lines


def main():
    """Measures everything on every engine."""
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        for copies in (1, 10):
            write_data(os.path.join(folder, f'data{copies}'), copies)
        data = os.path.join(folder, 'data1')
        for engine in ENGINES:
            measure_pipeline(table, engine, store.store_path(data, 'train'))
            measure_torch(table, engine)
            measure_image(table, engine)
            measure_files(table, engine)
            measure_slides(table, engine)
            measure_memory(table, engine, folder)
            measure_start(table, engine, data)
    measure_torch(table, STOCK)
    with atomic_write('benchmarks/results.md') as partial:
        with open(partial, 'w') as file:
            file.write('\n\n'.join([*machine(), table.markdown()]) + '\n')


if __name__ == '__main__':
    sys.exit(main())
