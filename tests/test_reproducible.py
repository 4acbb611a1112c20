"""The same seed gives the same training, bit by bit.

Long: run it by `python -m pytest -m long`.
"""
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from conftest import NETS, run_main, train_flags
from nets.tf1 import tf

STEPS = 200


@pytest.mark.long
@pytest.mark.parametrize('net', NETS)
def test_the_same_seed_gives_the_same_training(data_dir, tmp_path, net):
    losses, weights = [], []
    for name, seed in (('first', 3), ('second', 3), ('other', 4)):
        process = run_main(
            *train_flags(data_dir, tmp_path / name, net, STEPS),
            '--width=4', f'--evaluate_every={STEPS}', f'--seed={seed}',
            OMP_NUM_THREADS='2', TF_NUM_INTRAOP_THREADS='2')
        assert process.returncode == 0, process.stderr
        folder = str(tmp_path / name / net)
        losses.append([(event.step, event.value) for event in
                       EventAccumulator(folder).Reload().Scalars('loss')])
        reader = tf.train.load_checkpoint(f'{folder}/model.ckpt-{STEPS}')
        weights.append({key: reader.get_tensor(key) for key
                        in reader.get_variable_to_shape_map()})
    assert len(losses[0]) >= 10
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    for key, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][key], value)
