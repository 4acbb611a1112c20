"""Trainings that start from weights."""
import contextlib
import json
import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from test_cluster import free_port  # noqa: F401, a fixture

import main
from conftest import (
    ROOT,
    SECONDS,
    example,
    masks_of,
    one_line,
    read_json,
    train_flags,
)
from eval import pixel_metrics
from histology import synthetic
from histology.files import InputError
from input_pipeline import store
from nets import saved
from nets.tf1 import tf
from training import initial, records


def write_data(folder, seed, validation=(), side=256):
    """Stores of new images, and of more to validate on.

    Args:
        folder: pathlib.Path.
        seed: int; other seeds are other images.
        validation: `store.WholeImage` of more images to validate on.
        side: of the new images, pixels.
    """
    folder.mkdir()
    rng = np.random.RandomState(seed)

    def new(split):
        image, instances = synthetic.make(rng, side)
        return example(f'{split}-{seed}', image, instances)

    for split, more in (('train', ()), ('validation', validation)):
        store.write_store(
            str(folder / f'{split}.h5'),
            {'source': f'data {seed}', 'split': split, 'seed': 0,
             'source_digest': str(seed), 'fold': '0'},
            [new(split), *(example(*whole[:3]) for whole in more)])
    return folder


def digests(data, split='train'):
    with store.open_store(os.path.join(str(data), f'{split}.h5')) as file:
        return store.image_digests(file)


def weights_in(path):
    """The arrays of a Keras file by name, as Keras's own lists say."""
    def text(value):
        return value.decode() if isinstance(value, bytes) else value

    with h5py.File(str(path), 'r') as file:
        return {text(name)[:-2]: file[text(layer)][text(name)][()]
                for layer in file.attrs['layer_names']
                for name in file[text(layer)].attrs['weight_names']}


def check_holds(checkpoint, weights):
    """Checks that a checkpoint of step 0 holds weights and nothing learnt."""
    reader = tf.train.load_checkpoint(str(checkpoint))
    names = set(reader.get_variable_to_shape_map())
    for name, value in weights.items():
        assert np.array_equal(reader.get_tensor(name), value), name
    assert reader.get_tensor('global_step') == 0
    slots = [name for name in names if '/Adam' in name]
    assert slots
    assert not any(reader.get_tensor(name).any() for name in slots)
    assert names - set(weights) - set(slots) == {
        'global_step', 'beta1_power', 'beta2_power'}


def test_training_from_weights_that_only_gets_worse(
        program, data_dir, tmp_path, monkeypatch, capsys):
    """The start is evaluated as step 0, and is the best at the end."""
    start = str(tmp_path / 'start.h5')
    shipped = os.path.join(saved.PRETRAINED, 'unet')
    record, weights, _ = saved.read_weights(f'{shipped}/weights.h5')
    seen = digests(data_dir)
    saved.write_weights(start, {**record, 'seen': seen}, weights)
    weights = weights_in(start)
    data = write_data(tmp_path / 'data', 4)
    f1 = pixel_metrics.compute(pixel_metrics.pool(list(map(
        pixel_metrics.confusion_matrix,
        *masks_of(shipped, 'unet', data / 'validation.h5')))))['f1']

    flags = (*train_flags(data, tmp_path / 'own', 'unet', 1),
             '--init_checkpoint=~/start.h5', '--learning_rate=0.1',
             '--warmup_steps=0')
    monkeypatch.setenv('HOME', str(tmp_path))
    process = program(*flags)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ''
    assert f'training 1 step from {start} (MoNuSeg, step 12000)' in (
        process.stdout)
    assert 'no step was better than the starting weights' in process.stdout
    step_0 = float(re.search(r'^step 0: .* F1 (\S+),', process.stdout,
                             re.MULTILINE).group(1))
    assert step_0 == pytest.approx(f1, abs=2e-4) and f1 > 0.8
    folder = tmp_path / 'own' / 'unet'
    check_holds(folder / 'model.ckpt-0', weights)
    config = read_json(folder, 'config.json')
    assert config['trained_on'] == digests(data)
    assert {key: config[key] for key in (*records.ORIGIN, 'steps',
                                         'learning_rate')} == {
        'init_checkpoint': start, 'init_data_source': 'MoNuSeg',
        'init_step': 12000, 'seen': sorted([*record['trained_on'], *seen]),
        'steps': 1, 'learning_rate': 0.1}
    written = weights_in(folder / 'weights.h5')
    for name, value in weights.items():
        assert np.array_equal(written[name], value), name
    best, *_ = saved.read_weights(str(folder / 'weights.h5'))
    assert (best['step'], best['seen']) == (0, config['seen'])
    assert best['f1'] == pytest.approx(step_0, abs=5e-5)
    main.announce(best, str(folder), 'float32')
    assert (f'unet: unet, the starting weights {start}, trained on MoNuSeg, '
            'step 12000; no step of your training was better;'
            ) in capsys.readouterr().out

    # Going on takes nothing from the start again, which may be gone.
    os.remove(start)
    process = program(*flags, '--steps=2')
    assert process.returncode == 0, process.stderr
    assert 'resuming at step 1 of 2' in process.stdout
    assert 'step 0' not in process.stdout
    assert [change['name'] for change in read_json(
        folder, 'config.json')['changes']] == ['steps']

    # What the first was trained on is no measure of this one.
    with store.open_store(data_dir / 'train.h5') as file:
        known = next(store.whole_images(file))
    third = write_data(tmp_path / 'third', 3, [known])
    one_line(program('--mode=eval', '--net=unet', f'--data_dir={third}',
                     f'--model_dir={tmp_path}/own'), 'validation.h5',
             'holds train-0, which the starting weights of ',
             'measure on other images')


