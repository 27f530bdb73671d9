"""Hides what TensorFlow and LiteRT print from C++, past Python's logging, and keeps Ctrl-C.

Usage: with hidden_output() as hidden: work(); hidden.text() is what was printed.
"""

import contextlib
import io
import os
import signal
import sys
import tempfile
import threading


class Hidden:
    """What `hidden_output` yields.

    Attributes:
        stderr: a text stream to where stderr went before: for progress bars.
    """

    def __init__(self, stderr, file):
        self.stderr = stderr
        self._file = file

    def text(self):
        """Everything printed so far."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._file.seek(0)
        return self._file.read().decode('utf-8', errors='replace')


@contextlib.contextmanager
def hidden_output():
    """Sends file descriptors 1 and 2 into a temporary file, and back at the end.

    Yields:
        A `Hidden`.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed meanwhile, even if what was called swallowed it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with (
        _kept_interrupts(),
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
