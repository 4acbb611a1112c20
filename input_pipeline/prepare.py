"""From annotated images to the stores that training and evaluation read."""
import collections
import contextlib
import functools
import hashlib
import itertools
import json
import os

import numpy as np

from histology import annotations, images, listing, monuseg, pairs, synthetic
from histology.files import InputError, atomic_write, locked, remove_matching
from histology.outlines import crop
from histology.progress import counted, reporter, say
from histology.rasterize import FILL_RULE
from histology.resample import MICRONS_PER_PIXEL, network_size, resample
from histology.resolution import Resolution
from input_pipeline import checks, store
from input_pipeline.splits import assign_splits, division_text, fold_text

MAX_SKIPPED = 0.5  # of a split's images
VERSION = 3  # of the stores; raised when the same files give others

# What was found in the files that are read: a Counter of the annotations'
# formats, each with ' written by predict' or ''; a dict of all classes and
# layers to lists of the areas of their nuclei, int [K] for each image; and a
# Resolution.
ReadingLog = collections.namedtuple('ReadingLog', 'formats areas resolution')

# The annotated images to prepare:
#   source: the path that was given, MoNuSeg or synthetic sample
#   entries: list of tuples with `name` and `split`, ordered by name
#   digests: attributes of the stores, texts that other images would not have:
#       a dict of `source_digest`, of what a training depends on, and of
#       `test_digest` if there are test images
#   load: as the function below
#   microns_per_pixel: of the images, which are resampled to the networks'
#       own; None if each file states its own
#   classes: names of those that are nuclei; () for all
Data = collections.namedtuple('Data', 'source entries digests load '
                              'microns_per_pixel classes')


def find_sample(seed):
    """Return the Data of the synthetic sample made from a seed."""
    def load_sample(entry, *_):
        image, instances = synthetic.make(np.random.RandomState(entry.seed),
                                          synthetic.SIZE)
        yield image
        yield store.Annotation(instances, True)

    # The seed is in the stores, and says which images they are.
    return Data('synthetic sample', synthetic.find(seed),
                {'source_digest': ''}, load_sample, MICRONS_PER_PIXEL, ())


def find_monuseg(folder, microns_per_pixel=None, classes=()):
    """Return the Data in a folder or archive, see `monuseg.find`."""
    entries = monuseg.find(folder)
    is_its_own = all(monuseg.SLIDE.match(entry.name) for entry in entries)
    return _annotated('MoNuSeg' if is_its_own else folder, entries,
                      microns_per_pixel, classes)


def find_own(images_dir, annotations_dir, test_dirs=None,
             microns_per_pixel=None, classes=()):
    """Return the Data in two folders, and in two of test images, if any.

    Raises:
        InputError: as `pairs.find`, and two test images have one name.
    """
    entries = pairs.find(images_dir, annotations_dir)
    if test_dirs:
        entries = listing.ordered(
            entries + pairs.find(*test_dirs, split='test'))
    return _annotated(images_dir, entries, microns_per_pixel, classes)


def _annotated(source, entries, microns_per_pixel, classes):
    # A path may be no UTF-8, which is what stores hold.
    source = source.encode('utf-8', 'backslashreplace').decode()
    digests = {'source_digest': _digest(
        [entry for entry in entries if entry.split != 'test'], classes)}
    tests = [entry for entry in entries if entry.split == 'test']
    if tests:
        digests['test_digest'] = _digest(tests, classes)
    return Data(source, entries, digests, load, microns_per_pixel, classes)


def _digest(entries, classes):
    # A file that cannot be read counts as empty: it will be skipped. Names of
    # classes with blanks are quoted.
    digest = hashlib.sha1(''.join(
        f'{entry.name} {entry.split}{listing.file_digest(entry.image)}'
        f'{listing.file_digest(entry.annotation)}'
        for entry in entries).encode()).hexdigest()
    return ' '.join([digest, *(json.dumps(name) if ' ' in name else name
                               for name in sorted(classes))])


