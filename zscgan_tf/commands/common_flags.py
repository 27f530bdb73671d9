"""Flags that several programs share, and what is made of them.

What needs TensorFlow is imported when it is used: `--help` is instant.
"""

import functools
import logging
import os
import shlex
import sys
import typing

from absl import flags

from zscgan_tf import options
from zscgan_tf.commands import option_flags
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.student.options import StudentOptions

if typing.TYPE_CHECKING:
    import tensorflow as tf

    from zscgan_tf.sources import Source
    from zscgan_tf.sources.generator import GeneratorSource
    from zscgan_tf.student.student import Student
    from zscgan_tf.teacher.teacher import Teacher
    from zscgan_tf.training.workdir import NamedFolder

FLAGS = flags.FLAGS
# Between the seeds of fresh images and of those that a run calibrates with.
_FRESH_SEED = 1_000_003
logger = logging.getLogger(__name__)
# What says how images become inputs, and what of a file is the teacher.
TEACHER_FLAGS = (
    'allow_code',
    'image_size',
    'channels',
    'mean',
    'std',
    'preprocessing',
    'channel_order',
    'output_layer',
)


def define_teacher_flags() -> None:
    """The float classifier and its input specification."""
    flags.DEFINE_string(
        'teacher',
        None,
        'The float classifier: a .keras or .h5 file of Keras 2 or 3, a SavedModel folder of Keras '
        '2, or package.module:function (with --allow_code).',
    )
    flags.DEFINE_boolean(
        'allow_code',
        False,
        'Allow Python code that the model brings, such as Lambda layers, or that a flag names.',
    )
    flags.DEFINE_list(
        'image_size', None, 'Height,width, where the model leaves them open; one value for both.'
    )
    flags.DEFINE_integer('channels', None, 'Channels, where the model leaves them open.')
    flags.DEFINE_list('mean', None, 'Mean of the pixels in [0, 1], one value or one a channel.')
    flags.DEFINE_list('std', None, 'Deviation of the pixels, one value or one a channel.')
    flags.DEFINE_enum(
        'preprocessing',
        None,
        ['tf', 'torch', 'caffe', 'raw', 'unit'],
        "How the model's training prepared images. tf, torch, caffe: Keras' preprocess_input of "
        'that mode; unit: pixels / 255; raw: pixels of 0...255.',
    )
    flags.DEFINE_enum(
        'channel_order',
        None,
        ['rgb', 'bgr'],
        'Order of the channels that the model was trained with: bgr of images read by cv2.imread. '
        '--mean and --std are in this order. Default: rgb, or that of --preprocessing.',
    )
    flags.DEFINE_string(
        'output_layer', None, 'The output that classifies, of a model with several outputs.'
    )


