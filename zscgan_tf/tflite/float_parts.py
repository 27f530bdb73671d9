"""A part of a quantized `.tflite` as a float model: its ops, and its weights as they are rounded.

It tells what an op of the file makes of float values, without the rounding of what it reads. LiteRT
runs it, so an op means here what it means in the file.
"""

import copy

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from zscgan_tf.tflite.flatbuffer import (
    constant_bytes,
    int4_values,
    op_name,
    plain_interpreter,
    scales_of,
    type_name,
)

_NUMPY_TYPES = {'int8': np.int8, 'uint8': np.uint8, 'int16': np.int16, 'int32': np.int32}
_NUMPY_TYPES |= {'int64': np.int64, 'float32': np.float32, 'float16': np.float16}


class FloatPart:
    """The ops between some tensors of a file and one that they lead to, in float.

    Args:
        model: the file, see `flatbuffer.read_model`.
        known: tensors whose values are given.
        target: the tensor that is computed; one of `known` may stand behind others.

    Attributes:
        inputs: those of `known` that are read.
        ops: the numbers of the ops, in order.
    """

    def __init__(self, model: schema.ModelT, known: set[int], target: int) -> None:
        graph = model.subgraphs[0]
        makers = {index: n for n, op in enumerate(graph.operators) for index in op.outputs}
        ops, inputs, pending = set(), set(), [target]
        while pending:
            number = makers[pending.pop()]
            if number in ops:
                continue
            ops.add(number)
            for index in graph.operators[number].inputs:
                if index in known:
                    inputs.add(int(index))
                elif index in makers:
                    pending.append(index)
        self.ops, self.inputs = sorted(ops), sorted(inputs)
        self._interpreter = plain_interpreter(
            _float_model(model, self.ops, self.inputs, int(target))
        )
        self._interpreter.allocate_tensors()

    def __call__(self, values: dict[int, np.ndarray]) -> np.ndarray:
        """The target's float values, of one image.

        Args:
            values: float arrays of the tensors `inputs`, by their numbers, of one image each.
        """
        batch = 1
        details = self._interpreter.get_input_details()
        for index, detail in zip(self.inputs, details, strict=True):
            value = np.asarray(values[index], np.float32)
            # A file of a larger batch computes the image several times.
            batch = int(np.prod(detail['shape'])) // value.size
            value = np.tile(value.ravel(), batch).reshape(detail['shape'])
            self._interpreter.set_tensor(detail['index'], value)
        self._interpreter.invoke()
        output = self._interpreter.get_tensor(self._interpreter.get_output_details()[0]['index'])
        return output.reshape(batch, -1)[0]


def real_values(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """What the integers of a constant stand for, float32 in its shape; floats as they are.

    Returns:
        None where the tensor is no constant, or not of numbers that are read here.
    """
    data, kind = constant_bytes(model, tensor), type_name(tensor)
    if data is None:
        return None
    if kind == 'int4':
        integers = int4_values(data, tensor.shape)
    elif kind in _NUMPY_TYPES:
        integers = data.view(_NUMPY_TYPES[kind])
    else:
        return None
    integers = integers.reshape(tensor.shape).astype(np.float64)
    scales = np.float64(scales_of(tensor))
    if not len(scales):
        return integers.astype(np.float32)
    zeros = tensor.quantization.zeroPoint
    zeros = np.zeros(1) if zeros is None or not len(zeros) else np.float64(zeros)
    if len(scales) > 1:
        sides = [1] * integers.ndim
        sides[tensor.quantization.quantizedDimension] = -1
        scales, zeros = scales.reshape(sides), zeros.reshape(sides if len(zeros) > 1 else -1)
    return ((integers - zeros) * scales).astype(np.float32)


def _float_model(model, ops, inputs, target):
    """The bytes of a model of these ops whose quantized tensors are float32.

    QUANTIZE and DEQUANTIZE are left out: floats have no scales.
    """
    graph = model.subgraphs[0]
    part, empty = schema.SubGraphT(), schema.BufferT()
    new = schema.ModelT()
    new.version, new.operatorCodes, new.buffers = 3, model.operatorCodes, [empty]
    numbers = {-1: -1}
    part.tensors, part.operators = [], []

    def number_of(index):
        if index not in numbers:
            numbers[index] = len(part.tensors)
            part.tensors.append(_float_tensor(model, graph.tensors[index], new.buffers))
        return numbers[index]

    for number in ops:
        op = copy.copy(graph.operators[number])
        if op_name(model, op) in ('QUANTIZE', 'DEQUANTIZE'):
            numbers[int(op.outputs[0])] = number_of(op.inputs[0])
            continue
        op.inputs = [number_of(index) for index in op.inputs]
        op.outputs = [number_of(index) for index in op.outputs]
        op.intermediates = None
        part.operators.append(op)
    part.inputs, part.outputs = [numbers[index] for index in inputs], [numbers[target]]
    new.subgraphs = [part]
    builder = flatbuffers.Builder(1024)
    builder.Finish(new.Pack(builder), b'TFL3')
    return bytes(builder.Output())


def _float_tensor(model, tensor, buffers):
    """A tensor without its quantization; a constant's own buffer is added to `buffers`."""
    new = copy.copy(tensor)
    new.buffer, new.quantization, new.shapeSignature = 0, None, None
    quantized = len(scales_of(tensor)) > 0 or tensor.type == schema.TensorType.FLOAT16
    if quantized:
        new.type = schema.TensorType.FLOAT32
    data = constant_bytes(model, tensor)
    if data is not None:
        buffer = schema.BufferT()
        values = real_values(model, tensor) if quantized else None
        data = data if values is None else np.frombuffer(values.tobytes(), np.uint8)
        buffer.data = data
        buffers.append(buffer)
        new.buffer = len(buffers) - 1
    return new
