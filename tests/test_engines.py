"""What one engine writes the others read: checkpoints and weights.

The others are those that ./run.sh has set up beside the one that runs the
tests; .ci/run sets up all and runs the tests on each.
"""
import glob
import os
import shutil
import sys

import numpy as np
import pytest

from conftest import NETS, ROOT, run, train_flags
from nets.tf1 import tf

OTHERS = sorted(
    folder for folder in glob.glob(os.path.join(ROOT, '.venv-tf*'))
    if os.path.realpath(folder) != os.path.realpath(sys.prefix))

# Predicts an array of images from a model folder's best checkpoint, and from
# its weights as in a notebook.
PREDICT = '''
import sys
import numpy as np
import nets
from nets import saved
folder, net, images, output = sys.argv[1:]
images = np.load(images)
session, model, _ = saved.load_network(folder, net)
restored = session.run(model.output, {model.input: images})
model = nets.build(net, width=4)
model.load_weights(folder + '/weights.h5')
np.save(output, [restored, model.predict(images)])
'''


def output_of(*command):
    process = run(*command)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(params=OTHERS, ids=[os.path.basename(folder)
                                    for folder in OTHERS])
def other(request):
    """Another engine's Python."""
    return os.path.join(request.param, 'bin', 'python')


@pytest.mark.parametrize('net', NETS)
def test_other_engines_predict_the_same(trained, tmp_path, other, net):
    images = np.random.RandomState(0).rand(2, 64, 96, 3).astype(np.float32)
    np.save(tmp_path / 'images.npy', images)
    predictions = []
    for name, python in (('here', sys.executable), ('there', other)):
        output = tmp_path / f'{name}.npy'
        output_of(python, '-c', PREDICT, trained / net, net,
                  tmp_path / 'images.npy', output)
        predictions.extend(np.load(output))
    assert predictions[0].shape == (2, 64, 96, 1)
    assert predictions[0].std() > 1e-3  # no constant, which would hide errors
    for prediction in predictions[1:]:
        np.testing.assert_allclose(prediction, predictions[0], rtol=0,
                                   atol=1e-4)


def test_other_engines_resume(data_dir, trained, tmp_path, other):
    shutil.copytree(str(trained / 'unet'), str(tmp_path / 'unet'))
    output = output_of(other, 'main.py',
                       *train_flags(data_dir, tmp_path, 'unet', 9))
    assert 'resuming at step 6 of 9' in output
    # Adam's moments too are what the other engine finds under their names.
    names = [dict(tf.train.list_variables(
        tf.train.latest_checkpoint(str(folder / 'unet'))))
        for folder in (trained, tmp_path)]
    assert names[0] == names[1]
