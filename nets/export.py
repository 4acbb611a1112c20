"""A trained network as files that other programs open.

saved_model/ has channels last, as TensorFlow has them. The ONNX files have
them first, as their readers do, and are a package for bioimage.io's readers.
"""
import os
import re
import subprocess
import tempfile

import numpy as np

import nets
from histology import listing
from histology.files import InputError, atomic_write, write_json
from nets import saved

ENVIRONMENT = '.venv-onnx'
SET_UP = 'ENGINE=onnx ./run.sh setup'
RECORD = 'export.json'
INPUT, OUTPUT = 'images', 'probability'
TENSORS = ['images:0', 'output:0']  # the same in the frozen graphs
SIDE = 512  # of model.onnx and of the image that every file is tried on
# The ONNX files and their readers. OpenCV, by which QuPath reads them, takes
# one size alone.
FILES = {'model': ('ONNX Runtime', 'OpenCV'),
         'model_dynamic': ('ONNX Runtime',)}
OPSET = 15
HALO = 96  # pixels of overlap; U-Net and DeepLabV3 need more: docs/history.md
TOLERANCE = 1e-4  # of probabilities
# Of SegNet's on average. Where two values of a pooling window are almost
# equal, rounding decides whose position it remembers, and pixels differ.
TIES_TOLERANCE = 1e-3


def check_output_dir(output_dir):
    """Refuse, by InputError, all but an earlier export and empty folders."""
    remedy = 'move it or choose another --output_dir'
    path, known = os.path.join(output_dir, RECORD), {}
    if os.path.exists(path):
        known = saved.read_json(path, {'files': dict}, remedy)['files']
    if os.path.lexists(output_dir) and not os.path.isdir(output_dir):
        raise InputError(f'--output_dir {output_dir}: no folder; {remedy}')
    if os.path.ismount(os.path.realpath(output_dir)):
        raise InputError(f'--output_dir {output_dir}: a drive is mounted '
                         'there, so it cannot be replaced; give a folder in '
                         'it')
    for name in _names(output_dir):
        path = os.path.join(output_dir, name)
        ours = name in known and known[name] == listing.file_digest(path)
        if name != RECORD and not ours:
            raise InputError(f'{path}: not of an earlier export, or changed '
                             f'since; {remedy}')


