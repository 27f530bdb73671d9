"""The one table of operations: op layers (`x + y`, `tf.nn.relu(x)`, slices ...) become layers.

A handler has the parameters of the TensorFlow function that it stands for, behind `at`, the `Place`
in the graph where it is.
"""

import functools
import inspect

import tf_keras

from zscgan_tf.teacher.flattening import arithmetic, shapes
from zscgan_tf.teacher.flattening.arithmetic import Place, Value, is_tensor
from zscgan_tf.teacher.layers import affine_of

_OPERATION_CLASSES = """
    ClassMethod InstanceMethod InstanceProperty SlicingOpLambda TFOpLambda TensorFlowOpLayer
""".split()


def is_operation(layer: tf_keras.layers.Layer) -> bool:
    """Whether the layer is an op layer: one that calls a TensorFlow function."""
    return type(layer).__name__ in _OPERATION_CLASSES and type(layer).__module__.startswith(
        'tf_keras.'
    )


def constant(value: object) -> object:
    """A value without tensors or variables, of TensorFlow or Keras 3: these as arrays."""
    return value.numpy() if hasattr(value, 'numpy') else value


def apply(
    flat: object, layer: tf_keras.layers.Layer, args: tuple, kwargs: dict, path: str
) -> Value:
    """The value of an op layer for values; see `Flattener.apply`."""
    at = Place(flat, path, layer)
    symbol = getattr(layer, 'symbol', None) or type(layer).__name__
    handler = HANDLERS.get(symbol.removeprefix('compat.v1.'))
    if handler is None:
        at.refuse(f'tf.{symbol}')
    kwargs = {k: v for k, v in kwargs.items() if k != 'name'}
    try:
        inspect.signature(handler).bind(at, *args, **kwargs)
    except TypeError:
        at.refuse(f'tf.{symbol} with these arguments')
    try:
        return handler(at, *args, **kwargs)
    # Such as arithmetic on an open side.
    except (AttributeError, IndexError, TypeError, ValueError):
        at.refuse(f'tf.{symbol} with these arguments')


def layer_as_operation(
    flat: object, layer: tf_keras.layers.Layer, args: tuple, kwargs: dict, path: str
) -> Value | None:
    """The value of a built-in layer that is arithmetic or changes nothing; None for others."""
    at = Place(flat, path, layer)
    layers = tf_keras.layers
    if type(layer) is layers.Rescaling:
        return arithmetic.affine(at, args[0], layer.scale, layer.offset)
    if type(layer) is layers.Normalization and layer.axis in ((-1,), (3,), ()):
        scale, offset = affine_of(layer)
        return arithmetic.affine(at, args[0], scale, offset)
    if type(layer) in _MERGES and not all(map(is_tensor, args[0])):
        # The student knows merges of tensors only, and the fingerprint counts no constant.
        return functools.reduce(functools.partial(_MERGES[type(layer)], at), args[0])
    if type(layer) is layers.ReLU and arithmetic.is_relu6(layer):
        return arithmetic.relu6(at, args[0])
    if type(layer) is layers.Multiply and len(args[0]) == 2:
        return arithmetic.hard_product(at, *args[0])
    if type(layer) is layers.Concatenate and isinstance(args[0], (list, tuple)):
        return args[0][0] if len(args[0]) == 1 else None
    changes_nothing = (
        (type(layer) is layers.Resizing and (layer.height, layer.width) == args[0].shape[1:3])
        or (type(layer) is layers.UpSampling2D and tuple(layer.size) == (1, 1))
        or (type(layer) is layers.Activation and layer.activation is tf_keras.activations.linear)
    )
    return args[0] if changes_nothing else None


def _average(at, *values):
    at.refuse('an average with a constant')


_MERGES = {
    tf_keras.layers.Add: arithmetic.add,
    tf_keras.layers.Average: _average,
    tf_keras.layers.Maximum: arithmetic.maximum,
    tf_keras.layers.Minimum: arithmetic.minimum,
    tf_keras.layers.Multiply: arithmetic.multiply,
    tf_keras.layers.Subtract: arithmetic.subtract,
}
_ACTIVATIONS = """
    math.sigmoid math.softplus math.tanh nn.elu nn.selu nn.sigmoid nn.softplus nn.softsign nn.tanh
""".split()
# By the name of the TensorFlow function; files may call no others.
HANDLERS = {
    **{name: arithmetic.activation(name.split('.')[1]) for name in _ACTIVATIONS},
    '__operators__.add': arithmetic.add,
    '__operators__.getitem': shapes.getitem,
    'add_n': arithmetic.add_n,
    'cast': arithmetic.cast,
    'clip_by_value': arithmetic.clip_by_value,
    'concat': shapes.concat,
    'expand_dims': shapes.expand_dims,
    'gather': shapes.gather,
    'identity': arithmetic.identity,
    'image.resize': shapes.resize,
    'linalg.matmul': shapes.matmul,
    'math.add': arithmetic.add,
    'math.add_n': arithmetic.add_n,
    'math.divide': arithmetic.divide,
    'math.exp': arithmetic.activation('exponential'),
    'math.floordiv': arithmetic.floor_divide,
    'math.maximum': arithmetic.maximum,
    'math.minimum': arithmetic.minimum,
    'math.multiply': arithmetic.multiply,
    'math.negative': arithmetic.negative,
    'math.pow': arithmetic.power,
    'math.reduce_max': shapes.reduce_max,
    'math.reduce_mean': shapes.reduce_mean,
    'math.reduce_sum': shapes.reduce_sum,
    'math.square': arithmetic.square,
    'math.subtract': arithmetic.subtract,
    'math.truediv': arithmetic.divide,
    'nn.avg_pool': shapes.pooling(tf_keras.layers.AveragePooling2D, 'avg_pool'),
    'nn.avg_pool2d': shapes.pooling(tf_keras.layers.AveragePooling2D, 'avg_pool'),
    'nn.bias_add': arithmetic.bias_add,
    'nn.conv2d': shapes.conv2d,
    'nn.convolution': shapes.conv2d,
    'nn.depthwise_conv2d': shapes.depthwise_conv2d,
    'nn.gelu': arithmetic.gelu,
    'nn.leaky_relu': arithmetic.leaky_relu,
    'nn.max_pool': shapes.pooling(tf_keras.layers.MaxPooling2D, 'max_pool'),
    'nn.max_pool2d': shapes.pooling(tf_keras.layers.MaxPooling2D, 'max_pool'),
    'nn.relu': arithmetic.relu,
    'nn.relu6': arithmetic.relu6,
    'nn.silu': arithmetic.silu,
    'nn.softmax': arithmetic.softmax,
    'nn.swish': arithmetic.silu,
    'pad': shapes.pad,
    'reshape': shapes.reshape,
    'reverse': shapes.reverse,
    'shape': shapes.shape,
    'split': shapes.split,
    'squeeze': shapes.squeeze,
    'stack': shapes.pack,
    'stop_gradient': arithmetic.identity,
    'transpose': shapes.transpose,
}
