"""A student becomes a `.tflite`: its fake quantization is all that the converter needs."""

from collections.abc import Iterable

import numpy as np

from zscgan_tf.student import scheme
from zscgan_tf.student.graph import constants, first_and_last
from zscgan_tf.student.student import Student, export_model, with_head
from zscgan_tf.teacher.head import split_end
from zscgan_tf.tflite import audit, levels
from zscgan_tf.tflite.converter import check_ends, make_integer_converter, named, run_converter


def export(
    student: Student,
    inputs: Iterable[np.ndarray],
    *,
    input_type: str = 'int8',
    output_type: str = 'int8',
    output_head: str = 'model',
) -> tuple[bytes, audit.AuditReport, levels.LevelsReport]:
    """Converts a student, and proves that the file is integer and holds its widths.

    Args:
        student: a `Student` whose ranges are set.
        inputs: iterable of batches, [B, H, W, C], of what the model takes, to count levels on.
        input_type, output_type, output_head: see `convert`.

    Returns:
        The `.tflite` file's bytes, an `AuditReport` and a `LevelsReport`.

    Raises:
        UserError: see `convert`, `audit.audit` and `levels.check_levels`.
    """
    data = convert(student, input_type=input_type, output_type=output_type, output_head=output_head)
    report = audit.audit(data, advice='or leave --method=qat and --range_estimator out')
    names = ('weight_bits', 'activation_bits', 'first_last_bits', 'all_activations')
    widths = {name: getattr(student.options, name) for name in names}
    if student.options.student == 'folded':
        widths['first_last'] = list(map(scheme.wrapped, first_and_last(student.twin)))
        widths['constants'] = list(map(scheme.wrapped, constants(student.twin)))
    return data, report, levels.check_levels(data, inputs, **widths)


def convert(
    student: Student,
    *,
    input_type: str = 'int8',
    output_type: str = 'int8',
    output_head: str = 'model',
) -> bytes:
    """Converts a student to full integers.

    Args:
        student: a `Student` whose ranges are set.
        input_type, output_type: 'int8', 'uint8' or 'float32'.
        output_head: 'model' ends as the user's model did, 'logits' leaves its last softmax
            or sigmoid off, in the same shape: [1, 1] of a single unit.

    Returns:
        The `.tflite` file's bytes.

    Raises:
        UserError: an unknown type or head, or the converter cannot convert it.
    """
    check_ends(input_type, output_type, output_head)
    head = split_end(student.teacher)[1] if output_head == 'model' else None
    if student.options.student == 'tfmot':  # the converter takes it as it is
        model = with_head(student.model, head)
    else:
        model = export_model(student, head)
    converter = make_integer_converter(named(model, student.name), input_type, output_type)
    return run_converter(converter, f'the student of {student.teacher.name}')
