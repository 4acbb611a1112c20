"""AJI and PQ against values worked out by hand and by brute force."""
import math

import numpy as np
import pytest
from scipy import ndimage

from eval import nuclei_metrics, pixel_metrics


def labels(*squares, shape=(30, 30)):
    """A label image of squares (top, left, side)."""
    array = np.zeros(shape, np.int32)
    for number, (top, left, side) in enumerate(squares, 1):
        array[top:top + side, left:left + side] = number
    return array


def measures(prediction, truth):
    return nuclei_metrics.compute(nuclei_metrics.compare(prediction, truth))


def test_two_squares_that_overlap():
    # 10 x 10 each, moved by 2 columns: 80 common pixels of 120.
    found = measures(labels((5, 7, 10)), labels((5, 5, 10)))
    assert found['aji'] == found['pq'] == found['sq'] == 80 / 120
    assert found['dq'] == found['detection_precision'] == 1
    assert found['nuclei_found'] == found['nuclei_true'] == 1


def test_one_found_nucleus_may_be_taken_twice():
    # 10 x 20 over two of 10 x 10: an IoU of a half is no match.
    prediction = np.zeros((30, 30), np.int32)
    prediction[:10, :20] = 1
    found = measures(prediction, labels((0, 0, 10), (0, 10, 10)))
    assert found['aji'] == (100 + 100) / (200 + 200)
    assert found['pq'] == found['dq'] == 0 and math.isnan(found['sq'])
    assert found['detection_recall'] == 0


def test_lost_and_invented_nuclei():
    # One found whole, one of 16 pixels lost, one of 25 invented.
    found = measures(labels((0, 0, 10), (20, 20, 5)),
                     labels((0, 0, 10), (0, 20, 4)))
    assert found['aji'] == 100 / (100 + 16 + 25)
    assert found['dq'] == 1 / (1 + 0.5 + 0.5) and found['sq'] == 1
    assert found['detection_precision'] == found['detection_recall'] == 0.5


@pytest.mark.parametrize('prediction, truth, aji, pq', [
    ((), ((0, 0, 5),), 0, 0), (((0, 0, 5),), (), 0, 0),
    ((), (), float('nan'), float('nan'))])
def test_nothing_found_or_there(prediction, truth, aji, pq):
    found = measures(labels(*prediction), labels(*truth))
    np.testing.assert_equal((found['aji'], found['pq']), (aji, pq))


def brute_force(prediction, truth):
    """AJI and PQ by their definitions, pair by pair."""
    found = {p: prediction == p for p in set(prediction.ravel()) - {0}}
    true = {t: truth == t for t in set(truth.ravel()) - {0}}
    iou = {(t, p): (a & b).sum() / (a | b).sum()
           for t, a in true.items() for p, b in found.items()}
    above = below = 0
    taken = set()
    for t, a in true.items():
        best = max(found, key=lambda p: iou[t, p], default=None)
        if best is None or not iou[t, best]:
            below += a.sum()
            continue
        above += (a & found[best]).sum()
        below += (a | found[best]).sum()
        taken.add(best)
    below += sum(found[p].sum() for p in set(found) - taken)
    matched = [value for value in iou.values() if value > 0.5]
    return above / below, sum(matched) / (
        len(matched) + (len(found) - len(matched)) / 2
        + (len(true) - len(matched)) / 2)


@pytest.mark.parametrize('seed', range(10))
def test_random_label_images(seed):
    rng = np.random.RandomState(seed)

    def blobs():
        return ndimage.label(ndimage.gaussian_filter(
            noise + 0.3 * rng.standard_normal((80, 90)), 2) > 0.05)[0]

    noise = rng.standard_normal((80, 90))
    prediction, truth = blobs(), blobs()
    # Numbers need not be without gaps.
    prediction[prediction == 3] = 500
    found = measures(prediction, truth)
    np.testing.assert_allclose((found['aji'], found['pq']),
                               brute_force(prediction, truth))
    assert found['nuclei_true'] == truth.max()


def test_pooled_sums_are_those_of_the_images_side_by_side():
    pairs = [(labels((5, 7, 10)), labels((5, 5, 10))),
             (labels((0, 0, 6)), labels((0, 0, 6), (20, 20, 9)))]
    sums = [nuclei_metrics.compare(*pair) for pair in pairs]
    side_by_side = []
    for k in range(2):
        first, second = pairs[0][k], pairs[1][k]
        side_by_side.append(np.hstack([first, np.where(second, second + 5,
                                                       0)]))
    assert pixel_metrics.pool(sums) == nuclei_metrics.compare(*side_by_side)


def test_which_nuclei_match():
    # The first by 80 pixels of 120, the second lies on two by a half each.
    prediction = labels((5, 7, 10), (20, 20, 5))
    prediction[0:4, 18:28] = 9
    truth = labels((20, 0, 5), (5, 5, 10))
    truth[0:4, 18:23], truth[0:4, 23:28] = 7, 8
    pairs = nuclei_metrics.pair(prediction, truth)
    assert pairs.found[pairs.match].tolist() == [1]
    assert pairs.true[pairs.match].tolist() == [2]
    with pytest.raises(ValueError, match='30, 30'):
        nuclei_metrics.pair(prediction, truth[:20])
