"""Keras 3 layers and activations as tf_keras layers, one by one.

Names are no guide: tf_keras' `hard_sigmoid` is 0.2x + 0.5, Keras 3's is relu6(x + 3)/6, and slopes
of leaky ReLUs differ in name and default. Every entry here is compared numerically in the tests.
Keras 3 objects are recognised by class name and read by `get_config()`, without importing Keras 3.
"""

import math
import re

import numpy as np
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish

# Layers that tf_keras has under the same name, and the settings that matter in inference.
_SETTINGS = {
    'Conv2D': 'filters kernel_size strides padding dilation_rate groups use_bias',
    'DepthwiseConv2D': 'kernel_size strides padding depth_multiplier dilation_rate use_bias',
    'SeparableConv2D': (
        'filters kernel_size strides padding depth_multiplier dilation_rate use_bias'
    ),
    'Conv2DTranspose': 'filters kernel_size strides padding output_padding dilation_rate use_bias',
    'Dense': 'units use_bias',
    'BatchNormalization': 'momentum epsilon center scale',
    'LayerNormalization': 'axis epsilon center scale',
    'ReLU': 'max_value negative_slope threshold',
    'PReLU': 'shared_axes',
    'ELU': 'alpha',
    'Softmax': 'axis',
    'Add': '',
    'Subtract': '',
    'Multiply': '',
    'Average': '',
    'Maximum': '',
    'Minimum': '',
    'Concatenate': 'axis',
    'ZeroPadding2D': 'padding',
    'Cropping2D': 'cropping',
    'UpSampling2D': 'size interpolation',
    'MaxPooling2D': 'pool_size strides padding',
    'AveragePooling2D': 'pool_size strides padding',
    'GlobalMaxPooling2D': 'keepdims',
    'GlobalAveragePooling2D': 'keepdims',
    'Flatten': '',
    'Reshape': 'target_shape',
    'Permute': 'dims',
    'Resizing': 'height width interpolation crop_to_aspect_ratio',
}
MERGES = ('Add', 'Subtract', 'Multiply', 'Average', 'Maximum', 'Minimum', 'Concatenate')

# Layers that are the identity in inference; those whose name begins with "Random" are too.
_IDENTITIES = (
    'ActivityRegularization',
    'AlphaDropout',
    'AugMix',
    'Dropout',
    'GaussianDropout',
    'GaussianNoise',
    'Identity',
    'RandAugment',
    'SpatialDropout2D',
)

# Settings that would change the outputs and that tf_keras lacks: (layer, setting, what it must be).
_REFUSED = (
    ('LayerNormalization', 'rms_scaling', False),
    ('Resizing', 'antialias', False),
    ('Resizing', 'pad_to_aspect_ratio', False),
)

# Activations of one formula in both, under tf_keras' name.
_SAME_FORMULA = {
    'relu': 'relu',
    'sigmoid': 'sigmoid',
    'tanh': 'tanh',
    'softmax': 'softmax',
    'elu': 'elu',
    'selu': 'selu',
    'softplus': 'softplus',
    'softsign': 'softsign',
    'silu': 'swish',
    'swish': 'swish',
    'gelu': 'gelu',
    'exponential': 'exponential',
    'mish': 'mish',
}


def layer_maker():
    """A function `make(layer_class, base, **settings)` that gives every layer a name of its own."""
    used = set()

    def make(layer_class, base, **settings):
        base = re.sub(r'[^A-Za-z0-9_.-]', '_', base)
        base = base if re.match('[A-Za-z0-9.]', base) else f'layer{base}'
        name, number = base, 0
        while name in used:
            number += 1
            name = f'{base}_{number}'
        used.add(name)
        return layer_class(name=name, **settings)

    return make


def built_in_class(layer):
    """The Keras 3 layer class that computes what this layer does; None for a class of the user's.

    A user's subclass that only sets arguments, or makes its weights elsewhere, counts as built in.
    """
    harmless = ('build', 'compute_output_shape', 'compute_output_spec', 'from_config', 'get_config')
    own = set()
    for cls in type(layer).__mro__:
        if cls.__module__.startswith('keras.src.layers.'):
            changed = {n for n in own if hasattr(cls, n) and not n.startswith('__')}
            base = cls.__module__ == 'keras.src.layers.layer'
            return None if base or changed - set(harmless) else cls
        own |= vars(cls).keys()
    return None


def describe(operation):
    """How messages call a Keras 3 layer or operation."""
    return f"Keras 3 layer or operation '{operation.name}' ({type(operation).__name__})"


def unsupported(operation, why='has no counterpart in tf_keras that the quantizer knows'):
    """The error for what can't be translated."""
    return UserError(
        f'{describe(operation)} {why}: rebuild the model with Conv2D, DepthwiseConv2D, Dense, '
        f'BatchNormalization, pooling, Add, Multiply, Concatenate and common activations, '
        f'channels last.'
    )


