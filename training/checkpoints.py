"""What training leaves in a model folder, and how it is read back.

    config.json        what the training was asked for; see `records`
    model.ckpt-STEP.*  the latest checkpoints, to resume from
    best/              the checkpoint with the best validation F1 ...
    best/best.json     ... and which it is
    weights.h5         its Keras weights, with all that config.json says

A folder with weights.h5 alone is enough to evaluate and to predict.
"""
import collections
import contextlib
import errno
import glob
import json
import math
import os
import re
import sys

import h5py
import numpy as np

from histology.files import (
    InputError,
    atomic_write,
    locked,
    remove_matching,
    write_json,
)
from nets import saved
from nets.hdf5 import reserve_space
from nets.saved import BEST_RECORD, CONFIG_FILE, WEIGHTS_FILE
from nets.tf1 import tf
from training.records import read_record

# What TensorFlow writes before it is whole; the numbers are random.
RANDOM = 32 * '[0-9a-f]'
TEMPORARY = ('model.ckpt-*_temp', f'model.ckpt-*_temp_{RANDOM}',
             f'checkpoint.tmp{RANDOM}', f'graph.pbtxt.tmp{RANDOM}')

# The files of a checkpoint in best/, as keep_best writes them.
BEST_FILE = re.compile(r'(model\.ckpt-\d+(?:-again)?)'
                       r'\.(?:index|meta|data-\d+-of-\d+)')


def holds_training(folder):
    """Says whether a training began in a model folder."""
    # One that failed before its first checkpoint leaves config.json alone.
    return bool(saved.all_checkpoints(folder)) or os.path.exists(
        os.path.join(folder, BEST_RECORD))


def record_to_resume(folder, net, width=None, output_stride=None):
    """The record of the training that a model folder holds, or None.

    Args:
        folder: the model folder.
        net, width, output_stride: as for `records.check_asked`.

    Raises:
        InputError: it holds another network than asked for, or one that
            training would overwrite.
    """
    if saved.is_shipped(folder):
        raise InputError(f'{folder}: keeps the networks that came with the '
                         'code; choose another --model_dir')
    if holds_training(folder):
        if not os.path.exists(os.path.join(folder, CONFIG_FILE)):
            raise InputError(
                f'{folder}: trained by an earlier version, without '
                f'{CONFIG_FILE}; choose another --model_dir or move the '
                'folder away (its weights.h5 still predicts)')
        if saved.holds_weights(folder) and saved.read_best(folder) is None:
            raise InputError(
                f'{folder}: best/ has gone, and training would replace '
                'weights.h5 by what may be worse; move weights.h5 elsewhere')
        return read_record(folder, net, width, output_stride)
    if saved.holds_weights(folder):
        raise InputError(f'{folder}: holds weights.h5 alone, which training '
                         'would replace; choose another --model_dir')
    path = os.path.join(folder, CONFIG_FILE)
    if os.path.exists(path) and 'net' not in saved.read_json(path):
        raise InputError(f'{path}: not written by this program; move it or '
                         'choose another --model_dir')
    return None


@contextlib.contextmanager
def written_to(folder, lock=True):
    """Guards a model folder while a training writes to it.

    Args:
        folder: the model folder, made if absent.
        lock: whether to keep out others that lock it, until the block or the
            process ends.

    Raises:
        InputError: another training writes there, or there is no room.
    """
    with locked(folder, 'model_dir') if lock else contextlib.nullcontext():
        try:
            yield
        except tf.errors.OpError as error:
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO,
                           errno.EACCES, errno.EROFS, errno.EISDIR,
                           errno.ENOTDIR):
                if os.strerror(number) in str(error):
                    raise InputError(
                        f'{folder}: cannot be written ('
                        f'{os.strerror(number)}); mend that or make room, and '
                        'the same command goes on from the last checkpoint'
                        ) from error
            raise


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
    remove_matching(folder, *TEMPORARY)
    paths = saved.all_checkpoints(folder)
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


