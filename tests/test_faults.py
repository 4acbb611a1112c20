"""Faults of disk and numbers in training: nothing is lost, nothing hangs."""
import json
import os
import random
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
from test_init import unsealed

from conftest import (
    ROOT,
    SECONDS,
    on_a_small_disk,
    one_line,
    start,
    start_training,
    train_flags,
)
from histology.files import InputError
from nets import saved
from nets.tf1 import VERSION_1, tf
from training import checkpoints, initial
from training.hooks import STEP_DONE, StopHook


@pytest.fixture
def folder(trained, tmp_path):
    """U-Net's model folder with checkpoints of the steps 3 and 6."""
    return shutil.copytree(str(trained / 'unet'), str(tmp_path / 'unet'))


def data_file(checkpoint):
    return f'{checkpoint}.data-00000-of-00001'


def truncate(checkpoint):
    os.truncate(data_file(checkpoint), 1000)


def fill_kernel(value):
    """A change of a checkpoint that keeps it whole."""
    def change(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        with tf.Graph().as_default(), tf.Session() as session:
            for name in reader.get_variable_to_shape_map():
                tensor = reader.get_tensor(name)
                if name == 'logits/kernel':
                    tensor = np.full_like(tensor, value)
                tf.get_variable(name, initializer=tensor)
            session.run(tf.global_variables_initializer())
            tf.train.Saver().save(session, checkpoint)
    return change


@pytest.mark.parametrize('damage, said', [
    (truncate, 'damaged'),
    (lambda checkpoint: change_bit(data_file(checkpoint), 240000), 'damaged'),
    (lambda checkpoint: os.remove(data_file(checkpoint)), 'damaged'),
    (lambda checkpoint: os.truncate(f'{checkpoint}.index', 500), 'damaged'),
    (fill_kernel(np.nan), 'logits/kernel holds NaN')])
def test_a_damaged_checkpoint_is_passed_over(folder, damage, said, capsys):
    paths = [os.path.join(folder, f'model.ckpt-{step}') for step in (3, 6)]
    assert checkpoints.latest_valid(folder) == paths[1]
    assert capsys.readouterr().err == ''
    damage(paths[1])
    assert checkpoints.latest_valid(folder) == paths[0]
    assert tf.train.latest_checkpoint(folder) == paths[0]
    line = capsys.readouterr().err
    assert line.startswith(f'warning: {paths[1]}: {said}')
    assert line.count('\n') == 1
    truncate(paths[0])
    with pytest.raises(InputError, match='no checkpoint that can be read'):
        checkpoints.latest_valid(folder)


def test_what_a_kill_left_is_removed_and_steps_are_numbers(folder):
    for leftover in ('model.ckpt-12_temp', f'model.ckpt-12_temp_{32 * "b"}'):
        os.mkdir(os.path.join(folder, leftover))
        open(os.path.join(folder, leftover, 'part-00000'), 'w').close()
    for leftover in (f'graph.pbtxt.tmp{32 * "9"}', f'checkpoint.tmp{32 * "a"}',
                     'model.ckpt-12.data-00000-of-00001'):
        open(os.path.join(folder, leftover), 'w').close()
    for name in ('notes.tmpl.md', 'graph.pbtxt.tmp_notes',
                 'model.ckpt-3_template.md'):
        open(os.path.join(folder, name), 'w').close()
    before = set(os.listdir(folder))
    for source in os.listdir(folder):
        if source.startswith('model.ckpt-6.'):
            shutil.copy(os.path.join(folder, source), os.path.join(
                folder, source.replace('ckpt-6', 'ckpt-10')))
    # Not 6, which is the last in the order of text, and not 12, which has no
    # index.
    assert checkpoints.latest_valid(folder).endswith('model.ckpt-10')
    left = set(os.listdir(folder))
    assert not [name for name in left
                if name.endswith(('_temp', 'bb', '99', 'aa'))]
    # What is a user's stays.
    assert {'config.json', 'weights.h5', 'model.ckpt-3.index',
            'notes.tmpl.md', 'graph.pbtxt.tmp_notes',
            'model.ckpt-3_template.md'} <= before & left


@pytest.fixture
def weights(folder):
    """The path of the weights.h5 of a U-Net of width 4."""
    return os.path.join(folder, 'weights.h5')


def change_bit(path, position):
    with open(path, 'r+b') as file:
        content = bytearray(file.read())
        content[position // 8] ^= 1 << position % 8
        file.seek(0)
        file.write(content)


def test_one_changed_bit_anywhere_in_weights_h5_is_refused(weights):
    size = 8 * os.path.getsize(weights)
    seal = size - 8 * saved.SEAL_LENGTH
    rng = random.Random(0)
    for position in (0, seal - 1, size - 1, *rng.sample(range(size), 100),
                     *rng.sample(range(seal, size), 20)):
        change_bit(weights, position)
        with pytest.raises(InputError, match=r'\A.*weights\.h5: damaged '
                           r'\(.*\); copy it again or train again\Z'):
            saved.read_weights(weights)
        change_bit(weights, position)
    saved.read_weights(weights)


@pytest.mark.parametrize('net', sorted(os.listdir(saved.PRETRAINED)))
def test_one_changed_bit_in_shipped_weights(net, tmp_path):
    """Wherever they are read: to predict, and to start a training from."""
    path = shutil.copy(os.path.join(saved.PRETRAINED, net, 'weights.h5'),
                       str(tmp_path))
    change_bit(path, 4 * os.path.getsize(path))
    asked = {'net': net, 'init_checkpoint': path}
    for read in (lambda: saved.load_network(str(tmp_path)),
                 lambda: initial.read(asked),
                 lambda: checkpoints.best_record(str(tmp_path))):
        with pytest.raises(InputError, match='weights.h5: damaged'):
            read()


def test_weights_of_before_the_digest_are_read(weights):
    expected = saved.read_weights(weights)[:2]
    unsealed(weights).close()
    np.testing.assert_equal(saved.read_weights(weights)[:2], expected)
    # A digest that was cut off is missed.
    saved.write_weights(weights, *expected)
    for length in (os.path.getsize(weights) - 1, 1000):
        os.truncate(weights, length)
        with pytest.raises(InputError, match='weights.h5: damaged'):
            saved.read_weights(weights)


@pytest.mark.parametrize('change, said', [
    ('[3]', ''), ('{"net": "un', ''), ({'net': 'vgg'}, ''), ({'width': 8}, ''),
    *(({name: value}, f'{name} is .*; copy') for name, value in (
        ('width', '4'), ('width', None), ('output_stride', 'a'),
        ('step', None), ('trained_on', [1]), ('trained_on', 'abc'),
        ('net', ['unet']), ('normalisation', 1), ('seen', 5), ('width', -1),
        ('width', 10 ** 30), ('width', float('inf')), ('f1', 'a')))])
def test_a_record_that_no_training_writes_is_refused(weights, change, said):
    record, *_ = saved.read_weights(weights)
    with unsealed(weights) as file:
        del file['config']
        file['config'] = (change if isinstance(change, str)
                          else json.dumps({**record, **change}))
    with pytest.raises(InputError, match=f'weights.h5: {said}'):
        saved.load_network(os.path.dirname(weights))


def test_before_the_first_evaluation_it_is_said_when_it_comes(folder):
    os.remove(os.path.join(folder, 'weights.h5'))
    with pytest.raises(InputError, match='no weights.h5 yet; the first comes '
                       'with the checkpoint of step 3. Wait'):
        saved.load_network(folder)


def test_advice_of_a_folder_without_a_network_can_be_followed(tmp_path):
    for folder in ('models/unet', 'models/unet/'):
        with pytest.raises(InputError) as caught:
            saved.load_network(f'{tmp_path}/{folder}', 'unet')
        assert (f'--mode=train --net=unet --model_dir={tmp_path}/models, or '
                'use the one that came with the code' in str(caught.value))
    # Nothing is trained into the folder of the shipped networks.
    with pytest.raises(InputError) as caught:
        saved.load_network(os.path.join(saved.PRETRAINED, 'tinynet'))
    assert str(caught.value).endswith(
        'train one with python main.py --mode=train --net=tinynet')


def test_nan_ends_training_and_is_not_gone_on_from(program, data_dir, folder):
    # So large that the sum over the filters overflows, to infinity; times a
    # label of 0 it is NaN.
    fill_kernel(3e38)(os.path.join(folder, 'model.ckpt-6'))
    before = checkpoints.best_record(folder)
    flags = train_flags(data_dir, os.path.dirname(folder), 'unet', 9)
    process = program(*flags)
    one_line(process, '--learning_rate')
    assert f'{folder}: the loss became NaN at step 7;' in process.stderr
    assert checkpoints.latest_valid(folder).endswith('model.ckpt-6')
    assert checkpoints.best_record(folder)['f1'] >= before['f1']


def test_a_session_that_is_lost_is_not_made_anew(monkeypatch):
    """It might begin again with random weights."""
    class Lost(tf.train.SessionRunHook):
        def after_run(self, *_):
            raise tf.errors.AbortedError(None, None, 'Stale file handle')

    monkeypatch.setattr(StopHook, 'take_signals', lambda _: None)
    stop = StopHook([], alone=True)
    with tf.Graph().as_default():
        step = tf.train.get_or_create_global_step()
        done = tf.identity(tf.assign_add(step, 1), STEP_DONE)
        with pytest.raises(InputError, match='the drive was away'), \
                tf.train.MonitoredTrainingSession(
                    hooks=[stop, Lost()]) as session:
            session.run(done)


@pytest.mark.parametrize('error, said', [
    (RuntimeError('unet/events: No space left on device'),
     'cannot be written'),
    (ValueError("Parent directory of unet/model.ckpt doesn't exist"),
     'is gone')])
def test_what_writing_to_a_model_folder_raises(error, said, tmp_path):
    folder = tmp_path / 'unet'
    with pytest.raises(InputError, match=f'unet: {said}'):
        with checkpoints.exclusive_write(str(folder)):
            if isinstance(error, ValueError):
                folder.rename(tmp_path / 'moved')
            raise error
    folder.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match='bug'):
        with checkpoints.exclusive_write(str(folder)):
            raise ValueError('a bug')


# Runs main.py on a small disk, and again once the disk has grown.
TWICE = '''
disk=$1
shift 2
"$@"
echo "rc $?"
ls -AR "$disk"
echo grown
mount -o remount,size=200m "$disk"
"$@"
'''


def on_a_full_disk(disk, size, *flags):
    """Runs main.py on a full disk and on one with room.

    Args:
        disk: a folder.
        size: of the disk mounted there at first, as '8m'.
        flags: of main.py.

    Returns:
        stderr of the first run, its stdout with a list of the files it left,
        and stdout of the second.
    """
    process = on_a_small_disk(TWICE, disk, size, 'main.py', *flags)
    assert process.returncode == 0, process.stderr
    before, after = process.stdout.split('grown\n')
    assert 'rc 1\n' in before
    errors = [line for line in process.stderr.splitlines()
              if line.startswith('error: ')]
    assert len(errors) == 1, process.stderr
    assert 'Traceback' not in process.stderr, process.stderr
    return errors[0], before, after


@pytest.mark.long
def test_a_full_disk_ends_training_and_loses_nothing(data_dir, tmp_path):
    # With room for the first checkpoint alone; 1.15 writes the graph, too.
    size = '6m' if VERSION_1 else '4m'
    error, before, after = on_a_full_disk(
        tmp_path, size, *train_flags(data_dir, tmp_path, 'unet', 6),
        '--width=4')
    assert error.startswith(
        f'error: {tmp_path}/unet: cannot be written (No space left on device)')
    assert 'training 6 steps' in before
    assert 'resuming at step 0 of 6' in after and 'step 6/6' in after
    # Random weights are not evaluated, and never the best.
    assert 'step 0: validation' not in after


@pytest.mark.long
def test_a_full_disk_leaves_no_part_of_a_store(tmp_path):
    error, before, after = on_a_full_disk(
        tmp_path, '3m', '--mode=prepare', '--sample',
        f'--data_dir={tmp_path}/data')
    assert error.startswith(f'error: {tmp_path}/data/train.h5: cannot be '
                            'written (No space left on device)')
    assert 'h5' not in before and 'partial' not in before
    assert 'test 4 images' in after


@pytest.mark.long
def test_a_second_training_is_refused(program, data_dir, tmp_path):
    process = start_training(data_dir, tmp_path)
    one_line(program(*train_flags(data_dir, tmp_path, 'unet', 9)),
             f'{tmp_path}/unet', 'another process')
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=SECONDS)
    # The killed one keeps nobody out.
    process = program(*train_flags(data_dir, tmp_path, 'unet', 1))
    assert process.returncode == 0, process.stderr


@pytest.mark.long
def test_a_huge_image_takes_less_than_3_gb(tmp_path):
    image = iio.imread(os.path.join(ROOT, 'docs', 'figures', 'synthetic.png'),
                       plugin='pillow')
    repeats = -(-10000 // len(image))
    iio.imwrite(tmp_path / 'huge.png', np.tile(image, (repeats, repeats, 1))[
        :10000, :10000], plugin='pillow')
    process = start('--mode=predict', '--net=unet', '--noaverage',
                    '--model_dir=checkpoints/pretrained',
                    f'--images={tmp_path}/huge.png',
                    f'--output_dir={tmp_path}/out')
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status  # or 3.7 kills whatever has its number by then
    assert status == 0, process.stderr.read()
    assert usage.ru_maxrss < 3e9 / 1024  # KiB
    mask = iio.imread(tmp_path / 'out' / 'huge_mask.png', plugin='pillow')
    assert mask.shape == (10000, 10000)
    # The tile repeats, and far from its borders so does what is found there.
    side = len(image)
    found = [mask[k * side:(k + 1) * side, k * side:(k + 1) * side][
        64:-64, 64:-64] > 0 for k in (1, 20)]
    assert found[0].any()
    assert (found[0] == found[1]).mean() > 0.99
