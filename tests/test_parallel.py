"""Several processes on one folder: shards, Dask's workers, and their kills."""
import contextlib
import glob
import os
import random
import re
import signal
import subprocess
import sys
import time

import distributed
import numpy as np
import pytest
from test_slides import contents, darkness, write_slide

from conftest import (
    HELD,
    ROOT,
    SECONDS,
    end_of,
    messages,
    one_line,
    run_main,
    start,
    wait_for,
)
from histology import images, synthetic
from histology.files import InputError
from prediction import Predictor, predict, runs, sources, workers

MAX_PIXELS = 384 ** 2  # blocks with cores of 128 pixels
FLAGS = ['--mode=predict', '--net=unet', '--noaverage', '--max_whole_pixels=1',
         f'--max_pixels={MAX_PIXELS}']
BLOCKS = 12  # of each slide


@pytest.fixture(scope='session')
def given(once):
    """A folder of two slides, three tiles and a broken file."""
    def fill(folder):
        rng = np.random.RandomState(0)
        # Each has enough blocks left when a run of it is killed.
        for name in 'ab':
            image, _ = synthetic.make(rng, 384)
            write_slide(folder / 'in' / f'{name}.tif',
                        np.hstack([image, image[:, :128]]))
        for name in 'cde':
            image, _ = synthetic.make(rng, 128)
            images.write_png(str(folder / 'in' / f'{name}.png'), image)
        (folder / 'in' / 'f.png').write_bytes(b'\x89PNG and no more')

    return once('parallel', fill) / 'in'


@pytest.fixture(scope='session')
def expected(once, given, program):
    """The files that one process writes."""
    def fill(folder):
        process = program(*FLAGS, f'--images={given}',
                          f'--output_dir={folder}/out')
        assert process.returncode == 1
        assert 'f.png: cannot be read' in process.stderr

    return contents(once('parallel-expected', fill) / 'out')


def flags(given, out, *more):
    return [*FLAGS, f'--images={given}', f'--output_dir={out}', *more]


def written(out, name='[ab]'):
    # pathlib's would raise an error if the folder went meanwhile.
    return glob.glob(f'{out}/{name}.blocks/[0-9]*.npz')


def test_shards_one_after_the_other(given, tmp_path, capsys):
    predictor = Predictor(darkness, 32, average=False, max_pixels=MAX_PIXELS)
    said, skipped = [], []
    for out, part in (('whole', (0, 1)), ('parts', (0, 2)), ('parts', (1, 2)),
                      ('parts', (0, 2))):
        skipped.append(predict.predict_files(
            str(given), str(tmp_path / out), predictor, max_whole_pixels=1,
            part=part))
        said.append(capsys.readouterr().out)
    _, first, second, again = said
    assert f'a.tif: {BLOCKS // 2} of {BLOCKS} blocks wait for other' in first
    # Of the tiles c and e are of the first shard.
    assert 'shard 1/2: done; 4 of 6 images wait for other shards' in first
    assert 'shard 2/2: done, as all others' in second
    assert '5 of 6 images done already\n' in again
    # f.png is of the second shard.
    bad = [str(given / 'f.png')]
    assert skipped == [bad, [], bad, []]
    assert contents(tmp_path / 'parts') == contents(tmp_path / 'whole')


def test_shards_at_once(given, expected, tmp_path):
    processes = [start(*flags(given, tmp_path, f'--shard={shard}'))
                 for shard in ('1/2', '2/2', '2/2')]
    said = [end_of(process) for process in processes]
    assert [process.returncode for process in said] == [0, 1, 1], said
    # The first shard may end last, and has not seen f.png.
    assert any(re.search('as all others|; 1 of 6 images wait',
                         process.stdout) for process in said)
    assert contents(tmp_path) == expected


@pytest.mark.parametrize('shard', ['0/8', '9/8', '2', '1/0', 'a/b', '2/8/1'])
def test_wrong_shards(shard, program, tmp_path):
    one_line(program(*flags(tmp_path, tmp_path, f'--shard={shard}')),
             '--shard', 'give K/N with K from 1 to N, as 2/8')


