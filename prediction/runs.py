"""What a folder of predictions holds: the record of the run and of each image.

`run.json` says what was asked for, and STEM.json what came of an image. It is
written last. So the files are the whole state, for a run that goes on and for
several processes.
"""
import collections
import contextlib
import hashlib
import json
import os
import platform
import sys

from histology import files, listing, progress
from histology.files import MAX_NAME, InputError
from prediction import page, writers

FILE = 'run.json'
FILES = FILE, *page.FILES  # of all images
# What the heads of files hold that predict wrote, by their endings.
MARKS = {
    '.png': [listing.PNG_MARK], '.json': [listing.JSON_MARK],
    '.geojson': [listing.GEOJSON_HEAD.encode()],
    '.csv': [*map(str.encode, writers.HEADERS),
             ','.join(page.COLUMNS).encode() + b'\n'],
    '.html': [page.MARK.encode()],
    **dict.fromkeys(('.tif', '.jpg', '.gz'), [listing.TIFF_MARK])}
NOT_OURS = ('{}: was not written by predict, was changed since, or is of an '
            'earlier version; move it or choose another --output_dir')
VERSION = 3  # of the results; raised when other nuclei are found
ROUNDS = 3  # of the summary, while others add to it: they end with one, too

# What was asked for.
#   predictor: Predictor
#   output_dir: folder
#   outputs: names of `writers.OUTPUTS`
#   microns_per_pixel: of the flags or the store, or None
#   all_tissue: whether to search a slide where it seems empty, too
#   part: (k, n): do each n-th image or block, from the k-th on, 0 <= k < n
#   overwrite: whether to replace results of other settings or images
Run = collections.namedtuple(
    'Run', 'predictor output_dir outputs microns_per_pixel all_tissue part '
    'overwrite', defaults=[False])


def settings_of(run):
    """Return what the results depend on besides the image, for JSON."""
    return {'version': VERSION, **run.predictor.identity(),
            'microns_per_pixel': run.microns_per_pixel,
            'all_tissue': run.all_tissue}


def key_of(run, source):
    """Return a digest of all that the results of a Source depend on."""
    return hashlib.sha256(json.dumps(
        [settings_of(run), source.digest, source.is_slide]).encode()
        ).hexdigest()


def begin(run, sources):
    """Check what the folder holds, and write run.json.

    Returns:
        list of the Sources to predict: those that are not done, or with
        `overwrite` all, unless there are several parts, or results of other
        settings are left of these Sources

    Raises:
        InputError: results would replace others, see `check_results` and
            `check_owner`; the folder holds results of other settings, and
            these are not to be overwritten; or it cannot be written to.
    """
    for name in FILES:
        path = os.path.join(run.output_dir, name)
        if os.path.lexists(path) and not is_ours(path):
            raise InputError(NOT_OURS.format(path))
    settings = settings_of(run)
    by_stem = {source.stem: source for source in sources}
    before = [record for record in records(run.output_dir) if record['key']]
    changed, mixed = [], False
    for record in before:
        source = by_stem.get(record['stem'])
        changes = _changes(record['settings'], settings)
        # The same image, by another --max_whole_pixels.
        if source and record['key'] == key_of(run, source._replace(
                is_slide=not source.is_slide)):
            changes.append(('as a slide', not source.is_slide,
                            source.is_slide))
        changed += [(*change, record['image']) for change in changes]
        mixed |= bool(source and changes)
    # As long as results of other settings are left, --overwrite may have been
    # killed: it goes on with what is not done.
    again = run.overwrite and not mixed and run.part == (0, 1)
    todo = [source for source in sources if again or not is_done(run, source)]
    existing = [path for source in todo for path in check_results(
        run, source) if not path.endswith('.json')]
    existing += filter(os.path.isdir, (
        blocks_of(run, source) for source in todo))
    path = os.path.join(run.output_dir, FILE)
    if existing and not before:
        changed += [(*change, existing[0]) for change in _changes(
            _read(path).get('settings', {}), settings)]
    if changed and not run.overwrite:
        raise InputError(
            f'--output_dir {run.output_dir}: holds results of other settings '
            '({} was {}, now {}, for {}); choose another folder, or replace '
            'them by --overwrite'.format(*changed[0]))
    for source in todo:
        check_owner(run, source)
    files.write_json(path, _content_of(run))
    if changed:  # a kill of what follows must not leave them
        files.remove_matching(run.output_dir, *page.FILES)
    return todo


