"""Outputs that appear only when whole."""
import errno
import os

import pytest

from conftest import SECONDS, on_a_small_disk, start
from histology.files import (
    InputError,
    atomic_write,
    locked,
    remove_matching,
    write_json,
)
from inputs import message


def test_a_file_appears_at_the_end_in_a_folder_made_for_it(tmp_path):
    path = tmp_path / 'new ü' / 'out.txt'
    with atomic_write(str(path)) as partial:
        with open(partial, 'w') as file:
            file.write('whole')
        assert not path.exists()
        assert partial.endswith('.txt')
    assert path.read_text() == 'whole'
    assert os.listdir(str(path.parent)) == ['out.txt']


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / 'out.txt'
    path.write_text('before')
    with pytest.raises(ZeroDivisionError):
        with atomic_write(str(path)) as partial:
            with open(partial, 'w') as file:
                file.write('half')
            1 / 0
    assert path.read_text() == 'before'
    assert os.listdir(str(tmp_path)) == ['out.txt']


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    path = str(tmp_path / 'file' / 'out.txt')
    with pytest.raises(InputError, match='out.txt: cannot be written'):
        with atomic_write(path):
            pass


def error_in(path, error):
    """What becomes of an error that is raised while a file is written."""
    with pytest.raises((OSError, InputError)) as caught:
        with atomic_write(path):
            if error == 'elsewhere':
                open(os.path.join(os.path.dirname(path), 'none', 'x'), 'w')
            elif error == 'input':
                open(os.path.join(os.path.dirname(path), 'no input'))
            raise error
    return caught.value


@pytest.mark.parametrize('error', [
    BrokenPipeError(errno.EPIPE, 'Broken pipe'), 'elsewhere', 'input',
    ConnectionResetError(errno.ECONNRESET, 'reset'), OSError('no number'),
    OSError(errno.ENOSPC, 'full', '/elsewhere/log.txt')])
def test_what_does_not_concern_the_output_is_not_blamed_on_it(tmp_path,
                                                              error):
    path = str(tmp_path / 'out.txt')
    found = error_in(path, error)
    assert isinstance(found, OSError) and path not in str(found)
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize('error, said', [
    (OSError(errno.ENOSPC, 'x'), 'No space left on device'),
    (OSError(errno.EDQUOT, 'x'), 'Disk quota exceeded'),
    (OSError(errno.EIO, 'x'), 'Input/output error'),
    (OSError(errno.EROFS, 'x'), 'Read-only file system'),
    # As HDF5 says it.
    (OSError("Can't write data (file write failed: errno = 28, error message "
             "= 'No space left on device')"), 'No space left on device')])
def test_errors_of_the_disk_name_the_output(tmp_path, error, said):
    path = str(tmp_path / 'out.txt')
    assert str(error_in(path, error)) == (
        f'{path}: cannot be written ({said}); choose another folder or make '
        'room')


def test_a_folder_in_the_place_of_the_output_is_named(tmp_path):
    path = tmp_path / 'out.txt'
    path.mkdir()
    with pytest.raises(InputError, match='out.txt: cannot be written .Is a'):
        with atomic_write(str(path)) as partial:
            open(partial, 'w').close()
    assert os.listdir(str(tmp_path)) == ['out.txt']


def write_folder(path, name, fail=False):
    with atomic_write(str(path)) as partial:
        os.mkdir(partial)
        with open(os.path.join(partial, name), 'w') as file:
            file.write(name)
        if fail:
            raise KeyError


def test_a_folder_replaces_one_as_a_whole(tmp_path):
    path = tmp_path / 'out'
    for name in ('a', 'b'):
        write_folder(path, name)
        assert os.listdir(str(path)) == [name]
        with pytest.raises(KeyError):
            write_folder(path, 'c', fail=True)
        assert os.listdir(str(path)) == [name]
    # A folder is no file to replace.
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(InputError, match='file: cannot be written'):
        write_folder(tmp_path / 'file', 'a')
    assert (tmp_path / 'file').read_text() == 'mine'
    assert sorted(os.listdir(str(tmp_path))) == ['file', 'out']


def test_the_folder_of_a_killed_writer_is_removed(tmp_path):
    code = """if True:
        import os, signal, sys
        from histology.files import atomic_write
        with atomic_write(sys.argv[1]) as partial:
            os.makedirs(os.path.join(partial, 'inner'))
            os.kill(os.getpid(), signal.SIGKILL)"""
    python(code, tmp_path / 'out').communicate(timeout=SECONDS)
    left, = os.listdir(str(tmp_path))
    assert left.startswith('.partial-')
    write_folder(tmp_path / 'out', 'a')
    assert os.listdir(str(tmp_path)) == ['out']


