"""Checks of flags that need no TensorFlow: mistakes are told before its import of seconds."""

import os

from absl import flags

from zscgan_tf.commands import common_flags, option_flags
from zscgan_tf.errors import UserError
from zscgan_tf.options import check, flag_of
from zscgan_tf.user_code import is_function_name

FLAGS = flags.FLAGS


def check_inputs() -> None:
    """Refuses values out of range, and what should be read and is not there.

    Raises:
        UserError: with the flag and what is legal.
    """
    _check_teacher()
    for name in ('mean', 'std'):
        if getattr(FLAGS, name):
            option_flags.parse_numbers(name, float)
    common_flags.image_size()
    if FLAGS.preprocessing and (FLAGS.mean or FLAGS.std):
        raise UserError(
            f'--preprocessing={FLAGS.preprocessing} is a mean and a deviation: pass either it, or '
            f'--mean and --std.'
        )
    for field, value in option_flags.all_passed():
        check(field.metadata['kind'], flag_of(field), value)
    for name in ('images', 'evaluation_images'):
        path = getattr(FLAGS, name, None)
        if path and not os.path.isdir(path):
            _check_images(path)
    if getattr(FLAGS, 'dataset', None):
        _check_dataset()


def check_workdir(holds_run: bool = False) -> None:
    """Refuses a --workdir that is missing or cannot be made.

    Args:
        holds_run: whether a run has to be in it already; then it is only read.
    """
    folder = common_flags.workdir_path()
    if holds_run and not os.path.exists(os.path.join(folder, 'config.json')):
        raise UserError(
            f'--workdir={folder} holds no run (no config.json): train a generator there first.'
        )
    if not holds_run:
        check_folder('workdir', folder)


def check_folder(name: str, folder: str) -> None:
    """Refuses a folder that is a file, or could not be made.

    Args:
        name: of its flag.
        folder: its path.
    """
    existing = os.path.abspath(folder)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        why = f'{existing} is a file'
    elif not os.access(existing, os.W_OK | os.X_OK):
        why = f'{existing} cannot be written'
    else:
        return
    raise UserError(f'--{name}={folder} cannot be made ({why}): pass a folder that can be written.')


def _check_teacher():
    common_flags.require('teacher', 'the file of your float classifier')
    path = FLAGS.teacher
    if not os.path.exists(path) and not is_function_name(path):
        raise UserError(f'{path}: no such file or directory: pass the file of your model.')


def _check_images(path):
    if not os.path.exists(path):
        raise UserError(f'{path}: no such file or folder of images.')
    if not path.lower().endswith('.npz'):
        raise UserError(f'{path}: images come from an .npz file or a folder of images.')


def _check_dataset():
    data_dir = FLAGS.data_dir or os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
    name = FLAGS.dataset.split(':')[0]
    if not os.path.isdir(os.path.join(os.path.expanduser(data_dir), name)):
        raise UserError(
            f'--dataset={FLAGS.dataset}: no such dataset in {data_dir}: pass its name, as '
            f'`cifar10`, and the --data_dir that tfds prepared it in (nothing is downloaded here).'
        )


def check_distinct(**outputs: str | None) -> None:
    """Refuses an output in the place of what is read, or of another output.

    Args:
        **outputs: the paths by the names of their flags; None of one that is not written.

    Raises:
        UserError: two are the same file.
    """
    names = ('teacher', 'model', 'images', 'evaluation_images', 'class_names')
    read = {name: getattr(FLAGS, name, None) for name in names}
    paths = [(name, path) for name, path in (read | outputs).items() if path]
    for number, (name, path) in enumerate(paths):
        for other, other_path in paths[:number]:
            if name in outputs and os.path.realpath(path) == os.path.realpath(other_path):
                raise UserError(
                    f'--{name} and --{other} are the same file, {path}: pass another name.'
                )


def check_outside_images(**folders: str | None) -> None:
    """Refuses a run's folder inside a folder of images, where its pictures would count as images.

    Args:
        **folders: the paths by the names of their flags; None of one that is not written.

    Raises:
        UserError: a folder lies in that of --images or --evaluation_images.
    """
    for name in ('images', 'evaluation_images'):
        images = getattr(FLAGS, name, None)
        if not images or not os.path.isdir(images):
            continue
        top = os.path.realpath(images)
        for flag, folder in folders.items():
            if folder and os.path.commonpath([top, os.path.realpath(folder)]) == top:
                raise UserError(
                    f"the run's folder {folder} lies in --{name}={images}, where its pictures "
                    f'would count as images: pass another --{flag}.'
                )
