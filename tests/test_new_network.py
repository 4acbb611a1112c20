"""A network is added as the README says, in a copy of the project."""
import os
import re
import shutil
import sys

import pytest

from conftest import ROOT, run, train_flags
from nets import NETS

PARTS = ('main.py', 'nets', 'input_pipeline', 'eval', 'training', 'docs',
         'tests', 'pytest.ini', 'README.md')


@pytest.fixture
def copy(tmp_path):
    """A copy of the project with the README's network added to it."""
    for part in PARTS:
        source = os.path.join(ROOT, part)
        if os.path.isdir(source):
            shutil.copytree(source, str(tmp_path / part),
                            ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, str(tmp_path))
    readme = (tmp_path / 'README.md').read_text(encoding='utf-8')
    code, = re.findall(r'```python\n(# nets/tinynet\.py\n.*?)```', readme,
                       re.DOTALL)
    (tmp_path / 'nets' / 'tinynet.py').write_text(code, encoding='utf-8')
    registry = tmp_path / 'nets' / '__init__.py'
    text = registry.read_text()
    line = f'NETS = {NETS!r}\n'
    assert text.count(line) == 1
    registry.write_text(text.replace(line, f'NETS = {NETS + ("tinynet",)}\n'))
    return tmp_path


def test_the_network_of_the_readme(copy, data_dir, tmp_path):
    def succeed(*command):
        process = run(sys.executable, *command, cwd=copy)
        assert process.returncode == 0, process.stderr
        return process.stdout

    flags = ('--net=tinynet', f'--data_dir={data_dir}',
             f'--model_dir={tmp_path}/models')
    output = succeed('main.py', *train_flags(
        data_dir, tmp_path / 'models', 'tinynet', 4))
    assert 'step 4/4' in output
    # It takes images of any size.
    succeed('main.py', '--mode=eval', '--noaverage', *flags)
    weights = tmp_path / 'models' / 'tinynet' / 'weights.h5'
    assert weights.exists()
    # What reads the registry knows it without being told.
    assert 'tinynet' in succeed('main.py', '--help')
    assert '[tinynet]' in succeed('-m', 'pytest', '--collect-only', '-q',
                                  'tests/test_main.py', 'tests/test_nets.py')
    succeed('-c', 'from docs import diagrams; diagrams.draw("tinynet")')
