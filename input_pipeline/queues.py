"""Queues that feed training and validation from the HDF5 stores.

In training, one reader thread moves blocks of patches from the store to a
shuffling queue. Several threads draw single patches from it, augment them in
graph ops and fill the queue of examples that feeds the steps. The queues'
capacities bound the memory, whatever the store's size. MonitoredSession starts
and joins the threads.
"""
import itertools

import numpy as np

from histology.files import InputError
from histology.progress import counted
from input_pipeline import augment, preprocessing, store
from nets.tf1 import tf

BLOCK = 16  # patches read at a time
SHUFFLE_BUFFER = 256  # patches to draw from: 64 MiB
BATCHES_AHEAD = 4
# Validation images with a larger side are handed to the network in parts.
MAX_SIDE = 1536  # pixels


def _reader(blocks, errors):
    """Return a function that takes the next block, for a queue's thread.

    TensorFlow turns a Python exception inside a queue into its own, and often
    reports just a closed queue; the true one is added to the list `errors`.
    """
    def read():
        try:
            return next(blocks)
        except StopIteration:
            raise
        except Exception as error:
            errors.append(error)
            raise

    return read


def patch_blocks(path, seed, shard=(0, 1), identity=None, digests=None):
    """Yield random blocks of patches without end, each patch once an epoch.

    Args:
        path: the store.
        seed: of the order.
        shard: (k, n): only every n-th patch, from the k-th on.
        identity, digests: `wanted` and `digests` of `store.open_store`.

    Yields:
        uint8 [B, P, P, 4], B <= BLOCK: red, green, blue and the mask with
        gaps, 0 or 1.

    Raises:
        InputError: as `store.open_store` and `store.reading`, or there are
            fewer patches than shards.
    """
    rng = np.random.RandomState(seed)
    with store.open_store(path, identity, digests=digests) as file:
        images, masks = file['patches/images'], file['patches/masks']
        worker, workers = shard
        if len(images) < workers:
            patches = counted(len(images), 'patch', 'patches')
            raise InputError(f'{path}: {patches} for {workers} workers, which '
                             'need one each; start fewer workers or prepare '
                             'more images')
        while True:
            order = rng.permutation(np.arange(len(images))[worker::workers])
            for start in range(0, len(order), BLOCK):
                block = order[start:start + BLOCK]
                # One by one: a list of indices is a hundred times slower.
                # NumPy stacks planes three times as fast as pixels.
                with store.reading(file):
                    patches = [np.stack([*np.moveaxis(images[index], -1, 0),
                                         masks[index][..., 0]], axis=-1)
                               for index in block]
                yield np.stack(patches)


def validation_windows(path, stride, identity=None, unseen=()):
    """Yield a store's images, ready for the network, each pixel once.

    Images with a side above MAX_SIDE come in windows of nearly equal size.

    Args:
        path: the store.
        stride: the network's stride, pixels.
        identity, unseen: `wanted` and `unseen` of `store.open_store`.

    Yields:
        (image float32 [1, H', W', 3] in [0, 1], reflect-padded to multiples
        of `stride`; mask with gaps, float32 [1, H, W, 1] of 0 and 1, not
        padded; instances int32 [1, H, W, 1]; has_instances, bool), the last
        two as in `store.WholeImage`.

    Raises:
        InputError: as `store.open_store` and `store.reading`.
    """
    with store.open_store(path, identity, unseen) as file:
        for _, image, instances, has_instances in store.whole_images(file):
            for window in itertools.product(*map(_windows, instances.shape)):
                part = image[window]
                padded = preprocessing.pad(part, *(
                    preprocessing.padded_side(side, stride)
                    for side in part.shape[:2]))
                # A nucleus that the window's border cuts stays as it is.
                nuclei = instances[window]
                mask = preprocessing.mask_with_gaps(nuclei)
                yield (preprocessing.normalise(padded)[np.newaxis],
                       mask.astype(np.float32)[np.newaxis, ..., np.newaxis],
                       nuclei[np.newaxis, ..., np.newaxis], has_instances)


def _windows(length):
    """Cut an axis into slices whose lengths differ by one pixel at most."""
    count = -(-length // MAX_SIDE)
    edges = [length * index // count for index in range(count + 1)]
    return [slice(*pair) for pair in zip(edges, edges[1:])]


def training_input(path, batch_size, crop_size, threads, seed, errors,
                   shard=(0, 1), identity=None, digests=None):
    """Make an Estimator's input_fn of endless augmented batches.

    Args:
        path: the store.
        batch_size: patches in a batch.
        crop_size: side of the crops taken from the patches, pixels.
        threads: augmenting threads. With one, the order of the patches
            depends on `seed` alone.
        seed: seeds the order of the patches; the augmentation follows the
            graph's seed.
        errors: list to which a failure to read is added.
        shard, identity, digests: as for `patch_blocks`.

    Returns:
        A function without arguments that returns (images float32
        [batch_size, crop_size, crop_size, 3] in [0, 1], a dict of `masks`,
        masks with gaps, float32 [batch_size, crop_size, crop_size, 1]).
    """
    shape = [store.PATCH_SIZE, store.PATCH_SIZE, 4]

    def input_fn():
        reader = _reader(patch_blocks(path, seed, shard, identity, digests),
                         errors)
        # Drawing only from a full buffer keeps the order independent of the
        # threads' timing.
        patches = tf.RandomShuffleQueue(
            SHUFFLE_BUFFER + 1, min_after_dequeue=SHUFFLE_BUFFER,
            dtypes=tf.uint8, shapes=shape, seed=seed)
        tf.train.add_queue_runner(tf.train.QueueRunner(
            patches, [patches.enqueue_many(tf.py_func(reader, [], tf.uint8))]))
        example = augment.augment(patches.dequeue(), crop_size)
        # tf.train.batch would add a chart of how full its queue is, which
        # shows 0 although the steps are fed in time.
        examples = tf.FIFOQueue(
            BATCHES_AHEAD * batch_size, [part.dtype for part in example],
            [part.shape for part in example])
        tf.train.add_queue_runner(tf.train.QueueRunner(
            examples, [examples.enqueue(example)] * threads))
        images, masks = examples.dequeue_many(batch_size)
        return images, {'masks': masks}

    return input_fn


def validation_input(path, stride, errors, identity=None, unseen=()):
    """Make an Estimator's input_fn of one pass over a store's whole images.

    Args:
        path: the store.
        stride: the network's stride, pixels.
        errors: list to which a failure to read is added.
        identity, unseen: as for `validation_windows`; checked in each pass.

    Returns:
        A function without arguments that returns the image that
        `validation_windows` yields, and a dict of its `masks`, `instances`
        and `has_instances`.
    """
    def input_fn():
        reader = _reader(validation_windows(path, stride, identity, unseen),
                         errors)
        dtypes = [tf.float32, tf.float32, tf.int32, tf.bool]
        queue = tf.PaddingFIFOQueue(2, dtypes, [
            [1, None, None, 3], [1, None, None, 1], [1, None, None, 1], []])
        tf.train.add_queue_runner(tf.train.QueueRunner(
            queue, [queue.enqueue(tf.py_func(reader, [], dtypes))]))
        image, mask, instances, has_instances = queue.dequeue()
        return image, {'masks': mask, 'instances': instances,
                       'has_instances': has_instances}

    return input_fn