def _content_of(run):
    return {'software': writers.SOFTWARE,
            'settings': settings_of(run),
            'model_folder': run.predictor.folder, 'command': sys.argv,
            'machine': ', '.join((*platform.uname()[:3], platform.machine()))}


def _changes(found, settings):
    """List (name, value found, value wanted) of settings that differ."""
    return [(name, found.get(name, 'not recorded'), value)
            for name, value in settings.items() if found.get(name) != value]


def is_ours(path, more=()):
    """Say whether `predict` wrote a result, see `listing.is_predicted`.

    So it did if the head holds a mark of the file's ending, or one of `more`.
    """
    return listing.is_predicted(
        path, [*MARKS.get(os.path.splitext(path)[1], ()), *more])


def is_done(run, source):
    """Say whether all results of a Source are there, with these settings."""
    record = read_record(run, source)
    wanted = [[start_of(run, source) + ending for ending in endings]
              for output, (endings, _) in writers.results_of(
                  source.is_slide).items()
              if writers.is_wanted(output, run.outputs)]
    return (record.get('key') == key_of(run, source)
            and not record.get('blocks_skipped')
            and all(any(os.path.exists(path) and os.path.getsize(path)
                        for path in paths) for paths in wanted))


def read_record(run, source):
    """Return the content of STEM.json, or {}."""
    return _read(start_of(run, source) + '.json')


def write_record(run, source, record):
    """Write STEM.json, after all other results; raise as `check_owner`."""
    check_owner(run, source)
    record = {'software': writers.SOFTWARE, 'stem': source.stem, **record,
              'path': os.path.abspath(source.name),
              'settings': settings_of(run)}
    record.setdefault('key', key_of(run, source))
    files.write_json(start_of(run, source) + '.json', record)


def write_error(run, source, error):
    """Write STEM.json of a Source that cannot be read; it is not done.

    If it cannot be hashed, as while its drive is away, what was recorded
    stays.
    """
    check_results(run, source)
    its = read_record(run, source)
    if source.digest or not (its.get('key') or its.get('begun')):
        write_record(run, source, {
            'image': os.path.basename(source.name), 'error': error,
            'digest': source.digest, 'key': None})


def summarise(run):
    """Write summary.csv and index.html of all that has the run's settings.

    It is written again, ROUNDS times at most, while others add records. Of
    several processes that end one by one the last one sees all.
    """
    content = _content_of(run)
    if _read(os.path.join(run.output_dir, FILE)).get(
            'settings') != content['settings']:
        return  # another process has taken the folder
    found = records(run.output_dir)
    for _ in range(ROUNDS):
        listed = found
        mine = [record for record in listed
                if record['settings'] == content['settings']]
        page.write(run.output_dir, content, mine)
        found = records(run.output_dir)
        if found == listed:
            break
    others = len(listed) - len(mine)
    if others:
        progress.say(f'{run.output_dir}: {progress.counted(others, "image")} '
                     'of other settings there, not in summary.csv',
                     error=True)


def records(folder):
    """List the records of images in a folder, sorted by name.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else ()
    except OSError as error:
        raise InputError(f'--output_dir {folder}: cannot be read '
                         f'({error.strerror}); choose another') from error
    found = {name: _read(os.path.join(folder, name)) for name in names
             if name.endswith('.json')}
    # A copy under another name is the user's.
    return [record for name, record in found.items()
            if {'key', 'settings', 'image'} <= set(record)
            and name == f'{record.get("stem")}.json']


def start_of(run, source):
    """Return the path of a Source's results without what follows the stem."""
    return os.path.join(run.output_dir, source.stem)


def blocks_of(run, source):
    """Return the path of the folder of a slide's blocks."""
    return start_of(run, source) + '.blocks'


