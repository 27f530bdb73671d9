"""The result file of a recipe: metrics with one value a seed, and what made them."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

from zscgan_tf.atomic_files import PathLike, check_output, write_atomically
from zscgan_tf.errors import UserError
from zscgan_tf.training.workdir import differences

PACKAGES = (
    'tensorflow',
    'tf_keras',
    'keras',
    'tensorflow-model-optimization',
    'ai-edge-litert',
    'numpy',
)


def add(
    path: PathLike, seed: int, metrics: Mapping[str, float], minutes: float, **common: Any
) -> None:
    """Adds one seed's result to a file, in place of an earlier one of that seed.

    Several processes may add to one file at the same time.

    Args:
        path: the JSON file; made if it is not there.
        seed: of the run.
        metrics: by name. Seeds without a metric that others have get null.
        minutes: of training.
        **common: what all seeds share, such as `float_accuracy`, `images`, `steps`. `options` and
            `evaluation`, dicts of what shaped the result and of the images that it was measured
            on, are taken over where the file has none yet.

    Raises:
        UserError: the file holds the results of another configuration, or cannot be written.
    """
    with _alone(path):
        found = read(path) if os.path.exists(path) else {}
        if found:
            own = {'metrics', 'minutes', 'seeds', *made_with()}
            _refuse_others(path, {k: value for k, value in found.items() if k not in own}, common)
        runs = {
            old: {
                'minutes': found['minutes'][i],
                'metrics': {
                    name: values[i]
                    for name, values in found['metrics'].items()
                    if values[i] is not None
                },
            }
            for i, old in enumerate(found.get('seeds', []))
        }
        runs[seed] = {'minutes': round(minutes, 2), 'metrics': metrics}
        seeds = sorted(runs)
        names = dict.fromkeys(name for s in seeds for name in runs[s]['metrics'])
        result = {
            'metrics': {
                name: [
                    round(runs[s]['metrics'][name], 4) if name in runs[s]['metrics'] else None
                    for s in seeds
                ]
                for name in names
            },
            **common,
            'minutes': [runs[s]['minutes'] for s in seeds],
            'seeds': seeds,
            **made_with(),
        }
        write_atomically(path, (json.dumps(result, indent=1) + '\n').encode(), overwrite=True)


@contextlib.contextmanager
def _alone(path):
    """Waits until no other process adds to a result file of this folder."""
    check_output(path, overwrite=True)
    # The folder is locked, not the file, which each writer replaces by another.
    folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def made_with() -> dict[str, Any]:
    """The versions and the machine that a result was made with, as it stands in its file."""
    return {
        'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
        'machine': f'{os.cpu_count()} cores, {platform.system()} {platform.machine()}',
    }


def check(path: PathLike, evaluated: bool | None = None, **known: Any) -> None:
    """Refuses a result file to which a seed could not be added in the end; called before any work.

    Args:
        path: the JSON file.
        evaluated: whether there are labelled images to evaluate on, so a `float_accuracy` to come.
        **known: what is known by then of what `add` will be told.

    Raises:
        UserError: as `add`.
    """
    check_output(path, overwrite=True)
    if os.path.exists(path):
        found = read(path)
        _refuse_others(path, {key: found[key] for key in known if key in found}, known)
        if evaluated is not None and evaluated != ('float_accuracy' in found):
            raise UserError(
                f'--result_json={path} holds results with{"out" if evaluated else ""} an accuracy: '
                f'evaluate as it did, or pass another name.'
            )


def _refuse_others(path, found, common):
    common = json.loads(json.dumps(common))  # as it is read back: lists for tuples
    pairs = []
    for name in ('options', 'evaluation'):  # files of earlier versions have none
        wanted = common.pop(name, {})
        pairs.append((found.pop(name, wanted), wanted))
    pairs.insert(1, (found, common))
    different = [difference for pair in pairs for difference in differences(*pair)]
    if different:
        raise UserError(
            f'--result_json={path} holds results of another configuration ({different[0]}): '
            f'remove it, or pass another name.'
        )


def read(path: PathLike) -> dict[str, Any]:
    """The content of a result file.

    Raises:
        UserError: it is no result file.
    """
    try:
        result = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
        result['metrics'], result['seeds'], result['minutes']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: not a result file of quantize ({error!r}): pass another --result_json.'
        ) from error
    return result
