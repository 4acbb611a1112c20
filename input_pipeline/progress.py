"""One line that says how far a long piece of work has come."""
import sys
import time

from input_pipeline import stopping

# Seconds between lines where the output is a log file and no terminal.
LOG_INTERVAL = 10

_line_is_open = False  # on the terminal, to be drawn over


def clock(seconds):
    """Time as text, minutes:seconds."""
    return '{}:{:02d}'.format(*divmod(round(float(seconds)), 60))


def speed(rate, unit):
    """A number of pieces per second as text; for a slow one, of seconds."""
    if 0 < rate < 1:
        return f'{1 / rate:.3g} s/{unit}'
    return f'{rate:.3g} {unit}s/s'


def end_line():
    """Ends a progress line, so that what is printed next has its own."""
    global _line_is_open
    if _line_is_open:
        print(file=sys.stderr)
        _line_is_open = False


def reporter(total, unit):
    """Returns a function that shows the progress on stderr.

    Args:
        total: number of pieces of work.
        unit: what a piece is called, as 'image'.

    Returns:
        report(done), to be called with the pieces done so far, fractions
        included. It shows count, rate and time left, and raises
        `stopping.Stopped` after a signal.
    """
    started = last_shown = time.monotonic()
    terminal = sys.stderr.isatty()

    def report(done):
        global _line_is_open
        nonlocal last_shown
        stopping.check()
        now = time.monotonic()
        if not terminal and done < total and now - last_shown < LOG_INTERVAL:
            return
        last_shown = now
        rate = done / max(now - started, 1e-6)
        left = (total - done) / rate if rate else 0
        line = (f'{int(done)} of {total} {unit}s, {speed(rate, unit)}, '
                f'{clock(left)} left')
        _line_is_open = terminal and done < total
        # Padding wipes what a longer line before this one left behind.
        print(f'\r{line:<60}' if terminal else line, file=sys.stderr,
              end='' if _line_is_open else '\n', flush=True)

    return report
