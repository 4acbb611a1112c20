"""What a training does: one record, from the flags to the weights.

`resolve` makes a `TrainConfig` of what was asked for; everything after it
takes that alone. As JSON, with the changes that came on resuming, it is
config.json in the model folder, the page `config` in TensorBoard's text tab,
and part of weights.h5 and of eval's results.
"""
import dataclasses
import json
import os
import sys
from typing import Optional

import nets
from histology.files import InputError, write_json
from histology.progress import counted, say
from input_pipeline import store
from input_pipeline.preprocessing import TARGET
from nets.saved import CONFIG_FILE, check_asked, check_record, read_json

# In place of TrainConfig's defaults where training starts from weights.
INIT_STEPS = 1000
INIT_LEARNING_RATE = 5e-4


def _constants(module):
    """Return the numbers of a module with names in capitals, as JSON."""
    return json.loads(json.dumps({
        name.lower(): value for name, value in vars(module).items()
        if name.isupper() and isinstance(value, (int, float, tuple))}))


def _augmentation():
    from input_pipeline import augment  # in functions: main.py starts fast
    return _constants(augment)


def _loss():
    from training import loss
    return _constants(loss)


def _separation():
    from prediction import instances
    return _constants(instances)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a training does.

    The network, as `nets.build` takes it:
        net, width, output_stride
    The optimisation:
        steps: in all, those of earlier runs included.
        batch_size: crops in a step.
        crop_size: side of the crops, pixels; a multiple of the stride.
        learning_rate: Adam's peak rate (arXiv:1412.6980).
        warmup_steps: steps of linear warm-up.
        evaluate_every: steps between checkpoints, each evaluated.
        augment_threads: threads that augment.
        accelerate: whether the step runs by XLA or in bfloat16; see `tf1`.
        seed: of the weights, the order of patches and the augmentation.
    The data, read from the stores in `data_dir`:
        data_source, data_digest, data_seed, data_fold: `store.identity`.
        trained_on: `store.image_digests` of the training images.
    Where the weights come from, None where they are random:
        init_checkpoint: the path, as given; see `initial`.
        init_data_source, init_step: the data that network was trained on, and
            its step.
        seen: digests of the images that it and those before it have seen.
    Rules, which a later version may change:
        normalisation, target: see `preprocessing`.
        augmentation, loss_weights, separation: the constants of `augment`,
            `loss` and `instances`.
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
    augmentation: dict = dataclasses.field(default_factory=_augmentation)
    loss_weights: dict = dataclasses.field(default_factory=_loss)
    separation: dict = dataclasses.field(default_factory=_separation)


# What one set of images means: it cannot change on resuming.
DATA = (*store.IDENTITY, 'trained_on')
# Neither can this.
ORIGIN = ('init_checkpoint', 'init_data_source', 'init_step', 'seen')


def _types():
    """Return the types that `check_record` allows in config.json."""
    types = {'changes': [list]}
    for field in dataclasses.fields(TrainConfig):
        # Records of before constants belonged to them lack the dicts.
        if field.type is not dict:
            types[field.name] = list(getattr(field.type, '__args__',
                                             [field.type]))
    types['learning_rate'].append(int)  # as JSON may write it
    return types


def read_record(folder, net, width=None, output_stride=None):
    """Read the record in a model folder, a dict.

    Raises:
        InputError: it is absent or damaged, or of another network than asked
            for; see `check_asked`.
    """
    path = os.path.join(folder, CONFIG_FILE)
    record = read_json(path)
    check_record(record, path, _types(), 'choose another --model_dir')
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

    Prints a line if the warm-up is too long for the steps, and another if the
    weights to start from have seen images to validate on.

    Args:
        asked: dict of TrainConfig's names that flags give; None is not given.
        former: the record of the training to go on with, or None.
        start: of weights to start from, a dict of their `width`,
            `output_stride` and of ORIGIN; or None.

    Returns:
        TrainConfig

    Raises:
        InputError: a store cannot be used, the crop or the batch does not
            suit the network, or `former` began from other weights or is of
            other data.
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
        say(f'--warmup_steps={config.warmup_steps}: shortened to {shorter}, a '
            f'tenth of {counted(config.steps, "step")}')
        config = dataclasses.replace(config, warmup_steps=shorter)
    check_sizes(config)
    if former is not None:
        check_same_data(config, former)
    return config


