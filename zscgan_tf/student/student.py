"""The student: the teacher with its batch norms folded, quantized by tfmot (paper, section 2.3).

Folding keeps the teacher's statistics and makes the export exact. A width applies to the weights of
all layers, and to the activations that a convolution reads. The model's input, the logits, and what
is only summed or passed to an activation function stay at 8 bits, as in the published comparisons,
unless `activation_scope` says otherwise.
"""

import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.student import grids, scheme
from zscgan_tf.student.folding import fold
from zscgan_tf.student.graph import (
    Graph,
    first_and_last,
    fixed_range,
    has_kernel,
    is_the_input,
    unused_name,
    with_copies,
)
from zscgan_tf.student.options import StudentOptions
from zscgan_tf.teacher.head import split_end
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.raw_pixels import takes_raw_pixels
from zscgan_tf.teacher.teacher import Teacher

layers = tf_keras.layers


@dataclasses.dataclass(frozen=True)
class Student:
    """A quantized student and what it was made of.

    Attributes:
        model: the tfmot model, inputs -> what the head's softmax or sigmoid takes.
        twin: the float student: the same layers without rounding; it computes what the teacher
            does.
        teacher: the `Teacher`.
        options: its `StudentOptions`; `options.student` is its kind, 'folded' or 'tfmot'.
        equalized: whether the twin's layers have other scales than the teacher's, though the whole
            computes the same (`methods.dfq`).
    """

    model: tf_keras.Model
    twin: tf_keras.Model
    teacher: Teacher
    options: StudentOptions
    equalized: bool = False

    @property
    def name(self) -> str:
        """The teacher's, for messages."""
        return self.teacher.name

    # What evaluation asks of a teacher: a student is compared with its file as one.

    @property
    def head(self) -> str:
        """The teacher's; see `Teacher`."""
        return self.teacher.head

    @property
    def num_classes(self) -> int:
        """K."""
        return self.teacher.num_classes

    @property
    def has_independent_labels(self) -> bool:
        """Whether the K classes are independent labels."""
        return self.teacher.has_independent_labels

    @property
    def input_spec(self) -> InputSpec:
        """What the first layer takes."""
        return self.teacher.input_spec

    def logits(self, pixels: tf.Tensor) -> tf.Tensor:
        """Logits, [B, K], of pixels in [0, 1], [B, H, W, C]."""
        return as_logits(self.model(self.input_spec.to_inputs(pixels), training=False))

    def kernels(self) -> list[scheme.Kernel]:
        """The quantized kernels, in the order of the layers; of kind 'folded'."""
        return scheme.kernels(self.model)

    def ranges(self) -> dict[str, scheme.Range]:
        """The ranges of activations, by the twin's layer that gives them; of kind 'folded'."""
        return scheme.ranges(self.model)

    def last_range(self) -> str:
        """The twin's layer whose range is that of the student's output."""
        return Graph(self.twin).origin(self.twin.output._keras_history.layer).name

    def output_of(self, name: str) -> object:
        """The symbolic output, quantized, of the layer that stands for the twin's of this name."""
        return self.model.get_layer(scheme.wrapped(name)).output

    def trainable_variables(self) -> list[tf.Variable]:
        """What distillation trains: weights, and ranges if they are learned."""
        return scheme.trainable_variables(self.model)


def as_logits(outputs: tf.Tensor) -> tf.Tensor:
    """[B, K] logits of what a head takes: of a single unit z they are (0, z)."""
    flat = tf.reshape(outputs, [tf.shape(outputs)[0], -1])
    if outputs.shape[1:].num_elements() == 1:
        return tf.concat([tf.zeros_like(flat), flat], axis=1)
    return flat


def build_student(
    teacher: Teacher,
    options: StudentOptions,
    *,
    twin: tf_keras.Model | None = None,
    export: bool = False,
) -> Student:
    """The student with the teacher's weights and ranges that are not set yet (`set_ranges`).

    Args:
        teacher: a `Teacher`.
        options: its widths.
        twin: the float student if it was made before.
        export: the same model as the converter understands it; its kernels must be on their grids.

    Raises:
        UserError: a layer that is not supported, or options that the teacher rules out.
    """
    if twin is None:
        twin = fold(split_end(teacher)[0], teacher.name)
        twin = with_copies(twin) if options.wide_residuals else twin
    input_bits = options.activation_bits if options.activation_scope == 'all' else 8
    if input_bits < 8 and takes_raw_pixels(twin):
        raise UserError(
            '--activation_scope=all rounds the input, and --raw_pixels keeps it exact: pass one of '
            'them.'
        )
    outermost = first_and_last(twin)
    graph = Graph(twin)
    configs = {
        layer.name: scheme.LayerConfig(
            _weight_quantizer(layer, options, layer.name in outermost, export),
            _output_quantizer(layer, options, graph, input_bits, export, teacher.input_spec),
        )
        for layer in twin.layers[1:]
    }
    # The legal range: no image is clipped.
    images = scheme.FixedQuantizer(*legal_range(teacher.input_spec), input_bits, export)
    return Student(scheme.apply(twin, configs, images), twin, teacher, options)


