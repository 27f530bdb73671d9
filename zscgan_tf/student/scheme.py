"""The tfmot scheme of the student: any width from 2 to 8 bits, per-channel weights.

tfmot's own schemes quantize depthwise kernels per tensor, start every range at [-6, 6], and drop
the weight quantization of a folded convolution in front of a ReLU. Here every layer has an explicit
config, and the layout stays as it is.

A student is built twice with the same variables: to train, where a quantizer rounds to its width,
and to export, where it says the same in the 8 or 4 bits that TFLite knows.
"""

import dataclasses

import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize,
    quantize_config,
    quantize_layer,
    quantize_layout_transform,
    quantize_registry,
    quantize_scheme,
    quantizers,
)

from zscgan_tf.student import grids
from zscgan_tf.student.folding import kernel_name
from zscgan_tf.teacher.graphs import call, rebuild


class _Quantizer(quantizers.Quantizer):
    """A quantizer whose configuration is its fields."""

    def get_config(self):
        return dict(vars(self))


@dataclasses.dataclass(eq=False)
class WeightQuantizer(_Quantizer):
    """Symmetric, a range for each output channel: the variable `<name>_max`, [channels].

    Depthwise kernels, [h, w, c, m], count c * m channels. Of granularity 'tensor' all entries of
    the variable are equal. Where activations' ranges are moving averages, a range is the largest
    weight of the moment, as in tfmot.
    """

    bits: int
    depthwise: bool = False
    training: str = 'frozen'
    export: bool = False
    granularity: str = 'channel'

    def build(
        self, tensor_shape: tf.TensorShape, name: str, layer: tf_keras.layers.Layer
    ) -> dict[str, tf.Variable]:
        channels = tensor_shape[-1] * (tensor_shape[-2] if self.depthwise else 1)
        return {
            'max': layer.add_weight(
                f'{name}_max', [channels], initializer='ones', trainable=self.training == 'learned'
            )
        }

    def __call__(self, inputs, training, weights, **kwargs):
        kernel = inputs
        if self.depthwise:
            kernel = tf.reshape(kernel, [*inputs.shape[:2], -1])
        if training and self.training == 'moving_average':
            largest = tf.reduce_max(tf.abs(kernel), axis=list(range(kernel.shape.rank - 1)))
            maximum = weights['max']
            if self.granularity == 'tensor':
                largest = tf.fill(maximum.shape, tf.reduce_max(largest))
            # Channels of zeros keep the range that they were given.
            maximum.assign(tf.where(largest > grids.SMALLEST_RANGE, largest, maximum))
        if self.export:
            kernel = grids.stored_weights(kernel, _now(weights['max']), self.bits)
        else:
            maximum = tf.convert_to_tensor(weights['max'])
            if self.granularity == 'tensor':
                maximum = grids.shared(maximum)
            kernel = grids.quantize_weights(kernel, maximum, self.bits)
        return tf.reshape(kernel, inputs.shape)


@dataclasses.dataclass(eq=False)
class ActivationQuantizer(_Quantizer):
    """Asymmetric, one range a tensor: the variables `<name>_max` and, unless 0, `<name>_min`."""

    bits: int
    nonnegative: bool = False
    training: str = 'frozen'
    export: bool = False
    decay: float = 0.0

    def build(
        self, tensor_shape: tf.TensorShape, name: str, layer: tf_keras.layers.Layer
    ) -> dict[str, tf.Variable]:
        learned = self.training == 'learned'
        ends = {'max': layer.add_weight(f'{name}_max', [], initializer='ones', trainable=learned)}
        if not self.nonnegative:
            ends['min'] = layer.add_weight(
                f'{name}_min', [], initializer='zeros', trainable=learned
            )
        return ends

    def __call__(self, inputs, training, weights, **kwargs):
        if training and self.training == 'moving_average':
            self._follow(inputs, weights)
        if self.export:
            low = 0.0 if self.nonnegative else _now(weights['min'])
            return grids.stored_activations(
                inputs, low, _now(weights['max']), self.bits, self.nonnegative
            )
        return grids.quantize_activations(
            inputs, weights.get('min'), weights['max'], self.bits, self.training == 'learned'
        )

    def _follow(self, x, weights):
        """Moves the range towards the extremes of the global batch."""
        # Reductions cost as much as the rounding: no more of them than there are ends.
        extreme = {'max': tf.reduce_max, 'min': tf.reduce_min}
        extremes = tf.stack([extreme[name](x) for name in weights])[None]
        replicas = tf.distribute.get_replica_context()
        if replicas is not None and replicas.num_replicas_in_sync > 1:
            extremes = replicas.all_gather(extremes, axis=0)
        for index, (name, variable) in enumerate(weights.items()):
            bound = tf.maximum if name == 'max' else tf.minimum
            seen = bound(extreme[name](extremes[:, index]), 0)
            variable.assign_add((1 - self.decay) * (seen - variable))


