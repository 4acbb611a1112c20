"""Files in folders and in zip archives, which count as folders."""
import collections
import functools
import hashlib
import io
import lzma
import os
import posixpath
import re
import zipfile
import zlib
from contextlib import suppress
from itertools import filterfalse

from histology.files import InputError

# RuntimeError: encrypted, or compressed by a method that Python lacks;
# ValueError: a name that is no UTF-8.
ZIP_ERRORS = (OSError, EOFError, RuntimeError, ValueError, zlib.error,
              lzma.LZMAError, zipfile.BadZipFile)

IMAGE_ENDINGS = ('.tif', '.tiff', '.svs', '.png', '.jpg', '.jpeg', '.jfif')

# Near the start of what `predict` writes, but not of what others make of it.
SOFTWARE = 'nuclei segmentation'
PNG_MARK = b'tEXtSoftware\0' + SOFTWARE.encode()
TIFF_MARK = SOFTWARE.encode() + b'\0'
# GeoJSON allows members of one's own: RFC 7946, 6.1.
GEOJSON_HEAD = ('{"type":"FeatureCollection","generator":'
                f'"{SOFTWARE}","features":[')
JSON_MARK = f'"software": "{SOFTWARE}"'.encode()
CHECK_MARK = b' of prepared stores'  # of what `prepare` draws
MARKS = PNG_MARK, TIFF_MARK, GEOJSON_HEAD.encode(), JSON_MARK, CHECK_MARK
HEAD = 2 ** 16  # bytes
PNG_HEAD = 80  # bytes; other programs keep a text, behind the pixels
MEMBER_BYTES = 2 ** 31  # of a file in an archive, at most; unpacked

# An annotated image:
#   name: file name of the image without its ending
#   split: 'training', 'validation' or 'test'
#   why: what decided the split, for messages
#   image, annotation: Found
Entry = collections.namedtuple('Entry', 'name split why image annotation')

# Names of folders that say a split begin with one of these words, maybe after
# MoNuSeg or MoNuSAC. No small letter may follow, and no capital after a
# capital: Testis is an organ.
SPLIT_WORD = re.compile(
    r'(?:MoNuS(?:eg|AC)[ _]?(?:\d{4}[ _]?)?)?'
    r'(train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?)(?:data|set|images)?'
    r'(?-i:(?![a-z]|(?<=[A-Z])[A-Z]))', re.I)
SPLITS = {'tr': 'training', 'va': 'validation', 'te': 'test'}


class Found(str):
    """The path of a file that was found, in an archive ARCHIVE/NAME.

    Attributes:
        relative: the path below the folder that was given.
        archive, name: of the zip archive and in it, or None.
    """

    def __new__(cls, path, relative, archive=None, name=None):
        found = super().__new__(cls, path)
        found.relative, found.archive, found.name = relative, archive, name
        return found


def list_files(folder, flag):
    """List the files below a folder or in a zip archive.

    Hidden files and folders are skipped. Links to folders are followed; each
    folder is listed once. Archives inside the folder count as folders.

    Returns:
        list of Found

    Raises:
        InputError: the folder is absent, is a file, or cannot be read, or an
            archive is damaged.
    """
    if os.path.isfile(folder):
        paths = {os.path.basename(folder): folder}
    elif os.path.isdir(folder):
        found = sorted(os.path.join(parent, name)
                       for parent, names in walk_folders(folder)
                       for name in names if not is_hidden(name))
        # A pipe would never end. A link to nothing is an error later.
        paths = {os.path.relpath(path, folder): path for path in found
                 if os.path.isfile(path) or not os.path.exists(path)}
    else:
        raise InputError(f'--{flag} {folder}: no such folder or zip archive; '
                         'unpack or copy the data there')
    files = []
    for relative, path in paths.items():
        if path == folder or path.lower().endswith('.zip'):
            files += [Found(f'{path}/{name}', f'{relative}/{name}', path, name)
                      for name in _names(path)]
        else:
            files.append(Found(path, relative))
    return files


