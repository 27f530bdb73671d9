"""The twin, the float student: the teacher's function without batch norms, of few kinds of layers.

The student is made of this model. Batch norms keep the teacher's moments and become part of the
convolutions, so that the exported file computes what was trained. The paper's toolchain,
`contrib.quantize` of TensorFlow 1.15, folds batch norms too.

    folded = fold(teacher.logits_model, teacher.name)

A vector [B, C] is carried as an image [B, 1, 1, C] throughout, and a Dense becomes a 1x1
convolution: TFLite converts kernels with a range a channel for convolutions only.
"""

import collections
import dataclasses

import numpy as np
import tf_keras

from zscgan_tf.errors import UnsupportedError
from zscgan_tf.student.graph import is_the_input
from zscgan_tf.student.rewriting import RULES, carried
from zscgan_tf.teacher.graphs import nodes, rebuild
from zscgan_tf.teacher.layers import by_channel

layers = tf_keras.layers

_ZEROS = {'bias_initializer': 'zeros', 'use_bias': True}


@dataclasses.dataclass(frozen=True)
class Norm:
    """What the batch norm that became part of a convolution says of the convolution's outputs.

    Its inputs have the stored variance, and it divides by the root of that variance and epsilon.
    So the deviations of its outputs are |gamma| but where epsilon counts: a channel that is the
    same number in all images has a deviation of 0, whatever its gamma.

    Attributes:
        mean: of each channel, beta; float64, [channels].
        deviation: of each channel, |gamma| sqrt(variance / (variance + epsilon)); likewise.
    """

    mean: np.ndarray
    deviation: np.ndarray


def fold(model: tf_keras.Model, name: str = 'the teacher') -> tf_keras.Model:
    """A float model that computes what a flat teacher computes, without batch norms.

    Layers that stay keep their names, activations, additions and pools among them; the output of
    `folded.get_layer(x)` is that of the teacher's layer x, with vectors [B, C] as [B, 1, 1, C].
    The model's own output has the teacher's shape.

    Args:
        model: a flat tf_keras model of one input and one output, as `flatten` makes them.
        name: what messages call it.

    Returns:
        A new float32 functional tf_keras model. Convolutions have a bias and no activation. Layers
        that stand for constants (Rescaling, a batch norm of the input, the inside of a
        hard-sigmoid) are not trainable.

    Raises:
        UserError: a layer that the student has no counterpart for, by name.
    """
    return fold_with_norms(model, name)[0]


def fold_with_norms(
    model: tf_keras.Model, name: str = 'the teacher'
) -> tuple[tf_keras.Model, dict[str, Norm]]:
    """What `fold` returns, and the `Norm` of each of its layers that a batch norm became a part of.

    A batch norm with no convolution before it has become a 1x1 depthwise convolution. Its `Norm` is
    that layer's. Args and errors are those of `fold`.

    Returns:
        The folded model, and a dict of the name of its layer -> `Norm`.
    """
    graph = _Graph(name, {layer.name for layer in model.layers})
    used = nodes(model)
    for node in used:
        if type(node.layer) not in RULES:
            graph.refuse(node.layer)
    readers = collections.Counter(id(x) for node in used for x in node.keras_inputs)
    readers[id(model.output)] += 1
    inputs = tf_keras.Input(model.input_shape[1:], name=model.input_names[0], dtype='float32')

    def rewritten(node, new_inputs):
        x, y = node.outputs, RULES[type(node.layer)](graph, node, *new_inputs)
        if tuple(y.shape[1:]) != carried(x.shape):
            graph.refuse(node.layer, f'giving {tuple(x.shape[1:])} from such inputs')
        if readers[id(x)] > 1:
            graph.linear.pop(id(y), None)
        return y

    output = rebuild(model, {id(model.input): inputs}, rewritten)
    if model.output.shape.rank == 2:
        last = model.output._keras_history.layer
        output = graph.add(layers.Flatten, output, last, '_vector')
    folded = tf_keras.Model(inputs, output, name='folded')
    for layer, (kernel, bias) in graph.weights.items():
        layer.set_weights([np.float32(kernel), np.float32(bias)])
    return folded, {layer.name: norm for layer, norm in graph.norms.items()}


def kernel_name(layer: tf_keras.layers.Layer) -> str:
    """The name of the kernel of a convolution or a depthwise convolution."""
    return 'depthwise_kernel' if isinstance(layer, layers.DepthwiseConv2D) else 'kernel'


