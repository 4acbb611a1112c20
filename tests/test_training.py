"""Loss, schedule and the record of the best checkpoint, by hand."""
import json
import math
import os

import numpy as np
import pytest

from input_pipeline.files import InputError, write_json
from training import checkpoints, loop
from nets.tf1 import tf


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
    assert value(loop.segmentation_loss(logits, labels)) == pytest.approx(
        cross_entropy + 1 - dice, abs=1e-6)


def test_loss_of_an_empty_patch_is_small_when_rightly_predicted():
    logits = tf.fill([2, 4, 4, 1], -20.0)
    assert value(loop.segmentation_loss(
        logits, tf.zeros([2, 4, 4, 1]))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize('step, expected', [
    (0, 0.01 / 10),        # a tenth of the warm-up, cosine at its top
    (4, 0.5 * 0.01 * (1 + math.cos(math.pi * 0.04)) / 2),
    (50, 0.01 / 2),        # half-way down the cosine
    (75, 0.01 * (1 - math.sqrt(0.5)) / 2),
    (100, 0),
])
def test_learning_rate(step, expected):
    rate = loop.learning_rate_at(tf.constant(step, tf.int64), 0.01, 10,
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
    assert checkpoints.read_best(folder) == {
        'checkpoint': 'model.ckpt-40', 'f1': 0.6, 'step': 40,
        'evaluated': 40}
    checkpoints.keep_best(folder, checkpoint(tmp_path, 50),
                          {'f1': 0.1, 'step': 50})
    assert checkpoints.read_best(folder) == {
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
    assert checkpoints.read_best(str(tmp_path)) == {
        'checkpoint': 'model.ckpt-10', 'f1': 0.0, 'precision': None,
        'step': 10, 'evaluated': 10}


def test_a_network_is_read_back_and_contradictions_are_refused(tmp_path):
    folder = str(tmp_path)
    assert checkpoints.network_of(folder, 'deeplabv3') is None
    network = dict(checkpoints.describe('deeplabv3', 8, 16), data_seed=0,
                   data_fold='0', trained_on=['digest'])
    write_json(str(tmp_path / 'network.json'), network)
    # A training that failed before its first checkpoint binds to nothing.
    assert checkpoints.network_of(folder, 'deeplabv3') is None
    (tmp_path / 'model.ckpt-3.index').touch()
    assert checkpoints.network_of(folder, 'deeplabv3') == network
    assert checkpoints.network_of(folder, 'deeplabv3', 8, 16) == network
    for asked, word in ((('unet', None, None), 'net deeplabv3, not unet'),
                        (('deeplabv3', 16, None), 'width 8, not 16'),
                        (('deeplabv3', 8, 8), 'output_stride 16, not 8')):
        with pytest.raises(InputError, match=word):
            checkpoints.network_of(folder, *asked)
    del network['trained_on']
    write_json(str(tmp_path / 'network.json'), network)
    with pytest.raises(InputError, match='says nothing of trained_on'):
        checkpoints.network_of(folder, 'deeplabv3')


def test_a_network_of_another_normalisation_is_refused(tmp_path):
    network = dict(checkpoints.describe('unet', 8, 8), normalisation='other')
    (tmp_path / 'network.json').write_text(json.dumps(network))
    (tmp_path / 'model.ckpt-3.index').touch()
    with pytest.raises(InputError, match='normalisation'):
        checkpoints.network_of(str(tmp_path), 'unet')


def test_a_damaged_network_file_is_named(tmp_path):
    (tmp_path / 'network.json').write_text('{"net": "un')
    (tmp_path / 'model.ckpt-3.index').touch()
    with pytest.raises(InputError, match='network.json'):
        checkpoints.network_of(str(tmp_path), 'unet')


def test_picture_shows_image_mask_and_prediction_side_by_side():
    images = np.random.RandomState(0).rand(2, 32, 32, 3).astype(np.float32)
    labels = np.zeros((2, 20, 24, 1), np.float32)
    labels[0, 3, 5] = 1
    probability = np.full((2, 20, 24, 1), 0.25, np.float32)
    shown = value(loop.picture(*map(tf.constant,
                                        (images, labels, probability))))
    assert shown.shape == (1, 20, 72, 3)
    assert np.array_equal(shown[0, :, :24], images[0, :20, :24])
    assert shown[0, 3, 24 + 5].tolist() == [1, 1, 1]
    assert shown[0, :, 24:48].sum() == 3
    assert (shown[0, :, 48:] == 0.25).all()
