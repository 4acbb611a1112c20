"""A folder of predictions: what is done again, and the pages about all."""
import csv
import html.parser
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import weakref

import numpy as np
import pytest
from PIL import Image
from test_slides import write_slide

from conftest import PYTHONPATH, red_channel, run_here, wait_for
from histology import progress
from histology.files import InputError
from histology.stains import EOSIN, HAEMATOXYLIN
from inputs import paint
from prediction import Predictor, page, predict, runs, sources, writers
from prediction.instances import separate


class Counting(Predictor):
    """Red is the probability; counts the images that it sees."""

    def __init__(self, **settings):
        super().__init__(red_channel, 32, average=False, **settings)
        self.seen = []

    def see(self, image, microns_per_pixel=None, name='image', progress=None):
        self.seen.append(os.path.basename(name))
        return super().see(image, microns_per_pixel, name, progress)


@pytest.fixture
def folder(tmp_path):
    """in/a.png to in/c.png with a nucleus of 100, 400 and 900 pixels."""
    for name, side in (('a', 10), ('b', 20), ('c', 30)):
        paint(tmp_path / 'in' / f'{name}.png', (20, 30, side))
    return tmp_path


def run(folder, predictor=None, microns=0.25, place='in', **options):
    """Predicts folder/in into folder/out.

    Returns:
        names of the images that the network saw, of those skipped
    """
    predictor = predictor or Counting()
    skipped = predict.predict_files(
        str(folder / place), str(folder / 'out'), predictor, microns,
        **options)
    return predictor.seen, [os.path.basename(name) for name in skipped]


ALL = ['a.png', 'b.png', 'c.png']


def contents(folder):
    """The bytes of each file; of JSON the content without its seconds."""
    found = {}
    for path in sorted(folder.iterdir()):
        found[path.name] = path.read_bytes()
        if path.suffix == '.json':
            found[path.name] = json.loads(path.read_text())
            found[path.name].pop('seconds', None)
    for name in page.FILES:
        found.pop(name)
    return found


def summary_of(folder):
    with open(str(folder / 'out' / 'summary.csv'), newline='') as file:
        return list(csv.DictReader(file))


# What is done, and what is done again


def test_what_is_done_is_skipped_by_its_content(folder, capsys):
    assert run(folder) == (ALL, [])
    before = contents(folder / 'out')
    for path in (folder / 'in').iterdir():
        os.utime(str(path), (0, 2 ** 32))  # later than all results
    capsys.readouterr()
    assert run(folder) == ([], [])
    assert capsys.readouterr().out == ('3 of 3 images done already; '
                                       '--overwrite does them again\n')
    # Another image of the name, as old as the former one.
    paint(folder / 'in' / 'b.png', (5, 5, 25))
    os.utime(str(folder / 'in' / 'b.png'), (0, 2 ** 32))
    assert run(folder) == (['b.png'], [])
    after = contents(folder / 'out')
    assert {name[0] for name, content in after.items()
            if content != before[name]} == {'b'}
    assert summary_of(folder)[1]['median_area_px2'] == '625.0'
    # From another folder it is the same image.
    (folder / 'in').rename(folder / 'moved')
    assert run(folder, place='moved') == ([], [])


@pytest.mark.parametrize('ending', [
    '.json', *(ending for endings, *_ in writers.results_of(False).values()
               for ending in endings[:1] if ending != '.json')])
def test_a_file_that_was_deleted_is_made_again(folder, ending):
    run(folder)
    before = contents(folder / 'out')
    (folder / 'out' / f'b{ending}').unlink()
    assert run(folder) == (['b.png'], [])
    assert contents(folder / 'out') == before


def test_fewer_outputs_are_done_and_more_are_not(folder):
    assert run(folder, outputs=['mask', 'csv']) == (ALL, [])
    assert run(folder, outputs=['mask']) == ([], [])
    assert run(folder, outputs=['mask', 'labels']) == (ALL, [])
    # Of the same settings, so it stays.
    assert (folder / 'out' / 'a_nuclei.csv').exists()


