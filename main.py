"""Nuclei segmentation with SegNet, U-Net and DeepLabV3.

  python main.py --mode=prepare --images_dir=DIR --annotations_dir=DIR
  python main.py --mode=train --net=unet
  python main.py --mode=eval --net=unet
  python main.py --mode=predict --net=unet --images='DIR/*.tif'
  python main.py --mode=export --net=unet --output_dir=exported
"""
import dataclasses
import errno
import functools
import os
import re
import signal
import sys

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is begun yet
elif __name__ == '__mp_main__':  # a worker, which the first process ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def advice_for_missing(error):
    """Say which package is missing and how to get it, for stderr."""
    return (f'error: {sys.executable} lacks {error.name}; run "./run.sh '
            'setup" and then "source .venv/bin/activate"')


try:
    from absl import app, flags, logging

    import nets
    from histology import progress
    from histology.files import InputError
    from input_pipeline import store
    from input_pipeline.splits import division_text, read_names
    from nets import saved
    from prediction import Predictor
    from prediction.instances import GAP_THRESHOLD, MIN_HEIGHT, THRESHOLD
    from prediction.predictor import MIN_AREA
    from prediction.slides import MAX_WHOLE_PIXELS
    from prediction.tiling import MAX_TILE_PIXELS
    from prediction.writers import OUTPUTS
    from training.records import INIT_LEARNING_RATE, INIT_STEPS, TrainConfig
except ModuleNotFoundError as error:
    sys.exit(advice_for_missing(error))

MODES = ('prepare', 'train', 'eval', 'predict', 'export')
INT32_MAX = 2 ** 31 - 1
LICENCE = 'CC-BY-NC-SA-4.0'  # of the shipped networks


class PathParser(flags.ArgumentParser):
    """Take a leading ~ for the home folder; shells do not do so after "="."""

    def parse(self, argument):
        if not argument:
            raise ValueError('must not be empty')
        return os.path.expanduser(argument)


class FiniteParser(flags.FloatParser):
    """Take a number within its two bounds, which NaN is not."""

    def is_outside_bounds(self, value):
        return not self.lower_bound <= value <= self.upper_bound


class ShardParser(flags.ArgumentParser):
    """Take K/N, with K from 1 to N, for (K - 1, N)."""

    def parse(self, argument):
        shard = re.fullmatch(r'(\d{1,9})/(\d{1,9})', str(argument))
        first, step = map(int, shard.groups()) if shard else (0, 0)
        if not 1 <= first <= step:
            raise ValueError('give K/N with K from 1 to N, as 2/8')
        return first - 1, step


def define(modes, name, default, help_text, low=None, high=INT32_MAX,
           values=None):
    """Define a flag, of the type of its default; a str is a path.

    A flag without a default has its type instead. `modes` are those that read
    it, in the order of MODES and with commas; the bounds are both allowed.
    """
    kind, default = ((default, None) if isinstance(default, type)
                     else (type(default), default))
    if kind is bool:
        flags.DEFINE_bool(name, default, help_text, module_name=modes)
        return
    parsers = {str: PathParser(), list: flags.ListParser(),
               tuple: ShardParser(),
               int: flags.IntegerParser(low, high),
               float: FiniteParser(low, high)}
    parser = flags.EnumParser(values) if values else parsers[kind]
    flags.DEFINE(parser, name, default, help_text, module_name=modes)


