"""Pictures of the stores and lines on what cannot be right."""
import collections
import math
import os
import re

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from conftest import example
from histology.files import InputError
from histology.stains import EOSIN, HAEMATOXYLIN
from input_pipeline import checks, prepare, store

SIZE = 200


def tissue(instances, dark):
    """Eosin everywhere, and haematoxylin in the nuclei of `dark`."""
    density = np.where(np.isin(instances, dark)[..., np.newaxis],
                       np.add(EOSIN, HAEMATOXYLIN), EOSIN) * 0.5
    return np.rint(255 * 10 ** -density).astype(np.uint8)


def nuclei(count, side=12, gap=20):
    """Numbered squares, nine in a row from the upper left corner."""
    instances = np.zeros((SIZE, SIZE), np.int32)
    for index in range(count):
        row, column = divmod(index, 9)
        instances[4 + gap * row:4 + gap * row + side,
                  6 + gap * column:6 + gap * column + side] = index + 1
    return instances


def write(folder, split='train', **images):
    """Write a store of (image, instances) by their names."""
    store.write_store(store.store_path(folder, split), {}, [
        example(name, *pair) for name, pair in images.items()])


def shown(folder, capsys, splits=('train',), classes=None):
    checks.show(str(folder), splits, classes or {})
    return capsys.readouterr()


def test_the_share_of_darker_nuclei():
    instances = nuclei(10)
    image = tissue(instances, [1, 2, 3, 4, 5, 6, 7])
    assert checks._share_of_darker(image, instances) == 0.7
    # Of too few nuclei the share says nothing.
    white = np.full((SIZE, SIZE, 3), 255, np.uint8)
    assert math.isnan(checks._share_of_darker(white, nuclei(4)))
    assert checks._share_of_darker(white, nuclei(5)) == 0


def test_a_ring_has_no_other_nucleus():
    """The dark neighbour, 2 pixels away, does not count."""
    instances = nuclei(9, side=18)
    image = tissue(instances, range(1, 10))
    assert checks._share_of_darker(image, instances) == 1


def test_turned_annotations(tmp_path, capsys):
    """Each turn is a warning of its own."""
    instances = nuclei(13)  # one row and a half: no turn looks the same
    image = tissue(instances, range(1, 14))
    turned = {'turned right by 90 degrees': np.rot90(instances),
              'turned left by 90 degrees': np.rot90(instances, -1),
              'turned by 180 degrees': instances[::-1, ::-1],
              'mirrored top to bottom': instances[::-1],
              'mirrored left to right': instances[:, ::-1],
              'rows and columns are exchanged': instances.T,
              'mirrored at its other diagonal': instances[::-1, ::-1].T}
    write(tmp_path, fitting=(image, instances),
          **{name: (image, its) for name, its in turned.items()})
    said = shown(tmp_path, capsys).err
    assert 'fitting' not in said
    for name in turned:
        assert re.search(f'warning: {name}: .* darker in haematoxylin .*'
                         f'The annotation fits if {name}\n', said)


def test_an_annotation_of_another_image(tmp_path, capsys):
    image = tissue(nuclei(13), range(1, 14))
    moved = np.roll(nuclei(13), (10, 10), axis=(0, 1))
    write(tmp_path, **{name: (image, moved) for name in 'abcde'})
    said = shown(tmp_path, capsys).err
    assert said.count('darker in haematoxylin') == 1
    assert ': 0% of its nuclei' in said and 'fits if' not in said
    assert '4 more images: b, c, ...' in said


def test_sizes_that_nuclei_do_not_have(tmp_path, capsys):
    small = nuclei(30, side=8)  # 64 pixels, 4 square micrometres
    large = np.zeros((SIZE, SIZE), np.int32)
    large[5:195, 5:195] = 1  # 36 100 pixels, 2 256 square micrometres, 90 %
    write(tmp_path, small=(tissue(small, small), small),
          large=(tissue(large, large), large))
    said = shown(tmp_path, capsys).err
    assert ('small: the median nucleus has 4 square micrometres, too small'
            in said)
    assert '1 more image: large' in said
    assert 'large: its largest nucleus has 2256 square micrometres' in said
    assert 'large: nuclei cover 90% of the image' in said


def test_the_summary(tmp_path, capsys):
    one, other = nuclei(10), nuclei(6, side=16)
    other[SIZE - 20:] = 0
    image = tissue(one, range(1, 11))
    image[100:] = 255  # glass
    write(tmp_path, a=(image, one))
    write(tmp_path, 'test', a=(tissue(other, other), other),
          b=(tissue(one, one), one), c=(tissue(one, one), one))
    said = shown(tmp_path, capsys, ['train', 'test'], {
        'Tumour': [np.array([144, 144]), np.array([144])],
        'Other': [np.array([256, 0])], 'None': [np.zeros(0, int)]}).out
    # 144 and 256 pixels are 9 and 16 square micrometres; 1440 of 20 000.
    assert ('train: 10 to 10 nuclei in an image, median 10; median area 9.0 '
            'square micrometres; 7% of the tissue is nuclear\n') in said
    assert 'test: 6 to 10 nuclei in an image, median 10; median area 9.0' in (
        said)
    assert ('class Other: 1 nucleus, median area 16.0 square micrometres\n'
            'class Tumour: 3 nuclei, median area 9.0 square micrometres\n'
            ) in said