def layer_steps(layer, input_shapes, make, trace_activation):
    """The tf_keras layers that do in inference what one built-in Keras 3 layer does.

    Args:
        layer: the Keras 3 layer.
        input_shapes: shapes of its input tensors, the batch axis included.
        make: see `layer_maker`.
        trace_activation: a function (activation, x) -> x, for an activation that is a layer or a
            function of the user's own.

    Returns:
        A list of tf_keras layers and functions, to be applied one after the other; none for a
        layer that is the identity in inference.

    Raises:
        UserError: the layer has no counterpart.
    """
    built_in = built_in_class(layer)
    if built_in.__name__ == 'Lambda':
        raise UserError(
            f'{describe(layer)} holds Python code, which can not be translated: rebuild the model '
            f'with Keras layers in its place.'
        )
    kind, config = built_in.__name__, built_in.get_config(layer)
    _refuse_settings(layer, kind, config, input_shapes)
    if kind in _IDENTITIES or kind.startswith('Random'):
        return []
    if kind in MERGES and len(input_shapes) == 1:
        return []
    if kind == 'Activation':
        return activation_steps(layer, make, trace_activation, layer.name)[0]
    if kind == 'LeakyReLU':
        slope = float(config['negative_slope'])
        return [make(tf_keras.layers.LeakyReLU, layer.name, alpha=slope)]
    if kind == 'Rescaling':
        scale, offset = (to_setting(value) for value in (layer.scale, layer.offset))
        return [make(tf_keras.layers.Rescaling, layer.name, scale=scale, offset=offset)]
    if kind == 'Normalization':
        return [_normalization(layer, config, make)]
    if kind in ('AdaptiveAveragePooling2D', 'AdaptiveMaxPooling2D'):
        return [_adaptive_pooling(layer, kind, config, make)]
    if kind == 'CenterCrop':
        return [_center_crop(layer, config, input_shapes[0], make)]
    if kind not in _SETTINGS:
        raise unsupported(layer)
    settings = {name: config[name] for name in _SETTINGS[kind].split()}
    behind = []
    if 'activation' in config:
        behind, fused = activation_steps(
            layer, make, trace_activation, f'{layer.name}_activation', fuse=True
        )
        settings['activation'] = fused
    return [make(getattr(tf_keras.layers, kind), layer.name, **settings), *behind]


def _refuse_settings(layer, kind, config, input_shapes):
    if config.get('data_format') == 'channels_first':
        raise unsupported(layer, 'works on channels first')
    if kind == 'BatchNormalization' and config['axis'] not in (-1, len(input_shapes[0]) - 1):
        raise unsupported(layer, f'normalizes axis {config["axis"]}, not the last one')
    if getattr(layer, 'quantization_mode', None) or getattr(layer, 'lora_enabled', False):
        raise UserError(
            f'{describe(layer)} is quantized or has LoRA weights: pass the float model.'
        )
    for name, setting, allowed in _REFUSED:
        if kind == name and config.get(setting, allowed) != allowed:
            raise unsupported(layer, f'has {setting}={config[setting]}')


def _normalization(layer, config, make):
    axis = config['axis']
    axis = [axis] if isinstance(axis, int) else list(axis or ())
    # The constants that the layer really uses: those of its last adapt() or of its configuration.
    mean, variance = (
        to_array(v).reshape(layer._mean_and_var_shape) for v in (layer.mean, layer.variance)
    )
    return make(
        tf_keras.layers.Normalization,
        layer.name,
        axis=axis or None,
        mean=mean.tolist(),
        variance=variance.tolist(),
        invert=config['invert'],
    )


def _adaptive_pooling(layer, kind, config, make):
    if tuple(np.ravel(config['output_size'])) not in ((1,), (1, 1)):
        raise unsupported(layer, 'pools to more than one position')
    pooling = getattr(tf_keras.layers, kind.replace('Adaptive', 'Global'))
    return make(pooling, layer.name, keepdims=True)


def _center_crop(layer, config, input_shape, make):
    rows, columns = input_shape[1] - config['height'], input_shape[2] - config['width']
    if rows < 0 or columns < 0:
        raise unsupported(layer, 'enlarges its input')
    cropping = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    return make(tf_keras.layers.Cropping2D, layer.name, cropping=cropping)


