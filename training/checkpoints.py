"""What training leaves in a model folder, and how it is read back.

    network.json       what the network was built with
    model.ckpt-STEP.*  the latest checkpoints, to resume from
    best/              the checkpoint with the best validation F1 ...
    best/best.json     ... and which it is
    weights.h5         its Keras weights, with all that network.json says

A folder with weights.h5 alone is enough to evaluate and to predict.
"""
import contextlib
import errno
import fcntl
import functools
import glob
import json
import os
import shutil
import sys

import h5py
import numpy as np

import nets
from input_pipeline.files import (InputError, remove_matching, reserve_space,
                                  write_json, atomic_write)
from input_pipeline.preprocessing import NORMALISATION
from nets.tf1 import acceleration_scope, session_config, tf


def describe(net, width, output_stride):
    """What must be known to build a network again, as a dict.

    The arguments are those of `nets.build`; only DeepLabV3 has an output
    stride, for the others it is None.
    """
    return {'net': net, 'width': width,
            'output_stride': output_stride if net == 'deeplabv3' else None,
            'normalisation': NORMALISATION}


def read_json(path):
    """The dict in a JSON file.

    Raises:
        InputError: the file is not one that training wrote.
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


def _holds_training(folder):
    """Says whether a training began in a model folder."""
    # One that failed before its first checkpoint leaves network.json alone.
    return os.path.exists(os.path.join(folder, 'network.json')) and any(
        glob.glob(os.path.join(glob.escape(folder), name))
        for name in ('model.ckpt-*.index', os.path.join('best', 'best.json')))


def holds_network(folder):
    """Says whether a model folder holds a network, trained there or not."""
    return (_holds_training(folder)
            or os.path.exists(os.path.join(folder, 'weights.h5')))


def network_of(folder, net, width=None, output_stride=None):
    """What the network trained in a model folder was built with.

    Args:
        folder: the model folder.
        net: the net asked for.
        width: the width asked for, or None.
        output_stride: likewise.

    Returns:
        The dict of `describe`, with that of `store.identity` of what it was
        trained on and `trained_on`, the `store.image_digests` of that, or
        None where the folder holds no network.

    Raises:
        InputError: the folder holds another network than asked for.
    """
    if not _holds_training(folder):
        return None
    path = os.path.join(folder, 'network.json')
    network = read_json(path)
    check_asked(network, path, net, width, output_stride)
    return network


def network_of_weights(path):
    """What `write_weights` wrote beside the weights, as a dict.

    Raises:
        InputError: the file is not one that training wrote.
    """
    try:
        with h5py.File(path, 'r') as file:
            return json.loads(file['network'][()])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f'{path}: not whole, or not written by this program '
                         f'({error}); copy it again or train again') from error


def check_asked(network, path, net, width, output_stride):
    """Refuses another network than asked for.

    Args:
        network: dict of `describe`, as read.
        path: of the file that it was read from.
        net, width, output_stride: as for `network_of`.

    Raises:
        InputError: something is missing in `network`, or differs.
    """
    asked = {'net': net, 'width': width, 'output_stride': output_stride,
             'normalisation': NORMALISATION,
             # Of these nothing is asked but that they are there.
             'data_seed': None, 'data_fold': None, 'trained_on': None}
    for key, value in asked.items():
        if key not in network:
            raise InputError(f'{path}: says nothing of {key}; train again '
                             'into another --model_dir')
        if value is not None and network[key] not in (value, None):
            leave_out = (f'leave out --{key} or '
                         if key in ('width', 'output_stride') else '')
            raise InputError(
                f'{os.path.dirname(path)}: holds a network trained with {key} '
                f'{network[key]}, not {value}; {leave_out}choose another '
                '--model_dir')


def build(network, images=None, training=False):
    """The Keras model that `network`, a dict of `describe`, stands for.

    `images` and `training` are as for `nets.build`, and so is what is
    returned.
    """
    return nets.build(network['net'], network['width'],
                      network['output_stride'] or nets.OUTPUT_STRIDE,
                      images, training)


def stride_of(network):
    """The pixels that must divide height and width of the input of
    `network`, a dict of `describe`."""
    return nets.stride(network['net'],
                       network['output_stride'] or nets.OUTPUT_STRIDE)


def checkpoint_step(checkpoint):
    """The global step in the path prefix of a checkpoint."""
    return int(checkpoint.rsplit('-', 1)[1])


@contextlib.contextmanager
def written_to(folder, alone=True):
    """Guards a model folder while a training writes to it.

    Args:
        folder: the model folder, made if absent.
        alone: whether other trainings that want to be alone are kept out,
            until the block or the process ends.

    Raises:
        InputError: another training writes there, or there is no room.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f'{folder}: cannot be written ({error.strerror}); '
                         'choose another --model_dir') from error
    try:
        if alone:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(f'{folder}: another training is writing there; wait '
                         'for its end or choose another --model_dir'
                         ) from error
    except tf.errors.OpError as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            if os.strerror(number) in str(error):
                raise InputError(
                    f'{folder}: cannot be written ({os.strerror(number)}); '
                    'make room, and the same command goes on from the last '
                    'checkpoint') from error
        raise
    finally:
        os.close(lock)


