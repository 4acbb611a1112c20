"""Measures of single nuclei; docs/nuclei.md says what each is.

Lengths are in pixels. x goes to the right and y down, from the upper left
corner of the image; the centre of its first pixel is (0.5, 0.5), as in QuPath.
"""
import collections

import numpy as np

from histology.stains import DENSITY, HAEMATOXYLIN_OF_DENSITY
from prediction import polygons

STRIP = 256  # rows; more need more memory

# Nuclei that are measured together.
#   measures: dict from the names in `writers.MEASURES` to arrays [N]
#   corners: polygons.Corners with labels 1 to N, x and y of the image
Batch = collections.namedtuple('Batch', 'measures corners')


def measure(labels, probability, image, strip=STRIP):
    """Measure nuclei, some rows of the image at a time.

    Args:
        labels: int32 [H, W], 0 in the background, and a number in each
            nucleus. Numbers may have gaps, and nuclei several pieces.
        probability: uint8 [H, W], 255 times the probability of nucleus.
        image: uint8 [H, W, 3], RGB.
        strip: rows that the nuclei of a batch begin in.

    Yields:
        Batch, by strips; in a strip nuclei are ordered by their numbers
    """
    from scipy import ndimage  # here, for a fast start of main.py
    boxes = [(number, box[0].start, box[0].stop, box[1].start, box[1].stop)
             for number, box in enumerate(ndimage.find_objects(labels), 1)
             if box]
    if not boxes:
        return
    boxes = np.array(sorted(boxes, key=lambda box: box[1] // strip))
    strips = boxes[:, 1] // strip
    # One that reaches far down needs much memory, so it goes alone.
    alone = boxes[:, 2] > (strips + 2) * strip
    begins = (np.diff(strips) > 0) | alone[1:] | alone[:-1]
    numbers = np.zeros(boxes[:, 0].max() + 1, np.int32)
    for batch in np.split(boxes, np.flatnonzero(begins) + 1):
        found, box_y, bottom, box_x, right = batch.T
        top, left = box_y.min(), box_x.min()
        window = slice(top, bottom.max()), slice(left, right.max())
        numbers[found] = np.arange(1, len(found) + 1)
        part = numbers[labels[window]]  # [h, w], 0 and 1 to N
        numbers[found] = 0
        corners = polygons.find_corners(part)
        measures = {
            'label': found, 'box_x': box_x, 'box_y': box_y,
            'box_width': right - box_x, 'box_height': bottom - box_y,
            **_moments(part, left, top, box_x, box_y)}
        area = measures['area']
        measures['perimeter'] = _perimeters(part, len(found))
        measures['solidity'] = area / polygons.hull_areas(corners)
        inside = part > 0
        nuclei = part[inside]
        measures['mean_probability'] = np.bincount(
            nuclei, probability[window][inside])[1:] / area / 255
        density = np.stack([
            np.bincount(nuclei, DENSITY[colour])[1:] / area
            for colour in image[window][inside].T], axis=1)  # [N, 3]
        # Linear, so the means can be taken first.
        measures['mean_haematoxylin_od'] = density @ HAEMATOXYLIN_OF_DENSITY
        measures['touches_border'] = touches_border(measures, labels.shape)
        del part, inside, nuclei, density  # for memory
        yield Batch(measures, corners._replace(x=corners.x + left,
                                               y=corners.y + top))


def touches_border(measures, size):
    """Return 1 for each nucleus at the border of an image, else 0: int [N].

    Args:
        measures: of a Batch.
        size: (height, width) of the image.
    """
    top, left = measures['box_y'], measures['box_x']
    return np.int64((top == 0) | (top + measures['box_height'] == size[0])
                    | (left == 0) | (left + measures['box_width'] == size[1]))


def _moments(labels, left, top, box_x, box_y):
    """Measure area, centroid and ellipse of regions 1 to N.

    Args:
        labels: int [h, w], 0 and 1 to N, without gaps.
        left, top: added to x and y.
        box_x, box_y: int [N], the least of each region.
    """
    y, x = np.nonzero(labels)
    number = labels[y, x] - 1
    # Counted from the box, for exact sums.
    x, y = x + left - box_x[number], y + top - box_y[number]
    area = np.bincount(number)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = [
        np.bincount(number, one * other) / area
        for one, other in ((x, 1), (y, 1), (x, x), (y, y), (x, y))]
    xx, yy = mean_xx - mean_x ** 2, mean_yy - mean_y ** 2
    half = np.hypot((xx - yy) / 2, mean_xy - mean_x * mean_y)
    # The eigenvalues of the covariance.
    larger = (xx + yy) / 2 + half
    smaller = np.maximum((xx + yy) / 2 - half, 0)
    return {
        'centroid_x': box_x + mean_x + 0.5, 'centroid_y': box_y + mean_y + 0.5,
        'area': area,
        'major_axis': 4 * np.sqrt(larger), 'minor_axis': 4 * np.sqrt(smaller),
        'eccentricity': np.sqrt(1 - smaller / np.where(larger, larger, 1))
        * (larger > 0)}


def _perimeters(labels, count):
    """Measure the perimeters of regions 1 to N of int [h, w]: float [N]."""
    width = labels.shape[1] + 2
    padded = np.pad(labels, 1).ravel()
    crossings = np.zeros(count + 1)
    # Parallel lines through the pixels' centres, in four directions, and their
    # distance: the perimeter is pi / 2 times the mean of their crossings.
    for distance, step in ((1, 1), (1, width), (np.sqrt(0.5), width + 1),
                           (np.sqrt(0.5), width - 1)):
        differ = np.flatnonzero(padded[step:] != padded[:-step])
        for side in (differ + step, differ):
            crossings += distance * np.bincount(padded[side],
                                                minlength=count + 1)
    return np.pi / 8 * crossings[1:]
