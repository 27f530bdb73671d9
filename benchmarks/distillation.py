"""What distillation costs beside the same work in float, and what an export takes.

The ratios are measured, and returned, as those of `benchmark`.
"""

import statistics
import time

import tf_keras

from benchmarks.training import compiled, interleaved, summarize
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.methods import distillation, zscgan
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.student.options import StudentOptions
from zscgan_tf.student.student import Student, build_student
from zscgan_tf.tflite import audit, levels, student_export


def distillation_over_float_student(teacher, repeats, batch_size=128):
    """A distillation step over the same step with a float student.

    Both forward the teacher's folded twin, forward and backward the student and apply the
    optimizer, on the same batch of noise, with the paper's options at W8A8. The float student is a
    copy of the twin: what is left is fake quantization.
    """
    pixels = _pixels(teacher, batch_size)
    options = DistillationOptions.resolve('paper', {'update_generator': False})
    student = _student(teacher, options, pixels)
    steps = [
        compiled(_training(each, options)[1], pixels) for each in (student, float_student(student))
    ]
    seconds = interleaved(*steps, repeats=repeats)
    return summarize(
        *seconds, 'ms', 1000, batch_size=batch_size, range_training=options.range_training
    )


def combined_over_sum(teacher, repeats, batch_size=64):
    """A step that trains generator and student over a step of each, one after the other.

    The generator is that of the small preset; the student's own step takes a batch of noise.
    """
    pixels = _pixels(teacher, batch_size)
    combined, generator_step, student_step = combined_training(teacher, pixels)
    alone = compiled(generator_step), compiled(student_step, pixels)
    seconds = interleaved(compiled(combined), lambda: [step() for step in alone], repeats)
    return summarize(*seconds, 'ms', 1000, batch_size=batch_size)


def combined_training(teacher, pixels):
    """The combined step, the generator's and the student's: three steps on the same variables.

    Args:
        teacher: a `Teacher`.
        pixels: the batch, [B, H, W, C], that sets the student's ranges.
    """
    options = DistillationOptions.resolve('paper', {'update_generator': True})
    student = _student(teacher, options, pixels)
    generator_options = GeneratorOptions.resolve('small', {'batch_size': len(pixels)}, teacher)
    generator = zscgan.build_training(teacher, generator_options, seed=0)[0]
    _, update = zscgan.continue_training(
        teacher, generator, generator_options.record(), options.steps, seed=0
    )
    optimizer, student_step = _training(student, options)
    combined = distillation.make_step(student, optimizer, options, generator_update=update)
    return combined, lambda index: update(index)[0], student_step


def export_seconds(teacher, repeats, batch_size=16):
    """Seconds from a W8A8 student to a `.tflite` that was audited and whose levels were checked.

    Returns:
        A dict: `seconds` (the median), `repeats`.
    """
    options = StudentOptions.resolve('small', {})
    student = _student(teacher, options, _pixels(teacher, batch_size))
    bits = {'weight_bits': options.weight_bits, 'activation_bits': options.activation_bits}
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        data = student_export.convert(student)
        audit.audit(data)
        levels.check_levels(data, [], **bits)  # no images: activations have 8 bits
        found.append(time.perf_counter() - started)
    return {'seconds': round(statistics.median(found), 2), 'repeats': repeats}


def float_student(student):
    """A student that is a copy of its float twin, for a step without fake quantization."""
    model = tf_keras.models.clone_model(student.twin)
    model.set_weights(student.twin.get_weights())
    return Student(model, student.twin, student.teacher, student.options)


def _pixels(teacher, batch_size):
    return next(NoiseSource(teacher.input_spec, batch_size=batch_size).batches())[0]


def _student(teacher, options, pixels):
    """A student whose ranges are the batch's extremes."""
    student = build_student(teacher, options)
    set_ranges(student, lambda: [pixels], 'minmax')
    return student


def _training(student, options):
    """The optimizer of a student, and its step on images that it is given."""
    optimizer = distillation.make_optimizer(options, student.trainable_variables())
    return optimizer, distillation.make_step(student, optimizer, options)
