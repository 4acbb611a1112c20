"""Nuclei segmentation with SegNet, U-Net and DeepLabV3.

  python main.py --mode=prepare --images_dir=DIR --annotations_dir=DIR
  python main.py --mode=train --net=unet
  python main.py --mode=eval --net=unet
  python main.py --mode=predict --net=unet --images='DIR/*.tif'
"""
import contextlib
import importlib.util
import math
import os
import re
import signal
import sys

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is begun yet

MISSING = [name for name in ('absl', 'h5py', 'imagecodecs', 'matplotlib',
                             'numpy', 'PIL', 'scipy', 'skimage',
                             'tensorflow', 'tifffile', 'tqdm')
           if importlib.util.find_spec(name) is None]
if MISSING:
    sys.exit(f'error: {sys.executable} lacks {", ".join(MISSING)}; run '
             '"./run.sh setup" and then "source .venv/bin/activate"')

from absl import app, flags, logging

import nets
from histology import progress
from histology.files import InputError
from input_pipeline import store
from input_pipeline.splits import division_flags, read_names
from prediction import Predictor
from prediction.instances import GAP_THRESHOLD, THRESHOLD
from prediction.tiling import MAX_TILE_PIXELS
from prediction.writers import OUTPUTS
from training.records import (
    INIT_LEARNING_RATE,
    INIT_STEPS,
    TrainConfig,
    seen_images,
)

MODES = ('prepare', 'train', 'eval', 'predict')
LARGEST = 2 ** 31 - 1  # that TensorFlow takes everywhere


class PathParser(flags.ArgumentParser):
    """Takes a leading ~ for the home folder, as shells do before a space."""

    def parse(self, argument):
        return os.path.expanduser(argument)


def define_path(name, default, help_text, group):
    """Defines a flag that takes a path."""
    flags.DEFINE(PathParser(), name, default, help_text,
                 serializer=flags.ArgumentSerializer(), module_name=group)