def test_json_of_what_json_does_not_know(tmp_path):
    path = tmp_path / 'out.json'
    write_json(str(path), {'a': [1, float('nan'), {'b': None}]})
    assert path.read_text().split() == [
        '{', '"a":', '[', '1,', 'null,', '{', '"b":', 'null', '}', ']', '}']
    with pytest.raises(KeyError):
        write_json(str(path), {'a': float('inf')})
    assert 'null' in path.read_text()


def python(code, *arguments):
    return start(*map(str, arguments), code=code)


# Writes 100000 times a letter to a file, half of them after a line on stdin.
WRITE = '''
import sys
from histology.files import atomic_write
path, letter = sys.argv[1:]
with atomic_write(path) as partial, open(partial, 'w') as file:
    file.write(letter * 50000)
    file.flush()
    print('half', flush=True)
    sys.stdin.readline()
    file.write(letter * 50000)
'''


def test_two_processes_write_one_file(tmp_path):
    path = tmp_path / 'out.txt'
    writers = [python(WRITE, path, letter) for letter in 'ab']
    for writer in writers:
        assert writer.stdout.readline() == 'half\n'
    for writer, letter in zip(writers, 'ab'):
        _, errors = writer.communicate('\n', timeout=SECONDS)
        assert writer.returncode == 0, errors
        assert path.read_text() == letter * 100000
    assert os.listdir(str(tmp_path)) == ['out.txt']


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    mine = ['.partial-mine.txt', '.partial-1-2-3.txt', '.partial-99-out.txt']
    for name in mine:
        (tmp_path / name).write_text('mine')
    killed, alive = [python(WRITE, tmp_path / name, 'a')
                     for name in ('out.txt', 'other.txt')]
    for writer in (killed, alive):
        assert writer.stdout.readline() == 'half\n'
    assert len(os.listdir(str(tmp_path))) == len(mine) + 2
    killed.kill()
    killed.communicate(timeout=SECONDS)
    with atomic_write(str(tmp_path / 'third.txt')) as partial:
        with open(partial, 'w') as file:
            file.write('whole')
        assert len(os.listdir(str(tmp_path))) == len(mine) + 2
    _, errors = alive.communicate('\n', timeout=SECONDS)
    assert alive.returncode == 0, errors
    assert sorted(os.listdir(str(tmp_path))) == sorted(
        mine + ['other.txt', 'third.txt'])


def test_a_link_to_a_folder_is_removed_and_not_the_folder(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'notes.txt').write_text('mine')
    (tmp_path / 'x_temp1').symlink_to(tmp_path / 'mine')
    (tmp_path / 'x_temp2').mkdir()
    remove_matching(str(tmp_path), 'x_*')
    assert os.listdir(str(tmp_path)) == ['mine']
    assert (tmp_path / 'mine' / 'notes.txt').read_text() == 'mine'


def test_what_cannot_be_removed(tmp_path, monkeypatch):
    """As another's file in a folder with the sticky bit."""
    (tmp_path / 'a.txt').touch()

    def refuse(path):
        raise PermissionError(errno.EPERM, 'Operation not permitted', path)

    monkeypatch.setattr(os, 'remove', refuse)
    with pytest.raises(InputError, match='a.txt: cannot be removed .Operation '
                       'not permitted.; make its folder writable'):
        remove_matching(str(tmp_path), '*.txt')


WRITE_PNG = '''
import sys
import numpy as np
from histology.files import InputError
from histology.images import write_png
noise = np.random.RandomState(0).randint(0, 256, (200, 200, 3), np.uint8)
try:
    write_png(sys.argv[1], noise)
except InputError as error:
    print(error)
'''


@pytest.mark.parametrize('size', ['4k', '116k'])
def test_a_full_disk_leaves_no_part_of_an_image(tmp_path, size):
    """200 x 200 x 3 bytes of noise take 118 KiB as PNG."""
    process = on_a_small_disk('"$3" -c "$4" "$1/a.png"; ls -A "$1"', tmp_path,
                              size, WRITE_PNG)
    assert process.stdout == (f'{tmp_path}/a.png: cannot be written (No space '
                              'left on device); choose another folder or make '
                              'room\n')
    assert process.stderr == ''


# Locks

LOCK = '''
import sys
from histology.files import locked
with locked(sys.argv[1], 'out_dir'):
    print('locked', flush=True)
    sys.stdin.readline()
'''


def lock(folder):
    with locked(str(folder), 'out_dir'):
        pass


def test_a_folder_below_a_link_to_nowhere(tmp_path):
    (tmp_path / 'link').symlink_to('/no/such')
    assert 'link/out: cannot be written' in message(
        lock, tmp_path / 'link' / 'out')


