"""Loss, loop and records of training; the top package but for main.py."""
import signal

# What ends a mode before its time, by Ctrl-C and by kill.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
