"""Measures a network on whole images and writes and shows the results."""
import csv
import json
import math
import os

from eval import display, inference, metrics
from input_pipeline import progress
from input_pipeline.files import InputError, atomic_write, write_json
from input_pipeline.preprocessing import check_size

# Enough to see what a number means without filling the folder.
MAX_PICTURES = 4


def evaluate(images, total, forward, stride, threshold, max_pixels, average,
             picture_folder=None):
    """Predicts each image and compares it with its mask.

    Args:
        images: iterable of (name, uint8 [H, W, 3], uint8 [H, W] of 0 and 1).
        total: number of images, for the progress line.
        forward, stride, threshold, max_pixels, average: as for
            `inference.segment`.
        picture_folder: where NAME.png of the first MAX_PICTURES images go, or
            None.

    Returns:
        dict of 'per_image', a list of dicts of 'name' and the six metrics,
        and of 'pooled' and 'mean_per_image', a dict of the metrics each.

    Raises:
        InputError: an image is too small, or as `inference.segment`.
    """
    report = progress.reporter(total, 'images')
    rows, counts = [], []
    for done, (name, image, truth) in enumerate(images):
        check_size(image.shape[:2], name)
        mask, _ = inference.segment(
            image, forward, stride, threshold, max_pixels, average,
            progress=lambda part, done=done: report(done + part))
        counts.append(metrics.confusion_matrix(mask, truth))
        rows.append({'name': name, **_as_floats(metrics.compute(counts[-1]))})
        if picture_folder and done < MAX_PICTURES:
            display.save_comparison(
                os.path.join(picture_folder, f'{name}.png'), image, truth,
                mask)
    return {'per_image': rows,
            'pooled': _as_floats(metrics.compute(metrics.pool(counts))),
            'mean_per_image': metrics.mean_per_image(rows)}


def write_results(folder, name, results, settings):
    """Writes NAME.json, everything, and NAME.csv, the metrics alone.

    Args:
        folder: made where missing.
        name: file name without ending.
        results: what `evaluate` returned; NaN becomes null in the JSON.
        settings: dict for the JSON that tells how the results came about;
            `compare_networks` needs its 'source', the data's origin, and
            'flags', a dict with 'net'.

    Raises:
        InputError: a file cannot be written.
    """
    write_json(os.path.join(folder, f'{name}.json'),
               {'settings': settings, 'results': results})
    with atomic_write(os.path.join(folder, f'{name}.csv')) as partial:
        with open(partial, 'w', newline='') as file:
            writer = csv.DictWriter(file, ('name',) + metrics.METRICS)
            writer.writeheader()
            writer.writerows(_all_rows(results))


def format_table(results):
    """Returns the results of one network as a table of text.

    A line below it says how many images have no F1, if any.
    """
    header = ['image', *metrics.METRICS]
    table = _align_columns([header] + [
        [row['name'], *(_format_value(row[metric])
                        for metric in metrics.METRICS)]
        for row in _all_rows(results)])
    images = results['per_image']
    undefined = sum(math.isnan(row['f1']) for row in images)
    if undefined:
        table += (f'\nThe mean F1 per image leaves out {undefined} of the '
                  f'{len(images)} images, where neither the mask nor the '
                  'prediction holds a nucleus.')
    return table


def compare_networks(folders, name):
    """Compares networks by the results that `write_results` left.

    Args:
        folders: list of folders, one a network.
        name: the results' file name without ending.

    Returns:
        Text: one line a network, and below it the source of the data.

    Raises:
        InputError: a folder has no results or they cannot be read.
    """
    rows = [['net', 'F1', 'F1 per image', 'IoU', 'mean IoU', 'accuracy',
             'precision', 'recall']]
    sources = []
    for folder in folders:
        path = os.path.join(folder, f'{name}.json')
        try:
            with open(path) as file:
                content = json.load(file)
        except (OSError, ValueError) as error:
            raise InputError(f'{path}: no results to read ({error}); '
                             'evaluate the network first') from error
        pooled = content['results']['pooled']
        values = [pooled['f1'], content['results']['mean_per_image']['f1']]
        values += [pooled[metric] for metric in
                   ('iou', 'mean_iou', 'accuracy', 'precision', 'recall')]
        rows.append([content['settings']['flags']['net']]
                    + [_format_value(value) for value in values])
        source = content['settings']['source']
        if source not in sources:
            sources.append(source)
    return '\n'.join([
        _align_columns(rows),
        'All but "F1 per image" from pixels pooled over images.',
        *(f'Data: {source}' for source in sources)])


def _all_rows(results):
    return results['per_image'] + [
        {'name': 'pooled', **results['pooled']},
        {'name': 'mean per image', **results['mean_per_image']}]


def _as_floats(values):
    return {name: float(value) for name, value in values.items()}


def _format_value(value):
    return '-' if value is None or math.isnan(value) else f'{value:.4f}'


def _align_columns(rows):
    """Aligns rows of text: the first column left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join(
        '  '.join([row[0].ljust(widths[0])]
                  + [cell.rjust(width)
                     for cell, width in zip(row[1:], widths[1:])])
        for row in rows)
