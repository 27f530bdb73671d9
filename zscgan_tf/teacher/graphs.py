"""Walks the graphs of functional tf_keras models, and rebuilds them with other nodes."""

import collections.abc

import tensorflow as tf
import tf_keras


def is_symbolic(value: object) -> bool:
    """Whether the value is a tensor of a functional graph."""
    return hasattr(value, '_keras_history')


def nodes(model: tf_keras.Model) -> list:
    """The nodes of a flat functional model but its input's, each after those that it reads."""
    levels = sorted(model._nodes_by_depth.items(), reverse=True)
    return [node for _, level in levels for node in level if not node.is_input]


def leading_nodes(model: tf_keras.Model) -> collections.abc.Iterator[object]:
    """The nodes that a flat model begins with, as long as one node alone reads the last output."""
    x, readers = model.input, {}
    for node in nodes(model):
        for y in node.keras_inputs:
            readers.setdefault(id(y), []).append(node)
    while len(readers.get(id(x), ())) == 1:
        (node,) = readers[id(x)]
        yield node
        x = node.outputs


def trace_back(x: tf.Tensor, passing: tuple[type, ...]) -> tuple[list, list]:
    """Walks back from a tensor through layers of some classes.

    Returns:
        The nodes of such layers, and the first others on each way; in the order of the walk.
    """
    passed, others, seen, pending = [], [], set(), [x]
    while pending:
        node = node_of(pending.pop())
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.layer, passing):
            passed.append(node)
            pending.extend(node.keras_inputs)
        else:
            others.append(node)
    return passed, others


def nodes_in_order(outputs: object, known: collections.abc.Container) -> list:
    """The nodes that `outputs` need, each after those that it reads; depth first.

    Args:
        outputs: a structure of symbolic tensors, of tf_keras or Keras 3.
        known: ids of tensors at which the walk stops.
    """
    order, seen = [], set()
    pending = [(x, False) for x in reversed(tf.nest.flatten(outputs))]
    while pending:
        x, ready = pending.pop()
        if not is_symbolic(x) or id(x) in known:
            continue
        node = node_of(x)
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            pending.append((x, True))
            pending.extend((y, False) for y in reversed(tf.nest.flatten(called(node)[1:])))
    return order


def node_of(x: object) -> object:
    """The node that a symbolic tensor is an output of."""
    layer, node_index, _ = x._keras_history
    return layer._inbound_nodes[node_index]


def called(node: object) -> tuple[object, tuple, dict]:
    """The layer or operation that a node of either Keras calls, and its arguments."""
    if hasattr(node, 'operation'):  # Keras 3
        return node.operation, node.arguments.args, node.arguments.kwargs
    return node.layer, tuple(node.call_args), node.call_kwargs


def rebuild(
    model: tf_keras.Model, values: dict, make: collections.abc.Callable[[object, list], object]
) -> object:
    """Builds a flat model's graph anew, node by node, from given tensors to its output.

    Args:
        model: a flat functional model of one output.
        values: new tensors by the id of the tensors of `model` that they stand for: of its input,
            or of tensors behind which it is rebuilt. The other new tensors are added.
        make: a function of a node of `model` and the list of its new inputs that returns the node's
            new output.

    Returns:
        The new output tensor.
    """
    needed = set(map(id, nodes_in_order(model.output, set(values))))
    for node in nodes(model):
        if id(node) in needed:
            inputs = [values[id(x)] for x in node.keras_inputs]
            values[id(node.outputs)] = make(node, inputs)
    return values[id(model.output)]


def call_again(node: object, inputs: list) -> object:
    """What a node of a flat model gives for other input tensors, with its further arguments."""
    new = dict(zip(map(id, node.keras_inputs), inputs, strict=True))
    args, kwargs = tf.nest.map_structure(
        lambda value: new.get(id(value), value), (tuple(node.call_args), node.call_kwargs)
    )
    return node.layer(*args, **kwargs)


def call(layer: object, inputs: list) -> object:
    """What a layer gives for a list of its input tensors."""
    return layer(inputs if len(inputs) > 1 else inputs[0])


def call_copy(layer: object, inputs: list) -> object:
    """What a copy of a layer, with its weights, gives for a list of its input tensors."""
    copy = type(layer).from_config(layer.get_config())
    output = call(copy, inputs)
    copy.set_weights(layer.get_weights())
    return output
