"""Counts the weight and activation levels that a written `.tflite` holds, for widths below 8 bits.

TFLite's kernels are int8, so a file of n bits is an int8 file that uses only the levels of n bits:
2^n - 1 of a symmetric grid for the weights of a channel, 2^n for a tensor of activations. Weights
are read from the file, activations by running images through it.

Usage: report = check_levels(data, [inputs], weight_bits=6, activation_bits=6)
"""

import dataclasses
from collections.abc import Collection, Iterable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from zscgan_tf.errors import UserError
from zscgan_tf.quiet import hidden_output
from zscgan_tf.teacher.layer_types import LAYER_TYPES
from zscgan_tf.tflite.flatbuffer import (
    KERNEL_OPS,
    channel_axis,
    constant_bytes,
    int4_values,
    layer_name,
    op_name,
    plain_interpreter,
    read_model,
    text,
    type_name,
)
from zscgan_tf.tflite.interpreter import quantize

# What may stand between the model's input, which keeps 8 bits, and the first layer.
PASSING_OPS = {'QUANTIZE'}.union(*(row.tflite_ops.split() for row in LAYER_TYPES.values()))
# Their kernels prescribe the output's scale.
FIXED_SCALE_OPS = ('LOGISTIC', 'SOFTMAX', 'TANH')
# They cut a tensor down to its levels: what only they read may have more.
CLAMPING_OPS = frozenset(('MINIMUM', 'MAXIMUM', 'RELU', 'RELU6'))


@dataclasses.dataclass(frozen=True)
class LevelsReport:
    """What `check_levels` found.

    Attributes:
        weight_levels: largest number of distinct integers in an output channel of any kernel.
        activation_levels: largest number of distinct integers in any checked tensor; 256 where
            activations have 8 bits, which needs no counting.
        kernels, activations: how many kernels and tensors were checked.
    """

    weight_levels: int
    activation_levels: int
    kernels: int
    activations: int


def check_levels(
    model_bytes: bytes,
    inputs: Iterable[np.ndarray],
    *,
    weight_bits: int,
    activation_bits: int,
    first_last_bits: int | None = None,
    activation_scope: str = 'read',
    first_last: Collection[str] = (),
    constants: Collection[str] = (),
) -> LevelsReport:
    """Proves that a `.tflite` holds no more levels than its bits allow.

    A channel's weights must lie on a symmetric uniform grid of 2^weight_bits - 1 levels: that also
    tells for depthwise kernels, whose 9 weights a channel could never be too many.

    Args:
        model_bytes: the file's content.
        inputs: iterable of batches, [B, H, W, C], what the float model takes; a few images that
            use the ranges fully are enough. Not looked at where activations have 8 bits.
        weight_bits, activation_bits: 2 to 8.
        first_last_bits: bits of the kernels of `first_last`; None: `weight_bits`.
        activation_scope: which int8 tensors are checked. 'read': what convolutions and dense layers
            read, except the model's input, what comes from ops with a fixed scale, and what only
            `constants` read. 'all': every tensor, except those that a later op clamps and those of
            ops with a fixed scale. 'all_but_input': those of 'all' but the model's input.
        first_last: names of the layers whose kernels have `first_last_bits`.
        constants: names of the convolutions that stand for constants, such as averages.

    Raises:
        UserError: not a TFLite model, a layer with too many levels (named), a layer of `first_last`
            that has no kernel in the file, or no images.
    """
    model = read_model(model_bytes)
    own_bits = {}
    if first_last_bits not in (None, weight_bits):
        own_bits = dict.fromkeys(first_last, first_last_bits)
    weight_levels, kernels = _check_weights(model, weight_bits, own_bits)
    checked = _checked_tensors(model, activation_scope, constants)
    activation_levels = 256
    if activation_bits < 8:
        seen = _seen_levels(model_bytes, inputs, sorted(checked))
        counts = {index: int(levels.sum()) for index, levels in seen.items()}
        for index, count in counts.items():
            if count > 2**activation_bits:
                raise UserError(
                    f'The .tflite does not hold {activation_bits}-bit activations: {count} levels '
                    f'instead of at most {2**activation_bits} in {checked[index]}.'
                )
        activation_levels = max(counts.values(), default=0)
    return LevelsReport(weight_levels, activation_levels, kernels, len(checked))


def kernel_integers(model: schema.ModelT, op: schema.OperatorT) -> np.ndarray | None:
    """The integers of a kernel op's constant kernel.

    Args:
        model: the flatbuffer.
        op: one of its `KERNEL_OPS`.

    Returns:
        int8, [channels, weights]; None where the kernel is computed.

    Raises:
        UserError: a kernel of another type than int8 and int4.
    """
    graph = model.subgraphs[0]
    tensor = graph.tensors[op.inputs[1]]
    data = constant_bytes(model, tensor)
    if data is None:
        return None
    if type_name(tensor) == 'int4':
        integers = int4_values(data, tensor.shape)
    elif type_name(tensor) == 'int8':
        integers = data.view(np.int8)
    else:
        raise UserError(
            f"The levels of {op_name(model, op)} at layer '{layer_name(graph, op)}' cannot be "
            f'counted: its kernel is {type_name(tensor)} instead of int8 or int4.'
        )
    integers = np.moveaxis(integers.reshape(tensor.shape), channel_axis(op_name(model, op)), 0)
    return integers.reshape(len(integers), -1)


