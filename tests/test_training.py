"""Loss, schedule, what a training does and what it keeps, by hand."""
import contextlib
import dataclasses
import io
import json
import math
import os
import shutil
import sys
import time

import numpy as np
import pytest

from conftest import example, one_line, train_flags
from histology.files import InputError
from input_pipeline import store
from nets import saved
from nets.tf1 import tf
from training import checkpoints, cluster, hooks, model_fn, records
from training.loss import segmentation_loss


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
    assert value(segmentation_loss(logits, labels)) == pytest.approx(
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
    assert value(segmentation_loss(
        tf.constant(logits, tf.float32), tf.constant(labels))
    ) == pytest.approx((weights * cost).sum() / (400 + 4 * 18) + 1 - dice,
                       rel=1e-5)


def test_loss_of_an_empty_patch_is_small_when_rightly_predicted():
    logits = tf.fill([2, 4, 4, 1], -20.0)
    assert value(segmentation_loss(
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


NETWORK = {'net': 'deeplabv3', 'width': 8, 'output_stride': 16,
           'normalisation': 'uint8 / 255'}
DATA = {'data_source': 'made', 'data_digest': '', 'data_seed': 0,
        'data_fold': '0', 'trained_on': ['digest']}
# What is neither.
RECORD = {'steps': 9, 'batch_size': 2, 'crop_size': 64, 'learning_rate': 0.1,
          'warmup_steps': 1, 'evaluate_every': 3, 'augment_threads': 1,
          'accelerate': False, 'seed': 0, 'data_dir': 'd', 'changes': [],
          'init_checkpoint': None, 'init_data_source': None,
          'init_step': None, 'seen': None, 'target': 'masks with gaps',
          'augmentation': {}, 'loss_weights': {}, 'separation': {}}


@pytest.mark.parametrize('evaluated, best', [
    # (step, F1, whether it is kept); the step kept at the end.
    (((10, 0.5, True), (20, 0.5, False), (30, 0.4, False), (40, 0.6, True),
      (50, 0.1, False)), 40),
    # A network that finds nothing yet.
    (((10, 0.0, True), (20, 0.0, False)), 10),
    # F1 is undefined.
    (((10, None, True), (20, None, True), (30, 0.0, True), (40, None, False),
      (50, 0.0, False), (60, 0.1, True)), 60)])
def test_weights_h5_is_the_best(trained, tmp_path, evaluated, best):
    folder = trained / 'unet'
    shutil.copy(str(folder / 'config.json'), str(tmp_path))
    weights = checkpoints.read_checkpoint(str(folder / 'model.ckpt-6'), '')
    for step, f1, kept in evaluated:
        weights['logits/bias'][:] = step
        assert checkpoints.keep_best(
            str(tmp_path), weights,
            {'f1': f1, 'step': step, 'precision': None}) == kept
    assert sorted(os.listdir(tmp_path)) == ['config.json', 'weights.h5']
    record, kept, _ = saved.read_weights(str(tmp_path / 'weights.h5'))
    assert record == {
        **saved.read_json(str(folder / 'config.json')), 'step': best,
        'f1': dict((step, f1) for step, f1, _ in evaluated)[best],
        'precision': None}
    assert kept['logits/bias'] == best


def test_masks_without_nuclei_leave_the_latest(trained, tmp_path, capsys):
    folder = trained / 'unet'
    shutil.copy(str(folder / 'config.json'), str(tmp_path))
    # The first finds nothing, which is right, and the second a false pixel.
    # An infinite loss is of weights whose sums overflow.
    for step, f1, loss in ((3, math.nan, 0.5), (6, 0.0, math.inf)):
        weights = checkpoints.read_checkpoint(
            str(folder / f'model.ckpt-{step}'), '')
        checkpoints.record_evaluation(str(tmp_path), weights, {
            'loss': loss, 'accuracy': 1, 'f1': f1, 'iou': f1,
            'recall': math.nan, 'aji': f1, 'pq': f1, 'global_step': step})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('validation.h5: F1 is undefined')
    assert lines[1:] == [
        f'step {step}: validation loss {loss}, accuracy 1.000, F1 -, IoU -, '
        f'AJI {nuclei}, PQ {nuclei}'
        for step, loss, nuclei in ((3, '0.500', '-'), (6, '-', '0.0000'))]
    best = checkpoints.best_record(str(tmp_path))
    assert (best['step'], best['f1']) == (6, None)


@pytest.mark.long
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
    best = checkpoints.best_record(str(folder))
    assert (best['step'], best['f1'], best['aji']) == (6, None, None)
    process = program('--mode=eval', '--net=unet', f'--data_dir={data}',
                      f'--model_dir={tmp_path}', '--noaverage',
                      '--threshold=1')  # above which is nothing
    assert process.returncode == 0, process.stderr
    assert 'Means skip images with "-"' in process.stdout
    rows = [line.split() for line in process.stdout.splitlines()
            if line.startswith(('validation-', 'pooled ', 'mean '))]
    assert [row[-6:] for row in rows[:4]] == 4 * [['1.0000'] + 5 * ['-']]
    assert [row[-8:] for row in rows[4:]] == 4 * [8 * ['-']]
    with open(folder / 'validation.json') as file:
        results = json.load(file)['results']
    for row in (*results['per_image'], results['mean_per_image'],
                results['pooled']):
        assert row['f1'] is row['aji'] is row['pq'] is None


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
        with pytest.raises(InputError, match=f'lacks {missing}'):
            checkpoints.record_to_resume(folder, 'deeplabv3')
    for key, wrong in (('width', '4'), ('width', True), ('changes', None),
                       ('changes', ['a']), ('steps', None), ('seen', 'ab'),
                       ('trained_on', [1]), ('learning_rate', '0.1'),
                       ('augmentation', 'x')):
        write_config(tmp_path, {**record, key: wrong})
        with pytest.raises(InputError, match=f'config.json: {key} is '):
            checkpoints.record_to_resume(folder, 'deeplabv3')
    write_config(tmp_path, {**record, 'normalisation': 'other'})
    with pytest.raises(InputError, match='normalisation'):
        checkpoints.record_to_resume(folder, 'deeplabv3')
    (tmp_path / 'config.json').write_text('{"net": "un')
    deep = tmp_path / 'deep.json'
    deep.write_text(100000 * '[')
    with pytest.raises(InputError, match='deep.json: cannot be read'):
        saved.read_json(str(deep))
    with pytest.raises(InputError, match='config.json'):
        checkpoints.record_to_resume(folder, 'deeplabv3')


def test_a_checkpoint_that_was_trained_anew_is_evaluated_anew(model_dir):
    folder = str(model_dir / 'unet')
    path = os.path.join(folder, 'weights.h5')
    record, weights, _ = saved.read_weights(path)
    saved.write_weights(path, {**record, 'step': 1, 'f1': 1.0}, weights)
    last = checkpoints.all_checkpoints(folder)[-1]
    step = checkpoints.checkpoint_step(last)
    assert checkpoints.is_evaluated(folder, step)
    tomorrow = time.time() + 86400
    os.utime(f'{last}.index', (tomorrow, tomorrow))
    assert not checkpoints.is_evaluated(folder, step)


def test_training_never_replaces_what_it_did_not_train(tmp_path):
    (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "x"')
    with pytest.raises(InputError, match='"checkpoint", but no model.ckpt'):
        checkpoints.record_to_resume(str(tmp_path), 'unet')
    (tmp_path / 'weights.h5').touch()
    with pytest.raises(InputError, match='but no checkpoint'):
        checkpoints.record_to_resume(str(tmp_path), 'unet')
    (tmp_path / 'model.ckpt-3.index').touch()
    with pytest.raises(InputError, match='checkpoints, but no config'):
        checkpoints.record_to_resume(str(tmp_path), 'unet')
    (tmp_path / 'link').symlink_to(saved.PRETRAINED)
    for folder in (saved.PRETRAINED, str(tmp_path / 'link')):
        with pytest.raises(InputError, match='keeps the networks that came'):
            checkpoints.record_to_resume(os.path.join(folder, 'unet'), 'unet')


@pytest.mark.parametrize('mode', ['train', 'eval', 'predict'])
def test_the_name_of_the_network_is_appended_to_model_dir(program, tmp_path,
                                                          mode):
    (tmp_path / 'unet').mkdir()
    (tmp_path / 'unet' / 'weights.h5').touch()
    one_line(program(f'--mode={mode}', '--net=unet',
                     f'--model_dir={tmp_path}/unet/'),
             "program appends the network's name: give --model_dir="
             f'{tmp_path}')


def test_other_data_or_masks_without_gaps_are_not_trained_on():
    record = dict(RECORD, **NETWORK, **DATA)
    config = records.TrainConfig(data_dir='d', **NETWORK, **DATA)
    records.check_same_data(config, record)
    for key, value, words in (
            ('target', 'masks', 'or an earlier version started it; choose'),
            ('data_seed', 1, '--data_dir=d: holds other'),
            ('trained_on', ['digest', 'b'], '--data_dir=d: holds other')):
        with pytest.raises(InputError, match=words):
            records.check_same_data(config, {**record, key: value})


def test_a_config_of_another_program_stays(tmp_path):
    (tmp_path / 'config.json').write_text('{"mine": 1}')
    with pytest.raises(InputError, match='config.json: lacks net;'):
        checkpoints.record_to_resume(str(tmp_path), 'unet')


def test_what_a_user_calls_like_a_checkpoint_is_none(tmp_path):
    for name in ('model.ckpt-backup.index', 'model.ckpt-3.index.bak',
                 'model.ckpt-12.index', 'model.ckpt-9.index'):
        (tmp_path / name).touch()
    assert [os.path.basename(path) for path in checkpoints.all_checkpoints(
        str(tmp_path))] == ['model.ckpt-9', 'model.ckpt-12']


@pytest.fixture
def resolved(data_dir):
    """A function that makes of flags for DeepLabV3 what a training does."""
    def resolve(former=None, start=None, **asked):
        if former:
            former = dict(former, **records.describe_data(str(data_dir)))
        return records.resolve(
            {'net': 'deeplabv3', 'data_dir': str(data_dir), 'width': None,
             'output_stride': None, 'steps': None, 'learning_rate': None,
             'init_checkpoint': start and start['init_checkpoint'], **asked},
            former, start)

    return resolve


def test_network_is_that_before_or_the_default(resolved):
    for asked, found in (({}, (16, 8)), ({'width': 4}, (4, 8)),
                         ({'output_stride': 16}, (16, 16)),
                         ({'former': dict(RECORD, **NETWORK)}, (8, 16))):
        config = resolved(**asked)
        assert (config.width, config.output_stride) == found
    assert resolved(net='unet').output_stride is None


ORIGIN = {'init_checkpoint': 'a/w.h5', 'init_data_source': 'made',
          'init_step': 3, 'seen': ['x']}


def test_steps_and_rate_that_were_not_asked_for(resolved):
    start = dict(NETWORK, **ORIGIN)
    for asked, found in (
            ({}, (4000, 2e-3)), ({'start': start}, (1000, 5e-4)),
            ({'steps': 9, 'start': start}, (9, 5e-4)),
            ({'steps': 9, 'learning_rate': 0.1}, (9, 0.1))):
        config = resolved(**asked)
        assert (config.steps, config.learning_rate) == found


@pytest.mark.parametrize('steps, asked, taken', [
    (60, 100, 6), (399, 100, 39), (400, 100, 100), (220, 30, 30), (6, 100, 0),
    (1, 0, 0)])
def test_a_warm_up_too_long_is_shortened(resolved, capsys, steps, asked,
                                         taken):
    assert resolved(steps=steps, warmup_steps=asked).warmup_steps == taken
    assert capsys.readouterr().out == (
        '' if taken == asked else
        f'warm-up shortened from {asked} to {taken} steps, a tenth of {steps} '
        'steps\n')


def test_what_a_training_began_from_stays(resolved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began, random = (dict(RECORD, **{**NETWORK, **added})
                     for added in (ORIGIN, {}))
    began.update(ORIGIN)
    for path in (None, 'a/w.h5', str(tmp_path / 'a' / 'w.h5')):
        config = resolved(began, init_checkpoint=path)
        assert {key: getattr(config, key) for key in ORIGIN} == ORIGIN
    assert resolved(random).init_checkpoint is None
    for path, former, words in (
            ('b.h5', began, '--init_checkpoint=b.h5: .* from a/w.h5;'),
            ('b.h5', random, '--init_checkpoint=b.h5: .* random weights;')):
        with pytest.raises(InputError, match=words):
            resolved(former, init_checkpoint=path)
    # A task of a cluster is to be asked for what the chief was.
    write_config(tmp_path, dict(began, **DATA))
    task = records.TrainConfig(data_dir='d', **NETWORK, **DATA)
    with pytest.raises(InputError, match='--init_checkpoint: .* from a/w.h5'):
        cluster.check_as_chief(task, str(tmp_path))
    cluster.check_as_chief(dataclasses.replace(
        task, init_checkpoint='./a/w.h5'), str(tmp_path))


def test_what_changes_on_resuming_is_said_and_kept(tmp_path, capsys):
    former = records.TrainConfig(net='unet', data_dir='d', steps=4000,
                                 width=16, trained_on=['a', 'b'])
    record = json.loads(json.dumps(dict(dataclasses.asdict(former),
                                        changes=[])))
    # As when a later version has other constants.
    record['augmentation']['scale'] = [0.5, 2.0]
    record['loss_weights']['gap_weight'] = 7
    record['separation']['min_area'] = 61
    now = dataclasses.replace(former, steps=8000, batch_size=4)
    folder = str(tmp_path)
    changes = records.write_record(folder, now, record, 4000)['changes']
    assert changes == [
        {'name': name, 'before': before, 'now': value, 'step': 4000}
        for name, before, value in (
            ('steps', 4000, 8000), ('batch_size', 8, 4),
            ('augmentation.scale', [0.5, 2.0], [0.8, 1.2]),
            ('loss_weights.gap_weight', 7, 5.0),
            ('separation.min_area', 61, 60))]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        'steps changes from 4000 to 8000 at step 4000',
        'batch_size changes from 8 to 4 at step 4000',
        'augmentation.scale changes from [0.5, 2.0] to [0.8, 1.2] at step '
        '4000']
    assert len(lines) == 5
    # The next time they stand in the record.
    record = checkpoints.read_record(folder, 'unet')
    assert record['changes'] == changes
    assert records.write_record(folder, now, record, 5000) == record
    assert capsys.readouterr().out == ''
    text = records.as_markdown(record)
    assert all(line.startswith('    ') for line in text.splitlines())
    shown = json.loads(text)
    assert (shown['steps'], shown['trained_on'], shown['seen']) == (
        8000, '2 images', '0 images')
    assert shown['changes'] == changes


def test_sizes_that_a_network_cannot_be_trained_with():
    def check(net, **sizes):
        records.check_sizes(records.TrainConfig(net, 'd', **sizes))

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
    run_config = cluster.task('here')
    assert bool(cluster.addresses()) != alone
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
    assert value(measures_of(found, true, has_instances)) == pytest.approx(
        np.array([*pixels, 48 ** 2 - sum(pixels), *nuclei]))


@pytest.mark.parametrize('between, columns', [(0.1, 12), (0.4, 13)])
def test_evaluation_gives_gaps_back_to_the_nuclei(between, columns):
    """Squares found two columns apart, which truly touch, and are larger."""
    measured = value(measures_of(
        [(5, 5, 12), (5, 19, 12)], [(5, 5, 13), (5, 18, 13)], True, between))
    found, true = 2 * 12 * columns, 2 * 13 * 13
    assert measured == pytest.approx(np.array([
        found, 0, true - found, 48 ** 2 - true, found / true, found / true, 1
    ]))


@pytest.mark.parametrize('chosen, expected', [
    (range(5), ((1 + 120 / 232) / 3, (1 + 10 / 21) / 3)),
    ((0, 3, 4), (1, 1)), ((3, 4), (math.nan, math.nan))])
def test_nuclei_are_averaged_over_the_images_that_count(chosen, expected,
                                                        tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        measures = tf.placeholder(tf.float64, [7])
        spec = model_fn.eval_spec(
            tf.constant(0.0), measures, tf.summary.scalar('image', 0),
            {'model_dir': str(tmp_path)})
        session.run(tf.local_variables_initializer())
        for index in chosen:
            one = session.run(measures_of(*IMAGES[index][:3]))
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
    with pytest.raises(InputError, match='train.h5: not one of its images'):
        records.describe_data(str(tmp_path))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize('stream', [Terminal, io.StringIO])
def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_log(monkeypatch,
                                                            stream):
    output = stream()
    monkeypatch.setattr(sys, 'stdout', output)
    hook = hooks.ProgressHook(batch_size=8, steps=40)
    # The message of an error has a line of its own.
    with pytest.raises(InputError), contextlib.closing(hook):
        for step in (30, 31, 40):
            hook.after_run(None, tf.train.SessionRunValues(
                results=(step, 1 / step), options=None, run_metadata=None))
        raise InputError
    text = output.getvalue()
    if stream is Terminal:
        assert 'step 40/40  loss 0.025  ' in text
        assert 'crops/s |####' in text and text.count('\n') == 1
    else:
        line, = text.splitlines()
        assert line.startswith('step 40/40  loss 0.025  ')
        assert line.endswith(' crops/s  00:00 left')
