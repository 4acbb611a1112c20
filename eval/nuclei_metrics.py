"""How well single nuclei are found in label images; see docs/nuclei.md.

    aji     Aggregated Jaccard Index (Kumar et al., IEEE TMI 2017)
    pq      Panoptic Quality (Kirillov et al., CVPR 2019), dq * sq
    dq, detection_precision, detection_recall
            F1, precision and recall of detection: a true and a found nucleus
            match if their IoU is above 0.5
    sq      mean IoU of the matches

A measure with a denominator of 0 is NaN. Without any match sq is NaN and pq 0,
unless there are no nuclei at all. It stays by hand because neither TensorFlow
nor scikit-image has AJI or PQ.
"""
import collections

import numpy as np

MATCH = 0.5  # a nucleus cannot have a higher IoU with two others

# Of one image or of several: of AJI's fraction, pixels; of the IoU of the
# matches; and numbers of nuclei.
Sums = collections.namedtuple('Sums',
                              'intersection union iou matches found true')

METRICS = ('aji', 'pq', 'dq', 'sq', 'detection_precision',
           'detection_recall', 'nuclei_found', 'nuclei_true')

# The pairs of a true and a found nucleus that share pixels, by true nucleus:
#   true, found: int64 [P], their numbers
#   common, union: int64 [P], pixels
#   iou, match: float64 and bool [P]
#   true_area, found_area: int64 [N + 1], pixels of each number, none of 0
Pairs = collections.namedtuple(
    'Pairs', 'true found common union iou match true_area found_area')


def compare(prediction, truth):
    """Return the Sums of an image; arguments and errors as for `pair`."""
    return sums_of(pair(prediction, truth))


def sums_of(pairs):
    """Return the Sums of an image's Pairs."""
    # AJI's: each true nucleus takes the found one of highest IoU, which is the
    # last here. What is never taken counts to the union.
    order = np.lexsort((pairs.iou, pairs.true))
    last = order[np.diff(pairs.true[order], append=len(pairs.true_area)) > 0]
    true_area, found_area = pairs.true_area, pairs.found_area
    missed = true_area.sum() - true_area[pairs.true[last]].sum()
    extra = found_area.sum() - found_area[np.unique(pairs.found[last])].sum()
    return Sums(pairs.common[last].sum(),
                pairs.union[last].sum() + missed + extra,
                pairs.iou[pairs.match].sum(), np.count_nonzero(pairs.match),
                np.count_nonzero(found_area), np.count_nonzero(true_area))


def pair(prediction, truth):
    """Find the Pairs of the nuclei found in an image and the true ones.

    Args:
        prediction, truth: label images, int [H, W].

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f'prediction is {list(prediction.shape)} but truth '
                         f'is {list(truth.shape)}')
    found_area, true_area = [np.bincount(labels.ravel())
                             for labels in (prediction, truth)]
    found_area[0] = true_area[0] = 0
    overlap = (prediction > 0) & (truth > 0)
    # One number for each pair of a true and a found nucleus.
    numbers, common = np.unique(
        truth[overlap].astype(np.int64) * len(found_area)
        + prediction[overlap], return_counts=True)
    true, found = np.divmod(numbers, len(found_area))
    union = true_area[true] + found_area[found] - common
    iou = common / union
    return Pairs(true, found, common, union, iou, iou > MATCH, true_area,
                 found_area)


def compute(sums):
    """Return the measures of this module's docstring, a dict by name."""
    common, union, iou, matches, found, true = np.array(sums, float)
    with np.errstate(invalid='ignore'):  # 0 / 0 is NaN by definition here
        values = (common / union, 2 * iou / (found + true),
                  2 * matches / (found + true), iou / matches,
                  matches / found, matches / true, sums.found, sums.true)
    return dict(zip(METRICS, values))