@pytest.mark.parametrize('settings, microns, name', [
    ({'threshold': 0.4}, 0.25, 'threshold was 0.5, now 0.4'),
    ({'min_area': 5}, 0.25, 'min_area was 3.75, now 5'),
    ({'splitting': 2}, 0.25, 'splitting was 1.5, now 2'),
    ({}, 0.5, 'microns_per_pixel was 0.25, now 0.5'),
    ('weights', 0.25, 'weights_sha1 was , now another')])
def test_other_settings_are_refused(folder, settings, microns, name):
    run(folder)
    (folder / 'in' / 'c.png').unlink()
    before = contents(folder / 'out')
    predictor = Counting(**({} if settings == 'weights' else settings))
    if settings == 'weights':
        predictor.weights_sha1 = 'another'
    with pytest.raises(InputError, match=(
            rf'--output_dir .*out: .* other settings \({name}, for a.png\); .*'
            '--overwrite')):
        run(folder, predictor, microns)
    assert predictor.seen == [] and contents(folder / 'out') == before


def test_overwrite(folder, capsys):
    run(folder)
    first = contents(folder / 'out')
    assert run(folder, overwrite=True) == (ALL, [])
    assert contents(folder / 'out') == first
    (folder / 'in' / 'c.png').unlink()
    assert run(folder, Counting(threshold=0.4), overwrite=True,
               outputs=['mask']) == (ALL[:2], [])
    # Old tables beside new masks would mislead.
    assert {path.name for path in (folder / 'out').glob('[ab]*')} == {
        f'{stem}{kind}' for stem in 'ab'
        for kind in ('.json', '_mask.png', '_thumbnail.jpg')}
    assert (folder / 'out' / 'c_nuclei.csv').exists()
    assert [row['image'] for row in summary_of(folder)] == ALL[:2]
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'{folder}/out: 1 image of other settings there, not in summary.csv')
    # What has gone keeps nothing from being done again.
    assert run(folder, Counting(threshold=0.4), overwrite=True,
               outputs=['mask']) == (ALL[:2], [])


def test_a_record_never_stands_beside_files_of_another_image(folder):
    """After a kill the former image may come back: it is not done."""
    run(folder)
    former = (folder / 'in' / 'a.png').read_bytes()
    paint(folder / 'in' / 'a.png', (5, 5, 25))
    asked = runs.Run(Counting(), str(folder / 'out'), tuple(writers.OUTPUTS),
                     0.25, False, (0, 1))
    source, *_ = sources.of_files([str(folder / 'in' / 'a.png')], 1000)
    runs.make_room(asked, source)  # the first thing that is done
    (folder / 'in' / 'a.png').write_bytes(former)
    assert run(folder) == (['a.png'], [])


def test_images_of_one_name_by_runs_at_once(folder):
    """Neither has a record when they begin."""
    paint(folder / 'other' / 'a.png', (5, 5, 9))

    def meanwhile(batch):
        run(folder, place='other', outputs=['mask'])
        return red_channel(batch)

    first = Predictor(meanwhile, 32, average=False)
    with pytest.raises(InputError, match='in/a.png: its results would replace '
                                         'those of .*other/a.png'):
        predict.predict_files(str(folder / 'in'), str(folder / 'out'), first,
                              0.25, ['mask'])
    # b.png may be done before the other thread says what is wrong with a.png.
    assert {row['image']: row['median_area_px2']
            for row in summary_of(folder)}['a.png'] == '81.0'


