"""Bias correction (Nagel et al., Data-free quantization, section 4.2), on generated images.

Rounding a kernel moves the mean of each channel that it computes: its error times the mean input.
Where a folded batch norm divided by a small deviation, that shift is larger than all that differs
between images. Biases are stored in 32 bits and take it back.
"""

import collections.abc

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.student.calibration.observing import observe
from zscgan_tf.student.folding import kernel_name
from zscgan_tf.student.graph import unused_name
from zscgan_tf.student.student import Student


def correct_biases(
    student: Student,
    images: collections.abc.Callable[[], collections.abc.Iterable[np.ndarray]],
    total: int | None = None,
) -> None:
    """Subtracts from the student's biases what the rounding of kernels adds to their channels.

    Args:
        student: a `Student` of kind 'folded' whose ranges are set.
        images: a function that returns batches of pixels.
        total: number of images, for the progress bar.
    """
    kernels = student.kernels()
    shifts, names = [], {layer.name for layer in student.twin.layers}
    for kernel in kernels:
        layer = student.twin.get_layer(kernel.layer.name)
        error = kernel.rounded() - tf.convert_to_tensor(getattr(layer, kernel_name(layer)))
        linear = _with_kernel(layer, error, unused_name(f'{layer.name}_error', names))
        shifts.append(tf.reduce_mean(linear(layer.input), [0, 1, 2]))
    model = tf_keras.Model(student.twin.input, shifts)

    def count_and_shifts(pixels):
        return len(pixels), model(student.input_spec.to_inputs(pixels), training=False)

    sums, count = [0.0] * len(shifts), 0
    for size, *means in observe(count_and_shifts, images, 'bias correction', total):
        sums = [s + int(size) * mean for s, mean in zip(sums, means, strict=True)]
        count += int(size)
    for kernel, shift in zip(kernels, sums, strict=True):
        kernel.layer.bias.assign_sub(shift / count)


def _with_kernel(layer, kernel, name):
    """A linear layer like another, with a kernel of its own and no bias."""
    config = {**layer.get_config(), 'name': name}
    copy = type(layer).from_config(config)
    copy.build(layer.input_shape)
    getattr(copy, kernel_name(layer)).assign(kernel)
    return copy
