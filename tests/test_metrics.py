"""Metrics against confusion matrices counted by hand."""
import math
import warnings

import numpy as np
import pytest

from eval import pixel_metrics as metrics

# Two nuclei pixels found, one invented, one missed, two of background right.
PREDICTION = [[1, 1, 1],
              [0, 0, 0]]
TRUTH = [[1, 1, 0],
         [1, 0, 0]]


def test_confusion_of_a_2_by_3_mask():
    assert metrics.confusion_matrix(PREDICTION, TRUTH) == (2, 1, 1, 2)
    assert metrics.confusion_matrix(np.array(PREDICTION, bool),
                             np.array(TRUTH, np.uint8)) == (2, 1, 1, 2)


def test_metrics_of_a_2_by_3_mask():
    values = metrics.compute(metrics.confusion_matrix(PREDICTION, TRUTH))
    assert list(values) == ['accuracy', 'precision', 'recall', 'f1', 'iou',
                            'mean_iou']
    # mean_iou: nuclei 2 / 4, background 2 / 4.
    np.testing.assert_allclose(list(values.values()),
                               [4 / 6, 2 / 3, 2 / 3, 4 / 6, 2 / 4, 0.5])


def test_metrics_that_all_differ():
    values = metrics.compute(metrics.Counts(*np.int64([6, 2, 4, 8])))
    np.testing.assert_allclose(
        list(values.values()),
        [14 / 20, 6 / 8, 6 / 10, 12 / 18, 6 / 12, (6 / 12 + 8 / 14) / 2])


def test_both_masks_empty():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        values = metrics.compute(metrics.confusion_matrix(np.zeros((2, 3)),
                                                    np.zeros((2, 3))))
    assert values.pop('accuracy') == 1
    assert all(math.isnan(value) for value in values.values())


def test_everything_nucleus_leaves_only_mean_iou_undefined():
    values = metrics.compute(metrics.confusion_matrix(np.ones(4), np.ones(4)))
    assert math.isnan(values.pop('mean_iou'))
    assert set(values.values()) == {1}


def test_pooled_and_per_image_means_differ():
    small = metrics.Counts(*np.int64([1, 1, 0, 8]))   # f1 = 2 / 3
    large = metrics.Counts(*np.int64([90, 0, 10, 0]))  # f1 = 180 / 190
    pooled = metrics.pool([small, large])
    assert pooled == (91, 1, 10, 8)
    np.testing.assert_allclose(metrics.compute(pooled)['f1'], 182 / 193)
    mean = metrics.mean_per_image([metrics.compute(small),
                                   metrics.compute(large)])
    np.testing.assert_allclose(mean['f1'], (2 / 3 + 18 / 19) / 2)


def test_mean_leaves_out_undefined_images():
    empty = metrics.compute(metrics.Counts(*np.int64([0, 0, 0, 10])))
    half = metrics.compute(metrics.Counts(*np.int64([1, 1, 1, 7])))
    mean = metrics.mean_per_image([empty, half])
    assert mean['f1'] == 0.5          # of the second image alone
    assert mean['accuracy'] == 0.9    # (1.0 + 0.8) / 2
    assert math.isnan(metrics.mean_per_image([empty])['f1'])


@pytest.mark.parametrize('prediction, truth, words', [
    (np.zeros((2, 3)), np.zeros((3, 2)), r'\[2, 3\].*\[3, 2\]'),
    (np.array([0, 255]), np.array([0, 1]), 'mask holds 255'),
    (np.array([0, 1]), np.array([0, 0.5]), 'mask holds 0.5'),
    (np.array([0, np.nan]), np.array([0, 1]), 'mask holds nan'),
])
def test_confusion_refuses(prediction, truth, words):
    with pytest.raises(ValueError, match=words):
        metrics.confusion_matrix(prediction, truth)


def test_metrics_in_a_tensorflow_graph():
    from nets.tf1 import tf
    with tf.Graph().as_default(), tf.Session() as session:
        counts = metrics.Counts(*(tf.constant(count, tf.float32)
                                  for count in (6, 2, 4, 8)))
        values = session.run(metrics.compute(counts))
    np.testing.assert_allclose(
        [values[name] for name in metrics.METRICS],
        [14 / 20, 6 / 8, 6 / 10, 12 / 18, 6 / 12, (6 / 12 + 8 / 14) / 2],
        rtol=1e-6)
