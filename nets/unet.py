"""U-Net: Ronneberger et al., 2015, arXiv:1505.04597.

As in the paper: four levels of two 3x3 convolutions and a 2x2 max pooling, a
bottleneck, and the mirror image with 2x2 up-convolutions and skip
connections. Unlike it: same padding, so that the output has the input's size,
and batch norm after each convolution.
"""
from nets.layers import classifier, conv_bn_relu
from nets.tf1 import tf

LEVELS = 4
STRIDE = 2 ** LEVELS


def unet(images, width, training):
    """Compute the logits of the nucleus class.

    Args:
        images: float32 [N, H, W, 3] in [0, 1]; H and W multiples of 16.
        width: filters of the first level, doubled at each level; 64 in the
            paper.
        training: Python bool, the mode of batch norm.

    Returns:
        float32 [N, H, W, 1].
    """
    def double_conv(x, filters, name):
        x = conv_bn_relu(x, filters, f'{name}_conv1', training)
        return conv_bn_relu(x, filters, f'{name}_conv2', training)

    x = images
    skips = []
    for level in range(LEVELS):
        x = double_conv(x, width * 2 ** level, f'down{level + 1}')
        skips.append(x)  # [N, H / 2^level, W / 2^level, width * 2^level]
        x = tf.keras.layers.MaxPooling2D(name=f'down{level + 1}_pool')(x)

    # [N, H / 16, W / 16, 16 * width]
    x = double_conv(x, width * 2 ** LEVELS, 'bottleneck')

    for level in reversed(range(LEVELS)):
        name = f'up{level + 1}'
        filters = width * 2 ** level
        x = tf.keras.layers.Conv2DTranspose(
            filters, 2, strides=2, kernel_initializer='he_normal',
            name=f'{name}_upconv')(x)
        x = tf.keras.layers.Concatenate(name=f'{name}_skip')(
            [skips[level], x])  # [N, H / 2^level, W / 2^level, 2 * filters]
        x = double_conv(x, filters, name)
    return classifier(x, 'logits')