@dataclasses.dataclass(eq=False)
class FixedQuantizer(_Quantizer):
    """On a range that the TFLite kernel fixes (sigmoid, softmax, tanh), or that is known."""

    low: float
    high: float
    bits: int = 8
    export: bool = False

    def build(
        self, tensor_shape: tf.TensorShape, name: str, layer: tf_keras.layers.Layer
    ) -> dict[str, tf.Variable]:
        return {}

    def __call__(self, inputs, training, weights, **kwargs):
        if self.export:
            return grids.stored_activations(inputs, self.low, self.high, self.bits)
        return tf.quantization.fake_quant_with_min_max_args(
            inputs, self.low, self.high, num_bits=self.bits
        )


class LayerConfig(quantize_config.QuantizeConfig):
    """What of a layer is quantized: its kernel, its output, both or nothing."""

    def __init__(
        self,
        weights: quantizers.Quantizer | None = None,
        output: quantizers.Quantizer | None = None,
    ):
        self.weights = weights
        self.output = output

    def get_weights_and_quantizers(self, layer: tf_keras.layers.Layer) -> list[tuple]:
        return [(_kernel(layer), self.weights)] if self.weights else []

    def set_quantize_weights(self, layer: tf_keras.layers.Layer, quantize_weights: list) -> None:
        if quantize_weights:
            setattr(layer, kernel_name(layer), quantize_weights[0])

    def get_activations_and_quantizers(self, layer: tf_keras.layers.Layer) -> list[tuple]:
        return []

    def set_quantize_activations(
        self, layer: tf_keras.layers.Layer, quantize_activations: list
    ) -> None:
        pass

    def get_output_quantizers(self, layer: tf_keras.layers.Layer) -> list[quantizers.Quantizer]:
        return [self.output] if self.output else []

    def get_config(self) -> dict[str, object]:
        serialize = tf_keras.utils.serialize_keras_object
        return {
            name: quantizer and serialize(quantizer)
            for name, quantizer in (('weights', self.weights), ('output', self.output))
        }

    @classmethod
    def from_config(cls, config: dict[str, object]) -> 'LayerConfig':
        deserialize = tf_keras.utils.deserialize_keras_object
        with tf_keras.utils.custom_object_scope(CUSTOM_OBJECTS):
            return cls(**{name: value and deserialize(value) for name, value in config.items()})


class _Layout(quantize_layout_transform.QuantizeLayoutTransform):
    def apply(self, model, layer_quantize_map):
        return model, layer_quantize_map


class _Registry(quantize_registry.QuantizeRegistry):
    """Knows no layer: every one has its config."""

    def supports(self, layer):
        return False

    def get_quantize_config(self, layer):
        raise ValueError(f'{layer.name} has no config')


class Scheme(quantize_scheme.QuantizeScheme):
    """For `quantize_apply`: the layout as it is, and no default configs."""

    def get_layout_transformer(self) -> '_Layout':
        return _Layout()

    def get_quantize_registry(self) -> '_Registry':
        return _Registry()


CUSTOM_OBJECTS = {
    'WeightQuantizer': WeightQuantizer,
    'ActivationQuantizer': ActivationQuantizer,
    'FixedQuantizer': FixedQuantizer,
    'LayerConfig': LayerConfig,
    'QuantizeLayer': quantize_layer.QuantizeLayer,
}


