"""How far a long piece of work has come, and the signals that end it."""
import contextlib
import signal
import sys
import time

from tqdm import tqdm

# Seconds between lines where the output is a log file and no terminal.
LOG_INTERVAL = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and kill
RATE_AND_REST = '{rate_fmt}, {remaining} left'

# Its thread redraws what stands still, and would be lost in a fork.
tqdm.monitor_interval = 0

_received = None


class Stopped(BaseException):
    """The work ends on a signal; no handler of errors takes it."""


def stop(number, _):
    """End the work on a signal, as its handler."""
    global _received
    _received = number
    raise Stopped


def received():
    """The number of the signal that came, or None.

    Code in C can lose the exception, or raise another in its place: imports
    and NumPy for two, and h5py, which then fails to take back what it began.
    """
    return _received


def check():
    """End the work if a signal came and its exception was lost.

    Raises:
        Stopped: one has.
    """
    if _received is not None:
        raise Stopped


def counted(number, one, several=None):
    """A number with its noun: '1 image', '2 images', '2 nuclei'."""
    return f'{number} ' + (one if number == 1 else several or f'{one}s')


def say(text, file=None):
    """Print a line, above the bar if there is one.

    Args:
        text: without a line break at its end.
        file: sys.stdout if None.
    """
    file = file or sys.stdout
    tqdm.write(text, file=file)
    file.flush()


@contextlib.contextmanager
def reporter(total, unit):
    """Show the progress on stderr: a bar on a terminal, lines in a log.

    Args:
        total: number of pieces of work.
        unit: what a piece is called, as 'image'.

    Yields:
        report(done), to be called with the pieces done so far, fractions
        included. It shows count, rate and time left, and raises `Stopped`
        after a signal.
    """
    started = shown_at = time.monotonic()
    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit=unit, disable=not terminal,
              bar_format='{desc} |{bar}| ' + RATE_AND_REST) as bar:
        def report(done):
            nonlocal shown_at
            check()
            count = f'{int(done)} of {counted(total, unit)}'
            if terminal:
                bar.set_description_str(count, refresh=False)
                bar.update(done - bar.n)
                return
            now = time.monotonic()
            if done < total and now - shown_at < LOG_INTERVAL:
                return
            shown_at = now
            print(tqdm.format_meter(
                done, total, now - started, unit=unit, prefix=count,
                bar_format='{desc}, ' + RATE_AND_REST), file=sys.stderr,
                flush=True)

        yield report
