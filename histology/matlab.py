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
    from scipy import io
    try:
        with listing.opened(path, data) as file:
            values = io.loadmat(file, variable_names=[VARIABLE]).get(VARIABLE)
    except Exception as error:  # for damaged files scipy raises anything
        raise InputError(f'{path}: cannot be read (damaged, no MATLAB file, '
                         'or of version 7.3); save it with -v7') from error
    if values is None:
        raise InputError(f'{path}: holds no {VARIABLE}; save the label image '
                         'under this name')
    if values.ndim != 2:
        raise InputError(f'{path}: {VARIABLE} is {values.dtype} '
                         f'{list(values.shape)}; save a number for each '
                         'pixel')
    return images.whole_numbers(values, path)
