"""The loss of training."""
from input_pipeline.preprocessing import GAP_CLOSING
from nets.tf1 import tf

DICE_SMOOTHING = 1.0  # pixels; keeps the Dice of an empty patch defined
GAP_WEIGHT = 5.0  # of a pixel of a gap, in the cross-entropy


def segmentation_loss(logits, labels):
    """Compute binary cross-entropy plus soft Dice, one to one.

    Gaps between touching nuclei weigh more in the cross-entropy, after
    Ronneberger et al., 2015, arXiv:1505.04597; a closing finds them. Soft
    Dice after Milletari et al., 2016, arXiv:1606.04797, over the whole batch
    and with plain sums below the fraction.

    Args:
        logits: float32 [N, H, W, 1].
        labels: float32 [N, H, W, 1], 0 or 1; see
            `preprocessing.mask_with_gaps`.

    Returns:
        float32 scalar.
    """
    def dilated(tensor):
        return tf.nn.max_pool(tensor, GAP_CLOSING, 1, 'VALID')

    # What lies beyond is background.
    frame = [GAP_CLOSING - 1, GAP_CLOSING - 1]
    closed = -dilated(-dilated(tf.pad(labels, [[0, 0], frame, frame, [0, 0]])))
    weights = 1 + (GAP_WEIGHT - 1) * (closed - labels)
    cross_entropy = weights * tf.nn.sigmoid_cross_entropy_with_logits(
        labels=labels, logits=logits)
    cross_entropy = tf.reduce_sum(cross_entropy) / tf.reduce_sum(weights)
    probability = tf.sigmoid(logits)
    dice = ((2 * tf.reduce_sum(probability * labels) + DICE_SMOOTHING)
            / (tf.reduce_sum(probability) + tf.reduce_sum(labels)
               + DICE_SMOOTHING))
    return cross_entropy + 1 - dice
