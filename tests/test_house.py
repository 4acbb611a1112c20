"""The rule of the code that ruff and import-linter have no check for."""
import ast
import glob
import os

from conftest import ROOT

MAX_LINES = 60  # of a function
PLACES = ('main.py', 'benchmarks/*.py', 'eval/*.py', 'histology/*.py',
          'input_pipeline/*.py', 'nets/*.py', 'prediction/*.py',
          'training/*.py')


def test_no_function_is_longer_than_60_lines():
    longer = []
    for place in PLACES:
        paths = glob.glob(os.path.join(ROOT, place))
        assert paths, place
        for path in paths:
            with open(path, encoding='utf-8') as file:
                tree = ast.parse(file.read())
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    last = max(getattr(inner, 'lineno', 0)
                               for inner in ast.walk(node))
                    if (last - node.lineno >= MAX_LINES
                            and node.name != 'define_flags'):
                        longer.append(f'{path}: {node.name}')
    assert longer == []
