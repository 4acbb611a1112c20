"""The queues on small real stores, whole and damaged."""
import contextlib
import itertools
import os
import threading
import time

import numpy as np
import pytest

from conftest import spoil
from input_pipeline import augment, queues, store
from input_pipeline.files import InputError
from nets.tf1 import tf

SIDE = store.PATCH_SIZE
CROP = 32
BATCH = 5
# Batches asked for where a reader fails: five times as many patches as there
# are in the pool that the batches are drawn from.
TOO_MANY = 5 * queues.SHUFFLE_BUFFER // BATCH
# Far more than any of these sessions takes; a thread that hangs is waited for
# 120 s when the session closes.
SECONDS = 60


def write(path, shapes):
    """Writes a store of images of noise that can be told apart.

    Image k holds values from 10 * k to 10 * k + 9; its mask is all nucleus
    where k is odd and all background where it is even.

    Returns:
        The images, a list of uint8 [H, W, 3].
    """
    rng = np.random.RandomState(0)
    images = [rng.randint(10 * k, 10 * k + 10, (*shape, 3), np.uint8)
              for k, shape in enumerate(shapes)]
    store.write_store(str(path), {}, (
        (str(k), image, np.full(image.shape[:2], k % 2 == 1), None)
        for k, image in enumerate(images)))
    return images


@pytest.fixture
def twenty(tmp_path):
    """A store of twenty patches, and the images they are."""
    path = tmp_path / 'train.h5'
    return str(path), write(path, [(SIDE, SIDE)] * 20)


def run(input_fn, count=500, seed=0, after_first=None):
    """Runs a session as the Estimator does, to its end or failure.

    Args:
        input_fn: what to run.
        count: batches after which to end, if the data do not end before.
        seed: of the graph.
        after_first: function to call after the first batch.

    Returns:
        The batches.
    """
    start, others = time.time(), set(threading.enumerate())
    batches = []
    # A reader's failure looks now like this and now like the end of the data.
    with tf.Graph().as_default(), contextlib.suppress(tf.errors.OpError):
        tf.set_random_seed(seed)
        tensors = input_fn()
        with tf.train.MonitoredSession() as session:
            while len(batches) != count:
                batches.append(session.run(tensors))
                if after_first and len(batches) == 1:
                    after_first()
    assert time.time() - start < SECONDS
    assert set(threading.enumerate()) <= others
    return batches


# The order of patches


