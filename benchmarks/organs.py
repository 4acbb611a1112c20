"""Train without one organ at a time and measure on it.

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

# TCGA's codes of MoNuSeg's training images, by organ as its paper says. TCGA's
# tables call the images of the liver lung.
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
    """Run main.py."""
    subprocess.run([sys.executable, 'main.py', *flags], check=True)


def results_without(organ, monuseg_dir, folder, net, flags):
    """Train on all images but an organ's; return eval's results on these."""
    data, models = [os.path.join(folder, kind, organ)
                    for kind in ('data', 'models')]
    results = os.path.join(models, net, 'validation.json')
    if not os.path.exists(results):
        if not os.path.exists(store.store_path(data, 'validation')):
            run('--mode=prepare', f'--monuseg_dir={monuseg_dir}',
                f'--data_dir={data}', '--validation=' + ','.join(
                    f'TCGA-{code}-*' for code in ORGANS[organ]))
        place = [f'--net={net}', f'--data_dir={data}', f'--model_dir={models}']
        run('--mode=train', *place, *flags)
        run('--mode=eval', *place)
    with open(results) as file:
        return json.load(file)['results']


def main(monuseg_dir, folder, net, *flags):
    """Print the table."""
    rows = [measures(results_without(organ, monuseg_dir, folder, net, flags))
            for organ in ORGANS]
    print_row('organ', 'images', *MEASURES)
    print_row(*['---'] * (2 + len(MEASURES)))
    for (organ, codes), row in zip(ORGANS.items(), rows):
        print_row(organ, len(codes), *row)
    print_row('mean', '', *np.mean(rows, 0))


if __name__ == '__main__':
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