def walk_folders(folder):
    """Yield a folder and those below it, each once, with the files' names.

    Raises:
        InputError: one cannot be read.
    """
    def fail(error):
        raise InputError(f'{error.filename}: cannot be read '
                         f'({error.strerror}); make it readable') from error

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=fail,
                                          followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link may lead to a folder above
            folders.clear()
            continue
        seen.add(real)
        # Links last: a folder is listed by its own name.
        folders[:] = sorted(filterfalse(is_hidden, folders), key=lambda name: (
            os.path.islink(os.path.join(parent, name)), name))
        yield parent, names


def is_hidden(relative_path):
    """Say whether a file or a folder above it is hidden, or macOS's litter."""
    return any(part.startswith('.') or part == '__MACOSX'
               for part in relative_path.split('/')
               if part not in ('.', '..'))


def _names(path):
    _archive.cache_clear()  # it may be another one by now
    try:
        return [name for name in sorted(_archive(path).namelist())
                if not is_hidden(name) and not name.endswith('/')]
    except ZIP_ERRORS as error:
        raise InputError(f'{path}: no whole zip archive ({error}); download '
                         'it again, or give a folder') from error


@functools.lru_cache(maxsize=4)  # to read its directory can take long
def _archive(path):
    return zipfile.ZipFile(path)


def opened(path):
    """Open a file to read bytes; archives are never unpacked to disk.

    Raises:
        InputError: what is in an archive cannot be read.
        OSError: another file cannot be opened.
    """
    if getattr(path, 'archive', None) is None:
        return open(path, 'rb')
    try:
        archive = _archive(path.archive)
        if archive.getinfo(path.name).file_size > MEMBER_BYTES:
            raise InputError(f'{path}: unpacks to more than '
                             f'{MEMBER_BYTES >> 30} GiB; unpack the archive')
        return io.BytesIO(archive.read(path.name))
    except (*ZIP_ERRORS, KeyError) as error:
        raise InputError(f'{path}: cannot be read ({error}); copy or '
                         'download it again') from error


def file_digest(path):
    """Return the SHA-1 hex digest of a file, or '' if it is unreadable."""
    sha = hashlib.sha1()
    try:
        with opened(path) as file:
            for block in iter(lambda: file.read(HEAD), b''):  # for memory
                sha.update(block)
    except (OSError, InputError):
        return ''
    return sha.hexdigest()


def read_head(path):
    """Read HEAD bytes of a file; b'' if it is absent or cannot be read."""
    # To read a pipe could take for ever.
    if getattr(path, 'archive', None) or os.path.isfile(path):
        with suppress(OSError, InputError), opened(path) as file:
            return file.read(HEAD)
    return b''


def is_predicted(path, marks=MARKS):
    """Say whether `predict` wrote a file, and nobody has changed it since.

    Its head holds one of the marks then. So do the pictures of `prepare`.
    """
    head = read_head(path)
    if head[1:4] == b'PNG':
        head = head[:PNG_HEAD]
    return any(mark in head for mark in marks)


def ordered(entries, key=lambda entry: (entry.name, entry.split)):
    """Sort entries by a key.

    Raises:
        InputError: two have one key.
    """
    entries = sorted(entries, key=key)
    for one, other in zip(entries, entries[1:]):
        if key(one) == key(other):
            raise InputError(
                f'{other.image}, a {other.split} image: of the same name as '
                f'{one.image}, a {one.split} image; rename or remove one')
    return entries


def stem_and_ending(relative_path):
    """Split off a file's name: ('NAME', '.ending in lower case').

    The .gz of gzipped GeoJSON is no ending of its own; that of NAME.tif.gz
    is, and such a file is neither image nor annotation.
    """
    base = posixpath.basename(relative_path)
    stem, ending = posixpath.splitext(
        re.sub(r'(?<=json)\.gz\Z', '', base, flags=re.I))
    return stem, ending.lower()


def is_image(path):
    """Say whether a file has the ending of an image."""
    return stem_and_ending(path)[1] in IMAGE_ENDINGS


def split_of(relative_path):
    """Return `split` and `why` of Entry by the nearest folder that says it.

    They are None if no folder does.
    """
    for part in reversed(posixpath.dirname(relative_path).split('/')):
        found = SPLIT_WORD.match(part)
        if found:
            return (SPLITS[found.group(1)[:2].lower()],
                    f'for their folder is called {part}')
    return None, None
