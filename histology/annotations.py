"""Reading an image's annotation, whatever its format, as labelled nuclei."""
import io
import posixpath

import numpy as np

from histology import geojson, images, imagescope, listing, rasterize, resample
from histology.files import InputError

# What tells the nuclei of an image apart, as the store says it. Components
# are those of a mask: touching nuclei are one.
OUTLINES, LABELS, COMPONENTS = 'outlines', 'labels', 'components'

# Nuclei cover 11 to 40 % of MoNuSeg's images, so that nearly all masks with
# nuclei and background exchanged exceed this.
MOST_NUCLEI = 2 / 3

# Classes and shades of grey look like labels, but each of them is in many
# places. A nucleus may be cut in two by one that lies over it.
MOST_PIECES = 2  # for each label
TILE = 1024  # pixels, of the sides of what is looked at together


def format_of(source):
    """What a source holds, for the log: 'XML', 'GeoJSON' or 'raster'."""
    ending = listing.stem_and_ending(listing.name_of(source))[1]
    return {'.xml': 'XML', '.annotations': 'XML', '.geojson': 'GeoJSON',
            '.json': 'GeoJSON'}.get(ending, 'raster')


def load(source, image_size, size):
    """Reads an annotation and lays it on its image, resampled or not.

    Args:
        source: see `sources`.
        image_size: (height, width) of the image as it is in its file.
        size: of the image that the nuclei are wanted for.

    Returns:
        instances: int32 [*size], 0 in the background and 1 to N in the nuclei
        kind: OUTLINES, LABELS or COMPONENTS
        microns_per_pixel: what the file says of image_size's, or None
        left_out: list of texts

    Raises:
        InputError: it cannot be read, is of another image, or does not say
            where nuclei are.
    """
    name = listing.name_of(source)
    parse = {'XML': imagescope.parse,
             'GeoJSON': geojson.parse}.get(format_of(source))
    if parse is None:
        instances, kind = _from_raster(source, image_size, size)
        return instances, kind, None, []
    found = parse(listing.read(source), name)
    nuclei = found.nuclei
    if tuple(size) != tuple(image_size):
        factor = np.array(size) / image_size
        nuclei = [[[ring * factor for ring in polygon] for polygon in nucleus]
                  for nucleus in nuclei]
    try:
        instances, left_out = rasterize.fill(nuclei, *size)
    except InputError as error:
        raise InputError(f'{name}: {error}') from error
    return (instances, OUTLINES, found.microns_per_pixel,
            found.left_out + left_out)


def _from_raster(source, image_size, size):
    """Instances and kind of a label image or a mask; arguments as above."""
    name = listing.name_of(source)
    if name.lower().endswith('.mat'):
        values = _read_mat(name, listing.read(source))
    else:
        values = images.read_labels(*listing.path_and_data(source))
    if values.shape != tuple(image_size):
        raise InputError(
            f'{name}: {values.shape[1]} x {values.shape[0]} pixels, but its '
            f'image has {image_size[1]} x {image_size[0]}; give the '
            'annotation of this image')
    covered = np.count_nonzero(values) / values.size
    if covered > MOST_NUCLEI:
        raise InputError(
            f'{name}: nuclei cover {covered:.0%} of the image; give 0 in the '
            'background and other numbers in nuclei')
    values = resample.resample_labels(values, size)
    if _is_binary(values):
        from scipy import ndimage
        instances = np.empty(values.shape, np.int32)
        ndimage.label(values, np.ones((3, 3)), output=instances)
        return instances, COMPONENTS
    if posixpath.basename(posixpath.dirname(name)) == 'Binary_masks':
        found = ', '.join(map(str, np.unique(values)[:5]))
        raise InputError(f'{name}: no binary mask (values {found} ...); give '
                         'one with values 0 and 1, or 0 and 255, or move it '
                         'to Label_masks')
    return _numbered(values, name), LABELS


def _read_mat(name, data):
    """The array inst_map of a MATLAB file, as Kumar's, CPM's and CoNSeP's.

    Returns:
        int array [H, W]
    """
    from scipy import io as matlab
    try:
        try:
            content = matlab.loadmat(io.BytesIO(data),
                                     variable_names=['inst_map'])
            values = content.get('inst_map')
        except NotImplementedError:  # version 7.3 is HDF5, by columns
            import h5py
            with h5py.File(io.BytesIO(data), 'r') as file:
                values = (file['inst_map'][()].T if 'inst_map' in file
                          else None)
    except Exception as error:  # for damaged files scipy raises anything
        raise InputError(f'{name}: cannot be read (damaged or no MATLAB '
                         'file); save or download it again') from error
    if values is None:
        raise InputError(f'{name}: holds no inst_map; save the label image '
                         'under this name')
    if values.ndim != 2 or values.dtype.kind not in 'uifb':
        raise InputError(f'{name}: inst_map is {values.dtype} '
                         f'{list(values.shape)}; save a number for each '
                         'pixel')
    if values.dtype.kind == 'f' and not (np.isfinite(values).all()
                                         and (values % 1 == 0).all()):
        raise InputError(f'{name}: inst_map holds fractions; save whole '
                         'numbers')
    if values.size and (values.min() < 0
                        or values.max() > np.iinfo(np.int32).max):
        raise InputError(f'{name}: inst_map holds {values.min()} to '
                         f'{values.max()}; save 0 and positive numbers')
    return values.astype(np.int32) if values.dtype.kind == 'f' else values


def _is_binary(values):
    """Says whether an array holds 0 and 1, 0 and 255 or 0 and 65535 alone."""
    highest = values.max()
    return highest in (0, 1, 255, 65535) and all(
        np.isin(values[top:top + TILE], (0, highest)).all()
        for top in range(0, len(values), TILE))


def _numbered(values, name):
    """Labels as int32 [H, W], numbered anew from 1 in their order.

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
            f'{name}: its {len(labels)} values lie in {pieces} pieces, as '
            'classes or shades of grey do; give a number for each nucleus, '
            'or a mask with values 0 and 1, or 0 and 255')
    # In place where it can be: a large image's labels fill the memory.
    instances = (values.view(np.int32) if values.dtype.itemsize == 4
                 else np.empty(values.shape, np.int32))
    for row, numbered in zip(values, instances):
        numbered[:] = np.where(row, np.searchsorted(labels, row) + 1, 0)
    return instances
