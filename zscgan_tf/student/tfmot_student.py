"""The student of stock tfmot: `quantize_model`, the user's toolchain as it comes.

It measures what the folded student is worth (`student.py`). Batch norms stay frozen layers behind
their convolutions. (The paper's toolchain, `contrib.quantize` of TensorFlow 1.15, folded them.)
Depthwise kernels have one range a tensor. All widths are 8 bits. Ranges are set from images before
the first step as the folded student's are, but without its margin: tfmot itself starts them at
[-6, 6] and follows the images' extremes by a thousandth a step.
"""

import collections.abc

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.student import scheme
from zscgan_tf.student.calibration import range_estimators as estimators
from zscgan_tf.student.calibration.ranges import observe_histograms
from zscgan_tf.student.options import StudentOptions
from zscgan_tf.student.student import Student, legal_range
from zscgan_tf.teacher.head import split_end
from zscgan_tf.teacher.layers import Reshape, SelectChannels
from zscgan_tf.teacher.teacher import Teacher

layers = tf_keras.layers


def build_tfmot_student(teacher: Teacher, options: StudentOptions) -> Student:
    """The student of tfmot's `quantize_model`, its ranges not set yet (`set_tfmot_ranges`).

    Args:
        teacher: a `Teacher`.
        options: of `student` 'tfmot'.

    Returns:
        A `Student` whose twin is the teacher's model without its last softmax or sigmoid.

    Raises:
        UserError: tfmot does not take the model.
    """
    from tensorflow_model_optimization.python.core.quantization.keras import quantize
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
        QuantizeLayer,
    )

    body = split_end(teacher)[0]
    twin = tf_keras.models.clone_model(
        tf_keras.Model(body.input, body.output, name=body.name), clone_function=_copy
    )
    twin.set_weights(body.get_weights())
    try:
        model = quantize.quantize_model(twin)
    except (ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().split('\n')[0].split('. ')[0].rstrip('.')
        raise UserError(
            f'tfmot cannot quantize {teacher.name} ({reason[:200]}): pass --student=folded.'
        ) from error
    expected = {scheme.wrapped(layer.name) for layer in twin.layers[1:]}
    replaced = expected.symmetric_difference(w.name for w in model.layers if hasattr(w, 'layer'))
    if replaced:
        raise UserError(
            f'tfmot replaced layers of {teacher.name} ({sorted(replaced)[0]}), so that the ranges '
            f'of the new ones are not known: pass --student=folded.'
        )
    for wrapper in model.layers:
        if isinstance(wrapper, QuantizeLayer):
            # tfmot lets Keras number it, by what else the process has built.
            wrapper._name = 'quantize_input'
    return Student(model, twin, teacher, options)


def set_tfmot_ranges(
    student: Student,
    images: collections.abc.Callable[[], collections.abc.Iterable[np.ndarray]],
    estimator: str = 'mse',
    total: int | None = None,
) -> None:
    """Sets all ranges before any training; the arguments are those of `ranges.set_ranges`.

    The weights' are their extremes whatever the estimator: tfmot sets them so in every step.
    """
    tensors, variables = [], []
    for wrapper in student.model.layers:
        if getattr(wrapper, 'quantizer_vars', None):
            _assign(wrapper.quantizer_vars, *legal_range(student.input_spec))
        for kernel, _, ends in getattr(wrapper, '_weight_vars', []):
            # One range a tensor, or one for each entry of the last axis.
            axes = tuple(range(len(kernel.shape) - ends['max_var'].shape.rank))
            largest = np.abs(kernel.numpy()).max(axis=axes)
            _assign(ends, -largest, largest)
        if not hasattr(wrapper, 'layer'):
            continue
        layer = student.twin.get_layer(wrapper.layer.name)
        for tensor, ends in _quantized_tensors(wrapper, layer):
            tensors.append(tensor)
            variables.append(ends)
    histograms = observe_histograms(student, tensors, images, total)
    for histogram, ends in zip(histograms, variables, strict=True):
        _assign(ends, *estimators.activation_range(histogram, 8, estimator, nonnegative=False))


def _copy(layer):
    """A layer as it is trained here: a teacher's are frozen all, a student's batch norms only."""
    frozen = isinstance(layer, (layers.BatchNormalization, SelectChannels))
    # tfmot knows the layers of Keras alone.
    kind = {SelectChannels: layers.Conv2D, Reshape: layers.Reshape}.get(type(layer), type(layer))
    return kind.from_config({**layer.get_config(), 'trainable': not frozen})


def _quantized_tensors(wrapper, layer):
    """The float tensors that a wrapper quantizes, each with its range: (tensor, variables)."""
    uses = range(len(layer._inbound_nodes))  # tfmot keeps a shared layer shared, with one range
    outputs = [layer.get_output_at(number) for number in uses]
    for activation in wrapper._quantize_activations:
        if hasattr(activation, '_pre_activation_vars'):
            inputs = [layer.get_input_at(number) for number in uses]
            yield _all(_linear_outputs(layer, inputs)), activation._pre_activation_vars
        if hasattr(activation, '_post_activation_vars'):
            yield _all(outputs), activation._post_activation_vars
    if wrapper._output_quantizers:
        yield _all(outputs), wrapper._output_quantizer_vars


def _all(tensors):
    """The values of all tensors, whose shapes may differ."""
    if len(tensors) == 1:
        return tensors[0]
    return tf.concat([tf.reshape(values, [-1]) for values in tensors], 0)


def _linear_outputs(layer, inputs):
    """What a layer hands to its own activation function."""
    config = {**layer.get_config(), 'activation': 'linear', 'name': f'{layer.name}_linear'}
    copy = type(layer).from_config(config)
    outputs = [copy(x) for x in inputs]
    copy.set_weights(layer.get_weights())
    return outputs


def _assign(variables, low, high):
    variables['min_var'].assign(low)
    variables['max_var'].assign(high)
