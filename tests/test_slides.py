"""Slides block by block, on pyramids that tifffile writes."""
import contextlib
import csv
import errno
import fcntl
import gzip
import io
import json
import os
import pickle
import re
import shutil
import sys
import types
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import spatial
from shapely import geometry

from conftest import HELD, start, wait_for
from histology import images, resolution, synthetic
from histology.files import InputError
from inputs import with_tag
from prediction import (
    Predictor,
    blocks,
    predict,
    runs,
    slides,
    sources,
    tissue,
    workers,
    writers,
)

GLASS, TISSUE, NUCLEUS = (245, 245, 245), (230, 180, 210), (40, 30, 120)
SIDE = 512  # of a block with its halo of 128 to each side


def darkness(batch):
    """A network: black is nucleus."""
    return 1 - batch[..., :1]


PREDICTOR = Predictor(darkness, 32, average=False, max_pixels=SIDE ** 2)


def write_slide(path, image, microns=0.25, downsamples=(1, 4), **options):
    """Writes a pyramid of tiles with its resolution."""
    path.parent.mkdir(exist_ok=True)
    with tifffile.TiffWriter(str(path)) as tif:
        for down in downsamples:
            resolution = [1e4 / microns / down] * 2
            if tifffile.__version__ < '2022':
                options['resolution'] = (*resolution, 'CENTIMETER')
            else:
                options.update(resolution=resolution,
                               resolutionunit='CENTIMETER')
            tif.write(image[::down, ::down], tile=(128, 128),
                      photometric='rgb', metadata=None,
                      subfiletype=int(down > 1),
                      **{'compression': 'zlib', **options})


def tissue_with_discs(height=600, width=650, step=37, radius=9):
    """Glass, with tissue from (300, 200) on and nuclei all over it.

    Returns:
        image: uint8 [H, W, 3]
        centres: list of (y, x) of the nuclei, in coordinates of QuPath
    """
    image = np.full((height, width, 3), GLASS, np.uint8)
    image[300:, 200:] = TISSUE
    centres = [(y, x) for y in range(320, height - 12, step)
               for x in range(220, width - 12, step)]
    rows, columns = np.ogrid[-radius:radius + 1, -radius:radius + 1]
    disc = rows ** 2 + columns ** 2 <= radius ** 2
    for y, x in centres:
        image[y - radius:y + radius + 1, x - radius:x + radius + 1][
            disc] = NUCLEUS
    return image, [(y + 0.5, x + 0.5) for y, x in centres]


@pytest.fixture
def discs(tmp_path):
    image, centres = tissue_with_discs()
    write_slide(tmp_path / 'in' / 'a.tif', image)
    return tmp_path, image, centres


def run(folder, predictor=PREDICTOR, out='out', **options):
    """Predicts folder/in into folder/out; all TIFF are slides."""
    return predict.predict_files(str(folder / 'in'), str(folder / out),
                                 predictor, max_whole_pixels=1, **options)


def plan_of(folder, predictor=PREDICTOR, out='out', overwrite=True, **options):
    """The plan of folder/in/a.tif, searched all over."""
    path = str(folder / 'in' / 'a.tif')
    source, = sources.of_files([path], 1)
    run = runs.Run(predictor, str(folder / out), ['csv', 'geojson'], None,
                   True, (0, 1), overwrite)
    runs.begin(run, [source])
    return blocks.Plan(source, run, *slides.open_slide(
        path, resolution.Resolution(None)), **options)


def contents_undisturbed(folder):
    """What one plan writes alone, as `contents`."""
    plan = plan_of(folder, out='undisturbed')
    plan.predict(plan.left(0, 1))
    plan.merge()
    return contents(folder / 'undisturbed')


def rows_of(path):
    with open(str(path)) as file:
        return list(csv.DictReader(file))


def centroids(path, unit='px'):
    return sorted((float(row[f'centroid_y_{unit}']),
                   float(row[f'centroid_x_{unit}'])) for row in rows_of(path))


def features(path):
    with (gzip.open if path.suffix == '.gz' else open)(str(path)) as file:
        return json.load(file)['features']


def contents(folder):
    """The bytes of each file, but of those on all images, which say when and
    how they were made; STEM.json without its seconds.
    """
    found = {}
    for path in sorted(folder.rglob('*')):
        if path.name in ('run.json', 'summary.csv', 'index.html'):
            continue
        if path.suffix == '.json':
            found[path.name] = json.loads(path.read_text())
            found[path.name].pop('seconds', None)
        else:
            found[path.name] = path.read_bytes() if path.is_file() else None
    return found


