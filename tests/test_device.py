"""What is said of the device that TensorFlow runs on."""
import os

import pytest

from nets import tf1
from nets.tf1 import tf


def test_the_cores_are_counted(monkeypatch):
    if tf.test.is_gpu_available():
        pytest.skip('a GPU is in use')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0})
    assert tf1.device_line() == 'CPU, 1 core'
