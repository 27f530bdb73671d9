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
from zscgan_tf.tflite.converter import make_converter, prepared, run_converter
from zscgan_tf.tflite.options import TfliteCalibrationOptions

# The calibrator is fastest with about this many positions (height x width x images) at once: with
# more, activations leave the cache (ResNet-20: 64 images 3.9 ms each, 8 take 4.3 and 256 4.7).
POSITIONS = 2**16


def convert(
    teacher: Teacher,
    images: Iterable[np.ndarray],
    *,
    total: int | None = None,
    **options: object,
) -> bytes:
    """Quantizes a teacher to full integers.

    Args:
        teacher: what is quantized.
        images: finite iterable of batches of pixels, [B, H, W, C] in [0, 1]; batches may differ
            in size, and are held one at a time.
        total: number of images, for the progress bar.
        **options: any field of `TfliteCalibrationOptions`, in place of the value of `small`.

    Returns:
        The `.tflite` file's bytes. What the converter could not quantize it leaves in float
        without a word: audit them.

    Raises:
        UserError: an option is out of range, no images, images of a wrong shape, not finite or not
            in [0, 1], or a model that the converter cannot convert.
    """
    resolved = TfliteCalibrationOptions.resolve('small', options, teacher)
    check_input(teacher, resolved)
    batches = iter(images)
    # Before the converter's seconds of work, so that an empty source fails at once.
    first = next(batches, None)
    if first is None:
        raise UserError('There are no images to calibrate with: pass at least one.')
    batches = itertools.chain([first], batches)
    model = split_end(teacher)[0] if resolved.output_head == 'logits' else teacher.model
    model = prepared(model, teacher.name, resolved.file_batch)
    converter = make_converter(model, resolved)
    samples = functools.partial(_samples, batches, teacher.input_spec, resolved.file_batch, total)
    return run_converter(converter, teacher.name, samples)


def check_input(teacher: Teacher, options: TfliteCalibrationOptions) -> None:
    """Refuses a teacher whose input or end the file could not have; called before any work.

    Raises:
        UserError: raw pixels are bytes, and the activations have 16 bits; see `split_end`.
    """
    if options.output_head == 'logits':
        split_end(teacher)
    if options.activation_bits == 16 and takes_raw_pixels(teacher.model):
        raise UserError(
            '--activation_bits=16 makes an input of int16, and --raw_pixels one of bytes: leave '
            '--raw_pixels out.'
        )


def slice_size(input_spec: InputSpec) -> int:
    """How many images the calibrator is given at once."""
    height, width = input_spec.image_size
    return max(8, POSITIONS // (height * width))


def _samples(batches, input_spec, file_batch, total, stream):
    """The representative dataset: the model's inputs in slices, with a progress bar on `stream`.

    The first image holds both ends of the legal range, and no image exceeds them: the input's scale
    is that of the legal range, and no image of a user is clipped.
    """
    size = file_batch or slice_size(input_spec)
    for number, pixels in enumerate(with_progress(batches, total, 'calibrating', stream)):
        pixels = check_pixels(pixels, input_spec)
        if not number:
            pixels = pixels.copy()
            pixels[0, 0, 0], pixels[0, -1, -1] = 0, 1
        for part in np.array_split(pixels, math.ceil(len(pixels) / size)):
            if file_batch:  # the same extremes, whichever images fill the batch up
                part = np.resize(part, (file_batch, *part.shape[1:]))
            yield [input_spec.to_inputs(tf.constant(part)).numpy()]
