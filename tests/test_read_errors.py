"""Reading that fails in the midst of the work: each mode ends and says why."""
import os
import shutil

import h5py
import pytest

from conftest import (
    IMAGES,
    end_of,
    make_unreadable,
    messages,
    one_line,
    spoil,
    start,
    start_long,
    train_flags,
    wait_for,
)
from training import checkpoints
from training.checkpoints import checkpoint_step


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


def truncate(path):
    """Keeps the index at the head."""
    os.truncate(path, 100000)


def spoil_last(dataset):
    """A change of a store's last patch or row, which its checksums tell."""
    def change(path):
        with h5py.File(path, 'r') as file:
            # So long that it is nowhere else.
            pattern = file[dataset][-1].tobytes()[:1000]
        spoil(path, pattern)
    return change


@pytest.mark.parametrize('split, change, said, every', [
    # Few evaluations: the message comes after the one under way. Its reason
    # depends on whether a read was under way.
    ('train', truncate, 'a read failed', 30),
    long('train', spoil_last('patches/images'), 'a read failed', 3),
    long('validation', spoil_last('images/1/image'), 'a read failed', 3),
    long('validation', os.remove, 'not there', 3)])
def test_training(data_dir, tmp_path, split, change, said, every):
    data = shutil.copytree(str(data_dir), str(tmp_path / 'data'))
    path = os.path.join(data, f'{split}.h5')
    process = start(*train_flags(data, tmp_path, 'unet', 100000), '--width=4',
                    f'--evaluate_every={every}')
    first = tmp_path / f'unet/model.ckpt-{every}.index'
    wait_for(first.exists, process)
    change(path)
    one_line(end_of(process), f'error: {path}: {said}')
    # No checkpoint was saved for what would have been the end.
    saved = checkpoints.latest_valid(str(tmp_path / 'unet'))
    assert checkpoint_step(saved) % every == 0


@pytest.mark.long
@pytest.mark.parametrize('change, said', [
    (truncate, 'a read failed'),
    (spoil_last(f'images/{IMAGES["eval"] - 1}/image'), 'a read failed')])
def test_eval(model_dir, tmp_path, change, said):
    process = start_long('eval', model_dir, tmp_path)
    path = tmp_path / 'data' / 'train.h5'
    change(str(path))
    (tmp_path / 'go').touch()
    one_line(end_of(process), f'error: {path}: {said}')
    assert not (model_dir / 'unet' / 'train.json').exists()


@pytest.mark.long
@pytest.mark.parametrize('change, said', [
    (os.remove, 'No such file'), (make_unreadable, 'Input/output error'),
    (lambda path: os.truncate(path, 1000), 'damaged')])
def test_predict_does_the_other_images(trained, tmp_path, change, said):
    process = start_long('predict', trained, tmp_path)
    names = [f'{index:02}' for index in range(IMAGES['predict'])]
    skipped = names.pop(-2)
    path = tmp_path / f'images/{skipped}.png'
    change(path)
    (tmp_path / 'go').touch()
    assert end_of(process).returncode == 1
    # The others are warnings: six steps find no nuclei.
    line, = [line for line in messages(process) if 'error' in line]
    assert line.startswith(f'error: {path}: cannot be read ({said}')
    assert line.endswith('(skipped)')
    assert sorted(path.name for path in (tmp_path / 'out').glob('*_mask.png')
                  ) == [f'{name}_mask.png' for name in names]
