"""The prepared images and patches of one split in one HDF5 file, a store.

Schema 5:
    names                     [N] text in UTF-8
    digests                   [N] text, SHA-1 of each image's pixels
    patches/images            uint8 [P, 256, 256, 3], RGB
    patches/masks             uint8 [P, 256, 256, 1], 0 and 1, with gaps
    images/<index>/image      uint8 [H, W, 3], RGB
    images/<index>/instances  int32 [H, W], 0, and 1 to N in the nuclei

Smaller images are reflected up to the size of a patch. The gaps are those of
`preprocessing.mask_with_gaps`. The file's attributes hold the rules that made
it. Each image's group has the attribute `has_instances`, see `Annotation`.
"""
import atexit
import collections
import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import sys
import tempfile

import h5py
import numpy as np

from histology.files import MAX_NAME, InputError, error_number
from histology.progress import counted
from histology.resample import check_min_side
from input_pipeline.preprocessing import mask_with_gaps, pad
from nets.saved import HDF5_ERRORS

SCHEMA_VERSION = 5
PATCH_SIZE = 256  # pixels
OVERLAP = 0.2  # of neighbouring patches, as a fraction of PATCH_SIZE
WHITE = 255  # what nobody annotated becomes, see `outlines.crop`
SPLITS = ('train', 'validation', 'test')  # with a store each
FOLDS = 4  # one of them to validate on
TRAIN_ON_ALL = 'none'  # the attribute `fold` if no image validates
# Stores of one division of the same images agree in these of `identity`. The
# source is not among them: a folder may have moved.
IDENTITY = ('data_digest', 'data_seed', 'data_fold')

METADATA = 2 ** 20  # bytes of a store beside its data
# What to do about a flaw; the file may be none of the program's.
REPLACE_IT = 'move it elsewhere or delete it, and prepare with'

# Of fixed length, as attributes are: HDF5 keeps no checksum of other texts.
TEXTS = {'names': np.dtype(f'S{MAX_NAME}'), 'digests': np.dtype('S40')}

# Shape of each patch, uint8. A chunk is read whole: one patch in each makes
# random reads fast. Blocks of 16 patches are read 5 times as fast uncompressed
# as with LZF, which would save a quarter of the space.
PATCHES = {'images': (PATCH_SIZE, PATCH_SIZE, 3),
           'masks': (PATCH_SIZE, PATCH_SIZE, 1)}

# An image's nuclei: int32 [H, W], 0 and 1 to N, and whether each number is a
# single nucleus. If not, it may be a group of touching ones, as in masks.
Annotation = collections.namedtuple('Annotation', 'instances has_instances')

# What `write_store` wrote: a dict of names to `image_digests`, a dict of the
# names that were skipped to their InputError, and numbers.
Written = collections.namedtuple('Written', 'digests skipped patches nuclei')

# An image of a store: uint8 [H, W, 3], RGB, and the parts of its Annotation.
WholeImage = collections.namedtuple('WholeImage',
                                    'name image instances has_instances')


def store_path(data_dir, split):
    """Return the path of the store of 'train', 'validation' or 'test'."""
    return os.path.join(data_dir, f'{split}.h5')


def areas_of(instances):
    """Count the pixels of each number in int32 [H, W]: int64 [N + 1]."""
    count = instances.max() + 1
    return sum(np.bincount(instances[top:top + PATCH_SIZE].ravel(),
                           minlength=count)
               for top in range(0, len(instances), PATCH_SIZE))  # for memory


def patch_origins(length):
    """Return where patches start along an axis of a length in pixels.

    The last patch ends with the axis, so it overlaps its neighbour more and
    nothing is padded. A shorter axis has one patch.
    """
    last = max(length - PATCH_SIZE, 0)
    return [*range(0, last, round(PATCH_SIZE * (1 - OVERLAP))), last]


