"""Which tensor of a `.tflite` is which layer of the float model, told from the names in the file.

The converter joins the names of the layers that one op computes by semicolons, the last one first:
`model/relu/Relu;model/bn/FusedBatchNormV3;model/conv/Conv2D1`. The tensor is then the output of
`relu`. A tensor whose names leave a doubt has no counterpart; nothing is guessed.
"""

import contextlib
import dataclasses

import tf_keras
from ai_edge_litert import schema_py_generated as schema

from zscgan_tf.errors import UnsupportedError
from zscgan_tf.student.folding import fold
from zscgan_tf.student.graph import with_copies
from zscgan_tf.student.scheme import wrapped
from zscgan_tf.student.student import with_head
from zscgan_tf.teacher.graphs import nodes
from zscgan_tf.teacher.head import split_end
from zscgan_tf.teacher.tap import is_batch_norm
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite.converter import EQUALIZED
from zscgan_tf.tflite.flatbuffer import ends_in_probabilities, op_name, text
from zscgan_tf.tflite.levels import PASSING_OPS

# They hand values on as they are, so they round nothing of their own.
MOVING_OPS = PASSING_OPS.union('SQUEEZE EXPAND_DIMS DEQUANTIZE SHAPE PACK'.split())
MOVING_OPS -= {'AVERAGE_POOL_2D', 'RESIZE_BILINEAR'}


@dataclasses.dataclass(frozen=True)
class Counterparts:
    """The float model of a file, and the tensors that both have.

    Attributes:
        model: a tf_keras model, inputs -> [what each of `names` gives].
        names: the float layers, in the order of the file's tensors; 'input' first.
        tensors: the file's tensors, one for each name.
        fused: the layers that the op of each tensor computes, each a tuple, the last one last.
        titles: the first one of these that has weights, or the first one.
        left_out: names of the file's layers that have no counterpart.
    """

    model: tf_keras.Model
    names: tuple[str, ...]
    tensors: tuple[int, ...]
    fused: tuple[tuple[str, ...], ...]
    titles: tuple[str, ...]
    left_out: tuple[str, ...]


def is_equalized(model: schema.ModelT) -> bool:
    """Whether the layers of a file have other scales than the teacher's: one of --method=dfq."""
    graph = model.subgraphs[0]
    names = (text(graph.tensors[index].name) for op in graph.operators for index in op.outputs)
    return any(name.startswith(EQUALIZED) for name in names)


def counterparts(
    model: schema.ModelT, teacher: Teacher, twin: tf_keras.Model | None = None
) -> Counterparts:
    """Finds the float layer of every tensor of a file that a layer alone, by its name, can be.

    Args:
        model: the file, see `flatbuffer.read_model`.
        teacher: the float model, of raw pixels if the file takes them.
        twin: the float student of an equalized file; its layers are those of the file.

    Returns:
        `Counterparts`. Its float model is the teacher itself for a file of TFLite's calibration and
        for the stock student, and the teacher with its batch norms folded for other students.
    """
    graph = model.subgraphs[0]
    parts = {index: _parts(graph, index) for op in graph.operators for index in op.outputs}
    float_model, end, prefix = _float_model(model, teacher, parts, twin)
    outputs = _outputs_by_layer(float_model)
    first, last = _quantized_ends(model)
    found = {first: ('input', float_model.input)}
    fused, mentioned, left_out = {}, set(), []
    # From the end: a layer that a later op computes a part of is not complete before it.
    for op in reversed(graph.operators):
        moves = op_name(model, op) in MOVING_OPS
        for index in op.outputs:
            layers = [_layer_of(part, outputs, prefix) for part in parts[index]]
            fused[index] = tuple(dict.fromkeys(name for name in reversed(layers) if name))
            name = layers[0] if layers else None
            complete = name is not None and name not in mentioned
            if index == last:
                found[index] = (end._keras_history.layer.name, end)
            elif index == first:
                continue
            elif complete and _same_shape(graph.tensors[index], outputs[name]):
                found[index] = (name, outputs[name])
            elif not moves:
                left_out.append(text(graph.tensors[index].name).split(';')[0])
            if not moves:
                mentioned |= set(fused[index])
    order = [first, *(i for op in graph.operators for i in op.outputs if i != first)]
    order = [index for index in order if index in found]
    fused_names = [fused.get(index) or (found[index][0],) for index in order]
    return Counterparts(
        model=tf_keras.Model(float_model.input, [found[index][1] for index in order]),
        names=tuple(found[index][0] for index in order),
        tensors=tuple(int(index) for index in order),
        fused=tuple(fused_names),
        titles=tuple(_title(names, float_model) for names in fused_names),
        left_out=tuple(reversed(left_out)),
    )


