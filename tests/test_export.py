"""--mode=export: what other programs open is the network that it was."""
import json
import os
import re
import shutil
import stat
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from test_pretrained import f1

from conftest import NETS, ROOT, on_a_small_disk, one_line, run
from histology.files import InputError
from inputs import message
from nets import export, saved, segnet
from nets.tf1 import VERSION_1, tf

needs_onnx = pytest.mark.skipif(
    not export.has_onnx(), reason=f'needs {export.SET_UP}')
SAVED_MODEL_FILES = {'saved_model', 'sample.png', 'export.json'}


def export_here(program, model_dir, net, output_dir, environment):
    """Exports with an environment for ONNX, or none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, 'ENVIRONMENT', environment)
        return program('--mode=export', f'--net={net}',
                       f'--model_dir={model_dir}',
                       f'--output_dir={output_dir}')


@pytest.fixture(scope='session')
def saved_models(once, program, trained):
    """A folder of each trained network's export without ONNX."""
    def fill(folder):
        for net in NETS:
            process = export_here(program, trained, net, folder / net,
                                  'no environment')
            assert process.returncode == 0, process.stderr
            assert process.stdout.splitlines()[-1] == (
                f'exported: {folder}/{net}; without ONNX files, for which run '
                '"ENGINE=onnx ./run.sh setup" and export again')

    return once('saved_models', fill)


@pytest.mark.parametrize('net', NETS)
def test_a_saved_model_says_what_it_takes(saved_models, net):
    folder = saved_models / net
    assert set(os.listdir(folder)) == SAVED_MODEL_FILES
    with tf.Session(graph=tf.Graph()) as session:
        signature = tf.saved_model.load(
            session, ['serve'], str(folder / 'saved_model')
        ).signature_def['serving_default']
        for tensors, name, channels in (
                (signature.inputs, 'images', 3),
                (signature.outputs, 'probability', 1)):
            assert list(tensors) == [name]
            assert tensors[name].dtype == tf.float32.as_datatype_enum
            assert [size.size for size in tensors[name].tensor_shape.dim] == [
                -1, -1, -1, channels]
        with pytest.raises(tf.errors.InvalidArgumentError,
                           match='multiples of'):
            session.run(signature.outputs['probability'].name,
                        {signature.inputs['images'].name:
                         np.zeros((1, 33, 64, 3))})


def test_segnets_portable_form_gives_the_same():
    # Many ties.
    x = np.random.RandomState(0).randint(0, 3, (2, 6, 8, 5)).astype('f')
    with tf.Graph().as_default(), tf.Session() as session:
        pooled, positions = segnet.max_pool(tf.constant(x))
        portable, corners = segnet.portable_max_pool(tf.constant(x))
        values = tf.constant(1 + np.arange(pooled.shape.num_elements(),
                                           dtype='f').reshape(pooled.shape))
        results = session.run([
            pooled, portable, segnet.unpool(values, positions),
            segnet.portable_unpool(values, corners)])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[2], results[3])
    # The window of the first row and column, by hand.
    first = x[0, :2, :2, 0].argmax()
    expected = np.zeros(4)
    expected[first] = 1
    np.testing.assert_array_equal(results[3][0, :2, :2, 0].ravel(), expected)


def test_only_an_unchanged_export_is_replaced(program, trained, saved_models,
                                              tmp_path):
    folder = tmp_path / 'exported'
    shutil.copytree(str(saved_models / 'unet'), str(folder))

    def again():
        return export_here(program, trained, 'segnet', folder, 'none')

    for name, content in (('notes.txt', 'mine'), ('sample.png', 'changed'),
                          ('saved_model/saved_model.pb', 'changed')):
        path = folder / name
        before = path.read_bytes() if path.exists() else None
        path.write_text(content)
        one_line(again(), str(path), 'move it or choose another --output_dir')
        assert path.read_text() == content
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    link = folder / 'slides'
    link.symlink_to(tmp_path)
    one_line(again(), str(link), 'move it or choose another --output_dir')
    link.unlink()
    record = folder / 'export.json'
    before = record.read_bytes()
    record.write_text('{}')
    one_line(again(), str(record), 'lacks files')
    record.write_bytes(before)

    assert json.loads(before.decode())['record']['net'] == 'unet'
    assert again().returncode == 0
    assert json.loads(record.read_text())['record']['net'] == 'segnet'
    assert os.listdir(tmp_path) == ['exported']


def test_what_is_no_folder_is_refused(program, trained, tmp_path):
    (tmp_path / 'file').write_text('mine')
    one_line(export_here(program, trained, 'unet', tmp_path / 'file', 'none'),
             '--output_dir', 'no folder')
    one_line(export_here(program, trained, 'unet', tmp_path / 'file' / 'new',
                         'none'), 'cannot be written')
    assert (tmp_path / 'file').read_text() == 'mine'


def fake_environment(folder, code):
    """Makes an environment whose Python runs some code, and returns it."""
    (folder / 'bin').mkdir(parents=True)
    (folder / 'requirements.txt').write_text('')
    python = folder / 'bin' / 'python'
    python.write_text(f'#!{sys.executable}\n{code}')
    python.chmod(python.stat().st_mode | stat.S_IEXEC)
    if not code:
        python.unlink()
    return folder


DAMAGED = 'import sys; sys.exit("no module onnx")'
WRONG = '''
import sys
import numpy as np
work, out = sys.argv[-2:]
for name, readers in (('model', ('ONNX Runtime', 'OpenCV')),
                      ('model_dynamic', ('ONNX Runtime',))):
    open(f'{out}/{name}.onnx', 'w').close()
    images = np.load(f'{work}/{name}.npy')
    for reader in readers:
        np.save(f'{work}/{name} {reader}.npy', images[..., :1])
'''


