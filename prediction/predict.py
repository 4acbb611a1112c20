"""Predicts image files and writes masks, nuclei and overlays."""
import glob
import os
import sys
import tempfile

import numpy as np

from histology import progress, resample, resolution
from histology.files import MAX_NAME, InputError
from histology.images import read_image, write_png
from histology.listing import IMAGE_ENDINGS
from prediction import instances, writers
from prediction.writers import OUTPUTS


def predict_files(images, output_dir, predictor, microns_per_pixel=None,
                  outputs=tuple(OUTPUTS)):
    """Segments image files, tells their nuclei apart and writes OUTPUTS.

    A line for each tells how many nuclei there are. An image that cannot be
    used is reported on stderr and left out. Results of an earlier prediction
    are replaced, or stay where not wanted now, and no other file is touched.

    Args:
        images: list of paths, or what `find_images` takes.
        output_dir: made where missing.
        predictor: Predictor.
        microns_per_pixel: of the images, or None for the networks' own, to
            which they are resampled, and the results back.
        outputs: those of OUTPUTS that are wanted.

    Returns:
        list of the paths that were left out.

    Raises:
        InputError: no image, two of one stem, a result's name taken by
            another file or too long, an output folder that cannot be written
            to or is the folder of an image, or as `predictor`.
    """
    paths = find_images(images) if isinstance(images, str) else images
    if not paths:
        raise InputError('--images: an empty list; give at least one file')
    _check_stems(paths)
    _check_output(output_dir, paths, outputs)
    _say_what_stays(output_dir, paths, outputs)

    skipped = []
    say_resolution = resolution.ResolutionWarner(microns_per_pixel)
    with progress.reporter(len(paths), 'image') as report:
        for done, path in enumerate(paths):
            try:
                image = read_image(path)  # [H, W, 3]
                resample.network_size(image.shape[:2], microns_per_pixel, path)
            except InputError as error:
                report(done + 1)  # first, lest a signal be what made it fail
                progress.say(f'error: {error} (left out)', sys.stderr)
                skipped.append(path)
                continue
            stated = resolution.read_microns_per_pixel(path)
            say_resolution(path, stated)
            nuclei = predictor(
                image, microns_per_pixel, path,
                progress=lambda part, done=done: report(done + part))
            nuclei.microns_per_pixel = microns_per_pixel or stated
            _write_results(output_dir, path, outputs, nuclei)
            progress.say(f'{path}: ' + _summary(nuclei))
            report(done + 1)
            del image, nuclei  # images can be as large as memory allows
    return skipped


def _summary(nuclei):
    """How many nuclei there are, and how large, as text."""
    areas = instances.areas(nuclei.labels)[1:]
    microns_per_pixel = nuclei.microns_per_pixel
    text = f'{len(areas) or "no"} ' + ('nucleus' if len(areas) == 1
                                       else 'nuclei')
    if len(areas):
        median = f', median area {np.median(areas):.0f} pixels'
        if microns_per_pixel:
            square = microns_per_pixel ** 2
            density = len(areas) / (nuclei.labels.size * square) * 1e6
            text += f', {density:.0f} per mm2'
            median += f' ({np.median(areas) * square:.1f} um2)'
        text += median
    # An image of 20x gives nuclei, too, but wrong ones.
    return text + ('' if microns_per_pixel else
                   '; no resolution is stated, taken as 40x '
                   '(--magnification=40 adds micrometres)')


def _write_results(output_dir, path, outputs, nuclei):
    """Writes those outputs that are wanted; the image is drawn on."""
    paths = {output: results for output, results
             in _results(output_dir, path).items() if output in outputs}
    for result in sum(paths.values(), []):
        _check_name(result)  # prediction is long, and it may have come since
    if 'mask' in paths:
        _write(paths['mask'], nuclei.mask * np.uint8(255))
    if 'probability' in paths:
        _write(paths['probability'], nuclei.probability_uint8)
    if 'labels' in paths:
        written = writers.write_labels(paths['labels'], nuclei.labels)
        for former in set(paths['labels']) - {written}:
            if os.path.lexists(former):  # of an earlier prediction
                os.remove(former)
    table, geojson = [paths.get(output, [None])[0]
                      for output in ('csv', 'geojson')]
    writers.write_nuclei(table, geojson, nuclei.labels,
                         nuclei.probability_uint8, nuclei.image,
                         nuclei.microns_per_pixel)
    if 'overlay' in paths:
        _write(paths['overlay'], writers.overlay(
            nuclei.image, nuclei.labels, out=nuclei.image))


