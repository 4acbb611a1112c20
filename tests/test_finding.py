"""Which files are images, which are their annotations, and in which split."""
import json
import os
import shutil
import struct
import unicodedata
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from histology import listing, monuseg, pairs
from input_pipeline import prepare, splits
from inputs import (
    NUCLEUS,
    data_to_test,
    labels,
    load,
    mask,
    message,
    pack,
    pixels,
    save,
    save_geojson,
    save_xml,
    square,
    training_data,
    write,
)
from prediction import page, writers
from prediction.predictor import Nuclei


def places(folder, names=None):
    """Touches files, for finding them takes none of their content."""
    for name in names:
        write(folder / name, '')
    return folder


def listed(folder):
    return {path.relative for path in listing.list_files(folder, 'x')}


def pairing(entries, folder):
    """Maps each image's path below a folder to its annotation's."""
    return {os.path.relpath(entry.image, str(folder)):
            os.path.relpath(entry.annotation, str(folder))
            for entry in entries}


def find_pairs(folder, images='', annotations=''):
    return pairs.find(str(folder / images), str(folder / annotations))


def paired(folder, *places):
    """`pairing` of what is found in a folder."""
    return pairing(find_pairs(folder, *places), folder)


# Folders


def test_hidden_files_are_passed_over(tmp_path):
    places(tmp_path, [
        'a.tif', '.a.tif', '.ipynb_checkpoints/a-checkpoint.tif',
        'b/.DS_Store', 'b/._c.tif', '__MACOSX/b/._c.tif', 'b/c.tif'])
    assert listed(str(tmp_path)) == {'a.tif', 'b/c.tif'}
    # Not so the folder that was given, or those above it.
    hidden = places(tmp_path / '.cache' / '.data', ['d.tif'])
    assert listed(str(hidden)) == {'d.tif'}


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    data = tmp_path / 'up' / 'data'
    places(data, ['own/a.tif'])
    places(tmp_path / 'elsewhere', ['deep/b.tif'])
    links = {'linked': tmp_path / 'elsewhere', 'itself': data,
             'own/above': tmp_path / 'up', 'own/once more': data / 'own',
             'linked/back': data / 'linked', 'linked/deep/round': data}
    for name, target in links.items():
        (data / name).symlink_to(target, target_is_directory=True)
    (data / 'a link.tif').symlink_to(tmp_path / 'elsewhere/deep/b.tif')
    (data / 'to nothing.tif').symlink_to(tmp_path / 'none')
    os.mkfifo(str(data / 'pipe.tif'))
    assert listed(str(data)) == {
        'own/a.tif', 'linked/deep/b.tif', 'a link.tif', 'to nothing.tif'}


def test_absent_data(tmp_path):
    path = str(tmp_path / 'none')
    assert message(monuseg.find, path) == (
        f'--monuseg_dir {path}: no such folder or zip archive; unpack or copy '
        'the data there')
    places(tmp_path / 'a', ['a.png'])
    for flag, arguments in (
            ('images_dir', (path, str(tmp_path))),
            ('annotations_dir', (str(tmp_path / 'a'), path)),
            ('test_images_dir', (path, str(tmp_path), 'test'))):
        assert f'--{flag} {path}: no such folder' in message(
            pairs.find, *arguments)


@pytest.mark.parametrize('folder, split', [
    *((name, 'training') for name in (
        'train', 'Train', 'TRAIN', 'training', 'Training', 'TRAINING',
        'train_1', 'train1', 'trainset', 'Training Data', 'TrainingData',
        'TRAINING_SET', 'training-images', 'MoNuSegTrainingData',
        'MoNuSeg 2018 Training Data', 'MoNuSAC Training')),
    *((name, 'test') for name in (
        'test', 'Test', 'TEST', 'testing', 'Testing', 'test_same',
        'test_diff', 'test set', 'TestSet', 'testdata', 'Test.zip',
        'MoNuSegTestData', 'MoNuSAC Testing Data and Annotations')),
    *((name, 'validation') for name in (
        'val', 'Val', 'VAL', 'valid', 'VALID', 'validation', 'Validation',
        'VALIDATION_SET', 'val_1', 'valset', 'validation-images')),
    *((name, None) for name in (
        'Testis', 'testis', 'TESTIS', 'latest', 'contest', 'CONTEST',
        'my_test_project', 'Testicle', 'tester', 'trained', 'trains',
        'Trainees', 'strain', 'retraining', 'protest', 'interval', 'value',
        'Valencia', 'VALVE', 'validated', 'constraint_training',
        'images'))])
def test_words_that_say_a_split(folder, split):
    assert listing.split_of(f'{folder}/a.tif')[0] == split
    assert listing.split_of(f'x/{folder}/y/a.tif')[0] == split
    # A file is no folder, and the nearest folder decides.
    assert listing.split_of(f'x/{folder}.tif') == (None, None)
    assert listing.split_of(f'test/train/{folder}/a.tif')[0] == (
        split or 'training')
    if split:
        assert listing.split_of(f'test/train/{folder}/a.tif')[1] == (
            f'for their folder is called {folder}')


def test_folders_above_the_one_given_say_no_split(tmp_path):
    for above in ('test', 'Training', 'my_test_project'):
        folder = tmp_path / above / 'slides'
        places(folder, ['images/a.png', 'masks/a.png'])
        for entry, in (pairs.find(str(folder / 'images'),
                                  str(folder / 'masks')),
                       pairs.find(str(folder), str(folder))):
            assert (entry.name, entry.split) == ('a', 'training')
    training_data(tmp_path / 'test' / 'given', 1)
    entry, = monuseg.find(str(tmp_path / 'test' / 'given'))
    assert entry.split == 'training'