def test_a_slide_has_the_nuclei_of_the_whole_image(discs, capsys):
    folder, image, centres = discs
    assert run(folder) == []
    out = folder / 'out'
    assert {'a.json', 'a_nuclei.csv', 'a_nuclei.geojson', 'a_overview.jpg',
            'a_tissue.png', 'run.json'} <= {
                path.name for path in out.iterdir()}
    assert not list(out.glob('a_[lmp]*'))  # no labels, mask or probability
    assert not (out / 'a.blocks').exists()
    assert centroids(out / 'a_nuclei.csv') == sorted(centres)
    whole = PREDICTOR(image, 0.25).table()
    table = rows_of(out / 'a_nuclei.csv')
    assert list(table[0]) == list(whole)
    # By blocks the nuclei have another order, so other labels.
    for name in set(whole) - {'label'}:
        assert sorted(float(row[name]) for row in table) == sorted(
            whole[name].tolist()), name
    assert [row['label'] for row in table] == [
        str(label + 1) for label in range(len(centres))]
    found = features(out / 'a_nuclei.geojson')
    assert len({feature['id'] for feature in found}) == len(centres)
    for row, feature in zip(table, found):
        polygon = geometry.shape(feature['geometry'])
        assert polygon.is_valid and polygon.area == float(row['area_px2'])
        assert polygon.centroid.x == pytest.approx(float(
            row['centroid_x_px']))
    record = json.loads((out / 'a.json').read_text())
    assert record['nuclei'] == len(centres)
    # 300 x 450 pixels of tissue, and one of the mask around it.
    assert record['mm2'] == pytest.approx(0.0084, rel=0.3)
    assert record['nuclei_per_mm2'] == pytest.approx(
        len(centres) / record['mm2'], rel=0.01)
    assert record['side'] == SIDE and record['blocks_skipped'] == []
    assert set(record['seconds']) == {'tissue', 'merge', *blocks.STAGES}
    assert f'{len(centres)} nuclei, ' in capsys.readouterr().out
    with Image.open(out / 'a_overview.jpg') as picture:
        assert picture.size[0] == 1400


@pytest.mark.parametrize('microns', [0.5, 0.23, 0.0625])
def test_level_0_at_any_resolution(tmp_path, microns):
    """The network sees 0.25 micrometres; results are in level 0's pixels."""
    image, centres = tissue_with_discs(450, 500, radius=12)
    big = microns < 0.1
    if big:  # nuclei of 40x in pixels of 160x, where level 1 is read
        image = np.kron(image, np.ones((4, 4, 1), np.uint8))
        centres = [(4 * y, 4 * x) for y, x in centres]
    write_slide(tmp_path / 'in' / 'a.tif', image, microns)
    assert run(tmp_path) == []
    found = centroids(tmp_path / 'out' / 'a_nuclei.csv')
    assert len(found) == len(centres)
    away, nearest = spatial.cKDTree(centres).query(found)
    assert len(set(nearest)) == len(centres)
    assert away.max() < (2 if big else 0.6)
    record = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert record['size'] == list(image.shape[:2])
    polygons = [geometry.shape(feature['geometry']) for feature in features(
        tmp_path / 'out' / 'a_nuclei.geojson')]
    rows = [{name: float(value) for name, value in row.items()}
            for row in rows_of(tmp_path / 'out' / 'a_nuclei.csv')]
    areas = [row['area_px2'] for row in rows]
    for row in rows:  # what has no unit does not change
        assert row['mean_probability'] > 0.5 and 0.9 < row['solidity'] <= 1
        assert row['eccentricity'] == pytest.approx(np.sqrt(
            1 - (row['minor_axis_px'] / row['major_axis_px']) ** 2), abs=0.01)
    assert all(polygon.is_valid for polygon in polygons)
    np.testing.assert_allclose([polygon.area for polygon in polygons], areas,
                               rtol=0.005)
    # A flag is believed before the file.
    asked = slides.Slide(str(tmp_path / 'in' / 'a.tif'))
    assert asked.microns_per_pixel() == pytest.approx(microns, rel=1e-3)


def test_a_slide_read_in_parts_is_the_image(tmp_path):
    image = np.random.RandomState(0).randint(0, 256, (700, 500, 3), np.uint8)
    write_slide(tmp_path / 'in' / 'a.tif', image)
    slide = slides.Slide(str(tmp_path / 'in' / 'a.tif'))
    assert slide.size == (700, 500)
    part = slice(100, 460), slice(130, 500)
    np.testing.assert_array_equal(slide.at((700, 500))[part], image[part])
    # Level 1 is a quarter; what is asked for decides.
    small, unread, _ = slide.read_whole((175, 125))
    np.testing.assert_array_equal(small, image[::4, ::4])
    assert not unread.any()
    half = slide.at((350, 250))
    together = np.empty((350, 250, 3), np.uint8)
    for rows in (slice(0, 130), slice(130, 350)):
        together[rows] = half[rows, slice(0, 250)]
    expected = np.array(Image.fromarray(image).resize((250, 350),
                                                      Image.BICUBIC))
    assert np.abs(together.astype(int) - expected).max() <= 1