@pytest.mark.parametrize('more', [
    ['--shard=1/2', '--dask=local', '--images=a'],
    ['--shard=1/2', '--split=test'], ['--dask=local', '--split=test']])
def test_what_shard_and_dask_do_not_go_with(more, program, tmp_path):
    one_line(program(*FLAGS, f'--output_dir={tmp_path}', *more), 'not with')


def children(process):
    """The numbers of the processes below one that run tasks, or may."""
    parents = {}
    for name in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{name}/stat') as file:
                parents[int(name)] = int(file.read().rsplit(')')[1].split()[1])
            with open(f'/proc/{name}/cmdline') as file:
                if 'spawn_main' not in file.read():
                    parents[int(name)] = 0
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [child for child, parent in parents.items()
            if parent == process.pid]


def is_running(number):
    """Whether a process runs, and is no zombie."""
    try:
        with open(f'/proc/{number}/stat') as file:
            return file.read().rsplit(')')[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_that_are_stopped_and_killed(given, expected, tmp_path):
    command = flags(given, tmp_path, '--dask=local')
    # It waits after its first task: it merges nothing and does not end.
    process = start('0.01', f'{tmp_path}/never', *command, group=True,
                    code=HELD)
    wait_for(lambda: written(tmp_path, 'a'), process)
    workers = children(process)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    end_of(process)
    assert process.returncode == 128 + signal.SIGINT
    assert messages(process)[-1] == 'stopped', process.stderr
    assert not [line for line in messages(process) if 'Error' in line]
    wait_for(lambda: not any(map(is_running, workers)))
    there = set(written(tmp_path))
    of_a = len(written(tmp_path, 'a'))

    go = tmp_path.parent / f'{tmp_path.name}.go'  # not among the results
    process = start('0.01', str(go), *command, code=HELD)
    wait_for(lambda: children(process) and (
        set(written(tmp_path)) - there or len(there) == 2 * BLOCKS), process)
    os.kill(children(process)[0], signal.SIGKILL)
    go.touch()
    end_of(process)
    assert process.returncode == 1, process.stderr
    assert messages(process)[-1:] == [
        f'error: {given}/f.png: cannot be read (no image of TIFF, PNG or '
        'JPEG); give one of these (skipped)']
    assert f'a.tif: {of_a} of {BLOCKS} blocks are there' in (
        process.stdout)
    assert contents(tmp_path) == expected


@contextlib.contextmanager
def scheduler_and_worker(tmp_path, threads=1):
    """Starts both; yields the scheduler's address and the two processes."""
    def start_dask(kind, *more):
        started.append(subprocess.Popen(
            [sys.executable, '-m', f'distributed.cli.dask_{kind}', *more],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    file, started = tmp_path / 'scheduler', []
    try:
        start_dask('scheduler', '--port', '0', '--dashboard-address', ':0',
                   '--scheduler-file', str(file))
        # Dask of 1.15 writes it in place: it is there before its text.
        wait_for(lambda: file.exists() and '}' in file.read_text(),
                 started[-1])
        address = re.search(r'tcp://[\d.:]+', file.read_text()).group()
        start_dask('worker', address, '--nthreads', str(threads),
                   '--death-timeout', '60', '--no-nanny',
                   '--local-directory', str(tmp_path))
        # Else the process says that it waits for one.
        with distributed.Client(address) as client:
            client.wait_for_workers(1, timeout=SECONDS)
        yield (address, *started)
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_scheduler_that_is_killed(given, expected, program, tmp_path):
    out = tmp_path / 'out'
    with scheduler_and_worker(tmp_path) as (address, scheduler, _):
        process = start('0.01', f'{tmp_path}/go',
                        *flags(given, out, f'--dask={address}'), code=HELD)
        wait_for(lambda: len(written(out, 'a')) > 2, process)
        scheduler.kill()
        scheduler.wait()
        (tmp_path / 'go').touch()
        one_line(end_of(process),
                 f'--dask={address}: the scheduler has ended')
    before = written(out, 'a')  # the worker would go on without one
    process = program(*flags(given, out))
    assert process.returncode == 1, process.stderr
    assert (f'a.tif: {len(before)} of 12 blocks are there from before'
            in process.stdout) and len(before) > 2
    assert contents(out) == expected


def test_no_scheduler(given, tmp_path):
    # In a process of its own: Dask hangs when it collects the client later.
    one_line(run_main(*flags(given, tmp_path, '--dask=nowhere')),
             '--dask=nowhere: cannot be reached')


def test_workers_of_several_threads(given, program, tmp_path):
    """What one thread says would be taken for what another says."""
    with scheduler_and_worker(tmp_path, threads=2) as (address, *_):
        one_line(program(*flags(given, tmp_path / 'out', f'--dask={address}')),
                 '--dask: workers have several threads')


@pytest.mark.long
def test_ten_kills(given, expected, tmp_path):
    """kill -9 at random moments, half of them while a result is written."""
    rng = random.Random(0)
    began = time.time()
    run_main(*flags(given, tmp_path / 'timed'))
    seconds = time.time() - began
    out = tmp_path / 'out'
    command = flags(given, out)
    for kill in range(10):
        process = start(*command)
        if kill % 2:
            time.sleep(rng.uniform(0, seconds / 2))
        else:
            wait_for(lambda: process.poll() is not None or list(
                out.glob('.partial-*')))
        process.kill()
        process.wait()
    process = run_main(*command)
    assert process.returncode == 1, process.stderr
    assert contents(out) == expected


def test_what_a_worker_refuses(given, shipped_unet, tmp_path):
    source, = sources.of_files([str(given / 'c.png')], 1)
    folder = os.path.abspath(shipped_unet.folder)
    identity = shipped_unet.identity()
    run = runs.Run(None, str(tmp_path), ['csv'], None, False, (0, 1))
    for place, changed, error in (
            (tmp_path / 'absent', {}, 'cannot enter .*/absent'),
            (ROOT, {'weights_sha1': 'other'}, 'its weights have changed'),
            # It sees another folder of this name.
            (ROOT, {}, f'{tmp_path}/run.json: on .* is missing')):
        outcome = workers._call(
            str(place), folder, False, tuple({**identity, **changed}.items()),
            run, workers._predict_image, source, None)
        assert re.search(error, outcome.error) and outcome.value is None


def test_settings_that_another_process_begins(tmp_path):
    """It may begin while there are no results; then the first one ends."""
    for name in 'ab':
        (tmp_path / 'in').mkdir(exist_ok=True)
        images.write_png(str(tmp_path / 'in' / f'{name}.png'),
                         np.full((64, 64, 3), 99, np.uint8))

    def predicted(forward, threshold):
        predictor = Predictor(forward, 32, threshold, average=False)
        predict.predict_files(str(tmp_path / 'in'), str(tmp_path / 'out'),
                              predictor)

    def darkness(batch):
        return 1 - batch[..., :1]

    def meanwhile(batch):
        predicted(darkness, 0.6)
        return darkness(batch)

    with pytest.raises(InputError, match='threshold 0.6, not 0.5'):
        predicted(meanwhile, 0.5)
    # The other one's summary stays.
    lines = (tmp_path / 'out' / 'summary.csv').read_text().splitlines()
    assert [line[:2] for line in lines[1:]] == ['a.', 'b.']
    predicted(darkness, 0.6)


def end_worker(*_):
    os._exit(1)


@pytest.mark.long
def test_a_task_that_ends_its_workers(shipped_unet, given, tmp_path):
    run = runs.Run(shipped_unet, str(tmp_path), (), None, False, (0, 1))
    a, b = sources.of_files([str(given / f'{name}.png') for name in 'cd'], 1)
    runs.begin(run, [a, b])
    tasks = iter([workers.Task(a, None, 1, end_worker, ()),
                  workers.Task(b, None, 1, print, ())])
    with workers._connected('local') as client:
        outcomes = {task.source: outcome for task, outcome in
                    workers._outcomes(client, run, tasks)}
    killed = f'{a.name}: its workers were killed'
    assert outcomes[a].value.startswith(killed)
    # The other may have been beside it each time.
    assert outcomes[b].error is None
