"""Sets the ranges of a student's weights and activations from the float values on images."""

import collections.abc

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.student import grids
from zscgan_tf.student.calibration import range_estimators as estimators
from zscgan_tf.student.calibration.observing import observe
from zscgan_tf.student.scheme import Kernel
from zscgan_tf.student.student import Student

# Of the largest range of a kernel's channels: see `_weight_ranges`.
WEIGHT_RANGE_FLOOR = 1e-5


def set_ranges(
    student: Student,
    images: collections.abc.Callable[[], collections.abc.Iterable[np.ndarray]],
    estimator: str = 'mse',
    total: int | None = None,
) -> None:
    """Sets the ranges of weights and activations, before any training.

    Args:
        student: a `Student` of kind 'folded'.
        images: a function that returns batches of pixels; called several times.
        estimator: 'minmax', or 'mse' (squared error, with a margin; of the logits their
            cross-entropy: `logits_range`).
        total: number of images, for the progress bar.
    """
    set_weight_ranges(student, estimator)
    ranges = student.ranges()
    tensors = [student.twin.get_layer(name).output for name in ranges]
    histograms = observe_histograms(student, tensors, images, total)
    for histogram, each in zip(histograms, ranges.values(), strict=True):
        low, high = estimators.activation_range(histogram, each.bits, estimator, each.nonnegative)
        if estimator == 'mse':
            low, high = estimators.with_margin(low, high, histogram)
        each.assign(low, high)
    last = ranges.get(student.last_range())
    if estimator == 'mse' and last is not None and not last.nonnegative:
        to_inputs = student.input_spec.to_inputs
        logits = [student.twin.predict_on_batch(to_inputs(pixels)) for pixels in images()]
        logits = np.concatenate([values.reshape(len(values), -1) for values in logits])
        last.assign(*estimators.logits_range(logits, last.bits, student.has_independent_labels))


def set_weight_ranges(student: Student, estimator: str) -> None:
    """Sets the ranges of a student's weights; `set_ranges` does so too.

    Args:
        student: a `Student` of kind 'folded'.
        estimator: 'minmax', the largest magnitude, or 'mse'.
    """
    for kernel in student.kernels():
        kernel.maximum.assign(_weight_ranges(kernel, estimator))


def observe_histograms(
    student: Student,
    tensors: list,
    images: collections.abc.Callable[[], collections.abc.Iterable[np.ndarray]],
    total: int | None = None,
) -> list[estimators.Histogram]:
    """Histograms of float values over images.

    Args:
        student: a `Student`.
        tensors: symbolic tensors of its twin.
        images, total: as in `set_ranges`.
    """
    if not tensors:
        return []
    observer = tf_keras.Model(student.twin.input, tensors)

    def values_of(pixels):
        return observer(student.input_spec.to_inputs(pixels), training=False)

    histograms = [estimators.Histogram() for _ in tensors]
    for see, description in (('see_range', 'extremes'), ('count', 'ranges')):
        for outputs in observe(values_of, images, description, total):
            for histogram, values in zip(histograms, outputs, strict=True):
                getattr(histogram, see)(values)
    return histograms


def _weight_ranges(kernel: Kernel, estimator):
    """The ranges of a kernel's channels, [C]; all are equal of granularity 'tensor'.

    A bias is stored in steps of its channel's weights. The steps of a channel of zeros, or nearly
    so, would be too small for its bias. Such a channel gets the largest range of the kernel's, and
    one of a large bias a larger range than its weights need.
    """
    values = tf.convert_to_tensor(kernel.by_channel(kernel.variable)).numpy()
    count, biases = values.shape[-1], np.abs(kernel.layer.bias.numpy())
    if kernel.granularity == 'tensor':  # as one channel
        values, biases = values[..., None], biases.max()
    found = estimators.weight_ranges(values, kernel.bits, estimator)
    largest = found.max(initial=0)
    floor = max(WEIGHT_RANGE_FLOOR * largest, grids.SMALLEST_RANGE)
    found = np.where(found > floor, found, largest if largest > 0 else 1.0)
    return np.broadcast_to(np.maximum(found, grids.BIAS_RANGE_FLOOR * biases), count)
