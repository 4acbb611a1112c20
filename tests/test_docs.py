"""The README and the pages in docs/: links, commands, code and tables."""
import glob
import json
import os
import re
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from test_pretrained import f1

import nets
from benchmarks.diagrams import title_of
from conftest import ROOT, run, run_main
from histology import synthetic
from histology.images import read_labels
from nets.tf1 import tf

PAGES = ['README.md', 'checkpoints/README.md'] + sorted(
    os.path.relpath(path, ROOT) for folder in ('docs', 'benchmarks')
    for path in glob.glob(os.path.join(ROOT, folder, '*.md')))
NOTEBOOK = os.path.join(ROOT, 'docs', 'notebook.ipynb')
FENCE = re.compile('^```.*?^```', re.DOTALL | re.MULTILINE)

# A backend of matplotlib that, as a notebook's, closes what it shows.
BACKEND = '''
from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase as FigureManager
from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas

def show(*args, **kwargs):
    for manager in Gcf.get_all_fig_managers():
        print('figure of', len(manager.canvas.figure.axes))
    Gcf.destroy_all()
'''

# Runs lists of cells as IPython does, which displays the value of an
# expression that ends a cell, unless a semicolon follows it, and figures left
# open.
RUNNER = '''
import ast, json, sys
import numpy
sys.displayhook = lambda value: value is None or print('value', type(value))
for index, cells in enumerate(json.loads(sys.argv[1])):
    names = {'__name__': '__main__'}
    for cell in cells:
        *body, last = ast.parse(cell).body
        exec(compile(ast.Module(body=body, type_ignores=[]), 'cell', 'exec'),
             names)
        if cell.rstrip().endswith(';'):
            exec(compile(ast.Module(body=[last], type_ignores=[]), 'cell',
                         'exec'), names)
        else:
            exec(compile(ast.Interactive([last]), 'cell', 'single'), names)
        if 'matplotlib.pyplot' in sys.modules:
            sys.modules['matplotlib.pyplot'].show()
    numpy.save(f'{sys.argv[2]}/{index}.npy', names['prediction'])
'''


def read(page):
    with open(os.path.join(ROOT, page), encoding='utf-8') as file:
        return file.read()


def links_of(page):
    """The paths and the anchors, '' for none, of a page's relative links."""
    text = FENCE.sub('', read(page))
    targets = re.findall(r'\]\((?!https?:)([^)\s]+)\)', text)
    links = [target.partition('#')[::2] for target in targets]
    return [(os.path.normpath(os.path.join(os.path.dirname(page), path))
             if path else page, anchor) for path, anchor in links]


def anchors_of(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall('^#+ (.*)', FENCE.sub('', read(page)), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading).lower().replace(' ', '-')
            for heading in headings}


def test_readme_is_one_page():
    assert read('README.md').count('\n') <= 220


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    for path, anchor in links_of(page):
        assert os.path.exists(os.path.join(ROOT, path)), path
        if anchor:
            assert anchor in anchors_of(path), (path, anchor)


def test_every_page_is_linked_from_the_readme():
    linked, new = set(), {'README.md'}
    while new:
        linked |= new
        new = {path for page in new for path, _ in links_of(page)
               if path.endswith('.md')} - linked
    assert linked == set(PAGES)
    direct = {path for path, _ in links_of('README.md')}
    assert {page for page in PAGES if page.startswith('docs/')} <= direct


def test_commands_use_the_flags_that_there_are():
    process = run_main('--help')
    assert process.returncode == 0, process.stderr
    known = set(re.findall(r'^  --(\w+)', process.stdout, re.MULTILINE))
    assert {'mode', 'net', 'average', 'images'} <= known
    known |= {'no' + flag for flag in known} | {'help'}
    used = set()
    for page in PAGES:
        text = read(page)
        code = [line for block in FENCE.findall(text)
                for line in block.replace('\\\n', ' ').splitlines()
                if 'main.py' in line]
        code += [span for span in re.findall('`([^`]+)`', FENCE.sub('', text))
                 if 'main.py' in span or span.startswith('--')]
        for command in code:
            flags = re.findall(r'(?:^|\s)--(\w+)', command)
            assert set(flags) <= known, (page, command)
            used |= set(flags)
    assert {'mode', 'noaverage', 'fold', 'steps'} <= used


