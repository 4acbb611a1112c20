"""What a training does: one record, from the flags to the weights.

`resolve` makes a `TrainConfig` of what was asked for; everything after it
takes that alone. As JSON, with the changes that came on resuming, it is
config.json in the model folder, the page `config` in TensorBoard's text tab,
and part of weights.h5 and of eval's results.
"""
import dataclasses
import json
import os
from typing import Optional

import nets
from histology.files import InputError, write_json
from histology.progress import counted
from input_pipeline.preprocessing import TARGET
from input_pipeline.store import IDENTITY, TRAIN_ON_ALL
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
DATA = (*IDENTITY, 'trained_on')
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


def resolve(asked, former, start, data):
    """Settle what a training does, from what was asked for.

    Prints a line if the warm-up is too long for the steps.

    Args:
        asked: dict of TrainConfig's names that flags give; None is not given.
        former: the record of the training to go on with, or None.
        start: of weights to start from, a dict of their `width`,
            `output_stride` and of ORIGIN; or None.
        data: dict of DATA.

    Returns:
        TrainConfig

    Raises:
        InputError: `former` began from other weights than are asked for.
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
    if chosen.get('init_checkpoint') is not None:
        chosen = {'steps': INIT_STEPS, 'learning_rate': INIT_LEARNING_RATE,
                  **chosen}
    config = TrainConfig(**chosen, **data)
    # The learning rate would hardly reach its peak before it falls again.
    if config.warmup_steps > config.steps // 4:
        shorter = config.steps // 10
        print(f'--warmup_steps={config.warmup_steps}: shortened to {shorter}, '
              f'a tenth of {counted(config.steps, "step")}')
        config = dataclasses.replace(config, warmup_steps=shorter)
    return config


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


def check_same_data(config, record, folder):
    """Refuse to train on other images or masks than a training began with.

    Raises:
        InputError: the data of `config` are not those of `record`.
    """
    if record['target'] != config.target:
        raise InputError(f'{folder}: an earlier version trained it on '
                         f'{record["target"]}, and this one trains on '
                         f'{config.target}; choose another --model_dir')
    if any(record[key] != getattr(config, key) for key in DATA):
        raise InputError(f'--data_dir={config.data_dir}: holds other images, '
                         'or another division of them, than the network in '
                         f'{folder} was trained on; choose another --data_dir '
                         'or --model_dir')


def has_validation(config):
    """Say whether a TrainConfig's data hold images to validate on."""
    return config.data_fold != TRAIN_ON_ALL


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


def write_record(folder, config, changes):
    """Write config.json.

    Args:
        folder: the model folder.
        config: TrainConfig.
        changes: list of `differences`, each with the `step` it came at.

    Returns:
        The record, a dict.

    Raises:
        InputError: it cannot be written.
    """
    record = dict(dataclasses.asdict(config), changes=changes)
    write_json(os.path.join(folder, CONFIG_FILE), record)
    return record


def as_markdown(record):
    """Write a record as a Markdown table, for TensorBoard's text tab."""
    shown = _flat(record)
    for key in ('trained_on', 'seen'):
        shown[key] = counted(len(record[key] or []), 'image')
    changes = shown.pop('changes')
    rows = ['| name | value |', '|---|---|',
            *(f'| {name} | {value} |' for name, value in shown.items()),
            *(f'| from step {change["step"]} | {change["name"]} '
              f'{change["now"]} instead of {change["before"]} |'
              for change in changes)]
    return '\n'.join(rows)
