"""Fake quantization: rounding to few bits in float, with gradients for tensors and their ranges.

In training the ranges' gradients are those of LSQ (learned step size quantization, Esser et al.).
The fused op's own gradient counts clipped values only, so a range that clips nothing would never
move. For export the same levels are said in the widths that TFLite has: 8 bits, or 4.
"""

import collections.abc
import math

import numpy as np
import tensorflow as tf

# Ranges stay above these, so that no step is 0.
SMALLEST_RANGE = 1e-6
# A channel's range is at least this share of its bias, which is stored in the range's steps: it
# then fits into int32 where inputs have steps of 0.0006 or more.
BIAS_RANGE_FLOOR = 1e-4
# What lies on the edge of a range counts as inside.
_EDGE = 1e-5


def weight_levels(bits: int) -> int:
    """Positive levels of a symmetric weight grid: the integers are -Q ... Q."""
    return 2 ** (bits - 1) - 1


def nudge(
    low: np.ndarray | float, high: np.ndarray | float, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A range moved so that zero is on its grid, in float32 as TensorFlow's fused op does it.

    Args:
        low, high: numbers or arrays, low < high.
        bits: 2 to 8.

    Returns:
        (nudged low, nudged high, step), float32.
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    last = np.float32(2**bits - 1)
    step = (high - low) / last
    zero_point = np.floor(np.clip(-low / step, 0, last).astype(np.float64) + 0.5)
    zero_point = zero_point.astype(np.float32)
    return -zero_point * step, (last - zero_point) * step, step


def quantize(
    values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float, bits: int
) -> np.ndarray:
    """Values on the nudged grid of 2^bits levels: `tf.quantization.fake_quant_with_min_max_vars`.

    Args:
        values: array.
        low, high: numbers, or arrays that broadcast with the values, low < high.
        bits: 2 to 8.

    Returns:
        float32; halves are rounded up.
    """
    low, high, step = nudge(low, high, bits)
    inverse = np.float32(1) / step
    zero_point = np.floor(-low * inverse + np.float32(0.5))
    shifted = np.clip(np.asarray(values, np.float32), low, high) - low
    return np.floor(shifted * inverse - zero_point + np.float32(0.5)) * step


def quantize_weights(kernel: tf.Tensor, maximum: tf.Tensor, bits: int) -> tf.Tensor:
    """Rounds a kernel to 2^bits - 1 levels a channel.

    Args:
        kernel: [..., C].
        maximum: [C], the largest value on each channel's grid; its gradient is LSQ's.
        bits: width.
    """

    @tf.custom_gradient
    def rounded(w, m):
        m = tf.maximum(m, SMALLEST_RANGE)
        q = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            w, -m, m, num_bits=bits, narrow_range=True
        )

        def gradient(upstream):
            inside, low, high = tf.quantization.fake_quant_with_min_max_vars_per_channel_gradient(
                upstream, w, -m, m, num_bits=bits, narrow_range=True
            )
            axes = list(range(w.shape.rank - 1))
            slope = tf.reduce_sum(inside * (q - w), axes) / m + high - low
            per_channel = math.prod(w.shape[:-1])
            return inside, slope / math.sqrt(per_channel * weight_levels(bits))

        return q, gradient

    return rounded(kernel, maximum)


@tf.custom_gradient
def shared(maximum: tf.Tensor) -> tuple[tf.Tensor, collections.abc.Callable]:
    """The ranges of a kernel's channels, [C], all equal, as the one range of a tensor.

    Each entry gets the gradient of that one range, so equal entries stay equal. The gradients of
    the channels are those of LSQ, divided by the root of a channel's weights. Of the tensor's
    weights that is the root of C more.
    """
    root = math.sqrt(maximum.shape[0])

    def gradient(upstream):
        return tf.fill(maximum.shape, tf.reduce_sum(upstream) / root)

    return tf.identity(maximum), gradient


