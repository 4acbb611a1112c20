"""The path from image to probability, with forwards of known answer."""
import subprocess
import sys

import numpy as np
import pytest

import nets
from conftest import NETS, ROOT, red_channel
from histology import resample
from histology.files import InputError
from input_pipeline.preprocessing import normalise, pad, padded_side
from nets.tf1 import tf
from prediction import Predictor, tiling, writers

STRIDE = 32


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
    padded = pad(image, 36, 36)
    assert padded.shape == (36, 36)
    np.testing.assert_array_equal(padded[:33, :34], image)
    # The last row is 32, so rows 33, 34 and 35 mirror 31, 30 and 29; the last
    # column is 33, so columns 34 and 35 mirror 32 and 31.
    np.testing.assert_array_equal(padded[33:, :34], image[[31, 30, 29]])
    np.testing.assert_array_equal(padded[:33, 34:], image[:, [32, 31]])
    assert padded[35, 35] == image[29, 31]


@pytest.mark.parametrize('length, stride, side', [
    # Steps of 128 up to 2048, and then of 256.
    (33, 16, 128), (128, 16, 128), (129, 8, 256), (256, 1, 256),
    (257, 16, 384), (520, 16, 640), (1000, 16, 1024), (2048, 16, 2048),
    (2049, 16, 2304),
    # No multiple of 128 that 24 divides is below 384: steps of 144.
    (100, 24, 144), (300, 24, 432)])
def test_sides_are_few_multiples_of_the_stride(length, stride, side):
    assert padded_side(length, stride) == side


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
    """224 pixels at a stride of 32, sides multiples of 128, overlaps 64.

    Two tiles cover 2 * 128 - 64 = 192, which is too little; three cover
    3 * 128 - 2 * 64 = 256.
    """
    assert tiling._tilings(224, STRIDE) == [(256, 1), (128, 3)]
    # The starts of three are spread over 224 - 128 = 96: the middle one at
    # 48, rounded down to a multiple of the stride.
    tiles = tiling._tiles_along(224, 128, 3, STRIDE)
    assert [place.start for place, _ in tiles] == [0, 32, 96]
    total = np.zeros(224)
    for place, share in tiles:
        total[place] += share
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize('height, width, stride, tile, tiles', [
    # Two tiles overlap by a quarter, 224 of 896, and cover 1568. Across, 1540
    # is rounded up to a multiple of 128. It is 1.22 times 1552 * 1552, which
    # the stride needs.
    (1540, 1540, 16, (896, 1664), 2),
    # 1536 * 1536 is what one tile may have.
    (1536, 1536, 16, (1536, 1536), 1),
    (1400, 1410, 8, (1408, 1536), 1),
    # Of two tiles, 1792 overlap by 448 and cover 3136; 1664 by 416 and cover
    # 2912, too little. Whole rows of 3008 would be over twice as wide as the
    # 784 high that fit.
    (1000, 3000, 16, (1024, 1792), 2),
    (3000, 1000, 16, (1792, 1024), 2),
])
def test_tiles_of_images_just_too_large(height, width, stride, tile, tiles):
    sizes = []

    def forward(batch):
        sizes.append(batch.shape[1:3])
        return red_channel(batch)

    image = random_image(height, width)
    probability = predict_image(image, forward, stride, tiling.MAX_TILE_PIXELS)
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
    for length, (side, count) in zip(padded, grid):
        assert side % 128 == 0
        starts = [place.start for place, _ in tiling._tiles_along(
            length, side, count, stride)]
        assert len(starts) == count
        assert starts[0] == 0 and starts[-1] + side == max(length, side)
        assert all(start % stride == 0 for start in starts)
        if count > 1:
            assert side - np.diff(starts).max() >= max(64, side // 4)
        pixels *= side * count
        sides.append(side)
    assert sides[0] * sides[1] <= max_pixels
    # (4 / 3) ** 2 for an overlap of a quarter, (128 / 64) ** 2 for the
    # smallest tile, and what rounding sides adds, most to small ones.
    covered = np.prod([max(length, 128) for length in padded])
    most = 1.9 if max(height, width) > 517 else 2.3
    assert pixels / covered < (4 if max_pixels == 128 ** 2 else most)
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


def test_few_sizes_of_tiles():
    """Images of all sizes from 100 to 800 give few sizes, and lose nothing."""
    sizes = set()

    def forward(batch):
        sizes.add(batch.shape[1:3])
        return red_channel(batch)

    for side in range(100, 801, 35):
        for image in (random_image(side, 900 - side), random_image(side, 150)):
            np.testing.assert_allclose(
                predict_image(image, forward, 16, 1024 ** 2),
                image[..., 0] / 255, atol=1e-6)
    assert {side for size in sizes for side in size} == {
        128, 256, 384, 512, 640, 768, 896}


def test_average_follows_the_tissue():
    """The neighbour on the left, averaged, is the mean of all four.

    Of the four rotations, one brings each neighbour to the left.
    """
    def left_neighbour(batch):
        return np.roll(batch, 1, axis=2)[..., :1]

    image = random_image(128, 256)
    red = image[..., 0] / 255
    probability = predict_image(image, left_neighbour, STRIDE, 128 * 256,
                                average=True)
    mean = (np.roll(red, 1, 0) + np.roll(red, -1, 0) + np.roll(red, 1, 1)
            + np.roll(red, -1, 1)) / 4
    np.testing.assert_allclose(probability, mean, atol=1e-6)


def test_nucleus_is_above_the_threshold():
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:24, 8:24, 0] = 128
    image[8, 8:12, 0] = 127
    nuclei = Predictor(red_channel, STRIDE, average=False)(image)
    assert nuclei.mask.dtype == np.uint8 and nuclei.labels.dtype == np.int32
    np.testing.assert_array_equal(nuclei.mask, image[..., 0] > 127.5)
    np.testing.assert_array_equal(nuclei.labels, nuclei.mask)
    assert nuclei.probability.dtype == np.float32
    np.testing.assert_array_equal(nuclei.probability,
                                  image[..., 0] / np.float32(255))


