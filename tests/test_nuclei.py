"""Measures of nuclei against scikit-image's, and by hand."""
import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage import measure

from prediction import measurements, sources, summary

SHAPE = 130, 150


def table(labels, probability=None, image=None, **options):
    """All measures of all nuclei, as arrays [N]."""
    if probability is None:
        probability = np.zeros(labels.shape, np.uint8)
    if image is None:
        image = np.zeros((*labels.shape, 3), np.uint8)
    batches = list(measurements.measure(labels, probability, image, **options))
    return {name: np.concatenate([batch.measures[name] for batch in batches])
            for name in batches[0].measures}


def blobs(seed):
    """Touching nuclei of many shapes, probability and image."""
    rng = np.random.RandomState(seed)
    values = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2)
    cells = rng.randint(1, 60, (10, 10)).repeat(13, 0).repeat(15, 1)
    labels = measure.label(np.where(values > -0.05, cells, 0), background=0,
                           connectivity=1).astype(np.int32)
    return (labels, rng.randint(0, 256, SHAPE).astype(np.uint8),
            rng.randint(0, 256, (*SHAPE, 3)).astype(np.uint8))


def test_a_rectangle_by_hand():
    labels = np.zeros((10, 12), np.int32)
    labels[2:5, 4:9] = 7
    probability = np.full(labels.shape, 51, np.uint8)
    found = {name: values.tolist() for name, values in table(
        labels, probability).items()}
    assert found.pop('mean_haematoxylin_od')[0] > 0
    assert found == {
        'label': [7], 'centroid_x': [6.5], 'centroid_y': [3.5],
        'box_x': [4], 'box_y': [2], 'box_width': [5], 'box_height': [3],
        'area': [15],
        # Of 3 rows, 5 columns and 7 diagonals either way, each crossed twice.
        'perimeter': [pytest.approx(
            math.pi / 8 * (2 * 3 + 2 * 5 + 4 * 7 / math.sqrt(2)))],
        # The variances of 1 to 5 and 1 to 3: (25 - 1) / 12 and (9 - 1) / 12.
        'major_axis': [pytest.approx(4 * math.sqrt(2))],
        'minor_axis': [pytest.approx(4 * math.sqrt(2 / 3))],
        'eccentricity': [pytest.approx(math.sqrt(1 - 1 / 3))],
        'solidity': [1], 'mean_probability': [pytest.approx(0.2)],
        'touches_border': [0]}


@pytest.mark.parametrize('strip', [1, 5, 256])
def test_which_touch_the_border(strip):
    labels = np.zeros((30, 40), np.int32)
    for number, (top, left) in enumerate([
            (1, 1), (0, 10), (10, 0), (27, 5), (15, 37), (26, 20), (10, 36)],
            1):
        labels[top:top + 3, left:left + 3] = number
    found = table(labels, strip=strip)
    # By hand: rows 0 and 29, columns 0 and 39 are the border.
    assert dict(zip(found['label'], found['touches_border'])) == {
        1: 0, 2: 1, 3: 1, 4: 1, 5: 1, 6: 0, 7: 0}


def amounts(image):
    """The haematoxylin of each pixel of an image of SHAPE."""
    density = -np.log10(np.maximum(image, 1) / 255.0)  # [H, W, 3]
    stains = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0] * 3])
    stains[2] = np.cross(stains[0], stains[1])
    stains /= np.sqrt((stains ** 2).sum(axis=1, keepdims=True))
    return np.linalg.solve(stains.T, density.reshape(-1, 3).T)[0].reshape(
        SHAPE)


def test_the_mean_density_is_that_of_all_pixels():
    labels, _, image = blobs(1)
    found = table(labels, image=image)
    for chosen, expected in (
            (slice(None), amounts(image)[labels > 0].mean()),
            (slice(0), None)):
        record = summary.record_of(
            sources.Source('a.png', 'a', False, '', 0), *(
                found[name][chosen] for name in (
                    'area', 'mean_haematoxylin_od')), None, None)
        assert record['mean_haematoxylin_od'] == pytest.approx(expected,
                                                               abs=1e-4)


def test_the_hull_of_an_l_by_hand():
    # 5 pixels; the hull of the squares is 3 x 3 without half of 2 x 2.
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], np.int32)
    assert table(labels)['solidity'] == [5 / 7]


def test_a_pixel_has_no_axes():
    found = table(np.ones((1, 1), np.int32))
    assert found['major_axis'] == found['minor_axis'] == 0
    assert found['eccentricity'] == 0 and found['solidity'] == 1


@pytest.mark.parametrize('colour, amount', [
    # 255 times 10 to the power of minus 0.650, 0.704 and 0.286: one unit of
    # haematoxylin.
    ((57, 50, 132), 1),
    # Minus half of that.
    ((121, 113, 183), 0.5),
    # Eosin: minus 0.072, 0.990 and 0.105.
    ((216, 26, 200), 0), ((255, 255, 255), 0)])
