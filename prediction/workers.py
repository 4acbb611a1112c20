"""Predict by Dask: blocks of slides, and images, in processes of its workers.

A task calls what one process calls, for some blocks of a slide or for one
image. The files that it writes are all that counts: no scheduler need remember
what is done.
"""
import collections
import contextlib
import fractions
import functools
import importlib
import math
import os
import socket
import tempfile
import time

from histology import progress
from histology.files import InputError
from prediction import Predictor, predict, runs, slides

LOCAL = 'local'  # in place of an address
BLOCKS = 8  # of a slide, in a task
QUEUED = 4  # tasks for each worker
RETRIES = 3
POLL_SECONDS = 2
NO_WORKERS = 60  # seconds without any until a line says so
# Of the workers that are started here: each has one core, and is silent.
ENVIRONMENT = {'OMP_NUM_THREADS': '1', 'TF_NUM_INTRAOP_THREADS': '1',
               'DASK_LOGGING__DISTRIBUTED': 'critical'}

# What a worker does.
#   source, plan: sources.Source and its blocks.Plan; None for an image
#   share: of the work on the source, the sum of which is 1
#   function: of a Run and `given`; if None, `given` is the Result
Task = collections.namedtuple('Task', 'source plan share function given')
# What came of a Task.
#   value: what the function returned; a str says why the source failed
#   error: of its InputError, or None
#   said: see `progress.collected`
Outcome = collections.namedtuple('Outcome', 'value error said')


def results(address, found, run, read, report):
    """Do what `predict.results` does, by workers; Results come as they end.

    Args:
        address: of a scheduler, or LOCAL to start workers, one for each core.
        found, run, read, report: as for `predict.results`.

    Raises:
        InputError: there is no scheduler, or it or a task has failed.
    """
    # Fractions: shares of a slide sum up to just 1.
    done, said = dict.fromkeys(found, fractions.Fraction(0)), set()
    failed, ended = {}, 0
    with _connected(address) as client:
        for task, outcome in _outcomes(client, run, _tasks(found, run, read)):
            source = task.source
            for kind, *given in outcome.said:
                if kind == 'warn':
                    progress.warn(*given)
                    continue
                text, is_error = given
                # The same note on another image is said once.
                note = (text if source.is_slide
                        else text.replace(source.name, ''))
                if note not in said:
                    said.add(note)
                    progress.say(text, is_error)
            if outcome.error:
                raise InputError(outcome.error)
            if isinstance(outcome.value, str):
                failed[source] = outcome.value
            done[source] += task.share
            ended += task.share
            if done[source] == 1:
                if source in failed:
                    yield predict.Result(source, None, '',
                                         f'{failed[source]} (skipped)')
                else:
                    yield (predict.merged(task.plan) if task.plan
                           else outcome.value)
            report(float(ended))


def _tasks(found, run, read):
    """Yield the Tasks of Sources; a slide is opened when it has its turn."""
    for source in found:
        if not source.is_slide:
            yield Task(source, None, 1, _predict_image, (source, read))
            continue
        plan = predict.plan_of(source, run, read)
        if isinstance(plan, predict.Result):
            yield Task(source, None, 1, None, plan)
            continue
        left = plan.left(0, 1)
        # One task even if no block is left: its end leads to the merge.
        parts = [left[first:first + BLOCKS]
                 for first in range(0, len(left), BLOCKS)] or [[]]
        for part in parts:
            yield Task(source, plan, fractions.Fraction(1, len(parts)),
                       _predict_blocks, (plan, part))


