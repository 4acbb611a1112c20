"""Loss, schedule, model_fn and the training loop around tf.estimator."""
import contextlib
import math
import os
import signal
import time

from eval.metrics import Counts, compute
from input_pipeline.progress import LOG_INTERVAL, clock
from input_pipeline import queues, store
from input_pipeline.files import InputError, write_json
from training import checkpoints
from nets.tf1 import ACCELERATED, acceleration_scope, session_config, tf

DICE_SMOOTHING = 1.0  # pixels; keeps the Dice of an empty patch defined
SUMMARY_STEPS = 20
PICTURE_SIDE = 256  # pixels of an image shown in TensorBoard
WORKER_SEEDS = 1000003  # between the seeds of two workers
EVALUATOR_WAITS = 2  # seconds between looks for a new checkpoint
SERVER_STAYS = 5  # seconds after the last step


def segmentation_loss(logits, labels):
    """Binary cross-entropy plus soft Dice, one to one.

    Soft Dice after Milletari et al., 2016, arXiv:1606.04797, over the whole
    batch and with plain sums below the fraction.

    Args:
        logits: float32 [N, H, W, 1].
        labels: float32 [N, H, W, 1], 0 or 1.

    Returns:
        float32 scalar.
    """
    cross_entropy = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(
        labels=labels, logits=logits))
    probability = tf.sigmoid(logits)
    dice = ((2 * tf.reduce_sum(probability * labels) + DICE_SMOOTHING)
            / (tf.reduce_sum(probability) + tf.reduce_sum(labels)
               + DICE_SMOOTHING))
    return cross_entropy + 1 - dice


def learning_rate_at(step, peak, warmup_steps, steps):
    """Linear warm-up to `peak`, then cosine decay to 0 (arXiv:1608.03983)."""
    step = tf.cast(step, tf.float32)
    warmup = tf.minimum((step + 1) / max(warmup_steps, 1), 1.0)
    return warmup * tf.train.cosine_decay(peak, step, steps)


def picture(images, labels, probability):
    """Tissue, mask and prediction side by side, for TensorBoard.

    Args:
        images: float32 [N, H', W', 3] in [0, 1].
        labels: float32 [N, H, W, 1], H <= H', W <= W'.
        probability: float32 [N, H, W, 1].

    Returns:
        float32 [1, h, 3 * w, 3], the first image's top left corner.
    """
    side = PICTURE_SIDE
    labels, probability = [
        tf.tile(t[:1, :side, :side], [1, 1, 1, 3])
        for t in (labels, probability)]
    shape = tf.shape(labels)
    return tf.concat([images[:1, :shape[1], :shape[2]], labels, probability],
                     axis=2)


def model_fn(features, labels, mode, params):
    """The Estimator's model_fn, for training and evaluation.

    Prediction needs tiles and other sizes than the stores hold:
    `eval/inference.py` does it.

    Args:
        features: images float32 [N, H', W', 3] in [0, 1].
        labels: masks [N, H, W, 1], 0 or 1; in evaluation the images are
            padded at the bottom and right, and H <= H', W <= W'.
        mode: tf.estimator.ModeKeys.TRAIN or EVAL.
        params: dict of `network`, `batch_size`, `learning_rate`,
            `warmup_steps`, `steps`, `evaluate_every`, `model_dir` and
            `accelerate`, whether the network is; see `tf1`.

    Returns:
        A tf.estimator.EstimatorSpec.
    """
    training = mode == tf.estimator.ModeKeys.TRAIN
    shape = tf.shape(labels)
    labels = tf.cast(labels, tf.float32)
    with acceleration_scope(params['accelerate']):
        model = checkpoints.build(params['network'], features, training)
        logits = model.get_layer('logits').output[:, :shape[1], :shape[2]]
        probability = tf.sigmoid(logits)
        loss = segmentation_loss(logits, labels)
    pictures = tf.summary.image(
        'tissue_mask_prediction', picture(features, labels, probability),
        collections=['pictures'])

    if not training:
        totals, updates = zip(*[
            count(labels, probability > 0.5)
            for count in (tf.metrics.true_positives,
                          tf.metrics.false_positives,
                          tf.metrics.false_negatives,
                          tf.metrics.true_negatives)])
        update = tf.group(*updates)
        return tf.estimator.EstimatorSpec(
            mode, loss=loss,
            eval_metric_ops={name: (value, update) for name, value
                             in compute(Counts(*totals)).items()},
            evaluation_hooks=[tf.train.SummarySaverHook(
                save_steps=1, summary_op=pictures,
                output_dir=os.path.join(params['model_dir'], 'eval'))])

    positive, truth = probability > 0.5, labels > 0.5
    batch = Counts(*[
        tf.reduce_sum(tf.cast(tf.logical_and(p, t), tf.float32))
        for p, t in ((positive, truth),
                     (positive, tf.logical_not(truth)),
                     (tf.logical_not(positive), truth),
                     (tf.logical_not(positive), tf.logical_not(truth)))])
    for name, value in compute(batch).items():
        tf.summary.scalar(name, value)
    step = tf.train.get_or_create_global_step()
    rate = learning_rate_at(step, params['learning_rate'],
                            params['warmup_steps'], params['steps'])
    tf.summary.scalar('learning_rate', rate)
    # Keras does not fill UPDATE_OPS: without its updates the moving statistics
    # of batch norm would never move.
    # Gradients of a tensor used more than twice are added in pairs: AddN's
    # order depends on the threads, see `session_config`.
    train_op = tf.group(
        tf.train.AdamOptimizer(rate).minimize(
            loss, step,
            aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE),
        model.get_updates_for(features))
    return tf.estimator.EstimatorSpec(
        mode, loss=loss, train_op=train_op,
        training_hooks=[
            Progress(loss, params['batch_size'], params['steps'])],
        training_chief_hooks=[tf.train.SummarySaverHook(
            save_steps=params['evaluate_every'], summary_op=pictures,
            output_dir=params['model_dir'])])


