"""Arithmetic and activations of op layers as layers; see `operations`.

Arithmetic with constants stays `Pending` until a layer needs its result, so that relu6(x + 3) / 6,
in whatever order it was written, becomes one HardSigmoid or HardSwish, and a chain of scalings one
Rescaling.
"""

import collections.abc
import dataclasses
import math
import typing

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.graphs import is_symbolic
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish

# The largest limit of a clip. A clip adds its limit to the values and takes it off again. Beside a
# larger limit float32 would round the values away. Pixels are within it.
_FARTHEST_LIMIT = 1000.0

# A tensor of the new graph, a `Pending` operation, or a plain number, array, shape or list of them.
Value = object


@dataclasses.dataclass(eq=False)
class Pending:
    """An operation that has no layer yet.

    Attributes:
        kind: 'affine' (scale x + offset), 'relu6' (relu6(x + 3)), 'hard_sigmoid' (that / 6) or
            'product' (x relu6(x + 3)).
        source: x, a tensor or pending itself.
        at: the `Place` of the operation.
        scale, offset: of 'affine'; numbers, or arrays that broadcast to x.
        result: the tensor, once a layer needed it.
    """

    kind: str
    source: object
    at: object
    scale: object = 1.0
    offset: object = 0.0
    result: object = None

    @property
    def shape(self) -> tf.TensorShape:
        return self.source.shape

    def is_affine(self, scale: float, offset: float) -> bool:
        """Whether this is scale x + offset with these numbers."""
        return (
            self.kind == 'affine'
            and np.allclose(self.scale, scale, rtol=1e-5)
            and np.allclose(self.offset, offset, rtol=1e-5)
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an operation stands: the flattener, the prefix of names, the original's layer.

    New layers are called after what they compute.
    """

    flat: object
    path: str
    layer: object

    def emit(self, layer_class: type, inputs: Value, kind: str, **config: object) -> tf.Tensor:
        name = f'{self.path}/{kind}' if self.path else kind
        return self.flat.emit(layer_class, inputs, name, **config)

    def refuse(self, what: str) -> typing.NoReturn:
        """Raises for an operation that no layer stands for."""
        name = f'{self.path}/{self.layer.name}' if self.path else self.layer.name
        raise UserError(
            f"{self.flat.model_name}: layer '{name}' is the operation {what}, which no Keras layer "
            f'stands for: rebuild the model with Keras layers.'
        )


def settle(pending: Pending) -> tf.Tensor:
    """The tensor of a pending operation, its layers emitted once."""
    if pending.result is not None:
        return pending.result
    at, x = pending.at, pending.source
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
        shifted = Pending('affine', x, at, offset=3.0)
        pending.result = at.emit(tf_keras.layers.ReLU, shifted, 'relu6', max_value=6.0)
    elif pending.kind == 'hard_sigmoid':
        pending.result = at.emit(HardSigmoid, x, 'hard_sigmoid')
    else:
        gate = Pending('relu6', x, at)
        pending.result = at.emit(tf_keras.layers.Multiply, [x, gate], 'multiply')
    return pending.result


def affine(at: Place, x: Value, scale: Value, offset: Value) -> Value:
    """scale x + offset for constants."""
    scale, offset = np.float64(scale), np.float64(offset)
    for value in (scale, offset):
        shape = tuple(x.shape)
        if np.broadcast_shapes(value.shape, (1, *shape[1:])) != (1, *shape[1:]):
            at.refuse(f'arithmetic with a constant of shape {value.shape} on {shape}')
    sixth = isinstance(x, Pending) and np.allclose(scale, 1 / 6, rtol=1e-5) and not np.any(offset)
    if sixth and x.kind == 'relu6':
        return Pending('hard_sigmoid', x.source, at)
    if sixth and x.kind == 'product':
        return at.emit(HardSwish, x.source, 'hard_swish')
    return Pending('affine', x, at, scale, offset)


def hard_product(at: Place, a: Value, b: Value) -> Value | None:
    """The hard-swish, or the half of it, that a b is; None where it is neither."""
    for x, gate in ((a, b), (b, a)):
        if not isinstance(gate, Pending):
            continue
        if gate.kind == 'hard_sigmoid' and gate.source is x:
            return at.emit(HardSwish, x, 'hard_swish')
        if gate.kind == 'relu6' and gate.source is x:
            return Pending('product', x, at)
        if gate.kind == 'relu6' and isinstance(x, Pending) and x.source is gate.source:
            if x.is_affine(1 / 6, 0):
                return at.emit(HardSwish, x.source, 'hard_swish')
    return None


def is_tensor(value: Value) -> bool:
    return is_symbolic(value) or isinstance(value, Pending)


def _combine(at, layer_class, kind, *values):
    """A merging layer on tensors of one rank; plain numbers must have been dealt with."""
    if len({value.shape.rank for value in values}) != 1:
        at.refuse(f'{kind} of tensors of different ranks')
    return at.emit(layer_class, list(values), kind)


def add(at: Place, x: Value, y: Value) -> Value:
    if is_tensor(x) and is_tensor(y):
        return _combine(at, tf_keras.layers.Add, 'add', x, y)
    if not is_tensor(x) and not is_tensor(y):
        return x + y
    return affine(at, x, 1.0, y) if is_tensor(x) else affine(at, y, 1.0, x)


def subtract(at: Place, x: Value, y: Value) -> Value:
    if is_tensor(x) and is_tensor(y):
        return _combine(at, tf_keras.layers.Subtract, 'subtract', x, y)
    if not is_tensor(x) and not is_tensor(y):
        return x - y
    return affine(at, x, 1.0, -np.float64(y)) if is_tensor(x) else affine(at, y, -1.0, x)


def multiply(at: Place, x: Value, y: Value) -> Value:
    if is_tensor(x) and is_tensor(y):
        hard = hard_product(at, x, y)
        return _combine(at, tf_keras.layers.Multiply, 'multiply', x, y) if hard is None else hard
    if not is_tensor(x) and not is_tensor(y):
        return x * y
    return affine(at, x, y, 0.0) if is_tensor(x) else affine(at, y, x, 0.0)


def divide(at: Place, x: Value, y: Value) -> Value:
    if not is_tensor(x) and not is_tensor(y):
        return x / y
    if is_tensor(y) or not np.all(y):
        at.refuse('a division by a tensor or by zero')
    return affine(at, x, 1 / np.float64(y), 0.0)


def floor_divide(at: Place, x: Value, y: Value) -> Value:
    if is_tensor(x) or is_tensor(y):
        at.refuse('a division without remainder')
    return x // y


def bias_add(at: Place, value: Value, bias: Value, data_format: str | None = None) -> Value:
    if data_format not in (None, 'NHWC'):
        at.refuse('tf.nn.bias_add in that form')
    return add(at, value, bias)


def negative(at: Place, x: Value) -> Value:
    return affine(at, x, -1.0, 0.0)


def square(at: Place, x: Value) -> Value:
    return multiply(at, x, x)


def power(at: Place, x: Value, y: Value) -> Value:
    if is_tensor(y) or np.size(y) != 1 or np.ravel(y)[0] not in (1, 2, 3):
        at.refuse('tf.pow by something else than 1, 2 or 3')
    count = int(np.ravel(y)[0])
    return x if count == 1 else at.emit(tf_keras.layers.Multiply, [x] * count, 'power')


def add_n(at: Place, inputs: Value) -> Value:
    return _combine(at, tf_keras.layers.Add, 'add', *inputs)


def _refuse_far(at, limit):
    """Refuses a limit of a clip that is too far from the values for float32."""
    far = np.max(np.abs(limit))
    if far > _FARTHEST_LIMIT:
        at.refuse(f'tf.clip_by_value (or a maximum or minimum) at {far:g}, too far off for float32')


def _extreme(layer_class, kind, sign):
    """The handler of a maximum (sign 1) or minimum (-1)."""

    def handler(at, x, y):
        if is_tensor(x) and is_tensor(y):
            return _combine(at, layer_class, kind, x, y)
        x, y = (x, y) if is_tensor(x) else (y, x)
        _refuse_far(at, y)
        return affine(at, relu(at, affine(at, x, sign, -sign * np.float64(y))), sign, y)

    return handler


maximum = _extreme(tf_keras.layers.Maximum, 'maximum', 1.0)
minimum = _extreme(tf_keras.layers.Minimum, 'minimum', -1.0)


def clip_by_value(at: Place, t: Value, clip_value_min: Value, clip_value_max: Value) -> Value:
    low, high = float(clip_value_min), float(clip_value_max)
    _refuse_far(at, low)
    if (low, high) == (0, 6):
        return relu6(at, t)
    if low == 0:
        return at.emit(tf_keras.layers.ReLU, t, 'clip', max_value=high)
    shifted = affine(at, t, 1.0, -low)
    return affine(at, at.emit(tf_keras.layers.ReLU, shifted, 'clip', max_value=high - low), 1, low)


def identity(at: Place, input: Value) -> Value:
    return input


def cast(at: Place, x: Value, dtype: Value) -> Value:
    if is_tensor(x) and not tf.as_dtype(dtype).is_floating:
        at.refuse(f'a cast to {tf.as_dtype(dtype).name}')
    return x


# Activations


def relu(at: Place, features: Value) -> Value:
    return at.emit(tf_keras.layers.ReLU, features, 'relu')


def is_relu6(layer: tf_keras.layers.ReLU) -> bool:
    return layer.max_value == 6 and not layer.negative_slope and not layer.threshold


def relu6(at: Place, features: Value) -> Value:
    if isinstance(features, Pending) and features.is_affine(1, 3):
        return Pending('relu6', features.source, at)
    return at.emit(tf_keras.layers.ReLU, features, 'relu6', max_value=6.0)


def leaky_relu(at: Place, features: Value, alpha: Value = 0.2) -> Value:
    return at.emit(tf_keras.layers.LeakyReLU, features, 'leaky_relu', alpha=float(alpha))


def softmax(
    at: Place, logits: Value, axis: Value = -1, name: str | None = None, dim: Value = None
) -> Value:
    axis = axis if dim is None else dim
    axis = -1 if axis is None else axis
    return at.emit(tf_keras.layers.Softmax, logits, 'softmax', axis=int(axis))


def silu(at: Place, features: Value, beta: Value = 1.0) -> Value:
    if beta != 1.0:
        at.refuse('tf.nn.silu with a beta')
    return at.emit(tf_keras.layers.Activation, features, 'swish', activation='swish')


def gelu(at: Place, features: Value, approximate: bool = False) -> Value:
    if not approximate:
        return at.emit(tf_keras.layers.Activation, features, 'gelu', activation='gelu')
    # x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
    x = features
    inner = add(at, x, affine(at, power(at, x, 3), 0.044715, 0.0))
    gate = activation('tanh')(at, affine(at, inner, math.sqrt(2 / math.pi), 0.0))
    return multiply(at, x, affine(at, gate, 0.5, 0.5))


def activation(name: str) -> collections.abc.Callable[..., Value]:
    """The handler of an activation without parameters."""

    def handler(at, *args, **kwargs):
        (x,) = (*args, *kwargs.values())
        return at.emit(tf_keras.layers.Activation, x, name, activation=name)

    return handler
