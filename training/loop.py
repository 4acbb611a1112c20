"""Training from the first step to the exported weights."""
import dataclasses
import os
import sys

import nets
from histology.files import InputError
from input_pipeline import queues, store
from nets import saved
from nets.tf1 import ACCELERATED, device_line, session_config, tf
from training import checkpoints, cluster, initial, records
from training.hooks import (
    EvaluationListener,
    EvaluationStopped,
    StopEvaluationHook,
    StopHook,
    true_error_of,
)
from training.model_fn import learning_rate_at, model_fn

SUMMARY_STEPS = 20
WORKER_SEEDS = 1000003  # between the seeds of two workers


def train(config, folder, run_config):
    """Trains a network, or goes on where training stopped.

    With TF_CONFIG it does the part of its task in a cluster: the chief and
    the workers train, each on its own share of the patches and with its own
    seed, the evaluator evaluates the checkpoints and writes the weights, and
    the parameter servers serve until the last step is done.

    Args:
        config: TrainConfig; what it says of the data is read here.
        folder: the model folder; see `checkpoints` for what appears there.
        run_config: of `cluster.task`.

    Returns:
        The signal that ended training early, or None.

    Raises:
        InputError: a store cannot be used or is not the one trained on
            before, the batch or crop does not suit, the weights to start
            from cannot be used, the folder cannot be written, or the loss
            became NaN.
    """
    former = checkpoints.record_to_resume(folder, config.net, config.width,
                                          config.output_stride)
    weights = None  # that training begins with
    if former is None and config.init_checkpoint is not None:
        config, weights = initial.with_origin(config)
    config = records.with_defaults(records.with_network(config, former))
    if run_config.task_type == 'ps':
        return cluster.serve_parameters(run_config, folder, config.steps)
    config = with_data(config)
    check_sizes(config)
    with checkpoints.written_to(folder, lock=run_config.is_chief):
        start = find_start(config, former, folder, run_config)
        training = Training(config, folder, run_config, start)
        training.announce()
        if run_config.is_chief and training.start < config.steps:
            if weights is not None:
                weights = initial.fitting(config, weights)
            warn_of_seen(config)
            record = records.write_record(
                folder, config, changes_of(config, former, training.start))
            show_record(folder, record, training.start)
            if weights is not None:
                initial.write_checkpoint(config, folder, weights)
        return run(training)


def run(training):
    """Trains, in this process alone or as a part of a cluster.

    Returns:
        The signal that ended training early, or None.

    Raises:
        InputError: see `train`.
    """
    try:
        with true_error_of(training.readers):
            if cluster.is_alone(training.run_config):
                return train_alone(training)
            return cluster.train_in_cluster(training)
    except tf.train.NanLossDuringTrainingError as error:
        raise InputError(
            f'the loss became NaN at step {training.stop_hook.step}; the last '
            f'checkpoint in {training.folder} without NaN is kept. Go on from '
            'it with a lower --learning_rate than '
            f'{training.config.learning_rate}') from error


def with_data(config):
    """The TrainConfig with what the stores say of the data.

    A flaw in either store is told here, before the long work.

    Raises:
        InputError: a store cannot be used, or they do not belong together.
    """
    path = store.store_path(config.data_dir, 'train')
    with store.open_store(path) as file:
        identity = store.identity(file)
        trained_on = store.image_digests(file)
        if store.attributes(file).get('nuclei') == 0:
            raise InputError(f'{path}: not one of its images has a nucleus; '
                             'prepare images that have some')
    config = dataclasses.replace(config, trained_on=trained_on, **identity)
    if records.has_validation(config):
        store.open_store(store.store_path(config.data_dir, 'validation'),
                         identity, trained_on).close()
    return config


def warn_of_seen(config):
    """Says so where the network to start from has seen validation images."""
    if not config.seen or not records.has_validation(config):
        return
    with store.open_store(
            store.store_path(config.data_dir, 'validation')) as file:
        known = store.names_among(file, config.seen)
    if known:
        print(f'warning: {config.init_checkpoint} was trained on {len(known)} '
              f'of the validation images ({known[0]}'
              f'{", ..." if known[1:] else ""}); their F1 will flatter, and '
              '--mode=eval will refuse them', file=sys.stderr)


