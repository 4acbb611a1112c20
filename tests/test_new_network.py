"""A network is added as docs/developing.md says, in a copy of the project."""
import os
import re
import shutil
import sys

import pytest

from conftest import ROOT, run, train_flags
from nets import NETS

PARTS = ('main.py', 'nets', 'histology', 'input_pipeline', 'prediction',
         'eval', 'training', 'tests', 'pyproject.toml',
         'benchmarks')


@pytest.fixture
def copy(tmp_path):
    """A copy of the project with the page's network added to it."""
    for part in PARTS:
        source = os.path.join(ROOT, part)
        if os.path.isdir(source):
            shutil.copytree(source, str(tmp_path / part),
                            ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, str(tmp_path))
    with open(os.path.join(ROOT, 'docs', 'developing.md'),
              encoding='utf-8') as file:
        page = file.read()
    code, = re.findall(r'```python\n(# nets/tinynet\.py\n.*?)```', page,
                       re.DOTALL)
    (tmp_path / 'nets' / 'tinynet.py').write_text(code, encoding='utf-8')
    registry = tmp_path / 'nets' / '__init__.py'
    # It may have been added to the project itself.
    names = (*(net for net in NETS if net != 'tinynet'), 'tinynet')
    text, count = re.subn(r'^NETS = \(.*?\)', f'NETS = {names}',
                          registry.read_text(encoding='utf-8'),
                          flags=re.DOTALL | re.MULTILINE)
    assert count == 1
    registry.write_text(text, encoding='utf-8')
    return tmp_path


@pytest.fixture
def succeed(copy):
    """A function that runs the copy's Python and returns what it prints."""
    def command(*arguments):
        process = run(sys.executable, *arguments, cwd=copy)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return command


def test_the_network_of_the_page(succeed, data_dir, tmp_path):
    flags = ('--net=tinynet', f'--data_dir={data_dir}',
             f'--model_dir={tmp_path}/models')
    output = succeed('main.py', *train_flags(
        data_dir, tmp_path / 'models', 'tinynet', 1))
    assert 'step 1/1' in output
    # It takes images of any size.
    succeed('main.py', '--mode=eval', '--noaverage', *flags)
    weights = tmp_path / 'models' / 'tinynet' / 'weights.h5'
    assert weights.exists()
    succeed('-c', 'from benchmarks import diagrams; diagrams.draw("tinynet")')


@pytest.mark.long
def test_the_network_of_the_page_passes_the_tests_of_networks(succeed):
    output = succeed('-m', 'pytest', '-q', 'tests/test_nets.py',
                     'tests/test_inference.py', '-k', 'tinynet or tables')
    assert re.search(r'\d\d passed', output), output
