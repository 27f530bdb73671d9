"""--source: where the images come from that set ranges and train students."""

import collections.abc
import dataclasses
import importlib
import typing

from absl import flags

from zscgan_tf.commands import common_flags, option_flags, real_images
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.methods.inversion_options import (
    DeepInversionOptions,
    InversionOptions,
    ZeroqOptions,
)
from zscgan_tf.options import Options, flag_of
from zscgan_tf.user_code import is_function_name

if typing.TYPE_CHECKING:
    from zscgan_tf.sources import Source
    from zscgan_tf.teacher.teacher import Teacher
    from zscgan_tf.training.workdir import NamedFolder

FLAGS = flags.FLAGS
# The sources whose images are optimized, with their options.
OPTIMIZED = {'zeroq': ZeroqOptions, 'deep_inversion': DeepInversionOptions}
SOURCES = ('zscgan', *OPTIMIZED, 'noise_uniform', 'noise_gaussian', 'files', 'dataset')


def define_flags() -> None:
    """--source, and what belongs to it alone."""
    flags.DEFINE_string(
        'source',
        'zscgan',
        'Where the calibration images come from: zscgan, a generator (no data); zeroq or '
        'deep_inversion, optimized one group after the other (no data); noise_uniform or '
        'noise_gaussian (no data); files, --images; dataset, --dataset with --calibration_split; '
        'or package.module:function, a source of your own (with --allow_code).',
    )
    flags.DEFINE_string(
        'calibration_split', None, 'Split of --dataset for --source=dataset. Default: train.'
    )
    for options_class in OPTIMIZED.values():
        option_flags.define(options_class)


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
        readers = '--evaluation_split'
        if FLAGS.method != 'dfq':
            readers = f'--source=dataset or {readers}'
        raise UserError(f'--dataset is for {readers}: pass that too, or leave --dataset out.')
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
        if is_function_name(name) and FLAGS.batch_size is not None:
            raise UserError(
                f'--batch_size={FLAGS.batch_size}: --source={name} says itself how many images a '
                f'batch has: leave it out.'
            )
    _check_runs(name)
    _check_optimized(name)
    if FLAGS.method == 'qat':
        _check_distillation(name)
    if name == 'files':
        common_flags.require('images', 'what --source=files reads')
    if name == 'dataset':
        common_flags.require('dataset', 'the dataset that --source=dataset reads')


def _check_runs(name):
    """Refuses flags of trainings where there is none that reads them."""
    unread = [] if has_generator() else ['images_every']
    if not has_workdir() and FLAGS.method == 'ptq':
        unread += ['workdir', 'checkpoint_every', 'strategy', 'jit_compile']
    for flag in unread:
        if FLAGS[flag].value != FLAGS[flag].default:  # a run's own flags.cfg has defaults too
            raise UserError(
                f'--{flag} is for a training that --source={name} does not have: leave it out.'
            )


def _check_optimized(name):
    """Refuses flags of optimized images that this source would not read."""
    own = OPTIMIZED[name].names() if is_optimized() else set()
    for source, options_class in OPTIMIZED.items():
        if wrong := sorted(option_flags.passed(options_class).keys() - own):
            flag = flag_of(options_class.__dataclass_fields__[wrong[0]])
            owners = ' or '.join(OPTIMIZED) if wrong[0] in InversionOptions.names() else source
            raise UserError(f'--{flag} is for --source={owners}: pass it, or leave --{flag} out.')
    if is_optimized() and FLAGS.strategy != 'default':
        raise UserError(
            f'--strategy={FLAGS.strategy}: --source={name} optimizes images on one device: leave '
            f'it out.'
        )
    if FLAGS.compete_weight and FLAGS.method != 'qat':
        raise UserError(
            '--compete_weight needs a student that is trained: pass --method=qat, or leave it out.'
        )


def _check_distillation(name):
    """Refuses options of a student that its images rule out, before hours of making images."""
    passed = option_flags.passed(DistillationOptions)
    options = DistillationOptions.resolve(FLAGS.preset, passed)
    if options.update_generator and not has_generator():
        default = '' if passed.get('update_generator') else ', the default of --preset=paper,'
        raise UserError(
            f'--update_generator{default} has no generator to update with --source={name}: pass '
            f'--noupdate_generator.'
        )
    unconditional = has_generator() and FLAGS.unconditional
    unlabelled = name == 'zeroq' or name.startswith('noise_') or unconditional
    if options.soft_target_weight < 1 and unlabelled:
        what = '--unconditional' if unconditional else f'--source={name}'
        raise UserError(
            f'--soft_target_weight={options.soft_target_weight:g} needs labels, which the images '
            f'of {what} do not have: pass 1 (eq. 4), or a source with labels.'
        )


