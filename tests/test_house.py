"""The rules of the code itself, read from its files.

Each check lists the faults of a folder; it is tried on a folder made to hold
them, and then on the project, which must have none.
"""
import ast
import importlib.util
import inspect
import os
import re

import pytest

from conftest import ROOT

MAX_LINES = 60  # of a function
MAX_COLUMNS = 79
LONGER_FUNCTIONS = {('main.py', 'define_flags')}
# What requirements.txt lists, by the names that are imported. TensorFlow is
# imported through nets/tf1.py alone.
THIRD_PARTY = {'PIL', 'absl', 'h5py', 'imagecodecs', 'imageio', 'matplotlib',
               'numpy', 'scipy', 'skimage', 'tensorboard', 'tifffile'}
TENSORFLOW_AT = 'nets/tf1.py'
FLAGS_AT = 'main.py'
TOOLS = ('docs', 'benchmarks')  # import what they like; nothing imports them


def python_files(root, *tops):
    """Paths relative to root, with '/', of the .py files that are or lie
    below `tops`."""
    found = [top for top in tops if top.endswith('.py')]
    for top in tops:
        for parent, _, names in os.walk(os.path.join(root, top)):
            found.extend(
                os.path.relpath(os.path.join(parent, name), root)
                for name in names if name.endswith('.py'))
    return sorted(path.replace(os.sep, '/') for path in found)


def read(root, path):
    with open(os.path.join(root, path), encoding='utf-8') as file:
        return file.read()


def module_name(path):
    """'nets.unet' of 'nets/unet.py', and 'nets' of 'nets/__init__.py'."""
    return re.sub(r'(/__init__)?\.py$', '', path).replace('/', '.')


