"""The networks that come with the code, and what the README shows."""
import os
import re
import sys

import imageio.v3 as iio
import numpy as np
import pytest

from conftest import NETS, ROOT, run

# The first image of `sample.make` with seed 5. The networks know real tissue
# alone, so neither it nor its like was trained on.
IMAGE = os.path.join(ROOT, 'docs', 'synthetic.png')


def readme():
    with open(os.path.join(ROOT, 'README.md')) as file:
        return file.read()


def f1(mask):
    """F1 of a mask of IMAGE."""
    truth = iio.imread(os.path.join(ROOT, 'docs', 'synthetic_truth.png')) > 0
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize('net', NETS)
def test_predict_without_training(tmp_path, net):
    # Elsewhere than in the project's folder there are no trained networks.
    process = run(sys.executable, os.path.join(ROOT, 'main.py'),
                  '--mode=predict', f'--net={net}', f'--images={IMAGE}',
                  '--output_dir=out', cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert 'no network trained here' in process.stderr
    mask = iio.imread(tmp_path / 'out' / 'synthetic_mask.png')
    assert f1(mask > 0) > 0.8


def test_notebook_lines_of_the_readme(tmp_path):
    lines, = re.findall('```python\n(.*?)```', readme(), re.DOTALL)
    output = tmp_path / 'prediction.npy'
    # As a script, and the figure drawn but not shown.
    process = run(sys.executable, '-c', f'{lines}\nimport numpy\n'
                  f'numpy.save({str(output)!r}, prediction)',
                  MPLBACKEND='agg')
    assert process.returncode == 0, process.stderr
    prediction = np.load(output)
    assert prediction.shape == (1, 320, 320, 1)
    assert set(np.unique(prediction)) == {0, 1}
    assert f1(prediction[0, :, :, 0] > 0) > 0.8


def test_files_that_the_readme_shows_are_there():
    targets = re.findall(r'\]\((?!http|#)([^)]+)\)', readme())
    assert 'docs/unet.png' in targets
    assert [target for target in targets
            if not os.path.exists(os.path.join(ROOT, target))] == []
