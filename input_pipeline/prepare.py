"""From annotated images to the stores that training and evaluation read."""
import collections
import contextlib
import functools
import json
import os
import sys
import time

from histology import (
    annotations,
    images,
    listing,
    monuseg,
    pairs,
    progress,
    rasterize,
    resample,
    resolution,
    synthetic,
)
from histology.files import InputError, atomic_write, locked, remove_matching
from input_pipeline import held_out_images, store
from input_pipeline import splits as division

SPLITS = ('train', 'validation', 'test')
HELD_OUT = 'held_out_images'  # folder beside the stores
MOST_LEFT_OUT = 0.5  # of the images

# The annotated images to prepare:
#   source: what they are called
#   entries: list of tuples with `name` and `split`, ordered by name
#   digest: text that other images would not have
#   load: function of an entry, see `store.write_store`, and of ReadingLog
#   microns_per_pixel: of the images, which are resampled to the networks'
#       own; None if it was not said, which means these
Data = collections.namedtuple('Data', 'source entries digest load '
                              'microns_per_pixel')


def find_sample(seed):
    """The Data of the synthetic sample made from a seed."""
    return Data('synthetic sample', synthetic.find(seed),
                '',  # the seed says it
                lambda entry, said: synthetic.load(entry), None)


def find_monuseg(folder, microns_per_pixel=None):
    """The Data in a folder or archive of MoNuSeg; see `monuseg.find`.

    Args:
        folder: path.
        microns_per_pixel: see Data.
    """
    entries = monuseg.find(folder)
    name = os.path.basename(os.path.abspath(folder))
    return _annotated(monuseg.source_name(entries, name), entries,
                      microns_per_pixel)


def find_own(images_dir, annotations_dir, test_dirs=None,
             microns_per_pixel=None):
    """The Data in two folders; see `pairs.find`.

    Args:
        images_dir, annotations_dir: paths.
        test_dirs: the same two of the test images, or None.
        microns_per_pixel: see Data.

    Raises:
        InputError: as `pairs.find`, and two test images have one name.
    """
    entries = pairs.find(images_dir, annotations_dir)
    if test_dirs:
        entries = listing.ordered(
            entries + pairs.find(*test_dirs, split='test'))
    return _annotated(pairs.source_name(images_dir, annotations_dir), entries,
                      microns_per_pixel)


def _annotated(source, entries, microns_per_pixel):
    # A folder's name may be no UTF-8, which is what stores hold.
    source = source.encode('utf-8', 'backslashreplace').decode()
    return Data(source, entries, listing.digest(entries),
                lambda entry, said: load(entry, microns_per_pixel, said),
                microns_per_pixel)


def prepare(output_dir, data, seed=0, fold='0', validation=()):
    """Writes train.h5, validation.h5 and, with test images, test.h5.

    The images that are not trained on, of test or else of validation, are
    also written as held_out_images/NAME.png, to predict. The stores appear
    together once all are whole, in place of what an earlier preparation left
    there. Stores made from the same files by the same rules are kept. An
    image that cannot be used is reported on stderr and left out.

    Args:
        output_dir: folder of the stores, made if absent, and locked.
        data: Data.
        seed: of the division into training and validation; 0 to 2**32 - 1.
        fold, validation: see `splits.assign_splits`.

    Returns:
        list of the names that were left out.

    Raises:
        InputError: the data are damaged or too few, another process prepares
            in the folder, the output cannot be written, or a file of the
            user's is in its place.
    """
    splits = division.assign_splits(data.entries, seed, fold, validation)
    rules = {'source': data.source, 'source_digest': data.digest,
             'seed': seed,
             'fold': division.fold_text(fold, splits) if validation else fold,
             'patch_size': store.PATCH_SIZE, 'overlap': store.OVERLAP,
             'fill_rule': rasterize.FILL_RULE, 'mask_background': 0,
             'mask_nucleus': 1, 'microns_per_pixel':
             data.microns_per_pixel or resample.MICRONS_PER_PIXEL}
    with locked(output_dir, 'data_dir'):
        # What killed processes left, on whatever machine.
        remove_matching(output_dir, *(f'.partial-*-{split}.h5'
                                      for split in SPLITS))
        left_out = _left_out_before(output_dir, rules, splits)
        if left_out is not None:
            print(f'{output_dir}: already prepared from the same '
                  f'{data.source} '
                  f'with seed {seed}, fold {rules["fold"]}'
                  + (f', without {", ".join(left_out)}' if left_out else ''))
        else:
            left_out = _replace_stores(output_dir, rules, splits, data)
            if 'test' not in splits:
                print('no test images there: test.h5 is not written')
        held_out_images.write(os.path.join(output_dir, HELD_OUT),
                              _held_out_store(output_dir))
    return left_out


def load(entry, microns_per_pixel, said):
    """Reads an annotated image.

    Args:
        entry: `listing.Entry`.
        microns_per_pixel: see Data.
        said: ReadingLog.

    Yields:
        uint8 [H, W, 3], the image at the networks' micrometres per pixel
        (int32 [H, W], kind, micrometres per pixel that the files state or
        None), its nuclei; see `annotations.load`

    Raises:
        InputError: a file cannot be read, or the annotation is of another
            image.
    """
    path, content = listing.path_and_data(entry.image)
    image = images.read_image(path, content)
    image_size = image.shape[:2]
    stated = resolution.read_microns_per_pixel(path, content)
    said.resolution(path, stated)
    image = resample.for_network(image, microns_per_pixel, path)
    size = image.shape[:2]
    yield image
    del image, content  # a large one fills the memory
    instances, kind, microns, left_out = annotations.load(
        entry.annotation, image_size, size)
    path = listing.name_of(entry.annotation)
    said.resolution(path, microns)
    said.annotation(path, annotations.format_of(entry.annotation), kind,
                    left_out)
    yield instances, kind, microns or stated


