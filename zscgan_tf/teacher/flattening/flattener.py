"""Walks a classifier's graph, and calls copies of its layers on the tensors of a flat graph.

Nested models are inlined, op layers (`x + y`, `tf.nn.relu(x)`) become real layers (`operations`),
and layers and models of the user's own classes are followed through their `call`. All layers are
fresh copies, frozen and float32: the user's own model keeps its weights and its training state.
"""

import collections.abc
import inspect
import re

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError, first_line
from zscgan_tf.teacher.flattening import operations
from zscgan_tf.teacher.flattening.arithmetic import Pending, Value, is_tensor, settle
from zscgan_tf.teacher.flattening.comparison import without_half
from zscgan_tf.teacher.graphs import called, is_symbolic, nodes_in_order
from zscgan_tf.teacher.layers import Reshape, classes_with
from zscgan_tf.teacher.tap import is_batch_norm

_DROPPED = classes_with('dropped')
# A fused activation of these becomes a layer of its own: heads are found and cut off there.
_SPLIT_ACTIVATIONS = ('softmax', 'sigmoid')
_BUILT_IN_ACTIVATIONS = {
    function
    for function in vars(tf_keras.activations).values()
    if inspect.isfunction(function) and function.__name__ not in ('deserialize', 'get', 'serialize')
}


