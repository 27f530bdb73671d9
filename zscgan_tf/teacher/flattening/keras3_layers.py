"""Keras 3 layers as tf_keras layers of the same name, or as handlers' calls.

Names are no guide: tf_keras' `hard_sigmoid` is 0.2x + 0.5, Keras 3's is relu6(x + 3)/6, and slopes
of leaky ReLUs differ in name and default. Every translation is compared numerically in the tests.
Keras 3 objects are recognised by class name and read by `get_config()`, without importing Keras 3.
"""

import numpy as np
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.flattening import shapes
from zscgan_tf.teacher.flattening.arithmetic import add, multiply
from zscgan_tf.teacher.flattening.keras3_ops import OPERATIONS
from zscgan_tf.teacher.flattening.operations import constant
from zscgan_tf.teacher.layer_types import LAYER_TYPES
from zscgan_tf.teacher.layers import normalization_moments

# Activations of one formula in both: Keras 3's name and that of tf_keras.
SAME_FORMULA = {'silu': 'swish'} | {
    name: name
    for name in """
        linear relu sigmoid tanh softmax elu selu softplus softsign gelu exponential mish
    """.split()
}


# Weights that a batch norm with renorm has beside its own, and reads in training only.
_UNUSED_AFTER_TRAINING = {'moving_stddev', 'renorm_mean', 'renorm_stddev'}


def built_in_class(layer: object) -> type | None:
    """The Keras 3 layer class that computes what a layer does; None for a class of the user's.

    A user's subclass that only sets arguments, or makes its weights elsewhere, counts as built in.
    """
    harmless = {'build', 'compute_output_shape', 'compute_output_spec', 'from_config', 'get_config'}
    own = set()
    for cls in type(layer).__mro__:
        if cls.__module__.startswith('keras.src.layers.'):
            changed = {n for n in own if hasattr(cls, n) and not n.startswith('__')}
            base = cls.__module__ == 'keras.src.layers.layer'
            return None if base or changed - harmless else cls
        own |= vars(cls).keys()
    return None


def describe(operation: object) -> str:
    """How messages call a Keras 3 layer or operation."""
    return f"Keras 3 layer or operation '{operation.name}' ({type(operation).__name__})"


def unsupported(
    operation: object, why: str = 'has no counterpart in tf_keras that the quantizer knows'
) -> UserError:
    """The error for what cannot be translated."""
    return UserError(
        f'{describe(operation)} {why}: rebuild the model with Conv2D, DepthwiseConv2D, Dense, '
        f'BatchNormalization, pooling, Add, Multiply, Concatenate and common activations, '
        f'channels last.'
    )


def activation_name(layer: object) -> str | None:
    """The name of a layer's activation, 'linear' without one; None of one that is not Keras 3's."""
    activation = getattr(layer, 'activation', None)
    if activation is None:
        return 'linear'
    # Not of `keras.ops`: its gelu has another default.
    of_keras = getattr(activation, '__module__', '').startswith('keras.src.activations')
    return getattr(activation, '__name__', None) if of_keras else None


def check_layer(layer: object, input_shape: tuple) -> None:
    """Refuses a built-in Keras 3 layer with settings that tf_keras has no counterpart for.

    Args:
        layer: the layer.
        input_shape: shape of its first input, the batch axis included.

    Raises:
        UserError: with the setting.
    """
    kind = built_in_class(layer).__name__
    config = built_in_class(layer).get_config(layer)
    if kind == 'Lambda':
        raise UserError(
            f'{describe(layer)} holds Python code, which cannot be translated: rebuild the model '
            f'with Keras layers in its place.'
        )
    if config.get('data_format') == 'channels_first':
        raise unsupported(layer, 'works on channels first')
    if kind == 'BatchNormalization' and config['axis'] not in (-1, len(input_shape) - 1):
        raise unsupported(layer, f'normalizes axis {config["axis"]}, not the last one')
    if getattr(layer, 'quantization_mode', None) or getattr(layer, 'lora_enabled', False):
        raise UserError(
            f'{describe(layer)} is quantized or has LoRA weights: pass the float model.'
        )
    if kind not in LAYER_TYPES:
        raise unsupported(layer)
    for name in LAYER_TYPES[kind].keras3_off.split():
        if config.get(name):
            raise unsupported(layer, f'has {name}={config[name]}')


