"""Predict images, stores and slides, and write masks, nuclei and overlays."""
import collections
import contextlib
import functools
import itertools
import os
import time

import numpy as np

from histology import progress, resample, resolution
from histology.files import InputError
from histology.images import read_image
from input_pipeline import store
from prediction import blocks, runs, slides, sources, summary, writers

AHEAD = 1  # images whose files are written while the network sees the next

# What came of a Source: its record or None, and the lines on it for stdout and
# for stderr, maybe ''.
Result = collections.namedtuple('Result', 'source record text error')


def predict_files(images, output_dir, predictor, microns_per_pixel=None,
                  outputs=tuple(writers.OUTPUTS), all_tissue=False,
                  max_whole_pixels=slides.MAX_WHOLE_PIXELS, overwrite=False,
                  part=(0, 1), work=None):
    """Find the nuclei of image files and write `writers.results_of` each.

    A line on stdout says how many nuclei an image has. An image that cannot
    be used is reported on stderr and skipped. So is an image that is done:
    see `runs.is_done`.

    Args:
        images: list of paths, or a path that `sources.find_images` takes.
        output_dir: made if missing.
        predictor: Predictor.
        microns_per_pixel, outputs, all_tissue, part: see `runs.Run`.
        max_whole_pixels: larger images are slides.
        overwrite: whether to replace results of other settings, and those
            that are done.
        work: function that does what `results` does, by other processes, or
            None.

    Returns:
        list of the paths that could not be read, whole or in part

    Raises:
        InputError: there is no image; a result cannot or must not be written;
            or as `predictor`.
    """
    if isinstance(images, (str, os.PathLike)):
        images = sources.find_images(os.fspath(images))
    paths = list(map(os.fspath, images))
    if not paths:
        raise InputError('--images: an empty list; give at least one file')
    sources.check_folder(output_dir, paths)
    run = runs.Run(predictor, output_dir, outputs, microns_per_pixel,
                   all_tissue, part, overwrite)
    found = sources.of_files(paths, max_whole_pixels)
    slide = next((source for source in found if source.is_slide), None)
    if slide and not {'csv', 'geojson'} & set(outputs):
        raise InputError(f'--outputs: {slide.name} is a slide, which gets '
                         'csv and geojson; name one of them')
    if slide:
        blocks.side_for(predictor.max_pixels, predictor.halo)  # may refuse
    return _predict(found, run, functools.partial(
        _read_file, resolution.Resolution(microns_per_pixel)), work or results)


def _read_file(settled, source):
    """Read an image, or open a slide, as `_predict` takes it."""
    if source.is_slide:
        return slides.open_slide(source.name, settled)
    image = read_image(source.name)  # [H, W, 3]
    microns = settled.of_image(source.name)
    resample.network_size(image.shape[:2], microns[0], source.name)
    return (image, *microns)


def predict_store(file, output_dir, predictor, outputs=tuple(writers.OUTPUTS),
                  overwrite=False):
    """Find the nuclei of a store's images, as `predict_files` does.

    Args:
        file: of `store.open_store`. Results are in micrometres if its images
            were prepared with a resolution that was given: then they have the
            networks' own. Otherwise they are only near to it.
        output_dir, predictor, outputs, overwrite: as for `predict_files`.
    """
    found = [sources.Source(os.path.join(file.filename, name), name, False,
                            digest, index)
             for index, (name, digest) in enumerate(zip(
                 store.image_names(file), store.image_digests(file)))]
    # A number if `prepare` was given one, otherwise text.
    given = store.attributes(file).get('microns_per_pixel', '')
    microns = None if isinstance(given, str) else resample.MICRONS_PER_PIXEL
    return _predict(found, runs.Run(
        predictor, output_dir, outputs, microns, False, (0, 1), overwrite),
        lambda source: (store.whole_image(file, source.index, source.stem
                                          ).image, None, microns), results)


