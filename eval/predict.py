"""Predicts image files and writes masks, probabilities and overlays."""
import glob
import os
import sys
import tempfile

from eval import display, inference
from eval.nuclei_files import SOFTWARE
from input_pipeline import progress, resolution
from input_pipeline.files import InputError
from input_pipeline.images import png_software, read_image, write_png
from input_pipeline.sources import IMAGE_ENDINGS


def predict_files(images, output_dir, forward, stride, threshold, max_pixels,
                  average, microns_per_pixel=None):
    """Segments image files.

    For each image, three 8-bit PNG files of its size: STEM_mask.png (0 and
    255), STEM_probability.png (255 times the probability, rounded) and
    STEM_overlay.png (outlines on the tissue). An image that cannot be used is
    reported on stderr and left out. Results of an earlier prediction are
    replaced, and no other file.

    Args:
        images: list of paths, or what `find_images` takes.
        output_dir: made where missing.
        forward, stride, threshold, max_pixels, average: as for
            `inference.segment`.
        microns_per_pixel: of the images, or None for the networks' own, to
            which they are resampled, and the results back.

    Returns:
        list of the paths that were left out.

    Raises:
        InputError: no image, two of one stem, a result's name taken by
            another file, an output folder that cannot be written to or is
            the folder of an image, or as `inference.segment`.
    """
    paths = find_images(images) if isinstance(images, str) else images
    if not paths:
        raise InputError('--images: an empty list; give at least one file')
    _check_stems(paths)
    _check_output(output_dir, paths)

    skipped = []
    say_resolution = resolution.Check(microns_per_pixel)
    report = progress.reporter(len(paths), 'images')
    for done, path in enumerate(paths):
        try:
            image = read_image(path)  # [H, W, 3]
            size = resolution.network_size(image.shape[:2],
                                           microns_per_pixel, path)
        except InputError as error:
            progress.end_line()
            print(f'error: {error} (left out)', file=sys.stderr)
            skipped.append(path)
            report(done + 1)
            continue
        say_resolution(path, resolution.read_microns_per_pixel(path))
        mask, probability = inference.segment(
            image, forward, stride, threshold, max_pixels, average,
            progress=lambda part, done=done: report(done + part), size=size)
        mask_path, probability_path, overlay_path = _results(output_dir, path)
        _write(mask_path, mask * 255)
        _write(probability_path, probability)
        display.overlay(image, mask, out=image)
        # Images can be as large as memory allows, and Pillow writes a copy.
        del mask, probability
        _write(overlay_path, image)
        del image
    return skipped


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
                  if parts else
                  f'holds no image ({", ".join(IMAGE_ENDINGS)})')
        raise InputError(f'--images {name}: {reason}; give a file, a folder '
                         "or a pattern in quotes, as 'folder/*.tif'")
    return paths


def _results(output_dir, path):
    """Paths of an image's mask, probability and overlay."""
    return [os.path.join(output_dir, f'{_stem(path)}_{kind}.png')
            for kind in ('mask', 'probability', 'overlay')]


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _write(path, array):
    _check_name(path)  # prediction is long, and it may have come meanwhile
    write_png(path, array, SOFTWARE)


def _check_name(path):
    """Refuses to write where a file is that was not written here."""
    if os.path.lexists(path) and png_software(path) != SOFTWARE:
        raise InputError(f'{path}: was not written by this prediction, or by '
                         'an earlier version of it; move it or choose another '
                         '--output_dir')


def _check_stems(paths):
    """Refuses two inputs that would write to the same outputs."""
    seen = {}
    for path in paths:
        stem = _stem(path)
        if stem in seen:
            raise InputError(f'{path}: its results would replace those of '
                             f'{seen[stem]}; rename one or predict them into '
                             'two folders')
        seen[stem] = path


def _check_output(output_dir, paths):
    """Refuses, before the long work, a folder that cannot or must not be."""
    for path in paths:
        # Masks drawn by hand often bear the very name that ours would.
        if os.path.realpath(output_dir) in (
                os.path.realpath(os.path.dirname(path)),
                os.path.dirname(os.path.realpath(path))):
            raise InputError(f'--output_dir {output_dir}: holds the image '
                             f'{path}; choose a folder without input files')
        for result in _results(output_dir, path):
            _check_name(result)
    try:
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise InputError(f'--output_dir {output_dir}: cannot be written to '
                         f'({error.strerror}); choose another folder'
                         ) from error
