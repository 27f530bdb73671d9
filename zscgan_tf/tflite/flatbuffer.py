"""A `.tflite` read from its flatbuffer: its operations, tensors, scales, input and output."""

import dataclasses
import math
import struct
from collections.abc import Iterable

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from zscgan_tf.errors import UserError, first_line

KERNEL_OPS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED', 'TRANSPOSE_CONV')
_LEVELS = {'int8': (-128, 127), 'uint8': (0, 255), 'int16': (-32768, 32767)}
_OP_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith('_')
}
_TYPE_NAMES = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith('_')
}


@dataclasses.dataclass(frozen=True)
class EndTensor:
    """The model's input or output.

    Attributes:
        type: 'int8', 'uint8', 'int16' or 'float32'.
        shape: with -1 for the open batch.
        scale, zero_point: of the quantized values; of a float tensor those behind its QUANTIZE or
            before its DEQUANTIZE. None where there are none.
        value_range: (lowest, highest) value that can be represented, or None.
    """

    type: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None
    value_range: tuple[float, float] | None


def plain_interpreter(model_bytes: bytes, **options) -> Interpreter:
    """LiteRT without delegates: XNNPACK would keep most tensors to itself.

    Args:
        model_bytes: the file's content.
        **options: further arguments of `Interpreter`.
    """
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(
        model_content=bytes(model_bytes), experimental_op_resolver_type=resolver, **options
    )


def read_model(model_bytes: bytes, name: str = 'The file') -> schema.ModelT:
    """The flatbuffer, with empty lists where it leaves vectors of numbers or parts out.

    Args:
        model_bytes: the file's content.
        name: what messages call it.

    Raises:
        UserError: the bytes are no TFLite model.
    """
    try:
        plain_interpreter(model_bytes)  # verifies every offset: Python's reader follows wild ones
        model = schema.ModelT.InitFromPackedBuf(bytes(model_bytes), 0)
    except (ValueError, RuntimeError, struct.error) as error:
        raise UserError(
            f'{name} is not a TFLite model that LiteRT can read: {first_line(error)}.'
        ) from error
    _fill_in(model, 'subgraphs', 'operatorCodes', 'buffers')
    for graph in model.subgraphs:
        _fill_in(graph, 'tensors', 'operators', 'inputs', 'outputs')
        for op in graph.operators:
            _fill_in(op, 'inputs', 'outputs')
        for tensor in graph.tensors:
            _fill_in(tensor, 'shape', 'shapeSignature')
    if not model.subgraphs or not model.subgraphs[0].operators:
        raise UserError(f'{name} is a TFLite model without operations.')
    if not all(_references_exist(model, graph) for graph in model.subgraphs):
        raise UserError(f'{name} is a damaged TFLite model: it names tensors that are not there.')
    return model


def _fill_in(part, *vectors):
    """Makes vectors of a flatbuffer lists: the reader gives None, lists or arrays."""
    for name in vectors:
        vector = getattr(part, name)
        setattr(part, name, [] if vector is None else list(vector))


def _references_exist(model, graph):
    """Whether the tensors and codes that ops name are there: LiteRT looks only when it runs."""
    tensors = len(graph.tensors)
    operands = [index for op in graph.operators for index in op.inputs + op.outputs]
    return (
        all(0 <= index < tensors for index in graph.inputs + graph.outputs)
        and all(-1 <= index < tensors for index in operands)  # -1: an operand that is left out
        and all(op.opcodeIndex < len(model.operatorCodes) for op in graph.operators)
    )


