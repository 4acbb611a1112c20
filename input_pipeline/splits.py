"""Which images train, validate and test."""
import collections
import fnmatch
import hashlib

import numpy as np

from histology.files import InputError
from input_pipeline import store

LONG_NAMES = 1000  # bytes, of the names of validation images


def assign_splits(entries, seed, fold, validation=()):
    """Divides entries into the splits of the stores, whole images only.

    Names of TCGA slides begin with the site that took the tissue, so of
    entries ordered by name neighbours are alike: of each four, one goes into
    each fold.

    Args:
        entries: tuples with `name` and `split`, ordered by name.
        seed: of the choice among each four.
        fold: '0' to '3', the fold to validate on, or `store.TRAIN_ON_ALL`.
        validation: names of the training images to validate on instead, or
            shell patterns of them.

    Returns:
        dict of lists of entries: 'train', and 'validation' and 'test' where
        there are any.

    Raises:
        InputError: there are too few training images, or none has a name.
    """
    training = [entry for entry in entries if entry.split == 'training']
    if validation:
        held = _named(training, validation)
    else:
        rng = np.random.RandomState(seed)
        folds = [str(k) for start in range(0, len(training), store.FOLDS)
                 for k in rng.permutation(
                     min(store.FOLDS, len(training) - start))]
        held = {entry.name for entry, its_fold in zip(training, folds)
                if its_fold == fold}
    splits = {
        'train': [entry for entry in training if entry.name not in held],
        'validation': [entry for entry in training if entry.name in held],
        'test': [entry for entry in entries if entry.split == 'test']}
    splits = {split: chosen for split, chosen in splits.items() if chosen}
    if 'train' in splits and (fold == store.TRAIN_ON_ALL
                              or 'validation' in splits):
        return splits
    if validation:
        raise InputError('--validation: names all training images; leave some '
                         'to train on')
    needed = 1 if fold == store.TRAIN_ON_ALL else max(2, int(fold) + 1)
    raise InputError(f'{len(training)} training images found, --fold={fold} '
                     f'needs {needed}' + _why_test(splits.get('test', []))
                     + '; give the folder above the training data, more '
                     'images, or another --fold or --validation')


def _named(entries, patterns):
    """The names of the entries that patterns fit, each at least one."""
    held = set()
    for pattern in patterns:
        found = {entry.name for entry in entries
                 if entry.name == pattern  # which may hold brackets
                 or fnmatch.fnmatchcase(entry.name, pattern)}
        if not found:
            names = ', '.join(entry.name for entry in entries[:3])
            raise InputError(f'--validation: no training image is called '
                             f'{pattern}; they are {names} ...')
        held |= found
    return held


def _why_test(entries):
    """Says which images became test images, and why, for an error."""
    reasons = collections.defaultdict(list)
    for entry in entries:
        reasons[getattr(entry, 'why', None)].append(entry.name)
    return ''.join(
        f'. {len(names)} are test images ({names[0]}'
        f'{" ..." if names[1:] else ""}), {why}'
        for why, names in reasons.items() if why)


def fold_text(fold, splits):
    """The attribute `fold` where validation images were named."""
    names = ','.join(entry.name for entry in splits['validation'])
    if len(names.encode()) > LONG_NAMES:
        names = hashlib.sha1(names.encode()).hexdigest()
    return f'validation={names}'
