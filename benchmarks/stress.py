"""Measures networks on validation images that were changed on purpose.

    python -m benchmarks.stress DATA_DIR MODEL_DIR NET

from the project's folder: DATA_DIR holds validation.h5 and MODEL_DIR/NET the
network. Prints a table, averaged over rotations as --mode=eval does.
"""
import io
import os
import sys

import numpy as np
from PIL import Image
from scipy import ndimage

from eval import evaluate
from histology import resample
from histology.stains import STAINS
from input_pipeline import store
from prediction import Predictor


def resized(scale):
    """The image as if scanned at `scale` times 40x, and back at 40x.

    It is what --magnification makes of it, so the nuclei are those of the
    image itself.
    """
    def change(whole):
        size = whole.image.shape[:2]
        small = resample.resample(
            whole.image, [round(side * scale) for side in size])
        return whole._replace(image=resample.resample(small, size))
    return change


def stained(haematoxylin, eosin):
    """The image with stains times a factor each, in optical density."""
    matrix = np.linalg.inv(STAINS) @ np.diag([haematoxylin, eosin, 1]) @ STAINS

    def change(whole):
        density = -np.log(np.maximum(whole.image, 1) / 255)  # [H, W, 3]
        light = np.exp(-np.maximum(density @ matrix, 0))
        return whole._replace(image=np.rint(255 * light).astype(np.uint8))
    return change


def blurred(whole):
    """The image out of focus."""
    image = ndimage.gaussian_filter(whole.image.astype(np.float32),
                                    (1.5, 1.5, 0))
    return whole._replace(image=np.rint(image).astype(np.uint8))


def compressed(whole):
    """The image as a JPEG of low quality."""
    file = io.BytesIO()
    Image.fromarray(whole.image).save(file, 'JPEG', quality=40)
    return whole._replace(image=np.array(Image.open(file)))


MEASURES = ('F1', 'precision', 'recall', 'AJI', 'PQ')
CHANGES = {
    'none': lambda whole: whole,
    '0.5 times the size': resized(0.5),
    '0.8 times the size': resized(0.8),
    '1.25 times the size': resized(1.25),
    'haematoxylin times 0.6': stained(0.6, 1),
    'haematoxylin times 1.5': stained(1.5, 1),
    'eosin times 0.6': stained(1, 0.6),
    'eosin times 1.5': stained(1, 1.5),
    'both times 0.6': stained(0.6, 0.6),
    'both times 1.5': stained(1.5, 1.5),
    'Gaussian blur of 1.5 pixels': blurred,
    'JPEG of quality 40': compressed,
}


def measures(results):
    """What the table says of `results`, which evaluate.evaluate returns.

    F1, precision and recall are of all images' pixels, AJI and PQ means over
    images.
    """
    pooled, mean = results['pooled'], results['mean_per_image']
    return [*(pooled[measure.lower()] for measure in MEASURES[:3]),
            *(mean[measure.lower()] for measure in MEASURES[3:])]


def print_row(*cells):
    """Prints a row of a Markdown table."""
    print('| ' + ' | '.join(
        f'{cell:.4f}' if isinstance(cell, float) else str(cell)
        for cell in cells) + ' |', flush=True)


def main(data_dir, model_dir, net):
    """Prints the table."""
    print_row('change', *MEASURES)
    print_row(*['---'] * (1 + len(MEASURES)))
    predictor = Predictor.load(os.path.join(model_dir, net))
    with store.open_store(store.store_path(data_dir, 'validation')) as file:
        names = store.image_names(file)
        for change, function in CHANGES.items():
            results = evaluate.evaluate(
                map(function, store.whole_images(file)), names, predictor)
            print_row(change, *measures(results))


if __name__ == '__main__':
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
