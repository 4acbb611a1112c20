"""StarDist's network for H&E, to be timed; see `turns`.

    python -m benchmarks.stardist_he SIDE

Forward passes alone of the architecture of its model 2D_versatile_he (Schmidt
et al., MICCAI 2018) with random weights, on one image.
"""
import contextlib
import sys

import numpy as np
from stardist.models import Config2D, StarDist2D

from benchmarks.turns import serve

MULTIPLE = 16  # of the sides: three poolings after one of the grid's


def main(side):
    """Serves turns of one image of SIDE x SIDE, padded as StarDist does."""
    side = -(-int(side) // MULTIPLE) * MULTIPLE
    # The turns are told on stdout, on which StarDist says its thresholds.
    with contextlib.redirect_stdout(sys.stderr):
        # Whatever is left out has the published model's value.
        network = StarDist2D(Config2D(n_rays=32, grid=(2, 2), n_channel_in=3),
                             basedir=None).keras_model
    image = np.random.RandomState(0).rand(1, side, side, 3).astype(np.float32)
    serve(lambda: network.predict_on_batch(image), 1, 1)


if __name__ == '__main__':
    main(*sys.argv[1:])
