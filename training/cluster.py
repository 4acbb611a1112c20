"""Training by several processes, each told its part by TF_CONFIG."""
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time

from histology.files import InputError
from histology.progress import SIGNALS
from nets.tf1 import tf
from training import checkpoints
from training.records import (
    check_same_data,
    check_same_origin,
    has_validation,
    read_record,
)

POLL_SECONDS = 2  # between looks for another task
# Seconds that a server stays at most after the last step or a signal, and a
# worker after the last step.
SERVER_STAYS = 60
WORKER_STAYS = 30
# Seconds without a chief or a server after which the other tasks give up:
# enough to start the tasks by hand, and one of them again.
MISSED = 300


def task(folder):
    """Make the tf.estimator.RunConfig of a model folder and TF_CONFIG.

    Raises:
        InputError: TF_CONFIG is wrong, or names jobs that training has not.
    """
    if not os.environ.get('TF_CONFIG'):
        os.environ.pop('TF_CONFIG', None)  # TensorFlow would read an empty one
    try:
        run_config = tf.estimator.RunConfig(folder)
        # TensorFlow waits without end for what it cannot reach.
        named = addresses()
        for address in itertools.chain(*named.values()):
            if not re.fullmatch(r'[^/]+:[1-9]\d{0,4}', str(address)):
                raise ValueError(f'{address} is no host:port')
        jobs = {job for job, tasks in named.items() if tasks}
        needed, known = {'chief', 'ps'}, {'chief', 'worker', 'ps'}
        if named and not needed <= jobs <= known:
            raise ValueError(f'a cluster of {sorted(jobs)}; it needs chief '
                             'and ps, and may have worker')
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f'TF_CONFIG: {str(error).splitlines()[0]}; see '
                         'docs/clusters.md') from error
    return run_config


def addresses():
    """Read the addresses of each job in TF_CONFIG, a dict of lists.

    An evaluator's RunConfig says nothing of them.
    """
    return json.loads(os.environ.get('TF_CONFIG') or '{}').get('cluster', {})


def start_server(run_config):
    """Start this task's server of TensorFlow's runtime.

    Raises:
        InputError: its port cannot be used; gRPC would say so at length.
    """
    address = addresses()[run_config.task_type][run_config.task_id]
    with socket.socket() as probe:
        # As gRPC does: a port of a server that has just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', int(address.rsplit(':', 1)[1])))
        except (OSError, OverflowError) as error:
            raise InputError(f'TF_CONFIG: the port of {address} cannot be '
                             f'used ({error}); give this task another'
                             ) from error
    tf.train.Server(run_config.cluster_spec, run_config.task_type,
                    run_config.task_id)


def serve_parameters(run_config, steps):
    """Serve parameters until a checkpoint has the last step.

    TensorFlow's servers never end; errors are those of `start_server`.
    """
    start_server(run_config)
    try:
        watch(run_config, steps)
    finally:  # after a signal, too: the chief saves what is here
        last = time.monotonic() + SERVER_STAYS
        others = addresses()['chief'] + addresses().get('worker', [])
        while time.monotonic() < last and any(map(answers, others)):
            time.sleep(POLL_SECONDS)


def answers(address):
    """Say whether a task can be reached at its address."""
    host, port = address.rsplit(':', 1)  # [::1]:2222, say
    with contextlib.suppress(OSError, UnicodeError):  # of a name like a..b
        socket.create_connection((host.strip('[]'), port),
                                 POLL_SECONDS).close()
        return True
    return False


def leave(status, text):
    """End this process, whatever its main thread waits for."""
    with contextlib.suppress(OSError):  # as of a full disk
        print(text, file=sys.stderr if status else sys.stdout, flush=True)
    os._exit(status)


def watch(run_config, steps):
    """Wait for the last step; end this process if a task is away for long.

    Every task does this, in a thread if it has other work: TensorFlow waits
    for the chief and the servers without end and without a word. A worker has
    WORKER_STAYS seconds after the last step, and ends: the servers are gone.
    """
    own, named = (run_config.task_type, run_config.task_id), addresses()
    jobs = {address: job for job in ('chief', 'ps')
            for index, address in enumerate(named[job])
            # Not this task's: a host may not reach its own address.
            if (job, index) != own}
    seen = dict.fromkeys(jobs, time.monotonic())
    while (checkpoints.latest_step(run_config.model_dir) or 0) < steps:
        now = time.monotonic()  # before they are asked, which may last
        seen.update(dict.fromkeys(filter(answers, jobs), now))
        missing = min(jobs, key=seen.get)
        if now - seen[missing] > MISSED:
            leave(1, f'error: TF_CONFIG: no {jobs[missing]} at {missing} for '
                  f'{MISSED} s; see why it ended, and start every task again')
        time.sleep(POLL_SECONDS)
    if run_config.task_type == 'worker':
        time.sleep(WORKER_STAYS)
        leave(0, f'{run_config.model_dir}: the training has ended; this '
              'worker came too late for the last step')


class SameDataHook(tf.train.SessionRunHook):
    """Run `check_as_chief`, whose arguments it takes, once the chief runs."""

    def __init__(self, config, folder):
        self.config = config
        self.folder = folder

    def after_create_session(self, *_):
        check_as_chief(self.config, self.folder)


def check_as_chief(config, folder):
    """Refuse another network, start or other data than the chief's.

    Raises:
        InputError: what `config` asks for is not in the chief's record.
    """
    record = read_record(folder, config.net, config.width,
                         config.output_stride)
    check_same_data(config, record)
    check_same_origin(config.init_checkpoint, record)


def join(training):
    """Make this process the task of its cluster that trains or evaluates.

    Raises:
        InputError: an evaluator has no images to validate on, or the task's
            port cannot be used.
    """
    config, run_config = training.config, training.run_config
    is_evaluator = run_config.task_type == 'evaluator'
    if is_evaluator and not has_validation(config):
        raise InputError(f'--data_dir={config.data_dir}: has no validation '
                         'images; start no evaluator')
    threading.Thread(target=watch, args=(run_config, config.steps),
                     daemon=True).start()
    if not is_evaluator and training.start < config.steps:
        # TensorFlow waits for the other tasks, and heeds no handler meanwhile.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        start_server(run_config)


def evaluate_checkpoints(training):
    """Evaluate each new checkpoint until the one of the last step.

    Raises:
        InputError: as `check_as_chief` and `loop.Training.evaluate`.
    """
    for path in tf.train.checkpoints_iterator(training.folder):
        step = checkpoints.checkpoint_step(path)
        # That of step 0 has learnt nothing, unless weights were given.
        if step or training.config.init_checkpoint is not None:
            check_as_chief(training.config, training.folder)
            training.evaluate(step)
        if step >= training.config.steps:
            return
