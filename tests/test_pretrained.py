"""The networks that come with the code."""
import os
import sys

import imageio.v3 as iio
import pytest

from conftest import ROOT, run
from nets import saved

# The first image of `synthetic.make` with seed 5. The networks know real
# tissue alone, so neither it nor its like was trained on.
IMAGE = os.path.join(ROOT, 'docs', 'figures', 'synthetic.png')


def f1(mask):
    """F1 of a mask of IMAGE."""
    truth = iio.imread(IMAGE.replace('.png', '_truth.png')) > 0
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize('net', sorted(os.listdir(saved.PRETRAINED)))
def test_predict_without_training(tmp_path, net):
    # Elsewhere than in the project's folder there are no trained networks.
    process = run(sys.executable, os.path.join(ROOT, 'main.py'),
                  '--mode=predict', f'--net={net}', f'--images={IMAGE}',
                  '--output_dir=out', cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert ('shipped with the code, trained on MoNuSeg, step 4000'
            in process.stdout)
    mask = iio.imread(tmp_path / 'out' / 'synthetic_mask.png')
    assert f1(mask > 0) > 0.8
