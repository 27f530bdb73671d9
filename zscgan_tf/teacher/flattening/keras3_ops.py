"""Keras 3 operations (`keras.ops`, operators on symbolic tensors) as calls of handlers.

What an operation means is said once for both Kerases, by the handlers of `arithmetic` and `shapes`.
"""

import collections.abc

import numpy as np
import tf_keras

from zscgan_tf.teacher.flattening import arithmetic, shapes
from zscgan_tf.teacher.flattening.arithmetic import Pending, Value, activation, is_tensor
from zscgan_tf.teacher.layers import HardSwish


def handler_of(name: str) -> collections.abc.Callable[..., Value] | None:
    """The handler of a Keras 3 operation or activation.

    Args:
        name: the operation's class (`HardSilu`) or the activation's name (`hard_silu`).

    Returns:
        A function of a `Place` and the operation's tensors and constants (as numbers and arrays)
        that has its settings as keyword arguments, of the same defaults as the activation; None
        where there is none.
    """
    return _BY_NAME.get(name.replace('_', '').lower())


def _operand(value):
    """A tensor; or a constant as a number, or as an array without leading axes of 1."""
    if is_tensor(value):
        return value
    array = np.asarray(value)
    while array.ndim and len(array) == 1:
        array = array[0]
    return float(array) if array.ndim == 0 else array.astype(np.float32)


def _arithmetic(handler, neutral=None, symmetric=True):
    """A handler of two tensors, or of one and a constant: nothing is done for a neutral one."""

    def apply(at, x1, x2):
        x1, x2 = _operand(x1), _operand(x2)
        for x, other in ((x1, x2), (x2, x1))[: 1 + symmetric]:
            if isinstance(other, float) and other == neutral:
                return x
        return handler(at, x1, x2)

    return apply


def _maximum(at, x1, x2):
    # One layer, where a maximum with another number is three.
    x, lowest = (x1, x2) if is_tensor(x1) else (x2, x1)
    relu = isinstance(lowest, float) and lowest == 0
    return arithmetic.relu(at, x) if relu else arithmetic.maximum(at, x1, x2)


def _max(at, x, *, axis, keepdims, initial=None):
    x = x if initial is None else arithmetic.maximum(at, x, initial)
    return shapes.reduce_max(at, x, axis, keepdims)


def _relu(at, x, **settings):
    layer = tf_keras.layers.ReLU(**settings)
    if arithmetic.is_relu6(layer):
        return arithmetic.relu6(at, x)
    return at.emit(tf_keras.layers.ReLU, x, 'relu', **settings)


def _pad(at, x, constant_values=None, *, pad_width, mode):
    widths = np.broadcast_to(np.asarray(pad_width), (x.shape.rank, 2))
    return shapes.pad(at, x, widths, mode, constant_values=constant_values or 0)


def _split(at, x, *, indices_or_sections, axis):
    sections = indices_or_sections
    if np.ndim(sections):
        sections = np.diff([0, *sections, x.shape[axis]])
    return shapes.split(at, x, sections, axis)


def _pool(layer_class, kind):
    handler = shapes.pooling(layer_class, kind)

    def apply(at, x, *, pool_size, strides, padding):
        return handler(at, x, pool_size, strides or pool_size, padding)

    return apply


def _conv(handler):
    def apply(at, x, kernel, *, strides, padding, dilation_rate):
        return handler(at, x, kernel, strides, padding, dilations=dilation_rate)

    return apply


def _cast(at, x, *, dtype=None, **_):
    return x if dtype is None else arithmetic.cast(at, x, dtype)


def _hard_silu(at, x):
    return at.emit(HardSwish, x, 'hard_swish')


# By the class of the operation; settings that are an activation's have its defaults.
OPERATIONS = {
    'Add': _arithmetic(arithmetic.add, 0),
    'Amax': _max,
    'AveragePool': _pool(tf_keras.layers.AveragePooling2D, 'avg_pool'),
    'Cast': _cast,
    'Clip': lambda at, x, x_min, x_max: arithmetic.clip_by_value(at, x, x_min, x_max),
    'Concatenate': shapes.concat,
    'Conv': _conv(shapes.conv2d),
    'ConvertToTensor': _cast,
    'Copy': arithmetic.identity,
    'DepthwiseConv': _conv(shapes.depthwise_conv2d),
    'Divide': _arithmetic(arithmetic.divide, 1, symmetric=False),
    'Elu': lambda at, x, alpha=1.0: (
        activation('elu')(at, x)
        if alpha == 1
        else at.emit(tf_keras.layers.ELU, x, 'elu', alpha=alpha)
    ),
    'Exp': activation('exponential'),
    'ExpandDims': shapes.expand_dims,
    'Exponential': activation('exponential'),
    'Flip': shapes.reverse,
    'Gelu': arithmetic.gelu,
    'GetItem': shapes.getitem,
    'HardSigmoid': lambda at, x: Pending('hard_sigmoid', x, at),
    'HardSilu': _hard_silu,
    'HardSwish': _hard_silu,
    'HardTanh': lambda at, x: arithmetic.clip_by_value(at, x, -1.0, 1.0),
    'Identity': arithmetic.identity,
    'LeakyRelu': lambda at, x, negative_slope=0.2: arithmetic.leaky_relu(at, x, negative_slope),
    'Matmul': shapes.matmul,
    'Max': _max,
    'Maximum': _arithmetic(_maximum),
    'MaxPool': _pool(tf_keras.layers.MaxPooling2D, 'max_pool'),
    'Mean': shapes.reduce_mean,
    'Minimum': _arithmetic(arithmetic.minimum),
    'Mish': activation('mish'),
    'Multiply': _arithmetic(arithmetic.multiply, 1),
    'Negative': arithmetic.negative,
    'Pad': _pad,
    'Power': _arithmetic(arithmetic.power, 1, symmetric=False),
    'ReLU': _relu,
    'Relu6': arithmetic.relu6,
    'Reshape': lambda at, x, newshape: shapes.reshape(
        at, x, [-1 if n is None else n for n in newshape]
    ),
    'Resize': lambda at, x, size, **_: shapes.resize(at, x, size),
    'Selu': activation('selu'),
    'Sigmoid': activation('sigmoid'),
    'Silu': arithmetic.silu,
    'Softmax': arithmetic.softmax,
    'Softplus': activation('softplus'),
    'Softsign': activation('softsign'),
    'Split': _split,
    'Square': arithmetic.square,
    'Squeeze': shapes.squeeze,
    'StopGradient': arithmetic.identity,
    'Subtract': _arithmetic(arithmetic.subtract, 0, symmetric=False),
    'Sum': shapes.reduce_sum,
    'Take': shapes.gather,
    'Tanh': activation('tanh'),
    'Transpose': lambda at, x, axes: shapes.transpose(at, x, axes),
    'TrueDivide': _arithmetic(arithmetic.divide, 1, symmetric=False),
}
_BY_NAME = {name.lower(): handler for name, handler in OPERATIONS.items()}