class Flattener:
    """Walks the graph of a tf_keras model; `Keras3Flattener` that of a Keras 3 model.

    A value of the new graph is a tensor, a `Pending` operation, or a plain number, array or shape.

    Attributes:
        model_name: for messages.
        batch_size: the number of images that the original takes, None where it is open.
        advice: how to write a `call` that can be followed.
    """

    advice = 'build it of Keras layers and plain TensorFlow operations'

    def __init__(self, model_name: str, batch_size: int | None = None) -> None:
        self.model_name = model_name
        self.batch_size = batch_size
        # The input, and the layers that `head` adds; the user's of these names are numbered.
        self._names = {'images', 'logits_vector', 'two_classes', 'log_probabilities'}
        # (original, copy or counterpart) by the original's id, which stays unique as it is kept.
        self._copies = {}

    # Values

    def tensor(self, value: Value) -> Value:
        """The tensor of a value, its pending operation brought into the graph."""
        return settle(value) if isinstance(value, Pending) else value

    def single(self, values: object) -> Value:
        """The one value of an output structure."""
        flat = tf.nest.flatten(values)
        if len(flat) != 1:
            raise UserError(
                f'{self.model_name} has {len(flat)} outputs: a classifier has one; make a model of '
                f'the output that classifies.'
            )
        return flat[0]

    # The graph

    def emit(self, layer_class: type, inputs: object, name: str, **config: object) -> tf.Tensor:
        """Calls a new layer on values; `name` is made unique."""
        layer = layer_class(name=self.unique(name), dtype='float32', trainable=False, **config)
        return layer(tf.nest.map_structure(self.tensor, inputs))

    def unique(self, name: str) -> str:
        """The name as tf_keras allows it, numbered where it was given before."""
        name = re.sub(r'^(?=[_-])', 'layer', re.sub(r'[^A-Za-z0-9_./-]', '_', name))
        number, candidate = 0, name
        while candidate in self._names:
            number += 1
            candidate = f'{name}_{number}'
        self._names.add(candidate)
        return candidate

    def evaluate(
        self,
        outputs: object,
        known: dict[int, Value],
        path: str,
        ignored: collections.abc.Container[str] = (),
    ) -> object:
        """The values of symbolic tensors in the new graph.

        Args:
            outputs: a structure of symbolic tensors of the original graph.
            known: values by the id of the original's tensors, the inputs at least; is extended.
            path: prefix of layer names.
            ignored: keyword arguments of calls that do not count.

        Returns:
            The structure, with values.
        """

        def value_of(x):
            if is_symbolic(x):
                return known[id(x)]
            return operations.constant(x)

        for node in nodes_in_order(outputs, known):
            layer, args, kwargs = called(node)
            if node.is_input:
                raise UserError(
                    f"{self.model_name} has a second input, '{layer.name}': a classifier takes "
                    f'images alone.'
                )
            kwargs = {name: value for name, value in kwargs.items() if name not in ignored}
            values = self.apply(layer, *tf.nest.map_structure(value_of, (args, kwargs)), path)
            # A shape is one tensor in the original graph and a list in ours.
            targets = tf.nest.flatten(node.outputs)
            values = [values] if len(targets) == 1 else tf.nest.flatten(values)
            if len(targets) == 1 and isinstance(node.outputs, (list, tuple)):
                values = [self.single(values)]
            known.update(zip(map(id, targets), values, strict=True))
        return tf.nest.map_structure(value_of, outputs)

    def apply(self, layer: tf_keras.layers.Layer, args: tuple, kwargs: dict, path: str) -> object:
        """The values that a layer of the original graph gives for values."""
        args, kwargs = _with_training_by_name(layer, args, kwargs)
        if kwargs.get('training') is True:
            raise UserError(
                f"{self.model_name}: layer '{layer.name}' is called with training=True, so its "
                f'answers change from call to call: rebuild the model without it.'
            )
        kwargs = {k: v for k, v in kwargs.items() if k not in ('training', 'mask')}
        if operations.is_operation(layer):
            return operations.apply(self, layer, args, kwargs, path)
        if isinstance(layer, _DROPPED) and _is_built_in(_implementation(layer)):
            return args[0]
        if isinstance(layer, tf_keras.Model) or not _is_built_in(_implementation(layer)):
            return self.follow(layer, args, kwargs, join(path, layer.name))
        if isinstance(layer, tf_keras.layers.SpectralNormalization):
            return self.apply(layer.layer, args, kwargs, path)  # normalizes in training alone
        if isinstance(layer, tf_keras.layers.Lambda):
            return self.trace(layer.call, args, kwargs, path, layer)
        special = operations.layer_as_operation(self, layer, args, kwargs, path)
        return self.copy(layer, args, kwargs, path) if special is None else special

    def follow(self, layer: tf_keras.layers.Layer, args: tuple, kwargs: dict, path: str) -> object:
        """The values of a model, or of a layer of a class that is not Keras' own."""
        if isinstance(layer, tf_keras.Sequential) and _is_built_in(type(layer)):
            value = args[0]
            for child in layer.layers:
                value = self.apply(child, (value,), {}, path)
            return value
        if getattr(layer, '_is_graph_network', False) and _is_built_in(_implementation(layer)):
            values = layer._flatten_to_reference_inputs(args[0])
            known = {id(x): v for x, v in zip(layer.inputs, values, strict=False)}
            return self.evaluate(layer._nested_outputs, known, path)
        return self.trace(layer.call, args, kwargs, path, layer)

    def trace(
        self,
        function: collections.abc.Callable,
        args: tuple,
        kwargs: dict,
        path: str,
        layer: tf_keras.layers.Layer,
    ) -> object:
        """The values of a Python function, found by calling it on symbolic inputs."""
        known, symbols = {}, []

        def symbol_of(value):
            if not is_tensor(value):
                return value
            x, value = self.placeholder(value)
            known[id(x)] = value
            symbols.append(x)
            return x

        try:
            signature = inspect.signature(function)
            args, kwargs = tf.nest.map_structure(symbol_of, (args, kwargs))
            call = signature.bind(*args, **kwargs)
            if 'training' in signature.parameters:
                call.arguments['training'] = False
            outputs = function(*call.args, **call.kwargs)
        # Whatever the user's own code raises where it cannot take symbolic tensors.
        except Exception as error:
            raise UserError(
                f"{self.model_name}: '{layer.name}' of class {type(layer).__name__} cannot be "
                f'followed layer by layer ({first_line(error)}): {self.advice}.'
            ) from error
        return self.evaluate(outputs, known, path)

    def placeholder(self, value: Value) -> tuple[object, Value]:
        """A symbolic input of the original's Keras, and the value that it stands for."""
        value = self.tensor(value)
        return tf_keras.Input(value.shape[1:], dtype=value.dtype), value

    # Layers

    def copy(self, layer: tf_keras.layers.Layer, args: tuple, kwargs: dict, path: str) -> object:
        """Calls the frozen copy of a built-in layer on values."""
        self._refuse_channels_first(layer, args)
        activation = getattr(layer, 'activation', None)
        split = self._must_split(layer, activation)
        args, kwargs = tf.nest.map_structure(self.tensor, (args, kwargs))
        if split and isinstance(layer, tf_keras.layers.Activation):
            value = args[0]
        elif id(layer) in self._copies:
            value = self._copies[id(layer)][1](*args, **kwargs)
        else:
            fresh = _fresh(layer, self.unique(join(path, layer.name)), linear=split)
            value = fresh(*args, **kwargs)
            try:
                fresh.set_weights(layer.get_weights())
            except ValueError as error:
                raise UserError(
                    f"{self.model_name}: the weights of layer '{layer.name}' do not fit images of "
                    f'this size: pass the --image_size that the model was trained with.'
                ) from error
            fresh.finalize_state()  # a Normalization computes with what was set
            self._copies[id(layer)] = (layer, fresh)
        return self._activate(value, activation, layer, path) if split else value

    def _must_split(self, layer, activation):
        if isinstance(layer, tf_keras.layers.Activation):
            return activation not in _BUILT_IN_ACTIVATIONS
        if activation is None or 'activation' not in layer.get_config():
            return False
        return activation not in _BUILT_IN_ACTIVATIONS or activation.__name__ in _SPLIT_ACTIVATIONS

    def _activate(self, value, activation, layer, path):
        """A fused activation as a layer of its own."""
        if isinstance(activation, tf_keras.layers.Layer):
            return self.apply(activation, (value,), {}, path)
        if activation in _BUILT_IN_ACTIVATIONS:
            kind = activation.__name__
            name = f'{join(path, layer.name)}/{kind}'
            return self.emit(tf_keras.layers.Activation, value, name, activation=kind)
        return self.trace(activation, (value,), {}, path, layer)

    def _refuse_channels_first(self, layer, args):
        of_images = is_batch_norm(layer) and args[0].shape.rank == 4
        if getattr(layer, 'data_format', None) == 'channels_first' or (
            of_images and list(np.ravel(layer.axis)) not in ([3], [-1])
        ):
            raise UserError(
                f"{self.model_name}: layer '{layer.name}' takes the channels first: rebuild the "
                f'model with channels last (NHWC) and copy the weights.'
            )


