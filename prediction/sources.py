"""What is predicted: files of images and slides, and images of a store."""
import collections
import glob
import hashlib
import os
import time

from histology import listing, pairs, progress
from histology.files import InputError
from prediction import runs, slides

ENDINGS = listing.IMAGE_ENDINGS + slides.ENDINGS
# A larger file is told from others by this many pieces, evenly spread.
PIECES, PIECE = 64, 2 ** 20  # bytes

# An image or slide that is predicted.
#   name: for messages: its path, or its name in a store
#   stem: of the names of its results
#   is_slide: see `slides.is_slide`
#   digest: of its content
#   index: its place among all that are predicted
Source = collections.namedtuple('Source', 'name stem is_slide digest index')


def of_files(paths, max_whole_pixels):
    """List the Sources of image files."""
    found, said_at = [], time.monotonic()
    for index, path in enumerate(paths):
        progress.check()
        if time.monotonic() - said_at > progress.LOG_INTERVAL:
            said_at = time.monotonic()
            progress.say(f'{index} of {progress.counted(len(paths), "file")} '
                         'looked at', error=True)
        found.append(Source(
            path, os.path.splitext(os.path.basename(path))[0],
            slides.is_slide(path, max_whole_pixels), _digest(path), index))
    return found


def _digest(path):
    """Return a hex digest of a file, or '' if it cannot be read."""
    try:
        size = os.path.getsize(path)
        if size <= PIECES * PIECE:
            return listing.file_digest(path)
        sha = hashlib.sha1(str(size).encode())
        with open(path, 'rb') as file:
            for piece in range(PIECES):
                file.seek(piece * (size - PIECE) // (PIECES - 1))
                sha.update(file.read(PIECE))
        return sha.hexdigest()
    except OSError:
        return ''


def find_images(name):
    """Find image files: a sorted list of paths.

    Args:
        name: a file; a folder, of which all images directly in it are taken,
            see `_tissue_images`; or a glob pattern ('**' for subfolders, too).
            The longest leading part of a pattern that is a folder is taken
            literally.

    Raises:
        InputError: there is none, or a folder cannot be read.
    """
    if os.path.isfile(name):
        return [name]
    folder, parts = name, []
    while folder and not os.path.isdir(folder):
        folder, part = os.path.split(folder)
        parts.insert(0, part)
    pattern = os.path.join('', *parts) or '*'
    folders, in_each = [folder], pattern
    if parts[:1] == ['**']:  # glob would pass over folders it may not read
        folders = [below for below, _ in listing.walk_folders(
            folder or os.curdir)]
        in_each = os.path.join('', *parts[1:]) or '*'
    found = {path for one in folders for path in glob.glob(
        os.path.join(glob.escape(one), in_each), recursive=True)}
    found = ([path for path in found
              if not runs.is_ours(path, listing.MARKS)]
             if parts else _tissue_images(found))
    # A link that leads nowhere stays, to be named when it is read.
    paths = sorted(path for path in found
                   if os.path.isfile(path) or not os.path.exists(path))
    if not paths:
        next(listing.walk_folders(folder or os.curdir))  # may refuse
        reason = (f"no such file ('{pattern}' in {folder or os.curdir})"
                  if parts else f'holds no image ({", ".join(ENDINGS)}),'
                  ' and its subfolders are not searched')
        raise InputError(f'--images {name}: {reason}; give a file, a folder '
                         "or a pattern in quotes, as 'folder/*.tif', or "
                         "'folder/**/*.tif' with subfolders")
    return paths


def _tissue_images(paths):
    """Select the tissue among a folder's files, and name what else it has."""
    images = [path for path in paths if path.lower().endswith(ENDINGS)]
    names = pairs.names_of(images)
    images = [path for path in images if not pairs.adds_to_one_of(path, names)
              and not listing.is_predicted(path)]
    folders = list(filter(os.path.isdir, paths))
    if images and folders:
        progress.say(f'{progress.counted(len(folders), "subfolder")} not '
                     "searched; the pattern 'folder/**/*.tif' does")
    others = sorted(filter(os.path.isfile, set(paths).difference(images)))
    if others:
        kinds = {os.path.splitext(path)[1]: path for path in others[::-1]}
        progress.say(
            f'{progress.counted(len(others), "file")} skipped (masks and the '
            f'like beside their images, or not of {", ".join(ENDINGS)}): '
            + ', '.join(sorted(kinds.values())))
    return images


def check_folder(output_dir, paths):
    """Raise InputError for an image's folder: hand-drawn masks are there."""
    for path in paths:
        if os.path.realpath(output_dir) in (
                os.path.realpath(os.path.dirname(path)),
                os.path.dirname(os.path.realpath(path))):
            raise InputError(f'--output_dir {output_dir}: holds the image '
                             f'{path}; choose a folder without input files')
