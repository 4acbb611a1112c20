"""Nuclei separated: by hand, by h-maxima, and in windows."""
import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology, segmentation

from conftest import whole_mask, without_small_holes
from eval import nuclei_metrics
from prediction import instances


def discs(shape, *circles):
    """A mask, uint8 [H, W], of discs (row, column, radius)."""
    rows, columns = np.indices(shape)
    mask = np.zeros(shape, np.uint8)
    for row, column, radius in circles:
        mask[(rows - row) ** 2 + (columns - column) ** 2 <= radius ** 2] = 1
    return mask


def blobs(shape, seed):
    """A mask of random blobs, and a probability that has them."""
    noise = np.random.RandomState(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(noise, 4)
    probability = np.uint8(255 / (1 + np.exp(-2 * smooth / smooth.std())))
    return (probability > 127).astype(np.uint8), probability


def certain(mask):
    return np.uint8(255) * mask


def test_two_discs_that_touch():
    mask = discs((40, 60), (20, 20, 10), (20, 38, 10))
    labels, closed = instances.separate(mask, certain(mask))
    assert labels.dtype == np.int32 and labels.max() == 2
    assert closed.dtype == np.uint8
    # The line between them is where they meet.
    left, right = [np.flatnonzero((labels == k).any(axis=0)) for k in (1, 2)]
    assert left.max() in (28, 29) and right.min() in (29, 30)
    np.testing.assert_array_equal(labels > 0, mask > 0)
    np.testing.assert_array_equal(closed, mask)


def test_a_dip_of_the_probability_tells_apart_what_has_no_waist():
    mask = np.zeros((40, 60), np.uint8)
    mask[12:28, 10:50] = 1
    probability = certain(mask)
    assert instances.separate(mask, probability)[0].max() == 1
    probability[:, 29:31] = 140
    labels, _ = instances.separate(mask, probability)
    assert labels.max() == 2
    assert set(labels[20, 10:28]) == {1} and set(labels[20, 32:50]) == {2}


@pytest.mark.parametrize('gap, between, threshold, closed', [
    (1, 52, 0.5, True), (4, 52, 0.5, True), (4, 51, 0.5, False),
    (5, 52, 0.5, False), (3, 91, 0.9, False), (3, 92, 0.9, True)])
def test_gaps_are_given_back_where_the_probability_is_high_enough(
        gap, between, threshold, closed):
    """Two squares, `gap` columns apart; 51 of 255 is 0.4 times a half."""
    mask = np.zeros((30, 50), np.uint8)
    mask[5:21, 5:21] = mask[5:21, 21 + gap:37 + gap] = 1
    before = mask.copy()
    probability = np.where(mask, np.uint8(255), np.uint8(between))
    labels, filled = instances.separate(mask, probability,
                                        threshold=threshold)
    np.testing.assert_array_equal(mask, before)  # the caller's stays
    assert labels.max() == 2 and set(np.unique(filled)) == {0, 1}
    np.testing.assert_array_equal(labels > 0, filled)
    given = np.argwhere(filled > mask)
    assert len(given) == (16 * gap if closed else 0)
    for row, column in given:
        assert 5 <= row < 21 and 21 <= column < 21 + gap
    if closed:  # to the nearer one
        for column in range(21, 21 + gap // 2):
            assert (labels[5:21, column] == 1).all()
        for column in range(21 + (gap + 1) // 2, 21 + gap):
            assert (labels[5:21, column] == 2).all()


def test_a_gap_through_an_image_that_is_all_nucleus():
    mask = np.ones((64, 80), np.uint8)
    mask[:, 39:41] = 0
    probability = np.where(mask, np.uint8(150), np.uint8(80))
    labels, closed = instances.separate(mask, probability)
    assert closed.all() and labels.max() == 2
    assert (labels[:, :39] == 1).all() and (labels[:, 41:] == 2).all()


def test_a_hole_that_closing_gaps_leaves_is_filled():
    """Four squares around a cross; its arms are closed, its middle is not."""
    mask = np.zeros((60, 60), np.uint8)
    mask[5:55, 5:55] = 1
    mask[28:32] = mask[:, 28:32] = 0
    mask[26:34, 26:34] = 0
    probability = np.where(mask, np.uint8(255), np.uint8(60))
    probability[28:32, 28:32] = 0
    labels, closed = instances.separate(mask, probability)
    assert closed[5:55, 5:55].all() and closed.sum() == 50 ** 2
    np.testing.assert_array_equal(labels > 0, closed)
    assert labels.max() == 4


def test_what_the_border_cuts_off_is_no_hole():
    """A corner of 45 pixels, but the same amid a nucleus."""
    rows, columns = np.mgrid[:60, :60]
    mask = np.uint8((rows + columns >= 9) & (rows + columns < 40))
    np.testing.assert_array_equal(
        instances.separate(mask, certain(mask))[1], mask)
    inner = np.pad(mask[:40, :40], 10, mode='constant', constant_values=1)
    assert instances.separate(inner, certain(inner))[1][10:20, 10:20].all()


@pytest.mark.parametrize('value, dtype', [(255, np.uint8), (1, bool)])
def test_masks_of_any_kind(value, dtype):
    mask = discs((40, 40), (20, 20, 9))
    expected = instances.separate(mask, certain(mask))
    found = instances.separate((mask * value).astype(dtype), certain(mask))
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


def test_pieces_and_holes_by_their_size():
    mask = np.zeros((60, 90), np.uint8)
    mask[5:12, 5:13] = 1  # 56 pixels: debris
    mask[5:11, 20:30] = 1  # 60
    mask[20:50, 20:50] = 1
    mask[25:34, 25:36] = 0  # 99: a hole in a nucleus
    mask[20:50, 55:85] = 1
    mask[25:35, 60:70] = 0  # 100: not filled
    labels, closed = instances.separate(mask, certain(mask))
    assert labels[7, 7] == 0 and closed[7, 7] == 1
    assert labels[7, 22] == 1
    assert closed[30, 30] == 1 and labels[30, 30] > 0
    assert closed[30, 65] == 0 and labels[30, 65] == 0


def test_small_hills_are_no_nuclei():
    """A bump on the rim is one with the nucleus, whatever its height."""
    mask = discs((50, 50), (25, 25, 10))
    mask[23:28, 36:40] = 1  # 20 pixels
    probability = certain(mask)
    probability[:, 36] = 128
    assert instances.separate(mask, probability)[0].max() == 1


def by_h_maxima(mask, probability, min_area, min_height):
    """The same by scikit-image's markers."""
    unclosed = without_small_holes(mask > 0)
    mask = morphology.remove_small_objects(whole_mask(probability / 255),
                                           min_area)
    land = ndimage.gaussian_filter(
        ndimage.distance_transform_edt(unclosed & mask)
        + probability / 255 * instances.PROBABILITY_WEIGHT, instances.SIGMA)
    land[~mask] = 0
    hills = morphology.h_maxima(land, min_height)
    markers, _ = ndimage.label(hills.astype(bool) & mask)
    return segmentation.watershed(-land, markers, mask=mask)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('min_height', [instances.MIN_HEIGHT, 4])
def test_it_is_what_h_maxima_give(seed, min_height):
    mask, probability = blobs((200, 240), seed)
    # Hills of fewer pixels are markers there alone.
    expected = by_h_maxima(mask, probability, 10, min_height)
    assert expected.max() > 20
    found, _ = instances.separate(mask, probability, min_area=10,
                                  min_height=min_height)
    same = nuclei_metrics.compute(nuclei_metrics.compare(found, expected))
    assert same['aji'] > 0.97 and same['dq'] > 0.97


@pytest.mark.parametrize('seed', range(3))
def test_nuclei_and_mask_go_together(seed):
    mask, probability = blobs((150, 170), seed)
    labels, closed = instances.separate(mask, probability)
    assert not (labels > 0)[closed == 0].any() and (closed >= mask).all()
    smallest = instances.MIN_AREA
    pieces, count = ndimage.label(closed)
    for piece in range(1, count + 1):
        assert ((labels[pieces == piece] > 0).all()
                == ((pieces == piece).sum() >= smallest))
    for nucleus in range(1, labels.max() + 1):
        assert (labels == nucleus).sum() >= smallest
        assert ndimage.label(labels == nucleus)[1] == 1
    first = np.unique(labels, return_index=True)[1][1:]
    assert (np.diff(first) > 0).all()


def test_what_counts_as_debris():
    """Of 24 and 25 pixels, the larger one stays."""
    mask = np.zeros((80, 80), np.uint8)
    mask[10:14, 10:16] = 1
    mask[40:45, 40:45] = 1
    for min_area, count in ((26, 0), (25, 1), (24, 2), (0, 2)):
        labels, _ = instances.separate(mask, certain(mask),
                                       min_area=min_area)
        assert labels.max() == count


def test_windows_give_the_same_nuclei(monkeypatch):
    """With nuclei on every seam and every crossing of seams."""
    monkeypatch.setattr(instances, 'MARGIN', 64)
    mask, probability = blobs((330, 410), 5)
    for row in range(0, 330, 50):
        for column in range(0, 410, 25):
            mask |= discs(mask.shape, (row, column, 11))
    probability[mask > 0] |= 128
    whole = instances.separate(mask, probability)
    monkeypatch.setattr(instances, 'WINDOW', 50)
    parts = instances.separate(mask, probability)
    for one, other in zip(parts, whole):
        np.testing.assert_array_equal(one, other)
    assert whole[0].max() > 100


def test_what_is_larger_than_a_margin_is_not_lost(monkeypatch):
    monkeypatch.setattr(instances, 'MARGIN', 20)
    monkeypatch.setattr(instances, 'WINDOW', 60)
    for mask in (np.ones((200, 230), np.uint8),
                 discs((200, 230), (100, 100, 90))):
        mask[50:60, 50:60] = 0
        labels, closed = instances.separate(mask, certain(mask))
        pieces, _ = ndimage.label((closed > 0) & (labels == 0))
        assert (np.bincount(pieces.ravel())[1:] < instances.MIN_AREA).all()


@pytest.mark.parametrize('value', [0, 1])
def test_nothing_and_everything(value):
    mask = np.full((40, 50), value, np.uint8)
    for found in instances.separate(mask, certain(mask)):
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize('seed', range(5))
def test_peaks_are_scikit_images_local_maxima(seed):
    """On terraces, of which many touch a higher one or the edge."""
    rng = np.random.RandomState(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((70, 90)), 3)
    nuclei = smooth > -0.5 * smooth.std()
    relief = (np.round(smooth / smooth.std() * 3) + 3).astype(np.float32)
    relief[~nuclei] = 0
    expected, count = ndimage.label(
        morphology.local_maxima(relief, connectivity=1) & nuclei)
    assert count > 10
    basins, peaks = instances._steepest_ascent(
        np.pad(relief, 1, mode='constant', constant_values=relief.min()),
        np.pad(nuclei, 1, mode='constant'))
    basins = basins[1:-1, 1:-1]
    assert ((basins > 0) <= nuclei).all()
    np.testing.assert_array_equal(basins[expected > 0],
                                  expected[expected > 0])
    row, column = np.array(np.unravel_index(peaks[1:], (72, 92))) - 1
    np.testing.assert_array_equal(
        row * 90 + column, np.unique(expected, return_index=True)[1][1:])


def test_nuclei_of_one_height_are_found_too(monkeypatch):
    """A flat relief that fills the window has no peak."""
    monkeypatch.setattr(instances, 'WINDOW', 150)
    labels, closed = instances.separate(np.ones((300, 40), np.uint8),
                                        np.zeros((300, 40), np.uint8),
                                        threshold=0)
    assert closed.all() and (labels > 0).all()
