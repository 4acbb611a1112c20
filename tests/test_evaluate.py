"""Evaluation and its files, on images whose results follow by hand."""
import csv
import json

import numpy as np
import pytest

from eval import evaluate
from input_pipeline.files import InputError

NAN = float('nan')


def red_channel(batch):
    return batch[..., :1]


def images():
    """Yields 32 x 64 pixels, red in columns 0 to 39 where the nuclei are in
    20 to 59, and 32 x 32 pixels without anything."""
    first = np.zeros((32, 64, 3), np.uint8)
    first[:, :40, 0] = 255
    truth = np.zeros((32, 64), np.uint8)
    truth[:, 20:60] = 1
    yield 'first', first, truth
    yield 'second', np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32),
                                                              np.uint8)


def evaluated(folder=None):
    return evaluate.evaluate(images(), 2, red_channel, 32, 0.5, 1024 * 1024,
                             False, folder)


def test_evaluate(tmp_path):
    results = evaluated(str(tmp_path))
    # In columns of 32 pixels: tp 20, fp 20, fn 20, tn 4 of the first image;
    # tn 32 of the second.
    first = {'name': 'first', 'accuracy': 24 / 64, 'precision': 20 / 40,
             'recall': 20 / 40, 'f1': 40 / 80, 'iou': 20 / 60,
             'mean_iou': (20 / 60 + 4 / 44) / 2}
    assert results['per_image'][0] == pytest.approx(first)
    assert results['per_image'][1] == pytest.approx(
        {'name': 'second', 'accuracy': 1, 'precision': NAN, 'recall': NAN,
         'f1': NAN, 'iou': NAN, 'mean_iou': NAN}, nan_ok=True)
    assert results['pooled'] == pytest.approx(
        {'accuracy': 56 / 96, 'precision': 0.5, 'recall': 0.5, 'f1': 0.5,
         'iou': 20 / 60, 'mean_iou': (20 / 60 + 36 / 76) / 2})
    # The second image is undefined but for its accuracy.
    del first['name']
    assert results['mean_per_image'] == pytest.approx(
        {**first, 'accuracy': (24 / 64 + 1) / 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'first.png', 'second.png']


def test_evaluate_names_the_image_that_is_too_small():
    with pytest.raises(InputError, match='tiny: 40 x 20'):
        evaluate.evaluate([('tiny', np.zeros((20, 40, 3), np.uint8),
                            np.zeros((20, 40), np.uint8))], 1, red_channel,
                          32, 0.5, 1024, False)


def test_results_in_json_and_csv(tmp_path):
    settings = {'source': 'synthetic sample',
                'flags': {'net': 'unet', 'threshold': 0.5}}
    evaluate.write_results(str(tmp_path), 'test', evaluated(), settings)

    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    content = json.loads((tmp_path / 'test.json').read_text(),
                         parse_constant=refuse)
    assert content['settings'] == settings
    assert content['results']['per_image'][1] == {
        'name': 'second', 'accuracy': 1, 'precision': None, 'recall': None,
        'f1': None, 'iou': None, 'mean_iou': None}
    assert content['results']['pooled']['f1'] == 0.5

    with open(str(tmp_path / 'test.csv'), newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['name', 'accuracy', 'precision', 'recall', 'f1', 'iou',
                       'mean_iou']
    assert [row[0] for row in rows[1:]] == ['first', 'second', 'pooled',
                                            'mean per image']
    assert [float(value) for value in rows[1][1:6]] == pytest.approx(
        [24 / 64, 0.5, 0.5, 0.5, 20 / 60])
    assert rows[2][1:] == ['1.0'] + 5 * ['nan']


def test_table_of_one_network():
    *lines, remark = evaluate.format_table(evaluated()).splitlines()
    assert [line.split() for line in lines] == [
        ['image', 'accuracy', 'precision', 'recall', 'f1', 'iou', 'mean_iou'],
        # (20 / 60 + 4 / 44) / 2 = 0.21212, (20 / 60 + 36 / 76) / 2 = 0.40351
        ['first', '0.3750', '0.5000', '0.5000', '0.5000', '0.3333', '0.2121'],
        ['second', '1.0000', '-', '-', '-', '-', '-'],
        ['pooled', '0.5833', '0.5000', '0.5000', '0.5000', '0.3333', '0.4035'],
        ['mean', 'per', 'image', '0.6875', '0.5000', '0.5000', '0.5000',
         '0.3333', '0.2121']]
    assert len({len(line) for line in lines}) == 1
    assert 'leaves out 1 of the 2 images' in remark


def test_table_without_a_remark():
    results = evaluate.evaluate(list(images())[:1], 1, red_channel, 32, 0.5,
                                1024 * 1024, False)
    assert len(evaluate.format_table(results).splitlines()) == 4


def test_false_nuclei_where_there_are_none_count():
    image = np.zeros((32, 32, 3), np.uint8)
    image[0, 0] = 255  # a pixel taken for a nucleus
    results = evaluate.evaluate(
        [*images(), ('third', image, np.zeros((32, 32), np.uint8))], 3,
        red_channel, 32, 0.5, 1024 * 1024, False)
    assert [row['f1'] for row in results['per_image']] == pytest.approx(
        [0.5, NAN, 0], nan_ok=True)
    assert results['mean_per_image']['f1'] == 0.25


def test_table_of_networks(tmp_path):
    folders = [str(tmp_path / net) for net in ('unet', 'segnet')]
    for net, folder in zip(('unet', 'segnet'), folders):
        evaluate.write_results(folder, 'test', evaluated(), {
            'flags': {'net': net}, 'source': 'synthetic sample'})
    lines = evaluate.compare_networks(folders, 'test').splitlines()
    for line, net in zip(lines[1:3], ('unet', 'segnet')):
        assert line.split() == [net, '0.5000', '0.5000', '0.3333', '0.4035',
                                '0.5833', '0.5000', '0.5000']
    assert lines[-1] == 'Data: synthetic sample'
    assert len(lines) == 5


def test_table_of_a_network_without_results(tmp_path):
    with pytest.raises(InputError, match='test.json: no results'):
        evaluate.compare_networks([str(tmp_path)], 'test')
    (tmp_path / 'test.json').write_text('{"settings": ')
    with pytest.raises(InputError, match='test.json: no results'):
        evaluate.compare_networks([str(tmp_path)], 'test')
