"""Training from the first step to the exported weights."""
import contextlib
import os
import signal

import nets
from histology.files import InputError
from histology.progress import SIGNALS, Stopped, counted, say
from input_pipeline import queues, store
from nets.tf1 import VERSION_1, device_line, precision, session_config, tf
from training import checkpoints, cluster, initial, records
from training.hooks import ProgressHook, StopEvaluationHook, StopHook
from training.model_fn import model_fn

SUMMARY_STEPS = 20
WORKER_SEEDS = 1000003  # between the seeds of two workers


def train(asked, run_config):
    """Train a network, or go on where training stopped.

    With TF_CONFIG it does the part of its task in a cluster: the chief and
    the workers train, each on its own share of the patches and with its own
    seed, the evaluator evaluates the checkpoints and writes weights.h5, and
    the parameter servers serve until the last step is done.

    Args:
        asked: dict of the flags, see `records.resolve`.
        run_config: of `cluster.task`, with the model folder; see
            `checkpoints` for what appears there.

    Returns:
        The signal that ended training early, or None.

    Raises:
        InputError: the data, the sizes, the weights to start from or the
            folder cannot be used, or the loss became NaN.
    """
    folder, is_chief = run_config.model_dir, run_config.is_chief
    former = checkpoints.record_to_resume(
        folder, asked['net'], asked['width'], asked['output_stride'])
    if run_config.task_type == 'ps':
        return cluster.serve_parameters(run_config,
                                        records.last_step(asked, former))
    origin, weights = None, None  # that training begins with
    if former is None and asked['init_checkpoint'] is not None:
        origin, weights = initial.read(asked)
    config = records.resolve(asked, former, origin)
    with checkpoints.exclusive_write(folder, lock=is_chief):
        start = 0  # the step to go on from
        if former is not None and is_chief:
            start = checkpoints.checkpoint_step(
                checkpoints.latest_valid(folder))
        elif former is not None:
            start = checkpoints.latest_step(folder) or 0
        training = Training(config, run_config, start)
        training.announce(resumes=former is not None)
        if is_chief and training.start < config.steps:
            record = records.write_record(folder, config, former,
                                          training.start)
            show_record(folder, record, training.start)
            if weights is not None:
                initial.write_checkpoint(config, folder, weights)
        return run(training)


def run(training):
    """Do this process's part of `train`, whose results and errors it has."""
    config, stop_hook = training.config, training.stop_hook
    # For the caller, who gets back what the stop hook takes.
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with contextlib.closing(training.progress):
            if not training.alone:
                cluster.join(training)
            if training.run_config.task_type == 'evaluator':
                cluster.evaluate_checkpoints(training)
            else:
                train_steps(training)
    except tf.errors.OpError:
        if training.errors:  # of a reader: TensorFlow reports its own
            raise training.errors[0]
        raise
    except tf.train.NanLossDuringTrainingError as error:
        raise InputError(
            f'{training.folder}: the loss became NaN at step '
            f'{stop_hook.step}; the last checkpoint without NaN is kept. Go '
            'on from it with a lower --learning_rate than '
            f'{config.learning_rate}') from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    best = training.alone and checkpoints.best_record(training.folder)
    if best and best['step'] == 0 and stop_hook.step and (
            stop_hook.signal is None):
        say('no step was better than the starting weights; weights.h5 keeps '
            'them')
    return stop_hook.signal


def train_steps(training):
    """Run the steps of a chief, a worker, or a process alone.

    Alone, each checkpoint is evaluated as soon as it is saved; in a cluster
    the evaluator does that, if there are images to validate on.
    """
    config, stop_hook, folder = (training.config, training.stop_hook,
                                 training.folder)
    if training.alone:
        stop_hook.take_signals()
        # The run that saved it may have ended before it was evaluated.
        if (training.start or config.init_checkpoint is not None) and (
                not checkpoints.is_evaluated(folder, training.start)):
            training.evaluate(training.start)
    if training.start >= config.steps or stop_hook.signal:
        return
    hooks = [stop_hook]
    if training.run_config.is_chief:
        evaluates = training.alone or not records.has_validation(config)
        # TensorFlow's own would come before the stop hook.
        hooks.append(tf.train.CheckpointSaverHook(
            folder, save_steps=config.evaluate_every,
            listeners=[training] if evaluates else [],
            # Nothing needs it beside the one in the events; it takes a second.
            **({} if VERSION_1 else {'save_graph_def': False})))
    else:
        hooks.append(cluster.SameDataHook(config, folder))
    shard = training.worker, max(training.run_config.num_worker_replicas, 1)
    training.estimator(config.accelerate).train(queues.training_input(
        store.store_path(config.data_dir, 'train'), config.batch_size,
        config.crop_size, config.augment_threads, training.seed,
        training.errors, shard, training.identity, config.trained_on),
        max_steps=config.steps, hooks=[*hooks, training.progress])


