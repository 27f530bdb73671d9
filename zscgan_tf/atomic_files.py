"""Files that appear whole or not at all: written beside their place, and renamed."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from typing import IO

from zscgan_tf.errors import UserError

PathLike = str | os.PathLike


def check_local(path: PathLike, name: str | None = None) -> None:
    """Refuses `gs://bucket/file` and the like, which Python takes for a local folder `gs:`.

    Args:
        path: a path that is to be read or written.
        name: what messages call it; None for the path itself.

    Raises:
        UserError: the path is a remote one.
    """
    path = os.fspath(path)
    # One slash is what pathlib leaves of two, and one letter is a drive.
    if re.match(r'[A-Za-z][A-Za-z0-9+.-]+:/', path):
        raise UserError(
            f'{name or path}: remote paths are not supported: pass a local one, and copy the files '
            f'from or to the remote place yourself.'
        )


def check_output(path: PathLike, overwrite: bool = False) -> None:
    """Refuses an output path that could not be written in the end; called before any work.

    What a killed process left of an earlier attempt at this file is removed.

    Args:
        path: the file that will be written.
        overwrite: whether it may exist.

    Raises:
        UserError: the folder is missing or read-only, the path is a folder, a device or remote, or
            the file exists.
    """
    check_local(path)
    path = os.fspath(path)
    if os.path.isdir(path) or not os.path.basename(path):
        raise UserError(f'{path}: is a folder: pass the name of a file.')
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f'{path}: is a device or a pipe: pass the name of a file.')
    check_parent(path)
    if os.path.lexists(path) and not overwrite:
        raise UserError(f'{path}: exists already: pass --overwrite or another name.')
    target = os.path.realpath(path)
    remove_leftovers(os.path.dirname(target), os.path.basename(target))


def check_parent(path: str) -> None:
    """Refuses a file or folder whose own folder is missing or cannot be written.

    Raises:
        UserError: with both.
    """
    # What a link points to is written.
    folder = os.path.dirname(os.path.realpath(path) if os.path.islink(path) else path) or '.'
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


def partial_name(target: PathLike) -> str:
    """Where this process collects what becomes `target`."""
    return f'{target}.{os.getpid()}.partial'


def remove_leftovers(folder: PathLike, name: str | None = None) -> None:
    """Removes the files that processes which are gone left unfinished in a folder.

    Args:
        folder: the folder.
        name: of the file that they were to become; None for any.
    """
    with contextlib.suppress(OSError):  # another process may be at it too
        for leftover in leftovers(folder, name):
            if leftover.is_file(follow_symlinks=False):
                os.remove(leftover.path)


def leftovers(
    folder: PathLike, name: str | None = None, suffix: str = 'partial'
) -> list[os.DirEntry]:
    """What processes that are gone left in a folder: `<name>.<process>.<suffix>`."""
    name = '.+' if name is None else re.escape(name)
    pattern = re.compile(rf'{name}\.([0-9]{{1,9}})\.{suffix}', re.DOTALL)
    with os.scandir(folder) as entries:
        matches = [(entry, pattern.fullmatch(entry.name)) for entry in entries]
    return [entry for entry, match in matches if match and not _is_running(int(match[1]))]


def _is_running(pid):
    try:
        os.kill(pid, 0)  # sends nothing
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # another error: it is somebody else's
    return True


def write_atomically(path: PathLike, data: bytes, overwrite: bool = False) -> None:
    """Writes beside the target, flushes to disk, and renames.

    Args:
        path: the file.
        data: bytes.
        overwrite: whether the file may exist; it stays whole until the new one is.

    Raises:
        UserError: as `check_output`, or the file could not be written (a full disk).
    """
    with open_atomically(path, overwrite) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomically(path: PathLike, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """A file to write piece by piece, which gets its name when all is written and on disk.

    Args:
        path, overwrite: as in `write_atomically`.

    Raises:
        UserError: as `write_atomically`.
    """
    check_output(path, overwrite)
    # A link stays a link: what it points to is replaced.
    target = os.path.realpath(path)
    temporary = partial_name(target)
    try:
        try:
            with open(temporary, 'wb') as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            if os.path.lexists(temporary):
                os.remove(temporary)
    except OSError as error:
        raise UserError(
            f'{os.fspath(path)}: could not be written ({error.strerror or error}); what was there '
            f'before is unchanged: make room or pass another name.'
        ) from error
