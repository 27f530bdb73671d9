"""What tests of files have in common."""

import numpy as np
import pytest

from tests.tiny import tiny_teacher
from zscgan_tf.tflite import calibration


def pixels(count=16, low=0.0, high=1.0):
    return np.random.default_rng(0).uniform(low, high, (count, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def teacher():
    return tiny_teacher()


@pytest.fixture(scope='module')
def int8_file(teacher):
    return calibration.convert(teacher, [pixels()])