def check_sizes(config):
    """Refuses a crop or a batch that the network cannot be trained with.

    Raises:
        InputError: the crop is no multiple of the network's stride, or larger
            than a patch, or the batch is too small.
    """
    stride = nets.stride(config.net, config.output_stride)
    if config.crop_size > store.PATCH_SIZE or config.crop_size % stride:
        raise InputError(f'--crop_size={config.crop_size}: must be a multiple '
                         f'of {stride} and at most {store.PATCH_SIZE}, the '
                         'side of the patches')
    least = nets.min_batch_size(config.net)
    if config.batch_size < least:
        raise InputError(f'--batch_size={config.batch_size}: {config.net} '
                         f'needs at least {least}, for its batch norm')


def find_start(config, former, folder, run_config):
    """The step to go on from, or None where there is nothing to go on from.

    Raises:
        InputError: the training in the folder is on other images, or has no
            checkpoint that can be read.
    """
    if former is None:
        return None
    records.check_same_data(config, former, folder)
    latest = (checkpoints.latest_valid(folder) if run_config.is_chief
              else tf.train.latest_checkpoint(folder))
    if run_config.is_chief and not latest:
        raise InputError(f'{folder}: holds a best network, but no checkpoint '
                         'to go on from; choose another --model_dir')
    return saved.checkpoint_step(latest) if latest else None


def changes_of(config, former, start):
    """The record's list of changes on resuming; prints those that are new."""
    if former is None:
        return []
    changes = records.differences(config, former)
    for change in changes:
        print(f'{change["name"]}: {change["before"]} before, {change["now"]} '
              f'from step {start} on' + (rate_jump(config, former, start)
                                         if change['name'] == 'steps' else ''))
    return former['changes'] + [dict(change, step=start)
                                for change in changes]


def rate_jump(config, former, start):
    """Says how the learning rate changes where the steps do."""
    with tf.Graph().as_default(), tf.Session() as session:
        before, now = session.run([
            learning_rate_at(tf.constant(step), peak, warmup, steps)
            for step, peak, warmup, steps in (
                (max(start - 1, 0), former['learning_rate'],
                 former['warmup_steps'], former['steps']),
                (start, config.learning_rate, config.warmup_steps,
                 config.steps))])
    verb = 'rises again' if now > before else 'falls'
    return f'; the learning rate {verb}, from {before:.2g} to {now:.2g}'


def show_record(folder, record, step):
    """Writes the record into TensorBoard's text tab."""
    with tf.Graph().as_default(), tf.Session() as session:
        summary = session.run(tf.summary.text(
            'config', tf.constant(records.as_markdown(record))))
    # The Estimator's own: a second writer opened within a second would take
    # the same file.
    writer = tf.summary.FileWriterCache.get(folder)
    writer.add_summary(summary, step)
    writer.flush()


