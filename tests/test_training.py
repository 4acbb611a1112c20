"""Loss, schedule and the record of the best checkpoint, by hand."""
import dataclasses
import json
import math
import os
import shutil
import threading

import numpy as np
import pytest

from conftest import example, train_flags
from histology.files import InputError
from input_pipeline import store
from nets import saved
from nets.tf1 import tf
from training import checkpoints, cluster, loop, model_fn, records


def value(tensor):
    with tf.Session() as session:
        return session.run(tensor)


def test_loss_of_a_hand_worked_patch():
    # Two pixels: logit 0 on a nucleus, logit ln 3 (p = 0.75) on background.
    logits = tf.constant([0.0, math.log(3)], shape=[1, 1, 2, 1])
    labels = tf.constant([1.0, 0.0], shape=[1, 1, 2, 1])
    cross_entropy = (math.log(2) + math.log(4)) / 2
    # Smoothed by one pixel: (2 * 0.5 + 1) / (0.5 + 0.75 + 1 + 1).
    dice = 2 / 3.25
    assert value(model_fn.segmentation_loss(logits, labels)) == pytest.approx(
        cross_entropy + 1 - dice, abs=1e-6)


def test_gaps_weigh_five_times_in_the_cross_entropy():
    """Two nuclei of 6 x 6, three columns apart, and another pair five apart.

    A square of 5 x 5 fits between the second pair alone.
    """
    labels = np.zeros((1, 10, 40, 1), np.float32)
    for left in (2, 11, 22, 33):
        labels[:, 2:8, left:left + 6] = 1
    gap = np.zeros((10, 40), bool)
    gap[2:8, 8:11] = True
    probability = np.where(gap, 0.9, np.where(labels[0, ..., 0], 0.8, 0.3))
    logits = np.log(probability / (1 - probability)).reshape(labels.shape)
    cost = np.where(labels[0, ..., 0], -np.log(0.8), -np.log(0.7))
    cost[gap] = -np.log(0.1)
    weights = np.where(gap, 5, 1)
    nuclear, background = 4 * 36, 400 - 4 * 36 - 18
    dice = (2 * 0.8 * nuclear + 1) / (
        1.8 * nuclear + 0.3 * background + 0.9 * 18 + 1)
    assert value(model_fn.segmentation_loss(
        tf.constant(logits, tf.float32), tf.constant(labels))
    ) == pytest.approx((weights * cost).sum() / (400 + 4 * 18) + 1 - dice,
                       rel=1e-5)


