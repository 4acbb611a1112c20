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

from conftest import ROOT, SECONDS, example, one_line, run
from inputs import (AREA, NUCLEUS, SIDE, THREE, data_to_test, feature, labels,
                    load, mask, message, pixels, prepared, region, save,
                    save_geojson, save_xml, square, training_data, write, xml)
from input_pipeline import images
from input_pipeline import prepare
from input_pipeline import store
from input_pipeline.files import InputError
from input_pipeline.sources import Entry


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
            'schema_version': 3, 'seed': 3, 'left_out': '[]', 'nuclei': 2}
        assert store.image_names(file) == ['ä b', 'c']
        assert store.image_digests(file) == [
            hashlib.sha1(b''.join(bytes(pixel) for row in image
                                  for pixel in row)).hexdigest()
            for _, image, _ in examples]
        for index, ((name, image, mask_), expected) in enumerate(zip(
                store.whole_images(file), examples)):
            assert name == expected[0]
            np.testing.assert_array_equal(image, expected[1])
            np.testing.assert_array_equal(mask_, expected[2] > 0)
            assert mask_.dtype == np.uint8
            np.testing.assert_array_equal(
                store.whole_array(file, index, 'instances'), expected[2])
            assert file[f'images/{index}'].attrs['instances_from'] == (
                b'outlines')
        # 300 pixels: patches at 0 and at 300 - 256 = 44.
        np.testing.assert_array_equal(
            file['patches/positions'],
            [(0, 0, 0), (0, 44, 0), (1, 0, 0), (1, 0, 44)])
        np.testing.assert_array_equal(file['patches/images'][1],
                                      examples[0][1][44:])
        np.testing.assert_array_equal(file['patches/masks'][1, ..., 0],
                                      examples[0][2][44:] > 0)
        assert file['patches/images'].chunks == (1, 256, 256, 3)


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
        (_, whole, mask_), = store.whole_images(file)
        np.testing.assert_array_equal(whole, image)
        np.testing.assert_array_equal(mask_, instances > 0)
        assert len(file['patches/images']) == (2 if width > 256 else 1)
        for patch, patch_mask, (_, top, left) in zip(
                file['patches/images'], file['patches/masks'],
                file['patches/positions']):
            assert top == 0
            columns = [left + k if width > 256 else place(k, width)
                       for k in range(256)]
            np.testing.assert_array_equal(patch, image[rows][:, columns])
            np.testing.assert_array_equal(
                patch_mask[..., 0], instances[rows][:, columns] > 0)


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
    (lambda file: file.pop('images/1/mask'), 'images/1/mask is missing'),
    (lambda file: file.pop('images/0/instances'),
     'images/0/instances is missing'),
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


