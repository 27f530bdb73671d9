"""Keras 3 operations (`keras.ops`, operators on symbolic tensors) as tf_keras layers.

Arithmetic with constants becomes Rescaling, with tensors a merging layer, reductions over height
and width become global pooling. An exact hard-sigmoid or hard-swish that is spelled out (ReLU6 of
x + 3, a sixth of it, times x) becomes that one layer.
"""

import math
import re

import numpy as np
import tf_keras

from zscgan_tf.teacher.flattening.keras3_layers import (
    named_activation,
    to_array,
    to_setting,
    unsupported,
)
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish

_ACTIVATIONS = {
    'ReLU': ('relu', ('max_value', 'negative_slope', 'threshold')),
    'Relu': ('relu', ()),
    'Relu6': ('relu6', ()),
    'LeakyRelu': ('leaky_relu', ('negative_slope',)),
    'Silu': ('silu', ()),
    'HardSilu': ('hard_silu', ()),
    'HardSigmoid': ('hard_sigmoid', ()),
    'HardTanh': ('hard_tanh', ()),
    'Sigmoid': ('sigmoid', ()),
    'Softmax': ('softmax', ('axis',)),
    'Softplus': ('softplus', ()),
    'Softsign': ('softsign', ()),
    'Tanh': ('tanh', ()),
    'Exp': ('exponential', ()),
    'Elu': ('elu', ('alpha',)),
    'Selu': ('selu', ()),
    'Gelu': ('gelu', ('approximate',)),
    'Mish': ('mish', ()),
}
_PASSED_ON = ('Cast', 'ConvertToTensor', 'Copy', 'Identity', 'StopGradient')
_RESHAPES = ('ExpandDims', 'Ravel', 'Reshape', 'Squeeze')
_BINARY = ('Add', 'Subtract', 'Multiply', 'TrueDivide', 'Divide', 'Maximum', 'Minimum', 'Power')
_REDUCTIONS = ('Mean', 'Sum', 'Max', 'Amax')


def apply_operation(operation, args, kwargs, output_shape, make):
    """The output of one Keras 3 operation, made by tf_keras layers.

    Args:
        operation: the Keras 3 operation (no layer).
        args, kwargs: what it was called with, symbolic tensors replaced by those of tf_keras.
        output_shape: shape of its output, the batch axis included.
        make: see `keras3_layers.layer_maker`.

    Returns:
        A symbolic tf_keras tensor.

    Raises:
        UserError: the operation has no counterpart.
    """
    kind = type(operation).__name__
    name = 'op_' + re.sub(r'(?<=[a-z0-9])([A-Z])', r'_\1', kind).lower()
    values = [*args, *kwargs.values()]
    if getattr(operation, 'data_format', None) == 'channels_first':
        raise unsupported(operation, 'works on channels first')
    if kind in _BINARY:
        return _binary(operation, kind, values, make, name)
    if kind == 'Concatenate':
        tensors = _only_tensors(operation, values[0])
        return make(tf_keras.layers.Concatenate, name, axis=operation.axis)(tensors)
    x = values[0]
    _only_tensors(operation, [x])
    if kind in _PASSED_ON or kind == 'Resize' and tuple(output_shape[1:]) == tuple(x.shape[1:]):
        return x
    if kind in _ACTIVATIONS:
        function, settings = _ACTIVATIONS[kind]
        settings = {setting: getattr(operation, setting) for setting in settings}
        for step in named_activation(operation, function, make, name, **settings):
            x = step(x)
        return x
    if kind == 'Negative':
        return _affine(x, -1.0, 0.0, make, name)
    if kind == 'Square':
        return make(tf_keras.layers.Multiply, name)([x, x])
    if kind == 'Clip':
        return _clip(operation, x, make, name)
    if kind in _REDUCTIONS:
        return _reduce(operation, kind, x, make, name)
    if kind in _RESHAPES:
        return _reshape(operation, x, output_shape, make, name)
    if kind == 'Transpose':
        axes = [axis % x.shape.rank for axis in operation.axes or ()]
        if not axes or axes[0] != 0:
            raise unsupported(operation, 'moves the batch axis')
        return make(tf_keras.layers.Permute, name, dims=axes[1:])(x)
    if kind == 'Pad':
        return _pad(operation, x, values[1:], make, name)
    if kind == 'GetItem':
        return _get_item(operation, x, values[1], output_shape, make, name)
    if kind in ('MaxPool', 'AveragePool') and x.shape.rank == 4:
        layer = getattr(tf_keras.layers, f'{kind}ing2D')
        settings = {n: getattr(operation, n) for n in ('pool_size', 'strides', 'padding')}
        return make(layer, name, **settings)(x)
    if kind in ('Conv', 'DepthwiseConv', 'Matmul'):
        return _with_kernel(operation, kind, x, to_array(values[1]), make, name)
    raise unsupported(operation)


