"""Draw each network from the Keras model that `nets.build` gives.

    python -m benchmarks.diagrams        # from the project's folder

writes docs/figures/NET.png for each network of `nets.NETS`.
"""
import functools
import importlib
import io
import math
import os
import re

import imageio.v3 as iio
import numpy as np
from matplotlib.figure import Figure

import nets
from histology.files import write_bytes
from nets.tf1 import tf

FIGURES = os.path.join(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))), 'docs', 'figures')
SIDE = 256  # of the image that the networks are built on, pixels
# The end of a layer's name that makes it part of a greater step.
PART = r'(?<=unit\d)_.*|(?<=aspp_pool)_.*|_bn$|_relu$'
# Pattern of a step's first layer (the first that matches counts), legend,
# colour, width.
KINDS = (
    ('InputLayer|Activation', 'input, output (sigmoid)', '#d5d8dc', 1),
    ('.*_unit', 'residual unit: 3×3, 3×3, shortcut', '#9ccfc0', 1),
    ('MaxPooling2D|.*_pool$', 'max pooling, stride 2', '#e0705f', .5),
    ('.*_unpool', 'unpooling', '#5aa469', .5),
    ('Conv2DTranspose', 'up-convolution', '#5aa469', 1),
    ('Concatenate', 'concatenation', '#7d838c', .5),
    ('Conv2D .*logits', 'convolution to logits', '#f2bf63', 1),
    ('UpSampling2D', 'bilinear upsampling', '#5aa469', 1),
    ('Conv2D|.*aspp_pool', 'convolution, batch norm, ReLU', '#8db8e2', 1),
    ('', 'other layer', '#ffffff', 1))


def title_of(net):
    """A network's title: what stands before the colon in the first line of
    its module's docstring, or else its name."""
    docstring = importlib.import_module(f'nets.{net}').__doc__ or ''
    title, colon, _ = docstring.partition('\n')[0].partition(':')
    return title if colon else net


def steps_of(model):
    """The steps drawn of a Keras model: dicts from their names to their
    layers and to their columns, and the set of edges (step, next step, which
    of the former's outputs)."""
    steps, columns, edges, origin = {}, {}, set(), {}
    for layer in model.layers:
        step = re.sub(PART, '', layer.name)
        steps.setdefault(step, []).append(layer)
        columns.setdefault(step, 0)
        for tensor in tf.nest.flatten(layer.input):
            source, output = origin.get(tensor.name, (step, 0))
            if source != step:
                edges.add((source, step, output))
                columns[step] = max(columns[step], columns[source] + 1)
        for output, tensor in enumerate(tf.nest.flatten(layer.output)):
            origin[tensor.name] = step, output
    return steps, columns, edges


def caption(step, layers):
    """What is written into a block: its name and what is out of the usual."""
    text = 'image mean,' if step == 'aspp_pool' else ' '.join(
        re.findall('images|.*logits|probability', step)).replace('_', ' ')
    convolutions = [layer for layer in layers
                    if isinstance(layer, tf.keras.layers.Conv2D)]
    if len(convolutions) == 1 and convolutions[0].kernel_size != (3, 3):
        text += ' {}×{}'.format(*convolutions[0].kernel_size)
    for word, attribute in (('stride', 'strides'), ('rate', 'dilation_rate')):
        values = {getattr(layer, attribute)[0] for layer in convolutions} - {1}
        text += ''.join(f' {word} {value}' for value in values)
    return text.strip()


