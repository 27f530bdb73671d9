"""The student: the teacher with its batch norms folded, quantized by tfmot (paper, section 2.3).

Folding keeps the teacher's statistics and makes the export exact; the paper's toolchain left batch
norms in the graph. What a width applies to: the weights of all layers, and the activations that a
convolution reads. The model's input, the logits, and what is only summed or passed to an
activation function stay at 8 bits, as in the published comparisons.
"""

import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from zscgan_tf.errors import UserError
from zscgan_tf.student.calibration import ranges as estimators
from zscgan_tf.student.folding import fold
from zscgan_tf.student.graph import Graph, first_and_last, fixed_range, has_kernel, with_copies
from zscgan_tf.student.grids import SMALLEST_RANGE, quantize_weights
from zscgan_tf.teacher.head import split_end
from zscgan_tf.teacher.raw_pixels import takes_raw_pixels

layers = tf_keras.layers

WEIGHT_RANGE_FLOOR = 1e-5


@dataclasses.dataclass(frozen=True)
class Student:
    """A quantized student and what it was made of.

    Attributes:
        model: the tfmot model, inputs -> what the head's softmax or sigmoid takes.
        twin: the float model of the same layers; the teacher, but for rounding.
        teacher: the `Teacher`.
        options: dict; see `build_student`.
        kind: 'folded', or 'tfmot' (`tfmot_student`).
    """

    model: tf_keras.Model
    twin: tf_keras.Model
    teacher: object
    options: dict
    kind: str = 'folded'

    @property
    def name(self):
        """The teacher's, for messages."""
        return self.teacher.name

    @property
    def head(self):
        """The teacher's; see `Teacher`."""
        return self.teacher.head

    @property
    def has_labels(self):
        """Whether the K classes are independent labels."""
        return self.teacher.has_labels

    @property
    def num_classes(self):
        """K."""
        return self.teacher.num_classes

    @property
    def input_spec(self):
        """What the first layer takes."""
        return self.teacher.input_spec

    def logits(self, pixels):
        """Logits, [B, K], of pixels in [0, 1], [B, H, W, C]."""
        return as_logits(self.model(self.teacher.input_spec.to_inputs(pixels), training=False))


def as_logits(outputs):
    """[B, K] logits of what a head takes: of a single unit z they are (0, z)."""
    flat = tf.reshape(outputs, [tf.shape(outputs)[0], -1])
    if outputs.shape[1:].num_elements() == 1:
        return tf.concat([tf.zeros_like(flat), flat], axis=1)
    return flat


def build_student(
    teacher,
    *,
    weight_bits=8,
    activation_bits=8,
    first_last_bits=None,
    all_activations=False,
    wide_residuals=False,
    range_training='learned',
    twin=None,
    export=False,
):
    """The student with the teacher's weights and ranges that are not set yet (`set_ranges`).

    Args:
        teacher: a `Teacher`.
        weight_bits, activation_bits: 2 to 8.
        first_last_bits: of the first and the last layer's weights; None: `weight_bits`.
        all_activations: bring the input, the logits and what is only summed down too.
        wide_residuals: what convolutions and others read stays at 8 bits; convolutions read a copy.
        range_training: 'learned' with the weights, 'moving_average' (of activations; those of
            weights are their extremes), or 'frozen'.
        twin: the folded model if it was made before.
        export: the same model as the converter understands it; its kernels must be on their grids.

    Raises:
        UserError: a width out of range, or a layer that is not supported.
    """
    from zscgan_tf.student import scheme

    first_last_bits = first_last_bits or weight_bits
    for name, bits in (
        ('weight_bits', weight_bits),
        ('activation_bits', activation_bits),
        ('first_last_bits', first_last_bits),
    ):
        if not 2 <= bits <= 8:
            raise UserError(f'--{name}={bits}: pass 2 to 8.')
    if twin is None:
        twin = fold(split_end(teacher)[0], teacher.name)
        twin = with_copies(twin) if wide_residuals else twin
    ends = first_and_last(twin)
    graph = Graph(twin)
    low, high = legal_range(teacher.input_spec)
    configs = {}
    for layer in twin.layers[1:]:
        weights = output = None
        if has_kernel(layer):
            weights = scheme.WeightQuantizer(
                first_last_bits if layer.name in ends else weight_bits,
                depthwise=isinstance(layer, layers.DepthwiseConv2D),
                training=range_training if layer.trainable else 'frozen',
                export=export,
            )
        if graph.is_quantized(layer):
            fixed = fixed_range(layer)
            read = graph.feeds_kernel(layer) and not graph.is_the_input(layer)
            output = (
                scheme.FixedQuantizer(*fixed)
                if fixed
                else scheme.ActivationQuantizer(
                    activation_bits if read or all_activations else 8,
                    nonnegative=graph.is_nonnegative(layer),
                    training=range_training,
                    export=export,
                )
            )
        configs[layer.name] = scheme.LayerConfig(weights, output)
    input_bits = activation_bits if all_activations else 8
    if input_bits < 8 and takes_raw_pixels(twin):
        raise UserError(
            '--all_activations rounds the input, and --raw_pixels keeps it exact: pass one of them.'
        )
    images = scheme.FixedQuantizer(
        low, high, input_bits, export
    )  # the legal range: none is clipped
    model = scheme.apply(twin, configs, images)
    options = {
        'weight_bits': weight_bits,
        'activation_bits': activation_bits,
        'first_last_bits': first_last_bits,
        'all_activations': all_activations,
        'wide_residuals': wide_residuals,
        'range_training': range_training,
    }
    return Student(model, twin, teacher, options)


