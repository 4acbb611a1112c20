"""Pairing anyone's images with their annotations, by file name."""
import collections
import os
import posixpath
import re

from histology import listing
from histology.files import InputError
from histology.listing import Entry

# HALO's are in ImageScope's XML.
OUTLINE_ENDINGS = ('.xml', '.annotations', '.geojson', '.json')
ANNOTATION_ENDINGS = OUTLINE_ENDINGS + ('.mat', '.npy', '.png', '.tif',
                                        '.tiff', '.jpg', '.jpeg')

# What is added to an image's name in its annotation's, once or more; QuPath's
# scripts add to the whole name, A.tif.geojson.
ADDED = re.compile(
    r'(?:[ _.-](?:annotations?|binary|bin|cp|ground[ _-]?truth|gt|instances?'
    r'|inst|labell?ed|labels?|manual|map|masks?|nuclear|nuclei|nucleus'
    r'|segmentation|seg)|\.(?:tiff?|svs|png|jpe?g))\Z', re.I)
# ... and what is added to the image's.
OF_IMAGE = re.compile(r'[ _.-](?:image|img|ome|tissue)\Z', re.I)

# Words in the names of folders, where images and annotations lie mixed.
ANNOTATION_WORDS = re.compile(
    r'(?:\A|[^a-z])(?:annotations?|annotators?|binary|groundtruth|gt'
    r'|instances?|inst|labels?|masks?)(?:\Z|[^a-z])', re.I)
IMAGE_FOLDER = re.compile('(?:tissue)?[ _-]?images?', re.I)
IMAGE_WORDS = re.compile(r'(?:\A|[^a-z])(?:tissue|images?)(?:\Z|[^a-z])',
                         re.I)


def find(images_dir, annotations_dir, split=None):
    """Pairs each image of a folder with the annotation of its name.

    An annotation has the name of its image, with or without '_mask', '-labels'
    and the like added. The two folders may be one, or lie one within the
    other: then folders called images, labels and so on, and what is added to
    the names, tell masks from tissue. Folders below are searched too; one that
    is called train... or test... says the split.

    Args:
        images_dir, annotations_dir: folders or zip archives.
        split: 'test' where these are test images, or None.

    Returns:
        List of `listing.Entry`, ordered by name.

    Raises:
        InputError: a folder is absent or cannot be read, there are no images,
            files have no partner, or two images or annotations claim one
            name.
    """
    flags = [f'{split}_{kind}_dir' if split else f'{kind}_dir'
             for kind in ('images', 'annotations')]
    files, tissue, drawn = _candidates(images_dir, annotations_dir, flags)
    if not tissue:
        raise InputError(f'--{flags[0]} {images_dir}: holds no image '
                         f'({", ".join(listing.IMAGE_ENDINGS)})')
    chosen = _chosen_images(tissue, files)
    annotations, unpaired = _pair(chosen, drawn)
    _check_paired([place for key, place in chosen.items()
                   if key not in annotations], unpaired, files, flags)
    entries = []
    for (its_split, name), place in chosen.items():
        annotation = _best(annotations[its_split, name], files)
        its_split, why = split, f'of --{flags[0]}'
        if split is None:
            # Of the image's folders or else of its annotation's.
            its_split, folder = max(map(listing.split_of, (place, annotation)),
                                    key=lambda found: found[0] is not None)
            why = (f'for their folder is called {folder}' if its_split
                   else None)
        entries.append(Entry(name, its_split or 'training', why,
                             files[place], files[annotation]))
    return listing.ordered(entries)


def _pair(chosen, drawn):
    """Finds the image of each annotation.

    Args:
        chosen: of `_chosen_images`.
        drawn: places of annotations.

    Returns:
        dict of chosen's keys to lists of places
        places that are of no image
    """
    splits = sorted({split for split, _ in chosen}, key=str)
    names = {split: _names({name for its_split, name in chosen
                            if its_split == split}) for split in splits}
    annotations, unpaired = collections.defaultdict(list), []
    for place in drawn:
        stem, ending = listing.stem_and_ending(place)
        its_split, _ = listing.split_of(place)
        # One of them may lie in no split's folder.
        found = [(split, _paired_stem(stem, names[split]))
                 for split in sorted(splits, key=lambda k: k != its_split)
                 if its_split is None or split in (None, its_split)]
        found = [key for key in found if key[1] is not None]
        if found:
            annotations[found[0]].append(place)
        elif ending != '.json':
            unpaired.append(place)
    return annotations, unpaired


def source_name(images_dir, annotations_dir):
    """What data are called: the nearest folder above both that has a name.

    Of mylab/train/images and mylab/train/masks it is mylab.
    """
    paths = [os.path.realpath(path) for path in (images_dir, annotations_dir)]
    folder, name = os.path.split(os.path.commonpath(paths))
    while folder != os.sep and (listing.SPLIT_WORD.fullmatch(name)
                                or IMAGE_FOLDER.fullmatch(name)):
        folder, name = os.path.split(folder)
    return name or os.path.basename(paths[0])


