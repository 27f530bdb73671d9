"""Walks a Keras 3 model: what differs from a tf_keras one.

Keras 3 objects are told by their classes' modules.
"""

import tensorflow as tf

from zscgan_tf.errors import UserError, first_line
from zscgan_tf.teacher.flattening.arithmetic import Place, Value, is_tensor
from zscgan_tf.teacher.flattening.flattener import Flattener, join
from zscgan_tf.teacher.flattening.keras3_layers import (
    FUNCTIONS,
    SAME_FORMULA,
    activation_name,
    built_in_class,
    check_layer,
    counterpart,
    describe,
    unsupported,
)
from zscgan_tf.teacher.flattening.keras3_ops import handler_of
from zscgan_tf.teacher.layer_types import LAYER_TYPES


class Keras3Flattener(Flattener):
    """Walks the graph of a Keras 3 model.

    A built-in layer becomes a tf_keras layer of the same weights, which is applied as any of
    tf_keras; an operation becomes the call of a handler.
    """

    advice = (
        'write its call with keras.layers and keras.ops only (ops.multiply(weight, x), not weight '
        '* x; no keras.activations)'
    )

    def apply(self, layer: object, args: tuple, kwargs: dict, path: str) -> object:
        """The values that a layer or an operation of the original graph gives for values."""
        if _is_composite(layer):
            return self.follow(layer, args, kwargs, join(path, layer.name))
        if _is_layer(layer):
            return self._apply_layer(layer, args, kwargs, path)
        settings = {k: v for k, v in vars(layer).items() if not k.startswith('_') and k != 'name'}
        if settings.pop('data_format', None) == 'channels_first':
            raise unsupported(layer, 'works on channels first')
        handler = handler_of(type(layer).__name__)
        if handler is None:
            raise unsupported(layer)
        try:
            return handler(Place(self, path, layer), *args, *kwargs.values(), **settings)
        # Of arguments that the handler does not take.
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise unsupported(layer, f'cannot be translated ({first_line(error)})') from error

    def follow(self, layer: object, args: tuple, kwargs: dict, path: str) -> object:
        """The values of a model, or of a layer or operation of a class that is not Keras' own."""
        graph = _graph_of(layer)
        if graph is not None:
            values = filter(is_tensor, tf.nest.flatten((args, kwargs)))
            known = {id(x): value for x, value in zip(graph.inputs, values, strict=False)}
            # The layers of a functional model get training=False in inference, whatever is stored.
            return self.evaluate(graph.outputs, known, path, ignored=('training',))
        count = len(getattr(layer, 'weights', ()))
        kwargs = {k: v for k, v in kwargs.items() if k not in ('training', 'mask')}
        values = self.trace(layer.call, args, kwargs, path, layer)
        if len(getattr(layer, 'weights', ())) != count:
            raise UserError(
                f'{describe(layer)} had not made all its weights: call the model once on a batch '
                f'of images before passing it.'
            )
        return values

    def placeholder(self, value: Value) -> tuple[object, Value]:
        """A symbolic input of Keras 3, and the value that it stands for: pending stays pending."""
        import keras

        return keras.Input(value.shape[1:], self.batch_size), value

    def _apply_layer(self, layer, args, kwargs, path):
        if kwargs.get('training') is True:
            raise UserError(
                f'{describe(layer)} is called with training=True: pass the `training` of the call '
                f'on, a classifier is quantized as it runs in inference.'
            )
        first, *_ = *args, *kwargs.values()
        inputs = list(filter(is_tensor, tf.nest.flatten((args, kwargs))))
        merges = isinstance(first, list | tuple)
        if len(inputs) != (len(first) if merges else 1):
            raise unsupported(layer, 'is called with more than one tensor, or with constants')
        x = first if len(inputs) > 1 else inputs[0]
        kind = built_in_class(layer).__name__
        if kind == 'SpectralNormalization':  # normalizes in training alone
            return self.apply(layer.layer, args, kwargs, path)
        check_layer(layer, inputs[0].shape)
        if LAYER_TYPES[kind].dropped or merges and len(inputs) == 1:
            return x
        at = Place(self, path, layer)
        if kind in FUNCTIONS:
            return FUNCTIONS[kind](at, x)
        if id(layer) not in self._copies:
            self._copies[id(layer)] = layer, counterpart(layer, inputs[0].shape)
        copy = self._copies[id(layer)][1]
        x = x if copy is None else super().apply(copy, (x,), {}, path)
        name = activation_name(layer)
        if name in SAME_FORMULA:
            return x
        if name is None:
            return self.trace(layer.activation, (x,), {}, path, layer)
        handler = handler_of(name)
        if handler is None:
            raise unsupported(layer, f"uses the activation '{name}', which tf_keras lacks")
        return handler(at, x)


def _graph_of(layer):
    """The functional graph of a functional or sequential model that runs it unchanged, or None."""
    for cls in type(layer).__mro__:
        if cls.__module__ == 'keras.src.models.functional':
            return layer
        if cls.__module__ == 'keras.src.models.sequential':
            return layer._functional
        if 'call' in vars(cls) or '__call__' in vars(cls):
            return None
    return None


def _is_layer(operation):
    return any(cls.__module__ == 'keras.src.layers.layer' for cls in type(operation).__mro__)


def _is_composite(operation):
    """Whether this is a model, or a layer or an operation of a class that is not Keras 3's own."""
    if _is_layer(operation):
        built_in = built_in_class(operation)
        return built_in is None or built_in.__name__ == 'Pipeline'
    return not type(operation).__module__.startswith('keras.src.')
