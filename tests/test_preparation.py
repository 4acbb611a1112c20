"""From annotated images to stores, on small real files."""
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy import io as matlab

from conftest import PROGRESS, ROOT, SECONDS, example, messages, one_line, run
from histology import images
from histology.files import InputError
from histology.listing import Entry
from input_pipeline import prepare, store
from input_pipeline.preprocessing import mask_with_gaps
from inputs import (
    NUCLEUS,
    SIDE,
    THREE,
    data_to_test,
    labels,
    load,
    mask,
    message,
    pixels,
    prepared,
    region,
    save,
    save_geojson,
    save_xml,
    square,
    training_data,
    with_gaps,
    write,
    xml,
)

# Labels and masks


def read(folder, name, content, height=SIDE, width=None):
    """Lays an annotation on an image of its own.

    Args:
        folder: empty.
        name: of the annotation, which is the image's with what is added.
        content: array, str or bytes.
        height, width: of the image.

    Returns:
        int32 [height, width], and what tells the nuclei apart.
    """
    save(folder / 'images' / 'a.png', pixels(0, height, width))
    path = folder / 'drawn' / name
    if isinstance(content, np.ndarray):
        save(path, content)
    else:
        write(path, content)
    entry, = prepare.find_own(str(folder / 'images'),
                              str(folder / 'drawn')).entries
    image, instances, kind = load(entry)
    assert image.shape[:2] == instances.shape
    assert instances.dtype == np.int32
    return instances, kind


@pytest.mark.parametrize('dtype, name', [
    (np.uint8, 'a.png'), (np.uint16, 'a.png'), (np.uint8, 'a.tif'),
    (np.uint16, 'a_labels.tif'), (np.int32, 'a.tif'), (np.uint32, 'a.tiff'),
    (np.uint8, 'a.npy'), (np.uint16, 'a.npy'), (np.int32, 'a.npy'),
    (np.int64, 'a.npy'), (np.uint32, 'a.npy'), (np.dtype('>i4'), 'a.npy')])
def test_labels_are_numbered_anew_in_their_order(tmp_path, dtype, name):
    highest = min(np.iinfo(dtype).max, 10 ** 9)
    for index, (values, numbers) in enumerate((
            ((1, 2, 3), (1, 2, 3)), ((4, 200, 9), (1, 3, 2)),
            ((highest, 7, highest - 1), (3, 1, 2)), ((0, 0, 9), (0, 0, 1)))):
        instances, kind = read(tmp_path / str(index), name,
                               labels(values, dtype))
        np.testing.assert_array_equal(instances, labels(numbers))
        assert kind == 'labels'


def mat(version, **content):
    """The bytes of a MATLAB file."""
    file = io.BytesIO()
    if version == 5:
        matlab.savemat(file, content)
        return file.getvalue()
    # Version 7.3: HDF5 with arrays by columns, behind a head of 512 bytes.
    with h5py.File(file, 'w', userblock_size=512) as written:
        for name, array in content.items():
            written[name] = array.T
    head = b'MATLAB 7.3 MAT-file'.ljust(116) + bytes(8) + b'\0\2IM'
    return head + file.getvalue()[len(head):]


@pytest.mark.parametrize('version', [5, 7.3])
@pytest.mark.parametrize('dtype', ['f8', 'f4', 'i4', 'u2', 'u1', 'i8'])
def test_inst_map(tmp_path, version, dtype):
    content = mat(version, inst_map=labels((3, 1, 90), dtype),
                  inst_type=np.ones((3, 1)), inst_centroid=np.ones((3, 2)))
    instances, kind = read(tmp_path, 'a.mat', content)
    np.testing.assert_array_equal(instances, labels((2, 1, 3)))
    assert kind == 'labels'


@pytest.mark.parametrize('content, said', [
    (b'', 'damaged'), (b'no MATLAB file, or none known', 'damaged'),
    (mat(5, inst_map=labels())[:300], 'damaged'),
    (mat(7.3, inst_map=labels())[:900], 'damaged'),
    *((mat(version, **{name: array}), said) for version in (5, 7.3)
      for name, array, said in (
          ('type_map', labels(), 'holds no inst_map'),
          ('inst_map', labels(dtype=float) / 2, 'holds fractions'),
          ('inst_map', np.full((SIDE, SIDE), np.nan), 'holds fractions'),
          ('inst_map', np.full((SIDE, SIDE), 1e30), 'holds 1e+30 to'),
          ('inst_map', -labels(dtype=int), 'holds -3 to 0'),
          ('inst_map', labels((1, 2, 2 ** 31), np.int64),
           'holds 0 to 2147483648'),
          ('inst_map', np.zeros((SIDE, SIDE, 2)), 'for each pixel')))],
    ids=lambda value: '-' if isinstance(value, bytes) else value)
def test_what_is_no_inst_map(tmp_path, content, said):
    line = message(read, tmp_path, 'a.mat', content)
    assert line.startswith(f'{tmp_path}/drawn/a.mat: ') and said in line


@pytest.mark.parametrize('name', ['a.png', 'a_mask.tif', 'a_labels.npy'])
@pytest.mark.parametrize('value', [1, 255])
def test_the_components_of_a_mask_are_its_nuclei(tmp_path, name, value):
    drawn = mask(value)
    # They touch at a corner, so they are one.
    drawn[30:35, 60:65] = value
    expected = labels((1, 2, 3))
    expected[30:35, 60:65] = 1
    instances, kind = read(tmp_path, name, drawn)
    np.testing.assert_array_equal(instances, expected)
    assert kind == 'components'


def test_a_mask_without_nuclei(tmp_path):
    instances, kind = read(tmp_path, 'a.png', mask(0))
    assert not instances.any() and kind == 'components'


@pytest.mark.parametrize('name', ['a.png', 'a.mat', 'a.npy'])
def test_annotations_of_another_image(tmp_path, name):
    drawn = labels()[:-1]
    line = message(read, tmp_path, name,
                   mat(5, inst_map=drawn) if name == 'a.mat' else drawn)
    assert line == (
        f'{tmp_path}/drawn/{name}: 300 x 299 pixels, but its image has 300 x '
        '300; give the annotation of this image')
    # Turned, too.
    assert '300 x 280 pixels, but its image has 280 x 300' in message(
        read, tmp_path / 'turned', 'a.png', labels()[:280], 300, 280)


