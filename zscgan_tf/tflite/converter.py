"""TFLite's converter: set to full integers, run without its chatter, its failures in one line."""

import re
from collections.abc import Callable, Iterable
from typing import TextIO

import tensorflow as tf
import tf_keras
from tensorflow.lite.python.convert_phase import ConverterError

from zscgan_tf.errors import UserError
from zscgan_tf.quiet import hidden_output
from zscgan_tf.tflite.options import FileOptions

MESSAGE_LENGTH = 400


def check_ends(input_type: str, output_type: str, output_head: str) -> None:
    """Refuses types of a file's input and output, and heads, that no converter here makes.

    Raises:
        UserError: one is unknown.
    """
    names = {'input_type': input_type, 'output_type': output_type, 'output_head': output_head}
    FileOptions.resolve('paper', names)


def named(model: tf_keras.Model, name: str) -> tf_keras.Model:
    """The model under its teacher's name, from which the file's tensors take theirs.

    Keras numbers models without a name by what else a process has built. The same run would then
    give other bytes after an interruption.

    Args:
        model: a functional tf_keras model.
        name: the teacher's; numbers that Keras gave it are left off.
    """
    name = re.sub(r'^(model|sequential|functional)_\d+$', r'\1', name)
    name = re.sub(r'[^A-Za-z0-9_.-]+', '_', name).lstrip('_.-') or 'teacher'
    return tf_keras.Model(model.input, model.output, name=name)


def make_integer_converter(
    model: tf_keras.Model, input_type: str = 'int8', output_type: str = 'int8'
) -> tf.lite.TFLiteConverter:
    """A converter for a model whose fake quantization says all ranges; see `make_converter`."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.as_dtype(input_type)
    converter.inference_output_type = tf.as_dtype(output_type)
    return converter


def make_converter(
    model: tf_keras.Model,
    input_type: str = 'int8',
    output_type: str = 'int8',
    per_channel: bool = True,
) -> tf.lite.TFLiteConverter:
    """A converter for a float model; the samples that it is calibrated with are still missing.

    Args:
        model: a float tf_keras model.
        input_type, output_type: what the file takes and returns, see `FileOptions`.
        per_channel: a weight scale for each output channel, or one for each tensor.
    """
    converter = make_integer_converter(model, input_type, output_type)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    # There is no public switch; the audit tells from the written file what was done.
    converter._experimental_disable_per_channel = not per_channel
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
