"""Finding and reading MoNuSeg images with their annotations.

Kumar et al., "A Multi-Organ Nucleus Segmentation Challenge", IEEE TMI 2020.
Three layouts are in circulation:
    Tissue Images/NAME.tif   with Annotations/NAME.xml, and some copies with
                             Binary_masks/NAME.png (the training archive)
    NAME.tif                 beside NAME.xml (the test archive)
    TissueImages/NAME.tif    with GroundTruth/NAME_bin_mask.png, both under
                             Training/ or Test/
"""
import collections
import hashlib
import os
import posixpath
import re
import zipfile
import zlib

from input_pipeline import annotations
from input_pipeline import images
from input_pipeline.files import InputError

IMAGE_ENDINGS = ('.tif', '.tiff')  # in lower case

# Where the annotation of IMAGE_FOLDER/NAME.tif may be, outlines first: they
# tell touching nuclei apart, masks do not.
ANNOTATIONS = ('{name}.xml', '../Annotations/{name}.xml',
               '../Binary_masks/{name}.png',
               '../GroundTruth/{name}_bin_mask.png')

# MoNuSeg's nuclei cover 11 to 40 % of an image, so that nearly all masks with
# nuclei and background exchanged exceed this.
MOST_NUCLEI = 2 / 3

# A member of a zip archive that claims to unpack to more is no image that
# Pillow would take, and may have been made to fill the memory.
MEMBER_BYTES = 2 ** 30

# A source is (path,) of a file or (path of a zip archive, member).
Entry = collections.namedtuple('Entry', 'name split image annotation')


def find(folder):
    """Finds the annotated images in a folder or zip archive.

    Archives inside the folder are read as if unpacked; an image found both
    ways is taken from the folder, with its XML where either has one. The
    nearest folder or archive called train... or test... (also within a name,
    as in MoNuSegTestData) says the split; failing that, an image beside its
    XML is a test image, as in the archives. Links to folders are not
    followed.

    Args:
        folder: a folder at any level above the images and annotations, or
            one of the archives.

    Returns:
        List of entries, ordered by name:
            name: file name of the image without its ending
            split: 'training' or 'test', by the archive it comes from
            image, annotation: sources, for `load`

    Raises:
        InputError: the folder is absent or holds no images in a known
            layout, an image has no annotation, is in both splits, shares its
            name with another one or has one that is not UTF-8, or an archive
            is damaged.
    """
    files = _files(folder)
    entries = {}
    for place in files:
        if place.lower().endswith(IMAGE_ENDINGS):
            entry = _entry(place, files)
            other = entries.setdefault(entry.name, entry)
            if other is not entry:
                entries[entry.name] = _one_of_two(other, entry)
    if not entries:
        raise InputError(
            f'{folder}: no MoNuSeg images; looked for Tissue Images/NAME.tif '
            'with Annotations/NAME.xml or Binary_masks/NAME.png, NAME.tif '
            'beside NAME.xml, and TissueImages/NAME.tif with '
            'GroundTruth/NAME_bin_mask.png, unpacked or in a .zip')
    return sorted(entries.values())


def load(entry):
    """Reads an entry of `find`.

    Returns:
        image: uint8 [H, W, 3], RGB
        mask: bool [H, W], True in nuclei
        instances: int32 [H, W], 0 in the background and 1 to N in the N
            nuclei, or None where the annotation is a mask

    Raises:
        InputError: a file is missing or damaged, image and mask differ in
            size, or the mask has nuclei and background exchanged.
    """
    image_path = '/'.join(entry.image)
    annotation_path = '/'.join(entry.annotation)
    image = images.read_image(image_path, _read(entry.image))
    size = image.shape[:2]
    data = _read(entry.annotation)
    if annotation_path.endswith('.xml'):
        instances = annotations.fill(
            annotations.parse(data, annotation_path), *size)
        return image, instances > 0, instances
    mask = images.read_mask(annotation_path, data)
    if mask.shape != size:
        raise InputError(
            f'{annotation_path}: {mask.shape[0]} x {mask.shape[1]} pixels, '
            f'but its image {image_path} has {size[0]} x {size[1]}; give the '
            'mask of this image')
    if mask.mean() > MOST_NUCLEI:
        raise InputError(
            f'{annotation_path}: nuclei cover {mask.mean():.0%} of the image; '
            'give a mask with 0 in the background and 1 or 255 in nuclei')
    return image, mask, None