def define_flags():
    """Defines the flags in the groups that --help shows."""
    group = 'What to do'
    flags.DEFINE_enum('mode', None, MODES, 'What to do.', module_name=group)
    flags.DEFINE_enum('net', None, nets.NETS, 'The network.',
                      module_name=group)
    define_path('data_dir', 'data/monuseg', 'Folder of the HDF5 stores.',
                group)
    define_path('model_dir', 'checkpoints', 'Folder of the model folders; '
                '--net names the one used.', group)
    flags.DEFINE_integer('seed', TrainConfig.seed, 'Seed of every random '
                         'choice.', lower_bound=0, upper_bound=LARGEST,
                         module_name=group)
    flags.DEFINE_enum('accelerate', 'auto', ('auto', 'on', 'off'), 'Run the '
                      'network by XLA (TensorFlow 1.15) or in bfloat16 '
                      '(2.15); auto: in training, where it is faster.',
                      module_name=group)

    group = 'Preparing'
    define_path('monuseg_dir', None, 'Folder or .zip of MoNuSeg as '
                'downloaded.', group)
    define_path('images_dir', None, 'Folder of images of your own.', group)
    define_path('annotations_dir', None, 'Folder of their annotations, each '
                'with the name of its image.', group)
    define_path('test_images_dir', None, 'Folder of test images, if any.',
                group)
    define_path('test_annotations_dir', None, 'Folder of their annotations.',
                group)
    flags.DEFINE_bool('sample', False, 'Make synthetic images instead.',
                      module_name=group)
    folds = [*map(str, range(store.FOLDS)), store.TRAIN_ON_ALL]
    flags.DEFINE_enum('fold', '0', folds, 'Which quarter of the training '
                      f'images to validate on; {store.TRAIN_ON_ALL}: train on '
                      'all.', module_name=group)
    define_path('validation', None, 'Which training images to validate on '
                "instead: NAME,NAME, 'PATTERN*' or a text file of such.",
                group)

    group = 'Preparing and predicting'
    flags.DEFINE_float('magnification', None, 'Of the objective; 40 if not '
                       'given. Images are resampled to 40x for the networks.',
                       lower_bound=2, upper_bound=200, module_name=group)
    flags.DEFINE_float('microns_per_pixel', None, 'The same, as micrometres '
                       'per pixel; 0.25 is 40x.', lower_bound=0.05,
                       upper_bound=5, module_name=group)

    group = 'Network (read back from the checkpoint once trained)'
    flags.DEFINE_integer('width', None, 'Filters of the first layer; '
                         f'{nets.WIDTH} if not given.', lower_bound=1,
                         upper_bound=1024, module_name=group)
    flags.DEFINE_enum('output_stride', None, ('8', '16'), "Stride of "
                      f"DeepLabV3's encoder; {nets.OUTPUT_STRIDE} if not "
                      'given.', module_name=group)

    group = 'Training'
    define_path('init_checkpoint', None, 'Start from these weights: a '
                'weights.h5 or a checkpoint without its ending.', group)
    flags.DEFINE_integer('steps', None, 'Steps in all, resumed ones included; '
                         f'{TrainConfig.steps} if not given, or {INIT_STEPS} '
                         'with --init_checkpoint.', lower_bound=1,
                         upper_bound=LARGEST, module_name=group)
    flags.DEFINE_integer('batch_size', TrainConfig.batch_size, 'Crops in a '
                         'step.', lower_bound=1, upper_bound=1024,
                         module_name=group)
    flags.DEFINE_integer('crop_size', TrainConfig.crop_size, 'Side of the '
                         'crops taken from the patches, pixels.',
                         lower_bound=32, module_name=group)
    flags.DEFINE_float('learning_rate', None, 'Peak learning rate of Adam; '
                       f'{TrainConfig.learning_rate} if not given, or '
                       f'{INIT_LEARNING_RATE} with --init_checkpoint.',
                       lower_bound=1e-7, upper_bound=1, module_name=group)
    flags.DEFINE_integer('warmup_steps', TrainConfig.warmup_steps, 'Steps '
                         'until the peak.', lower_bound=0,
                         upper_bound=LARGEST, module_name=group)
    flags.DEFINE_integer('evaluate_every', TrainConfig.evaluate_every,
                         'Steps between checkpoints, each evaluated on the '
                         'validation images.', lower_bound=1,
                         upper_bound=LARGEST, module_name=group)
    flags.DEFINE_integer('augment_threads', TrainConfig.augment_threads,
                         'Threads that augment.', lower_bound=1,
                         upper_bound=64, module_name=group)

    group = 'Evaluating and predicting'
    flags.DEFINE_enum('split', 'validation', ('train', 'validation', 'test'),
                      'The images of --data_dir that eval measures on, or '
                      'that predict takes in place of --images.',
                      module_name=group)
    define_path('images', None, "Images to predict: a file, a folder or a "
                "quoted pattern as 'DIR/*.tif'.", group)
    define_path('output_dir', None, 'Where predict writes; predictions/NET '
                'if not given.', group)
    flags.DEFINE_list('outputs', list(OUTPUTS), 'What predict writes, of '
                      f'{",".join(OUTPUTS)}.', module_name=group)
    flags.DEFINE_float('threshold', THRESHOLD, 'Nucleus is where the '
                       'probability is above this; in gaps between touching '
                       f'nuclei, above {GAP_THRESHOLD} times this.',
                       lower_bound=0, upper_bound=1, module_name=group)
    flags.DEFINE_bool('average', True, 'Test-time augmentation: average over '
                      'the four right-angle rotations; --noaverage '
                      'takes about a third of the time.', module_name=group)
    flags.DEFINE_integer('max_pixels', MAX_TILE_PIXELS, 'Larger images are '
                         'cut into overlapping tiles of at most as many '
                         'pixels.',
                         lower_bound=1, upper_bound=LARGEST,
                         module_name=group)
    # NaN is outside no bounds.
    for name in ('learning_rate', 'threshold', 'magnification',
                 'microns_per_pixel'):
        flags.register_validator(
            name, lambda value: value is None or math.isfinite(value),
            'must be a number')
    for name in ('data_dir', 'model_dir', 'monuseg_dir', 'images_dir',
                 'annotations_dir', 'test_images_dir', 'test_annotations_dir',
                 'validation', 'init_checkpoint', 'images', 'output_dir'):
        flags.register_validator(name, lambda path: path != '',
                                 'must not be empty')
    flags.register_validator(
        'outputs', lambda names: names and set(names) <= set(OUTPUTS),
        f'give some of {",".join(OUTPUTS)}, with commas between')
    flags.register_validator(
        'model_dir', lambda name: not re.search(r'[][*?\\]|://', name),
        r'TensorFlow takes a name with [, ], *, ? or \ for a pattern, and one '
        'with :// for an address')
    for name in ('data_dir', 'model_dir', 'init_checkpoint'):
        flags.register_validator(
            name, lambda path: not re.search('[\ud800-\udfff]', path or ''),
            'TensorFlow takes only names in UTF-8')