class Stopper(tf.train.SessionRunHook):
    """Ends training early where it must."""

    def __init__(self, readers, **arguments):
        super().__init__(**arguments)
        self.readers = readers
        self.signal = None
        self.step = None  # the last that ran

    def stop(self, number, _):
        """Signal handler; a second signal ends the program at once."""
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number

    def before_run(self, _):
        return tf.train.SessionRunArgs(tf.train.get_global_step())

    def after_run(self, run_context, run_values):
        super().after_run(run_context, run_values)
        self.step = run_values.results + 1  # the value from before the step
        if self.signal is not None:
            run_context.request_stop()

    def end(self, session):
        # TensorFlow would report the end of the data.
        raise_failure(self.readers)
        super().end(session)


class Saver(Stopper, tf.train.CheckpointSaverHook):
    """Saves checkpoints, and ends training early where it must.

    After SIGINT or SIGTERM a last checkpoint is saved and not evaluated. When
    a reader has failed, none is saved.
    """

    def end(self, session):
        if self.signal is not None:
            self._listeners = []  # those evaluate
        super().end(session)


class Progress(tf.train.SessionRunHook):
    """Prints step, loss, rate and time left.

    The rate is the mean since the start and takes in the evaluations.
    """

    def __init__(self, loss, batch_size, steps):
        self.loss = loss
        self.batch_size = batch_size
        self.steps = steps
        self.start = None  # (time, step) after the first step
        self.shown = None  # time of the last line

    def before_run(self, _):
        return tf.train.SessionRunArgs([tf.train.get_global_step(),
                                        self.loss])

    def after_run(self, _, run_values):
        step, loss = run_values.results
        now = time.time()
        if self.start is None:
            self.start, self.shown = (now, step), now
        if now - self.shown < LOG_INTERVAL and step < self.steps:
            return
        self.shown = now
        rate = (step - self.start[1]) / max(now - self.start[0], 1e-9)
        left = (self.steps - step) / max(rate, 1e-9)
        print(f'step {step}/{self.steps}  loss {loss:.3f}  '
              f'{rate * self.batch_size:.1f} patches/s  '
              f'{clock(left)} left', flush=True)


class BestKeeper(tf.estimator.Exporter):
    """Keeps the checkpoint with the best validation F1.

    tf.estimator calls it after each evaluation, in the evaluator's process
    where there is one. Its own BestExporter never exports the first
    evaluation.
    """

    name = 'best'

    def __init__(self, folder):
        self.folder = folder

    def export(self, estimator, export_path, checkpoint_path, eval_result,
               is_the_final_export):
        result = {key: float(value) for key, value in eval_result.items()
                  if key != 'global_step'}
        step = int(eval_result['global_step'])
        if math.isnan(result['f1']):
            raise InputError('validation.h5: F1 is undefined, since neither '
                             'the masks nor the predictions hold a nucleus; '
                             'prepare images with nuclei')
        best = checkpoints.keep_best(self.folder, checkpoint_path,
                                     dict(result, step=step))
        print(f'step {step}: validation loss {result["loss"]:.3f}, accuracy '
              f'{result["accuracy"]:.3f}, F1 {result["f1"]:.4f}, IoU '
              f'{result["iou"]:.4f}' + (' (best so far)' if best else ''),
              flush=True)


