"""What a training was asked for: one record, from the flags to the weights.

`TrainConfig` is handed on in the code. As JSON, with the changes that came on
resuming, it is config.json in the model folder, the page `config` in
TensorBoard's text tab, and part of weights.h5 and of eval's results.
"""
import dataclasses
import os
from typing import Optional

import nets
from histology.files import InputError, write_json
from input_pipeline.preprocessing import FORMER_TARGET, TARGET
from input_pipeline.store import IDENTITY, TRAIN_ON_ALL
from nets.saved import CONFIG_FILE, check_asked, read_json

# In place of TrainConfig's defaults where training starts from weights.
INIT_STEPS = 1000
INIT_LEARNING_RATE = 5e-4


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a training is asked for.

    The network, as `nets.build` takes it:
        net, width, output_stride: None is as before on resuming, or else the
            default; see `with_network`.
    The optimisation:
        steps: in all, those of earlier runs included; None is the default,
            see `with_defaults`.
        batch_size: crops in a step.
        crop_size: side of the crops, pixels; a multiple of the stride.
        learning_rate: Adam's peak rate (arXiv:1412.6980); None as above.
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
    Rules of the data, which a later version may change:
        normalisation, target: see `preprocessing`.
    """
    net: str
    data_dir: str
    width: Optional[int] = None
    output_stride: Optional[int] = None
    steps: Optional[int] = 4000
    batch_size: int = 8
    crop_size: int = 128
    learning_rate: Optional[float] = 2e-3
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


# What one set of images means: it cannot change on resuming.
DATA = (*IDENTITY, 'trained_on')
# Neither can this. Records of before it could be asked for lack it, and
# `target`.
ORIGIN = ('init_checkpoint', 'init_data_source', 'init_step', 'seen')


def read_record(folder, net, width=None, output_stride=None):
    """The record in a model folder, a dict.

    Raises:
        InputError: it is absent or damaged, or of another network than asked
            for; see `check_asked`.
    """
    path = os.path.join(folder, CONFIG_FILE)
    record = {**dict.fromkeys(ORIGIN), 'target': FORMER_TARGET,
              **read_json(path)}
    check_asked(record, path, net, width, output_stride,
                (*(field.name for field in dataclasses.fields(TrainConfig)),
                 'changes'))
    return record


def seen_images(record):
    """The digests of all images that the network of a record has seen."""
    return {*record['trained_on'], *(record.get('seen') or [])}


def check_same_origin(config, record):
    """Refuses to start from other weights than a training began with.

    Raises:
        InputError: it began from others than `config` names, or from none.
    """
    paths = [path and os.path.realpath(path) for path in (
        config.init_checkpoint, record['init_checkpoint'])]
    if paths[0] != paths[1]:
        asked = config.init_checkpoint and f'={config.init_checkpoint}'
        raise InputError(
            f'--init_checkpoint{asked or ""}: the training in progress began '
            f'from {record["init_checkpoint"] or "random weights"}; give the '
            'same or, on resuming, none; or choose another --model_dir')


def with_network(config, former):
    """The TrainConfig with the network's width and output stride.

    Args:
        config: TrainConfig.
        former: the record of what is resumed, whose origin is kept too, or
            None.

    Raises:
        InputError: `former` began from other weights than are asked for.
    """
    if former is not None:
        if config.init_checkpoint is not None:
            check_same_origin(config, former)
        return dataclasses.replace(config, **{
            key: former[key] for key in ('width', 'output_stride', *ORIGIN)})
    output_stride = None
    if nets.has_output_stride(config.net):
        output_stride = config.output_stride or nets.OUTPUT_STRIDE
    return dataclasses.replace(config, width=config.width or nets.WIDTH,
                               output_stride=output_stride)


def with_defaults(config):
    """The TrainConfig with steps and rate where they were not asked for."""
    defaults = {'steps': TrainConfig.steps,
                'learning_rate': TrainConfig.learning_rate}
    if config.init_checkpoint is not None:
        defaults = {'steps': INIT_STEPS, 'learning_rate': INIT_LEARNING_RATE}
    return dataclasses.replace(config, **{
        key: value for key, value in defaults.items()
        if getattr(config, key) is None})


def check_same_data(config, record, folder):
    """Refuses to train on other images or masks than a training began with.

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
    """Says whether a TrainConfig's data hold images to validate on."""
    return config.data_fold != TRAIN_ON_ALL


def differences(config, record):
    """What a resumed training is asked for that differs from before.

    Returns:
        List of dicts of `name`, `before` and `now`.
    """
    return [{'name': name, 'before': record[name], 'now': value}
            for name, value in dataclasses.asdict(config).items()
            if name in record and record[name] != value]


def write_record(folder, config, changes):
    """Writes config.json.

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
    """A record as a Markdown table, for TensorBoard's text tab."""
    shown = dict(record)
    for key in ('trained_on', 'seen'):
        shown[key] = f'{len(record[key] or [])} images'
    changes = shown.pop('changes')
    rows = ['| asked for | |', '|---|---|',
            *(f'| {name} | {value} |' for name, value in shown.items()),
            *(f'| from step {change["step"]} | {change["name"]} '
              f'{change["now"]} instead of {change["before"]} |'
              for change in changes)]
    return '\n'.join(rows)