def prepare(output_dir, data, seed=0, fold='0', validation=()):
    """Write train.h5, validation.h5 and, with test images, test.h5.

    The stores appear together once all are whole, and replace earlier ones.
    Stores of the same images, made by the same rules, are kept. An image that
    cannot be used is reported on stderr and skipped.

    Args:
        output_dir: folder of the stores, made if absent, and locked.
        data: Data.
        seed: of the division into training and validation; 0 to 2**32 - 1.
        fold, validation: see `splits.assign_splits`.

    Returns:
        list of the names that were skipped.

    Raises:
        InputError: the data are damaged or too few, another process prepares
            in the folder, the output cannot be written, or a file of the
            user's is in its place.
    """
    splits = assign_splits(data.entries, seed, fold, validation)
    by_folder = [entry.why for entry in data.entries
                 if entry.split == 'validation']
    if by_folder:
        say(f'{counted(len(by_folder), "image")} to validate on, '
            f'{by_folder[0]}; --fold is not used')
    rules = {'version': VERSION, 'source': data.source, **data.digests,
             'seed': seed,
             'fold': fold_text(splits) if validation or by_folder else fold,
             'patch_size': store.PATCH_SIZE, 'overlap': store.OVERLAP,
             'fill_rule': FILL_RULE, 'microns_per_pixel':
             data.microns_per_pixel or 'as the files state'}
    with locked(output_dir, 'data_dir'):
        # What killed processes left, on whatever machine.
        remove_matching(output_dir, *(f'.partial-*-{split}.h5'
                                      for split in store.SPLITS))
        classes = {}
        skipped = _skipped_before(output_dir, rules, splits)
        if skipped is None:
            skipped, classes = _write_stores(output_dir, rules, splits, data)
        else:
            say(f'{output_dir}: already prepared from {data.source} with '
                + division_text(seed, rules['fold'])
                + (f'; skipped: {", ".join(skipped)}; to try them again, '
                   f'remove {store.store_path(output_dir, "train")}'
                   if skipped else ''))
        if not os.path.exists(checks.sheet_path(output_dir)):
            checks.show(output_dir, splits, classes)
    return skipped


def load(entry, log, classes=()):
    """Read an annotated image.

    Args:
        entry: `listing.Entry`.
        log: ReadingLog.
        classes: see Data.

    Yields:
        uint8 [H, W, 3], the image at the networks' micrometres per pixel,
            cropped to what is annotated of it
        its `store.Annotation`

    Raises:
        InputError: a file cannot be read, or the annotation is of another
            image.
    """
    path = entry.annotation
    image = images.read_image(entry.image)
    image_size = image.shape[:2]
    network_microns, own_microns = log.resolution.of_image(entry.image)
    size = network_size(image_size, network_microns, entry.image)
    image = resample(image, size)
    placed = annotations.place(path, image_size, size, classes)
    image = crop(image, placed, store.WHITE)
    yield image
    del image  # a large one fills the memory
    instances, kind = annotations.load(path, image_size, size, placed)
    log.resolution.compare(path, placed.microns_per_pixel, own_microns)
    areas = store.areas_of(instances)
    for name, numbers in placed.classes.items():
        # The last ones may lie wholly under others.
        log.areas[name].append(areas[numbers[numbers < len(areas)]])
    if placed.skipped:
        say(f'{path}: skipped: {"; ".join(placed.skipped)}')
    writer = ' written by predict' if listing.is_predicted(path) else ''
    log.formats[kind, writer] += 1
    yield store.Annotation(instances, kind != annotations.MASK)


def _skipped_before(folder, rules, splits):
    """Return the names skipped when the wanted stores were made.

    If these are not there, or not all of them whole, return None, and announce
    which stores are going to be replaced.

    Raises:
        InputError: a file of the user's is in the place of a store.
    """
    paths = {split: store.store_path(folder, split) for split in store.SPLITS}
    with contextlib.suppress(InputError):
        found = {}
        for split in splits:
            with store.open_store(paths[split]) as file:
                found[split] = store.attributes(file)
        others = set(store.SPLITS).difference(splits)
        # The digest says which images they are: their folder may have moved.
        wanted = {key: rules[key] for key in rules if key != 'source'}
        same = all({**wanted, 'split': split}.items() <= one.items()
                   for split, one in found.items())
        if same and not any(os.path.exists(paths[split]) for split in others):
            return [name for one in found.values()
                    for name in json.loads(one['skipped'])]
    checks.pictures(folder)
    former = [store.replaceable(path) for path in paths.values()]
    former = next(filter(None, former), rules)  # rules: nothing is said
    if any(former.get(key) != rules[key]
           for key in ('source_digest', 'seed', 'fold', 'microns_per_pixel')):
        say(f'{folder}: replacing the stores of {former.get("source")} '
            f'({division_text(former.get("seed"), former.get("fold"))}). '
            'Networks trained on them cannot resume with the new ones. '
            'To keep both, give another --data_dir')
    elif former.get('version') != VERSION:
        say(f'{folder}: made by another version, which read some files '
            'otherwise, so the stores are made again')
    elif former.get('test_digest') != rules.get('test_digest'):
        say(f'{folder}: the test images are others, so the stores are made '
            'again. Networks trained on them can resume')
    return None