def test_why_nothing_is_left_to_train_on(tmp_path):
    names = [f'test_same/{kind}/{index}' for kind in ('Images/', 'Labels/')
             for index in range(3)]
    places(tmp_path, [f'{name}.png' for name in names])
    data = prepare.find_own(str(tmp_path), str(tmp_path))
    line = message(splits.assign_splits, data.entries, 0, '0')
    assert line == (
        '0 training images found, --fold=0 needs 2. Test images: 3 (0 ...), '
        'for their folder is called test_same; give the folder above '
        'the training data, more images, or another --fold or --validation')
    data_to_test(tmp_path / 'mixed')
    data = prepare.find_monuseg(str(tmp_path / 'mixed'))
    assert ('Test images: 1 (TCGA-9), for they lie beside their XML, as in '
            'its test archive;' in message(splits.assign_splits,
                                           data.entries, 0, 'none'))


# The layouts of MoNuSeg


def test_training_layout_prefers_outlines(tmp_path):
    data = training_data(tmp_path / 'données 1' / 'latest', 2)
    for index in range(2):
        save(data / 'Binary_masks' / f'TCGA-{index}.png',
             np.zeros((300, 300), np.uint8))
    (data / 'Annotations' / 'TCGA-1.xml').unlink()
    (data / 'Tissue Images' / '.DS_Store').write_bytes(b'')
    for folder in (data, data.parent):
        first, second = monuseg.find(str(folder))
        assert (first.name, first.split) == ('TCGA-0', 'training')
        assert (second.name, second.split) == ('TCGA-1', 'training')
        image, instances, has_instances = load(first)
        np.testing.assert_array_equal(image, pixels(0))
        assert has_instances is True and instances.dtype == np.int32
        expected = np.zeros((300, 300))
        expected[10:30, 20:60] = 1
        np.testing.assert_array_equal(instances, expected)
        _, instances, has_instances = load(second)
        assert not instances.any() and has_instances is False


def test_test_layout(tmp_path):
    entry, = monuseg.find(str(data_to_test(tmp_path / 'given')))
    assert (entry.name, entry.split) == ('TCGA-9', 'test')
    assert load(entry)[1].sum() == 20 * 40
    # A folder's name comes first.
    data_to_test(tmp_path / 'above' / 'Training')
    entry, = monuseg.find(str(tmp_path / 'above'))
    assert entry.split == 'training'


BESIDE = ['Annotations/A.xml', 'Annotations/A.annotations',
          'Annotations/A.geojson', 'Annotations/A.json',
          'label masks modify/A.tif', 'Instance_masks/A.mat',
          'Instance_masks/A.tif', 'Label_masks/A.mat', 'Label_masks/A.npy',
          'Label_masks/A.png', 'Label_masks/A.tif', 'masks/A.png',
          'Binary_masks/A.png', 'Binary_masks/A.tif',
          'GroundTruth/A_bin_mask.png', 'A_seg.npy']


@pytest.mark.parametrize('folder', ['Tissue Images', 'TissueImages',
                                    'Pictures'])
def test_the_best_annotation_is_taken(tmp_path, folder):
    places(tmp_path, [f'{folder}/A.png', *BESIDE])
    for best in BESIDE:
        entry, = monuseg.find(str(tmp_path))
        assert pairing([entry], tmp_path) == {f'{folder}/A.png': best}
        assert (entry.name, entry.split) == ('A', 'training')
        (tmp_path / best).unlink()
    assert 'A.png: 1 image without annotation' in message(
        monuseg.find, str(tmp_path))


@pytest.mark.parametrize('other', [
    'Binary_masks', 'Masks', 'masks', 'Label masks', 'labels', 'GT_masks',
    'mask binary', 'Overlay', 'Overlays'])
def test_what_was_made_of_images_is_never_taken_for_tissue(tmp_path, other):
    places(tmp_path, ['Tissue Images/A.png', 'Annotations/A.xml'])
    save(tmp_path / other / 'A.tif', mask())
    assert pairing(monuseg.find(str(tmp_path)), tmp_path) == {
        'Tissue Images/A.png': 'Annotations/A.xml'}
    # Nor where the tissue is in a format that is not read.
    (tmp_path / 'Tissue Images' / 'A.png').rename(
        tmp_path / 'Tissue Images' / 'A.bmp')
    if not other.startswith('Overlay'):
        assert 'holds no image' in message(monuseg.find, str(tmp_path))


def test_archives(tmp_path):
    data = training_data(tmp_path / 'away' / 'MoNuSeg 2018 Training Data', 2)
    given = tmp_path / 'given'
    given.mkdir()
    archive = pack(given / 'first.zip', data)
    pack(given / 'second.zip',
         data_to_test(tmp_path / 'away' / 'MoNuSegTestData'))
    (given / '._second.zip').write_bytes(b'macOS')
    files = sorted(tmp_path.rglob('*'))

    assert [entry.split for entry in monuseg.find(str(archive))] == [
        'training', 'training']
    entries = monuseg.find(str(given))
    assert [(entry.name, entry.split) for entry in entries] == [
        ('TCGA-0', 'training'), ('TCGA-1', 'training'), ('TCGA-9', 'test')]
    image, instances, _ = load(entries[1])
    np.testing.assert_array_equal(image, pixels(1))
    assert instances.sum() == 20 * 40
    # Unpacked beside its archive, each image still counts once.
    training_data(given / 'MoNuSeg 2018 Training Data', 2)
    assert [bool(entry.image.archive)
            for entry in monuseg.find(str(given))] == [False, False, True]
    # Nothing was unpacked to disk.
    assert [path for path in sorted(tmp_path.rglob('*'))
            if 'MoNuSeg 2018 Training Data' not in str(path)] == [
                path for path in files
                if 'MoNuSeg 2018 Training Data' not in str(path)]


def test_unknown_data(tmp_path):
    assert f'--monuseg_dir {tmp_path}: holds no image' in message(
        monuseg.find, str(tmp_path))
    archive = tmp_path / 'cut.zip'
    archive.write_bytes(b'PK\3\4 and no more')
    for given in (tmp_path, archive):
        assert f'{archive}: no whole zip' in message(monuseg.find, str(given))
    with zipfile.ZipFile(archive, 'w') as file:
        file.writestr('a', 'b')
    # The version of zip that the directory says is needed, at its byte 6.
    content = bytearray(archive.read_bytes())
    content[content.index(b'PK\1\2') + 6] = 99
    archive.write_bytes(content)
    assert f'{archive}: no whole zip' in message(monuseg.find, str(archive))


