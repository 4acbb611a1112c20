"""weights.h5: the weights of a trained network, their record and digest.

The file is one that Keras reads by `model.load_weights`. Its dataset `config`
holds the record of the training as JSON, with the step and the validation
metrics of the weights. After the end of the HDF5 file come a word and the
SHA-256 of all that stands before: HDF5 does not notice a changed bit.
"""
import functools
import hashlib
import io
import json
import os
import shlex
from typing import Optional

import numpy as np

import nets
from histology.files import InputError, write_bytes

# What h5py raises for damaged files, found by damaging files at random.
HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError)
PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Model folders that come with the code.
PRETRAINED = os.path.join(PROJECT, 'checkpoints', 'pretrained')
CONFIG_FILE = 'config.json'
WEIGHTS_FILE = 'weights.h5'
RECORD_NAME = 'config'
SEAL = b'SHA-256 of the file until here: '
SEAL_LENGTH = len(SEAL) + 64
TRAIN_AGAIN = 'train again into another --model_dir'
COPY_AGAIN = 'copy it again or train again'
# What a record must say, and its types.
RECORDED = {'net': str, 'width': int, 'output_stride': Optional[int],
            'normalisation': str, 'data_source': Optional[str],
            'data_digest': Optional[str], 'data_seed': Optional[int],
            'data_fold': Optional[str], 'trained_on': list,
            'seen': Optional[list]}


def read_json(path, types=RECORDED, remedy=TRAIN_AGAIN):
    """Read a JSON file that training wrote; arguments as `check_record`.

    Raises:
        InputError: it is absent or damaged, or holds something else.
    """
    try:
        with open(path) as file:
            record = _parse(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'{path}: cannot be read ({error}); {remedy}'
                         ) from error
    check_record(record, path, types, remedy)
    return record


def _parse(text):
    """Parse JSON, in which NaN and infinities become None."""
    return json.loads(text, parse_constant=lambda _: None)


def check_record(record, path, types, remedy):
    """Refuse a record that lacks a name or has a value of a wrong type.

    `types` is a dict of names to types, as in annotations. Missing names that
    may be None become None. Lists must be of str, and `changes` of dict.
    `path` and `remedy` are for the message.
    """
    record = record if isinstance(record, dict) else {}
    for name, annotation in types.items():
        allowed = getattr(annotation, '__args__', (annotation,))
        if type(None) in allowed:
            record.setdefault(name, None)  # those of earlier versions
        if name not in record:
            raise InputError(f'{path}: lacks {name}; {remedy}')
        value = record[name]
        if float in allowed:
            allowed = (*allowed, int)  # as JSON may write it
        fits = type(value) in allowed  # no isinstance: True is an int
        if fits and isinstance(value, list):
            item = dict if name == 'changes' else str
            fits = all(isinstance(part, item) for part in value)
        if fits and name == 'width':
            fits = 1 <= value <= nets.MAX_WIDTH
        if not fits:
            raise InputError(f'{path}: {name} is {json.dumps(value)[:40]}, '
                             f'which no training writes; {remedy}')


def check_asked(record, path, net, width=None, output_stride=None,
                flag='model_dir'):
    """Refuse another network than asked for, where None is any.

    `flag` is the one that led to the record at `path`, without dashes.
    """
    asked = {'net': net, 'width': width, 'output_stride': output_stride,
             'normalisation': nets.NORMALISATION}
    for key, value in asked.items():
        if value is not None and record[key] not in (value, None):
            omit = '' if isinstance(value, str) else f'omit --{key} or '
            raise InputError(
                f'{path}: holds a network trained with {key} {record[key]}, '
                f'not {value}; {omit}choose another --{flag}')


def holds_weights(folder):
    """Say whether a model folder holds weights.h5."""
    return os.path.exists(os.path.join(folder, WEIGHTS_FILE))


def find_folder(folder):
    """Return a model folder's path, or else that in the project's folder."""
    in_project = os.path.join(PROJECT, folder)
    return (in_project if not os.path.exists(folder)
            and os.path.exists(in_project) else folder)


def is_shipped(folder):
    """Say whether a model folder came with the code."""
    return os.path.realpath(folder).startswith(
        os.path.realpath(PRETRAINED) + os.sep)


def read_weights(path, remedy=COPY_AGAIN):
    """Read a file of `write_weights`, or one from before it had a digest.

    Returns:
        (record: dict; weights: dict of the variables' names to arrays; SHA-1
        hex digest of the file)

    Raises:
        InputError: the file is absent, damaged, or not one of training; it
            says the `remedy`.
    """
    import h5py  # in functions, for a fast start of main.py
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); '
                         f'{remedy}') from error
    weights = {}

    def add(name, item):
        # 'logits/logits/kernel:0', where the first is the layer.
        layer, _, variable = name.partition('/')
        if variable and hasattr(item, 'dtype'):
            weights[variable.rsplit(':', 1)[0]] = np.float32(item[()])

    try:
        # Either mark may be damaged; files of earlier versions have neither.
        sealed = SEAL in content or b'sealed' in content
        if sealed and not content.endswith(_seal(content[:-SEAL_LENGTH])):
            raise ValueError('its checksum does not match')
        with h5py.File(io.BytesIO(content), 'r') as file:
            if RECORD_NAME not in file:
                raise InputError(
                    f'{path}: lacks the record of its network and of the '
                    f'images that it has seen; {remedy}')
            record = _parse(file[RECORD_NAME][()])
            file.visititems(add)
    except HDF5_ERRORS as error:
        raise InputError(f'{path}: damaged ({str(error).splitlines()[0]}); '
                         f'{remedy}') from error
    check_record(record, path, {**RECORDED, 'step': int,
                                'f1': Optional[float]}, remedy)
    return record, weights, hashlib.sha1(content).hexdigest()


