"""The audit: proves from a `.tflite` itself that all that it computes is integer.

An integer file's ops all work on int8, int4 or int16 tensors. Beside those are allowed int32 biases
(int64 beside int16 activations), int32 shape arithmetic, and QUANTIZE or DEQUANTIZE at the model's
own input and output.

Usage: report = audit(data); report.ops, report.float_ops
"""

import collections
import dataclasses

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from zscgan_tf.errors import UserError
from zscgan_tf.tflite.flatbuffer import (
    KERNEL_OPS,
    EndTensor,
    channel_axis,
    constant_bytes,
    input_tensor,
    layer_name,
    op_name,
    output_tensor,
    read_model,
    scales_of,
    text,
    type_name,
)

INTEGER_TYPES = ('int8', 'int4', 'int16')
BIAS_TYPES = ('int32', 'int64')
KEEP_FLOAT = 'or pass --allow_float_ops to keep it in float'


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
    """

    ops: dict[str, int]
    op_count: int
    integer_op_count: int
    float_ops: tuple[str, ...]
    input: EndTensor
    output: EndTensor
    weights: str
    weight_types: dict[str, int]


def audit(
    model_bytes: bytes, *, allow_float_ops: bool = False, advice: str = KEEP_FLOAT
) -> AuditReport:
    """Proves that a `.tflite` is integer.

    Args:
        model_bytes: the file's content.
        allow_float_ops: whether ops on float32 tensors are reported instead of refused.
        advice: what the message of a refusal says that can be done instead of rebuilding.

    Raises:
        UserError: not a TFLite model, an op that is not integer (named with its layer), a scale
            vector that does not fit its axis, or a bias that was clipped to int32.
    """
    model = read_model(model_bytes)
    graph = model.subgraphs[0]
    for role, tensors in (('input', graph.inputs), ('output', graph.outputs)):
        if len(tensors) != 1:
            raise UserError(f'The .tflite has {len(tensors)} {role}s instead of one.')
    return audit_model(model, allow_float_ops, advice)


def audit_model(
    model: schema.ModelT, allow_float_ops: bool = False, advice: str = KEEP_FLOAT
) -> AuditReport:
    """`audit` of what `read_model` returned, of any number of inputs."""
    graph = model.subgraphs[0]
    problems, float_ops, ops = [], [], collections.Counter()
    for number, part in enumerate(model.subgraphs):
        problems += _scale_problems(part)
        model_ends = (set(), set()) if number else (set(graph.inputs), set(graph.outputs))
        shapes = _constants(part)  # tensors that no image can change
        for op in part.operators:
            name = op_name(model, op)
            ops[name] += 1
            wrong = _wrong_types(name, op, part, shapes, *model_ends)
            if wrong:
                where = f"{name} at layer '{layer_name(part, op)}' works on {', '.join(wrong)}"
                (float_ops if 'float32' in wrong else problems).append((name, where))
    if problems:
        raise UserError(f'The .tflite is not integer: {_first(problems)}.')
    if clipped := next(_clipped_biases(model), None):
        raise UserError(
            f'The .tflite is wrong: a bias of {clipped} is too large for int32 beside the '
            f'small weights of its channel: make it with per-tensor weights. Pass '
            f"--weight_granularity=tensor (with --student=folded), or for TFLite's own calibration "
            f'--method=ptq --range_estimator=tflite --noper_channel and no options of a student.'
        )
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
        float_ops=tuple(where for _, where in float_ops),
        input=input_tensor(model),
        output=output_tensor(model),
        weights=weights,
        weight_types=weight_types,
    )


def _wrong_types(name, op, graph, shapes, graph_inputs, graph_outputs):
    """The types that an op of an integer file may not work on; adds its results to `shapes`."""
    inputs, outputs = ([i for i in operands if i >= 0] for operands in (op.inputs, op.outputs))
    types = {i: type_name(graph.tensors[i]) for i in inputs + outputs}
    from_shapes = name == 'SHAPE' or all(types[i] == 'int32' and i in shapes for i in inputs)
    if from_shapes and all(types[i] == 'int32' for i in outputs):
        shapes.update(outputs)
        return []
    if name == 'QUANTIZE' and graph_inputs.issuperset(inputs):
        inputs = [i for i in inputs if types[i] not in ('float32', 'uint8')]
    if name in ('QUANTIZE', 'DEQUANTIZE') and graph_outputs.issuperset(outputs):
        outputs = [i for i in outputs if types[i] not in ('float32', 'uint8')]
    wrong = set()
    for i in inputs + outputs:
        if types[i] in BIAS_TYPES and i in shapes:
            continue
        if types[i] not in INTEGER_TYPES:
            wrong.add(types[i])
        elif not len(scales_of(graph.tensors[i])):
            wrong.add(f'{types[i]} without a scale')
    return sorted(wrong)


def _constants(graph):
    """Indices of the tensors that are neither inputs nor computed."""
    computed = {index for op in graph.operators for index in op.outputs}
    return set(range(len(graph.tensors))) - computed - set(graph.inputs)


def _scale_problems(graph):
    """('', what is wrong) of every tensor whose scales are no numbers or do not fit its shape."""
    problems = []
    for tensor in graph.tensors:
        scales, where = scales_of(tensor), f"tensor '{text(tensor.name)}'"
        if not np.all(np.isfinite(scales)) or np.any(scales < 0):
            problems.append(('', f'{where} has a scale that is negative or not finite'))
        if len(scales) > 1:
            axis = tensor.quantization.quantizedDimension
            entries = tensor.shape[axis] if 0 <= axis < len(tensor.shape) else 0
            if len(scales) != entries:
                problem = f'{where} has {len(scales)} scales for {entries} entries of axis {axis}'
                problems.append(('', problem))
    return problems


def _clipped_biases(model):
    """The layers one of whose biases is at an end of int32, where the converter clips it."""
    for graph in model.subgraphs:
        for op in graph.operators:
            if op_name(model, op) not in KERNEL_OPS:
                continue
            for tensor in (graph.tensors[index] for index in op.inputs if index >= 0):
                data = constant_bytes(model, tensor) if type_name(tensor) == 'int32' else None
                if data is not None and np.abs(np.int64(data.view(np.int32))).max() >= 2**31 - 1:
                    yield f"{op_name(model, op)} at layer '{layer_name(graph, op)}'"


def _weights(model):
    """`weights` and `weight_types` of an `AuditReport`."""
    granularities, types = set(), collections.Counter()
    for graph in model.subgraphs:
        constants = _constants(graph)
        for op in graph.operators:
            name = op_name(model, op)
            if name not in KERNEL_OPS or not constants.intersection(op.inputs[1:2]):
                continue
            kernel = graph.tensors[op.inputs[1]]
            types[type_name(kernel)] += 1
            axis, scales = channel_axis(name), len(scales_of(kernel))
            if scales and kernel.shape[axis : axis + 1] != [1]:
                granularities.add('per-channel' if scales > 1 else 'per-tensor')
    if not granularities:
        return 'none', dict(types)
    return ('mixed' if len(granularities) > 1 else granularities.pop()), dict(types)


def _first(problems):
    """The first of (op name, problem) in words; conversions at the edge of a float part go last."""
    problems = sorted(problems, key=lambda problem: problem[0] in ('QUANTIZE', 'DEQUANTIZE'))
    more = f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''
    return problems[0][1] + more
