"""Workdirs: the folder that a run keeps, and whose teacher and options are in its `config.json`."""

import json
import pathlib
from collections.abc import Mapping

from zscgan_tf.atomic_files import PathLike, check_local, remove_leftovers, write_atomically
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.teacher import Teacher


class NamedFolder(str):
    """A folder's path that knows what messages call it: the flag that the user passed for it.

    Args:
        path: the folder.
        name: as '--workdir=runs/1'.
        other: what to pass instead, as 'another --workdir'.
    """

    def __new__(cls, path: PathLike, name: str, other: str):
        folder = super().__new__(cls, path)
        folder.name, folder.other = name, other
        return folder


def name_of(workdir: PathLike) -> str:
    """What messages call a workdir."""
    return workdir.name if isinstance(workdir, NamedFolder) else str(workdir)


def other_than(workdir: PathLike) -> str:
    """What messages tell to pass instead of a workdir."""
    return workdir.other if isinstance(workdir, NamedFolder) else 'another folder'


def config_of(teacher: Teacher, options: Mapping[str, object], seed: int) -> dict[str, object]:
    """What a workdir belongs to: the teacher, its preprocessing, and all that shapes the result."""
    raw_pixels = {}
    if teacher.preprocessing:  # what the first convolution does, and `input_spec` does not say
        spec = teacher.preprocessing
        raw_pixels = {f'raw_pixels_{name}': getattr(spec, name) for name in ('mean', 'std', 'bgr')}
    return {
        'teacher': teacher.name,
        'fingerprint': teacher.fingerprint,
        'input_spec': teacher.input_spec.to_dict(),
        **raw_pixels,
        **options,
        'seed': seed,
    }


def kind_of(config: Mapping[str, object]) -> str:
    """What a workdir of this configuration holds: 'student', 'images' (optimized) or 'generator'.

    A student was made of images, and its configuration says of which: so it is asked for first.
    """
    if 'source_kind' in config:
        return 'student'
    return 'images' if 'images_method' in config else 'generator'


def held(config: Mapping[str, object]) -> str:
    """The same in words: 'a student', 'images of zeroq', 'a generator'."""
    kind = kind_of(config)
    return f'images of {config["images_method"]}' if kind == 'images' else f'a {kind}'


def claim(
    workdir: PathLike, config: Mapping[str, object], keep: Mapping[str, str] | None = None
) -> None:
    """Makes the workdir this configuration's, or checks that it already is, and keeps texts there.

    What killed processes left unfinished in it is removed.

    Args:
        workdir: folder, perhaps a `NamedFolder`; made if it is not there.
        config: dict of JSON values: all that shapes the result, the teacher's fingerprint included.
        keep: dict of name -> text of further files, such as a program's flags.

    Raises:
        UserError: the workdir belongs to another teacher or configuration, or cannot be written.
    """
    check_local(workdir)
    folder = pathlib.Path(workdir)
    config = json.loads(json.dumps(config))
    if (folder / 'config.json').exists():
        _check_same(workdir, config)
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'{name_of(workdir)} cannot be made ({error.strerror}): pass a folder that can be '
                f'written.'
            ) from error
        try:
            write_atomically(folder / 'config.json', (json.dumps(config, indent=1) + '\n').encode())
        except UserError:
            if not (folder / 'config.json').exists():
                raise
            _check_same(workdir, config)  # another process was first
    remove_leftovers(workdir)
    for name, text in (keep or {}).items():
        write_atomically(folder / name, text.encode(errors='surrogateescape'), overwrite=True)


def read_of(
    workdir: PathLike, fingerprint: str, advice: str = 'pass the workdir of this one'
) -> dict[str, object]:
    """What `read` returns, of a workdir of the teacher with this fingerprint.

    Raises:
        UserError: see `read`; the workdir belongs to another teacher.
    """
    config = read(workdir)
    if config.get('fingerprint') != fingerprint:
        raise UserError(
            f'{name_of(workdir)} belongs to another teacher '
            f'({config.get("teacher", "unknown")}): {advice}.'
        )
    return config


def _check_same(workdir, config):
    name, other = name_of(workdir), other_than(workdir)
    stored = read_of(workdir, config['fingerprint'], f'pass {other}, or delete it')
    if held(stored) != held(config):
        raise UserError(f'{name} holds {held(stored)}, not {held(config)}: pass {other}.')
    # The fingerprint says which teacher it is: its file may have been renamed.
    different = differences({**stored, 'teacher': config.get('teacher')}, config)
    if different:
        raise UserError(
            f'{name} holds a run of another configuration ({"; ".join(different)}): pass what it '
            f'was made with, or {other}.'
        )


def read(workdir: PathLike) -> dict[str, object]:
    """The configuration that a workdir was made with.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    check_local(workdir)
    path = pathlib.Path(workdir) / 'config.json'
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise UserError(
            f'{name_of(workdir)} holds no run (no config.json): pass the folder of a run.'
        ) from error
    except OSError as error:
        raise UserError(
            f'{path} cannot be read ({error.strerror}): make it readable, or pass '
            f'{other_than(workdir)}.'
        ) from error
    except ValueError as error:
        raise UserError(
            f'{path} cannot be read ({error}): delete the folder, or pass {other_than(workdir)}.'
        ) from error
    if not isinstance(config, dict):
        raise UserError(
            f'{path} is no configuration: delete the folder, or pass {other_than(workdir)}.'
        )
    return config


def differences(stored: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """In words, what differs between two configurations of JSON values, sorted.

    A switch that is off is the same as one that is missing: options come and go with versions.
    """
    found = []
    for key in stored.keys() | wanted.keys():
        one, other = _without_off(stored.get(key)), _without_off(wanted.get(key))
        if isinstance(one, dict) and isinstance(other, dict):
            found += [f'{key}.{inner}' for inner in differences(one, other)]
        elif one != other:
            found.append(f'{key} {_short(stored.get(key))}, not {_short(wanted.get(key))}')
    return sorted(found)


def _without_off(value):
    return None if value is False else value


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + '...'
