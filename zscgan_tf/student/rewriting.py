"""What each kind of layer of a teacher becomes in its float twin; see `folding`.

A rule takes the new graph, the teacher's node and the new inputs, and returns the new output.
"""

import collections.abc
import math

import numpy as np
import tf_keras

from zscgan_tf.student.graph import is_the_input
from zscgan_tf.teacher.layer_types import LAYER_TYPES
from zscgan_tf.teacher.layers import Reshape, affine_of, classes_with

layers = tf_keras.layers


def carried(shape: collections.abc.Sequence[int]) -> tuple[int, ...]:
    """The shape that the twin has for a teacher's tensor [B, ...]; a vector is an image of 1x1."""
    return (1, 1, *shape[1:]) if len(shape) == 2 else tuple(shape[1:])


def _convolution(graph, node, x):
    layer = node.layer
    kernel, bias = _kernel_and_bias(layer, layer.filters)
    settings = {**_spatial(graph, layer), 'groups': layer.groups}
    return _activated(graph, layer, graph.convolution(x, layer, kernel, bias, **settings))


def _select_channels(graph, node, x):
    """A convolution that is not trained, unless a batch norm is folded into it."""
    layer = node.layer
    kernel, bias = _kernel_and_bias(layer, layer.filters)
    y = graph.convolution(x, layer, kernel, bias, trainable=False)
    graph.linear[id(y)] = y._keras_history.layer
    return y


def _depthwise(graph, node, x):
    layer = node.layer
    kernel, bias = _kernel_and_bias(layer, x.shape[-1] * layer.depth_multiplier)
    settings = _spatial(graph, layer)
    return _activated(graph, layer, graph.depthwise(x, layer, kernel, bias, **settings))


def _separable(graph, node, x):
    layer = node.layer
    depthwise, pointwise = (np.float64(w) for w in layer.get_weights()[:2])
    _, bias = _kernel_and_bias(layer, layer.filters)
    zeros = np.zeros(pointwise.shape[2])
    x = graph.depthwise(x, layer, depthwise, zeros, '_depthwise', **_spatial(graph, layer))
    return _activated(graph, layer, graph.convolution(x, layer, pointwise, bias))


def _dense(graph, node, x):
    layer = node.layer
    kernel, bias = _kernel_and_bias(layer, layer.units)
    if x.shape.rank != 4:
        graph.refuse(layer, f'on {tuple(x.shape[1:])}')
    return _activated(graph, layer, graph.convolution(x, layer, kernel[None, None], bias))


def _spatial(graph, layer):
    if max(layer.dilation_rate) > 1:
        # The converter cuts it into ops, between which the ranges are lost.
        graph.refuse(layer, f'with dilation_rate {tuple(layer.dilation_rate)}')
    return {'strides': layer.strides, 'padding': layer.padding}


def _kernel_and_bias(layer, channels):
    """A layer's first kernel and its bias in float64, zeros where it has none."""
    weights = [np.float64(w) for w in layer.get_weights()]
    return weights[0], weights[-1] if layer.use_bias else np.zeros(channels)


def _batch_norm(graph, node, x):
    layer, rank = node.layer, node.outputs.shape.rank
    if rank not in (2, 4) or list(np.atleast_1d(layer.axis)) not in ([-1], [rank - 1]):
        graph.refuse(layer, f'of axis {layer.axis} on {tuple(node.outputs.shape[1:])}')
    mean, variance = np.float64(layer.moving_mean), np.float64(layer.moving_variance)
    scale = 1 / np.sqrt(variance + layer.epsilon)
    scale = scale * np.float64(layer.gamma) if layer.scale else scale
    beta = np.float64(layer.beta) if layer.center else np.zeros(mean.shape)
    offset = -mean * scale + beta
    if id(x) in graph.linear:
        graph.fold_into(graph.linear[id(x)], scale, offset)
    else:
        # A batch norm of the input itself is preprocessing, as a Normalization is.
        x = graph.affine(x, layer, scale, offset, trainable=not is_the_input(x))
        graph.linear[id(x)] = x._keras_history.layer
    graph.keep_norm(x, beta, np.abs(scale) * np.sqrt(variance))
    return x


def _affine(graph, node, x):
    return graph.affine(x, node.layer, *affine_of(node.layer))


def _activated(graph, layer, x):
    """The fused activation of a layer, as a layer of its own."""
    return _activate(graph, layer, layer.activation, x, '_activation')


def _activation(graph, node, x):
    return _activate(graph, node.layer, node.layer.activation, x)


def _activate(graph, owner, function, x, suffix=''):
    kind = getattr(function, '__name__', type(function).__name__)
    if kind == 'linear':
        return x
    if kind in ('relu', 'relu6'):
        return graph.add(layers.ReLU, x, owner, suffix, max_value=6.0 if kind == 'relu6' else None)
    if kind in ('sigmoid', 'tanh', 'softmax'):
        return graph.add(layers.Activation, x, owner, suffix, activation=kind)
    if kind in ('swish', 'silu'):
        gate = graph.add(layers.Activation, x, owner, f'{suffix}_sigmoid', activation='sigmoid')
        return graph.add(layers.Multiply, [x, gate], owner, suffix)
    if kind == 'hard_sigmoid':
        # tf_keras' own: 0.2 x + 0.5 within [0, 1].
        return _hard_gate(graph, owner, x, 1.2, suffix)
    return graph.refuse(owner, f"with the activation '{kind}'")


def _hard_sigmoid(graph, node, x):
    return _hard_gate(graph, node.layer, x, 1.0)


