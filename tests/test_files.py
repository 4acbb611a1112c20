"""Outputs that appear only when whole."""
import os

import pytest

from input_pipeline.files import InputError, write_json, atomic_write


def test_a_file_appears_at_the_end_in_a_folder_made_for_it(tmp_path):
    path = tmp_path / 'new ü' / 'out.txt'
    with atomic_write(str(path)) as partial:
        with open(partial, 'w') as file:
            file.write('whole')
        assert not path.exists()
        assert partial.endswith('.txt')
    assert path.read_text() == 'whole'
    assert os.listdir(str(path.parent)) == ['out.txt']


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / 'out.txt'
    path.write_text('before')
    with pytest.raises(ZeroDivisionError):
        with atomic_write(str(path)) as partial:
            with open(partial, 'w') as file:
                file.write('half')
            1 / 0
    assert path.read_text() == 'before'
    assert os.listdir(str(tmp_path)) == ['out.txt']


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    path = str(tmp_path / 'file' / 'out.txt')
    with pytest.raises(InputError, match='out.txt: cannot be written'):
        with atomic_write(path):
            pass


def test_json_of_what_json_does_not_know(tmp_path):
    path = tmp_path / 'out.json'
    write_json(str(path), {'a': [1, float('nan'), {'b': None}]})
    assert path.read_text().split() == [
        '{', '"a":', '[', '1,', 'null,', '{', '"b":', 'null', '}', ']', '}']
    with pytest.raises(ValueError):
        write_json(str(path), {'a': float('inf')})
    assert 'null' in path.read_text()
