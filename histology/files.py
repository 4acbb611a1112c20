"""Errors that users can mend, locks, and outputs that appear when whole."""
import contextlib
import errno
import fcntl
import functools
import glob
import json
import os
import pathlib
import re
import shutil
import socket

from histology import progress

MAX_NAME = 255  # bytes of a file's name
TEMPORARY_NAME = 40  # characters of it at most, in its temporary name
# Of a write to an open file, which does not say its name.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS,
               errno.EFBIG)
DRIVE_ERRORS = (errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT,
                errno.EHOSTDOWN)  # the same, of network drives
NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.ENOSYS)


class InputError(Exception):
    """Something that the user gave is wrong.

    The message is one line: it names the file or flag, says what is wrong and
    what to do. `main.py` prints it and exits with status 1. Every other
    exception is a bug of ours and keeps its traceback.
    """

    def __str__(self):
        """Return the message, whatever is in a file's name, in one line."""
        return progress.one_line(super().__str__())


class LockedError(InputError):
    """Another process has the lock of a folder, or has done its work."""


@contextlib.contextmanager
def locked(folder, flag):
    """Keep out other processes that lock the folder that a flag names.

    The lock ends with the block or the process. It is the lock of a file
    opened for writing: Linux shares that one among all machines that mount
    the folder by NFS, but not the lock of a folder. On a drive without locks
    a line says that no process is kept out.

    The folder is made if absent; what was made and is still empty at the end
    is removed.

    Raises:
        LockedError: another process has the lock.
        InputError: the folder cannot be made, written to or locked.
    """
    path = os.path.join(folder, '.lock')
    was_there = os.path.lexists(path)
    above = [folder, *pathlib.Path(os.path.abspath(folder)).parents]
    made = [parent for parent in above if not os.path.lexists(parent)]
    there = above[len(made)]
    dangling = os.path.islink(there) and not os.path.exists(there)
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            # To append, so that a user's file keeps its content.
            file = stack.enter_context(open(path, 'a'))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have removed it since it was opened.
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                raise BlockingIOError
        except OSError as error:
            # Its owner may have removed the lock, and folders that it made.
            if not dangling and isinstance(
                    error, (BlockingIOError, FileNotFoundError)):
                raise LockedError(
                    f'{folder}: another process is writing there; wait for '
                    f'its end or choose another --{flag}') from error
            if error.filename or error.errno not in NO_LOCKS:
                raise InputError(
                    f'{folder}: cannot be written ({error.strerror}); choose '
                    f'another --{flag}') from error
            progress.say(f'{folder}: its drive has no file locks; let one '
                         'process at a time write there', error=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if not was_there and os.listdir(folder) == ['.lock']:
                    os.remove(path)
                    for empty in made:
                        os.rmdir(empty)


@contextlib.contextmanager
def atomic_write(path):
    """Yield a temporary path beside `path`, renamed to `path` on success.

    The block makes a file of it, or a folder, which replaces one at `path`.
    Nothing is left behind when the block raises. What a killed process left
    is removed by the next process of its machine or container that writes to
    the folder. The temporary name holds the process's number, so that two
    processes may write the same file. It keeps the ending, by which writers of
    images choose the format.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    folder, name = os.path.split(os.path.abspath(path))
    partial = os.path.join(folder, _partial_prefix()
                           + f'{os.getpid()}-{name[-TEMPORARY_NAME:]}')
    try:
        os.makedirs(folder, exist_ok=True)
        _remove_partials_of_killed(folder)
        yield partial
        if os.path.isdir(partial) and os.path.isdir(path):
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError as error:
        number = error_number(error)
        if error.filename is None:
            is_ours = number in DISK_ERRORS + DRIVE_ERRORS
        else:  # or of another file, which the block reads
            is_ours = partial.startswith(str(error.filename))
        if not is_ours:
            raise
        raise InputError(
            f'{path}: cannot be written ({os.strerror(number)}); choose '
            'another folder or make room') from error
    finally:
        if os.path.exists(partial):
            _remove(partial)


def error_number(error):
    """Return the errno of an OSError, which HDF5 says in its text, or None."""
    told = re.search(r'errno = (\d+)', str(error))
    return int(told.group(1)) if told else error.errno


def _partial_prefix():
    # Two machines that share a folder may use one process number, and so may
    # two containers with one host name.
    space = os.path.basename(os.path.realpath('/proc/self/ns/pid'))
    return f'.partial-{socket.gethostname()}-{re.sub("[^0-9]", "", space)}-'


@functools.lru_cache(maxsize=None)  # once in each folder
def _remove_partials_of_killed(folder):
    pattern = re.compile(re.escape(_partial_prefix()) + r'(\d{1,9})-')
    for owner in filter(None, map(pattern.match, os.listdir(folder))):
        number = int(owner.group(1))
        # This process has written nothing there yet.
        if number == os.getpid() or not _is_running(number):
            with contextlib.suppress(OSError):  # others do it too
                _remove(os.path.join(folder, owner.string))


def _is_running(process_id):
    try:
        with contextlib.suppress(PermissionError):  # another user's
            os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def remove_matching(folder, *patterns):
    """Remove what matches one of the glob patterns in a folder by `remove`."""
    for pattern in patterns:
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            remove(path)


def remove(path):
    """Remove a file or folder, unless another process did it before.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        _remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f'{path}: cannot be removed ({error.strerror}); make '
                         'its folder writable, or choose another') from error


def _remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def write_bytes(path, content):
    """Write a file of bytes; it appears only when whole.

    Raises:
        InputError: as `atomic_write`.
    """
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        file.write(content)


def write_json(path, content):
    """Write a dict as indented JSON; the file appears only when whole.

    NaN, which JSON does not know, becomes null.

    Raises:
        InputError: as `atomic_write`.
        KeyError: a number is infinite.
    """
    content = json.loads(json.dumps(content),
                         parse_constant={'NaN': None}.__getitem__)
    write_bytes(path, json.dumps(content, indent=2).encode() + b'\n')
