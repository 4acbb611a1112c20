"""Training by several processes, each told its part by TF_CONFIG."""
import socket
import time

from input_pipeline.files import InputError
from nets.tf1 import tf
from training import checkpoints
from training.records import has_validation

EVALUATOR_WAITS = 2  # seconds between looks for a new checkpoint
SERVER_STAYS = 5  # seconds after the last step
# Seconds without a chief after which a parameter server gives up: enough to
# start the tasks by hand, and a chief again.
CHIEF_MISSED = 300


def task():
    """What this process is to do: a tf.estimator.RunConfig, by TF_CONFIG.

    Raises:
        InputError: TF_CONFIG is wrong.
    """
    try:
        return tf.estimator.RunConfig()
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f'TF_CONFIG: {error}; see docs/clusters.md'
                         ) from error


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


def serve_parameters(run_config, folder, steps, patience=CHIEF_MISSED):
    """Serves parameters until a checkpoint has the last step.

    TensorFlow's servers never end by themselves.

    Args:
        run_config: of `task`, for a parameter server.
        folder: the model folder.
        steps: of the training.
        patience: seconds without a chief after which to give up.

    Raises:
        InputError: the chief has gone, or never came.
    """
    tf.train.Server(run_config.cluster_spec, run_config.task_type,
                    run_config.task_id)
    chief = run_config.cluster_spec.task_address('chief', 0)
    seen = time.monotonic()
    while True:
        time.sleep(EVALUATOR_WAITS)
        latest = tf.train.latest_checkpoint(folder)
        if latest and checkpoints.checkpoint_step(latest) >= steps:
            # The workers end by the same step, and close their sessions.
            time.sleep(SERVER_STAYS)
            return
        if answers(chief):
            seen = time.monotonic()
        elif time.monotonic() - seen > patience:
            raise InputError(f'TF_CONFIG: no chief at {chief} for {patience} '
                             's; see why it ended, and start every task again')


def answers(address):
    """Says whether a process listens at 'host:port'."""
    host, port = address.rsplit(':', 1)
    try:
        socket.create_connection((host, int(port)), EVALUATOR_WAITS).close()
    except OSError:
        return False
    return True


class BestExporter(tf.estimator.Exporter):
    """Keeps the checkpoint with the best validation F1, in the evaluator.

    TensorFlow's own BestExporter never exports the first evaluation.
    """

    name = 'best'

    def __init__(self, folder):
        self.folder = folder

    def export(self, estimator, export_path, checkpoint_path, eval_result,
               is_the_final_export):
        checkpoints.record_evaluation(self.folder, checkpoint_path,
                                      eval_result)


def train_in_cluster(training):
    """Does the part of a task that is no parameter server.

    Args:
        training: a `loop.Training`.

    Returns:
        The signal that ended training early, or None.

    Raises:
        InputError: an evaluator has no images to validate on.
    """
    config, folder = training.config, training.folder
    task = training.run_config.task_type
    if task == 'evaluator' and not has_validation(config):
        raise InputError(f'--data_dir={config.data_dir}: has no validation '
                         'images; leave the evaluator out')
    specs = (
        tf.estimator.TrainSpec(training.training_input(),
                               max_steps=config.steps,
                               hooks=training.hooks()),
        tf.estimator.EvalSpec(
            training.validation_input(), steps=None, start_delay_secs=0,
            exporters=[BestExporter(folder)],
            throttle_secs=EVALUATOR_WAITS))
    if task == 'evaluator':
        # It has no last checkpoint to save: main.py's handlers end it.
        tf.estimator.train_and_evaluate(training.estimator(False), *specs)
    else:
        with training.stop_hook.handling_signals():
            tf.estimator.train_and_evaluate(
                training.estimator(config.accelerate), *specs)
    if training.run_config.is_chief and not has_validation(config):
        latest = tf.train.latest_checkpoint(folder)
        checkpoints.keep_best(folder, latest, {
            'step': checkpoints.checkpoint_step(latest), 'f1': None})
    # Whoever keeps the best writes its weights.
    keeper = 'evaluator' if has_validation(config) else 'chief'
    if task == keeper and checkpoints.read_best(folder):
        checkpoints.write_weights(folder)
    return training.stop_hook.signal