@pytest.mark.parametrize('values', [(0, 255), (0, 5)])
def test_nuclei_and_background_exchanged(tmp_path, values):
    drawn = np.full((SIDE, SIDE), values[1], np.uint8)
    drawn[:100, :270] = 0
    drawn[200] = 9 if values[1] == 5 else 255
    assert 'a.png: nuclei cover 70% of the image' in message(
        read, tmp_path, 'a.png', drawn)
    drawn[:100] = 0  # two thirds
    assert read(tmp_path / 'b', 'a.png', drawn)[0].any()


def cells():
    """64 squares of 20 x 20 pixels, as int [300, 300] 1 to 64 by rows."""
    numbers = np.zeros((SIDE, SIDE), int)
    for index in range(64):
        row, column = 5 + 37 * (index // 8), 5 + 37 * (index % 8)
        numbers[row:row + 20, column:column + 20] = index + 1
    return numbers


def test_classes_and_shades_are_no_labels(tmp_path):
    classes = np.where(cells(), cells() % 3 + 1, 0).astype(np.uint8)
    assert ('its 3 values lie in 64 pieces, as classes or shades of grey do'
            in message(read, tmp_path / '1', 'a.png', classes))
    noise = np.random.RandomState(0).randint(0, 256, (SIDE, SIDE), np.uint8)
    shades = np.where(cells(), noise, 0).astype(np.uint8)
    assert 'shades of grey' in message(read, tmp_path / '2', 'a.png', shades)
    # In a nucleus or two for each number, another lies over it.
    numbers = cells().astype(np.uint8)
    numbers[numbers > 60] = 0
    numbers[12:18] = np.where(numbers[12:18], 99, 0)
    instances, _ = read(tmp_path / '3', 'a.png', numbers)
    assert instances.max() == 61


def test_labels_among_binary_masks_are_refused(tmp_path):
    save(tmp_path / 'Tissue Images' / 'A.png', pixels(0))
    save(tmp_path / 'Binary_masks' / 'A.png', labels())
    entry, = prepare.find_monuseg(str(tmp_path)).entries
    line = message(load, entry)
    assert 'A.png: no binary mask (values 0, 1, 2, 3 ...)' in line
    (tmp_path / 'Binary_masks').rename(tmp_path / 'Label_masks')
    entry, = prepare.find_monuseg(str(tmp_path)).entries
    assert load(entry)[1].max() == 3


def test_outlines_name_their_file(tmp_path):
    line = message(read, tmp_path, 'a.xml', xml([region(
        square(1000, 20, 1020, 60))]))
    assert line.startswith(
        f'{tmp_path}/drawn/a.xml: all 1 outlines lie outside the image of 300 '
        'x 300 pixels, at x 20 to 60 and y 1000 to 1020')


# Stores


@pytest.mark.parametrize('length, origins', [
    (1000, [0, 205, 410, 615, 744]), (256, [0]), (257, [0, 1]),
    (461, [0, 205]), (462, [0, 205, 206])])
def test_patch_origins(length, origins):
    assert store.patch_origins(length, 256, 0.2) == origins


def test_patch_origins_without_overlap():
    assert store.patch_origins(70, 32, 0) == [0, 32, 38]


def written_store(path):
    """Writes a store of two images, each with a nucleus."""
    instances = np.zeros((SIDE, 256), np.int32)
    instances[290:, 100:110] = 1
    examples = [('ä b', pixels(0)[:, :256], instances),
                ('c', pixels(1)[:256], instances.T * 7)]
    written = store.write_store(str(path), {'seed': 3}, (
        example(*parts) for parts in examples))
    assert written == (['ä b', 'c'], [], 4, 2)
    return examples


def test_store_holds_what_was_written(tmp_path):
    path = tmp_path / 'train.h5'
    examples = written_store(path)
    with store.open_store(path) as file:
        assert dict(store.attributes(file)) == {
            'schema_version': 4, 'seed': 3, 'left_out': '[]', 'nuclei': 2}
        assert store.image_names(file) == ['ä b', 'c']
        assert store.image_digests(file) == [
            hashlib.sha1(b''.join(bytes(pixel) for row in image
                                  for pixel in row)).hexdigest()
            for _, image, _ in examples]
        for index, (whole, expected) in enumerate(zip(
                store.whole_images(file), examples)):
            assert whole.name == expected[0] and whole.has_instances is True
            np.testing.assert_array_equal(whole.image, expected[1])
            np.testing.assert_array_equal(whole.instances, expected[2])
            assert whole.instances.dtype == np.int32
            assert file[f'images/{index}'].attrs['instances_from'] == (
                b'outlines')
        # 300 pixels: patches at 0 and at 300 - 256 = 44.
        np.testing.assert_array_equal(
            file['patches/positions'],
            [(0, 0, 0), (0, 44, 0), (1, 0, 0), (1, 0, 44)])
        np.testing.assert_array_equal(file['patches/images'][1],
                                      examples[0][1][44:])
        np.testing.assert_array_equal(file['patches/masks'][1, ..., 0],
                                      with_gaps(examples[0][2])[44:])
        assert file['patches/images'].chunks == (1, 256, 256, 3)


def test_gaps_between_touching_nuclei_by_hand():
    instances = np.array([[1, 1, 1, 2, 2],
                          [1, 1, 1, 2, 2],
                          [1, 1, 1, 0, 2],
                          [0, 0, 0, 3, 0],
                          [4, 4, 0, 3, 3]], np.int32)
    mask_ = mask_with_gaps(instances)
    assert mask_.dtype == bool
    # 2 and 3 touch at corners, and so do 1 and 3; 1 and 4 are a row apart.
    np.testing.assert_array_equal(mask_, [[1, 1, 0, 0, 1],
                                          [1, 1, 0, 0, 1],
                                          [1, 1, 0, 0, 0],
                                          [0, 0, 0, 0, 0],
                                          [1, 1, 0, 1, 1]])


@pytest.mark.parametrize('dtype', [np.int32, np.int64, np.uint8])
def test_gaps_of_many_nuclei(dtype):
    rng = np.random.RandomState(6)
    for shape in ((40, 50), (1, 9), (7, 1)):
        instances = rng.randint(-3, 4, shape).clip(0).repeat(3, 0).repeat(
            4, 1).astype(dtype)
        assert instances.any()
        np.testing.assert_array_equal(mask_with_gaps(instances),
                                      with_gaps(instances))


@pytest.mark.parametrize('height, width', [
    (40, 60), (32, 300), (255, 256), (100, 32), (256, 256)])
def test_small_images_are_whole_and_reflected_in_patches(tmp_path, height,
                                                         width):
    image = pixels(3, height, width)
    instances = np.random.RandomState(4).randint(0, 3, (height, width))
    path = tmp_path / 'a.h5'
    store.write_store(str(path), {}, [example('tiny', image, instances)])

    def place(position, length):
        """Where a mirror about the first and last pixel shows a position."""
        position %= 2 * (length - 1)
        return min(position, 2 * (length - 1) - position)

    rows = [place(k, height) for k in range(256)]
    with store.open_store(path) as file:
        whole, = store.whole_images(file)
        np.testing.assert_array_equal(whole.image, image)
        np.testing.assert_array_equal(whole.instances, instances)
        assert len(file['patches/images']) == (2 if width > 256 else 1)
        for patch, patch_mask, (_, top, left) in zip(
                file['patches/images'], file['patches/masks'],
                file['patches/positions']):
            assert top == 0
            columns = [left + k if width > 256 else place(k, width)
                       for k in range(256)]
            np.testing.assert_array_equal(patch, image[rows][:, columns])
            np.testing.assert_array_equal(
                patch_mask[..., 0],
                with_gaps(instances)[rows][:, columns])


def fail_after(*parts):
    """A load of `store.write_store` that fails after yielding parts."""
    def load_part():
        yield from parts
        raise InputError('damaged')
    return load_part


def test_images_left_out_leave_nothing_behind(tmp_path):
    instances = np.zeros((SIDE, SIDE), np.int32)
    instances[:9] = 5
    examples = [('cut', fail_after()), example('a', pixels(0), instances),
                ('no mask', fail_after(pixels(1))),
                example('too small', pixels(2, 31), instances[:31, :31]),
                example('b', pixels(3), instances * 0)]
    said = []
    for path, given in ((tmp_path / 'a.h5', examples),
                        (tmp_path / 'b.h5', [examples[1], examples[4]])):
        written = store.write_store(
            str(path), {}, given, lambda *left: said.append(left))
        assert written.names == ['a', 'b']
        assert (written.patches, written.nuclei) == (8, 1)
    assert written.left_out == []
    assert [name for name, _ in said] == ['cut', 'no mask', 'too small']
    assert str(said[2][1]).startswith('too small: 31 x 31 pixels')
    with store.open_store(tmp_path / 'a.h5') as file, store.open_store(
            tmp_path / 'b.h5') as other:
        assert json.loads(store.attributes(file)['left_out']) == [
            'cut', 'no mask', 'too small']
        assert sorted(file['images']) == ['0', '1']
        for path in ('digests', 'patches/images', 'patches/masks',
                     'patches/positions', 'images/1/image'):
            np.testing.assert_array_equal(file[path], other[path])
    # Without a function to tell, the first of them ends it.
    assert message(store.write_store, str(tmp_path / 'c.h5'), {},
                   examples) == 'damaged'


def test_a_store_of_nothing(tmp_path):
    path = str(tmp_path / 'a.h5')
    written = store.write_store(path, {}, [('cut', fail_after())],
                                lambda *left: None)
    assert written == ([], ['cut'], 0, 0)
    assert 'names is missing' in message(store.open_store, path)


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
    store.write_store(
        str(path), {'source': 'MoNuSeg', 'source_digest': 'd', 'seed': 3,
                    'fold': '1'},
        [example(name, pixels(seed), mask())
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
    (lambda file: file.attrs.update(schema_version=2), 'schema version 2'),
    (lambda file: file.attrs.pop('schema_version'), 'schema version None'),
    (lambda file: file.pop('names'), 'names is missing'),
    (lambda file: file.pop('patches'), 'patches/images is missing'),
    (lambda file: file.pop('images/1/image'), 'images/1/image is missing'),
    (lambda file: file.pop('images/0/instances'),
     'images/0/instances is missing'),
    (replace('patches/masks', np.zeros((4, 256, 256, 1))), 'float64'),
    (replace('patches/masks', np.zeros((3, 256, 256, 1), np.uint8)), '(3,'),
    (replace('images/0/instances', np.zeros((9, 9), np.int32)), '(9, 9)'),
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
    raw.write_bytes(bytes(SIDE * 256 * 4))
    name, shape = 'images/0/instances', (SIDE, 256)

    def change(file):
        del file[name]
        if kind == 'link':
            file[name] = h5py.ExternalLink(str(other), name)
        elif kind == 'external':
            file.create_dataset(name, shape, np.int32,
                                external=[(str(raw), 0, SIDE * 256 * 4)])
        else:
            layout = h5py.VirtualLayout(shape, np.int32)
            layout[:] = h5py.VirtualSource(str(other), name, shape, np.int32)
            file.create_virtual_dataset(name, layout)

    alter(path, change)
    assert f'{name} lies in another file' in message(store.open_store, path)


# The whole of it


def make(out, given, *arguments, **options):
    """Prepares a folder in MoNuSeg's layout; the names left out."""
    return prepare.prepare(str(out), prepare.find_monuseg(str(given)),
                           *arguments, **options)


def errors(printed):
    """What capsys read of stderr, without lines of progress."""
    return [line for line in printed.err.splitlines()
            if not PROGRESS.fullmatch(line)]


def make_own(out, images_dir, annotations_dir, fold='none', **options):
    return prepare.prepare(
        str(out), prepare.find_own(str(images_dir), str(annotations_dir)),
        fold=fold, **options)


def contents(folder):
    """Maps the stores in a folder to the names they hold."""
    found = {}
    for path in sorted(folder.glob('*.h5')):
        with store.open_store(path) as file:
            found[path.name] = store.image_names(file)
    return found


def test_30_images_divide_22_to_8_by_the_seed():
    entries = [Entry(f'{index:02}', 'training', None, None, None)
               for index in range(30)]
    entries += [Entry('test', 'test', None, None, None)]
    splits = prepare.assign_splits(entries, 0, '0')
    assert {name: len(chosen) for name, chosen in splits.items()} == {
        'train': 22, 'validation': 8, 'test': 1}
    assert sorted(sum(splits.values(), [])) == sorted(entries)
    assert prepare.assign_splits(entries, 0, '0') == splits
    assert prepare.assign_splits(entries, 1, '0') != splits
    assert 'test' not in prepare.assign_splits(entries[:-1], 0, '0')


def test_folds_take_one_of_each_four_and_all_in_all_each_image_once():
    entries = [Entry(f'{index:02}', 'training', None, None, None)
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
    entries = [Entry(str(index), 'training', None, None, None)
               for index in range(needed)]
    assert prepare.assign_splits(entries, 0, fold)['train']
    entries = entries[:count]
    assert (f'{count} training images found, --fold={fold} needs {needed};'
            in message(prepare.assign_splits, entries, 0, fold))


def test_too_few_training_images_write_nothing(tmp_path):
    data = training_data(tmp_path / 'Training', 1)
    assert '1 training images' in message(
        make, tmp_path / 'out', data)
    assert not (tmp_path / 'out').exists()


def test_prepare(tmp_path, capsys):
    data = training_data(tmp_path / 'Die Daten' / 'Training', 4)
    out = tmp_path / 'out put'
    make(out, data, 5)
    found = contents(out)
    assert [len(names) for names in found.values()] == [3, 1]
    assert sorted(found['train.h5'] + found['validation.h5']) == [
        'TCGA-0', 'TCGA-1', 'TCGA-2', 'TCGA-3']
    # 300 x 300 pixels make 2 x 2 patches.
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'annotations: XML of 4 images'
    assert lines[1].startswith(
        f'{out}: Training, train 3 images, 3 nuclei, 12 patches; validation 1 '
        'images, 1 nuclei, 4 patches; ')
    assert lines[2:] == ['no test images there: test.h5 is not written']
    with store.open_store(out / 'train.h5') as file:
        assert dict(store.attributes(file), source_digest='',
                    fill_rule='') == {
            'schema_version': 4, 'split': 'train', 'source': 'Training',
            'seed': 5, 'fold': '0', 'patch_size': 256, 'overlap': 0.2,
            'fill_rule': '', 'mask_background': 0, 'mask_nucleus': 1,
            'source_digest': '', 'left_out': '[]', 'nuclei': 3,
            'microns_per_pixel': 0.25}
        assert 'row + 0.5' in store.attributes(file)['fill_rule']
        instances = store.whole_array(file, 0, 'instances')
        assert instances[10:30, 20:60].all() and instances.sum() == 800
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
    make(out, data)
    first = made(out)
    make(out, data)
    assert made(out) == first
    assert 'already prepared' in capsys.readouterr().out
    make(out, data, 1)
    second = made(out)
    assert second != first
    # The annotator moves a nucleus.
    save_xml(data / 'Annotations' / 'TCGA-0.xml', square(0.5, 0.5, 9.5, 9.5))
    make(out, data, 1)
    third = made(out)
    assert third != second
    (out / 'validation.h5').unlink()
    make(out, data, 1)
    assert list(contents(out)) == ['train.h5', 'validation.h5']
    # An image to predict is missing.
    image, = (out / 'held_out_images').iterdir()
    image.unlink()
    make(out, data, 1)
    assert list((out / 'held_out_images').iterdir()) == [image]
    assert sorted(path.name for path in out.iterdir()) == [
        '.lock', 'held_out_images', 'train.h5', 'validation.h5']


def test_test_store_comes_and_goes_with_the_test_images(tmp_path):
    given, out = tmp_path / 'given', tmp_path / 'out'
    training_data(given / 'Training', 2)
    data_to_test(given / 'MoNuSegTestData')
    make(out, given)
    assert contents(out)['test.h5'] == ['TCGA-9']
    make(out, given / 'Training')
    assert list(contents(out)) == ['train.h5', 'validation.h5']


def test_train_on_all_leaves_nothing_to_validate_on(tmp_path):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    make(out, data)
    for _ in range(2):  # also where it was done already
        make(out, data, fold='none')
        assert contents(out) == {'train.h5': ['TCGA-0', 'TCGA-1', 'TCGA-2',
                                              'TCGA-3']}
        assert sorted(path.name for path in out.iterdir()) == [
            '.lock', 'train.h5']


def cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


def test_images_that_cannot_be_used_are_left_out(tmp_path, capsys):
    data = training_data(tmp_path / 'Training', 8)
    out = tmp_path / 'out'
    cut_short(data / 'Tissue Images' / 'TCGA-3.tif')
    save(data / 'Tissue Images' / 'TCGA-5.tif', pixels(5, 30))
    (data / 'Annotations' / 'TCGA-6.xml').write_text('<Annotations>')
    for _ in range(2):  # also where it was done already
        assert sorted(make(out, data, 1)) == ['TCGA-3', 'TCGA-5', 'TCGA-6']
        found = contents(out)
        assert sorted(sum(found.values(), [])) == [
            f'TCGA-{index}' for index in (0, 1, 2, 4, 7)]
        printed = capsys.readouterr()
    assert 'already prepared' in printed.out
    assert re.search('fold 0, without TCGA-[356], TCGA-[356], TCGA-[356]\n',
                     printed.out)
    # Mended, it is in.
    save(data / 'Tissue Images' / 'TCGA-3.tif', pixels(3))
    assert sorted(make(out, data, 1)) == ['TCGA-5', 'TCGA-6']
    printed = capsys.readouterr()
    assert 'annotations: XML of 6 images' in printed.out
    small, damaged = sorted(errors(printed),
                            key=lambda line: 'TCGA-6' in line)
    assert small.startswith('error: ') and damaged.startswith('error: ')
    assert 'TCGA-5.tif: 30 x 30 pixels' in small
    assert 'Annotations/TCGA-6.xml: not a whole ImageScope' in damaged
    assert small.endswith('(left out)') and damaged.endswith('(left out)')


@pytest.mark.parametrize('broken', [3, 4])
def test_more_than_half_left_out_is_an_error(tmp_path, capsys, broken):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    make(out, data)
    before = made(out)
    for index in range(broken):
        cut_short(data / 'Tissue Images' / f'TCGA-{index}.tif')
    capsys.readouterr()
    line = message(make, out, data, 0, 'none')
    assert line.startswith(
        f'{broken} of 4 train images cannot be used; the first: '
        f'{data}/Tissue Images/TCGA-0.tif: cannot be read')
    assert made(out) == before
    assert sorted(path.name for path in out.iterdir()) == [
        '.lock', 'held_out_images', 'train.h5', 'validation.h5']
    # The one line says it all.
    assert 'left out' not in capsys.readouterr().err


def test_half_left_out_is_none_and_no_image_of_a_split_is_one(tmp_path):
    data = training_data(tmp_path / 'Training', 4)
    for index in range(2):
        cut_short(data / 'Tissue Images' / f'TCGA-{index}.tif')
    assert make(tmp_path / 'out', data, fold='none') == ['TCGA-0', 'TCGA-1']
    assert message(
        prepare.prepare, str(tmp_path / 'out'),
        prepare.find_monuseg(str(data)), 0, '0', ['TCGA-1']).startswith(
            '1 of 1 validation images cannot be used; the first: ')


def files_in(folder):
    """Maps the paths of files to their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def test_files_of_the_users_stay(tmp_path, capsys):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    make(out, data)
    stores = made(out)
    mine = ['held_out_images/TCGA-0_mask.png', 'held_out_images/notes.txt',
            'held_out_images/drawn/TCGA-1.png', '.partial-notes.txt',
            '.lock', 'my.h5', 'held_out_images/.partial-mine.png']
    for name in mine:
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'mine: {name}')
    capsys.readouterr()
    make(out, data)
    assert 'already prepared' in capsys.readouterr().out
    assert made(out) == dict(stores, **{
        'my.h5': (out / 'my.h5').stat().st_ino})
    # Of another division, without test images, and without any to hold out.
    data_to_test(tmp_path / 'both' / 'MoNuSegTestData')
    training_data(tmp_path / 'both' / 'Training', 4)
    for given, fold, held_out in ((data, '1', 'validation'),
                                  (tmp_path / 'both', '0', 'test'),
                                  (data, '0', 'validation'),
                                  (data, 'none', None)):
        make(out, given, fold=fold)
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
    make(out, data)
    image, = (out / 'held_out_images').iterdir()
    first = files_in(out)
    # The user draws on the image that was written.
    save(image, 255 - pixels(0))
    drawn = image.read_bytes()
    assert f'{image}: not the image' in message(make, out, data)
    # Another division does not need the place, and this one again does.
    make(out, data, fold='1')
    assert image.read_bytes() == drawn
    second = files_in(out)
    assert f'{image}: not the image' in message(make, out, data)
    assert files_in(out) == second
    image.unlink()
    make(out, data)
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
        line = message(make, out, data)
        assert f'{out / name}: {said}' in line
        assert (out / name).read_bytes() == before
        (out / name).write_text('a text of mine')
    (out / name).unlink()
    make(out, data)


# Prepares, and waits for a line on stdin before each image.
PREPARE_IN_STEPS = '''
import sys
from input_pipeline import prepare
out, data, seed = sys.argv[1:]
data = prepare.find_monuseg(data)


def load_when_told(entry, said):
    print('loading', flush=True)
    sys.stdin.readline()
    yield from data.load(entry, said)


prepare.prepare(out, data._replace(load=load_when_told), int(seed))
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
    make(out, data, 2)


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
prepare.prepare(out, prepare.find_monuseg(data), fold=fold)
'''


def test_a_kill_between_any_two_steps(tmp_path):
    """Whatever is prepared next is as if nothing had been killed."""
    both = tmp_path / 'both'
    training_data(both / 'Training', 2)
    data_to_test(both / 'MoNuSegTestData')
    # From training, validation and test images to no test images.
    former, new = (both, '0'), (both / 'Training', '1')
    for given, fold in (former, new):
        make(tmp_path / f'unkilled-{fold}', given, fold=fold)
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
            make(killed, given, fold=fold)
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
    line = message(make, out, data)
    assert re.search('TCGA-[0-3]: the same image as TCGA-[0-3]', line)
    assert [path.name for path in out.iterdir()] == ['.lock']


# What users have


def four(folder='Training', images_in='Tissue Images', ending='png'):
    """A function that writes two images, A and B, and returns their folder."""
    def write_images(root):
        for seed, name in enumerate('AB'):
            save(root / folder / images_in / f'{name}.{ending}', pixels(seed))
        return root / folder
    return write_images


def annotated(content, **options):
    """... that also writes the content of both annotations."""
    def write_both(root):
        folder = four(**options)(root)
        for name in 'AB':
            write(folder / 'Annotations' / f'{name}.xml', content)
        return folder
    return write_both


def drawn(array, place, **options):
    """... that also writes an array at place, with NAME for the names."""
    def write_both(root):
        folder = four(**options)(root)
        for name in 'AB':
            save(folder / place.replace('NAME', name), array)
        return folder
    return write_both


def palette(array):
    image = Image.fromarray(array)
    image.putpalette([9, 9, 9, 200, 0, 0] + [77] * 750)
    return image


def after(first, then):
    """... that does the first and then another thing with the folder."""
    def both(root):
        then(first(root))
    return both


def out_of_the_way(folder):
    """Moves the images elsewhere, with a link in their place."""
    elsewhere = folder.parent.parent / 'elsewhere'
    (folder / 'Tissue Images').rename(elsewhere)
    (folder / 'Tissue Images').symlink_to(elsewhere)


def save_both(place, save_one, *content):
    def save_in(folder):
        for name in 'AB':
            save_one(folder / place.replace('NAME', name), *content)
    return save_in


def upper_case(folder):
    for path in [*folder.rglob('*.xml'), *folder.rglob('*.tif')]:
        path.rename(path.with_suffix(path.suffix.upper()))


REGIONS = [region(outline) for outline in THREE]
OUTLINES = xml(REGIONS)
NEGATIVE = 'Type="0" NegativeROA="1"'
SIZES = [800, 900, 200]  # of THREE
MASK = mask()
# Components are numbered from the top.
CASES = {
    'plain': (annotated(OUTLINES, ending='tif'), SIZES),
    'png': (annotated(OUTLINES), SIZES),
    'jpeg': (annotated(OUTLINES, ending='jpg'), SIZES),
    'upper case': (after(annotated(OUTLINES, ending='tif'), upper_case),
                   SIZES),
    'mask as TIFF': (drawn(MASK, 'Binary_masks/NAME.tif'), SIZES),
    'mask beside XML': (after(
        annotated(OUTLINES),
        save_both('Binary_masks/NAME.tif', save, mask() * 0 + 255)), SIZES),
    'labels beside masks': (after(
        drawn(labels((9, 5, 7)), 'Label_masks/NAME.png'),
        save_both('Binary_masks/NAME.png', save, MASK)), [900, 200, 800]),
    'rectangle': (annotated(xml(REGIONS + [
        region([(100, 120), (140, 150)], 'Type="1"')])), SIZES + [1200]),
    'hole': (annotated(xml([
        region(square(100, 100, 150, 160)),
        region(square(110, 120, 130, 150), NEGATIVE)])), [3000 - 600]),
    'region of interest': (annotated(xml(REGIONS, [
        region(square(1, 1, 298, 299))])), SIZES),
    'two layers': (annotated(xml(REGIONS[:1], REGIONS[1:])), SIZES),
    'without nuclei': (annotated(xml([])), []),
    'UTF-16': (annotated(f'<?xml version="1.0" encoding="utf-16"?>{OUTLINES}'
                         .encode('utf-16')), SIZES),
    'hidden': (after(annotated(OUTLINES), lambda folder: save(
        folder / 'Tissue Images/.ipynb_checkpoints/A-checkpoint.tif',
        pixels(5))), SIZES),
    'linked': (after(annotated(OUTLINES), out_of_the_way), SIZES),
    'testis': (annotated(OUTLINES, folder='Testis'), SIZES),
    **{f'{np.dtype(dtype).name} {ending}': (
        drawn(labels((200, 7, 90), dtype), f'{place}_masks/NAME.{ending}'),
        [900, 200, 800])
       for dtype, ending, place in (
           (np.uint8, 'png', 'Label'), (np.uint16, 'png', 'Instance'),
           (np.uint16, 'tif', 'Label'), (np.int32, 'tif', 'Instance'),
           (np.uint32, 'tiff', 'Label'), (np.int32, 'npy', 'Label'))},
    'GeoJSON': (after(four(), save_both(
        'Annotations/NAME.geojson', save_geojson, *THREE)), SIZES),
    'GeoJSON before labels': (after(
        drawn(labels(), 'Label_masks/NAME.png'), save_both(
            'Annotations/NAME.json', save_geojson, NUCLEUS)), [800]),
    'palette': (after(four(), save_both(
        'Binary_masks/NAME.png',
        lambda path, image: (path.parent.mkdir(exist_ok=True),
                             image.save(path)), palette(mask(1)))), SIZES)}


@pytest.mark.parametrize('name', CASES)
def test_what_users_have(tmp_path, capsys, name):
    write_it, sizes = CASES[name]
    write_it(tmp_path / 'given')
    out = tmp_path / 'out'
    assert make(out, tmp_path / 'given', fold='none') == []
    assert contents(out) == {'train.h5': ['A', 'B']}
    printed = capsys.readouterr()
    with store.open_store(out / 'train.h5') as file:
        for index, (_, image, instances, has_instances) in enumerate(
                store.whole_images(file)):
            if name != 'jpeg':
                np.testing.assert_array_equal(image, pixels(index))
            assert np.bincount(instances.ravel())[1:].tolist()[
                :len(sizes)] == sizes
            if sizes == SIZES:
                np.testing.assert_array_equal(instances, labels())
            assert (instances > 0).sum() == sum(sizes)
        assert store.attributes(file)['nuclei'] == 2 * len(sizes)
        kind = file['images/0'].attrs['instances_from'].decode()
        assert has_instances == (kind != 'components')
        for masks, (_, top, left) in zip(file['patches/masks'],
                                         file['patches/positions']):
            np.testing.assert_array_equal(
                masks[..., 0],
                with_gaps(instances)[top:top + 256, left:left + 256])
    said = {'outlines': '(XML|GeoJSON)', 'labels': 'label images',
            'components': 'masks'}[kind]
    assert re.search(f'^annotations: {said} of 2 images$', printed.out, re.M)
    assert ('masks do not tell touching' in printed.out) == (
        kind == 'components')
    assert ('there is nothing to train on' in printed.out) == (sizes == [])
    assert printed.out.count('an outline of 98% of the image') == (
        2 if name == 'region of interest' else 0)
    assert errors(printed) == []


def test_an_ellipse(tmp_path):
    annotated(xml([region([(100, 50), (140, 110)], 'Type="2"')]))(tmp_path)
    make(tmp_path / 'out', tmp_path, fold='none')
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    expected = (rows - 120) ** 2 / 400 + (columns - 80) ** 2 / 900 < 1
    for instances in prepared(tmp_path / 'out').values():
        assert (instances != expected).sum() <= 4


def test_outlines_in_coordinates_of_the_slide(tmp_path, program):
    annotated(xml([region([(row + 3e4, column + 2e4) for row, column in
                           outline]) for outline in THREE]))(tmp_path / 'in')
    one_line(program('--mode=prepare', '--fold=none',
                     f'--monuseg_dir={tmp_path}/in',
                     f'--data_dir={tmp_path}/out'),
             '2 of 2 train images cannot be used; the first: ',
             'Annotations/A.xml: all 3 outlines lie outside the image of 300 '
             'x 300 pixels, at x 20000 to 20230 and y 30010 to 30290')
    assert os.listdir(str(tmp_path / 'out')) == ['.lock']


def test_own_folders_one_damaged_image_and_a_patient_to_validate_on(
        tmp_path, program):
    """The whole program: what it writes, says and returns."""
    for index, name in enumerate(('p1_a', 'p1_b', 'p2_a', 'p2_b', 'p3')):
        save(tmp_path / f'images/{name}.jpeg', pixels(index, 40, 60))
        save(tmp_path / f'masks/{name}_bin_mask.png', MASK[:40, 20:80])
    flags = ('--mode=prepare', f'--images_dir={tmp_path}/images',
             f'--annotations_dir={tmp_path}/masks',
             f'--data_dir={tmp_path}/out', '--validation=p1_*,p3')
    process = program(*flags)
    assert (process.returncode, messages(process)) == (0, [])
    assert re.search('masks of 5 images\n.* connected components count as '
                     'nuclei\n.*train 2 images, 2 nuclei, 2 patches; '
                     'validation 3 images, 3 nuclei, 3 patches',
                     process.stdout)
    assert contents(tmp_path / 'out') == {
        'train.h5': ['p2_a', 'p2_b'], 'validation.h5': ['p1_a', 'p1_b', 'p3']}
    assert sorted(os.listdir(str(tmp_path / 'out/held_out_images'))) == [
        'p1_a.png', 'p1_b.png', 'p3.png']
    for instances in prepared(tmp_path / 'out').values():
        assert instances.shape == (40, 60) and instances.sum() == 20 * 40
    before = made(tmp_path / 'out')
    cut_short(tmp_path / 'images/p1_b.jpeg')
    process = program(*flags)
    assert process.returncode == 1
    line, = messages(process)
    assert line.startswith(f'error: {tmp_path}/images/p1_b.jpeg: ')
    assert contents(tmp_path / 'out')['validation.h5'] == ['p1_a', 'p3']
    assert made(tmp_path / 'out') != before
    # Told again, and not done again.
    again = program(*flags)
    assert again.returncode == 1 and 'without p1_b' in again.stdout


@pytest.mark.parametrize('flags, words', [
    (['--images_dir=.'], ['--annotations_dir: missing']),
    (['--annotations_dir=.'], ['--images_dir: missing']),
    (['--monuseg_dir=.', '--images_dir=.', '--annotations_dir=.'],
     ['--monuseg_dir: give either']),
    (['--monuseg_dir=.', '--test_images_dir=.'], ['--monuseg_dir: give']),
    (['--sample', '--annotations_dir=.'], ['--monuseg_dir: give either']),
    (['--test_images_dir=.', '--test_annotations_dir=.'],
     ['--images_dir: missing']),
    (['--images_dir=.', '--annotations_dir=.', '--test_images_dir=.'],
     ['--test_annotations_dir: missing']),
    (['--sample', '--validation=a', '--fold=1'], ['--fold', '--validation']),
    (['--sample', '--validation=,'], ['--validation: holds no names']),
    (['--sample', '--validation=none.txt'],
     ['--validation: no training image is called none.txt; they are '
      'sample-00, sample-01, sample-02 ...'])])
def test_flags_that_do_not_go_together(program, tmp_path, flags, words):
    one_line(program('--mode=prepare', *flags, f'--data_dir={tmp_path}/out'),
             *words)
    assert list(tmp_path.iterdir()) == []


def test_small_images_are_used_native_in_evaluation(tmp_path):
    """A is large, B is smaller than a patch and annotated at its edge."""
    annotated(OUTLINES)(tmp_path)
    folder = tmp_path / 'Training'
    image = pixels(7, 120, 200)
    save(folder / 'Tissue Images/B.png', image)
    save_xml(folder / 'Annotations/B.xml', NUCLEUS, square(110, 0, 130, 10))
    make(tmp_path / 'out', tmp_path, fold='none')
    found = prepared(tmp_path / 'out')
    expected = np.zeros((120, 200), int)
    expected[10:30, 20:60], expected[110:, :10] = 1, 2
    np.testing.assert_array_equal(found['B'], expected)
    with store.open_store(tmp_path / 'out' / 'train.h5') as file:
        # Reflected about the last row and column.
        patch, patch_mask = (file[f'patches/{kind}'][-1]
                             for kind in ('images', 'masks'))
        np.testing.assert_array_equal(patch[:120, :200], image)
        np.testing.assert_array_equal(patch[120:239, :200], image[-2::-1])
        np.testing.assert_array_equal(patch[:120, 200:], image[:, -2:-58:-1])
        np.testing.assert_array_equal(patch_mask[:120, :200, 0], expected > 0)
        assert patch_mask[120:129, :10].all()
        assert not patch_mask[129:209].any()


def test_other_magnifications_are_resampled_with_their_nuclei(tmp_path):
    """At half the size, each pixel becomes four."""
    save(tmp_path / 'i/lines.png', pixels(0, 90, 120))
    write(tmp_path / 'o/lines.xml', xml(
        [region(square(10, 20, 30, 60)),
         region(square(80.5, 100.5, 99, 130))], head='MicronsPerPixel="0.5"'))
    save(tmp_path / 'i/mask.png', pixels(1, 90, 120))
    save(tmp_path / 'o/mask.png', MASK[:90, :120])
    save(tmp_path / 'i/numbers.png', pixels(2, 90, 120))
    save(tmp_path / 'o/numbers.npy', labels((7, 0, 0), np.int32)[:90, :120])
    data = prepare.find_own(str(tmp_path / 'i'), str(tmp_path / 'o'), None,
                            0.5)
    prepare.prepare(str(tmp_path / 'out'), data, fold='none')
    expected = np.zeros((180, 240), int)
    expected[20:60, 40:120] = 1
    found = prepared(tmp_path / 'out')
    for name in ('mask', 'numbers'):
        np.testing.assert_array_equal(found[name], expected)
    expected[161:, 201:] = 2
    np.testing.assert_array_equal(found['lines'], expected)
    with store.open_store(tmp_path / 'out' / 'train.h5') as file:
        assert store.attributes(file)['microns_per_pixel'] == 0.5
        assert [file[f'images/{index}'].attrs.get('stated_microns_per_pixel')
                for index in range(3)] == [0.5, None, None]
        for whole in store.whole_images(file):
            assert whole.image.shape == (180, 240, 3)


def test_images_and_masks_exchanged(tmp_path):
    folder = drawn(MASK, 'masks/NAME.png')(tmp_path)
    line = message(make_own, tmp_path / 'out', folder / 'masks',
                   folder / 'Tissue Images')
    assert line.startswith('2 of 2 train images cannot be used; the first: '
                           f'{folder}/Tissue Images/A.png: coloured')
    for name in 'AB':
        save(folder / f'Tissue Images/{name}.png', pixels(3)[..., 0] // 2)
    assert 'Images/A.png: nuclei cover 99% of the image' in message(
        make_own, tmp_path / 'out', folder / 'masks',
        folder / 'Tissue Images')


# Splits by name


def entries_of(*names):
    return [Entry(name, 'training', None, None, None) for name in names]


@pytest.mark.parametrize('given, held', [
    (['a'], 'a'), (['a', 'c[1]'], 'a c[1]'), (['b*'], 'b1 b2'),
    (['b?', 'a'], 'a b1 b2'), (['c[1]'], 'c[1]'), (['[ab]*'], 'a b1 b2')])
def test_names_and_patterns_to_validate_on(given, held):
    entries = entries_of('a', 'b1', 'b2', 'c[1]', 'd')
    splits = prepare.assign_splits(entries, 0, '0', given)
    assert [entry.name for entry in splits['validation']] == held.split()
    assert sorted(sum(splits.values(), [])) == entries


def test_names_that_cannot_be_validated_on():
    entries = entries_of('a', 'b')
    test = Entry('t', 'test', 'why', None, None)
    for given in (['c'], ['a', 'A'], ['t'], ['c*']):
        assert (f'--validation: no training image is called {given[-1]}; they '
                'are a, b ...' in message(
                    prepare.assign_splits, entries + [test], 0, '0', given))
    assert '--validation: names all training images' in message(
        prepare.assign_splits, entries + [test], 0, '0', ['*'])


def test_a_file_of_names_to_validate_on(tmp_path, program):
    for index, name in enumerate(('a, 1', 'b', 'c')):
        save(tmp_path / f'images/{name}.png', pixels(index, 40, 60))
        save_xml(tmp_path / f'outlines/{name}.xml', square(5, 5, 9, 9))
    names = write(tmp_path / 'held out.txt', '\ufeffa, 1\r\n\r\n b \r\n')
    flags = ('--mode=prepare', f'--images_dir={tmp_path}/images',
             f'--annotations_dir={tmp_path}/outlines',
             f'--data_dir={tmp_path}/out')
    process = program(*flags, f'--validation={names}')
    assert process.returncode == 0, process.stderr
    assert contents(tmp_path / 'out') == {
        'train.h5': ['c'], 'validation.h5': ['a, 1', 'b']}
    with store.open_store(tmp_path / 'out/train.h5') as file:
        assert store.attributes(file)['fold'] == 'validation=a, 1,b'
    names.write_bytes(b'\xff\xfe caf\xe9')
    one_line(program(*flags, f'--validation={names}'),
             f'--validation {names}: cannot be read')


def test_many_names_to_validate_on_and_others_replace_them(tmp_path):
    names = [f'{index:03}-{"x" * 100}' for index in range(12)]
    for index, name in enumerate(names):
        save(tmp_path / f'images/{name}.png', pixels(index, 32))
        save_xml(tmp_path / f'outlines/{name}.xml', square(5, 5, 9, 9))
    out, folders = tmp_path / 'out', (tmp_path / 'images',
                                      tmp_path / 'outlines')
    states = []
    for held in (names[:11], names[:10], names[:10], names[:11]):
        make_own(out, *folders, fold='0', validation=held)
        assert contents(out)['validation.h5'] == held
        states.append(made(out))
    assert states[1] == states[2] != states[0] and states[3] != states[2]


# Where there is nothing to learn, or it is all the same


@pytest.mark.parametrize('write_it', [
    drawn(mask(0), 'Binary_masks/NAME.png'),
    drawn(mask(0), 'Label_masks/NAME.tif')])
def test_masks_without_any_nucleus_are_a_mistake(tmp_path, write_it):
    write_it(tmp_path / 'in')
    assert ('not one of the training images has a nucleus' in message(
        make, tmp_path / 'out', tmp_path / 'in', 0, 'none'))
    assert os.listdir(str(tmp_path / 'out')) == ['.lock']


def test_an_image_without_nuclei_among_others(tmp_path):
    folder = drawn(MASK, 'Binary_masks/NAME.png')(tmp_path / 'in')
    save(folder / 'Binary_masks' / 'B.png', mask(0))
    make(tmp_path / 'out', tmp_path / 'in', fold='none')
    found = prepared(tmp_path / 'out')
    assert found['A'].max() == 3 and found['B'].max() == 0


def test_stores_of_other_data_are_replaced_with_a_word(tmp_path, capsys):
    out = tmp_path / 'out'
    make(out, training_data(tmp_path / 'first', 2))
    data = training_data(tmp_path / 'second', 3)
    capsys.readouterr()
    make(out, data)
    assert (f'{out}: its stores of first will be replaced; another --data_dir '
            'would keep them\n') in capsys.readouterr().out
    assert len(sum(contents(out).values(), [])) == 3
