"""A slide block by block: each to a file, and all files to the results.

The files are the whole state. `write_blocks` predicts any of the blocks, and
`Nuclei` reads all of them, one at a time.
"""
import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import math
import os
import sys
import time

import numpy as np

from histology import files, progress, resample
from histology.files import InputError
from histology.listing import ZIP_ERRORS
from prediction import instances, measurements, tissue, writers
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
    """Return the side of blocks that the network takes at once.

    Raises:
        InputError: `max_pixels` is too small for blocks.
    """
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


def read_block(folder, key, block):
    """Read a block's file: a dict of arrays, or None.

    It is None if the file is absent, damaged or of another key, which is a
    digest of what decides on its content.
    """
    try:
        with np.load(os.path.join(folder, block.name + '.npz')) as content:
            return content['key'] == key and dict(content) or None
    except (*ZIP_ERRORS, KeyError):
        return None


def write_blocks(image, blocks, folder, key, predictor):
    """Find the nuclei of blocks, at least one, and write a file for each.

    A thread reads ahead and one separates nuclei and writes, while the network
    runs in the calling thread. A block that cannot be read is reported on
    stderr and skipped.

    Args:
        image: the slide as `slides.Slide.at` returns it.
        blocks: list of Block.
        folder, key: of the files, see `read_block`.
        predictor: Predictor.
    """
    skipped = 0

    def read(block):
        return time.monotonic(), image[block.outer], time.monotonic()

    def predicted():
        nonlocal skipped
        for block, reading in _ahead(read, blocks):
            try:
                begin, pixels, end = reading.result()
            except InputError as error:
                skipped += 1
                progress.say(f'error: {error} (block skipped)', sys.stderr)
                continue
            start = time.monotonic()
            found = predictor.classify(pixels)
            yield block, pixels, found, [end - begin,
                                         time.monotonic() - start]

    write = functools.partial(_write, folder, key, predictor.threshold)
    with progress.reporter(len(blocks), 'block') as report:
        for done, (_, written) in enumerate(_ahead(write, predicted()), 1):
            written.result()
            report(done + skipped)


def _ahead(function, items):
    """Yield (item, future of function(item)), worked on in one thread."""
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        try:
            for item in items:
                waiting.append((item, thread.submit(function, item)))
                if len(waiting) > AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def _write(folder, key, threshold, predicted):
    """Write the nuclei of a block that have their centroid in its core."""
    block, pixels, (mask, probability), seconds = predicted
    start = time.monotonic()
    labels, _ = instances.separate(mask, probability, threshold=threshold)
    top, left = (axis.start for axis in block.outer)
    arrays = {}
    for batch in measurements.measure(labels, probability, pixels,
                                      strip=len(labels)):  # one, or none
        measures, mine = batch.measures, True
        for axis, first, core in zip('xy', (left, top), block.core[::-1]):
            measures[f'box_{axis}'] = measures[f'box_{axis}'] + first
            centroid = measures[f'centroid_{axis}'] = (
                measures[f'centroid_{axis}'] + first)
            mine &= (core.start <= centroid) & (centroid < core.stop)
        corners = batch.corners._replace(
            x=batch.corners.x + batch.left + left,
            y=batch.corners.y + batch.top + top)
        kept = mine[corners.label - 1]
        arrays = {name: values[mine] for name, values in measures.items()}
        arrays.update((f'corner_{name}', np.int32(values[kept]))
                      for name, values in corners._asdict().items())
    seconds = [*seconds, time.monotonic() - start]
    with files.atomic_write(os.path.join(folder, block.name + '.npz')) as path:
        np.savez_compressed(path, key=key, seconds=seconds, **arrays)


class Nuclei:
    """All nuclei of a slide, read from the files of its blocks each time.

    Args:
        read: function from a block to what `read_block` returns.
        blocks: list of Block.
        size: (height, width) of the slide at level 0.
        network_size: the same in pixels of the blocks.
        microns_per_pixel: of level 0.
    """

    def __init__(self, read, blocks, size, network_size, microns_per_pixel):
        self._read, self._blocks, self._size = read, blocks, size
        self._scale = [own / seen for own, seen in zip(size, network_size)]
        self.microns_per_pixel = microns_per_pixel
        self.skipped, areas, seconds = [], [()], np.zeros(len(STAGES))
        squares = [max(round(side * microns_per_pixel / DENSITY_SQUARE), 1)
                   for side in size]
        self._in_squares = np.zeros(squares)
        for block in blocks:
            found = read(block)
            if found is None:
                self.skipped.append(block)
                continue
            seconds += found['seconds']
            if 'area' in found:
                areas.append(found['area'])
                self._in_squares += np.histogram2d(
                    found['centroid_y'] * self._scale[0],
                    found['centroid_x'] * self._scale[1],
                    squares, [(0, side) for side in size])[0]
        self.areas = np.concatenate(areas) * np.prod(self._scale)  # level 0's
        self.count = len(self.areas)
        self.seconds = dict(zip(STAGES, seconds.tolist()))

    def measured(self):
        """Yield the `measurements.Batch` of each block, in level 0's pixels.

        Labels go from 1 to `count`, block by block.
        """
        count, (scale_y, scale_x) = 1, self._scale
        for block in self._blocks:
            found = self._read(block) or {}
            if not len(found.get('area', ())):
                continue
            measures = {
                name: found[name] * (
                    scale_x if name.endswith(('_x', '_width')) else
                    scale_y if name.endswith(('_y', '_height')) else
                    math.sqrt(scale_x * scale_y) ** power)
                for name, (power, _) in writers.MEASURES.items()}
            measures['label'] = count + np.arange(len(found['area']))
            count += len(found['area'])
            corners = Corners(*(found[f'corner_{name}']
                                for name in Corners._fields))
            yield measurements.Batch(measures, corners._replace(
                x=_scaled(corners.x, scale_x), y=_scaled(corners.y, scale_y)),
                0, 0)

    def density(self):
        """Return the nuclei per mm2 in DENSITY_SQUARE, float [h, w]."""
        mm2 = (np.prod(self._size, dtype=float) / self._in_squares.size
               * self.microns_per_pixel ** 2 / 1e6)
        return self._in_squares / mm2


