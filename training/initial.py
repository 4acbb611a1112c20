"""The weights that a training starts from: --init_checkpoint.

They become the checkpoint of step 0, model.ckpt-0, in the new model folder,
from which TensorFlow goes on as from any other.
"""
import dataclasses
import os
import re

import numpy as np

import nets
from histology.files import InputError
from nets import saved
from nets.hdf5 import HDF5_ERRORS, open_hdf5
from nets.tf1 import session_config, tf
from training import checkpoints, records
from training.model_fn import model_fn

FLAG = 'init_checkpoint'
CHOOSE = f'choose another --{FLAG}'
# What a checkpoint holds beside the network.
OPTIMISER = re.compile(r'global_step|beta[12]_power|.*/Adam(_1)?')
# Of the network's parameters; fewer are another network.
LEAST_FITTING = 0.5


def with_origin(config):
    """Reads the weights that a TrainConfig names, and what they come from.

    Args:
        config: TrainConfig with `init_checkpoint`, the path of a weights.h5,
            or the path prefix of a checkpoint in a model folder or its best/.

    Returns:
        The TrainConfig with the network's width and output stride and with
        where the weights come from; and the weights, a dict of the variables'
        names to arrays.

    Raises:
        InputError: there are none, they cannot be read, nothing tells which
            images they have seen, or they are of another network than asked
            for.
    """
    path = config.init_checkpoint
    prefix = re.sub(r'\.(index|meta|data-\d+-of-\d+)$', '', path)
    if os.path.exists(f'{prefix}.index'):
        record_path, record, weights = read_checkpoint(prefix)
    elif os.path.isdir(path):
        raise InputError(f'{path}: a folder; give its weights.h5, or one of '
                         'its checkpoints as FOLDER/best/model.ckpt-500')
    else:
        record_path, record, weights = path, *read_weights(path)
    records.check_asked(record, record_path, config.net, config.width,
                        config.output_stride, flag=FLAG)
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise InputError(f'{path}: {name} holds NaN; {CHOOSE}')
    return dataclasses.replace(
        config, width=record['width'], output_stride=record['output_stride'],
        init_data_source=record['data_source'], init_step=record['step'],
        seen=sorted(records.seen_images(record))), weights


def read_weights(path):
    """The record and the weights in a file of `checkpoints.write_weights`.

    Raises:
        InputError: it is absent, damaged, or has no record.
    """
    with open_hdf5(path, CHOOSE, CHOOSE) as file:
        if not set(saved.RECORD_NAMES) & set(file):
            raise InputError(
                f'{path}: lacks the record of its network and of the images '
                'that it has seen, which --mode=train writes into weights.h5; '
                f'{CHOOSE}')
        weights = {}

        def add(name, item):
            # 'logits/logits/kernel:0', where the first is the layer.
            layer, _, variable = name.partition('/')
            if variable and hasattr(item, 'dtype'):
                weights[variable.rsplit(':', 1)[0]] = np.float32(item[()])

        try:
            file.visititems(add)
        except HDF5_ERRORS as error:
            raise InputError(f'{path}: damaged ({str(error).splitlines()[0]})'
                             f'; {CHOOSE}') from error
    return saved.record_of_weights(path), weights


def read_checkpoint(prefix):
    """The record's path, the record and the weights of a checkpoint.

    Raises:
        InputError: it is damaged, or there is no record of its training.
    """
    folder = os.path.dirname(os.path.abspath(prefix))
    if os.path.basename(folder) == 'best':
        folder = os.path.dirname(folder)
    path = os.path.join(folder, records.CONFIG_FILE)
    if not os.path.exists(path):
        raise InputError(f'{prefix}: no record of its network and of the '
                         f'images that it has seen, {path}, is there; '
                         f'{CHOOSE}')
    flaw = checkpoints.checkpoint_flaw(prefix)
    if flaw:
        raise InputError(f'{prefix}: {flaw}; {CHOOSE}')
    reader = tf.train.load_checkpoint(prefix)
    names = reader.get_variable_to_shape_map()
    if 'global_step' not in names:
        raise InputError(f'{prefix}: of no training of this program; {CHOOSE}')
    return path, dict(
        records.read_json(path), step=int(reader.get_tensor('global_step'))
    ), {name: reader.get_tensor(name) for name in names
        if not OPTIMISER.fullmatch(name)}


def fitting(config, weights):
    """The weights that the network has variables for, by name and shape.

    Prints what is not loaded, and what the network has no place for.

    Args:
        config: TrainConfig with the network.
        weights: dict of names to arrays.

    Raises:
        InputError: too little of the network would be loaded.
    """
    with tf.Graph().as_default():
        shapes = {variable.op.name: tuple(variable.shape.as_list())
                  for variable in nets.build(
                      config.net, config.width, config.output_stride).weights}
    fit = {name: value for name, value in weights.items()
           if value.shape == shapes.get(name)}
    loaded, parameters = (sum(map(np.prod, found)) for found in (
        [shapes[name] for name in fit], shapes.values()))
    if loaded < LEAST_FITTING * parameters:
        raise InputError(
            f'{config.init_checkpoint}: fits only {loaded} of the '
            f'{parameters} parameters of {config.net}, by name and shape; '
            f'{CHOOSE}')
    for what, names in (('not loaded', set(shapes) - set(fit)),
                        ('not used', set(weights) - set(shapes))):
        if names:
            print(f'{config.init_checkpoint}: {what}: '
                  f'{", ".join(sorted(names))}')
    return fit


def write_checkpoint(config, folder, weights):
    """Writes model.ckpt-0: weights, the rest fresh, and a fresh optimiser.

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
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            if variable.op.name in weights:
                variable.load(weights[variable.op.name], session)
        tf.train.Saver().save(session, os.path.join(folder, 'model.ckpt'), 0,
                              write_meta_graph=False)