def test_loss_of_an_empty_patch_is_small_when_rightly_predicted():
    logits = tf.fill([2, 4, 4, 1], -20.0)
    assert value(model_fn.segmentation_loss(
        logits, tf.zeros([2, 4, 4, 1]))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize('step, expected', [
    (0, 0.01 / 10),        # a tenth of the warm-up, cosine at its top
    (4, 0.5 * 0.01 * (1 + math.cos(math.pi * 0.04)) / 2),
    (50, 0.01 / 2),        # half-way down the cosine
    (75, 0.01 * (1 - math.sqrt(0.5)) / 2),
    (100, 0),
])
def test_learning_rate(step, expected):
    rate = model_fn.learning_rate_at(tf.constant(step, tf.int64), 0.01, 10,
                                     100)
    assert value(rate) == pytest.approx(expected, abs=1e-8)


def checkpoint(folder, step):
    path = os.path.join(str(folder), f'model.ckpt-{step}')
    for ending in ('index', 'data-00000-of-00001', 'meta'):
        with open(f'{path}.{ending}', 'w') as file:
            file.write(f'{ending} of {step}')
    return path


def test_keep_best_keeps_one_checkpoint_and_only_a_better_one(tmp_path):
    folder = str(tmp_path)
    for step, f1, kept in ((10, 0.5, True), (20, 0.5, False),
                           (30, 0.4, False), (40, 0.6, True)):
        assert checkpoints.keep_best(folder, checkpoint(tmp_path, step),
                                     {'f1': f1, 'step': step}) == kept
    assert saved.read_best(folder) == {
        'checkpoint': 'model.ckpt-40', 'f1': 0.6, 'step': 40,
        'evaluated': 40}
    checkpoints.keep_best(folder, checkpoint(tmp_path, 50),
                          {'f1': 0.1, 'step': 50})
    assert saved.read_best(folder) == {
        'checkpoint': 'model.ckpt-40', 'f1': 0.6, 'step': 40,
        'evaluated': 50}
    assert sorted(os.listdir(tmp_path / 'best')) == [
        'best.json', 'model.ckpt-40.data-00000-of-00001',
        'model.ckpt-40.index', 'model.ckpt-40.meta']
    assert (tmp_path / 'best' / 'model.ckpt-40.index').read_text() == (
        'index of 40')


def test_keep_best_of_a_network_that_finds_nothing_yet(tmp_path):
    metrics = {'f1': 0.0, 'precision': math.nan, 'step': 10}
    assert checkpoints.keep_best(str(tmp_path), checkpoint(tmp_path, 10),
                                 metrics)
    assert saved.read_best(str(tmp_path)) == {
        'checkpoint': 'model.ckpt-10', 'f1': 0.0, 'precision': None,
        'step': 10, 'evaluated': 10}


def test_keep_best_where_f1_is_undefined(tmp_path):
    folder = str(tmp_path)
    for step, f1, kept in ((10, None, True), (20, None, True),
                           (30, 0.0, True), (40, None, False),
                           (50, 0.0, False), (60, 0.1, True)):
        assert checkpoints.keep_best(folder, checkpoint(tmp_path, step),
                                     {'f1': f1, 'step': step}) == kept
        assert saved.read_best(folder)['evaluated'] == step
    assert saved.read_best(folder)['step'] == 60


def test_masks_without_nuclei_leave_the_latest(trained, tmp_path, capsys):
    folder = shutil.copytree(str(trained / 'unet'), str(tmp_path / 'unet'))
    shutil.rmtree(os.path.join(folder, 'best'))
    # The first finds nothing, which is right, and the second a false pixel.
    for step, f1 in ((3, math.nan), (6, 0.0)):
        checkpoints.record_evaluation(
            folder, os.path.join(folder, f'model.ckpt-{step}'), {
                'loss': 0.5, 'accuracy': 1, 'f1': f1, 'iou': f1,
                'recall': math.nan, 'aji': f1, 'pq': f1, 'global_step': step})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('validation.h5: F1 is undefined')
    assert lines[1:] == [
        f'step {step}: validation loss 0.500, accuracy 1.000, F1 -, IoU -, '
        f'AJI {nuclei}, PQ {nuclei}'
        for step, nuclei in ((3, '-'), (6, '0.0000'))]
    best = saved.read_best(folder)
    assert (best['step'], best['f1']) == (6, None)


def test_training_and_eval_without_any_nucleus_to_validate_on(
        program, data_dir, tmp_path):
    data = tmp_path / 'data'
    data.mkdir()
    shutil.copy(str(data_dir / 'train.h5'), str(data))
    with store.open_store(data_dir / 'validation.h5') as file:
        rules = store.attributes(file)
        examples = [example(whole.name, whole.image, 0 * whole.instances,
                            False)
                    for whole in store.whole_images(file)]
    store.write_store(str(data / 'validation.h5'), rules, examples)
    process = program(*train_flags(data, tmp_path, 'unet', 6), '--width=4')
    assert process.returncode == 0, process.stderr
    assert process.stdout.count('F1 is undefined') == 1
    assert 'step 6: validation' in process.stdout
    assert process.stdout.count('F1 -, IoU -, AJI -, PQ -\n') == 2
    folder = tmp_path / 'unet'
    with open(folder / 'best' / 'best.json') as file:
        best = json.load(file)
    assert (best['step'], best['f1'], best['aji']) == (6, None, None)
    assert saved.record_of_weights(
        str(folder / 'weights.h5'))['f1'] is None
    process = program('--mode=eval', '--net=unet', f'--data_dir={data}',
                      f'--model_dir={tmp_path}', '--noaverage',
                      '--threshold=1')  # above which is nothing
    assert process.returncode == 0, process.stderr
    assert 'leaves out 2 of the 2 images' in process.stdout
    assert 'measures of nuclei are 2 of the 2 images' in process.stdout
    rows = [line.split() for line in process.stdout.splitlines()
            if line.startswith(('validation-', 'pooled ', 'mean '))]
    assert [row[-6:] for row in rows[:4]] == 4 * [['1.0000'] + 5 * ['-']]
    assert [row[-8:] for row in rows[4:]] == 4 * [8 * ['-']]
    with open(folder / 'validation.json') as file:
        results = json.load(file)['results']
    for row in (*results['per_image'], results['mean_per_image'],
                results['pooled']):
        assert row['f1'] is row['aji'] is row['pq'] is None


def test_a_checkpoint_that_has_gone_is_not_kept(tmp_path, capsys):
    folder = str(tmp_path)
    checkpoints.keep_best(folder, checkpoint(tmp_path, 10),
                          {'f1': 0.5, 'step': 10})
    slow = checkpoint(tmp_path, 20)
    os.remove(f'{slow}.data-00000-of-00001')
    for path in (slow, str(tmp_path / 'model.ckpt-30')):
        assert not checkpoints.keep_best(folder, path,
                                         {'f1': 0.9, 'step': 30})
        assert f'{path}: removed' in capsys.readouterr().err
    assert saved.read_best(folder)['checkpoint'] == 'model.ckpt-10'
    assert sorted(os.listdir(tmp_path / 'best')) == [
        'best.json', 'model.ckpt-10.data-00000-of-00001',
        'model.ckpt-10.index', 'model.ckpt-10.meta']


def test_a_checkpoint_written_again_in_more_parts(tmp_path):
    """As the first of a cluster that starts from weights."""
    path = checkpoint(tmp_path, 0)
    for part, kept in (0, False), (1, True):
        (tmp_path / f'model.ckpt-0.data-0000{part}-of-00002').touch()
        assert checkpoints.keep_best(
            str(tmp_path), path, {'f1': 0.5, 'step': 0}) == kept
    assert len(os.listdir(tmp_path / 'best')) == 6


def test_the_same_step_kept_again(tmp_path):
    """As after going back to an earlier checkpoint; and a kill's leftover."""
    folder = str(tmp_path)
    checkpoints.keep_best(folder, checkpoint(tmp_path, 10),
                          {'f1': 0.5, 'step': 10})
    (tmp_path / 'best' / 'model.ckpt-7.index').touch()
    (tmp_path / 'best' / 'notes.txt').touch()
    (tmp_path / 'best' / 'model.ckpt-7.notes').touch()
    assert checkpoints.keep_best(folder, checkpoint(tmp_path, 10),
                                 {'f1': 0.6, 'step': 10})
    name = saved.read_best(folder)['checkpoint']
    assert sorted(os.listdir(tmp_path / 'best')) == sorted([
        'best.json', 'notes.txt', 'model.ckpt-7.notes',
        f'{name}.data-00000-of-00001',
        f'{name}.index', f'{name}.meta'])


def test_the_best_may_change_while_it_is_read(trained, tmp_path):
    """As when eval runs beside a training."""
    folder = shutil.copytree(str(trained / 'unet'), str(tmp_path / 'unet'))
    done = threading.Event()

    def improve():
        f1 = 1
        while not done.is_set():
            f1 += 1
            step = 3 if f1 % 2 else 6
            checkpoints.keep_best(
                folder, os.path.join(folder, f'model.ckpt-{step}'),
                {'f1': f1, 'step': step})

    thread = threading.Thread(target=improve)
    thread.start()
    try:
        seen = set()
        with saved.model_session(
                checkpoints.read_record(folder, 'unet'),
                tf.ConfigProto()) as (_, model):
            while len(seen) < 2:
                seen.add(saved.restore_best(folder, model)['step'])
    finally:
        done.set()
        thread.join()


NETWORK = {'net': 'deeplabv3', 'width': 8, 'output_stride': 16,
           'normalisation': 'uint8 / 255'}
DATA = {'data_source': 'made', 'data_digest': '', 'data_seed': 0,
        'data_fold': '0', 'trained_on': ['digest']}


# What is neither.
RECORD = {'steps': 9, 'batch_size': 2, 'crop_size': 64, 'learning_rate': 0.1,
          'warmup_steps': 1, 'evaluate_every': 3, 'augment_threads': 1,
          'accelerate': False, 'seed': 0, 'data_dir': 'd', 'changes': [],
          'init_checkpoint': None, 'init_data_source': None,
          'init_step': None, 'seen': None, 'target': 'masks with gaps'}


def write_config(folder, record):
    """A record in a model folder in which a training began."""
    (folder / 'config.json').write_text(json.dumps(record))
    (folder / 'model.ckpt-3.index').touch()


def test_a_training_is_read_back_and_contradictions_are_refused(tmp_path):
    folder, record = str(tmp_path), dict(RECORD, **NETWORK, **DATA)
    assert checkpoints.record_to_resume(folder, 'deeplabv3') is None
    (tmp_path / 'config.json').write_text(json.dumps(record))
    # A training that failed before its first checkpoint binds to nothing.
    assert checkpoints.record_to_resume(folder, 'deeplabv3') is None
    write_config(tmp_path, record)
    assert checkpoints.record_to_resume(folder, 'deeplabv3') == record
    assert checkpoints.record_to_resume(folder, 'deeplabv3', 8, 16) == record
    for asked, word in ((('unet', None, None), 'net deeplabv3, not unet'),
                        (('deeplabv3', 16, None), 'width 8, not 16'),
                        (('deeplabv3', 8, 8), 'output_stride 16, not 8')):
        with pytest.raises(InputError, match=word):
            checkpoints.record_to_resume(folder, *asked)
    for missing in ('trained_on', 'changes', 'learning_rate'):
        write_config(tmp_path, {key: value for key, value in record.items()
                                if key != missing})
        with pytest.raises(InputError, match=f'says nothing of {missing}'):
            checkpoints.record_to_resume(folder, 'deeplabv3')
    write_config(tmp_path, {**record, 'normalisation': 'other'})
    with pytest.raises(InputError, match='normalisation'):
        checkpoints.record_to_resume(folder, 'deeplabv3')
    (tmp_path / 'config.json').write_text('{"net": "un')
    with pytest.raises(InputError, match='config.json'):
        checkpoints.record_to_resume(folder, 'deeplabv3')


def test_training_never_replaces_what_it_did_not_train(tmp_path):
    (tmp_path / 'weights.h5').touch()
    with pytest.raises(InputError, match='holds weights.h5 alone'):
        checkpoints.record_to_resume(str(tmp_path), 'unet')
    (tmp_path / 'model.ckpt-3.index').touch()
    with pytest.raises(InputError, match='earlier version, without config'):
        checkpoints.record_to_resume(str(tmp_path), 'unet')
    (tmp_path / 'link').symlink_to(saved.PRETRAINED)
    for folder in (saved.PRETRAINED, str(tmp_path / 'link')):
        with pytest.raises(InputError, match='keeps the networks that came'):
            checkpoints.record_to_resume(os.path.join(folder, 'unet'), 'unet')


def test_a_best_network_without_a_checkpoint_is_not_trained_over(tmp_path):
    (tmp_path / 'best').mkdir()
    write_config(tmp_path, dict(RECORD, **NETWORK, **DATA))
    (tmp_path / 'model.ckpt-3.index').unlink()
    (tmp_path / 'best' / 'best.json').touch()
    former = checkpoints.record_to_resume(str(tmp_path), 'deeplabv3')
    config = records.TrainConfig(data_dir='d', **NETWORK, **DATA)
    with pytest.raises(InputError, match='no checkpoint to go on from'):
        loop.find_start(config, former, str(tmp_path), cluster.task())


def test_training_on_masks_without_gaps_does_not_go_on(tmp_path):
    record = dict(RECORD, **NETWORK, **DATA)
    del record['target']  # as before there were gaps
    write_config(tmp_path, record)
    former = checkpoints.record_to_resume(str(tmp_path), 'deeplabv3')
    config = records.TrainConfig(data_dir='d', **NETWORK, **DATA)
    with pytest.raises(InputError, match='trained it on masks, and this one '
                       'trains on masks with gaps; choose another'):
        loop.find_start(config, former, str(tmp_path), cluster.task())


def test_weights_without_their_best_are_not_trained_over(tmp_path):
    write_config(tmp_path, dict(RECORD, **NETWORK, **DATA))
    (tmp_path / 'weights.h5').touch()
    with pytest.raises(InputError, match='best/ has gone.*move weights.h5'):
        checkpoints.record_to_resume(str(tmp_path), 'deeplabv3')


def test_a_config_of_another_program_stays(tmp_path):
    (tmp_path / 'config.json').write_text('{"mine": 1}')
    with pytest.raises(InputError, match='config.json: not written by this'):
        checkpoints.record_to_resume(str(tmp_path), 'unet')


def test_what_a_user_calls_like_a_checkpoint_is_none(tmp_path):
    for name in ('model.ckpt-backup.index', 'model.ckpt-3.index.bak',
                 'model.ckpt-12.index', 'model.ckpt-9.index'):
        (tmp_path / name).touch()
    assert [os.path.basename(path) for path in saved.all_checkpoints(
        str(tmp_path))] == ['model.ckpt-9', 'model.ckpt-12']


@pytest.mark.parametrize('kept', ['model.ckpt-6.index', 'best/best.json'])
def test_other_data_is_refused_whatever_is_left(tmp_path, kept):
    (tmp_path / 'best').mkdir()
    write_config(tmp_path, dict(RECORD, **NETWORK, **DATA))
    (tmp_path / 'model.ckpt-3.index').unlink()
    (tmp_path / kept).touch()
    former = checkpoints.record_to_resume(str(tmp_path), 'deeplabv3')
    for key, value in (('data_seed', 1), ('trained_on', ['digest', 'b'])):
        config = records.TrainConfig(data_dir='d', **{**NETWORK, **DATA,
                                                      key: value})
        with pytest.raises(InputError, match='--data_dir=d: holds other'):
            loop.find_start(config, former, str(tmp_path), cluster.task())


def test_network_is_that_before_or_the_default():
    config = records.TrainConfig(net='unet', data_dir='d')
    assert records.with_network(config, None).width == 16
    assert records.with_network(config, None).output_stride is None
    config = records.TrainConfig(net='deeplabv3', data_dir='d', width=4)
    assert records.with_network(config, None).width == 4
    assert records.with_network(config, None).output_stride == 8
    former = records.with_network(config, dict(RECORD, **NETWORK))
    assert (former.width, former.output_stride) == (8, 16)


def test_steps_and_rate_that_were_not_asked_for():
    for asked, origin, found in (
            ((None, None), None, (4000, 2e-3)),
            ((None, None), 'w.h5', (1000, 5e-4)),
            ((9, None), 'w.h5', (9, 5e-4)), ((9, 0.1), None, (9, 0.1))):
        config = records.with_defaults(records.TrainConfig(
            net='unet', data_dir='d', steps=asked[0], learning_rate=asked[1],
            init_checkpoint=origin))
        assert (config.steps, config.learning_rate) == found


def test_what_a_training_began_from_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    origin = {'init_checkpoint': 'a/w.h5', 'init_data_source': 'made',
              'init_step': 3, 'seen': ['x']}
    began, random = (dict(RECORD, **NETWORK, **added)
                     for added in (origin, {}))

    def going_on(path, former):
        return records.with_network(records.TrainConfig(
            net='deeplabv3', data_dir='d', init_checkpoint=path), former)

    for path in (None, 'a/w.h5', str(tmp_path / 'a' / 'w.h5')):
        config = going_on(path, began)
        assert {key: getattr(config, key) for key in origin} == origin
    assert going_on(None, random).init_checkpoint is None
    for path, former, words in (
            ('b.h5', began, '--init_checkpoint=b.h5: .* from a/w.h5;'),
            ('b.h5', random, '--init_checkpoint=b.h5: .* random weights;')):
        with pytest.raises(InputError, match=words):
            going_on(path, former)
    # A task of a cluster is to be asked for what the chief was.
    write_config(tmp_path, dict(began, **DATA))
    task = records.TrainConfig(data_dir='d', **NETWORK, **DATA)
    with pytest.raises(InputError, match='--init_checkpoint: .* from a/w.h5'):
        cluster.check_as_chief(task, str(tmp_path))
    cluster.check_as_chief(dataclasses.replace(
        task, init_checkpoint='./a/w.h5'), str(tmp_path))


def test_what_changes_on_resuming_is_said_and_kept(capsys):
    former = records.TrainConfig(net='unet', data_dir='d', steps=4000,
                                 width=16, trained_on=['a', 'b'])
    record = dict(dataclasses.asdict(former), changes=[])
    now = dataclasses.replace(former, steps=8000, batch_size=4)
    changes = loop.changes_of(now, record, 4000)
    assert changes == [
        {'name': 'steps', 'before': 4000, 'now': 8000, 'step': 4000},
        {'name': 'batch_size', 'before': 8, 'now': 4, 'step': 4000}]
    # At 3999 of 4000 steps the cosine leaves (pi / 4000)^2 / 4 of 2e-3, 3e-10;
    # in the middle of 8000 steps the rate is half of its peak of 2e-3.
    assert capsys.readouterr().out == (
        'steps: 4000 before, 8000 from step 4000 on; the learning rate rises '
        'again, from 3e-10 to 0.001\n'
        'batch_size: 8 before, 4 from step 4000 on\n')
    # The next time they stand in the record.
    record = dict(dataclasses.asdict(now), changes=changes)
    assert loop.changes_of(now, record, 5000) == changes
    assert capsys.readouterr().out == ''
    table = records.as_markdown(record).splitlines()
    assert '| steps | 8000 |' in table
    assert '| trained_on | 2 images |' in table
    assert '| seen | 0 images |' in table
    assert table[-1] == '| from step 4000 | batch_size 4 instead of 8 |'


def test_sizes_that_a_network_cannot_be_trained_with():
    def check(net, **sizes):
        loop.check_sizes(records.TrainConfig(net=net, data_dir='d', **sizes))

    check('unet', batch_size=1, crop_size=256)
    check('deeplabv3', batch_size=2, crop_size=72)
    for wrong, word in (({'crop_size': 100}, 'crop_size=100.*16'),
                        ({'crop_size': 272}, 'crop_size=272.*256')):
        with pytest.raises(InputError, match=word):
            check('unet', **wrong)
    with pytest.raises(InputError, match='batch_size=1: deeplabv3 .* 2'):
        check('deeplabv3', batch_size=1)


@pytest.mark.parametrize('config, alone, chief', [
    (None, True, True),
    ({'cluster': {'chief': ['h:1'], 'worker': ['h:2'], 'ps': ['h:3']},
      'task': {'type': 'worker', 'index': 0}}, False, False),
    ({'cluster': {'chief': ['h:1'], 'worker': ['h:2'], 'ps': ['h:3']},
      'task': {'type': 'evaluator', 'index': 0}}, False, False)])
def test_the_part_of_a_process(monkeypatch, config, alone, chief):
    monkeypatch.setenv('TF_CONFIG', json.dumps(config or {}))
    run_config = cluster.task()
    assert cluster.is_alone(run_config) == alone
    assert bool(run_config.is_chief) == chief


def test_confusion_of_a_batch_by_hand():
    probability = tf.constant([0.9, 0.6, 0.2, 0.5, 0.7, 0.1],
                              shape=[1, 2, 3, 1])
    labels = tf.constant([1.0, 0, 1, 0, 1, 0], shape=[1, 2, 3, 1])
    # True positives 0.9 and 0.7, false 0.6; missed 0.2; the rest is right.
    assert value(model_fn.confusion_matrix(labels, probability)).tolist() == [
        2, 1, 1, 2]


def nuclei_of(squares):
    """int32 [1, 48, 48, 1] with squares (top, left, side), 1 to N."""
    instances = np.zeros((1, 48, 48, 1), np.int32)
    for number, (top, left, side) in enumerate(squares, 1):
        instances[0, top:top + side, left:left + side] = number
    return instances


# Found, true, told apart; AJI, PQ and whether the image counts; pixels that
# are true and false positives, and false negatives.
IMAGES = [
    ([(5, 5, 12)], [(5, 5, 12)], True, (1, 1, 1), (144, 0, 0)),
    # 10 of 14 columns in common, and one of 64 pixels missed.
    ([(5, 5, 12)], [(5, 7, 12), (30, 30, 8)], True,
     (120 / (168 + 64), 10 / 14 / 1.5, 1), (120, 24, 24 + 64)),
    ([(5, 5, 12)], [], True, (0, 0, 1), (0, 144, 0)),
    ([], [], True, (0, 0, 0), (0, 0, 0)),
    ([(5, 5, 12)], [(5, 5, 12)], False, (0, 0, 0), (144, 0, 0))]


def measures_of(found, true, has_instances, between=0.1):
    probability = np.where(nuclei_of(found) > 0, 0.9,
                           between).astype(np.float32)
    return model_fn.image_measures(
        {'instances': tf.constant(nuclei_of(true)),
         'has_instances': tf.constant(has_instances)},
        tf.constant(probability))


@pytest.mark.parametrize('found, true, has_instances, nuclei, pixels', IMAGES)
def test_measures_of_an_image_in_evaluation(found, true, has_instances, nuclei,
                                            pixels):
    counts, measured = value(measures_of(found, true, has_instances))
    assert counts.tolist() == [*pixels, 48 ** 2 - sum(pixels)]
    assert measured == pytest.approx(np.array(nuclei))


@pytest.mark.parametrize('between, columns', [(0.1, 12), (0.4, 13)])
def test_evaluation_gives_gaps_back_to_the_nuclei(between, columns):
    """Squares found two columns apart, which truly touch, and are larger."""
    counts, nuclei = value(measures_of(
        [(5, 5, 12), (5, 19, 12)], [(5, 5, 13), (5, 18, 13)], True, between))
    found, true = 2 * 12 * columns, 2 * 13 * 13
    assert counts.tolist() == [found, 0, true - found, 48 ** 2 - true]
    assert nuclei == pytest.approx([found / true, found / true, 1])


@pytest.mark.parametrize('chosen, expected', [
    (range(5), ((1 + 120 / 232) / 3, (1 + 10 / 21) / 3)),
    ((0, 3, 4), (1, 1)), ((3, 4), (math.nan, math.nan))])
def test_nuclei_are_averaged_over_the_images_that_count(chosen, expected,
                                                        tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        measures = tf.placeholder(tf.float64, [3])
        spec = model_fn.eval_spec(
            tf.constant(0.0), tf.zeros([4], tf.float64), measures,
            tf.summary.scalar('image', 0), {'model_dir': str(tmp_path)})
        session.run(tf.local_variables_initializer())
        for index in chosen:
            one = session.run(measures_of(*IMAGES[index][:3])[1])
            # An Estimator runs both, which are one op.
            session.run([spec.eval_metric_ops[name][1]
                         for name in ('aji', 'pq')], {measures: one})
        assert session.run([spec.eval_metric_ops[name][0] for name in (
            'aji', 'pq')]) == pytest.approx(expected, nan_ok=True)


def test_image_summary_shows_image_mask_and_prediction_side_by_side():
    images = np.random.RandomState(0).rand(2, 32, 32, 3).astype(np.float32)
    labels = np.zeros((2, 20, 24, 1), np.float32)
    labels[0, 3, 5] = 1
    probability = np.full((2, 20, 24, 1), 0.25, np.float32)
    shown = value(model_fn.image_summary(*map(tf.constant,
                                        (images, labels, probability))))
    assert shown.shape == (1, 20, 72, 3)
    assert np.array_equal(shown[0, :, :24], images[0, :20, :24])
    assert shown[0, 3, 24 + 5].tolist() == [1, 1, 1]
    assert shown[0, :, 24:48].sum() == 3
    assert (shown[0, :, 48:] == 0.25).all()


def test_images_without_any_nucleus_are_not_trained_on(tmp_path):
    image = np.full((300, 300, 3), 200, np.uint8)
    store.write_store(str(tmp_path / 'train.h5'), {'fold': 'none'},
                      [example('a', image, np.zeros((300, 300)))])
    config = records.TrainConfig('unet', str(tmp_path))
    with pytest.raises(InputError, match='train.h5: not one of its images'):
        loop.with_data(config)
