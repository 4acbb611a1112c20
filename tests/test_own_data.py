"""The README's recipe for data of one's own, followed word by word."""
import json
import os
import re
import shlex

import imageio.v3 as iio
import numpy as np

from conftest import ROOT
from histology import synthetic
from input_pipeline import store

COUNT = 2
SIZE = 272
# So that it takes seconds.
SHORT = ('--steps=1', '--evaluate_every=1', '--batch_size=2',
         '--crop_size=64', '--accelerate=off')


def commands():
    """The argument lists of the recipe's commands, without `python`."""
    with open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as file:
        section = re.search('## Your own data\n(.*?)\n## ', file.read(),
                            re.DOTALL).group(1)
    assert section.strip().count('\n') < 30  # it is short
    block, = re.findall('```\n(.*?)```', section, re.DOTALL)
    return [shlex.split(line)[1:]
            for line in block.replace('\\\n', ' ').splitlines()]


def make_folder(folder):
    """Makes a folder with images/*.png, annotations/*.png and the networks
    that come with the code.
    """
    (folder / 'checkpoints').mkdir()
    os.symlink(os.path.join(ROOT, 'checkpoints', 'pretrained'),
               str(folder / 'checkpoints' / 'pretrained'))
    for name in ('images', 'annotations'):
        (folder / name).mkdir()
    for index in range(COUNT):
        image, instances = synthetic.make(np.random.RandomState(index), SIZE)
        iio.imwrite(folder / f'images/case {index}.png', image)
        iio.imwrite(folder / f'annotations/case {index}.png',
                    np.uint8(255 * (instances > 0)))


def test_own_data_from_prepare_to_predict(program, tmp_path, monkeypatch):
    folder = tmp_path
    make_folder(folder)
    monkeypatch.chdir(folder)
    recipe = commands()
    assert [next(flag for flag in flags if flag.startswith('--mode='))
            for flags in recipe] == ['--mode=prepare', '--mode=train',
                                     '--mode=eval', '--mode=predict']
    for script, *flags in recipe:
        assert script == 'main.py'
        process = program(*flags, *(SHORT if '--mode=train' in flags else ()))
        assert process.returncode == 0, process.stdout + process.stderr
    masks = {}
    for split in ('train', 'validation'):
        with store.open_store(str(folder / f'data/own/{split}.h5')) as file:
            assert store.attributes(file)['source'] == 'images'
            whole, = store.whole_images(file)
            assert not whole.has_instances  # masks are all there is
            np.testing.assert_array_equal(
                whole.image, iio.imread(folder / f'images/{whole.name}.png'))
            masks[whole.name] = whole.instances > 0
    assert sorted(masks) == [f'case {index}' for index in range(COUNT)]
    for name, mask in masks.items():
        np.testing.assert_array_equal(
            255 * mask, iio.imread(folder / f'annotations/{name}.png'))
    # A step at the rate of a start leaves the shipped network what it was.
    with open(folder / 'checkpoints/own/unet/validation.json') as file:
        assert json.load(file)['results']['pooled']['f1'] > 0.75
    for name, mask in masks.items():
        found = iio.imread(folder / f'predictions/own/{name}_mask.png') > 0
        assert found.shape == (SIZE, SIZE)
        assert 2 * (found & mask).sum() > 0.75 * (found.sum() + mask.sum())
