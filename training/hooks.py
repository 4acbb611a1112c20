"""What happens around the steps: progress, signals, evaluation, failures."""
import os
import signal
import sys
import time

from tqdm import tqdm

from histology.files import InputError
from histology.progress import LOG_INTERVAL, SIGNALS, Stopped, say
from nets.tf1 import tf

STEP_DONE = 'step_done'  # the tensor of the global step after a step


class StopHook(tf.train.SessionRunHook):
    """End training after SIGINT or SIGTERM, and say why a reader failed.

    It must stand before the hook that saves checkpoints: after a failure none
    is saved. `errors` are of reading the stores. `alone` says that there is no
    cluster.
    """

    def __init__(self, errors, alone):
        self.errors = errors
        self.alone = alone
        self.signal = None
        self.step = None  # the last that ran

    def take_signals(self):
        """Let a signal end training after its step."""
        for number in SIGNALS:
            signal.signal(number, self.stop)

    def after_create_session(self, _, coordinator):
        if self.alone and self.step is not None:
            # TensorFlow makes a new session after some errors of a drive, with
            # random weights where it sees no checkpoint. A cluster needs one
            # after a server was away.
            coordinator.request_stop()
            raise InputError('--model_dir: the drive was away for a while; '
                             'the same command goes on from the last '
                             'checkpoint')
        self.take_signals()

    def stop(self, number, _):
        """Handle a signal; a second one ends the program at once."""
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number

    def before_run(self, _):
        return tf.train.SessionRunArgs(f'{STEP_DONE}:0')

    def after_run(self, run_context, run_values):
        self.step = run_values.results
        if self.signal is not None:
            run_context.request_stop()

    def end(self, _):
        if self.errors:  # TensorFlow would report the end of the data
            raise self.errors[0]


class ProgressHook(tf.train.SessionRunHook):
    """Show step, loss, rate and time left: a bar on a terminal, or lines.

    The rate is the mean since the start, evaluations included.
    """

    def __init__(self, batch_size, steps):
        self.batch_size = batch_size
        self.steps = steps
        self.start = None  # (time, step) after the first step
        self.shown = None  # time of the last line
        self.bar = None

    def close(self):
        """Close the bar: what follows has a line of its own."""
        if self.bar is not None:
            self.bar.close()

    def before_run(self, _):
        # The Estimator puts the loss there.
        loss, = tf.losses.get_losses()
        return tf.train.SessionRunArgs([f'{STEP_DONE}:0', loss])

    def after_run(self, _, run_values):
        step, loss = run_values.results
        now = time.time()
        if self.start is None:
            self.start, self.shown = (now, step), now
            self.bar = tqdm(total=self.steps, initial=step, file=sys.stdout,
                            disable=not sys.stdout.isatty(),
                            bar_format='{desc} |{bar}| {remaining} left')
        rate = (step - self.start[1]) / max(now - self.start[0], 1e-9)
        line = (f'step {step}/{self.steps}  loss {loss:.3f}  '
                f'{rate * self.batch_size:.1f} crops/s')
        if not self.bar.disable:
            self.bar.set_description_str(line, refresh=False)
            self.bar.update(step - self.bar.n)
        elif now - self.shown >= LOG_INTERVAL or step >= self.steps:
            self.shown = now
            left = (self.steps - step) / max(rate, 1e-9)
            say(f'{line}  {tqdm.format_interval(left)} left')


class StopEvaluationHook(tf.train.SessionRunHook):
    """End an evaluation once a StopHook has got a signal.

    By an exception: the metrics of a part would be written as the whole's.
    """

    def __init__(self, stop_hook):
        self.stop_hook = stop_hook

    def after_run(self, *_):
        if self.stop_hook.signal is not None:
            raise Stopped