def op_name(model: schema.ModelT, op: schema.OperatorT) -> str:
    """An op's name, `CONV_2D`; of a custom op its own."""
    code = model.operatorCodes[op.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM and code.customCode:
        return f'CUSTOM {text(code.customCode)}'
    return _OP_NAMES.get(number, f'op {number}')


def layer_name(graph: schema.SubGraphT, op: schema.OperatorT) -> str:
    """A readable name of the layer that an op computes: that of its first output tensor."""
    if not op.outputs:
        return '?'
    # Fused layers are joined by semicolons, the last one computed first.
    name = text(graph.tensors[op.outputs[0]].name).split(';')[0]
    return f'{name} (the output)' if op.outputs[0] in graph.outputs else name


def type_name(tensor: schema.TensorT) -> str:
    """A tensor's type, `int8`."""
    return _TYPE_NAMES.get(tensor.type, f'type {tensor.type}')


def constant_bytes(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """The bytes of a constant, uint8; None of a tensor that is computed or given."""
    data = model.buffers[tensor.buffer].data
    return np.asarray(data, np.uint8) if data is not None and len(data) else None


def int4_values(data: np.ndarray, shape: Iterable[int]) -> np.ndarray:
    """The integers of an int4 constant, int8, flat; `data` are the bytes of its buffer."""
    # Two values a byte, the low four bits first, in two's complement.
    nibbles = np.stack([data & 15, data >> 4], axis=1).reshape(-1)[: math.prod(shape)]
    return (nibbles ^ 8).astype(np.int8) - np.int8(8)


def scales_of(tensor: schema.TensorT) -> np.ndarray:
    """A tensor's scales, float32: [channels], [1], or [0] where it is not quantized."""
    scales = None if tensor.quantization is None else tensor.quantization.scale
    return np.asarray([] if scales is None else scales, np.float32)


def text(name: bytes | str | None) -> str:
    """A name in the flatbuffer as text."""
    return name.decode('utf-8', errors='replace') if isinstance(name, bytes) else str(name or '?')


def channel_axis(op_name: str) -> int:
    """The axis of the output channels in the kernel of one of `KERNEL_OPS`."""
    return 3 if op_name == 'DEPTHWISE_CONV_2D' else 0


def input_tensor(model: schema.ModelT) -> EndTensor:
    """The model's input."""
    graph = model.subgraphs[0]
    index = graph.inputs[0]
    quantized = [
        output
        for op in graph.operators
        if op_name(model, op) == 'QUANTIZE' and index in op.inputs
        for output in op.outputs
    ]
    return _end(graph, index, quantized)


def output_tensor(model: schema.ModelT) -> EndTensor:
    """The model's output."""
    graph = model.subgraphs[0]
    index = graph.outputs[0]
    producer = next((op for op in graph.operators if index in op.outputs), None)
    dequantized = producer is not None and op_name(model, producer) == 'DEQUANTIZE'
    return _end(graph, index, producer.inputs if dequantized else [])


def _end(graph, index, neighbours):
    """An `EndTensor`, its scale from the first of the tensor and its neighbours that has one."""
    tensor = graph.tensors[index]
    candidates = [tensor, *(graph.tensors[i] for i in neighbours)]
    quantized = next((t for t in candidates if len(scales_of(t))), None)
    scale = zero_point = value_range = None
    if quantized is not None:
        scale = float(scales_of(quantized)[0])
        zero_points = quantized.quantization.zeroPoint
        zero_point = 0 if zero_points is None or not len(zero_points) else int(zero_points[0])
        if levels := _LEVELS.get(type_name(quantized)):
            value_range = tuple((level - zero_point) * scale for level in levels)
    shape = tuple(int(side) for side in tensor.shapeSignature or tensor.shape)
    return EndTensor(type_name(tensor), shape, scale, zero_point, value_range)


def ends_in_probabilities(model: schema.ModelT) -> bool:
    """Whether a file ends in probabilities: a softmax or logistic, or scores within [0, 1].

    The logit of a single unit may lie there by chance; scores of many classes do not.
    """
    graph = model.subgraphs[0]
    index = graph.outputs[0]
    for op in reversed(graph.operators):
        if index not in op.outputs:
            continue
        if op_name(model, op) in ('SOFTMAX', 'LOGISTIC'):
            return True
        if op_name(model, op) not in ('QUANTIZE', 'DEQUANTIZE', 'RESHAPE'):
            break
        index = next(iter(op.inputs), None)
    output, given = graph.tensors[graph.outputs[0]], graph.tensors[graph.inputs[0]]
    if np.prod(output.shape) == given.shape[0]:  # a single unit
        return False
    value_range = output_tensor(model).value_range
    return value_range is not None and value_range[0] >= 0 and value_range[1] <= 1
