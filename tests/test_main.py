"""The program from end to end, in processes of its own as a user starts it."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

import main
import nets
from conftest import (
    NETS,
    ROOT,
    end_of,
    masks_of,
    messages,
    on_a_small_disk,
    one_line,
    read_json,
    run,
    run_main,
    start,
    train_flags,
)
from eval import display, pixel_metrics
from histology.images import read_labels
from input_pipeline import augment, store
from inputs import training_data
from nets import saved
from nets.tf1 import tf
from prediction import instances
from training import checkpoints, loss


def scalars(folder):
    """(tag, step) of all scalars in a folder's event files."""
    events = EventAccumulator(str(folder)).Reload()
    return {(tag, event.step) for tag in events.Tags()['scalars']
            for event in events.Scalars(tag)}


@pytest.mark.parametrize('net', NETS)
def test_training_leaves_checkpoints_weights_and_curves(data_dir, trained,
                                                        net):
    folder, every = trained / net, 3 if net == 'unet' else 6
    with store.open_store(data_dir / 'train.h5') as file:
        digests = store.image_digests(file)
    record = read_json(folder, 'config.json')
    assert record.pop('accelerate') in (True, False)
    assert record.pop('augmentation')['scale'] == list(augment.SCALE)
    assert record.pop('loss_weights')['gap_weight'] == loss.GAP_WEIGHT
    assert record.pop('separation')['min_area'] == instances.MIN_AREA
    assert record == {
        'net': net, 'width': 4, 'normalisation': 'uint8 / 255',
        'target': 'masks with gaps',
        'output_stride': next(iter(nets.output_strides(net)), None),
        'steps': 6, 'batch_size': 2, 'crop_size': 64, 'learning_rate': 0.002,
        'warmup_steps': 0, 'evaluate_every': every, 'augment_threads': 1,
        'seed': 0, 'data_dir': str(data_dir),
        'data_source': 'synthetic sample', 'data_digest': 'made here',
        'data_seed': 7, 'data_fold': '0', 'trained_on': digests,
        'init_checkpoint': None, 'init_data_source': None, 'init_step': None,
        'seen': None, 'changes': []}
    weights, *_ = saved.read_weights(str(folder / 'weights.h5'))
    assert weights['step'] in (every, 6)
    assert {key: weights[key] for key in record} == record
    text, = EventAccumulator(str(folder)).Reload().Tensors('config')
    shown = json.loads(text.tensor_proto.string_val[0].decode())
    assert shown['crop_size'] == 64
    assert tf.train.latest_checkpoint(str(folder)).endswith('model.ckpt-6')
    # The same tag in both runs puts both curves on one chart.
    training, validation = scalars(folder), scalars(folder / 'eval')
    assert not [name for name, _ in training if name.startswith('batch')]
    for tag in ('loss', 'accuracy', 'f1'):
        assert tag in {name for name, _ in training}
        assert {(tag, every), (tag, 6)} <= validation
    for tag in ('aji', 'pq'):
        assert {(tag, every), (tag, 6)} <= validation
        assert tag not in {name for name, _ in training}
    # Of the first image, not of all: those are many.
    assert [event.step for path in (folder / 'eval').glob('events*')
            for event in tf.train.summary_iterator(str(path))
            for value in event.summary.value if value.HasField('image')
            ] == sorted({every, 6})