def test_damaged_archive_member(tmp_path):
    data = training_data(tmp_path / 'Training', 1)
    archive = pack(tmp_path / 'a.zip', data)
    stored = (data / 'Tissue Images' / 'TCGA-0.tif').read_bytes()
    packed = archive.read_bytes()
    archive.write_bytes(packed.replace(stored, stored[:-1] + b'?'))
    entry, = monuseg.find(str(archive))
    assert 'a.zip/Training/Tissue Images/TCGA-0.tif' in message(load, entry)


def test_a_large_archive_member(tmp_path):
    archive = pack(tmp_path / 'a.zip', training_data(tmp_path / 'Training', 1))
    content = bytearray(archive.read_bytes())
    at = 0
    while b'PK\1\2' in content[at:]:
        at = content.index(b'PK\1\2', at) + 4
        # What it unpacks to, by the directory.
        content[at + 20:at + 24] = (2 ** 31 + 1).to_bytes(4, 'little')
    archive.write_bytes(content)
    entry, = monuseg.find(str(archive))
    assert 'TCGA-0.tif: unpacks to more than 2 GiB; unpack the' in (
        message(load, entry))


def test_an_archive_reaches_nothing_outside(tmp_path):
    """Members named outside the archive are read as members, and only so."""
    outside = training_data(tmp_path / 'outside', 2)
    archive = tmp_path / 'given' / 'Training.zip'
    archive.parent.mkdir()
    with zipfile.ZipFile(str(archive), 'w', zipfile.ZIP_DEFLATED) as file:
        # Its annotation lies outside alone.
        file.write(str(outside / 'Tissue Images/TCGA-1.tif'),
                   '../../outside/Tissue Images/TCGA-1.tif')
    before = sorted(tmp_path.rglob('*'))
    assert 'TCGA-1.tif: 1 image without annotation' in message(
        monuseg.find, str(archive))
    assert sorted(tmp_path.rglob('*')) == before


def test_image_without_annotation(tmp_path):
    data = training_data(tmp_path / 'Training', 3)
    for index in (1, 2):
        (data / 'Annotations' / f'TCGA-{index}.xml').unlink()
    assert 'TCGA-2.tif: 2 images without annotation; --monuseg_dir needs' in (
        message(monuseg.find, str(data)))
    # Not so an annotation without its image.
    for index in (1, 2):
        (data / 'Tissue Images' / f'TCGA-{index}.tif').unlink()
    save_xml(data / 'Annotations' / 'TCGA-1.xml', NUCLEUS)
    assert [entry.name for entry in monuseg.find(str(data))] == ['TCGA-0']


def test_image_in_both_splits(tmp_path):
    training_data(tmp_path / 'given' / 'Training', 1)
    training_data(tmp_path / 'given' / 'Test', 1)
    line = message(monuseg.find, str(tmp_path / 'given'))
    assert 'TCGA-0.tif, a training image: of the same name as' in line
    assert 'TCGA-0.tif, a test image; rename' in line


def test_a_name_that_is_not_utf_8(tmp_path):
    with open(os.fsencode(tmp_path) + b'/caf\xe9.tif', 'wb'):
        pass
    for find, folders in ((monuseg.find, [tmp_path]),
                          (pairs.find, [tmp_path, tmp_path])):
        assert "caf\\udce9.tif': the name is not UTF-8" in message(
            find, *map(str, folders))
    # A path is what data are called by.
    folder = tmp_path / os.fsdecode(b'\xe9')
    places(folder, ['a.png', 'a.xml'])
    data = prepare.find_own(str(folder), str(folder))
    assert data.source == f'{tmp_path}/\\udce9'


def test_two_images_of_one_name(tmp_path):
    folders = [tmp_path / 'Training' / part for part in ('a', 'b')]
    for folder in folders:
        training_data(folder, 1)
    # The same image twice is one, with outlines where either copy has them.
    (folders[0] / 'Annotations' / 'TCGA-0.xml').unlink()
    save(folders[0] / 'Binary_masks' / 'TCGA-0.png', mask())
    entry, = monuseg.find(str(tmp_path))
    assert entry.annotation.endswith('b/Annotations/TCGA-0.xml')
    save(folders[1] / 'Tissue Images' / 'TCGA-0.tif', pixels(1))
    (folders[0] / 'Binary_masks' / 'TCGA-0.png').unlink()
    save_xml(folders[0] / 'Annotations' / 'TCGA-0.xml', NUCLEUS)
    line = message(monuseg.find, str(tmp_path))
    assert line.startswith(
        f'{folders[0]}/Tissue Images/TCGA-0.tif and {folders[1]}/Tissue '
        'Images/TCGA-0.tif: two images of one name; rename one')


def test_monuseg_is_called_so_and_other_data_by_their_path(tmp_path):
    slide = 'TCGA-AB-1234-01Z-00-DX1'
    folder = tmp_path / 'liver' / 'x'
    places(folder, [f'Tissue Images/{slide}.tif', f'Annotations/{slide}.xml'])
    assert prepare.find_monuseg(str(folder)).source == 'MoNuSeg'
    places(folder, ['Tissue Images/B.tif', 'Annotations/B.xml'])
    relative = os.path.relpath(str(folder))
    for given in (str(folder), relative):
        assert prepare.find_monuseg(given).source == given
        assert prepare.find_own(f'{given}/Tissue Images',
                                f'{given}/Annotations').source == (
                                    f'{given}/Tissue Images')


# Anyone's own


MASK_ENDINGS = [
    '', '_mask', '_masks', '_label', '_labels', '_bin_mask', '-labels',
    '-mask', '.mask', ' mask', '_Mask', '_MASK', '_binary', '_gt', '_GT',
    '_seg', '_segmentation', '_annotation', '_instances', '_inst',
    '_instance_mask', '_inst_map', '_labelled', '_labeled_mask', '_nuclei',
    '_nuclei_mask', '_groundtruth', '_ground_truth', '_cp_masks', '_manual',
    '.tif', '.png-labels']