def _is_tensor(value):
    return hasattr(value, '_keras_history')


def _only_tensors(operation, values):
    if not all(_is_tensor(value) for value in values):
        raise unsupported(operation, 'is applied to constants and tensors together')
    return values


def _binary(operation, kind, values, make, name):
    layers = tf_keras.layers
    a, b = values
    if _is_tensor(a) and _is_tensor(b):
        if kind not in ('Add', 'Subtract', 'Multiply', 'Maximum', 'Minimum'):
            raise unsupported(operation, 'works on two tensors')
        if a.shape.rank != b.shape.rank:
            raise unsupported(operation, 'works on tensors of different ranks')
        gated = hard_swish(a, b, make, name) if kind == 'Multiply' else None
        return make(getattr(layers, kind), name)([a, b]) if gated is None else gated
    x, constant = (a, to_array(b)) if _is_tensor(a) else (b, to_array(a))
    constant = constant.astype(np.float64)
    if constant.ndim >= x.shape.rank and constant.shape[0] != 1:
        raise unsupported(operation, 'has a constant with a batch axis')
    if kind == 'Add':
        return _affine(x, 1.0, constant, make, name)
    if kind == 'Subtract':
        scale, offset = (1.0, -constant) if x is a else (-1.0, constant)
        return _affine(x, scale, offset, make, name)
    if kind == 'Multiply':
        return _affine(x, constant, 0.0, make, name)
    if kind in ('TrueDivide', 'Divide') and x is a and np.all(constant):
        return _affine(x, 1 / constant, 0.0, make, name)
    if kind == 'Power' and x is a and constant.size == 1 and constant.item() in (1, 2, 3):
        power = int(constant.item())
        return x if power == 1 else make(layers.Multiply, name)([x] * power)
    if kind == 'Maximum':
        return _above(x, constant, make, name)
    if kind == 'Minimum':
        x = _affine(x, -1.0, 0.0, make, name)
        return _affine(_above(x, -constant, make, name), -1.0, 0.0, make, name)
    raise unsupported(operation, 'has a constant that can not become a layer')


def _affine(x, scale, offset, make, name):
    """scale * x + offset as a Rescaling; nothing where that is x, a HardSigmoid where it ends one.

    A scale of a sixth behind relu6(x + 3), or behind x * relu6(x + 3), ends one.
    """
    scale, offset = to_setting(scale), to_setting(offset)
    if scale == 1.0 and offset == 0.0:
        return x
    if isinstance(scale, float) and math.isclose(scale, 1 / 6, rel_tol=1e-6) and offset == 0.0:
        inner = _shifted_relu6(x)
        if inner is not None:
            return make(HardSigmoid, name)(inner)
        layer, inputs = _origin(x)
        if isinstance(layer, tf_keras.layers.Multiply) and len(inputs) == 2:
            for inner, gate in (inputs, inputs[::-1]):
                if _shifted_relu6(gate) is inner:
                    return make(HardSwish, name)(inner)
    return make(tf_keras.layers.Rescaling, name, scale=scale, offset=offset)(x)


def hard_swish(a, b, make, name):
    """HardSwish(x) where one of the two tensors is x and the other HardSigmoid(x), or None."""
    for inner, gate in ((a, b), (b, a)):
        layer, inputs = _origin(gate)
        if isinstance(layer, HardSigmoid) and inputs[0] is inner:
            return make(HardSwish, name)(inner)
    return None


def _shifted_relu6(x):
    """The tensor t where x = relu6(t + 3), or None."""
    layer, inputs = _origin(x)
    if not isinstance(layer, tf_keras.layers.ReLU) or layer.max_value != 6.0:
        return None
    if layer.negative_slope != 0.0 or layer.threshold != 0.0:
        return None
    layer, inputs = _origin(inputs[0])
    shifts = isinstance(layer, tf_keras.layers.Rescaling)
    return inputs[0] if shifts and (layer.scale, layer.offset) == (1.0, 3.0) else None


def _origin(x):
    """(layer, its input tensors) of a symbolic tf_keras tensor."""
    history = x._keras_history
    return history.layer, history.layer._inbound_nodes[history.node_index].keras_inputs


def _above(x, lowest, make, name):
    """max(x, lowest)."""
    x = _affine(x, 1.0, -lowest, make, f'{name}_from')
    x = make(tf_keras.layers.ReLU, name)(x)
    return _affine(x, 1.0, lowest, make, f'{name}_to')


