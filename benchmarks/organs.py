"""Trains without one organ at a time and measures on it.

    python -m benchmarks.organs MONUSEG_DIR FOLDER NET [FLAG...]

from the project's folder: FOLDER is where data and models go, and FLAGs are
those of the trainings, as --steps=2000. What is there already is not done
again. Prints a table.
"""
import json
import os
import subprocess
import sys

import numpy as np

from benchmarks.stress import MEASURES, measures, print_row
from input_pipeline import store

# TCGA's codes of MoNuSeg's training images, by the organ that its paper says.
# By TCGA's tables those of the liver are of the lung.
ORGANS = {
    'breast': ['A7-A13E', 'A7-A13F', 'AR-A1AK', 'AR-A1AS', 'E2-A14V',
               'E2-A1B5'],
    'kidney': ['B0-5698', 'B0-5710', 'B0-5711', 'HE-7128', 'HE-7129',
               'HE-7130'],
    'liver': ['18-5592', '21-5784', '21-5786', '38-6178', '49-4488',
              '50-5931'],
    'prostate': ['CH-5767', 'G9-6336', 'G9-6348', 'G9-6356', 'G9-6362',
                 'G9-6363'],
    'bladder': ['DK-A2I6', 'G2-A2EK'],
    'colon': ['AY-A8YK', 'NH-A8F7'],
    'stomach': ['KB-A93J', 'RD-A8N9'],
}


def run(*flags):
    """Runs main.py."""
    subprocess.run([sys.executable, 'main.py', *flags], check=True)


def image_names(monuseg_dir, folder):
    """The names of all images, by their codes."""
    data = os.path.join(folder, 'all')
    if not os.path.exists(store.store_path(data, 'train')):
        run('--mode=prepare', f'--monuseg_dir={monuseg_dir}',
            f'--data_dir={data}', '--fold=none')
    with store.open_store(store.store_path(data, 'train')) as file:
        return {'-'.join(name.split('-')[1:3]): name
                for name in store.image_names(file)}


def results_without(organ, names, monuseg_dir, folder, net, flags):
    """Trains on all but `names`, those of an organ; eval's results on them."""
    data, models = [os.path.join(folder, kind, organ)
                    for kind in ('data', 'models')]
    results = os.path.join(models, net, 'validation.json')
    if not os.path.exists(results):
        if not os.path.exists(store.store_path(data, 'validation')):
            run('--mode=prepare', f'--monuseg_dir={monuseg_dir}',
                f'--data_dir={data}', '--validation=' + ','.join(names))
        place = [f'--net={net}', f'--data_dir={data}', f'--model_dir={models}']
        run('--mode=train', *place, *flags)
        run('--mode=eval', *place)
    with open(results) as file:
        return json.load(file)['results']


def main(monuseg_dir, folder, net, *flags):
    """Prints the table."""
    names = image_names(monuseg_dir, folder)
    rows = []
    for organ, codes in ORGANS.items():
        rows.append(measures(results_without(
            organ, [names[code] for code in codes], monuseg_dir, folder, net,
            flags)))
    print_row('organ', 'images', *MEASURES)
    print_row(*['---'] * (2 + len(MEASURES)))
    for (organ, codes), row in zip(
            [*ORGANS.items(), ('mean', names)], [*rows, np.mean(rows, 0)]):
        print_row(organ, len(codes), *row)


if __name__ == '__main__':
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
