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
import posixpath
import re

from histology import listing, pairs
from histology.files import InputError
from histology.listing import Entry

# Where the annotation of IMAGE_FOLDER/NAME.tif may be, the best first:
# outlines are exact, labels tell touching nuclei apart, masks do not.
PLACES = (('', '', ('.xml',)),
          ('../Annotations', '', ('.xml',)),
          ('', '', ('.geojson',)),
          ('../Annotations', '', ('.geojson', '.json')),
          ('../Label_masks', '', ('.mat', '.npy', '.tif', '.tiff', '.png')),
          ('../Instance_masks', '', ('.mat', '.npy', '.tif', '.tiff',
                                     '.png')),
          ('../Binary_masks', '', ('.png', '.tif', '.tiff')),
          ('../GroundTruth', '_bin_mask', ('.png', '.tif', '.tiff')))
ANNOTATION_FOLDERS = ('Annotations', 'Label_masks', 'Instance_masks',
                      'Binary_masks', 'GroundTruth')
IMAGE_FOLDERS = ('Tissue Images', 'TissueImages')

# The slides of The Cancer Genome Atlas that the challenge's images are of.
SLIDE = re.compile(r'TCGA-\w\w-\w{4}-01[AZ]-\d\d-(?:DX|TS|BS)\w')


def find(folder):
    """Finds the annotated images in a folder or zip archive.

    An image found twice, in an archive and unpacked say, is taken once, with
    the better annotation. The nearest folder below the one given that is
    called train... or test... says the split; failing that, an image beside
    its XML is a test image, as in the archives.

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
    index = {}
    for place in files:
        parent = posixpath.dirname(place)
        index[(parent, *listing.stem_and_ending(place))] = place
    found, rest = {}, []
    for place in files:
        _, ending = listing.stem_and_ending(place)
        parent = posixpath.dirname(place)
        if (ending not in listing.IMAGE_ENDINGS
                or posixpath.basename(parent) in ANNOTATION_FOLDERS):
            continue
        listing.check_name(place, files[place])
        entry, rank = _entry(place, files, index)
        if entry is None:
            rest.append(place)
        # Masks and labels in folders of other names.
        elif (not PLACES[rank][0] or posixpath.basename(parent)
              in IMAGE_FOLDERS or not pairs.ANNOTATION_WORDS.search(
                  posixpath.basename(parent))):
            found[entry.name] = _one_of_two(found.get(entry.name),
                                            (rank, parent, entry))
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
    """'MoNuSeg' if the images are its, or else the folder's name."""
    return ('MoNuSeg' if all(SLIDE.match(entry.name) for entry in entries)
            else folder)


def _entry(place, files, index):
    """The entry of the image at a place, or None, and its place in PLACES."""
    parent = posixpath.dirname(place)
    name, _ = listing.stem_and_ending(place)
    for rank, (folder, suffix, endings) in enumerate(PLACES):
        where = posixpath.normpath(posixpath.join(parent, folder))
        where = '' if where == '.' else where
        for ending in endings:
            annotation = index.get((where, name + suffix, ending))
            if annotation is not None:
                split, why = listing.split_of(place)
                if split:
                    why = f'for their folder is called {why}'
                elif rank == 0:
                    split, why = 'test', ('for they lie beside their XML, as '
                                          'in its test archive')
                return Entry(name, split or 'training', why, files[place],
                             files[annotation]), rank
    return None, None


def _one_of_two(first, second):
    """Of two finds of one name, that with the better annotation.

    A find is (place in PLACES, folder, entry); the first may be None. What
    lies beside a folder of tissue images was made from them.

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
    """Refuses images without annotation where others have one.

    Args:
        rest: places of the images without.
        used: the folders that hold images with one.
        files: dict of `listing.listing`.
    """
    lacking = [place for place in rest
               if posixpath.dirname(place) in used
               or posixpath.basename(posixpath.dirname(place))
               in IMAGE_FOLDERS]
    if lacking:
        parent = posixpath.dirname(lacking[0])
        name, _ = listing.stem_and_ending(lacking[0])
        raise InputError(
            f'{listing.name_of(files[lacking[0]])}: no annotation'
            + (f', nor have {len(lacking) - 1} more' if lacking[1:] else '')
            + '; put one at ' + ', '.join(
                posixpath.normpath(posixpath.join(
                    parent, folder, name + suffix + endings[0]))
                for folder, suffix, endings in PLACES
                if endings[0] != '.mat'))
    if rest:
        print(f'{len(rest)} other images without annotations are passed over '
              f'({listing.name_of(files[rest[0]])} ...)')
