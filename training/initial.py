"""The weights that a training starts from: --init_checkpoint.

They become the checkpoint of step 0, model.ckpt-0, in the new model folder,
from which TensorFlow goes on as from any other.
"""
import os
import re

import numpy as np

from histology.files import InputError
from histology.progress import say
from nets import saved
from nets.tf1 import session_config, tf
from training import records
from training.model_fn import model_fn

CHOOSE = 'choose another --init_checkpoint'
LEAST_FITTING = 0.5  # of the network's parameters; fewer: another network


def read(asked):
    """Read the weights to start from, and what they come from.

    Args:
        asked: dict of flags, see `records.resolve`. Its `init_checkpoint` is
            the path of a weights.h5, or the path prefix of a checkpoint in a
            model folder.

    Returns:
        (start: what `records.resolve` takes; weights: see `fitting`)

    Raises:
        InputError: there are none, they cannot be read, nothing tells which
            images they have seen, they are of another network than asked
            for, or few of them fit.
    """
    path = asked['init_checkpoint']
    prefix = re.sub(r'\.(index|meta|data-\d+-of-\d+)$', '', path)
    if os.path.exists(f'{prefix}.index'):
        record_path, record, weights = read_checkpoint(prefix)
    elif os.path.isdir(path):
        raise InputError(f'{path}: a folder; give its weights.h5, or one of '
                         'its checkpoints as FOLDER/model.ckpt-500')
    else:
        record_path, (record, weights) = path, saved.read_weights(path, CHOOSE)
        saved.check_finite(weights, path, CHOOSE)
    saved.check_asked(record, record_path, asked['net'], asked['width'],
                      asked['output_stride'], flag='init_checkpoint')
    return {'width': record['width'], 'output_stride': record['output_stride'],
            'init_checkpoint': path, 'init_data_source': record['data_source'],
            'init_step': record['step'],
            'seen': sorted(records.seen_images(record))}, fitting(
                path, record, weights)


def read_checkpoint(prefix):
    """Read a checkpoint: its record's path, its record and its weights.

    Raises:
        InputError: it is damaged, or there is no record of its training.
    """
    folder = os.path.dirname(os.path.abspath(prefix))
    if os.path.basename(folder) == 'best':  # of an earlier version
        folder = os.path.dirname(folder)
    path = os.path.join(folder, saved.CONFIG_FILE)
    if not os.path.exists(path):
        raise InputError(f'{prefix}: no record of its network and of the '
                         f'images that it has seen, {path}, is there; '
                         f'{CHOOSE}')
    record = saved.read_json(path)
    saved.check_record(record, path, saved.RECORDED, CHOOSE)
    weights = saved.read_checkpoint(prefix, CHOOSE)
    if 'global_step' not in weights:
        raise InputError(f'{prefix}: of no training of this program; {CHOOSE}')
    record['step'] = int(weights['global_step'])
    return path, record, {name: value for name, value in weights.items()
                          if not saved.OPTIMISER.fullmatch(name)}


def fitting(path, record, weights):
    """Choose the weights that the network has variables for.

    They fit by name and shape. A line names what is not loaded, and another
    what the network has no place for.

    Args:
        path: where the weights are from.
        record: dict, of the network.
        weights: dict of the variables' names to arrays.

    Raises:
        InputError: too little of the network would be loaded.
    """
    with tf.Graph().as_default():
        shapes = {variable.op.name: tuple(variable.shape.as_list())
                  for variable in saved.build(record).weights}
    fit = {name: value for name, value in weights.items()
           if value.shape == shapes.get(name)}
    loaded, parameters = (sum(map(np.prod, found)) for found in (
        [shapes[name] for name in fit], shapes.values()))
    if loaded < LEAST_FITTING * parameters:
        raise InputError(
            f'{path}: fits only {loaded} of the {parameters} parameters of '
            f'{record["net"]}, by name and shape; '
            f'{CHOOSE}')
    for what, names in (('not loaded', set(shapes) - set(fit)),
                        ('not used', set(weights) - set(shapes))):
        if names:
            say(f'{path}: {what}: {", ".join(sorted(names))}')
    return fit


def write_checkpoint(config, folder, weights):
    """Write model.ckpt-0: weights, the rest fresh, and a fresh optimiser.

    Args:
        config: TrainConfig.
        folder: the model folder.
        weights: of `fitting`.
    """
    sides = [config.batch_size, config.crop_size, config.crop_size]
    with tf.Graph().as_default(), tf.Session(
            config=session_config(False)) as session:
        tf.set_random_seed(config.seed)
        model_fn(tf.zeros([*sides, 3]), {'masks': tf.zeros([*sides, 1])},
                 tf.estimator.ModeKeys.TRAIN,
                 {'train_config': config, 'accelerate': False,
                  'model_dir': folder})
        saved.initialise(tf.global_variables(), weights, session)
        tf.train.Saver().save(session, os.path.join(folder, 'model.ckpt'), 0,
                              write_meta_graph=False)
