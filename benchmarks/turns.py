"""How a measured process and the one that measures it take turns.

Speeds of two programs are compared while both are loaded: each in turn works
for a moment, so that a machine that slows down slows both alike. The measured
process calls `serve`; the measuring one calls `side_by_side`.
"""
import contextlib
import statistics
import subprocess
import sys
import time

BATCH = 8  # patches in a step
STEPS = 6  # of a turn
REPEATS = 5  # turns of each process


def serve(run, units, timed, untimed=0):
    """Says `ready` once warm, then times a turn for each line on stdin.

    Args:
        run: function without arguments, to time.
        units: work that one call does, in patches or images.
        timed: calls in a turn.
        untimed: calls before them, to use up what is held ready.
    """
    for _ in range(3):  # the first ones compile and allocate
        run()
    print('ready', flush=True)
    for _ in sys.stdin:
        for _ in range(untimed):
            run()
        start = time.perf_counter()
        for _ in range(timed):
            run()
        print(units * timed / (time.perf_counter() - start), flush=True)


def start(command):
    """Starts a process that serves turns, a context that ends it."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        universal_newlines=True)
    assert process.stdout.readline() == 'ready\n', command
    return process


def turn(process):
    """The work done in a second, in one turn of a process."""
    process.stdin.write('\n')
    process.stdin.flush()
    return float(process.stdout.readline())


def side_by_side(commands):
    """Runs processes that take turns.

    Args:
        commands: list of command lines, each a list.

    Returns:
        For each command the list of its REPEATS rates, in units a second.
    """
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(start(command))
                     for command in commands]
        return list(zip(*[list(map(turn, processes))
                          for _ in range(REPEATS)]))


def ratio(numerators, denominators):
    """Ratios of two lists of paired rates: (median, least, greatest)."""
    ratios = [a / b for a, b in zip(numerators, denominators)]
    return statistics.median(ratios), min(ratios), max(ratios)