def test_tiles_that_are_not_stored_are_white(tmp_path):
    path = tmp_path / 'in' / 'a.tif'
    write_slide(path, np.full((256, 256, 3), 99, np.uint8))
    omit_tiles(path, [1])
    found = slides.Slide(str(path)).at((256, 256))[:256, :256]
    expected = np.full((256, 256, 3), 99)
    expected[:128, 128:] = 255
    np.testing.assert_array_equal(found, expected)


# Large enough for blocks that do not see all of it.
@pytest.mark.parametrize('net, halo, height, width', [
    ('unet', 128, 384, 300), ('segnet', 128, 384, 300),
    ('deeplabv3', 256, 512, 160)])
def test_shifted_grids_have_the_same_nuclei(net, halo, height, width,
                                            tmp_path):
    image, _ = synthetic.make(np.random.RandomState(3), 512)
    write_slide(tmp_path / 'in' / 'a.tif', image[:height, :width])
    predictor = Predictor.load(f'checkpoints/pretrained/{net}',
                               average=False,
                               max_pixels=(2 * halo + 256) ** 2)
    assert predictor.halo == halo
    found = []
    for shift in (0, 128):
        plan = plan_of(tmp_path, predictor, shift=shift, out=f'{shift}')
        plan.predict(plan.left(0, 1))
        plan.merge()
        found.append(sorted(
            (geometry.shape(feature['geometry']).wkt, str(dict(
                feature['properties']['measurements'], Label=0)))
            for feature in features(
                tmp_path / f'{shift}' / 'a_nuclei.geojson')))
    assert len(found[0]) > 20
    assert found[0] == found[1]


def test_each_centroid_is_in_one_core():
    size = (3000, 2111)
    for shift in (0, 640, 1152):
        covered = np.zeros(size, int)
        for block in blocks.grid(size, 1536, 128, shift):
            covered[block.core] += 1
            for core, outer, length in zip(block.core, block.outer, size):
                assert outer.start == max(core.start - 128, 0)
                assert outer.start % 128 == 0
                assert outer.stop == min(core.stop + 128, length)
        assert (covered == 1).all()


@pytest.mark.parametrize('max_pixels, side', [
    (1536 ** 2, 1536), (2048 ** 2, 2048), (10 ** 8, 2048), (512 ** 2, 512),
    (640 ** 2 - 1, 512)])
def test_side_of_a_block(max_pixels, side):
    assert blocks.side_for(max_pixels, 128) == side


def test_blocks_that_are_too_small_are_refused():
    with pytest.raises(InputError, match='^--max_pixels 147455: .*147456$'):
        blocks.side_for(384 ** 2 - 1, 128)


def test_tissue():
    rng = np.random.RandomState(0)
    image = np.full((200, 300, 3), (243, 242, 246), float)
    image[20:80, 20:100] = (200, 120, 180)
    image[40:60, 40:60] = (243, 242, 246)  # a lumen
    image[100:180, 120:200] = (241, 229, 240)  # hardly stained
    image[120:160, 230:280] = (228, 227, 231)  # grey, as cartilage
    image = (image + rng.normal(0, 2, image.shape)).clip(0, 255).astype(
        np.uint8)
    mask = tissue.find_tissue(image)
    expected = np.zeros(mask.shape, bool)
    expected[20:80, 20:100] = True
    expected[100:180, 120:200] = True
    expected[120:160, 230:280] = True
    assert (mask == expected).mean() > 0.97
    assert mask[expected].mean() > 0.99
    # What fills the picture is not taken for glass.
    assert tissue.find_tissue(image[105:175, 125:195]).all()
    assert not tissue.find_tissue(image[:18]).any()
    # Nor is what was not scanned tissue, where it is black.
    image[:, 210:] = 0
    expected[:, 205:] = False
    assert (tissue.find_tissue(image) == expected).mean() > 0.97


def test_glass_within_what_was_not_scanned_is_no_tissue():
    image = np.zeros((300, 300, 3), np.uint8)
    image[50:250, 50:250] = GLASS
    assert not tissue.find_tissue(image).any()
    image[100:150, 100:150] = TISSUE
    mask = tissue.find_tissue(image)
    assert mask[100:150, 100:150].all() and mask.sum() < 56 ** 2
    assert not tissue.find_tissue(np.zeros((20, 20, 3), np.uint8)).any()


@pytest.mark.skipif(not slides.HAS_OPENSLIDE, reason='tiffslide has no '
                    'transparency')
