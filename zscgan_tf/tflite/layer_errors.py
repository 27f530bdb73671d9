"""Which layer of a `.tflite` costs what: its error against the float model, layer by layer.

Two signal-to-noise ratios, in dB, are given for every layer's output y that both models have:

    10 log10(sum of y² / sum of (ŷ - y)²)      over all values of all images

`cumulative`: ŷ is what the file computes from the image, with the errors of all layers before.
`alone`: ŷ is computed in float from the float model's values y of the nearest layers before it that
have a row too, with the weights and biases of the file, and is then rounded and clipped to the
levels of the file's tensor: the rounding of this layer and of no other.

Usage: layer_errors(data, teacher, pixels).rows
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_litert import schema_py_generated as schema

from zscgan_tf.errors import UserError
from zscgan_tf.quiet import hidden_output
from zscgan_tf.sources.batches import check_pixels
from zscgan_tf.teacher.raw_pixels import raw_pixels, takes_raw_pixels
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite.counterparts import MOVING_OPS, counterparts, is_equalized
from zscgan_tf.tflite.flatbuffer import (
    KERNEL_OPS,
    channel_axis,
    op_name,
    plain_interpreter,
    read_model,
)
from zscgan_tf.tflite.float_parts import FloatPart, real_values
from zscgan_tf.tflite.interpreter import TfliteModel, dequantize, quantize

# Images that the float model computes at once: all its layers' outputs are in memory.
_IMAGES_AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class LayerError:
    """What one layer of a file costs.

    Attributes:
        layer: the float model's layer whose output is compared; 'input' for the images.
        op: the op that gives it in the file, `CONV_2D`.
        fused: the layers that this op computes, `layer` the last one.
        title: the first of them that has weights, or the first one.
        cumulative: signal-to-noise ratio as the file runs, in dB; inf without any error, None where
            the float model's values are all 0.
        alone: the same of this layer's rounding only; of the input both are the same.
        low, high: the values that the file's tensor can hold; None of a float tensor.
        clipped: share of the float model's values beyond them by more than half a step, [0, 1].
        smallest_weights, largest_weights: smallest and largest max|w| of a channel of the kernel;
            None without a kernel.
    """

    layer: str
    op: str
    fused: tuple[str, ...]
    title: str
    cumulative: float | None
    alone: float | None
    low: float | None
    high: float | None
    clipped: float
    smallest_weights: float | None = None
    largest_weights: float | None = None


@dataclasses.dataclass(frozen=True)
class LayerErrors:
    """What `layer_errors` found.

    Attributes:
        rows: a `LayerError` a layer, in the order of the file.
        left_out: names of the file's layers that no layer of the float model is the counterpart of.
        logits: the values that the classes are told from, (float model's, file's), each
            [N, K]; None where the file does not compute them.
    """

    rows: tuple[LayerError, ...]
    left_out: tuple[str, ...]
    logits: tuple[np.ndarray, np.ndarray] | None


def layer_errors(
    model_bytes: bytes,
    teacher: Teacher,
    pixels: np.ndarray,
    twin: tf_keras.Model | None = None,
) -> LayerErrors | None:
    """Compares every layer of a file with the float model.

    Args:
        model_bytes: the file's content.
        teacher: the float model that the file was made of.
        pixels: images, float32 in [0, 1], [N, H, W, C].
        twin: the float student of an equalized file, whose layers are compared in the place of the
            teacher's.

    Returns:
        `LayerErrors`; None of an equalized file without its twin. Left out are layers that only
        move values, such as a reshape, and layers without a counterpart, such as a batch norm that
        became a part of a convolution.

    Raises:
        UserError: not a TFLite model, images that the teacher does not take, or a file of another
            teacher: of another input, or without any layer of the teacher's.
    """
    tflite = TfliteModel(model_bytes)
    pixels = check_pixels(pixels, teacher.input_spec)
    if tflite.input_shape != teacher.input_spec.image_shape:
        raise UserError(
            f'The .tflite takes images of the shape {list(tflite.input_shape)}, but the teacher '
            f'{teacher.name} takes {list(teacher.input_spec.image_shape)}: pass the teacher that '
            f'it was made of.'
        )
    if tflite.zero_pixel is not None and not takes_raw_pixels(teacher.model):
        teacher = raw_pixels(teacher)
    model = read_model(model_bytes)
    if twin is None and is_equalized(model):
        return None
    found = counterparts(model, teacher, twin)
    if len(found.names) < 3:  # no more than its ends
        raise UserError(
            f'No layer of the .tflite has the name of a layer of {teacher.name}: pass the teacher '
            f'that it was made of.'
        )
    with hidden_output():
        interpreter = plain_interpreter(model_bytes, experimental_preserve_all_tensors=True)
    details = {detail['index']: detail for detail in interpreter.get_tensor_details()}
    layers = [
        _Layer(model, found, number, details[index]) for number, index in enumerate(found.tensors)
    ]
    logits_tensor = _logits_tensor(model, found, teacher)
    logits = []
    for values, own in _runs(interpreter, details, found, teacher, pixels):
        for layer in layers:
            if layer.is_row:
                layer.add(values, own)
        if logits_tensor is not None:
            logits.append((values[logits_tensor].ravel(), own[logits_tensor].ravel()))
    return LayerErrors(
        rows=tuple(layer.row() for layer in layers if layer.is_row),
        left_out=found.left_out,
        logits=tuple(map(np.stack, zip(*logits, strict=True))) if logits else None,
    )


def _logits_tensor(model, found, teacher):
    """The tensor of the logits if it has a counterpart: the output, or what its softmax takes."""
    graph = model.subgraphs[0]
    makers = {index: op for op in graph.operators for index in op.outputs}
    index = found.tensors[-1]
    if teacher.head == 'probabilities':
        return None
    if op_name(model, makers[index]) in ('SOFTMAX', 'LOGISTIC'):
        index = makers[index].inputs[0]
    while index not in found.tensors and op_name(model, makers[index]) in MOVING_OPS:
        index = makers[index].inputs[0]
    return index if index in found.tensors else None


def _runs(interpreter, details, found, teacher, pixels):
    """Yields (float model's values, file's values) of each image, dicts by the file's tensors."""
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    batch = int(detail['shape'][0])
    run = tf.function(lambda x: found.model(x, training=False), reduce_retracing=True)
    for start in range(0, len(pixels), _IMAGES_AT_ONCE):
        part = tf.constant(pixels[start : start + _IMAGES_AT_ONCE])
        inputs = teacher.input_spec.to_inputs(part).numpy()
        outputs = [y.numpy() for y in tf.nest.flatten(run(inputs))]
        for number in range(len(inputs)):
            # A file of a larger batch computes the image several times.
            image = np.repeat(inputs[number : number + 1], batch, axis=0)
            interpreter.set_tensor(detail['index'], quantize(image, detail))
            interpreter.invoke()
            values = {
                index: y[number : number + 1]
                for index, y in zip(found.tensors, outputs, strict=True)
            }
            own = {
                index: dequantize(interpreter.get_tensor(index), details[index])[:1]
                for index in found.tensors
            }
            yield values, own


