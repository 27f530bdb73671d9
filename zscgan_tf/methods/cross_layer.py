"""Equalizes the weights of convolutions that follow each other, without a change of the function.

Cross-layer equalization and the absorption of high biases (Nagel et al., "Data-Free Quantization
through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721, section 4.1) are the
first steps of `methods.dfq`. They work on a float student (`student.folding`).
"""

import dataclasses

import numpy as np
import tf_keras

from zscgan_tf.methods.moments import Moments, negates, per_input, sum_of_inputs
from zscgan_tf.student.folding import Norm
from zscgan_tf.student.graph import Graph, computes, has_kernel, unused_name
from zscgan_tf.teacher.graphs import call_copy, rebuild

layers = tf_keras.layers

# Pairs are equalized in turn until no scale differs from 1 by more, or so many times.
CONVERGED = 1e-4
MOST_SWEEPS = 100
# Of a kernel's largest magnitude: below it, a channel computes nothing, or nobody reads it.
_NOTHING = 1e-5
# Values below so many deviations under the mean are rare: what lies below is a constant.
ABSORBED_BELOW = 3

# What may stand between the two convolutions of a pair, beside ReLU. It leaves channels apart, and
# scales with what it is given.
_BETWEEN = (
    *(layers.ZeroPadding2D, layers.Cropping2D, layers.MaxPooling2D),
    *(layers.AveragePooling2D, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D),
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two convolutions of which the second alone reads what the first gives.

    Attributes:
        first, second: the layers of the float student.
        between: the layers between them, in order.
    """

    first: tf_keras.layers.Layer
    second: tf_keras.layers.Layer
    between: list[tf_keras.layers.Layer]

    @property
    def clips(self) -> list[str]:
        """The names of the layers between that subtract from a value where channels are clipped."""
        return [layer.name for layer in self.between if negates(layer)]

    @property
    def is_rectified(self) -> bool:
        """Whether a ReLU stands between them."""
        return any(isinstance(layer, layers.ReLU) for layer in self.between)

    @property
    def is_padded(self) -> bool:
        """Whether the second one reads zeros beyond the border of what the first gives."""
        kernel_pads = self.second.padding == 'same' and self.second.kernel_size != (1, 1)
        return kernel_pads or any(isinstance(layer, layers.ZeroPadding2D) for layer in self.between)


def without_relu6(model: tf_keras.Model) -> tuple[tf_keras.Model, list[str]]:
    """Step 1: ReLU in the place of ReLU6, which does not scale with its input.

    A ReLU6 between two constants stays: it is a part of a hard sigmoid.

    Args:
        model: a folded model.

    Returns:
        A new model with the same weights and names, and the names of the layers that were replaced.
    """
    graph = Graph(model)
    found = []
    for layer in model.layers:
        if isinstance(layer, layers.ReLU) and layer.max_value is not None:
            around = graph.sources[layer.name] + graph.readers[layer.name]
            if not all(has_kernel(other) and not other.trainable for other in around):
                found.append(layer.name)

    def relu(layer, x):
        return layers.ReLU(name=layer.name)(x)

    return _with_other(model, found, relu), found


def with_clips(model: tf_keras.Model) -> tuple[tf_keras.Model, list[str]]:
    """Step 1 without a change of the function: clipped at 6 in a form that can be scaled.

    Scaled, a channel is clipped at its own value (section 4.1: piecewise linear activations). There
    is no such integer operation, but b - relu(b - relu(x)) is min(relu(x), b): two constant
    convolutions, whose biases b have a value for each channel.

    Args:
        model: a folded model.

    Returns:
        A new model with the same weights, and the names of the ReLU6 that were replaced: those
        between two convolutions that can be equalized.
    """
    between = {layer.name for pair in find_pairs(without_relu6(model)[0]) for layer in pair.between}
    found = [
        layer.name
        for layer in model.layers
        if layer.name in between and isinstance(layer, layers.ReLU) and layer.max_value is not None
    ]
    names = {layer.name for layer in model.layers}

    def clipped(layer, x):
        name = layer.name
        x = layers.ReLU(name=unused_name(f'{name}_rectified', names))(x)
        x = _subtracted(x, layer.max_value, unused_name(f'{name}_left_by', names))
        x = layers.ReLU(name=unused_name(f'{name}_left', names))(x)
        return _subtracted(x, layer.max_value, name)

    return _with_other(model, found, clipped), found


def limit_clips(twin: tf_keras.Model, pairs: list[Pair], moments: dict[str, Moments]) -> None:
    """Clips no channel above the range of its tensor, where it is clipped in any case.

    So all three tensors of a clip have one range, and rounding the second and the third is exact.

    Args:
        twin: a float student of `with_clips`; its biases are changed.
        pairs: of `find_pairs`.
        moments: of the twin's layers.
    """
    for pair in pairs:
        if len(pair.clips) == 2 and isinstance(pair.between[0], layers.ReLU):
            highest = np.float32(moments[pair.between[0].name].high.max())
            for layer in map(twin.get_layer, pair.clips):
                kernel, bias = layer.get_weights()
                layer.set_weights([kernel, np.minimum(bias, highest)])


def find_pairs(twin: tf_keras.Model) -> list[Pair]:
    """The pairs of convolutions between which channels can be scaled, in the order of the layers.

    Between the two stand only ReLU, clips, padding, cropping and pooling, each with one reader.
    """
    graph, pairs = Graph(twin), []
    for first in filter(computes, twin.layers):
        layer, between = first, []
        while len(graph.readers[layer.name]) == 1:
            (layer,) = graph.readers[layer.name]
            if computes(layer):
                pairs.append(Pair(first, layer, between))
                break
            if not _scales_with_input(layer):
                break
            between.append(layer)
    return pairs


def equalize(
    twin: tf_keras.Model, norms: dict[str, Norm], pairs: list[Pair]
) -> tuple[dict[str, Norm], int]:
    """Step 2: cross-layer equalization (section 4.1, equation 11).

    Channel i of the first convolution is divided by s_i = sqrt(r1_i / r2_i), where r1_i and r2_i
    are the largest magnitudes among its weights in the first and in the second convolution. What
    the second convolution makes of it is multiplied by s_i. The model computes what it did.

    Args:
        twin: the float student; its weights are changed.
        norms: of its convolutions.
        pairs: of `find_pairs`.

    Returns:
        The norms of the scaled channels, and how many times all pairs were taken in turn.
    """
    if not pairs:
        return norms, 0
    weights, norms = _weights(twin), dict(norms)
    used = [_are_used(*_magnitudes(pair, weights)) for pair in pairs]
    clips = [pair.clips for pair in pairs]
    sweeps, largest_change = 0, np.inf
    while largest_change >= CONVERGED and sweeps < MOST_SWEEPS:
        sweeps, largest_change = sweeps + 1, 0.0
        for pair, of_pair, clips_of_pair in zip(pairs, used, clips, strict=True):
            (kernel, bias), second = weights[pair.first.name], weights[pair.second.name]
            scales = scales_of(*_magnitudes(pair, weights), of_pair)
            columns = scales.reshape(kernel.shape[2:]) if _is_depthwise(pair.first) else scales
            weights[pair.first.name] = [kernel / columns, bias / scales]
            second[0] = second[0] * per_input(pair.second, scales)
            for clip in clips_of_pair:
                weights[clip][1] = weights[clip][1] / scales
            if norm := norms.get(pair.first.name):
                norms[pair.first.name] = Norm(norm.mean / scales, norm.deviation / scales)
            largest_change = max(largest_change, np.abs(scales - 1).max())
    _set_weights(twin, weights)
    return norms, sweeps


def scales_of(first: np.ndarray, second: np.ndarray, used: np.ndarray) -> np.ndarray:
    """What a pair's channels are divided by: s = sqrt(first / second), which makes both equal.

    A channel without weights on one side, such as a dead one, would get an endless bias. It is
    scaled only where its weights on the other side are larger than those of all used channels, and
    then to their size: otherwise the kernel's one range would be made by weights that do nothing.

    Args:
        first, second: r1 and r2, [C].
        used: which channels have weights on both sides, bool, [C].
    """
    if not used.any():
        return np.ones(len(used))
    first, second = (np.maximum(r, 1e-200) for r in (first, second))
    unread = np.maximum(1, first / first[used].max())
    dead = np.minimum(1, second[used].max() / second)
    return np.where(used, np.sqrt(first / second), unread * dead)


def absorb_biases(
    twin: tf_keras.Model, norms: dict[str, Norm], pairs: list[Pair], absorb_padded: bool
) -> tuple[dict[str, Norm], int]:
    """Step 3: high biases move into the next convolution (section 4.1.3, equations 14 and 15).

    Where a channel is above c = max(0, mean - 3 deviations) in nearly all images, a ReLU hands c
    on. The next convolution then reads c less, and has what it made of c in its own bias.

    Args:
        twin: the float student; its weights are changed.
        norms: of its convolutions.
        pairs: of `find_pairs`; those without a ReLU between are left as they are.
        absorb_padded: also where the second convolution reads zeros at the border. Less c, these
            would have to be -c.

    Returns:
        The norms of the lowered channels, and how many channels were lowered.
    """
    weights, norms, count = _weights(twin), dict(norms), 0
    for pair in pairs:
        norm = norms.get(pair.first.name)
        if norm is None or not pair.is_rectified or (pair.is_padded and not absorb_padded):
            continue
        if len(pair.clips) % 2:  # turned around, less becomes more
            continue
        moved = np.maximum(0, norm.mean - ABSORBED_BELOW * norm.deviation)
        for clip in pair.clips:  # both at the same value
            moved = np.minimum(moved, weights[clip][1])
        for clip in pair.clips:
            weights[clip][1] -= moved
        norms[pair.first.name] = Norm(norm.mean - moved, norm.deviation)
        weights[pair.first.name][1] -= moved
        kernel, bias = weights[pair.second.name]
        bias += sum_of_inputs(pair.second, kernel * per_input(pair.second, moved))
        count += int(np.count_nonzero(moved))
    _set_weights(twin, weights)
    return norms, count


def _with_other(model, names, make):
    """A copy of a model with `make(layer, x)` in the place of layers of these names."""
    inputs = tf_keras.Input(model.input_shape[1:], name=model.input_names[0], dtype='float32')

    def copied(node, new_inputs):
        if node.layer.name in names:
            return make(node.layer, *new_inputs)
        return call_copy(node.layer, new_inputs)

    output = rebuild(model, {id(model.input): inputs}, copied)
    return tf_keras.Model(inputs, output, name=model.name)


def _subtracted(x, value, name):
    """value - x, as a constant convolution."""
    constants = {
        'depthwise_initializer': tf_keras.initializers.Constant(-1.0),
        'bias_initializer': tf_keras.initializers.Constant(float(value)),
    }
    return layers.DepthwiseConv2D(1, **constants, trainable=False, name=name)(x)


def _scales_with_input(layer):
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None
    return isinstance(layer, _BETWEEN) or _is_average(layer) or negates(layer)


def _is_average(layer):
    """Whether a constant convolution is an average over positions, as pooling is in the student."""
    if not _is_depthwise(layer) or layer.trainable:
        return False
    kernel, bias = layer.get_weights()
    return bool(not bias.any() and np.allclose(kernel, 1 / np.prod(layer.kernel_size)))


def _is_depthwise(layer):
    return isinstance(layer, layers.DepthwiseConv2D)


def _weights(twin) -> dict[str, list[np.ndarray]]:
    """[kernel, bias] of the convolutions of a float student in float64, by their names."""
    convolutions = filter(has_kernel, twin.layers)
    return {layer.name: [np.float64(w) for w in layer.get_weights()] for layer in convolutions}


def _set_weights(twin, weights):
    for name, values in weights.items():
        twin.get_layer(name).set_weights([np.float32(value) for value in values])


def _largest_of_output(layer, kernel):
    """The largest magnitude of the weights of each output channel, [out]."""
    if _is_depthwise(layer):
        return np.abs(kernel).max((0, 1)).reshape(-1)
    return np.abs(kernel).max((0, 1, 2))


def _largest_of_input(layer, kernel):
    """The largest magnitude of the weights that read each input channel, [in]."""
    if _is_depthwise(layer):
        return np.abs(kernel).max((0, 1, 3))
    # [in / groups, groups, out / groups]: an input is read by its own group alone.
    by_group = np.abs(kernel).max((0, 1)).reshape(kernel.shape[2], layer.groups, -1)
    return by_group.max(2).T.reshape(-1)


def _magnitudes(pair, weights):
    """r1 and r2 of a pair, [C] each: of the weights that give a channel, and of those that read it.

    They are the largest magnitudes among them.
    """
    first, second = weights[pair.first.name][0], weights[pair.second.name][0]
    return _largest_of_output(pair.first, first), _largest_of_input(pair.second, second)


def _are_used(first, second):
    """Which channels both convolutions of a pair have weights for: bool, [C]."""
    return (first > _NOTHING * first.max()) & (second > _NOTHING * second.max())
