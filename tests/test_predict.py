"""Prediction of image files: what is written, and what is refused."""
import json
import os
import re

import imageio.v3
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, example, red_channel
from eval import display
from histology import images
from histology.files import InputError
from histology.images import write_jpeg, write_png
from input_pipeline import store
from inputs import paint
from prediction import Predictor, page, predict, sources, summary, writers
from prediction.writers import OUTPUTS

PREDICTOR = Predictor(red_channel, 32, average=False)
KINDS = ('_labels.png', '_labels_colour.png', '_mask.png', '_nuclei.csv',
         '_nuclei.geojson', '_overlay.png', '_probability.png')
OF_FOLDER = 'index.html', 'run.json', 'summary.csv'


def run(images, output_dir, microns_per_pixel=None, outputs=tuple(OUTPUTS),
        overwrite=False, predictor=PREDICTOR):
    return predict.predict_files(images, str(output_dir), predictor,
                                 microns_per_pixel, outputs,
                                 overwrite=overwrite)


def files_of(*stems, kinds=KINDS):
    """All names in a folder of predictions of some images."""
    return sorted([*OF_FOLDER, *(stem + ending for stem in stems for ending in
                                 (*kinds, '.json', '_thumbnail.jpg'))])


def write_image(path, height=40, width=50):
    """Red from 0 to 255 over the columns, so that half of them are nuclei."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).round()
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.v3.imwrite(str(path), image, plugin='pillow')
    return image


def test_outputs_of_two_images(tmp_path):
    a = write_image(tmp_path / 'in' / 'a.png')
    write_image(tmp_path / 'in' / 'b.png', 64, 33)
    (tmp_path / 'in' / 'c.png').mkdir()  # matches, but is no file
    out = tmp_path / 'new' / 'out'
    assert run(str(tmp_path / 'in' / '*.png'), out) == []
    assert sorted(os.listdir(out)) == files_of('a', 'b')

    def read(name):
        return imageio.v3.imread(out / name, plugin='pillow')

    # Red is the probability: 255 times it is red again, and above 0.5 means
    # 128 or more.
    mask = read('a_mask.png')
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.where(a[..., 0] >= 128, 255, 0))
    np.testing.assert_array_equal(read('a_probability.png'), a[..., 0])
    np.testing.assert_array_equal(read('a_overlay.png'),
                                  display.overlay(a, mask))
    assert read('b_mask.png').shape == (64, 33)
    assert read('b_overlay.png').shape == (64, 33, 3)


def test_a_bad_image_among_good_ones(tmp_path, capsys):
    write_image(tmp_path / 'in' / 'a.png')
    (tmp_path / 'in' / 'b.png').write_bytes(b'no image')
    write_image(tmp_path / 'in' / 'c.png', 20, 40)
    write_image(tmp_path / 'in' / 'd.png')
    skipped = run(str(tmp_path / 'in' / '*.png'), tmp_path / 'out')
    assert skipped == [str(tmp_path / 'in' / name)
                       for name in ('b.png', 'c.png')]
    # What is wrong with the others stands in their records.
    assert sorted(os.listdir(tmp_path / 'out')) == sorted([
        *files_of('a', 'd'), 'b.json', 'c.json'])
    told = [line for line in capsys.readouterr().err.splitlines()
            if line.endswith('(skipped)')]
    assert [str(path) in line for path, line in zip(skipped, told)] == [
        True, True]


def test_nuclei_of_an_image(tmp_path, capsys):
    # Two that touch by a corner, in debris; 0.25 micrometres per pixel.
    paint(tmp_path / 'in' / 'a.tif', (30, 30, 20), (10, 10, 20), (5, 80, 5),
          tiffinfo={270: 'Aperio Image|MPP = 0.25'})
    paint(tmp_path / 'in' / 'b.tif')
    paint(tmp_path / 'in' / 'c.tif', (20, 20, 10))
    assert run(str(tmp_path / 'in'), tmp_path / 'out') == []
    path = tmp_path / 'out' / 'a_labels.png'
    assert path.read_bytes()[24] == 16  # bits, in PNG's first chunk
    expected = np.zeros((60, 90))
    expected[10:30, 10:30], expected[30:50, 30:50] = 1, 2
    np.testing.assert_array_equal(images.read_labels(str(path)), expected)
    mask = read(tmp_path / 'out', 'a_mask.png')
    assert np.count_nonzero(mask) == 825
    lines = (tmp_path / 'out' / 'a_nuclei.csv').read_text().splitlines()
    names = lines[0].split(',')
    assert [dict(zip(names, line.split(',')))[name] for line in lines[1:]
            for name in ('label', 'centroid_x_px', 'area_px2', 'area_um2')
            ] == ['1', '20', '400', '25', '2', '40', '400', '25']
    features = json.loads((tmp_path / 'out' / 'a_nuclei.geojson').read_text()
                          )['features']
    assert [{tuple(point) for point in ring} for feature in features
            for ring in feature['geometry']['coordinates']] == [
                {(10, 10), (30, 10), (30, 30), (10, 30)},
                {(30, 30), (50, 30), (50, 50), (30, 50)}]
    # 5400 pixels of a sixteenth of a square micrometre.
    printed = capsys.readouterr()
    told = printed.out.splitlines()
    # What reading says comes before what came of the image before.
    assert [line.split(': ')[1] for line in told] == [
        'states no resolution, taken as 40x (0.25 micrometres per pixel); '
        'another --magnification resamples it, and --magnification=40 adds '
        'micrometres to results',
        '2 nuclei, 5926 per mm2, median area 400 pixels (25.0 um2)',
        'no nuclei', '1 nucleus, median area 100 pixels']
    assert [line.split(': ')[0][-5:] for line in told] == [
        'b.tif', 'a.tif', 'b.tif', 'c.tif']
    # Only where 40x is a guess.
    line, = [line for line in printed.err.splitlines() if 'scanned' in line]
    assert line.endswith('c.tif: median nucleus 100 pixels is small for 40x; '
                         'if the image was scanned at 20x, give '
                         '--magnification=20')


@pytest.mark.parametrize('side, microns, said', [
    (13, None, 'small for 40x.*20x.*--magnification=20'),  # 10.6
    (15, None, ''), (29, None, ''),  # 14.1 and 52.6 square micrometres
    (31, None, 'large for 40x.*80x.*--magnification=80'),  # 60.1
    (15, 0.25, ''), (29, 0.25, ''),
    (13, 0.25, '10.6 square micrometres is small.*another --magnification'),
    (31, 0.25, '60.1 square micrometres is large.*another --magnification')])
def test_sizes_that_nuclei_do_not_have(side, microns, said):
    record = summary.record_of(
        sources.Source('in/a.png', 'a', False, '', 0),
        np.array([side ** 2] * 3), np.ones(3), microns, None)
    lines = list(record['warnings'].values())
    assert len(lines) == (said != '') and re.search(said, ''.join(lines))


@pytest.mark.parametrize('side, is_said', [(88, False), (91, True)])
def test_a_nucleus_that_is_larger_than_any(side, is_said):
    """484 and 518 square micrometres."""
    record = summary.record_of(
        sources.Source('in/a.png', 'a', False, '', 0),
        np.array([400, 400, side ** 2]), np.ones(3), 0.25, None)
    assert ('a nucleus of 518 square micrometres'
            in record['warnings'].get('largest', '')) == is_said


def test_tiles_give_the_same_nuclei(tmp_path):
    """Nuclei lie on every seam between tiles and between windows."""
    (tmp_path / 'in').mkdir()
    rows, columns = np.ogrid[:400, :500]
    image = np.zeros((400, 500, 3), np.uint8)
    image[(rows % 23 - 11) ** 2 + (columns % 29 - 14) ** 2 <= 120, 0] = 255
    Image.fromarray(image).save(tmp_path / 'in' / 'a.png')
    for name, max_pixels in (('whole', 1024 ** 2), ('tiles', 128 * 128)):
        assert predict.predict_files(
            str(tmp_path / 'in'), str(tmp_path / name), Predictor(
                red_channel, 32, max_pixels=max_pixels, average=False)) == []
    assert images.read_labels(
        str(tmp_path / 'whole' / 'a_labels.png')).max() > 250
    for kind in (*KINDS, '_thumbnail.jpg'):
        assert (tmp_path / 'whole' / f'a{kind}').read_bytes() == (
            tmp_path / 'tiles' / f'a{kind}').read_bytes(), kind


@pytest.mark.parametrize('outputs, written', [
    (['mask'], ['_mask.png']),
    (['geojson', 'labels'], ['_labels.png', '_nuclei.geojson']),
    (['labels_colour'], ['_labels_colour.png']),
    (['csv', 'overlay'], ['_nuclei.csv', '_overlay.png'])])
def test_outputs_that_are_asked_for(tmp_path, outputs, written):
    paint(tmp_path / 'in' / 'a.png', (20, 20, 10))
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'a_probability.png').write_text('of another')
    run(str(tmp_path / 'in'), tmp_path / 'out', outputs=outputs)
    assert sorted(os.listdir(tmp_path / 'out')) == sorted(
        files_of('a', kinds=[*written, '_probability.png']))


def test_more_nuclei_than_a_png_can_number(tmp_path):
    """A TIFF then, and of the two only that of the last prediction."""
    (tmp_path / 'in').mkdir()
    image = np.zeros((2600, 2600, 3), np.uint8)
    rows, columns = np.ogrid[:2600, :2600]
    image[(rows % 10 < 8) & (columns % 10 < 8), 0] = 255
    path = tmp_path / 'in' / 'a.png'
    for part, name, other in ((slice(40), 'a_labels.png', 'a_labels.tif'),
                              (slice(2600), 'a_labels.tif', 'a_labels.png'),
                              (slice(40), 'a_labels.png', 'a_labels.tif')):
        Image.fromarray(image[part, part]).save(path)
        run(str(tmp_path / 'in'), tmp_path / 'out', outputs=['labels'])
        assert sorted(os.listdir(tmp_path / 'out')) == files_of(
            'a', kinds=[name[1:]])
        labels = images.read_labels(str(tmp_path / 'out' / name))
        assert labels.max() == (len(labels) // 10) ** 2


def read(folder, name):
    return imageio.v3.imread(folder / name, plugin='pillow')


@pytest.mark.parametrize('microns', [0.125, 0.22, 0.5, 1.0])
def test_results_have_the_size_of_the_image(tmp_path, microns):
    image = write_image(tmp_path / 'in' / 'a.png', 70, 100)
    write_image(tmp_path / 'in' / 'b.png', 33, 50)  # 25 x 17 at 0.125
    assert run(str(tmp_path / 'in'), tmp_path / 'out', microns) == (
        [str(tmp_path / 'in' / 'b.png')] if microns < 0.25 else [])
    out = tmp_path / 'out'
    probability = read(out, 'a_probability.png').astype(int)
    assert probability.shape == (70, 100)
    # The image is a slope, which resampling does not move.
    assert np.abs(probability - image[..., 0])[:, 8:-8].max() <= 2
    mask = read(out, 'a_mask.png')
    np.testing.assert_array_equal(mask[:, :49], 0)
    np.testing.assert_array_equal(mask[:, 51:], 255)
    np.testing.assert_array_equal(read(out, 'a_overlay.png'),
                                  display.overlay(image, mask))


def test_one_line_where_files_say_another_resolution(tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    for name, dpi in (('a', 50800), ('b', 50800), ('c', 101600), ('d', 72),
                      ('e', 90000)):
        # 0.5, 0.25, 353 and 0.282 micrometres.
        Image.new('RGB', (50, 40)).save(tmp_path / 'in' / f'{name}.tif',
                                        dpi=(dpi, dpi))
    assert run(str(tmp_path / 'in'), tmp_path / 'out') == []
    line, = [line for line in capsys.readouterr().err.splitlines()
             if 'micrometres' in line]
    assert line.startswith(f'{tmp_path / "in" / "a.tif"}: says 0.5 ')
    assert line.endswith(' give --microns_per_pixel=0.5')
    assert run(str(tmp_path / 'in'), tmp_path / 'told', 0.5) == []
    lines = [line for line in capsys.readouterr().err.splitlines()
             if 'micrometres' in line]
    assert [line.split(':')[0][-5:] for line in lines] == ['c.tif', 'e.tif']


def dice(mask, other):
    return 2 * (mask & other).sum() / (mask.sum() + other.sum())


def test_other_magnifications(tmp_path, shipped_unet, capsys):
    """By the shipped U-Net, in a folder with brackets in its name."""
    whole = Image.open(os.path.join(ROOT, 'docs', 'figures', 'synthetic.png'))
    folder = tmp_path / '[2024] HE' / 'a' / 'b'
    folder.mkdir(parents=True)
    whole.save(folder / 'whole.tif')
    for name, part, dpi, text in (('half', 2, 50800, ''),
                                  ('fifth', 5, 20320, ''),
                                  ('own half', 2, 72, 'Aperio|MPP = 0.5')):
        whole.resize((whole.width // part, whole.height // part), Image.BOX
                     ).save(folder / f'{name}.tif', dpi=(dpi, dpi),
                            tiffinfo={270: text})
    for pattern, out, microns, said in (
            ('**/*.tif', 'at 40x', None, ['1.25', '0.5']),
            ('**/half.tif', 'half', 0.5, []),
            ('a/b/fifth.tif', 'fifth', 1.25, []),
            ('a/b/own half.tif', 'own half', None, [])):
        assert predict.predict_files(
            f'{tmp_path}/[2024] HE/{pattern}', str(tmp_path / out),
            shipped_unet, microns) == []
        assert [line.split('=')[-1] for line
                in capsys.readouterr().err.splitlines()
                if 'says' in line] == said
    for name, part in (('half', 2), ('own half', 2), ('fifth', 5)):
        truth = read(tmp_path / 'at 40x', 'whole_mask.png')
        truth = np.array(Image.fromarray(truth).resize(
            (whole.width // part, whole.height // part), Image.NEAREST)) > 0
        mask = read(tmp_path / name, f'{name}_mask.png') > 0
        assert dice(mask, truth) > 0.9
    mask = read(tmp_path / 'at 40x', 'fifth_mask.png') > 0
    assert dice(mask, truth) < 0.75


def make_tree(folder, *names):
    """Writes small images and returns a function that finds them again."""
    for name in names:
        write_image(folder / name)

    def find(name):
        return [os.path.relpath(path, folder)
                for path in sources.find_images(os.path.join(folder, name))]

    return find


def test_the_leading_folder_is_no_pattern(tmp_path):
    """Not even where it would match another one, as dir[1] does dir1."""
    find = make_tree(tmp_path, 'dir1/b.png', 'dir[1]/a[1].png',
                     'dir[1]/a1.png', 'dir[1]/sub/*/c.png',
                     'dir[1]/sub/d/e.png')
    assert find('dir[1]/a[1].png') == ['dir[1]/a[1].png']
    assert find('dir[1]/a[12].png') == ['dir[1]/a1.png']
    assert find('dir[1]/*.png') == ['dir[1]/a1.png', 'dir[1]/a[1].png']
    assert find('dir[1]/**/*.png') == [
        'dir[1]/a1.png', 'dir[1]/a[1].png', 'dir[1]/sub/*/c.png',
        'dir[1]/sub/d/e.png']
    assert find('dir[1]/*/d/*.png') == ['dir[1]/sub/d/e.png']
    # A folder whose name is a star.
    assert find('dir[1]/sub/*/*.png') == ['dir[1]/sub/*/c.png']
    assert find('dir?/b.png') == ['dir1/b.png']


def test_patterns_from_the_working_folder(tmp_path, monkeypatch):
    make_tree(tmp_path, 'x[1]/a.png', 'b.png')
    monkeypatch.chdir(str(tmp_path))
    assert sources.find_images('x[1]/*') == ['x[1]/a.png']
    assert sources.find_images('*.png') == ['b.png']
    assert sources.find_images('b.png') == ['b.png']
    assert sources.find_images('.') == ['./b.png']
    with pytest.raises(InputError, match=r"\('c\*' in \.\); give"):
        sources.find_images('c*')


def test_subfolders(tmp_path):
    find = make_tree(tmp_path, 'in/a.png', 'in/b/c.png', 'in/b/.d/e.png')
    (tmp_path / 'in' / 'here').symlink_to('.')
    (tmp_path / 'in' / 'there').symlink_to('.')
    write_jpeg(str(tmp_path / 'in' / 'check.jpg'),
               np.zeros((9, 9, 3), np.uint8), b'check.jpg of prepared stores')
    for name, head in (('a_nuclei.csv', writers.HEADERS[0]),
                       ('index.html', page.MARK)):
        (tmp_path / 'in' / name).write_text(head)
    for pattern in ('**/*.png', '**', '**/*.*g'):
        assert find(f'in/{pattern}') == ['in/a.png', 'in/b/c.png']


@pytest.mark.skipif(os.getuid() == 0, reason='root may read all folders')
def test_a_folder_that_may_not_be_read(tmp_path):
    find = make_tree(tmp_path, 'in/a.png', 'in/b/c.png')
    (tmp_path / 'in' / 'b').chmod(0)
    with pytest.raises(InputError, match='in/b: cannot be read .*; make it'):
        find('in/**/*.png')


def test_a_folder_of_images(tmp_path):
    find = make_tree(tmp_path, 'in/b.png', 'in/a.jpg', 'in/.hidden.png',
                     'in/sub/c.png')
    (tmp_path / 'in' / 'D.TIFF').write_bytes(b'found by its name')
    (tmp_path / 'in' / 'notes.txt').write_text('not an image')
    (tmp_path / 'in' / 'folder.png').mkdir()
    (tmp_path / 'in' / 'gone.tif').symlink_to(tmp_path / 'nowhere')
    for name in ('in', 'in/'):
        assert find(name) == ['in/D.TIFF', 'in/a.jpg', 'in/b.png',
                              'in/gone.tif']
    (tmp_path / 'bare').mkdir()
    (tmp_path / 'bare' / 'notes.txt').write_text('not an image')
    with pytest.raises(InputError, match=(
            r'--images .*bare: holds no image \(\.tif, .*\), and its '
            'subfolders are not searched; give')):
        find('bare')


def test_what_a_folder_of_images_has_besides(tmp_path, capsys):
    find = make_tree(tmp_path)

    def touch(*names):
        for name in names:
            path = tmp_path / 'in' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'found by its name')

    touch('a.png', 'b.tif', 'c_img.jpg', 'd_mask.png', 'e.JFIF')
    assert find('in') == ['in/a.png', 'in/b.tif', 'in/c_img.jpg',
                          'in/d_mask.png', 'in/e.JFIF']
    assert capsys.readouterr() == ('', '')
    # Masks and label images beside the tissue, and what predict wrote.
    touch('a_mask.png', 'A_labels.tif', 'c_masks.png', 'b.tif.png', 'b.bmp',
          'a.bmp', 'notes', '.x.bmp', 'sub/y.bmp')
    write_png(str(tmp_path / 'in' / 'g_overlay.png'),
              np.zeros((40, 50), np.uint8), 'nuclei segmentation')
    (tmp_path / 'in' / 'folder.bmp').mkdir()
    assert find('in') == ['in/a.png', 'in/b.tif', 'in/c_img.jpg',
                          'in/d_mask.png', 'in/e.JFIF']
    assert capsys.readouterr().out == (
        "2 subfolders not searched; the pattern 'folder/**/*.tif' does\n"
        '8 files skipped (masks and the like beside their images, or not of '
        '.tif, .tiff, .svs, .png, .jpg, .jpeg, .jfif, .ndpi, .mrxs, .scn, '
        '.vms, .bif, .svslide): '
        + ', '.join(f'{tmp_path}/in/{name}' for name in (
            'A_labels.tif', 'a.bmp', 'a_mask.png', 'notes')) + '\n')
    # A pattern names what it wants.
    assert 'in/a_mask.png' in find('in/*.png')
    assert capsys.readouterr() == ('', '')
    touch('a\nerror: no.txt')
    find('in')
    _, line = capsys.readouterr().out.splitlines()
    assert f'{tmp_path}/in/a\\nerror: no.txt, ' in line


def test_a_file_of_any_name(tmp_path):
    (tmp_path / 'in').mkdir()
    write_image(tmp_path / 'a.png')
    (tmp_path / 'a.png').rename(tmp_path / 'in' / 'scan.0*')
    assert run(str(tmp_path / 'in' / 'scan.0*'), tmp_path / 'out') == []
    assert (tmp_path / 'out' / 'scan_mask.png').exists()


def test_nothing_matches(tmp_path):
    with pytest.raises(InputError, match=r"--images .*\.tif: no such file "
                                         r"\('\*/\*\.tif' in /"):
        run(str(tmp_path / '*' / '*.tif'), tmp_path / 'out')
    with pytest.raises(InputError, match='--images: an empty list'):
        run([], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('names, said', [
    (['a.png', 'b' * 240 + '.png'], 'b.png: its name is too long'),
    (['a.png', 'a.tif'], r'a\.tif.*a\.png'),
    (['run.png'], 'run.png: .* run.json; rename it')])
def test_names_that_results_cannot_have(tmp_path, names, said):
    for name in names:
        write_image(tmp_path / 'in' / name)
    with pytest.raises(InputError, match=said):
        run([str(tmp_path / 'in' / name) for name in names], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('output', ['links', 'real', 'alias'])
def test_the_folder_of_an_image_is_no_output_folder(tmp_path, output):
    """Neither of the image itself nor of a link to it, by whatever name."""
    for name in ('links', 'real'):
        (tmp_path / name).mkdir()
    write_image(tmp_path / 'real' / 'a.png')
    (tmp_path / 'links' / 'a.png').symlink_to(tmp_path / 'real' / 'a.png')
    (tmp_path / 'alias').symlink_to(tmp_path / 'links')
    with pytest.raises(InputError, match=f'--output_dir .*{output}: .*a.png'):
        run([str(tmp_path / 'links' / 'a.png')], tmp_path / output)
    assert len(list((tmp_path / output).iterdir())) == 1


@pytest.mark.parametrize('kind', [
    'b_mask.png', 'b_probability.png', 'b_overlay.png', 'b_labels.png',
    'b_labels.tif', 'b_labels_colour.png', 'b_nuclei.csv', 'b_nuclei.geojson',
    'b_thumbnail.jpg', 'b.json', *OF_FOLDER])
@pytest.mark.parametrize('is_link', [False, True])
def test_files_of_others_are_not_overwritten(tmp_path, kind, is_link):
    (tmp_path / 'out').mkdir()
    for name in ('a.png', 'b.png'):
        write_image(tmp_path / 'in' / name)
    path = tmp_path / 'out' / kind
    if is_link:
        path.symlink_to(tmp_path / 'nowhere')
    else:
        path.write_text('of another')
    with pytest.raises(InputError, match=f'out/{kind}: was not written '
                                         '.*--output_dir'):
        run(str(tmp_path / 'in'), tmp_path / 'out')
    # Said before the long work begins.
    assert os.listdir(tmp_path / 'out') == [kind]
    assert path.is_symlink() or path.read_text() == 'of another'


def test_a_file_that_comes_during_prediction_is_not_overwritten(tmp_path):
    write_image(tmp_path / 'in' / 'a.png')
    drawn = tmp_path / 'out' / 'a_overlay.png'

    def forward(batch):
        drawn.write_text('drawn by hand')
        return red_channel(batch)

    with pytest.raises(InputError, match='a_overlay.png: was not written'):
        predict.predict_files(str(tmp_path / 'in'), str(tmp_path / 'out'),
                              Predictor(forward, 32))
    assert drawn.read_text() == 'drawn by hand'


def test_output_folder_that_is_a_file(tmp_path):
    write_image(tmp_path / 'in' / 'a.png')
    (tmp_path / 'out').write_text('')
    with pytest.raises(InputError, match='out/run.json: cannot'):
        run(str(tmp_path / 'in' / 'a.png'), tmp_path / 'out')


# Of a store


def test_images_of_a_store(tmp_path, capsys):
    """Named by the image, also with a dot."""
    image = np.zeros((60, 90, 3), np.uint8)
    image[20:40, 30:50, 0] = 255
    whole = store.WholeImage('a.b', image, np.zeros((60, 90), np.int32), True)
    path = write_split(tmp_path, whole)
    with store.open_store(path) as file:
        assert predict.predict_store(file, str(tmp_path / 'out'), PREDICTOR,
                                     ['csv', 'labels']) == []
    assert sorted(os.listdir(tmp_path / 'out')) == files_of(
        'a.b', kinds=['_labels.png', '_nuclei.csv'])
    names, row = (tmp_path / 'out' / 'a.b_nuclei.csv').read_text().split()
    found = dict(zip(names.split(','), row.split(',')))
    # Prepared without a resolution, it has none.
    assert found['area_px2'] == '400' and 'area_um2' not in found
    assert capsys.readouterr().out.startswith(f'{path}/a.b: 1 nucleus, ')
    path = write_split(tmp_path / 'known', whole, microns_per_pixel=0.5)
    with store.open_store(path) as file:
        predict.predict_store(file, str(tmp_path / 'um'), PREDICTOR, ['csv'])
    names, row = (tmp_path / 'um' / 'a.b_nuclei.csv').read_text().split()
    assert dict(zip(names.split(','), row.split(',')))['area_um2'] == '25'
    with store.open_store(path) as file, pytest.raises(
            InputError, match='microns_per_pixel was None, now 0.25'):
        predict.predict_store(file, str(tmp_path / 'out'), PREDICTOR, ['csv'])
    # Of another store it is another image.
    other = write_split(tmp_path / 'other', whole._replace(image=image // 2))
    with store.open_store(other) as file, pytest.raises(
            InputError, match='other/test.h5/a.b: its results would replace'):
        predict.predict_store(file, str(tmp_path / 'out'), PREDICTOR,
                              ['csv', 'labels'])


def write_split(folder, *wholes, **rules):
    """Writes a store of images; returns its path."""
    path = str(folder / 'test.h5')
    folder.mkdir(exist_ok=True)
    store.write_store(path, {'source': 'made here', 'split': 'test',
                             'source_digest': '', 'seed': 0, 'fold': '0',
                             **rules},
                      [example(*whole[:3]) for whole in wholes])
    return path


def test_an_image_of_a_store_that_cannot_be_read_is_skipped(tmp_path, capsys):
    rng = np.random.RandomState(0)
    wholes = [store.WholeImage(name, np.uint8(rng.rand(60, 90, 3) * 200),
                               np.zeros((60, 90), np.int32), True)
              for name in 'ab']
    path = write_split(tmp_path, *wholes)
    with open(path, 'rb+') as file:  # the whole images are not compressed
        content = file.read()
        row = wholes[0].image[:60].tobytes()
        assert content.count(row) == 1
        file.seek(content.index(row))
        file.write(bytes([row[0] ^ 1]))
    with store.open_store(path) as file:
        skipped = predict.predict_store(file, str(tmp_path / 'out'),
                                        PREDICTOR, ['csv'])
    assert skipped == [f'{path}/a']
    assert '(skipped)' in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / 'out')) == sorted(
        ['a.json', *files_of('b', kinds=['_nuclei.csv'])])


def test_the_program_on_a_split(program, trained, data_dir, tmp_path):
    out = tmp_path / 'out'
    process = program('--mode=predict', '--net=unet', '--noaverage',
                      f'--model_dir={trained}', f'--data_dir={data_dir}',
                      '--split=validation', f'--output_dir={out}',
                      '--outputs=mask')
    assert process.returncode == 0, process.stderr
    assert sorted(os.listdir(out)) == files_of(
        'validation-0', 'validation-1', kinds=['_mask.png'])