FLAGS = flags.FLAGS


def help_text():
    """The module's docstring and the project's own flags, group by group."""
    lines = [__doc__.rstrip()]
    for group, group_flags in FLAGS.flags_by_module_dict().items():
        if group.startswith('absl'):
            continue
        lines.append(f'\n{group}:')
        for flag in group_flags:
            value = (','.join(flag.value) if isinstance(flag.value, list)
                     else flag.value)
            default = '' if flag.default is None else f' [{value}]'
            lines.append(f'  --{flag.name:<16} {flag.help}{default}')
    return '\n'.join(lines)


def parse_flags(argv):
    """Parses the command line; a wrong flag ends in one line."""
    if '--help' in argv or '-h' in argv:
        print(help_text())
        sys.exit(0)
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        sys.exit(f'error: {error}; python main.py --help lists the flags')
    if len(rest) > 1:
        if rest[1] in MODES:
            sys.exit(f'error: {rest[1]}: give it as --mode={rest[1]}')
        sys.exit(f'error: {rest[1]}: not a flag; quote patterns, as in '
                 "--images='DIR/*.tif'")
    return rest


def require(*names):
    """Ends in one line where a flag that the mode needs is missing."""
    for name in names:
        if FLAGS[name].value is None:
            raise InputError(f'--{name}: missing; python main.py --help says '
                             'what it takes')


def prepare():
    """--mode=prepare; return the exit status: 1 if images are skipped."""
    from input_pipeline import prepare as preparing

    microns_per_pixel = asked_microns_per_pixel()
    own = any((FLAGS.images_dir, FLAGS.annotations_dir,
               FLAGS.test_images_dir, FLAGS.test_annotations_dir))
    if [bool(FLAGS.monuseg_dir), own, FLAGS.sample].count(True) != 1:
        raise InputError('--monuseg_dir: give either the folder of MoNuSeg, '
                         'or --images_dir and --annotations_dir, or --sample '
                         'for synthetic images')
    if FLAGS.sample:
        data = preparing.find_sample(FLAGS.seed)
    elif own:
        test_dirs = FLAGS.test_images_dir, FLAGS.test_annotations_dir
        require('images_dir', 'annotations_dir')
        if any(test_dirs):
            require('test_images_dir', 'test_annotations_dir')
        data = preparing.find_own(
            FLAGS.images_dir, FLAGS.annotations_dir,
            test_dirs if any(test_dirs) else None, microns_per_pixel)
    else:
        data = preparing.find_monuseg(FLAGS.monuseg_dir, microns_per_pixel)
    validation = []
    if FLAGS.validation is not None:
        if not FLAGS['fold'].using_default_value:
            raise InputError('--fold: --validation says already what to '
                             'validate on; give one of them')
        validation = read_names(FLAGS.validation)
    skipped = preparing.prepare(FLAGS.data_dir, data, FLAGS.seed, FLAGS.fold,
                                validation)
    if skipped:
        print(f'{progress.counted(len(skipped), "image")} skipped: '
              f'{skipped[0]}' + (' ...' if skipped[1:] else ''))
    return 1 if skipped else 0