def test_glass_beside_what_was_not_scanned_is_no_tissue(tmp_path):
    """Tiles that are not stored are white, and glass is darker than that."""
    image = np.full((1024, 1024, 3), 238, np.uint8)
    image[768:, :512] = TISSUE
    path = tmp_path / 'in' / 'a.tif'
    write_slide(path, image, downsamples=(1,))
    omit_tiles(path, range(8, 24))  # a quarter of 64
    plan = plan_of(tmp_path)
    expected = np.zeros((32, 32), bool)
    expected[24:, :16] = True
    found = tissue.find_tissue(*plan.slide.read_whole((32, 32))[::2])
    assert (found == expected).mean() > 0.97 and not found[:20].any()
    assert (plan.image[6:10] == 255).all()


def omit_tiles(path, numbers):
    """Makes tiles of a slide's first level ones that are not stored."""
    with tifffile.TiffFile(str(path)) as tif:
        places = [tif.pages[0].tags[name].valueoffset + 4 * number
                  for name in ('TileOffsets', 'TileByteCounts')
                  for number in numbers]
    with open(str(path), 'r+b') as file:
        for place in places:
            file.seek(place)
            file.write(bytes(4))


def test_a_slide_of_other_colours_is_said(tmp_path, capsys):
    image = np.zeros((512, 512, 3), np.uint8)
    image[100:300, 100:300] = np.multiply.outer(
        np.linspace(0.3, 1, 200 * 200).reshape(200, 200), (30, 40, 220))
    write_slide(tmp_path / 'in' / 'a.tif', image)
    assert run(tmp_path) == []
    assert 'a.tif: its colours are not those of H&E' in capsys.readouterr().err


def test_tissue_decides_on_blocks():
    mask = np.zeros((100, 100), bool)
    mask[50, 50] = True
    # A pixel of the mask is 32 of the slide.
    size = (3200, 3200)
    near = 32 * (50 - tissue.MARGIN)
    for stop, expected in ((near, False), (near + 1, True)):
        part = slice(0, stop), slice(1600, 1632)
        assert tissue.touches(mask, part, size) == expected
    near = 32 * (51 + tissue.MARGIN)
    for begin, expected in ((near, False), (near - 1, True)):
        part = slice(1600, 1632), slice(begin, 3200)
        assert tissue.touches(mask, part, size) == expected


def test_glass_alone_is_searched_and_said(tmp_path, capsys):
    write_slide(tmp_path / 'in' / 'a.tif',
                np.full((600, 600, 3), 244, np.uint8))
    assert run(tmp_path) == []
    told = capsys.readouterr()
    assert 'a.tif: no tissue found, so the whole slide is searched' in told.err
    assert 'a.tif: no nuclei, 0 per mm2 of tissue (0.0225 mm2)' in told.out
    record = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert record['blocks'] == 9 and record['median_area_um2'] is None
    assert features(tmp_path / 'out' / 'a_nuclei.geojson') == []


def test_tissue_alone_is_searched_unless_all_is(tmp_path):
    image = np.full((512, 2048, 3), GLASS, np.uint8)
    image[:, 1664:] = TISSUE
    image[200:220, 1700:1720] = NUCLEUS
    write_slide(tmp_path / 'in' / 'a.tif', image)
    # 80 micrometres are 320 pixels; cores have 256.
    for number, options in ((6, {}), (16, {'all_tissue': True})):
        assert run(tmp_path, out=str(number), **options) == []
        record = json.loads((tmp_path / str(number) / 'a.json').read_text())
        assert record['blocks'] == number
        assert record['nuclei'] == 1


def test_a_killed_prediction_goes_on(tmp_path, program):
    image, _ = synthetic.make(np.random.RandomState(0), 512)
    write_slide(tmp_path / 'in' / 'a.tif', np.hstack([image, image[:, :256]]))
    flags = ['--mode=predict', '--net=unet', '--noaverage',
             f'--images={tmp_path}/in', f'--max_pixels={SIDE ** 2}',
             '--max_whole_pixels=1']
    assert program(*flags, f'--output_dir={tmp_path}/whole').returncode == 0
    # It waits after the third block, when five may be there.
    process = start('3', f'{tmp_path}/never', *flags,
                    f'--output_dir={tmp_path}/killed', code=HELD)
    folder = tmp_path / 'killed' / 'a.blocks'
    wait_for(lambda: len(list(folder.glob('[0-9]*.npz'))) >= 2, process)
    process.kill()
    process.wait()
    there = len(list(folder.glob('[0-9]*.npz')))
    # As after a power failure.
    path = next(folder.glob('[0-9]*.npz'))
    path.write_bytes(path.read_bytes()[:100] + bytes(500))
    process = program(*flags, f'--output_dir={tmp_path}/killed')
    assert process.returncode == 0, process.stderr
    assert f'a.tif: {there - 1} of 6 blocks are there from before' in (
        process.stdout)
    assert contents(tmp_path / 'killed') == contents(tmp_path / 'whole')


