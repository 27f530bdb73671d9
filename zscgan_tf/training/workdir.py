"""A run's folder: which teacher and configuration it belongs to (`config.json`)."""

import json
import pathlib

from zscgan_tf.atomic_files import check_local, remove_leftovers, write_atomically
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.raw_pixels import takes_raw_pixels


class NamedFolder(str):
    """A folder's path that knows what messages call it: the flag that the user passed for it.

    Args:
        path: the folder.
        name: as '--workdir=runs/1'.
        other: what to pass instead, as 'another --workdir'.
    """

    def __new__(cls, path, name, other):
        folder = super().__new__(cls, path)
        folder.name, folder.other = name, other
        return folder


def name_of(workdir):
    """What messages call a workdir."""
    return workdir.name if isinstance(workdir, NamedFolder) else str(workdir)


def other_than(workdir):
    """What messages tell to pass instead of a workdir."""
    return workdir.other if isinstance(workdir, NamedFolder) else 'another folder'


def config_of(teacher, options, seed):
    """What a workdir belongs to: the teacher, its preprocessing, and all that shapes the result."""
    raw_pixels = {'raw_pixels': True} if takes_raw_pixels(teacher.model) else {}
    return {
        'teacher': teacher.name,
        'fingerprint': teacher.fingerprint,
        'input_spec': teacher.input_spec.to_dict(),
        **raw_pixels,
        **options,
        'seed': seed,
    }


def kind_of(config):
    """What a workdir of this configuration holds: 'student' (made of images) or 'generator'."""
    return 'student' if 'source_kind' in config else 'generator'


def claim(workdir, config, keep=None):
    """Makes the workdir this configuration's, or checks that it already is, and keeps texts there.

    What killed processes left unfinished in it is removed.

    Args:
        workdir: folder, perhaps a `NamedFolder`; made if it is not there.
        config: dict of JSON values: all that shapes the result, the teacher's fingerprint included.
        keep: dict of name -> text of further files, such as a program's flags.

    Raises:
        UserError: the workdir belongs to another teacher or configuration, or can't be written.
    """
    _claim(workdir, config)
    remove_leftovers(workdir)
    for name, text in (keep or {}).items():
        write_atomically(pathlib.Path(workdir) / name, text.encode(), overwrite=True)


def _claim(workdir, config):
    check_local(workdir)
    path = pathlib.Path(workdir) / 'config.json'
    config = json.loads(json.dumps(config))
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'{name_of(workdir)} can not be made ({error.strerror}): pass a folder that can be '
                f'written.'
            ) from error
        write_atomically(path, (json.dumps(config, indent=1) + '\n').encode())
        return
    found = read(workdir)
    name, other = name_of(workdir), other_than(workdir)
    if found.get('fingerprint') != config['fingerprint']:
        raise UserError(
            f'{name} belongs to another teacher ({found.get("teacher", "unknown")}): pass {other}, '
            f'or delete it.'
        )
    if kind_of(found) != kind_of(config):
        raise UserError(f'{name} holds a {kind_of(found)}, not a {kind_of(config)}: pass {other}.')
    # The fingerprint says which teacher it is: its file may have been renamed.
    different = differences({**found, 'teacher': config.get('teacher')}, config)
    if different:
        raise UserError(
            f'{name} holds a run of another configuration ({"; ".join(different)}): pass what it '
            f'was made with, or {other}.'
        )


def read(workdir):
    """The configuration that a workdir was made with, a dict.

    Raises:
        UserError: there is none, or it can't be read.
    """
    check_local(workdir)
    path = pathlib.Path(workdir) / 'config.json'
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise UserError(
            f'{name_of(workdir)} holds no run (no config.json): train a generator there first.'
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f'{path} can not be read ({error}): delete the folder, or pass {other_than(workdir)}.'
        ) from error
    if not isinstance(config, dict):
        raise UserError(
            f'{path} is no configuration: delete the folder, or pass {other_than(workdir)}.'
        )
    return config


def differences(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """In words, what differs between two configurations, dicts of JSON values: a sorted list.

    A switch that is off is the same as one that is missing: options come and go with versions.
    """
    return sorted(
        f'{key} {_short(found.get(key))}, not {_short(wanted.get(key))}'
        for key in found.keys() | wanted.keys()
        if found.get(key, False) != wanted.get(key, False)
    )


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + '...'