def load_teacher(name: str = 'teacher') -> 'Teacher':
    """The teacher that the flag of this name tells, with the other flags of the teacher."""
    from zscgan_tf.teacher.description import in_one_line
    from zscgan_tf.teacher.loading import load_teacher as load

    require(name, 'the file of your float classifier')
    fields = {
        'image_size': image_size(),
        'channels': FLAGS.channels,
        'mean': FLAGS.mean and option_flags.parse_numbers('mean', float),
        'std': FLAGS.std and option_flags.parse_numbers('std', float),
        'preprocessing': FLAGS.preprocessing,
        'bgr': FLAGS.channel_order and FLAGS.channel_order == 'bgr',
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    teacher = load(
        getattr(FLAGS, name),
        input_spec=fields,
        allow_code=FLAGS.allow_code,
        output_layer=FLAGS.output_layer,
    )
    logger.info('loaded %s: %s', getattr(FLAGS, name), in_one_line(teacher))
    return teacher


def teacher_flags() -> list[str]:
    """The flags of the teacher that were passed, but for its file: a list for a command line."""
    return [FLAGS[name].serialize() for name in TEACHER_FLAGS if getattr(FLAGS, name)]


def define_run_flags() -> None:
    """The run's folder and its seed."""
    flags.DEFINE_string(
        'workdir',
        None,
        'Folder of the run: checkpoints, logs, pictures. An interrupted run continues there. '
        'Default of quantize: --output with .workdir. "{seed}" stands for the seed.',
    )
    flags.DEFINE_integer(
        'seed', 0, 'Seed of everything random.', lower_bound=0, upper_bound=options.MAX_SEED
    )


def workdir(default_of: str | None = None) -> 'NamedFolder':
    """The workdir of the flags, a `NamedFolder`.

    Args:
        default_of: the output that the folder is named after if no flag names it; None where one
            has to.
    """
    from zscgan_tf.training.workdir import NamedFolder

    path = workdir_path(default_of)
    if FLAGS.workdir:
        return NamedFolder(path, f'--workdir={path}', 'another --workdir')
    name = f'{path}, the default for --output={default_of},'
    return NamedFolder(path, name, 'another --output or --workdir')


def workdir_path(default_of: str | None = None) -> str:
    """The path of `workdir`; see there."""
    if FLAGS.workdir:
        return with_seed(FLAGS.workdir)
    if default_of is None:
        raise UserError('--workdir is missing: pass the folder of the run.')
    return f'{os.path.splitext(default_of)[0]}.workdir'


def with_seed(path: str) -> str:
    """A path of the flags with the seed in place of "{seed}"."""
    return path.replace('{seed}', str(FLAGS.seed))


def define_raw_pixels_flag() -> None:
    """--raw_pixels."""
    flags.DEFINE_boolean(
        'raw_pixels',
        False,
        'The file takes pixels of 0...255 in RGB order (int8: less 128). The preprocessing becomes '
        'part of the first convolution, so the input is not rounded. Default: inputs as the model '
        'takes them.',
    )


def with_raw_pixels(teacher: 'Teacher') -> 'Teacher':
    """The teacher that is quantized: with --raw_pixels one that takes them."""
    if not FLAGS.raw_pixels:
        return teacher
    from zscgan_tf.teacher.raw_pixels import raw_pixels

    return raw_pixels(teacher)


def define_generator_flags() -> None:
    """What shapes the generator and its training, and how trainings run."""
    flags.DEFINE_enum(
        'preset',
        'small',
        options.PRESETS,
        'Default values of the options. small: minutes to an hour on two CPU cores; paper: those '
        'of arXiv 2210.14392, section 3, days on a GPU.',
    )
    option_flags.define(GeneratorOptions)
    flags.DEFINE_enum(
        'strategy',
        'default',
        ['default', 'mirrored', 'tpu'],
        'tf.distribute strategy: one device, all GPUs of the machine, or a TPU.',
    )
    flags.DEFINE_boolean(
        'jit_compile', None, 'Compile the step with XLA. Default: with --strategy=tpu only.'
    )
    flags.DEFINE_integer('checkpoint_every', 500, 'Steps between checkpoints.', lower_bound=1)
    flags.DEFINE_integer('images_every', 500, 'Steps between grids of images.', lower_bound=1)


def train_generator(teacher: 'Teacher', folder: 'NamedFolder') -> 'GeneratorSource':
    """Trains, resumes or reuses the generator of the flags in a workdir; a `GeneratorSource`."""
    from zscgan_tf.methods import zscgan

    return zscgan.train_generator(
        teacher,
        folder,
        images_every=FLAGS.images_every,
        **training_arguments(),
        **option_flags.passed(GeneratorOptions),
    )


def generator_options(teacher: 'Teacher') -> GeneratorOptions:
    """The `GeneratorOptions` of the flags."""
    return GeneratorOptions.resolve(FLAGS.preset, option_flags.passed(GeneratorOptions), teacher)


def define_student_flags() -> None:
    """What shapes a quantized student and its distillation."""
    flags.DEFINE_string(
        'student_workdir',
        None,
        'Folder of the distillation. Default: student_w<W>a<A> (student_tfmot) in --workdir. '
        '"{seed}" stands for the seed.',
    )
    option_flags.define(DistillationOptions)


def distill(
    teacher: 'Teacher', source: 'Source', folder: 'NamedFolder', **options: object
) -> 'Student':
    """Distils, resumes or reuses the student of the flags in a workdir.

    Args:
        teacher, source, folder: see `distillation.distill`.
        **options: values in place of those of flags.
    """
    from zscgan_tf.methods import distillation

    return distillation.distill(
        teacher,
        source,
        folder,
        **training_arguments(),
        **{**option_flags.passed(DistillationOptions), **options},
    )


def training_arguments() -> dict[str, object]:
    """What all trainings are called with, beside their options."""
    return {
        'preset': FLAGS.preset,
        'seed': FLAGS.seed,
        'strategy': strategy(),
        'jit_compile': jit_compile(),
        'checkpoint_every': FLAGS.checkpoint_every,
        'keep': {'flags.cfg': flags_text()},
    }


def jit_compile() -> bool:
    """Whether XLA compiles the steps."""
    return FLAGS.strategy == 'tpu' if FLAGS.jit_compile is None else FLAGS.jit_compile


@functools.cache
def strategy() -> 'tf.distribute.Strategy':
    """The strategy of the flags: a process makes one."""
    from zscgan_tf.training.strategy import make_strategy

    return make_strategy(FLAGS.strategy)


def student_folder(folder: 'NamedFolder', student_options: StudentOptions) -> 'NamedFolder':
    """The distillation's folder, a `NamedFolder`; `folder` is the generator's."""
    from zscgan_tf.training.workdir import NamedFolder

    if FLAGS.student_workdir:
        path = with_seed(FLAGS.student_workdir)
        return NamedFolder(path, f'--student_workdir={path}', 'another --student_workdir')
    name = f'student_w{student_options.weight_bits}a{student_options.activation_bits}'
    name = 'student_tfmot' if student_options.student == 'tfmot' else name
    path = os.path.join(folder, name)
    where = f'{path}, the default in {folder.name.rstrip(",")},'
    return NamedFolder(path, where, f'a --student_workdir, or {folder.other}')


def flags_text() -> str:
    """The flags of this run as a --flagfile."""
    lines = [flag.serialize() for flag in FLAGS.get_key_flags_for_module(sys.argv[0])]
    return ''.join(f'{line}\n' for line in sorted(lines) if line)


def command_line() -> str:
    """The command that was started, as a shell takes it."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])


def define_page_flags() -> None:
    """What a page shows."""
    flags.DEFINE_string(
        'class_names',
        None,
        'Names of the classes, for the page: a file with one a line, or a list with commas. '
        "Default: `labels` in the model's .json.",
    )


def class_names() -> list[str] | None:
    """The names that --class_names tells; None where it was not passed.

    Raises:
        UserError: the file is not there or cannot be read.
    """
    text = FLAGS.class_names
    if text is None:
        return None
    if not os.path.exists(text):
        if ',' not in text:
            raise UserError(
                f'--class_names={text}: no such file: pass a file with one name a line, or '
                f'names with commas between them.'
            )
        return [name.strip() for name in text.split(',')]
    try:
        with open(text, encoding='utf-8') as file:
            return [line.strip() for line in file.read().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f'--class_names={text}: cannot be read ({error}): pass a text with one name a line.'
        ) from error


def check_class_names(teacher: 'Teacher') -> None:
    """Refuses names of other classes than the teacher's.

    Raises:
        UserError: --class_names has another number of names.
    """
    names = class_names()
    if names is not None and len(names) != teacher.num_classes:
        raise UserError(
            f'--class_names has {len(names)} names, and {teacher.name} has {teacher.num_classes} '
            f'classes: pass one name a class, in the order of the outputs.'
        )


def define_overwrite_flag() -> None:
    """--overwrite."""
    flags.DEFINE_boolean('overwrite', False, 'Replace the output if it exists.')


def fresh_seed() -> int:
    """The seed of images that a run with the seed of --seed did not calibrate with."""
    return (FLAGS.seed + _FRESH_SEED) % (options.MAX_SEED + 1)


def require(name: str, what: str) -> None:
    """Raises a UserError where a flag is missing."""
    if not getattr(FLAGS, name):
        raise UserError(f'--{name} is missing: pass {what}; see --help.')


def image_size() -> list[int] | None:
    """Height and width of --image_size, None where it was not passed.

    Raises:
        UserError: it is not one or two sides.
    """
    if FLAGS.image_size is None:
        return None
    sides = option_flags.parse_numbers('image_size')
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UserError(
            f'--image_size={",".join(FLAGS.image_size)}: pass height,width in pixels, or one value.'
        )
    return sides * 2 if len(sides) == 1 else sides
