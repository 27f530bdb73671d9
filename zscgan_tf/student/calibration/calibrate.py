"""Calibrates a student: all that is done on images before, or instead of, its training."""

import collections.abc

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.sources import Source, description_of
from zscgan_tf.sources.batches import check_batch, take
from zscgan_tf.student.calibration.alignment import align_additions
from zscgan_tf.student.calibration.bias_correction import correct_biases
from zscgan_tf.student.calibration.error_compensation import compensate_errors
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.student.options import CalibrationOptions
from zscgan_tf.student.student import Student, build_student
from zscgan_tf.student.tfmot_student import build_tfmot_student, set_tfmot_ranges
from zscgan_tf.teacher.teacher import Teacher


def calibrate(
    student: Student,
    images: collections.abc.Callable[[], collections.abc.Iterable[np.ndarray]],
    options: CalibrationOptions,
) -> None:
    """Sets a student's ranges, joins grids of what is added, rounds kernels, corrects biases.

    Args:
        student: a `Student` with its twin's weights.
        images: a function that returns `range_images` images in batches of pixels.
        options: which of these, and how.
    """
    total = options.range_images
    set_all = set_tfmot_ranges if student.options.student == 'tfmot' else set_ranges
    set_all(student, images, options.range_estimator, total)
    if options.align_additions:
        align_additions(student)
    if options.error_compensation:
        compensate_errors(student, images, total)
    if options.bias_correction:
        correct_biases(student, images, total)


def calibrate_student(
    teacher: Teacher,
    source: Source,
    *,
    preset: str = 'small',
    **options: object,
) -> Student:
    """A student of a teacher, calibrated on a source's first images, without any training.

    Args:
        teacher: a `Teacher`.
        source: where the images come from.
        preset: 'small' or 'paper': defaults of the options.
        **options: any field of `CalibrationOptions`, in place of the preset's value.

    Returns:
        The `Student`; `quantize_student` makes a file of it.

    Raises:
        UserError: an option is out of range, a layer is not supported, images of another shape or
            not finite, or too few of them.
    """
    resolved = CalibrationOptions.resolve(preset, options)
    check_images(teacher, source, resolved)
    student = build(teacher, resolved)
    calibrate(student, first_images(teacher, source, resolved), resolved)
    return student


def build(teacher: Teacher, options: CalibrationOptions) -> Student:
    """The `Student` of these options, its ranges not set yet; all of its `UserError`s."""
    if options.student == 'tfmot':
        return build_tfmot_student(teacher, options)
    return build_student(teacher, options)


def first_images(
    teacher: Teacher, source: Source, options: CalibrationOptions
) -> collections.abc.Callable[[], collections.abc.Iterable[np.ndarray]]:
    """A function that returns the images of a source that set ranges, in batches of pixels."""

    def images():
        batches = take(checked_batches(teacher, source), options.range_images)
        return (pixels for pixels, _ in batches)

    return images


def checked_batches(
    teacher: Teacher, source: Source, start: int = 0, reads_labels: bool = False
) -> collections.abc.Iterator[tuple]:
    """A source's batches from number `start` on; `reads_labels`: see `check_batch`.

    Raises:
        UserError: while it is iterated: see `check_batch`; where the batches end, too.
    """
    kind = description_of(source)['kind']
    for batch in source.batches(start=start):
        pixels, labels = check_batch(batch, source, teacher, kind, reads_labels)
        yield tf.constant(pixels), labels
    raise UserError(f'{kind} ended: yield batches without end, from the first image again.')


def check_images(teacher: Teacher, source: Source, options: CalibrationOptions) -> None:
    """Refuses, before any work, a source whose images cannot set ranges.

    Raises:
        UserError: images of another shape, or too few of them.
    """
    if tuple(source.image_shape) != teacher.input_spec.image_shape:
        raise UserError(
            f'the images have the shape {list(source.image_shape)}, but {teacher.name} takes '
            f'{list(teacher.input_spec.image_shape)}: pass images of its size.'
        )
    check_enough(source, 'range_images', options.range_images)


def check_enough(source: Source, option: str, wanted: int) -> None:
    """Refuses a source of fewer images than an option asks for.

    Raises:
        UserError: with the option.
    """
    count = getattr(source, 'image_count', None)
    if count is not None and count < wanted:
        raise UserError(
            f'the source holds {count} images, fewer than the {wanted} that set the ranges: pass '
            f'more images, or a smaller --{option}.'
        )
