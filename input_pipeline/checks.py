"""Pictures of what the stores hold, and a line on what cannot be right.

An annotation of another image, at another scale or of other numbers reads like
any other. What is measured here are the stores' arrays, whatever the format.
"""
import glob
import math
import os

import numpy as np
from PIL import Image, ImageDraw

from histology import listing
from histology.drawing import false_colours, nuclear_outlines
from histology.files import InputError, remove
from histology.images import write_jpeg
from histology.outlines import MOST_AREA
from histology.progress import counted, gathered, reporter, say, warn
from histology.resample import PIXEL_AREA
from histology.stains import DENSITY, HAEMATOXYLIN_OF_DENSITY
from input_pipeline import store

# A nucleus is darker if its mean optical density of haematoxylin exceeds that
# of a ring around it, of RING pixels without other nuclei, by DARKER. On
# MoNuSeg's images at least 83 % are. If the annotation is moved, turned,
# mirrored, scaled or another image's, at most 63 % are: docs/data.md.
RING = 5
DARKER = 0.02
LEAST_DARKER = 0.73
MIN_NUCLEI = 5  # below, the share says nothing
MEDIAN_AREA = (5, 400)  # square micrometres; of MoNuSeg's images 5.9 to 52
MOST_NUCLEAR = 0.6  # of an image; of MoNuSeg's at most 0.40
GLASS = 220  # brighter in each channel is no tissue

PART = 2048  # pixels, side of the middle that is taken of a larger image
HUES = (0.13, 0.55)  # yellow, green and cyan, which tissue has not
THUMBNAIL, SHEET = 256, 8192  # pixels, sides at most

# How an annotation may lie on its image: quarter turns to the left, and the
# step through its columns before; -1 mirrors it left to right.
TURNS = {'turned left by 90 degrees': (1, 1),
         'turned by 180 degrees': (2, 1),
         'turned right by 90 degrees': (3, 1),
         'mirrored left to right': (0, -1),
         'mirrored top to bottom': (2, -1),
         'rows and columns are exchanged': (1, -1),
         'mirrored at its other diagonal': (3, -1)}


def pictures(data_dir):
    """List the paths of the pictures that `show` drew, the sheet first.

    Raises:
        InputError: a file that is no such picture is in their place.
    """
    folder = os.path.join(data_dir, 'check')
    inside = (glob.glob(os.path.join(glob.escape(folder), '*.jpg'))
              if os.path.isdir(folder) else [folder])
    found = list(filter(os.path.lexists, [sheet_path(data_dir), *inside]))
    for path in found:
        if _comment(path) not in listing.read_head(path):
            raise InputError(f'{path}: was not written by prepare; move it, '
                             'or choose another --data_dir')
    return found


def remove_pictures(data_dir):
    """Remove the pictures that `show` drew.

    Raises:
        InputError: one cannot be removed, or as `pictures`.
    """
    for path in pictures(data_dir):
        remove(path)


def sheet_path(data_dir):
    """Return the path of the picture that `show` draws last."""
    return os.path.join(data_dir, 'check.jpg')


def _comment(path):
    # Copies under another name are the user's.
    return os.fsencode(os.path.basename(path)) + listing.CHECK_MARK


@gathered()
def show(data_dir, splits, classes):
    """Draw the stores' images, print a summary and what cannot be right.

    Pictures go to check/NAME.jpg in the folder, and on one sheet, check.jpg.
    Of an image larger than PART the middle is drawn.

    Args:
        data_dir: folder of the stores.
        splits: names of the stores.
        classes: dict of the classes to lists of areas, int [K], pixels.

    Raises:
        InputError: a store cannot be read, or a picture not be written.
    """
    remove_pictures(data_dir)
    folder = os.path.join(data_dir, 'check')
    paths = {}
    for split in splits:
        areas, tissue = [], 0  # pixels
        with store.open_store(store.store_path(data_dir, split)) as file, (
                reporter(len(file['names']), 'picture')) as report:
            for index, name in enumerate(store.image_names(file)):
                report(index)
                whole = store.whole_image(file, index, name)
                image, instances = map(_middle,
                                       (whole.image, whole.instances))
                areas.append(store.areas_of(whole.instances)[1:])
                tissue += sum(np.count_nonzero(row.min(axis=1) < GLASS)
                              for row in whole.image)
                for kind, text in _flaws(image, instances, areas[-1]):
                    warn(kind, name, text)
                while name in paths:  # images of two splits
                    name = f'{split}_{name}'
                paths[name] = os.path.join(folder, f'{name}.jpg')
                _draw(image, instances, paths[name])
                # A large one fills the memory: it goes before the next.
                del whole, image, instances
            report(len(areas))
        counts = list(map(np.count_nonzero, areas))
        say(f'{split}: {min(counts)} to {max(counts)} nuclei in an image, '
            f'median {np.median(counts):.0f}; {_median_area(areas)}; '
            f'{sum(map(np.sum, areas)) / max(tissue, 1):.0%} of the tissue is '
            'nuclear')
    sheet = sheet_path(data_dir)
    write_jpeg(sheet, np.asarray(_sheet(paths)), _comment(sheet))
    classes = {name: areas for name, areas in sorted(classes.items())
               if sum(map(len, areas))}
    if len(classes) > 1:
        for name, areas in classes.items():
            count = sum(map(np.count_nonzero, areas))
            say(f'class {name}: {counted(count, "nucleus", "nuclei")}, '
                + _median_area(areas))
    say(f'look at {sheet}, and at {folder}/NAME.jpg for each image')