def test_eval_writes_where_it_is_told(program, data_dir, model_dir, tmp_path):
    shutil.copytree(str(model_dir / 'unet'), str(tmp_path / 'mine/unet'))
    before = sorted(os.listdir(tmp_path / 'mine/unet'))
    command = ('--mode=eval', '--net=unet', f'--data_dir={data_dir}',
               f'--model_dir={tmp_path}/mine', '--noaverage')
    process = program(*command, f'--output_dir={tmp_path}/out')
    assert process.returncode == 0, process.stderr
    flags = read_json(tmp_path, 'out', 'validation.json')['settings']['flags']
    assert flags['threshold'] == 0.5
    # Of other flags they would be lost, and so would another network's.
    for flag, more in (('threshold=0.5', '--threshold=0.4'),
                       (f'model_dir={tmp_path}/mine',
                        f'--model_dir={model_dir}')):
        one_line(program(*command, f'--output_dir={tmp_path}/out', more),
                 f'validation.json: is of --{flag}; choose another')
    assert sorted(os.listdir(tmp_path / 'out')) == [
        'validation.csv', 'validation.json', 'validation_pictures']
    assert sorted(os.listdir(tmp_path / 'mine/unet')) == before
    assert program(*command, f'--output_dir={tmp_path}/out').returncode == 0
    # What a killed one leaves is no obstacle; others' results are.
    for name in ('csv', 'json'):
        (tmp_path / 'out' / f'validation.{name}').unlink()
    assert program(*command, f'--output_dir={tmp_path}/out').returncode == 0
    record = json.dumps({'results': {}, 'settings': {'flags': {
        'net': 'segnet', 'data_dir': str(data_dir)}}})
    for place, name, content in (
            ('a', 'csv', 'mine'), ('b', 'json', '{"a": 1}'),
            ('c', 'json', record)):
        file = tmp_path / place / f'validation.{name}'
        file.parent.mkdir()
        file.write_text(content)
        one_line(program(*command, f'--output_dir={file.parent}'), str(file),
                 'choose another --output_dir')
        assert file.read_text() == content


@pytest.mark.parametrize('net', NETS)
def test_eval_agrees_with_the_evaluation_during_training(
        program, data_dir, model_dir, net):
    process = program('--mode=eval', f'--net={net}', '--noaverage',
                      f'--data_dir={data_dir}', f'--model_dir={model_dir}',
                      '--accelerate=off')
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[0].endswith(', float32')
    content = read_json(model_dir, net, 'validation.json')
    pooled = content['results']['pooled']
    # Two ways to the same number: the Estimator's graph, and the Keras model
    # restored in another graph. A network that knows so little leaves many
    # holes, or marks nothing at all: no precision then.
    best, *_ = saved.read_weights(str(model_dir / net / 'weights.h5'))
    expected = pixel_metrics.compute(pixel_metrics.pool(list(map(
        pixel_metrics.confusion_matrix,
        *masks_of(model_dir / net, net, data_dir / 'validation.h5')))))
    for measured in (best, pooled):
        assert {name: np.nan if measured[name] is None else measured[name]
                for name in expected} == pytest.approx(expected, abs=1e-4,
                                                       nan_ok=True)
    # Nuclei hang on the last decimals more than pixels do.
    mean = content['results']['mean_per_image']
    for measure in ('aji', 'pq'):
        assert mean[measure] == pytest.approx(best[measure], abs=5e-3)
    assert content['settings']['flags']['net'] == net
    assert content['settings']['source'] == 'synthetic sample'
    assert content['settings']['precision'] == 'float32'
    assert content['settings']['config']['crop_size'] == 64
    assert content['settings']['config']['step'] == best['step']
    assert content['settings']['versions']['tensorflow'] == tf.__version__
    with open(model_dir / net / 'validation.csv') as file:
        rows = {row['name']: row for row in csv.DictReader(file)}
    assert list(rows) == ['validation-0', 'validation-1', 'pooled',
                          'mean per image']
    assert float(rows['pooled']['f1']) == pytest.approx(pooled['f1'])
    assert f'{pooled["f1"]:.4f}' in process.stdout
    for picture in ('curves.png', 'validation_pictures/validation-0.png'):
        assert iio.imread(model_dir / net / picture, plugin='pillow').std() > 0