def _hard_gate(graph, owner, x, scale, suffix=''):
    """relu6(scale x + 3) / 6, in steps that have ranges of their own: whole, it stays float."""
    x = graph.affine(x, owner, scale, 3.0, f'{suffix}_shift')
    x = graph.add(layers.ReLU, x, owner, f'{suffix}_relu6', max_value=6.0)
    return graph.affine(x, owner, 1 / 6, 0.0, suffix)


def _relu(graph, node, x):
    layer = node.layer
    slope = float(layer.negative_slope)
    if layer.threshold or layer.max_value not in (None, 6) or (slope and layer.max_value):
        graph.refuse(layer, 'with a threshold, or a max_value that is not 6')
    if slope:
        return graph.add(layers.LeakyReLU, x, layer, alpha=slope)
    return graph.add(layers.ReLU, x, layer, max_value=layer.max_value and 6.0)


def _leaky_relu(graph, node, x):
    return graph.add(layers.LeakyReLU, x, node.layer, alpha=float(node.layer.alpha))


def _prelu(graph, node, x):
    """relu(x) - slope relu(-x): the kernel of the slopes has a range a channel, PRELU's one."""
    layer = node.layer
    positive = graph.add(layers.ReLU, x, layer, '_positive')
    x = graph.affine(x, layer, -1.0, 0.0, '_negated')
    x = graph.add(layers.ReLU, x, layer, '_negative')
    x = graph.affine(x, layer, -np.float64(layer.alpha), 0.0, '_sloped')
    return graph.add(layers.Add, [positive, x], layer)


def _softmax(graph, node, x):
    if node.layer.axis not in (-1, node.outputs.shape.rank - 1):
        graph.refuse(node.layer, f'of axis {node.layer.axis}')
    return graph.add(layers.Activation, x, node.layer, activation='softmax')


def _merge(graph, node, *values):
    return _in_pairs(graph, type(node.layer), values, node.layer)


def _in_pairs(graph, layer_class, values, owner, suffix=''):
    """A sum or product of any number of values: TFLite's ops take two."""
    total, *rest = values
    for number, value in enumerate(rest, 2):
        part = suffix if number == len(values) else f'{suffix}_of_{number}'
        total = graph.add(layer_class, [total, value], owner, part)
    return total


def _average(graph, node, *values):
    total = _in_pairs(graph, layers.Add, values, node.layer, '_sum')
    return graph.affine(total, node.layer, 1 / len(values), 0.0)


def _concatenate(graph, node, *values):
    axis, rank = node.layer.axis, node.outputs.shape.rank
    axis = -1 if axis == rank - 1 else axis
    return graph.add(layers.Concatenate, list(values), node.layer, axis=axis)


def _reshape(graph, node, x):
    shape = carried(node.outputs.shape)
    if tuple(x.shape[1:]) == shape:
        return x
    return graph.add(Reshape, x, node.layer, target_shape=shape)


def _permute(graph, node, x):
    return x if node.outputs.shape.rank == 2 else _copy(graph, node, x)


def _global_pooling(graph, node, x):
    return graph.add(type(node.layer), x, node.layer, keepdims=True)


def _average_pooling(graph, node, x):
    """Layers whose output has a range of its own: the output of TFLite's pool has its input's.

    An average over the same number of values everywhere becomes a depthwise convolution. Two kinds
    do not: padded ones, which average fewer values at the border, and those whose strides differ,
    which TensorFlow's depthwise convolutions refuse on some CPUs. There the pool keeps its input's
    range, and a constant convolution behind the pool has the range of its own.
    """
    layer = node.layer
    if tuple(layer.pool_size) == (1, 1):  # takes every n-th position
        return graph.add(layers.MaxPooling2D, x, layer, pool_size=1, strides=layer.strides)
    if tuple(layer.pool_size) == tuple(x.shape[1:3]) and not _pads(layer, x):
        return graph.add(layers.GlobalAveragePooling2D, x, layer, keepdims=True)
    if _pads(layer, x) or len(set(layer.strides)) > 1:
        settings = {n: getattr(layer, n) for n in ('pool_size', 'strides', 'padding')}
        x = graph.add(layers.AveragePooling2D, x, layer, '_pool', **settings)
        return graph.affine(x, layer, 1.0, 0.0)
    height, width = layer.pool_size
    kernel = np.full((height, width, x.shape[-1], 1), 1 / (height * width))
    bias = np.zeros(x.shape[-1])
    return graph.depthwise(x, layer, kernel, bias, strides=layer.strides, trainable=False)


def _pads(layer, x):
    """Whether a pool pads an image of this size."""
    return layer.padding == 'same' and any(
        (math.ceil(side / stride) - 1) * stride + pool > side
        for side, stride, pool in zip(x.shape[1:3], layer.strides, layer.pool_size, strict=True)
    )


def _upsampling(graph, node, x):
    if node.layer.interpolation not in ('nearest', 'bilinear'):
        graph.refuse(node.layer, f'with {node.layer.interpolation} interpolation')
    return _copy(graph, node, x)


def _copy(graph, node, x):
    dropped = ('name', 'dtype', 'trainable', 'batch_input_shape')
    config = {k: v for k, v in node.layer.get_config().items() if k not in dropped}
    return graph.add(type(node.layer), x, node.layer, **config)


# By the layer's class. A layer that does nothing in inference is still there if the user made a
# class of their own of it.
RULES = {
    **{c: globals()[f'_{LAYER_TYPES[c.__name__].student}'] for c in classes_with('student')},
    **dict.fromkeys(classes_with('dropped'), lambda graph, node, x: x),
}