def _scaled(coordinates, scale):
    return coordinates if scale == 1 else (coordinates * scale).round(DECIMALS)


def predict_slide(slide, size, microns_per_pixel, start, predictor, outputs,
                  all_tissue=False, shift=0):
    """Find the nuclei of a slide and write `writers.SLIDE_OUTPUTS`.

    Blocks of an earlier, killed prediction with the same settings are used.
    They are removed at the end, unless one of the slide cannot be read.

    Args:
        slide, size, microns_per_pixel: as `slides.open_slide` returns them.
        start: path of the results without what follows the slide's stem.
        predictor: Predictor.
        outputs: names of OUTPUTS.
        all_tissue: whether to search the whole slide.
        shift: see `grid`.

    Returns:
        a line on the nuclei, or None if no block can be read
        the number of blocks that cannot be read
    """
    began = time.monotonic()
    halo, folder = predictor.halo, start + '.blocks'
    side = side_for(predictor.max_pixels, halo)
    settings = {
        **predictor.identity(), 'microns_per_pixel': microns_per_pixel,
        'size': slide.size, 'network_size': size, 'side': side, 'halo': halo,
        'shift': shift, 'bytes': os.path.getsize(slide.path)}
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    image = slide.read_whole(resample.scaled_size(
        slide.size, microns_per_pixel, tissue.MICRONS_PER_PIXEL))
    mask = tissue.find_tissue(image) | all_tissue
    if not mask.any():
        progress.say(f'{slide.path}: no tissue found, so the whole slide is '
                     'searched', sys.stderr)
        mask[:] = True
    wanted = [block for block in grid(size, side, halo, shift)
              if tissue.touches(mask, block.core, size)]
    tissue.write_tissue(start + '_tissue.png', image, mask, [
        block.core for block in wanted], size, writers.SOFTWARE)
    seconds = {'tissue': time.monotonic() - began}
    read = functools.partial(read_block, folder, key)
    missing = [block for block in wanted if not read(block)]
    if missing != wanted:
        progress.say(f'{slide.path}: {len(wanted) - len(missing)} of '
                     f'{progress.counted(len(wanted), "block")} are there '
                     'from before')
    if missing:
        write_blocks(slide.at(size), missing, folder, key, predictor)
    nuclei = Nuclei(read, wanted, slide.size, size, microns_per_pixel)
    if nuclei.skipped == wanted:
        return None, len(wanted)
    text = _merge(slide, start, nuclei, outputs, image, mask, {
        'blocks': len(wanted), 'seconds': seconds, 'settings': {
            **settings, 'all_tissue': all_tissue},
        'model_folder': predictor.folder})
    if not nuclei.skipped:
        files.remove_matching(folder, '[0-9]*_[0-9]*.npz', '.partial-*')
        with contextlib.suppress(OSError):  # a user's file is in it
            os.rmdir(folder)
    return text, len(nuclei.skipped)


def _merge(slide, start, nuclei, outputs, image, mask, record):
    """Write the results of a slide; return a line on the nuclei."""
    began, square = time.monotonic(), nuclei.microns_per_pixel ** 2
    for output in ('csv', 'geojson'):
        if output in outputs:
            endings, write, _ = writers.SLIDE_OUTPUTS[output]
            write([start + ending for ending in endings], nuclei)
    mm2 = mask.mean() * slide.size[0] * slide.size[1] * square / 1e6
    text = (progress.counted(nuclei.count or 'no', 'nucleus', 'nuclei')
            + f', {nuclei.count / mm2:.0f} per mm2 in {mm2:.4g} mm2 of tissue')
    median = None
    if nuclei.count:
        median = round(np.median(nuclei.areas) * square, 2)
        text += f', median area {median:.1f} um2'
    name = os.path.basename(slide.path)
    tissue.write_overview(start + '_overview.jpg', image, mask,
                          nuclei.density(), f'{name}: {text}',
                          writers.SOFTWARE)
    seconds = {**record['seconds'], **nuclei.seconds,
               'merge': time.monotonic() - began}
    files.write_json(start + '.json', {
        'software': writers.SOFTWARE, 'slide': name, 'nuclei': nuclei.count,
        'tissue_mm2': round(mm2, 4), 'median_area_um2': median,
        'nuclei_per_mm2': round(nuclei.count / mm2, 1),
        'blocks_skipped': [block.name for block in nuclei.skipped], **record,
        'seconds': {stage: round(value, 2)
                    for stage, value in seconds.items()}})
    return text