def raise_failure(readers):
    """Raises what made a reader fail, if one did."""
    for reader in readers:
        if reader.error is not None:
            raise reader.error


@contextlib.contextmanager
def true_error_of(readers):
    """Turns TensorFlow's report of a failed reader into what failed."""
    try:
        yield
    except tf.errors.OpError:
        raise_failure(readers)
        raise


def task():
    """What this process is to do: a tf.estimator.RunConfig, by TF_CONFIG.

    Raises:
        InputError: TF_CONFIG is wrong.
    """
    try:
        return tf.estimator.RunConfig()
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f'TF_CONFIG: {error}; see "More than one machine" in '
                         'the README') from error


def device_filters(run):
    """The jobs that a session of a task speaks to.

    Parameter servers alone: a training goes on while a worker is away.
    """
    if not run.cluster_spec or run.task_type == 'evaluator':
        return []
    return ['/job:ps', f'/job:{run.task_type}/task:{run.task_id}']


def serve(run, folder, steps):
    """Serves parameters until a checkpoint has the last step.

    TensorFlow's servers never end by themselves.

    Args:
        run: of `task`, for a parameter server.
        folder: the model folder.
        steps: as for `train`.
    """
    tf.train.Server(run.cluster_spec, run.task_type, run.task_id)
    while True:
        time.sleep(EVALUATOR_WAITS)
        latest = tf.train.latest_checkpoint(folder)
        if latest and checkpoints.checkpoint_step(latest) >= steps:
            # The workers end by the same step, and close their sessions.
            time.sleep(SERVER_STAYS)
            return None