def test_a_run_that_ended_within_an_image_keeps_others_out(folder):
    asked = runs.Run(Counting(), str(folder / 'out'), ['mask'], 0.25, False,
                     (0, 1))
    found = sources.of_files([str(folder / 'in' / 'a.png')], 1000)
    runs.begin(asked, found)
    runs.make_room(asked, *found)
    paint(folder / 'other' / 'a.png', (5, 5, 9))
    with pytest.raises(InputError, match='other/a.png: its results would '):
        run(folder, place='other', outputs=['mask'])
    # Nor is it an error of the other's that stands there.
    with pytest.raises(InputError, match='other/a.png: its results would '):
        runs.write_error(asked, *sources.of_files(
            [str(folder / 'other' / 'a.png')], 1000), 'an error')
    assert run(folder, outputs=['mask']) == (ALL, [])


def edit(path):
    """Saves a picture as another program does."""
    Image.open(path).convert('RGB').save(path)
    return path.read_bytes()


def test_what_somebody_edited_stays(folder):
    run(folder)
    kept = folder / 'out' / 'a_overlay.png'
    drawn = edit(kept)
    # The image is done, so nothing would replace it.
    assert run(folder) == ([], [])
    # Not removed with other results of other settings.
    run(folder, Counting(threshold=0.4), overwrite=True, outputs=['mask'])
    assert kept.read_bytes() == drawn
    assert not (folder / 'out' / 'a_labels.png').exists()
    for options in ({'overwrite': True}, {}):
        paint(folder / 'in' / 'a.png', (5, 5, 25))
        with pytest.raises(InputError, match='a_overlay.png: was not wri'):
            run(folder, Counting(threshold=0.4), **options)
        assert kept.read_bytes() == drawn


def test_a_bad_file_is_tried_again(folder, capsys):
    (folder / 'in' / 'b.png').write_bytes(b'no image')
    (folder / 'in' / 'gone.png').symlink_to(folder / 'nowhere')
    for _ in range(2):
        run(folder)
        row, gone = [summary_of(folder)[place] for place in (1, 3)]
        assert (row['image'], row['nuclei']) == ('b.png', '')
        assert 'b.png: cannot be read' in row['error']
        assert 'No such file' in gone['error']
    assert [line[:6] for line in capsys.readouterr().err.splitlines()
            if 'cannot be read' in line] == ['error:'] * 4
    paint(folder / 'in' / 'b.png', (20, 30, 20))
    (folder / 'in' / 'gone.png').unlink()
    (folder / 'out' / 'gone.json').unlink()
    assert run(folder) == (['b.png'], [])
    assert [row['error'] for row in summary_of(folder)] == ['', '', '']


def test_predictions_beside_images_are_no_images(folder, capsys):
    run(folder)
    for path in (folder / 'out').iterdir():
        shutil.copy(str(path), str(folder / 'in' / f'of {path.name}'))
    capsys.readouterr()
    assert run(folder) == ([], [])
    # 9 of each image, and 3.
    assert capsys.readouterr().out.startswith('30 files skipped (')


def test_the_program_says_by_its_status_if_one_was_skipped(tmp_path):
    flags = ('--mode=predict', '--net=unet', '--noaverage', '--outputs=mask',
             '--model_dir=checkpoints/pretrained', '--min_area=2.5',
             '--splitting=3', f'--images={tmp_path}/in',
             f'--output_dir={tmp_path}/out')
    paint(tmp_path / 'in' / 'a.png')
    (tmp_path / 'in' / 'b.png').write_bytes(b'no image')
    process = run_here(*flags)
    assert (process.returncode, process.stdout.splitlines()[-1]) == (
        1, f'predicted: {tmp_path}/out/index.html; 1 image skipped or '
        f'incomplete, as {tmp_path}/in/b.png')
    paint(tmp_path / 'in' / 'b.png')
    process = run_here(*flags)
    assert process.returncode == 0
    assert '1 of 2 images done already' in process.stdout
    settings = json.loads((tmp_path / 'out' / 'run.json').read_text())[
        'settings']
    assert (settings['min_area'], settings['splitting']) == (2.5, 3)
    # And the same weights have the same digest.
    assert 'other settings (threshold' in run_here(
        *flags, '--threshold=0.4').stderr


# The order of the work, its end, and its memory


