"""What one engine writes the others read: checkpoints and weights.

The others are those that ./run.sh has set up beside the one that runs the
tests; .ci/run sets up all and runs the tests on both versions of TensorFlow.
"""
import shutil
import sys

import numpy as np
import pytest

from conftest import OTHERS, run, train_flags
from nets.tf1 import tf

# Predicts an array of images from model folders, and from their weights as in
# a notebook.
PREDICT = '''
import sys
import numpy as np
import nets
from nets import saved
from nets.tf1 import tf
folder, images, output = sys.argv[1:]
images = np.load(images)
predictions = []
for net in ('segnet', 'unet', 'deeplabv3'):
    session, model, *_ = saved.load_network(f'{folder}/{net}', net)
    predictions.append(session.run(model.output, {model.input: images}))
    with tf.Graph().as_default(), tf.Session() as session:
        tf.keras.backend.set_session(session)
        model = nets.build(net, width=4)
        model.load_weights(f'{folder}/{net}/weights.h5')
        predictions.append(model.predict(images))
np.save(output, predictions)
'''


def output_of(*command):
    process = run(*command)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(params=OTHERS)
def other(request):
    """Another engine's Python."""
    return request.param


def test_other_engines_predict_the_same(trained, tmp_path, other):
    images = np.random.RandomState(0).rand(2, 64, 96, 3).astype(np.float32)
    np.save(tmp_path / 'images.npy', images)
    predictions = []
    for name, python in (('here', sys.executable), ('there', other)):
        output = tmp_path / f'{name}.npy'
        output_of(python, '-c', PREDICT, trained, tmp_path / 'images.npy',
                  output)
        predictions.append(np.load(output))
    assert predictions[0].shape == (6, 2, 64, 96, 1)
    # No constant, which would hide errors.
    assert predictions[0].std(axis=(1, 2, 3, 4)).min() > 1e-3
    for whole, of_weights in zip(predictions[0][::2], predictions[0][1::2]):
        np.testing.assert_allclose(whole, of_weights, rtol=0, atol=1e-4)
    np.testing.assert_allclose(*predictions, rtol=0, atol=1e-4)


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