@pytest.mark.parametrize('net', NETS)
def test_predict_and_the_notebook_agree(program, data_dir, trained, tmp_path,
                                        net):
    with store.open_store(data_dir / 'validation.h5') as file:
        image = next(store.whole_images(file))[1][:256, :256]
    (tmp_path / 'in put').mkdir()
    iio.imwrite(tmp_path / 'in put' / 'tissue ä.png', image, plugin='pillow')
    process = program('--mode=predict', f'--net={net}',
                      f'--model_dir={trained}', '--threshold=0.4',
                      '--noaverage', '--accelerate=off',
                      f'--images={tmp_path}/in put/*.png',
                      f'--output_dir={tmp_path}/out')
    assert process.returncode == 0, process.stderr

    with tf.Graph().as_default(), tf.Session() as session:
        tf.keras.backend.set_session(session)
        model = nets.build(net, width=4)
        model.load_weights(str(trained / net / 'weights.h5'))
        prediction = model.predict(image[np.newaxis] / 255.0)
    assert prediction.shape == (1, 256, 256, 1)
    written = iio.imread(tmp_path / 'out' / 'tissue ä_probability.png',
                         plugin='pillow')
    assert np.abs(written - 255 * prediction[0, :, :, 0]).max() <= 0.51
    mask = iio.imread(tmp_path / 'out' / 'tissue ä_mask.png',
                      plugin='pillow')
    # Elsewhere the two may round to different sides of the threshold.
    clear = np.abs(prediction[0, :, :, 0] - 0.4) > 1e-4
    expected = (prediction[0, :, :, 0] > 0.4).astype(np.uint8)
    # With holes and gaps filled.
    _, expected = instances.separate(expected, written, threshold=0.4)
    assert np.array_equal(mask[clear], 255 * expected[clear])
    labels = read_labels(str(tmp_path / 'out' / 'tissue ä_labels.png'))
    assert np.array_equal(
        iio.imread(tmp_path / 'out' / 'tissue ä_overlay.png',
                   plugin='pillow'), display.overlay(image, labels))


def test_tiled_and_whole_results_agree(program, data_dir, tmp_path):
    # A shipped network: one that hardly knows yet decides by the last
    # decimals, or finds nothing at all.
    shutil.copytree(os.path.join(ROOT, 'checkpoints', 'pretrained', 'unet'),
                    str(tmp_path / 'unet'))
    f1 = []
    for max_pixels in (320 * 320, 192 * 192):
        process = program('--mode=eval', '--net=unet',
                          '--noaverage', f'--data_dir={data_dir}',
                          f'--model_dir={tmp_path}',
                          f'--max_pixels={max_pixels}')
        assert process.returncode == 0, process.stderr
        f1.append(read_json(tmp_path, 'unet', 'validation.json')['results']
                  ['pooled']['f1'])
    assert f1[0] != f1[1]
    assert f1[0] == pytest.approx(f1[1], abs=0.005)
    assert f1[0] > 0.5


def test_training_resumes_and_stops_at_the_same_end(program, data_dir,
                                                    model_dir):
    flags = train_flags(data_dir, model_dir, 'unet', 7)
    process = program(*flags)
    assert process.returncode == 0, process.stderr
    assert 'resuming at step 6 of 7' in process.stdout
    assert 'steps changes from 6 to 7 at step 6' in process.stdout
    assert read_json(model_dir, 'unet', 'config.json')['changes'] == [
        {'name': 'steps', 'before': 6, 'now': 7, 'step': 6}]
    assert tf.train.latest_checkpoint(
        os.path.join(model_dir, 'unet')).endswith('model.ckpt-7')
    record = read_json(model_dir, 'unet', 'config.json')
    process = program(*flags, '--learning_rate=0.5')
    assert process.returncode == 0, process.stderr
    assert ('already trained to step 7; give a higher --steps to train longer'
            in process.stdout)
    # What no step was trained with is not recorded.
    assert read_json(model_dir, 'unet', 'config.json') == record
    # The last checkpoint was evaluated, whether or not it is the best.
    assert 'evaluating' not in process.stdout


