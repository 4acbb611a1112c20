"""Reading label images from MATLAB files: Kumar's, CPM's and CoNSeP's."""

from histology import images, listing
from histology.files import InputError

VARIABLE = 'inst_map'


def read_labels(path, data=None):
    """Read the array inst_map of a MATLAB file.

    Args:
        path, data: as for `images.read_labels`.

    Returns:
        int array [H, W], not negative and at most 2 ** 31 - 1.

    Raises:
        InputError: the file is missing or damaged, or holds no such array.
    """
    try:
        with listing.opened(path, data) as file:
            values = _inst_map(file)
    except Exception as error:  # for damaged files scipy raises anything
        raise InputError(f'{path}: cannot be read (damaged or no MATLAB '
                         'file); save or download it again') from error
    if values is None:
        raise InputError(f'{path}: holds no {VARIABLE}; save the label image '
                         'under this name')
    if values.ndim != 2:
        raise InputError(f'{path}: {VARIABLE} is {values.dtype} '
                         f'{list(values.shape)}; save a number for each '
                         'pixel')
    return images.whole_numbers(values, path)


def _inst_map(file):
    from scipy import io
    try:
        return io.loadmat(file, variable_names=[VARIABLE]).get(VARIABLE)
    except NotImplementedError:  # version 7.3 is HDF5, by columns
        import h5py
        file.seek(0)
        with h5py.File(file, 'r') as content:
            return content[VARIABLE][()].T if VARIABLE in content else None
