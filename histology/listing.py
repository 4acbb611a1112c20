"""Files in folders and in zip archives, under one kind of name.

A source is (path,) of a file or (path of a zip archive, member). The place of
a source is its name below the folder that was given, with / between folders,
inside archives as inside folders.
"""
import collections
import hashlib
import os
import posixpath
import re
import zipfile
import zlib

from histology.files import MAX_NAME, InputError

# A member of a zip archive that claims to unpack to more is no image that
# anyone would zip, and may have been made to fill the memory.
MEMBER_BYTES = 2 ** 31
DIGEST_BLOCK = 2 ** 20  # bytes

IMAGE_ENDINGS = ('.tif', '.tiff', '.svs', '.png', '.jpg', '.jpeg')

# An annotated image:
#   name: file name of the image without its ending
#   split: 'training' or 'test'
#   why: what decided the split, for messages
#   image, annotation: sources
Entry = collections.namedtuple('Entry', 'name split why image annotation')

# A folder's name that says the split begins with one of these words; of
# MoNuSeg's and MoNuSAC's own folders too. Lower case goes on as one word:
# Testis is an organ.
SPLIT_WORD = re.compile(
    r'(?:MoNuS(?:eg|AC)[ _]?(?:\d{4}[ _]?)?)?'
    r'(?:(?P<word>[Tt]rain(?:ing)?|[Tt]est(?:ing)?)(?:data|set|images)?'
    r'(?![a-z])|(?P<capitals>TRAIN(?:ING)?|TEST(?:ING)?)(?![A-Za-z]))')


def list_files(folder, flag):
    """Lists the files below a folder or in a zip archive.

    Hidden files and folders are passed over. Links to folders are followed,
    each folder being listed once. Archives inside the folder are read as if
    unpacked.

    Args:
        folder: path.
        flag: that names it, for messages.

    Returns:
        dict of place to source

    Raises:
        InputError: the folder is absent, cannot be read, or an archive is
            damaged.
    """
    if os.path.isdir(folder):
        paths = {os.path.relpath(path, folder): path
                 for path in sorted(_walk(folder, set()))}
    elif os.path.isfile(folder):
        paths = {os.path.basename(folder): folder}
    else:
        raise InputError(f'--{flag} {folder}: no such folder or zip archive; '
                         'unpack or copy the data there')
    files, members = {}, {}
    for place, path in paths.items():
        place = place.replace(os.sep, '/')
        if path == folder or path.lower().endswith('.zip'):
            members.update((f'{place}/{member}', (path, member))
                           for member in _members(path))
        else:
            files[place] = (path,)
    files.update(members)
    return files


def _walk(folder, seen):
    """Yields the paths of the files below a folder.

    Those of the folders whose real paths are in the set `seen` come no more;
    the others are added.
    """
    def fail(error):
        raise InputError(f'{error.filename}: cannot be read '
                         f'({error.strerror}); make it readable') from error

    links = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        seen.add(os.path.realpath(parent))
        # A link may lead to a folder above.
        folders[:] = sorted(
            name for name in folders if not is_hidden(name)
            and os.path.realpath(os.path.join(parent, name)) not in seen)
        links += [os.path.join(parent, name) for name in folders
                  if os.path.islink(os.path.join(parent, name))]
        for name in names:
            path = os.path.join(parent, name)
            # A pipe would never end. A link to nothing is an error later.
            if not is_hidden(name) and (os.path.isfile(path)
                                        or not os.path.exists(path)):
                yield path
    for link in links:
        if os.path.realpath(link) not in seen:
            yield from _walk(link, seen)


def is_hidden(place):
    """Says whether a file, or a folder above it, is hidden.

    What macOS adds to archives is, too: __MACOSX/._NAME.tif is no image.
    """
    return any(part.startswith('.') or part == '__MACOSX'
               for part in place.split('/') if part not in ('.', '..'))


def _members(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return [member for member in sorted(archive.namelist())
                    if not is_hidden(member) and not member.endswith('/')]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f'{path}: no whole zip archive ({error}); '
                         'download it again') from error


def name_of(source):
    """A source's name for messages: its path, and its place in an archive."""
    return '/'.join(source)


def read(source):
    """Returns the bytes of a source; members are never unpacked to disk.

    Raises:
        InputError: it cannot be read.
    """
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
        raise InputError(f'{name_of(source)}: cannot be read ({error}); '
                         'copy or download it again') from error


def path_and_data(source):
    """What `images.read_image` takes: a path, and bytes of members alone."""
    return name_of(source), read(source) if source[1:] else None


def digest(entries):
    """Returns a SHA-1 hex digest of the entries' names, splits and files.

    A file that cannot be read counts as empty: it will be left out.
    """
    sha = hashlib.sha1()
    for entry in entries:
        sha.update(f'{entry.name} {entry.split}'.encode())
        for source in (entry.image, entry.annotation):
            sha.update(file_digest(source).encode())
    return sha.hexdigest()


def file_digest(source):
    """SHA-1 hex digest of a source, or '' where it cannot be read."""
    sha = hashlib.sha1()
    try:
        if source[1:]:
            sha.update(read(source))
        else:
            with open(*source, 'rb') as file:
                for block in iter(lambda: file.read(DIGEST_BLOCK), b''):
                    sha.update(block)
    except (OSError, InputError):
        return ''
    return sha.hexdigest()


def check_name(place, source):
    """Refuses a name that no store could hold.

    Raises:
        InputError: it is not UTF-8, or longer than files' names can be
            outside of archives.
    """
    try:
        base = posixpath.basename(place.encode())
    except UnicodeEncodeError as error:
        raise InputError(f'{name_of(source)!r}: the name is not UTF-8; rename '
                         'it') from error
    if len(base) > MAX_NAME:
        raise InputError(f'{name_of(source)}: the name has more than '
                         f'{MAX_NAME} bytes; rename it')


def ordered(entries):
    """Entries by name and split.

    Raises:
        InputError: two of one split have one name.
    """
    entries = sorted(entries, key=lambda entry: (entry.name, entry.split))
    for one, other in zip(entries, entries[1:]):
        if (one.name, one.split) == (other.name, other.split):
            raise InputError(
                f'{name_of(other.image)}: of the same name as '
                f'{name_of(one.image)}, and both are {one.split} images; '
                'rename or remove one of them')
    return entries


def stem_and_ending(place):
    """('NAME', '.ending in lower case') of a place; .gz is no ending."""
    base = posixpath.basename(place)
    if base.lower().endswith('.gz'):
        base = base[:-len('.gz')]
    stem, ending = posixpath.splitext(base)
    return stem, ending.lower()


def split_of(place):
    """The split that the nearest folder of a place says, and that folder.

    Returns:
        ('training' or 'test', the folder's name), or (None, None)
    """
    for part in reversed(posixpath.dirname(place).split('/')):
        found = SPLIT_WORD.match(part)
        if found:
            word = (found.group('word') or found.group('capitals')).lower()
            return 'test' if word.startswith('test') else 'training', part
    return None, None