def test_tensorboard_is_started_for_this_machine_alone():
    lines = [line for page in PAGES for line in read(page).splitlines()
             if 'tensorboard --logdir' in line]
    assert lines
    assert all('--host localhost' in line for line in lines)


def readme_lines():
    """The README's lines for a notebook."""
    block, = [block for block in
              re.findall('```python\n(.*?)```', read('README.md'), re.DOTALL)
              if 'display_masked' in block]
    return block


def cells_of_notebook():
    with open(NOTEBOOK, encoding='utf-8') as file:
        content = json.load(file)
    return [''.join(cell['source']) for cell in content['cells']
            if cell['cell_type'] == 'code']


def test_notebook_and_lines_of_the_readme(tmp_path):
    cells = cells_of_notebook()
    # The first goes to the project's folder.
    assert '\n'.join(cells[1:]).split() == readme_lines().split()
    # SegNet is the network that cannot do with just any size.
    image, instances = synthetic.make(np.random.RandomState(6), 600)
    iio.imwrite(tmp_path / 'other.png', image, plugin='pillow')
    others = (readme_lines().replace('unet', 'segnet')
              .replace('docs/figures/synthetic.png',
                       str(tmp_path / 'other.png'))).rstrip() + ';'
    (tmp_path / 'notebook_backend.py').write_text(BACKEND)
    process = run(sys.executable, '-c', RUNNER, json.dumps([cells, [others]]),
                  tmp_path, cwd=os.path.join(ROOT, 'docs'),
                  MPLBACKEND='module://notebook_backend',
                  PYTHONPATH=str(tmp_path))
    assert process.returncode == 0, process.stderr
    # Nuclei, and the mask, of each.
    assert process.stdout.splitlines() == 4 * ['figure of 3']
    for index, size in enumerate((320, 600)):
        prediction = np.load(tmp_path / f'{index}.npy')
        assert prediction.shape == (size, size)
        assert prediction.dtype == np.float32
        assert set(np.unique(prediction)) == {0, 1}
    assert f1(np.load(tmp_path / '0.npy') > 0) > 0.8
    mask, truth = prediction > 0, instances > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.8


@pytest.mark.parametrize('net', ('unet', 'segnet', 'deeplabv3'))
def test_layer_tables_are_of_the_networks_as_they_are(net):
    with tf.Graph().as_default():
        model = nets.build(net)
    page = read('docs/layers.md')
    table, = re.findall(f'Model: "{net}"(.*?)```', page, re.DOTALL)
    assert f'Total params: {model.count_params():,}' in table
    header, *names = re.findall(r'^(\w+) \(', table, re.MULTILINE)
    assert header == 'Layer'
    # The table is of an image whose size is known, which needs no check.
    assert sorted(names + ['check_sides']) == sorted(
        layer.name for layer in model.layers)


def test_title_of_a_network(tmp_path, monkeypatch):
    assert [title_of(net) for net in ('unet', 'segnet', 'deeplabv3')] == [
        'U-Net', 'SegNet', 'DeepLabV3']
    (tmp_path / 'plainnet.py').write_text('STRIDE = 1\n')
    (tmp_path / 'wordynet.py').write_text('"""A network: by me.\n"""\n')
    monkeypatch.setattr(nets, '__path__', [*nets.__path__, str(tmp_path)])
    assert title_of('plainnet') == 'plainnet'
    assert title_of('wordynet') == 'A network'


def test_pannuke_is_unpacked_as_the_page_says(tmp_path):
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (2, 256, 256, 3)).astype(np.float64)
    masks = np.zeros((2, 256, 256, 6))
    masks[0, 10:20, 10:20, 0] = 1
    masks[0, 40:50, 40:50, 0] = 2
    masks[0, 70:80, 70:90, 3] = 1
    np.save(tmp_path / 'images.npy', images)
    np.save(tmp_path / 'masks.npy', masks)
    code, = re.findall('```python\n(.*?)```', read('docs/data.md'), re.DOTALL)
    process = run(sys.executable, '-c', code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    expected = np.zeros((256, 256), int)
    expected[10:20, 10:20] = 1
    expected[40:50, 40:50] = 2
    expected[70:80, 70:90] = 3
    found = [read_labels(tmp_path / f'labels/0000{index}.png')
             for index in range(2)]
    np.testing.assert_array_equal(found[0], expected)
    assert not found[1].any()
    np.testing.assert_array_equal(
        iio.imread(tmp_path / 'images/00001.png'), images[1])
