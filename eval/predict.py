"""Predicts image files and writes masks, probabilities and overlays."""
import glob
import os
import sys
import tempfile

import numpy as np

from eval import display, inference
from input_pipeline import progress
from input_pipeline.files import InputError
from input_pipeline.images import read_image, write_png
from input_pipeline.preprocessing import check_size


def predict_files(images, output_dir, forward, stride, threshold, max_pixels,
                  average):
    """Segments image files.

    For each image, three 8-bit PNG files of its height and width:
    STEM_mask.png (0 and 255), STEM_probability.png (255 times the
    probability, rounded) and STEM_overlay.png (outlines on the tissue). An
    image that cannot be used is reported on stderr and left out.

    Args:
        images: list of paths, or a glob pattern ('**' for subfolders too).
        output_dir: made where missing.
        forward, stride, threshold, max_pixels, average: as for
            `inference.segment`.

    Returns:
        list of the paths that were left out.

    Raises:
        InputError: no image, two of one stem, an output folder that cannot be
            written to or is the folder of an image, or as
            `inference.segment`.
    """
    paths = _matching(images) if isinstance(images, str) else images
    _check_stems(paths)
    _check_output(output_dir, paths)

    skipped = []
    report = progress.reporter(len(paths), 'images')
    for done, path in enumerate(paths):
        try:
            image = read_image(path)  # [H, W, 3]
            check_size(image, path)
        except InputError as error:
            progress.end_line()
            print(f'error: {error} (left out)', file=sys.stderr)
            skipped.append(path)
            report(done + 1)
            continue
        mask, levels = inference.segment(
            image, forward, stride, threshold, max_pixels, average,
            progress=lambda part, done=done: report(done + part))
        start = os.path.join(output_dir, _stem(path))
        write_png(f'{start}_mask.png', mask * 255)
        write_png(f'{start}_probability.png', levels)
        display.overlay(image, mask, out=image)
        # Images can be as large as memory allows, and Pillow writes a copy.
        del mask, levels
        write_png(f'{start}_overlay.png', image)
        del image
    return skipped


def _matching(pattern):
    """Expands the pattern here, so that a long list needs no long command."""
    # Names with brackets are patterns too, though not ones that match them.
    folder, name = os.path.split(pattern)
    if os.path.isfile(pattern):
        matches = [pattern]
    elif os.path.isdir(folder):
        matches = glob.glob(os.path.join(glob.escape(folder), name),
                            recursive=True)
    else:
        matches = glob.glob(pattern, recursive=True)
    paths = sorted(path for path in matches if os.path.isfile(path))
    if not paths:
        raise InputError(f'--images {pattern}: no such file; give a file or a '
                         "pattern in quotes, as 'folder/*.tif'")
    return paths


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


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
        if os.path.realpath(output_dir) == os.path.dirname(
                os.path.realpath(path)):
            raise InputError(f'--output_dir {output_dir}: holds the image '
                             f'{path}; choose a folder without input files')
    try:
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise InputError(f'--output_dir {output_dir}: cannot be written to '
                         f'({error.strerror}); choose another folder'
                         ) from error
