"""The weights of a trained network and the record beside them, as files."""
import contextlib
import functools
import json
import os
import re
import shlex

import nets
from histology.files import InputError
from nets.hdf5 import HDF5_ERRORS, open_hdf5

# Model folders that come with the code.
PRETRAINED = os.path.join(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))), 'checkpoints', 'pretrained')
CONFIG_FILE = 'config.json'
WEIGHTS_FILE = 'weights.h5'
# Datasets of it that hold the record: today's, and that of early versions.
RECORD_NAMES = ('config', 'network')
BEST_RECORD = os.path.join('best', 'best.json')
# What one network means: it cannot change on resuming.
NETWORK = ('net', 'width', 'output_stride', 'normalisation')
# What a record must say.
RECORDED = (*NETWORK, 'data_source', 'data_digest', 'data_seed', 'data_fold',
            'trained_on')


def read_json(path):
    """The dict in a JSON file that training wrote.

    Raises:
        InputError: it is absent, damaged, or holds something else.
    """
    try:
        with open(path) as file:
            content = json.load(file)
        if not isinstance(content, dict):
            raise ValueError('holds no names and values')
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: cannot be read ({error}); train again into '
                         'another --model_dir') from error
    return content


def check_asked(record, path, net, width=None, output_stride=None,
                needed=RECORDED, flag='model_dir'):
    """Refuses another network than asked for.

    Args:
        record: dict, as read.
        path: of the file that it was read from.
        net: the net asked for.
        width: the width asked for, or None.
        output_stride: likewise.
        needed: names that the record must have.
        flag: that led to the record, without dashes.

    Raises:
        InputError: something is missing in `record`, or differs.
    """
    for key in needed:
        if key not in record:
            raise InputError(f'{path}: says nothing of {key}; choose another '
                             f'--{flag}')
    asked = {'net': net, 'width': width, 'output_stride': output_stride,
             'normalisation': nets.NORMALISATION}
    for key, value in asked.items():
        if value is not None and record[key] not in (value, None):
            leave_out = (f'leave out --{key} or '
                         if key in ('width', 'output_stride') else '')
            raise InputError(
                f'{path}: of a network trained with {key} {record[key]}, not '
                f'{value}; {leave_out}choose another --{flag}')


def all_checkpoints(folder):
    """Path prefixes of the checkpoints in a model folder, by step."""
    if not os.path.isdir(folder):
        return []
    # TensorFlow writes a checkpoint's index last.
    return sorted((os.path.join(folder, name[:-len('.index')])
                   for name in os.listdir(folder)
                   if re.fullmatch(r'model\.ckpt-\d+\.index', name)),
                  key=checkpoint_step)


def holds_weights(folder):
    """Says whether a model folder holds weights.h5."""
    return os.path.exists(os.path.join(folder, WEIGHTS_FILE))


def is_shipped(folder):
    """Says whether a model folder came with the code."""
    return os.path.realpath(folder).startswith(
        os.path.realpath(PRETRAINED) + os.sep)


def record_of_weights(path):
    """The record that `write_weights` wrote beside the weights, a dict.

    Raises:
        InputError: the file is not one that training wrote.
    """
    remedy = 'copy it again or train again'
    with open_hdf5(path, remedy, remedy) as file:
        try:
            name = next((name for name in RECORD_NAMES if name in file),
                        RECORD_NAMES[0])
            record = json.loads(file[name][()])
            return dict(record, step=record['step'])
        except HDF5_ERRORS as error:
            raise InputError(
                f'{path}: not whole, or not written by this program '
                f'({str(error).splitlines()[0]}); {remedy}') from error


def checkpoint_step(checkpoint):
    """The global step in the path prefix of a checkpoint."""
    return int(checkpoint.rsplit('-', 1)[1])


def read_best(folder):
    """The record of a model folder's best checkpoint, or None.

    A dict: `checkpoint` (file name prefix within best/), its `step` and
    validation metrics, and `evaluated`, the last step that was evaluated.
    """
    path = os.path.join(folder, BEST_RECORD)
    if not os.path.exists(path):
        return None
    best = read_json(path)
    for key in ('checkpoint', 'step', 'f1', 'evaluated'):
        if key not in best:
            raise InputError(f'{path}: says nothing of {key}; train again '
                             'into another --model_dir')
    name = str(best['checkpoint'])
    if os.path.basename(name) != name:
        raise InputError(f'{path}: names a checkpoint outside its folder '
                         f'({name}); train again into another --model_dir')
    return best


