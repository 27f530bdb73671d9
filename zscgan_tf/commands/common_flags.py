"""Flags that several programs share, each defined once, and what is made of them."""

import functools
import os
import sys

from absl import flags

from zscgan_tf import presets
from zscgan_tf.errors import UserError

FLAGS = flags.FLAGS


def define_teacher_flags():
    """The float classifier and its input specification."""
    flags.DEFINE_string(
        'teacher',
        None,
        'The float classifier: a .keras or .h5 file of Keras 2 or 3, a SavedModel folder of Keras '
        '2, or package.module:function (with --allow_code).',
    )
    flags.DEFINE_boolean(
        'allow_code', False, 'Allow the model to run Python code of its own, such as Lambda layers.'
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
        'Instead of --mean and --std: that of tf_keras.applications; raw: 0...255; unit: [0, 1].',
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


def load_teacher(name='teacher'):
    """The teacher that the flag of this name tells, with the other flags of the teacher."""
    from zscgan_tf.teacher.loading import load_teacher as load

    require(name, 'the file of your float classifier')
    fields = {
        'image_size': _image_size(),
        'channels': FLAGS.channels,
        'mean': FLAGS.mean and _numbers('mean', float),
        'std': FLAGS.std and _numbers('std', float),
        'preprocessing': FLAGS.preprocessing,
        'bgr': FLAGS.channel_order and FLAGS.channel_order == 'bgr',
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    return load(
        getattr(FLAGS, name),
        input_spec=fields,
        allow_code=FLAGS.allow_code,
        output_layer=FLAGS.output_layer,
    )


def teacher_flags():
    """The flags of the teacher that were passed, but for its file: a list for a command line."""
    names = (
        'allow_code',
        'image_size',
        'channels',
        'mean',
        'std',
        'preprocessing',
        'channel_order',
        'output_layer',
    )
    return [FLAGS[name].serialize() for name in names if getattr(FLAGS, name)]


def define_run_flags():
    """The run's folder and its seed."""
    flags.DEFINE_string(
        'workdir',
        None,
        'Folder of the run: checkpoints, logs, grids; a run that was interrupted goes on there. '
        '"{seed}" stands for the seed.',
    )
    flags.DEFINE_integer(
        'seed', 0, 'Seed of everything random.', lower_bound=0, upper_bound=presets.MAX_SEED
    )


def workdir(default_of=None):
    """The workdir of the flags, a `NamedFolder`.

    Args:
        default_of: the output that the folder is named after if no flag names it; None where one
            has to.
    """
    from zscgan_tf.training.workdir import NamedFolder

    if FLAGS.workdir:
        path = FLAGS.workdir.replace('{seed}', str(FLAGS.seed))
        return NamedFolder(path, f'--workdir={path}', 'another --workdir')
    if default_of is None:
        raise UserError('--workdir is missing: pass the folder of the run.')
    path = f'{os.path.splitext(default_of)[0]}.workdir'
    name = f'{path}, the default for --output={default_of},'
    return NamedFolder(path, name, 'another --output or --workdir')


def define_raw_pixels_flag():
    """--raw_pixels."""
    flags.DEFINE_boolean(
        'raw_pixels',
        False,
        'The file takes pixels as they are, 0...255 in RGB order (int8: less 128): preprocessing '
        'becomes part of its first convolution, and rounds no image. Default: inputs as the model '
        'takes them.',
    )


def with_raw_pixels(teacher):
    """The teacher that is quantized: with --raw_pixels one that takes them."""
    if not FLAGS.raw_pixels:
        return teacher
    from zscgan_tf.teacher.raw_pixels import raw_pixels

    return raw_pixels(teacher)


def define_generator_flags():
    """What shapes the generator and its training; see presets.py for the values."""
    flags.DEFINE_enum(
        'preset',
        'small',
        presets.PRESETS,
        'Default values of the flags below: small fits two cores, paper is section 3.',
    )
    flags.DEFINE_integer('steps', None, 'Training steps (batches). Paper: 200,000.')
    flags.DEFINE_integer('batch_size', None, 'Images a batch, over all replicas. Paper: 128.')
    flags.DEFINE_float('learning_rate', None, "Adam's first rate; a cosine to 0. Paper: 1e-3.")
    flags.DEFINE_float('class_loss_weight', None, 'Weight of the cross-entropy. Paper: 1.')
    flags.DEFINE_float('bns_loss_weight', None, 'Weight of the BNS loss. Paper: 1.')
    flags.DEFINE_float(
        'entropy_loss_weight',
        None,
        "Weight of the entropy of the teacher's answers and of what a batch lacks to being of many "
        'classes. Paper: 0.',
    )
    flags.DEFINE_list('generator_channels', None, 'Channels of all scales, or of each. Paper: 128.')
    flags.DEFINE_integer(
        'generator_scales',
        None,
        'How often the size is halved. Default: 5, fewer for small images.',
    )
    flags.DEFINE_integer('skip_channels', None, 'Channels of the skips, 0 for none. Paper: 4.')
    flags.DEFINE_integer('z_channels', None, 'Channels of the noise map. Paper: 32.')
    flags.DEFINE_integer('noise_scales', None, 'Scales at which noise enters. Paper: 1.')
    flags.DEFINE_integer(
        'output_stride', None, 'The generator works at 1/stride of the image size. Paper: 1.'
    )
    flags.DEFINE_enum(
        'compute_dtype',
        None,
        presets.CHOICES['compute_dtype'],
        'Type of the passes; moments are float32.',
    )
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


def train_generator(teacher, folder):
    """Trains, resumes or reuses the generator of the flags in a workdir; a `GeneratorSource`."""
    from zscgan_tf.methods import zscgan

    return zscgan.train_generator(
        teacher,
        folder,
        preset=FLAGS.preset,
        seed=FLAGS.seed,
        strategy=strategy(),
        jit_compile=_jit_compile(),
        checkpoint_every=FLAGS.checkpoint_every,
        images_every=FLAGS.images_every,
        keep={'flags.cfg': flags_text()},
        **_given_options(),
    )


def generator_options(teacher):
    """All options of the training of the flags, as `presets.resolve` returns them."""
    return presets.resolve(FLAGS.preset, teacher, _given_options())


def passed_generator_flags():
    """The names of the generator's options that were passed, a set."""
    return {name for name, value in _given_options().items() if value is not None}


def passed_generator_options(teacher):
    """Those of `generator_options` whose flags were passed."""
    options = generator_options(teacher)
    return {name: options[name] for name in passed_generator_flags()}


def _given_options():
    options = {name: getattr(FLAGS, name) for name in presets.OPTIONS}
    if FLAGS.generator_channels:
        options['generator_channels'] = _numbers('generator_channels')
    return options


def define_student_flags():
    """What shapes a quantized student and its distillation; see presets.py for the values."""
    flags.DEFINE_string(
        'student_workdir',
        None,
        'Folder of the distillation. Default: student_w<W>a<A> (student_tfmot) in --workdir. '
        '"{seed}" stands for the seed.',
    )
    flags.DEFINE_enum(
        'student',
        None,
        presets.CHOICES['student'],
        'folded: batch norms folded, any width; tfmot: its quantize_model as it comes, 8 bits.',
    )
    flags.DEFINE_integer('weight_bits', None, 'Width of the weights, 2 to 8. Default: 8.')
    flags.DEFINE_integer(
        'activation_bits', None, 'Width of what convolutions read, 2 to 8. Default: 8.'
    )
    flags.DEFINE_integer(
        'first_last_bits',
        None,
        "Width of the first and the last layer's weights. Default: --weight_bits.",
    )
    flags.DEFINE_boolean(
        'all_activations',
        None,
        "Bring the model's input, the logits and what is only summed to --activation_bits too, not "
        'only what convolutions read.',
    )
    flags.DEFINE_boolean(
        'wide_residuals',
        None,
        'Keep what both convolutions and additions read at 8 bits; convolutions read a copy of '
        '--activation_bits. Paper: no.',
    )
    flags.DEFINE_enum(
        'range_estimator',
        None,
        presets.CHOICES['range_estimator'],
        'How ranges are set before training. With --method=ptq: quantize with these ranges and no '
        "training, instead of TFLite's calibration. Paper: minmax.",
    )
    flags.DEFINE_enum(
        'range_training',
        None,
        presets.CHOICES['range_training'],
        'What happens to ranges in training. Paper: moving_average.',
    )
    flags.DEFINE_integer('range_images', None, 'Images that set the ranges.')
    flags.DEFINE_boolean(
        'align_additions', None, 'One step for what is added, so that sums are exact. Paper: no.'
    )
    flags.DEFINE_boolean(
        'error_compensation', None, 'Round kernels so that their errors cancel. Paper: no.'
    )
    flags.DEFINE_boolean(
        'bias_correction', None, 'Take back what rounding kernels adds to channels. Paper: no.'
    )
    flags.DEFINE_integer('distillation_steps', None, 'Steps of the student. Paper: 50,000.')
    flags.DEFINE_enum(
        'distillation_optimizer',
        None,
        presets.CHOICES['optimizer'],
        'Paper: sgd (Nesterov 0.9).',
    )
    flags.DEFINE_float(
        'distillation_learning_rate', None, 'First rate; a cosine to 0. Paper: 1e-4.'
    )
    flags.DEFINE_float(
        'soft_target_weight', None, 'λ of equation 3. Paper: 1 (eq. 4, soft targets only).'
    )
    flags.DEFINE_float('temperature', None, 'Of the soft targets. Paper: 1.')
    flags.DEFINE_float(
        'feature_loss_weight', None, 'Weight of the error of inner features. Paper: 0.'
    )
    flags.DEFINE_boolean('augment', None, 'Flip and shift the images. Paper: no.')
    flags.DEFINE_boolean('mix', None, 'Blend pairs of images; for soft targets only. Paper: no.')
    flags.DEFINE_boolean(
        'update_generator', None, 'Train the generator on while the student learns. Paper: yes.'
    )


def distillation_options():
    """The options of the distillation that were passed."""
    flags_of = presets.DISTILLATION_FLAGS
    names = {name: flags_of.get(name, name) for name in presets.DISTILLATION_OPTIONS}
    return {name: getattr(FLAGS, flag) for name, flag in names.items()}


def check_student(teacher, options):
    """Refuses, before any work, a teacher that no student can be made of."""
    from zscgan_tf.methods.distillation import build

    build(teacher, options)


def distill(teacher, source, folder, options):
    """Distils, resumes or reuses the student of these options; `folder` is the generator's."""
    from zscgan_tf.methods import distillation

    return distillation.distill(
        teacher,
        source,
        student_folder(folder, options),
        preset=FLAGS.preset,
        seed=FLAGS.seed,
        strategy=strategy(),
        jit_compile=_jit_compile(),
        checkpoint_every=FLAGS.checkpoint_every,
        keep={'flags.cfg': flags_text()},
        **options,
    )


@functools.cache
def strategy():
    """The strategy of the flags: a process makes one."""
    from zscgan_tf.training.strategy import make_strategy

    return make_strategy(FLAGS.strategy)


def _jit_compile():
    return FLAGS.strategy == 'tpu' if FLAGS.jit_compile is None else FLAGS.jit_compile


def student_folder(folder, options):
    """The distillation's folder, a `NamedFolder`; `folder` is the generator's."""
    from zscgan_tf.training.workdir import NamedFolder

    if FLAGS.student_workdir:
        path = FLAGS.student_workdir.replace('{seed}', str(FLAGS.seed))
        return NamedFolder(path, f'--student_workdir={path}', 'another --student_workdir')
    name = f'student_w{options["weight_bits"]}a{options["activation_bits"]}'
    name = 'student_tfmot' if options['student'] == 'tfmot' else name
    path = os.path.join(folder, name)
    where = f'{path}, the default in {folder.name.rstrip(",")},'
    return NamedFolder(path, where, f'a --student_workdir, or {folder.other}')


def flags_text():
    """The flags of this run as a --flagfile."""
    lines = [flag.serialize() for flag in FLAGS.get_key_flags_for_module(sys.argv[0])]
    return ''.join(f'{line}\n' for line in sorted(lines) if line)


def define_overwrite_flag():
    """--overwrite."""
    flags.DEFINE_boolean('overwrite', False, 'Replace the output if it exists.')


def require(name, what):
    """Raises a UserError where a flag is missing."""
    if not getattr(FLAGS, name):
        raise UserError(f'--{name} is missing: pass {what}; see --help.')


def _image_size():
    if FLAGS.image_size is None:
        return None
    sides = _numbers('image_size')
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UserError(
            f'--image_size={",".join(FLAGS.image_size)}: pass height,width in pixels, or one value.'
        )
    return sides * 2 if len(sides) == 1 else sides


def _numbers(name, kind=int):
    try:
        return [kind(text) for text in getattr(FLAGS, name)]
    except ValueError as error:
        raise UserError(f'--{name}={",".join(getattr(FLAGS, name))}: not numbers.') from error