def _parts(graph, index):
    """What a tensor's name tells: `<layer>/<op>` each, without the model's name in front."""
    parts = text(graph.tensors[index].name).split(';')
    # The ops of fake quantization name the layer whose values they round, not one that computes.
    return [part.partition('/')[2] for part in parts if '/FakeQuant' not in part and '/' in part]


def _float_model(model, teacher, parts, twin):
    """(float model, what the file's output is there, what the file writes before each name)."""
    with_end = teacher.head == 'probabilities' or ends_in_probabilities(model)
    prefix = wrapped('')
    own = {layer.name for layer in teacher.model.layers}
    of_student = {part for p in parts.values() for part in p if part.startswith(prefix)}
    if of_student and not any(_layer_of(part, own, '') for part in of_student):
        open_model, head = split_end(teacher)
        with contextlib.suppress(UnsupportedError):  # the stock student alone holds such a teacher
            twin = twin or with_copies(fold(open_model, teacher.name))
        kept = {layer.name for layer in twin.layers} if twin else set()
        folded = {layer.name for layer in teacher.model.layers if is_batch_norm(layer)} - kept
        # The stock student keeps its batch norms, under the teacher's names.
        if twin and not any(_layer_of(part, folded, prefix) for part in of_student):
            twin = with_head(twin, head if with_end else None)
            return twin, twin.output, prefix
    else:
        prefix = ''
    return teacher.model, (teacher.model if with_end else split_end(teacher)[0]).output, prefix


def _outputs_by_layer(model):
    """The output of each layer by its name; layers that are used more than once are left out."""
    outputs, seen = {}, set()
    for node in nodes(model):
        name = node.layer.name
        if name in seen:
            outputs.pop(name, None)
        else:
            outputs[name] = node.outputs
        seen.add(name)
    return outputs


def _layer_of(part, layers, prefix):
    """The layer that a part of a tensor's name is of: the longest name that fits, or None."""
    if not part.startswith(prefix):
        return None
    part = part[len(prefix) :]
    pieces = part.split('/')
    for count in range(len(pieces) - 1, 0, -1):
        name = '/'.join(pieces[:count])
        if name in layers:
            return name
    return None


def _quantized_ends(model):
    """The tensors of the input and the output that have the scales, behind and before floats."""
    graph = model.subgraphs[0]
    first, last = graph.inputs[0], graph.outputs[0]
    readers = [op for op in graph.operators if first in op.inputs]
    if len(readers) == 1 and op_name(model, readers[0]) == 'QUANTIZE':
        first = readers[0].outputs[0]
    maker = next((op for op in graph.operators if last in op.outputs), None)
    if maker is not None and op_name(model, maker) in ('QUANTIZE', 'DEQUANTIZE'):
        last = maker.inputs[0]
    return first, last


def _title(names, model):
    """What people know an op by: a convolution's name, not that of the ReLU behind it."""
    weighted = {layer.name for layer in model.layers if layer.weights}
    return next((name for name in names if name in weighted), names[0])


def _same_shape(tensor, output):
    """Whether both have the same shape but for the batch and sides of 1."""
    own, other = ([n for n in list(shape)[1:] if n != 1] for shape in (tensor.shape, output.shape))
    return own == other
