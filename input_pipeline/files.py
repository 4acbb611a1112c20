"""Errors that the user can mend, and outputs that appear only when whole."""
import contextlib
import glob
import json
import os
import shutil
import tempfile

# Of an HDF5 file, beside its data.
HDF5_METADATA = 2 ** 20  # bytes


class InputError(Exception):
    """Something the user gave is wrong.

    The message is one line that names the file or flag, says what is wrong
    with it and what to do. `main.py` prints it and exits with status 1; every
    other exception is a bug of ours and keeps its traceback.
    """


@contextlib.contextmanager
def atomic_write(path):
    """Yields a temporary path beside `path`, renamed to `path` on success.

    Nothing is left behind when the block raises. The temporary name keeps the
    ending, because image and HDF5 writers choose their format by it.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    folder, name = os.path.split(os.path.abspath(path))
    partial = os.path.join(folder, '.partial-' + name)
    try:
        os.makedirs(folder, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f'{path}: cannot be written '
                         f'({error.strerror or error}); choose another folder '
                         'or make room') from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def reserve_space(path, length):
    """Asks for the room that an HDF5 file will need, before it is written.

    HDF5 crashes the process when a disk is full, so it must not find out.

    Args:
        path: of the file.
        length: of what will be added to it, bytes.

    Raises:
        OSError: there is no room.
    """
    with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
        os.posix_fallocate(file.fileno(), 0, length + HDF5_METADATA)


def remove_matching(folder, *patterns):
    """Removes what matches one of the glob patterns in a folder."""
    for pattern in patterns:
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            if os.path.isdir(path):
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
