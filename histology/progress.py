"""How far a long piece of work has come, and the signals that end it."""
import contextlib
import re
import signal
import sys
import threading
import time

from tqdm import tqdm

# Seconds between lines where the output is a log file and no terminal.
LOG_INTERVAL = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and kill
RATE_AND_REST = '{rate_fmt}, {remaining} left'

# Its thread redraws what stands still, and would be lost in a fork.
tqdm.monitor_interval = 0
# Its own lock is shared by processes, and a kill would leave it.
tqdm.set_lock(threading.RLock())

_received = None
_collected = None  # by `collected`
_warnings = None  # within `gathered`: kinds to a text and names of images


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


def one_line(text):
    """Escape what would break a line, as names of files may hold it."""
    return re.sub('[\0-\x1f\x7f-\x9f\u2028\u2029]',
                  lambda found: ascii(found.group())[1:-1], text)


def say(text, error=False):
    """Print text as one line, to stdout or stderr, above the bar if any."""
    if _collected is not None:
        _collected.append(('say', text, error))
        return
    file = sys.stderr if error else sys.stdout
    tqdm.write(one_line(text), file=file)
    file.flush()


@contextlib.contextmanager
def gathered():
    """Print each kind of warning once, at the end of the outermost block."""
    global _warnings
    if _warnings is not None:
        yield
        return
    _warnings = {}
    try:
        yield
    finally:
        warnings, _warnings = _warnings, None
        for text, first, *rest in warnings.values():
            more = (f'. {counted(len(rest), "more image")}: '
                    + ', '.join(rest[:2]) + (', ...' if rest[2:] else ''))
            say(f'warning: {first}: {text}{more if rest else ""}', error=True)


@gathered()
def warn(kind, name, text):
    """Warn of an image, with the number of others at the end of `gathered`."""
    if _collected is not None:
        _collected.append(('warn', kind, name, text))
        return
    _warnings.setdefault(kind, [text]).append(name)


@contextlib.contextmanager
def collected():
    """Collect what is said, for another process, and show no progress.

    Yields:
        list of ('say', text, whether it is for stderr) and of ('warn' and the
        arguments of `warn`)
    """
    global _collected
    _collected = []
    try:
        yield _collected
    finally:
        _collected = None


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
    terminal = sys.stderr.isatty() and _collected is None
    with gathered(), tqdm(
            total=total, unit=unit, disable=not terminal,
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
            if _collected is not None or (
                    done < total and now - shown_at < LOG_INTERVAL):
                return
            shown_at = now
            print(tqdm.format_meter(
                done, total, now - started, unit=unit, prefix=count,
                bar_format='{desc}, ' + RATE_AND_REST), file=sys.stderr,
                flush=True)

        yield report
