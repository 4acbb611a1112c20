"""Time left and speed as text."""
import numpy as np
import pytest

from input_pipeline.progress import clock, speed


@pytest.mark.parametrize('seconds, text', [
    (0, '0:00'), (59.4, '0:59'), (np.float64(59.6), '1:00'), (3725, '62:05')])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize('rate, text', [
    (0, '0 images/s'), (0.04, '25 s/image'), (1, '1 images/s'),
    (2.5, '2.5 images/s')])
def test_speed(rate, text):
    assert speed(rate, 'image') == text
