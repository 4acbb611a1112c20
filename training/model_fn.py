"""Learning rate, metrics and summaries: the Estimator's model_fn."""
import os

import numpy as np

import nets
from eval import nuclei_metrics, pixel_metrics
from nets.tf1 import acceleration_scope, tf
from prediction.instances import THRESHOLD, separate
from training.hooks import STEP_DONE
from training.loss import segmentation_loss

IMAGE_SIDE = 256  # pixels of an image shown in TensorBoard


def learning_rate_at(step, peak, warmup_steps, steps):
    """Warm up linearly to `peak`, then decay to 0 (arXiv:1608.03983).

    `step` is an integer tensor, the steps done before; the others are numbers,
    and `steps` counts the warm-up too. Returns a float32 scalar tensor.
    """
    step = tf.cast(step, tf.float32)
    warmup = tf.minimum((step + 1) / max(warmup_steps, 1), 1.0)
    return warmup * tf.train.cosine_decay(peak, step, steps)


def confusion_matrix(labels, probability):
    """Count pixels, float64 [4] in the order of `pixel_metrics.Counts`.

    `labels` and `probability` are float32 [N, H, W, 1].
    """
    found, truth = probability > THRESHOLD, labels > 0.5
    return tf.stack([tf.math.count_nonzero(pixels, dtype=tf.float64)
                     for pixels in (found & truth, found & ~truth,
                                    ~found & truth, ~found & ~truth)])


def metric_tensors(counts):
    """Compute metrics of float64 [4] counts, float32 scalars by name."""
    return {name: tf.cast(value, tf.float32) for name, value
            in pixel_metrics.compute(
                pixel_metrics.Counts(*tf.unstack(counts))).items()}


def image_measures(labels, probability):
    """Measure an image as --mode=eval does, float64 [7], for `eval_spec`.

    `pixel_metrics.Counts`; then AJI, PQ and 1, or three times 0 where the
    annotation has no instances, and where no nucleus is found or true. A
    window of an image too large to evaluate whole is an image of its own here.
    `labels` are those of `model_fn`, `probability` is float32 [1, H, W, 1].
    """
    def measure(mask, probability, instances, has_instances):
        truth = instances[0, :, :, 0]
        found, mask = separate(mask[0, :, :, 0], probability[0, :, :, 0])
        counts = pixel_metrics.confusion_matrix(mask, truth > 0)
        nuclei = 0, 0, 0
        if has_instances:
            values = nuclei_metrics.compute(
                nuclei_metrics.compare(found, truth))
            if not np.isnan(values['aji']):  # nor is PQ
                nuclei = values['aji'], values['pq'], 1
        return np.array([*counts, *nuclei], float)

    sums = tf.py_func(
        measure, [tf.cast(probability > THRESHOLD, tf.uint8),
                  tf.cast(tf.round(255 * probability), tf.uint8),
                  labels['instances'], labels['has_instances']], tf.float64)
    sums.set_shape([7])
    return sums


def image_summary(images, labels, probability):
    """Lay tissue, mask and prediction side by side, for TensorBoard.

    Args:
        images: float32 [N, H', W', 3] in [0, 1].
        labels, probability: float32 [N, H, W, 1], H <= H', W <= W'.

    Returns:
        float32 [1, h, 3 * w, 3], the first image's top left corner.
    """
    height, width = tf.unstack(tf.minimum(tf.shape(labels)[1:3], IMAGE_SIDE))
    image, mask, found = [t[:1, :height, :width]
                          for t in (images, labels, probability)]
    return tf.concat(
        [image, *map(tf.image.grayscale_to_rgb, (mask, found))], axis=2)


def model_fn(features, labels, mode, params):
    """Be the Estimator's model_fn, for training and evaluation.

    Args:
        features: images float32 [N, H', W', 3] in [0, 1].
        labels: dict of `masks`, the masks with gaps, float32 [N, H, W, 1] of
            0 and 1; in evaluation also `instances` and `has_instances` of
            `store.WholeImage`, and images padded at the bottom and right.
        mode: tf.estimator.ModeKeys.TRAIN or EVAL.
        params: dict of `train_config`, a TrainConfig, `accelerate`, whether
            the network runs accelerated (see `tf1`), and `model_dir`.
    """
    training = mode == tf.estimator.ModeKeys.TRAIN
    config = params['train_config']
    masks = labels['masks']
    shape = tf.shape(masks)
    with acceleration_scope(params['accelerate']):
        model = nets.build(config.net, config.width, config.output_stride,
                           features, training)
        logits = model.get_layer('logits').output[:, :shape[1], :shape[2]]
        probability = tf.sigmoid(logits)
        loss = segmentation_loss(logits, masks)
    images = tf.summary.image(
        'tissue_mask_prediction', image_summary(features, masks, probability),
        collections=[])  # written less often than others
    if training:
        updates = model.get_updates_for(features)
        return train_spec(loss, confusion_matrix(masks, probability), images,
                          updates, params)
    return eval_spec(loss, image_measures(labels, probability), images, params)


def train_spec(loss, counts, images, updates, params):
    """Make the EstimatorSpec of a training step.

    Args:
        counts: of `confusion_matrix`, of the batch's masks with gaps.
        images: the summary of `image_summary`.
        updates: ops that move batch norm's statistics. Keras does not fill
            UPDATE_OPS: without these they would never move.
    """
    config = params['train_config']
    for name, value in metric_tensors(counts).items():
        tf.summary.scalar(name, value)
    step = tf.train.get_or_create_global_step()
    rate = learning_rate_at(step, config.learning_rate, config.warmup_steps,
                            config.steps)
    tf.summary.scalar('learning_rate', rate)
    # Gradients of a tensor used more than twice are added in pairs: AddN's
    # order depends on the threads, see `session_config`.
    train_op = tf.group(
        tf.train.AdamOptimizer(rate).minimize(
            loss, step,
            aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE),
        updates)
    # A fetch of the variable itself may come before the step or after it.
    with tf.control_dependencies([train_op]):
        tf.identity(step, name=STEP_DONE)
    return tf.estimator.EstimatorSpec(
        tf.estimator.ModeKeys.TRAIN, loss=loss, train_op=train_op,
        training_chief_hooks=[tf.train.SummarySaverHook(
            save_steps=config.evaluate_every, summary_op=images,
            output_dir=params['model_dir'])])


def eval_spec(loss, measures, images, params):
    """Make the EstimatorSpec of an evaluation; see `train_spec`.

    `measures` are of `image_measures`.
    """
    total = tf.Variable(
        tf.zeros([7], tf.float64), trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES,
                     tf.GraphKeys.METRIC_VARIABLES])
    update = tf.assign_add(total, measures)
    values = metric_tensors(total[:4])
    # Means over images, NaN where none counts.
    values['aji'], values['pq'] = tf.unstack(
        tf.cast(total[4:6] / total[6], tf.float32))
    return tf.estimator.EstimatorSpec(
        tf.estimator.ModeKeys.EVAL, loss=loss,
        eval_metric_ops={name: (value, update)
                         for name, value in values.items()},
        evaluation_hooks=[tf.train.SummarySaverHook(
            # Once: each image has the same step.
            save_steps=2 ** 31, summary_op=images,
            output_dir=os.path.join(params['model_dir'], 'eval'))])
