"""Errors that the user can mend, and outputs that appear only when whole."""
import contextlib
import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import socket

MAX_NAME = 255  # bytes of a file's name
LONG_NAME = 100  # longer ones are shortened in temporary names


class InputError(Exception):
    """Something the user gave is wrong.

    The message is one line that names the file or flag, says what is wrong
    with it and what to do. `main.py` prints it and exits with status 1; every
    other exception is a bug of ours and keeps its traceback.
    """


@contextlib.contextmanager
def locked(folder, flag):
    """Keeps out other processes that lock the same folder.

    The lock is that of a file opened for writing: Linux makes it one that
    holds among all machines that mount the folder by NFS, which a lock of the
    folder itself would not be. It ends with the block or the process.

    Args:
        folder: made if absent.
        flag: that names the folder, without dashes.

    Raises:
        InputError: another process has the lock, or the folder cannot be
            made, written to or locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            # It stays behind: were it removed, a process that has opened it
            # would lock a file that the next one does not find. Opened to
            # append, lest a file of the user's be emptied.
            file = stack.enter_context(
                open(os.path.join(folder, '.lock'), 'a'))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f'{folder}: another process is writing there; '
                             'wait for its end or choose another '
                             f'--{flag}') from error
        except OSError as error:
            raise InputError(f'{folder}: cannot be written '
                             f'({error.strerror}); choose another '
                             f'--{flag}') from error
        yield


@contextlib.contextmanager
def atomic_write(path):
    """Yields a temporary path beside `path`, renamed to `path` on success.

    Nothing is left behind when the block raises; what a killed process left
    is removed by the next one that writes to the folder. The temporary name
    is this process's own, so that two may write the same file, and keeps the
    ending, because image and HDF5 writers choose their format by it.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    folder, name = os.path.split(os.path.abspath(path))
    if len(os.fsencode(name)) > LONG_NAME:
        # With what is added to it, it might be too long for a file name.
        name = (hashlib.sha1(os.fsencode(name)).hexdigest()
                + os.path.splitext(name)[1])
    partial = os.path.join(folder, _partial_prefix() + f'{os.getpid()}-{name}')
    try:
        os.makedirs(folder, exist_ok=True)
        _remove_partials_of_killed(folder)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f'{path}: cannot be written '
                         f'({error.strerror or error}); choose another folder '
                         'or make room') from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _partial_prefix():
    # Process numbers are those of one machine, a folder may be on several.
    return f'.partial-{socket.gethostname()}-'


@functools.lru_cache(maxsize=None)  # once in each folder
def _remove_partials_of_killed(folder):
    for name in os.listdir(folder):
        owner = re.match(re.escape(_partial_prefix()) + r'(\d{1,9})-', name)
        # Nothing of this process is there before it first writes there.
        if owner and (int(owner.group(1)) == os.getpid()
                      or not _is_running(int(owner.group(1)))):
            with contextlib.suppress(FileNotFoundError):  # others do it too
                os.remove(os.path.join(folder, name))


def _is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def remove_matching(folder, *patterns):
    """Removes what matches one of the glob patterns in a folder."""
    for pattern in patterns:
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.remove(path)


def write_json(path, content):
    """Writes a dict as indented JSON; the file appears only when whole.

    NaN, which JSON does not know, becomes null.

    Raises:
        InputError: as `atomic_write`.
        ValueError: a number is infinite.
    """
    with atomic_write(path) as partial, open(partial, 'w') as file:
        json.dump(_nan_to_none(content), file, indent=2, allow_nan=False)
        file.write('\n')


def _nan_to_none(content):
    if isinstance(content, dict):
        return {key: _nan_to_none(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_nan_to_none(value) for value in content]
    return None if content != content else content
