"""How far work has come: lines in a log, a bar on a terminal."""
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from conftest import ROOT

# Three images, of which the second tells something.
WORK = """
from histology import progress
with progress.reporter(3, 'image') as report:
    for done in range(3):
        report(done + 0.5)
        if done == 1:
            progress.say('the second: 7 nuclei')
        report(done + 1)
print('the end')
"""


def test_a_log_has_a_line_at_the_end():
    process = subprocess.run(
        [sys.executable, '-c', WORK], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True, check=True)
    assert process.stdout == 'the second: 7 nuclei\nthe end\n'
    line, = process.stderr.splitlines()
    assert line.startswith('3 of 3 images, ')
    assert line.endswith(' left')


def test_a_terminal_has_a_bar_that_what_is_told_does_not_break():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ,
                struct.pack('HHHH', 24, 80, 0, 0))  # rows and columns
    process = subprocess.Popen([sys.executable, '-c', WORK], cwd=ROOT,
                               stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b''
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    # What a carriage return goes back over is drawn over.
    lines = [line.rsplit('\r', 1)[-1].rstrip()
             for line in shown.decode().replace('\r\n', '\n').split('\n')]
    assert 'the second: 7 nuclei' in lines
    assert lines[-2:] == ['the end', '']
    assert any(line.startswith('3 of 3 images |') for line in lines)
