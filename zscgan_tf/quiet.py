"""Quiet: hides what TensorFlow, Keras and LiteRT print when this package calls them.

What they print from C++, past Python's logging, goes to a file, and Ctrl-C is kept.

Usage: with hidden_output() as hidden: work(); hidden.text() is what was printed.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import BinaryIO, TextIO


class Hidden:
    """What `hidden_output` yields.

    Attributes:
        stderr: a text stream to where stderr went before: for progress bars.
    """

    def __init__(self, stderr: TextIO, file: BinaryIO):
        self.stderr = stderr
        self._file = file

    def text(self) -> str:
        """Everything printed so far."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._file.seek(0)
        return self._file.read().decode('utf-8', errors='replace')


@contextlib.contextmanager
def hidden_output() -> Iterator[Hidden]:
    """Sends file descriptors 1 and 2 into a temporary file, and back at the end; no warnings.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed meanwhile, even if what was called swallowed it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with (
        _kept_interrupts(),
        hidden_warnings(),
        tempfile.TemporaryFile() as file,
        contextlib.ExitStack() as stack,
    ):
        for descriptor in (1, 2):
            original = os.dup(descriptor)
            stack.callback(os.close, original)
            stack.callback(os.dup2, original, descriptor)
        stderr = sys.stderr
        if _descriptor(stderr) == 2:
            # Under notebooks and test runners Python's stderr is elsewhere, and stays visible.
            stderr = stack.enter_context(os.fdopen(os.dup(2), 'w', encoding=stderr.encoding))
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        # Last in, first out: what Python still buffers belongs to the hidden file.
        stack.callback(sys.stderr.flush)
        stack.callback(sys.stdout.flush)
        yield Hidden(stderr, file)


def import_tensorflow() -> None:
    """Imports TensorFlow, unless it is there already, without its greetings from C++.

    It imports Keras 3, which is told here to run on it.
    """
    if 'tensorflow' in sys.modules:
        return
    # Read at the import: what is below an error is TensorFlow's own affair.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    os.environ['KERAS_BACKEND'] = 'tensorflow'  # wins over keras.json
    with hidden_output():
        import tensorflow as tf

        tf.constant(0)  # the devices greet when they are first used


@contextlib.contextmanager
def hidden_warnings() -> Iterator[None]:
    """Drops Python's warnings; a decorator too."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def hide_logs() -> None:
    """Drops what libraries log below an error while this package calls them.

    Such as TensorFlow's advice on functions that are traced again and again: a process that
    quantizes several models has to.
    """
    for name in ('tensorflow', 'absl'):
        logging.getLogger(name).addFilter(_is_for_users)


def _is_for_users(record):
    if record.levelno >= logging.ERROR:
        return True
    frame = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get('__name__', '')
        if module.startswith('zscgan_tf.') and module != __name__:
            return False
        frame = frame.f_back
    return True


@contextlib.contextmanager
def _kept_interrupts():
    """Raises KeyboardInterrupt at the end where it was raised before, and lost.

    Python drops what is raised in a finalizer, and TensorFlow's calls run many of them.
    """
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous) or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def handler(number, frame):
        nonlocal pressed
        try:
            previous(number, frame)
        except KeyboardInterrupt:
            pressed = True
            raise

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    except Exception:
        if pressed:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    if pressed:
        raise KeyboardInterrupt


def _descriptor(stream):
    try:
        return stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