def draw_blocks(axes, write, steps, columns):
    """Draw a block for each step, column by column.

    Args:
        axes: matplotlib axes; x in blocks' widths, y in doublings of a side.
        write: function as `axes.text`.
        steps, columns: of `steps_of`.

    Returns:
        dicts of step to its (left, middle, right, y, top), of section of the
        network to its blocks' (left, right, shape), and of legend to handle.
    """
    left, blocks, sections, handles = 0, {}, {}, {}
    for column in range(max(columns.values()) + 1):
        stack = [step for step in steps if columns[step] == column]
        for k, step in enumerate(stack):
            first = f'{type(steps[step][0]).__name__} {steps[step][0].name}'
            legend, colour, width = next(
                kind[1:] for kind in KINDS if re.match(kind[0], first))
            shape = tf.nest.flatten(steps[step][-1].output)[0].shape.as_list()
            y, height = 0, math.log2(shape[1])
            if len(stack) > 1:
                y, height, width = 1.7 * (k - (len(stack) - 1) / 2), 1.2, 4.5
            right, bottom, top = left + width, y - height / 2, y + height / 2
            x = (left + right) / 2
            handles[legend] = axes.bar(x, height, width, bottom, color=colour,
                                       edgecolor='#444444', zorder=2)
            write(x, y, caption(step, steps[step]), va='center',
                  rotation=0 if len(stack) > 1 else 90)
            if k == 0 and width >= 1:
                write(x, bottom - .15, shape[3])
            blocks[step] = left, x, right, y, top
            sections.setdefault(step.split('_')[0], []).append(
                (left, right, shape))
        left = right + .35
    axes.set_xlim(-.03, right + .03)
    return blocks, sections, handles


def draw(net):
    """The diagram of one network, a matplotlib Figure."""
    with tf.Graph().as_default():
        model = nets.build(net, images=tf.zeros([1, SIDE, SIDE, 3]))
    steps, columns, edges = steps_of(model)
    figure = Figure([16, 5.8], 100)
    axes = figure.add_axes([.0125, 0, .975, 1], ylim=(-8.7, 6.7))
    axes.axis('off')
    write = functools.partial(axes.text, fontsize=13.5, ha='center', va='top')
    line = functools.partial(axes.plot, color='#444444', linewidth=1.3)
    blocks, sections, handles = draw_blocks(axes, write, steps, columns)

    for source, target, output in sorted(edges):
        _, x0, right, y0, top0 = blocks[source]
        left, x1, _, y1, top1 = blocks[target]
        if columns[target] == columns[source] + 1 and output == 0:
            line([right, left], [y0, y1], zorder=1)
        else:
            lane = max(top0, top1) + .37
            link = 'positions of the maxima' if output else 'skip connection'
            handles[link], = line([x0, x0, x1, x1],
                                  [top0, lane, lane, top1 + .1],
                                  marker='v', markevery=[3])
    for section, members in sections.items():
        if len(members) > 1:
            left, right = members[0][0], members[-1][1]
            line([left, right], [-4.9, -4.9])
            write((left + right) / 2, -5.05,
                  '{}\n{} × {}'.format(section, *members[0][2][1:3]))
    figure.legend(handles.values(), handles.keys(), loc='lower center',
                  ncol=4, fontsize=13, frameon=False)
    parallel = len(set(columns.values())) < len(columns)
    write(0, 6.4, title_of(net) + (' (parallel branches drawn smaller)'
                                   if parallel else ''),
          fontsize=20, ha='left')
    write(0, 5.5, ha='left', s=(
        f'Width {nets.WIDTH}, {SIDE} × {SIDE} image. Height of a block: '
        'log2 of its side; below it: channels. Convolutions are 3×3, of '
        'stride and rate 1, unless written.'))
    return figure


def save_figure(name, figure):
    """Write a Figure into FIGURES, unless its pixels are there already.

    Args:
        name: of the file, PNG or JPEG by its ending.
        figure: matplotlib Figure.
    """
    path = os.path.join(FIGURES, name)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=name.rsplit('.')[-1], dpi=100)
    if os.path.exists(path) and np.array_equal(
            iio.imread(path), iio.imread(drawn.getvalue())):
        return
    write_bytes(path, drawn.getvalue())


if __name__ == '__main__':
    for net in nets.NETS:
        save_figure(f'{net}.png', draw(net))