@contextlib.contextmanager
def model_session(record, session_proto, accelerate=False):
    """A network in a graph and session of its own, without weights yet.

    Args:
        record: dict of `net`, `width` and `output_stride`.
        session_proto: the session's tf.ConfigProto.
        accelerate: whether the network runs by XLA, which compiles it anew
            for each size of image, or in bfloat16; see `tf1`.

    Yields:
        (session, Keras model).
    """
    from nets.tf1 import tf  # in functions, for a fast start of main.py
    with tf.Graph().as_default(), tf.Session(config=session_proto) as session:
        tf.keras.backend.set_session(session)
        yield session, build(record, accelerate)


def restore_best(folder, model):
    """Reads a model folder's best checkpoint into a model of `model_session`.

    Returns:
        The record of `read_best`.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from nets.tf1 import tf
    best = read_best(folder)
    if best is None:
        raise InputError(f'{folder}: holds no evaluated checkpoint; train on '
                         'with the same --mode=train command')
    path = os.path.join(folder, 'best', best['checkpoint'])
    try:
        tf.train.Saver(model.weights).restore(tf.get_default_session(), path)
    except (tf.errors.OpError, ValueError) as error:
        if read_best(folder) != best:
            # A training has found a better one meanwhile.
            return restore_best(folder, model)
        raise InputError(f'{path}: cannot be restored '
                         f'({str(error).splitlines()[0]}); train again '
                         'into another --model_dir') from error
    return best


def restore_weights(path, model):
    """Reads a file of `write_weights` into a model of `model_session`.

    Raises:
        InputError: it cannot be read.
    """
    try:
        model.load_weights(path)
    except HDF5_ERRORS as error:
        raise InputError(f'{path}: damaged ({str(error).splitlines()[0]}); '
                         'copy it again or train again') from error


def load_network(folder, net=None, width=None, output_stride=None,
                 accelerate=False):
    """The trained network of a model folder, in a session of its own.

    Args:
        folder: the model folder.
        net, width, output_stride: as for `check_asked`.
        accelerate: as for `model_session`.

    Returns:
        (session; Keras model, from float32 [N, H, W, 3] in [0, 1] to the
        probability float32 [N, H, W, 1]; the record of the training with the
        `step` of the weights).

    Raises:
        InputError: there is no such network, another one, or it cannot be
            read.
    """
    from nets.tf1 import session_config, tf
    path = os.path.join(folder, WEIGHTS_FILE)
    has_best = os.path.exists(os.path.join(folder, BEST_RECORD))
    config = os.path.join(folder, CONFIG_FILE)
    if os.path.exists(config) and (
            has_best or all_checkpoints(folder) and not holds_weights(folder)):
        record = read_json(config)
        check_asked(record, config, net, width, output_stride)
        restore = functools.partial(restore_best, folder)
    elif holds_weights(folder):
        record = record_of_weights(path)
        check_asked(record, path, net, width, output_stride)
        restore = functools.partial(restore_weights, path)
    else:
        raise InputError(
            f'{folder}: holds no trained network; train one with python '
            f'main.py --mode=train --net={net} '
            f'--model_dir={shlex.quote(os.path.dirname(folder) or os.curdir)}'
            + (', or use the one that came with the code by --model_dir='
               f'{os.path.relpath(PRETRAINED)}'
               if holds_weights(os.path.join(PRETRAINED, net)) else ''))
    session = tf.Session(graph=tf.Graph(), config=session_config(accelerate))
    with session.graph.as_default(), session.as_default():
        tf.keras.backend.set_session(session)
        model = build(record, accelerate)
        best = restore(model)
    if best:
        record['step'] = best['step']
    return session, model, record


def build(record, accelerate=False):
    """The Keras model of a record's `net`, `width` and `output_stride`."""
    from nets.tf1 import acceleration_scope
    with acceleration_scope(accelerate):
        return nets.build(record['net'], record['width'],
                          record['output_stride'])