def digest(entries):
    """Returns a SHA-1 hex digest of the entries' names, splits and files."""
    sha = hashlib.sha1()
    for entry in entries:
        for part in (f'{entry.name} {entry.split}'.encode(),
                     _read(entry.image), _read(entry.annotation)):
            sha.update(b'%d ' % len(part))
            sha.update(part)
    return sha.hexdigest()


def _entry(place, files):
    """The entry of the image at a place among `files`, a dict of `_files`."""
    path = '/'.join(files[place])
    try:
        place.encode()
    except UnicodeEncodeError as error:
        raise InputError(f'{path!r}: the name is not UTF-8; rename it'
                         ) from error
    parent, base = posixpath.split(place)
    name = posixpath.splitext(base)[0]
    candidates = [
        posixpath.normpath(posixpath.join(parent, pattern.format(name=name)))
        for pattern in ANNOTATIONS]
    annotation = next(filter(files.get, candidates), None)
    if annotation is None:
        raise InputError(f'{path}: no annotation; put one at '
                         + ', '.join(candidates))
    beside = annotation == candidates[0]
    return Entry(name, _split(parent, 'test' if beside else 'training'),
                 files[place], files[annotation])


def _one_of_two(first, second):
    """Of two entries of one name, that with outlines, or else the first.

    Raises:
        InputError: they are of different images or splits.
    """
    paths = ['/'.join(entry.image) for entry in (first, second)]
    if first.split != second.split:
        raise InputError(f'{paths[1]}: also a {first.split} image '
                         f'({paths[0]}); remove one of them')
    if _read(first.image) != _read(second.image):
        raise InputError(f'{paths[1]}: another image than {paths[0]} of the '
                         'same name; rename or remove one of them')
    outlined = [entry.annotation[-1].endswith('.xml')
                for entry in (first, second)]
    return second if outlined == [False, True] else first


def _files(folder):
    """Maps the place of each file, with / between folders, to its source.

    Places start with the name of `folder` itself, and go on inside archives
    as inside folders.
    """
    folder = os.path.abspath(folder)
    if os.path.isdir(folder):
        paths = sorted(os.path.join(parent, name)
                       for parent, _, names in os.walk(folder)
                       for name in names if not _is_hidden(name))
    elif os.path.isfile(folder):
        paths = [folder]
    else:
        raise InputError(f'{folder}: no such folder or zip archive; unpack '
                         'or copy the MoNuSeg data there')
    files, members = {}, {}
    for path in paths:
        place = os.path.relpath(path, os.path.dirname(folder))
        place = place.replace(os.sep, '/')
        if path == folder or path.lower().endswith('.zip'):
            members.update((f'{place}/{member}', (path, member))
                           for member in _members(path))
        else:
            files[place] = (path,)
    files.update(members)
    return files


def _is_hidden(name):
    # What macOS adds to archives: __MACOSX/._NAME.tif is no image.
    return posixpath.basename(name).startswith('.')


def _members(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return [member for member in sorted(archive.namelist())
                    if not _is_hidden(member)]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f'{path}: no whole zip archive ({error}); '
                         'download it again') from error


def _read(source):
    """Returns the bytes of a source; members are never unpacked to disk."""
    path, *member = source
    try:
        if member:
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo(*member).file_size > MEMBER_BYTES:
                    raise zipfile.BadZipFile(
                        f'unpacks to more than {MEMBER_BYTES} bytes')
                return archive.read(*member)
        with open(path, 'rb') as file:
            return file.read()
    # RuntimeError: encrypted, or compressed by a method Python lacks.
    except (OSError, EOFError, RuntimeError, zlib.error,
            zipfile.BadZipFile) as error:
        raise InputError(f'{"/".join(source)}: cannot be read ({error}); '
                         'copy or download it again') from error


def _split(parent, otherwise):
    for part in reversed(parent.split('/')):
        # A word that starts here: not the "test" of "latest".
        word = re.search(
            '(?<![A-Za-z])(t(rain|est)|T(RAIN|EST))|T(rain|est)', part)
        if word:
            return 'test' if 'est' in word.group().lower() else 'training'
    return otherwise