def quantize_activations(
    x: tf.Tensor, low: tf.Tensor | None, high: tf.Tensor, bits: int, learned: bool = True
) -> tf.Tensor:
    """Rounds a tensor to 2^bits levels of [low, high], zero among them.

    Args:
        x: [B, ...].
        low, high: scalars, low <= 0 <= high; their gradients are LSQ's. Zero is put on the grid by
            shifting both, as TensorFlow's op does. low is None for a tensor that is never below 0.
        bits: width.
        learned: whether low and high need gradients; without them a step is faster.
    """
    nonnegative = low is None
    low = tf.constant(0.0) if nonnegative else tf.minimum(tf.convert_to_tensor(low), 0)
    high = tf.maximum(tf.convert_to_tensor(high), SMALLEST_RANGE)

    @tf.custom_gradient
    def rounded(x, low, high):
        q = tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=bits)

        def gradient(upstream):
            if not learned:
                return _inside(upstream, x, low, high, bits, nonnegative), None, None
            inside, below, above = tf.quantization.fake_quant_with_min_max_vars_gradient(
                upstream, x, low, high, num_bits=bits
            )
            error = tf.reduce_sum(inside * (q - x)) / (high - low)
            scale = 1 / math.sqrt(math.prod(x.shape[1:]) * (2**bits - 1))
            return inside, (below - error) * scale, (above + error) * scale

        return q, gradient

    return rounded(x, low, high)


def _inside(upstream, x, low, high, bits, nonnegative):
    """The upstream gradient where x is not clipped, else 0.

    This is the fused op's gradient at half its cost: the fused op sums the ranges' gradients too.
    The gradient of a ReLU is the fastest mask there is.
    """
    if nonnegative:
        return tf.raw_ops.ReluGrad(gradients=upstream, features=high * (1 + _EDGE) - x)
    levels = 2**bits - 1
    step = (high - low) / levels
    zero_point = tf.clip_by_value(tf.round(-low / step), 0, levels)
    low, high = -(zero_point + _EDGE) * step, (levels - zero_point + _EDGE) * step
    return tf.raw_ops.Relu6Grad(gradients=upstream, features=(x - low) * (6 / (high - low)))


def stored_weights(kernel: tf.Tensor, maximum: np.ndarray, bits: int) -> tf.Tensor:
    """What the converter is told of a kernel that is on its grid: that grid in 4 or 8 bits.

    Up to 4 bits the file holds int4, else int8, with the step of the width: the integers in it are
    -Q ... Q and no others. (3 bits on a 3-bit range would convert to other values.)

    Args:
        kernel: [..., C].
        maximum: [C], an array: the converter wants constants.
        bits: width.
    """
    storage_bits = 4 if bits <= 4 else 8
    m = np.maximum(maximum, SMALLEST_RANGE) / weight_levels(bits) * weight_levels(storage_bits)
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(
        kernel, np.float32(-m), np.float32(m), num_bits=storage_bits, narrow_range=True
    )


def stored_activations(
    x: tf.Tensor, low: float, high: float, bits: int, nonnegative: bool = False
) -> tf.Tensor:
    """What the converter is told of a tensor: an 8-bit range with the step of the width.

    The range of a nonnegative tensor ends at the tensor's highest level, where int8 saturates; the
    ReLU cuts it at 0. The range of any other tensor begins at the tensor's lowest level, where int8
    saturates; a minimum cuts it at the highest.

    Args:
        x: [B, ...].
        low, high: numbers; low is 0 for a nonnegative tensor.
        bits: width.
        nonnegative: whether x, as the integer op gives it, is never below 0.
    """
    low, high, step = nudge(min(low, 0), max(high, SMALLEST_RANGE), bits)
    if bits < 8 and nonnegative:
        low = high - 255 * step
    elif bits < 8:
        x = tf.minimum(x, np.float32(high))
        high = low + 255 * step
    return tf.quantization.fake_quant_with_min_max_vars(
        x, np.float32(low), np.float32(high), num_bits=8
    )