class _Layer:
    """Sums up the errors of one tensor of the file over images."""

    def __init__(self, model, found, number, detail):
        graph = model.subgraphs[0]
        self._name = found.names[number]
        self._fused, self._title = found.fused[number], found.titles[number]
        self._index, self._detail = detail['index'], detail
        self._part, self._op, self._weights = None, '', (None, None)
        self._low, self._high, self._half_step = _range(detail)
        self._signal = self._noise = self._own_noise = self._clipped = self._count = 0
        self.is_row = number == 0  # the input
        if self.is_row:
            return
        maker = next(op for op in graph.operators if self._index in op.outputs)
        self._op = op_name(model, maker)
        self.is_row = self._op not in MOVING_OPS
        if not self.is_row:
            return
        self._part = FloatPart(model, set(found.tensors), self._index)
        self._weights = _channel_weights(model, self._part.ops)
        if self._low is not None:
            lowest, highest = _limits(model, maker)
            self._low, self._high = max(self._low, lowest), min(self._high, highest)

    def add(self, values, own):
        """Takes note of an image."""
        y = np.float64(values[self._index]).ravel()
        self._signal += np.sum(y**2)
        self._noise += np.sum((np.float64(own[self._index]).ravel() - y) ** 2)
        self._count += y.size
        if self._low is not None:
            beyond = (y > self._high + self._half_step) | (y < self._low - self._half_step)
            self._clipped += np.count_nonzero(beyond)
        if self._part is not None:
            alone = self._part(values)
            alone = dequantize(quantize(alone, self._detail), self._detail)
            self._own_noise += np.sum((np.float64(alone).ravel() - y) ** 2)

    def row(self):
        cumulative = _decibels(self._signal, self._noise)
        return LayerError(
            layer=self._name,
            op=self._op,
            fused=self._fused,
            title=self._title,
            cumulative=cumulative,
            alone=_decibels(self._signal, self._own_noise) if self._part else cumulative,
            low=self._low,
            high=self._high,
            clipped=float(self._clipped / self._count),
            smallest_weights=self._weights[0],
            largest_weights=self._weights[1],
        )


_ACTIVATIONS = {
    schema.ActivationFunctionType.RELU: (0.0, math.inf),
    schema.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
    schema.ActivationFunctionType.RELU6: (0.0, 6.0),
}


def _decibels(signal, noise):
    if not signal:
        return None
    return 10 * math.log10(signal / noise) if noise else math.inf


def _range(detail):
    """(lowest value, highest value, half a step) of a tensor; None of a float one."""
    if np.issubdtype(detail['dtype'], np.floating):
        return None, None, None
    levels, (scale, zero) = np.iinfo(detail['dtype']), detail['quantization']
    return float(scale * (levels.min - zero)), float(scale * (levels.max - zero)), scale / 2


def _limits(model, op):
    """(lowest, highest) value that an op gives, whatever the levels of its output."""
    lowest, highest = -math.inf, math.inf
    if op_name(model, op) in ('MINIMUM', 'MAXIMUM'):
        tensors = model.subgraphs[0].tensors
        constants = [real_values(model, tensors[index]) for index in op.inputs]
        for limit in (float(c.ravel()[0]) for c in constants if c is not None and c.size == 1):
            if op_name(model, op) == 'MINIMUM':
                highest = limit
            else:
                lowest = limit
    function = getattr(op.builtinOptions, 'fusedActivationFunction', None)
    return _ACTIVATIONS.get(function, (lowest, highest))


def _channel_weights(model, ops):
    """Smallest and largest max|w| of a channel, of the last kernel among these ops."""
    graph = model.subgraphs[0]
    for number in reversed(ops):
        op = graph.operators[number]
        if op_name(model, op) not in KERNEL_OPS:
            continue
        kernel = real_values(model, graph.tensors[op.inputs[1]])
        if kernel is not None:
            axis = channel_axis(op_name(model, op))
            others = tuple(n for n in range(kernel.ndim) if n != axis)
            largest = np.max(np.abs(kernel), axis=others)
            return float(largest.min()), float(largest.max())
    return None, None