@pytest.mark.parametrize('flags, words', [
    ([], ['--mode']),
    (['--mode=fly'], ['--mode', 'fly']),
    (['--mode=train'], ['--net']),
    (['--mode=train', '--net=vgg'], ['--net', 'vgg']),
    (['--mode=train', '--net=unet', '--steps=-5'], ['--steps', '-5']),
    (['--mode=train', '--net=unet', '--batch_size=0'], ['--batch_size']),
    (['--mode=train', '--net=unet', '--width=99999'], ['--width']),
    (['--mode=train', '--net=unet', '--learning_rate=nan'],
     ['--learning_rate']),
    (['--mode=train', '--net=unet', '--sepcial=1'], ['sepcial']),
    (['--mode=predict', '--net=unet', '--noaverage=3'], ['--noaverage=3']),
    (['--mode=train', '--net=unet', 'extra'], ['extra']),
    (['train', '--net=unet'], ['--mode=train']),
    (['--mode=train', '--net=unet', '--output_stride=8'],
     ['--output_stride']),
    (['--mode=predict', '--net=unet', '--threshold=1.5'], ['--threshold']),
    (['--mode=train', '--net=unet', '--model_dir=a[1]'],
     ['--model_dir', 'a[1]']),
    (['--mode=train', '--net=unet', '--steps=99999999999'], ['--steps']),
    (['--mode=train', '--net=unet', '--data_dir='], ['--data_dir']),
    (['--mode=train', '--net=unet', '--data_dir=\udce9'],
     ['--data_dir', 'UTF-8']),
    (['--mode=train', '--net=unet', '--init_checkpoint=\udce9.h5'],
     ['--init_checkpoint', 'UTF-8']),
    (['--mode=train', '--net=unet', '--model_dir=file:///a'],
     ['--model_dir', 'file:///a']),
    (['--mode=predict', '--net=unet', '--images='], ['--images']),
    (['--mode=eval', '--net=unet', '--init_checkpoint=w.h5'],
     ['--init_checkpoint: --mode=eval does not read it, only train; omit']),
    (['--mode=predict', '--net=unet', '--images=a', '--batch_size=8'],
     ['--batch_size: --mode=predict does not read it, only train']),
    (['--mode=eval', '--net=unet', '--magnification=20'],
     ['--magnification: --mode=eval does not read it, only prepare, predict']),
    (['--mode=prepare', '--sample', '--net=unet'],
     ['--net: --mode=prepare does not read it']),
    (['--mode=train', '--net=unet', '--noaverage'], ['--average']),
    (['--mode=train', '--net=deeplabv3', '--output_stride=4'],
     ['--output_stride=4: deeplabv3 takes 8 or 16']),
    (['--mode=predict', '--net=unet', '--images=a', '--data_dir=b'],
     ['--data_dir', '--split']),
    (['--mode=predict', '--net=unet', '--images=/no/such'], ['/no/such']),
    *((['--mode=predict', '--net=unet', '--images=a', f'--outputs={given}'],
       ['--outputs', 'give some of mask,probability,'])
      for given in ('', 'masks', 'mask,,labels')),
    (['--mode=predict', '--net=unet', '--images=a', '--magnification=40',
      '--microns_per_pixel=0.25'], ['--microns_per_pixel already gives']),
    (['--mode=predict', '--net=unet', '--images=a', '--magnification=1'],
     ['--magnification']),
    (['--mode=predict', '--net=unet', '--images=a',
      '--microns_per_pixel=nan'], ['--microns_per_pixel', 'a number']),
    (['--mode=predict', '--net=unet'], ['--images', '--split']),
    (['--mode=predict', '--net=unet', '--images=a.png', '--split=test'],
     ['--images', '--split']),
    (['--mode=predict', '--net=unet', '--split=test', '--magnification=20'],
     ['--split', '40x already']),
    (['--mode=predict', '--net=unet', '--split=test', '--tissue=all'],
     ['--tissue', 'of a store']),
    (['--mode=predict', '--net=unet', '--split=test', '--data_dir=nowhere'],
     ['nowhere/test.h5']),
    (['--mode=prepare'], ['--monuseg_dir']),
    (['--mode=prepare', '--classes='], ['--classes', 'omit it']),
    (['--mode=prepare', '--classes=M\udcfcller'], ['--classes', 'UTF-8']),
    (['--mode=prepare', '--monuseg_dir=/no/such'], ['/no/such']),
])
def test_wrong_flags_end_in_one_line(program, flags, words):
    one_line(program(*flags), *words)