def test_haematoxylin_by_hand(colour, amount):
    image = np.empty((4, 5, 3), np.uint8)
    image[:] = colour
    found = table(np.ones((4, 5), np.int32), image=image)
    np.testing.assert_allclose(found['mean_haematoxylin_od'], amount,
                               atol=0.005)


def test_haematoxylin_is_the_mean_over_pixels():
    labels, probability, image = blobs(0)
    image[labels == 1] = 0  # counts as 1
    np.testing.assert_allclose(
        table(labels, probability, image)['mean_haematoxylin_od'],
        ndimage.mean(amounts(image), labels,
                     np.arange(1, labels.max() + 1)), atol=1e-6)


def check_against_regionprops(labels, probability, image):
    regions = measure.regionprops(labels, probability)
    found = table(labels, probability, image, strip=40)
    order = np.argsort(found['label'])
    found = {name: values[order] for name, values in found.items()}
    assert found['label'].tolist() == [region.label for region in regions]

    def same(name, values, **tolerance):
        np.testing.assert_allclose(found[name], values, rtol=1e-9,
                                   **tolerance)

    same('area', [region.area for region in regions])
    same('centroid_y', [region.centroid[0] + 0.5 for region in regions])
    same('centroid_x', [region.centroid[1] + 0.5 for region in regions])
    boxes = np.array([region.bbox for region in regions])
    same('box_y', boxes[:, 0])
    same('box_x', boxes[:, 1])
    same('box_height', boxes[:, 2] - boxes[:, 0])
    same('box_width', boxes[:, 3] - boxes[:, 1])
    same('perimeter', [measure.perimeter_crofton(
        np.pad(region.image, 1, mode='constant'), 4) for region in regions])
    same('major_axis', [region.major_axis_length for region in regions],
         atol=1e-6)
    same('minor_axis', [region.minor_axis_length for region in regions],
         atol=1e-6)
    same('eccentricity', [region.eccentricity for region in regions],
         atol=1e-6)
    same('mean_probability', [region.mean_intensity / 255
                              for region in regions])
    same('solidity', [region.area / ConvexHull(np.concatenate(
        [region.coords + corner for corner in
         ((0, 0), (0, 1), (1, 0), (1, 1))])).volume for region in regions])


@pytest.mark.parametrize('seed', range(3))
def test_random_nuclei_against_scikit_image(seed):
    labels, probability, image = blobs(seed)
    assert labels.max() > 80
    check_against_regionprops(labels, probability, image)


def test_labels_in_pieces_and_with_gaps_against_scikit_image():
    labels, probability, image = blobs(0)
    labels = labels % 20 * 3
    check_against_regionprops(labels, probability, image)


@pytest.mark.parametrize('strip', [1, 7, 40, 1000])
def test_strips_of_any_height_give_the_same(strip):
    labels, probability, image = blobs(1)
    labels[60] = labels.max() + 1
    labels[3:125, 30:33] = labels.max() + 1  # higher than most strips
    labels = measure.label(labels, background=0, connectivity=1).astype(
        np.int32)  # by first pixels
    whole = table(labels, probability, image)
    assert whole['label'].tolist() == list(range(1, labels.max() + 1))
    assert whole['box_height'].max() > 100
    in_strips = table(labels, probability, image, strip=strip)
    for name, values in whole.items():
        np.testing.assert_allclose(in_strips[name], values, rtol=1e-9,
                                   atol=1e-6, err_msg=name)


def test_no_nuclei():
    assert list(measurements.measure(
        np.zeros((5, 6), np.int32), np.zeros((5, 6), np.uint8),
        np.zeros((5, 6, 3), np.uint8))) == []


def test_a_nucleus_that_reaches_far_down_is_measured_alone():
    # For the memory: with the others it would be all these rows, all columns.
    labels = np.zeros((60, 50), np.int32)
    labels[0:3, 2:5], labels[1:50, 30:33], labels[2:4, 10:12] = 1, 2, 3
    labels[8:25, 40:45] = 4  # into the third strip, but not beyond the second
    batches = list(measurements.measure(
        labels, labels.astype(np.uint8), np.zeros((60, 50, 3), np.uint8),
        strip=10))
    assert [batch.measures['label'].tolist() for batch in batches] == [
        [1], [2], [3], [4]]
    assert [batch.corners.x.min() for batch in batches] == [2, 30, 10, 40]
    labels[8:25, 40:45] = 0
    labels[8:20, 40:45] = 4  # not beyond the strip that follows
    assert [batch.measures['label'].tolist() for batch in measurements.measure(
        labels, labels.astype(np.uint8), np.zeros((60, 50, 3), np.uint8),
        strip=10)] == [[1], [2], [3, 4]]
