"""One kind of work to be timed, in a process of its own; see `turns`.

    python -m benchmarks.worker KIND [ARGUMENT...]

KIND is one of the functions in KINDS, and its arguments follow.
"""
import contextlib
import os
import sys
import tempfile

import imageio.v3 as iio
import numpy as np
import tifffile

import nets
from benchmarks.turns import BATCH, STEPS, serve
from histology import resample, synthetic
from input_pipeline import queues
from input_pipeline.preprocessing import normalise, pad
from nets import saved
from nets.tf1 import acceleration_scope, session_config, tf
from prediction import Predictor, predict, slides
from training.model_fn import model_fn
from training.records import TrainConfig

SLIDE_MM2 = 1
AHEAD = queues.BATCHES_AHEAD + 2  # batches that the queues may hold ready


def random_images(count, side):
    """float32 [count, side, side, 3] in [0, 1]."""
    return np.random.RandomState(0).rand(count, side, side, 3).astype(
        np.float32)


def untrained(net, accelerate=False):
    """A network with its initial weights, as a function.

    Returns:
        A function from float32 [N, H, W, 3] in [0, 1] to the probability
        float32 [N, H, W, 1].
    """
    with acceleration_scope(accelerate):
        model = nets.build(net)
    session = tf.Session(config=session_config(accelerate))
    session.run(tf.global_variables_initializer())
    return session.make_callable(model.output, [model.input])


def monitored_session(accelerate=False):
    """A session that runs the queues and has initialised the variables."""
    return tf.train.MonitoredSession(tf.train.ChiefSessionCreator(
        config=session_config(accelerate, training=True)))


def training_step(net, source, side, accelerate):
    """Training steps, in patches.

    Args:
        net: the network.
        source: a store, read by the pipeline with all augmentation, or
            'constant' for a batch that is in the graph already.
        side: of the patches, pixels.
        accelerate: 'on' or 'off', as `main.py --accelerate`.
    """
    side, accelerated = int(side), accelerate == 'on'
    if source == 'constant':
        features = tf.constant(random_images(BATCH, side))
        labels = {'masks': tf.cast(features[..., :1] > 0.8, tf.float32)}
    else:
        features, labels = queues.training_input(source, BATCH, side, 2, 0,
                                                 [])()
    config = TrainConfig(net, data_dir='', width=nets.WIDTH, steps=10 ** 6,
                         batch_size=BATCH)
    # Nothing is saved, so that the model folder stays empty.
    with tempfile.TemporaryDirectory() as folder:
        spec = model_fn(features, labels, tf.estimator.ModeKeys.TRAIN, {
            'train_config': config, 'accelerate': accelerated,
            'model_dir': folder})
        session = monitored_session(accelerated)
        serve(lambda: session.run(spec.train_op), BATCH, STEPS,
              0 if source == 'constant' else AHEAD)


def pipeline(store, side):
    """The input pipeline without a network, in patches.

    Args:
        store: path of train.h5.
        side: of the crops, pixels.
    """
    batch = queues.training_input(store, BATCH, int(side), 2, 0, [])()
    session = monitored_session()
    serve(lambda: session.run(batch), BATCH, 10 * STEPS, AHEAD)


def forward(net, side, accelerate):
    """Forward passes, in patches; as for `training_step`."""
    run = untrained(net, accelerate == 'on')
    batch = random_images(BATCH, int(side))
    serve(lambda: run(batch), BATCH, STEPS)


def image(net, how, views):
    """An image of 1000 x 1000.

    Args:
        net: the network.
        how: 'rows', the probability as eval and predict have it, or 'bare',
            the forward passes of the same pixels alone, rounded up to 1024.
        views: '1', or as many as predict averages over.
    """
    run, stride = untrained(net), nets.stride(net)
    pixels = np.uint8(random_images(1, 1000)[0] * 255)
    padded = normalise(pad(pixels, 1024, 1024))[np.newaxis]

    def rows():
        for _ in Predictor(run, stride, average=views != '1').rows(pixels):
            pass

    def bare():
        for _ in range(int(views)):
            run(padded)

    serve({'rows': rows, 'bare': bare}[how], 1, 1)


def image_files(net, views, accelerate, count):
    """All that predict does with files of 1000 x 1000, by a shipped network.

    From reading them to writing every output, of some 400 nuclei each.

    Args:
        net, views: as for `image`.
        accelerate: 'on' or 'off'.
        count: of the files that one command predicts.
    """
    pixels, _ = synthetic.make(np.random.RandomState(0), 1000)
    predictor = Predictor.load(
        os.path.join(saved.PRETRAINED, net), accelerate=accelerate == 'on',
        average=views != '1')
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f'{number}.png')
                 for number in range(int(count))]
        for path in paths:
            iio.imwrite(path, pixels, plugin='pillow')
        serve_files(paths, predictor, len(paths))


def slide_file(net, microns, accelerate):
    """All that predict does with a slide of SLIDE_MM2, without averaging.

    Args:
        net, accelerate: as for `image_files`.
        microns: per pixel of the slide.
    """
    side = round(1000 * SLIDE_MM2 ** 0.5 / float(microns))
    pixels, _ = synthetic.make(np.random.RandomState(0), 1000)
    if float(microns) > resample.MICRONS_PER_PIXEL:
        pixels = pixels[::2, ::2]
    times = -(-side // len(pixels))
    predictor = Predictor.load(os.path.join(saved.PRETRAINED, net),
                               accelerate=accelerate == 'on', average=False)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'slide.tif')
        # Tiles of JPEG, as scanners write them.
        tifffile.imwrite(
            path, np.tile(pixels, (times, times, 1))[:side, :side],
            tile=(256, 256), photometric='rgb', compression='jpeg',
            metadata=None)
        serve_files([path], predictor, SLIDE_MM2, float(microns))


def serve_files(paths, predictor, units, microns=None):
    """Serves turns of predicting files, slides if `microns` are given."""
    def predict_it():
        # The turns are told on stdout.
        with contextlib.redirect_stdout(sys.stderr):
            predict.predict_files(
                paths, f'{paths[0]}-out', predictor, microns, overwrite=True,
                max_whole_pixels=1 if microns else slides.MAX_WHOLE_PIXELS)

    serve(predict_it, units, 1)


KINDS = {'training_step': training_step, 'pipeline': pipeline,
         'forward': forward, 'image': image, 'image_files': image_files,
         'slide_file': slide_file}

if __name__ == '__main__':
    KINDS[sys.argv[1]](*sys.argv[2:])
