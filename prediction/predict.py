"""Predict images, stores and slides, and write masks, nuclei and overlays."""
import functools
import glob
import os
import sys
import tempfile

import numpy as np

from histology import listing, pairs, progress, resample, resolution
from histology.files import MAX_NAME, InputError
from histology.images import read_image
from histology.listing import IMAGE_ENDINGS
from histology.rasterize import areas_of
from input_pipeline import store
from prediction import slides
from prediction.blocks import predict_slide
from prediction.writers import OUTPUTS, SLIDE_OUTPUTS, is_written_here

ENDINGS = IMAGE_ENDINGS + slides.ENDINGS

# Square micrometres. Medians of MoNuSeg's images are 17 to 50, three of
# lymphoid tissue 7 to 11. At 20x, read as 40x, they are 5 to 16.
MEDIAN_AREA = (12.5, 56)
LARGEST_AREA = 500  # of MoNuSeg's nuclei 320


def predict_files(images, output_dir, predictor, microns_per_pixel=None,
                  outputs=tuple(OUTPUTS), all_tissue=False,
                  max_whole_pixels=slides.MAX_WHOLE_PIXELS):
    """Find the nuclei of image files and write OUTPUTS.

    A line on stdout says how many nuclei an image has. An image that cannot
    be used is reported on stderr and skipped. Of slides, as `slides.is_slide`
    defines them, SLIDE_OUTPUTS are written. Results of an earlier
    prediction are replaced if they are in `outputs`, and no other file.

    Args:
        images: list of paths, or what `find_images` takes.
        output_dir: made if missing.
        predictor: Predictor.
        microns_per_pixel: of the images, or None for what they state.
        outputs: names of OUTPUTS.
        all_tissue: whether to search a slide where it seems empty, too.
        max_whole_pixels: larger images are slides.

    Returns:
        list of the paths that were skipped, and of slides with parts that
        were

    Raises:
        InputError: there is no image; a result cannot or must not be written;
            or as `predictor`.
    """
    paths = find_images(images) if isinstance(images, str) else images
    if not paths:
        raise InputError('--images: an empty list; give at least one file')
    _check_folder(output_dir, paths)
    settled, skipped = resolution.Resolution(microns_per_pixel), []
    found_slides = {path for path in paths
                    if slides.is_slide(path, max_whole_pixels)}
    if found_slides and not {'csv', 'geojson'} & set(outputs):
        raise InputError(f'--outputs: {min(found_slides)} is a slide, which '
                         'gets csv and geojson; name one of them')

    def read(path):
        try:
            if path in found_slides:
                return slides.open_slide(path, settled)
            image = read_image(path)  # [H, W, 3]
            microns = settled.of_image(path)
            resample.network_size(image.shape[:2], microns[0], path)
        except InputError as error:
            progress.check()  # a signal may be what made it fail
            progress.say(f'error: {error} (skipped)', sys.stderr)
            skipped.append(path)
            return None
        return (image, *microns)

    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    _predict(list(zip(paths, stems)), read, output_dir, predictor, outputs,
             found_slides, functools.partial(
                 _write_slide, skipped, predictor, outputs, all_tissue))
    return skipped


def _write_slide(skipped, predictor, outputs, all_tissue, path, start, found):
    """Predict a slide, and report what of it cannot be read."""
    text, missing = predict_slide(*found, start, predictor, outputs,
                                  all_tissue)
    if text:
        progress.say(f'{path}: {text}')
    if missing:
        progress.say(
            f'error: {path}: {progress.counted(missing, "block")} of it '
            'cannot be read, and their nuclei are not in the results; copy '
            'it again and repeat the command', sys.stderr)
        skipped.append(path)


def predict_store(file, output_dir, predictor, outputs=tuple(OUTPUTS)):
    """Find the nuclei of a store's images, as `predict_files` does.

    Args:
        file: of `store.open_store`; its images have the networks' own
            micrometres per pixel.
        output_dir, predictor, outputs: as for `predict_files`.
    """
    whole = store.whole_images(file)
    _predict([(name, name) for name in store.image_names(file)],
             lambda _: (next(whole).image, None, resample.MICRONS_PER_PIXEL),
             output_dir, predictor, outputs)