def copy_weights(layer, copies):
    """Copies a Keras 3 layer's weights, by their names within the layer.

    Args:
        layer: the Keras 3 layer.
        copies: the built tf_keras layers that stand for it; the first takes the weights.

    Raises:
        UserError: names or shapes don't fit.
    """
    targets = {} if not copies else {_short_name(w.name): w for w in copies[0].weights}
    if not targets:
        return
    values = {_short_name(w.name): to_array(w) for w in layer.weights}
    if 'depthwise_kernel' in targets and 'depthwise_kernel' not in values:
        values['depthwise_kernel'] = values.pop('kernel', None)
    if values.keys() != targets.keys():
        raise UserError(
            f'{describe(layer)} has weights {sorted(values)} where {sorted(targets)} are expected: '
            f'use the layer without changing its weights.'
        )
    for name, target in targets.items():
        if values[name].shape != tuple(target.shape):
            raise UserError(
                f'{describe(layer)}: {name} has shape {values[name].shape}, where '
                f'{tuple(target.shape)} is expected: use the layer without changing its weights.'
            )
        target.assign(values[name].astype(np.float32))


def _short_name(name):
    return name.split('/')[-1].split(':')[0]


def activation_steps(layer, make, trace_activation, name, fuse=False):
    """What stands for the `activation` of a Keras 3 layer: (steps behind, fused tf_keras name).

    With `fuse`, an activation that has the same formula in tf_keras gives no steps but its name
    there; 'linear' gives neither.
    """
    activation = layer.activation
    if activation is None:
        return [], None
    # A function of Keras 3's own, called with its default arguments.
    if getattr(activation, '__module__', '').startswith('keras.') and hasattr(
        activation, '__name__'
    ):
        kind = activation.__name__
        if fuse and kind in _SAME_FORMULA:
            return [], _SAME_FORMULA[kind]
        return named_activation(layer, kind, make, name), None
    return [lambda x: trace_activation(activation, x)], None


def named_activation(operation, kind, make, name, **settings):
    """The steps of an activation function of Keras 3, by its formula.

    Args:
        operation: the Keras 3 layer or operation, for messages.
        kind: the function's name in `keras.activations`.
        make: see `layer_maker`.
        name: name of the new layer.
        settings: the function's arguments, where they are not the defaults of
            `keras.activations`.

    Returns:
        A list of tf_keras layers and functions.

    Raises:
        UserError: tf_keras has no such function.
    """
    layers = tf_keras.layers
    if kind == 'linear':
        return []
    if kind == 'relu':
        return [make(layers.ReLU, name, **settings)]
    if kind == 'relu6':
        return [make(layers.ReLU, name, max_value=6.0)]
    if kind == 'leaky_relu':
        return [make(layers.LeakyReLU, name, alpha=float(settings.get('negative_slope', 0.2)))]
    if kind == 'hard_sigmoid':
        return [make(HardSigmoid, name)]
    if kind in ('hard_silu', 'hard_swish'):
        return [make(HardSwish, name)]
    if kind == 'hard_tanh':
        return [
            make(layers.Rescaling, name, scale=1.0, offset=1.0),
            make(layers.ReLU, name, max_value=2.0),
            make(layers.Rescaling, name, scale=1.0, offset=-1.0),
        ]
    if kind == 'elu' and settings.get('alpha', 1.0) != 1.0:
        return [make(layers.ELU, name, alpha=float(settings['alpha']))]
    if kind == 'softmax':
        return [make(layers.Softmax, name, **settings)]
    if kind == 'gelu' and settings.get('approximate', False):
        return [lambda x: _tanh_gelu(x, make, name)]
    if kind in _SAME_FORMULA:
        return [make(layers.Activation, name, activation=_SAME_FORMULA[kind])]
    raise unsupported(operation, f"uses the activation '{kind}', which tf_keras does not have")


def _tanh_gelu(x, make, name):
    """GELU's tanh approximation: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    layers = tf_keras.layers
    cube = make(layers.Multiply, f'{name}_cube')([x, x, x])
    cube = make(layers.Rescaling, f'{name}_cube_scaled', scale=0.044715)(cube)
    inner = make(layers.Add, f'{name}_inner')([x, cube])
    inner = make(layers.Rescaling, f'{name}_scaled', scale=math.sqrt(2 / math.pi))(inner)
    gate = make(layers.Activation, f'{name}_tanh', activation='tanh')(inner)
    gate = make(layers.Rescaling, f'{name}_gate', scale=0.5, offset=0.5)(gate)
    return make(layers.Multiply, name)([x, gate])


def to_array(value):
    """A constant of a Keras 3 graph (number, array, tensor, variable) as a NumPy array."""
    return np.asarray(value.numpy() if hasattr(value, 'numpy') else value)


def to_setting(value):
    """A constant as a float, or as a list of floats (nested where it has several axes)."""
    array = to_array(value).astype(np.float64)
    if array.size == 1:
        return float(array.ravel()[0])
    while array.shape[0] == 1:
        array = array[0]
    return array.tolist()
