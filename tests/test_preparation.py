"""From files on disk to stores, on small real files."""
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, SECONDS, one_line, run
from input_pipeline import annotations
from input_pipeline import images
from input_pipeline import monuseg
from input_pipeline import prepare
from input_pipeline import store
from input_pipeline.files import InputError

SIDE = 300  # of the images below, pixels


def pixels(seed, side=SIDE):
    return np.random.RandomState(seed).randint(0, 256, (side, side, 3),
                                               np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_tiff(path, array):
    return save(path, array, compression='tiff_lzw')


def save_xml(path, *outlines):
    """Writes outlines of (row, column) as ImageScope does."""
    regions = ''.join(
        '<Region><Vertices>' + ''.join(
            f'<Vertex X="{column}" Y="{row}"/>' for row, column in outline)
        + '</Vertices></Region>' for outline in outlines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('<Annotations><Annotation><Regions>'
                    f'{regions}</Regions></Annotation></Annotations>')
    return path


def square(top, left, bottom, right):
    return [(top, left), (top, right), (bottom, right), (bottom, left)]


NUCLEUS = square(9.5, 19.5, 29.5, 59.5)  # rows 10 to 29, columns 20 to 59


def training_data(folder, count):
    """Writes the training archive's layout: count images, one nucleus each."""
    for index in range(count):
        save_tiff(folder / 'Tissue Images' / f'TCGA-{index}.tif',
                  pixels(index))
        save_xml(folder / 'Annotations' / f'TCGA-{index}.xml', NUCLEUS)
    return folder


def pack(archive, folder):
    """Packs a folder as macOS does, with its own litter."""
    with zipfile.ZipFile(archive, 'w') as file:
        for path in sorted(folder.rglob('*')):
            name = path.relative_to(folder.parent)
            file.write(path, name)
            if path.is_file():
                file.writestr(f'__MACOSX/{name.parent}/._{name.name}', b'no')
    return archive


def message(function, *arguments):
    """Returns the one line that a user sees."""
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert '\n' not in str(caught.value)
    return str(caught.value)


# Images and masks


def test_image_formats(tmp_path):
    rgb = pixels(0, 40)
    rgba = np.dstack([rgb, rgb[..., 0]])
    for path in (save_tiff(tmp_path / 'lzw.tif', rgb),
                 save(tmp_path / 'rgb.png', rgb),
                 save(tmp_path / 'rgba.png', rgba),
                 save_tiff(tmp_path / 'alpha, π.tiff', rgba)):
        image = images.read_image(path)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, rgb)
    grey = images.read_image(save(tmp_path / 'grey.png', rgb[..., 0]))
    np.testing.assert_array_equal(grey, rgb[..., [0, 0, 0]])


def test_jpeg_is_close(tmp_path):
    rgb = np.full((32, 32, 3), (200, 120, 160), np.uint8)
    image = images.read_image(save(tmp_path / 'a.jpg', rgb))
    np.testing.assert_allclose(image, rgb, atol=4)


@pytest.mark.parametrize('compression', [None, 'tiff_lzw'])
def test_first_page(tmp_path, compression):
    first, second = pixels(0, 40), pixels(1, 40)
    path = save(tmp_path / 'pages.tif', first, compression=compression,
                save_all=True, append_images=[Image.fromarray(second)])
    np.testing.assert_array_equal(images.read_image(path), first)


@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_deep_grey_is_refused(tmp_path, dtype):
    path = save(tmp_path / 'deep.tif', pixels(0, 40)[..., 0].astype(dtype))
    assert str(path) in message(images.read_image, path)


@pytest.mark.parametrize('ending', ['tif', 'png', 'jpg'])
@pytest.mark.parametrize('share', [0, 0.5, 0.95])
def test_truncated_image(tmp_path, ending, share):
    options = {'compression': 'tiff_lzw'} if ending == 'tif' else {}
    path = save(tmp_path / f'cut.{ending}', pixels(0, 100), **options)
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    assert f'{path}: cannot be read' in message(images.read_image, path)


def test_missing_image(tmp_path):
    path = tmp_path / 'none.tif'
    assert 'No such file' in message(images.read_image, path)


@pytest.mark.parametrize('nucleus', [1, 255])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_mask_variants(tmp_path, nucleus, channels):
    expected = np.array([[0, 1, 1], [1, 0, 0]], bool)
    array = np.repeat((expected * nucleus).astype(np.uint8)[..., np.newaxis],
                      channels, axis=-1)
    if channels == 4:
        array[..., 3] = 255
    mask = images.read_mask(save(tmp_path / 'mask.png', array.squeeze()))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)


def test_one_bit_and_empty_masks(tmp_path):
    expected = np.array([[False, True]])
    np.testing.assert_array_equal(
        images.read_mask(save(tmp_path / 'bit.png', expected)), expected)
    empty = images.read_mask(save(tmp_path / 'empty.png',
                                  np.zeros((2, 2), np.uint8)))
    assert not empty.any()


@pytest.mark.parametrize('values', [(0, 1, 2), (0, 128), (0, 1, 255)])
def test_masks_with_other_values(tmp_path, values):
    path = save(tmp_path / 'm.png', np.array([values], np.uint8))
    assert 'no binary mask' in message(images.read_mask, path)


# Outlines


