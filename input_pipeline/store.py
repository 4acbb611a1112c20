"""The prepared images and patches of one split in one HDF5 file, schema 4.

    names                     [N] text in UTF-8
    digests                   [N] text, SHA-1 of each image's pixels
    patches/images            uint8 [P, 256, 256, 3], RGB
    patches/masks             uint8 [P, 256, 256, 1], 0 and 1, with gaps
    patches/positions         int32 [P, 3]: image, row, column
    images/<index>/image      uint8 [H, W, 3], RGB
    images/<index>/instances  int32 [H, W], 0, and 1 to N in the nuclei

Patches of smaller images are reflected up to their size; the gaps are those
of `preprocessing.mask_with_gaps`. Attributes of the file say by which rules it
was made. Those of an image's group say what told its nuclei apart,
`instances_from` (see `annotations`), and, where they do, what its files stated
before it was resampled, `stated_microns_per_pixel`.
"""
import atexit
import collections
import contextlib
import hashlib
import json
import os
import shlex
import sys

import h5py
import numpy as np

from histology.annotations import COMPONENTS
from histology.files import MAX_NAME, InputError
from histology.resample import check_min_side
from input_pipeline.preprocessing import mask_with_gaps
from nets.hdf5 import HDF5_ERRORS, open_hdf5, reserve_space

SCHEMA_VERSION = 4
PATCH_SIZE = 256  # pixels
FOLDS = 4  # one of them to validate on
TRAIN_ON_ALL = 'none'  # the attribute `fold` where no image validates
# What `identity` says of a store.
IDENTITY = ('data_source', 'data_digest', 'data_seed', 'data_fold')
OVERLAP = 0.2  # of neighbouring patches, as a fraction of PATCH_SIZE

# What to do about a flaw; the file may be none of the program's.
REPLACE_IT = 'move it elsewhere or delete it, and prepare with'

# Of fixed length, as attributes are: HDF5 keeps no checksum of other texts.
TEXTS = {'names': np.dtype(f'S{MAX_NAME}'), 'digests': np.dtype('S40')}

# Dtype and shape of each row, and the rows in a chunk. Chunks are read whole:
# one patch in each makes random reads fast. Blocks of 16 patches are read 5
# times as fast uncompressed as with LZF, which would save a quarter of the
# space.
PATCHES = {
    'images': (np.uint8, (PATCH_SIZE, PATCH_SIZE, 3), 1),
    'masks': (np.uint8, (PATCH_SIZE, PATCH_SIZE, 1), 1),
    'positions': (np.int32, (3,), 1024),
}

# What `write_store` wrote: names of the images, names of those left out,
# numbers of patches and of nuclei.
Written = collections.namedtuple('Written', 'names left_out patches nuclei')

# An image of a store: uint8 [H, W, 3], RGB, its nuclei, int32 [H, W], 0 and
# 1 to N, and whether these are single nuclei or, False, also groups of
# touching ones.
WholeImage = collections.namedtuple('WholeImage',
                                    'name image instances has_instances')


def store_path(data_dir, split):
    """Path of the store of the 'train', 'validation' or 'test' images."""
    return os.path.join(data_dir, f'{split}.h5')


def patch_origins(length, patch_size=PATCH_SIZE, overlap=OVERLAP):
    """Returns where patches start along an axis, in pixels.

    The last patch ends with the axis, so it overlaps its neighbour more and
    nothing is padded.

    Args:
        length: of the axis, at least `patch_size`.
        patch_size: in pixels.
        overlap: fraction of `patch_size`, from 0 to less than 1.
    """
    step = round(patch_size * (1 - overlap))
    last = length - patch_size
    return [*range(0, last, step), last]


