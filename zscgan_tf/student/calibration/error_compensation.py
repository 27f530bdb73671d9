"""Rounding of kernels whose errors cancel (Frantar et al., GPTQ, section 3), on generated images.

Rounded to the nearest level, each weight adds its own error. Here weights are rounded one after the
other, and those that are still to come take up the error so far: least squares of what the layer
computes, given the second moments of its inputs. The grid stays the same.
"""

import collections.abc

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.student.calibration.observing import observe
from zscgan_tf.student.folding import kernel_name
from zscgan_tf.student.grids import SMALLEST_RANGE, weight_levels
from zscgan_tf.student.student import Student

# Of the mean second moment, added to each: what images say little about is not relied on.
DAMPING = 0.01
# Moments that are summed in one pass over the images: a quarter of a GB in float64, and several
# times that where a layer that takes all of them is rounded.
LARGEST_MOMENTS = 2**25
# Weights behind a block take up its errors all at once, by a matrix product.
BLOCK = 64


def compensate_errors(
    student: Student,
    images: collections.abc.Callable[[], collections.abc.Iterable[np.ndarray]],
    total: int | None = None,
) -> None:
    """Puts the student's kernels on their grids so that rounding changes its layers least.

    A layer with more than 5,792 inputs (the root of `LARGEST_MOMENTS`) is left to be rounded to the
    nearest level.

    Args:
        student: a `Student` of kind 'folded' whose ranges are set.
        images: a function that returns batches of pixels; called once or more.
        total: number of images, for the progress bar.
    """
    for kernels in _passes([kernel for kernel in student.kernels() if kernel.layer.trainable]):
        moments = _second_moments(student, kernels, images, total)
        for kernel, of_inputs in zip(kernels, moments, strict=True):
            groups, inputs = _groups_and_inputs(kernel.layer)
            # Depthwise kernels are [h, w, G, C], others [h, w, D / (h w), G C].
            weights = kernel.variable.numpy().reshape(inputs, groups, -1).transpose(1, 0, 2)
            maximum = kernel.maximum.numpy().reshape(groups, -1)
            rounded = round_compensated(weights, of_inputs, maximum, kernel.bits)
            kernel.variable.assign(rounded.transpose(1, 0, 2).reshape(kernel.variable.shape))


def round_compensated(
    weights: np.ndarray, moments: np.ndarray, maximum: np.ndarray, bits: int
) -> np.ndarray:
    """Rounds weights one after the other, the rest taking up the error.

    Inputs are taken in the order of their second moments, the largest first.

    Args:
        weights: [G, D, C], of G groups of channels: D inputs, C outputs.
        moments: [G, D, D], second moments of the inputs, any multiple of them.
        maximum: [G, C], the largest value on each output channel's grid.
        bits: width.

    Returns:
        float64, [G, D, C], on the grids.
    """
    most = weight_levels(bits)
    steps = np.maximum(np.float64(maximum), SMALLEST_RANGE) / most
    diagonal = np.einsum('gdd->gd', moments)
    order = np.argsort(-diagonal, axis=1, kind='stable')
    weights = np.take_along_axis(np.float64(weights), order[:, :, None], axis=1)
    moments = np.take_along_axis(np.float64(moments), order[:, :, None], axis=1)
    moments = np.take_along_axis(moments, order[:, None, :], axis=2)
    damping = DAMPING * diagonal.mean(axis=1)
    diagonal = np.einsum('gdd->gd', moments)  # a view
    diagonal += np.where(damping > 0, damping, 1)[:, None]
    # Row i: how the weights behind the i-th are to move with its error.
    factors = np.linalg.cholesky(np.linalg.inv(moments)).transpose(0, 2, 1)
    rounded = np.empty_like(weights)
    for start in range(0, weights.shape[1], BLOCK):
        end = min(start + BLOCK, weights.shape[1])
        errors = np.empty_like(weights[:, start:end])
        for i in range(start, end):
            rounded[:, i] = np.clip(np.rint(weights[:, i] / steps), -most, most) * steps
            error = (weights[:, i] - rounded[:, i]) / factors[:, i, i, None]
            weights[:, i + 1 : end] -= factors[:, i, i + 1 : end, None] * error[:, None]
            errors[:, i - start] = error
        weights[:, end:] -= factors[:, start:end, end:].transpose(0, 2, 1) @ errors
    result = np.empty_like(rounded)
    np.put_along_axis(result, order[:, :, None], rounded, axis=1)
    return result


def _passes(kernels):
    """Lists of kernels whose moments fit into memory at once; without those that do not alone."""
    batch, numbers = [], 0
    for kernel in kernels:
        groups, inputs = _groups_and_inputs(kernel.layer)
        size = groups * inputs**2
        if size > LARGEST_MOMENTS:
            continue
        if numbers + size > LARGEST_MOMENTS:
            yield batch
            batch, numbers = [], 0
        batch.append(kernel)
        numbers += size
    if batch:
        yield batch


def _second_moments(student, kernels, images, total):
    """Sums over images of products of what kernels are multiplied with: float64, [G, D, D] each."""
    observer = tf_keras.Model(student.model.input, [kernel.inputs for kernel in kernels])

    def products(pixels):
        inputs = tf.nest.flatten(observer(student.input_spec.to_inputs(pixels), training=False))
        return [_sum_of_products(k.layer, x) for k, x in zip(kernels, inputs, strict=True)]

    sizes = [_groups_and_inputs(kernel.layer) for kernel in kernels]
    sums = [np.zeros([groups, inputs, inputs]) for groups, inputs in sizes]
    for batch in observe(products, images, 'error compensation', total):
        for moments, more in zip(sums, batch, strict=True):
            moments += more
    return sums


def _sum_of_products(layer, x):
    """Over images and positions, [G, D, D]."""
    groups, inputs = _groups_and_inputs(layer)
    size = [*layer.kernel_size]

    def of_image(image):
        patches = tf.image.extract_patches(
            image[None], [1, *size, 1], [1, *layer.strides, 1], [1] * 4, layer.padding.upper()
        )
        patches = tf.reshape(patches, [-1, size[0] * size[1], groups, x.shape[-1] // groups])
        patches = tf.reshape(tf.transpose(patches, [2, 0, 1, 3]), [groups, -1, inputs])
        return tf.matmul(patches, patches, transpose_a=True)

    # Image by image: patches take kernel height x width times the memory of the tensor.
    zeros = tf.zeros([groups, inputs, inputs])
    return tf.foldl(lambda total, image: total + of_image(image), x, zeros, parallel_iterations=1)


def _groups_and_inputs(layer):
    """How many groups of channels a convolution computes apart, and the inputs of each, D."""
    height, width, channels, _ = getattr(layer, kernel_name(layer)).shape
    if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
        return channels, height * width
    return layer.groups, height * width * channels
