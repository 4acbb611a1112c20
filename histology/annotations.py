"""From an annotation in any format to numbered nuclei."""
import collections
import re

import numpy as np

from histology import geojson, images, imagescope, listing, outlines
from histology.files import InputError
from histology.progress import warn
from histology.rasterize import fill
from histology.resample import resample_labels

# The log's words for annotations that are images. The connected components of
# a mask are its nuclei: touching ones are one.
LABELS, MASK = 'label images', 'masks'

# A format of annotations:
#   name: of outlines, for the log; None for label images and masks
#   read: function of a path to `outlines.Outlines` or numbers [H, W]
#   endings: of its files
Format = collections.namedtuple('Format', 'name read endings')
# A new format is a line here. If an image has several annotations, the first
# format and the first ending of outlines are preferred.
FORMATS = (
    Format('XML', imagescope.parse, ('.xml', '.annotations')),
    Format('GeoJSON', geojson.parse, ('.geojson', '.json')),
    Format(None, images.read_labels,
           ('.mat', '.npy', '.tif', '.tiff', '.png', '.jpg', '.jpeg')),
)
# Ranks of label images and masks, by the first pattern that fits their path.
RASTER_RANKS = (
    (r'_seg\.npy\Z', 4),  # Cellpose's own, pickled
    # Other label images of CryoNuSeg and NuInsSeg add overlaps up.
    ('label masks modify', 0),
    # Masks too may be called labels.
    (r'(?<![a-z])(mask)?bin(ary)?(?![a-z])', 3),
    (r'label|(?<![a-z])inst(?!it|ru)|\.(mat|npy)\Z', 1),
    ('', 2),
)
BY_ENDING = {ending: form for form in FORMATS for ending in form.endings}
ENDINGS = tuple(BY_ENDING)

# Nuclei cover 11 to 40 % of MoNuSeg's images: a mask above this share mostly
# has nuclei and background exchanged.
MOST_NUCLEI = 2 / 3

# Share of the labels whose pieces may lie apart, as those of classes do. Label
# images of MoNuSeg have up to 0.006, by mistake.
MOST_APART = 0.1
# A mask holds lines around nuclei if less than the first share of its area is
# left one pixel inside, and it has more than the second with holes filled.
# Masks of MoNuSeg have 0.60 or more and 1.004 or less.
LEAST_INNER, MOST_FILLED = 0.5, 1.5
# Fewer values are no smooth edge of a mask, but classes or a border.
LEAST_SHADES = 8
TILE = 1024  # pixels, sides of the tiles that are searched at a time


def _format(path):
    return BY_ENDING[listing.stem_and_ending(path)[1]]


def preference(relative_path):
    """Rank an annotation among several of one image: the lowest is best.

    Equal ranks mean that nothing says which one is better.
    """
    if _format(relative_path).name:
        return ENDINGS.index(listing.stem_and_ending(relative_path)[1]), 0
    words = spaced(relative_path).lower()
    return len(ENDINGS), next(rank for pattern, rank in RASTER_RANKS
                              if re.search(pattern, words))


def spaced(name):
    """Return a name with blanks between its words, as AllMasks has them."""
    return re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', name)


def place(path, image_size, size, classes=()):
    """Read the outlines of an annotation, and lay them on its image.

    Args:
        path: of the annotation.
        image_size: (height, width) of the image as it is in its file.
        size: (height, width) of the image that the nuclei are wanted for.
        classes: names of the wanted ones; () for all of nuclei.

    Returns:
        `outlines.Placed`; its nuclei are None if the annotation is an image.

    Raises:
        InputError: the outlines cannot be read, or are of another image; or
            the annotation has no classes to choose.
    """
    form = _format(path)
    if not form.name:
        if classes:
            raise InputError(f'{path}: has no classes; omit --classes')
        return outlines.Placed(None, {}, (), [], [], None)
    found = form.read(path)
    _check_size(path, found.size or image_size, image_size)
    factor = np.array(size) / image_size
    found = found._replace(nuclei=[
        [[ring * factor for ring in polygon] for polygon in nucleus]
        for nucleus in found.nuclei])
    try:
        return outlines.place(found, *size, classes)
    except InputError as error:
        raise InputError(f'{path}: {error}') from error


def load(path, image_size, size, placed):
    """Read an annotation and fill in its nuclei, resampled or not.

    Args:
        path, image_size, size: as for `place`.
        placed: what it returned.

    Returns:
        int32 [*size], or of the window of `placed`, 0 in the background and 1
            to N in the nuclei, some maybe without a pixel
        LABELS, MASK or the name of the Format

    Raises:
        InputError: it cannot be read, or does not say where nuclei are.
    """
    form = _format(path)
    if placed.nuclei is None:
        return _from_raster(form.read(path), path, image_size, size)
    instances = fill(placed.nuclei, *size)
    return outlines.crop(instances, placed, 0), form.name


