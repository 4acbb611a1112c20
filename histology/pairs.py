"""Pairing anyone's images with their annotations, by file name."""
import collections
import os
import posixpath
import re
import unicodedata

from histology import annotations, listing
from histology.files import InputError
from histology.listing import Entry
from histology.progress import counted, say

# What the name of an annotation adds to its image's, once or more. QuPath's
# scripts add to the whole name: A.tif.geojson.
ADDED = re.compile(
    r'(?:[ _.-](?:annotations?|binary|bin|cp|ground[ _-]?truth|gt|instances?'
    r'|inst|labell?ed|labels?|manual|map|masks?|nuclear|nuclei|nucleus'
    r'|segmentation|seg)|\.(?:tiff?|svs|png|jpe?g|jfif))\Z', re.I)
# What the name of an image may have and its annotation's may not.
OF_IMAGE = re.compile(r'[ _.-](?:image|img|ome|tissue)\Z', re.I)

# Words in the names of folders that hold both images and annotations.
ANNOTATION_WORDS = re.compile(
    r'(?:\A|[^a-z])(?:annotations?|annotators?|binary|ground[ _-]?truth'
    r'|gt|instances?|inst|labels?|masks?)(?:\Z|[^a-z])', re.I)
IMAGE_WORDS = re.compile(r'(?:\A|[^a-z])(?:tissue|images?)(?:\Z|[^a-z])',
                         re.I)

# JSON without an object of QuPath's or a pair of coordinates, and XML without
# annotations.
METADATA = re.compile(br'(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*'
                      br'({(?!.*("Feature|\[\s*\[\s*-?\d))'
                      br'|(?=<)(?!.*<([\w.]+:)?Annotations[\s/>]))', re.S)


def find(images_dir, annotations_dir, split=None, flags=None):
    """Pair each image of a folder with the annotation of its name.

    The folders may be one, or one within the other: then names, and folders
    called images, labels and so on, tell masks from tissue. Folders below are
    searched too. What `predict` wrote is an annotation if there is no other.

    Args:
        images_dir, annotations_dir: folders or zip archives.
        split: 'test' for test images, or None.
        flags: that name the two, if they are no usual ones.

    Returns:
        List of `listing.Entry`, ordered by name.

    Raises:
        InputError: a folder is absent or cannot be read, there are no images,
            files have no partner, or two images or annotations claim one
            name.
    """
    flags = flags or [f'{split}_{kind}_dir' if split else f'{kind}_dir'
                      for kind in ('images', 'annotations')]
    image_paths, rest = _candidates(images_dir, annotations_dir, flags)
    images = collections.defaultdict(list)
    for path in image_paths:
        images[listing.split_of(path.relative)[0],
               listing.stem_and_ending(path)[0]].append(path)
    paired, unpaired = _pair(images, rest)
    _check_paired([paths[0] for key, paths in images.items()
                   if key not in paired],
                  # One folder of MoNuSeg's may hold more.
                  unpaired if flags[0] != flags[1] else [],
                  set(rest).difference(*paired.values()), flags)
    found, unread = [], collections.defaultdict(list)
    for key, paths in images.items():
        # Those of a person begin with zeros; the lowest is the best.
        ranks = {path: (_is_metadata(path), listing.is_predicted(path),
                        annotations.preference(path.relative))
                 for path in paired[key]}
        best = min(ranks.values())
        annotation = _one_of_equals(
            [path for path, rank in ranks.items() if rank == best],
            'two annotations of one image; give '
            f'--{flags[1]} the folder of one')
        image = _one_of_equals(
            _tissue(paths, paired[key]), 'two images of one name; rename '
            f'one, or give --{flags[1]} a folder without images')
        passed_over = _differing(image, paths)
        unread['image', len(passed_over)].append((image, passed_over))
        others = _unread(image, annotation, passed_over, ranks)
        unread[tuple(map(ranks.get, [annotation, *others]))].append(
            (annotation, others))
        its_split, why = split, f'of --{flags[0]}'
        for path in (image, annotation):
            if not its_split:
                its_split, why = listing.split_of(path.relative)
        found.append(Entry(key[1], its_split or 'training', why, image,
                           annotation))
    _say_unread(unread)
    return listing.ordered(found)