def test_the_order_of_lines_and_files(folder, capsys):
    """A large image first, which takes longer than the next."""
    paint(folder / 'in' / 'a.png', *[(top, left, 8) for top in range(
        0, 900, 12) for left in range(0, 900, 12)], size=(900, 900))
    run(folder)
    assert [line.split(': ')[0][-5:] for line
            in capsys.readouterr().out.splitlines()] == ALL
    records, others = [
        [path.stat().st_mtime_ns for name in 'abc'
         for path in (folder / 'out').glob(f'{name}{kind}')]
        for kind in ('.json', '_nuclei.csv')]
    assert records == sorted(records)
    # Of a small image both may have the same time.
    assert others[0] < records[0]
    assert others[1] <= records[1] and others[2] <= records[2]


def test_one_image_more_is_in_memory(tmp_path):
    class Image3(np.ndarray):
        """An array that can be referred to."""

    alive, most = [], []

    def read(source):
        # What was written before may be let go of a moment later.
        deadline = time.time() + 60
        while count() > 1 and time.time() < deadline:
            time.sleep(0.001)
        most.append(count())
        image = np.zeros((64, 64, 3), np.uint8).view(Image3)
        alive.append(weakref.ref(image))
        return image, None, None

    def count():
        return sum(image() is not None for image in alive)

    found = [sources.Source(name, name, False, name, index)
             for index, name in enumerate('abcdef')]
    predictor = Counting()
    predictor.see = lambda image, *_: (
        image, image[..., 0], image[..., 0], None)
    asked = runs.Run(predictor, str(tmp_path), ['mask'], None, False, (0, 1))
    runs.begin(asked, found)
    done = predict.results(found, asked, read, lambda part: None)
    assert [result.source.name for result in done] == list('abcdef')
    assert most == [0, 1, 1, 1, 1, 1]


def test_a_signal_ends_the_separation_too(monkeypatch):
    monkeypatch.setattr(progress, '_received', signal.SIGINT)
    with pytest.raises(progress.Stopped):
        separate(np.ones((50, 50), bool), np.ones((50, 50), np.uint8))


PREDICT = '''
import sys
from test_many_images import Counting
from prediction import predict
predict.predict_files(sys.argv[1], sys.argv[2], Counting(), 0.25)
'''