def describe_data(data_dir, seen=None):
    """Read what the stores to train and validate on say of the data.

    Args:
        data_dir: their folder.
        seen: digests of images that the weights to start from have seen; a
            line warns if some are to validate on.

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
                f'{", ..." if known[1:] else ""}); their F1 will flatter, and '
                '--mode=eval will refuse them', sys.stderr)
    return {**identity, 'trained_on': trained_on}


def check_sizes(config):
    """Refuse a crop or a batch that the network cannot be trained with.

    Raises:
        InputError: the crop is no multiple of the network's stride, or larger
            than a patch, or the batch is too small.
    """
    stride = nets.stride(config.net, config.output_stride)
    if config.crop_size > store.PATCH_SIZE or config.crop_size % stride:
        raise InputError(f'--crop_size={config.crop_size}: must be a multiple '
                         f'of {stride} and at most {store.PATCH_SIZE}, the '
                         'side of the patches')
    least = nets.min_batch_size(config.net)
    if config.batch_size < least:
        raise InputError(f'--batch_size={config.batch_size}: {config.net} '
                         f'needs at least {least}, for its batch norm')


def seen_images(record):
    """Return the digests of all images that a record's network has seen."""
    return {*record['trained_on'], *(record.get('seen') or [])}


def check_same_origin(init_checkpoint, record):
    """Refuse to start from other weights than a training began with.

    Args:
        init_checkpoint: the path asked for, or None.
        record: dict, of the training.

    Raises:
        InputError: it began from others, or from none.
    """
    paths = [path and os.path.realpath(path)
             for path in (init_checkpoint, record['init_checkpoint'])]
    if paths[0] != paths[1]:
        asked = f'={init_checkpoint}' if init_checkpoint else ''
        raise InputError(
            f'--init_checkpoint{asked}: the training in progress began '
            f'from {record["init_checkpoint"] or "random weights"}; give the '
            'same or, on resuming, none; or choose another --model_dir')


def check_same_data(config, record):
    """Refuse to train on other images or masks than a training began with.

    Raises:
        InputError: the data of `config` are not those of `record`.
    """
    if record['target'] != config.target:
        raise InputError('--model_dir: an earlier version trained its network '
                         f'on {record["target"]}, and this one trains on '
                         f'{config.target}; choose another --model_dir')
    if any(record[key] != getattr(config, key) for key in DATA):
        raise InputError(f'--data_dir={config.data_dir}: holds other images, '
                         'or another division of them, than the network in '
                         '--model_dir was trained on; choose another of '
                         'either')


def has_validation(config):
    """Say whether a TrainConfig's data hold images to validate on."""
    return config.data_fold != store.TRAIN_ON_ALL


def _flat(record):
    """Give the values of dicts in a record names of their own."""
    return {f'{name}.{key}' if key else name: part
            for name, value in record.items()
            for key, part in (value.items() if isinstance(value, dict)
                              else [('', value)])}


def differences(config, record):
    """List what a resumed training does differently from before.

    Returns:
        List of dicts of `name`, `before` and `now`.
    """
    before = _flat(record)
    return [{'name': name, 'before': before[name], 'now': value}
            for name, value in _flat(dataclasses.asdict(config)).items()
            if name in before and before[name] != value]


def write_record(folder, config, former, step):
    """Write config.json, and print what changes on resuming.

    Args:
        folder: the model folder.
        config: TrainConfig.
        former: the record of the training to go on with, or None.
        step: that it goes on from.

    Returns:
        The record, a dict with `changes`: the list of `differences`, each
        with the `step` it came at.

    Raises:
        InputError: it cannot be written.
    """
    changes = differences(config, former) if former else []
    for change in changes:
        say(f'{change["name"]}: {change["before"]} before, {change["now"]} '
            f'from step {step} on' + (rate_jump(config, former, step)
                                      if change['name'] == 'steps' else ''))
        change['step'] = step
    record = dict(dataclasses.asdict(config),
                  changes=(former['changes'] if former else []) + changes)
    write_json(os.path.join(folder, CONFIG_FILE), record)
    return record


def rate_jump(config, former, step):
    """Say how the learning rate changes where the number of steps does."""
    from nets.tf1 import tf
    from training.model_fn import learning_rate_at
    with tf.Graph().as_default(), tf.Session() as session:
        before, now = session.run([
            learning_rate_at(tf.constant(at), peak, warmup, steps)
            for at, peak, warmup, steps in (
                (max(step - 1, 0), former['learning_rate'],
                 former['warmup_steps'], former['steps']),
                (step, config.learning_rate, config.warmup_steps,
                 config.steps))])
    verb = 'rises again' if now > before else 'falls'
    return f'; the learning rate {verb}, from {before:.2g} to {now:.2g}'


def as_markdown(record):
    """Write a record as indented text, for TensorBoard's text tab."""
    images = {key: counted(len(record[key] or []), 'image')
              for key in ('trained_on', 'seen')}
    text = json.dumps({**record, **images}, indent=2)
    return '    ' + text.replace('\n', '\n    ')
