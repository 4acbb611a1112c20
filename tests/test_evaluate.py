"""Evaluation and its files, on images whose results follow by hand."""
import csv
import json
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
from matplotlib.figure import Figure

from conftest import red_channel
from eval import evaluate, report
from histology.files import InputError
from histology.images import write_png
from input_pipeline import store
from prediction import Predictor

NAN = float('nan')
NUCLEI = ('aji', 'pq', 'dq', 'sq', 'detection_precision', 'detection_recall',
          'nuclei_found', 'nuclei_true')


def of_nuclei(*values):
    """Measures of nuclei by name, of values in the order of NUCLEI."""
    return dict(zip(NUCLEI, values))


PREDICTOR = Predictor(red_channel, 32, average=False)


def images():
    """Yields 32 x 64 pixels, red in columns 0 to 39 where a nucleus is in
    20 to 59, and 32 x 32 pixels without anything."""
    first = np.zeros((32, 64, 3), np.uint8)
    first[:, :40, 0] = 255
    truth = np.zeros((32, 64), np.int32)
    truth[:, 20:60] = 1
    yield store.WholeImage('first', first, truth, True)
    yield empty('second')


def empty(name):
    return store.WholeImage(name, np.zeros((32, 32, 3), np.uint8),
                            np.zeros((32, 32), np.int32), True)


def evaluated(folder=None):
    return evaluate.evaluate(images(), ['first', 'second'], PREDICTOR,
                             folder)


def test_evaluate(tmp_path):
    results = evaluated(str(tmp_path))
    # In columns of 32 pixels: tp 20, fp 20, fn 20, tn 4 of the first image;
    # tn 32 of the second. The nuclei have 20 columns of 60 in common, and
    # an IoU of a third is no match.
    first = {'name': 'first', 'accuracy': 24 / 64, 'precision': 20 / 40,
             'recall': 20 / 40, 'f1': 40 / 80, 'iou': 20 / 60,
             'mean_iou': (20 / 60 + 4 / 44) / 2,
             **of_nuclei(1 / 3, 0, 0, NAN, 0, 0, 1, 1)}
    assert results['per_image'][0] == pytest.approx(first, nan_ok=True)
    assert results['per_image'][1] == pytest.approx(
        {'name': 'second', 'accuracy': 1, 'precision': NAN, 'recall': NAN,
         'f1': NAN, 'iou': NAN, 'mean_iou': NAN,
         **of_nuclei(NAN, NAN, NAN, NAN, NAN, NAN, 0, 0)}, nan_ok=True)
    assert results['pooled'] == pytest.approx(
        {'accuracy': 56 / 96, 'precision': 0.5, 'recall': 0.5, 'f1': 0.5,
         'iou': 20 / 60, 'mean_iou': (20 / 60 + 36 / 76) / 2,
         **of_nuclei(1 / 3, 0, 0, NAN, 0, 0, 1, 1)}, nan_ok=True)
    # The second image is undefined but for its accuracy and its 0 nuclei.
    del first['name']
    assert results['mean_per_image'] == pytest.approx(
        {**first, 'accuracy': (24 / 64 + 1) / 2, 'nuclei_found': 0.5,
         'nuclei_true': 0.5}, nan_ok=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'first.png', 'second.png']


def with_nuclei():
    """Yields three images of 64 x 64 pixels, red where nuclei are found."""
    def whole(name, red, true, has_instances=True):
        image = np.zeros((64, 64, 3), np.uint8)
        truth = np.zeros((64, 64), np.int32)
        for top, left, side in red:
            image[top:top + side, left:left + side, 0] = 255
        for number, (top, left, side) in enumerate(true, 1):
            truth[top:top + side, left:left + side] = number
        return store.WholeImage(name, image, truth, has_instances)

    # One found 2 columns beside where it is, one invented, one missed.
    first = whole('first', [(10, 10, 12), (40, 40, 12)],
                  [(10, 12, 12), (40, 5, 8)])
    first.image[45, 46, 0] = 0  # a hole
    yield first
    yield whole('second', [(20, 20, 12)], [(20, 20, 12)])
    yield whole('third', [(20, 20, 12), (40, 40, 12)], [(20, 20, 12)], False)


def with_nuclei_evaluated():
    return evaluate.evaluate(with_nuclei(), ['first', 'second', 'third'],
                             PREDICTOR)