def test_kill_9_while_files_are_written(tmp_path):
    """What is there is whole, and the next run goes on with the same bytes."""
    rng = np.random.RandomState(0)
    for index in range(8):
        image = np.zeros((500, 500, 3), np.uint8)
        for top in range(5, 480, 20):
            for left in range(5, 480, 20):
                side = rng.randint(9, 16)
                image[top:top + side, left:left + side, 0] = 255
        (tmp_path / 'in').mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / 'in' / f'{index}.png')
    command = [sys.executable, '-c', PREDICT, str(tmp_path / 'in')]
    environment = dict(os.environ, PYTHONPATH=PYTHONPATH)
    subprocess.run([*command, str(tmp_path / 'whole')], check=True,
                   env=environment, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    out = tmp_path / 'out'
    for index in (0, 4):  # a kill soon after an image was begun
        process = subprocess.Popen(
            [*command, str(out)], env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        wait_for((out / f'{index}_thumbnail.jpg').exists)
        time.sleep(rng.rand() * 0.2)
        process.kill()
        process.wait()
        for path in out.iterdir():
            if path.name.startswith('.partial-'):
                continue
            if path.suffix == '.json':
                json.loads(path.read_text())
            elif path.suffix in ('.png', '.jpg'):
                np.array(Image.open(path))
    process = subprocess.run([*command, str(out)], env=environment, check=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert b'done already' in process.stdout
    found, expected = contents(out), contents(tmp_path / 'whole')
    for content in (found, expected):
        del content['run.json']  # the command
    assert found == expected


# summary.csv and index.html


def test_the_summary_ends_while_others_add_images(folder, monkeypatch,
                                                  capsys):
    run(folder)
    before, added = page.write, []

    def write(*arguments):
        before(*arguments)
        record = json.loads((folder / 'out' / 'a.json').read_text())
        added.append(f'z{len(added)}')
        (folder / 'out' / f'{added[-1]}.json').write_text(
            json.dumps({**record, 'stem': added[-1]}))

    monkeypatch.setattr(page, 'write', write)
    run(folder)
    assert len(summary_of(folder)) == 3 + len(added) - 1
    assert 'of other settings' not in capsys.readouterr().err


def test_the_summary_by_hand(folder):
    class Slow(Counting):
        def see(self, *arguments):
            time.sleep(0.1)
            return super().see(*arguments)

    dark = (150, 40, 140)
    paint(folder / 'in' / 'a.png', (20, 30, 10), (40, 30, 20), pixel=dark)
    (folder / 'in' / 'b.png').unlink()
    paint(folder / 'in' / 'c.png')
    run(folder, Slow(), microns=0.25)
    one, none = summary_of(folder)
    for row in (one, none):
        assert float(row.pop('seconds')) >= 0.1
    # A mixture of the two stains and of what they leave unexplained.
    stains = [stain / np.linalg.norm(stain) for stain in (
        HAEMATOXYLIN, EOSIN, np.cross(HAEMATOXYLIN, EOSIN))]
    amounts = np.linalg.solve(np.transpose(stains),
                              -np.log10(np.array(dark) / 255))
    assert amounts[0] > 0.1
    assert float(one.pop('mean_haematoxylin_od')) == pytest.approx(
        amounts[0], abs=1e-4)
    # 60 x 90 pixels of a sixteenth of a square micrometre.
    assert one == {
        'image': 'a.png', 'nuclei': '2', 'mm2': '0.0003375',
        'nuclei_per_mm2': '5925.9', 'median_area_px2': '250.0',
        'median_area_um2': '15.62', 'warnings': '', 'error': ''}
    assert none == {
        'image': 'c.png', 'nuclei': '0', 'mm2': '0.0003375',
        'nuclei_per_mm2': '0.0', 'median_area_px2': '', 'median_area_um2': '',
        'mean_haematoxylin_od': '', 'warnings': '', 'error': ''}


def write_own(path, name):
    """What a process does of an image, many times at once."""
    runs.ROUNDS = 50  # more than there are records, as all end at once
    asked = runs.Run(Counting(), path, ['mask'], None, False, (0, 1))
    for index in range(10):
        runs.write_record(asked, sources.Source(
            f'{name}{index}', f'{name}{index}', False, '', 0),
            {'image': f'{name}{index}', 'nuclei': 1, 'mm2': None,
             'is_slide': False, 'median_area_px2': 4, 'warnings': {},
             'median_area_um2': None, 'mean_haematoxylin_od': None})
        runs.summarise(asked)


def test_several_processes_add_up(tmp_path):
    asked = runs.Run(Counting(), str(tmp_path / 'out'), ['mask'], None, False,
                     (0, 1))
    runs.begin(asked, [])
    context = multiprocessing.get_context('spawn')
    processes = [context.Process(target=write_own,
                                 args=(str(tmp_path / 'out'), name))
                 for name in 'abcd']
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [row['image'] for row in summary_of(tmp_path)] == [
        f'{name}{index}' for name in 'abcd' for index in range(10)]


class Page(html.parser.HTMLParser):
    """What a browser takes from a page: tags, links and text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.ids, self.text = set(), [], set(), ''
        self.feed(path.read_text('utf-8'))

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ('href', 'src'):
                self.links.append(value)
            elif name == 'id':
                self.ids.add(value)

    def handle_data(self, data):
        self.text += data


ODD = ['a & b', '<script>x', 'ö "q" \'s\'', '#1 100% a?b', 'line\nbreak',
       ' blank ', '%41', 'http:x', b'\xff'.decode('utf-8', 'surrogateescape')]


def test_names_of_all_kinds_on_the_page(tmp_path):
    for name in ODD:
        paint(tmp_path / 'in' / f'{name}.png', (20, 30, 10))
    (tmp_path / 'in' / 'bad & <b>.png').write_bytes(b'no image')
    run(tmp_path, outputs=['mask', 'labels'])
    shown = Page(tmp_path / 'out' / 'index.html')
    assert not {'script', 'b', 'link'} & shown.tags
    linked = set()
    for link in shown.links:
        if link.startswith('#'):
            assert link[1:] in shown.ids
            continue
        assert not urllib.parse.urlsplit(link).scheme
        name = urllib.parse.unquote_to_bytes(link)
        assert os.path.exists(os.path.join(
            os.fsencode(str(tmp_path / 'out')), name))
        linked.add(os.fsdecode(name))
    assert linked == {'summary.csv', *(
        name + ending for name in ODD for ending in (
            '_mask.png', '_labels.png', '.json', '_thumbnail.jpg'))}
    for name in (*ODD[:-1], r'\udcff', 'bad & <b>'):
        assert f'{name}.png' in shown.text
    assert re.search(r'images\s*10, 1 of them not read\s*nuclei\s*9',
                     shown.text)
    assert 'bad & <b>.png: cannot be read' in shown.text
    assert {row['image'] for row in summary_of(tmp_path)} == {
        f'{name}.png' for name in (*ODD[:-1], r'\udcff', 'bad & <b>')}


def test_a_slide_among_images(tmp_path):
    """Its table says what touches the slide's border, not the blocks'."""
    image = np.full((700, 900, 3), (0, 120, 240), np.uint8)
    squares = [(0, 300), (300, 0), (680, 400), (350, 880), (250, 250),
               (370, 500), (100, 800)]
    for top, left in squares:
        image[top:top + 20, left:left + 20] = 255, 60, 60
    write_slide(tmp_path / 'in' / 'a.tif', image, 0.25)
    Image.fromarray(image).save(tmp_path / 'in' / 'b.png')
    predict.predict_files(str(tmp_path / 'in'), str(tmp_path / 'out'),
                          Counting(max_pixels=512 ** 2), 0.25,
                          all_tissue=True, max_whole_pixels=1)
    found = []
    for stem in 'ab':
        with open(str(tmp_path / 'out' / f'{stem}_nuclei.csv')) as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0])[-1] == 'touches_border'
        found.append({(float(row['box_y_px']), float(row['box_x_px'])): int(
            row['touches_border']) for row in rows})
    assert found[0] == found[1] == dict(zip(squares, [1] * 4 + [0] * 3))
    slide, whole = summary_of(tmp_path)
    assert slide.pop('image') == 'a.tif' and whole.pop('image') == 'b.png'
    del slide['seconds'], whole['seconds']
    assert slide == whole
    with Image.open(tmp_path / 'out' / 'a_thumbnail.jpg') as thumbnail:
        assert thumbnail.size == (28, 22)  # at 8 micrometres per pixel
    assert {'a_thumbnail.jpg', 'a_overview.jpg', 'b_overlay.png'} <= set(
        Page(tmp_path / 'out' / 'index.html').links)
    # A resampled one, of 0.5 micrometres.
    write_slide(tmp_path / 'half' / 'a.tif', image[::2, ::2], 0.5)
    predict.predict_files(str(tmp_path / 'half'), str(tmp_path / 'of half'),
                          Counting(max_pixels=512 ** 2), all_tissue=True,
                          max_whole_pixels=1)
    with open(str(tmp_path / 'of half' / 'a_nuclei.csv')) as file:
        assert sorted(row['touches_border'] for row in csv.DictReader(file)
                      ) == ['0'] * 3 + ['1'] * 4


def test_a_slide_that_was_an_image_before(tmp_path):
    """And back: what the other kind had goes, and both are never mixed."""
    image = np.full((300, 300, 3), 20, np.uint8)
    image[100:140, 100:140, 0] = 255
    write_slide(tmp_path / 'in' / 'a.tif', image)
    found = {}
    for most in (2 ** 27, 1, 2 ** 27):
        if found:
            with pytest.raises(InputError, match='as a slide was .*--overwr'):
                run(tmp_path, max_whole_pixels=most)
        run(tmp_path, max_whole_pixels=most, overwrite=True)
        names = {name for name in os.listdir(tmp_path / 'out')
                 if name.startswith('a')}
        assert found.setdefault(most, names) == names
    assert {'a_mask.png', 'a_overlay.png'} <= found[2 ** 27] - found[1]
    assert {'a_overview.jpg', 'a_tissue.png'} <= found[1] - found[2 ** 27]


def test_images_of_one_name_in_two_folders(folder):
    run(folder)
    paint(folder / 'other' / 'a.png', (5, 5, 9))
    with pytest.raises(InputError, match='other/a.png: its results would '
                                         'replace those of .*in/a.png'):
        run(folder, place='other')
    run(folder, place='other', overwrite=True)
    assert {row['image'] for row in summary_of(folder)} == set(ALL)
    (folder / 'other').rename(folder / 'moved')
    assert run(folder, place='moved') == ([], [])
    # Results of images that have gone are no one else's either.
    paint(folder / 'new' / 'a.png', (5, 5, 7))
    with pytest.raises(InputError, match='new/a.png: its results would '
                                         'replace those of .*other/a.png'):
        run(folder, place='new')


def test_records_of_others_are_none(folder):
    run(folder)
    out = folder / 'out'
    shutil.copy(str(out / 'a.json'), str(out / 'copy of a.json'))
    (out / 'deep.json').write_text('[' * 10 ** 5)
    (out / 'part.json').write_text(
        '{"software": "nuclei segmentation", "key": "1"}')
    os.mkfifo(str(out / 'pipe.json'))
    shutil.copy(str(folder / 'in' / 'a.png'), str(folder / 'in' / '.h.png'))
    predict.predict_files([str(folder / 'in' / '.h.png')], str(out),
                          Counting(), 0.25)
    assert [row['image'] for row in summary_of(folder)] == ['.h.png', *ALL]


def test_overwriting_that_fails_early_changes_nothing(folder):
    run(folder)

    def fail(*_):
        raise InputError('no scheduler')
        yield

    other = Counting(threshold=0.7)
    with pytest.raises(InputError, match='no scheduler'):
        run(folder, other, overwrite=True, work=fail)
    assert run(folder)[0] == []
    with pytest.raises(InputError, match='threshold was 0.5, now 0.7'):
        run(folder, other)


def test_overwriting_that_is_stopped_goes_on(folder):
    run(folder)

    def stop(found, asked, read, report):
        yield from predict.results(found[:1], asked, read, report)
        raise InputError('stopped')

    with pytest.raises(InputError, match='stopped'):
        run(folder, Counting(threshold=0.7), overwrite=True, work=stop)
    assert [row['image'] for row in summary_of(folder)] == ['a.png']
    other = Counting(threshold=0.7)
    assert run(folder, other, overwrite=True)[0] == ['b.png', 'c.png']


def test_a_drive_that_is_away_for_once(folder):
    run(folder)
    before = summary_of(folder)
    links = folder / 'links'
    links.mkdir()
    for name in ALL:
        (links / name).symlink_to(folder / 'in' / name)
    run(folder, place='links')
    (folder / 'in').rename(folder / 'away')
    assert run(folder, place='links') == ([], ALL)
    assert summary_of(folder) == before
    (folder / 'away').rename(folder / 'in')
    assert run(folder, place='links') == ([], [])


def test_an_empty_result_is_made_again(folder):
    run(folder)
    (folder / 'out' / 'b_mask.png').write_bytes(b'')
    with pytest.raises(InputError, match='b_mask.png: was not written'):
        run(folder)
    (folder / 'out' / 'b_mask.png').unlink()
    assert run(folder)[0] == ['b.png']
