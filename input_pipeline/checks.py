"""Pictures of what the stores hold, and a line on what cannot be right.

An annotation of another image, at another scale or of other numbers reads like
any other. What is measured here are the stores' arrays, whatever the format.
"""
import collections
import contextlib
import glob
import math
import os
import sys

import numpy as np
from PIL import Image, ImageDraw

from histology.drawing import false_colours, nuclear_outlines
from histology.files import InputError, atomic_write
from histology.progress import counted, reporter, say
from histology.rasterize import MOST_AREA
from histology.resample import MICRONS_PER_PIXEL
from histology.stains import DENSITY, HAEMATOXYLIN_OF_DENSITY
from input_pipeline import store

# A nucleus is darker if its mean optical density of haematoxylin exceeds that
# of a ring around it, of RING pixels without other nuclei, by DARKER.
RING = 5
DARKER = 0.02
# Of MoNuSeg's 30 training images it is so for at least 0.83 of the nuclei. If
# the annotation is moved, turned, mirrored, scaled or another image's, for at
# most 0.63: docs/data.md.
LEAST_DARKER = 0.73
MIN_NUCLEI = 5  # below, the share says nothing

# Square micrometres. Medians of MoNuSeg's images are 5.9 to 52.
MEDIAN_AREA = (5, 400)
AREA = MICRONS_PER_PIXEL ** 2  # of a pixel
MOST_NUCLEAR = 0.6  # of an image; of MoNuSeg's at most 0.40
GLASS = 220  # brighter in each channel is no tissue

BAND = 1024  # rows that are read at a time, for memory
PICTURE_SIDE = 2000  # pixels at most
HUES = (0.13, 0.55)  # yellow, green and cyan, which tissue has not
THUMBNAIL, SHEET = 256, 8192  # sides at most, pixels
NAMED = 3  # images that a line names
MOST_TURNED = 2 ** 24  # pixels

# How an annotation may lie on its image: quarter turns to the left, and
# whether it is mirrored left to right before.
TURNS = {'turned left by 90 degrees': (1, False),
         'turned by 180 degrees': (2, False),
         'turned right by 90 degrees': (3, False),
         'mirrored left to right': (0, True),
         'mirrored top to bottom': (2, True),
         'rows and columns are exchanged': (1, True),
         'mirrored at its other diagonal': (3, True)}

# What an image of a store looks like:
#   areas: int [N + 1], pixels of the background and of each number
#   tissue: pixels that are no glass
#   darker: share of the nuclei that are, NaN of fewer than MIN_NUCLEI
Look = collections.namedtuple('Look', 'areas tissue darker')


def pictures(data_dir):
    """List the paths of the pictures that `show` drew, the sheet first.

    Raises:
        InputError: a file that is no such picture is in their place.
    """
    found = [path for path in (sheet_path(data_dir), *glob.glob(
        os.path.join(glob.escape(data_dir), 'check', '*')))
        if os.path.lexists(path)]
    for path in found:
        with contextlib.suppress(OSError), Image.open(path) as picture:
            if picture.info.get('comment') == _comment(path):
                continue
        raise InputError(f'{path}: was not written by prepare; move it, or '
                         'choose another --data_dir')
    return found