def _predict(sources, read, output_dir, predictor, outputs, found_slides=(),
             write_slide=None):
    """Predict images and write the results.

    Args:
        sources: list of (name, stem of the results) of each image.
        read: function from a name to the image, uint8 [H, W, 3], and what
            `Resolution.of_image` returns; or to None, to skip it.
        output_dir, predictor, outputs: as for `predict_files`.
        found_slides: the names that are slides.
        write_slide: function from a slide's name, the path of its results
            without what follows the stem, and what `read` returns.
    """
    staying = _check_results(output_dir, sources, outputs, found_slides)
    _make_folder(output_dir)
    if staying:
        print(f'kept {progress.counted(len(staying), "file")} of an earlier '
              f'prediction that --outputs does not name: {staying[0]}'
              + (', ...' if staying[1:] else ''))
    areas = {}
    with progress.reporter(len(sources), 'image') as report:
        for done, source in enumerate(sources):
            name, stem = source
            found, start = read(name), os.path.join(output_dir, stem)
            if found and name in found_slides:
                _check_results(output_dir, [source], outputs, found_slides)
                write_slide(name, start, found)
            elif found:
                image, network_microns, own_microns = found
                nuclei = predictor(
                    image, network_microns, name,
                    progress=lambda part, done=done: report(done + part)
                )._replace(microns_per_pixel=own_microns)
                # A file may have come during the prediction.
                _check_results(output_dir, [source], outputs)
                for output, (endings, write, _) in OUTPUTS.items():
                    if output in outputs:
                        write([start + ending for ending in endings], nuclei)
                areas[name] = (areas_of(nuclei.labels)[1:],
                               nuclei.microns_per_pixel)
                progress.say(f'{name}: '
                             + _summary(*areas[name], nuclei.labels.size))
                del nuclei, image
            report(done + 1)
            del found  # images can be as large as memory allows
    for line in _flaws(areas):
        progress.say(line, sys.stderr)


def _summary(areas, microns_per_pixel, pixels):
    """Say how many nuclei there are in an image, and how large."""
    text = progress.counted(len(areas) or 'no', 'nucleus', 'nuclei')
    if len(areas):
        median = np.median(areas)
        size = f'median area {median:.0f} pixels'
        if microns_per_pixel:
            square = microns_per_pixel ** 2
            density = len(areas) / (pixels * square) * 1e6
            size = f'{density:.0f} per mm2, {size} ({median * square:.1f} um2)'
        text += f', {size}'
    return text


def _flaws(areas):
    """Yield a line for each kind of size that nuclei do not have.

    Args:
        areas: dict of the images' names to the areas of their nuclei, pixels,
            and their micrometres per pixel, or None if taken as 40x.
    """
    odd, large = [], []
    for name, (pixels, microns_per_pixel) in areas.items():
        if not len(pixels):
            continue
        square = (microns_per_pixel or resample.MICRONS_PER_PIXEL) ** 2
        median, area = np.median(pixels), pixels.max() * square
        if (not microns_per_pixel
                and not MEDIAN_AREA[0] <= median * square <= MEDIAN_AREA[1]):
            size, likely = (('small', 20) if median * square < MEDIAN_AREA[0]
                            else ('large', 80))
            odd.append(f'{name}: median nucleus {median:.0f} pixels is {size} '
                       f'for 40x; if the image was scanned at {likely}x, give '
                       f'--magnification={likely}')
        if area > LARGEST_AREA:
            large.append(f'{name}: a nucleus of {area:.0f} square micrometres '
                         'is larger than any: a pen mark, a fold or blur? '
                         'Look at the overlay')
    for texts in filter(None, (odd, large)):
        yield (f'{texts[0]} ({len(texts)} of '
               f'{progress.counted(len(areas), "image")})')