class _Graph:
    """The new graph: its names, and its weights in float64 until it is complete.

    Attributes:
        weights: [kernel, bias] by new layer.
        linear: the new layer by the id of its output, where a batch norm behind that output may
            still be folded in: the output of a convolution that nothing else reads.
        norms: the `Norm` of the last batch norm folded into a new layer, by that layer.
    """

    def __init__(self, model_name, layer_names):
        self.model_name = model_name
        self.weights = {}
        self.linear = {}
        self.norms = {}
        self._reserved = layer_names
        self._used = set()

    def refuse(self, layer, detail=''):
        """Raises for a layer that the student has no counterpart for."""
        what = f'{type(layer).__name__} {detail}'.strip()
        raise UnsupportedError(
            f"{self.model_name}: layer '{layer.name}' ({what}) has no int8 counterpart in the "
            f'student',
            'rebuild that layer of Conv2D, DepthwiseConv2D, Dense, BatchNormalization, ReLU, '
            'sigmoid, Add, Multiply, Concatenate and pooling, or quantize with --method=ptq '
            "--range_estimator=tflite, which is TFLite's own calibration, and no options of a "
            'student.',
        )

    def add(self, layer_class, x, owner, suffix='', **config):
        """Calls a new layer, named after the teacher's layer that it stands for."""
        name = self._unique(owner.name, suffix)
        return layer_class(**{**config, 'name': name, 'dtype': 'float32'})(x)

    def convolution(self, x, owner, kernel, bias, suffix='', **config):
        """Calls a new convolution with these weights: kernel [h, w, in, out], bias [out]."""
        config = {**config, **_ZEROS, 'kernel_initializer': 'zeros'}
        config.update(filters=kernel.shape[3], kernel_size=kernel.shape[:2])
        return self._weighted(layers.Conv2D, x, owner, suffix, config, kernel, bias)

    def depthwise(self, x, owner, kernel, bias, suffix='', **config):
        """The same of a depthwise convolution: kernel [h, w, C, m], bias [C m]."""
        config = {**config, **_ZEROS, 'depthwise_initializer': 'zeros'}
        config.update(depth_multiplier=kernel.shape[3], kernel_size=kernel.shape[:2])
        return self._weighted(layers.DepthwiseConv2D, x, owner, suffix, config, kernel, bias)

    def affine(self, x, owner, scale, offset, suffix='', trainable=False):
        """scale x + offset, numbers or a value a channel, as a 1x1 depthwise convolution."""
        if x.shape.rank != 4:
            self.refuse(owner, f'on {tuple(x.shape[1:])}')
        scale, offset = (by_channel(np.float64(v), x.shape[-1]) for v in (scale, offset))
        if scale is None or offset is None:
            self.refuse(owner, f'with other than one value a channel, on {tuple(x.shape[1:])}')
        kernel = scale[None, None, :, None]
        return self.depthwise(x, owner, kernel, offset, suffix, trainable=trainable)

    def fold_into(self, layer, scale, offset):
        """Scales and shifts the outputs of a convolution by values [C]."""
        kernel, bias = self.weights[layer]
        is_depthwise = type(layer) is layers.DepthwiseConv2D
        columns = scale.reshape(kernel.shape[2:]) if is_depthwise else scale
        self.weights[layer] = [kernel * columns, bias * scale + offset]
        # A selection of channels is one no longer; of the input's channels, it is preprocessing.
        layer.trainable |= not is_the_input(layer.output)

    def keep_norm(self, y, mean, deviation):
        """Records what a batch norm says of the output of the layer that it became a part of."""
        self.norms[y._keras_history.layer] = Norm(mean, deviation)

    def _weighted(self, layer_class, x, owner, suffix, config, kernel, bias):
        y = self.add(layer_class, x, owner, suffix, **config)
        layer = y._keras_history.layer
        self.weights[layer] = [kernel, bias]
        if layer.trainable:
            self.linear[id(y)] = layer
        return y

    def _unique(self, name, suffix):
        """The name, numbered from 2 where it is taken; the teacher's own names come first."""
        number, candidate = 1, f'{name}{suffix}'
        while candidate in self._used or (candidate in self._reserved and candidate != name):
            number += 1
            candidate = f'{name}{suffix}_{number}'
        self._used.add(candidate)
        return candidate
