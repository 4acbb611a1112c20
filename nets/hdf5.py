"""Opening HDF5 files, and making room for them."""
import errno
import os
import re
import tempfile

from histology.files import InputError, error_number

# What h5py raises for damaged files, found by damaging files at random.
HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError)
METADATA = 2 ** 20  # bytes of an HDF5 file beside its data


def open_hdf5(path, if_absent, if_damaged):
    """Open an HDF5 file to read, as h5py.File.

    Raises:
        InputError: the file is absent, cannot be read, is in use by a program
            that writes to it, or is damaged; it says `if_absent` or
            `if_damaged`, what to do then.
    """
    try:
        return h5py_file(path, 'r')
    except OSError as error:
        number = error_number(error)
        reason = {
            None: f'not a whole HDF5 file; {if_damaged}',
            errno.ENOENT: f'not there; {if_absent}',
            errno.EWOULDBLOCK: 'in use by another program that writes to it; '
                               'end that program or try again later'}.get(
            number, f'cannot be read ({os.strerror(number or 0)}); make it '
                    'readable or check the disk')
        raise InputError(f'{path}: {reason}') from error


def h5py_file(path, mode, **options):
    """Open an h5py.File, without a lock if the drive has none."""
    import h5py  # here, for prediction.tiling does without it
    try:
        return h5py.File(path, mode, **options)
    except OSError as error:
        if (not re.search('unable to lock file|locking disabled', str(error))
                or error_number(error) == errno.EWOULDBLOCK):
            raise
        os.environ['HDF5_USE_FILE_LOCKING'] = 'FALSE'  # for h5py 2
        if h5py.version.version_tuple >= (3, 5):
            options['locking'] = False
        return h5py.File(path, mode, **options)


def reserve_space(path, length):
    """Ask for the room that an HDF5 file will need, before it is written.

    HDF5 crashes the process when a disk is full, so it must not find out.

    Raises:
        OSError: there is no room for `length` more bytes.
    """
    with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
        os.posix_fallocate(file.fileno(), 0, length + METADATA)
