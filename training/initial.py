"""The weights that a training starts from: --init_checkpoint.

They become the checkpoint of step 0, model.ckpt-0, in the new model folder,
from which TensorFlow goes on as from any other.
"""
import os

from nets import saved
from nets.tf1 import tf
from training.model_fn import model_fn

CHOOSE = 'give the weights.h5 of a trained network as --init_checkpoint'


def read(asked):
    """Read the weights to start from, and what they come from.

    Args:
        asked: dict of flags, see `records.resolve`.

    Returns:
        (start: dict of `width`, `output_stride` and `records.ORIGIN`;
        weights: dict of the variables' names to arrays)

    Raises:
        InputError: `init_checkpoint` is no weights.h5 of the network asked
            for.
    """
    path = asked['init_checkpoint']
    record, weights, _ = saved.read_weights(path, CHOOSE)
    saved.check_asked(record, path, asked['net'], asked['width'],
                      asked['output_stride'], flag='init_checkpoint')
    with tf.Graph().as_default():
        saved.build_for(record, weights, path, CHOOSE)
    return {'width': record['width'], 'output_stride': record['output_stride'],
            'init_checkpoint': path, 'init_data_source': record['data_source'],
            'init_step': record['step'],
            'seen': sorted({*record['trained_on'],
                            *(record['seen'] or ())})}, weights


def write_checkpoint(config, folder, weights):
    """Write model.ckpt-0: the weights of `read`, and a fresh optimiser."""
    sides = [config.batch_size, config.crop_size, config.crop_size]
    with tf.Graph().as_default(), tf.Session() as session:
        model_fn(tf.zeros([*sides, 3]), {'masks': tf.zeros([*sides, 1])},
                 tf.estimator.ModeKeys.TRAIN,
                 {'train_config': config, 'accelerate': False,
                  'model_dir': folder})
        saved.initialise(tf.global_variables(), weights, session)
        tf.train.Saver().save(session, os.path.join(folder, 'model.ckpt'), 0,
                              write_meta_graph=False)
