"""What training leaves in a model folder, and how it is read back.

    config.json        what the training does; see `records`
    model.ckpt-STEP.*  the latest checkpoints, to resume from
    weights.h5         the weights with the best validation F1, and all that
                       config.json says; see `nets.saved`

A folder with weights.h5 alone is enough to evaluate and to predict.
"""
import contextlib
import errno
import glob
import math
import os
import re

from eval import curves
from histology.files import DISK_ERRORS, InputError, locked, remove_matching
from histology.progress import say
from nets import saved
from nets.saved import CONFIG_FILE, WEIGHTS_FILE
from nets.tf1 import tf
from training.records import read_record

CHOOSE = 'choose another --model_dir'
# What TensorFlow writes before it is whole; the numbers are random.
RANDOM = 32 * '[0-9a-f]'
TEMPORARY = ('model.ckpt-*_temp', f'model.ckpt-*_temp_{RANDOM}',
             f'checkpoint.tmp{RANDOM}', f'graph.pbtxt.tmp{RANDOM}')


def all_checkpoints(folder):
    """List the path prefixes of a model folder's checkpoints, by step."""
    # TensorFlow writes a checkpoint's index last.
    paths = glob.glob(f'{glob.escape(folder)}/model.ckpt-*.index')
    return sorted((path[:-len('.index')] for path in paths
                   if re.search(r'-\d+\.index$', path)), key=checkpoint_step)


def checkpoint_step(checkpoint):
    """Read the global step in the path prefix of a checkpoint."""
    return int(checkpoint.rsplit('-', 1)[1])


def latest_step(folder):
    """Read the step of a model folder's latest checkpoint, or None."""
    latest = tf.train.latest_checkpoint(folder)
    return checkpoint_step(latest) if latest else None


def record_to_resume(folder, net, width=None, output_stride=None):
    """Read the record of the training in a model folder; None without one.

    Raises:
        InputError: the folder holds another network than asked for, see
            `saved.check_asked`, or one that training would overwrite.
    """
    config = os.path.join(folder, CONFIG_FILE)
    # Looked for first: a chief, which may be writing now, writes it last.
    begun = os.path.exists(os.path.join(folder, 'checkpoint'))
    if saved.is_shipped(folder):
        reason = 'keeps the networks that came with the code'
    elif all_checkpoints(folder):
        if os.path.exists(config):
            return read_record(folder, net, width, output_stride)
        reason = f'holds checkpoints, but no {CONFIG_FILE}'
    elif saved.holds_weights(folder):
        reason = ('holds weights.h5 but no checkpoint to go on from, and '
                  'training would replace it')
    else:
        # A training that failed before its first checkpoint leaves this.
        if os.path.exists(config):  # raises if it is another program's
            saved.read_json(config, {'net': str}, CHOOSE)
        if not begun:
            return None
        reason = 'holds the file "checkpoint", but no model.ckpt-* beside it'
    raise InputError(f'{folder}: {reason}; {CHOOSE}')


@contextlib.contextmanager
def exclusive_write(folder, lock=True):
    """Guard a model folder, made if absent, while a training writes to it.

    With `lock` it keeps out others that lock the folder.

    Raises:
        InputError: another training writes there, there is no room, or the
            folder was moved.
    """
    with locked(folder, 'model_dir') if lock else contextlib.nullcontext():
        was_there = os.path.isdir(folder)  # or the chief makes it later
        try:
            yield
        # 2.15 turns errors of TensorBoard's files into Python's.
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            if was_there and not os.path.isdir(folder):
                raise InputError(f'{folder}: is gone; bring it back, and the '
                                 'same command goes on from the last '
                                 'checkpoint') from error
            for reason in map(os.strerror, (*DISK_ERRORS, errno.EACCES)):
                if reason in str(error):
                    raise InputError(
                        f'{folder}: cannot be written ({reason}); make room '
                        'or make it writable; the same command then goes on '
                        'from the last checkpoint') from error
            raise