@pytest.mark.parametrize('added', MASK_ENDINGS)
@pytest.mark.parametrize('ending', ['png', 'tif', 'npy'])
def test_what_is_added_to_names(tmp_path, added, ending):
    places(tmp_path / 'i', ['case 1.tif', 'case_1.tif', 'case_10.tif'])
    annotations = [f'{name}{added}.{ending}'
                   for name in ('case 1', 'case_1', 'case_10')]
    places(tmp_path / 'a', annotations)
    expected = {f'i/{name}.tif': f'a/{name}{added}.{ending}'
                for name in ('case 1', 'case_1', 'case_10')}
    assert paired(tmp_path, 'i', 'a') == expected
    # In one folder too, if they are told apart.
    if not added:
        return
    places(tmp_path / 'both', ['x.png', f'x{added}.{ending}'])
    assert paired(tmp_path / 'both') == {'x.png': f'x{added}.{ending}'}


@pytest.mark.parametrize('name', [
    'a.xml', 'a.XML', 'a.annotations', 'a.geojson', 'a.geojson.gz', 'a.json',
    'a.tif.geojson', 'a.tif.xml', 'a.mat', 'a.npy', 'a.png', 'a.tiff',
    'a.TIF', 'a.jpg', 'a_labels.mat', 'below/and/deeper/a_mask.PNG'])
def test_formats_of_annotations(tmp_path, name):
    places(tmp_path, ['i/a.tif', f'o/{name}', 'o/notes.txt', 'o/Thumbs.db'])
    assert paired(tmp_path, 'i', 'o') == {'i/a.tif': f'o/{name}'}
    assert paired(tmp_path, 'i/', 'o/../o') == {'i/a.tif': f'o/{name}'}


@pytest.mark.parametrize('image', ['a_img.png', 'a_image.tif', 'a.ome.tif',
                                   'a-img.jpg', 'a_Tissue.png'])
def test_what_is_added_to_the_names_of_images(tmp_path, image):
    places(tmp_path, [f'i/{image}', 'o/a_mask.png'])
    assert list(paired(tmp_path, 'i', 'o')) == [f'i/{image}']


@pytest.mark.parametrize('stem', ['hemoglobin', 'a', 'instrument'])
@pytest.mark.parametrize('folder', ['o', 'Institute'])
def test_the_best_annotation_whatever_words_its_name_holds(tmp_path, stem,
                                                           folder):
    places(tmp_path, [f'i/{stem}.png', f'{folder}/{stem}_labels.png',
                      f'{folder}/{stem}_mask.png'])
    assert paired(tmp_path, 'i', folder) == {
        f'i/{stem}.png': f'{folder}/{stem}_labels.png'}


@pytest.mark.parametrize('best, other', [
    ('CellInstances/a.png', 'CellMasks/a.png'),
    ('LabelsNumbered/a.png', 'LabelsBinary/a.png'),
    ('mask/a.png', 'maskbin/a.png')])
def test_the_best_annotation_by_words_that_run_together(tmp_path, best, other):
    for name in (best, other):
        write(tmp_path / 'o' / name, name)
    places(tmp_path, ['i/a.png'])
    assert paired(tmp_path, 'i', 'o') == {'i/a.png': f'o/{best}'}


def test_two_annotations_equally_good(tmp_path):
    places(tmp_path, ['i/a.png', 'o/1/labels/a.tif', 'o/2/labels/a.tif'])
    assert paired(tmp_path, 'i', 'o') == {
        'i/a.png': 'o/1/labels/a.tif'}  # they are the same
    write(tmp_path / 'o/2/labels/a.tif', 'other')
    line = message(find_pairs, tmp_path, 'i', 'o')
    assert line == (
        f'{tmp_path}/o/1/labels/a.tif and {tmp_path}/o/2/labels/a.tif: two '
        'annotations of one image; give --annotations_dir the folder of one')


def test_annotations_that_are_not_read_are_named(tmp_path, capsys):
    for name in ('a', 'b'):
        save(tmp_path / f'i/{name}.png', pixels(0))
        write(tmp_path / f'o/{name}.xml', '<Annotations/>')
        save_geojson(tmp_path / f'o/{name}.geojson', NUCLEUS)
    # None is said of copies, of what predict wrote, and of notes.
    save_geojson(tmp_path / 'o/a.json', NUCLEUS)
    (tmp_path / 'o/a.xml').unlink()
    write_predicted(tmp_path / 'o', 'a', PREDICTED)
    write(tmp_path / 'o/more/a.json', '{"patient": 7}')
    find_pairs(tmp_path, 'i', 'o')
    assert capsys.readouterr().out == (
        f'{tmp_path}/o/b.xml is read, not {tmp_path}/o/b.geojson; to read '
        'another, move the first away\n')
    for name in ('a', 'b'):  # one line for both
        write(tmp_path / f'o/{name}.annotations', '<Annotations/>')
        write(tmp_path / f'o/{name}.xml', '<Annotations></Annotations>')
        (tmp_path / f'o/{name}.geojson').unlink()
    (tmp_path / 'o/a.json').unlink()
    find_pairs(tmp_path, 'i', 'o')
    assert capsys.readouterr().out == (
        f'{tmp_path}/o/a.xml is read, not {tmp_path}/o/a.annotations; to '
        'read another, move the first away. 1 more image likewise\n')


def test_unpaired_files(tmp_path):
    places(tmp_path, [*(f'i/{k}.png' for k in range(9)), 'o/0.png', 'o/x.xml',
                      'o/7_overlay.png', 'o/meta.json'])
    line = message(find_pairs, tmp_path, 'i', 'o')
    assert line == (
        f'{tmp_path}/i/1.png, {tmp_path}/i/2.png, {tmp_path}/i/3.png ...: 8 '
        'images without annotation; --annotations_dir needs a file of that '
        'name, or of that name with _mask, _labels or the like added, of '
        '.xml, .annotations, .geojson, .json, .mat, .npy, .tif, .tiff, .png, '
        '.jpg, .jpeg; one for all images (COCO) or for each nucleus is not '
        f'read. There are: {tmp_path}/o/7_overlay.png, {tmp_path}/o/meta.json,'
        f' {tmp_path}/o/x.xml')
    places(tmp_path, [f'o/{k}.png' for k in range(9)])
    line = message(find_pairs, tmp_path, 'i', 'o')
    assert line.startswith(
        f'{tmp_path}/o/7_overlay.png, {tmp_path}/o/x.xml: 2 annotations '
        'without image; --images_dir needs an image of that name')
    line = message(pairs.find, str(tmp_path / 'i'), str(tmp_path / 'o'),
                   'test')
    assert '--test_images_dir needs' in line
    for images, annotations in (('o', 'i'), ('', 'i'), ('', 'o')):
        message(find_pairs, tmp_path, images, annotations)


