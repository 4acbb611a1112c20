"""SegNet: Badrinarayanan et al., 2015, arXiv:1511.00561.

The encoder is VGG16's convolutions in stages, each ended by a 2x2 max pooling
that remembers where each maximum stood. The decoder mirrors it: each stage
puts the values back at the remembered positions, zeros elsewhere, and makes
the sparse map dense by convolutions.

There are four stages, as in the paper's SegNet-Basic, and not VGG16's five: a
nucleus of 25 pixels is less than one feature at a 32nd of the resolution, and
the decoder has no other way back from there than the positions.
"""
from nets.layers import classifier, conv_bn, conv_bn_relu, relu
from nets.tf1 import tf

# (convolutions, filters as a multiple of the width) of VGG16's first four
# stages.
STAGES = ((2, 1), (2, 2), (3, 4), (3, 8))
STRIDE = 2 ** len(STAGES)
PORTABLE = True  # takes `portable`
POOLING = {'ksize': [1, 2, 2, 1], 'strides': [1, 2, 2, 1], 'padding': 'SAME',
           'include_batch_in_index': True}


def max_pool(x):
    """2x2 max pooling that keeps the positions of the maxima.

    Args:
        x: float32 [N, H, W, C], H and W even (SAME padding of odd sizes
            would skew the positions).

    Returns:
        (values float32 [N, H/2, W/2, C], positions int64 of the same shape:
        indices into x flattened).
    """
    return tf.nn.max_pool_with_argmax(x, **POOLING)


@tf.custom_gradient
def unpool(values, positions):
    """Put values back where `max_pool` found them, zeros elsewhere.

    That is what max pooling's gradient does, by an op that takes a tenth of
    the time of tf.scatter_nd.

    Args:
        values: float32 [N, h, w, C].
        positions: int64 [N, h, w, C], from `max_pool`.

    Returns:
        float32 [N, 2h, 2w, C].
    """
    pooled = tf.raw_ops.Empty(  # for its shape alone
        shape=tf.shape(values) * [1, 2, 2, 1], dtype=values.dtype)
    unpooled = tf.raw_ops.MaxPoolGradWithArgmax(
        input=pooled, grad=values, argmax=positions, **POOLING)
    unpooled.set_shape([None, None, None, values.shape[3]])

    def gradient(upstream):
        return tf.gather(tf.reshape(upstream, [-1]), positions), None

    return unpooled, gradient


def portable_max_pool(x):
    """Pool as `max_pool` does, with other positions.

    They are float32 [N, H/2, W/2, 4C]: for each of the four pixels of a
    window, 1 where it is the first maximum and 0 elsewhere.
    """
    values = tf.nn.max_pool2d(x, 2, 2, 'SAME')
    free = tf.ones_like(values)
    positions = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = x[:, row::2, column::2]
        positions.append(free * tf.cast(tf.equal(corner, values), x.dtype))
        free -= positions[-1]
    return values, tf.concat(positions, -1)


def portable_unpool(values, positions):
    """Unpool as `unpool` does, with the positions of `portable_max_pool`."""
    return tf.nn.depth_to_space(tf.concat(4 * [values], -1) * positions, 2)


def segnet(images, width, training, portable=False):
    """Compute the logits of the nucleus class.

    Args:
        images: float32 [N, H, W, 3] in [0, 1]; H and W multiples of 16.
        width: filters of the first stage; 64 in the paper.
        training: Python bool, the mode of batch norm.
        portable: pool and unpool by operations that ONNX has, which give the
            same and take longer.

    Returns:
        float32 [N, H, W, 1].
    """
    pool, spread = ((portable_max_pool, portable_unpool) if portable
                    else (max_pool, unpool))
    x = images
    positions = []
    for stage, (convolutions, multiple) in enumerate(STAGES, start=1):
        for k in range(1, convolutions):
            x = conv_bn_relu(x, width * multiple, f'encoder{stage}_conv{k}',
                             training)
        x = conv_bn(x, width * multiple, f'encoder{stage}_conv{convolutions}',
                    training)
        # ReLU after the pooling gives the same values as before it. Before
        # it, windows without a positive value would be ties, and where the
        # maximum stood would depend on how TensorFlow optimises the graph.
        x, where = tf.keras.layers.Lambda(
            pool, name=f'encoder{stage}_pool')(x)
        positions.append(where)  # [N, H / 2^stage, W / 2^stage, C]
        x = relu(x, f'encoder{stage}_pool')

    for stage in range(len(STAGES), 0, -1):
        convolutions, multiple = STAGES[stage - 1]
        # The last convolution of a stage has the next stage's filters.
        last = STAGES[max(stage - 2, 0)][1]
        x = tf.keras.layers.Lambda(
            lambda pair: spread(*pair), name=f'decoder{stage}_unpool')(
                [x, positions[stage - 1]])
        for k in range(convolutions, 0, -1):
            x = conv_bn_relu(x, width * (multiple if k > 1 else last),
                             f'decoder{stage}_conv{k}', training)
    return classifier(x, 'logits')  # [N, H, W, 1]