def define_flags():
    """Define the flags, by the modes that read them."""
    define(', '.join(MODES), 'mode', str, 'prepare: read images and '
           'annotations; train: train a network; eval: measure it; predict: '
           'find nuclei; export: write it for other programs.', values=MODES)
    flag = functools.partial(define, 'prepare, train, eval, predict')
    flag('data_dir', 'data/monuseg', 'Folder of the HDF5 stores.')
    flag = functools.partial(define, 'prepare, train')
    flag('seed', TrainConfig.seed, 'Seed of every random choice.', 0)
    flag = functools.partial(define, 'prepare')
    flag('monuseg_dir', str, 'Folder or .zip of MoNuSeg as downloaded.')
    flag('images_dir', str, 'Folder of images of your own.')
    flag('annotations_dir', str, 'Folder of their annotations, each with the '
         'name of its image.')
    flag('test_images_dir', str, 'Folder of test images, if any.')
    flag('test_annotations_dir', str, 'Folder of their annotations.')
    flag('sample', False, 'Prepare synthetic images, to try the program.')
    folds = [*map(str, range(store.FOLDS)), store.TRAIN_ON_ALL]
    flag('classes', list, 'Classes or layers of outlines that are nuclei, '
         'NAME,NAME; all if not given.')
    flag('fold', '0', 'Which quarter of the training images to validate on; '
         f'{store.TRAIN_ON_ALL}: train on all.', values=folds)
    flag('validation', str, 'Which training images to validate on instead: '
         "NAME,NAME, 'PATTERN*' or a text file of names.")
    flag = functools.partial(define, 'prepare, predict')
    flag('magnification', float, 'Magnification of the objective; default: '
         'what the file states, else 40. Images are resampled to 40x for the '
         'networks.', 2, 200)
    flag('microns_per_pixel', float, 'The same, as micrometres per pixel; '
         '0.25 is 40x.', 0.05, 5)
    flag = functools.partial(define, 'train, eval, predict, export')
    flag('net', str, 'The network.', values=nets.NETS)
    flag('model_dir', 'checkpoints', 'Folder of the model folders; the name '
         'of the network is appended.')
    flag('width', int, 'Filters of the first layer; default for a new '
         f'network: {nets.WIDTH}.', 1, nets.MAX_WIDTH)
    flag('output_stride', int, "Stride of DeepLabV3's encoder, 8 or 16; "
         'default for a new network: 8.', 1)
    flag = functools.partial(define, 'train, eval, predict')
    flag('accelerate', 'auto', 'Faster arithmetic on a CPU: XLA on TensorFlow '
         '1.15, bfloat16 on 2.15; auto: where it pays, XLA only in training.',
         values=('auto', 'on', 'off'))
    flag = functools.partial(define, 'train')
    flag('init_checkpoint', str, 'A weights.h5 to start from.')
    flag('steps', int, 'Total steps, earlier runs included; default: '
         f'{TrainConfig.steps}, or {INIT_STEPS} with --init_checkpoint.', 1)
    flag('batch_size', TrainConfig.batch_size, 'Crops in a step.', 1, 1024)
    flag('crop_size', TrainConfig.crop_size, 'Side of the training crops, '
         f'pixels: at most {store.PATCH_SIZE}, a multiple of 16 (DeepLabV3: '
         '8).', 32)
    flag('learning_rate', float, 'Peak learning rate of Adam; '
         f'{TrainConfig.learning_rate}, or {INIT_LEARNING_RATE} with '
         '--init_checkpoint.', 1e-7, 1)
    flag('warmup_steps', TrainConfig.warmup_steps, 'Steps until the peak '
         'learning rate; more than a quarter of --steps counts as a tenth.', 0)
    flag('evaluate_every', TrainConfig.evaluate_every, 'Steps between '
         'checkpoints, each evaluated on the validation images.', 1)
    flag('augment_threads', TrainConfig.augment_threads,
         'Threads that augment; with 1 a training on a CPU can be repeated.',
         1, 64)
    flag = functools.partial(define, 'eval, predict')
    flag('split', 'validation', 'Which images of --data_dir eval measures, or '
         'predict takes instead of --images.', values=store.SPLITS)
    flag('threshold', THRESHOLD, 'A pixel above this probability is nucleus; '
         f'in gaps between nuclei, above {GAP_THRESHOLD} times it.', 0, 1)
    flag('min_area', MIN_AREA, 'Area in square micrometres below which '
         'a piece is debris, not a nucleus.', 0, 1000)
    flag('splitting', MIN_HEIGHT, 'Lower values separate more nuclei '
         '(docs/nuclei.md).', 0, 100)
    flag('average', True, 'Test-time augmentation: average over the four '
         'right-angle rotations; --noaverage takes a third of the time.')
    flag('max_pixels', MAX_TILE_PIXELS, 'Pixels of a tile or block that the '
         'network sees at once; lower it to save memory.', 1)
    flag = functools.partial(define, 'predict')
    flag('images', str, "Images or slides: a file, a folder or a quoted "
         "pattern, 'DIR/*.tif'.")
    define('eval, predict, export', 'output_dir', str, 'Where to write; if '
           'not given, the model folder, predictions/NET or exported/NET.')
    flag('outputs', list(OUTPUTS), f'Which files, of {",".join(OUTPUTS)}; '
         'of a slide only csv and geojson.')
    flag('overwrite', False, 'Predict finished images again, and replace '
         'results of other settings.')
    flag('tissue', 'auto', 'Where to search a slide: in its tissue (auto) '
         'or everywhere (all).', values=('auto', 'all'))
    flag('max_whole_pixels', MAX_WHOLE_PIXELS, 'Tiled TIFF and SVS of more '
         'pixels than this are slides, predicted block by block.', 1)
    flag('shard', tuple, 'Do part K of N, for example 2/8, of all images and '
         'blocks of slides. Other processes do the other parts.')
    flag('dask', str, 'Predict in workers of Dask: local starts one for each '
         'core; ADDRESS uses a running scheduler.')
    flags.register_validator(
        'outputs', lambda names: names and set(names) <= set(OUTPUTS),
        f'give some of {",".join(OUTPUTS)}, with commas between')
    flags.register_validator(
        'classes', lambda names: names is None or names and all(names),
        'give names with commas between, or omit it for all classes')
    flags.register_validator(
        'model_dir', lambda name: not re.search(r'[][*?\\]|://', name),
        r'TensorFlow takes a name with [, ], *, ? or \ for a pattern, and one '
        'with :// for an address; choose another name')
    for name in ('data_dir', 'model_dir', 'init_checkpoint', 'classes'):
        flags.register_validator(
            name, lambda value: not re.search('[\ud800-\udfff]',
                                              ''.join(value or '')),
            'TensorFlow and HDF5 take only names in UTF-8; choose another')


