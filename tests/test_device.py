"""What is said of the device that TensorFlow runs on."""
import os

import pytest

from nets import tf1
from nets.tf1 import tf


@pytest.mark.parametrize('driver, said', [
    (False, ''), (True, '; the NVIDIA GPU is not used: '
                  'TF_CPP_MIN_LOG_LEVEL=0 shows why')])
def test_a_driver_without_a_gpu_in_use_is_spoken_of(monkeypatch, driver,
                                                    said):
    if tf.test.is_gpu_available():
        pytest.skip('a GPU is in use')
    monkeypatch.setattr(os.path, 'exists', lambda path: driver)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0})
    assert tf1.device_line() == f'CPU, 1 core{said}'
