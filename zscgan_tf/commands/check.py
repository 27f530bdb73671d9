"""`quantize.py --check`: says what was found in a model, and what its quantization will cost.

Nothing is written. The time is that of a few real steps of the generator's training.
"""

import collections.abc
import resource
import sys
import textwrap
import typing

from absl import flags

from zscgan_tf.commands import common_flags, dfq_flags, image_sources, option_flags
from zscgan_tf.errors import UserError
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.options import preset_words
from zscgan_tf.progress import duration

if typing.TYPE_CHECKING:
    from zscgan_tf.teacher.teacher import Teacher

FLAGS = flags.FLAGS
NAME_WIDTH = 12


def run() -> None:
    """Prints a row for each thing that was found, as soon as it is known.

    Raises:
        UserError: the model is no classifier that can be quantized; the message says why.
    """
    teacher = common_flags.load_teacher()
    for name, text in _rows(teacher):
        print(_wrapped(name, text), flush=True)


def _rows(teacher):
    yield from _found(teacher)
    if dfq_flags.is_chosen():
        yield from _dfq(teacher)
        yield from _tflite(teacher)
        yield from _training(teacher)
        return
    problem = _student_problem(teacher)
    yield from _student(teacher, problem)
    yield from _tflite(teacher)
    yield from _training(teacher)
    if problem is None:
        yield from _distillation()


def _wrapped(name, text):
    width = NAME_WIDTH + 1
    lines = textwrap.wrap(text, 80 - width, break_long_words=False, break_on_hyphens=False)
    return f'{name:<{width}}' + f'\n{"":<{width}}'.join(lines)


Rows = collections.abc.Iterator[tuple[str, str]]


def _found(teacher: 'Teacher') -> Rows:
    from zscgan_tf.teacher.description import classes, layer_counts, parameter_count
    from zscgan_tf.teacher.tap import batch_norm_inputs

    counts = layer_counts(teacher)
    yield 'model', f'{FLAGS.teacher}: {parameter_count(teacher):,} parameters'
    layers = ', '.join(f'{count} {name}' for name, count in counts.items())
    yield 'layers', f'{sum(counts.values())}: {layers}'
    yield 'images', teacher.input_spec.describe()
    yield 'classes', classes(teacher)
    found = batch_norm_inputs(teacher.model)
    channels = sum(layer.moving_mean.shape[0] for layer, _ in found)
    yield (
        'batch norms',
        f'{len(found)} with {channels:,} channels: images are made from their stored moments',
    )


def _student_problem(teacher: 'Teacher') -> UserError | None:
    """Why no student can be made of the teacher."""
    from zscgan_tf.pipeline import Plan, check_student
    from zscgan_tf.student.options import CalibrationOptions
    from zscgan_tf.tflite.options import FileOptions

    passed = option_flags.passed(DistillationOptions)
    options_class, preset = DistillationOptions, FLAGS.preset
    if FLAGS.method == 'ptq':  # by TFLite perhaps, which another row is about
        options_class, preset = CalibrationOptions, 'small'
        others = {('range_estimator', 'tflite'), ('activation_bits', 16)}
        passed = {name: value for name, value in passed.items() if (name, value) not in others}
    try:
        plan = Plan(
            options_class.resolve(preset, options_class.among(passed), teacher),
            FileOptions.resolve('small', {}),
        )
        check_student(common_flags.with_raw_pixels(teacher), plan, with_trial=True)
    except UserError as error:
        return error
    return None


def _student(teacher: 'Teacher', problem: UserError | None) -> Rows:
    """Whether a student can be made of the teacher, and which layers are in the way."""
    from zscgan_tf.teacher.graphs import nodes
    from zscgan_tf.teacher.layer_types import LAYER_TYPES

    if problem is None:
        yield 'student', 'can be made: all layers have an integer counterpart, of 2 to 8 bits'
        return
    yield 'student', f'cannot be made: {getattr(problem, "reason", problem)}'
    known = {name for name, kind in LAYER_TYPES.items() if kind.student or kind.dropped}
    others = {
        node.layer.name: type(node.layer).__name__
        for node in nodes(teacher.model)
        if type(node.layer).__name__ not in known
    }
    if others:
        names = ', '.join(f"'{name}' ({kind})" for name, kind in others.items())
        yield '', f'layers without a counterpart: {names}'


def _dfq(teacher: 'Teacher') -> Rows:
    """What DFQ finds to do, or why it cannot."""
    from zscgan_tf.methods import dfq
    from zscgan_tf.methods.dfq_options import DfqOptions

    passed = DfqOptions.among(dfq_flags.passed_options())
    teacher = common_flags.with_raw_pixels(teacher)
    try:
        made = dfq.make_student(teacher, DfqOptions.resolve(FLAGS.preset, passed, teacher))
        yield 'DFQ', f'can be made: {dfq.in_words(made)}'
    except UserError as error:
        yield 'DFQ', f'cannot be made: {getattr(error, "reason", error)}'


def _tflite(teacher: 'Teacher') -> Rows:
    from zscgan_tf.tflite.convertible import check_convertible

    try:
        check_convertible(teacher, allow_float_ops=FLAGS.allow_float_ops)
        yield (
            'TFLite',
            'its own calibration takes the model too (--method=ptq --range_estimator=tflite)',
        )
    except UserError as error:
        yield 'TFLite', f'its own calibration cannot take the model: {error}'


def _training(teacher: 'Teacher') -> Rows:
    """What the generator's training costs on this machine."""
    from zscgan_tf.methods import zscgan
    from zscgan_tf.training import loop

    if dfq_flags.is_chosen():
        yield 'training', 'none: --method=dfq needs neither images nor training, only seconds'
        return
    if not image_sources.has_workdir():
        yield 'training', f'none: --source={FLAGS.source} has no generator'
        return
    strategy = common_flags.strategy()
    if image_sources.is_optimized():
        options = image_sources.optimized_options(teacher)
        if not options.iterations:
            yield 'training', 'none: --iterations=0 leaves the images that it starts with'
            return
        images, step = options.group_size, image_sources.optimization_step(teacher)
    else:
        options = common_flags.generator_options(teacher)
        images = options.batch_size
        with strategy.scope():
            _, _, step = zscgan.build_training(teacher, options, FLAGS.seed)
    print(f'measuring steps of {images} images ...', file=sys.stderr, flush=True)
    first, each = loop.measure(step, options.steps, strategy, common_flags.jit_compile())
    total = first + each * options.steps
    yield (
        'training',
        f'{options.steps:,} steps of {images} images, {each:.2g} seconds each: about '
        f'{duration(total)} on this machine',
    )
    if getattr(options, 'compete_weight', 0):
        yield (
            'student 1',
            'half of the steps of the student below, between the halves of the images; the steps '
            'of the second half take longer, since they ask this student too',
        )
    # In bytes on macOS, in KiB on Linux.
    unit = 1 if sys.platform == 'darwin' else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    yield 'memory', f'{peak / 1e9:.1f} GB: the peak of this process, training steps included'


def _distillation() -> Rows:
    """What the training of a student costs."""
    steps = preset_words(DistillationOptions.__dataclass_fields__['steps'], FLAGS.preset)
    if FLAGS.distillation_steps:
        steps = f'{FLAGS.distillation_steps:,}'
    is_trained = image_sources.has_workdir() and FLAGS.iterations != 0
    cost = f'{steps} steps more, about as long each' if is_trained else f'{steps} steps'
    if FLAGS.method == 'qat':
        yield 'student', cost
    elif is_trained:
        yield 'fewer bits', f'--method=qat --weight_bits=4 trains a student: {cost}'
