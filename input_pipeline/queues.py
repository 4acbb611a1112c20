"""Queues that feed training and validation from the HDF5 stores.

Training: one reader thread takes blocks of patches from the store into a
shuffling queue; several threads draw single patches, augment them in graph
ops and fill the batch queue that feeds the step. Memory is bounded by the
queues' capacities, whatever the store's size. MonitoredSession starts and
joins the threads.
"""
import numpy as np

from input_pipeline import augment, store
from input_pipeline.preprocessing import normalise, pad_to_stride
from nets.tf1 import tf

BLOCK = 16  # patches read at a time
POOL = 256  # patches to draw from: 64 MiB
BATCHES_AHEAD = 4
# Validation images are handed to the network whole up to this side; larger
# ones in windows, the last of which lies flush with the edge.
MAX_SIDE = 1536


class Reader:
    """Calls a generator from a queue's thread and remembers its failure.

    TensorFlow turns a Python exception inside a queue into one of its own,
    and often reports just a closed queue; `error` keeps the true one.
    """

    def __init__(self, blocks):
        self.blocks = blocks
        self.error = None

    def __call__(self):
        try:
            return next(self.blocks)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise


def patch_blocks(path, seed, shard=(0, 1)):
    """Endless random blocks of a store's patches, each patch once an epoch.

    Args:
        path: the store.
        seed: of the order.
        shard: (k, n): only every n-th patch, from the k-th on.

    Yields:
        uint8 [B, P, P, 4], B <= BLOCK: red, green, blue and the mask, 0 or 1.
    """
    rng = np.random.RandomState(seed)
    with store.open_store(path) as file:
        images, masks = file['patches/images'], file['patches/masks']
        while True:
            order = rng.permutation(np.arange(len(images))[shard[0]::shard[1]])
            for start in range(0, len(order), BLOCK):
                block = order[start:start + BLOCK]
                # One by one: a list of indices is a hundred times slower.
                with store.reading(file):
                    patches = [image_and_mask(images[index], masks[index])
                               for index in block]
                yield np.stack(patches)


def image_and_mask(image, mask):
    """uint8 [P, P, 3] and [P, P, 1] as one, [P, P, 4]."""
    # NumPy puts planes together three times as fast as pixels.
    return np.stack([*np.moveaxis(image, -1, 0), mask[..., 0]], axis=-1)


def validation_windows(path, stride):
    """A store's whole images, ready for the network.

    Yields:
        (image float32 [1, H', W', 3] in [0, 1], reflect-padded to multiples
        of `stride`; mask uint8 [1, H, W, 1], not padded).
    """
    with store.open_store(path) as file:
        for _, image, mask in store.whole_images(file):
            sides = [min(side, MAX_SIDE) for side in mask.shape]
            for row in store.patch_origins(mask.shape[0], sides[0], 0):
                for column in store.patch_origins(mask.shape[1], sides[1], 0):
                    window = (slice(row, row + sides[0]),
                              slice(column, column + sides[1]))
                    padded = pad_to_stride(image[window], stride)
                    yield (normalise(padded)[np.newaxis],
                           mask[window][np.newaxis, ..., np.newaxis])


def training_input(path, batch_size, crop_size, threads, seed, readers,
                   shard=(0, 1)):
    """An Estimator's input_fn of endless augmented batches.

    Args:
        path: the store.
        batch_size: patches in a batch.
        crop_size: side of the crops taken from the patches, pixels.
        threads: augmenting threads. With one, the order of the patches
            depends on `seed` alone.
        seed: seeds the order of the patches; the augmentation follows the
            graph's seed.
        readers: list to which the `Reader` is added.
        shard: as for `patch_blocks`.

    Returns:
        A function without arguments that returns (images float32
        [batch_size, crop_size, crop_size, 3] in [0, 1], masks float32
        [batch_size, crop_size, crop_size, 1]).
    """
    shape = [store.PATCH_SIZE, store.PATCH_SIZE, 4]

    def input_fn():
        reader = Reader(patch_blocks(path, seed, shard))
        readers.append(reader)
        block = tf.py_func(reader, [], tf.uint8)
        block.set_shape([None] + shape)
        # Drawing only from a full pool keeps the order independent of the
        # threads' timing.
        pool = tf.RandomShuffleQueue(POOL + 1, min_after_dequeue=POOL,
                                     dtypes=tf.uint8, shapes=shape,
                                     seed=seed)
        tf.train.add_queue_runner(
            tf.train.QueueRunner(pool, [pool.enqueue_many(block)]))
        image, mask = augment.augment(pool.dequeue(), crop_size)
        return tf.train.batch([image, mask], batch_size, num_threads=threads,
                              capacity=BATCHES_AHEAD * batch_size)

    return input_fn


def validation_input(path, stride, readers):
    """An Estimator's input_fn of one pass over a store's whole images.

    Args:
        path: the store.
        stride: the network's stride.
        readers: list to which the `Reader` is added.

    Returns:
        A function without arguments that returns what `validation_windows` yields.
    """
    def input_fn():
        reader = Reader(validation_windows(path, stride))
        readers.append(reader)
        queue = tf.FIFOQueue(2, [tf.float32, tf.uint8])
        image, mask = tf.py_func(reader, [], [tf.float32, tf.uint8])
        tf.train.add_queue_runner(
            tf.train.QueueRunner(queue, [queue.enqueue([image, mask])]))
        image, mask = queue.dequeue()
        image.set_shape([1, None, None, 3])
        mask.set_shape([1, None, None, 1])
        return image, mask

    return input_fn