@pytest.mark.parametrize('code, word', [('', 'bin/python'),
                                        (DAMAGED, 'no module onnx')])
def test_an_environment_that_fails(tmp_path, monkeypatch, code, word):
    monkeypatch.setattr(export, 'ENVIRONMENT', str(
        fake_environment(tmp_path / 'environment', code)))
    said = message(export._write_onnx, [b'', b''], str(tmp_path),
                   dict.fromkeys(export.FILES, np.zeros(1)))
    assert word in said and 'set it up anew' in said


def test_a_failure_leaves_the_earlier_export(program, trained, saved_models,
                                             tmp_path):
    folder = tmp_path / 'out' / 'exported'
    shutil.copytree(str(saved_models / 'unet'), str(folder))
    environment = fake_environment(tmp_path / 'environment', WRONG)
    one_line(export_here(program, trained, 'unet', folder, str(environment)),
             'model in ONNX Runtime: differs from the network by 0.',
             'nothing was written')
    assert os.listdir(tmp_path / 'out') == ['exported']
    export.check_output_dir(str(folder))
    assert set(os.listdir(folder)) == SAVED_MODEL_FILES


def test_a_drive_cannot_be_replaced(tmp_path):
    process = on_a_small_disk(
        '"$3" -c "$4" "$1"', tmp_path, '1m',
        'import sys; from nets import export; from inputs import message; '
        'print(message(export.check_output_dir, sys.argv[1]))')
    assert process.stdout == (
        f'--output_dir {tmp_path}: a drive is mounted there, so it cannot be '
        'replaced; give a folder in it\n')


def test_how_far_a_file_may_be_from_the_network():
    expected = np.full((1, 100, 100, 1), 0.5, 'f')
    near, few, many = (expected.copy() for _ in range(3))
    near += 9e-5
    few[0, 0] += 0.09  # 1 % of the pixels: 0.0009 on average
    many[0, :2] += 0.09
    assert export._compare('', near, expected, False) < 1e-4
    assert export._compare('', few, expected, True) > 0.08
    for output, ties in ((few, False), (many, True),
                         (expected * np.nan, True)):
        with pytest.raises(InputError, match='model: differs'):
            export._compare('model', output, expected, ties)


@needs_onnx
# Once for what depends on the engine that writes the graph.
@pytest.mark.parametrize('net', ('segnet',) if VERSION_1 else (
    'segnet', 'deeplabv3'))
def test_onnx_files_and_package(program, trained, tmp_path, net):
    process = program('--mode=export', f'--net={net}',
                      f'--model_dir={trained}', f'--output_dir={tmp_path}/new')
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == f'exported: {tmp_path}/new'
    lines = process.stdout.splitlines()[1:-1]
    assert [line.split(':')[0] for line in lines] == [
        'saved_model in TensorFlow', 'model in ONNX Runtime',
        'model in OpenCV', 'model_dynamic in ONNX Runtime']
    folder = tmp_path / 'new'
    check_package(folder, trained / net)
    export.check_output_dir(str(folder))


def check_package(folder, model_folder):
    """Checks rdf.yaml and its arrays against the network in a folder."""
    description = json.loads((folder / 'rdf.yaml').read_text())
    sources = re.findall(r'"source": "(.*)"', json.dumps(
        description, indent=0))
    assert set(sources) == {'model.onnx', 'model_dynamic.onnx', 'sample.png',
                            'test_input.npy', 'test_output.npy'}
    assert all((folder / source).exists() for source in sources)
    given = np.load(folder / 'test_input.npy')
    found = np.load(folder / 'test_output.npy')
    assert (given.shape, found.shape) == ((1, 3, 512, 512), (1, 1, 512, 512))
    sample = iio.imread(folder / 'sample.png')
    np.testing.assert_array_equal(given[0].transpose(1, 2, 0), sample)
    session, model, *_ = saved.load_network(str(model_folder))
    expected = session.run(model.output, {model.input: sample[None] / 255})
    difference = np.abs(found.transpose(0, 2, 3, 1) - expected)
    assert difference.mean() < 1e-4
    gain = description['inputs'][0]['preprocessing'][0]['kwargs']['gain']
    assert gain * 255 == 1


@needs_onnx
@pytest.mark.skipif(VERSION_1, reason='once is enough: on 2.15')
def test_the_lines_of_the_page(program, tmp_path):
    """The shipped U-Net, run as docs/other-programs.md says."""
    process = program('--mode=export', '--net=unet',
                      '--model_dir=checkpoints/pretrained',
                      f'--output_dir={tmp_path}/exported')
    assert process.returncode == 0, process.stderr
    assert 'unet, shipped with the code' in process.stdout
    check_package(tmp_path / 'exported', os.path.join(saved.PRETRAINED,
                                                      'unet'))
    assert '"license": "CC-BY-NC-SA-4.0"' in (
        tmp_path / 'exported' / 'rdf.yaml').read_text()
    with open(os.path.join(ROOT, 'docs', 'other-programs.md')) as file:
        code, = re.findall('```python\n(.*?)```', file.read(), re.DOTALL)
    shutil.copy(os.path.join(ROOT, 'docs/figures/synthetic.png'),
                str(tmp_path / 'image.png'))
    process = run(os.path.join(ROOT, export.ENVIRONMENT, 'bin', 'python'),
                  '-c', code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    mask = iio.imread(tmp_path / 'mask.png')
    assert mask.shape == (320, 320)
    assert set(np.unique(mask)) == {0, 255}
    assert f1(mask > 0) > 0.8
