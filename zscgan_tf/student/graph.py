"""What of a folded model has a range of its own, and which layers read it."""

import tensorflow as tf
import tf_keras

from zscgan_tf.teacher.graphs import call_copy, nodes, rebuild
from zscgan_tf.teacher.layers import classes_with

layers = tf_keras.layers

# Layers whose output has their input's range and levels.
PRESERVING_RANGES = classes_with('preserves_ranges')
# TFLite's converter fuses a ReLU into these.
FUSED_WITH_RELU = classes_with('fuses_relu')
# What their int8 kernels give: scale 1/256 or 1/128.
FIXED_RANGES = {'sigmoid': (0.0, 255 / 256), 'softmax': (0.0, 255 / 256), 'tanh': (-1.0, 127 / 128)}


class Graph:
    """What follows what in a folded model.

    Attributes:
        readers, sources: dicts of a layer's name -> list of the layers behind or in front of it.
    """

    def __init__(self, model: tf_keras.Model):
        self.readers = {layer.name: [] for layer in model.layers}
        self.sources = {layer.name: [] for layer in model.layers}
        for node in nodes(model):
            for source in tf.nest.flatten(node.inbound_layers):
                self.readers[source.name].append(node.layer)
                self.sources[node.layer.name].append(source)

    def is_quantized(self, layer: tf_keras.layers.Layer) -> bool:
        """Whether the output has a range of its own."""
        if isinstance(layer, PRESERVING_RANGES):
            return False
        readers = self.readers[layer.name]
        fused = isinstance(layer, FUSED_WITH_RELU) and len(readers) == 1
        return not (fused and isinstance(readers[0], layers.ReLU))

    def feeds_kernel(self, layer: tf_keras.layers.Layer) -> bool:
        """Whether a convolution reads the output, directly or behind layers that preserve ranges.

        A convolution that stands for constants does not count.
        """
        return any(
            computes(reader) or isinstance(reader, PRESERVING_RANGES) and self.feeds_kernel(reader)
            for reader in self.readers[layer.name]
        )

    def kernels_beside_others(self, layer: tf_keras.layers.Layer) -> list[str]:
        """The readers of an output that hand it to convolutions alone, if there are other readers.

        Returns:
            The names of these layers; an empty list if all readers hand it to convolutions alone.
        """
        readers = self.readers[layer.name]
        for_kernels = [reader.name for reader in readers if self._is_for_kernels(reader)]
        return for_kernels if len(for_kernels) < len(readers) else []

    def _is_for_kernels(self, reader):
        if not isinstance(reader, PRESERVING_RANGES):
            return computes(reader)
        behind = self.readers[reader.name]
        return bool(behind) and all(self._is_for_kernels(layer) for layer in behind)

    def origin(self, layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        """The layer whose range the output has: this one, or one before it that it preserves."""
        while isinstance(layer, PRESERVING_RANGES):
            (layer,) = self.sources[layer.name]
        return layer

    def is_nonnegative(self, layer: tf_keras.layers.Layer) -> bool:
        """Whether no output is below 0, whatever the image."""
        if isinstance(layer, layers.ReLU) or activation_name(layer) in ('sigmoid', 'softmax'):
            return True
        handed_on = PRESERVING_RANGES + (
            layers.Add,
            layers.Multiply,
            layers.Concatenate,
            layers.GlobalAveragePooling2D,
        )
        return isinstance(layer, handed_on) and all(
            self.is_nonnegative(source) for source in self.sources[layer.name]
        )


def is_the_input(x: tf.Tensor) -> bool:
    """Whether a tensor holds the model's input alone, at most scaled, moved or repeated."""
    layer = x._keras_history.layer
    if isinstance(layer, layers.InputLayer):
        return True
    hands_on = isinstance(layer, (*PRESERVING_RANGES, layers.Concatenate))
    return (hands_on or has_kernel(layer) and not layer.trainable) and all(
        map(is_the_input, tf.nest.flatten(layer.input))
    )


def with_copies(model: tf_keras.Model) -> tf_keras.Model:
    """A folded model whose convolutions read copies of what others read too.

    A copy has a range and a width of its own, so that additions, products and averages can read
    more bits than convolutions do. What has a fixed range, or is the input, is not copied: it has 8
    bits in any case.

    Args:
        model: a folded model.

    Returns:
        A new model with the same weights; a copy is called `<layer>_read`.
    """
    graph = Graph(model)
    names = {layer.name for layer in model.layers}
    inputs = tf_keras.Input(model.input_shape[1:], name=model.input_names[0], dtype='float32')
    copies = {}

    def copied(node, new_inputs):
        pairs = zip(node.keras_inputs, new_inputs, strict=True)
        layer = node.layer
        output = call_copy(layer, [copies.get((id(x), layer.name), new) for x, new in pairs])
        readers = graph.kernels_beside_others(node.layer)
        is_image = output.shape.rank == 4  # what convolutions read
        if readers and is_image and not (is_the_input(output) or fixed_range(node.layer)):
            # An op that rounds once: TFLite's int8 ReLU rounds a number of few steps twice, up.
            name = unused_name(f'{layer.name}_read', names)
            if graph.is_nonnegative(node.layer):
                copy = layers.ReLU(name=name)(_copied(output, unused_name(f'{name}_by', names)))
            else:
                copy = _copied(output, name)
            copies.update({(id(node.outputs), reader): copy for reader in readers})
        return output

    return tf_keras.Model(
        inputs, rebuild(model, {id(model.input): inputs}, copied), name=model.name
    )


def _copied(x, name):
    """A constant convolution that gives what it takes."""
    ones = layers.DepthwiseConv2D(1, depthwise_initializer='ones', trainable=False, name=name)
    return ones(x)


def unused_name(name: str, names: set[str]) -> str:
    """The name, or one like it that is not among the names yet; it is added to them."""
    while name in names:
        name += '_'
    names.add(name)
    return name


def first_and_last(model: tf_keras.Model) -> list[str]:
    """The names of the first and the last layer of a folded model, for `--first_last_bits`.

    They are the outermost convolutions. Two kinds of convolutions do not count: those that stand
    for constants, and 1x1 depthwise ones, which only scale and shift channels as a batch norm does.
    """
    outermost = [
        layer.name
        for layer in model.layers
        if computes(layer)
        and not (isinstance(layer, layers.DepthwiseConv2D) and layer.kernel_size == (1, 1))
    ]
    return sorted({*outermost[:1], *outermost[-1:]})


def constants(model: tf_keras.Model) -> list[str]:
    """The names of the convolutions of a folded model that stand for constants."""
    return [layer.name for layer in model.layers if has_kernel(layer) and not layer.trainable]


def fixed_range(layer: tf_keras.layers.Layer) -> tuple[float, float] | None:
    """The range (low, high) that TFLite's kernel fixes for a layer's output, or None."""
    return FIXED_RANGES.get(activation_name(layer))


def has_kernel(layer: tf_keras.layers.Layer) -> bool:
    """Whether a layer of a folded model is a convolution."""
    return isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))


def computes(layer: tf_keras.layers.Layer) -> bool:
    """Whether a layer is a convolution with weights of its own, no constant."""
    return has_kernel(layer) and layer.trainable


def activation_name(layer: tf_keras.layers.Layer) -> str | None:
    """The name of an activation layer's function, or None."""
    if isinstance(layer, layers.Softmax):
        return 'softmax'
    if isinstance(layer, layers.Activation):
        return layer.activation.__name__
    return None
