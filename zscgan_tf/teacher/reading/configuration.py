"""What the configuration of a model file may name: checked before anything is deserialized.

Keras builds whatever a configuration names, Python code of Lambda layers and functions of any
module included. Only Keras' own layers for images, and the plain operations that `operations`
knows, are let through.
"""

import collections.abc

import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.layer_types import LAYER_TYPES

_LAYERS = {name for name, layer_type in LAYER_TYPES.items() if layer_type.readable}
_MODELS = frozenset(('Functional', 'Model', 'Sequential'))
# Beside layers: dtype policies, tensors, shapes and slices in the arguments of layers.
_VALUES = frozenset(
    """
    DTypePolicy Policy TensorShape TypeSpec __ellipsis__ __keras_tensor__ __numpy__ __slice__
    __tensor__ __tuple__ slice
    """.split()
)
# Keras' own things of which a name alone says enough; none of them runs what a file brings.
_HARMLESS_MODULES = (
    'constraints',
    'initializers',
    'losses',
    'metrics',
    'optimizers',
    'regularizers',
)
_LEGACY_HARMLESS = frozenset(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity L1 L1L2 L2 LecunNormal
    LecunUniform MaxNorm MinMaxNorm NonNeg Ones Orthogonal OrthogonalRegularizer RandomNormal
    RandomUniform RadialConstraint TruncatedNormal UnitNorm VarianceScaling Zeros
    """.split()
)
# Modules of Keras with functions that may stand for an activation. Others have functions that read
# files, load models or switch Keras' own checks off.
_FUNCTION_MODULES = ('activations', 'losses', 'metrics', 'nn', 'ops')
_KERAS_PACKAGES = ('keras', 'tf_keras', 'tensorflow.keras', 'tensorflow.python.keras')


def check_configuration(
    config: object,
    path: object,
    operations: collections.abc.Container[str],
    allow_code: bool = False,
    keras3: bool = False,
) -> None:
    """Refuses configurations that name anything but Keras' own building blocks.

    Args:
        config: the parsed configuration: dicts, lists and values.
        path: the file, for messages.
        operations: names of the TensorFlow functions that op layers may call.
        allow_code: lets Lambda layers and functions through.
        keras3: whether Keras 3 wrote the file: its Lambda layers cannot be translated.

    Raises:
        UserError: with the name of the layer and what to do.
    """
    pending = [(config, None)]
    while pending:
        part, layer = pending.pop()
        if isinstance(part, dict):
            inner = part.get('config')
            if isinstance(inner, dict) and isinstance(inner.get('name'), str):
                layer = inner['name']
            if 'class_name' in part:
                _check_class(part, layer, path, operations, allow_code, keras3)
            pending.extend((value, layer) for value in part.values())
        elif isinstance(part, list):
            pending.extend((value, layer) for value in part)


def dicts_in(value: object) -> collections.abc.Iterator[dict]:
    """All dicts in a parsed JSON value."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def _check_class(part, layer, path, operations, allow_code, keras3):
    """Refuses one `class_name` of a configuration, and what stands beside it."""
    name = part['class_name']
    module = part.get('module') or ''
    inner = part.get('config')
    where = f"'{layer}'" if layer else 'without a name'
    if name == 'Lambda' and keras3:
        raise UserError(
            f'{path} contains a Lambda layer {where}, which is Python code that cannot be '
            f'translated from Keras 3, with --allow_code neither: put Keras layers or a subclass '
            f'of keras.layers.Layer that calls keras.ops in its place, and pass the model as '
            f'--teacher=package.module:function --allow_code.'
        )
    if name in ('Lambda', '__lambda__') or (isinstance(inner, dict) and 'function_type' in inner):
        if not allow_code:
            what = 'a Lambda layer' if name == 'Lambda' else 'a lambda function in layer'
            raise UserError(
                f'{path} contains {what} {where}, which is Python code; pass --allow_code if you '
                f'trust the file.'
            )
        return
    if name == 'function':
        _check_function(part, where, path, allow_code, keras3)
        return
    if (
        not isinstance(name, str)
        or not isinstance(module, str)
        or not _is_known(name, module, part.get('registered_name'))
    ):
        raise _unknown(name, module, part.get('registered_name'), where, path)
    activation = inner.get('activation') if isinstance(inner, dict) else None
    if isinstance(activation, str) and not allow_code and not _is_function(activation, keras3):
        raise _foreign_function(f'{activation:.80}', where, path)
    if name in ('TFOpLambda', 'SlicingOpLambda'):
        function = inner.get('function') if isinstance(inner, dict) else None
        if str(function).removeprefix('compat.v1.') not in operations:
            raise UserError(
                f'{path}: layer {where} is the operation tf.{function}, which no Keras layer '
                f'stands for: rebuild the model with Keras layers.'
            )


def _unknown(name, module, registered, where, path):
    """The error for a class that is not let through."""
    shown = f'{module}.{name}' if module and module != 'builtins' else str(name)
    plain = isinstance(name, str) and isinstance(module, str) and not _is_users(name, registered)
    in_keras = plain and _is_keras(module)
    in_layers = in_keras and 'layers' in module.split('.')
    if (in_layers or (plain and module in ('', 'builtins'))) and _is_layer(name):
        return UserError(
            f'{path}: layer {where} is of class {name:.80}, a Keras layer that cannot be '
            f'quantized here: rebuild the model without it, with Conv2D, DepthwiseConv2D, Dense, '
            f'BatchNormalization, pooling, Add, Multiply, Concatenate and common activations.'
        )
    if in_keras and not in_layers:
        return UserError(
            f'{path}: layer {where} names {shown:.80}, which is nothing that a classifier is built '
            f'of: rebuild the model with Keras layers, in float32 or mixed precision.'
        )
    return UserError(
        f'{path}: layer {where} is of class {shown:.80}, which is not part of Keras: build the '
        f'model in Python and pass it to zscgan_tf.load_teacher, or pass '
        f'--teacher=package.module:function --allow_code.'
    )


def _check_function(part, where, path, allow_code, keras3):
    """Refuses a function that is no activation of Keras'."""
    module, function = part.get('module') or 'builtins', part.get('config')
    # Without a module: a function of Keras', or one that the user registered.
    if module == 'builtins' and _is_function(function, keras3):
        return
    if isinstance(module, str) and _is_keras(module):
        if any(name in _FUNCTION_MODULES for name in module.split('.')):
            return
        raise UserError(
            f'{path}: layer {where} uses the function {function!s:.80} of {module:.80}, which is '
            f'no activation: rebuild the model with Keras layers and activations.'
        )
    if not allow_code:
        raise _foreign_function(f'{function!s:.80} of {module!s:.80}', where, path)


def _foreign_function(function, where, path):
    return UserError(
        f'{path}: layer {where} uses the function {function}, which is not part of Keras: build '
        f'the model in Python and pass it to zscgan_tf.load_teacher, or pass '
        f'--teacher=package.module:function --allow_code.'
    )


def _is_known(name, module, registered):
    """Whether Keras or this project brings the class."""
    if _is_keras(module) and any(part in _HARMLESS_MODULES for part in module.split('.')):
        return True
    if _is_users(name, registered):
        return False
    name = name.rpartition('>')[2]
    if module in ('', 'builtins'):
        return name in _LAYERS | _MODELS | _VALUES | _LEGACY_HARMLESS
    if module.startswith('zscgan_tf.'):
        return name in _LAYERS
    if not _is_keras(module):
        return False
    return name in _LAYERS | _MODELS | _VALUES or module.startswith('keras.src.ops.')


def _is_users(name, registered):
    """Whether the class was registered by a user: `package>name`, of a package that is not ours."""
    for registration in (name, registered):
        package, separator, _ = str(registration or '').rpartition('>')
        if separator and package not in ('zscgan_tf', 'keras'):
            return True
    return False


def _is_layer(name):
    """Whether Keras 2 or 3 has a layer of that name."""
    import keras

    # Those of old versions have gone since.
    known = hasattr(tf_keras.layers, name) or hasattr(keras.layers, name)
    return known or name.startswith('CuDNN')


def _is_function(name, keras3):
    """Whether Keras has an activation, loss or metric of that name."""
    library = tf_keras
    if keras3:
        import keras as library
    try:
        library.activations.get(name)
        return True
    except (TypeError, ValueError):
        return hasattr(library.losses, str(name)) or hasattr(library.metrics, str(name))


def _is_keras(module):
    return any(module == p or module.startswith(f'{p}.') for p in _KERAS_PACKAGES)
