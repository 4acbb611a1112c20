"""Augmentation against values worked out by hand and over many draws."""
import math

import numpy as np
import pytest

from input_pipeline import augment
from nets.tf1 import tf

# As `augment` promises.
MAX_ANGLE = math.radians(10)
SCALES = (0.8, 1.2)


def draws(function, count, seed=0):
    """What `function`'s tensors are in `count` runs, a list of arrays."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(seed)
        tensors = function()
        return [session.run(tensors) for _ in range(count)]


# Sampling

# [2, 3, 4]; the last two channels are those before plus 100.
IMAGE = np.uint8(
    [[[0, 100, 100, 200], [10, 90, 110, 190], [20, 80, 120, 180]],
     [[40, 60, 140, 160], [50, 50, 150, 150], [60, 10, 160, 110]]])
# Row and column, and the first two channels there.
BILINEAR = [
    ((0, 0), (0, 100)),
    ((0, 0.25), (2.5, 97.5)),
    ((0.5, 1), (30, 70)),
    # A quarter of the way down, half-way right: 15 and 55; 85 and 30.
    ((0.25, 1.5), (0.75 * 15 + 0.25 * 55, 0.75 * 85 + 0.25 * 30)),
    # The last row and column have no neighbours beyond.
    ((1, 0.5), (45, 55)),
    ((0.5, 2), (40, 45)),
    ((1, 2), (60, 10)),
]


def test_bilinear_sampling():
    places, expected = zip(*BILINEAR)
    expected = np.array(expected)
    (values,) = draws(lambda: augment.sample_bilinear(
        tf.constant(IMAGE), *np.float32(places).T[:, np.newaxis]), 1)
    assert values.dtype == np.float32
    np.testing.assert_allclose(
        values, [np.concatenate([expected, expected + 100], 1)], rtol=1e-6)


# Geometry


def transform(coordinates):
    """The linear part of what takes the crop's pixels to `coordinates`.

    Returns:
        (orientation: the nearest of the eight, a tuple of four of -1, 0, 1;
        angle left over, radians, absolute; scale).
    """
    corner = coordinates[0, 0]
    matrix = np.stack([coordinates[-1, 0] - corner,
                       coordinates[0, -1] - corner], 1)
    matrix /= len(coordinates) - 1
    scale = math.sqrt(abs(np.linalg.det(matrix)))
    # A similarity: columns of equal length at a right angle.
    np.testing.assert_allclose(matrix.T @ matrix, scale ** 2 * np.eye(2),
                               atol=1e-4)
    rows, columns = np.mgrid[:len(coordinates), :len(coordinates)]
    np.testing.assert_allclose(
        coordinates, corner + np.stack([rows, columns], -1) @ matrix.T,
        atol=1e-3)
    orientation = np.round(matrix / scale)
    cosine = (orientation * matrix).sum() / (2 * scale)
    return (tuple(orientation.ravel().astype(int)),
            math.acos(min(cosine, 1)), scale)


EIGHT = {(1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, 1), (-1, 0, 0, -1),
         (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)}


def test_crops_of_a_larger_patch():
    # 39 / (23 * (cos 10 + sin 10 degrees)) = 1.46: no scale need give way.
    found = draws(lambda: tf.stack(augment.source_coordinates(40, 24), -1),
                  400)
    assert found[0].shape == (24, 24, 2) and found[0].dtype == np.float32
    assert min(map(np.min, found)) >= 0 and max(map(np.max, found)) <= 39
    orientations, angles, scales = zip(*map(transform, found))
    # Of 400 draws each has about 50: fewer than 20 would be a wonder.
    assert set(orientations) == EIGHT
    assert all(orientations.count(one) >= 20 for one in EIGHT)
    assert 0.9 * MAX_ANGLE < max(angles) < MAX_ANGLE + 1e-3
    assert SCALES[0] - 1e-4 < min(scales) < SCALES[0] + 0.02
    assert SCALES[1] - 0.02 < max(scales) < SCALES[1] + 1e-4
    # The crop comes near every side of the patch.
    for axis in range(2):
        along = [coordinates[..., axis] for coordinates in found]
        assert min(map(np.min, along)) < 0.5
        assert max(map(np.max, along)) > 38.5


def test_crops_as_large_as_the_patch():
    """The turned square shrinks until its corners touch the sides."""
    found = draws(lambda: tf.stack(augment.source_coordinates(32, 32), -1),
                  300)
    assert min(map(np.min, found)) >= 0 and max(map(np.max, found)) <= 31
    orientations, angles, scales = zip(*map(transform, found))
    assert set(orientations) == EIGHT
    assert max(angles) > 0.9 * MAX_ANGLE
    for angle, scale in zip(angles, scales):
        room = 1 / (math.cos(angle) + math.sin(angle))
        assert SCALES[0] - 1e-4 < scale < room + 1e-4
    at_limit = [scale > 0.999 / (math.cos(angle) + math.sin(angle))
                for angle, scale in zip(angles, scales)]
    # The limit lies at 0.864 to 1, half-way of the draws or below.
    assert np.mean(at_limit) > 0.4


@pytest.fixture
def colours_kept(monkeypatch):
    monkeypatch.setattr(augment, 'STAIN_FACTOR', (1, 1))
    monkeypatch.setattr(augment, 'STAIN_SHIFT', 0)
    monkeypatch.setattr(augment, 'CONTRAST', (1, 1))
    monkeypatch.setattr(augment, 'BRIGHTNESS', 0)
    monkeypatch.setattr(augment, 'BLANK', 0)


def disc_and_bar():
    """A mask [64, 64, 1] that looks different in all eight orientations."""
    rows, columns = np.mgrid[:64, :64]
    mask = (rows - 20) ** 2 + (columns - 40) ** 2 < 12 ** 2
    mask[40:60, 5:12] = True
    return mask[..., np.newaxis].astype(np.uint8)


def test_image_and_mask_stay_aligned(colours_kept):
    mask = disc_and_bar()
    patch = np.concatenate([np.repeat(mask * 255, 3, axis=2), mask], axis=2)
    found = draws(lambda: augment.augment(tf.constant(patch), 48), 40)
    seen = [0, 0]
    for image, mask in found:
        np.testing.assert_array_equal(image[..., 0], image[..., 2])
        # Half-way between nucleus and background decides, but for rounding.
        clear = np.abs(image[..., :1] - 0.5) > 1e-3
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(image[..., :1][clear] > 0.5,
                                      mask[clear] == 1)
        for kind in range(2):
            seen[kind] += (mask == kind).sum()
    assert min(seen) > 5000


# Colour

# Ruifrok and Johnston's vectors, whose lengths are 0.99996 and 0.99815.
HAEMATOXYLIN = np.array([0.650, 0.704, 0.286]) / 0.99996
EOSIN = np.array([0.072, 0.990, 0.105]) / 0.99815


def test_stains_are_of_unit_length():
    np.testing.assert_allclose(np.linalg.norm(augment.STAINS, axis=1), 1,
                               atol=1e-6)
    # The third is H x E = (-0.20922, -0.04766, 0.59281), of length 0.63045.
    np.testing.assert_allclose(
        augment.STAINS,
        [HAEMATOXYLIN, EOSIN, [-0.33186, -0.07559, 0.94030]], atol=1e-4)


def pixels(*densities):
    """An image [1, n, 3] of the light that optical densities let through."""
    return np.exp(-np.array([densities])).astype(np.float32)


def jittered_densities(image, count):
    return [-np.log(image[0]) for image in draws(
        lambda: augment.jitter_stain(tf.constant(image)), count)]


def test_unchanged_stains_change_nothing(colours_kept):
    image = np.random.RandomState(0).randint(1, 256, (9, 9, 3)) / 255
    (jittered,) = draws(lambda: augment.jitter_stain(
        tf.constant(image, tf.float32)), 1)
    assert jittered.dtype == np.float32
    np.testing.assert_allclose(jittered, image, atol=1e-5)


def test_a_factor_multiplies_the_density(colours_kept, monkeypatch):
    monkeypatch.setattr(augment, 'STAIN_FACTOR', (0.75, 0.75))
    (densities,) = jittered_densities(
        pixels(1.2 * HAEMATOXYLIN, 0.4 * EOSIN), 1)
    np.testing.assert_allclose(densities, [0.9 * HAEMATOXYLIN, 0.3 * EOSIN],
                               atol=1e-4)


def test_each_stain_has_a_factor_of_its_own(monkeypatch):
    monkeypatch.setattr(augment, 'STAIN_SHIFT', 0)
    factors = []
    for densities in jittered_densities(
            pixels(1.2 * HAEMATOXYLIN, 0.8 * EOSIN), 200):
        # Projected on its own direction, the length of what is there now.
        pair = (densities[0] @ HAEMATOXYLIN / 1.2, densities[1] @ EOSIN / 0.8)
        np.testing.assert_allclose(
            densities, [pair[0] * 1.2 * HAEMATOXYLIN, pair[1] * 0.8 * EOSIN],
            atol=1e-3)
        factors.append(pair)
    factors = np.array(factors)
    assert factors.min() > 0.599 and factors.max() < 1.401
    assert (factors.min(axis=0) < 0.64).all()
    assert (factors.max(axis=0) > 1.36).all()
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.3


def test_shifts_are_added_to_the_density(monkeypatch):
    monkeypatch.setattr(augment, 'STAIN_FACTOR', (1, 1))
    grey, dark = np.full(3, 0.5), np.full(3, 1.5)
    both = np.array(jittered_densities(pixels(grey, dark), 200))
    added = both - [grey, dark]  # [200, 2, 3]
    np.testing.assert_allclose(added[:, 0], added[:, 1], atol=1e-4)
    # Amounts of the three stains that were added.
    amounts = np.linalg.solve(augment.STAINS.T, added[:, 0].T)
    assert 0.09 < np.abs(amounts).max() < 0.1001
    assert (amounts.min(axis=1) < -0.08).all()
    assert (amounts.max(axis=1) > 0.08).all()


def test_black_stays_dark():
    black = np.zeros((2, 2, 3), np.float32)
    found = np.array(draws(lambda: augment.jitter_stain(tf.constant(black)),
                           50))
    # A density of log 255 = 5.54 is 1.84 H, -0.26 E and 0.53 of the third of
    # it; in green, where they weigh most, 1.59 in absolute sum. What is left
    # is at least 5.54 * (1 - 0.4 * 1.59) - 0.3 = 1.72.
    assert 0 < found.min() and found.max() < math.exp(-1.7)


def test_brightness_and_contrast():
    # Half of the pixels lie 0.1 above the mean and half below.
    image = np.full((4, 4, 3), 0.4, np.float32)
    image[:2] = 0.6
    found = np.array(draws(lambda: augment.jitter_brightness_and_contrast(
        tf.constant(image)), 200))
    low, high = found[:, 2:], found[:, :2]
    assert np.ptp(low, axis=(1, 2, 3)).max() == 0
    assert np.ptp(high, axis=(1, 2, 3)).max() == 0
    low, high = low[:, 0, 0, 0], high[:, 0, 0, 0]
    contrast, brightness = (high - low) / 0.2, (high + low) / 2 - 0.5
    assert 0.7999 < contrast.min() < 0.82 and 1.18 < contrast.max() < 1.2001
    assert -0.1001 < brightness.min() < -0.09
    assert 0.09 < brightness.max() < 0.1001
    assert abs(np.corrcoef(contrast, brightness)[0, 1]) < 0.3


def test_brightness_and_contrast_stay_in_range():
    image = np.random.RandomState(0).randint(0, 2, (8, 8, 3))
    found = np.array(draws(lambda: augment.jitter_brightness_and_contrast(
        tf.constant(image, tf.float32)), 100))
    assert found.min() == 0 and found.max() == 1


# Blank rectangles


def blanked(count):
    """(colour, share of the crop) of each draw that blanks anything."""
    rng = np.random.RandomState(0)
    image = rng.uniform(0.3, 0.4, (40, 60, 3)).astype(np.float32)
    mask = np.ones((40, 60, 1), np.float32)
    found = []
    for changed, left in draws(lambda: augment.blank_rectangle(
            tf.constant(image), tf.constant(mask)), count):
        blank = left[..., 0] == 0
        assert set(np.unique(left)) <= {0, 1}
        np.testing.assert_array_equal(changed[~blank], image[~blank])
        if not blank.any():
            continue
        rows, columns = blank.any(axis=1), blank.any(axis=0)
        np.testing.assert_array_equal(blank, np.outer(rows, columns))
        for side in (rows, columns):  # without a gap
            assert np.abs(np.diff(side.astype(int))).sum() <= 2
        colours = changed[blank]
        assert np.ptp(colours, axis=0).max() < 1e-6
        found.append((colours[0], blank.mean()))
    return found


def test_blank_rectangles(monkeypatch):
    monkeypatch.setattr(augment, 'BLANK', 1.0)
    colours, shares = zip(*blanked(300))
    assert len(shares) > 290  # others are narrower than a pixel
    assert min(shares) < 0.02 and 5 < shares.count(1) < 60
    assert np.ptp(colours, axis=1).max() <= 0.06 + 1e-6  # twice the tint
    mean = np.mean(colours, axis=1)
    assert mean.min() >= 0 and mean.max() <= 1
    # A third of the draws, and a twentieth and a tenth of another third.
    assert 0.25 < np.mean(mean < 0.06) < 0.48
    assert 0.25 < np.mean(mean > 0.89) < 0.50


def test_a_tenth_of_the_crops_has_one():
    assert 20 < len(blanked(400)) < 60  # 40, with a deviation of 6