def write_store(path, attributes, examples, leave_out=None):
    """Writes one split, holding one image in memory at a time.

    Args:
        path: file to write; see `files.atomic_write`.
        attributes: dict of the split and the rules, see `prepare.prepare`.
        examples: iterable of (name, load). `load()` yields the image, uint8
            [H, W, 3], and then (instances, kind) or (instances, kind,
            microns): int32 [H, W], the text for `instances_from`, and the
            micrometres per pixel that the files state.
        leave_out: function of the name and the InputError of an example that
            cannot be used, or None: then it is raised.

    Returns:
        Written

    Raises:
        InputError: an image is too small, or as `load`, without `leave_out`.
        OSError: there is no room on the disk.
    """
    reserve_space(path, 0)
    # The format of HDF5 1.8 has checksums of all but the data, which have
    # their own below: HDF5 can crash on damage that it does not see.
    with h5py.File(path, 'w', libver='v108') as store:
        for key, value in attributes.items():
            store.attrs[key] = _as_attribute(value)
        store.attrs['schema_version'] = SCHEMA_VERSION
        for name, (dtype, shape, rows) in PATCHES.items():
            store.create_dataset(
                f'patches/{name}', (0, *shape), dtype,
                maxshape=(None, *shape), chunks=(rows, *shape),
                fletcher32=True)
        names, digests, left_out, nuclei = [], [], [], 0
        for name, load in examples:
            patches = len(store['patches/images'])
            try:
                parts = iter(load())
                digests.append(_add_image(store, len(names), name,
                                          next(parts)))
                nuclei += _add_nuclei(store, len(names), *next(parts))
                names.append(name)
            except InputError as error:
                if leave_out is None:
                    raise
                _remove_image(store, len(names), patches)
                del digests[len(names):]
                left_out.append(name)
                leave_out(name, error)
        if names:
            _add_texts(store, {'names': names, 'digests': digests})
        store.attrs['left_out'] = _as_attribute(json.dumps(left_out))
        store.attrs['nuclei'] = nuclei
        return Written(names, left_out, len(store['patches/images']), nuclei)


def _as_attribute(value):
    return np.bytes_(value.encode()) if isinstance(value, str) else value


def _origins(height, width):
    """The upper left corners of an image's patches, row by row."""
    return [[(row, column)
             for column in patch_origins(max(width, PATCH_SIZE))]
            for row in patch_origins(max(height, PATCH_SIZE))]


def _cut(array, row, column):
    """A patch [P, P, ...] of an image [H, W, ...], reflected if smaller."""
    patch = array[row:row + PATCH_SIZE, column:column + PATCH_SIZE]
    lacking = [(0, PATCH_SIZE - length) for length in patch.shape[:2]]
    if any(after for _, after in lacking):
        patch = np.pad(patch, lacking + [(0, 0)] * (patch.ndim - 2),
                       mode='reflect')
    return patch


def _add_image(store, index, name, image):
    """Adds an image, uint8 [H, W, 3], whole and in patches.

    Returns:
        its `pixel_digest`
    """
    check_min_side(image.shape[:2], name)
    origins = _origins(*image.shape[:2])
    # Without the flush, what came before might still want room.
    store.flush()
    reserve_space(store.filename, image.nbytes + image[:PATCH_SIZE].nbytes
                  + sum(map(len, origins)) * PATCH_SIZE ** 2 * 4
                  + 4 * (image.shape[0] + PATCH_SIZE) * image.shape[1])
    _add_whole(store, index, 'image', np.uint8, image)
    for row in origins:
        _append(store['patches/images'],
                [_cut(image, *origin) for origin in row])
        _append(store['patches/positions'],
                [(index, *origin) for origin in row])
    return pixel_digest(image)


def _add_nuclei(store, index, instances, kind, microns=None):
    """Adds an image's nuclei, int32 [H, W], and masks; returns how many."""
    group = store[f'images/{index}']
    group.attrs['instances_from'] = _as_attribute(kind)
    if microns is not None:
        group.attrs['stated_microns_per_pixel'] = microns
    _add_whole(store, index, 'instances', np.int32, instances)
    for row in _origins(*instances.shape):
        # With the neighbours of its pixels.
        above = max(row[0][0] - 1, 0)
        strip = mask_with_gaps(instances[above:row[0][0] + PATCH_SIZE + 1])
        strip = strip[row[0][0] - above:][:PATCH_SIZE]
        _append(store['patches/masks'],  # [P, P] to [P, P, 1]
                [_cut(strip, 0, column)[..., np.newaxis]
                 for _, column in row])
    present = np.zeros(instances.max() + 1, bool)
    for row in instances:
        present[row] = True
    return np.count_nonzero(present[1:])


