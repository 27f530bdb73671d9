"""Post-training quantization: TFLite's converter, calibrated with a source's images.

With the generator's images this is the paper's DF-PTQ (section 3). The converter keeps the minimum
and the maximum of every tensor over all images, so neither their order nor the batches matter.

Usage: data = convert(teacher, batches_of_pixels, total=10_000)
"""

import concurrent.futures
import itertools
import math
import re
import time

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm
from tensorflow.lite.python.convert_phase import ConverterError

from zscgan_tf.errors import UserError
from zscgan_tf.quiet import hidden_output
from zscgan_tf.teacher.head import split_end
from zscgan_tf.teacher.raw_pixels import takes_raw_pixels

TYPES = {'int8': tf.int8, 'uint8': tf.uint8, 'float32': tf.float32}
HEADS = ('model', 'logits')
# The calibrator is fastest with about this many positions (height x width x images) at once: with
# more, activations leave the cache (ResNet-20: 64 images 3.9 ms each, 8 take 4.3 and 256 4.7).
POSITIONS = 2**16
# How long calibration waits for the next batch's work to leave Python (see `_one_ahead`).
HEAD_START_SECONDS = 0.005
MESSAGE_LENGTH = 400


def convert(
    teacher,
    images,
    *,
    input_type='int8',
    output_type='int8',
    per_channel=True,
    output_head='model',
    total=None,
):
    """Quantizes a teacher to full integers.

    Args:
        teacher: a `Teacher`.
        images: finite iterable of batches of pixels, [B, H, W, C] in [0, 1]; batches may differ
            in size, and no more than two are held at once.
        input_type, output_type: 'int8', 'uint8' or 'float32': what the file takes and returns;
            inside it is int8 in any case.
        per_channel: a weight scale for each output channel, or one for each tensor.
        output_head: 'model' ends as the user's model did, 'logits' leaves its last softmax
            or sigmoid off, in the same shape: [1, 1] of a single unit.
        total: number of images, for the progress bar.

    Returns:
        The `.tflite` file's bytes. What the converter could not quantize it leaves in float
        without a word: audit them.

    Raises:
        UserError: an unknown type or head, no images, images of a wrong shape or not finite, or a
            model that the converter cannot convert.
    """
    check_ends(input_type, output_type, output_head)
    batches = iter(images)
    # Before the converter's seconds of work, so that an empty source fails at once.
    first = next(batches, None)
    if first is None:
        raise UserError('There are no images to calibrate with: pass at least one.')
    batches = itertools.chain([first], batches)

    model = split_end(teacher)[0] if output_head == 'logits' else teacher.model
    converter = make_converter(named(model, teacher.name), input_type, output_type, per_channel)

    with hidden_output() as hidden:
        if takes_raw_pixels(teacher.model):
            batches = _with_all_pixels(batches)
        calibration = _Calibration(batches, teacher.input_spec, total, hidden.stderr)
        converter.representative_dataset = calibration.samples
        try:
            return converter.convert()
        except (ConverterError, RuntimeError, ValueError) as error:
            if calibration.failed:
                raise
            raise UserError(
                f'The TFLite converter cannot convert {teacher.name}: '
                f'{what_matters(str(error), hidden.text())}'
            ) from error


def _with_all_pixels(batches):
    """The batches with no other than legal pixels, and both ends of them: the input's step is 1."""
    for number, pixels in enumerate(batches):
        pixels = np.clip(pixels, 0, 1)
        if not number and pixels.ndim == 4 and pixels.size:  # else `check_pixels` says so
            pixels[0, 0, 0], pixels[0, -1, -1] = 0, 1
        yield pixels


def check_ends(input_type, output_type, output_head):
    """Refuses types of a file's input and output, and heads, that `convert` does not know.

    Raises:
        UserError: one is unknown.
    """
    for flag, value, known in (
        ('input_type', input_type, TYPES),
        ('output_type', output_type, TYPES),
        ('output_head', output_head, HEADS),
    ):
        if value not in known:
            raise UserError(f'--{flag}={value} is unknown: pass one of {", ".join(known)}.')


def named(model, name):
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


def make_converter(model, input_type='int8', output_type='int8', per_channel=True):
    """TFLite's converter, set to full integers; what calibrates it is missing yet.

    Args:
        model: a tf_keras model.
        input_type, output_type, per_channel: see `convert`.
    """
    converter = make_integer_converter(model, input_type, output_type)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    # There is no public switch; the audit tells from the written file what was done.
    converter._experimental_disable_per_channel = not per_channel
    return converter


def make_integer_converter(model, input_type='int8', output_type='int8'):
    """TFLite's converter for a model whose fake quantization says all ranges."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = TYPES[input_type]
    converter.inference_output_type = TYPES[output_type]
    return converter


def slice_size(input_spec):
    """How many images the calibrator is given at once."""
    height, width = input_spec.image_size
    return max(8, POSITIONS // (height * width))


class _Calibration:
    """The representative dataset; knows whether an error came out of the images themselves."""

    def __init__(self, batches, input_spec, total, stderr):
        self.failed = False
        self._batches = batches
        self._input_spec = input_spec
        self._progress = {'total': total, 'file': stderr}

    def samples(self):
        size = slice_size(self._input_spec)
        with tqdm.tqdm(desc='calibrating', unit=' images', disable=None, **self._progress) as bar:
            try:
                for pixels in _one_ahead(self._batches):
                    pixels = check_pixels(pixels, self._input_spec)
                    for part in np.array_split(pixels, math.ceil(len(pixels) / size)):
                        yield [self._input_spec.to_inputs(tf.constant(part)).numpy()]
                        bar.update(len(part))
            except Exception:
                self.failed = True
                raise


def check_pixels(pixels, input_spec):
    """A batch of pixels as float32 array, [B, H, W, C].

    Raises:
        UserError: the batch has another shape or type, or values that are not finite.
    """
    pixels = np.asarray(pixels)
    shape = input_spec.image_shape
    if pixels.ndim != 4 or pixels.shape[1:] != shape or not len(pixels):
        raise UserError(
            f'A batch of images has the shape {list(pixels.shape)}, but the teacher takes '
            f'[batch, {", ".join(map(str, shape))}]: pass images of its size.'
        )
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UserError(
            f'A batch of images holds {pixels.dtype}: pass pixels in [0, 1] as float32.'
        )
    if not np.all(np.isfinite(pixels)):
        raise UserError(
            'A batch of images holds values that are not finite: look at the source of the images '
            '(a generator whose training diverged?).'
        )
    return pixels.astype(np.float32, copy=False)


def _one_ahead(batches):
    """Yields the batches, and lets the next one be made while this one is used.

    The calibrator uses one thread and keeps Python's lock all the while. Work that was handed to
    TensorFlow before goes on beside it, so the maker of images gets a moment to hand it over.
    """
    end = object()
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(next, batches, end)
        while (batch := ahead.result()) is not end:
            ahead = pool.submit(next, batches, end)
            time.sleep(HEAD_START_SECONDS)
            yield batch


def what_matters(message, printed=''):
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
    if not reasons:
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        reasons = lines[:1] or ['it gives no reason']
    where = f"layer '{layers[0]}': " if layers else ''
    text = where + '; '.join(dict.fromkeys(reason.strip() for reason in reasons))
    if len(text) > MESSAGE_LENGTH:
        text = text[: MESSAGE_LENGTH - 3] + '...'
    return text