def show(data_dir, splits, classes):
    """Draw the stores' images, print a summary, and what cannot be right.

    Pictures go to check/NAME.jpg in the folder, and on one sheet, check.jpg.

    Args:
        data_dir: folder of the stores.
        splits: names of the stores.
        classes: dict of the splits to a dict of the images' names to a dict
            of classes to the numbers of their nuclei, int arrays.

    Raises:
        InputError: a store cannot be read, or a picture not be written.
    """
    for path in pictures(data_dir):
        os.remove(path)
    folder = os.path.join(data_dir, 'check')
    looks, flaws, thumbnails, drawn = {}, {}, [], set()
    with contextlib.ExitStack() as stack:
        files = {split: stack.enter_context(store.open_store(
            store.store_path(data_dir, split))) for split in splits}
        report = stack.enter_context(reporter(
            sum(len(file['names']) for file in files.values()), 'picture'))
        for split, file in files.items():
            for index, name in enumerate(store.image_names(file)):
                report(len(thumbnails))
                arrays = [file[f'images/{index}/{kind}']
                          for kind in ('image', 'instances')]
                with store.reading(file):
                    look, picture = _look(*arrays)
                    for kind, text in _flaws(look, arrays):
                        flaws.setdefault(kind, [text]).append(name)
                # A test image may have the name of another.
                path = os.path.join(folder, 'test_' * (name in drawn)
                                    + f'{name}.jpg')
                _save(path, picture)
                drawn.add(name)
                looks[split, name] = look
                # Its middle: outlines of the whole would be too fine to see.
                left, top = (max(side - THUMBNAIL, 0) // 2
                             for side in picture.size)
                thumbnails.append((name, picture.crop((
                    left, top, *np.minimum(picture.size, (
                        left + THUMBNAIL, top + THUMBNAIL)).tolist()))))
        _save(sheet_path(data_dir), _sheet(thumbnails))
        report(len(thumbnails))
    for line in _summary(looks, classes):
        say(line)
    say(f'look at {sheet_path(data_dir)}, and at {folder}/NAME.jpg for each '
        'image')
    for text, *names in flaws.values():
        others = (f'. {counted(len(names) - 1, "more image")}: '
                  + ', '.join(names[1:NAMED])
                  + (', ...' if names[NAMED:] else '')) if names[1:] else ''
        say(f'warning: {names[0]}: {text}{others}', sys.stderr)


def sheet_path(data_dir):
    """Return the path of the last picture that `show` draws."""
    return os.path.join(data_dir, 'check.jpg')


def _comment(path):
    # Copies under another name are the user's.
    return f'{os.path.basename(path)} of prepared stores'.encode()


def _save(path, picture):
    with atomic_write(path) as partial:
        picture.save(partial, 'JPEG', quality=90, comment=_comment(path))


def _look(image, instances):
    """Measure and draw an image.

    Args:
        image: uint8 [H, W, 3], an array, or a dataset that is read in bands.
        instances: int [H, W], likewise.

    Returns:
        Look
        Image, the tissue with its nuclei outlined
    """
    tops = range(0, len(instances), BAND)
    count = max(int(instances[top:top + BAND].max()) for top in tops) + 1
    sums, tissue, parts = np.zeros((4, count)), 0, []
    step = math.ceil(max(instances.shape) / PICTURE_SIDE)
    for top in tops:
        pixels = image[top:top + BAND]
        above = min(top, RING)
        near = instances[top - above:top + BAND + RING]
        sums += _sums(pixels, near, above, count)
        tissue += np.count_nonzero(pixels.min(axis=2) < GLASS)
        seen = slice(-top % step, None, step), slice(None, None, step)
        parts.append((pixels[seen], near[above:][:len(pixels)][seen]))
    areas, density, ring, ring_density = sums
    compared = (areas > 0) & (ring > 0)
    compared[0] = False
    darker = (density[compared] / areas[compared] - DARKER
              >= ring_density[compared] / ring[compared])
    drawn, numbers = map(np.concatenate, zip(*parts))
    edges = nuclear_outlines(numbers)
    drawn[edges] = false_colours(numbers, HUES)[edges]
    return (Look(areas.astype(int), tissue, darker.mean()
                 if len(darker) >= MIN_NUCLEI else math.nan),
            Image.fromarray(drawn))


def _sums(pixels, near, above, count):
    """Sum pixels and density of nuclei and of their rings: float [4, count].

    Args:
        pixels: uint8 [h, W, 3], rows of an image.
        near: int [H, W], its instances in these rows and at most RING more to
            either side, `above` of them above.
        count: 1 + the highest number in the image.
    """
    from scipy import ndimage  # here, for a fast start of main.py
    rows = slice(above, above + len(pixels))
    numbers = near[rows]
    rings = np.where(numbers, 0, ndimage.maximum_filter(
        near, 2 * RING + 1)[rows])
    density = DENSITY[pixels] @ HAEMATOXYLIN_OF_DENSITY  # [h, W]
    return np.stack([
        np.bincount(labels.ravel(), weights, count)
        for labels in (numbers, rings) for weights in (None, density.ravel())])


