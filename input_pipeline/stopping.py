"""The signals that end a mode before its time."""
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and kill

_received = None


class Stopped(BaseException):
    """Ends the work on a signal; no handler of errors takes it."""


def stop(number, _):
    """Ends the work on a signal, as its handler."""
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
    """Ends the work, should a signal have come whose exception was lost.

    Raises:
        Stopped: one has.
    """
    if _received is not None:
        raise Stopped