def _seal(content):
    return SEAL + hashlib.sha256(content).hexdigest().encode()


def write_weights(path, record, weights):
    """Write weights.h5, with what `read_weights` and Keras read.

    The record holds `step` and `f1` of the weights too.

    Raises:
        InputError: it cannot be written.
    """
    import h5py
    layers = _layers(record['net'], record['width'], record['output_stride'])
    # HDF5 crashes the process when a disk is full, so it writes to memory.
    content = io.BytesIO()
    with h5py.File(content, 'w') as file:
        file.attrs['backend'] = b'tensorflow'
        file.attrs['keras_version'] = b'2.2.4-tf'  # whose format it is
        file.attrs['layer_names'] = [name.encode() for name in layers]
        file.attrs['sealed'] = True
        for layer, variables in layers.items():
            group = file.create_group(layer)
            group.attrs['weight_names'] = np.array(
                [name.encode() for name in variables], 'S')
            for name in variables:
                group[name] = weights[name.rsplit(':', 1)[0]]
        file[RECORD_NAME] = json.dumps(record)
    content = content.getvalue()
    write_bytes(path, content + _seal(content))


@functools.lru_cache(maxsize=None)  # a graph takes a second
def _layers(net, width, output_stride):
    """Return the names of a network's variables, by those of its layers."""
    from nets.tf1 import tf
    with tf.Graph().as_default():
        return {layer.name: [variable.name for variable in layer.weights]
                for layer in nets.build(net, width, output_stride).layers}


def check_finite(weights, path, remedy):
    """Refuse weights that hold NaN or infinity."""
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise InputError(f'{path}: {name} holds NaN; {remedy}')


def load_network(folder, net=None, width=None, output_stride=None,
                 accelerate=False):
    """Load the trained network of a model folder into a session of its own.

    Args:
        folder: the model folder.
        net, width, output_stride: as for `check_asked`.
        accelerate: whether the network runs by XLA, which compiles it anew
            for each size of image, or in bfloat16; see `tf1`.

    Returns:
        (session; the Keras model of `nets.build`; the record of the training
        with the `step` of the weights; the SHA-1 hex digest of weights.h5).

    Raises:
        InputError: there is no such network, another one, or it cannot be
            read.
    """
    from nets.tf1 import session_config, tf
    path = os.path.join(folder, WEIGHTS_FILE)
    if not holds_weights(folder):
        raise InputError(_advice_without_weights(
            folder, net or os.path.basename(os.path.abspath(folder))))
    record, weights, digest = read_weights(path)
    check_asked(record, path, net, width, output_stride)
    session = tf.Session(graph=tf.Graph(), config=session_config(accelerate))
    with session.graph.as_default(), session.as_default():
        tf.keras.backend.set_session(session)
        model = build_for(record, weights, path, COPY_AGAIN, accelerate)
        initialise(model.weights, weights, session)
    return session, model, record, digest


def build_for(record, weights, path, remedy, accelerate=False):
    """Build the Keras model of a record, which its weights must fit.

    Raises:
        InputError: there is no such network, or the weights lack a variable
            of it, have another shape or are not finite.
    """
    from nets.tf1 import acceleration_scope
    try:
        with acceleration_scope(accelerate):
            model = nets.build(record['net'], record['width'],
                               record['output_stride'])
    except ValueError as error:
        raise InputError(f'{path}: {error}; {remedy}') from error
    for variable in model.weights:
        if np.shape(weights.get(variable.op.name)) != variable.shape:
            raise InputError(f'{path}: does not hold {variable.op.name} of '
                             f'{model.name}; {remedy}')
    check_finite(weights, path, remedy)
    return model


def _advice_without_weights(folder, net):
    """Say why a model folder has no network to load, and what to do."""
    config = os.path.join(folder, CONFIG_FILE)
    parent = os.path.dirname(os.path.normpath(folder))
    if os.path.exists(config):
        record = read_json(config, {'evaluate_every': int})
        return (f'{folder}: its training has written no weights.h5 yet; the '
                'first comes with the checkpoint of step '
                f'{record["evaluate_every"]}. Wait, or go on with the same '
                '--mode=train command')
    advice = f'train one with python main.py --mode=train --net={net}'
    if not is_shipped(folder):
        advice += f' --model_dir={shlex.quote(parent or os.curdir)}'
        if holds_weights(os.path.join(PRETRAINED, net)):
            advice += (', or use the one that came with the code by '
                       f'--model_dir={os.path.relpath(PRETRAINED)}')
    return f'{folder}: holds no trained network; {advice}'


def initialise(variables, values, session):
    """Give variables the values of their names, or else their initial ones."""
    session.run([variable.initializer for variable in variables], {
        variable.initializer.inputs[1]: values[variable.op.name]
        for variable in variables if variable.op.name in values})
