"""The path from image to probability, with forwards of known answer."""
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import nets
from conftest import NETS, ROOT
from histology.files import InputError
from histology.resample import check_min_side
from input_pipeline.preprocessing import normalise, pad_to_stride
from nets.tf1 import tf
from prediction import tiling

STRIDE = 32


def red_channel(batch):
    return batch[..., :1]


def predict_image(*arguments, **named):
    """All rows in one array."""
    return np.concatenate(list(tiling.predict_rows(*arguments, **named)))


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
        check_min_side((31, 40), 'a.png')
    check_min_side((32, 32), 'a.png')


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
    tiles = len(sizes) // 4 if average else len(sizes)
    assert tiles > 1
    np.testing.assert_allclose(fractions, np.arange(1, tiles + 1) / tiles)


def test_tiles_of_a_known_layout():
    """224 pixels at a stride of 32, all overlaps 64.

    Two tiles cover 2 * 160 - 64 = 256, but 2 * 128 - 64 = 192 is too little;
    three cover 3 * 128 - 2 * 64 = 256, and 128 is the shortest side allowed.
    """
    assert tiling._tile_sides(224, STRIDE) == {1: 224, 2: 160, 3: 128}
    # The starts of three are spread over 224 - 128 = 96: the middle one at
    # 48, rounded down to a multiple of the stride.
    tiles = tiling._tiles_along(224, 128, 3, STRIDE)
    assert [place.start for place, _ in tiles] == [0, 32, 96]
    total = np.zeros(224)
    for place, share in tiles:
        total[place] += share
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize('height, width, stride, tile, tiles', [
    # Padded to 1552. Two tiles: 880 overlaps by 224 (220, rounded up) and
    # 2 * 880 - 224 = 1536 is too little; 896 overlaps by 224 and covers 1568.
    # 2 * 896 * 1552 is 1.15 times 1552 * 1552.
    (1540, 1540, 16, (896, 1552), 2),
    # Padded to 1544, and 2 * 888 - 224 = 1552.
    (1540, 1540, 8, (888, 1544), 2),
    # 1536 * 1536 is what one tile may have.
    (1536, 1536, 16, (1536, 1536), 1),
    (1100, 2100, 16, (1104, 2112), 1),
    # Width 3000, padded to 3008: of two tiles, 1728 overlap by 432 and cover
    # 3024, 1712 by 432 and cover 2992, too little. Whole rows of 3008 would
    # be over twice as wide as the 784 high that fit.
    (1000, 3000, 16, (1008, 1728), 2),
    (3000, 1000, 16, (1728, 1008), 2),
])
def test_tiles_of_images_just_too_large(height, width, stride, tile, tiles):
    sizes = []

    def forward(batch):
        sizes.append(batch.shape[1:3])
        return red_channel(batch)

    image = random_image(height, width)
    probability = predict_image(image, forward, stride, tiling.MAX_PIXELS)
    assert sizes == tiles * [tile]
    np.testing.assert_allclose(probability, image[..., 0] / 255, atol=1e-5)


@pytest.mark.parametrize('max_pixels', [1536 ** 2, 300 ** 2, 128 ** 2])
@pytest.mark.parametrize('height, width', [
    (10000, 10000), (10000, 9000), (1540, 1540), (32, 500000), (500000, 32),
    (1504, 40000), (40000, 1504), (333, 517)])