def _check_weights(model, weight_bits, own_bits):
    """The largest number of distinct integers in a channel, and the number of kernels.

    `own_bits` has the bits of the layers that have others than `weight_bits`, by name.
    """
    graph = model.subgraphs[0]
    most, count, missing = 0, 0, set(own_bits)
    for op in graph.operators:
        integers = kernel_integers(model, op) if op_name(model, op) in KERNEL_OPS else None
        if integers is None:
            continue
        names = [name for name in own_bits if _is_of_layer(graph, op, name)]
        missing.difference_update(names)
        bits = own_bits[names[0]] if names else weight_bits
        allowed = 2**bits - 1
        needed = int(_grid_sizes(integers).max())
        if needed > allowed:
            raise UserError(
                f'The .tflite does not hold {bits}-bit weights: {op_name(model, op)} at layer '
                f"'{layer_name(graph, op)}' needs a grid of {needed} levels in one channel "
                f'instead of at most {allowed}.'
            )
        most = max(most, *(len(np.unique(channel)) for channel in integers))
        count += 1
    if missing:
        raise UserError(
            f"The .tflite has no kernel of layer '{min(missing)}', so its levels cannot be "
            f'counted: leave --first_last_bits out.'
        )
    return most, count


def _is_of_layer(graph, op, name):
    """Whether an op's kernel is that of a layer: `model/<layer>/<op>` is among its names.

    The layer's name may have slashes itself, and be the beginning of another one's.
    """
    parts = text(graph.tensors[op.inputs[1]].name).split(';')
    return any(f'/{part.rpartition("/")[0]}'.endswith(f'/{name}') for part in parts)


def _grid_sizes(integers):
    """Levels of the smallest symmetric uniform grid around zero that holds each row."""
    magnitudes = np.abs(integers.astype(np.int16))
    steps = np.maximum(np.gcd.reduce(magnitudes, axis=1), 1)  # 0 for all-zero rows
    return 2 * (magnitudes.max(axis=1) // steps) + 1


def _checked_tensors(model, activation_scope, constants):
    """The activations whose levels count: index -> 'what CONV_2D at layer ... reads'."""
    graph = model.subgraphs[0]
    producers = {index: op for op in graph.operators for index in op.outputs}
    readers = {}  # index -> names of ops
    for op in graph.operators:
        for index in op.inputs:
            readers.setdefault(index, set()).add(op_name(model, op))

    def is_constant(op):
        return op_name(model, op) in KERNEL_OPS and any(
            _is_of_layer(graph, op, name) for name in constants
        )

    def is_the_input(index):
        """Whether a tensor holds the model's input alone, at most scaled, moved or repeated."""
        if index in graph.inputs:
            return True
        if index not in producers:
            return False
        op = producers[index]
        if op_name(model, op) == 'CONCATENATION':
            return all(map(is_the_input, op.inputs))
        hands_on = op_name(model, op) in PASSING_OPS or is_constant(op)
        return hands_on and is_the_input(op.inputs[0])

    def has_fixed_scale(index):
        while index in producers and op_name(model, producers[index]) in PASSING_OPS - {'QUANTIZE'}:
            index = producers[index].inputs[0]
        return index in producers and op_name(model, producers[index]) in FIXED_SCALE_OPS

    checked = {}
    for op in graph.operators:
        name = op_name(model, op)
        where = f"{name} at layer '{layer_name(graph, op)}'"
        if name in KERNEL_OPS:
            index = op.inputs[2 if name == 'TRANSPOSE_CONV' else 0]
            exempt = activation_scope != 'all' and (is_constant(op) or is_the_input(index))
            if not exempt and not has_fixed_scale(index):
                checked.setdefault(int(index), f'what {where} reads')
        if activation_scope == 'read':
            continue
        for index in op.outputs:
            exempt = has_fixed_scale(index)
            exempt |= index in readers and readers[index] <= CLAMPING_OPS
            exempt |= activation_scope == 'all_but_input' and is_the_input(index)
            if type_name(graph.tensors[index]) == 'int8' and not exempt:
                checked.setdefault(int(index), f'the output of {where}')
    for index, where in checked.items():
        kind = type_name(graph.tensors[index])
        if kind != 'int8':
            raise UserError(f'The levels of {where} cannot be counted: {kind} instead of int8.')
    return checked


def _seen_levels(model_bytes, inputs, indices):
    """Which of the 256 integers each tensor takes over all images: index -> bool, [256]."""
    with hidden_output():
        interpreter = plain_interpreter(model_bytes, experimental_preserve_all_tensors=True)
    detail = interpreter.get_input_details()[0]
    seen = {index: np.zeros(256, bool) for index in indices}
    fixed = int(detail['shape_signature'][0])  # -1: open
    batch = None
    for values in inputs:
        raw = quantize(values, detail)
        size = len(raw) if fixed == -1 else fixed
        for part in np.split(raw, range(size, len(raw), size)):
            part = np.resize(part, (size, *part.shape[1:]))  # filled up by repeating its images
            if batch != len(part):
                batch = len(part)
                interpreter.resize_tensor_input(detail['index'], part.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(detail['index'], part)
            interpreter.invoke()
            for index in indices:
                integers = interpreter.get_tensor(index).reshape(-1).view(np.uint8)
                seen[index] |= np.bincount(integers, minlength=256) > 0
    if batch is None:
        raise UserError('There are no images to count activation levels with: pass at least one.')
    return seen