def write_store(path, attributes, examples):
    """Write one split, holding one image in memory at a time.

    Args:
        path: file to write; see `files.atomic_write`.
        attributes: dict of the split and the rules, see `prepare.prepare`.
        examples: iterable of (name, load). `load()` yields the image, uint8
            [H, W, 3], and then its Annotation. An image is skipped if `load`
            raises InputError or a side is too small.

    Returns:
        Written

    Raises:
        OSError: there is no room on the disk.
    """
    _reserve_space(path, 0)
    # The format of HDF5 1.8 has checksums of all but the data, which have
    # their own below: HDF5 can crash on damage that it does not see.
    with _h5py_file(path, 'w', libver='v108') as file:
        for name, shape in PATCHES.items():
            file.create_dataset(
                f'patches/{name}', (0, *shape), np.uint8,
                maxshape=(None, *shape), chunks=(1, *shape), fletcher32=True)
        digests, skipped, nuclei = {}, {}, 0
        for name, load in examples:
            index, patches = len(digests), len(file['patches/images'])
            try:
                parts = iter(load())
                digest, origins = _add_image(file, index, name, next(parts))
                nuclei += _add_annotation(file, index, next(parts), origins)
                digests[name] = digest
            except InputError as error:
                skipped[name] = error
                file.pop(f'images/{index}', None)
                for kind in PATCHES:
                    file[f'patches/{kind}'].resize(patches, axis=0)
        if digests:
            file.flush()  # or what came before might still want room
            _reserve_space(path, len(digests) * sum(
                dtype.itemsize for dtype in TEXTS.values()))
            for kind, texts in (('names', digests),
                                ('digests', digests.values())):
                file.create_dataset(
                    kind, data=np.array([text.encode() for text in texts],
                                        TEXTS[kind]),
                    chunks=(len(digests),), fletcher32=True)
        for key, value in {**attributes, 'schema_version': SCHEMA_VERSION,
                           'skipped': json.dumps(list(skipped)),
                           'nuclei': nuclei}.items():
            file.attrs[key] = (np.bytes_(value.encode())
                               if isinstance(value, str) else value)
        return Written(digests, skipped, len(file['patches/images']), nuclei)


def _cut(array, row, column):
    """A patch [P, P, ...] of an image [H, W, ...], reflected if smaller."""
    return pad(array[row:row + PATCH_SIZE, column:column + PATCH_SIZE],
               PATCH_SIZE, PATCH_SIZE)


def _add_image(file, index, name, image):
    """Add an image, whole and in patches.

    Returns:
        its digest, and where its patches start: list of (top, list of left).
        WHITE ones are left out: most of an image with few annotated regions
        is white.
    """
    check_min_side(image.shape[:2], name)
    if len(name.encode()) > MAX_NAME - len('.jpg'):  # in an archive
        raise InputError(f'{name}: its name is too long; rename it')
    tops, lefts = map(patch_origins, image.shape[:2])
    file.flush()  # or what came before might still want room
    _reserve_space(file.filename, image.nbytes + image[:PATCH_SIZE].nbytes
                   + len(tops) * len(lefts) * PATCH_SIZE ** 2 * 4
                   + 4 * (image.shape[0] + PATCH_SIZE) * image.shape[1])
    _add_whole(file, index, 'image', np.uint8, image)
    origins = [(top, [left for left in lefts
                      if _cut(image, top, left).min() < WHITE])
               for top in tops]
    origins = [row for row in origins if row[1]] or [(tops[0], lefts[:1])]
    for top, lefts in origins:
        _append(file['patches/images'],
                [_cut(image, top, left) for left in lefts])
    return hashlib.sha1(np.ascontiguousarray(image)).hexdigest(), origins


def _add_annotation(file, index, annotation, origins):
    """Add an image's Annotation, whole and as masks; return its nuclei."""
    instances = annotation.instances
    file[f'images/{index}'].attrs['has_instances'] = annotation.has_instances
    _add_whole(file, index, 'instances', np.int32, instances)
    for top, lefts in origins:
        # With the neighbours of its pixels.
        above = max(top - 1, 0)
        strip = mask_with_gaps(instances[above:top + PATCH_SIZE + 1])
        strip = strip[top - above:][:PATCH_SIZE]
        _append(file['patches/masks'],  # [P, P] to [P, P, 1]
                [_cut(strip, 0, left)[..., np.newaxis] for left in lefts])
    return np.count_nonzero(areas_of(instances)[1:])