def _flaws(look, arrays):
    """Yield (kind, text) of what cannot be right with an image.

    Args:
        look: Look of it.
        arrays: image and instances, see `_look`.
    """
    areas = look.areas[1:][look.areas[1:] > 0] * AREA
    if look.darker < LEAST_DARKER:
        yield 'fit', (
            f'the annotation may not fit: {look.darker:.0%} of its nuclei are '
            'darker in haematoxylin than the tissue around them, normally at '
            f'least {LEAST_DARKER:.0%}. It may be of another image, moved, '
            f'turned or at another scale{_fitting_turn(arrays)}')
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
    nuclear = 1 - look.areas[0] / look.areas.sum()
    if nuclear > MOST_NUCLEAR:
        yield 'share', (
            f'nuclei cover {nuclear:.0%} of the image. Background and nuclei '
            'may be exchanged, or cells outlined')


def _fitting_turn(arrays):
    """Say which of TURNS would make an annotation fit, if one does."""
    image, instances = arrays
    if instances.size > MOST_TURNED:
        return ''
    image, instances = image[()], instances[()]
    for name, (turns, mirrored) in TURNS.items():
        turned = np.rot90(instances[:, ::-1] if mirrored else instances, turns)
        if (turned.shape == instances.shape
                and _look(image, turned)[0].darker >= LEAST_DARKER):
            return f'. It fits if {name}'
    return ''


def _summary(looks, classes):
    """Yield a line for each split and for each class; see `show`."""
    for split in dict.fromkeys(split for split, _ in looks):
        chosen = [look for (its, _), look in looks.items() if its == split]
        counts = [np.count_nonzero(look.areas[1:]) for look in chosen]
        areas = np.concatenate([look.areas[1:] for look in chosen])
        nuclear, tissue = areas.sum(), sum(look.tissue for look in chosen)
        yield (f'{split}: {min(counts)} to {max(counts)} nuclei in an image, '
               f'median {np.median(counts):.0f}; {_median_area(areas)}; '
               f'{nuclear / max(tissue, 1):.0%} of the tissue is nuclear')
    found = collections.defaultdict(list)
    for (split, name), look in looks.items():
        for kind, numbers in classes.get(split, {}).get(name, {}).items():
            found[kind].append(look.areas[numbers])
    for name, areas in sorted(found.items()) if len(found) > 1 else ():
        areas = np.concatenate(areas)
        yield (f'class {name}: '
               f'{counted(np.count_nonzero(areas), "nucleus", "nuclei")}, '
               + _median_area(areas))


def _median_area(areas):
    areas = areas[areas > 0]
    if not len(areas):
        return 'no area'
    return f'median area {np.median(areas) * AREA:.1f} square micrometres'


def _sheet(thumbnails):
    """Lay out (name, Image) pairs, each at most THUMBNAIL wide and high."""
    columns = math.ceil(math.sqrt(len(thumbnails)))
    side = max(min(THUMBNAIL, SHEET // columns), 1)
    sheet = Image.new('RGB', (columns * side, side * math.ceil(
        len(thumbnails) / columns)), 'white')
    draw = ImageDraw.Draw(sheet)
    for index, (name, picture) in enumerate(thumbnails):
        row, column = divmod(index, columns)
        picture.thumbnail((side, side))
        sheet.paste(picture, (column * side, row * side))
        # The font is Pillow's own, of Latin letters.
        draw.text((column * side + 2, row * side + 2),
                  name.encode('ascii', 'replace').decode()[:side // 6],
                  'black', stroke_width=1, stroke_fill='white')
    return sheet