def asked_microns_per_pixel():
    """Return the images' micrometres per pixel, or None if no flag says it."""
    if FLAGS.magnification is None:
        return FLAGS.microns_per_pixel
    if FLAGS.microns_per_pixel is not None:
        raise InputError('--magnification: --microns_per_pixel says it '
                         'already; give one of them')
    from histology.resolution import MICRONS_AT_1X
    return MICRONS_AT_1X / FLAGS.magnification


def train(folder, output_stride):
    """--mode=train; returns the exit status, None where it is 0."""
    from nets.tf1 import acceleration_pays
    from training import cluster, loop

    config = TrainConfig(
        net=FLAGS.net, data_dir=FLAGS.data_dir, width=FLAGS.width,
        output_stride=output_stride, steps=FLAGS.steps,
        batch_size=FLAGS.batch_size, crop_size=FLAGS.crop_size,
        learning_rate=FLAGS.learning_rate, warmup_steps=FLAGS.warmup_steps,
        evaluate_every=FLAGS.evaluate_every,
        augment_threads=FLAGS.augment_threads, seed=FLAGS.seed,
        init_checkpoint=FLAGS.init_checkpoint,
        accelerate=(acceleration_pays(nets.xla_pays(FLAGS.net))
                    if FLAGS.accelerate == 'auto'
                    else FLAGS.accelerate == 'on'))
    stopped_by = loop.train(config, folder, cluster.task())
    if stopped_by:
        print(f'stopped; the same command goes on from {folder}',
              file=sys.stderr)
        return 128 + stopped_by
    print(f'trained: {folder}')


def refuse_trained_on(record, file, path, folder):
    """Refuse to measure on images that were trained on, except --split=train.

    Args:
        record: of the network.
        file: open store.
        path: of the store.
        folder: of the network.
    """
    if FLAGS.split == 'train':
        return
    for seen, how, remedy in (
            (record['trained_on'], 'was',
             (', all that there were; measure'
              if str(record['data_fold']) == 'none' else
              ', divided with ' + division_flags(record['data_seed'],
                                                 record['data_fold'])
              + '; prepare with the same, measure')),
            (seen_images(record), 'began from weights', '; measure')):
        known = store.names_among(file, seen)
        if known:
            raise InputError(
                f'{path}: the network in {folder} {how} trained on {known[0]}'
                + (f' and {len(known) - 1} more of its images' if known[1:]
                   else '')
                + f'{remedy} on other images, or choose another --model_dir')


def announce(record, folder):
    """Print which network is used, and on what device."""
    from nets import saved
    from nets.tf1 import device_line, tf

    whose = ('shipped with the code' if saved.is_shipped(folder)
             else 'your own')
    print(f'{folder}: {record["net"]}, {whose}, trained on '
          f'{record["data_source"]}, step {record["step"]}'
          + (f', from weights trained on {record["init_data_source"]}'
             if record.get('init_checkpoint') else '') + '; '
          f'TensorFlow {tf.__version__}; {device_line()}', flush=True)


@contextlib.contextmanager
def open_split():
    """Open the store that --data_dir and --split name; yield its path too."""
    path = store.store_path(FLAGS.data_dir, FLAGS.split)
    if not os.path.exists(path) and os.path.exists(
            store.store_path(FLAGS.data_dir, 'train')):
        raise InputError(f'--split={FLAGS.split}: the data in '
                         f'{FLAGS.data_dir} were prepared without such '
                         'images; give another --split or prepare others')
    with store.open_store(path) as file:
        yield path, file


def evaluate(folder, output_stride):
    """--mode=eval."""
    import h5py
    import numpy as np

    from eval import curves, report
    from eval import evaluate as evaluation
    from nets.tf1 import tf

    with open_split() as (path, file):
        predictor = load_predictor(folder, output_stride)
        refuse_trained_on(predictor.record, file, path, folder)
        announce(predictor.record, folder)
        results = evaluation.evaluate(
            store.whole_images(file), len(store.image_names(file)), predictor,
            os.path.join(folder, f'{FLAGS.split}_pictures'))
        settings = {
            'source': store.attributes(file)['source'],
            'config': predictor.record,
            'flags': {name: FLAGS[name].value for name in
                      ('net', 'data_dir', 'split', 'threshold', 'average',
                       'max_pixels', 'accelerate')},
            'versions': {'python': sys.version.split()[0],
                         'tensorflow': tf.__version__,
                         'numpy': np.__version__, 'h5py': h5py.__version__}}
        report.write_results(folder, FLAGS.split, results, settings)
    print(f'{settings["source"]}, {FLAGS.split} images')
    print(report.format_table(results))
    print(f'evaluated: {folder}/{FLAGS.split}.json, .csv and _pictures/'
          + (', curves.png' if curves.plot_curves(folder) else ''))