def test_pictures_show_the_outlines(tmp_path, capsys):
    instances = nuclei(10, side=16)
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    write(tmp_path, a=(image, instances))
    shown(tmp_path, capsys)
    picture = np.array(Image.open(tmp_path / 'check' / 'a.jpg')).astype(int)
    assert picture.shape == (SIZE, SIZE, 3)
    coloured = picture.min(axis=2) < 128
    # The edge of the first square is at row 4 and column 6, its middle not.
    assert coloured[4, 8:20].all() and coloured[6:18, 6].all()
    assert not coloured[9:15, 11:17].any() and not coloured[120:].any()
    assert Image.open(tmp_path / 'check.jpg').size == (256, 256)


def test_the_middle_of_large_images_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checks, 'PART', 100)
    instances = np.zeros((SIZE, 80), np.int32)
    instances[[40, 60, 100], 40] = 1, 2, 3  # rows 50 to 149 are shown
    write(tmp_path, a=(tissue(instances, instances), instances))
    # What is said is of the whole image.
    assert 'train: 3 to 3 nuclei' in shown(tmp_path, capsys).out
    assert Image.open(tmp_path / 'check' / 'a.jpg').size == (80, 100)


def test_the_sheet_shows_the_middle(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checks, 'SHEET', 64)  # for two, so 32 pixels of each
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    image[SIZE // 2 - 16:SIZE // 2 + 16, SIZE // 2 - 16:SIZE // 2 + 16] = 100
    empty = np.zeros((SIZE, SIZE), np.int32)
    write(tmp_path, a=(image, empty), b=(image, empty))
    shown(tmp_path, capsys)
    sheet = np.array(Image.open(tmp_path / 'check.jpg'))
    assert sheet.shape == (32, 64, 3)
    # But for the names, at the top.
    assert abs(sheet[16:].astype(int) - 100).max() < 10


def test_only_own_pictures_are_replaced(tmp_path, capsys):
    instances = nuclei(6)
    write(tmp_path, a=(tissue(instances, instances), instances))
    shown(tmp_path, capsys)
    assert sorted(map(os.path.basename, checks.pictures(str(tmp_path)))) == [
        'a.jpg', 'check.jpg']
    # What file managers leave there.
    (tmp_path / 'check' / 'Thumbs.db').touch()
    assert len(checks.pictures(str(tmp_path))) == 2
    os.rename(tmp_path / 'check' / 'a.jpg', tmp_path / 'check' / 'mine.jpg')
    with pytest.raises(InputError, match='mine.jpg: was not written by prep'):
        checks.pictures(str(tmp_path))


@pytest.mark.parametrize('name, content', [
    ('check', b'x'), ('check.jpg', b''), ('check/notes.jpg', b'mine'),
    # An image of 400 million pixels.
    ('check/a.jpg', b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0N \0\0N \b\0\0\0\0'
     b'\xc9\xc5I\x9a'),
    (os.fsdecode(b'check/\xff.jpg'), b'\xff\xd8')])
def test_any_file_of_the_user_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match='was not written by prepare'):
        checks.pictures(str(tmp_path))
    assert path.read_bytes() == content


def test_images_of_one_name_have_a_picture_each(tmp_path, capsys):
    instances = nuclei(6)
    image = tissue(instances, instances)
    write(tmp_path, a=(image, instances), test_a=(image, instances))
    for split in ('validation', 'test'):
        write(tmp_path, split, a=(image, instances))
    shown(tmp_path, capsys, ['train', 'validation', 'test'])
    assert sorted(os.listdir(tmp_path / 'check')) == [
        'a.jpg', 'test_a.jpg', 'test_test_a.jpg', 'validation_a.jpg']


def halved(instances):
    return np.pad(instances[::2, ::2], ((0, 500), (0, 500)), mode='constant')


def doubled(instances):
    return instances[:500, :500].repeat(2, axis=0).repeat(2, axis=1)


WRONG = {
    'turned': [lambda a, k=k: np.rot90(a, k) for k in (1, 2, 3)],
    'mirrored': [lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.T],
    'moved': [lambda a: np.roll(a, 15, axis=1),
              lambda a: np.roll(a, 30, axis=0)],
    'scaled': [halved, doubled]}


@pytest.mark.skipif('MONUSEG_DIR' not in os.environ,
                    reason='MONUSEG_DIR does not name MoNuSeg')
def test_the_limits_of_the_page_on_data(tmp_path, capsys):
    """On the 30 images no false alarm, and every wrong annotation is found."""
    prepare.prepare(str(tmp_path),
                    prepare.find_monuseg(os.environ['MONUSEG_DIR']),
                    fold='none')
    assert 'warning' not in capsys.readouterr().err
    found = collections.defaultdict(list)
    with store.open_store(tmp_path / 'train.h5') as file:
        whole = list(store.whole_images(file))
    for index, (_, image, instances, _) in enumerate(whole):
        components, _ = ndimage.label(instances, np.ones((3, 3)))
        for kind, its in (('as it is', instances),
                          ('components', components.astype(np.int32))):
            found[kind].append(checks._share_of_darker(image, its))
            assert not list(checks._flaws(
                image, its, np.bincount(its.ravel())[1:]))
        found['exchanged'].append(checks._share_of_darker(
            image, whole[(index + 1) % 30].instances))
        for kind, changes in WRONG.items():
            found[kind] += [
                checks._share_of_darker(image, change(instances))
                for change in changes]
    assert {kind: (round(min(shares), 2), round(max(shares), 2))
            for kind, shares in found.items()} == {
        'as it is': (0.83, 1.0), 'components': (0.9, 1.0),
        'exchanged': (0.2, 0.44), 'turned': (0.18, 0.46),
        'mirrored': (0.2, 0.44), 'moved': (0.15, 0.63),
        'scaled': (0.16, 0.49)}