@pytest.mark.parametrize('names, there', [
    (['o/a.bmp', 'o/b.bmp', 'o/a.txt'], ['o/a.bmp', 'o/a.txt']),
    (['o/a.qpdata'], ['o/a.qpdata']), (['o/coco.json'], ['o/coco.json']),
    (['o/a_1.png', 'o/a_2.png', 'o/b_1.png'], ['o/a_1.png']),
    (['o/a/masks/0f.png', 'o/b/masks/1d.png'], ['o/a/masks/0f.png'])])
def test_what_there_is_in_place_of_annotations(tmp_path, names, there):
    places(tmp_path, ['i/a.png', 'i/b.png', *names])
    line = message(find_pairs, tmp_path, 'i', 'o')
    assert '2 images without annotation; --annotations_dir needs' in line
    assert 'of .xml, .annotations, .geojson' in line
    assert line.endswith('. There are: ' + ', '.join(
        f'{tmp_path}/{name}' for name in there))
    # Among the images, too: whatever may be an annotation.
    if not names[0].endswith('_1.png'):
        places(tmp_path, ['i/' + name[2:] for name in names])
        assert message(find_pairs, tmp_path, 'i', 'i').endswith(
            '. There are: ' + ', '.join(f'{tmp_path}/i/{name[2:]}'
                                        for name in there))


@pytest.mark.parametrize('masks', [
    'Ground Truth', 'Ground_Truth', 'GroundTruth', 'BinaryMasks',
    'InstanceMasks', 'LabelImages', 'GT'])
def test_folders_of_masks_beside_images(tmp_path, masks):
    places(tmp_path, ['Images/a.png', f'{masks}/a.png'])
    assert paired(tmp_path) == {'Images/a.png': f'{masks}/a.png'}


def test_annotations_behind_a_link_in_the_folder_of_the_images(tmp_path):
    places(tmp_path, ['data/a.png', 'elsewhere/a.png'])
    (tmp_path / 'data/labels').symlink_to(tmp_path / 'elsewhere')
    assert paired(tmp_path, 'data', 'data/labels') == {
        'data/a.png': 'data/labels/a.png'}


def test_labels_that_another_program_changed_are_a_persons(tmp_path):
    """ImageMagick writes the texts that it has read behind the pixels."""
    path = save(tmp_path / 'a.png', labels())
    text = b'tEXtSoftware\0nuclei segmentation'
    chunk = (struct.pack('>I', len(text) - 4) + text
             + struct.pack('>I', zlib.crc32(text)))
    data = path.read_bytes()
    for end, predicted in ((33, True), (len(data) - 12, False)):
        path.write_bytes(data[:end] + chunk + data[end:])
        np.testing.assert_array_equal(np.array(Image.open(path)), labels())
        assert listing.is_predicted(str(path)) == predicted


def test_images_in_a_folder_for_masks(tmp_path):
    places(tmp_path, ['Inst1/a.tif', 'Inst1/a.xml'])
    assert ('those in folders called labels, masks, inst, annotations or the '
            'like count as annotations: rename the folder') in message(
                find_pairs, tmp_path, '', '')


def test_sidecars_of_masks(tmp_path):
    places(tmp_path, ['i/a.png', 'o/a.png'])
    # Of maps' programs, and of Leica's microscopes.
    for name, encoding in (
            ('i/a.png.aux.xml', 'utf-8'), ('o/A.PNG.AUX.XML', 'utf-8-sig'),
            ('o/MetaData/a.xml', 'utf-16'), ('o/MetaData/b.xml', 'utf-8')):
        write(tmp_path / name, '<?xml version="1.0"?>\n<Data><Image/></Data>'
              .encode(encoding))
    metadata = {'patient': 7, 'matrix': [1, 0], 'stains': [['H', 'E'], []]}
    write(tmp_path / 'o/a.json', json.dumps(metadata))
    assert paired(tmp_path, 'i', 'o') == {'i/a.png': 'o/a.png'}
    # What may be outlines, or may have been.
    for content in ('', '{"type": "FeatureCollection", "features": []}', '[]',
                    '{"nuc": {"1": {"contour": [\n[ 3,4], [5,6]]}}}'):
        write(tmp_path / 'o/a.json', content)
        assert paired(tmp_path, 'i', 'o') == {'i/a.png': 'o/a.json'}
    # Alone it is read, and then named.
    shutil.rmtree(tmp_path / 'o/MetaData')
    write(tmp_path / 'o/a.json', json.dumps(metadata))
    (tmp_path / 'o/a.png').unlink()
    assert paired(tmp_path, 'i', 'o') == {'i/a.png': 'o/a.json'}


def test_case_and_the_two_ways_to_write_an_umlaut(tmp_path):
    def spelled(form):
        return [unicodedata.normalize(form, name) for name in ('bär', 'Übel')]

    (bear, evil), (bear_apart, evil_apart) = spelled('NFC'), spelled('NFD')
    assert bear != bear_apart and evil != evil_apart
    wanted = {f'i/{bear}.tif': f'o/{bear_apart.upper()}_mask.png',
              f'i/{evil_apart}.png': f'o/{evil}_MASK.png',
              'i/Case_IMG.PNG': 'o/cASE.xml'}
    places(tmp_path, [*wanted, *wanted.values()])
    assert paired(tmp_path, 'i', 'o') == wanted
    # A name of just these letters counts more.
    places(tmp_path, ['both/a.png', 'both/A.png', 'both/a.xml', 'both/A.xml'])
    assert paired(tmp_path, 'both', 'both') == {
        'both/a.png': 'both/a.xml', 'both/A.png': 'both/A.xml'}
    (tmp_path / 'both/A.xml').unlink()
    assert 'both/A.png: 1 image without annotation' in message(
        find_pairs, tmp_path, 'both', 'both')


