"""Training by several processes, each told its part by TF_CONFIG."""
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
from nets import saved
from nets.tf1 import tf
from training.records import (
    check_same_data,
    check_same_origin,
    has_validation,
    read_record,
)

POLL_SECONDS = 2  # between looks for a new checkpoint, or for another task
SERVER_STAYS = 5  # seconds after the last step
# Seconds without a chief after which the other tasks give up: enough to start
# the tasks by hand, and a chief again.
CHIEF_MISSED = 300


def task():
    """Read from TF_CONFIG what this process does: a tf.estimator.RunConfig.

    Raises:
        InputError: TF_CONFIG is wrong, or names jobs that training has not.
    """
    if not os.environ.get('TF_CONFIG'):
        os.environ.pop('TF_CONFIG', None)  # TensorFlow would read an empty one
    try:
        run_config = tf.estimator.RunConfig()
        check_addresses()
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f'TF_CONFIG: {error}; see docs/clusters.md'
                         ) from error
    jobs = set(addresses())
    if not is_single_process(run_config) and (not {'chief', 'ps'} <= jobs
                                     or jobs - {'chief', 'worker', 'ps'}):
        raise InputError(f'TF_CONFIG: a cluster of {sorted(jobs)}; it needs '
                         'chief and ps, and may have worker; see '
                         'docs/clusters.md')
    return run_config


def check_addresses():
    """Refuse in TF_CONFIG what ends in errors of TensorFlow's own later.

    Raises:
        ValueError: it names a model folder, or a task without address.
    """
    if 'model_dir' in json.loads(os.environ.get('TF_CONFIG') or '{}'):
        raise ValueError('names a model_dir; give it as --model_dir')
    for job, tasks in addresses().items():
        if not isinstance(tasks, list) or not tasks or not all(
                re.fullmatch(r'.+:[1-9]\d{0,4}', str(address))
                for address in tasks):
            raise ValueError(f'job {job} is {tasks}; give a list of host:port')


def addresses():
    """Read the addresses of each job in TF_CONFIG, a dict of lists.

    An evaluator's RunConfig says nothing of them.
    """
    return json.loads(os.environ.get('TF_CONFIG') or '{}').get('cluster', {})


def is_single_process(run_config):
    """Say whether no other process takes part."""
    # To TensorFlow an evaluator is no part of the cluster.
    return (not run_config.cluster_spec
            and run_config.task_type != 'evaluator')


def device_filters(run_config):
    """List the jobs that a session of a task speaks to.

    Parameter servers alone: a training goes on while a worker is away.
    """
    if not run_config.cluster_spec:
        return []
    return ['/job:ps', f'/job:{run_config.task_type}'
            f'/task:{run_config.task_id}']


def start_server(run_config):
    """Start this task's server of TensorFlow's runtime.

    Raises:
        InputError: its port cannot be used. gRPC would say so in lines of its
            own.
    """
    address = addresses()[run_config.task_type][run_config.task_id]
    with socket.socket() as probe:
        # As gRPC does: a port of a server that has just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', int(address.rsplit(':', 1)[1])))
        except (OSError, ValueError) as error:
            raise InputError(f'TF_CONFIG: the port of {address} cannot be '
                             f'used ({error}); give this task another'
                             ) from error
    tf.train.Server(run_config.cluster_spec, run_config.task_type,
                    run_config.task_id)


def serve_parameters(run_config, folder, steps):
    """Serve parameters until a checkpoint has the last step.

    TensorFlow's servers never end by themselves.

    Args:
        run_config: of `task`, for a parameter server.
        folder: the model folder.
        steps: of the training.

    Raises:
        InputError: the server's port cannot be used.
    """
    start_server(run_config)
    watch_chief(folder, steps)
    # The workers end by the same step, and close their sessions.
    time.sleep(SERVER_STAYS)


def is_done(folder, steps):
    """Say whether a checkpoint has the last step."""
    latest = tf.train.latest_checkpoint(folder)
    return bool(latest) and saved.checkpoint_step(latest) >= steps


def is_listening(address):
    """Say whether a process listens at 'host:port'."""
    host, port = address.rsplit(':', 1)
    try:
        socket.create_connection((host, int(port)), POLL_SECONDS).close()
    except OSError:
        return False
    return True


def watch_chief(folder, steps, timeout=CHIEF_MISSED):
    """Wait for the last step; end this process if the chief has gone before.

    Every task but the chief does this, in a thread if it has other work:
    TensorFlow waits for other tasks without end.

    Args:
        folder: the model folder.
        steps: of the training.
        timeout: seconds without a chief, before its start too.
    """
    chief = addresses()['chief'][0]
    seen = time.monotonic()
    while not is_done(folder, steps):
        if is_listening(chief):
            seen = time.monotonic()
        elif time.monotonic() - seen > timeout:
            print(f'error: TF_CONFIG: no chief at {chief} for {timeout} s; '
                  'see why it ended, and start every task again',
                  file=sys.stderr, flush=True)
            os._exit(1)  # whatever the main thread waits for
        time.sleep(POLL_SECONDS)


class SameDataHook(tf.train.SessionRunHook):
    """Refuse to work on other data than the chief trains on.

    Args:
        config: TrainConfig.
        folder: the model folder.
    """

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

    Args:
        training: a `loop.Training`.

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
        threading.Thread(target=watch_chief, daemon=True,
                         args=(training.folder, config.steps)).start()
    if not is_evaluator and training.start < config.steps:
        # TensorFlow waits for the other tasks, and heeds no handler meanwhile.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        start_server(run_config)


def evaluate_checkpoints(training):
    """Evaluate each new checkpoint until that of the last step.

    Args:
        training: a `loop.Training`, of an evaluator.

    Raises:
        InputError: the data are not the chief's, or a checkpoint cannot be
            read.
    """
    step = -1
    while step < training.config.steps:
        latest = tf.train.latest_checkpoint(training.folder)
        if latest and saved.checkpoint_step(latest) != step:
            check_as_chief(training.config, training.folder)
            step = saved.checkpoint_step(latest)
            training.evaluate(step)
        else:
            time.sleep(POLL_SECONDS)