def blobs(height, width):
    """Red in discs of 12 pixels in radius, 40 apart, from (30, 25) on."""
    rows, columns = np.ogrid[:height, :width]
    near = ((rows + 10) % 40 - 20) ** 2 + ((columns + 15) % 40 - 20) ** 2
    image = np.zeros((height, width, 3), np.uint8)
    image[near <= 12 ** 2, 0] = 255
    return image


@pytest.mark.parametrize('size', [(320, 480), (144, 216), (160, 240)])
@pytest.mark.parametrize('max_pixels', [128 * 128, 1024 * 1024])
def test_at_another_size(size, max_pixels):
    """The network sees that size, and what comes back is at its place."""
    image, seen = blobs(160, 240), np.zeros(size)

    def forward(batch):
        if batch[0, ..., 0].size > seen.size:  # whole, but for padding
            seen[:] = batch[0, :size[0], :size[1], 0]
        return red_channel(batch)

    predictor = Predictor(forward, STRIDE, max_pixels=max_pixels,
                          average=False)
    nuclei = predictor(image, 0.25 * size[0] / 160)
    whole = slice(0, 150), slice(0, 225)  # what lies further out is debris
    truth = image[..., 0] > 0
    for mask, wrong, shift in (
            (nuclei.probability > 0.5, 0.01, 0.05),
            # Of two pixels equally near, the lower or right one counts.
            (nuclei.mask > 0, 0.02, 0.3), (nuclei.labels > 0, 0.02, 0.3)):
        assert mask.shape == (160, 240)
        mask, truth = mask[whole], truth[whole]
        # Nothing but single pixels of the outlines.
        assert (mask != truth).mean() < wrong
        for axis in (0, 1):
            assert abs(np.nonzero(mask)[axis].mean()
                       - np.nonzero(truth)[axis].mean()) < shift
    if seen.any():
        assert seen.mean() == pytest.approx((image[..., 0] > 0).mean(),
                                            rel=0.01)
    pixels = resample.Resampled(image, size)
    found = predictor.labels_of(*predictor.classify(pixels))
    for one, other in zip((nuclei.labels, nuclei.mask), found):
        np.testing.assert_array_equal(
            one > 0, resample.resample_labels(other, (160, 240)) > 0)


def test_what_an_image_is_too_coarse_to_show_has_no_number():
    """Discs of 10 pixels in diameter, where a pixel of the image has 8."""
    rows, columns = np.mgrid[:512, :512]
    discs = [(7 + 37 * k, 9 + 37 * m) for k in range(13) for m in range(13)]
    pattern = np.zeros((512, 512, 1), np.float32)
    for row, column in discs:
        pattern[np.hypot(rows - row, columns - column) < 4.5] = 1
    nuclei = Predictor(lambda batch: pattern[np.newaxis], STRIDE,
                       average=False)(random_image(64, 64), 2.0)
    count = nuclei.labels.max()
    assert 100 < count < len(discs)
    assert np.unique(nuclei.labels).tolist() == list(range(count + 1))
    assert len(nuclei.table()['label']) == count


def test_a_diverged_network_is_refused():
    predictor = Predictor(lambda batch: red_channel(batch) * np.nan, STRIDE)
    with pytest.raises(InputError, match='diverged'):
        predictor(random_image(32, 32))


def test_too_few_pixels_for_a_tile():
    with pytest.raises(InputError, match='--max_pixels 10000.*16384'):
        predict_image(random_image(200, 200), red_channel, STRIDE, 10000)
    # 40 is rounded up to 128, and 128 * 128 are 16384.
    with pytest.raises(InputError, match='--max_pixels 16383.*16384'):
        predict_image(random_image(40, 700), red_channel, STRIDE, 16383)
    image = random_image(40, 700)
    np.testing.assert_allclose(
        predict_image(image, red_channel, STRIDE, 16384), image[..., 0] / 255,
        atol=1e-5)


# One of those that come with the code will do: test_main.py tries each.
@pytest.fixture(scope='module', params=[
    net for net in NETS if net not in ('unet', 'deeplabv3')])
