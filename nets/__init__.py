"""The networks as Keras models in graph mode.

    model = nets.build('unet')
    model.load_weights('checkpoints/unet/weights.h5')
    prediction = model.predict(images)   # float32 [N, H, W, 3] in [0, 1]

A network is a module NAME.py of this package with a function
NAME(images, width, training), from images to logits, and these constants:

    STRIDE          must divide their height and width; or in its place
    OUTPUT_STRIDES  those to choose from, the default first; the function
                    takes one as `output_stride`
    MIN_BATCH_SIZE  of training; default 1
    XLA_PAYS        whether XLA saves more time than compiling takes; default
                    True
    PORTABLE        whether the function takes `portable`, to use only
                    operations that ONNX has; default False
    HALO            pixels around a block of a slide, see docs/history.md;
                    default 128
"""
import importlib

# Every network of the project; what concerns one of them is in its module.
NETS = ('segnet', 'unet', 'deeplabv3')
WIDTH = 16
MAX_WIDTH = 1024
HALO = 128  # pixels, a multiple of each network's stride
# Of their input. Stored beside a trained network, so that a later change of
# rule is noticed.
NORMALISATION = 'uint8 / 255'


def module_of(net):
    """Import the module of a network.

    Raises:
        ValueError: there is no such network.
    """
    if net not in NETS:
        raise ValueError(f'unknown net {net!r}: give one of {", ".join(NETS)}')
    return importlib.import_module(f'nets.{net}')


def output_strides(net):
    """List the output strides that a network can have, () without a choice."""
    return getattr(module_of(net), 'OUTPUT_STRIDES', ())


def stride(net, output_stride=None):
    """Return what must divide the height and width of `net`'s input.

    Raises:
        ValueError: it has no such output stride; None is its first.
    """
    strides = output_strides(net)
    if not strides:
        return module_of(net).STRIDE
    if output_stride not in (None, *strides):
        raise ValueError(f'output_stride is {output_stride}; {net} takes '
                         f'{" or ".join(map(str, strides))}')
    return output_stride or strides[0]


def build(net, width=WIDTH, output_stride=None, images=None, training=False,
          portable=False):
    """Build a network as a Keras model.

    Args:
        net: one of NETS.
        width: filters of the first layer.
        output_stride: as for `stride`; networks without a choice ignore it.
        images: float32 tensor [N, H, W, 3] in [0, 1] to build on, or None for
            a placeholder of any size. The stride must divide H and W.
        training: Python bool, the mode of batch norm.
        portable: take the form of operations that ONNX has, if there is one.

    Returns:
        A tf.keras.Model from images to the probability of nucleus, float32
        [N, H, W, 1]; its layer 'logits' holds what the sigmoid is taken of,
        and its attribute `stride` what must divide H and W.

    Raises:
        ValueError: as `stride` and `layers.check_sides`.
    """
    from nets.layers import check_sides
    from nets.tf1 import tf
    network = getattr(module_of(net), net)
    inputs = tf.keras.layers.Input(shape=(None, None, 3), tensor=images,
                                   name='images')
    multiple = stride(net, output_stride)
    options = {'output_stride': multiple} if output_strides(net) else {}
    if getattr(module_of(net), 'PORTABLE', False):
        options['portable'] = portable
    logits = network(check_sides(inputs, multiple), width, training, **options)
    probability = tf.keras.layers.Activation('sigmoid', name='probability')(
        logits)
    model = tf.keras.Model(inputs, probability, name=net)
    model.stride = multiple
    return model
