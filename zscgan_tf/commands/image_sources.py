"""--source: where the images come from that set ranges and train students."""

import typing

from absl import flags

from zscgan_tf.commands import common_flags, option_flags, real_images
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.user_code import is_function_name

if typing.TYPE_CHECKING:
    from zscgan_tf.sources import Source
    from zscgan_tf.teacher.teacher import Teacher
    from zscgan_tf.training.workdir import NamedFolder

FLAGS = flags.FLAGS
SOURCES = ('zscgan', 'noise_uniform', 'noise_gaussian', 'files', 'dataset')


def define_flags() -> None:
    """--source, and what belongs to it alone."""
    flags.DEFINE_string(
        'source',
        'zscgan',
        'Where the calibration images come from: zscgan, a generator (no data); noise_uniform or '
        'noise_gaussian (no data); files, --images; dataset, --dataset with --calibration_split; '
        'or package.module:function, a source of your own (with --allow_code).',
    )
    flags.DEFINE_string(
        'calibration_split', None, 'Split of --dataset for --source=dataset. Default: train.'
    )


def check() -> None:
    """Refuses an unknown source, flags that it would not read, and what is missing for it.

    Raises:
        UserError: with the flags.
    """
    name = FLAGS.source
    if name not in SOURCES and not is_function_name(name):
        raise UserError(
            f'--source={name} is unknown: pass one of {", ".join(SOURCES)}, or '
            f'package.module:function.'
        )
    if is_function_name(name) and not FLAGS.allow_code:
        raise UserError(f'--source={name} is Python code; pass --allow_code if you trust it.')
    if FLAGS.images and name != 'files':
        raise UserError('--images is for --source=files: pass it, or leave --images out.')
    if FLAGS.dataset and name != 'dataset' and not FLAGS.evaluation_split:
        raise UserError(
            '--dataset is for --source=dataset or --evaluation_split: pass one of them, or leave '
            '--dataset out.'
        )
    if FLAGS.calibration_split and name != 'dataset':
        raise UserError(
            '--calibration_split is for --source=dataset: pass both, or leave both out.'
        )
    real_images.check_unused(FLAGS.images, FLAGS.dataset, FLAGS.evaluation_images)
    if not has_generator():
        passed = set(option_flags.passed_flags(GeneratorOptions)) - {'batch_size'}
        if passed:
            raise UserError(
                f'--{min(passed)} is for a generator, and --source={name} has none: leave it out.'
            )
    if name == 'files':
        common_flags.require('images', 'what --source=files reads')
    if name == 'dataset':
        common_flags.require('dataset', 'the dataset that --source=dataset reads')


def has_generator() -> bool:
    """Whether the images are those of a generator, which is trained in --workdir."""
    return FLAGS.source == 'zscgan'


def make(teacher: 'Teacher', folder: 'NamedFolder') -> 'Source':
    """The source of the flags; a generator is trained, or its training resumed.

    Args:
        teacher: a `Teacher`.
        folder: the run's workdir.
    """
    if has_generator():
        return common_flags.train_generator(teacher, folder)
    batch_size = common_flags.generator_options(teacher).batch_size
    if is_function_name(FLAGS.source):
        from zscgan_tf.sources.custom import custom_source

        return custom_source(FLAGS.source, teacher, allow_code=FLAGS.allow_code)
    if FLAGS.source.startswith('noise_'):
        from zscgan_tf.sources.noise import NoiseSource

        kind = FLAGS.source.removeprefix('noise_')
        return NoiseSource(teacher.input_spec, kind, batch_size=batch_size, seed=FLAGS.seed)
    if FLAGS.source == 'files':
        return real_images.in_path(FLAGS.images, teacher, batch_size)
    return real_images.of_split(_calibration_split(), teacher, batch_size)


def record(teacher: 'Teacher') -> dict[str, object]:
    """What results say of the images, JSON values."""
    found, generator = {'source': FLAGS.source}, common_flags.generator_options(teacher)
    if has_generator():
        return found | generator.record()
    found['batch_size'] = generator.batch_size
    if FLAGS.source == 'dataset':
        found |= {'dataset': FLAGS.dataset, 'calibration_split': _calibration_split()}
    if FLAGS.source == 'files':
        found['files'] = FLAGS.images
    return found


def training_steps(teacher: 'Teacher') -> int:
    """Steps of training that the images take; 0 where nothing is trained for them."""
    return common_flags.generator_options(teacher).steps if has_generator() else 0


def _calibration_split():
    return FLAGS.calibration_split or 'train'
