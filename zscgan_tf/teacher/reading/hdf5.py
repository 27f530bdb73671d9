"""HDF5 files of weights: nothing but their own bytes is read, whatever a stranger wrote there.

HDF5 can name other files in four ways: links to objects in them, links along a path, datasets
stored in them, and datasets put together from them. Keras writes none of these.
"""

import math
import pathlib
import re

import h5py

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.reading.sizes import check_unpacked

# Where Keras 2.13 and 2.14 keep the layers of a model.
_OLD_LAYERS = '_layer_checkpoint_dependencies'


def check_hdf5(file: h5py.File, stored: int, path: pathlib.Path) -> list[str]:
    """Refuses an HDF5 file that names other files, or whose tensors are larger than it can hold.

    Nothing is followed and no dataset is read.

    Args:
        file: an open `h5py.File`.
        stored: its bytes.
        path: the file, for messages.

    Returns:
        The names of all groups and datasets.

    Raises:
        UserError: the file names others, or is too large in memory.
    """
    names, total = [], 0
    # Hard links may make circles.
    seen, pending = {_address(file)}, [file]
    while pending:
        group = pending.pop()
        for key in group:
            name = f'{group.name.rstrip("/")}/{key}'
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise _names_other(path, f"'{name}' is a link to another place")
            part = group[key]
            if _address(part) in seen:
                continue
            seen.add(_address(part))
            names.append(name)
            if isinstance(part, h5py.Group):
                pending.append(part)
            elif isinstance(part, h5py.Dataset):
                if part.external or part.is_virtual:
                    raise _names_other(path, f"the values of '{name}' are in another file")
                total += math.prod(part.shape or ()) * part.dtype.itemsize
    check_unpacked(total, stored, 'its tensors take', path)
    return names


def _address(part):
    info = h5py.h5o.get_info(part.id)
    return info.fileno, info.addr


def _names_other(path, what):
    return UserError(
        f'{path}: {what}, which no Keras writes and a stranger could use to read your files: save '
        f'the model anew, and do not trust this file.'
    )


def rename_groups(source: h5py.File, names: list[str], target: pathlib.Path) -> bool:
    """Copies the weights of an old `.keras` file with its groups named as Keras names them today.

    Keras 2.13 and 2.14 name the layers of a model `_layer_checkpoint_dependencies`, and 2.13
    numbers those of one class with gaps. Keras 2 on Windows separates names by a backslash.

    Args:
        source: the open `h5py.File`, checked.
        names: the names of its groups and datasets.
        target: path of the new file.

    Returns:
        Whether there is a new file: another is not needed where the names are today's.
    """
    if not any('\\' in name or _OLD_LAYERS in name for name in names):
        return False
    with h5py.File(target, 'w') as file:
        numbers = _numbers(names)
        for name in names:
            parts = _parts(name)
            renamed = [numbers.get(tuple(parts[: i + 1]), part) for i, part in enumerate(parts)]
            renamed = ['layers' if part == _OLD_LAYERS else part for part in renamed]
            if isinstance(source[name], h5py.Group):
                file.require_group('/'.join(renamed))
            else:
                group = file.require_group('/'.join(['', *renamed[:-1]]))
                source.copy(source[name], group, name=renamed[-1])
    return True


def _parts(name):
    return name.strip('/').replace('\\', '/').split('/')


def _numbers(names):
    """Today's names of the layers in lists of layers, by their paths: those of a class count on."""
    layers = {}
    for name in names:
        parts = _parts(name)
        for i, part in enumerate(parts[1:], 1):
            if parts[i - 1] == _OLD_LAYERS:
                kind, number = re.fullmatch(r'(.*?)(?:_(\d+))?', part).groups()
                of_kind = layers.setdefault((*parts[:i], kind), {})
                of_kind[int(number or 0)] = tuple(parts[: i + 1])
    return {
        place: key[-1] if count == 0 else f'{key[-1]}_{count}'
        for key, of_kind in layers.items()
        for count, (_, place) in enumerate(sorted(of_kind.items()))
    }