def _weight_quantizer(layer, options, is_outermost, export):
    """The quantizer of a layer's kernel, or None."""
    if not has_kernel(layer):
        return None
    return scheme.WeightQuantizer(
        options.first_last_bits if is_outermost else options.weight_bits,
        depthwise=isinstance(layer, layers.DepthwiseConv2D),
        training=options.range_training if layer.trainable else 'frozen',
        export=export,
        granularity=options.weight_granularity if layer.trainable else 'channel',
    )


def _output_quantizer(layer, options, graph, input_bits, export, input_spec):
    """The quantizer of a layer's output, or None."""
    if not graph.is_quantized(layer):
        return None
    fixed = fixed_range(layer)
    if fixed:
        return scheme.FixedQuantizer(*fixed)
    if is_the_input(layer.output):  # as of the input itself, no image is clipped
        return scheme.FixedQuantizer(*_range_of_legal(layer, input_spec), input_bits, export)
    in_scope = options.activation_scope != 'read' or graph.feeds_kernel(layer)
    return scheme.ActivationQuantizer(
        options.activation_bits if in_scope else 8,
        nonnegative=graph.is_nonnegative(layer),
        training=options.range_training,
        export=export,
        decay=options.range_decay,
    )


def legal_range(input_spec: InputSpec) -> tuple[float, float]:
    """(low, high) of all values that the model's input can have, and zero."""
    low, high = input_spec.input_range
    return min(0.0, float(np.min(low))), max(0.0, float(np.max(high)))


def _range_of_legal(layer, input_spec):
    """(low, high) of what a layer makes of legal images, and zero.

    Only constants stand before it, so no image gives more than a black or a white one.
    """
    ends = [np.broadcast_to(end, input_spec.image_shape) for end in input_spec.input_range]
    front = tf_keras.Model(tf_keras.utils.get_source_inputs(layer.output), layer.output)
    values = front(np.float32(ends), training=False).numpy()
    return min(0.0, float(values.min())), max(grids.SMALLEST_RANGE, float(values.max()))


def feature_layers(twin: tf_keras.Model) -> list[str]:
    """Names of the layers whose outputs are compared in distillation: what convolutions read.

    Only outputs with a range of their own count: there the student computes what the file does.
    """
    graph = Graph(twin)
    read = (layer for layer in twin.layers[1:] if graph.feeds_kernel(layer))
    return [layer.name for layer in read if graph.is_quantized(layer)]


def export_model(student: Student) -> tf_keras.Model:
    """A student of kind 'folded' as the converter understands it, inputs -> logits."""
    export = build_student(student.teacher, student.options, twin=student.twin, export=True)
    export.model.set_weights(student.model.get_weights())
    for kernel in export.kernels():
        bias = kernel.layer.bias
        # Training moves ranges and biases: the floor that `set_ranges` gave may be gone.
        floor = grids.BIAS_RANGE_FLOOR * np.abs(bias.numpy())
        floor = floor.max() if kernel.granularity == 'tensor' else floor
        kernel.maximum.assign(np.maximum(kernel.maximum.numpy(), floor))
        kernel.variable.assign(kernel.rounded())
        if np.ptp(bias.numpy()) == 0:
            # The converter gives a constant bias the first channel's scale throughout.
            bias.assign(bias * tf.tensor_scatter_nd_update(tf.ones_like(bias), [[0]], [1 + 1e-6]))
    return export.model


def with_head(model: tf_keras.Model, head: str | None) -> tf_keras.Model:
    """A student's model behind which its head stands: 'softmax', 'sigmoid' or None."""
    if head is None:
        return model
    name = unused_name(head, {layer.name for layer in model.layers})
    if head == 'softmax':  # the classes need not be on the last axis: [B, K, 1]
        end = layers.Softmax(1 + int(np.argmax(model.output_shape[1:])), name=name)
    else:
        end = layers.Activation(head, name=name)
    return tf_keras.Model(model.input, end(model.output))
