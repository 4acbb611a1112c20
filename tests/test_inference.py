"""The path from image to probability, with forwards of known answer."""
import numpy as np
import pytest

from eval import inference
from input_pipeline.files import InputError
from input_pipeline.preprocessing import (check_size, normalise,
                                          pad_to_stride)

STRIDE = 32


def red_channel(batch):
    return batch[..., :1]


def predict_image(*arguments, **named):
    """All rows in one array."""
    return np.concatenate(list(inference.predict_rows(*arguments, **named)))


def random_image(height, width, seed=1):
    return np.random.RandomState(seed).randint(
        0, 256, (height, width, 3)).astype(np.uint8)


def test_normalise():
    scaled = normalise(np.uint8([0, 51, 255]))
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, np.float32([0, 0.2, 1]))


def test_padding_reflects_without_repeating_the_edge():
    image = np.arange(33 * 34).reshape(33, 34)
    padded = pad_to_stride(image, 12)
    assert padded.shape == (36, 36)
    np.testing.assert_array_equal(padded[:33, :34], image)
    # The last row is 32, so rows 33, 34 and 35 mirror 31, 30 and 29; the last
    # column is 33, so columns 34 and 35 mirror 32 and 31.
    np.testing.assert_array_equal(padded[33:, :34], image[[31, 30, 29]])
    np.testing.assert_array_equal(padded[:33, 34:], image[:, [32, 31]])
    assert padded[35, 35] == image[29, 31]


def test_padding_of_1000_pixels_and_of_the_least_awkward_side():
    assert pad_to_stride(
        np.zeros((1000, 33, 3)), STRIDE).shape == (1024, 64, 3)
    image = np.zeros((64, 32, 3))
    assert pad_to_stride(image, STRIDE) is image


def test_small_images_are_refused():
    with pytest.raises(ValueError, match=r'\[31, 40\]'):
        pad_to_stride(np.zeros((31, 40)), STRIDE)
    with pytest.raises(InputError, match='a.png: 40 x 31 pixels'):
        check_size(np.zeros((31, 40, 3)), 'a.png')
    check_size(np.zeros((32, 32, 3)), 'a.png')


@pytest.mark.parametrize('height, width', [
    (32, 32), (64, 96), (333, 517), (1000, 1000)])
def test_whole_images_come_back_exactly(height, width):
    image = random_image(height, width)
    probability = predict_image(image, red_channel, STRIDE,
                                max_pixels=1024 * 1024)
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(
        probability, image[..., 0] / np.float32(255))


@pytest.mark.parametrize('average', [False, True])
@pytest.mark.parametrize('height, width, max_pixels', [
    (333, 517, 128 * 128), (1000, 1000, 300 * 300), (40, 700, 128 * 128),
    (700, 40, 128 * 128), (1000, 1000, 1024 * 1024 - 1)])
def test_tiled_images_come_back(height, width, max_pixels, average):
    image = random_image(height, width)
    sizes, fractions = [], []

    def forward(batch):
        assert batch.dtype == np.float32 and batch.shape[0] == 1
        sizes.append(batch.shape[1:3])
        return red_channel(batch)

    probability = predict_image(image, forward, STRIDE, max_pixels,
                                average, fractions.append)
    assert probability.dtype == np.float32
    assert probability.shape == (height, width)
    np.testing.assert_allclose(probability, image[..., 0] / 255, atol=1e-5)
    assert probability.max() <= 1
    assert all(h * w <= max_pixels for h, w in sizes)
    assert all(h % STRIDE == 0 and w % STRIDE == 0 for h, w in sizes)
    tiles = len(sizes) // 8 if average else len(sizes)
    assert tiles > 1
    np.testing.assert_allclose(fractions, np.arange(1, tiles + 1) / tiles)


