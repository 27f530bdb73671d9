"""The whole job behind the generator or the student: convert, audit, write, say how good it is."""

import collections.abc
import dataclasses
import itertools
import logging
import os

import numpy as np

from zscgan_tf import atomic_files, evaluation
from zscgan_tf.errors import UserError
from zscgan_tf.methods import dfq
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.options import COUNT, check
from zscgan_tf.quantized import Quantized, of_file
from zscgan_tf.sources import Source, StoredSource, at_most, description_of
from zscgan_tf.sources.batches import take
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.calibrate import (
    build,
    calibrate_student,
    check_enough,
    checked_batches,
)
from zscgan_tf.student.options import CalibrationOptions
from zscgan_tf.student.student import Student
from zscgan_tf.student.tfmot_student import set_tfmot_ranges
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite import audit, calibration, convertible, interpreter, student_export
from zscgan_tf.tflite.options import FileOptions, TfliteCalibrationOptions, range_estimator

LEVEL_IMAGES = 64

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a teacher is quantized without training.

    Attributes:
        options: `TfliteCalibrationOptions`, or the `CalibrationOptions` of a student.
        file: what the file takes and returns, `FileOptions`.
        fallback: see `Quantized`.
    """

    options: TfliteCalibrationOptions | CalibrationOptions
    file: FileOptions
    fallback: str | None = None


def make_plan(
    teacher: Teacher, preset: str, options: dict[str, object], *, with_trial: bool = False
) -> Plan:
    """Decides how a teacher is quantized, before its images are made.

    Args:
        teacher: a `Teacher`.
        preset: 'small' or 'paper'.
        options: see `quantize`.
        with_trial: convert the teacher on trial, without its images: what cannot be converted is
                known before a generator is trained.

    Raises:
        UserError: options that contradict each other or are out of range; a layer that can be
            quantized neither way, or not in the way that was asked for.
    """
    fallback = None
    if range_estimator(preset, options) != 'tflite':
        of_student = CalibrationOptions.among(options)
        plan = Plan(
            CalibrationOptions.resolve(preset, of_student, teacher),
            FileOptions.resolve(preset, FileOptions.among(options), teacher),
        )
        try:
            check_student(teacher, plan, with_trial=with_trial)
            return plan
        except UserError as error:
            if of_student:  # asked for
                raise
            fallback = getattr(error, 'reason', str(error))
        logger.warning("TFLite's own calibration sets the ranges: %s", fallback)
    resolved = TfliteCalibrationOptions.resolve(
        preset, TfliteCalibrationOptions.among(options), teacher
    )
    calibration.check_input(teacher, resolved)
    if with_trial:
        convertible.check_convertible(teacher, **resolved.values())
    return Plan(resolved, resolved, fallback)


def check_student(teacher: Teacher, plan: Plan, *, with_trial: bool = False) -> None:
    """Refuses a teacher that no student, or no file of one, can be made of.

    Args:
        teacher: a `Teacher`.
        plan: the student's options, and the file's.
        with_trial: see `make_plan`.

    Raises:
        UserError: a layer has no counterpart in the student (an `UnsupportedError`), or the
            student's file is not integer.
    """
    student = build(teacher, plan.options)
    if with_trial:
        pixels = np.zeros((1, *teacher.input_spec.image_shape), np.float32)
        if plan.options.student == 'tfmot':
            # tfmot's own first ranges round small kernels to zeros, and no bias fits beside these.
            pixels = np.random.default_rng(0).uniform(size=pixels.shape).astype(np.float32)
            set_tfmot_ranges(student, lambda: [pixels])
        inputs = teacher.input_spec.to_inputs(pixels).numpy()
        student_export.export(student, [inputs], **plan.file.values())


def quantize(
    teacher: Teacher,
    source: Source,
    output: str,
    *,
    preset: str = 'small',
    check_images: int = 1000,
    evaluate_on: StoredSource | None = None,
    overwrite: bool = False,
    plan: Plan | None = None,
    **options: object,
) -> Quantized:
    """Quantizes a teacher without training (DF-PTQ with the images of a generator).

    Under the preset 'small' the ranges are set through a student, as `calibrate_student` does.
    Under 'paper', and where a layer has no counterpart in the student, TFLite's own calibration
    sets them.

    Args:
        teacher: a `Teacher`.
        source: where the images come from, such as `train_generator` returns; its first ones set
            the ranges.
        output: the `.tflite` to write.
        preset: 'small' or 'paper': defaults of the options.
        check_images: on how many of the source's next images, which set no ranges, the agreement
            with the teacher is measured.
        evaluate_on: a source with `one_pass` of real images to evaluate on too, or None.
        overwrite: replace the output if it exists.
        plan: what `make_plan` decided with these options; None where it was not asked.
        **options: any field of `CalibrationOptions` or `TfliteCalibrationOptions`, in place of the
            preset's value. `range_estimator` names the way: 'mse', 'minmax' or 'tflite'.

    Raises:
        UserError: an option is out of range, or for the other way; see
            `atomic_files.check_output`, `calibration.convert`, `student_export.export` and
            `audit.audit`. Nothing is written.
    """
    check_images = check(COUNT, 'check_images', check_images)
    atomic_files.check_output(output, overwrite)
    plan = plan or make_plan(teacher, preset, options)
    arguments = {'check_images': check_images, 'evaluate_on': evaluate_on, 'overwrite': overwrite}
    if isinstance(plan.options, CalibrationOptions):
        student = calibrate_student(teacher, source, **plan.options.values())
        return quantize_student(student, source, output, **arguments, **plan.file.values())
    resolved = plan.options
    check_enough(source, 'calibration_images', resolved.calibration_images)
    data = calibration.convert(
        teacher,
        (pixels for pixels, _ in take(source.batches(), resolved.calibration_images)),
        total=resolved.calibration_images,
        **resolved.values(),
    )
    try:
        report = audit.audit(data, allow_float_ops=resolved.allow_float_ops)
    except UserError as error:
        raise convertible.explained(teacher, resolved, error) from error
    tflite = interpreter.TfliteModel(data)
    measures = _measure(
        teacher, source, tflite, resolved.calibration_images, check_images, evaluate_on
    )
    atomic_files.write_atomically(output, data, overwrite)
    return Quantized(os.fspath(output), report, resolved, plan.fallback, **measures)


def quantize_student(
    student: Student,
    source: Source,
    output: str,
    *,
    check_images: int = 1000,
    evaluate_on: StoredSource | None = None,
    overwrite: bool = False,
    **options: object,
) -> Quantized:
    """Writes a student as an integer `.tflite` that holds its widths.

    Args:
        student: a `Student` whose ranges are set, such as `distill` and `calibrate_student` return.
        source: where its images came from; those that made it are not asked for its agreement.
        output: the `.tflite` to write.
        check_images, evaluate_on, overwrite: see `quantize`.
        **options: any field of `FileOptions`.

    Raises:
        UserError: an option is out of range; see `atomic_files.check_output` and
            `student_export.export`. Nothing is written.
    """
    resolved = FileOptions.resolve('small', options)
    check_images = check(COUNT, 'check_images', check_images)
    atomic_files.check_output(output, overwrite)
    teacher = student.teacher
    used_images = student.options.used_images(source.batch_size)
    data, report, levels = student_export.export(
        student, _inputs(teacher, source, used_images), **resolved.values()
    )
    tflite = interpreter.TfliteModel(data)
    measures = _measure(teacher, source, tflite, used_images, check_images, evaluate_on)
    count = at_most(source, check_images)
    own = _agreement(tflite, student, teacher, source, used_images, count)
    atomic_files.write_atomically(output, data, overwrite)
    return Quantized(
        os.fspath(output),
        report,
        student.options,
        None,
        **measures,
        levels=levels,
        student_agreement=own['agreement'],
    )


def quantize_dfq(
    teacher: Teacher,
    output: str,
    *,
    preset: str = 'small',
    evaluate_on: StoredSource | None = None,
    overwrite: bool = False,
    **options: object,
) -> Quantized:
    """Quantizes a teacher by DFQ: without training, and without any image (`methods.dfq`).

    Args:
        teacher: a `Teacher`.
        output: the `.tflite` to write.
        preset: 'small' or 'paper': defaults of the options.
        evaluate_on: a source with `one_pass` of real images to evaluate on, or None: then nothing
            is said of the file's agreement.
        overwrite: replace the output if it exists.
        **options: any field of `DfqOptions` or `FileOptions`, in place of the preset's value.

    Raises:
        UserError: an option is out of range; no two convolutions can be equalized; a layer is not
            supported; see `atomic_files.check_output` and `student_export.export`. Nothing is
            written.
    """
    known = DfqOptions.names() | FileOptions.names()
    if unknown := sorted(options.keys() - known):
        raise UserError(f'unknown option {unknown[0]}: the options are {", ".join(sorted(known))}.')
    resolved = DfqOptions.resolve(preset, DfqOptions.among(options), teacher)
    file = FileOptions.resolve(preset, FileOptions.among(options), teacher)
    atomic_files.check_output(output, overwrite)
    made = dfq.make_student(teacher, resolved)
    # Levels can be counted on anything.
    noise = NoiseSource(teacher.input_spec, batch_size=LEVEL_IMAGES)
    data, report, levels = student_export.export(
        made.student, _inputs(teacher, noise, 0), **file.values()
    )
    tflite = interpreter.TfliteModel(data)
    real, unquantized = (
        candidate
        and evaluate_on
        and evaluation.evaluate(
            candidate, teacher, evaluate_on.one_pass(), total=evaluate_on.image_count
        )
        for candidate in (tflite, made.unquantized())
    )
    known_of_file = of_file(teacher, tflite)
    atomic_files.write_atomically(output, data, overwrite)
    return Quantized(
        os.fspath(output),
        report,
        resolved,
        None,
        fresh=None,
        seen=None,
        real=real,
        **known_of_file,
        levels=levels,
        dfq=dfq.in_words(made),
        unquantized=unquantized,
        twin=made.student.twin,
    )


def _measure(teacher, source, tflite, used_images, check_images, evaluate_on):
    """What is known of a file that was audited, but not written yet."""
    fresh = _fresh_agreement(tflite, teacher, source, used_images, check_images)
    real = evaluate_on and evaluation.evaluate(
        tflite, teacher, evaluate_on.one_pass(), total=evaluate_on.image_count
    )
    seen = None
    if not fresh and not real:
        count = at_most(source, check_images)
        seen = _agreement(tflite, teacher, teacher, source, 0, count)
    kind = description_of(source)['kind']
    measured = {'fresh': fresh, 'seen': seen, 'real': real, 'source_kind': kind}
    return measured | of_file(teacher, tflite)


def _inputs(teacher, source, used) -> collections.abc.Iterator[np.ndarray]:
    """Batches of the source's next images as the model takes them, to count levels on."""
    batches = checked_batches(teacher, source, _next_batch(source, used))
    for pixels, _ in itertools.islice(batches, -(-LEVEL_IMAGES // source.batch_size)):
        yield teacher.input_spec.to_inputs(pixels).numpy()


def _next_batch(source, used):
    """The number of a source's first batch behind the `used` first images."""
    return -(-used // source.batch_size)


def _fresh_agreement(tflite, teacher, source, used, wanted):
    """Agreement on images of the source behind the `used` first ones; None if it has no more."""
    stored = getattr(source, 'image_count', None)
    if stored is not None:  # a source of stored images begins again behind its last one
        wanted = min(wanted, stored - _next_batch(source, used) * source.batch_size)
    return _agreement(tflite, teacher, teacher, source, used, wanted)


def _agreement(tflite, model, teacher, source, used, wanted):
    """Agreement with a teacher or its student behind the `used` first images; None of no images."""
    if wanted < 1:
        return None
    batches = checked_batches(teacher, source, _next_batch(source, used))
    # Without labels: a generator's are what it aimed at, not what the images show.
    images = ((pixels, None) for pixels, _ in take(batches, wanted))
    return evaluation.evaluate(tflite, model, images, total=wanted)
