"""From annotated images to the stores that training and evaluation read."""
import contextlib
import os
import shutil
import tempfile
import time

import numpy as np

from input_pipeline import progress
from input_pipeline import annotations
from input_pipeline import monuseg
from input_pipeline import sample
from input_pipeline import store
from input_pipeline.files import InputError, remove_matching, atomic_write
from input_pipeline.images import write_png

FOLDS = 4  # one of them to validate on


def prepare(output_dir, monuseg_dir=None, seed=0, fold='0'):
    """Writes train.h5, validation.h5 and, with test images, test.h5.

    The images that are not trained on, of test or else of validation, are
    also written as held_out_images/NAME.png, to predict. The stores appear
    together once all are whole, in place of what an earlier preparation left
    there. Stores made from the same files by the same rules are kept.

    Args:
        output_dir: folder of the stores, made if absent.
        monuseg_dir: folder or archive of MoNuSeg, see `monuseg.find`; None
            for the synthetic sample.
        seed: of the division into training and validation, and of the
            sample; 0 to 2**32 - 1.
        fold: see `divide`.

    Raises:
        InputError: the data are absent, damaged or too few, or the output
            cannot be written.
    """
    if monuseg_dir is None:
        source, load = 'synthetic sample', sample.load
        entries = sample.find(seed)
        digest = ''  # the seed says it all
    else:
        source, load = 'MoNuSeg', monuseg.load
        entries = monuseg.find(monuseg_dir)
        digest = monuseg.digest(entries)
    splits = divide(entries, seed, fold)
    rules = {'source': source, 'source_digest': digest, 'seed': seed,
             'fold': fold,
             'patch_size': store.PATCH_SIZE, 'overlap': store.OVERLAP,
             'fill_rule': annotations.FILL_RULE, 'mask_background': 0,
             'mask_nucleus': 1}
    paths = {split: os.path.join(output_dir, f'{split}.h5')
             for split in ('train', 'validation', 'test')}
    held_out = os.path.join(output_dir, 'held_out_images')
    held_out_split = 'test' if 'test' in splits else 'validation'
    held_out_names = [f'{entry.name}.png'
                      for entry in splits.get(held_out_split, [])]
    present = {split for split in paths if os.path.exists(paths[split])}
    if present == set(splits) and _holds(held_out, held_out_names) and all(
            _was_made(paths[split], rules, splits[split]) for split in splits):
        print(f'{output_dir}: already prepared from the same {source} with '
              f'seed {seed}, fold {fold}; nothing to do')
        return

    remove_matching(output_dir, '.partial-*')  # what a killed one left
    start = time.time()
    report = progress.reporter(len(entries), 'images')
    done, summary = 0, []
    with contextlib.ExitStack() as stores:
        for split, chosen in splits.items():
            partial = stores.enter_context(atomic_write(paths[split]))
            patches = store.write_store(
                partial, {**rules, 'split': split},
                _examples(chosen, load, done, report))
            done += len(chosen)
            summary.append(f'{split} {len(chosen)} images, {patches} patches')
            if split == held_out_split:
                held_out_store = partial
        if held_out_names:
            _write_images(held_out_store, held_out)
    # What belongs to the preparation replaced.
    for split in present - set(splits):
        os.remove(paths[split])
    if not held_out_names:
        shutil.rmtree(held_out, ignore_errors=True)
    print(f'{output_dir}: {source}, {"; ".join(summary)}; '
          f'{time.time() - start:.1f} s')
    if 'test' not in splits:
        print('no test images there: test.h5 is not written')


def divide(entries, seed, fold):
    """Divides entries into the splits of the stores, whole images only.

    Names of TCGA slides begin with the site that took the tissue, so of
    entries ordered by name neighbours are alike: of each four, one goes into
    each fold.

    Args:
        entries: as `monuseg.find` or `sample.find` lists them, by name.
        seed: of the choice among each four.
        fold: '0' to '3', the fold to validate on, or `store.TRAIN_ON_ALL`.

    Returns:
        dict of lists of entries: 'train', and 'validation' and 'test' where
        there are any.

    Raises:
        InputError: there are too few training images.
    """
    training = [entry for entry in entries if entry.split == 'training']
    rng = np.random.RandomState(seed)
    folds = [str(k) for start in range(0, len(training), FOLDS)
             for k in rng.permutation(min(FOLDS, len(training) - start))]
    splits = {'train': [], 'validation': [],
              'test': [entry for entry in entries if entry.split == 'test']}
    for entry, its_fold in zip(training, folds):
        splits['validation' if its_fold == fold else 'train'].append(entry)
    splits = {split: chosen for split, chosen in splits.items() if chosen}
    if 'train' not in splits or (fold != store.TRAIN_ON_ALL
                                 and 'validation' not in splits):
        needed = 1 if fold == store.TRAIN_ON_ALL else max(2, int(fold) + 1)
        raise InputError(f'{len(training)} training images found, --fold='
                         f'{fold} needs {needed}; give the folder above the '
                         'training data')
    return splits


def _was_made(path, rules, entries):
    """Says whether a whole store was made by these rules of these entries."""
    try:
        with store.open_store(path) as made:
            names = [entry.name for entry in entries]
            found = store.attributes(made)
            return store.image_names(made) == names and all(
                found.get(key) == value for key, value in rules.items())
    except InputError:
        return False


def _holds(folder, names):
    """Says whether a folder, absent if empty, holds just these files."""
    there = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(there) == sorted(names)


def _write_images(path, folder):
    """Writes a store's images as NAME.png, in place of those there."""
    with tempfile.TemporaryDirectory(
            prefix='.partial-', dir=os.path.dirname(folder)) as partial:
        whole = os.path.join(partial, 'images')
        with store.open_store(path) as made:
            for name, image, _ in store.whole_images(made):
                write_png(os.path.join(whole, f'{name}.png'), image)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(whole, folder)


def _examples(entries, load, done, report):
    """Loads entries one at a time; `done` were loaded before."""
    for done, entry in enumerate(entries, done + 1):
        yield (entry.name, *load(entry))
        report(done)