@pytest.mark.skipif(ROOT.startswith('/tmp/'), reason='/tmp is hidden')
def test_no_room_for_temporary_files():
    """TensorFlow needs some when it is imported."""
    one_line(on_a_small_disk(
        'unset TMPDIR TEMP TMP; mount -t tmpfs -o ro tmpfs /var/tmp\n'
        'mount -o remount,ro "$1"; cd /proc\n'
        'exec "$3" "$4" --mode=export --net=unet', '/tmp', '4k',
        f'{ROOT}/main.py'), 'No usable temporary directory', 'TMPDIR')


def test_missing_and_foreign_inputs_end_in_one_line(
        program, data_dir, model_dir, tmp_path):
    data, models = f'--data_dir={data_dir}', f'--model_dir={model_dir}'
    empty = f'--model_dir={tmp_path}/empty'
    one_line(program('--mode=train', '--net=unet',
                     f'--data_dir={tmp_path}/none', empty),
             'none/train.h5', '--mode=prepare')
    one_line(program('--mode=train', '--net=segnet', data, empty,
                     '--crop_size=100'), '--crop_size', '16')
    one_line(program('--mode=eval', '--net=unet', data, empty),
             'empty/unet', '--mode=train',
             '--model_dir=checkpoints/pretrained')
    one_line(program('--mode=eval', '--net=unet', data, models, '--width=8'),
             'width 4, not 8')
    one_line(program('--mode=eval', '--net=unet', data, models,
                     '--split=test'), '--split=test', 'has no test images')
    one_line(program('--mode=train', '--net=unet', data, models,
                     '--width=8'), 'width 4, not 8')
    one_line(program('--mode=predict', '--net=unet', models,
                     f'--output_dir={tmp_path}/out',
                     f'--images={tmp_path}/*.tif'), '--images', '*.tif')
    shutil.copytree(os.path.join(model_dir, 'segnet'),
                    str(tmp_path / 'swapped' / 'unet'))
    one_line(program('--mode=eval', '--net=unet', data,
                     f'--model_dir={tmp_path}/swapped'),
             'net segnet, not unet')
    os.truncate(os.path.join(model_dir, 'unet', 'weights.h5'), 1000)
    one_line(program('--mode=eval', '--net=unet', data, models), 'weights.h5',
             'damaged')


def test_other_data_than_trained_on_is_refused(program, data_dir, model_dir,
                                                tmp_path):
    data = shutil.copytree(str(data_dir), str(tmp_path / 'data'))
    for name in ('train.h5', 'validation.h5'):
        with h5py.File(os.path.join(data, name), 'a') as file:
            file.attrs['seed'] = 8
    flags = ('--net=unet', f'--data_dir={data}', f'--model_dir={model_dir}')
    one_line(program('--mode=train', '--steps=9', *flags), '--data_dir',
             'than at the start of this training')
    # Divided otherwise, but none of the validation images was trained on.
    process = program('--mode=eval', '--noaverage', *flags)
    assert process.returncode == 0, process.stderr
    shutil.copy(os.path.join(data, 'train.h5'),
                os.path.join(data, 'validation.h5'))
    one_line(program('--mode=eval', *flags), 'validation.h5',
             'holds train-0 and 1 more image, which', '--seed=7 --fold=0')


def test_trained_on_all_images(program, data_dir, tmp_path):
    data = tmp_path / 'data'
    data.mkdir()
    shutil.copy(str(data_dir / 'train.h5'), str(data))
    with h5py.File(data / 'train.h5', 'a') as file:
        file.attrs['fold'] = 'none'
    process = program(*train_flags(data, tmp_path, 'unet', 1), '--width=4')
    assert process.returncode == 0, process.stderr
    record, *_ = saved.read_weights(str(tmp_path / 'unet' / 'weights.h5'))
    assert (record['step'], record['f1']) == (1, None)
    assert checkpoints.is_evaluated(str(tmp_path / 'unet'), 1)
    flags = ('--mode=eval', '--net=unet', '--noaverage',
             f'--model_dir={tmp_path}')
    process = program(*flags, f'--data_dir={data}', '--split=train')
    assert process.returncode == 0, process.stderr
    shutil.copy(str(data / 'train.h5'), str(data / 'test.h5'))
    one_line(program(*flags, f'--data_dir={data}', '--split=test'), 'test.h5',
             'holds train-0 and 1 more image, which',
             'trained on. Measure on other images')


