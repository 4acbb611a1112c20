"""What a training does: one record, from the flags to the weights.

`resolve` makes a `TrainConfig` of what was asked for; everything after it
takes that alone. As JSON, with the changes that came on resuming, it is
config.json in the model folder, the page `config` in TensorBoard's text tab,
and part of weights.h5 and of eval's results.
"""
import dataclasses
import importlib
import json
import os
from typing import Optional

import nets
from histology.files import InputError, write_json
from histology.progress import counted, say
from input_pipeline import store
from input_pipeline.preprocessing import TARGET
from nets.saved import CONFIG_FILE, check_asked, read_json

# In place of TrainConfig's defaults where training starts from weights.
INIT_STEPS = 1000
INIT_LEARNING_RATE = 5e-4


def constants(module):
    """Make a field of a module's numbers with names in capitals, as JSON."""
    return dataclasses.field(default_factory=lambda: json.loads(json.dumps({
        name.lower(): value for name, value
        in vars(importlib.import_module(module)).items()
        if name.isupper() and isinstance(value, (int, float, tuple))})))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a training does.

    The network, as `nets.build` takes it:
        net, width, output_stride
    The optimisation, by the flags of their names:
        steps: in all, those of earlier runs included.
        crop_size: side of the crops, pixels; a multiple of the stride.
        learning_rate: Adam's peak rate (arXiv:1412.6980).
        evaluate_every: steps between checkpoints, each evaluated.
        accelerate: whether the step runs by XLA or in bfloat16; see `tf1`.
        seed: of the weights, the order of patches and the augmentation.
    The data, read from the stores in `data_dir`:
        data_source, data_digest, data_seed, data_fold: `store.identity`.
        trained_on: `store.image_digests` of the training images.
    The weights that training starts from, None where they are random:
        init_checkpoint: their path, as given.
        init_data_source, init_step: their data, and their step.
        seen: digests of the images that they have seen.
    Rules, which a later version may change:
        normalisation, target: see `preprocessing`.
        augmentation, loss_weights, separation: constants of the code.
    """
    net: str
    data_dir: str
    width: int = nets.WIDTH
    output_stride: Optional[int] = None
    steps: int = 4000
    batch_size: int = 8
    crop_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    evaluate_every: int = 500
    augment_threads: int = 2
    accelerate: bool = False
    seed: int = 0
    data_source: Optional[str] = None
    data_digest: Optional[str] = None
    data_seed: Optional[int] = None
    data_fold: Optional[str] = None
    trained_on: Optional[list] = None
    init_checkpoint: Optional[str] = None
    init_data_source: Optional[str] = None
    init_step: Optional[int] = None
    seen: Optional[list] = None
    normalisation: str = nets.NORMALISATION
    target: str = TARGET
    augmentation: dict = constants('input_pipeline.augment')
    loss_weights: dict = constants('training.loss')
    separation: dict = constants('prediction.instances')


# What says which images these are, and cannot change on resuming.
DATA = (*store.IDENTITY, 'trained_on')
# What says which weights it began from; neither can it.
ORIGIN = ('init_checkpoint', 'init_data_source', 'init_step', 'seen')


def read_record(folder, net, width=None, output_stride=None):
    """Read the record in a model folder, a dict.

    Raises:
        InputError: it is absent or damaged, or of another network than asked
            for; see `check_asked`.
    """
    path = os.path.join(folder, CONFIG_FILE)
    types = {field.name: field.type
             for field in dataclasses.fields(TrainConfig)}
    record = read_json(path, {**types, 'trained_on': list, 'changes': list},
                       'choose another --model_dir')
    check_asked(record, path, net, width, output_stride)
    return record


def last_step(asked, former):
    """Find the last step of a training; arguments as for `resolve`."""
    begun = former or asked
    default = (TrainConfig.steps if begun['init_checkpoint'] is None
               else INIT_STEPS)
    return asked['steps'] or default


def resolve(asked, former, start):
    """Settle what a training does, from what was asked for, and check it.

    Args:
        asked: dict of TrainConfig's names that flags give; None is not given.
        former: the record of the training to go on with, or None.
        start: of `initial.read`, or None.

    Raises:
        InputError: a store or a size cannot be used, or `former` began from
            other weights or is of other data.
    """
    chosen = {name: value for name, value in asked.items()
              if value is not None}
    if former is not None and 'init_checkpoint' in chosen:
        check_same_origin(chosen['init_checkpoint'], former)
    begun = former or start
    if begun:
        chosen.update({name: begun[name]
                       for name in ('width', 'output_stride', *ORIGIN)})
    elif nets.output_strides(asked['net']):
        chosen.setdefault('output_stride', nets.stride(asked['net']))
    chosen['steps'] = last_step(asked, former)
    if chosen.get('init_checkpoint') is not None:
        chosen.setdefault('learning_rate', INIT_LEARNING_RATE)
    config = TrainConfig(**chosen, **describe_data(
        asked['data_dir'], chosen.get('seen') if start else None))
    # The learning rate would hardly reach its peak before it falls again.
    if config.warmup_steps > config.steps // 4:
        shorter = config.steps // 10
        say(f'warm-up shortened from {config.warmup_steps} to '
            f'{counted(shorter, "step")}, a tenth of '
            + counted(config.steps, 'step'))
        config = dataclasses.replace(config, warmup_steps=shorter)
    check_sizes(config)
    if former is not None:
        check_same_data(config, former)
    return config


def describe_data(data_dir, seen=None):
    """Read what the stores to train and validate on say of the data.

    A line warns if some images to validate on are among `seen`, the digests
    of images that the weights to start from have seen.

    Returns:
        dict of DATA

    Raises:
        InputError: a store cannot be used, or they do not belong together.
    """
    path = store.store_path(data_dir, 'train')
    with store.open_store(path) as file:
        identity, trained_on = store.identity(file), store.image_digests(file)
        if store.attributes(file).get('nuclei') == 0:
            raise InputError(f'{path}: not one of its images has a nucleus; '
                             'prepare images that have some')
    if identity['data_fold'] != store.TRAIN_ON_ALL:
        path = store.store_path(data_dir, 'validation')
        with store.open_store(path, identity, trained_on) as file:
            known = store.names_among(file, seen or [])
        if known:
            say('warning: --init_checkpoint was trained on '
                f'{counted(len(known), "image")} of {path} ({known[0]}'
                f'{", ..." if known[1:] else ""}); their F1 will be too high, '
                'and --mode=eval will refuse them', error=True)
    return {**identity, 'trained_on': trained_on}


def check_sizes(config):
    """Refuse a crop or a batch that the network cannot be trained with."""
    stride = nets.stride(config.net, config.output_stride)
    if config.crop_size > store.PATCH_SIZE or config.crop_size % stride:
        raise InputError(f'--crop_size={config.crop_size}: must be a multiple '
                         f'of {stride} and at most {store.PATCH_SIZE}, the '
                         'side of the patches')
    least = getattr(nets.module_of(config.net), 'MIN_BATCH_SIZE', 1)
    if config.batch_size < least:
        raise InputError(f'--batch_size={config.batch_size}: {config.net} '
                         f'needs at least {least}, for its batch norm')


def check_same_origin(init_checkpoint, record):
    """Refuse to start from other weights than a training began with.

    Raises:
        InputError: `init_checkpoint`, a path or None, is not the record's.
    """
    paths = [path and os.path.realpath(path)
             for path in (init_checkpoint, record['init_checkpoint'])]
    if paths[0] != paths[1]:
        asked = f'={init_checkpoint}' if init_checkpoint else ''
        raise InputError(
            f'--init_checkpoint{asked}: this training began from '
            f'{record["init_checkpoint"] or "random weights"}; resume with '
            'the same or without the flag, or choose another --model_dir')


def check_same_data(config, record):
    """Refuse to train on other images or masks than a training began with."""
    if any(record[key] != getattr(config, key) for key in (*DATA, 'target')):
        raise InputError(f'--data_dir={config.data_dir}: holds other images, '
                         'or another division of them, than at the start of '
                         'this training, or an earlier version started it; '
                         'choose another --data_dir or --model_dir')


def has_validation(config):
    """Say whether a TrainConfig's data hold images to validate on."""
    return config.data_fold != store.TRAIN_ON_ALL


def _flat(record):
    """Give the values of dicts in a record names of their own."""
    flat = {}
    for name, value in record.items():
        flat.update({f'{name}.{key}': part for key, part in value.items()}
                    if isinstance(value, dict) else {name: value})
    return flat


def write_record(folder, config, former, step):
    """Write config.json, and print what changes on resuming.

    `former` is the record of the training to go on with from `step`, or None.

    Returns:
        The record, a dict with `changes`: a list of dicts of `name`,
        `before`, `now` and `step`.
    """
    record = dataclasses.asdict(config)
    before = _flat(former or {})
    changes = [{'name': name, 'before': before[name], 'now': now, 'step': step}
               for name, now in _flat(record).items()
               if name in before and before[name] != now]
    for change in changes:
        say('{name} changes from {before} to {now} at step {step}'.format(
            **change))
    record['changes'] = before.get('changes', []) + changes
    write_json(os.path.join(folder, CONFIG_FILE), record)
    return record


def as_markdown(record):
    """Write a record as indented text, for TensorBoard's text tab."""
    images = {key: counted(len(record[key] or []), 'image')
              for key in ('trained_on', 'seen')}
    text = json.dumps({**record, **images}, indent=2)
    return '    ' + text.replace('\n', '\n    ')
