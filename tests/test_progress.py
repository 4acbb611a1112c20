"""The time left as text."""
import numpy as np
import pytest

from input_pipeline.progress import clock


@pytest.mark.parametrize('seconds, text', [
    (0, '0:00'), (59.4, '0:59'), (np.float64(59.6), '1:00'), (3725, '62:05')])
def test_clock(seconds, text):
    assert clock(seconds) == text
