"""From annotated images to stores, on small real files."""
import io
import json
import re
import shutil
import signal
import sys

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy import io as matlab
from scipy import ndimage, sparse

from conftest import PROGRESS, ROOT, make_unreadable, messages, one_line, run
from histology import images
from histology.listing import Entry
from input_pipeline import prepare, splits, store
from inputs import (
    NUCLEUS,
    SIDE,
    THREE,
    data_to_test,
    feature,
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
        int32 [height, width], and whether these are single nuclei.
    """
    save(folder / 'images' / 'a.png',
         np.full((height, width or height, 3), 255, np.uint8))
    path = folder / 'drawn' / name
    if isinstance(content, np.ndarray):
        save(path, content)
    else:
        write(path, content)
    entry, = prepare.find_own(str(folder / 'images'),
                              str(folder / 'drawn')).entries
    image, instances, has_instances = load(entry)
    assert image.shape[:2] == instances.shape
    assert instances.dtype == np.int32
    return instances, has_instances


@pytest.mark.parametrize('dtype, name', [
    (np.uint8, 'a.png'), (np.uint16, 'a.png'), (np.uint8, 'a.tif'),
    (np.uint16, 'a_labels.tif'), (np.int32, 'a.tif'), (np.uint32, 'a.tiff'),
    (np.uint8, 'a.npy'), (np.uint16, 'a.npy'), (np.int32, 'a.npy'),
    (np.int64, 'a.npy'), (np.uint32, 'a.npy'), (np.dtype('>i4'), 'a.npy')])
def test_labels_are_numbered_anew_in_their_order(tmp_path, dtype, name):
    highest = min(np.iinfo(dtype).max, 10 ** 9)
    for index, (values, numbers) in enumerate((
            ((1, 2, 3), (1, 2, 3)), ((4, 200, 9), (1, 3, 2)),
            ((highest, 7, highest - 1), (3, 1, 2)), ((0, 8, 9), (0, 1, 2)))):
        instances, has_instances = read(tmp_path / str(index), name,
                               labels(values, dtype))
        np.testing.assert_array_equal(instances, labels(numbers))
        assert has_instances


def mat(**content):
    """The bytes of a MATLAB file."""
    file = io.BytesIO()
    matlab.savemat(file, content)
    return file.getvalue()


@pytest.mark.parametrize('dtype', ['f8', 'f4', 'i4', 'u2', 'u1', 'i8'])
def test_inst_map(tmp_path, dtype):
    content = mat(inst_map=labels((3, 1, 90), dtype),
                  inst_type=np.ones((3, 1)), inst_centroid=np.ones((3, 2)))
    instances, has_instances = read(tmp_path, 'a.mat', content)
    np.testing.assert_array_equal(instances, labels((2, 1, 3)))
    assert has_instances


@pytest.mark.parametrize('content, said', [
    (b'', 'damaged'), (b'no MATLAB file, or none known', 'damaged'),
    (mat(inst_map=labels())[:300], 'damaged'),
    # HDF5 behind a head of 512 bytes.
    (b'MATLAB 7.3 MAT-file'.ljust(116) + bytes(8) + b'\0\2IM' + bytes(384)
     + b'\x89HDF', '-v7'),
    *((mat(**{name: array}), said) for name, array, said in (
          ('type_map', labels(), 'holds no inst_map'),
          ('inst_map', labels(dtype=float) / 2, 'holds other numbers'),
          ('inst_map', np.full((SIDE, SIDE), np.nan), 'holds other numbers'),
          ('inst_map', np.full((SIDE, SIDE), 1e30), 'holds other numbers'),
          ('inst_map', -labels(dtype=int), 'holds other numbers'),
          ('inst_map', labels((1, 2, 2 ** 31), np.int64),
           'holds other numbers'),
          ('inst_map', np.zeros((SIDE, SIDE, 2)), 'for each pixel'),
          ('inst_map', sparse.csc_matrix(labels() > 0), 'for each pixel')))],
    ids=lambda value: '-' if isinstance(value, bytes) else value)
def test_what_is_no_inst_map(tmp_path, content, said):
    line = message(read, tmp_path, 'a.mat', content)
    assert line.startswith(f'{tmp_path}/drawn/a.mat: ') and said in line


@pytest.mark.parametrize('name', ['a.png', 'a_mask.tif', 'a_labels.npy'])
@pytest.mark.parametrize('value', [1, 5, 128, 255])
def test_the_components_of_a_mask_are_its_nuclei(tmp_path, name, value):
    drawn = mask(value)
    # They touch at a corner, so they are one.
    drawn[30:35, 60:65] = value
    expected = labels((1, 2, 3))
    expected[30:35, 60:65] = 1
    instances, has_instances = read(tmp_path, name, drawn)
    np.testing.assert_array_equal(instances, expected)
    assert not has_instances


@pytest.mark.parametrize('name', ['a.png', 'a.mat', 'a.npy'])
def test_annotations_of_another_image(tmp_path, name):
    drawn = labels()[:-1]
    line = message(read, tmp_path, name,
                   mat(inst_map=drawn) if name == 'a.mat' else drawn)
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


def cells(count=64, side=20, step=37, columns=8):
    """Squares, numbered by rows, as int [300, 300]."""
    numbers = np.zeros((SIDE, SIDE), int)
    for index in range(count):
        row, column = (2 + step * k for k in divmod(index, columns))
        numbers[row:row + side, column:column + side] = index + 1
    return numbers


def test_classes_and_shades_are_no_labels(tmp_path):
    classes = np.where(cells(), cells() % 3 + 1, 0).astype(np.uint8)
    assert ('3 of its 3 numbers lie in pieces apart, as classes, borders, '
            'shades of grey' in message(read, tmp_path / '1', 'a.png',
                                        classes))
    noise = np.random.RandomState(0).randint(0, 256, (SIDE, SIDE), np.uint8)
    shades = np.where(cells(), noise, 0).astype(np.uint8)
    assert 'shades of grey' in message(read, tmp_path / '2', 'a.png', shades)
    # In a nucleus or two for each number, another lies over it.
    numbers = cells().astype(np.uint8)
    numbers[numbers > 60] = 0
    numbers[12:18] = np.where(numbers[12:18], 99, 0)
    instances, _ = read(tmp_path / '3', 'a.png', numbers)
    assert instances.max() == 61


def test_numbers_that_begin_anew_in_each_tile_are_no_labels(tmp_path):
    """Each of the four tiles is searched by itself."""
    tile = np.pad(cells(), (0, 1024 - SIDE), mode='constant')
    assert '64 of its 64 numbers lie in pieces apart' in message(
        read, tmp_path, 'a.npy', np.tile(tile, (2, 2)), 2048)


def test_the_borders_of_tiles_cut_nuclei_in_two(tmp_path):
    numbers = np.zeros((1100, 1100), int)
    for index, start in enumerate(range(0, 1080, 30)):
        numbers[start:start + 20, 1014:1034] = 2 * index + 1
        numbers[1014:1034, start:start + 20] = 2 * index + 2
    instances, _ = read(tmp_path, 'a.npy', numbers, 1100)
    np.testing.assert_array_equal(instances > 0, numbers > 0)
    assert len(np.unique(instances)) == len(np.unique(numbers))


def test_a_few_numbers_of_two_nuclei_each_are_named(tmp_path, capsys):
    numbers = cells()
    numbers[numbers == 64] = 1
    instances, _ = read(tmp_path, 'a.png', numbers.astype(np.uint8))
    np.testing.assert_array_equal(instances, numbers)
    assert ('a.png: 1 of its 63 numbers lie in pieces apart, and count as one '
            'nucleus each\n' in capsys.readouterr().err)


def test_more_than_255_nuclei_in_8_bits(tmp_path, capsys):
    numbers = cells(258, 8, 14, 20)
    # Number 256 is 0; 257 and 258 are 1 and 2.
    assert ('2 of its 255 numbers lie in pieces apart' in message(
        read, tmp_path / '1', 'a.png', numbers.astype(np.uint8)))
    instances, _ = read(tmp_path / '2', 'a.png', numbers.astype(np.uint16))
    np.testing.assert_array_equal(instances, numbers)
    assert capsys.readouterr().err == ''
    # Of 256 nuclei one is lost, and nothing lies apart.
    instances, _ = read(tmp_path / '3', 'a.png', np.where(
        numbers < 257, numbers, 0).astype(np.uint8))
    assert instances.max() == 255
    assert ('a.png: its numbers reach 255, the highest of 8 bits. If there '
            'are more nuclei, save it in 16 bits\n' in capsys.readouterr().err)
    read(tmp_path / '4', 'a.png', np.where(
        numbers < 255, numbers, 0).astype(np.uint8))
    assert capsys.readouterr().err == ''


def test_a_mask_with_smooth_edges(tmp_path, capsys):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(rows - 150, columns - 120)
    # From 255 to 0 between 15 and 25 pixels; 127.5 at 20 pixels.
    smooth = np.clip((25 - distance) * 25.5, 0, 255).astype(np.uint8)
    smooth[10:60, 10:60] = 255
    instances, has_instances = read(tmp_path / '1', 'a.png', smooth)
    expected = (distance < 20 - 1e-9) * 2
    expected[10:60, 10:60] = 1
    assert (instances != expected).sum() <= 4 and not has_instances
    assert 'a mask with smooth edges: read as 0 up to 127, and 1 above' in (
        capsys.readouterr().err)
    # Numbers up to 400 that were cut off at 255: 146 nuclei have one.
    numbers = cells(400, 9, 14, 20).clip(0, 255).astype(np.uint8)
    assert '1 of its 255 numbers lie in pieces apart' in message(
        read, tmp_path / '3', 'a.png', numbers)
    # Three values are classes, or a border.
    border = np.where(smooth == 255, 255, (smooth > 0) * 128).astype(np.uint8)
    assert 'borders' in message(read, tmp_path / '2', 'a.png', border)


@pytest.mark.parametrize('width', [1, 2, 3])
@pytest.mark.parametrize('numbered', [False, True])
def test_lines_around_nuclei_are_no_nuclei(tmp_path, width, numbered):
    whole = np.where(cells(), cells() if numbered else 255, 0)
    inner = ndimage.binary_erosion(whole, iterations=width)
    lines = np.where(inner, 0, whole).astype(np.uint8)
    assert 'a.png: holds lines around nuclei; fill them' in message(
        read, tmp_path / '1', 'a.png', lines)
    # Small nuclei, and holes in large ones, are none.
    small = np.zeros((SIDE, SIDE), np.uint8)
    for row in range(5, 290, 10):
        small[row:row + 3, 5:290] = np.arange(285) % 10 < 3
    small[200:280, 200:280] = 1
    small[220:240, 220:240] = 0
    assert read(tmp_path / '2', 'a.png', small)[0].any()


# The whole of it


def make(out, given, *arguments, **options):
    """Prepares a folder in MoNuSeg's layout; returns the skipped names."""
    return prepare.prepare(str(out), prepare.find_monuseg(str(given)),
                           *arguments, **options)


def errors(printed):
    """What capsys read of stderr, without lines of progress."""
    return [line for line in printed.err.splitlines()
            if not PROGRESS.fullmatch(line)]


def make_own(folder, fold='none', out='out', images='i', annotations='o',
             **options):
    return prepare.prepare(
        str(folder / out), prepare.find_own(
            str(folder / images), str(folder / annotations), **options),
        fold=fold)


def contents(folder):
    """Maps the stores in a folder to the names they hold."""
    found = {}
    for path in sorted(folder.glob('*.h5')):
        with store.open_store(path) as file:
            found[path.name] = store.image_names(file)
    return found


CHECK = ('check', 'check.jpg')


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def made(folder):
    """Tells apart the files of one preparation from the next."""
    return {path.name: path.stat().st_ino for path in folder.glob('*.h5')}


def entries_of(*names):
    return [Entry(name, 'training', None, None, None) for name in names]


def test_a_folder_says_what_to_validate_on(tmp_path, capsys):
    for split, name in (('train', 'a'), ('train', 'b'), ('Val', 'a'),
                        ('test', 'c')):
        save(tmp_path / 'i' / split / f'{name}.png',
             pixels(sum((split + name).encode())))
        save(tmp_path / 'o' / split / f'{name}.png', mask())
    wanted = {'train.h5': ['a', 'b'], 'validation.h5': ['a'],
              'test.h5': ['c']}
    for fold in ('0', '3', 'none'):
        make_own(tmp_path, fold, fold)
        assert contents(tmp_path / fold) == wanted
        assert ('1 image to validate on, for their folder is called Val; '
                '--fold is not used\n') in capsys.readouterr().out
        with store.open_store(str(tmp_path / fold / 'train.h5')) as file:
            assert store.identity(file)['data_fold'] == 'validation=a'
    make_own(tmp_path, '1', '0')
    assert 'already prepared' in capsys.readouterr().out
    entries = prepare.find_own(f'{tmp_path}/i', f'{tmp_path}/o').entries
    assert message(splits.assign_splits, entries, 0, '0', ['b']) == (
        '--validation: omit it; some images validate, for their folder is '
        'called Val')
    shutil.rmtree(str(tmp_path / 'i' / 'train'))
    shutil.rmtree(str(tmp_path / 'o' / 'train'))
    assert ('0 training images found, --fold=none needs 1. Test images: 1 ('
            in message(make_own, tmp_path, 'none', '0'))


def test_annotations_that_predict_wrote_are_called_so_and_read_as_others(
        tmp_path, capsys):
    arrays = {'a': labels(), 'b': labels(), 'c': mask()}
    for name, array in arrays.items():
        save(tmp_path / 'i' / f'{name}.png', pixels(ord(name)))
        save(tmp_path / 'o' / f'{name}.png', array)
        if name != 'b':
            images.write_png(str(tmp_path / 'o' / f'{name}.png'), array,
                             'nuclei segmentation')
    make_own(tmp_path)
    assert ('annotations: label images of 1 image, label images written by '
            'predict of 1 image, masks written by predict of 1 image\nmasks '
            'do not separate touching') in capsys.readouterr().out
    for name in arrays:
        images.write_png(str(tmp_path / 'o' / f'{name}.png'), mask(0),
                         'nuclei segmentation')
    assert 'their annotations are empty' in message(make_own, tmp_path)


def test_prepare_twice_where_the_images_lie_beside_the_stores(tmp_path):
    for name in 'ab':
        save(tmp_path / 'images' / f'{name}.png', pixels(ord(name)))
        save(tmp_path / 'masks' / f'{name}.png', mask())
    for _ in range(2):
        make_own(tmp_path, '0', '', '', '')
        assert sorted(sum(contents(tmp_path).values(), [])) == ['a', 'b']
        assert (tmp_path / 'check.jpg').exists()
        # Not to be kept as it is.
        shutil.copy(str(tmp_path / 'validation.h5'),
                    str(tmp_path / 'train.h5'))
    # Its picture in check/ is none.
    (tmp_path / 'masks' / 'b.png').unlink()
    assert 'b.png: 1 image without annotation' in message(
        make_own, tmp_path, '0', '', 'images', '')


def test_named_divisions_differ_whatever_the_names():
    """They may hold commas, and be too long for an attribute."""
    long = [f'{index:03}-{"x" * 100}' for index in range(12)]
    entries = entries_of('a', 'a,b', 'b', 'c', *long)
    texts = [splits.fold_text(splits.assign_splits(entries, 0, '0', held))
             for held in (['a,b'], ['a', 'b'], long[:11], long[:10])]
    assert len({*texts}) == 4 and texts[1] == 'validation=a,b'
    assert max(map(len, texts)) < 100


def test_folds_take_one_of_each_four_and_all_in_all_each_image_once():
    entries = entries_of(*(f'{index:02}' for index in range(30)))
    test = Entry('test', 'test', None, None, None)
    divided = [splits.assign_splits([*entries, test], 3, fold)
               for fold in '0123']
    held_out = [one['validation'] for one in divided]
    assert sorted(sum(held_out, [])) == entries
    # Seven whole fours, and of the last two images one each.
    assert [len(fold) for fold in held_out] == [8, 8, 7, 7]
    for one, held in zip(divided, held_out):
        assert ([int(entry.name) // 4 for entry in held]
                == list(range(len(held))))
        assert sorted(one['train'] + held) == entries
        assert one['test'] == [test]
    assert splits.assign_splits(entries, 3, 'none') == {'train': entries}
    assert splits.assign_splits([*entries, test], 1, '0') != divided[0]


@pytest.mark.parametrize('count, fold, needed', [
    (1, '0', 2), (1, '1', 2), (3, '3', 4), (0, 'none', 1)])
def test_too_few_training_images(count, fold, needed):
    entries = entries_of(*map(str, range(needed)))
    assert splits.assign_splits(entries, 0, fold)['train']
    images = f'{count} training image{"" if count == 1 else "s"}'
    assert (f'{images} found, --fold={fold} needs {needed};'
            in message(splits.assign_splits, entries[:count], 0, fold))


def test_prepare(tmp_path, capsys):
    data = training_data(tmp_path / 'Die Daten' / 'Training', 4)
    out = tmp_path / 'out put'
    make(out, data, 5)
    found = contents(out)
    assert [len(names) for names in found.values()] == [3, 1]
    assert sorted(found['train.h5'] + found['validation.h5']) == [
        'TCGA-0', 'TCGA-1', 'TCGA-2', 'TCGA-3']
    # 300 x 300 pixels make 2 x 2 patches.
    # Of 40 x 20 pixels, in square micrometres 50.
    assert capsys.readouterr().out.splitlines()[1:] == [
        'annotations: XML of 4 images',
        f'{out}: {data}, train 3 images, 3 nuclei, 12 patches; validation 1 '
        'image, 1 nucleus, 4 patches',
        'no test images: test.h5 is not written',
        'train: 1 to 1 nuclei in an image, median 1; median area 50.0 square '
        'micrometres; 1% of the tissue is nuclear',
        'validation: 1 to 1 nuclei in an image, median 1; median area 50.0 '
        'square micrometres; 1% of the tissue is nuclear',
        f'look at {out}/check.jpg, and at {out}/check/NAME.jpg for each '
        'image']
    with store.open_store(out / 'train.h5') as file:
        rules = store.attributes(file)
        assert 'row + 0.5' in rules.pop('fill_rule')
        assert len(rules.pop('source_digest')) == 40
        assert rules == {
            'schema_version': 5, 'version': 3, 'split': 'train',
            'source': str(data),
            'seed': 5, 'fold': '0', 'patch_size': 256, 'overlap': 0.2,
            'skipped': '[]', 'nuclei': 3,
            'microns_per_pixel': 'as the files state'}
        for whole in store.whole_images(file):
            assert whole.instances[10:30, 20:60].all()
            assert whole.instances.sum() == 800
    assert names_in(out) == ['.lock', *CHECK, 'train.h5', 'validation.h5']


def test_prepare_again(tmp_path, capsys):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    make(out, data)
    first = made(out)
    # The same images from another folder are the same.
    moved = tmp_path / 'moved'
    data.rename(moved)
    capsys.readouterr()
    make(out, moved)
    assert made(out) == first
    assert capsys.readouterr().out == (
        f'{out}: already prepared from {moved} with --seed=0 --fold=0\n')
    make(out, moved, 1)
    second = made(out)
    assert second != first
    # The annotator moves a nucleus.
    save_xml(moved / 'Annotations/TCGA-0.xml', square(0.5, 0.5, 9.5, 9.5))
    make(out, moved, 1)
    assert made(out) != second
    (out / 'validation.h5').unlink()
    make(out, moved, 1)
    assert list(contents(out)) == ['train.h5', 'validation.h5']


@pytest.mark.parametrize('options, division', [
    ({'seed': 3, 'fold': '1'}, '--seed=3 --fold=1'),
    ({'validation': ['TCGA-2']}, 'validation images TCGA-2')])
def test_what_is_replaced_is_said(tmp_path, capsys, options, division):
    data, out = training_data(tmp_path / 'Training', 4), tmp_path / 'out'
    make(out, data, **options)
    assert 'replacing' not in capsys.readouterr().out
    # Stores of an earlier version, too.
    with h5py.File(str(out / 'train.h5'), 'r+') as file:
        file.attrs['schema_version'] = 4
    make(out, data)
    assert capsys.readouterr().out.startswith(
        f'{out}: replacing the stores of {data} ({division}). Networks '
        'trained on them cannot resume with the new ones. To keep both, give '
        'another --data_dir\n')
    # What is the same fits the networks that were trained on it.
    (out / 'validation.h5').unlink()
    make(out, data)
    assert 'replacing' not in capsys.readouterr().out
    # Other images in the place of the former.
    save(data / 'Tissue Images' / 'TCGA-3.tif', pixels(7))
    make(out, data)
    assert 'replacing' in capsys.readouterr().out


def test_20x_and_40x_in_one_folder(tmp_path, capsys):
    """Each at what its file states; its nucleus has 20 micrometres a side."""
    for name, microns, side in (('a', 0.25, 160), ('b', 0.5, 80)):
        path = tmp_path / 'i' / f'{name}.tif'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(0, side)).save(
            path, tiffinfo={270: f'Aperio Image|MPP = {microns}'})
        values = np.zeros((side, side), np.uint8)
        values[:side // 2, :side // 2] = 255
        save(tmp_path / 'o' / f'{name}.png', values)
    out = tmp_path / 'out'
    for options, sides in (({}, [160, 160]),
                           ({'microns_per_pixel': 0.25}, [160, 80])):
        make_own(tmp_path, **options)
        with store.open_store(out / 'train.h5') as file:
            found = list(store.whole_images(file))
        assert [whole.image.shape for whole in found] == [
            (side, side, 3) for side in sides]
        assert [whole.instances.sum() for whole in found] == [
            side ** 2 // 4 for side in sides]
    said = ''.join(capsys.readouterr())
    assert said.count('b.tif: states 0.5 micrometres per pixel') == 1
    assert said.count('b.tif: says 0.5 micrometres per pixel, read as') == 1


def identity_of(folder):
    with store.open_store(folder / 'train.h5') as file:
        return [store.identity(file)[key] for key in store.IDENTITY]


def test_test_store_comes_and_goes_with_the_test_images(tmp_path):
    given, out = tmp_path / 'given', tmp_path / 'out'
    training_data(given / 'Training', 2)
    data_to_test(given / 'MoNuSegTestData')
    make(out, given)
    assert contents(out)['test.h5'] == ['TCGA-9']
    identity = identity_of(out)
    make(out, given / 'Training')
    assert list(contents(out)) == ['train.h5', 'validation.h5']
    # So that a training may go on, and be measured on images that come later.
    assert identity_of(out) == identity
    for _ in range(2):  # also if it was done already
        make(out, given / 'Training', fold='none')
        assert contents(out) == {'train.h5': ['TCGA-0', 'TCGA-1']}
    assert names_in(out) == ['.lock', *CHECK, 'train.h5']


def cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


def test_images_that_cannot_be_used_are_skipped(tmp_path, capsys):
    data = training_data(tmp_path / 'Training', 8)
    out = tmp_path / 'out'
    cut_short(data / 'Tissue Images' / 'TCGA-3.tif')
    save(data / 'Tissue Images' / 'TCGA-5.tif', pixels(5, 30))
    (data / 'Annotations' / 'TCGA-6.xml').write_text('<Annotations>')
    for _ in range(2):  # also if it was done already
        assert sorted(make(out, data, 1)) == ['TCGA-3', 'TCGA-5', 'TCGA-6']
        found = contents(out)
        assert sorted(sum(found.values(), [])) == [
            f'TCGA-{index}' for index in (0, 1, 2, 4, 7)]
        printed = capsys.readouterr()
    assert re.search('already prepared .* --fold=0; skipped: TCGA-[356], '
                     'TCGA-[356], TCGA-[356]; to try them again, remove '
                     f'{out}/train.h5\n', printed.out)
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
    assert small.endswith('(skipped)') and damaged.endswith('(skipped)')


@pytest.mark.parametrize('change, said', [
    (lambda path: path.unlink(), 'No such file'),
    (make_unreadable, 'Input/output error'), (cut_short, 'damaged')])
def test_files_that_change_before_they_are_read(tmp_path, capsys, change,
                                                said):
    folder = training_data(tmp_path / 'Training', 4)
    data = prepare.find_monuseg(str(folder))
    path = folder / 'Tissue Images' / 'TCGA-3.tif'

    def load(entry, *arguments):
        if path.exists():
            change(path)
        return data.load(entry, *arguments)

    assert prepare.prepare(str(tmp_path / 'out'), data._replace(load=load),
                           validation=['TCGA-1']) == ['TCGA-3']
    line, = errors(capsys.readouterr())
    assert line.startswith(f'error: {path}: cannot be read ({said}')
    assert contents(tmp_path / 'out') == {
        'train.h5': ['TCGA-0', 'TCGA-2'], 'validation.h5': ['TCGA-1']}


def test_more_than_half_skipped_is_an_error(tmp_path, capsys):
    data = training_data(tmp_path / 'Training', 4)
    out = tmp_path / 'out'
    make(out, data)
    before = made(out)
    for index in range(3):
        cut_short(data / 'Tissue Images' / f'TCGA-{index}.tif')
    capsys.readouterr()
    line = message(make, out, data, 0, 'none')
    assert line.startswith(
        '3 of 4 train images cannot be used; the first: '
        f'{data}/Tissue Images/TCGA-0.tif: cannot be read')
    assert made(out) == before
    assert names_in(out) == ['.lock', *CHECK, 'train.h5', 'validation.h5']
    # The one line says it all.
    assert 'skipped' not in capsys.readouterr().err


def test_half_skipped_is_none_and_no_image_of_a_split_is_one(tmp_path):
    data = training_data(tmp_path / 'Training', 4)
    for index in range(2):
        cut_short(data / 'Tissue Images' / f'TCGA-{index}.tif')
    assert make(tmp_path / 'out', data, fold='none') == ['TCGA-0', 'TCGA-1']
    assert message(make, tmp_path / 'out', data, 0, '0', ['TCGA-1']
                   ).startswith('1 of 1 validation image cannot be used; ')


def test_files_of_the_users_stay(tmp_path):
    data, out = training_data(tmp_path / 'Training', 4), tmp_path / 'out'
    mine = ['held_out_images/TCGA-0.png', '.partial-notes.txt', '.lock',
            'my.h5', '.partial-mine.png']
    for name in mine:
        write(out / name, f'mine: {name}')
    for fold, made_here in (('0', {'train.h5', 'validation.h5'}),
                            ('none', {'train.h5'})):
        make(out, data, fold=fold)
        found = {str(path.relative_to(out)): path
                 for path in out.rglob('*') if path.is_file()}
        assert {name: found.pop(name).read_text() for name in mine} == {
            name: f'mine: {name}' for name in mine}
        assert {name for name in found if not name.startswith('check')
                } == made_here


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


def test_two_preparations_at_once(tmp_path):
    folder, out = training_data(tmp_path / 'Training', 4), tmp_path / 'out'
    data = prepare.find_monuseg(str(folder))
    refused = []

    def load(*arguments):
        refused.append(message(make, out, folder, 2))
        return data.load(*arguments)

    prepare.prepare(str(out), data._replace(load=load), 1)
    assert len(refused) == 4
    for line in refused:
        assert line.startswith(f'{out}: another process is writing there')
    with store.open_store(out / 'train.h5') as file:
        assert store.identity(file)['data_seed'] == 1
    # The lock ended with the work.
    make(out, folder, 2)


def test_a_refused_preparation_leaves_nothing(tmp_path):
    one = training_data(tmp_path / 'one' / 'Training', 1)
    assert '1 training image found' in message(make, tmp_path / 'out', one)
    give(tmp_path / 'in', ('Binary_masks/{}.png', save, mask(0)))
    same = training_data(tmp_path / 'same', 4)
    # Of each four the seed takes one to validate on.
    for index in range(1, 4):
        shutil.copy(str(same / 'Tissue Images' / 'TCGA-0.tif'),
                    str(same / 'Tissue Images' / f'TCGA-{index}.tif'))
    assert ('none of the training images has a nucleus' in message(
        make, tmp_path / 'a/b/out', tmp_path / 'in', 0, 'none'))
    assert re.fullmatch(
        '1 image would be in two stores: TCGA-[0-3] of '
        r'validation as TCGA-[0-3] of train\. Remove one of the two',
        message(make, tmp_path / 'a/b/out', same))
    assert names_in(tmp_path) == ['in', 'one', 'same']


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
    training_data(both / 'Training', 2, side=64)
    data_to_test(both / 'MoNuSegTestData', side=64)
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
    # Of three stores two are replaced and one is removed. Of the pictures
    # four are removed, of three images and the sheet, and three come.
    assert kills == 10
    assert_same(out, tmp_path / 'unkilled-1')


def assert_same(folder, expected):
    """Compares the stores in two folders, where nothing else is."""
    assert names_in(folder) == names_in(expected)
    for name in contents(expected):
        found = []
        for path in (folder / name, expected / name):
            with store.open_store(path) as file:
                found.append((store.attributes(file),
                              store.image_names(file),
                              store.image_digests(file)))
        assert found[0] == found[1]


# What users have


def give(root, *parts):
    """Writes images A and B, and annotations by (path, function, content)."""
    for seed, name in enumerate('AB'):
        save(root / f'Training/Tissue Images/{name}.png', pixels(seed))
        for path, write_one, *content in parts:
            write_one(root / 'Training' / path.format(name), *content)


REGIONS = [region(outline) for outline in THREE]
XML = 'Annotations/{}.xml', write, xml(REGIONS)
SIZES = [800, 900, 200]  # of THREE
# Components are numbered from the top.
CASES = {
    'plain': ([XML], SIZES),
    'mask as TIFF': ([('Binary_masks/{}.tif', save, mask())], SIZES),
    'mask beside XML': (
        [XML, ('Binary_masks/{}.tif', save, mask() * 0 + 255)], SIZES),
    'labels beside masks': (
        [('Label_masks/{}.png', save, labels((9, 5, 7))),
         ('Binary_masks/{}.png', save, mask())], [900, 200, 800]),
    'region of interest': ([('Annotations/{}.xml', write, xml(
        REGIONS, [region(square(1, 1, 298, 299))]))], SIZES),
    'without nuclei': ([('Annotations/{}.xml', write, xml([]))], []),
    'labels': ([('Instance_masks/{}.tif', save, labels(
        (200, 7, 90), np.uint16))], [900, 200, 800]),
    'GeoJSON': ([('Annotations/{}.geojson', save_geojson, *THREE)], SIZES),
    'GeoJSON before labels': (
        [('Label_masks/{}.png', save, labels()),
         ('Annotations/{}.json', save_geojson, NUCLEUS)], [800])}


@pytest.mark.parametrize('name', CASES)
def test_what_users_have(tmp_path, capsys, name):
    parts, sizes = CASES[name]
    give(tmp_path / 'given', *parts)
    out = tmp_path / 'out'
    assert make(out, tmp_path / 'given', fold='none') == []
    assert contents(out) == {'train.h5': ['A', 'B']}
    printed = capsys.readouterr()
    with store.open_store(out / 'train.h5') as file:
        for index, (_, image, instances, has_instances) in enumerate(
                store.whole_images(file)):
            np.testing.assert_array_equal(image, pixels(index))
            assert np.bincount(instances.ravel())[1:].tolist()[
                :len(sizes)] == sizes
            if sizes == SIZES:
                np.testing.assert_array_equal(instances, labels())
            assert (instances > 0).sum() == sum(sizes)
        assert store.attributes(file)['nuclei'] == 2 * len(sizes)
        for masks, top, left in zip(file['patches/masks'][-4:],
                                    (0, 0, 44, 44), (0, 44, 0, 44)):
            np.testing.assert_array_equal(
                masks[..., 0],
                with_gaps(instances)[top:top + 256, left:left + 256])
    if not has_instances:
        kind = 'masks'
    elif name.startswith('labels'):
        kind = 'label images'
    else:
        kind = 'GeoJSON' if 'GeoJSON' in name else 'XML'
    assert f'annotations: {kind} of 2 images\n' in printed.out
    assert has_instances == (name != 'mask as TIFF')
    assert ('masks do not separate touching' in printed.out) == (
        not has_instances)
    assert ('there is nothing to train on' in printed.out) == (sizes == [])
    assert printed.out.count('.xml: skipped: an outline of ') == (
        2 if name == 'region of interest' else 0)
    # One line for all images with several annotations.
    assert printed.out.count(' is read, not ') == printed.out.count(
        'move the first away. 1 more image likewise\n') == (
            name in ('mask beside XML', 'labels beside masks',
                     'GeoJSON before labels'))
    assert errors(printed) == []


def test_own_folders_one_damaged_image_and_a_patient_to_validate_on(
        tmp_path, program):
    """The whole program: what it writes, says and returns."""
    for index, name in enumerate(('p1_a', 'p1_b', 'p2_a', 'p2_b', 'p3')):
        save(tmp_path / f'images/{name}.jpeg', pixels(index, 40, 60))
        save(tmp_path / f'masks/{name}_bin_mask.png', mask()[:40, 20:80])
    flags = ('--mode=prepare', f'--images_dir={tmp_path}/images',
             f'--annotations_dir={tmp_path}/masks',
             f'--data_dir={tmp_path}/out', '--validation=p1_*,p3')
    process = program(*flags)
    assert (process.returncode, messages(process)) == (0, [])
    assert re.search('masks of 5 images\n.* connected component counts .*\n'
                     '.*: .*/images, train 2 images, 2 nuclei, 2 patches; '
                     'validation 3 images, 3 nuclei, 3 patches\n',
                     process.stdout)
    assert contents(tmp_path / 'out') == {
        'train.h5': ['p2_a', 'p2_b'], 'validation.h5': ['p1_a', 'p1_b', 'p3']}
    for instances in prepared(tmp_path / 'out').values():
        assert instances.shape == (40, 60) and instances.sum() == 20 * 40
    cut_short(tmp_path / 'images/p1_b.jpeg')
    process = program(*flags)
    assert process.returncode == 1
    line, = messages(process)
    assert line.startswith(f'error: {tmp_path}/images/p1_b.jpeg: ')
    assert process.stdout.endswith('\n1 image skipped: p1_b\n')
    assert contents(tmp_path / 'out')['validation.h5'] == ['p1_a', 'p3']
    # Told again, and not done again.
    again = program(*flags)
    assert again.returncode == 1 and 'already prepared' in again.stdout


@pytest.mark.parametrize('flags, words', [
    (['--images_dir=.'], ['--annotations_dir: missing']),
    (['--annotations_dir=.'], ['--images_dir: missing']),
    (['--monuseg_dir=.', '--images_dir=.', '--annotations_dir=.'],
     ['--monuseg_dir: give either']),
    (['--monuseg_dir=.', '--test_images_dir=.'], ['--monuseg_dir: give']),
    (['--sample', '--annotations_dir=.'], ['--monuseg_dir: give either']),
    (['--sample', '--microns_per_pixel=0.5'],
     ['--microns_per_pixel: not with --sample']),
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


def test_other_magnifications_are_resampled_with_their_nuclei(tmp_path):
    """At half the size, each pixel becomes four."""
    save(tmp_path / 'i/lines.png', pixels(0, 90, 120))
    write(tmp_path / 'o/lines.xml', xml(
        [region(square(10, 20, 30, 60)),
         region(square(80.5, 100.5, 99, 130))], head='MicronsPerPixel="0.5"'))
    save(tmp_path / 'i/mask.png', pixels(1, 90, 120))
    save(tmp_path / 'o/mask.png', mask()[:90, :120])
    save(tmp_path / 'i/numbers.png', pixels(2, 90, 120))
    save(tmp_path / 'o/numbers.npy', labels((7, 0, 0), np.int32)[:90, :120])
    make_own(tmp_path, microns_per_pixel=0.5)
    expected = np.zeros((180, 240), int)
    expected[20:60, 40:120] = 1
    found = prepared(tmp_path / 'out')
    for name in ('mask', 'numbers'):
        np.testing.assert_array_equal(found[name], expected)
    expected[161:, 201:] = 2
    np.testing.assert_array_equal(found['lines'], expected)
    with store.open_store(tmp_path / 'out' / 'train.h5') as file:
        assert store.attributes(file)['microns_per_pixel'] == 0.5
        for whole in store.whole_images(file):
            assert whole.image.shape == (180, 240, 3)


# Splits by name


@pytest.mark.parametrize('given, held', [
    (['a'], 'a'), (['a', 'c[1]'], 'a c[1]'), (['b*'], 'b1 b2'),
    (['b?', 'a'], 'a b1 b2'), (['[ab]*'], 'a b1 b2'),
    # A name, and not c1; a pattern.
    (['c[1]'], 'c[1]'), (['b[1]'], 'b1'),
    # With the ending of its file, and its folder.
    (['a.tif', 'images/b1.PNG', 'c[1].svs'], 'a b1 c[1]'),
    (['b*.tif'], 'b1 b2'), (['d.e'], 'd.e'), (['d.e.jpg'], 'd.e'),
    (['f.tif'], 'f.tif')])
def test_names_and_patterns_to_validate_on(given, held):
    entries = entries_of('a', 'b1', 'b2', 'c1', 'c[1]', 'd.e', 'f.tif')
    divided = splits.assign_splits(entries, 0, '0', given)
    assert [entry.name for entry in divided['validation']] == held.split()
    assert sorted(sum(divided.values(), [])) == entries


def test_letters_that_a_mac_composes_otherwise():
    entries = entries_of('Mu\u0308ller 1', 'Mu\u0308ller 2')
    for given in ('M\xfcller 2', 'M?ller 2', 'Mu\u0308ller 2'):
        divided = splits.assign_splits(entries, 0, '0', [given])
        assert divided['validation'] == entries[1:]


def test_names_that_cannot_be_validated_on():
    entries = entries_of('a', 'b')
    test = Entry('t', 'test', 'why', None, None)
    for given in (['c'], ['a', 'A'], ['t'], ['c*']):
        assert (f'--validation: no training image is called {given[-1]}; they '
                'are a, b' in message(
                    splits.assign_splits, entries + [test], 0, '0', given))
    assert '--validation: names all training images' in message(
        splits.assign_splits, entries + [test], 0, '0', ['*'])


def test_a_file_of_names_to_validate_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'held out', '\ufeffa, 1\r\n\r\n b \r\n')
    assert splits.read_names('held out') == ['a, 1', 'b']
    write(tmp_path / 'of Windows', 'a\r\nä\r\n'.encode('utf-16'))
    assert splits.read_names('of Windows') == ['a', 'ä']
    assert splits.read_names('a, 1,b') == ['a', '1', 'b']
    # An image of that name in the current folder is none.
    write(tmp_path / 'a0.tif', b'\xff\xfe caf\xe9')
    assert splits.read_names('a0.tif') == ['a0.tif']
    (tmp_path / 'a0.tif').rename('names')
    assert message(splits.read_names, 'names').startswith(
        '--validation names: cannot be read as text')
    write(tmp_path / 'names', ' \n')
    assert message(splits.read_names, 'names').startswith(
        '--validation: holds no names')


def test_an_image_is_cropped_to_what_is_annotated(tmp_path, capsys):
    """At 20x: each pixel of the file becomes four."""
    around = [(20, 20), (20, 80), (60, 80), (60, 20)]
    save(tmp_path / 'i/a.tif', pixels(0, 120))
    write(tmp_path / 'o/a.geojson', json.dumps([
        feature(around, classification='Region*'),
        feature(square(30, 30, 40, 50), classification='Tumor'),
        feature(square(45, 60, 55, 75), classification='Stroma')]))
    make_own(tmp_path, microns_per_pixel=0.5)
    assert 'no nucleus is annotated outside 1 region' in (
        capsys.readouterr().out)
    with store.open_store(tmp_path / 'out/train.h5') as file:
        whole, = store.whole_images(file)
    assert whole.image.shape == (80, 120, 3)
    expected = np.zeros((80, 120))
    expected[20:40, 20:60], expected[50:70, 80:110] = 2, 3
    np.testing.assert_array_equal(whole.instances, expected)


def test_classes_are_chosen_and_others_than_there_are_refused(
        tmp_path, capsys):
    save(tmp_path / 'i/a.png', pixels(0))
    save(tmp_path / 'i/b.png', pixels(1))
    for name, classes in (('a', ('Tumor', 'Stroma', '')),
                          ('b', ('Stroma', 'Stroma', 'Stroma'))):
        write(tmp_path / f'o/{name}.geojson', json.dumps([
            feature(outline, classification=of_class)
            for outline, of_class in zip(THREE, classes)]))

    def areas(*classes):
        make_own(tmp_path, classes=classes)
        found = prepared(tmp_path / 'out')
        return [np.bincount(found[name].ravel())[1:].tolist()
                for name in sorted(found)]

    assert areas() == [[800, 900, 200]] * 2
    assert areas('Tumor') == [[800], []]
    assert 'outlines of the class Stroma: 3' in capsys.readouterr().out
    assert areas('Tumor', 'Stroma') == [[800, 900], [800, 900, 200]]
    before = made(tmp_path / 'out')
    assert message(areas, 'Tumor', 'tumour') == (
        '--classes: no annotation has tumour, only Stroma, Tumor')
    assert made(tmp_path / 'out') == before
    path = tmp_path / 'o/b.geojson'
    path.write_text(path.read_text().replace('Stroma', 'tumor', 1))
    assert areas('TUMOR') == [[800], [800]]
    save(tmp_path / 'o/b.geojson'.replace('geojson', 'png'), mask())
    (tmp_path / 'o/b.geojson').unlink()
    areas('Tumor')
    assert 'b.png: has no classes; omit --classes' in capsys.readouterr().err


def test_what_decides_on_nuclei_is_part_of_the_digest(tmp_path):
    save(tmp_path / 'i/a.png', pixels(0))
    save(tmp_path / 'o/a.png', mask())
    made_by = [{}, {'classes': ['a b']}, {'classes': ['a', 'b']}]
    digests = [prepare.find_own(str(tmp_path / 'i'), str(tmp_path / 'o'),
                                **rules).digests['source_digest']
               for rules in made_by]
    assert len({*digests}) == len(digests)


def test_a_nucleus_of_a_class_that_lies_wholly_under_others(
        tmp_path, capsys):
    """It has no pixel, and is the last."""
    save(tmp_path / 'i/a.png', pixels(0))
    write(tmp_path / 'o/a.geojson', json.dumps([
        feature(square(10, 10, 50, 50), classification='Tumor'),
        feature(square(100, 100, 130, 130), classification='Stroma'),
        feature(square(20, 20, 30, 30), classification='Stroma')]))
    make_own(tmp_path)
    said = capsys.readouterr().out
    assert 'class Stroma: 1 nucleus, median area 56.2 square' in said
    assert 'class Tumor: 1 nucleus, median area 100.0 square' in said


def test_one_line_for_all_images_whatever_their_names(tmp_path, capsys):
    """Grey images, smooth masks, and a damaged one among five."""
    grey = np.repeat(pixels(0)[..., :1], 3, axis=2)
    smooth = np.zeros((SIDE, SIDE), np.uint8)
    smooth[50:100, 50:100] = 255
    smooth[40:50, 50:100] = np.arange(20, 220, 20)[:, np.newaxis]
    for name in ('a\nb', 'c', 'd', 'e', 'f\x1b[2J'):
        save(tmp_path / f'i/{name}.png', np.roll(grey, ord(name[0]), axis=0))
        save(tmp_path / f'o/{name}.png', smooth)
    write(tmp_path / 'i/f\x1b[2J.png', b'damaged')
    assert make_own(tmp_path) == ['f\x1b[2J']
    said = capsys.readouterr().err
    i, o = tmp_path / 'i', tmp_path / 'o'
    assert [line for line in said.splitlines() if 'colours' in line] == [
        fr'warning: {i}/a\nb.png: its colours are not those of H&E (grey, '
        'fluorescence or a negative?); the shipped networks know only H&E on '
        f'a bright ground. 3 more images: {i}/c.png, {i}/d.png, ...']
    assert (fr'warning: {o}/a\nb.png: a mask with smooth edges: read as 0 up '
            f'to 127, and 1 above. 3 more images: {o}/c.png, ') in said
    assert fr'error: {i}/f\x1b[2J.png: cannot be read' in said
    assert 'a\nb' not in said and '\x1b' not in said