def write_predicted(folder, stem, nuclei):
    """Writes all that predict does of an image."""
    folder.mkdir(parents=True, exist_ok=True)
    writers.write_all(str(folder / stem), nuclei, writers.OUTPUTS, False)
    record = {'software': writers.SOFTWARE, 'stem': stem, 'image': stem}
    for name in (stem, 'run'):
        write(folder / f'{name}.json', json.dumps(record, indent=2))
    page.write(str(folder), {'settings': {}, 'model_folder': None,
                             'command': ['[[1, 2]]']}, [record])


PREDICTED = Nuclei(pixels(0), mask(1), mask(), labels(dtype=np.int32), 0.25)


@pytest.mark.parametrize('place', ['o', 'o/predictions', 'i/predictions'])
def test_what_predict_wrote_is_no_annotation_beside_one_of_a_person(
        tmp_path, place):
    places(tmp_path, ['i/a.png', 'i/b.png', 'o/a.png', 'o/b.npy'])
    for stem in ('a', 'b', 'another'):
        write_predicted(tmp_path / place, stem, PREDICTED)
    wanted = {'i/a.png': 'o/a.png', 'i/b.png': 'o/b.npy'}
    assert paired(tmp_path, 'i', 'o') == wanted
    for stem in ('a', 'b', 'another'):  # nor are they images
        write_predicted(tmp_path / 'i', stem, PREDICTED)
    assert paired(tmp_path, 'i', 'o') == wanted


def test_what_predict_wrote_is_taken_alone_or_if_it_was_changed(tmp_path):
    places(tmp_path, ['i/a.png', 'i/b.png', 'i/c.png', 'o/c.png'])
    for stem in 'abc':
        write_predicted(tmp_path / 'o', stem, PREDICTED)
    wanted = {'i/a.png': 'o/a_nuclei.geojson',
              'i/b.png': 'o/b_nuclei.geojson', 'i/c.png': 'o/c.png'}
    assert paired(tmp_path, 'i', 'o') == wanted
    # As other programs write it: without what they do not know.
    for stem in 'abc':
        path = tmp_path / 'o' / f'{stem}_nuclei.geojson'
        content = json.loads(path.read_text())
        write(path, json.dumps({'type': content['type'],
                                'features': content['features']}))
    places(tmp_path, ['o/a.png', 'o/b_mask.png'])
    assert paired(tmp_path, 'i', 'o') == {
        f'i/{stem}.png': f'o/{stem}_nuclei.geojson' for stem in 'abc'}
    # Of label images, likewise.
    for stem in 'abc':
        (tmp_path / 'o' / f'{stem}_nuclei.geojson').unlink()
    Image.open(tmp_path / 'o' / 'c_labels.png').save(
        tmp_path / 'o' / 'c_labels.png')
    (tmp_path / 'o' / 'c.png').unlink()
    assert paired(tmp_path, 'i', 'o')['i/c.png'] == 'o/c_labels.png'


def test_a_gzipped_image_is_none(tmp_path):
    places(tmp_path, ['i/a.tif', 'i/a.tif.gz', 'o/a.xml', 'o/a.tif.gz',
                      'all/images/a.tif', 'all/images/a.tif.gz',
                      'all/annotations/a.geojson.gz', 'all/a.png.gz'])
    assert paired(tmp_path, 'i', 'o') == {'i/a.tif': 'o/a.xml'}
    assert paired(tmp_path / 'all') == {
        'images/a.tif': 'annotations/a.geojson.gz'}


def test_a_file_in_place_of_a_folder(tmp_path):
    places(tmp_path, ['i/a.tif', 'o/a.xml'])
    image, xml = tmp_path / 'i' / 'a.tif', tmp_path / 'o' / 'a.xml'
    for path, find in ((image, lambda: find_pairs(tmp_path, image, xml)),
                       (xml, lambda: find_pairs(tmp_path, 'i', xml)),
                       (image, lambda: monuseg.find(str(image)))):
        line = message(find)
        assert line.startswith(f'{path}: no whole zip archive (')
        assert line.endswith('or give a folder')


def test_no_images(tmp_path):
    places(tmp_path, ['i/a.bmp', 'i/a.txt', 'o/a.xml'])
    assert message(find_pairs, tmp_path, 'i', 'o') == (
        f'--images_dir {tmp_path}/i: holds no image (.tif, .tiff, .svs, .png, '
        '.jpg, .jpeg, .jfif)')


def test_images_of_one_name(tmp_path):
    places(tmp_path, ['i/1/a.png', 'i/2/a.png', 'o/a.xml'])
    write(tmp_path / 'i/2/a.png', 'other')
    assert (f'{tmp_path}/i/1/a.png and {tmp_path}/i/2/a.png: two images of '
            'one name; rename one' in message(find_pairs, tmp_path, 'i', 'o'))
    # What no folder says the split of is trained on.
    places(tmp_path, [f'c/{kind}/{name}.png' for kind in ('images', 'masks')
                      for name in ('a', 'train/a')])
    assert 'a.png, a training image; rename' in message(
        find_pairs, tmp_path, 'c/images', 'c/masks')
    # A mask that nothing tells from its image is not guessed at.
    places(tmp_path, ['both/a.png', 'both/a.tif'])
    assert '1 image without annotation' in message(
        find_pairs, tmp_path / 'both')


@pytest.mark.parametrize('names', [
    ['1/Tissue Images/a.png', '1/masks/a.png', '2/raw/a.png', '2/xml/a.xml'],
    ['1/Tissue Images/a.png', '1/xml/a.xml', '2/raw/a.png', '2/masks/a.png'],
    ['images/a.png', 'masks/a.png', '2/raw/a.png', '2/xml/a.xml']])
