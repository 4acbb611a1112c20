"""DeepLabV3: Chen et al., 2017, arXiv:1706.05587.

A ResNet-18 encoder (arXiv:1512.03385) whose last stages trade stride for
atrous rate so that the features keep a share of the input's resolution,
atrous spatial pyramid pooling with an image-level branch, and bilinear
upsampling of the logits.

The paper's objects are hundreds of pixels wide, and a nucleus some 25: at a
stride of 8 it would be three by three features, and its outline lost. So the
image is enlarged first, as the paper does with its own in inference.
"""
from nets.layers import classifier, conv_bn, conv_bn_relu, relu
from nets.tf1 import tf

OUTPUT_STRIDES = (8, 16)
# Of a single image the image-level branch has a single value: its batch norm
# would learn a variance of 0, and evaluation be off.
MIN_BATCH_SIZE = 2
XLA_PAYS = False  # compiling takes over a minute
ENLARGEMENT = 2
UNITS = (2, 2, 2, 2)  # of ResNet-18's four stages
# The paper's (6, 12, 18) are for objects in crops of 513 pixels. Crops here
# are 256 once enlarged: wide kernels would see little but padding in training,
# and what they never saw in whole images. These reach 8, 16 and 24 pixels of
# the image to each side at either output stride: rates double where the stride
# halves, as in the paper. Its multi-grid, which widens the last stage's rates,
# is missing for the same reason.
ASPP_RATES = (1, 2, 3)  # at the largest output stride
# Side of the window that the image-level branch averages over in inference,
# pixels of the image.
POOL_WINDOW = 260
HALO = 256  # pixels around a block of a slide


def residual_unit(x, filters, name, training, strides=1, rate=1):
    """Apply two 3x3 convolutions, of stride and atrous rate, and a shortcut.

    x [N, H, W, C] to [N, H / strides, W / strides, filters].
    """
    shortcut = x
    if strides != 1:
        # In place of the convolution's own stride: on 3 to 6 channels, and a
        # processor with AVX2 alone, 2.15's oneDNN gives such 1x1 convolutions
        # wrong gradients.
        shortcut = tf.keras.layers.MaxPooling2D(
            1, strides=strides, name=f'{name}_subsample')(shortcut)
    if strides != 1 or x.shape.as_list()[-1] != filters:
        shortcut = conv_bn(shortcut, filters, f'{name}_shortcut', training,
                           size=1)
    x = conv_bn_relu(x, filters, f'{name}_conv1', training, strides=strides,
                     rate=rate)
    x = conv_bn(x, filters, f'{name}_conv2', training, rate=rate)
    x = tf.keras.layers.Add(name=f'{name}_add')([shortcut, x])
    return relu(x, name)


def encoder(images, width, training, output_stride):
    """Apply ResNet-18, to [N, H / stride, W / stride, 8 * width]."""
    x = conv_bn_relu(images, width, 'stem', training, size=7, strides=2)
    x = tf.keras.layers.MaxPooling2D(3, strides=2, padding='same',
                                     name='stem_pool')(x)
    stride, rate = 4, 1
    for stage, units in enumerate(UNITS, start=1):
        strides = 1 if stage == 1 else 2
        if strides == 2 and stride == output_stride:
            strides, rate = 1, rate * 2
        stride *= strides
        for unit in range(1, units + 1):
            x = residual_unit(x, width * 2 ** (stage - 1),
                              f'stage{stage}_unit{unit}', training,
                              strides=strides if unit == 1 else 1, rate=rate)
    return x


def image_pooling(x, filters, training, window):
    """Spread image-level features over the map: the ASPP's fifth branch.

    Training averages over its small crops. Inference averages over `window`
    features around each one, so that the output depends on a bounded part of
    the image and tiles agree with the whole (Chu et al., 2022,
    arXiv:2112.04491).
    """
    if not training:
        # One axis after the other, for speed. Padding does not count.
        for axis, size in (('rows', (window, 1)), ('columns', (1, window))):
            x = tf.keras.layers.AveragePooling2D(
                size, strides=1, padding='same', name=f'aspp_pool_{axis}')(x)
        return conv_bn_relu(x, filters, 'aspp_pool', training, size=1)
    pooled = tf.keras.layers.Lambda(
        lambda t: tf.reduce_mean(t, [1, 2], keepdims=True),
        name='aspp_pool_mean')(x)  # [N, 1, 1, C]
    pooled = conv_bn_relu(pooled, filters, 'aspp_pool', training, size=1)
    return tf.keras.layers.Lambda(
        lambda pair: pair[0] + tf.zeros_like(pair[1][..., :1]),
        name='aspp_pool_spread')([pooled, x])  # [N, h, w, filters]


def aspp(x, filters, training, output_stride):
    """Pool by an atrous spatial pyramid: [N, h, w, C] to [N, h, w, filters].

    Each branch has `filters` too.
    """
    branches = [conv_bn_relu(x, filters, 'aspp_1x1', training, size=1)]
    for rate in ASPP_RATES:
        rate *= max(OUTPUT_STRIDES) // output_stride
        branches.append(conv_bn_relu(x, filters, f'aspp_rate{rate}', training,
                                     rate=rate))
    # An odd number of features, with the same on each side.
    window = POOL_WINDOW * ENLARGEMENT // output_stride | 1
    branches.append(image_pooling(x, filters, training, window))
    x = tf.keras.layers.Concatenate(name='aspp_concat')(branches)
    return conv_bn_relu(x, filters, 'aspp_project', training, size=1)


def deeplabv3(images, width, training, output_stride):
    """Compute the logits of the nucleus class.

    Args:
        images: float32 [N, H, W, 3] in [0, 1]; H and W multiples of
            `output_stride`.
        width: filters of the stem; 64 in the paper.
        training: Python bool, the mode of batch norm.
        output_stride: one of OUTPUT_STRIDES, the encoder's stride on the
            enlarged image.

    Returns:
        float32 [N, H, W, 1].
    """
    x = tf.keras.layers.UpSampling2D(
        ENLARGEMENT, interpolation='bilinear', name='enlarged')(images)
    x = encoder(x, width, training, output_stride)
    x = aspp(x, 4 * width, training, output_stride)
    x = classifier(x, 'coarse_logits')
    # From [N, 2 * H / output_stride, 2 * W / output_stride, 1].
    return tf.keras.layers.UpSampling2D(
        output_stride // ENLARGEMENT, interpolation='bilinear',
        name='logits')(x)