def show_record(folder, record, step):
    """Write the record into TensorBoard's text tab."""
    with tf.Graph().as_default(), tf.Session() as session:
        summary = session.run(tf.summary.text(
            'config', tf.constant(records.as_markdown(record))))
    # The Estimator's own: a second writer opened within a second would take
    # the same file.
    writer = tf.summary.FileWriterCache.get(folder)
    writer.add_summary(summary, step)
    writer.flush()


class Training(tf.train.CheckpointSaverListener):
    """Hold what the parts of one training share; evaluate checkpoints.

    Args:
        config: TrainConfig.
        run_config: of `cluster.task`.
        start: the step to go on from.
    """

    def __init__(self, config, run_config, start):
        self.config = config
        self.run_config = run_config
        self.alone = not cluster.addresses()
        self.folder = run_config.model_dir
        self.start = start
        # Every store must have it.
        self.identity = {key: getattr(config, key) for key in store.IDENTITY}
        self.errors = []  # of reading the stores
        self.stop_hook = StopHook(self.errors, self.alone)
        self.progress = ProgressHook(config.batch_size, config.steps)
        # An evaluator has no place among the workers.
        self.worker = run_config.global_id_in_cluster or 0
        # A resumed run draws other patches than those before it.
        self.seed = config.seed + self.start + WORKER_SEEDS * self.worker

    def estimator(self, accelerate):
        """Make a tf.estimator.Estimator; see `tf1` for `accelerate`."""
        distributed = self.run_config.session_config  # None if it is not
        return tf.estimator.Estimator(
            model_fn,
            config=self.run_config.replace(
                tf_random_seed=self.seed,
                # An evaluator of its own reads them after the next ones are
                # there.
                keep_checkpoint_max=2 if self.alone else 10,
                save_summary_steps=SUMMARY_STEPS,
                session_config=session_config(
                    accelerate, distributed and distributed.device_filters,
                    training=True)),
            params={'train_config': self.config, 'accelerate': accelerate,
                    'model_dir': self.folder})

    def announce(self, resumes):
        """Print the first line of a training."""
        config, steps = self.config, self.config.steps
        if self.start >= steps:
            say(f'{self.folder}: already trained to step {self.start}; '
                'give a higher --steps to train longer')
            return
        task = (f'resuming at step {self.start} of {steps}' if resumes
                else f'training {counted(steps, "step")}')
        if config.init_checkpoint is not None and not resumes:
            task += (f' from {config.init_checkpoint} ('
                     f'{config.init_data_source}, step {config.init_step})')
        say(f'{self.folder}: {task}, TensorFlow {tf.__version__}'
            + (', compiled by XLA: the first steps take long'
               if config.accelerate and VERSION_1 else '')
            + f'; {device_line()}, {precision(config.accelerate)}')

    def after_save(self, _, step):
        """Evaluate a checkpoint that was saved, unless a signal came.

        That of the step it starts from was evaluated before, or has learnt
        nothing.
        """
        if step != self.start and self.stop_hook.signal is None:
            self.evaluate(step)
        return self.stop_hook.signal is not None  # whether training ends

    def evaluate(self, step):
        """Evaluate a checkpoint, and keep it as weights.h5 if it is the best.

        After a signal it ends early and keeps nothing.

        Raises:
            InputError: the checkpoint cannot be read, or as `keep_best`.
        """
        config = self.config
        checkpoint = os.path.join(self.folder, f'model.ckpt-{step}')
        # At once: the training of a cluster may remove it meanwhile.
        weights = checkpoints.read_checkpoint(
            checkpoint, 'go on from the checkpoint before with a lower '
            '--learning_rate')
        if not records.has_validation(config):
            checkpoints.keep_best(self.folder, weights,
                                  {'step': int(step), 'f1': None})
            return
        say(f'evaluating step {step} on the validation images')
        try:
            # Not accelerated: the figures are of float32, and XLA would
            # compile each size of image anew.
            result = self.estimator(accelerate=False).evaluate(
                queues.validation_input(
                    store.store_path(config.data_dir, 'validation'),
                    nets.stride(config.net, config.output_stride),
                    self.errors, self.identity, config.trained_on),
                checkpoint_path=checkpoint,
                hooks=[StopEvaluationHook(self.stop_hook)])
        except Stopped:
            if self.stop_hook.signal is None:  # an evaluator's own end
                raise
            return  # the next run evaluates it first
        checkpoints.record_evaluation(self.folder, weights, result)
