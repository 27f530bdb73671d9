"""Hidden output: Ctrl-C is not lost in it, and nothing else is seen."""

import logging
import os
import pathlib
import signal
import subprocess
import sys

import keras
import pytest

from zscgan_tf.quiet import hidden_output


def press():
    os.kill(os.getpid(), signal.SIGINT)


class Finalized:
    """Its finalizer is interrupted: Python prints what is raised there, and drops it."""

    def __del__(self):
        press()
        for _ in range(1000):  # signals are seen between two steps of Python
            pass


def swallow():
    Finalized()


def turn_into_an_error():
    try:
        press()
        for _ in range(1000):
            pass
    except KeyboardInterrupt as error:
        raise ValueError('stopped') from error


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('work', [swallow, turn_into_an_error])
def test_an_interrupt_is_not_lost(work):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with hidden_output():
            work()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_that_only_takes_note_stays_in_charge():
    noted = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        with hidden_output():
            press()
    finally:
        signal.signal(signal.SIGINT, before)
    assert noted == [signal.SIGINT]


def test_errors_pass_through():
    with pytest.raises(ValueError, match='of its own'):
        with hidden_output():
            raise ValueError('of its own')


def log(logger, level, name):
    """A record that a library's logger is given in a function of this module."""
    exec('logger.log(level, "said")', {'__name__': name, 'logger': logger, 'level': level})


@pytest.mark.parametrize('logger', ['tensorflow', 'absl'])
def test_logs_of_libraries_are_those_of_the_users_own_calls(caplog, logger):
    logger = logging.getLogger(logger)
    logger.addHandler(caplog.handler)
    try:
        log(logger, logging.WARNING, 'zscgan_tf.evaluation')
        assert not caplog.records
        log(logger, logging.ERROR, 'zscgan_tf.evaluation')
        log(logger, logging.WARNING, 'users_own')
        assert {record.levelno for record in caplog.records} == {logging.ERROR, logging.WARNING}
    finally:
        logger.removeHandler(caplog.handler)


# Keras 3 warns of a tensor where a list is expected; TensorFlow greets, and warns when several
# functions of one name are traced.
SCRIPT = """
import sys
import zscgan_tf

teacher = zscgan_tf.load_teacher(sys.argv[1], input_spec={'mean': [0.5], 'std': [0.5]})
noise = zscgan_tf.NoiseSource(teacher.input_spec, batch_size=4)
zscgan_tf.quantize(teacher, noise, sys.argv[2], calibration_images=8, check_images=8)
for _ in range(6):
    zscgan_tf.evaluate(None, teacher, [next(noise.batches())])
print('done')
"""


def test_nothing_is_printed_but_what_the_user_prints(tmp_path):
    path = tmp_path / 'net.keras'
    inputs = keras.Input((6, 6, 3), name='image')
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    keras.Model([inputs], keras.layers.Dense(3, activation='softmax')(x)).save(path)
    environment = {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, path, tmp_path / 'net.tflite'],
        cwd=pathlib.Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ('done\n', '', 0)