def keep_best(folder, checkpoint, metrics):
    """Keeps a checkpoint as the best if its validation F1 is.

    Without an F1 the latest is the best, unless one has an F1.

    The record is replaced after the checkpoint's files are in place, and
    those of the former best are removed after that, so a kill at any moment
    leaves a whole best checkpoint.

    Args:
        folder: the model folder.
        checkpoint: path prefix of the checkpoint.
        metrics: dict with `step`, and the validation's floats with `f1`, or
            an `f1` of None where there are no validation images, or they
            hold no nucleus.

    Returns:
        True if it is the best so far.

    Raises:
        InputError: it holds NaN.
    """
    check_finite(checkpoint)
    former = saved.read_best(folder)
    better = (not former or former['f1'] is None
              or metrics['f1'] is not None and metrics['f1'] > former['f1'])
    record = former
    if better:
        files = files_of(checkpoint)
        if files is None:
            print(f'{checkpoint}: removed by the training before it could be '
                  'kept as the best; a higher --evaluate_every leaves the '
                  'evaluator more time', file=sys.stderr)
            return False
        name = os.path.basename(checkpoint)
        if former and name == former['checkpoint']:
            name += '-again'  # its files cannot all be replaced at once
        record = dict(metrics, checkpoint=name)
        for ending, content in files.items():
            with atomic_write(os.path.join(folder, 'best', name + ending)
                              ) as partial, open(partial, 'wb') as file:
                file.write(content)
    write_json(os.path.join(folder, BEST_RECORD),
               dict(record, evaluated=metrics['step']))
    for name in os.listdir(os.path.join(folder, 'best')):
        kept = BEST_FILE.fullmatch(name)
        if kept and kept.group(1) != record['checkpoint']:
            os.remove(os.path.join(folder, 'best', name))
    return better


def files_of(checkpoint):
    """The files of a checkpoint, a dict of the names' endings to bytes.

    None where one of them has gone: TensorFlow keeps only the latest
    checkpoints.
    """
    files = {}
    for path in glob.glob(glob.escape(checkpoint) + '.*'):
        try:
            with open(path, 'rb') as file:
                files[path[len(checkpoint):]] = file.read()
        except FileNotFoundError:
            return None
    # .data-00000-of-00002 and so on. The first one of a cluster that started
    # from weights is there in one part, and then in one for each server.
    parts = collections.Counter(
        int(ending.rsplit('-', 1)[1]) for ending in files
        if ending.startswith('.data-'))
    if '.index' not in files or not parts or any(
            total != found for total, found in parts.items()):
        return None
    return files


def check_finite(checkpoint):
    """Refuses a checkpoint of a training that diverged in its last step.

    Raises:
        InputError: it holds NaN.
    """
    flaw = checkpoint_flaw(checkpoint)
    if flaw and flaw.endswith('NaN'):
        raise InputError(f'{checkpoint}: {flaw}; go on from the checkpoint '
                         'before with a lower --learning_rate')


def record_evaluation(folder, checkpoint, result):
    """Keeps an evaluated checkpoint if it is the best, and prints a line.

    Args:
        folder: the model folder.
        checkpoint: path prefix of the checkpoint.
        result: what `tf.estimator.Estimator.evaluate` returned.

    Raises:
        InputError: the checkpoint holds NaN.
    """
    metrics = {key: float(value) for key, value in result.items()
               if key != 'global_step'}
    metrics['step'] = step = int(result['global_step'])
    former = saved.read_best(folder)
    # The masks hold no nucleus. One false pixel makes an F1 of 0 out of none,
    # and would win over a network that is right.
    undefined = math.isnan(metrics['recall'])
    if undefined:
        metrics.update(f1=None, iou=None)
    best = keep_best(folder, checkpoint, metrics)
    if undefined and (not former or former['f1'] is not None):
        print('validation.h5: F1 is undefined, since its masks hold no '
              'nucleus; the latest checkpoint is kept instead of the best')
    f1, iou, aji, pq = (
        '-' if metrics[name] is None or math.isnan(metrics[name])
        else f'{metrics[name]:.4f}' for name in ('f1', 'iou', 'aji', 'pq'))
    print(f'step {step}: validation loss {metrics["loss"]:.3f}, accuracy '
          f'{metrics["accuracy"]:.3f}, F1 {f1}, IoU {iou}, AJI {aji}, PQ {pq}'
          + (' (best so far)' if best and not undefined else ''), flush=True)


def write_weights(folder):
    """Writes the best checkpoint's Keras weights to `weights.h5`.

    The file's dataset `config` holds, as JSON, the record of config.json, the
    step and the validation F1; an attribute could not hold the digests of
    many images. Nothing is done where they are there already.
    """
    path = os.path.join(folder, WEIGHTS_FILE)
    record = saved.read_json(os.path.join(folder, CONFIG_FILE))
    best = saved.read_best(folder)
    record.update(step=best['step'], f1=best['f1'])
    # One that is absent or damaged is written anew.
    with contextlib.suppress(InputError):
        if saved.record_of_weights(path) == record:
            return
    # Keras reads weights layer by layer; to prune the graph, and not to
    # optimise it, makes each of these runs cheap.
    pruned = tf.ConfigProto(
        graph_options=tf.GraphOptions(place_pruned_graph=True))
    with saved.model_session(record, pruned) as (_, model):
        saved.restore_best(folder, model)
        text = json.dumps(record)
        with atomic_write(path) as partial:
            reserve_space(partial, 4 * model.count_params() + len(text))
            model.save_weights(partial)
            with h5py.File(partial, 'a') as file:
                file[saved.RECORD_NAMES[0]] = text


