"""Post-training quantization by TFLite alone: its converter, calibrated with a source's images.

With the generator's images this is the paper's DF-PTQ (section 3). The converter keeps the minimum
and the maximum of every tensor over all images, so neither their order nor the batches matter.

Usage: data = convert(teacher, batches_of_pixels, total=10_000)
"""

import functools
import itertools
import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.sources.batches import check_pixels, with_progress
from zscgan_tf.teacher.head import split_end
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.raw_pixels import takes_raw_pixels
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite.converter import check_ends, make_converter, named, run_converter

# The calibrator is fastest with about this many positions (height x width x images) at once: with
# more, activations leave the cache (ResNet-20: 64 images 3.9 ms each, 8 take 4.3 and 256 4.7).
POSITIONS = 2**16


def convert(
    teacher: Teacher,
    images: Iterable[np.ndarray],
    *,
    input_type: str = 'int8',
    output_type: str = 'int8',
    per_channel: bool = True,
    output_head: str = 'model',
    total: int | None = None,
) -> bytes:
    """Quantizes a teacher to full integers.

    Args:
        teacher: what is quantized.
        images: finite iterable of batches of pixels, [B, H, W, C] in [0, 1]; batches may differ
            in size, and are held one at a time.
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
    if takes_raw_pixels(teacher.model):
        batches = _with_all_pixels(batches)
    model = split_end(teacher)[0] if output_head == 'logits' else teacher.model
    converter = make_converter(named(model, teacher.name), input_type, output_type, per_channel)
    samples = functools.partial(_samples, batches, teacher.input_spec, total)
    return run_converter(converter, teacher.name, samples)


def slice_size(input_spec: InputSpec) -> int:
    """How many images the calibrator is given at once."""
    height, width = input_spec.image_size
    return max(8, POSITIONS // (height * width))


def _with_all_pixels(batches):
    """The batches with no other than legal pixels, and both ends of them: the input's step is 1."""
    for number, pixels in enumerate(batches):
        pixels = np.clip(pixels, 0, 1)
        if not number and pixels.ndim == 4 and pixels.size:  # else `check_pixels` says so
            pixels[0, 0, 0], pixels[0, -1, -1] = 0, 1
        yield pixels


def _samples(batches, input_spec, total, stream):
    """The representative dataset: the model's inputs in slices, with a progress bar on `stream`."""
    size = slice_size(input_spec)
    for pixels in with_progress(batches, total, 'calibrating', stream):
        pixels = check_pixels(pixels, input_spec)
        for part in np.array_split(pixels, math.ceil(len(pixels) / size)):
            yield [input_spec.to_inputs(tf.constant(part)).numpy()]