def _candidates(images_dir, annotations_dir, flags):
    """Lists what may be an image, and what an annotation.

    Returns:
        files: dict of place to source, of both folders
        tissue, drawn: places
    """
    roots = [os.path.realpath(path) for path in (images_dir, annotations_dir)]
    listings = [listing.list_files(path, flag) for path, flag
                in zip((images_dir, annotations_dir), flags)]
    if roots[0] == roots[1]:
        files = listings[0]
        names = _names({listing.stem_and_ending(place)[0] for place in files
                        if listing.stem_and_ending(place)[1]
                        in listing.IMAGE_ENDINGS})
        drawn = {place for place in files if _is_drawn(place, names)}
        tissue = set(files) - drawn
    else:
        # Places begin with a number, lest two folders have one place.
        files = {f'{k}/{place}': source for k, listed in enumerate(listings)
                 for place, source in listed.items()}
        within = [
            {place for place in files if place.startswith(f'{k}/')
             and not (roots[1 - k].startswith(roots[k] + os.sep)
                      and os.path.realpath(files[place][0]).startswith(
                          roots[1 - k] + os.sep))}
            for k in range(2)]
        tissue, drawn = within
    for place in tissue | drawn:
        listing.check_name(place, files[place])
    return (files,
            sorted(place for place in tissue if
                   listing.stem_and_ending(place)[1] in listing.IMAGE_ENDINGS),
            sorted(place for place in drawn if
                   listing.stem_and_ending(place)[1] in ANNOTATION_ENDINGS))


def _is_drawn(place, names):
    """Says whether a file among tissue images is an annotation.

    Args:
        place: of the file.
        names: of `_names` of all rasters.
    """
    stem, ending = listing.stem_and_ending(place)
    if ending not in listing.IMAGE_ENDINGS:
        return True
    shorter = ADDED.sub('', stem)
    if shorter != stem and _paired_stem(shorter, names) is not None:
        return True
    # The nearest folder that says it.
    for part in reversed(posixpath.dirname(place).split('/')):
        if ANNOTATION_WORDS.search(part):
            return True
        if IMAGE_WORDS.search(part):
            return False
    return False


def _chosen_images(tissue, files):
    """Maps (split that its folder says or None, name) to an image's place.

    Raises:
        InputError: two images of one split have one name.
    """
    places = collections.defaultdict(list)
    for place in tissue:
        places[(listing.split_of(place)[0],
                listing.stem_and_ending(place)[0])].append(place)
    chosen = {}
    for key, found in places.items():
        # What was made of an image often bears its name.
        named = [place for place in found
                 if IMAGE_WORDS.search(posixpath.dirname(place))]
        found = named if len(named) == 1 else found
        # MoNuSAC has its images twice.
        slides = [place for place in found if place.lower().endswith('.svs')]
        if len(slides) == 1 and len({posixpath.dirname(place)
                                     for place in found}) == 1:
            found = slides
        if len(found) > 1:
            raise InputError(
                f'{listing.name_of(files[found[1]])}: of the same name as '
                f'{listing.name_of(files[found[0]])}; names must differ, and '
                'masks must be told from images: rename them, or give '
                '--annotations_dir a folder without images')
        chosen[key] = found[0]
    return chosen


def _names(stems):
    """Maps what images may be called in their annotations' names to stems."""
    names = {OF_IMAGE.sub('', stem): stem for stem in stems}
    names.update((stem, stem) for stem in stems)
    return names


def _paired_stem(stem, names):
    """The stem of the image that an annotation's name says, or None."""
    while stem not in names:
        shorter = ADDED.sub('', stem)
        if shorter == stem:
            return None
        stem = shorter
    return names[stem]


def _check_paired(images, annotations, files, flags):
    """Refuses files without a partner; the first two are lists of places."""
    for places, what, other, remedy in (
            (images, 'image', 'annotation', f'--{flags[1]} needs a file of '
             'that name, or of that name with _mask, _labels or the like '
             'added'),
            (annotations, 'annotation', 'image', f'--{flags[0]} needs an '
             'image of that name')):
        if places:
            names = ', '.join(listing.name_of(files[place])
                              for place in places[:3])
            raise InputError(
                f'{names}{" ..." if places[3:] else ""}: {len(places)} '
                f'{what}{"s" if places[1:] else ""} without {other}; {remedy}')


def _best(places, files):
    """Of an image's annotations: XML, GeoJSON, labels, then masks.

    Raises:
        InputError: two are equally good.
    """
    def rank(place):
        ending = listing.stem_and_ending(place)[1]
        if ending in OUTLINE_ENDINGS:
            return OUTLINE_ENDINGS.index(ending)
        if place.lower().endswith('_seg.npy'):
            return 9  # Cellpose's own, pickled
        words = place.lower()
        # CryoNuSeg's and NuInsSeg's other label images add the numbers where
        # nuclei overlap.
        if 'label masks modify' in words:
            return 5
        # Masks too may be called labels, labels are never called binary.
        if re.search(r'bin(ary)?(?![a-z])', words):
            return 8
        return 6 if re.search('label|inst', words) or ending in (
            '.mat', '.npy') else 7

    ranked = sorted((rank(place), place) for place in places)
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        names = [listing.name_of(files[place]) for _, place in ranked[:2]]
        raise InputError(f'{names[0]} and {names[1]}: two annotations of one '
                         'image; give --annotations_dir the folder of one')
    return ranked[0][1]