def keep_blocks(folder, monkeypatch):
    """Makes each merge copy the blocks to folder/kept, as a kill leaves them.
    """
    before = blocks.Plan.merge

    def merge(plan):
        if os.path.exists(plan.folder):
            shutil.rmtree(str(folder / 'kept'), ignore_errors=True)
            shutil.copytree(plan.folder, str(folder / 'kept'))
        return before(plan)

    monkeypatch.setattr(blocks.Plan, 'merge', merge)


def test_blocks_of_other_settings_are_not_used(discs, capsys, monkeypatch):
    folder, _, centres = discs
    keep_blocks(folder, monkeypatch)
    assert run(folder) == []
    monkeypatch.undo()
    with pytest.raises(InputError, match='was not recorded, now .*a.blocks'):
        shutil.copytree(str(folder / 'kept'), str(folder / 'new/a.blocks'))
        run(folder, out='new')
    for threshold, said in ((0.5, True), (0.6, False)):
        shutil.copytree(str(folder / 'kept'), str(folder / 'out/a.blocks'))
        assert run(folder, Predictor(
            darkness, 32, threshold, SIDE ** 2, average=False),
            overwrite=True) == []
        assert ('are there from before' in capsys.readouterr().out) == said
        assert not (folder / 'out' / 'a.blocks').exists()
        assert len(centroids(folder / 'out' / 'a_nuclei.csv')) == len(centres)


