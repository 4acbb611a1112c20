"""The pieces that the three networks share.

Shape legend of this package: N images, H x W pixels, C channels.
"""
from nets.tf1 import tf

# Keras's default of 0.99 needs some 500 steps to forget the initial
# statistics; trainings on a CPU are not much longer than that.
BATCH_NORM_MOMENTUM = 0.9


def check_sides(images, stride):
    """Return the images [N, H, W, C], if `stride` divides H and W.

    Otherwise SegNet's pooling in 1.15 would end the process.

    Raises:
        ValueError: it does not; where H or W is not known yet, the tensor
            raises a tf.errors.InvalidArgumentError when it is evaluated.
    """
    height, width = images.shape.as_list()[1:3]
    advice = (f'the height and width of the images must be multiples of '
              f'{stride}: prediction.Predictor pads and crops them')
    if height and width:
        if height % stride or width % stride:
            raise ValueError(f'{height} x {width}: {advice}')
        return images

    def checked(x):
        divides = tf.reduce_all(tf.equal(tf.shape(x)[1:3] % stride, 0))
        with tf.control_dependencies([tf.Assert(divides, [advice])]):
            return tf.identity(x)

    return tf.keras.layers.Lambda(checked, name='check_sides')(images)


def conv_bn(x, filters, name, training, size=3, strides=1, rate=1):
    """Apply a convolution without bias, then batch norm (arXiv:1502.03167).

    x [N, H, W, C] to [N, H / strides, W / strides, filters]. He
    initialisation (arXiv:1502.01852); `rate` is the atrous (dilation) rate.
    `training` is a Python bool: True normalises by the batch and collects the
    moving statistics, False uses them.
    """
    x = tf.keras.layers.Conv2D(
        filters, size, strides=strides, dilation_rate=rate, padding='same',
        use_bias=False, kernel_initializer='he_normal', name=name)(x)
    return tf.keras.layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, name=f'{name}_bn')(x, training=training)


def relu(x, name):
    """max(x, 0), shape kept."""
    return tf.keras.layers.ReLU(name=f'{name}_relu')(x)


def conv_bn_relu(x, filters, name, training, **kwargs):
    """`conv_bn` followed by ReLU."""
    return relu(conv_bn(x, filters, name, training, **kwargs), name)


def classifier(x, name):
    """1x1 convolution with bias: x [N, H, W, C] to logits [N, H, W, 1]."""
    return tf.keras.layers.Conv2D(
        1, 1, kernel_initializer='he_normal', name=name)(x)
