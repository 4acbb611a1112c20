"""The three networks as Keras models in graph mode.

    model = nets.build('unet')
    model.load_weights('checkpoints/unet/weights.h5')
    prediction = model.predict(images)
"""
from nets.deeplabv3 import deeplabv3
from nets.segnet import STRIDE as SEGNET_STRIDE, segnet
from nets.tf1 import tf
from nets.unet import STRIDE as UNET_STRIDE, unet

NETS = ('segnet', 'unet', 'deeplabv3')
WIDTH = 16
OUTPUT_STRIDE = 8


def stride(net, output_stride=OUTPUT_STRIDE):
    """The number that must divide the height and width of `net`'s input."""
    return {'segnet': SEGNET_STRIDE, 'unet': UNET_STRIDE,
            'deeplabv3': output_stride}[net]


def build(net, width=WIDTH, output_stride=OUTPUT_STRIDE, images=None,
          training=False):
    """A network as a Keras model.

    Args:
        net: 'segnet', 'unet' or 'deeplabv3'.
        width: filters of the first layer.
        output_stride: 8 or 16, the encoder's stride; DeepLabV3 alone has it.
        images: float32 tensor [N, H, W, 3] in [0, 1] to build on, or None for
            a placeholder of any size. `stride(net, output_stride)` must
            divide H and W.
        training: Python bool, the mode of batch norm.

    Returns:
        A tf.keras.Model from images to the probability of nucleus, float32
        [N, H, W, 1]; its layer 'logits' holds what the sigmoid is taken of.

    Raises:
        ValueError: unknown `net`, or an output stride that it cannot have.
    """
    inputs = tf.keras.layers.Input(shape=(None, None, 3), tensor=images,
                                   name='images')
    if net == 'segnet':
        logits = segnet(inputs, width, training)
    elif net == 'unet':
        logits = unet(inputs, width, training)
    elif net == 'deeplabv3':
        logits = deeplabv3(inputs, width, training, output_stride)
    else:
        raise ValueError(f'unknown net {net!r}: segnet, unet or deeplabv3')
    probability = tf.keras.layers.Activation('sigmoid', name='probability')(
        logits)
    return tf.keras.Model(inputs, probability, name=net)
