"""Opening HDF5 files, and making room for them."""
import errno
import os
import re
import tempfile

from histology.files import InputError

# What h5py raises for damaged files, found by damaging files at random.
HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError)
METADATA = 2 ** 20  # bytes of an HDF5 file beside its data


def open_hdf5(path, if_absent, if_damaged):
    """Open an HDF5 file to read.

    Args:
        path: of the file.
        if_absent, if_damaged: what to do then, for the message.

    Returns:
        h5py.File.

    Raises:
        InputError: the file is absent, cannot be read, is in use by a program
            that writes to it, or is damaged.
    """
    import h5py  # here, for prediction.tiling does without it
    try:
        with open(path, 'rb'):  # h5py does not tell absent from damaged
            pass
    except FileNotFoundError as error:
        raise InputError(f'{path}: not there; {if_absent}') from error
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); make it '
                         'readable') from error
    try:
        return h5py.File(path, 'r')
    except OSError as error:
        # Only the text has the number on both h5py 2 and 3.
        found = re.search(r'(unable to lock file, )?errno = (\d+)',
                          str(error))
        if not found:
            raise InputError(f'{path}: not a whole HDF5 file; {if_damaged}'
                             ) from error
        reason = os.strerror(int(found.group(2)))
        if not found.group(1):
            raise InputError(f'{path}: cannot be read ({reason}); check the '
                             'disk') from error
        if int(found.group(2)) == errno.EWOULDBLOCK:
            raise InputError(f'{path}: in use by another program that writes '
                             'to it; end that program or try again later'
                             ) from error
        raise InputError(f'{path}: cannot be locked on this disk ({reason}); '
                         'set HDF5_USE_FILE_LOCKING=FALSE in the environment '
                         'or copy it to another disk') from error


def reserve_space(path, length):
    """Ask for the room that an HDF5 file will need, before it is written.

    HDF5 crashes the process when a disk is full, so it must not find out.

    Args:
        path: of the file.
        length: of what will be added to it, bytes.

    Raises:
        OSError: there is no room.
    """
    with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
        os.posix_fallocate(file.fileno(), 0, length + METADATA)
