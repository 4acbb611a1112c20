"""Measures one network against three ways to fill the same outlines.

    python -m docs.conventions DATA_DIR MODEL_DIR NET ANNOTATIONS

from the project's folder: DATA_DIR holds validation.h5, MODEL_DIR/NET the
network, and ANNOTATIONS the ImageScope NAME.xml of some of its images, which
are those measured on. Prints the table of docs/data.md.
"""
import os
import sys

import numpy as np
from PIL import Image, ImageDraw

from eval import inference, instances, metrics
from input_pipeline import outlines, store
from training import checkpoints


def at_true_centres(nuclei, height, width):
    """bool [H, W]: the centre of pixel (r, c) is at (r + 0.5, c + 0.5)."""
    return outlines.fill(nuclei, height, width)[0] > 0


def at_corners(nuclei, height, width):
    """bool [H, W]: it is at (r, c), as for MATLAB's poly2mask."""
    moved = [[[ring + outlines.CENTRE for ring in polygon]
              for polygon in nucleus] for nucleus in nuclei]
    return at_true_centres(moved, height, width)


def with_the_outline(nuclei, height, width):
    """bool [H, W]: at (r, c), and what the outline passes through is in."""
    mask = Image.new('L', (width, height))
    for nucleus in nuclei:
        for ring, *_ in nucleus:
            # The vertices rounded, as OpenCV's fillPoly needs them.
            ImageDraw.Draw(mask).polygon(
                [tuple(vertex) for vertex in np.rint(ring[:, ::-1])],
                fill=1, outline=1)
    return np.array(mask) > 0


CONVENTIONS = {'centre at (r + 0.5, c + 0.5)': at_true_centres,
               'centre at (r, c)': at_corners,
               'centre at (r, c), the outline inside': with_the_outline}


def main(data_dir, model_dir, net, annotations):
    """Prints the table."""
    counts = {name: [] for name in CONVENTIONS}
    areas = dict.fromkeys(CONVENTIONS, 0)
    with store.open_store(
            store.store_path(data_dir, 'validation')) as file, (
            checkpoints.restored_model(os.path.join(model_dir, net), net)
    ) as (forward, stride, _):
        for name, image, *_ in store.whole_images(file):
            path = os.path.join(annotations, f'{name}.xml')
            if not os.path.exists(path):
                continue
            with open(path, 'rb') as xml:
                nuclei = outlines.parse_imagescope(xml.read(), path).nuclei
            mask, _, _ = inference.find_nuclei(
                image, forward, stride, instances.THRESHOLD,
                inference.MAX_PIXELS, True)
            for convention, fill in CONVENTIONS.items():
                truth = fill(nuclei, *mask.shape)
                areas[convention] += truth.sum()
                counts[convention].append(
                    metrics.confusion_matrix(mask, truth))
    print('| outlines filled with | area | F1 | precision | recall |')
    print('|---|---|---|---|---|')
    first = areas[next(iter(areas))]
    for convention, found in counts.items():
        result = metrics.compute(metrics.pool(found))
        print(f'| {convention} | {areas[convention] / first:.3f} | '
              + ' | '.join(f'{float(result[metric]):.4f}' for metric in
                           ('f1', 'precision', 'recall')) + ' |')
    print(f'{len(counts[convention])} images')


if __name__ == '__main__':
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