def _pair(images, paths):
    """Find the image of each annotation among some paths.

    Returns:
        dict of the keys of `images`, (split or None, name), to lists of paths
        annotations that are of no image, and not written by `predict`
    """
    splits = sorted({split for split, _ in images}, key=str)
    names = {split: names_of(found[0] for key, found in images.items()
                             if key[0] == split) for split in splits}
    paired, unpaired = collections.defaultdict(list), []
    for path in paths:
        stem, ending = listing.stem_and_ending(path)
        if ending == '.jpg' and listing.is_predicted(
                path, [listing.CHECK_MARK]):
            continue  # a picture that `prepare` drew
        its_split, _ = listing.split_of(path.relative)
        # Its own split first. Either of the two may lie in no split's folder.
        possible = [its_split, None] if its_split else splits
        found = [(split, _paired_stem(stem, names[split]))
                 for split in possible if split in names]
        found = [key for key in found if key[1] is not None]
        if ending in annotations.ENDINGS and found:
            paired[found[0]].append(path)
        elif (ending in set(annotations.ENDINGS) - {'.json'}  # may be any
              and not _is_metadata(path)
              and not listing.is_predicted(path)):
            unpaired.append(path)
    return paired, unpaired


def _candidates(images_dir, annotations_dir, flags):
    """List what may be an image, and the files that may be annotations."""
    images = listing.list_files(images_dir, flags[0])
    rest = listing.list_files(annotations_dir, flags[1])
    real_images = set(map(os.path.realpath, images))
    real_rest = set(map(os.path.realpath, rest))
    if real_images == real_rest:
        names = names_of(filter(listing.is_image, images))
        rest = [path for path in images if _is_annotation(path, names)]
        images = [path for path in images if not _is_annotation(path, names)]
    elif real_images > real_rest:  # one folder is within the other
        images = [path for path in images
                  if os.path.realpath(path) not in real_rest]
    elif real_rest > real_images:
        rest = [path for path in rest
                if os.path.realpath(path) not in real_images]
    for path in images + rest:
        # What Python reads of a name that is not UTF-8.
        if re.search('[\udc80-\udcff]', posixpath.basename(path)):
            raise InputError(f'{path!r}: the name is not UTF-8; rename it')
    found = [path for path in images if listing.is_image(path)
             and not listing.is_predicted(path)]
    if not found:
        hint = ('; those in folders called labels, masks, inst, annotations '
                'or the like count as annotations: rename the folder')
        is_hidden = real_images == real_rest and any(
            map(listing.is_image, rest))
        raise InputError(f'--{flags[0]} {images_dir}: holds no image '
                         f'({", ".join(listing.IMAGE_ENDINGS)})'
                         f'{hint if is_hidden else ""}')
    return found, rest


def adds_to_one_of(path, names):
    """Say whether a file is called as one of `names_of`, with _mask or so."""
    stem = listing.stem_and_ending(path)[0]
    shorter = ADDED.sub('', stem)
    return shorter != stem and _paired_stem(shorter, names) is not None


def _is_annotation(path, names):
    """Say whether a file among images of these names is an annotation."""
    if not listing.is_image(path) or adds_to_one_of(path, names):
        return True
    # The nearest folder that says it.
    for part in reversed(annotations.spaced(posixpath.dirname(
            path.relative)).split('/')):
        if ANNOTATION_WORDS.search(part):
            return True
        if IMAGE_WORDS.search(part):
            return False
    return False