def model(request):
    """A network of random weights, in a graph and session of its own."""
    with tf.Graph().as_default(), tf.Session().as_default():
        tf.set_random_seed(0)
        model = nets.build(request.param, width=4)
        tf.keras.backend.get_session()  # initialises the variables
        *_, classifier = [layer for layer in model.layers if layer.weights]
        # As drawn, the probability is nearly the same everywhere.
        logits = tf.keras.backend.get_session().run(
            model.get_layer('logits').output,
            {model.input: np.random.RandomState(0).rand(1, 128, 128, 3)})
        kernel, bias = classifier.get_weights()
        factor = 2 / logits.std()
        classifier.set_weights([kernel * factor,
                                bias - logits.mean() * factor])
        yield model


def reflected(images, multiple):
    """Padded by NumPy alone, bottom and right, to the next multiple."""
    rows, columns = [
        np.resize([*range(side), *range(side - 2, 0, -1)],
                  side + -side % multiple) for side in images.shape[1:3]]
    return images[:, rows][:, :, columns]


@pytest.mark.parametrize('height, width', [(100, 70), (32, 33), (128, 64)])
def test_predictor_and_keras_agree(model, height, width, capfd):
    """On images padded by NumPy alone, without a word."""
    image = random_image(height, width)
    nuclei = Predictor(model.predict_on_batch, model.stride,
                       average=False)(image)
    assert capfd.readouterr() == ('', '')
    assert np.ptp(nuclei.probability_uint8) > 1
    padded = reflected(image[None] / np.float32(255), 128)
    expected = model.predict(padded)[0, :height, :width, 0]
    np.testing.assert_allclose(nuclei.probability, expected, atol=0.501 / 255)


@pytest.mark.parametrize('image, words', [
    (np.zeros((1, 40, 50, 3), np.uint8), r'uint8 \[1, 40, 50, 3\]; give one'),
    (np.zeros((40, 50, 4), np.uint8), r'uint8 \[40, 50, 4\]; give one image'),
    (np.zeros((40, 50), np.uint8), r'uint8 \[40, 50\]; give one image'),
    (np.zeros((40, 50, 3)), r'float64 \[40, 50, 3\]; give one image, uint8'),
    (np.zeros((40, 50, 3), int), r'int64 \[40, 50, 3\]; give one image')])
def test_images_that_are_refused(image, words):
    with pytest.raises(ValueError, match='^image is ' + words) as caught:
        Predictor(red_channel, STRIDE)(image)
    assert '\n' not in str(caught.value)


NAN, INFINITE = float('nan'), float('inf')


@pytest.mark.parametrize('value', [NAN, 2, -1, -0.001, INFINITE, None, '0.5'])
def test_thresholds_that_are_refused(value):
    predictor = Predictor(red_channel, STRIDE, threshold=value)
    with pytest.raises(ValueError, match='^threshold is .* from 0 to 1$'):
        predictor(random_image(40, 50))


@pytest.mark.parametrize('value', [0, -0.25, NAN, INFINITE, 0.04, 6, '0.25'])
def test_resolutions_that_are_refused(value):
    with pytest.raises(ValueError,
                       match='^microns_per_pixel is .* from 0.05 to 5$'):
        Predictor(red_channel, STRIDE)(random_image(40, 50), value)


def test_sides_are_checked_at_the_resolution_of_the_network():
    """24 x 24 at 0.5 micrometres are 48 x 48, as in --mode=predict."""
    predictor = Predictor(red_channel, STRIDE)
    image = blobs(24, 24)
    nuclei = predictor(image, 0.5)
    assert nuclei.labels.shape == (24, 24)
    with pytest.raises(InputError, match='^image: 24 x 24 pixels; both'):
        predictor(image)
    with pytest.raises(InputError,
                       match='^a: resampled to .*: 25 x 30 pixels; both'):
        predictor(random_image(60, 50), 0.125, 'a')


def test_the_table_is_that_of_the_csv_file(tmp_path):
    nuclei = Predictor(red_channel, STRIDE)(blobs(160, 240), 0.25)
    writers.write_csv([str(tmp_path / 'a.csv')], nuclei)
    names, *rows = (tmp_path / 'a.csv').read_text().splitlines()
    table = nuclei.table()
    assert list(table) == names.split(',') and len(rows) == 28
    np.testing.assert_array_equal(
        np.transpose(list(table.values())),
        [[float(value) for value in row.split(',')] for row in rows])
    empty = Predictor(red_channel, STRIDE)(np.zeros((40, 50, 3), np.uint8))
    assert {column.shape for column in empty.table().values()} == {(0,)}


def test_inference_is_cheap_to_import():
    """The command line reads its default of --max_pixels here."""
    subprocess.run(
        [sys.executable, '-c', 'import sys, prediction.tiling; '
         'sys.exit(" ".join({"tensorflow", "matplotlib", "skimage"} '
         '& set(sys.modules)) or 0)'], cwd=ROOT, check=True)