FLAGS = flags.FLAGS


def help_text():
    """Write the module's docstring and the project's flags by their modes."""
    lines = [__doc__.rstrip()]
    for group, group_flags in FLAGS.flags_by_module_dict().items():
        if group.startswith('absl'):
            continue
        lines.append(f'\n--mode={group}:')
        for flag in group_flags:
            value = (','.join(flag.value) if isinstance(flag.value, list)
                     else flag.value)
            default = '' if flag.default is None else f' [{value}]'
            values = getattr(flag.parser, 'enum_values', None)
            values = f' One of {", ".join(values)}.' if values else ''
            lines.append(f'  --{flag.name:<16} {flag.help}{values}{default}')
    return '\n'.join(lines)


def parse_flags(argv):
    """Parse the command line; a wrong flag ends in one line."""
    if '--help' in argv or '-h' in argv:
        print(help_text())
        sys.exit(0)
    try:
        rest = FLAGS(argv)
    except (flags.Error, ValueError) as error:
        sys.exit(f'error: {error}; python main.py --help lists the flags')
    if len(rest) > 1:
        if rest[1] in MODES:
            sys.exit(f'error: {rest[1]}: give it as --mode={rest[1]}')
        sys.exit(f'error: {rest[1]}: not a flag; quote patterns, as in '
                 "--images='DIR/*.tif'")
    return rest


def require(*names):
    """Return the values of flags that the mode needs; refuse their lack."""
    for name in names:
        if FLAGS[name].value is None:
            raise InputError(f'--{name}: missing; python main.py --help says '
                             'what it takes')
    return [FLAGS[name].value for name in names]


def refuse(names, reason):
    """Refuse flags that were given though nothing would read them."""
    for name in names:
        if not FLAGS[name].using_default_value:
            raise InputError(f'--{name}: {reason}; omit it')


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
        refuse(('magnification', 'microns_per_pixel', 'classes'),
               'not with --sample, whose images are made at 40x')
        data = preparing.find_sample(FLAGS.seed)
    elif own:
        require('images_dir', 'annotations_dir')
        test_dirs = None
        if FLAGS.test_images_dir or FLAGS.test_annotations_dir:
            test_dirs = require('test_images_dir', 'test_annotations_dir')
        data = preparing.find_own(FLAGS.images_dir, FLAGS.annotations_dir,
                                  test_dirs, microns_per_pixel,
                                  FLAGS.classes or ())
    else:
        data = preparing.find_monuseg(FLAGS.monuseg_dir, microns_per_pixel,
                                      FLAGS.classes or ())
    validation = []
    if FLAGS.validation is not None:
        refuse(['fold'], '--validation already chooses the validation images')
        validation = read_names(FLAGS.validation)
    skipped = preparing.prepare(FLAGS.data_dir, data, FLAGS.seed, FLAGS.fold,
                                validation)
    if skipped:
        progress.say(f'{progress.counted(len(skipped), "image")} skipped: '
                     f'{skipped[0]}' + (' ...' if skipped[1:] else ''))
    return 1 if skipped else 0


