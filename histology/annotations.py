"""From an annotation in any format to numbered nuclei."""
import collections
import re

import numpy as np

from histology import (
    geojson,
    images,
    imagescope,
    listing,
    matlab,
    rasterize,
    resample,
)
from histology.files import InputError

# What says which pixels are one nucleus, as the store records it. Components
# are the connected parts of a mask: touching nuclei are one.
OUTLINES, LABELS, COMPONENTS = 'outlines', 'labels', 'components'

# A format of annotations:
#   kind: OUTLINES, LABELS, or None for labels or masks
#   name: for the log
#   read: function of a path and, for a member of an archive, its bytes;
#       returns `rasterize.Outlines` or numbers [H, W]
#   endings: of its files
Format = collections.namedtuple('Format', 'kind name read endings')
# A new format is a line here. If an image has several annotations, the first
# format and the first ending are preferred.
FORMATS = (
    Format(OUTLINES, 'XML', imagescope.parse, ('.xml', '.annotations')),
    Format(OUTLINES, 'GeoJSON', geojson.parse, ('.geojson', '.json')),
    Format(LABELS, 'raster', matlab.read_labels, ('.mat',)),
    Format(LABELS, 'raster', images.read_labels, ('.npy',)),
    Format(None, 'raster', images.read_labels,
           ('.tif', '.tiff', '.png', '.jpg', '.jpeg')),
)
# What `load` found:
#   instances: int32 [H, W], 0 in the background and 1 to N in the nuclei
#   kind: OUTLINES, LABELS or COMPONENTS
#   microns_per_pixel: what the file says of the image's, or None
#   skipped: list of texts
#   classes: dict of the names of classes or layers to int [K], the numbers of
#       their nuclei, some maybe without a pixel; {} if the file names none
Found = collections.namedtuple(
    'Found', 'instances kind microns_per_pixel skipped classes')
BY_ENDING = {ending: form for form in FORMATS for ending in form.endings}
ENDINGS = tuple(BY_ENDING)

# Nuclei cover 11 to 40 % of MoNuSeg's images: a mask above this share mostly
# has nuclei and background exchanged.
MOST_NUCLEI = 2 / 3

# Classes and shades of grey look like labels, but each of them is in many
# pieces. A nucleus may be cut in two by another one.
MOST_PIECES = 2  # for each label
TILE = 1024  # pixels, sides of the tiles that are searched at a time


def _format(path):
    return BY_ENDING[listing.stem_and_ending(path)[1]]


def format_of(source):
    """Return what the log calls a source's format, such as 'XML'."""
    return _format(listing.name_of(source)).name


def preference(relative_path):
    """Rank an annotation among several of one image: the lowest is best.

    The order is that of FORMATS; of rasters, labels come before masks. Equal
    ranks mean that nothing says which one is better.
    """
    kind = _format(relative_path).kind
    if kind == OUTLINES:
        return ENDINGS.index(listing.stem_and_ending(relative_path)[1]), 0
    words = relative_path.lower()
    if words.endswith('_seg.npy'):
        group = 4  # Cellpose's own, pickled
    elif 'label masks modify' in words:
        # CryoNuSeg's and NuInsSeg's other label images add the numbers where
        # nuclei overlap.
        group = 0
    elif re.search(r'bin(ary)?(?![a-z])', words):
        group = 3  # masks too may be called labels, but not labels binary
    else:
        group = 1 if kind or re.search('label|inst', words) else 2
    return len(ENDINGS), group


def load(source, image_size, size):
    """Read an annotation and fill in its nuclei, resampled or not.

    Args:
        source: see `listing`.
        image_size: (height, width) of the image as it is in its file.
        size: (height, width) of the image that the nuclei are wanted for.

    Returns:
        Found, of [*size].

    Raises:
        InputError: it cannot be read, is of another image, or does not say
            where nuclei are.
    """
    path, data = listing.path_and_data(source)
    form = _format(path)
    if form.kind != OUTLINES:
        instances, kind = _from_raster(form, path, data, image_size, size)
        return Found(instances, kind, None, [], {})
    found = form.read(path, data)
    nuclei = found.nuclei
    if tuple(size) != tuple(image_size):
        factor = np.array(size) / image_size
        nuclei = [[[ring * factor for ring in polygon] for polygon in nucleus]
                  for nucleus in nuclei]
    try:
        instances, skipped = rasterize.fill(nuclei, *size)
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    skipped = [f'{what}: {count}' for what, count in found.skipped.items()
               if count] + skipped
    names = np.array(found.names, str)
    return Found(instances, OUTLINES, found.microns_per_pixel, skipped,
                 {name: np.flatnonzero(names == name) + 1
                  for name in sorted(set(found.names)) if name})


def _from_raster(form, path, data, image_size, size):
    """Read instances and kind of a label image or a mask; see `load`."""
    values = form.read(path, data)
    if values.shape != tuple(image_size):
        raise InputError(
            f'{path}: {values.shape[1]} x {values.shape[0]} pixels, but its '
            f'image has {image_size[1]} x {image_size[0]}; give the '
            'annotation of this image')
    covered = np.count_nonzero(values) / values.size
    if covered > MOST_NUCLEI:
        raise InputError(
            f'{path}: nuclei cover {covered:.0%} of the image; give 0 in the '
            'background and other numbers in nuclei')
    values = resample.resample_labels(values, size)
    if _is_binary(values):
        from scipy import ndimage
        instances = np.empty(values.shape, np.int32)
        ndimage.label(values, np.ones((3, 3)), output=instances)
        return instances, COMPONENTS
    return _numbered(values, path), LABELS


def _is_binary(values):
    """Say whether an array holds only 0 and 1, 255 or 65535."""
    highest = values.max()
    return (highest in (0, 1, 255, 65535)
            and ((values == 0) | (values == highest)).all())


def _numbered(values, path):
    """Number labels anew from 1, in their order, as int32 [H, W].

    Raises:
        InputError: what they number are no nuclei.
    """
    from skimage import measure
    labels, pieces, parts = np.zeros(0, np.int64), 0, 0
    for top in range(0, values.shape[0], TILE):
        for left in range(0, values.shape[1], TILE):
            tile = values[top:top + TILE, left:left + TILE]
            found = np.unique(tile)
            found = found[found != 0].astype(np.int64)
            labels = np.union1d(labels, found)
            parts += len(found)
            pieces += measure.label(tile, background=0, connectivity=2).max()
    if pieces > MOST_PIECES * parts:
        raise InputError(
            f'{path}: its {len(labels)} values lie in {pieces} pieces, as '
            'classes or shades of grey do; give a number for each nucleus, '
            'or a mask with values 0 and 1, or 0 and 255')
    # In place if the type allows: a large image's labels fill the memory.
    instances = (values.view(np.int32) if values.dtype.itemsize == 4
                 else np.empty(values.shape, np.int32))
    for row, numbered in zip(values, instances):
        numbered[:] = np.where(row, np.searchsorted(labels, row) + 1, 0)
    return instances