def test_a_lock_keeps_out_other_processes_until_its_end(tmp_path):
    folder = tmp_path / 'new' / 'out'

    def refused():
        assert message(lock, folder) == (
            f'{folder}: another process is writing there; wait for its end '
            'or choose another --out_dir')

    for end in (lambda process: process.communicate('\n', timeout=SECONDS),
                lambda process: process.kill()):
        process = python(LOCK, folder)
        assert process.stdout.readline() == 'locked\n'
        refused()
        lock(tmp_path)  # another folder
        end(process)
        process.wait(timeout=SECONDS)
        with locked(str(folder), 'out_dir'):
            refused()
    with pytest.raises(ZeroDivisionError), locked(str(folder), 'out_dir'):
        1 / 0
    with locked(str(folder), 'out_dir'):
        pass


def test_a_folder_made_for_refused_work_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with locked(str(tmp_path / 'new' / 'out'), 'out_dir'):
            1 / 0
    assert os.listdir(str(tmp_path)) == []
    # Not so what was there before, or what holds a file.
    (tmp_path / 'mine').mkdir()
    with locked(str(tmp_path / 'mine'), 'out_dir'):
        pass
    assert os.listdir(str(tmp_path / 'mine')) == []
    with locked(str(tmp_path / 'new' / 'out'), 'out_dir'):
        (tmp_path / 'new' / 'out' / 'made').write_text('')
    assert sorted(os.listdir(str(tmp_path))) == ['mine', 'new']
    assert sorted(os.listdir(str(tmp_path / 'new' / 'out'))) == ['.lock',
                                                                 'made']


# Locks a folder 200 times, and says so if another process has it, too.
TAKE_TURNS = """
import os, sys
from histology.files import InputError, locked
folder, own = sys.argv[1:]
held = 0
while held < 200:
    try:
        with locked(folder, 'out_dir'):
            alone = os.path.join(os.path.dirname(folder), 'alone')
            os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
            os.remove(alone)
            held += 1
    except InputError:
        pass
"""


def test_a_lock_that_goes_again_is_held_by_one_process_at_a_time(tmp_path):
    processes = [python(TAKE_TURNS, tmp_path / 'out', k) for k in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors
    # It stays where a process found the folder that another one had made.
    assert set(os.listdir(str(tmp_path))) <= {'out'}


def test_an_error_of_the_work_is_not_taken_for_the_lock(tmp_path):
    with pytest.raises(BlockingIOError):
        with locked(str(tmp_path), 'out_dir'):
            raise BlockingIOError(11, 'Resource temporarily unavailable')


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'out' / '.lock').mkdir(parents=True)
    for name, reason in (('file', 'File exists'), ('out', 'Is a directory'),
                         ('file/out', 'Not a directory')):
        folder = str(tmp_path / name)
        assert message(lock, folder) == (
            f'{folder}: cannot be written ({reason}); choose another '
            '--out_dir')


# A kernel that answers flock with an error, as it does for some drives. By
# seccomp(2): load the number of the call; if it is flock's, return the error.
WITHOUT_LOCKS = '''
import ctypes, platform, struct, sys
flock = {'x86_64': 73, 'aarch64': 32}[platform.machine()]
rules = ctypes.create_string_buffer(b''.join(
    struct.pack('HBBI', *rule) for rule in (
        (0x20, 0, 0, 0), (0x15, 0, 1, flock),
        (0x06, 0, 0, 0x50000 | int(sys.argv[1])), (0x06, 0, 0, 0x7fff0000))))
program = ctypes.create_string_buffer(
    struct.pack('HxxxxxxP', 4, ctypes.addressof(rules)))
prctl = ctypes.CDLL(None).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, program, 0, 0):
    sys.exit('no seccomp')

import numpy as np
from histology.files import locked
from input_pipeline import store
image = np.zeros((300, 300, 3), np.uint8)
annotation = store.Annotation(np.zeros((300, 300), np.int32), True)
with locked(sys.argv[2], 'out_dir'):
    for _ in range(2):
        store.write_store(sys.argv[2] + '/train.h5', {'split': 'train'},
                          [('a', lambda: [image, annotation])])
        for _ in range(2):
            with store.open_store(sys.argv[2] + '/train.h5') as file:
                print(*store.image_names(file))
'''


@pytest.mark.parametrize('number', [errno.ENOTSUP, errno.ENOLCK,
                                    errno.EINVAL, errno.ENOSYS])
def test_a_drive_without_locks(tmp_path, number):
    process = python(WITHOUT_LOCKS, number, tmp_path)
    said, errors = process.communicate(timeout=SECONDS)
    if errors == 'no seccomp\n':
        pytest.skip('no seccomp here')
    assert said == 'a\n' * 4 and process.returncode == 0, errors
    assert errors == (f'{tmp_path}: its drive has no file locks; let one '
                      'process at a time write there\n')


def test_the_longest_name_that_a_file_can_have(tmp_path):
    path = tmp_path / ('ü' * 125 + '.json')  # 255 bytes
    write_json(str(path), {'a': 1})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