def _write_stores(folder, rules, splits, data):
    """Read the images and write the stores.

    Returns:
        list of the skipped names, and `areas` of ReadingLog
    """
    log = ReadingLog(collections.Counter(), collections.defaultdict(list),
                     Resolution(data.microns_per_pixel))
    done = itertools.count()
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(reporter(
            sum(map(len, splits.values())), 'image'))

        def examples(entries):
            for entry in entries:
                report(next(done))
                yield entry.name, functools.partial(data.load, entry, log,
                                                    data.classes)

        written = {}
        for split, entries in splits.items():
            partial = stack.enter_context(
                atomic_write(store.store_path(folder, split)))
            written[split] = store.write_store(
                partial, {**rules, 'split': split}, examples(entries))
            _check_written(written[split], split, log)
        _refuse_shared_images(written)
        for name in data.classes:
            if name.casefold() not in map(str.casefold, log.areas):
                raise InputError(
                    f'--classes: no annotation has {name}, only '
                    + (', '.join(sorted(log.areas)) or 'no classes'))
        report(next(done))
        checks.remove_pictures(folder)
    remove_matching(folder, *(
        f'{split}.h5' for split in set(store.SPLITS).difference(splits)))
    _print_summary(folder, rules['source'], written, log)
    return [name for parts in written.values() for name in parts.skipped
            ], log.areas


def _print_summary(folder, source, written, log):
    """Print what was skipped, and what the stores of all splits hold."""
    for parts in written.values():
        for error in parts.skipped.values():
            say(f'error: {error} (skipped)', error=True)
    if log.formats:
        say('annotations: ' + ', '.join(
            f'{kind}{writer} of {counted(count, "image")}'
            for (kind, writer), count in sorted(log.formats.items())))
    if any(kind == annotations.MASK for kind, _ in log.formats):
        say('masks do not separate touching nuclei: each connected '
            'component counts as a nucleus')
    say(f'{folder}: {source}, ' + '; '.join(
        f'{split} {counted(len(parts.digests), "image")}, '
        f'{counted(parts.nuclei, "nucleus", "nuclei")}, '
        + counted(parts.patches, 'patch', 'patches')
        for split, parts in written.items()))
    if 'test' not in written:
        say('no test images: test.h5 is not written')


def _check_written(written, split, log):
    """Raise InputError if too little of a split could be used."""
    skipped = list(written.skipped.values())
    count = len(written.digests) + len(skipped)
    if len(skipped) > MAX_SKIPPED * count or not written.digests:
        of_all = counted(count, f'{split} image')
        raise InputError(f'{len(skipped)} of {of_all} cannot be used; the '
                         f'first: {skipped[0]}')
    if split == 'train' and not written.nuclei:
        # Whoever outlines nothing may mean it, a black mask is a mistake.
        if {annotations.LABELS, annotations.MASK} & {
                kind for kind, _ in log.formats}:
            raise InputError('none of the training images has a nucleus: '
                             'their annotations are empty; give others')
        say('none of the training images has a nucleus: there is nothing '
            'to train on')


def _refuse_shared_images(written):
    """Raise InputError if two splits, of a dict of Written, share an image."""
    seen, shared = {}, []
    for split, parts in written.items():
        for name, digest in parts.digests.items():
            its_split, its_name = seen.setdefault(digest, (split, name))
            if its_split != split:
                shared.append(f'{name} of {split} as {its_name} of '
                              f'{its_split}')
    if shared:
        raise InputError(
            f'{counted(len(shared), "image")} would be in two stores: '
            + '; '.join(shared[:3]) + (' ...' if shared[3:] else '')
            + '. Remove one of the two')