def check_names(sources):
    """Raise InputError if two have one name, or a name is too long."""
    seen = {}
    for source in sources:
        if source.stem + '.json' == FILE:
            raise InputError(f'{source.name}: its record would replace '
                             f'{FILE}; rename it')
        if source.stem in seen:
            raise InputError(
                f'{source.name}: its results would replace the results of '
                f'{seen[source.stem]}; rename one or predict them into two '
                'folders')
        seen[source.stem] = source.name
        if any(len(os.fsencode(source.stem + ending)) > MAX_NAME
               for endings, _ in writers.results_of(source.is_slide).values()
               for ending in endings):
            raise InputError(f'{source.name}: its name is too long for '
                             'results; rename it')


def check_results(run, source):
    """Refuse to replace files of others by the results of a Source.

    Returns:
        dict of the paths of results of an earlier prediction to whether they
        are replaced

    Raises:
        InputError: another file has the name of a result.
    """
    existing = {}
    for is_slide in (source.is_slide, not source.is_slide):
        for output, (endings, _) in writers.results_of(is_slide).items():
            wanted = (is_slide == source.is_slide
                      and writers.is_wanted(output, run.outputs))
            for path in [start_of(run, source) + ending for ending in endings]:
                if is_ours(path):
                    existing.setdefault(path, wanted)
                # Asked again: another process may have written it meanwhile.
                elif wanted and os.path.lexists(path) and not is_ours(path):
                    raise InputError(NOT_OURS.format(path))
    return existing


def check_owner(run, source):
    """Return `read_record`; raise InputError if it is of another image.

    Not so if results are to be overwritten, or the source could not be
    hashed. What `claim` wrote counts as a record.
    """
    its = read_record(run, source)
    if run.overwrite or not source.digest:  # unreadable: it replaces nothing
        return its
    path, key = its.get('path'), its.get('key', its.get('begun'))
    if (path not in (None, os.path.abspath(source.name))
            and key not in (None, key_of(run, source))):
        raise InputError(
            f'{source.name}: its results would replace those of another '
            f'image, {path}; choose another --output_dir, or replace '
            'them by --overwrite')
    return its


def claim(run, source):
    """Write into STEM.json that these results are begun, if it does not say.

    It replaces a record of other results: after a kill that would stand
    beside files that are not its own.

    Returns:
        whether these results have no record yet

    Raises:
        InputError: as `check_owner`, or it cannot be written.
    """
    its, key = check_owner(run, source), key_of(run, source)
    if key not in (its.get('key'), its.get('begun')):
        files.write_json(start_of(run, source) + '.json', {
            'software': writers.SOFTWARE, 'begun': key,
            'path': os.path.abspath(source.name)})
    return its.get('key') != key


def check_begun(run):
    """Raise InputError if the folder's run.json is not of the run."""
    path, settings = os.path.join(run.output_dir, FILE), settings_of(run)
    for _ in range(2):  # NFS may lose what is replaced while it is read
        found = _read(path).get('settings')
        if found == settings:
            return
    changes = found and _changes(found, settings)
    why = ('says {} {}, not {}'.format(*changes[0]) if changes
           else 'is missing or damaged')
    raise InputError(f'{path}: on {platform.node()} it {why}; give all '
                     'processes the same settings, and a folder that all '
                     'machines see')


def make_room(run, source):
    """Check once more, and remove what would be out of date.

    Results of an earlier prediction of other settings, or of another image,
    are removed if they are not replaced.

    Raises:
        InputError: as `check_results`, `check_begun` and `claim`.
    """
    check_begun(run)
    existing = check_results(run, source)
    if claim(run, source):
        old = [path for path, replaced in existing.items() if not replaced]
        if old:
            progress.warn('old', old[0], 'removed with others of its kind: '
                          'it was of other settings or another image')
        for path in old:
            with contextlib.suppress(FileNotFoundError):  # others do it
                os.remove(path)


def _read(path):
    """Read JSON that `predict` wrote; {} if it is absent or damaged."""
    if is_ours(path):
        with contextlib.suppress(OSError, ValueError, RecursionError), open(
                path) as file:
            content = json.load(file)
            if isinstance(content, dict):
                return content
    return {}