def asked_microns_per_pixel():
    """Return the images' micrometres per pixel, or None if no flag says it."""
    if FLAGS.magnification is None:
        return FLAGS.microns_per_pixel
    if FLAGS.microns_per_pixel is not None:
        refuse(['magnification'],
               '--microns_per_pixel already gives the resolution')
    from histology.resolution import MICRONS_AT_1X
    return MICRONS_AT_1X / FLAGS.magnification


def refuse_ignored(mode):
    """Refuse flags that the mode does not read."""
    for group, group_flags in FLAGS.flags_by_module_dict().items():
        for flag in group_flags:
            if (flag.present and not group.startswith('absl')
                    and mode not in group.split(', ')):
                raise InputError(f'--{flag.name}: --mode={mode} does not read '
                                 f'it, only {group}; omit it')


def accelerates(xla_pays):
    """Say whether to run the network accelerated; see `nets.tf1`."""
    from nets.tf1 import acceleration_pays

    return FLAGS.accelerate == 'on' or (
        FLAGS.accelerate == 'auto' and acceleration_pays(xla_pays))


def train(folder):
    """--mode=train; return the exit status, None where it is 0."""
    from training import cluster, loop

    asked = {field.name: FLAGS[field.name].value
             for field in dataclasses.fields(TrainConfig)
             if field.name in FLAGS}
    asked['accelerate'] = accelerates(
        getattr(nets.module_of(FLAGS.net), 'XLA_PAYS', True))
    stopped_by = loop.train(asked, cluster.task(folder))
    if stopped_by:
        print(f'stopped; the same command goes on from {folder}',
              file=sys.stderr)
        return 128 + stopped_by
    print(f'trained: {folder}')


def refuse_trained_on(record, folder, file):
    """Refuse to measure on images that were trained on, except --split=train.

    The record is of the network in the folder, the file an open store.
    """
    if FLAGS.split == 'train':
        return
    remedy = 'Measure'
    if record['data_fold'] != store.TRAIN_ON_ALL:
        division = division_text(record['data_seed'], record['data_fold'])
        remedy = f'Prepare with {division} as for the training, measure'
    for seen, who, first in (
            (record['trained_on'], f'the network in {folder} was', remedy),
            (record['seen'] or (), f'the starting weights of {folder} were',
             'Train without --init_checkpoint, measure')):
        known = store.names_among(file, seen)
        if known:
            more = f' and {progress.counted(len(known) - 1, "more image")}'
            raise InputError(
                f'{file.filename}: holds {known[0]}'
                f'{more if known[1:] else ""}, which {who} trained on. '
                f'{first} on other images, or give --split=train')


def load_predictor(folder):
    """Load the Predictor of a model folder, and print what it is."""
    predictor = Predictor.load(
        folder, FLAGS.net, FLAGS.width, FLAGS.output_stride,
        # XLA would compile the network for each size of image.
        accelerates(xla_pays=False), threshold=FLAGS.threshold,
        max_pixels=FLAGS.max_pixels, average=FLAGS.average,
        min_area=FLAGS.min_area, splitting=FLAGS.splitting)
    announce(predictor.record, predictor.folder, predictor.precision)
    return predictor


