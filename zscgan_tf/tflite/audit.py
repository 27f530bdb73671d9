"""What a `.tflite` really holds, read from its own flatbuffer.

An integer file's ops all work on int8 or int4 tensors. Beside those are allowed int32 biases, int32
shape arithmetic, and QUANTIZE or DEQUANTIZE at the model's own input and output.

Usage: report = audit(data); report.ops, report.float_ops, clipped_input_share(report, input_spec)
"""

import collections
import dataclasses
import struct

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from zscgan_tf.errors import UserError

INTEGER_TYPES = ('int8', 'int4')
LEVELS = {'int8': (-128, 127), 'uint8': (0, 255)}
KERNEL_OPS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED', 'TRANSPOSE_CONV')
OP_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith('_')
}
TYPE_NAMES = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith('_')
}
KEEP_FLOAT = 'or pass --allow_float_ops to keep it in float'


@dataclasses.dataclass(frozen=True)
class EndTensor:
    """The model's input or output.

    Attributes:
        type: 'int8', 'uint8' or 'float32'.
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


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """What `audit` found.

    Attributes:
        ops: op name -> number of such ops.
        op_count, integer_op_count: of the whole file.
        float_ops: what works on float, 'ADD at layer ...'; empty unless it was allowed.
        input, output: `EndTensor`s.
        weights: 'per-channel', 'per-tensor' or 'mixed' scales of the kernels; 'none' where no
            kernel is quantized.
        weight_types: type -> number of kernels.
        file_bytes, constant_bytes: size of the file, and of the weights and constants in it.
    """

    ops: dict[str, int]
    op_count: int
    integer_op_count: int
    float_ops: tuple[str, ...]
    input: EndTensor
    output: EndTensor
    weights: str
    weight_types: dict[str, int]
    file_bytes: int
    constant_bytes: int


def read_model(model_bytes, name='The file'):
    """The flatbuffer as a `schema.ModelT`.

    Raises:
        UserError: the bytes are no TFLite model.
    """
    try:
        # LiteRT verifies every offset first; Python's reader would follow wild ones.
        Interpreter(
            model_content=bytes(model_bytes),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        model = schema.ModelT.InitFromPackedBuf(bytes(model_bytes), 0)
    except (ValueError, RuntimeError, struct.error) as error:
        reason = str(error).strip().splitlines()[0].rstrip('.')
        raise UserError(f'{name} is not a TFLite model that LiteRT can read: {reason}.') from error
    if not model.subgraphs or not _indices(model.subgraphs[0].operators):
        raise UserError(f'{name} is a TFLite model without operations.')
    if not all(_references_exist(model, graph) for graph in model.subgraphs):
        raise UserError(f'{name} is a damaged TFLite model: it names tensors that are not there.')
    return model


def audit(model_bytes, *, allow_float_ops=False, advice=KEEP_FLOAT):
    """Proves that a `.tflite` is integer.

    Args:
        model_bytes: the file's content.
        allow_float_ops: whether ops on float32 tensors are reported instead of refused.
        advice: what the message of a refusal says that can be done instead of rebuilding.

    Returns:
        An `AuditReport`.

    Raises:
        UserError: not a TFLite model, an op that is not integer (named with its layer), or a
            scale vector that does not fit its axis.
    """
    model = read_model(model_bytes)
    return audit_model(model, len(model_bytes), allow_float_ops, advice)


def audit_model(model, file_bytes, allow_float_ops=False, advice=KEEP_FLOAT):
    """`audit` of a flatbuffer that was read."""
    graph = model.subgraphs[0]
    for role, ends in (('input', graph.inputs), ('output', graph.outputs)):
        if len(_indices(ends)) != 1:
            raise UserError(f'The .tflite has {len(_indices(ends))} {role}s instead of one.')
    problems, float_ops, ops = [], [], collections.Counter()
    for number, part in enumerate(model.subgraphs):
        problems += _scale_problems(part)
        ends = (set(), set()) if number else (set(graph.inputs), set(graph.outputs))
        shapes = _constants(part)  # int32 tensors that no image can change
        for op in _indices(part.operators):
            name = op_name(model, op)
            ops[name] += 1
            wrong = _wrong_types(name, op, part, shapes, *ends)
            if wrong:
                found = f"{name} at layer '{layer_name(part, op)}' works on {', '.join(wrong)}"
                (float_ops if 'float32' in wrong else problems).append((name, found))
    if problems:
        raise UserError(f'The .tflite is not integer: {_first(problems)}.')
    if float_ops and not allow_float_ops:
        raise UserError(
            f'The .tflite is not integer: {_first(float_ops)}: rebuild this layer of ops that '
            f'TFLite quantizes, {advice}.'
        )
    weights, weight_types = _weights(model)
    return AuditReport(
        ops=dict(sorted(ops.items())),
        op_count=sum(ops.values()),
        integer_op_count=sum(ops.values()) - len(float_ops),
        float_ops=tuple(found for _, found in float_ops),
        input=input_tensor(model),
        output=output_tensor(model),
        weights=weights,
        weight_types=weight_types,
        file_bytes=file_bytes,
        constant_bytes=sum(len(b.data) for b in _indices(model.buffers) if b.data is not None),
    )


def clipped_input_share(report, input_spec):
    """Share of the legal input range that the input's scale clips, mean over channels, in [0, 1].

    Args:
        report: an `AuditReport`.
        input_spec: the teacher's `InputSpec`.
    """
    if report.input.value_range is None:
        return 0.0
    lowest, highest = report.input.value_range
    legal_lowest, legal_highest = input_spec.input_range
    kept = np.minimum(highest, legal_highest) - np.maximum(lowest, legal_lowest)
    return float(np.mean(1 - np.maximum(kept, 0) / (legal_highest - legal_lowest)))


def op_name(model, op):
    """An op's name, `CONV_2D`; of a custom op its own."""
    code = model.operatorCodes[op.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM and code.customCode:
        return f'CUSTOM {text(code.customCode)}'
    return OP_NAMES.get(number, f'op {number}')


def layer_name(graph, op):
    """A readable name of the layer that an op computes: that of its first output tensor."""
    outputs = _indices(op.outputs)
    # Fused layers are joined by semicolons, the last one computed first.
    name = text(graph.tensors[outputs[0]].name).split(';')[0] if outputs else '?'
    return f'{name} (the output)' if outputs and outputs[0] in _indices(graph.outputs) else name


def type_name(tensor):
    """A tensor's type, `int8`."""
    return TYPE_NAMES.get(tensor.type, f'type {tensor.type}')


def input_tensor(model):
    """The model's input, an `EndTensor`."""
    graph = model.subgraphs[0]
    index = _indices(graph.inputs)[0]
    behind = [
        output
        for op in graph.operators
        if op_name(model, op) == 'QUANTIZE' and index in _indices(op.inputs)
        for output in _indices(op.outputs)
    ]
    return _end(graph, index, behind)


def output_tensor(model):
    """The model's output, an `EndTensor`."""
    graph = model.subgraphs[0]
    index = _indices(graph.outputs)[0]
    op = _producer(graph, index)
    dequantized = op is not None and op_name(model, op) == 'DEQUANTIZE'
    return _end(graph, index, _indices(op.inputs) if dequantized else [])


def ends_in_probabilities(model):
    """Whether a file ends in probabilities: a softmax or logistic, or scores within [0, 1].

    The logit of a single unit may lie there by chance; scores of many classes do not.
    """
    graph = model.subgraphs[0]
    index = _indices(graph.outputs)[0]
    for op in reversed(graph.operators):
        if index not in _indices(op.outputs):
            continue
        if op_name(model, op) in ('SOFTMAX', 'LOGISTIC'):
            return True
        if op_name(model, op) not in ('QUANTIZE', 'DEQUANTIZE', 'RESHAPE'):
            break
        index = next(iter(_indices(op.inputs)), None)
    if graph.tensors[_indices(graph.outputs)[0]].shape[-1] == 1:
        return False
    value_range = output_tensor(model).value_range
    return value_range is not None and value_range[0] >= 0 and value_range[1] <= 1


def _wrong_types(name, op, graph, shapes, graph_inputs, graph_outputs):
    """The types that an op of an integer file may not work on; adds its results to `shapes`."""
    inputs = [i for i in _indices(op.inputs) if i >= 0]
    outputs = [i for i in _indices(op.outputs) if i >= 0]
    types = {i: type_name(graph.tensors[i]) for i in inputs + outputs}
    from_shapes = name == 'SHAPE' or all(types[i] == 'int32' and i in shapes for i in inputs)
    if from_shapes and all(types[i] == 'int32' for i in outputs):
        shapes.update(outputs)
        return []
    if name == 'QUANTIZE' and graph_inputs.issuperset(inputs):
        inputs = [i for i in inputs if types[i] not in ('float32', 'uint8')]
    if name in ('QUANTIZE', 'DEQUANTIZE') and graph_outputs.issuperset(outputs):
        outputs = [i for i in outputs if types[i] not in ('float32', 'uint8')]
    wrong = []
    for i in inputs + outputs:
        if types[i] == 'int32' and i in shapes:
            continue
        if types[i] not in INTEGER_TYPES:
            wrong.append(types[i])
        elif not len(_scales(graph.tensors[i])):
            wrong.append(f'{types[i]} without a scale')
    return sorted(set(wrong))


def _references_exist(model, graph):
    """Whether the tensors and codes that ops name are there: LiteRT looks only when it runs."""
    tensors, codes = len(_indices(graph.tensors)), len(_indices(model.operatorCodes))
    ends = _indices(graph.inputs) + _indices(graph.outputs)
    operands = [i for op in _indices(graph.operators) for i in _operands(op)]
    return (
        all(0 <= i < tensors for i in ends)
        and all(-1 <= i < tensors for i in operands)  # -1: an operand that is left out
        and all(op.opcodeIndex < codes for op in _indices(graph.operators))
    )


def _operands(op):
    return _indices(op.inputs) + _indices(op.outputs)


def _constants(graph):
    """Indices of the tensors that are neither inputs nor computed."""
    computed = set(_indices(graph.inputs))
    for op in _indices(graph.operators):
        computed.update(_indices(op.outputs))
    return set(range(len(_indices(graph.tensors)))) - computed


def _scale_problems(graph):
    problems = []
    for tensor in _indices(graph.tensors):
        scales, shape = _scales(tensor), _indices(tensor.shape)
        where = f"tensor '{text(tensor.name)}'"
        if not np.all(np.isfinite(scales)) or np.any(scales < 0):
            problems.append(('', f'{where} has a scale that is negative or not finite'))
        if len(scales) > 1:
            axis = tensor.quantization.quantizedDimension
            entries = shape[axis] if 0 <= axis < len(shape) else 0
            if len(scales) != entries:
                problems.append(
                    ('', f'{where} has {len(scales)} scales for {entries} entries of axis {axis}')
                )
    return problems


def _weights(model):
    granularities, types = set(), collections.Counter()
    for graph in model.subgraphs:
        constants = _constants(graph)
        for op in _indices(graph.operators):
            name = op_name(model, op)
            if name not in KERNEL_OPS or not constants.intersection(_indices(op.inputs)[1:2]):
                continue
            kernel = graph.tensors[op.inputs[1]]
            types[type_name(kernel)] += 1
            axis = 3 if name == 'DEPTHWISE_CONV_2D' else 0
            channels = _indices(kernel.shape)[axis : axis + 1]
            if len(_scales(kernel)) and channels != [1]:
                granularities.add('per-channel' if len(_scales(kernel)) > 1 else 'per-tensor')
    if not granularities:
        return 'none', dict(types)
    return ('mixed' if len(granularities) > 1 else granularities.pop()), dict(types)


def _end(graph, index, neighbours):
    tensor = graph.tensors[index]
    quantized = next(
        (t for t in (tensor, *(graph.tensors[i] for i in neighbours)) if len(_scales(t))), None
    )
    scale = zero_point = value_range = None
    if quantized is not None:
        scale = float(_scales(quantized)[0])
        zero_point = int((_indices(quantized.quantization.zeroPoint) or [0])[0])
        if type_name(quantized) in LEVELS:
            value_range = tuple(
                (level - zero_point) * scale for level in LEVELS[type_name(quantized)]
            )
    shape = _indices(tensor.shapeSignature) or _indices(tensor.shape)
    return EndTensor(type_name(tensor), tuple(shape), scale, zero_point, value_range)


def _producer(graph, index):
    return next((op for op in graph.operators if index in _indices(op.outputs)), None)


def _scales(tensor):
    quantization = tensor.quantization
    found = None if quantization is None else quantization.scale
    return np.asarray([] if found is None else found, np.float32)


def _indices(vector):
    """A flatbuffer's vector as a list: absent ones are None, others lists or arrays."""
    return [] if vector is None else list(vector)


def text(name):
    return name.decode('utf-8', errors='replace') if isinstance(name, bytes) else str(name or '?')


def _first(found):
    """The first of the findings in words; conversions at the edge of a float part come last."""
    found = sorted(found, key=lambda item: item[0] in ('QUANTIZE', 'DEQUANTIZE'))
    more = f' (and {len(found) - 1} more)' if len(found) > 1 else ''
    return found[0][1] + more
