"""What is said of the device that TensorFlow runs on."""
import os
import sys

import pytest

from conftest import run
from nets import tf1
from nets.tf1 import tf


@pytest.mark.parametrize('facts, reason', [
    ((False, None, []), 'this build of TensorFlow has no CUDA; ENGINE=tf2 '
     './run.sh setup sets up one that has'),
    # The build comes first: no setting or library helps it.
    ((False, '-1', ['libcuda.so.1']), 'this build of TensorFlow has no CUDA; '
     'ENGINE=tf2 ./run.sh setup sets up one that has'),
    ((True, '', []), "CUDA_VISIBLE_DEVICES='' hides it"),
    ((True, '-1', ['libcudnn.so.8']), "CUDA_VISIBLE_DEVICES='-1' hides it"),
    ((True, '0', ['libcudart.so.10.0', 'libcudnn.so.7']),
     'libcudart.so.10.0 cannot be loaded'),
    ((True, None, ['libcudnn.so.8']), 'libcudnn.so.8 cannot be loaded'),
    ((True, 'GPU-8932f937', []),
     "TF_CPP_MIN_LOG_LEVEL=0 shows TensorFlow's own reasons"),
    ((True, None, []),
     "TF_CPP_MIN_LOG_LEVEL=0 shows TensorFlow's own reasons")])
def test_why_no_gpu(facts, reason):
    assert tf1.why_no_gpu(*facts) == reason


def test_a_library_is_looked_for_as_tensorflow_does():
    assert tf1.has_library('libc.so.6')
    assert not tf1.has_library('libcudart.so.0.0')


def test_a_driver_without_a_gpu_in_use_is_spoken_of(tmp_path):
    if os.path.exists('/proc/driver/nvidia/version'):
        pytest.skip('a driver is here')
    (tmp_path / 'nvidia-smi').write_text('#!/bin/sh\n')
    (tmp_path / 'nvidia-smi').chmod(0o755)
    process = run(sys.executable, '-c', f"""import os
from nets.tf1 import device_line
for path in '/nowhere', {str(tmp_path)!r}:
    os.environ['PATH'] = path
    print(device_line())""", CUDA_VISIBLE_DEVICES='-1')
    assert process.returncode == 0, process.stderr
    assert process.stderr == ''
    cpu = f'CPU, {len(os.sched_getaffinity(0))} cores'
    reason = ("CUDA_VISIBLE_DEVICES='-1' hides it"
              if tf.test.is_built_with_cuda() else
              'this build of TensorFlow has no CUDA; ENGINE=tf2 ./run.sh '
              'setup sets up one that has')
    assert process.stdout.splitlines() == [
        cpu, f'{cpu}; the NVIDIA GPU is not used: {reason}']