def counterpart(layer: object, input_shape: tuple) -> tf_keras.layers.Layer | None:
    """The tf_keras layer that a built-in Keras 3 layer becomes by its settings.

    Args:
        layer: the Keras 3 layer.
        input_shape: shape of its input, the batch axis included; needed if it has weights.

    Returns:
        A layer of the same weights, with the activation if it is of `SAME_FORMULA`; None if the
        layer is its activation alone, and that is of another formula.

    Raises:
        UserError: there is no such layer, or the weights are not those of its class.
    """
    kind = built_in_class(layer).__name__
    config = built_in_class(layer).get_config(layer)
    if LAYER_TYPES[kind].keras3 is None:
        raise unsupported(layer)
    pairs = (setting.partition('=') for setting in LAYER_TYPES[kind].keras3.split())
    settings = {setting: config[theirs or setting] for setting, _, theirs in pairs}
    if 'activation' in config:
        function = activation_name(layer)
        settings['activation'] = SAME_FORMULA.get(function)
    if kind == 'Activation':
        if function in ('relu', 'softmax'):
            kind, settings = {'relu': 'ReLU', 'softmax': 'Softmax'}[function], {}
        elif function not in SAME_FORMULA:
            return None
    copy = getattr(tf_keras.layers, kind)(name=layer.name, **settings)
    if layer.weights:
        copy.build(input_shape)
        _copy_weights(layer, copy)
    return copy


def _copy_weights(layer, copy):
    """Copies a Keras 3 layer's weights, by their names within the layer."""
    targets = {_short_name(weight): weight for weight in copy.weights}
    values = {_short_name(weight): constant(weight) for weight in layer.weights if targets}
    for name in _UNUSED_AFTER_TRAINING & values.keys() - targets.keys():
        del values[name]
    if 'depthwise_kernel' in targets and 'depthwise_kernel' not in values:
        values['depthwise_kernel'] = values.pop('kernel', None)
    expected = {name: tuple(weight.shape) for name, weight in targets.items()}
    actual = {name: np.shape(value) for name, value in values.items()}
    if actual != expected:
        raise UserError(
            f'{describe(layer)} has weights of the shapes {actual} where {expected} are expected: '
            f'use the layer without changing its weights.'
        )
    for name, target in targets.items():
        target.assign(values[name].astype(np.float32))


def _short_name(weight):
    return weight.name.split('/')[-1].split(':')[0]


# Layers that are arithmetic, slices or reductions: functions of a `Place` and the layer's input


def _rescaling(at, x):
    return OPERATIONS['Add'](at, OPERATIONS['Multiply'](at, x, at.layer.scale), at.layer.offset)


def _normalization(at, x):
    # The constants that the layer really uses: those of its last adapt() or of its configuration.
    mean, variance = map(np.float32, normalization_moments(at.layer))
    scale = np.maximum(np.sqrt(variance), np.float32(1e-7))
    scale, offset = (scale, mean) if at.layer.invert else (1 / scale, -mean * (1 / scale))
    return add(at, multiply(at, x, scale), offset)


def _adaptive_pooling(reduce):
    def apply(at, x):
        if tuple(np.ravel(at.layer.get_config()['output_size'])) not in ((1,), (1, 1)):
            raise unsupported(at.layer, 'pools to more than one position')
        return reduce(at, x, [1, 2], keepdims=True)

    return apply


def _center_crop(at, x):
    height, width = at.layer.height, at.layer.width
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    if min(top, left) < 0:
        raise unsupported(at.layer, 'enlarges its input')
    return shapes.getitem(at, x, (slice(None), slice(top, top + height), slice(left, left + width)))


def _random_crop(at, x):
    # In inference Keras 3 leaves its input as it is, whatever shape it says.
    if (at.layer.height, at.layer.width) != tuple(x.shape[1:3]):
        raise unsupported(at.layer, 'changes the size')
    return x


FUNCTIONS = {
    'AdaptiveAveragePooling2D': _adaptive_pooling(shapes.reduce_mean),
    'AdaptiveMaxPooling2D': _adaptive_pooling(shapes.reduce_max),
    'CenterCrop': _center_crop,
    'Normalization': _normalization,
    'RandomCrop': _random_crop,
    'Rescaling': _rescaling,
}
