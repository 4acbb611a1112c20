"""What is said of the device that TensorFlow runs on."""
import io
import os

import numpy as np
import pytest

from histology import synthetic
from nets import saved, tf1
from nets.tf1 import tf
from prediction import Predictor


def test_the_cores_are_counted(monkeypatch):
    if tf.test.is_gpu_available():
        pytest.skip('a GPU is in use')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0})
    assert tf1.device_line() == 'CPU, 1 core'


@pytest.mark.parametrize('flags, pays, multiplies_in', [
    ('avx2 fma', False, 'float32'),
    ('avx2 avx512f avx512bw', False, 'bfloat16'),  # emulated, slowly
    ('avx2 avx512f avx512_bf16', True, 'bfloat16'),
    ('avx512f amx_bf16 amx_tile', True, 'bfloat16')])
def test_bfloat16_by_the_processor(flags, pays, multiplies_in, monkeypatch):
    if tf.test.is_gpu_available():
        pytest.skip('a GPU is in use')
    monkeypatch.setattr(tf1, 'open', lambda path: io.StringIO(
        f'processor\t: 0\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n'),
        raising=False)
    assert tf1.precision(False) == 'float32'
    if tf1.VERSION_1:
        # XLA never pays in prediction.
        assert not tf1.acceleration_pays(False)
        assert tf1.precision(True) == 'float32'
    else:
        assert tf1.acceleration_pays(False) == pays
        assert tf1.precision(True) == multiplies_in


def test_accelerated_predictions_are_close():
    """To 0.01 on average: bfloat16 has 8 bits of precision."""
    image, _ = synthetic.make(np.random.RandomState(0), 128)
    plain, accelerated = [Predictor.load(
        f'{saved.PRETRAINED}/unet', accelerate=accelerate, average=False)
        for accelerate in (False, True)]
    assert plain.precision == 'float32'
    assert accelerated.precision == tf1.precision(True)
    one, other = [predictor(image).probability
                  for predictor in (plain, accelerated)]
    assert one.std() > 0.1 and abs(one - other).mean() < 0.01
