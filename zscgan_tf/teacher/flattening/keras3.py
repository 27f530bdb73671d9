"""Keras 3 models as functional tf_keras models of layers and op layers, for `flatten`.

The graph of the Keras 3 model is walked from its outputs to its inputs. Nested models are inlined;
layers of the user's own are traced: their `call` runs on symbolic tensors, and what it did is
walked in turn. Keras 3 objects are only looked at, so this module does not import Keras 3.

    flat = flatten(translate(keras.models.load_model('model.keras')))
"""

import inspect
import re
import sys

import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.flattening.flatten import unused_name
from zscgan_tf.teacher.flattening.keras3_layers import (
    FUNCTIONS,
    activation_name,
    built_in_class,
    check_layer,
    copy_weights,
    counterpart,
    describe,
    has_activation_of_tf_keras,
    unsupported,
)
from zscgan_tf.teacher.flattening.keras3_ops import function_of
from zscgan_tf.teacher.layer_types import LAYER_TYPES

# What running a user's `call` on symbolic tensors raises where it leaves Keras 3's operations.
_TRACING_ERRORS = (AttributeError, NotImplementedError, TypeError, ValueError)
# What a TensorFlow function raises for arguments that it does not take.
_CALL_ERRORS = (AttributeError, IndexError, TypeError, ValueError, tf.errors.InvalidArgumentError)


def translate(model: object, symbolic_input: object | None = None) -> tf_keras.Model:
    """The flat functional tf_keras model that computes in inference what a Keras 3 model does.

    Args:
        model: a built Keras 3 model, functional, sequential, nested or subclassed, with one input
            and one output.
        symbolic_input: what to call a subclassed model or one of no fixed size with, a
            `keras.Input` of shape [None, H, W, C]; without it, the shape the model was built with.

    Returns:
        A tf_keras model of built-in layers and op layers, which `flatten` takes apart.

    Raises:
        UserError: the model has no fixed input shape, or holds something that cannot be translated.
    """
    graph = _inner_graph(model)
    traced = graph is None or (symbolic_input is not None and not _is_of_fixed_size(graph))
    if traced:
        if symbolic_input is None:
            symbolic_input = _input_as_built(model)
        sources, targets = [symbolic_input], _trace(model, (symbolic_input,), {})
    else:
        sources, targets = graph.inputs, graph.outputs
    if len(sources) != 1 or len(targets) != 1:
        raise UserError(
            f"Keras 3 model '{model.name}' has {len(sources)} inputs and {len(targets)} outputs: "
            f'pass a classifier with one of each.'
        )
    shape = tuple(sources[0].shape)
    if None in shape[1:]:
        raise UserError(
            f"Keras 3 model '{model.name}' takes inputs of no fixed size ({shape}): build it with "
            f'a fixed input shape, such as keras.Input((224, 224, 3)).'
        )
    walk = _Walk()
    # Names of symbolic tensors are counted in the process; those of input layers are the model's.
    name = 'inputs' if traced else sources[0]._keras_history.operation.name
    inputs = walk.named_after(tf_keras.Input(shape[1:], shape[0]), name)
    known = {id(sources[0]): (sources[0], inputs)}
    outputs = walk.run(targets, known, traced=traced)
    return tf_keras.Model(inputs, outputs[0], name=model.name)