def find_images(name):
    """Find image files: a sorted list of paths.

    Args:
        name: a file; a folder, of which all images directly in it are taken,
            see `_tissue`; or a glob pattern ('**' for subfolders, too).
            The longest leading part of a pattern that is a folder is taken
            literally.

    Raises:
        InputError: there is none.
    """
    if os.path.isfile(name):
        return [name]
    folder, parts = name, []
    while folder and not os.path.isdir(folder):
        folder, part = os.path.split(folder)
        parts.insert(0, part)
    pattern = os.path.join(*parts) if parts else '*'
    found = glob.glob(os.path.join(glob.escape(folder), pattern),
                      recursive=True)
    if not parts:
        found = _tissue(found)
    # A link that leads nowhere stays, to be named when it is read.
    paths = sorted(path for path in found
                   if os.path.isfile(path) or not os.path.exists(path))
    if not paths:
        reason = (f"no such file ('{pattern}' in {folder or os.curdir})"
                  if parts else f'holds no image ({", ".join(ENDINGS)}),'
                  ' and its subfolders are not searched')
        raise InputError(f'--images {name}: {reason}; give a file, a folder '
                         "or a pattern in quotes, as 'folder/*.tif', or "
                         "'folder/**/*.tif' with subfolders")
    return paths


def _tissue(paths):
    """Select the tissue among a folder's files, and name what else it has."""
    images = [path for path in paths if path.lower().endswith(ENDINGS)]
    names = pairs.names_of(images)
    images = [path for path in images if not pairs.adds_to_one_of(path, names)
              and not listing.is_predicted(path)]
    others = sorted(filter(os.path.isfile, set(paths).difference(images)))
    if others:
        kinds = {os.path.splitext(path)[1]: path for path in others[::-1]}
        print(f'{progress.counted(len(others), "file")} skipped (masks and '
              'the like beside their images, or not of '
              f'{", ".join(ENDINGS)}): '
              + ', '.join(sorted(kinds.values())))
    return images


def _check_folder(output_dir, paths):
    """Refuse the folder of an image: masks drawn by hand are often there."""
    for path in paths:
        if os.path.realpath(output_dir) in (
                os.path.realpath(os.path.dirname(path)),
                os.path.dirname(os.path.realpath(path))):
            raise InputError(f'--output_dir {output_dir}: holds the image '
                             f'{path}; choose a folder without input files')


def _make_folder(output_dir):
    """Make the folder; refuse, before the long work, one that is read-only."""
    try:
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise InputError(f'--output_dir {output_dir}: cannot be written to '
                         f'({error.strerror}); choose another folder'
                         ) from error


def _check_results(output_dir, sources, outputs, found_slides=()):
    """Refuse to replace a result of another image or a file of others.

    Returns:
        list of the results of an earlier prediction that are not written anew
    """
    staying, seen = [], {}
    for name, stem in sources:
        table = SLIDE_OUTPUTS if name in found_slides else OUTPUTS
        # What is of slides alone is always written.
        wanted = {output for output in table
                  if output in outputs or output not in OUTPUTS}
        longest = max((ending for output in wanted
                       for ending in table[output].endings), key=len)
        if len(os.fsencode(stem + longest)) > MAX_NAME:
            raise InputError(f'{name}: its name is too long for results; '
                             'rename it')
        if stem in seen:
            raise InputError(f'{name}: its results would replace the results '
                             f'of {seen[stem]}; rename one or predict them '
                             'into two folders')
        seen[stem] = name
        for output, (endings, *_) in table.items():
            for ending in endings:
                path = os.path.join(output_dir, stem + ending)
                ours = is_written_here(path, output)
                if ours and output not in wanted:
                    staying.append(path)
                if output in wanted and os.path.lexists(path) and not ours:
                    raise InputError(
                        f'{path}: was not written by predict, or by an '
                        'earlier version; move it or choose another '
                        '--output_dir')
    return staying
