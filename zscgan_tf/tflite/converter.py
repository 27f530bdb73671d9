"""TFLite's converter: set to full integers, run without its chatter, its failures in one line."""

import re
from collections.abc import Callable, Iterable
from typing import TextIO

import tensorflow as tf
import tf_keras
from tensorflow.lite.python.convert_phase import ConverterError

from zscgan_tf.errors import UserError
from zscgan_tf.quiet import hidden_output
from zscgan_tf.teacher.graphs import call_again, rebuild
from zscgan_tf.tflite.options import FileOptions, TfliteCalibrationOptions

MESSAGE_LENGTH = 400
# The converter's sets of operations, by the width of activations.
_OPS = {
    8: tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    16: tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


# Stands before the model's name in a file whose layers have other scales than the teacher's.
EQUALIZED = 'equalized_'


def prepared(
    model: tf_keras.Model, name: str, batch: int = 0, equalized: bool = False
) -> tf_keras.Model:
    """The model under its teacher's name, with the batch size of its file.

    The file's tensors take their names from the model's. Keras numbers models without a name by
    what else a process has built: the same run would give other bytes after an interruption.

    Args:
        model: a flat functional tf_keras model.
        name: the teacher's; numbers that Keras gave it are left off.
        batch: images that the file takes at once. Where it is fixed, the file needs no arithmetic
            on shapes (SHAPE, STRIDED_SLICE and PACK in front of a RESHAPE). 0 leaves it open.
        equalized: whether its layers have other scales than the teacher's. The name says so, and no
            other name does.
    """
    name = re.sub(r'^(model|sequential|functional)_\d+$', r'\1', name)
    name = re.sub(rf'^({EQUALIZED})+', '', name)
    name = re.sub(r'[^A-Za-z0-9_.-]+', '_', name).lstrip('_.-') or 'teacher'
    name = f'{EQUALIZED}{name}' if equalized else name
    if not batch:
        return tf_keras.Model(model.input, model.output, name=name)
    images = tf_keras.Input(
        batch_shape=(batch, *model.input_shape[1:]),
        name=model.input_names[0],
        dtype=model.input.dtype,
    )
    outputs = rebuild(model, {id(model.input): images}, call_again)
    return tf_keras.Model(images, outputs, name=name)


def make_integer_converter(model: tf_keras.Model, options: FileOptions) -> tf.lite.TFLiteConverter:
    """A converter for a model whose fake quantization says all ranges.

    Args:
        model: what `prepared` returned.
        options: what the file takes and returns.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.as_dtype(options.input_type)
    converter.inference_output_type = tf.as_dtype(options.output_type)
    return converter


def make_converter(
    model: tf_keras.Model, options: TfliteCalibrationOptions
) -> tf.lite.TFLiteConverter:
    """A converter for a float model; the samples that it is calibrated with are still missing.

    Args:
        model: what `prepared` returned.
        options: what the file takes and returns, and how it is quantized.
    """
    converter = make_integer_converter(model, options)
    converter.target_spec.supported_ops = [_OPS[options.activation_bits]]
    # There is no public switch; the audit tells from the written file what was done.
    converter._experimental_disable_per_channel = not options.per_channel
    return converter


def run_converter(
    converter: tf.lite.TFLiteConverter,
    name: str,
    samples: Callable[[TextIO], Iterable[list]] | None = None,
) -> bytes:
    """The `.tflite` file that a converter makes.

    Args:
        converter: a converter of this module.
        name: what messages call the model.
        samples: what calibrates a float model: a function of the text stream for progress bars,
            that returns an iterable of lists of arrays, one for each input of the model. Its own
            errors are raised as they are.

    Raises:
        UserError: the converter cannot convert the model.
    """
    samples_failed = False

    def representative_dataset():
        nonlocal samples_failed
        try:
            yield from samples(hidden.stderr)
        except Exception:
            samples_failed = True
            raise

    if samples:
        converter.representative_dataset = representative_dataset
    with hidden_output() as hidden:
        try:
            return converter.convert()
        except (ConverterError, RuntimeError, ValueError) as error:
            if samples_failed:
                raise
            reason = what_matters(str(error), hidden.text())
            raise UserError(f'The TFLite converter cannot convert {name}: {reason}') from error


def what_matters(message: str, printed: str = '') -> str:
    """The converter's failure in one line.

    Args:
        message: the exception's, thousands of characters of MLIR.
        printed: what the converter printed, where the layer's name stands.

    Returns:
        The layer, where it is named, and the lines that say what went wrong, in at most
        `MESSAGE_LENGTH` characters.
    """
    layers = re.findall(r'callsite\("([^"@]+)@', printed)
    reasons = re.findall(r'error: (?!failed while converting)(.+)', message)
    reasons += re.findall(r'^(?:Custom|TF Select|Flex) ops: .+', message, re.MULTILINE)
    reasons = reasons or message.strip().splitlines()[:1] or ['it gives no reason']
    where = f"layer '{layers[0]}': " if layers else ''
    text = where + '; '.join(dict.fromkeys(reason.strip() for reason in reasons))
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + '...'