def _tissue(paths, annotation_paths):
    """List the paths, of images of one name, that are most likely tissue."""
    beside = {posixpath.dirname(path) for path in annotation_paths}
    for is_tissue in (lambda path: posixpath.dirname(path) in beside,
                      lambda path: IMAGE_WORDS.search(annotations.spaced(
                          posixpath.dirname(path.relative))),
                      lambda path: path.lower().endswith('.svs')):
        paths = list(filter(is_tissue, paths)) or paths
    return paths


def names_of(image_paths):
    """Map what annotations may call images to the images' stems."""
    stems = [listing.stem_and_ending(path)[0] for path in image_paths]
    names = {}
    for spell in (_folded, str):  # the nearest spelling comes last, and wins
        names.update((spell(OF_IMAGE.sub('', stem)), stem) for stem in stems)
        names.update((spell(stem), stem) for stem in stems)
    return names


def _folded(name):
    """Spell names alike that differ in case, or in how Unicode composes."""
    return unicodedata.normalize('NFC', name.casefold())


def _paired_stem(stem, names):
    """Find the stem of the image that an annotation's stem says, or None."""
    while True:
        found = names.get(stem, names.get(_folded(stem)))
        shorter = ADDED.sub('', stem)
        if found is not None or shorter == stem:
            return found
        stem = shorter


def _check_paired(image_paths, annotation_paths, others, flags):
    """Refuse files without a partner, and name one other of each ending."""
    kinds = {listing.stem_and_ending(path)[1]: path
             for path in sorted(others, reverse=True)}
    there = (f'. There are: {", ".join(sorted(kinds.values()))}' if kinds
             else '')
    for paths, what, other, remedy in (
            (image_paths, 'image', 'annotation', f'--{flags[1]} needs a file '
             'of that name, or of that name with _mask, _labels or the like '
             f'added, of {", ".join(annotations.ENDINGS)}; one for all images '
             '(COCO) or for each nucleus is not read' + there),
            (annotation_paths, 'annotation', 'image', f'--{flags[0]} needs an '
             'image of that name')):
        if paths:
            raise InputError(
                f'{", ".join(paths[:3])}{" ..." if paths[3:] else ""}: '
                f'{counted(len(paths), what)} without {other}; {remedy}')


def _is_metadata(path):
    head = listing.read_head(path).replace(b'\0', b'')  # as of UTF-16
    return METADATA.match(head) is not None


def _unread(image, annotation, passed_over, ranks):
    """List the annotations of an image by a person that are not read.

    `ranks` maps all its annotations to their ranks.

    Raises:
        InputError: one of its annotations lies nearer to another image of
            its name.
    """
    paths = [path for path, rank in ranks.items() if not any(rank[:2])]
    others = _differing(annotation, paths)
    for other in passed_over:
        # It may be made of the image, but not if it has its own annotation.
        if others and any(
                _folders_shared(path, other) > _folders_shared(path, image)
                for path in paths):
            raise InputError(
                f'{image} and {other}: two images of one name, with '
                'annotations of their own; rename one, or prepare their '
                'folders apart')
    return others


def _say_unread(unread):
    """Say what is read and what is not, in one line for all images alike."""
    for (path, others), *more in unread.values():
        if others:
            likewise = f'. {counted(len(more), "more image")} likewise'
            say(f'{path} is read, not {", ".join(others[:3])}'
                f'{" ..." if others[3:] else ""}; to read another, move the '
                f'first away{likewise if more else ""}')


def _folders_shared(*paths):
    """Count the folders that two paths have in common, from the first on."""
    return len(os.path.commonprefix([path.relative.split('/')[:-1]
                                     for path in paths]))


def _differing(first, paths):
    """List the paths of files that have not the content of the first."""
    others = [path for path in paths if path != first]
    digest = listing.file_digest(first) if others else ''
    return [path for path in others if listing.file_digest(path) != digest]


def _one_of_equals(paths, problem):
    """Return one of some files with the same content, unpacked if possible."""
    first = min(paths, key=lambda path: (bool(path.archive), path))
    others = _differing(first, paths)
    if others:
        raise InputError(f'{first} and {min(others)}: {problem}')
    return first