def latest_valid(folder):
    """The latest checkpoint that training can go on from, or None.

    Each is read whole: one that is damaged or holds NaN is passed over for
    the one before, which becomes the latest for TensorFlow too. What a killed
    training left half-written is removed.

    Returns:
        The path prefix of the checkpoint.

    Raises:
        InputError: there are checkpoints and none can be read.
    """
    remove_matching(folder, 'model.ckpt-*_temp*', '*.tmp*', '.partial-*',
                    'best/.partial-*')
    # TensorFlow writes a checkpoint's index last.
    paths = sorted((path[:-len('.index')] for path in glob.glob(
        os.path.join(glob.escape(folder), 'model.ckpt-*.index'))),
                   key=checkpoint_step)
    while paths:
        flaw = checkpoint_flaw(paths[-1])
        if flaw is None:
            # By name alone, the folder can be moved.
            names = [os.path.basename(path) for path in paths]
            tf.train.update_checkpoint_state(
                os.path.abspath(folder), names[-1],
                all_model_checkpoint_paths=names)
            return paths[-1]
        print(f'{paths.pop()}: {flaw}; looking for the one before',
              file=sys.stderr)
        if not paths:
            raise InputError(f'{folder}: none of its checkpoints can be read; '
                             'choose another --model_dir')
    return None


def checkpoint_flaw(checkpoint):
    """Says what is wrong with a checkpoint, by its path prefix, or None."""
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        for name in reader.get_variable_to_shape_map():
            if not np.isfinite(reader.get_tensor(name)).all():
                return f'{name} holds NaN'
    # 2.15 turns some of TensorFlow's errors into Python's.
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        return f'damaged ({str(error).splitlines()[0]})'
    return None


def read_best(folder):
    """The record of a model folder's best checkpoint, or None.

    A dict: `checkpoint` (file name prefix within best/), its `step` and
    validation metrics, and `evaluated`, the last step that was evaluated.
    """
    path = os.path.join(folder, 'best', 'best.json')
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


def keep_best(folder, checkpoint, metrics):
    """Keeps a checkpoint as the best if its validation F1 is, or is None.

    The record is replaced after the checkpoint's files are in place, and
    those of the former best are removed after that, so a kill at any moment
    leaves a whole best checkpoint.

    Args:
        folder: the model folder.
        checkpoint: path prefix of the checkpoint.
        metrics: dict with `step`, and the validation's floats with `f1`, or
            an `f1` of None where there are no validation images.

    Returns:
        True if it is the best so far.
    """
    former = read_best(folder)
    better = (not former or metrics['f1'] is None
              or metrics['f1'] > former['f1'])
    record = former
    if better:
        record = dict(metrics, checkpoint=os.path.basename(checkpoint))
        for source in glob.glob(glob.escape(checkpoint) + '.*'):
            target = os.path.join(folder, 'best', os.path.basename(source))
            with atomic_write(target) as partial:
                shutil.copyfile(source, partial)
    write_json(os.path.join(folder, 'best', 'best.json'),
               dict(record, evaluated=metrics['step']))
    if better and former and former['checkpoint'] != record['checkpoint']:
        for old in glob.glob(glob.escape(os.path.join(
                folder, 'best', former['checkpoint'])) + '.*'):
            os.remove(old)
    return better