def _add_whole(file, index, name, dtype, array):
    dataset = file.create_dataset(
        f'images/{index}/{name}', array.shape, dtype, fletcher32=True,
        chunks=(min(PATCH_SIZE, array.shape[0]), *array.shape[1:]))
    for top in range(0, array.shape[0], PATCH_SIZE):  # for memory
        dataset[top:top + PATCH_SIZE] = array[top:top + PATCH_SIZE]


def _append(dataset, rows):
    start = len(dataset)
    dataset.resize(start + len(rows), axis=0)
    dataset[start:] = rows


def _reserve_space(path, length):
    """Raise OSError if there is no room for `length` more bytes.

    HDF5 crashes the process when a disk is full, so it must not find out.
    """
    with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
        os.posix_fallocate(file.fileno(), 0, length + METADATA)


def _h5py_file(path, mode, **options):
    """Open an h5py.File, without a lock if the drive has none."""
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


def open_store(path, wanted=None, unseen=(), digests=None):
    """Open a file of `write_store` to read, and check it.

    Open it in the process and thread that reads it, and close it after use.

    Args:
        path: of the file.
        wanted: what `identity` must return for IDENTITY, or None.
        unseen: digests of images that it must not hold.
        digests: those of just the images that it must hold, or None.

    Returns:
        h5py.File; see the head of this module.

    Raises:
        InputError: the file is absent, cannot be read, is in use by a program
            that writes to it, damaged, of another schema version, not as the
            schema says, or not the one that is asked for.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open(path))
        remedy = REPLACE_IT
        try:
            flaw = _flaw(file)
        except HDF5_ERRORS as error:
            flaw = str(error).splitlines()[0]
        if flaw:
            atexit.register(_end_quietly)
        else:
            flaw = _conflict(file, wanted, unseen, digests)
            remedy = 'prepare both together with'
        if flaw:
            raise InputError(f'{path}: {flaw}; {remedy} '
                             + prepare_command(path))
        stack.pop_all()
    return file


def _open(path):
    """Open an HDF5 file to read, as h5py.File.

    Raises:
        InputError: it is absent, damaged, unreadable or being written to.
    """
    try:
        return _h5py_file(path, 'r')
    except OSError as error:
        number, command = error_number(error), prepare_command(path)
        reason = {
            None: f'not a whole HDF5 file; {REPLACE_IT} {command}',
            errno.ENOENT: f'not there; prepare with {command}',
            errno.EWOULDBLOCK: 'in use by another program that writes to it; '
                               'end that program or try again later'}.get(
            number, f'cannot be read ({os.strerror(number or 0)}); make it '
                    'readable or check the disk')
        raise InputError(f'{path}: {reason}') from error


def prepare_command(path):
    """Return the command that makes a store, for messages."""
    folder = shlex.quote(os.path.dirname(path) or os.curdir)
    return (f'python main.py --mode=prepare --data_dir={folder} '
            '--monuseg_dir=DIR (or --images_dir and --annotations_dir, or '
            '--sample)')


def replaceable(path):
    """Return the attributes of a store that a new one may replace.

    Returns:
        dict, also of stores of an earlier schema; None if there is no file.

    Raises:
        InputError: the file is not of `write_store`, or cannot be read.
    """
    if not os.path.exists(path):
        return None
    with _open(path) as file:
        found = attributes(file)
    if 'schema_version' in found:
        return found
    raise InputError(f'{path}: not written by this program, or damaged; move '
                     'it elsewhere or choose another --data_dir')


def _end_quietly():
    # HDF5 1.10, which h5py 2.10 brings, cannot close an object that it found
    # damaged, and prints lines of debugging when the process has ended.
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextlib.contextmanager
def reading(file):
    """Turn a failure to read an open store into one clear line.

    Raises:
        InputError: a read within the block failed.
    """
    try:
        yield
        # HDF5 reads zeros beyond the end of a file that was cut short after
        # it was opened.
        length = file.id.get_filesize()
        is_whole = (os.path.exists(file.filename)
                    and os.path.getsize(file.filename) >= length)
        # If not, another may have its name by now. It is asked second: 1.15's
        # h5py loses memory with each handle.
        if not is_whole and os.fstat(
                file.id.get_vfd_handle()).st_size < length:
            raise OSError('the file was cut short')
    except HDF5_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'{file.filename}: a read failed ({reason}); check '
                         'the disk, delete the file and prepare with '
                         + prepare_command(file.filename)) from error


def whole_images(file):
    """Yield the WholeImage of each image of an open store."""
    for index, name in enumerate(image_names(file)):
        yield whole_image(file, index, name)


def whole_image(file, index, name):
    """Read one WholeImage of an open store; its name is known."""
    with reading(file):
        group = file[f'images/{index}']
        return WholeImage(
            name, group['image'][()],
            group['instances'][()], bool(group.attrs['has_instances']))


def attributes(file):
    """Return the attributes of an open store, those of `write_store`."""
    with reading(file):
        return {key: value.decode() if isinstance(value, bytes) else value
                for key, value in file.attrs.items()}


def identity(file):
    """Return what an open store was made from.

    Returns:
        dict of 'data_source' and IDENTITY to str or int.
    """
    rules = attributes(file)
    return {'data_source': rules.get('source'),
            'data_digest': rules.get('source_digest'),
            'data_seed': int(rules.get('seed', 0)),
            'data_fold': rules.get('fold')}


def image_names(file):
    """Return the names of the images of an open store, a list of N str."""
    return _texts(file['names'])


def image_digests(file):
    """Return the SHA-1 hex digests of a store's images' pixels, N str."""
    return _texts(file['digests'])


def names_among(file, digests):
    """Return the names of an open store's images of given digests."""
    digests = set(digests)
    return [name for name, digest in zip(image_names(file),
                                         image_digests(file))
            if digest in digests]