def has_generator() -> bool:
    """Whether the images are those of a generator, which is trained in --workdir."""
    return FLAGS.source == 'zscgan'


def is_optimized() -> bool:
    """Whether the images are optimized, which --workdir keeps."""
    return FLAGS.source in OPTIMIZED


def has_workdir() -> bool:
    """Whether --workdir holds a training that makes the images: its losses, a grid of images."""
    return has_generator() or is_optimized()


def optimized_options(teacher: 'Teacher') -> InversionOptions:
    """The options of the flags, of a source whose images are optimized."""
    options_class = OPTIMIZED[FLAGS.source]
    return options_class.resolve(FLAGS.preset, option_flags.passed(options_class), teacher)


def limited(options: Options, teacher: 'Teacher', passed: set[str]) -> Options:
    """Options of ranges that ask for no more images than are optimized.

    Args:
        options: with `range_images` or `calibration_images`, the preset's or what was passed.
        teacher: a `Teacher`.
        passed: names of the options that were passed.

    Raises:
        UserError: more images were asked for than there will be.
    """
    if not is_optimized():
        return options
    name = 'range_images' if hasattr(options, 'range_images') else 'calibration_images'
    count, wanted = optimized_options(teacher).images, getattr(options, name)
    if wanted > count and name in passed:
        raise UserError(
            f'--{name}={wanted} is more than the {count} images of --source={FLAGS.source}: pass '
            f'fewer, or more --optimized_images.'
        )
    return dataclasses.replace(options, **{name: min(wanted, count)})


def make(teacher: 'Teacher', folder: 'NamedFolder', to_quantize: 'Teacher') -> 'Source':
    """The source of the flags; a generator is trained, images are optimized, or that is resumed.

    Args:
        teacher: a `Teacher`.
        folder: the run's workdir.
        to_quantize: what a student is made of; the teacher, or that of raw pixels.
    """
    if has_generator():
        return common_flags.train_generator(teacher, folder)
    if is_optimized():
        return _optimize(teacher, folder, to_quantize)
    batch_size = common_flags.generator_options(teacher).batch_size
    if is_function_name(FLAGS.source):
        from zscgan_tf.sources.custom import custom_source

        return custom_source(FLAGS.source, teacher, allow_code=FLAGS.allow_code, seed=FLAGS.seed)
    if FLAGS.source.startswith('noise_'):
        from zscgan_tf.sources.noise import NoiseSource

        kind = FLAGS.source.removeprefix('noise_')
        return NoiseSource(teacher.input_spec, kind, batch_size=batch_size, seed=FLAGS.seed)
    if FLAGS.source == 'files':
        return real_images.in_path(FLAGS.images, teacher, batch_size)
    return real_images.of_split(_calibration_split(), teacher, batch_size)


def optimization_step(teacher: 'Teacher') -> collections.abc.Callable:
    """The step of a source whose images are optimized, to measure it."""
    module = importlib.import_module(f'zscgan_tf.methods.{FLAGS.source}')
    return module.build_optimization(teacher, optimized_options(teacher), FLAGS.seed).step


def _optimize(teacher, folder, to_quantize):
    from zscgan_tf.methods.deep_inversion import make_deep_inversion_images
    from zscgan_tf.methods.zeroq import make_zeroq_images

    arguments = {
        **common_flags.training_arguments(),
        'batch_size': common_flags.generator_options(teacher).batch_size,
        **option_flags.passed(OPTIMIZED[FLAGS.source]),
    }
    del arguments['strategy']
    if FLAGS.source == 'zeroq':
        return make_zeroq_images(teacher, folder, **arguments)
    return make_deep_inversion_images(
        teacher,
        folder,
        student_teacher=to_quantize,
        student_options=option_flags.passed(DistillationOptions),
        **arguments,
    )


def record(teacher: 'Teacher') -> dict[str, object]:
    """What results say of the images, JSON values."""
    found, generator = {'source': FLAGS.source}, common_flags.generator_options(teacher)
    if has_generator():
        return found | generator.record()
    if not is_function_name(FLAGS.source):  # it has its own
        found['batch_size'] = generator.batch_size
    if is_optimized():
        options = optimized_options(teacher)
        found |= {**options.record(), 'image_passes': options.image_passes}
    if FLAGS.source == 'dataset':
        found |= {'dataset': FLAGS.dataset, 'calibration_split': _calibration_split()}
    if FLAGS.source == 'files':
        found['files'] = FLAGS.images
    return found


def training_steps(teacher: 'Teacher') -> int:
    """Steps of training that the images take; 0 where nothing is trained for them."""
    if is_optimized():
        return optimized_options(teacher).steps
    return common_flags.generator_options(teacher).steps if has_generator() else 0


def _calibration_split():
    return FLAGS.calibration_split or 'train'
