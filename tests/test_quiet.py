"""Hidden output: Ctrl-C is not lost in it, whatever the work does with it."""

import os
import signal

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
