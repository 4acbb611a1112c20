"""A slide block by block: each to a file, and all files to the results.

The files are the whole state: any process can do any of the blocks, and the
one that finishes last merges them. `Nuclei` reads them one at a time.
"""
import collections
import concurrent.futures
import contextlib
import glob
import io
import json
import math
import os
import time

import numpy as np

from histology import files, images, progress, resample
from histology.files import InputError
from histology.listing import ZIP_ERRORS
from prediction import instances, measurements, runs, summary, tissue, writers
from prediction.polygons import Corners

MAX_SIDE = 2048  # pixels, with the halo
AHEAD = 2  # blocks that are read, or written, while one is predicted
DECIMALS = 2  # of coordinates
STAGES = ('read', 'network', 'nuclei')
DENSITY_SQUARE = 128  # micrometres

# name: of its file, the row and column of its core's first pixel
# core, outer: slices of rows and columns, outer with the halo
Block = collections.namedtuple('Block', 'name core outer')


def side_for(max_pixels, halo):
    """Return the side of blocks, or raise InputError if none is possible."""
    side = min(int(math.sqrt(max_pixels)) // halo * halo, MAX_SIDE)
    if side < 3 * halo:
        raise InputError(f'--max_pixels {max_pixels}: too small for a slide; '
                         f'give at least {(3 * halo) ** 2}')
    return side


def grid(size, side, halo, shift=0):
    """List the Blocks of a slide; the first cores are shorter by `shift`."""
    return [Block('{}_{}'.format(*(axis.start for axis in core)), core, outer)
            for core, outer in instances.windows(
                size, side - 2 * halo, halo, shift)]


def ahead(function, items, depth=AHEAD):
    """Yield function(item) of each item, worked on in one thread.

    The thread may lie `depth` items behind, while the caller makes the next
    ones.
    """
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        try:
            for item in items:
                waiting.append(thread.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_file(path):
    """Read a block's file: a dict of arrays; {} if it is absent or damaged.

    Raises:
        InputError: predict did not write it.
    """
    try:
        with np.load(path) as content:
            found = dict(content)
    except (*ZIP_ERRORS, *images.DECODER_ERRORS, MemoryError):
        return {}
    if 'key' not in found:
        raise InputError(f'{path}: was not written by predict; move it')
    return found


def remove_files(folder):
    """Remove the files of blocks, and the folder if it holds nothing else."""
    files.remove_matching(folder, '.partial-*')
    for path in glob.glob(os.path.join(glob.escape(folder), '*_*.npz')):
        with contextlib.suppress(InputError, FileNotFoundError):
            if read_file(path):
                os.remove(path)
    with contextlib.suppress(OSError):
        lock = os.path.join(folder, '.lock')
        if os.path.exists(lock) and not os.path.getsize(lock):
            os.remove(lock)
        os.rmdir(folder)


def _nuclei_of(block, pixels, mask, probability, predictor, seconds):
    """Find the nuclei that have their centroid in the core of a block."""
    start = time.monotonic()
    labels, _ = predictor.labels_of(mask, probability)
    rows, columns = block.core
    top, left = (axis.start for axis in block.outer)
    arrays = {}
    for measures, corners in measurements.measure(
            labels, probability, pixels, strip=len(labels)):  # one, or none
        for name, first in (('box_x', left), ('centroid_x', left),
                            ('box_y', top), ('centroid_y', top)):
            measures[name] = measures[name] + first
        x, y = measures['centroid_x'], measures['centroid_y']
        mine = ((columns.start <= x) & (x < columns.stop)
                & (rows.start <= y) & (y < rows.stop))
        corners = corners._replace(x=corners.x + left, y=corners.y + top)
        kept = mine[corners.label - 1]
        arrays = {name: values[mine] for name, values in measures.items()}
        arrays.update((f'corner_{name}', np.int32(values[kept]))
                      for name, values in corners._asdict().items())
    return {**arrays, 'seconds': [*seconds, time.monotonic() - start]}


class Nuclei:
    """All nuclei of a slide, read from the files of its blocks each time.

    Args:
        plan: Plan whose blocks are all there.
    """

    def __init__(self, plan):
        self.plan, size = plan, plan.slide.size
        self.image, self.labels = plan.image, plan.mask  # of the thumbnail
        self._scale = [own / seen for own, seen in zip(size, plan.size)]
        self.microns_per_pixel = plan.microns_per_pixel
        self.skipped, seconds = [], np.zeros(len(STAGES))
        areas, densities = [()], [()]
        squares = [max(round(side * plan.microns_per_pixel / DENSITY_SQUARE),
                       1) for side in size]
        self._in_squares = np.zeros(squares)
        for block in plan.blocks:
            found = plan.read_again(block)
            if 'error' in found:
                self.skipped.append(block.name)
                continue
            seconds += found['seconds']
            if 'area' in found:
                areas.append(found['area'])
                densities.append(found['mean_haematoxylin_od'])
                self._in_squares += np.histogram2d(
                    found['centroid_y'] * self._scale[0],
                    found['centroid_x'] * self._scale[1],
                    squares, [(0, side) for side in size])[0]
        areas = np.concatenate(areas) * np.prod(self._scale)  # level 0's
        mm2 = None if plan.unread.any() else (
            plan.mask.mean() * np.prod(size, dtype=float)
            * plan.microns_per_pixel ** 2 / 1e6)
        self.record = summary.record_of(
            plan.source, areas, np.concatenate(densities),
            plan.microns_per_pixel, mm2)
        self.seconds = dict(zip(STAGES, seconds.tolist()))

    def measured(self):
        """Yield the `measurements.Batch` of each block, in level 0's pixels.

        Labels go from 1 on, block by block.
        """
        count, (scale_y, scale_x) = 1, self._scale
        for block in self.plan.blocks:
            found = self.plan.read_again(block)
            if not len(found.get('area', ())):
                continue
            measures = {
                name: found[name] * (
                    scale_x if name.endswith(('_x', '_width')) else
                    scale_y if name.endswith(('_y', '_height')) else
                    math.sqrt(scale_x * scale_y) ** power)
                for name, (power, _) in writers.MEASURES.items()}
            measures['label'] = count + np.arange(len(found['area']))
            measures['touches_border'] = measurements.touches_border(
                found, self.plan.size)
            count += len(found['area'])
            corners = Corners(*(found[f'corner_{name}']
                                for name in Corners._fields))
            yield measurements.Batch(measures, corners._replace(
                x=_scaled(corners.x, scale_x), y=_scaled(corners.y, scale_y)))

    def density(self):
        """Return the nuclei per mm2 in DENSITY_SQUARE, float [h, w]."""
        mm2 = (np.prod(self.plan.slide.size, dtype=float)
               / self._in_squares.size * self.microns_per_pixel ** 2 / 1e6)
        return self._in_squares / mm2


def _scaled(coordinates, scale):
    return coordinates if scale == 1 else (coordinates * scale).round(DECIMALS)


class Plan:
    """How a slide is predicted block by block, as `runs.Run` asks for it.

    The blocks of an earlier, killed prediction with the same settings stay.

    Args:
        source: sources.Source.
        run: runs.Run.
        slide, size, microns_per_pixel: as `slides.open_slide` returns them.
        shift: see `grid`.

    Raises:
        InputError: `max_pixels` is too small for blocks.
    """

    def __init__(self, source, run, slide, size, microns_per_pixel, shift=0):
        began = time.monotonic()
        # Whether done results are made anew. Of several parts, another one has
        # just made them.
        self.redoes = (run.overwrite and run.part == (0, 1)
                       and runs.is_done(run, source))
        self.source, self.run, self.slide, self.size = source, run, slide, size
        self.microns_per_pixel = microns_per_pixel
        halo = run.predictor.halo
        self.geometry = {
            'size': slide.size, 'network_size': size, 'halo': halo,
            'side': side_for(run.predictor.max_pixels, halo), 'shift': shift}
        self.key = runs.key_of(run, source) + json.dumps(self.geometry)
        self.start = runs.start_of(run, source)
        self.folder = runs.blocks_of(run, source)
        self.image, self.unread, empty = slide.read_whole(resample.scaled_size(
            slide.size, microns_per_pixel, tissue.MICRONS_PER_PIXEL))
        found = tissue.find_tissue(self.image, empty)
        # Colours are checked in the tissue, or else in all that was scanned.
        checked = (found if found.any()
                   else (self.image.max(axis=2) > tissue.BLACK) & ~empty)
        if checked.any():
            images.check_colours(self.image[checked][np.newaxis], slide.path)
        self.mask = found | self.unread | run.all_tissue
        if not self.mask.any():
            progress.say(f'{slide.path}: no tissue found, so the whole slide '
                         'is searched', error=True)
            self.mask[:] = True
        self.blocks = [
            block for block in grid(size, self.geometry['side'], halo, shift)
            if tissue.touches(self.mask, block.core, size)]
        self.seconds = time.monotonic() - began

    def __getstate__(self):
        """Return what `predict` needs besides the run and the slide.

        A scheduler, which may not see the slide, unpickles it too.
        """
        return {**self.__dict__, **dict.fromkeys(
            ('run', 'slide', 'blocks', 'image', 'mask', 'unread'))}

    def read(self, block):
        """Do what `read_file` does; {} also if the file has another key."""
        found = read_file(os.path.join(self.folder, block.name + '.npz'))
        return found if found.get('key') == self.key else {}

    def missing(self):
        """List the blocks that have no file."""
        return [block for block in self.blocks if not self.read(block)]

    def left(self, first, step):
        """List each `step`-th block, from the first on, that is to be done.

        What is there is not done again, unless it could not be read.
        """
        mine = self.blocks[first::step]
        left = [block for block in mine if 'seconds' not in self.read(block)]
        if left != mine:
            progress.say(f'{self.slide.path}: {len(mine) - len(left)} of '
                         f'{progress.counted(len(mine), "block")} are there '
                         'from before')
        return left

    def predict(self, blocks):
        """Find the nuclei of some blocks, and write a file for each.

        A thread reads ahead and one separates nuclei and writes, while the
        network runs in the calling thread. A block that cannot be read is
        reported on stderr, and its file says so. One that another process has
        done meanwhile is not done again.

        Raises:
            InputError: as `runs.claim`, or the network's.
        """
        runs.claim(self.run, self.source)
        image = self.slide.at(self.size)

        def read(block):
            begin = time.monotonic()
            if 'seconds' in self.read(block) or self._is_merged():
                return block, None, 0
            try:
                return block, image[block.outer], time.monotonic() - begin
            except InputError as error:
                return block, error, 0

        def predicted():
            for block, pixels, seconds in ahead(read, blocks):
                found, start = None, time.monotonic()
                if isinstance(pixels, InputError):
                    progress.say(f'error: {pixels} (block skipped)',
                                 error=True)
                elif pixels is not None:
                    found = self.run.predictor.classify(pixels)
                yield block, pixels, found, [seconds, time.monotonic() - start]

        with progress.reporter(len(blocks), 'block') as report:
            for done, _ in enumerate(ahead(self._write, predicted()), 1):
                report(done)

    def _write(self, found):
        """Write the file of a block that the network has seen."""
        block, pixels, seen, seconds = found
        if pixels is None:
            return
        arrays = {'error': str(pixels)} if seen is None else _nuclei_of(
            block, pixels, *seen, self.run.predictor, seconds)
        try:
            # NumPy would complain of a full disk once more, when it is closed.
            content = io.BytesIO()
            np.savez_compressed(content, key=self.key, **arrays)
            runs.check_begun(self.run)  # others may have taken the folder
            files.write_bytes(os.path.join(self.folder, block.name + '.npz'),
                              content.getvalue())
        except InputError:
            if not self._is_merged():  # else the folder may go any time
                raise

    def _is_merged(self):
        """Say whether another process has written the results meanwhile."""
        return not self.redoes and runs.is_done(self.run, self.source)

    def merge(self):
        """Write the results if all blocks are there.

        Then the files of the blocks go, unless one is of a damaged part.

        Returns:
            the record of the slide, a dict for JSON; None if blocks are
            missing, or another process is merging
        """
        record = None
        try:
            # Asked before the lock: a process that has it has all blocks and
            # merges them, so no other need wait for it.
            if not self.missing():
                with files.locked(self.folder, 'output_dir'):
                    if not self._is_merged():
                        record = self._merge()
        except files.LockedError:
            pass  # another process merges, or has merged without a lock
        if record is None and runs.is_done(self.run, self.source):
            record = runs.read_record(self.run, self.source)
        if record and not record['blocks_skipped']:
            remove_files(self.folder)
        return record

    def read_again(self, block):
        """Do what `read`, but raise LockedError if the file has gone."""
        found = self.read(block)
        if not found:
            raise files.LockedError(
                f'{self.folder}: another process has merged it')
        return found

    def _merge(self):
        began = time.monotonic()
        progress.say(f'{self.slide.path}: writing the results of '
                     + progress.counted(len(self.blocks), 'block'))
        nuclei = Nuclei(self)
        runs.make_room(self.run, self.source)
        writers.write_all(self.start, nuclei, self.run.outputs, True)
        record = {
            **nuclei.record, **self.geometry, 'blocks': len(self.blocks),
            'blocks_skipped': nuclei.skipped
            + ([summary.OVERVIEW] if self.unread.any() else []),
            'seconds': {stage: round(value, 2) for stage, value in {
                'tissue': self.seconds, **nuclei.seconds,
                'merge': time.monotonic() - began}.items()}}
        runs.write_record(self.run, self.source, record)
        return record
