"""run.sh on machines as they come: made by a PATH that holds little."""
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile

import pytest

from conftest import ROOT, SECONDS

TOOLS = ('bash', 'cat', 'cmp', 'dirname', 'flock', 'ln', 'ls', 'mkdir', 'mv',
         'readlink', 'realpath', 'rm', 'sed', 'sha1sum', 'tail')
VERSION = f'{sys.version_info[0]}.{sys.version_info[1]}'
ENGINE = 'tf1' if VERSION == '3.7' else 'tf2'
NO_NETWORK = {'PIP_CONFIG_FILE': os.devnull, 'PIP_RETRIES': '0',
              'PIP_INDEX_URL': 'http://127.0.0.1:9/'}


def base_python(prefix=sys.prefix):
    """The Python that a virtual environment was made from."""
    return os.path.realpath(os.path.join(prefix, 'bin', 'python'))


def newer_python():
    """One on which neither engine installs, or else the one in use: run.sh
    looks for python3.7 and the like by name, and uses python3 for pip alone.
    """
    for minor in range(12, 20):
        for path in (*glob.glob(os.path.expanduser(
                f'~/.pyenv/versions/3.{minor}.*/bin/python3')),
                     shutil.which(f'python3.{minor}')):
            if path and subprocess.call(
                    [path, '-m', 'pip', '--version'],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
                return path
    return base_python()


class Machine:
    """A folder with run.sh, and requirements that are quickly installed."""

    def __init__(self, folder):
        self.bin, self.home = folder / 'bin', folder / 'home'
        self.project = folder / 'the project'
        for path in (self.bin, self.home, self.project):
            path.mkdir()
        for tool in TOOLS:
            self.add(tool, shutil.which(tool))
        shutil.copy(os.path.join(ROOT, 'run.sh'), str(self.project))
        for path in glob.glob(os.path.join(ROOT, 'requirements*.txt')):
            (self.project / os.path.basename(path)).write_text('# nothing\n')

    def add(self, name, target):
        (self.bin / name).symlink_to(target)

    def start(self, *arguments, cwd=None, **variables):
        kept = {name: value for name, value in os.environ.items()
                if name.startswith(('PIP_', 'SSL_'))
                or name.lower().endswith('_proxy')}
        return subprocess.Popen(
            ['bash', str(self.project / 'run.sh'), *arguments],
            cwd=str(cwd or self.project), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True,
            env=dict(kept, HOME=str(self.home), PATH=str(self.bin),
                     **variables))

    def run(self, *arguments, **variables):
        process = self.start(*arguments, **variables)
        process.stdout, process.stderr = process.communicate(timeout=SECONDS)
        return process

    def has_set_up(self):
        return bool(list(self.project.glob('.venv*')))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize('variables, words', [
    ({'FOLD': '4'}, 'FOLD=4: unknown; give 0, 1, 2 or 3'),
    ({'FOLD': '12'}, 'FOLD=12: unknown; give 0, 1, 2 or 3'),
    ({'FOLD': 'none'}, 'FOLD=none: unknown; give 0, 1, 2 or 3'),
    ({'ENGINE': 'tf3'}, 'ENGINE=tf3: unknown; give tf1, tf1-gpu or tf2'),
    *(({'ENGINE': engine}, f'ENGINE={engine}: only for export or the '
       f'benchmark; give ENGINE={engine} ./run.sh setup')
      for engine in ('onnx', 'torch')),
    ({'FOLD': '2'}, 'FOLD=2: only for MoNuSeg; give MONUSEG_DIR too'),
    ({'MONUSEG_DIR': '/no/such'}, 'MONUSEG_DIR=/no/such: no such folder or '
     'file')])
def test_wrong_variables_are_refused_before_a_set_up(machine, variables,
                                                     words):
    process = machine.run(**variables)
    assert process.returncode == 1
    assert process.stderr == f'error: {words}\n'
    assert process.stdout == ''
    assert not machine.has_set_up()


@pytest.mark.parametrize('variables, version, pip', [
    pytest.param({}, '3.11', True, marks=pytest.mark.long),
    ({'ENGINE': 'tf1'}, '3.7', True), ({}, '3.11', False)])
def test_without_a_network_two_lines_say_what_to_do(machine, variables,
                                                    version, pip):
    if pip:
        machine.add('python3', newer_python())
    process = machine.run('setup', **dict(variables, **NO_NETWORK))
    assert process.returncode == 1
    engine = variables.get('ENGINE', 'tf2')
    why = ([] if variables else
           ['No Python 3.7 found: TensorFlow 2.15 in place of 1.15.'])
    assert process.stdout.splitlines() == [
        *why, f'No Python found that ENGINE={engine} runs on: downloading '
        f'Python {version} into .uv']
    error, advice = process.stderr.splitlines()
    assert error.startswith(f'error: Python {version} could not be downloaded')
    assert ('uv==0.6.17' if pip else 'neither pip nor venv') in error
    for words in (f'PYTHON=/path/to/python{version}',
                  f'uvx uv@0.6.17 python install {version}',
                  f'pyenv install {version}'):
        assert words in advice
    assert not machine.has_set_up()
    assert not list(machine.home.iterdir())


@pytest.mark.parametrize('given', ['/no/python', './python', 'python9'])
def test_a_wrong_python_is_refused_and_none_downloaded(machine, given):
    process = machine.run('setup', PYTHON=given)
    assert process.returncode == 1
    error, advice = process.stderr.splitlines()
    assert os.path.basename(given) in error
    assert 'needs Python 3.7, and 2.15 (ENGINE=tf2) 3.9 to 3.11' in error
    assert 'or omit PYTHON' in advice
    assert not machine.has_set_up()
    assert not (machine.project / '.uv').exists()


def pack_python(folder):
    """Packs the Python in use as a release that uv downloads.

    Returns:
        The variables that make uv take it from this folder.
    """
    version = platform.python_version()
    path = (f'20250409/cpython-{version}+20250409-x86_64-unknown-linux-gnu-'
            'install_only_stripped.tar.gz')
    (folder / '20250409').mkdir(parents=True)
    prefix = os.path.dirname(os.path.dirname(base_python()))
    name = f'python{VERSION}'

    def needed(item):
        left_out = ('test', 'tests', '__pycache__', 'site-packages',
                    'dist-packages', 'idlelib', 'tkinter')
        if (os.path.basename(item.name) in left_out
                or f'{name}/config-' in item.name):
            return None
        return item

    with tarfile.open(str(folder / path), 'w:gz', compresslevel=1) as archive:
        archive.add(os.path.realpath(os.path.join(prefix, 'bin', name)),
                    f'python/bin/{name}')
        archive.add(os.path.join(prefix, 'lib', name), f'python/lib/{name}',
                    filter=needed)
    release = {
        'name': 'cpython', 'os': 'linux', 'libc': 'gnu', 'variant': None,
        'arch': {'family': 'x86_64', 'variant': None}, 'prerelease': '',
        'url': 'https://github.com/astral-sh/python-build-standalone/'
               f'releases/download/{path}',
        'sha256': hashlib.sha256((folder / path).read_bytes()).hexdigest()}
    release.update(zip(('major', 'minor', 'patch'), sys.version_info))
    (folder / 'releases.json').write_text(
        json.dumps({f'cpython-{version}-linux-x86_64-gnu': release}))
    return {'UV_PYTHON_INSTALL_MIRROR': folder.as_uri(),
            'UV_PYTHON_DOWNLOADS_JSON_URL': str(folder / 'releases.json')}


@pytest.mark.long
def test_a_python_is_downloaded_once(machine, tmp_path):
    mirror = pack_python(tmp_path / 'mirror')
    machine.add('python3', newer_python())
    # Without ENGINE, 3.7 is not what a machine without Python gets.
    asked = {'ENGINE': 'tf1'} if ENGINE == 'tf1' else {}
    process = machine.run('setup', **asked, **mirror)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[:-1] == [
        *([] if asked else
          ['No Python 3.7 found: TensorFlow 2.15 in place of 1.15.']),
        f'No Python found that ENGINE={ENGINE} runs on: downloading Python '
        f'{VERSION} into .uv',
        f'Setting up .venv-{ENGINE} with Python {platform.python_version()}']
    environment = machine.project / f'.venv-{ENGINE}'
    own = str(machine.project / '.uv' / 'python')
    assert os.path.realpath(environment / 'bin/python').startswith(own)
    assert not list(machine.home.iterdir())

    # The project elsewhere: what was made for the old place is made anew,
    # with the Python that came along, and without a network.
    machine.project.rename(tmp_path / 'elsewhere')
    machine.project = tmp_path / 'elsewhere'
    process = machine.run('setup', **asked, **NO_NETWORK)
    assert process.returncode == 0, process.stderr
    assert 'downloading' not in process.stdout
    assert f'Setting up .venv-{ENGINE} with' in process.stdout
    environment = machine.project / f'.venv-{ENGINE}'
    assert (f'VIRTUAL_ENV={environment}'
            in (environment / 'bin/activate').read_text().replace('"', ''))
    process = machine.run('setup', **asked, **NO_NETWORK)
    assert process.returncode == 0, process.stderr
    assert 'Setting up' not in process.stdout


# Says what it is asked for, and writes the files whose age run.sh compares.
MAIN = '''
import os
import sys
print(sys.prefix, *sys.argv[1:])
flags = dict(flag.lstrip('-').split('=', 1) for flag in sys.argv[1:]
             if '=' in flag)
written = {'prepare': '{data_dir}/test.h5',
           'train': '{model_dir}/{net}/weights.h5',
           'eval': '{model_dir}/{net}/test.json',
           'predict': '{output_dir}/a.csv'}[flags['mode']].format(**flags)
os.makedirs(os.path.dirname(written), exist_ok=True)
if not os.path.exists(written):
    open(written, 'w').close()
'''


def test_an_engine_keeps_to_its_folder(machine, tmp_path):
    """Two at once, PYTHON and MONUSEG_DIR from another folder, and a .venv
    that is the user's."""
    there = tmp_path / 'there'
    (there / 'MoNuSeg data').mkdir(parents=True)
    (there / 'python').symlink_to(base_python())
    variables = {'cwd': there, 'ENGINE': ENGINE, 'PYTHON': './python'}
    processes = [machine.start('setup', **variables) for _ in range(2)]
    output = ''
    for process in processes:
        stdout, stderr = process.communicate(timeout=SECONDS)
        assert (process.returncode, stderr) == (0, '')
        output += stdout
    assert output.count('Setting up') == 1
    link = machine.project / '.venv'
    assert os.readlink(link) == f'.venv-{ENGINE}'

    link.unlink()
    link.mkdir()
    (link / 'mine').write_text('kept')
    for name, text in (
            ('main', MAIN), ('nets', "NETS = ('tinynet', 'unet')"),
            ('eval/report',
             'compare_networks = lambda *arguments: arguments')):
        path = machine.project / f'{name}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    process = machine.run(MONUSEG_DIR='MoNuSeg data', FOLD='2', **variables)
    assert process.returncode == 0, process.stderr
    assert (link / 'mine').read_text() == 'kept'
    prefix = machine.project / f'.venv-{ENGINE}'
    flags = [line[len(f'{prefix} --mode='):]
             for line in process.stdout.splitlines()
             if line.startswith(str(prefix))]
    assert flags[:2] == [
        'prepare --data_dir=data/monuseg-fold2 '
        f'--monuseg_dir={there}/MoNuSeg data --fold=2',
        'train --net=tinynet --model_dir=checkpoints/fold2 '
        '--data_dir=data/monuseg-fold2']
    assert [(line.split()[0], line.split()[1]) for line in flags[1:]] == [
        (mode, f'--net={net}') for net in ('tinynet', 'unet')
        for mode in ('train', 'eval', 'predict')]
    assert flags[3] == (
        'predict --net=tinynet --model_dir=checkpoints/fold2 '
        '--data_dir=data/monuseg-fold2 --split=test '
        '--output_dir=predictions/monuseg-fold2/tinynet --overwrite')
    assert ('run.sh did not make .venv and leaves it; use '
            f'.venv-{ENGINE} instead.') in process.stdout
    closing = process.stdout.splitlines()[-2:]
    assert (f'.venv-{ENGINE}/bin/tensorboard --host localhost --logdir '
            'checkpoints/fold2') in closing[0]
    assert '--model_dir=checkpoints/fold2' in closing[1]
    assert '--data_dir=data/monuseg-fold2' in closing[1]

    # What is done is not done again, unless the network is a better one; but
    # it is measured anew.
    path = machine.project / 'checkpoints/fold2/unet/weights.h5'
    path.write_text('restored')
    os.utime(path, (0, 0))
    process = machine.run(MONUSEG_DIR='MoNuSeg data', FOLD='2', **variables)
    assert process.returncode == 0, process.stderr
    assert re.findall(f'{prefix} --mode=(.*) --net=(.*) --model',
                      process.stdout) == [
        ('train', 'tinynet'), ('eval', 'tinynet'), ('train', 'unet'),
        ('eval', 'unet'), ('predict', 'unet')]

    # Of machines that share the folder one has a GPU: its libraries are added
    # to what others use, and do not disturb them.
    if os.path.exists('/proc/driver/nvidia/version'):
        return  # it had them from the first
    (prefix / 'in use').touch()
    machine.add('nvidia-smi', '/bin/true')
    process = machine.run('setup', **variables)
    assert ("with CUDA 12.2's libraries" in process.stdout) == (
        ENGINE == 'tf2')
    (machine.bin / 'nvidia-smi').unlink()
    assert 'Setting up' not in machine.run('setup', **variables).stdout
    assert (prefix / 'in use').exists()


@pytest.mark.skipif(VERSION not in ('3.10', '3.11'), reason='has no ONNX')
def test_the_environment_for_onnx_is_none_to_work_in(machine):
    process = machine.run('setup', ENGINE='onnx', PYTHON=base_python())
    assert (process.returncode, process.stderr) == (0, '')
    assert process.stdout.splitlines() == [
        f'Setting up .venv-onnx with Python {platform.python_version()}',
        '.venv-onnx is ready; next: python main.py --mode=export --net=unet']
    assert (machine.project / '.venv-onnx' / 'requirements.txt').exists()
    assert not os.path.lexists(machine.project / '.venv')


@pytest.mark.skipif(ENGINE == 'tf1', reason='once is enough: with tf2')
@pytest.mark.parametrize('variables, engine, words, first', [
    ({}, 'tf2', 'NVIDIA driver found: TensorFlow 2.15 in place of 1.15.',
     'tensorflow==2.15.1'),
    pytest.param({'ENGINE': 'tf1-gpu'}, 'tf1-gpu', '', 'tensorflow-gpu==1.15',
                 marks=pytest.mark.long),
    pytest.param({'ENGINE': 'tf1'}, 'tf1', "Intel's build",
                 'intel-tensorflow==1.15.2', marks=pytest.mark.long)])
def test_with_an_nvidia_driver(machine, variables, engine, words, first):
    """Only up to the installation, which would take gigabytes."""
    for name, version in (('tf1', '3.7'), ('tf2', '3.11')):
        prefix = os.path.join(ROOT, f'.venv-{name}')
        if f'python{version}' not in base_python(prefix):
            pytest.skip(f'.venv-{name} with Python {version} is not set up')
        machine.add(f'python{version}', base_python(prefix))
    machine.add('nvidia-smi', '/bin/true')
    for name in ('requirements.txt', 'requirements-tf2.txt',
                 'requirements-cuda.txt'):
        shutil.copy(os.path.join(ROOT, name), str(machine.project))
    process = machine.run('setup', **variables, **NO_NETWORK)
    assert process.returncode == 1
    assert first in process.stderr
    assert 'its packages could not be installed' in process.stderr
    assert f'Setting up .venv-{engine} with' in process.stdout
    assert words in process.stdout
    content = (machine.project / f'.venv-{engine}' /
               'requirements.partial').read_text().splitlines()
    assert first in content
    assert ('nvidia-cudnn-cu12==8.9.4.25' in content) == (engine == 'tf2')
    assert ("CUDA 12.2's libraries" in process.stdout) == (engine == 'tf2')


@pytest.mark.skipif(ENGINE == 'tf1', reason='2.15 says what it brings')
def test_cuda_is_pinned_as_tensorflow_does():
    from importlib import metadata
    pins = {re.sub(r'[() ]', '', requirement.split(';')[0])
            for requirement in metadata.requires('tensorflow')
            if 'and-cuda' in requirement}
    with open(os.path.join(ROOT, 'requirements-cuda.txt')) as file:
        lines = file.read().splitlines()
    assert len(pins) == 12
    assert {line for line in lines if not line.startswith('#')} == pins