def inside(outline, row, column):
    """Counts crossings of a ray that goes down from a point.

    Integer arithmetic: vertices and points are multiples of a unit. A centre
    on an upper or a vertical left side is in, on other sides out.
    """
    odd = False
    for (row1, column1), (row2, column2) in zip(
            outline, outline[1:] + outline[:1]):
        if (column1 > column) == (column2 > column):
            continue
        # row < row1 + (column - column1) * (row2 - row1) / (column2 - column1)
        left = (row - row1) * (column2 - column1)
        right = (column - column1) * (row2 - row1)
        odd ^= left < right if column2 > column1 else left > right
    return odd


def test_square_through_pixel_centres():
    # Upper and left sides are in, lower and right sides are out.
    instances = annotations.fill([np.array(square(1., 1, 4, 3))], 6, 5)
    assert instances.dtype == np.int32
    np.testing.assert_array_equal(instances, [[0, 0, 0, 0, 0],
                                              [0, 1, 1, 0, 0],
                                              [0, 1, 1, 0, 0],
                                              [0, 1, 1, 0, 0],
                                              [0, 0, 0, 0, 0],
                                              [0, 0, 0, 0, 0]])


def test_triangle_between_pixel_centres():
    triangle = np.array([(0.5, 0.5), (4.5, 0.5), (4.5, 4.5)])
    # The diagonal runs through the centres with row == column, on the upper
    # side of the triangle: those are in.
    np.testing.assert_array_equal(annotations.fill([triangle], 6, 6),
                                  [[0, 0, 0, 0, 0, 0],
                                   [0, 1, 0, 0, 0, 0],
                                   [0, 1, 1, 0, 0, 0],
                                   [0, 1, 1, 1, 0, 0],
                                   [0, 1, 1, 1, 1, 0],
                                   [0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize('seed', range(20))
def test_random_outlines(seed):
    rng = np.random.RandomState(seed)
    # Vertices on a grid of half pixels, in and around an image of 12 x 15.
    outline = [tuple(map(int, vertex))
               for vertex in rng.randint(-8, 36, (rng.randint(3, 9), 2))]
    expected = [[inside(outline, 2 * row, 2 * column) for column in range(15)]
                for row in range(12)]
    np.testing.assert_array_equal(
        annotations.fill([np.array(outline) / 2], 12, 15), expected)


def test_outlines_are_clipped_and_the_earlier_wins():
    outlines = [np.array(square(-5.5, -5.5, 1.5, 1.5)),
                np.array(square(0.5, 0.5, 3.5, 9.5)),
                np.array(square(20.5, 20.5, 30.5, 30.5))]
    np.testing.assert_array_equal(annotations.fill(outlines, 4, 4),
                                  [[1, 1, 0, 0],
                                   [1, 1, 2, 2],
                                   [0, 2, 2, 2],
                                   [0, 2, 2, 2]])


def test_parse(tmp_path):
    path = save_xml(tmp_path / 'a.xml', [(1, 2), (3.25, 4), (5, 6)],
                    [(1, 1), (2, 2)])
    outline, = annotations.parse(path.read_bytes(), path)
    np.testing.assert_array_equal(outline, [(1, 2), (3.25, 4), (5, 6)])


@pytest.mark.parametrize('text', [
    '', '<Annotations><Region>', '<?xml version="1.0" encoding="none"?><a/>',
    '<a><Region><Vertex X="1"/></Region></a>',
    '<a><Region><Vertex X="1" Y="one"/></Region></a>',
    '<a><Region>' + 3 * '<Vertex X="1" Y="nan"/>' + '</Region></a>',
    '<a/>'])
def test_malformed_xml(text):
    assert message(annotations.parse, text.encode(), 'a b.xml').startswith(
        'a b.xml: ')


# The layouts of MoNuSeg


def test_training_layout_prefers_outlines(tmp_path):
    data = training_data(tmp_path / 'données 1' / 'latest', 2)
    for index in range(2):
        save(data / 'Binary_masks' / f'TCGA-{index}.png',
             np.zeros((SIDE, SIDE), np.uint8))
    (data / 'Annotations' / 'TCGA-1.xml').unlink()
    (data / 'Tissue Images' / '.DS_Store').write_bytes(b'')
    for folder in (data, data.parent):
        first, second = monuseg.find(folder)
        assert (first.name, first.split) == ('TCGA-0', 'training')
        assert (second.name, second.split) == ('TCGA-1', 'training')
        image, mask, instances = monuseg.load(first)
        np.testing.assert_array_equal(image, pixels(0))
        assert mask.dtype == bool and instances.dtype == np.int32
        assert mask.sum() == 20 * 40 and mask[10:30, 20:60].all()
        np.testing.assert_array_equal(instances, mask)
        _, mask, instances = monuseg.load(second)
        assert not mask.any() and instances is None


def test_test_layout(tmp_path):
    for folder in (tmp_path / 'MoNuSegTestData', tmp_path / 'given'):
        save_tiff(folder / 'TCGA-9.tif', pixels(9))
        save_xml(folder / 'TCGA-9.xml', NUCLEUS)
        entry, = monuseg.find(folder)
        assert (entry.name, entry.split) == ('TCGA-9', 'test')
        assert monuseg.load(entry)[1].sum() == 20 * 40


def test_ground_truth_layout(tmp_path):
    for part, name in (('Training', 'A'), ('Test', 'B')):
        folder = tmp_path / 'latest' / part
        save_tiff(folder / 'TissueImages' / f'{name}.tif', pixels(0))
        mask = np.zeros((SIDE, SIDE, 3), np.uint8)
        mask[10:30, 20:60] = 255
        save(folder / 'GroundTruth' / f'{name}_bin_mask.png', mask)
    assert [(entry.name, entry.split)
            for entry in monuseg.find(tmp_path / 'latest')] == [
                ('A', 'training'), ('B', 'test')]
    entry, = monuseg.find(tmp_path / 'latest' / 'Test')
    assert entry.split == 'test'
    _, mask, instances = monuseg.load(entry)
    assert mask.sum() == 20 * 40 and mask[10:30, 20:60].all()
    assert instances is None


def test_archives(tmp_path):
    data = training_data(tmp_path / 'away' / 'MoNuSeg 2018 Training Data', 2)
    given = tmp_path / 'given'
    given.mkdir()
    archive = pack(given / 'first.zip', data)
    test = tmp_path / 'away' / 'MoNuSegTestData'
    save_tiff(test / 'TCGA-9.tif', pixels(9))
    save_xml(test / 'TCGA-9.xml', NUCLEUS)
    pack(given / 'second.zip', test)
    (given / '._second.zip').write_bytes(b'macOS')
    files = sorted(tmp_path.rglob('*'))

    assert [entry.split for entry in monuseg.find(archive)] == [
        'training', 'training']
    entries = monuseg.find(given)
    assert [(entry.name, entry.split) for entry in entries] == [
        ('TCGA-0', 'training'), ('TCGA-1', 'training'), ('TCGA-9', 'test')]
    image, mask, _ = monuseg.load(entries[1])
    np.testing.assert_array_equal(image, pixels(1))
    assert mask.sum() == 20 * 40
    # Unpacked beside its archive, each image still counts once.
    training_data(given / 'MoNuSeg 2018 Training Data', 2)
    assert [len(entry.image) for entry in monuseg.find(given)] == [1, 1, 2]
    # Nothing was unpacked to disk.
    assert [path for path in sorted(tmp_path.rglob('*'))
            if 'MoNuSeg 2018 Training Data' not in str(path)] == [
                path for path in files
                if 'MoNuSeg 2018 Training Data' not in str(path)]


def test_absent_or_unknown_data(tmp_path):
    assert 'no such folder' in message(monuseg.find, tmp_path / 'none')
    assert 'Tissue Images/NAME.tif' in message(monuseg.find, tmp_path)
    archive = tmp_path / 'cut.zip'
    archive.write_bytes(b'PK\3\4 and no more')
    for given in (tmp_path, archive):
        assert f'{archive}: no whole zip' in message(monuseg.find, given)


def test_damaged_archive_member(tmp_path):
    data = training_data(tmp_path / 'Training', 1)
    archive = pack(tmp_path / 'a.zip', data)
    stored = (data / 'Tissue Images' / 'TCGA-0.tif').read_bytes()
    packed = archive.read_bytes()
    archive.write_bytes(packed.replace(stored, stored[:-1] + b'?'))
    entry, = monuseg.find(archive)
    assert 'a.zip/Training/Tissue Images/TCGA-0.tif' in message(
        monuseg.load, entry)


def test_an_archive_reaches_nothing_outside_and_fills_no_memory(tmp_path):
    """Members named outside the archive are read as members, and only so."""
    outside = training_data(tmp_path / 'outside', 2)
    archive = tmp_path / 'given' / 'Training.zip'
    archive.parent.mkdir()
    with zipfile.ZipFile(str(archive), 'w', zipfile.ZIP_DEFLATED) as file:
        # Its annotation lies outside alone.
        file.write(str(outside / 'Tissue Images/TCGA-1.tif'),
                   '../../outside/Tissue Images/TCGA-1.tif')
    before = sorted(tmp_path.rglob('*'))
    assert 'TCGA-1.tif: no annotation' in message(monuseg.find, archive)
    assert sorted(tmp_path.rglob('*')) == before
    with zipfile.ZipFile(str(archive), 'w', zipfile.ZIP_DEFLATED,
                         compresslevel=1) as file:
        with file.open('Tissue Images/big.tif', 'w',
                       force_zip64=True) as member:
            for _ in range(1025):
                member.write(bytes(2 ** 20))
        file.writestr('Annotations/big.xml', '')
    entry, = monuseg.find(archive)
    assert 'big.tif: cannot be read (unpacks to more than' in message(
        monuseg.load, entry)


def test_image_without_annotation(tmp_path):
    data = training_data(tmp_path / 'Training', 2)
    (data / 'Annotations' / 'TCGA-1.xml').unlink()
    said = message(monuseg.find, data)
    assert 'TCGA-1.tif: no annotation' in said
    assert 'Annotations/TCGA-1.xml' in said


def test_image_in_both_splits(tmp_path):
    training_data(tmp_path / 'given' / 'Training', 1)
    training_data(tmp_path / 'given' / 'Test', 1)
    assert 'TCGA-0.tif: also a' in message(monuseg.find, tmp_path / 'given')


def test_a_name_that_is_not_utf_8(tmp_path):
    with open(os.fsencode(tmp_path) + b'/caf\xe9.tif', 'wb'):
        pass
    assert "caf\\udce9.tif': the name is not UTF-8" in message(
        monuseg.find, str(tmp_path))


def test_two_images_of_one_name(tmp_path):
    folders = [tmp_path / 'Training' / part for part in ('a', 'b')]
    for folder in folders:
        training_data(folder, 1)
    # The same image twice is one, with outlines where either copy has them.
    (folders[0] / 'Annotations' / 'TCGA-0.xml').unlink()
    save(folders[0] / 'Binary_masks' / 'TCGA-0.png',
         np.zeros((SIDE, SIDE), np.uint8))
    entry, = monuseg.find(tmp_path)
    assert entry.annotation[0].endswith('b/Annotations/TCGA-0.xml')
    save_tiff(folders[1] / 'Tissue Images' / 'TCGA-0.tif', pixels(1))
    said = message(monuseg.find, tmp_path)
    assert 'a/Tissue Images/TCGA-0.tif of the same name' in said


@pytest.mark.parametrize('folder, split', [
    ('TRAINING', 'training'), ('TEST', 'test'), ('MoNuSegTestData', 'test'),
    ('my_test', 'test'), ('latest', 'training'), ('CONTEST', 'training')])
def test_split_by_the_folders_name(tmp_path, folder, split):
    path = tmp_path / 'x' / folder
    save_tiff(path / 'TissueImages' / 'A.tif', pixels(0))
    save(path / 'GroundTruth' / 'A_bin_mask.png',
         np.zeros((SIDE, SIDE), np.uint8))
    entry, = monuseg.find(tmp_path / 'x')
    assert entry.split == split


def test_mask_of_another_size(tmp_path):
    folder = tmp_path / 'Training'
    save_tiff(folder / 'TissueImages' / 'A.tif', pixels(0, 40))
    save(folder / 'GroundTruth' / 'A_bin_mask.png',
         np.zeros((40, 39), np.uint8))
    entry, = monuseg.find(folder)
    said = message(monuseg.load, entry)
    assert 'A_bin_mask.png: 40 x 39' in said and '40 x 40' in said


def test_a_mask_with_nuclei_and_background_exchanged(tmp_path):
    folder = tmp_path / 'Training'
    save_tiff(folder / 'TissueImages' / 'A.tif', pixels(0, 40))
    mask = np.full((40, 40), 255, np.uint8)
    mask[:10] = 0
    save(folder / 'GroundTruth' / 'A_bin_mask.png', mask)
    entry, = monuseg.find(folder)
    assert 'A_bin_mask.png: nuclei cover 75% of the image' in message(
        monuseg.load, entry)
    save(folder / 'GroundTruth' / 'A_bin_mask.png', 255 - mask)
    assert monuseg.load(entry)[1].mean() == 0.25


@pytest.mark.skipif('MONUSEG_DIR' not in os.environ,
                    reason='MONUSEG_DIR does not name MoNuSeg')
def test_outlines_fill_to_the_published_masks():
    compared = 0
    for entry in monuseg.find(os.environ['MONUSEG_DIR']):
        path = entry.annotation[0].replace('Annotations', 'Binary_masks')
        path = path.replace('.xml', '.png')
        if path == entry.annotation[0] or not os.path.exists(path):
            continue
        _, mask, _ = monuseg.load(entry)
        published = images.read_mask(path)
        dice = (2 * (mask & published).sum()
                / (mask.sum() + published.sum()))
        assert dice >= 0.999, entry.name
        compared += 1
    assert compared


# Stores


@pytest.mark.parametrize('length, origins', [
    (1000, [0, 205, 410, 615, 744]), (256, [0]), (257, [0, 1]),
    (461, [0, 205]), (462, [0, 205, 206])])
def test_patch_origins(length, origins):
    assert store.patch_origins(length, 256, 0.2) == origins


def test_patch_origins_without_overlap():
    assert store.patch_origins(70, 32, 0) == [0, 32, 38]


def written_store(path):
    """Writes a store of one image with instances and one without."""
    mask = np.zeros((SIDE, 256), bool)
    mask[290:, 100:110] = True
    examples = [('ä b', pixels(0)[:, :256], mask, None),
                ('c', pixels(1)[:256], mask.T[:, :SIDE],
                 mask.T.astype(np.int32) * 7)]
    assert store.write_store(str(path), {'seed': 3}, examples) == 4
    return examples


def test_store_holds_what_was_written(tmp_path):
    path = tmp_path / 'train.h5'
    examples = written_store(path)
    with store.open_store(path) as file:
        assert file.attrs['schema_version'] == 2 and file.attrs['seed'] == 3
        assert store.image_names(file) == ['ä b', 'c']
        assert store.image_digests(file) == [
            hashlib.sha1(b''.join(bytes(pixel) for row in image
                                  for pixel in row)).hexdigest()
            for _, image, _, _ in examples]
        for (name, image, mask), example in zip(store.whole_images(file),
                                                examples):
            assert name == example[0]
            np.testing.assert_array_equal(image, example[1])
            np.testing.assert_array_equal(mask, example[2])
            assert mask.dtype == np.uint8
        assert 'instances' not in file['images/0']
        assert file['images/1/instances'][105, 295] == 7
        # 300 pixels: patches at 0 and at 300 - 256 = 44.
        np.testing.assert_array_equal(
            file['patches/positions'],
            [(0, 0, 0), (0, 44, 0), (1, 0, 0), (1, 0, 44)])
        np.testing.assert_array_equal(file['patches/images'][1],
                                      examples[0][1][44:])
        np.testing.assert_array_equal(file['patches/masks'][1, ..., 0],
                                      examples[0][2][44:])
        assert file['patches/images'].chunks == (1, 256, 256, 3)


def test_image_smaller_than_a_patch(tmp_path):
    small = [('tiny', pixels(0, 255), np.zeros((255, 255), bool), None)]
    assert message(store.write_store, str(tmp_path / 'a.h5'), {},
                   small).startswith('tiny: 255 x 255')


def test_the_command_named_for_an_absent_store_makes_it(tmp_path):
    data = training_data(tmp_path / 'Training', 2)
    path = tmp_path / 'out put' / 'train.h5'
    line = message(store.open_store, path)
    assert line.startswith(f'{path}: not there; prepare with ')
    command = re.search(r'python main.py .*--monuseg_dir=DIR', line).group()
    process = run('bash', '-c', command.replace('python', sys.executable, 1)
                  .replace('DIR', f"'{data}'"))
    assert process.returncode == 0, process.stderr
    with store.open_store(path) as file:
        assert len(store.image_names(file)) == 1


HOLD_OPEN = '''
import sys
import h5py
with h5py.File(sys.argv[1], 'r+'):
    print('open', flush=True)
    sys.stdin.read()
'''


def test_a_store_in_use_is_not_called_damaged(tmp_path):
    path = tmp_path / 'train.h5'
    written_store(path)
    process = subprocess.Popen([sys.executable, '-c', HOLD_OPEN, str(path)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b'open\n'
        for function in (store.open_store, store.check_replaceable):
            line = message(function, path)
            assert line.startswith(f'{path}: in use by another program')
            assert 'delete' not in line
    finally:
        process.communicate()
    store.open_store(path).close()


def test_a_store_that_cannot_be_read_is_not_called_damaged(tmp_path):
    path = tmp_path / 'a.h5'
    path.mkdir()
    line = message(store.open_store, path)
    assert f'{path}: cannot be read (Is a directory)' in line
    assert 'delete' not in line
    path.rmdir()
    # A file of which every read from the start fails with EIO.
    path.symlink_to('/proc/self/mem')
    line = message(store.open_store, path)
    assert f'{path}: cannot be read (Input/output error)' in line
    assert 'delete' not in line


def test_a_store_must_be_the_one_asked_for(tmp_path):
    path = tmp_path / 'validation.h5'
    image = pixels(0)
    mask = np.zeros((SIDE, SIDE), bool)
    store.write_store(
        str(path), {'source': 'MoNuSeg', 'source_digest': 'd', 'seed': 3,
                    'fold': '1'},
        [(name, pixels(seed), mask, None)
         for seed, name in enumerate(('a', 'b', 'c'))])
    digests = [hashlib.sha1(pixels(seed).tobytes()).hexdigest()
               for seed in range(4)]
    assert store.pixel_digest(image) == digests[0]
    identity = {'data_source': 'MoNuSeg', 'data_digest': 'd', 'data_seed': 3,
                'data_fold': '1'}
    store.open_store(path).close()
    store.open_store(path, identity, digests[3:], digests[:3]).close()
    for key, value in (('data_source', 'synthetic sample'),
                       ('data_digest', 'e'), ('data_seed', 4),
                       ('data_fold', '0')):
        line = message(store.open_store, path, dict(identity, **{key: value}))
        assert line.startswith(f'{path}: made from other images, or by '
                               'another division')
    for wrong in ([], digests[:2], digests, digests[1:3] + digests[:1]):
        assert 'other images' in message(store.open_store, path, None, (),
                                         wrong)
    line = message(store.open_store, path, identity, digests[1:])
    assert (f'{path}: holds images that are trained on, 2 of them (b, ...); '
            'prepare both together with python main.py --mode=prepare '
            f'--data_dir={tmp_path} ' in line)
    # Nothing was left open: h5py could not open it to write.
    h5py.File(str(path), 'a').close()


def test_damaged_store(tmp_path):
    path = tmp_path / 'a.h5'
    written_store(path)
    data = path.read_bytes()
    for damaged in (data[:len(data) // 2], b'', b'no HDF5'):
        path.write_bytes(damaged)
        assert f'{path}: not a whole HDF5' in message(store.open_store, path)


def alter(path, change):
    with h5py.File(str(path), 'r+') as file:
        change(file)


def replace(name, array):
    def change(file):
        del file[name]
        file[name] = array
    return change


def rename_first(name):
    def change(file):
        file['names'][0] = name
    return change


@pytest.mark.parametrize('change, said', [
    (lambda file: file.attrs.update(schema_version=1), 'schema version 1'),
    (lambda file: file.attrs.pop('schema_version'), 'schema version None'),
    (lambda file: file.pop('names'), 'names is missing'),
    (lambda file: file.pop('patches'), 'patches/images is missing'),
    (lambda file: file.pop('images/1/mask'), 'images/1/mask is missing'),
    (replace('patches/masks', np.zeros((4, 256, 256, 1))), 'float64'),
    (replace('patches/masks', np.zeros((3, 256, 256, 1), np.uint8)), '(3,'),
    (replace('images/0/mask', np.zeros((9, 9), np.uint8)), '(9, 9)'),
    (lambda file: [file[f'patches/{name}'].resize(0, axis=0)
                   for name in file['patches']], 'no images'),
    *((rename_first(name), 'no file name')
      for name in (b'../a', b'/a', b'..', b''))])
def test_store_of_another_schema(tmp_path, change, said):
    path = tmp_path / 'a.h5'
    written_store(path)
    alter(path, change)
    line = message(store.open_store, path)
    assert said in line and str(path) in line


@pytest.mark.parametrize('kind', ['link', 'external', 'virtual'])
def test_a_store_cannot_make_other_files_be_read(tmp_path, kind):
    path, other, raw = [tmp_path / name for name in ('a.h5', 'b.h5', 'raw')]
    written_store(path)
    written_store(other)
    raw.write_bytes(bytes(SIDE * 256))
    name, shape = 'images/0/mask', (SIDE, 256)

    def change(file):
        del file[name]
        if kind == 'link':
            file[name] = h5py.ExternalLink(str(other), name)
        elif kind == 'external':
            file.create_dataset(name, shape, np.uint8,
                                external=[(str(raw), 0, SIDE * 256)])
        else:
            layout = h5py.VirtualLayout(shape, np.uint8)
            layout[:] = h5py.VirtualSource(str(other), name, shape, np.uint8)
            file.create_virtual_dataset(name, layout)

    alter(path, change)
    assert f'{name} lies in another file' in message(store.open_store, path)


# The whole of it


def contents(folder):
    """Maps the stores in a folder to the names they hold."""
    found = {}
    for path in sorted(folder.glob('*.h5')):
        with store.open_store(path) as file:
            found[path.name] = store.image_names(file)
    return found


def test_30_images_divide_22_to_8_by_the_seed():
    entries = [monuseg.Entry(f'{index:02}', 'training', None, None)
               for index in range(30)]
    entries += [monuseg.Entry('test', 'test', None, None)]
    splits = prepare.assign_splits(entries, 0, '0')
    assert {name: len(chosen) for name, chosen in splits.items()} == {
        'train': 22, 'validation': 8, 'test': 1}
    assert sorted(sum(splits.values(), [])) == sorted(entries)
    assert prepare.assign_splits(entries, 0, '0') == splits
    assert prepare.assign_splits(entries, 1, '0') != splits
    assert 'test' not in prepare.assign_splits(entries[:-1], 0, '0')


def test_folds_take_one_of_each_four_and_all_in_all_each_image_once():
    entries = [monuseg.Entry(f'{index:02}', 'training', None, None)
               for index in range(30)]
    held_out = [prepare.assign_splits(entries, 3, fold)['validation']
                for fold in '0123']
    assert sorted(sum(held_out, [])) == entries
    # Seven whole fours, and of the last two images one each.
    assert [len(fold) for fold in held_out] == [8, 8, 7, 7]
    for fold in held_out:
        assert ([int(entry.name) // 4 for entry in fold]
                == list(range(len(fold))))
    assert prepare.assign_splits(entries, 3, 'none') == {'train': entries}


@pytest.mark.parametrize('count, fold, needed', [
    (1, '0', 2), (1, '1', 2), (3, '3', 4), (0, 'none', 1)])
def test_too_few_training_images(count, fold, needed):
    entries = [monuseg.Entry(str(index), 'training', None, None)
               for index in range(needed)]
    assert prepare.assign_splits(entries, 0, fold)['train']
    entries = entries[:count]
    assert (f'{count} training images found, --fold={fold} needs {needed};'
            in message(prepare.assign_splits, entries, 0, fold))


def test_too_few_training_images_write_nothing(tmp_path):
    data = training_data(tmp_path / 'Training', 1)
    assert '1 training images' in message(prepare.prepare,
                                          str(tmp_path / 'out'), str(data))
    assert not (tmp_path / 'out').exists()


def test_prepare(tmp_path, capsys):
    data = training_data(tmp_path / 'Die Daten' / 'Training', 4)
    out = tmp_path / 'out put'
    prepare.prepare(str(out), str(data), 5)
    found = contents(out)
    assert [len(names) for names in found.values()] == [3, 1]
    assert sorted(found['train.h5'] + found['validation.h5']) == [
        'TCGA-0', 'TCGA-1', 'TCGA-2', 'TCGA-3']
    # 300 x 300 pixels make 2 x 2 patches.
    assert ('train 3 images, 12 patches; validation 1 images, 4 patches'
            in capsys.readouterr().out)
    with store.open_store(out / 'train.h5') as file:
        assert dict(store.attributes(file), source_digest='',
                    fill_rule='') == {
            'schema_version': 2, 'split': 'train', 'source': 'MoNuSeg',
            'seed': 5, 'fold': '0', 'patch_size': 256, 'overlap': 0.2,
            'fill_rule': '', 'mask_background': 0, 'mask_nucleus': 1,
            'source_digest': ''}
        assert file['images/0/instances'][10:30, 20:60].all()
    # The image not trained on is there to predict, pixel for pixel.
    name, = found['validation.h5']
    written, = (out / 'held_out_images').iterdir()
    assert written.name == f'{name}.png'
    assert np.array_equal(
        images.read_image(written),
        images.read_image(data / 'Tissue Images' / f'{name}.tif'))


def made(folder):
    """Tells apart the files of one preparation from the next."""
    return {path.name: path.stat().st_ino for path in folder.glob('*.h5')}


def test_prepare_again(tmp_path, capsys):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    prepare.prepare(str(out), str(data))
    first = made(out)
    prepare.prepare(str(out), str(data))
    assert made(out) == first
    assert 'already prepared' in capsys.readouterr().out
    prepare.prepare(str(out), str(data), 1)
    second = made(out)
    assert second != first
    # The annotator moves a nucleus.
    save_xml(data / 'Annotations' / 'TCGA-0.xml', square(0.5, 0.5, 9.5, 9.5))
    prepare.prepare(str(out), str(data), 1)
    third = made(out)
    assert third != second
    (out / 'validation.h5').unlink()
    prepare.prepare(str(out), str(data), 1)
    assert list(contents(out)) == ['train.h5', 'validation.h5']
    # An image to predict is missing.
    image, = (out / 'held_out_images').iterdir()
    image.unlink()
    prepare.prepare(str(out), str(data), 1)
    assert list((out / 'held_out_images').iterdir()) == [image]
    assert sorted(path.name for path in out.iterdir()) == [
        '.lock', 'held_out_images', 'train.h5', 'validation.h5']


def test_test_store_comes_and_goes_with_the_test_images(tmp_path):
    given, out = tmp_path / 'given', tmp_path / 'out'
    training_data(given / 'Training', 2)
    test = given / 'MoNuSegTestData'
    save_tiff(test / 'TCGA-9.tif', pixels(9))
    save_xml(test / 'TCGA-9.xml', NUCLEUS)
    prepare.prepare(str(out), str(given))
    assert contents(out)['test.h5'] == ['TCGA-9']
    prepare.prepare(str(out), str(given / 'Training'))
    assert list(contents(out)) == ['train.h5', 'validation.h5']


def test_train_on_all_leaves_nothing_to_validate_on(tmp_path):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    prepare.prepare(str(out), str(data))
    for _ in range(2):  # also where it was done already
        prepare.prepare(str(out), str(data), fold='none')
        assert contents(out) == {'train.h5': ['TCGA-0', 'TCGA-1', 'TCGA-2',
                                              'TCGA-3']}
        assert sorted(path.name for path in out.iterdir()) == [
            '.lock', 'train.h5']


def test_failure_leaves_the_stores_before_it_and_nothing_else(tmp_path):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    prepare.prepare(str(out), str(data))
    before = made(out)
    path = data / 'Tissue Images' / 'TCGA-3.tif'
    path.write_bytes(path.read_bytes()[:1000])
    assert 'TCGA-3.tif: cannot be read' in message(prepare.prepare, str(out),
                                                   str(data))
    assert made(out) == before


def files_in(folder):
    """Maps the paths of files to their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def test_files_of_the_users_stay(tmp_path, capsys):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    prepare.prepare(str(out), str(data))
    stores = made(out)
    mine = ['held_out_images/TCGA-0_mask.png', 'held_out_images/notes.txt',
            'held_out_images/drawn/TCGA-1.png', '.partial-notes.txt',
            '.lock', 'my.h5', 'held_out_images/.partial-mine.png']
    for name in mine:
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'mine: {name}')
    capsys.readouterr()
    prepare.prepare(str(out), str(data))
    assert 'already prepared' in capsys.readouterr().out
    assert made(out) == dict(stores, **{
        'my.h5': (out / 'my.h5').stat().st_ino})
    # Of another division, without test images, and without any to hold out.
    test = tmp_path / 'both' / 'MoNuSegTestData'
    save_tiff(test / 'TCGA-9.tif', pixels(9))
    save_xml(test / 'TCGA-9.xml', NUCLEUS)
    training_data(tmp_path / 'both' / 'Training', 4)
    for given, fold, held_out in ((data, '1', 'validation'),
                                  (tmp_path / 'both', '0', 'test'),
                                  (data, '0', 'validation'),
                                  (data, 'none', None)):
        prepare.prepare(str(out), str(given), fold=fold)
        found = files_in(out)
        for name in mine:
            assert found.pop(name).decode() == f'mine: {name}'
        expected = {'train.h5'}
        if held_out:
            with store.open_store(out / f'{held_out}.h5') as file:
                name, = store.image_names(file)
            expected |= {'validation.h5', f'{held_out}.h5',
                         f'held_out_images/{name}.png'}
        assert set(found) == expected


def test_what_is_in_the_way_is_named_and_kept(tmp_path):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    prepare.prepare(str(out), str(data))
    image, = (out / 'held_out_images').iterdir()
    first = files_in(out)
    # The user draws on the image that was written.
    save(image, 255 - pixels(0))
    drawn = image.read_bytes()
    assert f'{image}: not the image' in message(prepare.prepare, str(out),
                                                str(data))
    # Another division does not need the place, and this one again does.
    prepare.prepare(str(out), str(data), fold='1')
    assert image.read_bytes() == drawn
    second = files_in(out)
    assert f'{image}: not the image' in message(prepare.prepare, str(out),
                                                str(data))
    assert files_in(out) == second
    image.unlink()
    prepare.prepare(str(out), str(data))
    found = files_in(out)
    assert found.keys() == first.keys()
    assert found[f'held_out_images/{image.name}'] == first[
        f'held_out_images/{image.name}']


@pytest.mark.parametrize('name', ['train.h5', 'validation.h5', 'test.h5'])
def test_other_files_than_stores_are_not_replaced(tmp_path, name):
    data = training_data(tmp_path / 'Training', 2)
    out = tmp_path / 'out'
    out.mkdir()
    with h5py.File(str(out / name), 'w') as file:
        file['x'] = np.arange(5)
    for said in ('not written by this program', 'not a whole HDF5 file'):
        before = (out / name).read_bytes()
        line = message(prepare.prepare, str(out), str(data))
        assert f'{out / name}: {said}' in line
        assert (out / name).read_bytes() == before
        (out / name).write_text('a text of mine')
    (out / name).unlink()
    prepare.prepare(str(out), str(data))


# Prepares, and waits for a line on stdin before each image.
PREPARE_IN_STEPS = '''
import sys
from input_pipeline import monuseg, prepare
out, data, seed = sys.argv[1:]
load = monuseg.load


def load_when_told(entry):
    print('loading', flush=True)
    sys.stdin.readline()
    return load(entry)


monuseg.load = load_when_told
prepare.prepare(out, data, int(seed))
'''


def test_two_preparations_at_once(program, tmp_path):
    data, out = training_data(tmp_path / 'Training', 4), tmp_path / 'out'
    first = subprocess.Popen(
        [sys.executable, '-c', PREPARE_IN_STEPS, str(out), str(data), '1'],
        env=dict(os.environ, PYTHONPATH=ROOT), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b'loading\n'
        one_line(program('--mode=prepare', f'--data_dir={out}',
                         f'--monuseg_dir={data}', '--seed=2'),
                 f'{out}: another process is writing there', '--data_dir')
        first.communicate(b'\n' * 4, timeout=SECONDS)
    finally:
        first.kill()
    assert first.returncode == 0
    for split in ('train', 'validation'):
        with store.open_store(out / f'{split}.h5') as file:
            assert store.identity(file)['data_seed'] == 1
    # The lock ended with its process.
    prepare.prepare(str(out), str(data), 2)


# Prepares and is killed before the n-th time that files are renamed or
# removed.
PREPARE_AND_DIE = '''
import os
import signal
import sys
left, out, data, fold = int(sys.argv[1]), *sys.argv[2:]


def mortal(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call


for name in ('replace', 'remove', 'rename', 'rmdir', 'unlink'):
    setattr(os, name, mortal(getattr(os, name)))
from input_pipeline import prepare
prepare.prepare(out, data, fold=fold)
'''


def test_a_kill_between_any_two_steps(tmp_path):
    """Whatever is prepared next is as if nothing had been killed."""
    both = tmp_path / 'both'
    training_data(both / 'Training', 2)
    test = both / 'MoNuSegTestData'
    save_tiff(test / 'TCGA-9.tif', pixels(9))
    save_xml(test / 'TCGA-9.xml', NUCLEUS)
    # From training, validation and test images to no test images.
    former, new = (both, '0'), (both / 'Training', '1')
    for given, fold in (former, new):
        prepare.prepare(str(tmp_path / f'unkilled-{fold}'), str(given),
                        fold=fold)
    kills = 0
    while True:
        out = tmp_path / 'out'
        shutil.copytree(str(tmp_path / 'unkilled-0'), str(out))
        process = run(sys.executable, '-c', PREPARE_AND_DIE, kills, out, *new,
                      PYTHONPATH=ROOT)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        for given, fold in (former, new):
            killed = tmp_path / f'killed-{kills}-{fold}'
            shutil.copytree(str(out), str(killed))
            prepare.prepare(str(killed), str(given), fold=fold)
            assert_same(killed, tmp_path / f'unkilled-{fold}')
        shutil.rmtree(str(out))
        kills += 1
    # The two images held out, three stores, of which two are replaced.
    assert kills >= 5
    assert_same(out, tmp_path / 'unkilled-1')


def assert_same(folder, expected):
    """Compares two folders, and not the times that HDF5 notes in files."""
    files = files_in(folder)
    assert files.keys() == files_in(expected).keys()
    for name, data in files.items():
        if name.endswith('.h5'):
            found = []
            for path in (folder / name, expected / name):
                with store.open_store(path) as file:
                    found.append((store.attributes(file),
                                  store.image_names(file),
                                  store.image_digests(file)))
            assert found[0] == found[1]
        else:
            assert data == (expected / name).read_bytes()


def test_one_image_in_two_splits_is_refused(tmp_path):
    data = training_data(tmp_path / 'data', 4)
    # Of each four the seed takes one to validate on: one of these is it, and
    # the other three are trained on.
    for index in range(1, 4):
        shutil.copy(str(data / 'Tissue Images' / 'TCGA-0.tif'),
                    str(data / 'Tissue Images' / f'TCGA-{index}.tif'))
    out = tmp_path / 'out'
    line = message(prepare.prepare, str(out), str(data))
    assert re.search('TCGA-[0-3]: the same image as TCGA-[0-3]', line)
    assert [path.name for path in out.iterdir()] == ['.lock']