def test_nuclei_of_images_together_and_one_by_one():
    results = with_nuclei_evaluated()
    found = [{name: row[name] for name in NUCLEI} for row in (
        *results['per_image'], results['pooled'], results['mean_per_image'])]
    # 10 of 12 + 2 columns of the first nucleus in common; 12 x 12 and 8 x 8
    # pixels of the others.
    iou = 10 / 14
    expected = [
        (120 / (168 + 144 + 64), iou / 2, 0.5, iou, 0.5, 0.5, 2, 2),
        (1, 1, 1, 1, 1, 1, 1, 1),
        8 * (NAN,),
        ((120 + 144) / (168 + 144 + 64 + 144), (iou + 1) / 3, 2 / 3,
         (iou + 1) / 2, 2 / 3, 2 / 3, 3, 3),
        ((120 / (168 + 144 + 64) + 1) / 2, (iou / 2 + 1) / 2, 0.75,
         (iou + 1) / 2, 0.75, 0.75, 1.5, 1.5)]
    for values, wanted in zip(found, expected):
        assert values == pytest.approx(of_nuclei(*wanted), nan_ok=True)
    for row in (*results['per_image'][:2], results['pooled']):
        assert type(row['nuclei_found']) is type(row['nuclei_true']) is int
    # The hole is filled: tp 120, fp 24 + 144, fn 24 + 64.
    assert results['per_image'][0]['f1'] == pytest.approx(
        240 / (240 + 24 + 144 + 24 + 64))
    # Pixels are measured where nuclei are not: tp 144, fp 144.
    assert results['per_image'][2]['f1'] == pytest.approx(2 / 3)


def test_table_of_nuclei():
    _, table = report.format_table(with_nuclei_evaluated()).split('\n\n')
    *lines, remark = table.splitlines()
    assert [line.split() for line in lines] == [
        ['nuclei', 'aji', 'pq', 'dq', 'sq', 'precision', 'recall', 'found',
         'true'],
        # 120 / 376 = 0.31915, 264 / 520 = 0.50769, 10 / 14 = 0.71429
        ['first', '0.3191', '0.3571', '0.5000', '0.7143', '0.5000', '0.5000',
         '2', '2'],
        ['second'] + 6 * ['1.0000'] + ['1', '1'],
        ['third'] + 8 * ['-'],
        ['pooled', '0.5077', '0.5714', '0.6667', '0.8571', '0.6667', '0.6667',
         '3', '3'],
        ['mean', 'per', 'image', '0.6596', '0.6786', '0.7500', '0.8571',
         '0.7500', '0.7500', '1.5', '1.5']]
    assert len({len(line) for line in lines}) == 1
    assert 'annotation has no instances' in remark


def test_no_instances_at_all(tmp_path):
    results = evaluate.evaluate(list(with_nuclei())[2:], ['third'], PREDICTOR)
    report.write_results(str(tmp_path), 'test', results, {
        'flags': {'net': 'unet'}, 'source': 'masks'})
    content = json.loads((tmp_path / 'test.json').read_text())['results']
    for row in (*content['per_image'], content['pooled'],
                content['mean_per_image']):
        assert {row[name] for name in NUCLEI} == {None}
        assert row['f1'] == pytest.approx(2 / 3)
    with open(str(tmp_path / 'test.csv'), newline='') as file:
        for row in csv.DictReader(file):
            assert {row[name] for name in NUCLEI} == {'nan'}
    assert report.compare_networks([str(tmp_path)], 'test').splitlines()[
        1].split()[-2:] == ['-', '-']


def test_evaluate_names_the_image_that_is_too_small():
    with pytest.raises(InputError, match='tiny: 40 x 20'):
        evaluate.evaluate([store.WholeImage(
            'tiny', np.zeros((20, 40, 3), np.uint8),
            np.zeros((20, 40), np.int32), True)], ['tiny'], PREDICTOR)


