"""Keras 3 operations (`keras.ops`, operators on symbolic tensors) as TensorFlow functions.

A function that is called on symbolic tf_keras tensors becomes an op layer, which `flatten` takes
apart: what an operation means is said once, in `operations`, for both Kerases.
"""

import collections.abc

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.teacher.graphs import is_symbolic


def to_array(value: object) -> np.ndarray:
    """A constant of a Keras 3 graph (number, array, tensor, variable) as an array."""
    return np.asarray(value.numpy() if hasattr(value, 'numpy') else value)


def function_of(name: str) -> collections.abc.Callable[..., object] | None:
    """The function that does what a Keras 3 operation or activation does.

    Args:
        name: the operation's class (`HardSilu`) or the activation's name (`hard_silu`).

    Returns:
        A function of the operation's tensors and constants that has its settings as keyword
        arguments, of the same defaults as the activation; None where TensorFlow has none.
    """
    return _BY_NAME.get(name.replace('_', '').lower())


def _operand(value):
    """A tensor; or a constant as a number, or as an array without leading axes of 1."""
    if is_symbolic(value):
        return value
    array = to_array(value)
    while array.ndim and len(array) == 1:
        array = array[0]
    return float(array) if array.ndim == 0 else array.astype(np.float32)


def _arithmetic(function, neutral=None, symmetric=True):
    """A function of two tensors, or of one and a constant: nothing is done for a neutral one."""

    def apply(x1, x2):
        x1, x2 = _operand(x1), _operand(x2)
        for x, other in ((x1, x2), (x2, x1))[: 1 + symmetric]:
            if isinstance(other, float) and other == neutral:
                return x
        return function(x1, x2)

    return apply


def _maximum(x1, x2):
    # One layer, where a maximum with another number is three.
    x, lowest = (x1, x2) if is_symbolic(x1) else (x2, x1)
    return tf.nn.relu(x) if isinstance(lowest, float) and lowest == 0 else tf.maximum(x1, x2)


def _max(x, *, axis, keepdims, initial=None):
    return tf.reduce_max(x if initial is None else tf.maximum(x, initial), axis, keepdims)


def _pad(x, constant_values=None, *, pad_width, mode):
    widths = np.broadcast_to(np.asarray(pad_width), (x.shape.rank, 2))
    return tf.pad(x, widths, mode, constant_values=constant_values or 0)


def _split(x, *, indices_or_sections, axis):
    sections = indices_or_sections
    if np.ndim(sections):
        sections = np.diff([0, *sections, x.shape[axis]])
    return tf.split(x, sections, axis)


def _squeeze(x, *, axis):
    axis = [i for i, side in enumerate(x.shape) if side == 1] if axis is None else axis
    return tf.squeeze(x, axis)


def _pool(function):
    def apply(x, *, pool_size, strides, padding):
        return function(x, pool_size, strides or pool_size, padding.upper())

    return apply


def _conv(x, kernel, *, strides, padding, dilation_rate):
    kernel = to_array(kernel).astype(np.float32)
    return tf.nn.conv2d(x, kernel, strides, padding.upper(), dilations=dilation_rate)


def _depthwise_conv(x, kernel, *, strides, padding, dilation_rate):
    strides, dilations = (np.broadcast_to(n, 2).tolist() for n in (strides, dilation_rate))
    kernel = to_array(kernel).astype(np.float32)
    return tf.nn.depthwise_conv2d(x, kernel, [1, *strides, 1], padding.upper(), None, dilations)


def _cast(x, *, dtype=None, **_):
    # Half precision is left: the flat model computes in float32.
    half = dtype is None or tf.as_dtype(dtype).is_floating
    return x if half else tf.cast(x, dtype)


def _hard_silu(x):
    return x * tf.nn.relu6(x + 3.0) / 6.0


# By the class of the operation; settings that are an activation's have its defaults.
OPERATIONS = {
    'Add': _arithmetic(tf.add, 0),
    'Amax': _max,
    'AveragePool': _pool(tf.nn.avg_pool2d),
    'Cast': _cast,
    'Clip': lambda x, x_min, x_max: tf.clip_by_value(x, float(x_min), float(x_max)),
    'Concatenate': lambda xs, axis: tf.concat(xs, axis),
    'Conv': _conv,
    'ConvertToTensor': _cast,
    'Copy': tf.identity,
    'DepthwiseConv': _depthwise_conv,
    'Divide': _arithmetic(tf.divide, 1, symmetric=False),
    'Elu': lambda x, alpha=1.0: tf.nn.elu(x) if alpha == 1 else tf_keras.layers.ELU(alpha)(x),
    'Exp': tf.exp,
    'ExpandDims': lambda x, axis: tf.expand_dims(x, axis),
    'Exponential': tf.exp,
    'Flip': lambda x, axis: tf.reverse(x, np.ravel(axis)),
    'Gelu': lambda x, approximate=False: tf.nn.gelu(x, approximate),
    'GetItem': lambda x, key: x[key],
    'HardSigmoid': lambda x: tf.nn.relu6(x + 3.0) / 6.0,
    'HardSilu': _hard_silu,
    'HardSwish': _hard_silu,
    'HardTanh': lambda x: tf.clip_by_value(x, -1.0, 1.0),
    'Identity': tf.identity,
    'LeakyRelu': lambda x, negative_slope=0.2: tf.nn.leaky_relu(x, negative_slope),
    'Matmul': lambda x1, x2: tf.matmul(x1, to_array(x2).astype(np.float32)),
    'Max': _max,
    'Maximum': _arithmetic(_maximum),
    'MaxPool': _pool(tf.nn.max_pool2d),
    'Mean': lambda x, axis, keepdims: tf.reduce_mean(x, axis, keepdims),
    'Minimum': _arithmetic(tf.minimum),
    'Mish': lambda x: tf_keras.layers.Activation('mish')(x),
    'Multiply': _arithmetic(tf.multiply, 1),
    'Negative': tf.negative,
    'Pad': _pad,
    'Power': _arithmetic(tf.pow, 1, symmetric=False),
    'ReLU': lambda x, **settings: tf_keras.layers.ReLU(**settings)(x),
    'Relu6': tf.nn.relu6,
    'Reshape': lambda x, newshape: tf.reshape(x, [-1 if n is None else n for n in newshape]),
    'Resize': lambda x, size, **_: tf.image.resize(x, size),
    'Selu': tf.nn.selu,
    'Sigmoid': tf.sigmoid,
    'Silu': tf.nn.silu,
    'Softmax': lambda x, axis=-1: tf.nn.softmax(x, axis),
    'Softplus': tf.nn.softplus,
    'Softsign': tf.nn.softsign,
    'Split': _split,
    'Square': tf.square,
    'Squeeze': _squeeze,
    'StopGradient': tf.stop_gradient,
    'Subtract': _arithmetic(tf.subtract, 0, symmetric=False),
    'Sum': lambda x, axis, keepdims: tf.reduce_sum(x, axis, keepdims),
    'Take': lambda x, indices, axis: tf.gather(x, to_array(indices), axis=axis),
    'Tanh': tf.tanh,
    'Transpose': lambda x, axes: tf.transpose(x, axes),
    'TrueDivide': _arithmetic(tf.divide, 1, symmetric=False),
}
_BY_NAME = {name.lower(): function for name, function in OPERATIONS.items()}