def announce(record, folder, precision):
    """Print which network is used, on what device, in what precision."""
    from nets.tf1 import device_line, tf

    whose = ('shipped with the code' if saved.is_shipped(folder)
             else 'your own')
    network = (f'{whose}, trained on {record["data_source"]}, step '
               f'{record["step"]}')
    if record.get('init_checkpoint'):
        network += f', from weights trained on {record["init_data_source"]}'
    if record['step'] == 0:  # only of --init_checkpoint
        network = (f'the starting weights {record["init_checkpoint"]}, '
                   f'trained on {record["init_data_source"]}, step '
                   f'{record["init_step"]}; no step of your training was '
                   'better')
    print(f'{folder}: {record["net"]}, {network}; TensorFlow '
          f'{tf.__version__}; {device_line()}, {precision}', flush=True)


def open_split():
    """Open the store that --data_dir and --split name."""
    path = store.store_path(FLAGS.data_dir, FLAGS.split)
    if not os.path.exists(path) and os.path.exists(
            store.store_path(FLAGS.data_dir, 'train')):
        raise InputError(f'--split={FLAGS.split}: {FLAGS.data_dir} has no '
                         f'{FLAGS.split} images; give another --split or '
                         'prepare again')
    return store.open_store(path)


def evaluate(folder):
    """--mode=eval."""
    import h5py
    import numpy as np

    from eval import curves, report
    from eval import evaluate as evaluation
    from nets.tf1 import tf

    with open_split() as file:
        predictor = load_predictor(folder)
        folder = predictor.folder
        output_dir = FLAGS.output_dir or folder
        flags_read = {name: FLAGS[name].value for name in (
            'net', 'model_dir', 'data_dir', 'split', 'threshold', 'average',
            'max_pixels', 'accelerate', 'min_area', 'splitting')}
        if FLAGS.output_dir:
            report.check_output_dir(output_dir, FLAGS.split, flags_read)
        elif not os.access(folder, os.W_OK):
            raise InputError(f'{folder}: cannot be written to, and eval '
                             'writes its results there; give --output_dir')
        refuse_trained_on(predictor.record, folder, file)
        results = evaluation.evaluate(
            store.whole_images(file), store.image_names(file), predictor,
            os.path.join(output_dir, f'{FLAGS.split}_pictures'))
        settings = {
            'source': store.attributes(file)['source'],
            'config': predictor.record,
            'flags': flags_read,
            'precision': predictor.precision,
            'versions': {'python': sys.version.split()[0],
                         'tensorflow': tf.__version__,
                         'numpy': np.__version__, 'h5py': h5py.__version__}}
        report.write_results(output_dir, FLAGS.split, results, settings)
    print(f'{settings["source"]}, {FLAGS.split} images')
    print(report.format_table(results))
    drawn = not FLAGS.output_dir and curves.plot_curves(folder)
    print(f'evaluated: {os.path.join(output_dir, FLAGS.split)}.json, .csv and '
          '_pictures/' + (', curves.png' if drawn else ''))


def own_or_shipped(folder):
    """Return the user's model folder, or else the one shipped."""
    from training import checkpoints

    folder = saved.find_folder(folder)
    if (FLAGS['model_dir'].using_default_value
            and not checkpoints.all_checkpoints(folder)
            and not saved.holds_weights(folder)):
        return os.path.join(saved.PRETRAINED, FLAGS.net)
    return folder


def export(folder):
    """--mode=export."""
    from nets import export as exporting

    output_dir = FLAGS.output_dir or os.path.join('exported', FLAGS.net)
    exporting.check_output_dir(output_dir)
    folder = own_or_shipped(folder)
    session, model, record, _ = saved.load_network(
        folder, FLAGS.net, FLAGS.width, FLAGS.output_stride)
    announce(record, folder, 'float32')
    differences = exporting.export(
        session, model, record, output_dir,
        LICENCE if saved.is_shipped(folder) else None)
    for name, difference in differences.items():
        print(f'{name}: the probability differs by at most {difference:.1g}')
    print(f'exported: {output_dir}'
          + ('' if exporting.has_onnx() else '; without ONNX files, for which '
             f'run "{exporting.SET_UP}" and export again'))


