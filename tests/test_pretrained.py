"""The networks that come with the code, as their users call them."""
import os

import imageio.v3 as iio
import pytest

from conftest import ROOT
from nets import saved
from nets.tf1 import tf
from prediction import Predictor

# The first image of `synthetic.make` with seed 5. The networks know real
# tissue alone, so neither it nor its like was trained on.
IMAGE = os.path.join(ROOT, 'docs', 'figures', 'synthetic.png')
# The lines of the README, from another folder, and those that users of an
# earlier project know.
LINES = '''
import imageio.v3 as iio
import matplotlib
import numpy as np
matplotlib.use('Agg')

from prediction import Predictor
image = iio.imread(IMAGE)[:96, :128]
predictor = Predictor.load('checkpoints/pretrained/unet', average=False)
nuclei = predictor(image)
assert nuclei.labels.max() == len(nuclei.table()['area_px2']) > 2

import nets
from eval import display
images = image[np.newaxis] / 255
model = nets.build('unet')
model.load_weights(WEIGHTS)
prediction = model.predict(images)
assert prediction.shape == (1, 96, 128, 1)
prediction = prediction.round(0)
display.display_masked(images, prediction, 'Tissue Image', 'Predicted Mask')
assert np.mean(prediction[0, ..., 0] == (nuclei.probability > 0.5)) > 0.99
'''


def f1(mask):
    """F1 of a mask of IMAGE."""
    truth = iio.imread(IMAGE.replace('.png', '_truth.png')) > 0
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize('net', sorted(os.listdir(saved.PRETRAINED)))
def test_shipped_networks(net):
    predictor = Predictor.load(os.path.join(saved.PRETRAINED, net))
    assert predictor.average
    predictor.average = False  # which takes a third of the time
    nuclei = predictor(iio.imread(IMAGE))
    assert f1(nuclei.mask > 0) > 0.8


def test_predict_without_training(program, tmp_path, monkeypatch):
    # Where there are no trained networks.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saved, 'PROJECT', str(tmp_path))
    iio.imwrite('a.png', iio.imread(IMAGE)[:64, :64])
    process = program('--mode=predict', '--net=unet', '--images=a.png',
                      '--output_dir=out')
    assert process.returncode == 0, process.stderr
    assert ('shipped with the code, trained on MoNuSeg, step 12000'
            in process.stdout)
    assert (tmp_path / 'out' / 'a_mask.png').exists()


@pytest.mark.filterwarnings('error::UserWarning:prediction')
def test_lines_of_a_notebook_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = os.path.join(saved.PRETRAINED, 'unet', 'weights.h5')
    with tf.Graph().as_default():
        exec(LINES, {'IMAGE': IMAGE, 'WEIGHTS': weights})
    assert os.listdir(tmp_path) == []
