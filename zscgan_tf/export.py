"""Writes a file whole or not at all."""

import os
import tempfile

from zscgan_tf.errors import UserError


def check_output(path, overwrite=False):
    """Refuses an output path that could not be written in the end; called before any work.

    Args:
        path: the file that will be written.
        overwrite: whether it may exist.

    Raises:
        UserError: the folder is missing or read-only, the path is a folder, or the file exists.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or '.'
    if os.path.isdir(path) or not os.path.basename(path):
        raise UserError(f'{path}: is a folder: pass the name of a file.')
    if not os.path.isdir(folder):
        raise UserError(f'{path}: the folder {folder} does not exist: make it, or pass another.')
    try:
        # os.access does not know about read-only or full file systems.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f'{path}: the folder {folder} cannot be written ({error.strerror}): pass another.'
        ) from error
    if os.path.lexists(path) and not overwrite:
        raise UserError(f'{path}: exists already: pass --overwrite or another name.')


def write_atomically(path, data, overwrite=False):
    """Writes beside the target, flushes to disk, and renames.

    Args:
        path: the file.
        data: bytes.
        overwrite: whether the file may exist; it stays whole until the new one is.

    Raises:
        UserError: as `check_output`, or the file could not be written (a full disk).
    """
    check_output(path, overwrite)
    # A link stays a link: what it points to is replaced.
    target = os.path.realpath(path)
    temporary = f'{target}.{os.getpid()}.partial'
    try:
        try:
            with open(temporary, 'wb') as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            if os.path.lexists(temporary):
                os.remove(temporary)
    except OSError as error:
        raise UserError(
            f'{os.fspath(path)}: could not be written ({error.strerror}); what was there before '
            f'is unchanged: make room or pass another name.'
        ) from error
