"""Training by several processes, each told its part by TF_CONFIG."""
import json
import os
import re
import socket
import sys
import threading
import time

from histology.files import InputError
from nets import saved
from nets.tf1 import tf
from training import checkpoints
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
    """What this process is to do: a tf.estimator.RunConfig, by TF_CONFIG.

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
    if not is_alone(run_config) and (not {'chief', 'ps'} <= jobs
                                     or jobs - {'chief', 'worker', 'ps'}):
        raise InputError(f'TF_CONFIG: a cluster of {sorted(jobs)}; it needs '
                         'chief and ps, and may have worker; see '
                         'docs/clusters.md')
    return run_config


def check_addresses():
    """Refuses in TF_CONFIG what ends in errors of TensorFlow's own later.

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
    """The addresses of each job in TF_CONFIG, a dict of lists.

    An evaluator's RunConfig says nothing of them.
    """
    return json.loads(os.environ.get('TF_CONFIG') or '{}').get('cluster', {})


def is_alone(run_config):
    """Says whether no other process takes part."""
    # To TensorFlow an evaluator is no part of the cluster.
    return (not run_config.cluster_spec
            and run_config.task_type != 'evaluator')


def device_filters(run_config):
    """The jobs that a session of a task speaks to.

    Parameter servers alone: a training goes on while a worker is away.
    """
    if not run_config.cluster_spec:
        return []
    return ['/job:ps', f'/job:{run_config.task_type}'
            f'/task:{run_config.task_id}']


def serve_parameters(run_config, folder, steps):
    """Serves parameters until a checkpoint has the last step.

    TensorFlow's servers never end by themselves.

    Args:
        run_config: of `task`, for a parameter server.
        folder: the model folder.
        steps: of the training.

    Raises:
        InputError: the server's port cannot be used.
    """
    check_own_port(run_config)
    tf.train.Server(run_config.cluster_spec, run_config.task_type,
                    run_config.task_id)
    watch_chief(folder, steps)
    while not is_done(folder, steps):
        time.sleep(POLL_SECONDS)
    # The workers end by the same step, and close their sessions.
    time.sleep(SERVER_STAYS)


def check_own_port(run_config):
    """Refuses a port that this task's server cannot have.

    gRPC would say so in lines of its own.

    Raises:
        InputError: another process has it, or it is no number.
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


def is_done(folder, steps):
    """Says whether a checkpoint has the last step."""
    latest = tf.train.latest_checkpoint(folder)
    return bool(latest) and saved.checkpoint_step(latest) >= steps


def is_listening(address):
    """Says whether a process listens at 'host:port'."""
    host, port = address.rsplit(':', 1)
    try:
        socket.create_connection((host, int(port)), POLL_SECONDS).close()
    except OSError:
        return False
    return True


def watch_chief(folder, steps, timeout=CHIEF_MISSED):
    """Ends this process when the chief has gone before the last step.

    From a thread: TensorFlow waits for other tasks without end.

    Args:
        folder: the model folder.
        steps: of the training.
        timeout: seconds without a chief, before its start too.
    """
    chief = addresses()['chief'][0]

    def watch():
        seen = time.monotonic()
        while not is_done(folder, steps):
            if is_listening(chief):
                seen = time.monotonic()
            elif time.monotonic() - seen > timeout:
                print(f'error: TF_CONFIG: no chief at {chief} for {timeout} '
                      's; see why it ended, and start every task again',
                      file=sys.stderr, flush=True)
                os._exit(1)  # whatever the main thread waits for
            time.sleep(POLL_SECONDS)

    threading.Thread(target=watch, daemon=True).start()


def await_servers(run_config, folder, steps):
    """Waits for the tasks that a session needs, or the end of training.

    TensorFlow would wait too, and heed no signal.
    """
    needed = addresses()['ps']
    if not run_config.is_chief:
        needed = needed + addresses()['chief']
    while not (all(map(is_listening, needed)) or is_done(folder, steps)):
        time.sleep(POLL_SECONDS)


class SameDataHook(tf.train.SessionRunHook):
    """Refuses to work on other data than the chief trains on.

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
    """Refuses another network, start or other data than the chief's.

    Raises:
        InputError: what `config` asks for is not in the chief's record.
    """
    record = read_record(folder, config.net, config.width,
                         config.output_stride)
    check_same_data(config, record, folder)
    check_same_origin(config, record)


class BestExporter(tf.estimator.Exporter):
    """Keeps the checkpoint with the best validation F1, in the evaluator.

    TensorFlow's own BestExporter never exports the first evaluation.

    Args:
        config: TrainConfig.
        folder: the model folder.
    """

    name = 'best'

    def __init__(self, config, folder):
        self.config = config
        self.folder = folder

    def export(self, estimator, export_path, checkpoint_path, eval_result,
               is_the_final_export):
        check_as_chief(self.config, self.folder)
        checkpoints.record_evaluation(self.folder, checkpoint_path,
                                      eval_result)


def train_in_cluster(training):
    """Does the part of a task that is no parameter server.

    Args:
        training: a `loop.Training`.

    Returns:
        The signal that ended training early, or None.

    Raises:
        InputError: an evaluator has no images to validate on, the data are
            not the chief's, or the task's port cannot be used.
    """
    config, folder = training.config, training.folder
    run_config = training.run_config
    if run_config.task_type == 'evaluator' and not has_validation(config):
        raise InputError(f'--data_dir={config.data_dir}: has no validation '
                         'images; leave the evaluator out')
    if not run_config.is_chief:
        watch_chief(folder, config.steps)
    specs = (
        tf.estimator.TrainSpec(training.training_input(),
                               max_steps=config.steps,
                               hooks=training.hooks()),
        tf.estimator.EvalSpec(
            training.validation_input(), steps=None, start_delay_secs=0,
            exporters=[BestExporter(config, folder)],
            throttle_secs=POLL_SECONDS))
    if run_config.task_type == 'evaluator':
        # It has no last checkpoint to save: main.py's handlers end it.
        tf.estimator.train_and_evaluate(training.estimator(False), *specs)
    elif training.start < config.steps:
        check_own_port(run_config)
        await_servers(run_config, folder, config.steps)
        with training.stop_hook.handling_signals():
            tf.estimator.train_and_evaluate(
                training.estimator(config.accelerate), *specs)
    keep_weights(training)
    return training.stop_hook.signal


def keep_weights(training):
    """Writes the best weights, in the task that knows which they are."""
    config, folder = training.config, training.folder
    task_type = training.run_config.task_type
    if task_type == 'chief' and not has_validation(config):
        latest = tf.train.latest_checkpoint(folder)
        checkpoints.keep_best(folder, latest, {
            'step': saved.checkpoint_step(latest), 'f1': None})
    keeper = 'evaluator' if has_validation(config) else 'chief'
    if task_type == keeper and saved.read_best(folder):
        checkpoints.write_weights(folder)
