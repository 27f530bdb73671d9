"""Flags of real images, and the sources that they name."""

import typing

from absl import flags

from zscgan_tf.errors import UserError

if typing.TYPE_CHECKING:
    from zscgan_tf.sources.dataset import DatasetSource
    from zscgan_tf.sources.files import FileSource
    from zscgan_tf.teacher.teacher import Teacher

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Real images: for evaluation, and for the data-dependent --source=dataset|files."""
    flags.DEFINE_string('dataset', None, 'A tfds dataset that was prepared, such as cifar10.')
    flags.DEFINE_string('data_dir', None, 'The folder of tfds datasets. Default: that of tfds.')
    flags.DEFINE_string(
        'images', None, 'Real images: an .npz file, or a folder of images or of folders by class.'
    )
    flags.DEFINE_integer(
        'resize_short_side',
        None,
        'Real images of another size: their short side before the centre crop. '
        "Default: 256/224 of the teacher's size from 64 pixels on.",
        lower_bound=1,
    )


def check_unused(*read: str | None) -> None:
    """Refuses flags of real images that nothing reads.

    Args:
        *read: the flags that name real images, None where they were not passed.
    """
    # Recipes have a --data_dir that stays where their --dataset is replaced by --images.
    for name in ('data_dir', 'resize_short_side'):
        if getattr(FLAGS, name) is not None and not any(read):
            raise UserError(
                f'--{name} is for real images, and no flag names any: leave --{name} out.'
            )


def define_split_flag() -> None:
    """--split, of programs that read one set of real images."""
    flags.DEFINE_string('split', None, 'Split of --dataset. Default: test.')


def check_one_set() -> None:
    """Refuses two sets of real images, and flags of a set that is not named.

    Raises:
        UserError: with the flags.
    """
    if FLAGS.images and FLAGS.dataset:
        raise UserError('--images and --dataset name two sets of images: pass one.')
    if FLAGS.split and not FLAGS.dataset:
        raise UserError(f'--split={FLAGS.split} is of a --dataset: pass one, or leave --split out.')
    check_unused(FLAGS.images, FLAGS.dataset)


def of_flags(teacher: 'Teacher', batch_size: int = 100) -> 'FileSource | DatasetSource | None':
    """The source of --images or --dataset with --split; None where neither was passed."""
    if FLAGS.images:
        return in_path(FLAGS.images, teacher, batch_size)
    if FLAGS.dataset:
        return of_split(FLAGS.split or 'test', teacher, batch_size)
    return None


def in_path(path: str, teacher: 'Teacher', batch_size: int = 100) -> 'FileSource':
    """The source of an .npz file or a folder of images."""
    from zscgan_tf.sources.files import FileSource

    return FileSource(path, teacher.input_spec, batch_size, FLAGS.seed, FLAGS.resize_short_side)


def of_split(split: str, teacher: 'Teacher', batch_size: int = 100) -> 'DatasetSource':
    """The source of a split of --dataset."""
    from zscgan_tf.sources.dataset import DatasetSource

    return DatasetSource(
        FLAGS.dataset,
        split,
        FLAGS.data_dir,
        teacher.input_spec,
        batch_size,
        FLAGS.seed,
        FLAGS.resize_short_side,
    )