def test_weights_alone_are_enough(program, data_dir, trained, tmp_path):
    (tmp_path / 'unet').mkdir()
    shutil.copy(str(trained / 'unet' / 'weights.h5'), str(tmp_path / 'unet'))
    process = program('--mode=eval', '--net=unet', '--noaverage',
                      '--accelerate=off', f'--data_dir={data_dir}',
                      f'--model_dir={tmp_path}')
    assert process.returncode == 0, process.stderr
    record, *_ = saved.read_weights(str(tmp_path / 'unet' / 'weights.h5'))
    results = read_json(tmp_path, 'unet', 'validation.json')['results']
    assert results['pooled']['f1'] == pytest.approx(record['f1'], abs=1e-4)
    flags = ('--mode=predict', '--net=unet', f'--model_dir={tmp_path}',
             f'--output_dir={tmp_path}/out',
             '--images=docs/figures/unet.png')
    one_line(program(*flags, '--width=16'), 'width 4, not 16')
    os.truncate(str(tmp_path / 'unet' / 'weights.h5'), 20000)
    one_line(program(*flags), 'weights.h5')
    one_line(program(*train_flags(data_dir, tmp_path, 'unet', 6)),
             'but no checkpoint')
    assert not list((tmp_path / 'unet').glob('model.ckpt*'))


def test_paths_from_the_home_folder_and_the_default_output(
        program, data_dir, trained, tmp_path):
    shutil.copytree(str(trained / 'unet'), str(tmp_path / 'models' / 'unet'))
    shutil.copy(os.path.join(ROOT, 'docs', 'figures', 'synthetic.png'),
                str(tmp_path))
    process = run(sys.executable, os.path.join(ROOT, 'main.py'),
                  '--mode=predict', '--net=unet', '--model_dir=~/models',
                  '--images=~/*.png', '--noaverage', cwd=tmp_path,
                  HOME=str(tmp_path))
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(
        f'{tmp_path}/models/unet: unet, your own, trained on synthetic '
        'sample, step ')
    assert not (tmp_path / '~').exists()
    assert sorted(os.listdir(tmp_path / 'predictions' / 'unet')) == [
        'index.html', 'run.json', 'summary.csv', 'synthetic.json',
        'synthetic_labels.png', 'synthetic_labels_colour.png',
        'synthetic_mask.png', 'synthetic_nuclei.csv',
        'synthetic_nuclei.geojson', 'synthetic_overlay.png',
        'synthetic_probability.png', 'synthetic_thumbnail.jpg']


def test_a_missing_package_is_told_and_what_to_do(tmp_path, monkeypatch):
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip',
                    str(tmp_path / 'empty')], check=True)
    one_line(run(tmp_path / 'empty' / 'bin' / 'python', 'main.py'),
             'lacks absl', './run.sh setup', 'source .venv/bin/activate')

    def run_mode():
        import a_package_that_is_missing  # noqa: F401

    monkeypatch.setattr(main, 'run_mode', run_mode)
    assert 'lacks a_package_that_is_missing; run' in main.main([])


@pytest.mark.parametrize('flags', [
    '--help', '--mode=prepare --monuseg_dir={folder}/in '
    '--data_dir={folder}/data',
    '--mode=predict --net=unet --noaverage --images=docs/figures/'
    'synthetic.png --output_dir={folder}/out'])
def test_a_closed_pipe_ends_quietly(flags, tmp_path):
    training_data(tmp_path / 'in' / 'Training', 2)
    read, write = os.pipe()
    os.close(read)
    process = start(*flags.format(folder=tmp_path).split(), stdout=write)
    os.close(write)
    end_of(process)
    assert process.returncode == 128 + signal.SIGPIPE
    assert messages(process) == []
    assert not list(tmp_path.rglob('.partial-*'))


def test_help_is_short_and_lists_only_our_flags():
    process = run_main('--help')
    assert process.returncode == 0
    assert '--learning_rate' in process.stdout
    assert 'logtostderr' not in process.stdout
    # A mode's flags on a screen.
    assert len(process.stdout.splitlines()) < 75