class _Walk:
    """One translation: the names that are taken, and what stands for each Keras 3 layer."""

    def __init__(self):
        self._names = set()
        # The new layers whose names are final.
        self._named = set()
        # A layer that is used twice is translated once; the layer is kept, so that its id stays.
        self._copies = {}

    def unique(self, name):
        """The name as tf_keras allows it, numbered where it was given before."""
        name = re.sub(r'[^A-Za-z0-9_.-]', '_', name)
        return unused_name(name if name[0] not in '_-' else f'layer{name}', self._names)

    def run(self, targets, known, traced=False):
        """The tf_keras tensors of Keras 3 tensors.

        Args:
            targets: symbolic Keras 3 tensors.
            known: {id(Keras 3 tensor): (Keras 3 tensor, tf_keras tensor)}, the inputs at least;
                what is computed on the way is added.
            traced: whether a user's own code made the graph. There training=True is meant; the
                layers of a functional model get training=False in inference, whatever is stored.

        Returns:
            A list of symbolic tf_keras tensors.
        """
        # Not recursive: a deep network would exceed Python's limit.
        waiting = list(reversed(targets))
        while waiting:
            if id(waiting[-1]) in known:
                waiting.pop()
                continue
            node = _node(waiting[-1])
            missing = [t for t in node.input_tensors if id(t) not in known]
            if missing:
                waiting.extend(reversed(missing))
                continue
            for tensor, value in zip(node.outputs, self._apply(node, known, traced), strict=True):
                _check_shape(node.operation, tensor, value)
                known[id(tensor)] = (tensor, value)
        return [known[id(tensor)][1] for tensor in targets]

    def _apply(self, node, known, traced):
        operation = node.operation
        args, kwargs = node.arguments.args, node.arguments.kwargs
        inputs = [known[id(tensor)][1] for tensor in node.input_tensors]
        graph = _inner_graph(operation)
        if graph is not None and _is_of_fixed_size(graph):
            pairs = zip(graph.inputs, inputs, strict=True)
            return self.run(graph.outputs, {id(tensor): (tensor, x) for tensor, x in pairs})
        if _is_composite(operation):
            return self.run(_trace(operation, args, kwargs), dict(known), traced=True)
        if _is_layer(operation):
            if traced and kwargs.get('training') and _trains(operation):
                raise UserError(
                    f'{describe(operation)} is called with training=True: pass the `training` of '
                    f'the call on, a classifier is quantized as it runs in inference.'
                )
            return [self._apply_layer(node, inputs)]

        def replace(argument):
            if isinstance(argument, list | tuple):
                return type(argument)(replace(item) for item in argument)
            return known[id(argument)][1] if id(argument) in known else argument

        return self._apply_operation(operation, replace([*args, *kwargs.values()]))

    def _apply_operation(self, operation, values):
        """The outputs of an operation of Keras 3 for tf_keras tensors and constants."""
        kind = type(operation).__name__
        settings = {k: v for k, v in vars(operation).items() if not k.startswith('_')}
        del settings['name']
        if settings.pop('data_format', None) == 'channels_first':
            raise unsupported(operation, 'works on channels first')
        function = function_of(kind)
        if function is None:
            raise unsupported(operation)
        try:
            outputs = _flatten(function(*values, **settings))
        except _CALL_ERRORS as error:
            raise unsupported(operation, f'cannot be translated ({_reason(error)})') from error
        snake = re.sub(r'(?<=[a-z0-9])([A-Z])', r'_\1', kind).lower()
        self.named_after(outputs[0], f'op_{snake}')
        return outputs

    def named_after(self, x, name):
        """Names the layer that a function made; gives its tensor `x` back.

        tf_keras would number the layer by what else the process has made.
        """
        layer = x._keras_history.layer
        if layer not in self._named:
            self._named.add(layer)
            layer._name = layer.given_name = self.unique(name)
        return x

    def _apply_layer(self, node, inputs):
        layer = node.operation
        called_with = node.arguments.args[0] if node.arguments.args else node.input_tensors
        merges = isinstance(called_with, list | tuple)
        if len(inputs) != (len(called_with) if merges else 1):
            raise unsupported(layer, 'is called with more than one tensor, or with constants')
        check_layer(layer, node.input_tensors[0].shape)
        x = inputs if len(inputs) > 1 else inputs[0]
        kind = built_in_class(layer).__name__
        if LAYER_TYPES[kind].dropped or merges and len(inputs) == 1:
            return x
        if kind in FUNCTIONS:
            return self.named_after(FUNCTIONS[kind](layer, x), layer.name)
        if id(layer) not in self._copies:
            copy = counterpart(layer, self.unique)
            self._copies[id(layer)] = layer, copy
            self._named.add(copy)
        _, copy = self._copies[id(layer)]
        if copy is not None:
            x = copy(x)
            copy_weights(layer, copy)
        if has_activation_of_tf_keras(layer):
            return x
        return self._activate(layer, node.outputs[0], x)

    def _activate(self, layer, symbol, x):
        """Applies a layer's activation, for which Keras 3 has a symbol of the same shape."""
        name = activation_name(layer)
        if name is not None:
            function = function_of(name)
            if function is None:
                raise unsupported(layer, f"uses the activation '{name}', which tf_keras lacks")
            suffix = '' if built_in_class(layer).__name__ == 'Activation' else '_activation'
            return self.named_after(function(x), layer.name + suffix)
        try:
            targets = _flatten(layer.activation(symbol))
        except _TRACING_ERRORS as error:
            raise _not_traceable(layer, error) from error
        return self.run(targets, {id(symbol): (symbol, x)})[0]