def _predict(found, run, read, work):
    """Predict Sources that are not done; return the names of those skipped.

    Args:
        found: list of Source.
        run: runs.Run.
        read: function from a Source to the image, uint8 [H, W, 3], and what
            `Resolution.of_image` returns, or of a slide to what
            `slides.open_slide` returns. It raises InputError to skip it.
        work: function as `results`.
    """
    runs.check_names(found)
    todo = runs.begin(run, found)
    first, step = run.part
    if todo != found:
        progress.say(f'{len(found) - len(todo)} of '
                     f'{progress.counted(len(found), "image")} done already'
                     + ('' if step > 1 else '; --overwrite does them again'))
    for source in found:
        # One killed between its record and the removal of its blocks.
        if source.is_slide and source not in todo:
            blocks.remove_files(runs.blocks_of(run, source))
    mine = [source for source in todo
            if source.is_slide or source.index % step == first]
    skipped = []
    with contextlib.ExitStack() as stack:
        stack.callback(runs.summarise, run)  # after an error, too
        report = stack.enter_context(progress.reporter(len(mine), 'image'))
        done = stack.enter_context(contextlib.closing(
            work(mine, run, read, report)))
        for result in done:
            if result.text:
                progress.say(f'{result.source.name}: {result.text}')
            if result.error:
                progress.say(f'error: {result.error}', error=True)
                skipped.append(result.source.name)
                if not result.record:
                    runs.write_error(run, result.source, result.error)
            if result.record:
                for kind, text in result.record['warnings'].items():
                    progress.warn(kind, result.record['image'], text)
    if step > 1:
        left = [source for source in todo
                if source.name not in skipped and not runs.is_done(run, source)
                # A record of an error has its digest: no shard can read it.
                and runs.read_record(run, source).get('digest')
                != source.digest]
        progress.say(f'shard {first + 1}/{step}: ' + (
            f'done; {len(left)} of {progress.counted(len(found), "image")} '
            'wait for other shards' if left else 'done, as all others'))
    return skipped


def results(found, run, read, report):
    """Predict Sources in their order, and yield a Result for each.

    Args:
        found, run, read: as for `_predict`.
        report: function called with the number of Sources done.
    """
    for is_slide, numbered in itertools.groupby(
            enumerate(found), lambda pair: pair[1].is_slide):
        predicted = _slides if is_slide else _images
        yield from predicted(numbered, run, read, report)


def _images(numbered, run, read, report):
    """Predict images: one is separated and written as the next is seen."""
    def seen():
        for number, source in numbered:
            begin = time.monotonic()
            try:
                image, network_microns, microns = read(source)
            except InputError as error:
                progress.check()  # a signal may be what made it fail
                yield Result(source, None, '', f'{error} (skipped)')
                continue
            start = time.monotonic()
            probability = run.predictor.see(
                image, network_microns, source.name,
                lambda part, number=number: report(number + part))
            yield source, microns, probability, {
                'read': start - begin, 'network': time.monotonic() - start}

    yield from blocks.ahead(functools.partial(_write_image, run), seen(),
                            AHEAD)


def _write_image(run, found):
    """Separate the nuclei of an image and write its files: a Result."""
    if isinstance(found, Result):  # it could not be read
        return found
    source, microns_per_pixel, seen, seconds = found
    start = time.monotonic()
    nuclei = run.predictor.separate(seen)._replace(
        microns_per_pixel=microns_per_pixel)
    separated = time.monotonic()
    mm2 = (nuclei.labels.size * microns_per_pixel ** 2 / 1e6
           if microns_per_pixel else None)
    areas, densities = [()], [()]  # there may be no batch
    for batch in nuclei.measured():
        areas.append(batch.measures['area'])
        densities.append(batch.measures['mean_haematoxylin_od'])
    record = summary.record_of(source, np.concatenate(areas), np.concatenate(
        densities), microns_per_pixel, mm2)
    runs.make_room(run, source)  # a file may have come since
    writers.write_all(runs.start_of(run, source), nuclei, run.outputs, False)
    seconds.update(nuclei=separated - start,
                   files=time.monotonic() - separated)
    runs.write_record(run, source, {**record, 'seconds': {
        stage: round(value, 2) for stage, value in seconds.items()}})
    return Result(source, record, summary.line_of(record), '')


def _slides(numbered, run, read, report):
    """Predict the blocks of slides that are this process's, and merge."""
    first, step = run.part
    for number, source in numbered:
        plan = plan_of(source, run, read)
        if isinstance(plan, blocks.Plan):
            plan.predict(plan.left((first - source.index) % step, step))
            runs.check_begun(run)  # else its blocks would wait for ever
            yield merged(plan)
        else:
            yield plan
        report(number + 1)


def plan_of(source, run, read):
    """Open a slide: its `blocks.Plan`, or a Result if it cannot be read."""
    try:
        found = read(source)
    except InputError as error:
        progress.check()
        return Result(source, None, '', f'{error} (skipped)')
    return blocks.Plan(source, run, *found)


def merged(plan):
    """Merge the blocks of a slide if all are there: a Result."""
    source, record = plan.source, plan.merge()
    if record is None:
        missing, count = len(plan.missing()), len(plan.blocks)
        text = 'another process is writing the results'
        if missing:
            text = (f'{missing} of {progress.counted(count, "block")} wait '
                    'for other processes; the last one writes the results')
        return Result(source, None, text, '')
    error = summary.unread_of(record)
    if error:
        error = f'{source.name}: {error}; copy it again and repeat the command'
    return Result(source, record, summary.line_of(record), error)
