"""Finding MoNuSeg's images with their annotations.

Kumar et al., "A Multi-Organ Nucleus Segmentation Challenge", IEEE TMI 2020.
Three layouts are in circulation:
    Tissue Images/NAME.tif   with Annotations/NAME.xml, and some copies with
                             label images or masks in folders of their own
                             (the training archive)
    NAME.tif                 beside NAME.xml (the test archive)
    TissueImages/NAME.tif    with GroundTruth/NAME_bin_mask.png, both under
                             Training/ or Test/
"""
import collections
import posixpath
import re

from histology import annotations, listing, pairs
from histology.files import InputError
from histology.listing import Entry
from histology.progress import counted

# Where the annotation of IMAGE_FOLDER/NAME.tif may be: a folder, seen from the
# image's, what is added to NAME, and an ending for messages. If there are
# several, the better one is taken, and of equals the first.
PLACES = (('', '', '.xml'),
          ('../Annotations', '', '.xml'),
          ('../Label_masks', '', '.png'),
          ('../Instance_masks', '', '.png'),
          ('../Binary_masks', '', '.png'),
          ('../GroundTruth', '_bin_mask', '.png'))
ANNOTATION_FOLDERS = [posixpath.basename(place[0]) for place in PLACES[1:]]
IMAGE_FOLDERS = ('Tissue Images', 'TissueImages')

# The slides of The Cancer Genome Atlas that the challenge's images are of.
SLIDE = re.compile(r'TCGA-\w\w-\w{4}-01[AZ]-\d\d-(?:DX|TS|BS)\w')


def find(folder):
    """Find the annotated images in a folder or zip archive.

    An image that is found twice, for example in an archive and unpacked, is
    taken once, with the better annotation. The nearest folder below the one
    given that is called train... or test... says the split. If there is none,
    an image beside its XML is a test image, as in the archives.

    Args:
        folder: a folder at any level above the images and annotations, or
            one of the archives.

    Returns:
        List of `listing.Entry`, ordered by name.

    Raises:
        InputError: the folder is absent or holds no images in a known
            layout, an image has no annotation, is in both splits, shares its
            name with another one or has one that is not UTF-8, or an archive
            is damaged.
    """
    files = listing.list_files(folder, 'monuseg_dir')
    index = collections.defaultdict(list)
    for path in files:
        stem, ending = listing.stem_and_ending(path)
        if ending in annotations.ENDINGS:
            index[posixpath.dirname(path), stem].append(path)
    found, rest = {}, []
    for path in files:
        parent = posixpath.dirname(path)
        if (listing.stem_and_ending(path)[1] not in listing.IMAGE_ENDINGS
                or posixpath.basename(parent) in ANNOTATION_FOLDERS):
            continue
        listing.check_name(path, files[path])
        best = _best(path, index)
        if best is None:
            rest.append(path)
        # Not masks and labels in folders of other names.
        elif (posixpath.dirname(best[1]) == parent
              or posixpath.basename(parent) in IMAGE_FOLDERS
              or not pairs.ANNOTATION_WORDS.search(
                  posixpath.basename(parent))):
            entry = _entry(path, best[1], files)
            found[entry.name] = _one_of_two(found.get(entry.name),
                                            (best[0], parent, entry))
    _check_rest(rest, {parent for _, parent, _ in found.values()}, files)
    if not found:
        raise InputError(
            f'{folder}: no MoNuSeg images; looked for Tissue Images/NAME.tif '
            'with Annotations/NAME.xml, Label_masks/NAME.png or '
            'Binary_masks/NAME.png, NAME.tif beside NAME.xml, and '
            'TissueImages/NAME.tif with GroundTruth/NAME_bin_mask.png, '
            'unpacked or in a .zip; give images of your own by --images_dir '
            'and --annotations_dir')
    return sorted(entry for _, _, entry in found.values())


def source_name(entries, folder):
    """Return 'MoNuSeg' if the images are its, or else the folder's name."""
    return ('MoNuSeg' if all(SLIDE.match(entry.name) for entry in entries)
            else folder)


def _places(path):
    """Yield PLACES for an image: folder, NAME with its addition, ending."""
    parent, stem = posixpath.dirname(path), listing.stem_and_ending(path)[0]
    for folder, added, ending in PLACES:
        folder = posixpath.normpath(posixpath.join(parent, folder))
        yield '' if folder == '.' else folder, stem + added, ending


def _best(path, index):
    """Find the best annotation of an image.

    Args:
        path: of the image.
        index: dict of (folder, stem) to the paths of annotations.

    Returns:
        its rank, the lowest being best, and its path; or None
    """
    ranked = []
    for place, (folder, stem, _) in enumerate(_places(path)):
        for other in index.get((folder, stem), ()):
            ending = listing.stem_and_ending(other)[1]
            # Beside an image, other images and .json are no annotations.
            if place or annotations.is_outlines(ending) and ending != '.json':
                ranked.append(((annotations.preference(other), place,
                                annotations.ENDINGS.index(ending)), other))
    return min(ranked, default=None)


def _entry(path, annotation, files):
    split, why = listing.split_of(path)
    if split:
        why = f'for their folder is called {why}'
    elif (posixpath.dirname(annotation) == posixpath.dirname(path)
          and listing.stem_and_ending(annotation)[1] == '.xml'):
        split, why = 'test', ('for they lie beside their XML, as in its test '
                              'archive')
    return Entry(listing.stem_and_ending(path)[0], split or 'training', why,
                 files[path], files[annotation])


def _one_of_two(first, second):
    """Choose from two finds of one name the one with the better annotation.

    A find is (rank, folder, entry); the first may be None. Images beside a
    folder of tissue images were made from those.

    Raises:
        InputError: they are of different images or splits.
    """
    if first is None:
        return second
    entries = first[-1], second[-1]
    names = [listing.name_of(entry.image) for entry in entries]
    if entries[0].split != entries[1].split:
        raise InputError(f'{names[1]}: also a {entries[0].split} image '
                         f'({names[0]}); remove one of them')
    finds = {posixpath.basename(find[1]): find for find in (first, second)
             if posixpath.dirname(find[1]) == posixpath.dirname(first[1])}
    tissue = [finds[folder] for folder in IMAGE_FOLDERS if folder in finds]
    if len(finds) == 2 and len(tissue) == 1:
        return tissue[0]
    digests = [listing.file_digest(entry.image) for entry in entries]
    if digests[0] != digests[1]:
        raise InputError(f'{names[1]}: another image than {names[0]} of the '
                         'same name; rename or remove one of them')
    return min(first, second, key=lambda find: find[0])


def _check_rest(rest, used, files):
    """Refuse images without annotation in folders where others have one.

    Args:
        rest: paths of the images without.
        used: the folders that hold images with one.
        files: dict of `listing.list_files`.
    """
    lacking = [path for path in rest
               if posixpath.dirname(path) in used
               or posixpath.basename(posixpath.dirname(path))
               in IMAGE_FOLDERS]
    if lacking:
        raise InputError(
            f'{listing.name_of(files[lacking[0]])}: no annotation'
            + (f', nor have {len(lacking) - 1} more' if lacking[1:] else '')
            + '; put one at ' + ', '.join(
                posixpath.join(folder, stem + ending)
                for folder, stem, ending in _places(lacking[0])))
    if rest:
        print(f'skipped {counted(len(rest), "image")} without annotation '
              f'({listing.name_of(files[rest[0]])} ...)')
