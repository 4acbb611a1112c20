"""Pixel metrics of a binary segmentation, from its confusion matrix.

The nucleus is the positive class. With TP, FP, FN and TN the numbers of
pixels:

    accuracy   (TP + TN) / (TP + FP + FN + TN)
    precision  TP / (TP + FP)
    recall     TP / (TP + FN)
    f1         2 TP / (2 TP + FP + FN), the Dice coefficient of the nuclei
    iou        TP / (TP + FP + FN), the Jaccard index of the nuclei
    mean_iou   mean of `iou` and of the background's TN / (TN + FP + FN)

A metric with a denominator of 0 is NaN: no pixel can tell how good it is.
"""
import collections

import numpy as np

Counts = collections.namedtuple('Counts', ['tp', 'fp', 'fn', 'tn'])

METRICS = ('accuracy', 'precision', 'recall', 'f1', 'iou', 'mean_iou')


def confusion_matrix(prediction, truth):
    """Return the Counts of two masks, int64.

    Args:
        prediction, truth: arrays of one shape, boolean or of zeros and ones.

    Raises:
        ValueError: the shapes differ or a value is neither 0 nor 1.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f'prediction is {list(prediction.shape)} but truth '
                         f'is {list(truth.shape)}')
    for mask in (prediction, truth):
        strange = mask[(mask != 0) & (mask != 1)]
        if strange.size:
            raise ValueError(f'a mask holds {strange[0]}; give 0 and 1 alone')
    prediction, truth = prediction.astype(bool), truth.astype(bool)
    return Counts(tp=np.sum(prediction & truth, dtype=np.int64),
                  fp=np.sum(prediction & ~truth, dtype=np.int64),
                  fn=np.sum(~prediction & truth, dtype=np.int64),
                  tn=np.sum(~prediction & ~truth, dtype=np.int64))


def compute(counts):
    """Return METRICS, a dict by name.

    Args:
        counts: Counts of NumPy scalars or of TensorFlow float scalars.
    """
    tp, fp, fn, tn = counts
    wrong = fp + fn
    with np.errstate(invalid='ignore'):  # 0 / 0 is NaN by definition here
        iou = tp / (tp + wrong)
        values = ((tp + tn) / (tp + tn + wrong), tp / (tp + fp),
                  tp / (tp + fn), 2 * tp / (2 * tp + wrong), iou,
                  (iou + tn / (tn + wrong)) / 2)
    return dict(zip(METRICS, values))


def pool(parts):
    """Return the sum of a list of Counts, or of `nuclei_metrics.Sums`."""
    return type(parts[0])(*map(sum, zip(*parts)))


def mean_per_image(rows, names=METRICS):
    """Average the images' metrics, each over the images where it is not NaN.

    Args:
        rows: list of dicts.
        names: of the metrics, which all rows hold.
    """
    means = {}
    for name in names:
        values = [row[name] for row in rows if not np.isnan(row[name])]
        means[name] = float(np.mean(values)) if values else float('nan')
    return means
