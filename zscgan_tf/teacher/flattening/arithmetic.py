"""Arithmetic and activations of op layers as layers; see `operations`.

Arithmetic with constants stays `Pending` until a layer needs its result, so that relu6(x + 3) / 6,
in whatever order it was written, becomes one HardSigmoid or HardSwish, and a chain of scalings one
Rescaling.
"""

import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.graphs import is_symbolic
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish


@dataclasses.dataclass(eq=False)
class Pending:
    """An operation that has no layer yet.

    Attributes:
        kind: 'affine' (scale x + offset), 'relu6' (relu6(x + 3)), 'hard_sigmoid' (that / 6) or
            'product' (x relu6(x + 3)).
        source: x, a tensor or pending itself.
        path: prefix of the layer's name.
        scale, offset: of 'affine'; numbers, or arrays that broadcast to x.
        result: the tensor, once a layer needed it.
    """

    kind: str
    source: object
    path: str
    scale: object = 1.0
    offset: object = 0.0
    result: object = None

    @property
    def shape(self):
        return self.source.shape

    def is_affine(self, scale, offset):
        """Whether this is scale x + offset with these numbers."""
        return (
            self.kind == 'affine'
            and np.allclose(self.scale, scale, rtol=1e-5)
            and np.allclose(self.offset, offset, rtol=1e-5)
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an operation stands: the flattener, the prefix of names, the original's layer."""

    flat: object
    path: str
    layer: object

    def emit(self, layer_class, inputs, kind, **config):
        name = f'{self.path}/{kind}' if self.path else kind
        return self.flat.emit(layer_class, inputs, name, **config)

    def refuse(self, what):
        """Raises for an operation that no layer stands for."""
        name = f'{self.path}/{self.layer.name}' if self.path else self.layer.name
        raise UserError(
            f"{self.flat.model_name}: layer '{name}' is the operation {what}, which no Keras layer "
            f'stands for: rebuild the model with Keras layers.'
        )


def settle(flat, pending):
    """The tensor of a pending operation, its layers emitted once."""
    if pending.result is not None:
        return pending.result
    at, x = Place(flat, pending.path, None), pending.source
    if pending.kind == 'affine':
        scale, offset = pending.scale, pending.offset
        while isinstance(x, Pending) and x.kind == 'affine':
            x, scale, offset = x.source, x.scale * scale, x.offset * scale + offset
        pending.result = at.emit(
            tf_keras.layers.Rescaling,
            x,
            'rescaling',
            scale=np.float32(scale).tolist(),
            offset=np.float32(offset).tolist(),
        )
    elif pending.kind == 'relu6':
        shifted = Pending('affine', x, pending.path, offset=3.0)
        pending.result = at.emit(tf_keras.layers.ReLU, shifted, 'relu6', max_value=6.0)
    elif pending.kind == 'hard_sigmoid':
        pending.result = at.emit(HardSigmoid, x, 'hard_sigmoid')
    else:
        gate = Pending('relu6', x, pending.path)
        pending.result = at.emit(tf_keras.layers.Multiply, [x, gate], 'multiply')
    return pending.result


def affine(at, x, scale, offset):
    """scale x + offset for constants."""
    scale, offset = np.float64(scale), np.float64(offset)
    for value in (scale, offset):
        shape = tuple(x.shape)
        if np.broadcast_shapes(value.shape, (1, *shape[1:])) != (1, *shape[1:]):
            at.refuse(f'arithmetic with a constant of shape {value.shape} on {shape}')
    sixth = isinstance(x, Pending) and np.allclose(scale, 1 / 6, rtol=1e-5) and not np.any(offset)
    if sixth and x.kind == 'relu6':
        return Pending('hard_sigmoid', x.source, at.path)
    if sixth and x.kind == 'product':
        return at.emit(HardSwish, x.source, 'hard_swish')
    return Pending('affine', x, at.path, scale, offset)


def hard_product(at, a, b):
    """The hard-swish, or the half of it, that a b is; None where it is neither."""
    for x, gate in ((a, b), (b, a)):
        if not isinstance(gate, Pending):
            continue
        if gate.kind == 'hard_sigmoid' and gate.source is x:
            return at.emit(HardSwish, x, 'hard_swish')
        if gate.kind == 'relu6' and gate.source is x:
            return Pending('product', x, at.path)
        if gate.kind == 'relu6' and isinstance(x, Pending) and x.source is gate.source:
            if x.is_affine(1 / 6, 0):
                return at.emit(HardSwish, x.source, 'hard_swish')
    return None


def is_tensor(value):
    return is_symbolic(value) or isinstance(value, Pending)


def _combine(at, layer_class, kind, *values):
    """A merging layer on tensors of one rank; plain numbers must have been dealt with."""
    if len({value.shape.rank for value in values}) != 1:
        at.refuse(f'{kind} of tensors of different ranks')
    return at.emit(layer_class, list(values), kind)


def add(at, x, y):
    if is_tensor(x) and is_tensor(y):
        return _combine(at, tf_keras.layers.Add, 'add', x, y)
    if not is_tensor(x) and not is_tensor(y):
        return x + y
    return affine(at, x, 1.0, y) if is_tensor(x) else affine(at, y, 1.0, x)


def subtract(at, x, y):
    if is_tensor(x) and is_tensor(y):
        return _combine(at, tf_keras.layers.Subtract, 'subtract', x, y)
    if not is_tensor(x) and not is_tensor(y):
        return x - y
    return affine(at, x, 1.0, -np.float64(y)) if is_tensor(x) else affine(at, y, -1.0, x)


def multiply(at, x, y):
    if is_tensor(x) and is_tensor(y):
        hard = hard_product(at, x, y)
        return _combine(at, tf_keras.layers.Multiply, 'multiply', x, y) if hard is None else hard
    if not is_tensor(x) and not is_tensor(y):
        return x * y
    return affine(at, x, y, 0.0) if is_tensor(x) else affine(at, y, x, 0.0)


def divide(at, x, y):
    if not is_tensor(x) and not is_tensor(y):
        return x / y
    if is_tensor(y):
        at.refuse('a division by a tensor')
    return affine(at, x, 1 / np.float64(y), 0.0)


def floor_divide(at, x, y):
    if is_tensor(x) or is_tensor(y):
        at.refuse('a division without remainder')
    return x // y


def negative(at, x):
    return affine(at, x, -1.0, 0.0)


def square(at, x):
    return multiply(at, x, x)


def add_n(at, inputs):
    return _combine(at, tf_keras.layers.Add, 'add', *inputs)


def maximum(at, x, y):
    if is_tensor(x) and is_tensor(y):
        return _combine(at, tf_keras.layers.Maximum, 'maximum', x, y)
    x, y = (x, y) if is_tensor(x) else (y, x)
    return affine(at, relu(at, affine(at, x, 1.0, -np.float64(y))), 1.0, y)


def minimum(at, x, y):
    if is_tensor(x) and is_tensor(y):
        return _combine(at, tf_keras.layers.Minimum, 'minimum', x, y)
    x, y = (x, y) if is_tensor(x) else (y, x)
    return affine(at, relu(at, affine(at, x, -1.0, y)), -1.0, y)


def clip_by_value(at, t, clip_value_min, clip_value_max):
    low, high = float(clip_value_min), float(clip_value_max)
    if (low, high) == (0, 6):
        return relu6(at, t)
    if low == 0:
        return at.emit(tf_keras.layers.ReLU, t, 'clip', max_value=high)
    shifted = affine(at, t, 1.0, -low)
    return affine(at, at.emit(tf_keras.layers.ReLU, shifted, 'clip', max_value=high - low), 1, low)


def identity(at, input):
    return input


def cast(at, x, dtype):
    if is_tensor(x) and not tf.as_dtype(dtype).is_floating:
        at.refuse(f'a cast to {tf.as_dtype(dtype).name}')
    return x


# Activations


def relu(at, features):
    return at.emit(tf_keras.layers.ReLU, features, 'relu')


def relu6(at, features):
    if isinstance(features, Pending) and features.is_affine(1, 3):
        return Pending('relu6', features.source, at.path)
    return at.emit(tf_keras.layers.ReLU, features, 'relu6', max_value=6.0)


def leaky_relu(at, features, alpha=0.2):
    return at.emit(tf_keras.layers.LeakyReLU, features, 'leaky_relu', alpha=float(alpha))


def softmax(at, logits, axis=-1, name=None, dim=None):
    axis = axis if dim is None else dim
    axis = -1 if axis is None else axis
    return at.emit(tf_keras.layers.Softmax, logits, 'softmax', axis=int(axis))


def silu(at, features, beta=1.0):
    if beta != 1.0:
        at.refuse('tf.nn.silu with a beta')
    return at.emit(tf_keras.layers.Activation, features, 'swish', activation='swish')


def gelu(at, features, approximate=False):
    if approximate:
        at.refuse('tf.nn.gelu with approximate=True')
    return at.emit(tf_keras.layers.Activation, features, 'gelu', activation='gelu')


def activation(name):
    """The handler of an activation without parameters."""

    def handler(at, *args, **kwargs):
        (x,) = (*args, *kwargs.values())
        return at.emit(tf_keras.layers.Activation, x, name, activation=name)

    return handler