def test_results_in_json_and_csv(tmp_path):
    settings = {'source': 'synthetic sample',
                'flags': {'net': 'unet', 'threshold': 0.5}}
    report.write_results(str(tmp_path), 'test', evaluated(), settings)

    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    content = json.loads((tmp_path / 'test.json').read_text(),
                         parse_constant=refuse)
    assert content['settings'] == settings
    assert content['results']['per_image'][1] == {
        'name': 'second', 'accuracy': 1, 'precision': None, 'recall': None,
        'f1': None, 'iou': None, 'mean_iou': None,
        **of_nuclei(*6 * [None], 0, 0)}
    assert content['results']['pooled']['f1'] == 0.5

    with open(str(tmp_path / 'test.csv'), newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['name', 'accuracy', 'precision', 'recall', 'f1', 'iou',
                       'mean_iou', *NUCLEI]
    assert [row[0] for row in rows[1:]] == ['first', 'second', 'pooled',
                                            'mean per image']
    assert [float(value) for value in rows[1][1:6]] == pytest.approx(
        [24 / 64, 0.5, 0.5, 0.5, 20 / 60])
    assert rows[1][7:9] == [str(1 / 3), '0.0'] and rows[1][13:] == ['1', '1']
    assert rows[2][1:] == ['1.0'] + 11 * ['nan'] + ['0', '0']


def test_table_of_one_network():
    pixels, nuclei = report.format_table(evaluated()).split('\n\n')
    lines = pixels.splitlines()
    assert [line.split() for line in lines] == [
        ['pixels', 'accuracy', 'precision', 'recall', 'f1', 'iou', 'mean_iou'],
        # (20 / 60 + 4 / 44) / 2 = 0.21212, (20 / 60 + 36 / 76) / 2 = 0.40351
        ['first', '0.3750', '0.5000', '0.5000', '0.5000', '0.3333', '0.2121'],
        ['second', '1.0000', '-', '-', '-', '-', '-'],
        ['pooled', '0.5833', '0.5000', '0.5000', '0.5000', '0.3333', '0.4035'],
        ['mean', 'per', 'image', '0.6875', '0.5000', '0.5000', '0.5000',
         '0.3333', '0.2121']]
    assert len({len(line) for line in lines}) == 1
    # Below both tables.
    remark, = nuclei.splitlines()[5:]
    assert remark.startswith('Means skip images with "-": ')


def test_table_without_a_remark():
    results = evaluate.evaluate(list(images())[:1], ['first'], PREDICTOR)
    # Without a match there is no SQ.
    assert len(report.format_table(results).splitlines()) == 10
    results['per_image'][0]['sq'] = 0.5
    assert len(report.format_table(results).splitlines()) == 9


def test_false_nuclei_where_there_are_none_count():
    third = empty('third')
    third.image[0, 0] = 255  # a pixel taken for a nucleus
    results = evaluate.evaluate([*images(), third],
                                ['first', 'second', 'third'], PREDICTOR)
    assert [row['f1'] for row in results['per_image']] == pytest.approx(
        [0.5, NAN, 0], nan_ok=True)
    assert results['mean_per_image']['f1'] == 0.25


def test_table_of_networks(tmp_path):
    folders = [str(tmp_path / net) for net in ('unet', 'segnet')]
    for net, folder in zip(('unet', 'segnet'), folders):
        report.write_results(folder, 'test', evaluated(), {
            'flags': {'net': net}, 'source': 'synthetic sample'})
    lines = report.compare_networks(folders, 'test').splitlines()
    for line, net in zip(lines[1:3], ('unet', 'segnet')):
        assert line.split() == [net, '0.5000', '0.5000', '0.3333', '0.4035',
                                '0.5833', '0.5000', '0.5000', '0.3333',
                                '0.0000']
    assert lines[-1] == 'Data: synthetic sample'
    assert len(lines) == 5


def test_table_of_a_network_without_results(tmp_path):
    with pytest.raises(InputError, match='test.json: no results'):
        report.compare_networks([str(tmp_path)], 'test')
    for text in ('{"settings": ', '{}', '[]', '{"results": 1}'):
        (tmp_path / 'test.json').write_text(text)
        with pytest.raises(InputError, match='test.json: no results'):
            report.compare_networks([str(tmp_path)], 'test')


def pictures(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pictures_of_an_earlier_evaluation_are_replaced(tmp_path):
    """And no file of the user's, be it a picture by Matplotlib, too."""
    evaluated(str(tmp_path))
    Figure(figsize=(5, 4)).savefig(str(tmp_path / 'mine.png'))
    write_png(str(tmp_path / 'large.png'), np.zeros((450, 1600), np.uint8))
    for name in ('notes.txt', 'damaged.png'):
        (tmp_path / name).write_text('mine')
    shutil.copy(tmp_path / 'first.png', tmp_path / 'before.png')
    others = ['before.png', 'damaged.png', 'large.png', 'mine.png',
              'notes.txt']
    assert pictures(tmp_path) == sorted(['first.png', 'second.png', *others])
    evaluate.evaluate([empty('third')], ['third'], PREDICTOR, str(tmp_path))
    assert pictures(tmp_path) == sorted(['third.png', *others])
    assert iio.imread(tmp_path / 'third.png').shape[:2] == (450, 1600)


def test_a_file_in_the_place_of_a_picture(tmp_path):
    """It is refused before the long work, and nothing is changed."""
    evaluated(str(tmp_path))
    (tmp_path / 'second.png').write_text('mine')
    before = (tmp_path / 'first.png').stat().st_mtime_ns
    with pytest.raises(InputError, match='second.png: was not written by an'):
        evaluated(str(tmp_path))
    assert (tmp_path / 'first.png').stat().st_mtime_ns == before
    assert (tmp_path / 'second.png').read_text() == 'mine'
