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
    files, image_paths, annotation_paths = pairs.candidates(
        folder, folder, ('monuseg_dir',) * 2)
    images = collections.defaultdict(list)
    for path in image_paths:
        images[listing.stem_and_ending(path)[0]].append(path)
    paired, _ = pairs.pair({(None, name) for name in images},
                           annotation_paths)
    entries = [_entry(name, images[name], found, files)
               for (_, name), found in sorted(paired.items())]
    _check_rest([path for name, paths in images.items()
                 if (None, name) not in paired for path in paths],
                entries, files)
    if not entries:
        raise InputError(
            f'{folder}: no MoNuSeg images; looked for Tissue Images/NAME.tif '
            'with Annotations/NAME.xml, Label_masks/NAME.png or '
            'Binary_masks/NAME.png, NAME.tif beside NAME.xml, and '
            'TissueImages/NAME.tif with GroundTruth/NAME_bin_mask.png, '
            'unpacked or in a .zip; give images of your own by --images_dir '
            'and --annotations_dir')
    return entries


def source_name(entries, folder):
    """Return 'MoNuSeg' if the images are its, or else the folder's name."""
    return ('MoNuSeg' if all(SLIDE.match(entry.name) for entry in entries)
            else folder)


def _entry(name, image_paths, annotation_paths, files):
    """Make an Entry of the files of one name.

    Raises:
        InputError: they are of different images or splits.
    """
    def unpacked(path):
        return len(files[path]), path

    # What lies elsewhere was made from an image.
    beside = {posixpath.dirname(path) for path in annotation_paths}
    tissue = [path for path in image_paths if posixpath.dirname(path) in beside
              or posixpath.basename(posixpath.dirname(path)) in IMAGE_FOLDERS]
    first, *others = sorted(tissue or image_paths, key=unpacked)
    split, why = _split(first, annotation_paths)
    for other in others:
        its_split, _ = _split(other, annotation_paths)
        one, two = (listing.name_of(files[path]) for path in (first, other))
        if its_split != split:
            raise InputError(f'{two}: also a {split} image ({one}); remove '
                             'one of them')
        if (listing.file_digest(files[first])
                != listing.file_digest(files[other])):
            raise InputError(f'{two}: another image than {one} of the same '
                             'name; rename or remove one of them')
    best = min(annotation_paths, key=lambda path: (
        annotations.preference(path), unpacked(path)))
    return Entry(name, split, why, files[first], files[best])


def _split(path, annotation_paths):
    """Find the split of an image, and what decided it."""
    split, folder = listing.split_of(path)
    if split:
        return split, f'for their folder is called {folder}'
    if any(posixpath.dirname(other) == posixpath.dirname(path)
           and other.lower().endswith('.xml') for other in annotation_paths):
        return 'test', 'for they lie beside their XML, as in its test archive'
    return 'training', None


def _check_rest(rest, entries, files):
    """Refuse images without annotation in folders where others have one."""
    used = {posixpath.dirname(listing.name_of(entry.image))
            for entry in entries}
    folders = [posixpath.dirname(listing.name_of(files[path]))
               for path in rest]
    lacking = [path for path, folder in zip(rest, folders)
               if folder in used or posixpath.basename(folder)
               in IMAGE_FOLDERS]
    if lacking:
        stem, _ = listing.stem_and_ending(lacking[0])
        raise InputError(
            f'{listing.name_of(files[lacking[0]])}: no annotation'
            + (f', nor have {len(lacking) - 1} more' if lacking[1:] else '')
            + f'; put {stem}.xml beside it or into Annotations/, {stem}.png '
            'into Label_masks/ or Binary_masks/')
    if rest:
        print(f'skipped {counted(len(rest), "image")} without annotation '
              f'({listing.name_of(files[rest[0]])} ...)')