def _check_size(path, size, image_size):
    """Raise InputError if an annotation has not the size of its image."""
    if tuple(size) != tuple(image_size):
        raise InputError(
            f'{path}: {size[1]} x {size[0]} pixels, but its image has '
            f'{image_size[1]} x {image_size[0]}; give the annotation of this '
            'image')


def _from_raster(values, path, image_size, size):
    """Return what `load` does, of a label image or a mask."""
    from scipy import ndimage
    _check_size(path, values.shape, image_size)
    highest, mask = values.max(), values != 0
    if highest in (255, 65535) and _has_smooth_edges(values, mask, highest):
        warn((highest, 'smooth'), path, 'a mask with smooth edges: read as 0 '
             f'up to {highest // 2}, and 1 above')
        values = mask = values > highest // 2
    area = np.count_nonzero(mask)
    if area > MOST_NUCLEI * mask.size:
        raise InputError(
            f'{path}: nuclei cover {area / mask.size:.0%} of the image; give '
            '0 in the background and other numbers in nuclei')
    inner = ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1)
    if (np.count_nonzero(inner) < LEAST_INNER * area  # before what is slow
            and ndimage.binary_fill_holes(mask).sum() > MOST_FILLED * area):
        raise InputError(f'{path}: holds lines around nuclei; fill them, as '
                         'in ImageJ by Process, Binary, Fill Holes')
    del mask, inner  # for memory
    values = resample_labels(values, size)
    if ((values == 0) | (values == values.max())).all():  # a mask
        instances = np.empty(values.shape, np.int32)
        ndimage.label(values, np.ones((3, 3)), output=instances)
        return instances, MASK
    return _numbered(values, path), LABELS


def _has_smooth_edges(values, mask, highest):
    """Say whether numbers between 0 and the highest are shades of edges."""
    area, full = np.count_nonzero(mask), np.count_nonzero(values == highest)
    if not area / 5 < full < area or len(np.unique(values)) < LEAST_SHADES:
        return False
    # Most pixels of labels equal those above and left.
    shades = (mask & (values != highest))[1:, 1:]
    inner = values[1:, 1:]
    equal = (inner == values[:-1, 1:]) & (inner == values[1:, :-1])
    return 2 * np.count_nonzero(equal & shades) <= area - full


def _numbered(values, path):
    """Number labels anew from 1 in their order: int32 [H, W], or refuse."""
    from scipy import ndimage
    from skimage import measure
    everywhere, apart = collections.defaultdict(list), set()
    for top in range(0, values.shape[0], TILE):
        for left in range(0, values.shape[1], TILE):
            tile = values[top:top + TILE, left:left + TILE]
            pieces = measure.label(tile, background=0, connectivity=2)
            places = ndimage.find_objects(pieces)
            found = ndimage.maximum(tile, pieces, range(1, len(places) + 1))
            boxes = collections.defaultdict(list)
            for label, (rows, columns) in zip(found, places):
                boxes[int(label)].append(
                    (top + rows.start, left + columns.start,
                     top + rows.stop, left + columns.stop))
            for label, its in boxes.items():
                if label in apart or outlines.lie_apart(np.array(its)):
                    apart.add(label)
                    its = its[:1]  # one will do: noise has many
                everywhere[label] += its
    # Tiles cut nuclei in pieces, which are close to each other.
    apart.update(label for label, its in everywhere.items()
                 if len(its) > 1 and outlines.far_apart(np.array(its)))
    labels = sorted(everywhere)
    wrapped = values.dtype.itemsize == 1 and 255 in labels
    if len(apart) > (0 if wrapped else MOST_APART * len(labels)):
        raise InputError(
            f'{path}: {len(apart)} of its {len(labels)} numbers lie in pieces '
            'apart, as classes, borders, shades of grey and more than 255 '
            'nuclei in 8 bits do; give a number for each nucleus, in 16 bits, '
            'or a mask with 0 and one other value')
    if apart:
        warn('apart', path, f'{len(apart)} of its {len(labels)} numbers lie '
             'in pieces apart, and count as one nucleus each')
    if wrapped:
        warn('8 bits', path, 'its numbers reach 255, the highest of 8 bits. '
             'If there are more nuclei, save it in 16 bits')
    # In place if the type allows: a large image's labels fill the memory.
    instances = (values.view(np.int32) if values.dtype.itemsize == 4
                 else np.empty(values.shape, np.int32))
    labels = np.array([0, *labels])
    for row, numbered in zip(values, instances):
        numbered[:] = np.searchsorted(labels, row)
    return instances