class ReadingLog:
    """What is said of the files that are read.

    Args:
        microns_per_pixel: see Data.
    """

    def __init__(self, microns_per_pixel):
        self.kinds = collections.Counter()
        self.errors = []
        self.resolution = resolution.ResolutionWarner(microns_per_pixel)

    def leave_out(self, _, error):
        """Keeps what was wrong with an image that is left out."""
        self.errors.append(error)

    def annotation(self, path, form, kind, left_out):
        """Counts an annotation, and prints what of it was left out."""
        if form != 'raster':
            kind = form
        self.kinds[kind] += 1
        if left_out:
            progress.say(f'{path}: left out: {"; ".join(left_out)}')

    def print_all(self):
        """Prints what was left out, and what was taken for how many images.

        At the end: where most images cannot be used, one line says it all.
        """
        for error in self.errors:
            print(f'error: {error} (left out)', file=sys.stderr)
        words = {annotations.LABELS: 'label images',
                 annotations.COMPONENTS: 'masks'}
        if self.kinds:
            print('annotations: ' + ', '.join(
                f'{words.get(kind, kind)} of {count} images'
                for kind, count in sorted(self.kinds.items())))
        if self.kinds[annotations.COMPONENTS]:
            print('masks do not tell touching nuclei apart: their connected '
                  'components count as nuclei')


def _left_out_before(folder, rules, splits):
    """The names that were left out when a folder's stores were made.

    None where they are not whole, or not made as they are to be.
    """
    if {split for split in SPLITS
            if os.path.exists(store.store_path(folder, split))} != set(splits):
        return None
    all_left_out = []
    try:
        for split, entries in splits.items():
            with store.open_store(store.store_path(folder, split)) as made:
                found = store.attributes(made)
                left_out = json.loads(found.get('left_out', '[]'))
                if (store.image_names(made) != [entry.name for entry in entries
                                                if entry.name not in left_out]
                        or any(found.get(key) != value
                               for key, value in rules.items())):
                    return None
                all_left_out += left_out
    except InputError:
        return None
    return all_left_out


def _held_out_store(folder):
    """Path of the store of the images that are not trained on, or None."""
    return next((path for path in (store.store_path(folder, 'test'),
                                   store.store_path(folder, 'validation'))
                 if os.path.exists(path)), None)


def _replace_stores(folder, rules, splits, data):
    """Writes the stores, and removes what belongs to those replaced.

    The former stores' held-out images go before the new stores come, so that
    those which the program wrote are in the present stores at any moment,
    also after a kill.

    Args:
        folder: of the stores.
        rules: dict of attributes, those of all stores.
        splits: dict of lists of entries, see `splits.assign_splits`.
        data: Data.

    Returns:
        list of the names that were left out.
    """
    for split in SPLITS:
        store.check_replaceable(store.store_path(folder, split))
    _say_what_is_replaced(folder, data.source)
    start = time.time()
    said = ReadingLog(data.microns_per_pixel)
    done, summary, left_out = 0, [], []
    with contextlib.ExitStack() as stores:
        report = stores.enter_context(progress.reporter(
            sum(map(len, splits.values())), 'image'))
        partials = {}
        for split, entries in splits.items():
            partials[split] = stores.enter_context(
                atomic_write(store.store_path(folder, split)))
            written = store.write_store(
                partials[split], {**rules, 'split': split},
                _examples(entries, data.load, said, done, report),
                said.leave_out)
            done += len(entries)
            _check_written(written, split, said)
            left_out += written.left_out
            summary.append(f'{split} {len(written.names)} images, '
                           f'{written.nuclei} nuclei, {written.patches} '
                           'patches')
        _refuse_shared_images(partials)
        held_out_images.make_way(
            os.path.join(folder, HELD_OUT), _held_out_store(folder),
            partials.get('test', partials.get('validation')))
    for split in set(SPLITS) - set(splits):
        with contextlib.suppress(FileNotFoundError):
            os.remove(store.store_path(folder, split))
    said.print_all()
    print(f'{folder}: {rules["source"]}, {"; ".join(summary)}; '
          f'{time.time() - start:.1f} s')
    return left_out


def _say_what_is_replaced(folder, source):
    """Prints a line where stores of other images are to be replaced."""
    with contextlib.suppress(InputError):
        with store.open_store(store.store_path(folder, 'train')) as former:
            name = store.attributes(former).get('source')
        if name != source:
            print(f'{folder}: its stores of {name} will be replaced; another '
                  '--data_dir would keep them')


def _examples(entries, load_entry, said, done, report):
    """What `store.write_store` takes; `done` entries were taken before."""
    for done, entry in enumerate(entries, done):
        report(done)
        yield entry.name, functools.partial(load_entry, entry, said)
    report(done + 1)


def _check_written(written, split, said):
    """Refuses a split of which too little is left.

    Args:
        written: `store.Written`.
        split: its name.
        said: ReadingLog.

    Raises:
        InputError: too little is left.
    """
    count = len(written.names) + len(written.left_out)
    if len(written.left_out) > MOST_LEFT_OUT * count or not written.names:
        raise InputError(
            f'{len(written.left_out)} of {count} {split} images cannot be '
            f'used; the first: {said.errors[-len(written.left_out)]}')
    if split == 'train' and not written.nuclei:
        # Whoever outlines nothing may mean it, a black mask is a mistake.
        if set(said.kinds) - {'XML', 'GeoJSON'}:
            raise InputError('not one of the training images has a nucleus: '
                             'their annotations are empty; give others')
        print('not one of the training images has a nucleus: there is nothing '
              'to train on')


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