def load_predictor(folder, output_stride):
    """Load the Predictor of a model folder, as the flags ask."""
    return Predictor.load(
        folder, FLAGS.net, FLAGS.width, output_stride,
        FLAGS.accelerate == 'on', threshold=FLAGS.threshold,
        max_pixels=FLAGS.max_pixels, average=FLAGS.average)


def predict(folder, output_stride):
    """--mode=predict; return the exit status: 1 if images are skipped."""
    from_store = not FLAGS['split'].using_default_value
    if from_store == (FLAGS.images is not None):
        raise InputError('--images: give either the images to predict, or '
                         '--split for the images of a store in --data_dir')
    microns_per_pixel = asked_microns_per_pixel()
    if from_store and microns_per_pixel is not None:
        raise InputError('--split: the images of a store are at 40x already; '
                         'give no --magnification or --microns_per_pixel')
    from nets import saved
    from prediction.predict import predict_files, predict_store
    from training import checkpoints

    output_dir = FLAGS.output_dir or os.path.join('predictions', FLAGS.net)
    if (FLAGS['model_dir'].using_default_value
            and not checkpoints.holds_training(folder)
            and not saved.holds_weights(folder)):
        folder = os.path.join(saved.PRETRAINED, FLAGS.net)
    with contextlib.ExitStack() as stack:
        if from_store:
            _, file = stack.enter_context(open_split())
        predictor = load_predictor(folder, output_stride)
        announce(predictor.record, folder)
        skipped = []
        if from_store:
            predict_store(file, output_dir, predictor, FLAGS.outputs)
        else:
            skipped = predict_files(FLAGS.images, output_dir, predictor,
                                    microns_per_pixel, FLAGS.outputs)
    print(f'predicted: {output_dir}'
          + (f'; {progress.counted(len(skipped), "image")} skipped'
             if skipped else ''))
    return 1 if skipped else 0


def run_mode():
    """Runs the mode that was asked for; returns the exit status or None.

    Raises:
        InputError: a flag is missing or does not fit the others, and as the
            modes.
    """
    require('mode')
    if FLAGS.init_checkpoint is not None and FLAGS.mode != 'train':
        raise InputError('--init_checkpoint: for --mode=train alone; '
                         '--model_dir says which network others use')
    if FLAGS.mode == 'prepare':
        return prepare()
    require('net')
    folder = os.path.join(FLAGS.model_dir, FLAGS.net)
    output_stride = FLAGS.output_stride and int(FLAGS.output_stride)
    if output_stride and not nets.has_output_stride(FLAGS.net):
        raise InputError(f'--output_stride: {FLAGS.net} has none; leave it '
                         'out')
    mode = {'train': train, 'eval': evaluate, 'predict': predict}
    return mode[FLAGS.mode](folder, output_stride)


def main(_):
    """Runs the mode; returns the exit status, or a line for stderr.

    After a signal the status is 128 and its number, as in shells.
    """
    try:
        for number in progress.SIGNALS:
            signal.signal(number, progress.stop)
        try:
            return run_mode()
        finally:
            for number in progress.SIGNALS:
                signal.signal(number, signal.SIG_DFL)
    except BaseException as error:
        number = progress.received()
        if number is None and not isinstance(error, InputError):
            raise
        if number is None:
            return f'error: {error}'
        print('stopped', file=sys.stderr)
        return 128 + number


if __name__ == '__main__':
    # As stderr: names of files may be no UTF-8.
    sys.stdout.reconfigure(errors='backslashreplace')
    define_flags()
    # absl would show what other packages note, as matplotlib when it first
    # lists the fonts.
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=parse_flags)
