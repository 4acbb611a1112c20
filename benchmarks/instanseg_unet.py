"""InstanSeg's network, to be timed; see `turns`.

    python -m benchmarks.instanseg_unet SIDE

Forward passes alone of its architecture (Goldsborough et al., 2024,
arXiv:2408.15954) with random weights, on one image at its own 0.5 micrometres
per pixel, traced, frozen and channels_last as `unet_torch`.
"""
import contextlib
import sys

import torch
from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet

from benchmarks.turns import serve

MULTIPLE = 8  # of the sides: three poolings
OUTPUTS = [[2, 2, 1]]  # for nuclei, as published


def main(side):
    """Serves turns of one image of SIDE x SIDE, padded to MULTIPLE."""
    side = -(-int(side) // MULTIPLE) * MULTIPLE
    image = torch.rand(1, 3, side, side).to(memory_format=torch.channels_last)
    # The turns are told on stdout.
    with contextlib.redirect_stdout(sys.stderr), torch.inference_mode():
        network = InstanSeg_UNet(3, OUTPUTS).to(
            memory_format=torch.channels_last).eval()
        network = torch.jit.freeze(torch.jit.trace(network, image))

    def run():
        with torch.inference_mode():
            network(image)

    serve(run, 1, 1)


if __name__ == '__main__':
    main(*sys.argv[1:])