def numbers(blocks):
    """Which of `write`'s images the patches of each block are."""
    return [[patch[..., :3].min() // 10 for patch in block]
            for block in blocks]


def test_each_patch_once_an_epoch(twenty):
    path, images = twenty
    blocks = list(itertools.islice(queues.patch_blocks(path, 3), 4))
    order = numbers(blocks)
    # Twenty patches in blocks of 16 at most, twice.
    assert [len(block) for block in order] == [16, 4, 16, 4]
    first, second = order[0] + order[1], order[2] + order[3]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != list(range(20))
    for block, chosen in zip(blocks, order):
        assert block.dtype == np.uint8
        np.testing.assert_array_equal(block[..., :3],
                                      [images[k] for k in chosen])
        np.testing.assert_array_equal(
            block[..., 3], [np.full((SIDE, SIDE), k % 2) for k in chosen])


def test_the_seed_decides_the_order(twenty):
    path, _ = twenty
    first, again, other = [
        numbers(itertools.islice(queues.patch_blocks(path, seed), 4))
        for seed in (3, 3, 4)]
    assert first == again and first != other


# Training


def training_input(path, threads, seed=0):
    """The input of small crops, and the list its reader will be in."""
    readers = []
    return queues.training_input(path, BATCH, CROP, threads, seed,
                                 readers), readers


def test_training_batches(twenty):
    input_fn, readers = training_input(twenty[0], threads=2)
    batches = run(input_fn, 10)
    assert len(batches) == 10 and readers[0].error is None
    for images, masks in batches:
        assert images.shape == (BATCH, CROP, CROP, 3)
        assert images.dtype == np.float32
        assert 0 <= images.min() < images.max() <= 1
        assert masks.shape == (BATCH, CROP, CROP, 1)
        assert masks.dtype == np.float32
        assert set(np.unique(masks)) <= {0, 1}


def test_training_batches_have_a_fixed_size(twenty):
    with tf.Graph().as_default():
        images, masks = training_input(twenty[0], threads=2)[0]()
        assert images.shape.as_list() == [BATCH, CROP, CROP, 3]
        assert masks.shape.as_list() == [BATCH, CROP, CROP, 1]


def test_all_patches_come_each_with_its_mask(twenty, monkeypatch):
    for name, nothing in (('STAIN_FACTOR', (1, 1)), ('STAIN_SHIFT', 0),
                          ('CONTRAST', (1, 1)), ('BRIGHTNESS', 0)):
        monkeypatch.setattr(augment, name, nothing)
    input_fn, _ = training_input(twenty[0], threads=3)
    seen = []
    for images, masks in run(input_fn, 80):
        for image, mask in zip(images, masks):
            # The mean of the noise tells which it is.
            number = int(255 * image.mean() // 10)
            assert np.all(mask == number % 2)
            seen.append(number)
    # 400 drawn of 20: each is expected 20 times, and none fewer than 5.
    assert set(seen) == set(range(20))
    assert min(map(seen.count, range(20))) >= 5


def test_seeds_make_the_batches_of_one_thread(twenty):
    def batches(seed, graph_seed):
        return run(training_input(twenty[0], 1, seed)[0], 6, graph_seed)

    first, again = batches(1, 2), batches(1, 2)
    for (images, masks), (same_images, same_masks) in zip(first, again):
        # The mean in the contrast is summed by threads in any order.
        np.testing.assert_allclose(images, same_images, atol=1e-6)
        np.testing.assert_array_equal(masks, same_masks)
    for other in (batches(2, 2), batches(1, 3)):
        assert np.abs(first[0][0] - other[0][0]).max() > 0.1


# Stores that cannot be read


def test_an_absent_store_is_the_readers_error(tmp_path):
    path = str(tmp_path / 'train.h5')
    input_fn, readers = training_input(path, threads=2)
    assert run(input_fn, TOO_MANY) == []
    assert isinstance(readers[0].error, InputError)
    assert str(readers[0].error).startswith(f'{path}: not there')


def test_a_damaged_patch_is_the_readers_error(twenty):
    path, images = twenty
    spoil(path, images[7][100].tobytes())
    input_fn, readers = training_input(path, threads=2)
    # It comes in the first epoch, before there are enough to draw from.
    assert run(input_fn, TOO_MANY) == []
    assert isinstance(readers[0].error, InputError)
    assert str(readers[0].error).startswith(f'{path}: a read failed')


def test_a_store_cut_short_in_training_is_the_readers_error(twenty):
    path, _ = twenty
    input_fn, readers = training_input(path, threads=2)
    batches = run(input_fn, TOO_MANY, after_first=lambda: os.truncate(
        path, os.path.getsize(path) // 2))
    assert 0 < len(batches) < TOO_MANY
    assert isinstance(readers[0].error, InputError)
    assert f'{path}: a read failed (the file was cut short)' in str(
        readers[0].error)


def test_a_store_cut_short_in_validation_is_the_readers_error(twenty):
    path, _ = twenty
    readers = []
    batches = run(queues.validation_input(path, 32, readers),
                  after_first=lambda: os.truncate(
                      path, os.path.getsize(path) // 2))
    assert 0 < len(batches) < 20
    assert isinstance(readers[0].error, InputError)
    assert f'{path}: a read failed (the file was cut short)' in str(
        readers[0].error)


# Validation


def test_validation_is_one_pass_over_padded_images(tmp_path):
    path = str(tmp_path / 'validation.h5')
    images = write(path, [(300, 256), (256, 290), (256, 256)])
    readers = []
    batches = run(queues.validation_input(path, 32, readers))
    assert readers[0].error is None
    assert [(image.shape, mask.shape) for image, mask in batches] == [
        ((1, 320, 256, 3), (1, 300, 256, 1)),
        ((1, 256, 320, 3), (1, 256, 290, 1)),
        ((1, 256, 256, 3), (1, 256, 256, 1))]
    for k, (padded, mask) in enumerate(batches):
        assert padded.dtype == np.float32 and mask.dtype == np.uint8
        _, height, width, _ = mask.shape
        np.testing.assert_allclose(padded[0, :height, :width],
                                   images[k] / 255, atol=1e-6)
        assert np.all(mask == k % 2)
    # Reflected about the last row, 299, and the last column, 289.
    np.testing.assert_array_equal(batches[0][0][0, 300:],
                                  batches[0][0][0, 298:278:-1])
    np.testing.assert_array_equal(batches[1][0][0, :, 290:],
                                  batches[1][0][0, :, 288:258:-1])


def test_validation_fits_the_networks(tmp_path):
    path = str(tmp_path / 'validation.h5')
    write(path, [(SIDE, SIDE)])
    with tf.Graph().as_default():
        image, mask = queues.validation_input(path, 32, [])()
        assert image.shape.as_list() == [1, None, None, 3]
        assert mask.shape.as_list() == [1, None, None, 1]


def test_windows_cover_a_large_image(tmp_path, monkeypatch):
    monkeypatch.setattr(queues, 'MAX_SIDE', 260)
    path = str(tmp_path / 'validation.h5')
    images = write(path, [(256, 256), (600, 270)])
    small, *windows = run(queues.validation_input(path, 16, []))
    assert small[0].shape == (1, 256, 256, 3)
    # 600 rows in three windows of 260 and 270 columns in two, the last flush
    # with the edge; 260 is padded to 272.
    places = [(row, column) for row in (0, 260, 340) for column in (0, 10)]
    assert len(windows) == len(places)
    for (row, column), (padded, mask) in zip(places, windows):
        assert padded.shape == (1, 272, 272, 3)
        assert mask.shape == (1, 260, 260, 1) and np.all(mask == 1)
        np.testing.assert_allclose(
            padded[0, :260, :260],
            images[1][row:row + 260, column:column + 260] / 255, atol=1e-6)