def read_checkpoint(prefix, remedy):
    """Read all variables of a checkpoint, a dict of names to arrays.

    Raises:
        InputError: it is absent or damaged, or holds NaN.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        values = {name: reader.get_tensor(name)
                  for name in reader.get_variable_to_shape_map()}
    # 2.15 turns some of TensorFlow's errors into Python's.
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        raise InputError(f'{prefix}: damaged ({str(error).splitlines()[0]}); '
                         f'{remedy}') from error
    saved.check_finite(values, prefix, remedy)
    return values


def latest_valid(folder):
    """Find the latest checkpoint that training can go on from, its prefix.

    Each is read whole: one that is damaged or holds NaN is passed over for
    the one before, which becomes the latest for TensorFlow too. What a killed
    training left half-written is removed.

    Raises:
        InputError: there is none that can be read.
    """
    remove_matching(folder, *TEMPORARY)
    paths = all_checkpoints(folder)
    while paths:
        try:
            read_checkpoint(paths[-1], 'taking the checkpoint before')
        except InputError as error:
            say(f'warning: {error}', error=True)
            paths.pop()
            continue
        # By name alone, the folder can be moved.
        names = [os.path.basename(path) for path in paths]
        tf.train.update_checkpoint_state(
            os.path.abspath(folder), names[-1],
            all_model_checkpoint_paths=names)
        return paths[-1]
    raise InputError(f'{folder}: holds no checkpoint that can be read; '
                     f'{CHOOSE}')


def best_record(folder):
    """Read the record in a model folder's weights.h5; None without one."""
    if not saved.holds_weights(folder):
        return None
    return saved.read_weights(
        os.path.join(folder, WEIGHTS_FILE),
        'move it elsewhere, and the same command goes on')[0]


def is_evaluated(folder, step):
    """Say whether a checkpoint was evaluated, and kept if it is the best."""
    best = best_record(folder)
    if not best or best['step'] == step:
        return bool(best)
    # One that was damaged and trained anew has an evaluation from before.
    since = os.path.getmtime(os.path.join(folder, f'model.ckpt-{step}.index'))
    return best['f1'] is not None and any(
        evaluated == step and at >= since and f1 <= best['f1']
        for at, evaluated, f1 in curves.scalar_points(
            curves.read_events(os.path.join(folder, 'eval')), 'f1'))


def keep_best(folder, weights, metrics):
    """Write weights.h5 if these weights have the best validation F1.

    Weights without an F1 are replaced by any later ones, and replace none that
    have one. Returns whether these are the best so far.

    Args:
        folder: the model folder.
        weights: dict of names to arrays, of a checkpoint.
        metrics: dict with `step`, and with `f1`: None where no validation
            image holds a nucleus.

    Raises:
        InputError: weights.h5 cannot be read or written.
    """
    former, f1 = best_record(folder), metrics['f1']
    better = (not former or former['f1'] is None
              or (f1 is not None and f1 > former['f1']))
    if better:
        record = saved.read_json(os.path.join(folder, CONFIG_FILE))
        saved.write_weights(os.path.join(folder, WEIGHTS_FILE),
                            {**record, **metrics}, weights)
    return better


def record_evaluation(folder, weights, result):
    """Keep evaluated weights if they are the best, and print a line.

    `result` is what `tf.estimator.Estimator.evaluate` returned; the rest and
    the errors are those of `keep_best`.
    """
    metrics = {key: float(value) if math.isfinite(value) else None
               for key, value in result.items() if key != 'global_step'}
    metrics['step'] = step = int(result['global_step'])
    # The masks hold no nucleus. One false pixel makes an F1 of 0 out of none,
    # and would win over a network that is right.
    undefined = metrics['recall'] is None
    if undefined:
        metrics.update(f1=None, iou=None)
        if not saved.holds_weights(folder):
            say('validation.h5: F1 is undefined, since its masks hold no '
                'nucleus; the latest checkpoint is kept instead of the best')
    best = keep_best(folder, weights, metrics)
    shown = []
    for title, digits in (('loss', 3), ('accuracy', 3), ('F1', 4), ('IoU', 4),
                          ('AJI', 4), ('PQ', 4)):
        value = metrics[title.lower()]
        shown.append(f'{title} -' if value is None
                     else f'{title} {value:.{digits}f}')
    say(f'step {step}: validation {", ".join(shown)}'
        + (' (best so far)' if best and not undefined else ''))
