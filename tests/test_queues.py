"""The queues on small real stores, whole and damaged."""
import itertools
import os
import threading

import numpy as np
import pytest

from conftest import SECONDS, example, spoil
from histology.files import InputError
from input_pipeline import augment, queues, store
from nets.tf1 import tf

SIDE = store.PATCH_SIZE
CROP = 32
BATCH = 5
BUFFER = 40  # patches to draw from: few, for the tests to be fast
# Batches asked for where a reader fails: five times as many patches as there
# are in the pool that the batches are drawn from.
TOO_MANY = 5 * BUFFER // BATCH


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(queues, 'SHUFFLE_BUFFER', BUFFER)


def write(path, shapes, attributes=()):
    """Writes a store of images of noise that can be told apart.

    Image k holds values from 10 * k to 10 * k + 9; its mask is all nucleus
    where k is odd and all background where it is even.

    Returns:
        The images, a list of uint8 [H, W, 3].
    """
    rng = np.random.RandomState(0)
    images = [rng.randint(10 * k, 10 * k + 10, (*shape, 3), np.uint8)
              for k, shape in enumerate(shapes)]
    store.write_store(str(path), dict(attributes), (
        example(str(k), image, np.full(image.shape[:2], k % 2 == 1))
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
    batches, failures, others = [], [], set(threading.enumerate())

    def run_to_the_end():
        try:
            with tf.Graph().as_default():
                tf.set_random_seed(seed)
                tensors = input_fn()
                with tf.train.MonitoredSession() as session:
                    while len(batches) != count:
                        batches.append(session.run(tensors))
                        if after_first and len(batches) == 1:
                            after_first()
        except tf.errors.OpError:
            pass  # so a reader's failure looks, or like the end of the data
        except Exception as error:
            failures.append(error)

    # In a thread, so that one that hangs fails the test and not the tests.
    thread = threading.Thread(target=run_to_the_end, daemon=True)
    thread.start()
    thread.join(SECONDS)
    # Nor does one of the queues' threads hang.
    assert set(threading.enumerate()) <= others
    for error in failures:
        raise error
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
    """The input of small crops, and the list of errors."""
    errors = []
    return queues.training_input(path, BATCH, CROP, threads, seed,
                                 errors), errors


def test_training_batches(twenty):
    input_fn, errors = training_input(twenty[0], threads=2)
    batches = run(input_fn, 10)
    assert len(batches) == 10 and not errors
    for images, labels in batches:
        masks, = labels.values()
        assert images.shape == (BATCH, CROP, CROP, 3)
        assert images.dtype == np.float32
        assert 0 <= images.min() < images.max() <= 1
        assert masks.shape == (BATCH, CROP, CROP, 1)
        assert masks.dtype == np.float32
        assert set(np.unique(masks)) <= {0, 1}


def test_all_patches_come_each_with_its_mask(twenty, monkeypatch):
    for name, nothing in (('STAIN_FACTOR', (1, 1)), ('STAIN_SHIFT', 0),
                          ('CONTRAST', (1, 1)), ('BRIGHTNESS', 0),
                          ('BLANK', 0)):
        monkeypatch.setattr(augment, name, nothing)
    input_fn, _ = training_input(twenty[0], threads=3)
    seen = []
    for images, labels in run(input_fn, 80):
        for image, mask in zip(images, labels['masks']):
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
    for (images, labels), (same_images, same_labels) in zip(first, again):
        # The mean in the contrast is summed by threads in any order.
        np.testing.assert_allclose(images, same_images, atol=1e-6)
        np.testing.assert_array_equal(labels['masks'], same_labels['masks'])
    for other in (batches(2, 2), batches(1, 3)):
        assert np.abs(first[0][0] - other[0][0]).max() > 0.1


# Stores that cannot be read


@pytest.mark.parametrize('make_input', [
    lambda path, errors: queues.training_input(path, BATCH, CROP, 2, 0,
                                               errors),
    lambda path, errors: queues.validation_input(path, 32, errors)],
    ids=['training', 'validation'])
def test_a_store_that_is_cut_short_is_the_readers_error(twenty, make_input):
    path, _ = twenty
    errors = []
    batches = run(make_input(path, errors), TOO_MANY,
                  after_first=lambda: os.truncate(
                      path, os.path.getsize(path) // 2))
    assert 0 < len(batches) < TOO_MANY
    assert isinstance(errors[0], InputError)
    assert f'{path}: a read failed (the file was cut short)' in str(
        errors[0])


IDENTITY = {'data_source': 'noise', 'data_digest': 'd', 'data_seed': 3,
            'data_fold': '0'}
ATTRIBUTES = {'source': 'noise', 'source_digest': 'd', 'seed': 3,
              'fold': '0'}


def digests_of(path):
    with store.open_store(path) as file:
        return store.image_digests(file)


def failure(path, **options):
    """Why a reader fails from which no batch comes."""
    errors = []
    # In the first epoch, before there are enough to draw from.
    assert run(queues.training_input(path, BATCH, CROP, 2, 0, errors,
                                     **options), TOO_MANY) == []
    assert isinstance(errors[0], InputError)
    return str(errors[0])


def test_a_failure_to_read_is_the_readers_error(tmp_path):
    path = str(tmp_path / 'train.h5')
    images = write(path, [(SIDE, SIDE)] * 20, ATTRIBUTES)
    digests, errors = digests_of(path), []
    assert len(run(queues.training_input(
        path, BATCH, CROP, 1, 0, errors, identity=IDENTITY,
        digests=digests), 1)) == 1 and not errors
    for options, said in (
            ({'identity': dict(IDENTITY, data_seed=4)}, 'made from other im'),
            ({'digests': digests[:2]}, 'made from other images'),
            ({'shard': (1, 21)}, '20 patches for 21 workers')):
        assert failure(path, **options).startswith(f'{path}: {said}')
    # One each is enough.
    block = next(queues.patch_blocks(path, 0, shard=(19, 20)))
    assert numbers([block]) == [[19]]
    spoil(path, images[7][100].tobytes())
    assert failure(path).startswith(f'{path}: a read failed')
    os.remove(path)
    assert failure(path).startswith(f'{path}: not there')


def test_each_opening_for_validation_is_checked(tmp_path):
    path = str(tmp_path / 'validation.h5')
    write(path, [(SIDE, SIDE)] * 2, ATTRIBUTES)
    errors, mine = [], digests_of(path)
    input_fn = queues.validation_input(path, 32, errors, IDENTITY, ['x'])
    assert len(run(input_fn)) == 2 and not errors
    # Prepared anew between two evaluations, with another seed.
    write(path, [(SIDE, SIDE)] * 2, dict(ATTRIBUTES, seed=4))
    assert run(input_fn) == []
    assert str(errors[0]).startswith(
        f'{path}: made from other images')
    write(path, [(SIDE, SIDE)] * 2, ATTRIBUTES)
    input_fn = queues.validation_input(path, 32, errors, IDENTITY, mine[1:])
    assert run(input_fn) == []
    assert str(errors[1]).startswith(
        f'{path}: holds 1 image that the network trains on (1)')


# Validation


def test_validation_is_one_pass_over_padded_images(tmp_path):
    path = str(tmp_path / 'validation.h5')
    images = write(path, [(300, 256), (256, 290), (256, 256)])
    errors = []
    batches = run(queues.validation_input(path, 32, errors))
    assert not errors
    for _, parts in batches:
        assert set(parts) == {'masks', 'instances', 'has_instances'}
        assert parts['has_instances'] and parts['masks'].dtype == np.float32
        np.testing.assert_array_equal(parts['masks'], parts['instances'] > 0)
    batches = [(image, parts['instances']) for image, parts in batches]
    assert [(image.shape, mask.shape) for image, mask in batches] == [
        ((1, 384, 256, 3), (1, 300, 256, 1)),
        ((1, 256, 384, 3), (1, 256, 290, 1)),
        ((1, 256, 256, 3), (1, 256, 256, 1))]
    for k, (padded, mask) in enumerate(batches):
        assert padded.dtype == np.float32 and mask.dtype == np.int32
        _, height, width, _ = mask.shape
        np.testing.assert_allclose(padded[0, :height, :width],
                                   images[k] / 255, atol=1e-6)
        assert np.all(mask == k % 2)
    # Reflected about the last row, 299, and the last column, 289.
    np.testing.assert_array_equal(batches[0][0][0, 300:],
                                  batches[0][0][0, 298:214:-1])
    np.testing.assert_array_equal(batches[1][0][0, :, 290:],
                                  batches[1][0][0, :, 288:194:-1])


def test_validation_says_whether_nuclei_are_single(tmp_path):
    path = str(tmp_path / 'validation.h5')
    image, instances = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64))
    instances[9:20, 9:14], instances[9:20, 14:20] = 1, 2
    store.write_store(path, {}, [
        example(str(single), image, instances, single)
        for single in (True, False)])
    batches = run(queues.validation_input(path, 32, []))
    assert [parts['has_instances'] for _, parts in batches] == [True, False]
    for _, parts in batches:
        np.testing.assert_array_equal(parts['instances'][0, :, :, 0],
                                      instances)
        # Columns 13 and 14 are where they touch.
        np.testing.assert_array_equal(
            np.flatnonzero(parts['masks'][0, :, :, 0].any(axis=0)),
            [9, 10, 11, 12, 15, 16, 17, 18, 19])


@pytest.mark.parametrize('shape, rows, columns', [
    ((100, 100), [50, 50], [50, 50]),
    # 289 is 3 * 96 + 1.
    ((32, 289), [32], [72, 72, 72, 73]),
    ((193, 97), [64, 64, 65], [48, 49]),
    ((96, 96), [96], [96])])
def test_each_pixel_of_a_large_image_comes_once(tmp_path, monkeypatch, shape,
                                                rows, columns):
    monkeypatch.setattr(queues, 'MAX_SIDE', 96)
    path = str(tmp_path / 'validation.h5')
    rng = np.random.RandomState(0)
    image = rng.randint(0, 256, (*shape, 3), np.uint8)
    instances = rng.randint(0, 300, shape)
    store.write_store(path, {}, [example('large', image, instances)])
    windows = list(queues.validation_windows(path, 16))
    assert len(windows) == len(rows) * len(columns)
    parts = iter(windows)
    found_image, found = [], []
    for _ in rows:
        line = [next(parts) for _ in columns]
        for padded, _, part, has_instances in line:
            assert has_instances is True
            # Up to 96 pixels, in steps of 128.
            assert padded.shape == (1, 128, 128, 3)
        found.append(np.concatenate([part[0, ..., 0]
                                     for _, _, part, _ in line], 1))
        found_image.append(np.concatenate(
            [padded[0, :part.shape[1], :part.shape[2]]
             for padded, _, part, _ in line], 1))
        assert sorted(part.shape[2] for _, _, part, _ in line) == columns
    assert sorted(map(len, found)) == rows
    np.testing.assert_array_equal(np.concatenate(found), instances)
    np.testing.assert_array_equal(
        np.round(255 * np.concatenate(found_image)), image)