def set_ranges(student, batches, estimator='mse', total=None):
    """Sets the ranges of weights and activations from the float values, before any training.

    Args:
        student: a `Student`.
        batches: a function that returns an iterable of batches of pixels; called several times.
        estimator: 'minmax', or 'mse' (squared error, with a margin; the logits': `logits_range`).
        total: number of images, for the progress bar.
    """
    for wrapper in student.model.layers:
        for kernel, quantizer, variables in getattr(wrapper, '_weight_vars', []):
            variables['max'].assign(_weight_ranges(kernel.numpy(), quantizer, estimator))
    quantized = activation_quantizers(student)
    tensors = [student.twin.get_layer(name).output for name in quantized]
    histograms = observe(student, tensors, batches, total)
    for histogram, (quantizer, variables) in zip(histograms, quantized.values(), strict=True):
        low, high = estimators.activation_range(
            histogram, quantizer.bits, estimator, quantizer.nonnegative
        )
        if estimator == 'mse':
            low, high = estimators.with_margin(low, high, histogram)
        variables['max'].assign(high)
        if 'min' in variables:
            variables['min'].assign(low)
    last = Graph(student.twin).origin(student.twin.output._keras_history.layer)
    quantizer, variables = quantized.get(last.name, (None, {}))
    if estimator == 'mse' and 'min' in variables:
        to_inputs = student.input_spec.to_inputs
        logits = [student.twin.predict_on_batch(to_inputs(pixels)) for pixels in batches()]
        logits = np.concatenate([values.reshape(len(values), -1) for values in logits])
        low, high = estimators.logits_range(logits, quantizer.bits, student.has_labels)
        variables['min'].assign(low)
        variables['max'].assign(high)


def activation_quantizers(student):
    """(quantizer, variables) of each tensor whose range is set, by the name of its layer."""
    found = {}
    for wrapper in student.model.layers:
        config = getattr(wrapper, 'quantize_config', None)
        if config is not None and config.output is not None and wrapper._output_quantizer_vars:
            found[wrapper.layer.name] = (config.output, wrapper._output_quantizer_vars)
    return found


def observe(student, tensors, batches, total=None):
    """Histograms of float values over images.

    Args:
        student: a `Student`.
        tensors: list of symbolic tensors of its twin.
        batches, total: as in `set_ranges`.

    Returns:
        A list of `ranges.Histogram`.
    """
    if not tensors:
        return []
    observer = tf_keras.Model(student.twin.input, tensors)
    run = tf.function(lambda pixels: observer(student.input_spec.to_inputs(pixels), training=False))
    histograms = [estimators.Histogram() for _ in tensors]
    for see in ('see_range', 'count'):
        with tqdm.tqdm(
            total=total, desc='ranges' if see == 'count' else 'extremes', unit=' images',
            disable=None,
        ) as bar:  # fmt: skip
            for pixels in batches():
                outputs = tf.nest.flatten(run(tf.convert_to_tensor(pixels)))
                for histogram, values in zip(histograms, outputs, strict=True):
                    getattr(histogram, see)(values.numpy())
                bar.update(len(pixels))
    return histograms


def legal_range(input_spec):
    """(low, high) of all values that the model's input can have, and zero."""
    low, high = input_spec.input_range
    return min(0.0, float(np.min(low))), max(0.0, float(np.max(high)))


def feature_layers(twin):
    """Names of the layers whose outputs are compared in distillation: what convolutions read.

    Those of them that have a range of their own, so that the student's is what the file computes.
    """
    graph = Graph(twin)
    found = (layer for layer in twin.layers[1:] if graph.feeds_kernel(layer))
    return [layer.name for layer in found if graph.is_quantized(layer)]


def export_model(student, head):
    """The student as the converter understands it, ending in its head.

    Args:
        student: a `Student`.
        head: 'softmax', 'sigmoid' or None.
    """
    export = build_student(student.teacher, **student.options, twin=student.twin, export=True).model
    export.set_weights(student.model.get_weights())
    for wrapper in export.layers:
        for kernel, quantizer, variables in getattr(wrapper, '_weight_vars', []):
            kernel.assign(_snapped(kernel, quantizer, variables['max']))
            bias = wrapper.layer.bias
            if np.ptp(bias.numpy()) == 0:
                # The converter gives a constant bias the first channel's scale throughout.
                bias.assign(
                    bias * tf.tensor_scatter_nd_update(tf.ones_like(bias), [[0]], [1 + 1e-6])
                )
    if head is None:
        return export
    return tf_keras.Model(export.input, layers.Activation(head, name=head)(export.output))


def _weight_ranges(kernel, quantizer, estimator):
    """[C]; channels of zeros, and all but zeros, get a range that their biases can live with."""
    if quantizer.depthwise:
        kernel = kernel.reshape(*kernel.shape[:2], -1)
    found = estimators.weight_ranges(kernel, quantizer.bits, estimator, axis=kernel.ndim - 1)
    largest = found.max(initial=0)
    floor = max(WEIGHT_RANGE_FLOOR * largest, SMALLEST_RANGE)
    return np.where(found > floor, found, largest if largest > 0 else 1.0)


def _snapped(kernel, quantizer, maximum):
    """The kernel on its grid, where the export's quantizer finds it unchanged."""
    flat = tf.reshape(kernel, [*kernel.shape[:2], -1]) if quantizer.depthwise else kernel
    return tf.reshape(quantize_weights(flat, maximum, quantizer.bits), kernel.shape)