def _outcomes(client, run, tasks):
    """Let workers do Tasks; yield each with its Outcome, as they end."""
    import distributed
    from distributed import scheduler
    call = functools.partial(
        _call, os.getcwd(), os.path.abspath(run.predictor.folder),
        run.predictor.accelerate, tuple(run.predictor.identity().items()),
        run._replace(predictor=None))
    under_way, seen = {}, time.monotonic()
    while True:
        threads = client.nthreads().values()
        workers = len(threads)
        if max(threads, default=1) > 1:  # one would say what another one does
            raise InputError('--dask: workers have several threads; start '
                             'them with --nthreads 1')
        if workers:
            seen = time.monotonic()
        elif time.monotonic() - seen > NO_WORKERS:
            progress.say('--dask: no worker is left; start others, or end '
                         'this command and repeat it', error=True)
            seen = math.inf  # until there are some again
        room = QUEUED * max(workers, 1) - len(under_way)
        task = next(tasks, None) if room > 0 else None
        if task and not task.function:
            yield task, Outcome(task.given, None, [])
        elif task:
            under_way[client.submit(call, task.function, *task.given,
                                    pure=False, retries=RETRIES)] = task
        elif under_way:
            with contextlib.suppress(distributed.TimeoutError):
                distributed.wait([*under_way], POLL_SECONDS, 'FIRST_COMPLETED')
            progress.check()
            for future in [future for future in under_way if future.done()]:
                task = under_way.pop(future)
                try:
                    yield task, future.result()
                except scheduler.KilledWorker:
                    yield task, Outcome(
                        f'{task.source.name}: its workers were killed, maybe '
                        'for want of memory; repeat the command without '
                        '--dask', None, [])
        else:
            return


@contextlib.contextmanager
def _connected(address):
    """Connect to a scheduler, or start one with workers: the client."""
    import dask
    # One line of ours says what of Dask's lines matters. TensorFlow hangs in
    # a fork.
    dask.config.set({
        'logging': dict.fromkeys(('distributed', 'distributed.client'),
                                 'critical'),
        'distributed.worker.multiprocessing-method': 'spawn'})
    import distributed
    with contextlib.ExitStack() as stack:
        try:
            place = address
            if address == LOCAL:
                os.environ.update(ENVIRONMENT)
                # Each may take all memory: a large image needs much, while
                # others need little.
                place = stack.enter_context(distributed.LocalCluster(
                    threads_per_worker=1,  # and a worker for each core
                    memory_limit=distributed.system.MEMORY_LIMIT,
                    local_directory=stack.enter_context(
                        tempfile.TemporaryDirectory()),
                    dashboard_address=':0'))  # any free port
            client = stack.enter_context(distributed.Client(place))
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f'--dask={address}: cannot be reached ({error}); '
                             'see docs/slides.md') from error
        try:
            if not client.nthreads():
                progress.say(f'--dask={address}: waiting for workers',
                             error=True)
            client.wait_for_workers(1)
            client.run(importlib.import_module, __name__)
            client.run_on_scheduler(importlib.import_module, __name__)
            yield client
        except ModuleNotFoundError as error:
            raise InputError(f'--dask={address}: it or its workers lack '
                             f"{error.name}; start them in the project's "
                             'folder, in its environment') from error
        except Exception as error:
            if client.status == 'running' and not isinstance(
                    error, distributed.CancelledError):
                raise
            raise InputError(f'--dask={address}: the scheduler has ended; the '
                             'same command goes on, with another scheduler'
                             ) from error


def _call(place, folder, accelerate, identity, run, function, *given):
    """Call the function of a Task in a worker: its Outcome."""
    with progress.collected() as said:
        try:
            os.chdir(place)  # relative paths are meant from there
        except OSError as error:
            return Outcome(None, f'--dask: {socket.gethostname()} cannot '
                           f'enter {place} ({error.strerror}); start workers '
                           'on the machines that have it', said)
        try:
            run = run._replace(predictor=_predictor(folder, accelerate,
                                                    identity))
            runs.check_begun(run)
            return Outcome(function(run, *given), None, said)
        except InputError as error:
            return Outcome(None, str(error), said)


@functools.lru_cache(maxsize=1)  # once in a worker
def _predictor(folder, accelerate, identity):
    settings = dict(identity)
    del settings['weights_sha1'], settings['precision']
    predictor = Predictor.load(folder, accelerate=accelerate, **settings)
    if predictor.identity() != dict(identity):
        raise InputError(
            f'{folder}: its weights have changed since the command began; '
            f'repeat it. Or {socket.gethostname()} multiplies in '
            f'{predictor.precision}: give --accelerate=off')
    return predictor


def _predict_image(run, source, read):
    """Predict an image in a worker: its Result."""
    result, = predict.results([source], run, read, lambda _: None)
    return result


def _predict_blocks(run, plan, part):
    """Predict blocks of a slide in a worker.

    Returns:
        why the slide cannot be opened, or None
    """
    plan.run = run
    try:
        plan.slide = slides.Slide(plan.source.name)
    except InputError as error:
        return (f'{error}. {socket.gethostname()} says so; if other machines '
                'can open it, repeat the command')
    plan.predict(part)
