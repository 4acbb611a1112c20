"""Dividing images into those that train, validate and test."""
import fnmatch
import hashlib
import json
import os
import unicodedata

import numpy as np

from histology import listing
from histology.files import InputError
from histology.progress import counted
from input_pipeline import store

LONG_NAMES = 1000  # bytes, of the names of validation images


def assign_splits(entries, seed, fold, validation=()):
    """Divide entries into the splits of the stores, whole images only.

    Names of TCGA slides begin with the site that took the tissue, so that
    neighbours in the order of names are alike: of each four, one goes into
    each fold. Images of a folder that is called val... validate instead.

    Args:
        entries: tuples with `name` and `split`, ordered by name.
        seed: of the choice among each four.
        fold: '0' to '3', the fold to validate on, or `store.TRAIN_ON_ALL`.
        validation: names of the training images to validate on instead, or
            shell patterns of them, with or without the ending of a file.

    Returns:
        dict of lists of entries: 'train', and 'validation' and 'test' if
        there are any.

    Raises:
        InputError: there are too few training images, or none has a name that
            `validation` gives.
    """
    training, validating, testing = (
        [entry for entry in entries if entry.split == split]
        for split in ('training', 'validation', 'test'))
    if validation and validating:
        raise InputError('--validation: omit it; some images validate, '
                         f'{validating[0].why}')
    if validation:
        held = _named(training, validation)
    else:
        rng = np.random.RandomState(seed)
        folds = [str(k) for start in range(0, len(training), store.FOLDS)
                 for k in rng.permutation(
                     min(store.FOLDS, len(training) - start))]
        held = {entry.name for entry, its_fold in zip(training, folds)
                if its_fold == fold and not validating}
    splits = {
        'train': [entry for entry in training if entry.name not in held],
        'validation': validating or [entry for entry in training
                                     if entry.name in held],
        'test': testing}
    splits = {split: chosen for split, chosen in splits.items() if chosen}
    if 'train' in splits and (fold == store.TRAIN_ON_ALL
                              or 'validation' in splits):
        return splits
    if validation:
        raise InputError('--validation: names all training images; leave some '
                         'to train on')
    needed = 1 if fold == store.TRAIN_ON_ALL else max(2, int(fold) + 1)
    raise InputError(f'{counted(len(training), "training image")} found, '
                     f'--fold={fold} needs {needed}'
                     + (f'. Test images: {len(testing)} ({testing[0].name}'
                        f'{" ..." if testing[1:] else ""}), {testing[0].why}'
                        if testing else '')
                     + '; give the folder above the training data, more '
                     'images, or another --fold or --validation')


def read_names(given):
    """Return the names that --validation gives.

    Args:
        given: names with commas between, or the path of a text file with a
            name in each line. The path of an image is the image's name.

    Raises:
        InputError: the file cannot be read, or there are no names.
    """
    names = given.split(',')
    if os.path.isfile(given) and not listing.is_image(given):
        try:
            with open(given, 'rb') as file:  # of Windows it may be UTF-16
                content = file.read()
            names = content.decode(json.detect_encoding(content)).splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f'--validation {given}: cannot be read as text '
                             f'({error}); give names, or a text file of '
                             'them') from error
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise InputError('--validation: holds no names; give at least one')
    return names


def _named(entries, patterns):
    """Return the names of the entries that patterns fit, each at least one."""
    held = set()
    # Mac and Linux compose the letters of names in two ways.
    names = {unicodedata.normalize('NFC', entry.name): entry.name
             for entry in entries}
    for pattern in (unicodedata.normalize('NFC', name) for name in patterns):
        spellings = {pattern}
        if listing.is_image(pattern):
            spellings.add(listing.stem_and_ending(pattern)[0])
        # As a name first: it may hold brackets.
        found = ({names[name] for name in spellings.intersection(names)}
                 or {names[name] for one in spellings
                     for name in fnmatch.filter(names, one)})
        if not found:
            raise InputError(f'--validation: no training image is called '
                             f'{pattern:.100}; they are '
                             + ', '.join(list(names)[:3])
                             + (' ...' if entries[3:] else ''))
        held |= found
    return held


def fold_text(splits):
    """Return the attribute `fold` of stores that validate on named images."""
    names = [entry.name for entry in splits['validation']]
    text = ','.join(names)
    if len(text.encode()) > LONG_NAMES or any(',' in name for name in names):
        text = hashlib.sha1('\n'.join(names).encode()).hexdigest()
    return f'validation={text}'


def division_text(seed, fold):
    """Return what divided the images, from the attributes of their stores.

    These are flags, or the names of the validation images, which a folder may
    have said.
    """
    if str(fold).startswith('validation='):
        return str(fold).replace('validation=', 'validation images ', 1)
    return f'--seed={seed} --fold={fold}'
