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

POLL_SECONDS = 2  # between looks for a new checkpoint, or for another task
# Seconds after the last step.
SERVER_STAYS = 5
WORKER_STAYS = 30
# Seconds without a chief after which the other tasks give up: enough to start
# the tasks by hand, and a chief again.
CHIEF_MISSED = 300


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
            if not re.fullmatch(r'.+:[1-9]\d{0,4}', str(address)):
                raise ValueError(f'{address} is no host:port')
        jobs = {job for job, tasks in named.items() if tasks}
        if named and (
                not {'chief', 'ps'} <= jobs <= {'chief', 'worker', 'ps'}):
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
        except (OSError, ValueError, OverflowError) as error:
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
    watch_chief(run_config.model_dir, steps)
    # The workers end by the same step, and close their sessions.
    time.sleep(SERVER_STAYS)


def watch_chief(folder, steps, timeout=CHIEF_MISSED):
    """Wait for the last step; end this process if the chief has gone before.

    Every task but the chief does this, in a thread if it has other work:
    TensorFlow waits for other tasks without end. `timeout` is the seconds
    without a chief, before its start too.
    """
    chief = addresses()['chief'][0]
    host, port = chief.rsplit(':', 1)  # [::1]:2222, say
    seen = time.monotonic()
    while (checkpoints.latest_step(folder) or 0) < steps:
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip('[]'), port),
                                     POLL_SECONDS).close()
            seen = time.monotonic()
        if time.monotonic() - seen > timeout:
            print(f'error: TF_CONFIG: no chief at {chief} for {timeout} s; '
                  'see why it ended, and start every task again',
                  file=sys.stderr, flush=True)
            os._exit(1)  # whatever the main thread waits for
        time.sleep(POLL_SECONDS)


def watch_training(folder, steps):
    """Do `watch_chief`, and end this worker if it is there much later.

    It came late or was slow, and TensorFlow would wait for the servers, which
    are gone, for two hours.
    """
    watch_chief(folder, steps)
    time.sleep(WORKER_STAYS)
    print(f'{folder}: the training has ended without this worker', flush=True)
    os._exit(0)


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
    if not run_config.is_chief:
        threading.Thread(
            target=watch_chief if is_evaluator else watch_training,
            daemon=True, args=(training.folder, config.steps)).start()
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
    done = None
    while (done or 0) < training.config.steps:
        step = checkpoints.latest_step(training.folder)
        # That of step 0 has learnt nothing, unless weights were given.
        if step == done or not step and (
                training.config.init_checkpoint is None):
            time.sleep(POLL_SECONDS)
            continue
        check_as_chief(training.config, training.folder)
        training.evaluate(step)
        done = step