def predict(folder):
    """--mode=predict; return the exit status: 1 if images are skipped."""
    from_store = not FLAGS['split'].using_default_value
    has_images = FLAGS.images is not None
    if from_store == has_images:
        raise InputError('--images: give either the images to predict, or '
                         '--split for the images of a store in --data_dir')
    if from_store:
        refuse(('magnification', 'microns_per_pixel', 'shard', 'dask',
                'tissue', 'max_whole_pixels'),
               'not with --split, which predicts images of a store, at 40x '
               'already')
    else:
        refuse(['data_dir'], 'predict reads it only with --split')
    if FLAGS.shard:
        refuse(['dask'], 'not with --shard')
    microns_per_pixel = asked_microns_per_pixel()
    from prediction.predict import predict_files, predict_store
    from prediction.sources import find_images
    if FLAGS.dask:
        from prediction import workers

    output_dir = FLAGS.output_dir or os.path.join('predictions', FLAGS.net)
    folder = own_or_shipped(folder)
    if from_store:
        with open_split() as file:
            skipped = predict_store(file, output_dir, load_predictor(folder),
                                    FLAGS.outputs, FLAGS.overwrite)
    else:
        paths = find_images(FLAGS.images)
        skipped = predict_files(
            paths, output_dir, load_predictor(folder), microns_per_pixel,
            FLAGS.outputs, FLAGS.tissue == 'all', FLAGS.max_whole_pixels,
            FLAGS.overwrite, FLAGS.shard or (0, 1),
            FLAGS.dask and functools.partial(workers.results, FLAGS.dask))
    progress.say(f'predicted: {os.path.join(output_dir, "index.html")}'
                 + (f'; {progress.counted(len(skipped), "image")} skipped or '
                    f'incomplete, as {skipped[0]}' if skipped else ''))
    return 1 if skipped else 0


def run_mode():
    """Run the mode that was asked for; return the exit status or None."""
    require('mode')
    refuse_ignored(FLAGS.mode)
    if FLAGS.mode == 'prepare':
        return prepare()
    require('net')
    folder = os.path.join(FLAGS.model_dir, FLAGS.net)
    above, name = os.path.split(os.path.normpath(FLAGS.model_dir))
    if name == FLAGS.net and any(
            os.path.exists(os.path.join(FLAGS.model_dir, file))
            for file in (saved.WEIGHTS_FILE, saved.CONFIG_FILE)):
        raise InputError(f'--model_dir={FLAGS.model_dir}: holds a network '
                         "itself; the program appends the network's name: "
                         f'give --model_dir={above or os.curdir}')
    strides = nets.output_strides(FLAGS.net)
    if FLAGS.output_stride not in (None, *strides):
        raise InputError(
            f'--output_stride={FLAGS.output_stride}: {FLAGS.net} '
            + (f'takes {" or ".join(map(str, strides))}' if strides
               else 'has no output stride') + '; omit the flag')
    functions = {'train': train, 'eval': evaluate, 'predict': predict,
                 'export': export}
    return functions[FLAGS.mode](folder)


def main(_):
    """Run the mode; return the exit status, or a line for stderr.

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
        if number is not None:
            print('stopped', file=sys.stderr)
            return 128 + number
        if isinstance(error, InputError):
            return f'error: {error}'
        if isinstance(error, ModuleNotFoundError):
            return advice_for_missing(error)
        if 'No usable temporary directory' in str(error):
            return f'error: {error.strerror}; make room there, or set TMPDIR'
        if isinstance(error, MemoryError) or (
                'OOM when allocating' in str(error)):  # TensorFlow's, of GPUs
            text = progress.one_line(str(error))
            return (f'error: not enough memory ({text}); a lower --max_pixels '
                    '(predict, eval) or --batch_size (train) needs less')
        raise


def run_from_shell():
    """Run the program; end quietly if its output is a pipe that closes."""
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, 'w'))
    # As stderr: names of files may be no UTF-8.
    sys.stdout.reconfigure(errors='backslashreplace')
    define_flags()
    # absl would show what other packages note, as matplotlib when it first
    # lists the fonts.
    logging.set_verbosity(logging.WARNING)
    try:
        try:
            app.run(main, flags_parser=parse_flags)
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # Python would flush once more, and complain.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        if error.errno == errno.ENOSPC:
            sys.exit('error: stdout: no space left for the output; make room')
        os.dup2(nothing, 2)
        sys.exit(128 + signal.SIGPIPE)


if __name__ == '__main__':
    run_from_shell()
