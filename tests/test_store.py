"""Stores: what is written, what is read, and what is refused."""
import hashlib
import json
import re
import shlex

import h5py
import numpy as np
import pytest

from conftest import example, start
from histology import synthetic
from histology.files import InputError
from input_pipeline import store
from input_pipeline.preprocessing import mask_with_gaps
from inputs import SIDE, mask, message, pixels, training_data, with_gaps


@pytest.mark.parametrize('length, origins', [
    (1000, [0, 205, 410, 615, 744]), (256, [0]), (257, [0, 1]),
    (461, [0, 205]), (462, [0, 205, 206])])
def test_patch_origins(length, origins):
    assert store.patch_origins(length) == origins


RULES = {'source': 'noise', 'source_digest': 'd', 'seed': 3, 'fold': '0'}


def written_store(path):
    """Writes a store of two images, each with a nucleus."""
    instances = np.zeros((SIDE, 256), np.int32)
    instances[290:, 100:110] = 1
    examples = [('ä b', pixels(0)[:, :256], instances, True),
                ('c', pixels(1)[:256], instances.T * 7, False)]
    written = store.write_store(str(path), RULES, (
        example(*parts) for parts in examples))
    assert written == (
        {name: hashlib.sha1(image.tobytes()).hexdigest()
         for name, image, *_ in examples}, {}, 4, 2)
    return examples


def test_store_holds_what_was_written(tmp_path):
    path = tmp_path / 'train.h5'
    examples = written_store(path)
    with store.open_store(path) as file:
        assert store.attributes(file) == {
            **RULES, 'schema_version': 5, 'skipped': '[]', 'nuclei': 2}
        assert store.image_names(file) == ['ä b', 'c']
        assert store.image_digests(file) == [
            hashlib.sha1(b''.join(bytes(pixel) for row in image
                                  for pixel in row)).hexdigest()
            for _, image, *_ in examples]
        for whole, expected in zip(store.whole_images(file), examples):
            assert whole.name == expected[0]
            np.testing.assert_array_equal(whole.image, expected[1])
            np.testing.assert_array_equal(whole.instances, expected[2])
            assert whole.instances.dtype == np.int32
            assert whole.has_instances is expected[3]
        # 300 pixels: patches at 0 and at 300 - 256 = 44.
        assert len(file['patches/images']) == 4
        np.testing.assert_array_equal(file['patches/images'][1],
                                      examples[0][1][44:])
        np.testing.assert_array_equal(file['patches/masks'][1, ..., 0],
                                      with_gaps(examples[0][2])[44:])
        assert file['patches/images'].chunks == (1, 256, 256, 3)


def test_patches_that_are_white_are_left_out(tmp_path):
    image = np.full((461, 461, 3), 255, np.uint8)
    instances = np.zeros((461, 461), np.int32)
    image[:20, 210:250] = 100
    instances[5:15, 220:240] = 1
    path = tmp_path / 'train.h5'
    store.write_store(str(path), RULES, [
        example('few', image, instances),
        example('none', np.full_like(image, 255), instances * 0)])
    with store.open_store(path) as file:
        # Patches begin at 0 and at 205: the two of the first row, and one of
        # the image that is white throughout.
        np.testing.assert_array_equal(file['patches/images'], [
            image[:256, :256], image[:256, 205:], image[205:, 205:]])
        np.testing.assert_array_equal(file['patches/masks'][..., 0], [
            instances[:256, :256], instances[:256, 205:],
            instances[205:, 205:]])


def test_an_open_store_is_read_on_when_another_replaces_it(tmp_path):
    path = tmp_path / 'train.h5'
    examples = written_store(path)
    with store.open_store(path) as file:
        (tmp_path / 'other').write_bytes(b'shorter')
        (tmp_path / 'other').replace(path)
        assert (store.whole_image(file, 0, '').image == examples[0][1]).all()
        path.unlink()
        assert (store.whole_image(file, 1, '').image == examples[1][1]).all()


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
        for patch, patch_mask, left in zip(
                file['patches/images'], file['patches/masks'],
                (0, width - 256)):
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


def test_skipped_images_leave_nothing_behind(tmp_path):
    instances = np.zeros((SIDE, SIDE), np.int32)
    instances[:9] = 5
    examples = [('cut', fail_after()), example('a', pixels(0), instances),
                ('no mask', fail_after(pixels(1))),
                example('too small', pixels(2, 31), instances[:31, :31]),
                example('b', pixels(3), instances * 0)]
    written = [store.write_store(str(tmp_path / name), RULES, given)
               for name, given in (('a.h5', examples),
                                   ('b.h5', [examples[1], examples[4]]))]
    skipped = written[0].skipped
    assert list(skipped) == ['cut', 'no mask', 'too small']
    assert str(skipped['too small']).startswith('too small: 31 x 31 pixels')
    for parts in written:
        assert list(parts.digests) == ['a', 'b']
        assert (parts.patches, parts.nuclei) == (8, 1)
    assert written[1].skipped == {}
    with store.open_store(tmp_path / 'a.h5') as file, store.open_store(
            tmp_path / 'b.h5') as other:
        assert json.loads(store.attributes(file)['skipped']) == list(skipped)
        assert sorted(file['images']) == ['0', '1']
        for path in ('digests', 'patches/images', 'patches/masks',
                     'images/1/image'):
            np.testing.assert_array_equal(file[path], other[path])


