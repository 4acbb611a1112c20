"""From annotated images to the stores that training and evaluation read."""
import contextlib
import os
import time

import numpy as np

from input_pipeline import progress
from input_pipeline import annotations
from input_pipeline import held_out_images
from input_pipeline import monuseg
from input_pipeline import sample
from input_pipeline import store
from input_pipeline.files import (InputError, atomic_write, locked,
                                  remove_matching)

FOLDS = 4  # one of them to validate on
SPLITS = ('train', 'validation', 'test')
HELD_OUT = 'held_out_images'  # folder beside the stores


def prepare(output_dir, monuseg_dir=None, seed=0, fold='0'):
    """Writes train.h5, validation.h5 and, with test images, test.h5.

    The images that are not trained on, of test or else of validation, are
    also written as held_out_images/NAME.png, to predict. The stores appear
    together once all are whole, in place of what an earlier preparation left
    there. Stores made from the same files by the same rules are kept.

    Args:
        output_dir: folder of the stores, made if absent, and locked.
        monuseg_dir: folder or archive of MoNuSeg, see `monuseg.find`; None
            for the synthetic sample.
        seed: of the division into training and validation, and of the
            sample; 0 to 2**32 - 1.
        fold: see `assign_splits`.

    Raises:
        InputError: the data are absent, damaged or too few, another process
            prepares in the folder, the output cannot be written, or a file of
            the user's is in its place.
    """
    if monuseg_dir is None:
        source, load = 'synthetic sample', sample.load
        entries = sample.find(seed)
        digest = ''  # the seed says it all
    else:
        source, load = 'MoNuSeg', monuseg.load
        entries = monuseg.find(monuseg_dir)
        digest = monuseg.digest(entries)
    splits = assign_splits(entries, seed, fold)
    rules = {'source': source, 'source_digest': digest, 'seed': seed,
             'fold': fold,
             'patch_size': store.PATCH_SIZE, 'overlap': store.OVERLAP,
             'fill_rule': annotations.FILL_RULE, 'mask_background': 0,
             'mask_nucleus': 1}
    with locked(output_dir, 'data_dir'):
        # What killed processes left, on whatever machine.
        remove_matching(output_dir, *(f'.partial-*-{split}.h5'
                                      for split in SPLITS))
        if _are_made(output_dir, rules, splits):
            print(f'{output_dir}: already prepared from the same {source} '
                  f'with seed {seed}, fold {fold}')
        else:
            _replace_stores(output_dir, rules, splits, load)
            if 'test' not in splits:
                print('no test images there: test.h5 is not written')
        held_out_images.write(os.path.join(output_dir, HELD_OUT),
                              _held_out_store(output_dir))


def assign_splits(entries, seed, fold):
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


def _are_made(folder, rules, splits):
    """Says whether a folder's stores are whole and made as they are to be."""
    if {split for split in SPLITS
            if os.path.exists(_path(folder, split))} != set(splits):
        return False
    try:
        for split, entries in splits.items():
            with store.open_store(_path(folder, split)) as made:
                found = store.attributes(made)
                if (store.image_names(made) != [entry.name
                                                for entry in entries]
                        or any(found.get(key) != value
                               for key, value in rules.items())):
                    return False
    except InputError:
        return False
    return True


def _path(folder, split):
    return os.path.join(folder, f'{split}.h5')


def _held_out_store(folder):
    """Path of the store of the images that are not trained on, or None."""
    return next((path for path in (_path(folder, 'test'),
                                   _path(folder, 'validation'))
                 if os.path.exists(path)), None)


def _replace_stores(folder, rules, splits, load):
    """Writes the stores, and removes what belongs to those replaced.

    The former stores' held-out images go before the new stores come, so that
    those which the program wrote are in the present stores at any moment,
    also after a kill.

    Args:
        folder: of the stores.
        rules: dict of attributes, those of all stores.
        splits: dict of lists of entries, see `assign_splits`.
        load: function that loads an entry.
    """
    for split in SPLITS:
        store.check_replaceable(_path(folder, split))
    start = time.time()
    report = progress.reporter(sum(map(len, splits.values())), 'images')
    done, summary = 0, []
    with contextlib.ExitStack() as stores:
        partials = {}
        for split, entries in splits.items():
            partials[split] = stores.enter_context(
                atomic_write(_path(folder, split)))
            patches = store.write_store(
                partials[split], {**rules, 'split': split},
                _load_examples(entries, load, done, report))
            done += len(entries)
            summary.append(f'{split} {len(entries)} images, {patches} patches')
        _refuse_shared_images(partials)
        held_out_images.make_way(
            os.path.join(folder, HELD_OUT), _held_out_store(folder),
            partials.get('test', partials.get('validation')))
    for split in set(SPLITS) - set(splits):
        with contextlib.suppress(FileNotFoundError):
            os.remove(_path(folder, split))
    print(f'{folder}: {rules["source"]}, {"; ".join(summary)}; '
          f'{time.time() - start:.1f} s')


def _refuse_shared_images(paths):
    """Raises InputError where two splits hold the same image.

    `paths` is a dict from split to the path of its store.
    """
    seen = {}
    for split, path in paths.items():
        with store.open_store(path) as file:
            for name, digest in zip(store.image_names(file),
                                    store.image_digests(file)):
                its_split, its_name = seen.setdefault(digest, (split, name))
                if its_split != split:
                    raise InputError(
                        f'{name}: the same image as {its_name}, so that it '
                        f'would be in {its_split} and in {split}; remove one '
                        'of them')


def _load_examples(entries, load, done, report):
    """Loads entries one at a time; `done` were loaded before."""
    for done, entry in enumerate(entries, done + 1):
        yield (entry.name, *load(entry))
        report(done)