class Training:
    """What the parts of one training share.

    Args:
        config: TrainConfig with its data.
        folder: the model folder.
        run_config: of `cluster.task`.
        start: the step to go on from, or None.
    """

    def __init__(self, config, folder, run_config, start):
        self.config = config
        self.folder = folder
        self.run_config = run_config
        self.resumes = start is not None
        self.start = start or 0
        self.readers = []  # each `queues.Reader` that was started
        self.stop_hook = StopHook(self.readers)
        # An evaluator has no place among the workers.
        self.worker = run_config.global_id_in_cluster or 0
        # A resumed run draws other patches than those before it.
        self.seed = config.seed + self.start + WORKER_SEEDS * self.worker

    def estimator(self, accelerate):
        """A tf.estimator.Estimator; see `tf1` for `accelerate`."""
        alone = cluster.is_alone(self.run_config)
        return tf.estimator.Estimator(
            model_fn,
            config=tf.estimator.RunConfig(
                self.folder, tf_random_seed=self.seed,
                # An evaluator of its own reads them after the next ones are
                # there.
                keep_checkpoint_max=2 if alone else 10,
                save_summary_steps=SUMMARY_STEPS, log_step_count_steps=100,
                save_checkpoints_steps=self.config.evaluate_every,
                session_config=session_config(
                    accelerate, cluster.device_filters(self.run_config))),
            params={'train_config': self.config, 'accelerate': accelerate,
                    'model_dir': self.folder})

    def training_input(self):
        """The input_fn of training."""
        config = self.config
        return queues.training_input(
            store.store_path(config.data_dir, 'train'), config.batch_size,
            config.crop_size, config.augment_threads, self.seed, self.readers,
            (self.worker, max(self.run_config.num_worker_replicas, 1)),
            self.identity(), config.trained_on)

    def validation_input(self):
        """The input_fn of evaluation."""
        config = self.config
        return queues.validation_input(
            store.store_path(config.data_dir, 'validation'),
            nets.stride(config.net, config.output_stride), self.readers,
            self.identity(), config.trained_on)

    def identity(self):
        """The `store.identity` that every store must have."""
        return {key: getattr(self.config, key) for key in store.IDENTITY}

    def hooks(self, listeners=()):
        """The training hooks that model_fn does not make."""
        hooks = [self.stop_hook]
        if not self.run_config.is_chief:
            hooks.append(cluster.SameDataHook(self.config, self.folder))
        else:
            # TensorFlow's own would come before the stop hook.
            hooks.append(tf.train.CheckpointSaverHook(
                self.folder, save_steps=self.config.evaluate_every,
                listeners=list(listeners)))
        return hooks

    def announce(self):
        """Prints the first line of a training."""
        config, steps = self.config, self.config.steps
        if self.start >= steps:
            print(f'{self.folder}: already trained to step {self.start} of '
                  f'{steps}')
            return
        task = (f'resuming at step {self.start} of {steps}' if self.resumes
                else f'training {steps} steps')
        if config.init_checkpoint is not None and not self.resumes:
            task += (f' from {config.init_checkpoint} ('
                     f'{config.init_data_source}, step {config.init_step})')
        print(f'{self.folder}: {task}, TensorFlow {tf.__version__}'
              + (f', {ACCELERATED}' if config.accelerate else '')
              + f'; {device_line()}', flush=True)


def train_alone(training):
    """Trains in this process alone, evaluating each checkpoint it saves.

    Returns:
        The signal that ended training early, or None.
    """
    config, folder = training.config, training.folder
    # Not accelerated: the figures are those of float32, and XLA would compile
    # each size of image anew.
    evaluator = training.estimator(accelerate=False)
    validation_input = training.validation_input()

    def evaluate(step):
        checkpoint = os.path.join(folder, f'model.ckpt-{step}')
        if not records.has_validation(config):
            checkpoints.keep_best(folder, checkpoint,
                                  {'step': int(step), 'f1': None})
            return
        print(f'evaluating step {step} on the validation images', flush=True)
        try:
            result = evaluator.evaluate(
                validation_input, checkpoint_path=checkpoint,
                hooks=[StopEvaluationHook(training.stop_hook)])
        except EvaluationStopped:
            return  # the next run evaluates it first
        checkpoints.record_evaluation(folder, checkpoint, result)

    best = saved.read_best(folder)
    with training.stop_hook.handling_signals():
        training.stop_hook.take_signals()
        if (training.resumes or config.init_checkpoint is not None) and (
                not best or best['evaluated'] < training.start):
            # The run that saved it ended before it was evaluated, or none
            # did: the weights to start from.
            evaluate(training.start)
        if training.start < config.steps and not training.stop_hook.signal:
            training.estimator(config.accelerate).train(
                training.training_input(), max_steps=config.steps,
                hooks=training.hooks([EvaluationListener(
                    evaluate, training.start, training.stop_hook)]))
    best = saved.read_best(folder)
    if best:
        checkpoints.write_weights(folder)
        if best['step'] == 0 < best['evaluated']:
            print('no step was better than the weights at the start, which '
                  'are kept as the best')
    return training.stop_hook.signal
