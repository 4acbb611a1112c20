"""From annotated images to the stores that training and evaluation read."""
import contextlib
import os
import time

import numpy as np

from input_pipeline import progress
from input_pipeline import annotations
from input_pipeline import monuseg
from input_pipeline import sample
from input_pipeline import store
from input_pipeline.files import (InputError, atomic_write, locked,
                                  remove_matching)
from input_pipeline.images import read_image, write_png

FOLDS = 4  # one of them to validate on
SPLITS = ('train', 'validation', 'test')


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
        _write_held_out_images(output_dir)


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


def _replace_stores(folder, rules, splits, load):
    """Writes the stores, and removes what belongs to those replaced.

    Images of the former stores go before the new stores come, so that those
    in held_out_images/ which the program wrote are those of the present
    stores at any moment, also after a kill.

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
        _make_way(folder, partials.get('test', partials.get('validation')))
    for split in set(SPLITS) - set(splits):
        with contextlib.suppress(FileNotFoundError):
            os.remove(_path(folder, split))
    print(f'{folder}: {rules["source"]}, {"; ".join(summary)}; '
          f'{time.time() - start:.1f} s')


def _load_examples(entries, load, done, report):
    """Loads entries one at a time; `done` were loaded before."""
    for done, entry in enumerate(entries, done + 1):
        yield (entry.name, *load(entry))
        report(done)


# held_out_images/ is the user's too, who may put masks or notes there. The
# program knows what it wrote by the digests in the store.


def _held_out_store(folder):
    """Path of the store of the images that are not trained on, or None."""
    return next((path for path in (_path(folder, 'test'),
                                   _path(folder, 'validation'))
                 if os.path.exists(path)), None)


def _image_path(folder, name):
    return os.path.join(folder, 'held_out_images', f'{name}.png')


def _written_images(folder, path):
    """Compares what is in the places of a store's images with them.

    Args:
        folder: that holds held_out_images/.
        path: of the store; None, or a damaged one, has no images.

    Returns:
        (paths of the images that are there, paths of other files in their
        places), two sets.
    """
    same, others = set(), set()
    if path is None:
        return same, others
    try:
        with store.open_store(path) as file:
            images = dict(zip(store.image_names(file),
                              store.image_digests(file)))
    except InputError:
        return same, others
    for name, digest in images.items():
        place = _image_path(folder, name)
        if os.path.lexists(place):
            try:
                found = store.pixel_digest(read_image(place))
            except InputError:
                found = None
            (same if found == digest else others).add(place)
    return same, others


def _make_way(folder, path):
    """Removes the former stores' images, before the store at `path` comes.

    Raises:
        InputError: where one of its images belongs is a file of the user's,
            or one cannot be removed.
    """
    written, _ = _written_images(folder, _held_out_store(folder))
    _, others = _written_images(folder, path)
    _refuse(others - written)
    for place in written:
        try:
            os.remove(place)
        except OSError as error:
            raise InputError(f'{place}: cannot be removed ({error.strerror}); '
                             'choose another --data_dir') from error
    with contextlib.suppress(OSError):  # absent, or holds files of the user's
        os.rmdir(os.path.join(folder, 'held_out_images'))


def _refuse(places):
    """Raises InputError if there are files of the user's in these places."""
    for place in sorted(places):
        raise InputError(f'{place}: not the image of that name in the stores; '
                         'move it elsewhere, its place is needed')


def _write_held_out_images(folder):
    """Writes those images of the stores to held_out_images/ that lack there.

    Raises:
        InputError: a file of the user's is in the place of one.
    """
    path = _held_out_store(folder)
    if path is None:
        return
    written, others = _written_images(folder, path)
    _refuse(others)
    with store.open_store(path) as file:
        for name, image, _ in store.whole_images(file):
            place = _image_path(folder, name)
            if place not in written:
                write_png(place, image)