def _add_whole(store, index, name, dtype, array):
    dataset = store.create_dataset(
        f'images/{index}/{name}', array.shape, dtype, fletcher32=True,
        chunks=(min(PATCH_SIZE, array.shape[0]), *array.shape[1:]))
    for top in range(0, array.shape[0], PATCH_SIZE):  # for memory
        dataset[top:top + PATCH_SIZE] = array[top:top + PATCH_SIZE]


def _remove_image(store, index, patches):
    """Removes what there is of an image, the last one.

    Args:
        index: of the image.
        patches: the number of patches before it.
    """
    if f'images/{index}' in store:
        del store[f'images/{index}']
    for name in PATCHES:
        store[f'patches/{name}'].resize(patches, axis=0)


def _append(dataset, rows):
    start = len(dataset)
    dataset.resize(start + len(rows), axis=0)
    dataset[start:] = rows


def _add_texts(store, texts):
    """Adds a dict of lists of str, one of each for each image."""
    count = len(texts['names'])
    store.flush()
    reserve_space(store.filename,
                  count * sum(dtype.itemsize for dtype in TEXTS.values()))
    for kind, values in texts.items():
        store.create_dataset(
            kind, data=np.array([value.encode() for value in values],
                                TEXTS[kind]),
            chunks=(count,), fletcher32=True)


def pixel_digest(image):
    """A digest of an image's pixels, whatever its file and name.

    Args:
        image: uint8 [H, W, 3], RGB.

    Returns:
        str of 40 hexadecimal digits.
    """
    return hashlib.sha1(np.ascontiguousarray(image)).hexdigest()


def open_store(path, identity=None, unseen=(), digests=None):
    """Opens a file of `write_store` to read, and checks it.

    Open it in the process and thread that reads it, and close it after use.

    Args:
        path: of the file.
        identity: what `identity` must say of the store, or None.
        unseen: digests of images that it must not hold.
        digests: those of just the images that it must hold, or None.

    Returns:
        h5py.File; see the head of this module.

    Raises:
        InputError: the file is absent, cannot be read, is in use by a program
            that writes to it, damaged, of another schema version, not as the
            schema says, or not the one that is asked for.
    """
    store = _open(path)
    try:
        flaw = _flaw(store)
    except HDF5_ERRORS as error:
        flaw = str(error).splitlines()[0]
    if flaw:
        atexit.register(_end_quietly)
        store.close()
        raise InputError(f'{path}: {flaw}; {REPLACE_IT} '
                         + prepare_command(path))
    try:
        conflict = _conflict(store, identity, unseen, digests)
        if conflict:
            raise InputError(f'{path}: {conflict}; prepare both together with '
                             + prepare_command(path))
    except InputError:
        store.close()
        raise
    return store


def _open(path):
    command = prepare_command(path)
    return open_hdf5(path, f'prepare with {command}',
                     f'{REPLACE_IT} {command}')


def prepare_command(path):
    """The command that makes a store, for messages."""
    folder = shlex.quote(os.path.dirname(path) or os.curdir)
    return (f'python main.py --mode=prepare --data_dir={folder} '
            '--monuseg_dir=DIR (or --images_dir and --annotations_dir, or '
            '--sample)')


def check_replaceable(path):
    """Makes sure that a file, if there is one, is of `write_store`.

    Raises:
        InputError: it is not, or cannot be read.
    """
    if not os.path.exists(path):
        return
    with _open(path) as file:
        try:
            ours = 'schema_version' in file.attrs
        except HDF5_ERRORS:
            ours = False
    if not ours:
        raise InputError(f'{path}: not written by this program, or damaged; '
                         'move it elsewhere or choose another --data_dir')


def _end_quietly():
    # HDF5 1.10, which h5py 2.10 brings, cannot close an object that it found
    # damaged, and prints lines of debugging when the process has ended.
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextlib.contextmanager
def reading(store):
    """Turns a failure to read an open store into one clear line.

    Raises:
        InputError: a read within the block failed.
    """
    try:
        yield
        # HDF5 reads zeros beyond the end of a file that was cut short after
        # it was opened.
        if os.path.getsize(store.filename) < store.id.get_filesize():
            raise OSError('the file was cut short')
    except HDF5_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'{store.filename}: a read failed ({reason}); check '
                         'the disk, delete the file and prepare with '
                         + prepare_command(store.filename)) from error


