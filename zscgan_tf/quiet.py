"""Hides what TensorFlow and LiteRT print from C++, past Python's logging.

Usage: with hidden_output() as hidden: work(); hidden.text() is what was printed.
"""

import contextlib
import io
import os
import sys
import tempfile


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
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file, contextlib.ExitStack() as stack:
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


def _descriptor(stream):
    try:
        return stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