def _names(folder):
    """Yield the paths of a folder's files, relative to it."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders
                 if os.path.islink(os.path.join(parent, name))]
        for name in names + links:
            yield os.path.relpath(os.path.join(parent, name), folder)


def has_onnx():
    """Say whether the environment is set up that writes ONNX."""
    return os.path.exists(  # run.sh writes it last
        os.path.join(saved.PROJECT, ENVIRONMENT, 'requirements.txt'))


def export(session, model, record, output_dir, licence=None):
    """Write the files of a network; the folder appears only when whole.

    Args:
        session, model, record: of `saved.load_network`.
        output_dir: made if missing; an earlier export is replaced.
        licence: the network's, as SPDX writes it, or None.

    Returns:
        dict of 'FILE in READER' to the largest difference of a probability
        from the network's; without .venv-onnx there are no ONNX files.

    Raises:
        InputError: `output_dir` holds other files or cannot be written,
            .venv-onnx is damaged, or a file differs from the network.
    """
    from histology import images, synthetic  # for a fast start of main.py
    check_output_dir(output_dir)
    sample, _ = synthetic.make(np.random.RandomState(0), SIDE)
    batch = (sample / np.float32(255))[np.newaxis]
    batches = {'saved_model': batch, 'model': batch,
               'model_dynamic': batch[:, :256, :384]}
    values = session.run(
        {variable.op.name: variable for variable in model.weights})
    ties = getattr(nets.module_of(model.name), 'PORTABLE', False)
    with atomic_write(os.path.realpath(output_dir)) as folder:
        os.mkdir(folder)
        found = {('saved_model', 'TensorFlow'): _write_saved_model(
            _freeze(record, values, None), f'{folder}/saved_model', batch)}
        images.write_png(f'{folder}/sample.png', sample)
        if has_onnx():
            found.update(_write_onnx(
                [_freeze(record, values, side, portable=True)
                 for side in (SIDE, None)], folder, batches))
            for name, array in (('input', np.float32(sample)[np.newaxis]),
                                ('output', found['model', 'ONNX Runtime'])):
                np.save(f'{folder}/test_{name}.npy',
                        array.transpose(0, 3, 1, 2))
            write_json(f'{folder}/rdf.yaml', _describe(  # YAML takes JSON
                model.name, record, licence, ties))
        differences = {}
        for (name, reader), output in found.items():
            what = f'{name} in {reader}'
            expected = session.run(model.output, {model.input: batches[name]})
            differences[what] = _compare(what, output, expected, ties)
        write_json(f'{folder}/{RECORD}', {
            'record': record, 'largest_differences': differences,
            'files': {name: listing.file_digest(os.path.join(folder, name))
                      for name in _names(folder)}})
    return differences


def _compare(what, output, expected, ties):
    """Return the largest difference of two arrays, refused if too large."""
    difference = np.abs(output - expected)
    largest = float(difference.max())
    if not (largest <= TOLERANCE  # NaN is not
            or ties and difference.mean() <= TIES_TOLERANCE):
        raise InputError(
            f'{what}: differs from the network by {largest:.2g}, so nothing '
            f'was written; set up anew: rm -r {ENVIRONMENT}; {SET_UP}')
    return largest


def _freeze(record, values, side, portable=False):
    """Serialise a network's graph, which has TENSORS.

    Its variables are constants, for 1.15 does not know those of 2.15.

    Args:
        record, portable: as for `nets.build`.
        values: dict of the variables' names to arrays.
        side: of the one image that it takes, or None for any images.
    """
    from nets.tf1 import tf
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.keras.backend.set_session(session)
        count = 1 if side else None
        images = tf.placeholder(tf.float32, [count, side, side, 3], 'images')
        model = nets.build(record['net'], record['width'],
                           record['output_stride'], images, portable=portable)
        tf.identity(model.output, 'output')
        saved.initialise(model.weights, values, session)
        return tf.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), ['output']).SerializeToString()


def _write_saved_model(frozen, folder, images):
    """Write a SavedModel; return what it makes of images [N, H, W, 3]."""
    from nets.tf1 import session_config, tf
    tags = [tf.saved_model.tag_constants.SERVING]
    with tf.Session(graph=tf.Graph()) as session:
        tensors = tf.import_graph_def(tf.GraphDef.FromString(frozen), name='',
                                      return_elements=TENSORS)
        builder = tf.saved_model.Builder(folder)
        builder.add_meta_graph_and_variables(
            session, tags, {
                'serving_default': tf.saved_model.predict_signature_def(
                    {INPUT: tensors[0]}, {OUTPUT: tensors[1]})},
            strip_default_attrs=True)  # 1.15 does not know all of 2.15's
    try:
        builder.save()
    except tf.errors.OpError as error:
        raise InputError(f'{folder}: cannot be written ({error.message}); '
                         'choose another folder or make room') from error
    with tf.Session(graph=tf.Graph(), config=session_config(False)) as session:
        tf.saved_model.load(session, tags, folder)
        return session.run(TENSORS[1], {TENSORS[0]: images})


def _write_onnx(frozen, folder, batches):
    """Write FILES of a list of frozen graphs; run them on their batches.

    Returns:
        dict of (name, reader) to probabilities, float32 [N, H, W, 1].
    """
    with tempfile.TemporaryDirectory() as work:
        for name, graph in zip(FILES, frozen):
            with open(f'{work}/{name}.pb', 'wb') as file:
                file.write(graph)
            np.save(f'{work}/{name}.npy', batches[name])
        python = os.path.join(saved.PROJECT, ENVIRONMENT, 'bin', 'python')
        try:
            subprocess.run([python, '-m', 'nets.to_onnx', work, folder],
                           cwd=saved.PROJECT, check=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           universal_newlines=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, 'output', None) or str(error)
            raise InputError(
                f'{ENVIRONMENT}: fails ({said.strip().splitlines()[-1]}); set '
                f'it up anew: rm -r {ENVIRONMENT}; {SET_UP}') from error
        return {(name, reader): np.load(f'{work}/{name} {reader}.npy')
                for name, readers in FILES.items() for reader in readers}


def _describe(net, record, licence, ties):
    """Return what rdf.yaml says, in bioimage.io's format 0.5."""
    from histology.resample import MICRONS_PER_PIXEL  # needs Pillow
    paper = (nets.module_of(net).__doc__ or 'no paper').splitlines()[0]
    number = re.search(r'arXiv:([\d.]+\d)|$', paper).group(1) or ''

    def tensor(name, channels, test, low_high, sizes, **more):
        return {
            'id': name, 'test_tensor': {'source': f'test_{test}.npy'},
            'data': {'type': 'float32', 'range': low_high},
            'axes': [{'type': 'batch', 'size': 1},
                     {'type': 'channel', 'channel_names': channels},
                     *({'type': 'space', 'id': axis, 'unit': 'micrometer',
                        'scale': MICRONS_PER_PIXEL, **sizes(axis)}
                       for axis in 'yx')], **more}

    return {
        'format_version': '0.5.3', 'type': 'model',
        'name': f'Nuclei in histology ({net})',
        'description': f'{net}, trained on {record["data_source"]}, step '
        f'{record["step"]}: probability of nucleus in H&E',
        'authors': [{'name': 'the authors'}], 'license': licence,
        'cite': [{'text': paper, 'url': f'https://arxiv.org/abs/{number}'}],
        'attachments': [{'source': 'model_dynamic.onnx'}],
        'inputs': [tensor(
            INPUT, ['red', 'green', 'blue'], 'input', [0, 255],
            lambda axis: {'size': SIDE},
            sample_tensor={'source': 'sample.png'},
            preprocessing=[{'id': 'scale_linear', 'kwargs': {
                'gain': 1 / 255, 'offset': 0}}])],
        'outputs': [tensor(
            OUTPUT, ['nucleus'], 'output', [0, 1], lambda axis: {
                'size': {'tensor_id': INPUT, 'axis_id': axis}, 'halo': HALO})],
        'weights': {'onnx': {'source': 'model.onnx', 'opset_version': OPSET}},
        'config': {'bioimageio': {'reproducibility_tolerance': [
            {'mismatched_elements_per_million': 1000}] if ties else []}}}