def _clip(operation, x, make, name):
    low, high = (to_array(v) for v in (operation.x_min, operation.x_max))
    if low.size != 1 or high.size != 1 or low.dtype == object or high.dtype == object:
        raise unsupported(operation, 'has limits that are not two numbers')
    low, high = float(low), float(high)
    x = _affine(x, 1.0, -low, make, f'{name}_from')
    x = make(tf_keras.layers.ReLU, name, max_value=high - low)(x)
    return _affine(x, 1.0, low, make, f'{name}_to')


def _reduce(operation, kind, x, make, name):
    rank = x.shape.rank
    axes = operation.axis if operation.axis is not None else range(rank)
    axes = [axes] if isinstance(axes, int) else axes
    if rank != 4 or sorted(axis % rank for axis in axes) != [1, 2]:
        raise unsupported(operation, 'reduces other axes than height and width')
    pooling = 'GlobalMaxPooling2D' if kind in ('Max', 'Amax') else 'GlobalAveragePooling2D'
    positions = x.shape[1] * x.shape[2]
    x = make(getattr(tf_keras.layers, pooling), name, keepdims=operation.keepdims)(x)
    return _affine(x, float(positions), 0.0, make, f'{name}_scaled') if kind == 'Sum' else x


def _reshape(operation, x, output_shape, make, name):
    sizes = list(output_shape[1:])
    if None in sizes or math.prod(sizes) != math.prod(x.shape[1:]):
        raise unsupported(operation, 'reshapes the batch axis')
    return make(tf_keras.layers.Reshape, name, target_shape=sizes)(x)


def _pad(operation, x, values, make, name):
    widths = np.broadcast_to(np.asarray(operation.pad_width), (x.shape.rank, 2)).tolist()
    zeros = operation.mode == 'constant' and all(not to_array(v) for v in values if v is not None)
    if x.shape.rank != 4 or widths[0] != [0, 0] or widths[3] != [0, 0] or not zeros:
        raise unsupported(operation, 'pads other axes than height and width, or not with zeros')
    return make(tf_keras.layers.ZeroPadding2D, name, padding=widths[1:3])(x)


def _get_item(operation, x, key, output_shape, make, name):
    """Slices of height and width become Cropping2D (and a pooling of size 1, for their steps)."""
    key = list(key) if isinstance(key, tuple | list) else [key]
    if len(output_shape) != x.shape.rank or x.shape.rank != 4:
        slices = [k for k in key if isinstance(k, slice)]
        if any(k != slice(None) for k in slices):
            raise unsupported(operation, 'slices something else than images')
        return _reshape(operation, x, output_shape, make, name)
    if Ellipsis in key:
        place = key.index(Ellipsis)
        key[place : place + 1] = [slice(None)] * (x.shape.rank - len(key) + 1)
    key += [slice(None)] * (x.shape.rank - len(key))
    ranges = [range(*k.indices(n or 1)) for k, n in zip(key, x.shape, strict=True)]
    whole = [k == slice(None) or (i and len(ranges[i]) == x.shape[i]) for i, k in enumerate(key)]
    if not (whole[0] and whole[3]) or any(r.step < 1 or not len(r) for r in ranges):
        raise unsupported(operation, 'slices other axes than height and width, or backwards')
    cropping = [(r[0], n - 1 - r[-1]) for r, n in zip(ranges[1:3], x.shape[1:3], strict=True)]
    strides = [r.step for r in ranges[1:3]]
    if any(any(sides) for sides in cropping):
        x = make(tf_keras.layers.Cropping2D, name, cropping=cropping)(x)
    if strides != [1, 1]:
        x = make(tf_keras.layers.MaxPooling2D, name, pool_size=1, strides=strides)(x)
    return x


def _with_kernel(operation, kind, x, kernel, make, name):
    layers = tf_keras.layers
    if kind == 'Matmul':
        if kernel.ndim != 2:
            raise unsupported(operation, 'multiplies by something else than a constant matrix')
        layer = make(layers.Dense, name, units=kernel.shape[1], use_bias=False)
    elif kernel.ndim != 4:
        raise unsupported(operation, 'has a kernel that is not of two dimensions')
    else:
        settings = {n: getattr(operation, n) for n in ('strides', 'padding', 'dilation_rate')}
        settings |= {'kernel_size': kernel.shape[:2], 'use_bias': False}
        if kind == 'DepthwiseConv':
            layer = make(layers.DepthwiseConv2D, name, depth_multiplier=kernel.shape[3], **settings)
        else:
            groups = x.shape[3] // kernel.shape[2]
            layer = make(layers.Conv2D, name, filters=kernel.shape[3], groups=groups, **settings)
    y = layer(x)
    layer.set_weights([kernel.astype(np.float32)])
    return y
