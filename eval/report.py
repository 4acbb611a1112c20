"""Results as files and as tables."""
import csv
import json
import math
import os
import re

from eval import nuclei_metrics, pixel_metrics
from eval.evaluate import METRICS
from histology.files import InputError, write_json
from nets import saved
from prediction.writers import text_file


def check_output_dir(folder, name, flags):
    """Refuse to replace files of others, or results of other flags.

    Args:
        folder, name: as for `write_results`.
        flags: dict of those that must be the same, to their values.

    Raises:
        InputError: as said.
    """
    start, remedy = os.path.join(folder, name), 'choose another --output_dir'
    if os.path.lexists(f'{start}.json'):
        found = saved.read_json(f'{start}.json', {
            'settings': dict, 'results': dict}, remedy)['settings']
        for flag, value in flags.items():
            other = found.get('flags', {}).get(flag, 'not recorded')
            if other != value:
                raise InputError(f'{start}.json: is of --{flag}={other}; '
                                 f'{remedy}')
    elif os.path.lexists(f'{start}.csv'):
        raise InputError(f'{start}.csv: was not written by eval; {remedy}')


def write_results(folder, name, results, settings):
    """Write NAME.json, everything, and NAME.csv, the metrics alone.

    Args:
        folder: made if missing.
        name: file name without ending.
        results: of `evaluate`; NaN becomes null in the JSON.
        settings: dict of how the results came about, for the JSON;
            'source', the data's origin, and 'flags' with 'net' are needed.
    """
    write_json(os.path.join(folder, f'{name}.json'),
               {'settings': settings, 'results': results})
    with text_file(os.path.join(folder, f'{name}.csv')) as file:
        writer = csv.DictWriter(file, ('name',) + METRICS)
        writer.writeheader()
        writer.writerows(_all_rows(results))


def format_table(results):
    """Return the results of one network as two tables, pixels and nuclei.

    A line below them says why a mean skips images, if one does.
    """
    text = '\n\n'.join([_table(results, 'pixels', pixel_metrics.METRICS),
                        _table(results, 'nuclei', nuclei_metrics.METRICS)])
    if any(math.isnan(row[name]) for row in results['per_image']
           for name in METRICS):
        text += ('\nMeans skip images with "-": there are none of what is '
                 'measured, or the annotation has no instances.')
    return text


def _table(results, title, metrics):
    """Return a table of some of METRICS."""
    # The title says what is detected.
    names = [re.sub('detection_|nuclei_', '', name) for name in metrics]
    return _align_columns([[title, *names]] + [
        [row['name'], *(_format_value(row[name], name) for name in metrics)]
        for row in _all_rows(results)])


def compare_networks(folders, name):
    """Return a table of networks, from the results of `write_results`.

    Args:
        folders: list of folders, one for each network.
        name: the results' file name without ending.

    Raises:
        InputError: a folder has no results or they cannot be read.
    """
    rows = [['net', 'F1', 'F1 per image', 'IoU', 'mean IoU', 'accuracy',
             'precision', 'recall', 'AJI', 'PQ']]
    sources = {}  # in their order
    for folder in folders:
        path = os.path.join(folder, f'{name}.json')
        try:
            with open(path) as file:
                content = json.load(file)
            pooled = content['results']['pooled']
            mean = content['results']['mean_per_image']
            values = [pooled['f1'], mean['f1'],
                      *(pooled[metric] for metric in (
                          'iou', 'mean_iou', 'accuracy', 'precision',
                          'recall')), mean['aji'], mean['pq']]
            rows.append([content['settings']['flags']['net'],
                         *map(_format_value, values)])
            sources[content['settings']['source']] = None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f'{path}: no results to read ({error}); '
                             'evaluate the network first') from error
    return '\n'.join([
        _align_columns(rows),
        '"F1 per image", AJI and PQ are means over images; the others are '
        'from the pixels of all images together.',
        *(f'Data: {source}' for source in sources)])


def _all_rows(results):
    return results['per_image'] + [
        {'name': 'pooled', **results['pooled']},
        {'name': 'mean per image', **results['mean_per_image']}]


def _format_value(value, metric=''):
    if value is None or math.isnan(value):
        return '-'
    if isinstance(value, int):
        return str(value)
    return f'{value:.1f}' if metric.startswith('nuclei_') else f'{value:.4f}'


def _align_columns(rows):
    """Align rows of text: the first column left, the others right."""
    first, *others = [max(map(len, column)) for column in zip(*rows)]
    line = f'%-{first}s' + ''.join(f'  %{width}s' for width in others)
    return '\n'.join(line % tuple(row) for row in rows)