def _texts(dataset):
    with reading(dataset.file):
        return [text.decode() for text in dataset[()]]


def _conflict(file, wanted, unseen, digests):
    """Say why a store is not the one that `open_store` is asked for."""
    if (wanted is not None
            and any(identity(file)[key] != wanted[key] for key in IDENTITY)
            or digests is not None and image_digests(file) != list(digests)):
        return ('made from other images, or by another division of them, '
                'than the train.h5 that training uses')
    seen = names_among(file, unseen)
    if seen:
        return (f'holds {counted(len(seen), "image")} that the network trains '
                f'on ({seen[0]}{", ..." if seen[1:] else ""})')
    return None


def _flaw(file):
    """Say what is wrong with a store, or return None."""
    version = file.attrs.get('schema_version')
    if version is None:
        return 'not written by this program'
    if version != SCHEMA_VERSION:
        return (f'of schema {version}, and this version of the program reads '
                f'{SCHEMA_VERSION}')
    for path, dtype, shape in _schema(file):
        dataset = file.get(path)
        if (not isinstance(dataset, h5py.Dataset)
                or dataset.file.filename != file.filename or dataset.external
                or dataset.is_virtual or dataset.dtype != dtype
                or len(dataset.shape) != len(shape)
                or any(wanted not in (None, length)
                       for wanted, length in zip(shape, dataset.shape))):
            return (f'dataset {path} is missing, in another file, or not '
                    f'{np.dtype(dtype)} {shape}')
    if not len(file['names']) or not len(file['patches/images']):
        return 'it holds no images'
    for text in file['names'][()]:
        name = text.decode()
        # Pictures are written under it.
        if (os.path.basename(name) != name or '\0' in name
                or name in ('', '.', '..')):
            return f'an image is called {name!r}, which is no file name'
    return None


def _schema(file):
    """Yield (path, dtype, shape) of each dataset; None is any length.

    Shapes depend on datasets yielded before, which must have been checked.
    """
    yield 'names', TEXTS['names'], (None,)
    yield 'digests', TEXTS['digests'], (len(file['names']),)
    count = None
    for name, shape in PATCHES.items():
        yield f'patches/{name}', np.uint8, (count, *shape)
        count = len(file[f'patches/{name}'])
    for index in range(len(file['names'])):
        image = f'images/{index}/image'
        yield image, np.uint8, (None, None, 3)
        size = file[image].shape[:2]
        yield f'images/{index}/instances', np.int32, size
