"""How far work has come: lines in a log, a bar on a terminal."""
import subprocess
import sys

import pytest

from conftest import ROOT, on_a_terminal
from histology import progress
from histology.files import InputError

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
    # What a carriage return goes back over is drawn over.
    lines = [line.rsplit('\r', 1)[-1].rstrip()
             for line in on_a_terminal(WORK).split('\n')]
    assert 'the second: 7 nuclei' in lines
    assert lines[-2:] == ['the end', '']
    assert any(line.startswith('3 of 3 images |') for line in lines)


def test_a_warning_is_said_once_with_the_number_of_images(capsys):
    with progress.reporter(1, 'image'), progress.gathered():
        for name in 'abcd':
            progress.warn('blur', f'{name}.png', f'the blur of {name}')
        progress.warn('pen', 'c.png', 'a pen')
        progress.warn('fold', 'a.png', 'a fold')
        progress.warn('fold', 'd.png', 'a fold')
        assert capsys.readouterr().err == ''
    assert capsys.readouterr().err == (
        'warning: a.png: the blur of a. 3 more images: b.png, c.png, ...\n'
        'warning: c.png: a pen\n'
        'warning: a.png: a fold. 1 more image: d.png\n')
    # Outside a run, and after it.
    for name in 'ab':
        progress.warn('blur', name, 'blurred')
    assert capsys.readouterr().err == (
        'warning: a: blurred\nwarning: b: blurred\n')


def test_warnings_are_said_when_the_work_fails(capsys):
    with pytest.raises(InputError), progress.gathered():
        progress.warn('blur', 'a', 'blurred')
        raise InputError('b: damaged')
    assert capsys.readouterr().err == 'warning: a: blurred\n'


@pytest.mark.parametrize('name, shown', [
    ('a\nb', r'a\nb'), ('a\r\x1b[2Jb\x07', r'a\r\x1b[2Jb\x07'),
    ('a\x85b\u2028c\x7f', r'a\x85b\u2028c\x7f'),
    ('Nägel 核\\n', 'Nägel 核\\n')])
def test_names_of_files_break_no_line(capsys, name, shown):
    progress.say(f'{name}: 7 nuclei')
    progress.warn('blur', name, 'blurred')
    printed = capsys.readouterr()
    assert printed.out == f'{shown}: 7 nuclei\n'
    assert printed.err == f'warning: {shown}: blurred\n'
    assert str(InputError(f'{name}: damaged')) == f'{shown}: damaged'