def test_a_start_from_what_began_from_weights(data_dir, start, tmp_path,
                                              capsys):
    record, weights, _ = saved.read_weights(str(start))
    saved.write_weights(str(start), {**record, 'seen': ['x']}, weights)
    with store.open_store(data_dir / 'train.h5') as file:
        seen = next(store.whole_images(file))
    data = write_data(tmp_path / 'data', 3, [seen])
    asked = asking(start, data_dir=str(data), steps=None)
    origin, _ = initial.read(asked)
    assert origin['seen'] == sorted([*digests(data_dir), 'x'])
    config = records.resolve(asked, None, origin)
    # The width is the start's.
    assert (config.width, config.init_data_source, config.init_step,
            config.seen) == (4, 'synthetic sample', record['step'],
                             origin['seen'])
    warning, = capsys.readouterr().err.splitlines()
    assert warning.startswith('warning: --init_checkpoint was trained on 1 '
                              f'image of {data}/validation.h5 (train-0)')


def asking(path, net='unet', **network):
    """What was asked for, as `initial.read` takes it."""
    return {'net': net, 'data_dir': '', 'init_checkpoint': str(path),
            'width': None, 'output_stride': None, **network}


def unsealed(path):
    """Opens a weights.h5 to change it, as one from before the digest."""
    os.truncate(str(path), os.path.getsize(str(path)) - saved.SEAL_LENGTH)
    file = h5py.File(str(path), 'a')
    del file.attrs['sealed']
    return file


@pytest.fixture
def start(model_dir):
    """A copy of the weights of a U-Net of width 4."""
    return model_dir / 'unet' / 'weights.h5'


def test_weights_that_cannot_be_used_end_in_one_line(start, tmp_path):
    def refused(path, words, *network, **width):
        with pytest.raises(InputError) as caught:
            initial.read(asking(path, *network, **width))
        assert re.search(words, str(caught.value)), str(caught.value)
        assert '\n' not in str(caught.value)

    refused(start, 'width 4, not 8; omit --width', width=8)
    refused(start, 'net unet, not segnet; .*--init_checkpoint', 'segnet')
    # A folder and a checkpoint.
    for path in (start.parent, start.parent / 'model.ckpt-6',
                 tmp_path / 'none'):
        refused(path, 'cannot be read .*give the weights.h5 of')
    (tmp_path / 'text').write_text('text')
    refused(tmp_path / 'text', 'text: damaged .*--init_checkpoint')
    whole = saved.read_weights(str(start))[:2]

    def enlarge(file):
        kernel = file['logits/logits/kernel:0'][()]
        del file['logits/logits/kernel:0']
        file['logits/logits/kernel:0'] = np.repeat(kernel, 3, 3)

    for change, words in (
            (lambda file: file['logits/logits/bias:0'].write_direct(
                np.float32([np.nan])), 'logits/bias holds NaN'),
            (lambda file: file.pop('logits/logits/bias:0'),
             'does not hold logits/bias of unet; give the weights.h5 of'),
            (enlarge, 'does not hold logits/kernel of unet'),
            (lambda file: file.pop('config'), 'lacks the record')):
        saved.write_weights(str(start), *whole)
        with unsealed(start) as file:
            change(file)
        refused(start, words)


@pytest.mark.long
def test_a_cluster_starts_from_weights(data_dir, model_dir, tmp_path,
                                       free_port):  # noqa: F811
    # Four patches, for two workers.
    data = write_data(tmp_path / 'data', 2, side=300)
    start = model_dir / 'unet' / 'weights.h5'
    # Two servers: its checkpoints have two parts.
    jobs = {job: [f'127.0.0.1:{free_port()}' for _ in range(count)]
            for job, count in (('chief', 1), ('worker', 1), ('ps', 2))}
    flags = (*train_flags(data, tmp_path / 'own', 'unet', 200),
             '--evaluate_every=100', f'--init_checkpoint={start}')

    with contextlib.ExitStack() as stack:
        processes = {}
        for task, index in (('ps', 0), ('ps', 1), ('worker', 0),
                            ('evaluator', 0), ('chief', 0)):
            config = {'cluster': jobs, 'task': {'type': task, 'index': index}}
            process = subprocess.Popen(
                [sys.executable, 'main.py', *flags], cwd=ROOT,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                universal_newlines=True,
                env=dict(os.environ, TF_CONFIG=json.dumps(config)))
            stack.callback(process.kill)
            processes[task, index] = process
        outputs = {key: process.communicate(timeout=SECONDS)[0]
                   for key, process in processes.items()}
    assert {process.returncode for process in processes.values()} == {0}, (
        outputs)
    folder = tmp_path / 'own' / 'unet'
    check_holds(folder / 'model.ckpt-0', weights_in(start))
    assert f'training 200 steps from {start}' in outputs['chief', 0]
    assert re.search(r'^step 2\d\d: validation', outputs['evaluator', 0],
                     re.MULTILINE)
    record, *_ = saved.read_weights(str(folder / 'weights.h5'))
    assert record['seen'] == sorted(digests(data_dir))
