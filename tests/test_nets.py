"""The networks against their papers' tables and values worked out by hand."""
import math
import types

import numpy as np
import pytest

import nets
from nets import deeplabv3
from nets.segnet import max_pool, unpool
from nets.tf1 import session_config, tf
from training.loss import segmentation_loss

WIDTH = 4
# The networks, and each stride that they can have.
VARIANTS = [
    (net, stride) for net in nets.NETS
    for stride in nets.output_strides(net) or (nets.stride(net),)]


def build(net, stride, images=None, training=False):
    # The output stride is DeepLabV3's; the others take no notice.
    return nets.build(net, WIDTH, stride, images, training)


def open_session(graph):
    # Pruned first, for Keras saves each layer in a run of its own, and each
    # run optimises what it finds.
    config = session_config(accelerate=False)
    config.graph_options.place_pruned_graph = True
    return tf.Session(graph=graph, config=config)


def batch_norms(model):
    return [layer for layer in model.layers
            if isinstance(layer, tf.keras.layers.BatchNormalization)]


@pytest.fixture(scope='module', params=VARIANTS,
                ids=[f'{net}-{stride}' for net, stride in VARIANTS])
def variant(request):
    return request.param


@pytest.fixture(scope='module')
def network(variant):
    """An untrained network on a placeholder, for evaluation.

    Its batch norms have random weights, for the initial ones hide errors.
    """
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(0)
        model = build(*variant)
        randomise = [
            tf.assign(weight, tf.random.uniform(weight.shape, 0.2, 1))
            for layer in batch_norms(model) for weight in layer.weights]
        initialise = tf.global_variables_initializer()
    session = open_session(graph)
    session.run(initialise)
    session.run(randomise)
    yield types.SimpleNamespace(model=model, session=session)
    session.close()


