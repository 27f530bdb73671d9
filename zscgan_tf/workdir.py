"""A run's folder: which teacher and configuration it belongs to (`config.json`)."""

import json
import pathlib

from zscgan_tf.errors import UserError
from zscgan_tf.export import check_local, remove_leftovers, write_atomically
from zscgan_tf.teacher.raw_pixels import takes_raw_pixels


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


def claim(workdir, config, keep=None, flag='--workdir'):
    """Makes the workdir this configuration's, or checks that it already is, and keeps texts there.

    What killed processes left unfinished in it is removed.

    Args:
        workdir: folder; made if it is not there.
        config: dict of JSON values: all that shapes the result, the teacher's fingerprint included.
        keep: dict of name -> text of further files, such as a program's flags.
        flag: the one that named the folder, for messages.

    Raises:
        UserError: the workdir belongs to another teacher or configuration, or can't be written.
    """
    _claim(workdir, config, flag)
    remove_leftovers(workdir)
    for name, text in (keep or {}).items():
        write_atomically(pathlib.Path(workdir) / name, text.encode(), overwrite=True)


def _claim(workdir, config, flag):
    check_local(workdir)
    path = pathlib.Path(workdir) / 'config.json'
    config = json.loads(json.dumps(config))
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'{flag}={workdir} can not be made ({error.strerror}): pass a folder that can '
                f'be written.'
            ) from error
        write_atomically(path, (json.dumps(config, indent=1) + '\n').encode())
        return
    found = read(workdir, flag)
    if found.get('fingerprint') != config['fingerprint']:
        raise UserError(
            f'{flag}={workdir} belongs to another teacher ({found.get("teacher", "unknown")}): '
            f'pass another {flag}.'
        )
    if kind_of(found) != kind_of(config):
        raise UserError(
            f'{flag}={workdir} holds a {kind_of(found)}, not a {kind_of(config)}: pass another '
            f'{flag}.'
        )
    different = differences(found, config)
    if different:
        raise UserError(
            f'{flag}={workdir} holds a run of another configuration ({"; ".join(different)}): '
            f'pass the flags that it was made with, or another {flag}.'
        )


def read(workdir, flag='--workdir'):
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
            f'{flag}={workdir} holds no run (no config.json): train a generator there first.'
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f'{path} can not be read ({error}): remove the folder, or pass another {flag}.'
        ) from error
    if not isinstance(config, dict):
        raise UserError(f'{path} is no configuration: remove the folder, or pass another {flag}.')
    return config


def differences(found, wanted):
    """In words, what differs between two configurations, dicts of JSON values: a sorted list."""
    return sorted(
        f'{key} {_short(found.get(key))}, not {_short(wanted.get(key))}'
        for key in found.keys() | wanted.keys()
        if found.get(key) != wanted.get(key)
    )


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + '...'
