"""The networks as Keras models in graph mode.

    model = nets.build('unet')
    model.load_weights('checkpoints/unet/weights.h5')
    prediction = model.predict(images)   # float32 [N, H, W, 3] in [0, 1]

A network is a module NAME.py of this package with a function
NAME(images, width, training), from images to logits, and STRIDE, which must
divide their height and width. In place of STRIDE a module may list
OUTPUT_STRIDES, the default first: the function then takes one of them as
`output_stride`. MIN_BATCH_SIZE and XLA_PAYS may stand there too; see the
functions of their names.
"""
import importlib

# Every network of the project; what concerns one of them is in its module.
NETS = ('segnet', 'unet', 'deeplabv3')
WIDTH = 16
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


def min_batch_size(net):
    """Return the smallest batch that a network can be trained with."""
    return getattr(module_of(net), 'MIN_BATCH_SIZE', 1)


def xla_pays(net):
    """Say whether XLA makes up for the time it takes to compile a network."""
    return getattr(module_of(net), 'XLA_PAYS', True)


def stride(net, output_stride=None):
    """Return what must divide the height and width of `net`'s input.

    Args:
        net: one of NETS.
        output_stride: one of its `output_strides`, or None for the first.

    Raises:
        ValueError: another output stride.
    """
    strides = output_strides(net)
    if not strides:
        return module_of(net).STRIDE
    if output_stride not in (None, *strides):
        raise ValueError(f'output_stride is {output_stride}; {net} takes '
                         f'{" or ".join(map(str, strides))}')
    return output_stride or strides[0]


def build(net, width=WIDTH, output_stride=None, images=None, training=False):
    """Build a network as a Keras model.

    Args:
        net: one of NETS.
        width: filters of the first layer.
        output_stride: as for `stride`; networks without a choice ignore it.
        images: float32 tensor [N, H, W, 3] in [0, 1] to build on, or None for
            a placeholder of any size. `stride(net, output_stride)` must
            divide H and W.
        training: Python bool, the mode of batch norm.

    Returns:
        A tf.keras.Model from images to the probability of nucleus, float32
        [N, H, W, 1]; its layer 'logits' holds what the sigmoid is taken of,
        and its attribute `stride` what must divide H and W.

    Raises:
        ValueError: unknown `net`, an output stride that it cannot have, or
            images of a size that the stride does not divide. Where the size
            is known only when the model runs, it is then a
            tf.errors.InvalidArgumentError.
    """
    from nets.layers import check_sides
    from nets.tf1 import tf
    network = getattr(module_of(net), net)
    inputs = tf.keras.layers.Input(shape=(None, None, 3), tensor=images,
                                   name='images')
    multiple = stride(net, output_stride)
    options = {'output_stride': multiple} if output_strides(net) else {}
    logits = network(check_sides(inputs, multiple), width, training, **options)
    probability = tf.keras.layers.Activation('sigmoid', name='probability')(
        logits)
    model = tf.keras.Model(inputs, probability, name=net)
    model.stride = multiple
    return model