@pytest.fixture(scope='module')
def training(variant):
    """A network in training on four images of one square nucleus each.

    Each nucleus fills three quarters of the sides of a noisy image and lies
    in another corner of it: DeepLabV3 draws no finer outline than the fourth
    or eighth of the resolution at which it decides.
    """
    rng = np.random.RandomState(0)
    masks = np.zeros((4, 64, 64, 1), np.float32)
    for mask, row, column in zip(masks, (0, 0, 16, 16), (0, 16, 0, 16)):
        mask[row:row + 48, column:column + 48] = 1
    images = (0.4 * masks + 0.5 * rng.rand(4, 64, 64, 3)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(0)
        features = tf.constant(images)
        model = build(*variant, images=features, training=True)
        loss = segmentation_loss(model.get_layer('logits').output,
                                 tf.constant(masks))
        variables = tf.trainable_variables()
        gradients = tf.gradients(loss, variables)
        convolutions = [layer for layer in model.layers
                        if type(layer) is tf.keras.layers.Conv2D]
        kernel_gradients = list(zip(
            [layer.input for layer in convolutions],
            tf.gradients(loss, [layer.output for layer in convolutions]),
            tf.gradients(loss, [layer.kernel for layer in convolutions])))
        updates = model.get_updates_for(features)
        train = tf.group(tf.train.AdamOptimizer(0.01).apply_gradients(
            zip(gradients, variables)), updates)
        initialise = tf.global_variables_initializer()
        saver = tf.train.Saver(model.weights)
    session = open_session(graph)
    session.run(initialise)
    yield types.SimpleNamespace(
        images=images, masks=masks, model=model, variables=variables,
        gradients=gradients, convolutions=convolutions,
        kernel_gradients=kernel_gradients, updates=updates, train=train,
        saver=saver, session=session)
    session.close()


# Sizes and names


@pytest.mark.parametrize('batch, rows, columns', [(1, 1, 3), (3, 4, 2)])
def test_output_has_the_size_of_the_input(network, variant, batch, rows,
                                          columns):
    _, stride = variant
    images = np.random.RandomState(0).rand(batch, rows * stride,
                                           columns * stride, 3)
    probability = network.session.run(network.model.output,
                                      {network.model.input: images})
    assert probability.shape == (batch, rows * stride, columns * stride, 1)
    assert probability.dtype == np.float32
    assert 0 <= probability.min() < probability.max() <= 1


def test_names_and_size_of_two_networks_in_one_graph(network, variant):
    _, stride = variant
    with network.session.graph.as_default():
        # Keras numbers the layers that are given no name.
        second = build(*variant, images=tf.zeros([3, 2 * stride, stride, 3]))
    names = [layer.name for layer in network.model.layers]
    names.remove('check_sides')  # of a size that is not known yet
    assert names == [layer.name for layer in second.layers]
    assert len(set(names)) == len(names)
    assert 'logits' in names and 'probability' in names
    assert second.output.shape.as_list() == [3, 2 * stride, stride, 1]


# Parameters


def weights_of(convolutions):
    return sum(size ** 2 * inputs * outputs
               for size, inputs, outputs in convolutions)


def channels_of(convolutions):
    return sum(outputs for _, _, outputs in convolutions)


def segnet_tables(w):
    """(size, inputs, outputs) of the convolutions, and all others' weights."""
    encoder = [
        (3, 3, w), (3, w, w),
        (3, w, 2 * w), (3, 2 * w, 2 * w),
        (3, 2 * w, 4 * w), (3, 4 * w, 4 * w), (3, 4 * w, 4 * w),
        (3, 4 * w, 8 * w), (3, 8 * w, 8 * w), (3, 8 * w, 8 * w)]
    decoder = [
        (3, 8 * w, 8 * w), (3, 8 * w, 8 * w), (3, 8 * w, 4 * w),
        (3, 4 * w, 4 * w), (3, 4 * w, 4 * w), (3, 4 * w, 2 * w),
        (3, 2 * w, 2 * w), (3, 2 * w, w),
        (3, w, w), (3, w, w)]
    classifier = w + 1
    return encoder, decoder, classifier


def unet_tables(w):
    down = [
        (3, 3, w), (3, w, w),
        (3, w, 2 * w), (3, 2 * w, 2 * w),
        (3, 2 * w, 4 * w), (3, 4 * w, 4 * w),
        (3, 4 * w, 8 * w), (3, 8 * w, 8 * w),
        (3, 8 * w, 16 * w), (3, 16 * w, 16 * w)]
    up = [
        (3, 16 * w, 8 * w), (3, 8 * w, 8 * w),
        (3, 8 * w, 4 * w), (3, 4 * w, 4 * w),
        (3, 4 * w, 2 * w), (3, 2 * w, 2 * w),
        (3, 2 * w, w), (3, w, w)]
    up_convolutions = (4 * 16 * w * 8 * w + 8 * w + 4 * 8 * w * 4 * w + 4 * w
                       + 4 * 4 * w * 2 * w + 2 * w + 4 * 2 * w * w + w)
    classifier = w + 1
    return down, up, up_convolutions + classifier


def deeplabv3_tables(w):
    def units(inputs, filters, count):
        shortcut = [(1, inputs, filters)] if inputs != filters else []
        return (shortcut + [(3, inputs, filters), (3, filters, filters)]
                + [(3, filters, filters)] * 2 * (count - 1))

    resnet = ([(7, 3, w)] + units(w, w, 2) + units(w, 2 * w, 2)
              + units(2 * w, 4 * w, 2) + units(4 * w, 8 * w, 2))
    aspp = [(1, 8 * w, 4 * w),
            (3, 8 * w, 4 * w), (3, 8 * w, 4 * w), (3, 8 * w, 4 * w),
            (1, 8 * w, 4 * w),  # of the image-level features
            (1, 5 * 4 * w, 4 * w)]
    classifier = 4 * w + 1
    return resnet, aspp, classifier


# At width 64 they add up to VGG16's four stages, to a U-Net of 31,037,633
# weights, and to ResNet-18.
TABLES = {'segnet': segnet_tables, 'unet': unet_tables,
          'deeplabv3': deeplabv3_tables}


def test_parameter_count(network, variant):
    net, _ = variant
    if net not in TABLES:
        pytest.skip('no paper gives them')
    front, back, rest = TABLES[net](WIDTH)
    weights, channels = weights_of(front + back), channels_of(front + back)
    # Scale, offset and the moving mean and variance of each channel.
    assert network.model.count_params() == weights + 4 * channels + rest
    trainable = sum(int(np.prod(weight.shape.as_list()))
                    for weight in network.model.trainable_weights)
    assert trainable == weights + 2 * channels + rest


def test_he_initialisation(network, variant):
    net, _ = variant
    if net not in TABLES:
        pytest.skip('how it begins is its own choice')
    model = network.model
    kernels = network.session.run({
        layer.name: layer.kernel for layer in model.layers
        if hasattr(layer, 'kernel')})
    large = 0
    for name, kernel in kernels.items():
        height, width, inputs, outputs = kernel.shape
        fan_in = height * width * inputs
        if name.endswith('_upconv'):
            # Each output pixel sees one pixel, and no ReLU halves its
            # variance: 1 over the channels in, which TensorFlow puts last.
            fan_in = 2 * outputs
        # A deviation taken from so many has an error of about 1 %.
        if kernel.size >= 4000:
            large += 1
            assert kernel.std() == pytest.approx(math.sqrt(2 / fan_in),
                                                 rel=0.05), name
    assert large > 5


# Gradients, batch norm, learning


def test_each_variable_learns(training):
    assert len(training.variables) == len(training.model.trainable_weights)
    gradients = training.session.run(training.gradients)
    for variable, gradient in zip(training.variables, gradients):
        assert np.isfinite(gradient).all(), variable.name
        assert np.abs(gradient).max() > 0, variable.name


def test_gradients_of_kernels(training):
    for layer, (inputs, upstream, gradient) in zip(
            training.convolutions,
            training.session.run(training.kernel_gradients)):
        (down, right), (row_rate, column_rate) = (layer.strides,
                                                  layer.dilation_rate)
        _, height, width, _ = upstream.shape
        # SAME padding: what is odd of it goes to the bottom and the right.
        padding = [
            max((out - 1) * stride + (size - 1) * rate + 1 - length, 0)
            for out, stride, size, rate, length in zip(
                (height, width), layer.strides, layer.kernel_size,
                layer.dilation_rate, inputs.shape[1:3])]
        padded = np.pad(np.float64(inputs), [
            (0, 0), *[(both // 2, both - both // 2) for both in padding],
            (0, 0)], 'constant')
        expected = np.empty_like(gradient)
        for i, j in np.ndindex(*layer.kernel_size):
            seen = padded[:, i * row_rate::down, j * column_rate::right]
            expected[i, j] = np.tensordot(
                seen[:, :height, :width], np.float64(upstream),
                ((0, 1, 2), (0, 1, 2)))
        np.testing.assert_allclose(
            gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max(),
            err_msg=layer.name)


def test_moving_statistics_in_training(training):
    layers = batch_norms(training.model)
    statistics = [(layer.moving_mean, layer.moving_variance)
                  for layer in layers]
    session = training.session
    before = session.run(statistics)
    # The weights stay, and so does the batch: [n, h, w, c].
    batches = session.run([layer.input for layer in layers])
    for _ in range(2):
        session.run(training.updates)
    # 0.9 * (0.9 * old + 0.1 * batch) + 0.1 * batch.
    for layer, batch, old, new in zip(layers, batches, before,
                                      session.run(statistics)):
        count = batch[..., 0].size
        for moment, was, is_now in (
                (batch.mean(axis=(0, 1, 2)), old[0], new[0]),
                # TensorFlow's estimate of the variance is the unbiased one.
                (batch.var(axis=(0, 1, 2)) * count / (count - 1), old[1],
                 new[1])):
            np.testing.assert_allclose(is_now, 0.81 * was + 0.19 * moment,
                                       rtol=1e-3, atol=1e-5,
                                       err_msg=layer.name)


def test_evaluation_uses_the_moving_statistics(network):
    model, session = network.model, network.session
    assert model.updates == []
    layers = batch_norms(model)
    images = np.random.RandomState(0).rand(1, 32, 64, 3)
    values = session.run(
        [(layer.input, layer.output, layer.gamma, layer.beta,
          layer.moving_mean, layer.moving_variance) for layer in layers],
        {model.input: images})
    for layer, (x, y, gamma, beta, mean, variance) in zip(layers, values):
        expected = (x - mean) / np.sqrt(variance + 0.001) * gamma + beta
        np.testing.assert_allclose(y, expected, rtol=1e-3,
                                   atol=1e-4 * np.abs(expected).max(),
                                   err_msg=layer.name)


def test_evaluation_looks_at_one_image_at_a_time(network):
    model, session = network.model, network.session
    logits = model.get_layer('logits').output
    images = np.random.RandomState(0).rand(3, 32, 64, 3)
    together = session.run(logits, {model.input: images})
    assert np.abs(together[0] - together[1]).max() > 0
    for index in range(3):
        alone = session.run(logits, {model.input: images[index:index + 1]})
        np.testing.assert_allclose(alone[0], together[index],
                                   atol=1e-5 * np.abs(together).max())


def test_learns_and_keeps_it_with_the_moving_statistics(training, variant,
                                                        tmp_path):
    if variant == ('deeplabv3', 16):
        pytest.skip('slow, and the same as at output stride 8')
    for _ in range(120):
        training.session.run(training.train)
    path = training.saver.save(training.session, str(tmp_path / 'trained'))
    with tf.Graph().as_default(), tf.Session() as session:
        model = build(*variant)
        tf.train.Saver(model.weights).restore(session, path)
        found = session.run(model.output, {model.input: training.images}) > 0.5
    truth = training.masks > 0.5
    f1 = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert f1 > 0.99


# What is connected to what


def features_of(net, stride, *names):
    """What layers give for one image of 64 x 96, untrained."""
    images = np.random.RandomState(0).rand(1, 64, 96, 3)
    with tf.Graph().as_default(), tf.Session() as session:
        model = build(net, stride)
        session.run(tf.global_variables_initializer())
        return session.run([model.get_layer(name).output for name in names],
                           {model.input: images})


def test_unets_skips_come_from_the_same_level():
    features = iter(features_of('unet', 16, *[
        name for level in range(1, 5) for name in (
            f'down{level}_conv2_relu', f'up{level}_upconv',
            f'up{level}_skip')]))
    for down, up, skip in zip(features, features, features):
        np.testing.assert_array_equal(skip, np.concatenate([down, up], -1))


def test_segnet_unpools_to_its_own_stages_maxima():
    features = iter(features_of('segnet', 16, *[
        name for stage, last in enumerate((2, 2, 3, 3), start=1)
        for name in (f'encoder{stage}_conv{last}_bn',
                     f'decoder{stage}_unpool')]))
    for encoded, unpooled in zip(features, features):
        _, height, width, channels = encoded.shape
        assert unpooled.shape == encoded.shape
        windows = [array.reshape(height // 2, 2, width // 2, 2, channels)
                   for array in (encoded, unpooled)]
        maxima = windows[0].max(axis=(1, 3), keepdims=True)
        filled = windows[1] != 0
        assert filled.any()
        assert (windows[0] == maxima)[filled].all()
        assert filled.sum(axis=(1, 3)).max() == 1


@pytest.mark.parametrize('window, reach', [(260, 16), (32, 2)])
def test_deeplabv3s_units_and_pyramid(monkeypatch, window, reach):
    # In features of 8 pixels, on each side.
    monkeypatch.setattr(deeplabv3, 'POOL_WINDOW', window)
    before, added, after, encoded, mean, pooled, joined = features_of(
        'deeplabv3', 16, 'stage4_unit1_relu', 'stage4_unit2_conv2_bn',
        'stage4_unit2_add', 'stage4_unit2_relu', 'aspp_pool_columns',
        'aspp_pool_relu', 'aspp_concat')
    np.testing.assert_allclose(after, before + added, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(encoded, np.maximum(after, 0))
    # The image-level features are the last of the pyramid's.
    assert encoded.shape[1:3] == (8, 12)
    for row, column in np.ndindex(8, 12):
        near = encoded[:, max(row - reach, 0):row + reach + 1,
                       max(column - reach, 0):column + reach + 1]
        np.testing.assert_allclose(mean[:, row, column],
                                   near.mean(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_array_equal(joined[..., -16:], pooled)


@pytest.mark.parametrize('net', nets.NETS)
def test_predictions_depend_on_a_bounded_part(net):
    """Rows are those of the whole image from 256 pixels off a cut."""
    image = np.random.RandomState(1).rand(1, 448, 64, 3)
    with tf.Graph().as_default(), tf.Session() as session:
        model = build(net, nets.stride(net))
        session.run(tf.global_variables_initializer())
        logits = model.get_layer('logits').output
        whole, part = [session.run(logits, {model.input: image[:, top:]})
                       for top in (0, 64)]
    whole, part = whole / whole.std(), part / whole.std()
    np.testing.assert_allclose(part[:, 256:], whole[:, 320:], atol=1e-4)
    assert np.abs(part[:, 0] - whole[:, 64]).max() > 1e-2


# SegNet's pooling

# Two images of 4 x 4 pixels and two channels, the maxima marked by size.
FIRST = [[1, 9, 2, 3],
         [4, 5, 8, 7],
         [-3, -2, 0, 6],
         [-1, -4, 5, 1]]
SECOND = [[6, 0, 0, 7],
          [0, 0, 0, 0],
          [0, 0, 8, 0],
          [0, 9, 0, 0]]
# Their maxima, and each left where it stood.
FIRST_POOLED = [[9, 8], [-1, 6]]
SECOND_POOLED = [[6, 7], [9, 8]]
FIRST_UNPOOLED = [[0, 9, 0, 0],
                  [0, 0, 8, 0],
                  [0, 0, 0, 6],
                  [-1, 0, 0, 0]]


def batch_of(first, second):
    """[2, h, w, 2]: first and second, then second and first with a sign."""
    first, second = np.array(first), np.array(second)
    return np.stack([np.stack([first, second], -1),
                     np.stack([second, first], -1)]).astype(np.float32)


@pytest.mark.parametrize('known_size', [True, False])
def test_unpooling_puts_maxima_back(known_size):
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder_with_default(
            batch_of(FIRST, SECOND),
            [2, 4, 4, 2] if known_size else [None, None, None, 2])
        pooled, positions = max_pool(images)
        unpooled = unpool(pooled, positions)
        assert unpooled.shape.as_list()[1:] == (
            [4, 4, 2] if known_size else [None, None, 2])
        pooled, unpooled = session.run([pooled, unpooled])
    np.testing.assert_array_equal(pooled,
                                  batch_of(FIRST_POOLED, SECOND_POOLED))
    np.testing.assert_array_equal(unpooled, batch_of(FIRST_UNPOOLED, SECOND))


def test_gradient_of_unpooling_is_taken_at_the_positions():
    upstream = np.arange(16).reshape(4, 4)
    # At FIRST's maxima (0, 1), (1, 2), (3, 0), (2, 3); at SECOND's (0, 0),
    # (0, 3), (3, 1), (2, 2).
    first, second = [[1, 6], [12, 11]], [[0, 3], [13, 10]]
    with tf.Graph().as_default():
        _, positions = max_pool(tf.constant(batch_of(FIRST, SECOND)))
        values = tf.zeros([2, 2, 2, 2])
        gradient, = tf.gradients(unpool(values, positions), values,
                                 tf.constant(batch_of(upstream, upstream)))
        with tf.Session() as session:
            gradient = session.run(gradient)
    np.testing.assert_array_equal(gradient, batch_of(first, second))


# Strides, rates and DeepLabV3's upsampling

# Of the 3x3 convolutions of each stage, where not all are 1. In DeepLabV3 the
# last stages have rates in place of strides, and the pyramid's double with
# the resolution.
RATES = {
    ('segnet', 16): {},
    ('unet', 16): {},
    ('deeplabv3', 16): {'stage4': [2] * 4, 'aspp': [1, 2, 3]},
    ('deeplabv3', 8): {'stage3': [2] * 4, 'stage4': [4] * 4,
                       'aspp': [2, 4, 6]},
}


def test_tables_are_whole():
    """A network that one of them holds is in each, with all its strides."""
    assert set(RATES) == {
        (net, stride) for net, stride in VARIANTS if net in TABLES}
    assert set(TABLES) <= set(nets.NETS)


def test_atrous_rates(network, variant):
    if variant not in RATES:
        pytest.skip('no paper gives them')
    rates = {}
    for layer in network.model.layers:
        if not isinstance(layer, tf.keras.layers.Conv2D):
            continue
        rows, columns = layer.dilation_rate
        assert rows == columns
        if layer.kernel_size == (3, 3):
            rates.setdefault(layer.name.split('_')[0], []).append(rows)
        else:
            assert rows == 1
    assert {stage: listed for stage, listed in rates.items()
            if set(listed) != {1}} == RATES[variant]


@pytest.mark.parametrize('output_stride, expected', [
    (8, [0] * 2 + list(np.arange(0.5, 8)) + [8] * 2),
    (16, [0] * 4 + list(np.arange(0.5, 16)) + [16] * 4)])
def test_upsampling_is_centred(output_stride, expected):
    """A ramp of one logit per pixel, known at the coarse pixels' centres.

    The first of them is 1.5 or 3.5 pixels from the first pixel's centre;
    before it and after the last the ramp is flat.
    """
    stride = output_stride // 2  # of the image before it is enlarged
    ramp = np.array([0, stride, 2 * stride])
    with tf.Graph().as_default(), tf.Session() as session:
        model = build('deeplabv3', output_stride)
        logits = session.run(
            model.get_layer('logits').output,
            {model.get_layer('coarse_logits').output:
             np.stack([ramp, ramp])[np.newaxis, ..., np.newaxis]})
    assert logits.shape == (1, 2 * stride, 3 * stride, 1)
    np.testing.assert_allclose(logits[0, ..., 0], [expected] * (2 * stride),
                               atol=1e-5)


def test_deeplabv3_enlarges_the_image():
    """A ramp of 4 a pixel becomes one of 2, from a quarter pixel before it."""
    images = np.zeros((1, 16, 16, 3), np.float32)
    images[0] = 4 * np.arange(16)[:, np.newaxis, np.newaxis]
    with tf.Graph().as_default(), tf.Session() as session:
        model = build('deeplabv3', 8)
        enlarged = session.run(model.get_layer('enlarged').output,
                               {model.input: images})
    expected = np.clip(np.arange(-1, 63, 2), 0, 60)  # [32]
    np.testing.assert_allclose(
        enlarged, np.broadcast_to(expected[:, np.newaxis, np.newaxis],
                                  (1, 32, 32, 3)), atol=1e-5)


def test_output_strides_are_those_of_the_networks_module(monkeypatch):
    """Nothing else knows 8 and 16: the first is the default."""
    monkeypatch.setattr(nets.module_of('deeplabv3'), 'OUTPUT_STRIDES', (4,))
    with tf.Graph().as_default():
        model = nets.build('deeplabv3', WIDTH, images=tf.zeros([1, 12, 8, 3]))
        assert model.output.shape.as_list() == [1, 12, 8, 1]
        assert model.stride == 4
        assert model.get_layer('coarse_logits').output.shape.as_list() == [
            1, 6, 4, 1]
    with pytest.raises(ValueError, match='is 8; deeplabv3 takes 4'):
        nets.stride('deeplabv3', 8)


@pytest.mark.parametrize('net', [net for net in nets.NETS
                                 if nets.stride(net) > 1])
def test_sizes_that_the_stride_does_not_divide_are_refused(net):
    side = 96 + nets.stride(net) // 2
    with tf.Graph().as_default(), tf.Session() as session:
        tf.keras.backend.set_session(session)
        model = nets.build(net, WIDTH)
        assert model.stride == nets.stride(net)
        for shape in ([1, side, 96, 3], [1, 96, side, 3]):
            with pytest.raises(tf.errors.InvalidArgumentError,
                               match='must be multiples of .*predict'):
                model.predict_on_batch(np.zeros(shape, np.float32))
        assert model.predict_on_batch(
            np.zeros([1, 96, 32, 3], np.float32)).shape == (1, 96, 32, 1)
        with pytest.raises(ValueError, match=f'{side} x 96: .*multiples of'):
            nets.build(net, WIDTH, images=tf.zeros([1, side, 96, 3]))