def imported_names(source, path):
    """Dotted names that a file imports, wherever in it.

    `from a import b` gives 'a.b', and so does `import a.b`. A relative import
    gives the full name. A call of importlib.import_module or __import__ gives
    its argument; '?' stands for what is computed, as in 'nets.?' of
    import_module(f'nets.{net}').
    """
    package = module_name(path).split('.')
    if not path.endswith('/__init__.py'):
        package.pop()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1]
            base = (above if node.level else []) + (
                node.module.split('.') if node.module else [])
            yield from ('.'.join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
            if name in ('import_module', '__import__'):
                parts = getattr(node.args[0], 'values', [node.args[0]])
                yield ''.join(getattr(part, 's', '?') for part in parts)


def module_of(name, modules):
    """The longest beginning of a dotted name that is a module, or None."""
    parts = name.split('.')
    return next(('.'.join(parts[:end]) for end in range(len(parts), 0, -1)
                 if '.'.join(parts[:end]) in modules), None)


def targets_of(name, modules):
    """The modules that an imported name, of `imported_names`, stands for."""
    if name.endswith('.?'):
        return {module for module in modules if module.startswith(name[:-1])}
    target = module_of(name, modules)
    return {target} if target else set()


def is_third_party(name):
    """Says whether an imported name is not of Python itself."""
    spec = importlib.util.find_spec(name.split('.')[0])
    return spec is None or 'site-packages' in (spec.origin or '')


def circle_in(edges):
    """A circle of a graph as a list of its nodes, or None.

    Args:
        edges: dict from each node to the set of those it points to.
    """
    done = set()

    def follow(path):
        for node in sorted(edges[path[-1]]):
            if node in path:
                return path[path.index(node):] + [node]
            if node not in done:
                found = follow(path + [node])
                if found:
                    return found
        done.add(path[-1])
        return None

    for start in sorted(edges):
        found = start not in done and follow([start])
        if found:
            return found
    return None


def import_faults(root, order):
    """Imports that a project's order forbids, and circles, a line each.

    Args:
        root: the project's folder.
        order: its packages and its .py files, each of which may import itself
            and those before it.
    """
    paths = {module_name(path): path for path in python_files(root, *order)}
    rank = {module_name(top): number for number, top in enumerate(order)}
    edges, faults = {module: set() for module in paths}, []
    for module, path in paths.items():
        for name in imported_names(read(root, path), path):
            targets = targets_of(name, paths)
            if targets:
                top = module_of(name, rank)
                if rank[top] > rank[module.split('.')[0]]:
                    faults.append(f'{path}: {name} stands above it')
                else:
                    edges[module].update(targets)
            elif name.split('.')[0] == 'tensorflow':
                if path != TENSORFLOW_AT:
                    faults.append(f'{path}: imports TensorFlow, not through '
                                  'nets.tf1')
            elif name.split('.')[0] in THIRD_PARTY:
                pass
            elif '?' in name or is_third_party(name):
                faults.append(f'{path}: {name} is none of the packages that '
                              'it may import')
    circle = circle_in(edges)
    return sorted(faults) + (['circle: ' + ' -> '.join(circle)]
                             if circle else [])


def function_lengths(source):
    """(name, lines) of each function, without its decorators."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # Python 3.7 counts a function from its first decorator.
            start = next(
                number for number in range(node.lineno - 1, len(lines))
                if re.match(r'\s*(async\s+)?def\b', lines[number]))
            yield node.name, len(inspect.getblock(lines[start:]))


def long_functions(root, *tops):
    return [f'{path}: {name}, {length} lines'
            for path in python_files(root, *tops)
            for name, length in function_lengths(read(root, path))
            if length > MAX_LINES and (path, name) not in LONGER_FUNCTIONS]


def long_lines(root, *tops):
    return [f'{path}:{number}' for path in python_files(root, *tops)
            for number, line in enumerate(read(root, path).splitlines(), 1)
            if len(line) > MAX_COLUMNS]


def flag_readers(root, *tops):
    """Files that import absl's flags or use the name FLAGS."""
    def reads_flags(path):
        source = read(root, path)
        return any(name.startswith('absl.flags')
                   for name in imported_names(source, path)) or any(
                       'FLAGS' in (getattr(node, 'id', ''),
                                   getattr(node, 'attr', ''))
                       for node in ast.walk(ast.parse(source)))
    return [path for path in python_files(root, *tops)
            if path != FLAGS_AT and reads_flags(path)]


# The checks find what they are for


@pytest.fixture
def made(tmp_path):
    """A function that writes files, of names and texts, and gives the root."""
    def write(files):
        for path, text in files.items():
            full = tmp_path / path
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_text(text, encoding='utf-8')
        return str(tmp_path)
    return write


ORDER = ['low', 'high', 'top.py']
CLEAN = {
    'low/__init__.py': 'from low.a import x\n',
    'low/a.py': 'import os\nimport numpy as np\nfrom . import b\nx = 1\n',
    'low/b.py': '',
    'high/__init__.py': '',
    'high/c.py': 'import low\nfrom low import a, x\nimport low.b as q\n',
    'high/d/__init__.py': 'from .. import c\nfrom ..c import a\n',
    'top.py': 'def f():\n    from high import c\n    from absl import flags\n',
}


def test_imports_in_order_are_no_faults(made):
    assert import_faults(made(CLEAN), ORDER) == []


@pytest.mark.parametrize('path, text, faults', [
    ('low/b.py', 'import high', ['low/b.py: high stands above it']),
    ('low/b.py', 'import os, high.c as c',
     ['low/b.py: high.c stands above it']),
    ('low/b.py', 'from high.c import a',
     ['low/b.py: high.c.a stands above it']),
    ('high/c.py', 'def f():\n    if f:\n        import top',
     ['high/c.py: top stands above it']),
    ('low/b.py', 'import importlib\nimportlib.import_module("high.c")',
     ['low/b.py: high.c stands above it']),
    ('low/b.py', 'import importlib\nimportlib.import_module(f"high.{x}")',
     ['low/b.py: high.? stands above it']),
    ('low/b.py', 'import importlib\nimportlib.import_module("h" + x)',
     ['low/b.py: ? is none of the packages that it may import']),
    # The package itself imports low.a, and this imports low.b.
    ('low/b.py', 'from . import a', ['circle: low.a -> low.b -> low.a']),
    ('low/b.py', 'def f():\n    from .a import x',
     ['circle: low.a -> low.b -> low.a']),
    ('low/b.py', 'from low import x',
     ['circle: low -> low.a -> low.b -> low']),
    ('high/__init__.py', '__import__(f"high.{x}")\nimport high.d as high',
     []),
    ('high/c.py', '__import__(f"high.{x}")', ['circle: high.c -> high.c']),
    ('high/c.py', 'from .d import e',
     ['circle: high.c -> high.d -> high.c']),
    ('low/a.py', 'import low.a', ['circle: low.a -> low.a']),
    ('low/b.py', 'import tensorflow.compat.v1 as tf',
     ['low/b.py: imports TensorFlow, not through nets.tf1']),
    ('low/b.py', 'import pytest',
     ['low/b.py: pytest is none of the packages that it may import']),
    ('low/b.py', 'def f():\n    from no_such_package import x',
     ['low/b.py: no_such_package.x is none of the packages that it may '
      'import'])])
def test_faulty_imports_are_found(made, path, text, faults):
    assert import_faults(made({**CLEAN, path: text}), ORDER) == faults


def test_tensorflow_may_be_imported_in_one_file(made):
    text = 'def f():\n    import tensorflow.compat.v1 as tf\n'
    root = made({'nets/__init__.py': '', 'nets/tf1.py': text})
    assert import_faults(root, ['nets']) == []


def test_the_lines_of_functions_are_counted(made):
    body = '    x = (\n        1,\n    )\n'  # three lines, the last a bracket
    text = ('@wrap(\n    1)\n@wrap\ndef sixty():\n' + '    """A\n    B."""\n'
            + 19 * body + '\n# A remark behind it.\nx = 1\n\n'
            'class C:\n    @wrap\n    async def sixty_one(self):\n'
            + '        y = 0\n' * 59 + '        """a\n' + '        b"""[0]\n'
            # As many again in a function of its own.
            + 'def outer():\n    def inner():\n' + '        pass\n' * 60
            + '    return inner\n')
    root = made({'a.py': text, 'sub/b.py': 'def f(): pass\n'})
    assert dict(function_lengths(text)) == {
        'sixty': 60, 'sixty_one': 62, 'outer': 63, 'inner': 61}
    assert sorted(long_functions(root, 'a.py', 'sub')) == [
        'a.py: inner, 61 lines', 'a.py: outer, 63 lines',
        'a.py: sixty_one, 62 lines']


def test_only_one_function_may_be_longer(made):
    text = 'def define_flags():\n' + '    x = 1\n' * 60
    root = made({'main.py': text, 'nets/a.py': text})
    assert long_functions(root, 'main.py', 'nets') == [
        'nets/a.py: define_flags, 61 lines']


def test_long_lines_are_found(made):
    root = made({'a/b.py': f'{"é" * 79}\n\n#{"x" * 79}'})
    assert long_lines(root, 'a') == ['a/b.py:3']


def test_readers_of_flags_are_found(made):
    root = made({
        'main.py': 'from absl import flags\nFLAGS = flags.FLAGS\n',
        'a/imports.py': 'def f():\n    from absl import flags\n',
        'a/whole.py': 'import absl.flags\n',
        'a/name.py': 'import main\nprint(main.FLAGS.net)\n',
        'a/clean.py': 'from absl import logging\nflags = "FLAGS"\n'})
    assert flag_readers(root, 'main.py', 'a') == [
        'a/imports.py', 'a/name.py', 'a/whole.py']


# The project has none


def order_in_readme():
    """The packages as the README draws them, the ground first."""
    line, = re.findall(r'^\w+(?:  <-  [\w.]+)+$', read(ROOT, 'README.md'),
                       re.MULTILINE)
    return line.split('  <-  ')


def test_the_readme_draws_every_package():
    packages = {os.path.dirname(path) for path in python_files(ROOT, *(
        name for name in os.listdir(ROOT)
        if os.path.isdir(os.path.join(ROOT, name))
        and not name.startswith('.') and name not in (*TOOLS, 'tests')))}
    order = order_in_readme()
    assert order[-1] == 'main.py'
    assert len(order) == len(set(order))
    assert {package.split('/')[0] for package in packages} == set(order[:-1])


def test_imports_run_one_way():
    assert import_faults(ROOT, order_in_readme()) == []


def test_tensorflow_is_imported_in_one_file():
    assert [path for path in python_files(ROOT, *TOOLS, 'tests')
            if any(name.split('.')[0] == 'tensorflow' for name
                   in imported_names(read(ROOT, path), path))] == []


def test_no_function_is_too_long():
    assert long_functions(ROOT, *order_in_readme(), *TOOLS) == []


def test_no_line_is_too_long():
    assert long_lines(ROOT, *order_in_readme(), *TOOLS, 'tests') == []


def test_flags_are_read_in_one_file():
    assert flag_readers(ROOT, *order_in_readme(), *TOOLS) == []
