"""Grids of one step for what is added: the integer sum is then exact.

A residual addition rounds twice, its branch and its sum. Where both operands and the sum have the
same step, the sum is a whole number of steps already and is not rounded: only the branch's error is
left. The price: every tensor of such an addition has the largest step of them. A convolution that
only selects channels, as the shortcuts of CIFAR's ResNets do, is exact in the same way.

An addition is joined where that lowers the sum of squared steps over all tensors that are rounded.
"""

import itertools

import numpy as np
import tf_keras

from zscgan_tf.student.graph import Graph
from zscgan_tf.student.student import Student

layers = tf_keras.layers


def align_additions(student: Student) -> None:
    """Widens the ranges of activations until additions that gain by it are exact.

    Args:
        student: a `Student` of kind 'folded' whose ranges are set.
    """
    ranges = student.ranges()
    steps = {}
    for name, each in ranges.items():
        low, high = each.ends()
        steps[name] = (high - low) / (2**each.bits - 1)
    sums = [
        (result, operands)
        for result, operands in _exact_sums(student.twin)
        if {result, *operands} <= ranges.keys()
        and len({ranges[name].bits for name in (result, *operands)}) == 1
    ]
    for name, step in joined_steps(steps, sums).items():
        if step > steps[name]:
            _widen(ranges[name], step)


def joined_steps(steps: dict[str, float], sums: list[tuple[str, list[str]]]) -> dict[str, float]:
    """The steps that make the sum of squared steps of all rounded tensors smallest.

    Args:
        steps: dict of tensor name -> the step that its range asks for.
        sums: list of (result, operands): not rounded where result and operands have one step.

    Returns:
        Dict of tensor name -> step, none smaller than asked for.
    """

    def joined(chosen):
        group = {name: {name} for name in steps}
        for index in chosen:
            result, operands = sums[index]
            members = set().union(*(group[name] for name in (result, *operands)))
            group |= dict.fromkeys(members, members)
        return {name: max(steps[member] for member in group[name]) for name in steps}

    def cost(chosen):
        exact = {sums[index][0] for index in chosen}
        return sum(step**2 for name, step in joined(chosen).items() if name not in exact)

    # One at a time, or two that share a tensor: one alone may not pay where both do.
    tensors = [{result, *operands} for result, operands in sums]
    changes = [{index} for index in range(len(sums))]
    for pair in itertools.combinations(range(len(sums)), 2):
        if tensors[pair[0]] & tensors[pair[1]]:
            changes.append(set(pair))
    best, least = frozenset(), cost(())
    while True:
        candidates = [best ^ change for change in changes]
        costs = [cost(candidate) for candidate in candidates]
        if not costs or min(costs) >= least * (1 - 1e-9):
            return joined(best)
        least = min(costs)
        best = candidates[costs.index(least)]


def _exact_sums(twin):
    """(result, operands), names of layers, of additions and of selections of channels."""
    graph = Graph(twin)
    for layer in twin.layers:
        if isinstance(layer, layers.Add) or _selects_channels(layer):
            operands = {graph.origin(source).name for source in graph.sources[layer.name]}
            result = layer if graph.is_quantized(layer) else graph.readers[layer.name][0]
            yield result.name, sorted(operands)


def _selects_channels(layer):
    """Whether each output is one of a convolution's inputs, or zero."""
    if not isinstance(layer, layers.Conv2D) or layer.groups > 1:
        return False
    kernel, bias = layer.get_weights()
    return bool(
        kernel.shape[:2] == (1, 1)
        and np.isin(kernel, (0, 1)).all()
        and (kernel.sum(axis=2) <= 1).all()
        and not bias.any()
    )


def _widen(each, step):
    """Gives a `Range` another step, zero staying at its share of the levels."""
    levels = 2**each.bits - 1
    low, high = each.ends()
    below = round(-low / (high - low) * levels)
    each.assign(-below * step, (levels - below) * step)