def train(run, data_dir, folder, network, steps, batch_size, crop_size,
          learning_rate, warmup_steps, evaluate_every, threads, accelerate,
          seed):
    """Trains a network, or goes on where training stopped.

    With TF_CONFIG it does the part of its task in a cluster: the chief and
    the workers train, each on its own share of the patches and with its own
    seed, the evaluator judges the checkpoints and writes the weights, and the
    parameter servers serve until the last step is done.

    Args:
        run: of `task`.
        data_dir: folder of `train.h5` and, unless that holds all images,
            `validation.h5`.
        folder: the model folder; see `checkpoints` for what appears there.
        network: dict of `checkpoints.describe`.
        steps: optimiser steps in all, those of earlier runs included.
        batch_size: crops in a step.
        crop_size: side of the crops, pixels; a multiple of the stride.
        learning_rate: Adam's peak rate (arXiv:1412.6980).
        warmup_steps: steps of linear warm-up.
        evaluate_every: steps between checkpoints, each followed by an
            evaluation on the whole validation images.
        threads: augmenting threads.
        accelerate: whether the step runs by XLA or in bfloat16; see `tf1`.
        seed: of the weights, the order of patches and the augmentation.

    Returns:
        The signal that ended training early, or None.

    Raises:
        InputError: a store cannot be used or is not the one trained on
            before, the crop does not suit, the folder cannot be written, the
            loss became NaN, or F1 is undefined.
    """
    if run.task_type == 'ps':
        return serve(run, folder, steps)
    train_path, validation_path = [
        os.path.join(data_dir, f'{split}.h5')
        for split in ('train', 'validation')]
    # A flaw in either is told before the long work.
    with store.open_store(train_path) as file:
        data = store.identity(file)
        trained_on = store.image_digests(file)
    validated = data['data_fold'] != store.TRAIN_ON_ALL
    if validated:
        store.open_store(validation_path).close()
    stride = checkpoints.stride_of(network)
    if crop_size > store.PATCH_SIZE or crop_size % stride:
        raise InputError(f'--crop_size={crop_size}: must be a multiple of '
                         f'{stride} and at most {store.PATCH_SIZE}, the side '
                         'of the patches')
    alone = not run.cluster_spec
    if run.task_type == 'evaluator' and not validated:
        raise InputError(f'--data_dir={data_dir}: has no validation images; '
                         'leave the evaluator out')
    judges = alone or run.task_type == ('evaluator' if validated else 'chief')
    latest = (checkpoints.latest_valid(folder) if run.is_chief
              else tf.train.latest_checkpoint(folder))
    if latest and any(network.get(key, value) != value
                      for key, value in data.items()):
        raise InputError(f'--data_dir={data_dir}: holds other images, or '
                         'another division of them, than the network in '
                         f'{folder} was trained on; choose another --data_dir '
                         'or --model_dir')
    network = dict(network, **data, trained_on=trained_on)
    if run.is_chief:
        write_json(os.path.join(folder, 'network.json'), network)

    start = checkpoints.checkpoint_step(latest) if latest else 0
    # An evaluator has no place among the workers.
    worker, workers = run.global_id_in_cluster or 0, run.num_worker_replicas
    # A resumed run draws other patches than those before it.
    run_seed = seed + start + WORKER_SEEDS * worker
    readers = []
    stopper = (Saver(readers, checkpoint_dir=folder,
                     save_steps=evaluate_every) if run.is_chief
               else Stopper(readers))
    estimator, exact = [tf.estimator.Estimator(
        model_fn,
        config=tf.estimator.RunConfig(
            folder, tf_random_seed=run_seed,
            # An evaluator of its own reads them after the next ones are there.
            keep_checkpoint_max=2 if alone else 10,
            save_summary_steps=SUMMARY_STEPS, log_step_count_steps=100,
            save_checkpoints_steps=evaluate_every,
            session_config=session_config(accelerated, device_filters(run))),
        params={'network': network, 'batch_size': batch_size,
                'learning_rate': learning_rate, 'warmup_steps': warmup_steps,
                'steps': steps, 'evaluate_every': evaluate_every,
                'model_dir': folder, 'accelerate': accelerated})
        for accelerated in (accelerate, False)]
    # Not accelerated: the figures are those of float32, and XLA would compile
    # each size of image anew.
    estimator.evaluate = exact.evaluate
    train_spec = tf.estimator.TrainSpec(
        queues.training_input(train_path, batch_size, crop_size, threads,
                              run_seed, readers, (worker, max(workers, 1))),
        max_steps=steps, hooks=[stopper])
    keeper = BestKeeper(folder)
    eval_spec = tf.estimator.EvalSpec(
        queues.validation_input(validation_path, stride, readers), steps=None,
        exporters=[keeper], start_delay_secs=0,
        # An evaluator of its own waits for checkpoints.
        throttle_secs=0 if alone else EVALUATOR_WAITS)

    def judge(checkpoint):
        if validated:
            with true_error_of(readers):
                result = estimator.evaluate(eval_spec.input_fn)
            keeper.export(estimator, None, checkpoint, result, False)
        else:
            checkpoints.keep_best(folder, checkpoint, {
                'step': checkpoints.checkpoint_step(checkpoint), 'f1': None})

    best = checkpoints.read_best(folder)
    if alone and latest and (not best or best['evaluated'] < start):
        # The run that saved it ended before it was judged.
        judge(latest)
    if alone and start >= steps:
        print(f'{folder}: already trained to step {start} of {steps}')
        checkpoints.write_weights(folder, network)
        return None
    print(f'{folder}: ' + (f'resuming at step {start} of {steps}' if latest
                           else f'training {steps} steps')
          + f', TensorFlow {tf.__version__}'
          + (f', {ACCELERATED}' if accelerate else ''),
          flush=True)

    # An evaluator has no last checkpoint to save: main.py's handlers end it.
    handlers = {number: signal.signal(number, stopper.stop)
                for number in (signal.SIGINT, signal.SIGTERM)
                if run.task_type != 'evaluator'}
    try:
        with true_error_of(readers):
            if validated or not alone:
                tf.estimator.train_and_evaluate(estimator, train_spec,
                                                eval_spec)
            else:
                estimator.train(train_spec.input_fn, train_spec.hooks,
                                max_steps=steps)
    except tf.train.NanLossDuringTrainingError as error:
        raise InputError(
            f'the loss became NaN at step {stopper.step}; the last checkpoint '
            f'in {folder} without NaN is kept. Go on from it with a lower '
            f'--learning_rate than {learning_rate}') from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if judges and not validated:
        judge(tf.train.latest_checkpoint(folder))
    if judges and checkpoints.read_best(folder):
        checkpoints.write_weights(folder, network)
    return stopper.signal