def _with_training_by_name(layer, args, kwargs):
    """The arguments of a call, `training` among the named ones wherever it was passed."""
    try:
        names = list(inspect.signature(layer.call).parameters)[: len(args)]
    except (TypeError, ValueError):  # a function without a signature
        return args, kwargs
    if 'training' not in names:
        return args, kwargs
    place = names.index('training')
    named = dict(zip(names[place:], args[place:], strict=False))
    return args[:place], {**named, **kwargs}


def _fresh(layer, name, linear):
    """A frozen, uncalled copy of a built-in layer; `linear` leaves its activation off."""
    layer_class = _implementation(layer)
    # The synchronized variants and that of TensorFlow 1 differ in training only.
    if is_batch_norm(layer):
        layer_class = tf_keras.layers.BatchNormalization
    if layer_class is tf_keras.layers.Reshape:
        layer_class = Reshape
    config = without_half(layer_class.get_config(layer))  # of wrapped layers too
    for key in config:
        if key.endswith(('_regularizer', '_constraint')):
            config[key] = None
        elif key.endswith('_initializer'):
            config[key] = 'zeros'
    config.pop('batch_input_shape', None)
    config.update(name=name, dtype='float32', trainable=False)
    if linear:
        config['activation'] = 'linear'
    return layer_class.from_config(config)


def _implementation(layer):
    """The class that defines how a layer works: a subclass without its own `call` adds nothing."""
    for layer_class in type(layer).__mro__:
        if 'call' in vars(layer_class) or _is_built_in(layer_class):
            return layer_class
    return type(layer)


def _is_built_in(layer_class):
    return layer_class.__module__.split('.')[0] in ('tf_keras', 'zscgan_tf')


def join(path: str, name: str) -> str:
    """The name below a path, what both have in common once: tf2cv's names hold paths already."""
    parts, tail = path.split('/') if path else [], name.split('/')
    for common in range(min(len(parts), len(tail) - 1), 0, -1):
        if parts[-common:] == tail[:common]:
            return '/'.join(parts + tail[common:])
    return '/'.join(parts + tail)