def apply(
    model: tf_keras.Model,
    configs: dict[str, LayerConfig],
    input_quantizer: quantizers.Quantizer,
) -> tf_keras.Model:
    """The quantized copy of a folded model, by `tfmot.quantize_apply`.

    Args:
        model: what `folding.fold` returned.
        configs: dict of layer name -> `LayerConfig`, of every layer but the input.
        input_quantizer: the quantizer of the model's input.

    Returns:
        A tf_keras model whose layers are wrapped under the names `quant_<layer>`.
    """
    inputs = tf_keras.Input(model.input_shape[1:], name=model.input_names[0])
    x = quantize_layer.QuantizeLayer(input_quantizer, name='quantize_input')(inputs)
    copies = []

    def annotate(node, inputs):
        copy = type(node.layer).from_config(node.layer.get_config())
        copies.append((copy, node.layer))
        return call(quantize.quantize_annotate_layer(copy, configs[node.layer.name]), inputs)

    output = rebuild(model, {id(model.input): x}, annotate)
    annotated = tf_keras.Model(inputs, output, name=model.name)
    for copy, layer in copies:
        copy.set_weights(layer.get_weights())
    with tf_keras.utils.custom_object_scope(CUSTOM_OBJECTS):
        return quantize.quantize_apply(annotated, Scheme())


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a student that is quantized.

    Attributes:
        layer: the convolution that holds it; not trainable where it stands for constants.
        inputs: the symbolic tensor that the convolution reads in the student.
        variable: its float values: [h, w, in, out], of a depthwise convolution [h, w, C, m].
        bits: its width.
        maximum: a variable, the largest value on each output channel's grid: [out], or [C m].
        granularity: 'channel', or 'tensor' where all entries of `maximum` are equal.
    """

    layer: tf_keras.layers.Layer
    inputs: object
    variable: tf.Variable
    bits: int
    maximum: tf.Variable
    granularity: str

    def by_channel(self, values: tf.Tensor) -> tf.Tensor:
        """Values of the kernel's shape with the output channels in the last axis."""
        is_depthwise = isinstance(self.layer, tf_keras.layers.DepthwiseConv2D)
        return tf.reshape(values, [*values.shape[:2], -1]) if is_depthwise else values

    def rounded(self) -> tf.Tensor:
        """The kernel on its grid, in its own shape."""
        # As tensors: a custom gradient refuses a strategy's variables.
        values = tf.convert_to_tensor(self.variable)
        maximum = tf.convert_to_tensor(self.maximum)
        values_on_grid = grids.quantize_weights(self.by_channel(values), maximum, self.bits)
        return tf.reshape(values_on_grid, values.shape)


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of an activation tensor of a student.

    Attributes:
        bits: the tensor's width.
        low, high: variables, the ends of the range; low is None where it is 0 for good.
    """

    bits: int
    low: tf.Variable | None
    high: tf.Variable

    @property
    def nonnegative(self) -> bool:
        """Whether the tensor is never below 0."""
        return self.low is None

    def ends(self) -> tuple[float, float]:
        """(low, high), low <= 0 <= high."""
        return 0.0 if self.low is None else float(self.low.numpy()), float(self.high.numpy())

    def assign(self, low: float, high: float) -> None:
        """Sets the range; low is not used where it is 0 for good."""
        self.high.assign(high)
        if self.low is not None:
            self.low.assign(low)


def kernels(model: tf_keras.Model) -> list[Kernel]:
    """The quantized kernels of a model that `apply` made, in its layers' order."""
    return [
        Kernel(
            wrapper.layer,
            wrapper.input,
            variable,
            quantizer.bits,
            ends['max'],
            quantizer.granularity,
        )
        for wrapper in model.layers
        for variable, quantizer, ends in getattr(wrapper, '_weight_vars', [])
    ]


def ranges(model: tf_keras.Model) -> dict[str, Range]:
    """The ranges of activations that are set or learned, by the names of the float layers."""
    by_layer = {}
    for wrapper in model.layers:
        config, variables = (
            getattr(wrapper, name, None) for name in ('quantize_config', '_output_quantizer_vars')
        )
        if config is not None and config.output is not None and variables:
            by_layer[wrapper.layer.name] = Range(
                config.output.bits, variables.get('min'), variables['max']
            )
    return by_layer


def trainable_variables(model: tf_keras.Model) -> list[tf.Variable]:
    """What training changes: weights, and ranges if they are learned; no constants' kernels."""
    frozen = {
        id(variable)
        for wrapper in model.layers
        if hasattr(wrapper, 'layer') and not wrapper.layer.trainable
        # A kernel is the wrapper's own; the range of the output is learned like others.
        for variable in (*wrapper.layer.weights, *(kernel for kernel, *_ in wrapper._weight_vars))
    }
    return [variable for variable in model.trainable_variables if id(variable) not in frozen]


def wrapped(name: str) -> str:
    """The name that tfmot gives the wrapper of a layer."""
    return f'quant_{name}'


def _now(variable):
    """A variable's value while a graph is traced: the converter takes ranges as constants only."""
    with tf.init_scope():
        return variable.numpy()


def _kernel(layer):
    return getattr(layer, kernel_name(layer))