def _inner_graph(operation):
    """The functional graph of a functional or sequential model that runs it unchanged, or None."""
    for cls in type(operation).__mro__:
        if cls.__module__ == 'keras.src.models.functional':
            return operation
        if cls.__module__ == 'keras.src.models.sequential':
            return operation._functional
        if 'call' in vars(cls) or '__call__' in vars(cls):
            return None
    return None


def _is_of_fixed_size(graph):
    return all(None not in tensor.shape[1:] for tensor in graph.inputs)


def _is_layer(operation):
    return any(cls.__module__ == 'keras.src.layers.layer' for cls in type(operation).__mro__)


def _trains(layer):
    """Whether a built-in layer does something else in training, by an argument of its call."""
    kind = built_in_class(layer).__name__
    return kind in ('BatchNormalization', 'GaussianNoise') or 'Dropout' in kind


def _is_composite(operation):
    """Whether what the operation computes has to be traced: no layer or operation of Keras 3's."""
    if _is_layer(operation):
        built_in = built_in_class(operation)
        return built_in is None or built_in.__name__ == 'Pipeline'
    return not type(operation).__module__.startswith('keras.src.')


def _node(tensor):
    """The node of the Keras 3 graph that made a tensor."""
    operation, index, _ = getattr(tensor, '_keras_history', (None, 0, 0))
    if operation is None or operation._inbound_nodes[index].is_input:
        raise UserError(
            f"Keras 3 tensor '{getattr(tensor, 'name', tensor)}' does not depend on the model's "
            f'input: pass a model whose output is computed from its one input.'
        )
    return operation._inbound_nodes[index]


def _check_shape(operation, tensor, value):
    expected, translated = tuple(tensor.shape[1:]), tuple(value.shape[1:])
    if len(tensor.shape) != value.shape.rank or expected != translated:
        raise unsupported(operation, f'gives shape {expected}, its translation {translated}')


def _input_as_built(model):
    """A symbolic input of the shape that a subclassed Keras 3 model was built with."""
    if len(getattr(model, 'inputs', None) or ()) == 1:
        return model.inputs[0]
    config = model.get_build_config() if model.built else None
    shape = (config or {}).get('input_shape')
    if not isinstance(shape, list | tuple) or not all(isinstance(n, int) for n in shape[1:]):
        raise UserError(
            f"Keras 3 model '{model.name}' was not built with the shape of one image batch: call "
            f'it once on a batch of images before passing it.'
        )
    # Its objects exist, so Keras 3 has been imported; importing it here would hide that need.
    return sys.modules['keras'].Input(tuple(shape[1:]))


def _trace(layer, args, kwargs):
    """The output tensors of a layer's own `call`, run in inference on symbolic tensors."""
    kwargs = {name: v for name, v in kwargs.items() if name not in ('training', 'mask')}
    parameters = inspect.signature(layer.call).parameters
    if 'training' in parameters and len(args) <= list(parameters).index('training'):
        kwargs['training'] = False
    count = len(getattr(layer, 'weights', ()))
    try:
        outputs = _flatten(layer.call(*args, **kwargs))
    except _TRACING_ERRORS as error:
        raise _not_traceable(layer, error) from error
    if len(getattr(layer, 'weights', ())) != count:
        raise UserError(
            f'{describe(layer)} had not made all its weights: call the model once on a batch of '
            f'images before passing it.'
        )
    return outputs


def _not_traceable(layer, error):
    return UserError(
        f'{describe(layer)} cannot be traced ({_reason(error)}): write its call with keras.layers '
        f'and keras.ops only (ops.multiply(weight, x), not weight * x; no keras.activations).'
    )


def _reason(error):
    return re.split(r'\.\s|\n', str(error).strip())[0][:200]


def _flatten(outputs):
    """The tensors of a nested structure, in Keras 3's order (dictionaries by sorted key)."""
    if isinstance(outputs, dict):
        outputs = [outputs[key] for key in sorted(outputs)]
    if isinstance(outputs, list | tuple):
        return [tensor for item in outputs for tensor in _flatten(item)]
    return [outputs]