@contextlib.contextmanager
def model_session(network, config, accelerate=False):
    """The network in a graph and session of its own, without weights yet.

    Args:
        network: dict of `describe`.
        config: the session's tf.ConfigProto.
        accelerate: whether the network runs by XLA, which compiles it anew
            for each size of image, or in bfloat16; see `tf1`.

    Yields:
        (session, Keras model).
    """
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        tf.keras.backend.set_session(session)
        with acceleration_scope(accelerate):
            model = build(network)
        yield session, model


def restore_best(folder, best, model):
    """Reads a model folder's best checkpoint into a model.

    Args:
        folder: the model folder.
        best: what `read_best` says of it.
        model: of `model_session`, within it.

    Raises:
        InputError: it cannot be read.
    """
    path = os.path.join(folder, 'best', best['checkpoint'])
    try:
        tf.train.Saver(model.weights).restore(tf.get_default_session(), path)
    except (tf.errors.OpError, ValueError) as error:
        raise InputError(f'{path}: cannot be restored '
                         f'({str(error).splitlines()[0]}); train again '
                         'into another --model_dir') from error


def restore_weights(path, model):
    """Reads a file of `write_weights` into a model.

    Args:
        path: of the file.
        model: of `model_session`, within it.

    Raises:
        InputError: it cannot be read.
    """
    try:
        model.load_weights(path)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f'{path}: damaged ({str(error).splitlines()[0]}); '
                         'copy it again or train again') from error


def write_weights(folder, network):
    """Writes the best checkpoint's Keras weights to `weights.h5`.

    The file's dataset `network` holds, as JSON, `network`, the step and the
    validation F1; an attribute could not hold the digests of many images.
    Nothing is done where they are those of the best checkpoint already.
    """
    path = os.path.join(folder, 'weights.h5')
    best = read_best(folder)
    described = dict(network, step=best['step'], f1=best['f1'])
    # One that is absent or damaged is written anew.
    with contextlib.suppress(InputError):
        if network_of_weights(path) == described:
            return
    # Keras reads weights layer by layer; to prune the graph, and not to
    # optimise it, makes each of these runs cheap.
    config = tf.ConfigProto(
        graph_options=tf.GraphOptions(place_pruned_graph=True))
    with model_session(network, config) as (_, model):
        restore_best(folder, best, model)
        text = json.dumps(described)
        with atomic_write(path) as partial:
            reserve_space(partial, 4 * model.count_params() + len(text))
            model.save_weights(partial)
            with h5py.File(partial, 'a') as file:
                file['network'] = text


@contextlib.contextmanager
def forward(folder, net, width=None, output_stride=None, accelerate=False):
    """The trained network of a model folder as a function.

    Args:
        folder: the model folder.
        net: the net asked for.
        width: what the network must have been built with, or None.
        output_stride: likewise.
        accelerate: as for `model_session`.

    Yields:
        (function from float32 [N, H, W, 3] in [0, 1], H and W multiples of
        the stride, to the probability float32 [N, H, W, 1]; the stride; a
        dict of what the network was built with and its step).

    Raises:
        InputError: there is no such network, another one, or it cannot be
            read.
    """
    weights = os.path.join(folder, 'weights.h5')
    network = network_of(folder, net, width, output_stride)
    if network is not None:
        best = read_best(folder)
        if best is None:
            raise InputError(
                f'{folder}: holds no evaluated checkpoint; train on with '
                f'python main.py --mode=train --net={net}')
        network['step'] = best['step']
        restore = functools.partial(restore_best, folder, best)
    elif os.path.exists(weights):
        network = network_of_weights(weights)
        check_asked(network, weights, net, width, output_stride)
        restore = functools.partial(restore_weights, weights)
    else:
        raise InputError(f'{folder}: holds no trained network; train one '
                         f'with python main.py --mode=train --net={net}')
    with model_session(network, session_config(accelerate),
                    accelerate) as (session, model):
        restore(model)
        run = session.make_callable(model.output, [model.input])
        yield run, stride_of(network), network