def test_an_image_whose_name_is_too_long_is_skipped(tmp_path):
    """For a picture NAME.jpg; an archive may hold such a name."""
    image, instances = synthetic.make(np.random.RandomState(0), 64)
    names = [126 * 'ä', 125 * 'ä' + 'b']  # 252 and 251 bytes
    path = str(tmp_path / 'a.h5')
    written = store.write_store(path, RULES, [
        example(name, image, instances) for name in names])
    assert [str(error) for error in written.skipped.values()] == [
        f'{names[0]}: its name is too long; rename it']
    with store.open_store(path) as file:
        assert store.image_names(file) == names[1:]


def test_a_store_of_nothing(tmp_path):
    path = str(tmp_path / 'a.h5')
    written = store.write_store(path, RULES, [('cut', fail_after())])
    assert (written.digests, written.patches, written.nuclei) == ({}, 0, 0)
    assert 'names is missing' in message(store.open_store, path)


def test_the_command_named_for_an_absent_store_makes_it(tmp_path, program):
    data = training_data(tmp_path / 'Training', 2)
    path = tmp_path / 'out put' / 'train.h5'
    line = message(store.open_store, path)
    assert line.startswith(f'{path}: not there; prepare with ')
    command = re.search(r'python main.py (.*--monuseg_dir=DIR)', line).group(1)
    process = program(*shlex.split(command.replace('DIR', f"'{data}'")))
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
    process = start(str(path), code=HOLD_OPEN)
    assert process.stdout.readline() == 'open\n'
    for function in (store.open_store, store.replaceable):
        line = message(function, path)
        assert line.startswith(f'{path}: in use by another program')
        assert 'delete' not in line
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
    digests = [hashlib.sha1(pixels(seed).tobytes()).hexdigest()
               for seed in range(4)]
    store.write_store(str(path), RULES, [
        example(name, pixels(seed), mask())
        for seed, name in enumerate(('a', 'b', 'c'))])
    identity = {'data_digest': 'd', 'data_seed': 3, 'data_fold': '0'}
    with store.open_store(path) as file:
        assert store.identity(file) == {**identity, 'data_source': 'noise'}
    # The folder of the data may have moved.
    store.open_store(path, {**identity, 'data_source': 'elsewhere'},
                     digests[3:], digests[:3]).close()
    for key, value in (('data_digest', 'e'), ('data_seed', 4),
                       ('data_fold', '1')):
        line = message(store.open_store, path, dict(identity, **{key: value}))
        assert line.startswith(f'{path}: made from other images, or by '
                               'another division')
    for wrong in ([], digests[:2], digests, digests[1:3] + digests[:1]):
        assert 'other images' in message(store.open_store, path, None, (),
                                         wrong)
    for count, words in ((1, '2 images that the network trains on (b, ...)'),
                         (2, '1 image that the network trains on (c)')):
        line = message(store.open_store, path, identity, digests[count:])
        assert (f'{path}: holds {words}; prepare both together with python '
                f'main.py --mode=prepare --data_dir={tmp_path} ' in line)
    # Nothing was left open: h5py could not open it to write.
    h5py.File(str(path), 'a').close()


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
    (lambda file: file.attrs.update(schema_version=4),
     'a.h5: of schema 4, and this version of the program reads 5; move it '
     'elsewhere or delete it, and prepare with python main.py --mode='),
    (lambda file: file.attrs.pop('schema_version'),
     'a.h5: not written by this program; move it elsewhere or delete it'),
    (lambda file: file.pop('names'), 'names is missing'),
    (lambda file: file.pop('patches'), 'patches/images is missing'),
    (lambda file: file.pop('images/1/image'), 'images/1/image is missing'),
    (lambda file: file.pop('images/0/instances'),
     'images/0/instances is missing'),
    (replace('patches/masks', np.zeros((4, 256, 256, 1))),
     'patches/masks is missing, in another file, or not uint8 (4, '),
    (replace('patches/masks', np.zeros((3, 256, 256, 1), np.uint8)),
     'or not uint8 (4, '),
    (replace('images/0/instances', np.zeros((9, 9), np.int32)),
     'images/0/instances is missing, in another file, or not int32'),
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
    assert f'{name} is missing, in another file' in message(
        store.open_store, path)
