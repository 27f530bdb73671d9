"""A trained student becomes a `.tflite`: its fake quantization is all that the converter needs."""

from tensorflow.lite.python.convert_phase import ConverterError

from zscgan_tf.errors import UserError
from zscgan_tf.quantizers.ptq import make_integer_converter, what_matters
from zscgan_tf.quantizers.student import export_model, split_end
from zscgan_tf.quantizers.tfmot_student import export_tfmot_model
from zscgan_tf.quiet import hidden_output


def convert(student, *, input_type='int8', output_type='int8', output_head='model'):
    """Converts a student to full integers.

    Args:
        student: a `Student` whose ranges are set.
        input_type, output_type: 'int8', 'uint8' or 'float32'.
        output_head: 'model' ends as the user's model did, 'logits' leaves its softmax off.

    Returns:
        The `.tflite` file's bytes.

    Raises:
        UserError: the converter cannot convert it.
    """
    head = split_end(student.teacher)[1] if output_head == 'model' else None
    export = export_tfmot_model if student.kind == 'tfmot' else export_model
    converter = make_integer_converter(export(student, head), input_type, output_type)
    with hidden_output() as hidden:
        try:
            return converter.convert()
        except (ConverterError, RuntimeError, ValueError) as error:
            raise UserError(
                f'The TFLite converter cannot convert the student of {student.teacher.name}: '
                f'{what_matters(str(error), hidden.text())}'
            ) from error