def test_two_data_sets_below_one_folder(tmp_path, names):
    for name in names:
        write(tmp_path / name, name)
    assert message(find_pairs, tmp_path) == (
        f'{tmp_path}/{names[0]} and {tmp_path}/2/raw/a.png: two images of one '
        'name, with annotations of their own; rename one, or prepare their '
        'folders apart')


@pytest.mark.parametrize('names', [
    # Made of the image, and two annotations of it.
    ['x/images/a.png', 'x/overlay/a.png', 'x/masks/a.png', 'x/xml/a.xml'],
    ['x/images/a.png', 'y/normalised/a.png', 'x/masks/a.png', 'x/xml/a.xml'],
    # A normalised copy, with a copy of the annotation.
    ['x/images/a.png', 'y/normalised/a.png', 'x/xml/a.xml', 'y/xml/a.xml']])
def test_pictures_made_of_an_image(tmp_path, names, capsys):
    for name in names:
        write(tmp_path / name, 'xml' if name.endswith('.xml') else name)
    assert paired(tmp_path) == {'x/images/a.png': 'x/xml/a.xml'}
    assert (f'{tmp_path}/x/images/a.png is read, not {tmp_path}/{names[1]}; '
            in capsys.readouterr().out)


@pytest.mark.parametrize('names', [
    ['p1/a.png', 'p1/a_mask.png', 'p2/a.png', 'p2/b.png', 'p2/b_mask.png'],
    ['i/a.svs', 'i/a_mask.png', 'i/a.tif']])  # a crop of it
def test_an_image_that_is_passed_over_is_named(tmp_path, names, capsys):
    for name in names:
        write(tmp_path / name, name)
    assert paired(tmp_path)[names[0]] == names[1]
    assert capsys.readouterr().out == (
        f'{tmp_path}/{names[0]} is read, not {tmp_path}/{names[2]}; to read '
        'another, move the first away\n')


def test_test_folders(tmp_path):
    places(tmp_path, ['i/a.png', 'i/b.png', 'o/a.xml', 'o/b.xml',
                      'ti/train/c.png', 'to/c_mask.png'])
    folders = [str(tmp_path / name) for name in ('i', 'o', 'ti', 'to')]
    data = prepare.find_own(*folders[:2], folders[2:])
    assert [(entry.name, entry.split) for entry in data.entries] == [
        ('a', 'training'), ('b', 'training'), ('c', 'test')]
    # Names need to differ within a split alone.
    places(tmp_path, ['ti/b.png', 'to/b.png'])
    data = prepare.find_own(*folders[:2], folders[2:])
    assert [(entry.name, entry.split) for entry in data.entries] == [
        ('a', 'training'), ('b', 'test'), ('b', 'training'), ('c', 'test')]
    places(tmp_path, ['i/test/d.png', 'o/d.xml', 'ti/d.png', 'to/d.png'])
    assert (f'{tmp_path}/ti/d.png, a test image: of the same name as '
            f'{tmp_path}/i/test/d.png, a test image; rename' in message(
                prepare.find_own, *folders[:2], folders[2:]))


@pytest.mark.parametrize('images, annotations, splits', [
    (['train/1', '2', 'test/3'], ['1', '2', '3'],
     ['training', 'training', 'test']),
    (['1', '2', '3'], ['train/1', '2', 'test/3'],
     ['training', 'training', 'test']),
    (['1', '2', 'test/1'], ['train/1', '2', 'test/1'],
     ['training', 'test', 'training']),
    (['train/1', 'test/1'], ['Training/x/1', 'Test/x/1'],
     ['training', 'test'])])
def test_the_split_of_either(tmp_path, images, annotations, splits):
    places(tmp_path, [*(f'i/{name}.png' for name in images),
                      *(f'o/{name}.tif' for name in annotations)])
    entries = find_pairs(tmp_path, 'i', 'o')
    found_splits = {entry.image: entry.split
                    for entry in entries}
    assert pairing(entries, tmp_path) == {
        f'i/{image}.png': f'o/{annotation}.tif'
        for image, annotation in zip(images, annotations)}
    assert sorted(found_splits.values()) == sorted(splits)
    assert all(split == 'test' for path, split in found_splits.items()
               if 'test/' in path)


def test_an_annotation_of_the_other_split_is_none(tmp_path):
    places(tmp_path, ['i/train/1.png', 'o/test/1.png'])
    assert 'i/train/1.png: 1 image without annotation' in message(
        find_pairs, tmp_path, 'i', 'o')


