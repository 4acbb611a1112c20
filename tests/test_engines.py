"""What one engine writes the others read: checkpoints and weights.

The others are those that ./run.sh has set up beside the one that runs the
tests; .ci/run sets up all and runs the tests on both versions of TensorFlow.
"""
import shutil
import sys

import numpy as np
import pytest
from test_export import saved_models  # noqa: F401, a fixture

from conftest import OTHERS, run, train_flags
from nets.tf1 import tf

# Predicts an array of images from model folders, from their weights as in a
# notebook, and from their SavedModels.
PREDICT = '''
import sys
import numpy as np
import nets
from nets import saved
from nets.tf1 import tf
folder, exported, images, output = sys.argv[1:]
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
    with tf.Session(graph=tf.Graph()) as session:
        signature = tf.saved_model.load(
            session, ['serve'], f'{exported}/{net}/saved_model'
        ).signature_def['serving_default']
        predictions.append(session.run(
            signature.outputs['probability'].name,
            {signature.inputs['images'].name: images}))
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


def test_all_engines_predict_the_same(
        trained, saved_models, tmp_path, monkeypatch):  # noqa: F811
    images = np.random.RandomState(0).rand(2, 64, 96, 3).astype(np.float32)
    np.save(tmp_path / 'images.npy', images)
    given = [*map(str, (trained, saved_models, tmp_path / 'images.npy',
                        tmp_path / 'output.npy'))]
    monkeypatch.setattr(sys, 'argv', ['-c', *given])
    exec(PREDICT, {})
    here = np.load(given[-1])
    assert here.shape == (9, 2, 64, 96, 1)
    # No constant, which would hide errors.
    assert here.std(axis=(1, 2, 3, 4)).min() > 1e-3
    for whole, *others in zip(here[::3], here[1::3], here[2::3]):
        for found in others:
            np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4)
    for python in OTHERS:
        output_of(python, '-c', PREDICT, *given)
        np.testing.assert_allclose(np.load(given[-1]), here, rtol=0,
                                   atol=1e-4)


def test_other_engines_resume(data_dir, trained, tmp_path, other):
    shutil.copytree(str(trained / 'unet'), str(tmp_path / 'unet'))
    output = output_of(other, 'main.py',
                       *train_flags(data_dir, tmp_path, 'unet', 7))
    assert 'resuming at step 6 of 7' in output
    # Adam's moments too are what the other engine finds under their names.
    names = [dict(tf.train.list_variables(
        tf.train.latest_checkpoint(str(folder / 'unet'))))
        for folder in (trained, tmp_path)]
    assert names[0] == names[1]