def test_blocks_of_another_slide_of_this_name_stay(discs):
    folder, image, _ = discs
    plan = plan_of(folder)
    plan.predict(plan.blocks[:2])
    before = contents(folder / 'out' / 'a.blocks')
    write_slide(folder / 'other' / 'a.tif', image // 2)
    with pytest.raises(InputError, match='other/a.tif: its results would '):
        predict.predict_files(str(folder / 'other'),
                              str(folder / 'out'), PREDICTOR, all_tissue=True,
                              max_whole_pixels=1)
    assert contents(folder / 'out' / 'a.blocks') == before


def test_a_slide_that_is_damaged_later_is_skipped(discs, capsys):
    folder, *_ = discs
    assert run(folder) == []
    (folder / 'in' / 'a.tif').write_bytes(b'damaged')
    assert run(folder) == [str(folder / 'in' / 'a.tif')]
    assert 'a.tif: cannot be read' in capsys.readouterr().err


def test_a_kill_after_the_last_result_leaves_no_blocks(discs, monkeypatch):
    folder, *_ = discs
    keep_blocks(folder, monkeypatch)
    assert run(folder) == []
    before = contents(folder / 'out')
    kept = sorted((folder / 'kept').iterdir())
    (folder / 'kept' / '.lock').write_text('')
    for path in kept[:4]:
        path.unlink()
    (folder / 'kept').rename(folder / 'out' / 'a.blocks')
    assert run(folder) == []
    assert contents(folder / 'out') == before


def test_of_two_that_finish_one_merges(discs):
    folder, *_ = discs
    first, second = plan_of(folder), plan_of(folder)
    todo = second.left(0, 1)
    first.predict(first.left(0, 1))
    record = first.merge()
    assert record['nuclei'] == len(rows_of(folder / 'out/a_nuclei.csv'))
    before = contents(folder / 'out')
    # The other one is told its blocks before, and comes to them after.
    second.predict(todo)
    assert second.merge()['nuclei'] == record['nuclei']
    assert contents(folder / 'out') == before
    # It finishes a block when the folder is gone.
    second._write((todo[0], np.zeros((384, 384, 3), np.uint8),
                   np.zeros((2, 384, 384), np.uint8), [0, 0]))
    assert second.merge()['nuclei'] == record['nuclei']
    assert contents(folder / 'out') == before
    # One that opens the slide after that.
    third = plan_of(folder, overwrite=False)
    third.predict(todo)
    assert third.merge()['nuclei'] == record['nuclei']
    assert contents(folder / 'out') == before


@pytest.mark.parametrize('has_locks', [True, False])
def test_a_merge_while_another_merges(discs, has_locks, monkeypatch):
    folder, _, centres = discs
    first, second = plan_of(folder), plan_of(folder)
    first.predict(first.left(0, 1))
    said = []

    def no_lock(*_):
        raise OSError(errno.ENOLCK, 'no locks')

    def make_room(*arguments):
        monkeypatch.setattr(runs, 'make_room', before)
        said.append(second.merge())
        before(*arguments)

    if not has_locks:
        monkeypatch.setattr(fcntl, 'flock', no_lock)
    before = runs.make_room
    monkeypatch.setattr(runs, 'make_room', make_room)
    assert first.merge()['nuclei'] == len(centres)
    # With a lock the second leaves it to the first, without one it is done.
    assert [there and there['nuclei'] for there in said] == [
        None if has_locks else len(centres)]
    assert contents(folder / 'out') == contents_undisturbed(folder)


def test_a_damaged_part_is_named_and_the_rest_goes_on(discs, capsys):
    folder, _, centres = discs
    path = folder / 'in' / 'a.tif'
    whole = path.read_bytes()
    with tifffile.TiffFile(str(path)) as tif:
        page = tif.pages[0]
        # The tile of row 4 and column 3, from pixel (512, 384) on.
        tile = 4 * page.chunked[1] + 3
        place, count = page.dataoffsets[tile], page.databytecounts[tile]
    path.write_bytes(whole[:place] + b'\xa5' * count + whole[place + count:])
    (folder / 'in' / 'b.ndpi').write_bytes(b'no slide')
    assert run(folder) == [str(folder / 'in' / name)
                           for name in ('a.tif', 'b.ndpi')]
    told = capsys.readouterr().err
    assert f'error: {path}: damaged in level 0 at x = ' in told
    assert 'blocks of it cannot be read' in told
    said = ('cannot be opened as a slide' if slides.HAS_OPENSLIDE
            else 'this kind of slide needs TensorFlow 2.15')
    assert f'error: {folder}/in/b.ndpi: {said}' in told
    record = json.loads((folder / 'out' / 'a.json').read_text())
    skipped = record['blocks_skipped']
    assert '512_256' in skipped and len(skipped) < record['blocks']
    assert 0 < record['nuclei'] < len(centres)
    # The slide is copied again: it is another file, all of which is done.
    path.write_bytes(whole)
    (folder / 'in' / 'b.ndpi').unlink()
    for _ in range(2):
        assert run(folder) == []
        assert 'from before' not in capsys.readouterr().out
    with contextlib.suppress(FileNotFoundError):
        (folder / 'out' / 'b.json').unlink()
    assert run(folder, out='undisturbed') == []
    assert contents(folder / 'out') == contents(folder / 'undisturbed')


def damage_a_block(monkeypatch):
    before = slides.Slide.read_region

    def read_region(slide, level, x, y, width, height):
        if (x, y) == (128, 384) and height > 200:  # a block's
            raise InputError('the network drive is away')
        return before(slide, level, x, y, width, height)

    monkeypatch.setattr(slides.Slide, 'read_region', read_region)


def test_a_part_that_can_be_read_later_is_done_then(discs, capsys,
                                                    monkeypatch):
    folder, *_ = discs
    damage_a_block(monkeypatch)
    assert run(folder) == [str(folder / 'in' / 'a.tif')]
    record = json.loads((folder / 'out' / 'a.json').read_text())
    assert record['blocks_skipped'] == ['512_256']
    monkeypatch.undo()
    assert run(folder) == []
    assert f'{record["blocks"] - 1} of {record["blocks"]} blocks are' in (
        capsys.readouterr().out)
    assert run(folder, out='undisturbed') == []
    assert contents(folder / 'out') == contents(folder / 'undisturbed')


def test_a_slide_gets_no_mask(tmp_path):
    image, _ = tissue_with_discs()
    write_slide(tmp_path / 'in' / 'a.tif', image)
    with pytest.raises(InputError, match='--outputs: .*a.tif is a slide'):
        run(tmp_path, outputs=['mask'])
    assert not (tmp_path / 'out').exists()


def test_many_nuclei_are_gzipped(discs, monkeypatch):
    folder, _, centres = discs
    assert run(folder) == []
    plain = (folder / 'out' / 'a_nuclei.geojson').read_bytes()
    monkeypatch.setattr(writers, 'GZIP_ABOVE', len(centres) - 1)
    for _ in range(2):
        assert run(folder, overwrite=True) == []
        assert not (folder / 'out' / 'a_nuclei.geojson').exists()
        found = features(folder / 'out' / 'a_nuclei.geojson.gz')
        assert [feature['geometry'] for feature in found] == [
            feature['geometry'] for feature in json.loads(plain)['features']]


def test_what_is_larger_than_a_nucleus_is_said(tmp_path, capsys):
    image, _ = tissue_with_discs()
    rows, columns = np.ogrid[:600, :650]
    # 11 310 pixels of 0.0625 square micrometres.
    image[(rows - 450) ** 2 + (columns - 450) ** 2 <= 60 ** 2] = NUCLEUS
    write_slide(tmp_path / 'in' / 'a.tif', image)
    assert run(tmp_path) == []
    found = re.search('a.tif: a nucleus of (.*) square micrometres is larger',
                      capsys.readouterr().err)
    assert float(found.group(1)) >= 700
    record = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert list(record['warnings']) == ['largest']


@pytest.mark.parametrize('name', ['a.json', 'a_overview.jpg',
                                  'a_nuclei.geojson.gz'])
def test_files_of_others_are_kept(discs, name):
    folder, *_ = discs
    (folder / 'out').mkdir()
    (folder / 'out' / name).write_text('mine')
    with pytest.raises(InputError, match='was not written by predict'):
        run(folder)
    assert (folder / 'out' / name).read_text() == 'mine'


def test_user_files_among_the_blocks_are_kept(discs):
    folder, *_ = discs
    own = folder / 'out' / 'a.blocks'
    own.mkdir(parents=True)
    (own / 'notes.txt').write_text('mine')
    np.savez(str(own / '1_2.npz'), mine=1)
    (own / '3_4.npz').write_bytes(b'mine too')
    before = contents(own)
    assert run(folder, overwrite=True) == []
    assert contents(own) == before
    # One with the name of a block.
    (own / '1_2.npz').rename(own / '512_256.npz')
    before = contents(own)
    with pytest.raises(InputError, match='512_256.npz: was not written by'):
        run(folder, overwrite=True)
    assert contents(own) == before


def test_parts_of_other_settings_are_refused(discs):
    """Their blocks would wait for each other for ever."""
    folder, *_ = discs
    assert run(folder, part=(0, 2)) == []
    other = Predictor(darkness, 32, 0.6, SIDE ** 2, average=False)
    with pytest.raises(InputError, match='other settings .*--overwrite'):
        run(folder, other, part=(1, 2))
    # One that has begun before.
    plan = plan_of(folder)
    plan.run = plan.run._replace(part=(1, 2))
    assert run(folder, other, part=(1, 2), overwrite=True) == []
    with pytest.raises(InputError, match='says threshold 0.6, not 0.5'):
        plan.predict(plan.blocks)


def test_a_damaged_file_of_a_block_is_none(tmp_path):
    member, path = io.BytesIO(), str(tmp_path / '0_0.npz')
    np.save(member, 'the key')
    content = member.getvalue()
    for found, expected in (
            (content, {'key': 'the key'}), (content[:-1], {}),
            (content.replace(b"{'descr': ", b"{'descr': ("), {})):
        with zipfile.ZipFile(path, 'w') as file:
            file.writestr('key.npy', found)
        assert blocks.read_file(path) == expected
    # The array by itself.
    (tmp_path / '0_0.npz').write_bytes(content)
    assert blocks.read_file(path) == {}


def test_a_plan_travels_without_its_slide(discs):
    """A scheduler unpickles it, and may not see the slide."""
    folder, *_ = discs
    plan = plan_of(folder)
    path = folder / 'in' / 'a.tif'
    path.rename(folder / 'in' / 'b.tif')
    there = pickle.loads(pickle.dumps(plan))
    said = workers._predict_blocks(plan.run, there, plan.blocks)
    assert said.startswith(f'{path}: cannot be opened as a slide')
    (folder / 'in' / 'b.tif').rename(path)
    there = pickle.loads(pickle.dumps(plan))
    assert workers._predict_blocks(plan.run, there, plan.blocks) is None
    assert plan.missing() == []


def test_too_few_pixels_for_a_block_are_said_before_the_first_image(discs):
    folder, *_ = discs
    images.write_png(str(folder / 'in' / '0.png'),
                     np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match='--max_pixels .*small for a slide'):
        run(folder, Predictor(darkness, 32, max_pixels=383 ** 2))
    assert not (folder / 'out').exists()


@pytest.mark.filterwarnings('error:Glyph')
@pytest.mark.parametrize('title', ['a$_$b', '切片', 'a\udcff'])
def test_a_title_of_any_name(tmp_path, title, capsys):
    """It is no formula, and the font may lack its letters."""
    plan = types.SimpleNamespace(image=np.zeros((9, 9, 3), np.uint8),
                                 mask=np.ones((9, 9), bool))
    record = {'image': title, 'nuclei': 0, 'mm2': None}
    tissue.write_overview([str(tmp_path / 'a.jpg')], types.SimpleNamespace(
        plan=plan, record=record, density=lambda: np.ones((1, 1))))
    assert capsys.readouterr().err == ''


def test_what_is_a_slide(tmp_path):
    image = np.zeros((256, 300, 3), np.uint8)
    write_slide(tmp_path / 'in' / 'a.tif', image)
    tifffile.imwrite(str(tmp_path / 'strips.tif'), image, photometric='rgb')
    images.write_png(str(tmp_path / 'a.png'), image)
    (tmp_path / 'a.mrxs').write_bytes(b'')
    pixels = 256 * 300
    for name, largest, expected in (
            ('in/a.tif', pixels, False), ('in/a.tif', pixels - 1, True),
            ('strips.tif', 1, False), ('a.png', 1, False),
            ('a.mrxs', pixels, True), ('absent.tif', 1, False)):
        assert slides.is_slide(str(tmp_path / name), largest) == expected
    # What OpenSlide alone reads.
    path = tmp_path / 'a.svs'
    write_slide(path, image, downsamples=(1,), description='Aperio Image')
    assert not slides.is_slide(str(path))
    path.write_bytes(with_tag(path.read_bytes(), 259, 33003))
    assert slides.is_slide(str(path)) == slides.HAS_OPENSLIDE


def test_a_slide_without_resolution_needs_a_flag(tmp_path, capsys):
    image, centres = tissue_with_discs()
    path = tmp_path / 'in' / 'a.tif'
    write_slide(path, image, 1e4)  # of no microscope
    assert run(tmp_path) == [str(path)]
    assert (f'error: {path}: states no resolution; give it, e.g. '
            '--magnification=40') in capsys.readouterr().err
    assert run(tmp_path, microns_per_pixel=0.25) == []
    assert len(centroids(tmp_path / 'out' / 'a_nuclei.csv', 'um')) == len(
        centres)


@pytest.mark.skipif(sys.version_info >= (3, 9), reason='OpenSlide reads all')
def test_what_python_3_7_does_not_read(tmp_path, capsys):
    image = np.zeros((256, 256, 3), np.uint8)
    write_slide(tmp_path / 'in' / 'a.tif', image, compression='jpeg2000')
    (tmp_path / 'in' / 'b.mrxs').write_bytes(b'any')
    # One that fits is read whole, without tiffslide.
    assert run(tmp_path) == [str(tmp_path / 'in' / 'b.mrxs')]
    assert (tmp_path / 'out' / 'a_mask.png').exists()
    assert ('b.mrxs: this kind of slide needs TensorFlow 2.15; run "ENGINE='
            'tf2 ./run.sh setup", then') in capsys.readouterr().err
    with pytest.raises(InputError, match='a.tif: .*ENGINE=tf2'):
        slides.Slide(str(tmp_path / 'in' / 'a.tif'))


@pytest.mark.parametrize('pages', [
    lambda image: [image] * 2,  # planes
    lambda image: [*np.moveaxis(image, 2, 0)],  # channels
    lambda image: [image[::4, ::4], image]])  # an overview
def test_a_slide_is_the_only_large_image_of_its_file(
        tmp_path, capsys, monkeypatch, pages):
    image, centres = tissue_with_discs()
    pages = pages(image)
    (tmp_path / 'in').mkdir()
    with tifffile.TiffWriter(str(tmp_path / 'in/a.tif')) as tif:
        for page in pages:
            tif.write(np.ascontiguousarray(page), tile=(128, 128),
                      photometric='rgb' if page.ndim == 3 else 'minisblack')
    overview = len(pages[0]) < len(pages[1])
    assert bool(run(tmp_path, microns_per_pixel=0.25)) != overview
    if overview:  # read as a whole
        assert centroids(tmp_path / 'out/a_nuclei.csv') == centres
    else:
        assert f'{len(pages)} images of about one size' in (
            capsys.readouterr().err)
    # Too large to be read as a whole.
    monkeypatch.setattr(images.tiff, 'MAX_IMAGE_PIXELS', 1)
    assert run(tmp_path, out='large', microns_per_pixel=0.25)
    assert 'images of about 650 x 600 pixels, and the first' in (
        capsys.readouterr().err)


def test_an_overview_with_a_damaged_part(discs, capsys):
    """The part is searched, and is no tissue; the slide is not done."""
    folder, image, centres = discs
    path = folder / 'in' / 'a.tif'
    write_slide(path, image, downsamples=(1,))
    content = path.read_bytes()
    with tifffile.TiffFile(str(path)) as tif:  # the first tile, on glass
        place, count = (of[0] for of in (tif.pages[0].dataoffsets,
                                         tif.pages[0].databytecounts))
    path.write_bytes(content[:place] + b'\xa5' * count
                     + content[place + count:])
    assert run(folder) == [str(path)]
    assert (f'error: {path}: 1 block of it cannot be read, and their nuclei '
            'are not in the results; its overview cannot be read whole, so '
            'the area of its tissue is not known; copy it again'
            ) in capsys.readouterr().err
    record = json.loads((folder / 'out' / 'a.json').read_text())
    assert record['blocks_skipped'] == ['0_0', 'overview']
    assert record['nuclei'] == len([1 for y, x in centres
                                    if y >= 256 or x >= 256])
    assert record['mm2'] is None and record['nuclei_per_mm2'] is None
