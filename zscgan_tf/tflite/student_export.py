"""A student becomes a `.tflite`: its fake quantization is all that the converter needs."""

from collections.abc import Iterable

import numpy as np

from zscgan_tf.student import scheme
from zscgan_tf.student.graph import constants, first_and_last
from zscgan_tf.student.student import Student, export_model, with_head
from zscgan_tf.teacher.head import split_end
from zscgan_tf.tflite import audit, levels
from zscgan_tf.tflite.converter import make_integer_converter, prepared, run_converter
from zscgan_tf.tflite.options import FileOptions


def export(
    student: Student, inputs: Iterable[np.ndarray], **options: object
) -> tuple[bytes, audit.AuditReport, levels.LevelsReport]:
    """Converts a student, and proves that the file is integer and holds its widths.

    Args:
        student: a `Student` whose ranges are set.
        inputs: iterable of batches, [B, H, W, C], of what the model takes, to count levels on.
        **options: any field of `FileOptions`.

    Returns:
        The `.tflite` file's bytes, an `AuditReport` and a `LevelsReport`.

    Raises:
        UserError: see `convert`, `audit.audit` and `levels.check_levels`.
    """
    data = convert(student, **options)
    report = audit.audit(data, advice='or quantize with --method=ptq --range_estimator=tflite')
    names = ('weight_bits', 'activation_bits', 'first_last_bits', 'activation_scope')
    widths = {name: getattr(student.options, name) for name in names}
    if student.options.student == 'folded':
        widths['first_last'] = list(map(scheme.wrapped, first_and_last(student.twin)))
        widths['constants'] = list(map(scheme.wrapped, constants(student.twin)))
    return data, report, levels.check_levels(data, inputs, **widths)


def convert(student: Student, **options: object) -> bytes:
    """Converts a student to full integers.

    Args:
        student: a `Student` whose ranges are set.
        **options: any field of `FileOptions`.

    Returns:
        The `.tflite` file's bytes.

    Raises:
        UserError: an option is out of range, or the converter cannot convert it.
    """
    resolved = FileOptions.resolve('small', options)
    head = split_end(student.teacher)[1] if resolved.output_head == 'model' else None
    # The converter takes a student of tfmot as it is.
    model = student.model if student.options.student == 'tfmot' else export_model(student)
    model = with_head(model, head)
    model = prepared(model, student.name, resolved.file_batch, student.equalized)
    converter = make_integer_converter(model, resolved)
    return run_converter(converter, f'the student of {student.teacher.name}')