def test_grid_of_tiles(height, width, max_pixels):
    """What holds for every grid, whatever its layout."""
    stride = 16
    padded = [length + -length % stride for length in (height, width)]
    grid = tiling._tile_grid(*padded, stride, max_pixels)
    pixels, sides = 1, []
    for length, (grid_length, side, count) in zip(padded, grid):
        assert grid_length == length and side % stride == 0
        starts = [place.start for place, _ in tiling._tiles_along(
            length, side, count, stride)]
        assert len(starts) == count
        assert starts[0] == 0 and starts[-1] + side == length
        assert all(start % stride == 0 for start in starts)
        if count > 1:
            assert side - np.diff(starts).max() >= max(64, side // 4)
        pixels *= side * count
        sides.append(side)
    assert sides[0] * sides[1] <= max_pixels
    # (4 / 3) ** 2 for an overlap of a quarter, (128 / 64) ** 2 for the
    # smallest tile, and what rounding to the stride adds.
    assert pixels / (padded[0] * padded[1]) < (
        4 if max_pixels == 128 ** 2 else 1.9)
    # A row of tiles, which memory holds.
    assert sides[0] * padded[1] <= max(
        max_pixels, (2 * max_pixels) ** 0.5 * padded[1])


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


def test_average_undoes_every_rotation():
    """A forward that ignores its input shows only where pixels are put.

    Under the four rotations of the square each corner goes to each corner
    once, so what is 1 at the top left alone averages to 1 / 4 at each. The
    pixel right of the corner goes to those that follow a corner clockwise.
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
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 1 / 4
    np.testing.assert_array_equal(
        predict_image(image, corner, STRIDE, 1024, average=True),
        expected)
    expected = np.zeros((32, 32))
    expected[[0, 1, -1, -2], [1, -1, -2, 0]] = 1 / 4
    np.testing.assert_array_equal(
        predict_image(image, beside_corner, STRIDE, 1024, average=True),
        expected)


def test_average_follows_the_tissue():
    """The neighbour on the left, averaged, is the mean of all four.

    Of the four rotations, one brings each neighbour to the left.
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
    mask, levels = tiling.segment(image, red_channel, STRIDE, 0.5, 1024)
    assert mask.dtype == levels.dtype == np.uint8
    assert mask[0, :3].tolist() == [0, 0, 1] and mask.sum() == 1
    # 63.75, 127.5, which rounds to even, and 191.25.
    assert levels[0, :3].tolist() == [64, 128, 191] and levels.sum() == 383


def test_segment_puts_each_row_of_tiles_in_its_place():
    image = random_image(333, 517)
    mask, levels = tiling.segment(image, red_channel, STRIDE, 0.5,
                                     128 * 128)
    np.testing.assert_array_equal(mask, image[..., 0] >= 128)
    np.testing.assert_array_equal(levels, image[..., 0])


def blobs(height, width):
    """Red in discs of 12 pixels in radius, 40 apart, from (30, 25) on."""
    rows, columns = np.ogrid[:height, :width]
    near = ((rows + 10) % 40 - 20) ** 2 + ((columns + 15) % 40 - 20) ** 2
    image = np.zeros((height, width, 3), np.uint8)
    image[near <= 12 ** 2, 0] = 255
    return image


@pytest.mark.parametrize('size', [(320, 480), (144, 216), (160, 240)])
@pytest.mark.parametrize('max_pixels', [128 * 128, 1024 * 1024])
def test_segment_at_another_size(size, max_pixels):
    """The network sees that size, and what comes back is at its place."""
    image, seen = blobs(160, 240), np.zeros(size)

    def forward(batch):
        if batch[0, ..., 0].size > seen.size:  # whole, but for padding
            seen[:] = batch[0, :size[0], :size[1], 0]
        return red_channel(batch)

    mask, levels = tiling.segment(image, forward, STRIDE, 0.5, max_pixels,
                                     size=size)
    assert mask.shape == levels.shape == image.shape[:2]
    truth = image[..., 0] > 0
    wrong = (mask > 0) != truth
    # Nothing but single pixels of the outlines, as many too many as missing.
    assert wrong.mean() < 0.01
    inside = np.abs(levels.astype(int) - 255 * truth) < 128
    np.testing.assert_array_equal(inside, ~wrong)
    for axis in (0, 1):
        assert abs(np.nonzero(mask)[axis].mean()
                   - np.nonzero(truth)[axis].mean()) < 0.05
    if seen.any():
        assert seen.mean() == pytest.approx(truth.mean(), rel=0.01)
    if size == image.shape[:2]:
        for found, expected in zip((mask, levels), tiling.segment(
                image, red_channel, STRIDE, 0.5, max_pixels)):
            np.testing.assert_array_equal(found, expected)


def test_segment_refuses_a_diverged_network():
    with pytest.raises(InputError, match='diverged'):
        tiling.segment(random_image(32, 32), lambda batch: red_channel(
            batch) * np.nan, STRIDE, 0.5, 1024)


def test_too_few_pixels_for_a_tile():
    with pytest.raises(InputError, match='--max_pixels 10000.*16384'):
        predict_image(random_image(200, 200), red_channel, STRIDE, 10000)
    # 40 is padded to 64, and 64 * 128 are 8192.
    with pytest.raises(InputError, match='--max_pixels 8191.*8192'):
        predict_image(random_image(40, 700), red_channel, STRIDE, 8191)
    image = random_image(40, 700)
    np.testing.assert_allclose(
        predict_image(image, red_channel, STRIDE, 8192), image[..., 0] / 255,
        atol=1e-5)


@pytest.fixture(scope='module', params=NETS)
def model(request):
    """A network of random weights, in a graph and session of its own."""
    with tf.Graph().as_default(), tf.Session().as_default():
        tf.set_random_seed(0)
        model = nets.build(request.param, width=4)
        tf.keras.backend.get_session()  # initialises the variables
        *_, classifier = [layer for layer in model.layers if layer.weights]
        # As drawn, the probability is 0.5 everywhere, to some decimals.
        classifier.set_weights([100 * weight for weight
                                in classifier.get_weights()])
        yield model


def reflected(images, stride):
    """Padded by NumPy alone, bottom and right, to the next multiple."""
    height, width = images.shape[1:3]
    rows = [*range(height), *range(height - 2, 0, -1)]
    columns = [*range(width), *range(width - 2, 0, -1)]
    return images[:, rows[:height + -height % stride]][
        :, :, columns[:width + -width % stride]]


@pytest.mark.parametrize('height, width', [(100, 70), (32, 33), (96, 80)])
def test_predict_pads_and_crops(model, height, width, capfd):
    images = np.stack([random_image(height, width, seed) for seed in (1, 2)])
    probability = tiling.predict(model, images)
    assert capfd.readouterr() == ('', '')
    assert probability.dtype == np.float32
    assert probability.shape == (2, height, width, 1)
    assert np.ptp(probability) > 0.01
    padded = reflected(images / np.float32(255), model.stride)
    expected = model.predict(padded)[:, :height, :width]
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    # As floats in [0, 1], of either size.
    for dtype in (np.float32, np.float64):
        np.testing.assert_allclose(
            tiling.predict(model, (images / 255).astype(dtype)),
            probability, atol=1e-5)


def test_predict_tiles_and_averages_as_the_command_does(model):
    images = random_image(150, 210)[None]
    probability = tiling.predict(model, images, 128 * 128, average=True)
    _, grey = tiling.segment(images[0], model.predict_on_batch,
                                model.stride, 0.5, 128 * 128, average=True)
    assert probability.shape == (1, 150, 210, 1)
    assert np.abs(probability[0, :, :, 0] * 255 - grey).max() <= 0.501


def test_predict_at_another_resolution(model):
    """Twice as fine for the network: what the resampled image gives."""
    image = random_image(60, 50)
    finer = np.stack([np.array(Image.fromarray(image).resize(
        (100, 120), Image.BICUBIC))])
    expected = Image.fromarray(
        tiling.predict(model, finer)[0, ..., 0]).resize(
            (50, 60), Image.BICUBIC)
    found = tiling.predict(model, image[None], microns_per_pixel=0.5)
    assert found.dtype == np.float32 and found.shape == (1, 60, 50, 1)
    np.testing.assert_allclose(found[0, ..., 0], np.clip(expected, 0, 1),
                               atol=1e-4)
    np.testing.assert_array_equal(
        tiling.predict(model, image[None], microns_per_pixel=0.25),
        tiling.predict(model, image[None]))
    with pytest.raises(InputError, match='images: 50 x 60 .* 25 x 30 at'):
        tiling.predict(model, image[None], microns_per_pixel=0.125)


def test_predict_of_no_image(model):
    assert tiling.predict(model, np.zeros((0, 40, 50, 3), np.uint8)
                             ).shape == (0, 40, 50, 1)


@pytest.mark.parametrize('images, words', [
    (np.zeros((100, 70, 3)), r'\[100, 70, 3\].*images\[None\]'),
    (np.zeros((1, 40, 50, 4), np.uint8), r'\[1, 40, 50, 4\].*alpha'),
    (np.zeros((40, 50)), r'\[40, 50\]; give \[N, H, W, 3\]'),
    (np.zeros((1, 40, 50, 1)), r'\[1, 40, 50, 1\]; give \[N, H, W, 3\]'),
    (np.zeros((1, 31, 50, 3)), r'\[1, 31, 50, 3\]; .* at least 32'),
    (np.full((1, 40, 50, 3), 200.), '200 to 200; give floats in'),
    (np.full((1, 40, 50, 3), -0.1), '-0.1 to -0.1; give floats in'),
    (np.full((1, 40, 50, 3), np.nan), 'nan to nan; give floats in'),
    (np.zeros((1, 40, 50, 3), int), 'int64; give uint8')])
def test_predict_refuses(images, words):
    with pytest.raises(ValueError, match=words) as caught:
        tiling.predict(None, images)
    assert '\n' not in str(caught.value)


def test_inference_is_cheap_to_import():
    """The command line reads its default of --max_pixels here."""
    subprocess.run(
        [sys.executable, '-c', 'import sys, prediction.tiling as i; '
         'print(i.MAX_PIXELS); '
         'sys.exit(" ".join({"tensorflow", "h5py", "PIL", "matplotlib"} '
         '& set(sys.modules)) or 0)'], cwd=ROOT, check=True)
