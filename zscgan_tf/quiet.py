"""Hides what TensorFlow and LiteRT print from C++, past Python's logging.

Usage: with hidden_output() as printed: work(); printed() is what was printed.
"""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def hidden_output():
    """Sends file descriptors 1 and 2 into a temporary file, and back at the end.

    Yields:
        A function that returns everything printed so far.
    """
    _flush()
    with tempfile.TemporaryFile() as file, contextlib.ExitStack() as stack:
        for descriptor in (1, 2):
            original = os.dup(descriptor)
            stack.callback(os.close, original)
            stack.callback(os.dup2, original, descriptor)
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        stack.callback(_flush)  # what Python still buffers belongs to the file

        def printed():
            _flush()
            file.seek(0)
            return file.read().decode('utf-8', errors='replace')

        yield printed


def _flush():
    sys.stdout.flush()
    sys.stderr.flush()