def _middle(array):
    """Return at most PART x PART pixels of the middle of [H, W, ...]."""
    return array[tuple(slice(max(length - PART, 0) // 2, (length + PART) // 2)
                       for length in array.shape[:2])]


def _median_area(areas):
    areas = np.concatenate(areas) * PIXEL_AREA
    areas = areas[areas > 0]
    if not len(areas):
        return 'no area'
    return f'median area {np.median(areas):.1f} square micrometres'


def _flaws(image, instances, areas):
    """Yield (kind, text) of what cannot be right with an image.

    Args:
        image: uint8 [H, W, 3].
        instances: int32 [H, W], 0 and 1 to N.
        areas: int [N], pixels, of whole nuclei.
    """
    nuclear, areas = np.mean(instances > 0), areas[areas > 0] * PIXEL_AREA
    darker = _share_of_darker(image, instances)
    if darker < LEAST_DARKER:
        turn = ''
        for name, (turns, step) in TURNS.items():
            turned = np.rot90(instances[:, ::step], turns)
            if _share_of_darker(image, turned) >= LEAST_DARKER:
                turn = f'. The annotation fits if {name}'
                break
        yield ('fit', turn), (
            f'the annotation may not fit: {darker:.0%} of its nuclei are '
            'darker in haematoxylin than the tissue around them, normally at '
            f'least {LEAST_DARKER:.0%}. It may be of another image, moved, '
            f'turned or at another scale{turn}')
    median = np.median(areas) if len(areas) else MEDIAN_AREA[0]
    if not MEDIAN_AREA[0] <= median <= MEDIAN_AREA[1]:
        yield 'size', (
            f'the median nucleus has {median:.3g} square micrometres, too '
            f'{"small" if median < MEDIAN_AREA[0] else "large"}. Check that '
            'the annotation is in pixels of this image, and --magnification')
    if areas.max(initial=0) > MOST_AREA:
        yield 'largest', (
            f'its largest nucleus has {areas.max():.0f} square micrometres. '
            'It may be a region, or background with a number')
    if nuclear > MOST_NUCLEAR:
        yield 'share', (
            f'nuclei cover {nuclear:.0%} of the image. Background and nuclei '
            'may be exchanged, or cells outlined')


def _share_of_darker(image, instances):
    """Compute the share of nuclei that are darker, see DARKER.

    It is NaN of fewer than MIN_NUCLEI, or if the shapes differ.
    """
    from scipy import ndimage  # here, for a fast start of main.py
    if image.shape[:2] != instances.shape:
        return np.nan
    density = DENSITY[image] @ HAEMATOXYLIN_OF_DENSITY
    rings = np.where(instances, 0, ndimage.maximum_filter(
        instances, 2 * RING + 1))
    numbers = np.arange(1, instances.max() + 1)
    with np.errstate(invalid='ignore'):  # NaN if one of both has no pixel
        darker = (ndimage.mean(density, instances, numbers)
                  - ndimage.mean(density, rings, numbers))
    darker = darker[np.isfinite(darker)] >= DARKER
    return np.mean(darker) if len(darker) >= MIN_NUCLEI else np.nan


def _draw(image, instances, path):
    """Write the outlines on the tissue."""
    drawn, edges = image.copy(), nuclear_outlines(instances)
    drawn[edges] = false_colours(instances, HUES)[edges]
    write_jpeg(path, drawn, _comment(path))


def _sheet(paths):
    """Lay out the middles of pictures, a dict of names to paths."""
    columns = math.ceil(math.sqrt(len(paths)))
    side = max(min(THUMBNAIL, SHEET // columns), 1)
    sheet = Image.new('RGB', (columns * side, side * math.ceil(
        len(paths) / columns)), 'white')
    draw = ImageDraw.Draw(sheet)
    for index, (name, path) in enumerate(paths.items()):
        row, column = divmod(index, columns)
        with Image.open(path) as picture:
            left, top = (max(length - side, 0) // 2 for length in picture.size)
            sheet.paste(picture.crop((left, top, left + side, top + side)),
                        (column * side, row * side))
        # The font is Pillow's own, of Latin letters.
        draw.text((column * side + 2, row * side + 2),
                  name.encode('ascii', 'replace').decode()[:side // 6],
                  'black', stroke_width=1, stroke_fill='white')
    return sheet