def whole_images(store):
    """Yields the WholeImage of each image of an open store."""
    for index, name in enumerate(image_names(store)):
        with reading(store):
            kind = store[f'images/{index}'].attrs['instances_from'].decode()
        yield WholeImage(name, whole_array(store, index, 'image'),
                         whole_array(store, index, 'instances'),
                         kind != COMPONENTS)


def whole_array(store, index, kind):
    """An array of one image: its 'image' or 'instances'."""
    with reading(store):
        return store[f'images/{index}/{kind}'][()]


def attributes(store):
    """The attributes of an open store as `write_store` was given them."""
    with reading(store):
        return {key: value.decode() if isinstance(value, bytes) else value
                for key, value in store.attrs.items()}


def identity(store):
    """What an open store was made from.

    Returns:
        dict of IDENTITY to str, int or None.

    Stores of other images, or of another division of the same images, differ
    in it.
    """
    rules = attributes(store)
    seed = rules.get('seed')
    return dict(zip(IDENTITY, (
        rules.get('source'), rules.get('source_digest'),
        None if seed is None else int(seed), rules.get('fold'))))


def image_names(store):
    """Returns the names of the images of an open store, a list of N str."""
    return _texts(store['names'])


def image_digests(store):
    """Returns `pixel_digest` of each image of an open store, N str."""
    return _texts(store['digests'])


def names_among(store, digests):
    """The names of those images of an open store that have given digests."""
    digests = set(digests)
    return [name for name, digest in zip(image_names(store),
                                         image_digests(store))
            if digest in digests]


def _texts(dataset):
    with reading(dataset.file):
        return [text.decode() for text in dataset[()]]


def _conflict(store, wanted, unseen, digests):
    """Says why a whole store is not the one asked for, or returns None.

    The arguments are those of `open_store`.
    """
    found = image_digests(store)
    if (wanted is not None and identity(store) != wanted
            or digests is not None and found != list(digests)):
        return ('made from other images, or by another division of them, '
                'than the train.h5 that training uses')
    seen = names_among(store, unseen)
    if seen:
        return (f'holds images that are trained on, {len(seen)} of them '
                f'({seen[0]}{", ..." if seen[1:] else ""})')
    return None


def _flaw(store):
    """Says what is wrong with a store, or returns None."""
    version = store.attrs.get('schema_version')
    if version != SCHEMA_VERSION:
        return f'schema version {version}, this code reads {SCHEMA_VERSION}'
    for path, dtype, shape in _schema(store):
        dataset = store.get(path)
        if not isinstance(dataset, h5py.Dataset):
            return f'dataset {path} is missing'
        if (dataset.file.filename != store.filename or dataset.external
                or dataset.is_virtual):
            return f'dataset {path} lies in another file'
        if dataset.dtype != dtype or len(dataset.shape) != len(shape) or any(
                wanted not in (None, length)
                for wanted, length in zip(shape, dataset.shape)):
            return (f'dataset {path} is {dataset.dtype} {dataset.shape}, not '
                    f'{np.dtype(dtype)} {shape}')
    if not len(store['names']) or not len(store['patches/images']):
        return 'it holds no images'
    for text in store['names'][()]:
        name = text.decode()
        # Pictures are written under it.
        if (os.path.basename(name) != name or '\0' in name
                or name in ('', '.', '..')):
            return f'an image is called {name!r}, which is no file name'
    return None


def _schema(store):
    """Yields (path, dtype, shape) of each dataset; None is any length.

    Shapes depend on datasets yielded before, which must have been checked.
    """
    yield 'names', TEXTS['names'], (None,)
    yield 'digests', TEXTS['digests'], (len(store['names']),)
    count = None
    for name, (dtype, shape, _) in PATCHES.items():
        yield f'patches/{name}', dtype, (count, *shape)
        count = len(store[f'patches/{name}'])
    for index in range(len(store['names'])):
        image = f'images/{index}/image'
        yield image, np.uint8, (None, None, 3)
        size = store[image].shape[:2]
        yield f'images/{index}/instances', np.int32, size
