"""What the configuration of a model file may name: checked before anything is deserialized.

Keras builds whatever a configuration names, Python code of Lambda layers and functions of any
module included. Only Keras' own layers for images, and the operations that flattening knows, are
let through.
"""

import pathlib
from collections.abc import Iterator

import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.flattening.operations import HANDLERS
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
_HARMLESS_MODULES = frozenset(
    'constraints initializers losses metrics optimizers regularizers'.split()
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


_LOAD_IN_PYTHON = (
    'build the model in Python and pass it to zscgan_tf.load_teacher, or pass '
    '--teacher=package.module:function --allow_code.'
)


def check_configuration(
    config: object, path: pathlib.Path, allow_code: bool = False, keras3: bool = False
) -> None:
    """Refuses configurations that name anything but Keras' own building blocks.

    Args:
        config: the parsed configuration: dicts, lists and values.
        path: the file, for messages.
        allow_code: lets Lambda layers and functions through.
        keras3: whether Keras 3 wrote the file: its Lambda layers cannot be translated.

    Raises:
        UserError: with the name of the layer and what to do.
        ValueError: it is no configuration.
    """
    if not isinstance(config, dict):
        raise ValueError('its configuration is no JSON object')
    pending = [(config, None)]
    while pending:
        part, layer = pending.pop()
        if isinstance(part, dict):
            inner = part.get('config')
            if isinstance(inner, dict) and isinstance(inner.get('name'), str):
                layer = inner['name']
            if 'class_name' in part:
                where = repr(layer) if layer else 'without a name'
                problem = _problem(part, where, allow_code, keras3)
                if problem:
                    raise UserError(f'{path} contains {problem}')
            pending.extend((value, layer) for value in part.values())
        elif isinstance(part, list):
            pending.extend((value, layer) for value in part)


def dicts_in(value: object) -> Iterator[dict]:
    """All dicts in a parsed JSON value."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def _problem(part, where, allow_code, keras3):
    """What stands against a `class_name` of a configuration and what is beside it, or None."""
    name, module = part['class_name'], part.get('module') or ''
    inner, registered = part.get('config'), part.get('registered_name')
    settings = inner if isinstance(inner, dict) else {}
    if name == 'Lambda' and keras3:
        return (
            f'a Lambda layer {where}, which is Python code that cannot be translated from Keras 3, '
            f'with --allow_code neither: put Keras layers or a subclass of keras.layers.Layer that '
            f'calls keras.ops in its place, and pass the model as '
            f'--teacher=package.module:function --allow_code.'
        )
    if name in ('Lambda', '__lambda__') or 'function_type' in settings:
        what = 'a Lambda layer' if name == 'Lambda' else 'a lambda function in layer'
        code = f'{what} {where}, which is Python code; pass --allow_code if you trust the file.'
        return None if allow_code else code
    if name == 'function':
        return _problem_of_function(module or 'builtins', inner, where, allow_code, keras3)
    plain = isinstance(name, str) and isinstance(module, str)
    if not plain or not _is_known(name, module, registered):
        return _problem_of_class(name, module, plain and not _is_users(name, registered), where)
    activation = settings.get('activation')
    if isinstance(activation, str) and not allow_code and not _is_function(activation, keras3):
        return _foreign_function(f'{activation:.80}', where)
    function = settings.get('function')
    is_operation = name in ('TFOpLambda', 'SlicingOpLambda')
    if is_operation and str(function).removeprefix('compat.v1.') not in HANDLERS:
        return (
            f'the layer {where}, the operation tf.{function}, which no Keras layer stands for: '
            f'rebuild the model with Keras layers.'
        )
    return None


def _problem_of_class(name, module, may_be_keras, where):
    """What stands against a class that is not let through."""
    shown = f'{module}.{name}' if module and module != 'builtins' else str(name)
    in_keras = may_be_keras and _is_keras(module)
    in_layers = in_keras and 'layers' in module.split('.')
    if (in_layers or (may_be_keras and module in ('', 'builtins'))) and _is_layer(name):
        return (
            f'the layer {where} of class {name:.80}, a Keras layer that cannot be quantized here: '
            f'rebuild the model without it, with Conv2D, DepthwiseConv2D, Dense, '
            f'BatchNormalization, pooling, Add, Multiply, Concatenate and common activations.'
        )
    if in_keras and not in_layers:
        return (
            f'{shown:.80} in layer {where}, which is nothing that a classifier is built of: '
            f'rebuild the model with Keras layers, in float32 or mixed precision.'
        )
    return f'the layer {where} of class {shown:.80}, which is not part of Keras: {_LOAD_IN_PYTHON}'


def _problem_of_function(module, function, where, allow_code, keras3):
    """What stands against a function, unless it is an activation of Keras'."""
    # Without a module: a function of Keras', or one that the user registered.
    if module == 'builtins' and _is_function(function, keras3):
        return None
    if not isinstance(module, str) or not _is_keras(module):
        foreign = _foreign_function(f'{function!s:.80} of {module!s:.80}', where)
        return None if allow_code else foreign
    if any(name in _FUNCTION_MODULES for name in module.split('.')):
        return None
    return (
        f'the function {function!s:.80} of {module:.80} in layer {where}, which is no activation: '
        f'rebuild the model with Keras layers and activations.'
    )


def _foreign_function(function, where):
    return (
        f'the function {function} in layer {where}, which is not part of Keras: {_LOAD_IN_PYTHON}'
    )


def _is_known(name, module, registered):
    """Whether Keras or this project brings the class."""
    if _is_keras(module) and not _HARMLESS_MODULES.isdisjoint(module.split('.')):
        return True
    if _is_users(name, registered):
        return False
    name = name.rpartition('>')[2]
    if module.startswith('zscgan_tf.'):
        return name in _LAYERS
    if module in ('', 'builtins'):
        return name in _LAYERS | _MODELS | _VALUES | _LEGACY_HARMLESS
    return _is_keras(module) and (
        name in _LAYERS | _MODELS | _VALUES or module.startswith('keras.src.ops.')
    )


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
    if not isinstance(name, str):  # Keras would deserialize what it describes
        return False
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