# What a data set's folder holds, and which flags are given: the images' and
# the annotations' folders in it. Then image: annotation, or with a split.
SETS = {
    'kumar': (
        [f'{part}/{kind}/{name}' for part, name in (
            ('train', 'TCGA-1'), ('test_same', 'TCGA-2'),
            ('test_diff', 'TCGA-3'))
         for kind in ('Images', 'Labels', 'Overlay')],
        {'Images': '.tif', 'Labels': '.mat', 'Overlay': '.png'},
        [('', '')],
        {'train/Images/TCGA-1.tif': ('train/Labels/TCGA-1.mat', 'training'),
         'test_same/Images/TCGA-2.tif': ('test_same/Labels/TCGA-2.mat',
                                         'test'),
         'test_diff/Images/TCGA-3.tif': ('test_diff/Labels/TCGA-3.mat',
                                         'test')}),
    'monuseg with masks': (
        ['Training/TissueImages/A', 'Training/GroundTruth/A_bin_mask',
         'Test/TissueImages/B', 'Test/GroundTruth/B_bin_mask'],
        {'TissueImages': '.tif', 'GroundTruth': '.png'}, [('', '')],
        {'Training/TissueImages/A.tif': (
            'Training/GroundTruth/A_bin_mask.png', 'training'),
         'Test/TissueImages/B.tif': (
             'Test/GroundTruth/B_bin_mask.png', 'test')}),
    'cpm15': (
        ['Images/image_01', 'Labels/image_01', 'Images/image_02',
         'Labels/image_02'],
        {'Images': '.png', 'Labels': '.mat'},
        [('', ''), ('Images', 'Labels'), ('', 'Labels')],
        {f'Images/image_0{k}.png': (f'Labels/image_0{k}.mat', 'training')
         for k in (1, 2)}),
    'lizard': (
        ['Lizard_Images1/consep_1', 'Lizard_Images2/glas_1',
         'Labels/consep_1', 'Labels/glas_1'],
        {'Lizard_Images1': '.png', 'Lizard_Images2': '.png',
         'Labels': '.mat'},
        [('', ''), ('', 'Labels')],
        {'Lizard_Images1/consep_1.png': ('Labels/consep_1.mat', 'training'),
         'Lizard_Images2/glas_1.png': ('Labels/glas_1.mat', 'training')}),
    'cryonuseg': (
        [f'{folder}/Human_Larynx_01' for folder in (
            'tissue images', 'Annotator 1 (biologist)/label masks',
            'Annotator 1 (biologist)/label masks modify',
            'Annotator 1 (biologist)/mask binary',
            'Annotator 1 (biologist)/distance maps',
            'Annotator 2 (bioinformatician)/Annotator 2 (bioinformatician)/'
            'label masks modify')],
        {'tissue images': '.tif', 'label masks': '.tif',
         'label masks modify': '.tif', 'mask binary': '.png',
         'distance maps': '.png'},
        [('tissue images', 'Annotator 1 (biologist)/label masks modify')],
        {'tissue images/Human_Larynx_01.tif': (
            'Annotator 1 (biologist)/label masks modify/Human_Larynx_01.tif',
            'training')}),
    'nuinsseg': (
        [f'{organ}/{folder}/{organ.replace(" ", "_")}_01'
         for organ in ('human bladder', 'human testis', 'mouse spleen')
         for folder in ('tissue images', 'label masks', 'label masks modify',
                        'mask binary', 'mask binary without border',
                        'distance maps', 'overlay', 'weighted maps',
                        'vague areas/mask binary')],
        {'tissue images': '.png', 'label masks': '.tif',
         'label masks modify': '.tif', None: '.png'},
        [('', '')],
        {f'{organ}/tissue images/{organ.replace(" ", "_")}_01.png': (
            f'{organ}/label masks modify/{organ.replace(" ", "_")}_01.tif',
            'training')
         for organ in ('human bladder', 'human testis', 'mouse spleen')}),
    'tnbc': (
        ['Slide_01/01_1', 'Slide_01/01_2', 'Slide_02/02_1', 'GT_01/01_1',
         'GT_01/01_2', 'GT_02/02_1'], {None: '.png'}, [('', '')],
        {f'Slide_{name[:2]}/{name}.png': (f'GT_{name[:2]}/{name}.png',
                                          'training')
         for name in ('01_1', '01_2', '02_1')}),
    'monusac': (
        ['TCGA-5P/TCGA-5P_1.svs', 'TCGA-5P/TCGA-5P_1.tif',
         'TCGA-5P/TCGA-5P_1.xml', 'TCGA-6X/TCGA-6X_001.svs',
         'TCGA-6X/TCGA-6X_001.xml'], {None: ''}, [('', '')],
        {'TCGA-5P/TCGA-5P_1.svs': ('TCGA-5P/TCGA-5P_1.xml', 'training'),
         'TCGA-6X/TCGA-6X_001.svs': ('TCGA-6X/TCGA-6X_001.xml', 'training')}),
    'cellpose': (
        [f'{part}/{k:03}_{kind}' for part in ('train', 'test')
         for k in range(part == 'test', 4, 2) for kind in ('img', 'masks')],
        {None: '.png'}, [('', '')],
        {f'{part}/{k:03}_img.png': (
            f'{part}/{k:03}_masks.png',
            'training' if part == 'train' else 'test')
         for part in ('train', 'test') for k in range(part == 'test', 4, 2)}),
    "cellpose's own": (
        ['a.tif', 'a_cp_masks.png', 'a_seg.npy', 'b.tif', 'b_masks.tif'],
        {None: ''}, [('', '')],
        {'a.tif': ('a_cp_masks.png', 'training'),
         'b.tif': ('b_masks.tif', 'training')}),
    'stardist': (
        [f'{part}/{kind}/{part}{k}' for part in ('train', 'test')
         for kind in ('images', 'masks') for k in range(2)],
        {None: '.tif'}, [('', '')],
        {f'{part}/images/{part}{k}.tif': (
            f'{part}/masks/{part}{k}.tif',
            'training' if part == 'train' else 'test')
         for part in ('train', 'test') for k in range(2)}),
    'qupath': (
        ['images/a.ome.tif', 'images/b.svs', 'export/a.geojson',
         'export/b.svs.geojson.gz'], {None: ''},
        [('images', 'export'), ('images/', './export')],
        {'images/a.ome.tif': ('export/a.geojson', 'training'),
         'images/b.svs': ('export/b.svs.geojson.gz', 'training')})}


@pytest.mark.parametrize('name', SETS)
def test_data_sets_as_they_unpack(tmp_path, name):
    stems, endings, flags, expected = SETS[name]
    places(tmp_path, [
        stem + endings.get(os.path.basename(os.path.dirname(stem)),
                           endings.get(None)) for stem in stems])
    for images, annotations in flags:
        entries = find_pairs(tmp_path, images, annotations)
        splits = [entry.split for entry in sorted(
            entries, key=lambda entry: entry.image)]
        assert pairing(entries, tmp_path) == {
            image: annotation for image, (annotation, _) in expected.items()}
        assert splits == [expected[image][1] for image in sorted(expected)]


def test_readers_of_pairs(tmp_path):
    """Each finds its format by the ending."""
    save(tmp_path / 'i/a.png', pixels(0))
    save(tmp_path / 'i/b.png', pixels(1))
    save(tmp_path / 'i/c.png', pixels(2))
    save_xml(tmp_path / 'o/a.annotations', NUCLEUS)
    save_geojson(tmp_path / 'o/b.png.geojson', NUCLEUS, square(0, 0, 3, 3))
    save(tmp_path / 'o/c-labels.png', labels((4, 9, 200)))
    areas = [np.bincount(load(entry)[1].ravel())[1:].tolist()
             for entry in find_pairs(tmp_path, 'i', 'o')]
    assert areas == [[800], [800, 9], [800, 900, 200]]