def test_tiles_of_a_known_layout():
    # Side 128, overlap 64: starts 0, 64 and, flush with the edge at 224, 96.
    tiles = inference._tiles_along(224, 128, STRIDE)
    assert [place.start for place, _ in tiles] == [0, 64, 96]
    total = np.zeros(224)
    for place, share in tiles:
        total[place] += share
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_blending_leaves_no_seam():
    """Tiles that disagree by 1 blend into a ramp, not a step."""
    answers = iter([0, 1])
    probability = predict_image(
        random_image(128, 192), lambda batch: np.full(
            (1, 128, 128, 1), next(answers), np.float32), STRIDE, 128 * 128)
    steps = np.diff(probability, axis=1)
    assert (steps >= 0).all() and steps.max() < 0.1
    # Two equal Gaussians, sigma 128 / 8 and centres 63.5 and 127.5: their
    # ratio at column x is exp(((x - 63.5) ** 2 - (x - 127.5) ** 2) / 512).
    # At 95 that is exp((31.5 ** 2 - 32.5 ** 2) / 512) = exp(-1 / 8).
    np.testing.assert_allclose(probability[:, 95],
                               1 / (1 + np.exp(1 / 8)), rtol=1e-5)
    assert (probability[:, :64] == 0).all()
    assert (probability[:, 128:] == 1).all()


def test_float_images_are_not_scaled_again():
    image = np.full((32, 32, 3), 0.25)
    probability = predict_image(image, red_channel, STRIDE, 1024)
    assert (probability == 0.25).all()


def test_average_undoes_every_flip_and_rotation():
    """A forward that ignores its input shows only where pixels are put.

    Under the eight symmetries of the square each corner goes to each corner
    twice, so what is 1 at the top left alone averages to 2 / 8 at each.
    The pixel right of the corner has eight images, one for each symmetry.
    """
    def corner(batch):
        answer = np.zeros(batch.shape[:3] + (1,), np.float32)
        answer[0, 0, 0] = 1
        return answer

    def beside_corner(batch):
        answer = np.zeros(batch.shape[:3] + (1,), np.float32)
        answer[0, 0, 1] = 1
        return answer

    image = random_image(32, 32)
    expected = np.zeros((32, 32))
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 2 / 8
    np.testing.assert_array_equal(
        predict_image(image, corner, STRIDE, 1024, average=True),
        expected)
    expected = np.zeros((32, 32))
    expected[[0, 0, -1, -1, 1, 1, -2, -2],
             [1, -2, 1, -2, 0, -1, 0, -1]] = 1 / 8
    np.testing.assert_array_equal(
        predict_image(image, beside_corner, STRIDE, 1024, average=True),
        expected)


def test_average_follows_the_tissue():
    """The neighbour on the left, averaged, is the mean of all four.

    Of the eight symmetries, two bring each neighbour to the left.
    """
    def left_neighbour(batch):
        return np.roll(batch, 1, axis=2)[..., :1]

    image = random_image(64, 32)
    red = image[..., 0] / 255
    probability = predict_image(image, left_neighbour, STRIDE, 64 * 32,
                                average=True)
    mean = (np.roll(red, 1, 0) + np.roll(red, -1, 0) + np.roll(red, 1, 1)
            + np.roll(red, -1, 1)) / 4
    np.testing.assert_allclose(probability, mean, atol=1e-6)


def test_segment_takes_what_is_above_the_threshold():
    image = np.zeros((32, 32, 3), np.float32)
    image[0, :3, 0] = 0.25, 0.5, 0.75
    mask, levels = inference.segment(image, red_channel, STRIDE, 0.5, 1024)
    assert mask.dtype == levels.dtype == np.uint8
    assert mask[0, :3].tolist() == [0, 0, 1] and mask.sum() == 1
    # 63.75, 127.5, which rounds to even, and 191.25.
    assert levels[0, :3].tolist() == [64, 128, 191] and levels.sum() == 383


def test_segment_puts_each_row_of_tiles_in_its_place():
    image = random_image(333, 517)
    mask, levels = inference.segment(image, red_channel, STRIDE, 0.5,
                                     128 * 128)
    np.testing.assert_array_equal(mask, image[..., 0] >= 128)
    np.testing.assert_array_equal(levels, image[..., 0])


def test_segment_refuses_a_diverged_network():
    with pytest.raises(InputError, match='diverged'):
        inference.segment(random_image(32, 32), lambda batch: red_channel(
            batch) * np.nan, STRIDE, 0.5, 1024)


def test_too_few_pixels_for_a_tile():
    with pytest.raises(InputError, match='--max_pixels 10000.*16384'):
        predict_image(random_image(200, 200), red_channel, STRIDE, 10000)