def _write(paths, array):
    write_png(paths[0], array, writers.SOFTWARE)


def find_images(name):
    """Finds image files.

    A pattern is expanded here, so that a long list needs no long command.

    Args:
        name: a file; a folder, of which all images directly in it are taken
            but for hidden ones; or a glob pattern ('**' for subfolders too).
            The longest leading part of a pattern that is a folder is not
            read as a pattern, whatever characters it holds.

    Returns:
        sorted list of paths.

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
        found = [path for path in found
                 if path.lower().endswith(IMAGE_ENDINGS)]
    # A link that leads nowhere stays, to be named when it is read.
    paths = sorted(path for path in found
                   if os.path.isfile(path) or not os.path.exists(path))
    if not paths:
        reason = (f"no such file ('{pattern}' in {folder or os.curdir})"
                  if parts else f'holds no image ({", ".join(IMAGE_ENDINGS)}),'
                  ' and its subfolders are not searched')
        raise InputError(f'--images {name}: {reason}; give a file, a folder '
                         "or a pattern in quotes, as 'folder/*.tif', or "
                         "'folder/**/*.tif' with subfolders")
    return paths


def _results(output_dir, path):
    """Paths of an image's results, a dict of lists by output."""
    return {output: [os.path.join(output_dir, _stem(path) + ending)
                     for ending in endings]
            for output, endings in OUTPUTS.items()}


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _check_name(path):
    """Refuses to write where a file is that was not written here."""
    if os.path.lexists(path) and not writers.is_written_here(path):
        raise InputError(f'{path}: was not written by this prediction, or by '
                         'an earlier version of it; move it or choose another '
                         '--output_dir')


def _check_stems(paths):
    """Refuses two inputs of the same outputs, and one of too long names."""
    seen = {}
    longest = max(sum(OUTPUTS.values(), ()), key=len)
    for path in paths:
        stem = _stem(path)
        if len(os.fsencode(stem + longest)) > MAX_NAME:
            raise InputError(f'{path}: its name is too long: with {longest} '
                             f'it has more than {MAX_NAME} bytes; rename it')
        if stem in seen:
            raise InputError(f'{path}: its results would replace those of '
                             f'{seen[stem]}; rename one or predict them into '
                             'two folders')
        seen[stem] = path


def _check_output(output_dir, paths, outputs):
    """Refuses, before the long work, a folder that cannot or must not be."""
    for path in paths:
        # Masks drawn by hand often bear the very name that ours would.
        if os.path.realpath(output_dir) in (
                os.path.realpath(os.path.dirname(path)),
                os.path.dirname(os.path.realpath(path))):
            raise InputError(f'--output_dir {output_dir}: holds the image '
                             f'{path}; choose a folder without input files')
        for output, results in _results(output_dir, path).items():
            for result in results if output in outputs else ():
                _check_name(result)
    try:
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise InputError(f'--output_dir {output_dir}: cannot be written to '
                         f'({error.strerror}); choose another folder'
                         ) from error


def _say_what_stays(output_dir, paths, outputs):
    """Names results of an earlier prediction that are not written anew."""
    staying = [result for path in paths
               for output, results in _results(output_dir, path).items()
               if output not in outputs
               for result in results if writers.is_written_here(result)]
    if staying:
        print(f'{staying[0]}'
              + (f' and {len(staying) - 1} more' if staying[1:] else '')
              + ': of an earlier prediction and not in --outputs; left as '
              'they are')
