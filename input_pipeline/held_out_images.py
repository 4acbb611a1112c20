"""A store's images as PNG files, to predict, in a folder that users share.

Users may put masks or notes there. The program knows the files that it wrote
by the digests of their pixels in the store, and touches no others.
"""
import contextlib
import os

from histology.files import InputError
from histology.images import read_image, write_png
from input_pipeline import store


def write(folder, path):
    """Writes those images of a store as NAME.png that are not there yet.

    Args:
        folder: made if absent.
        path: of the store, or None: nothing is written.

    Raises:
        InputError: a file of the user's is in the place of one, or one cannot
            be written.
    """
    if path is None:
        return
    written, others = _compare(folder, path)
    _refuse(others)
    with store.open_store(path) as file:
        for index, name in enumerate(store.image_names(file)):
            place = _place(folder, name)
            if place not in written:
                write_png(place, store.whole_array(file, index, 'image'))


def make_way(folder, former, new):
    """Removes the images of a store that is to be replaced.

    Args:
        folder: of the images, removed if it is left empty.
        former: path of the store that is to be replaced, or None.
        new: path of the one that is to come, or None.

    Raises:
        InputError: a file of the user's is in the place of an image of `new`,
            or one of `former` cannot be removed.
    """
    written, _ = _compare(folder, former)
    _, others = _compare(folder, new)
    _refuse(others - written)
    for place in written:
        try:
            os.remove(place)
        except OSError as error:
            raise InputError(f'{place}: cannot be removed ({error.strerror}); '
                             'choose another --data_dir') from error
    with contextlib.suppress(OSError):  # absent, or holds files of the user's
        os.rmdir(folder)


def _place(folder, name):
    return os.path.join(folder, f'{name}.png')


def _compare(folder, path):
    """Compares the files in the places of a store's images with the images.

    Args:
        folder: of the files.
        path: of the store; None, or a damaged one, has no images.

    Returns:
        (paths of the images that are there, paths of other files in their
        places), two sets.
    """
    same, others = set(), set()
    if path is None:
        return same, others
    try:
        with store.open_store(path) as file:
            digests = dict(zip(store.image_names(file),
                               store.image_digests(file)))
    except InputError:
        return same, others
    for name, digest in digests.items():
        place = _place(folder, name)
        if os.path.lexists(place):
            try:
                found = store.pixel_digest(read_image(place))
            except InputError:
                found = None
            (same if found == digest else others).add(place)
    return same, others


def _refuse(places):
    """Raises InputError if there are places taken by files of the user's."""
    if places:
        raise InputError(f'{min(places)}: not the image of that name in the '
                         'store; move it elsewhere, its place is needed')
