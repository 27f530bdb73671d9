"""Channel equalization: channels that share a range are scaled to make the best of its levels.

After cross-layer equalization (Nagel et al., Data-free quantization, section 4.1), which evens out
the ranges of weights. Here each channel of weights has a range of its own, and activations gain.

A channel of what a ReLU or an addition gives can be multiplied by s, where the kernels that read it
are divided by s: the logits stay as they are. Rounding errors in that channel then matter 1/s as
much; but the tensor's range has to hold s times its values, or all its channels have a larger step.

It is off unless asked for: scales that even out the peaks of generated images clip images of other
kinds, in which channels reach further that are small in these (README, `small`).

The scales of channels c that tensors t share, such as those of a residual stream, minimize

    sum over t of  max over c of (s_c peak_tc)^2  *  sum over c of sensitivity_tc / s_c^2
"""

import collections

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from zscgan_tf.student.folding import weight_layers
from zscgan_tf.student.graph import KEEPING_CHANNELS
from zscgan_tf.student.student import as_logits

layers = tf_keras.layers

# Layers f with f(s x) = s f(x) for a positive s a channel; so that in- and outputs share scales.
HOMOGENEOUS = (
    *KEEPING_CHANNELS,
    layers.Add,
    layers.AveragePooling2D,
    layers.GlobalAveragePooling2D,
)
# No channel is scaled further from the others: a peak on few images says little.
LARGEST_SCALE = 5.0
# The maximum over channels, made smooth.
_NORM = 8
_ROUNDS = 200


def equalize(student, batches, total=None):
    """Scales the channels of a student, and of its float twin, before its ranges are set.

    Channels stay that can't be scaled: of the input and the output, and in front of or behind
    anything but convolutions, ReLUs without a cap, additions, padding and pooling.

    Args:
        student: a `Student` of kind 'folded', with its twin's weights.
        batches: a function that returns an iterable of batches of pixels.
        total: number of images, for the progress bar.
    """
    twin = student.twin
    group_of = _groups(twin)
    scaled = {}
    for wrapper in student.model.layers:
        output = getattr(getattr(wrapper, 'quantize_config', None), 'output', None)
        if output is not None:
            group = group_of(twin.get_layer(wrapper.layer.name).output)
            if group is not None:
                scaled[wrapper.layer.name] = group, output.bits
    if not scaled:
        return
    tensors = collections.defaultdict(list)
    observed = _observe(student, scaled, batches, total)
    for (group, bits), (peaks, sensitivities) in zip(scaled.values(), observed, strict=True):
        step = 1 / (2**bits - 1)
        tensors[group].append((peaks, sensitivities * step**2))
    scales = {group: best_scales(*zip(*found, strict=True)) for group, found in tensors.items()}
    for layer in weight_layers(twin):
        kernel, bias = layer.get_weights()
        before, after = scales.get(group_of(layer.input)), scales.get(group_of(layer.output))
        if before is not None:
            kernel = kernel / before[:, None]
        if after is not None:
            # Of a convolution [1, out], of a depthwise one [in, multiplier].
            kernel, bias = kernel * after.reshape(-1, kernel.shape[3]), bias * after
        layer.set_weights([kernel, bias])
        wrapper = student.model.get_layer(f'quant_{layer.name}')
        wrapper._weight_vars[0][0].assign(kernel)
        wrapper.layer.bias.assign(bias)


def _groups(twin):
    """A function of tensors of the twin: what group of the same scales each is in, or None."""
    parents = {}

    def find(key):
        while parents.setdefault(key, key) != key:
            key = parents[key]
        return key

    fixed = [id(twin.input), id(twin.output)]
    for layer in twin.layers[1:]:
        inputs = [id(x) for x in tf.nest.flatten(layer.input)]
        if _scales_by_channel(layer):
            continue
        if isinstance(layer, HOMOGENEOUS) or _is_relu(layer) or _rescales_by_channel(layer):
            for x in inputs:
                parents[find(x)] = find(id(layer.output))
        else:
            fixed += [*inputs, id(layer.output)]
    fixed = {find(key) for key in fixed}

    def group_of(tensor):
        group = find(id(tensor))
        return None if group in fixed else group

    return group_of


def _scales_by_channel(layer):
    """Whether a layer's kernel can take up scales of its inputs and its outputs."""
    is_kernel = isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))
    return is_kernel and layer.trainable and getattr(layer, 'groups', 1) == 1


def _rescales_by_channel(layer):
    """Whether a layer is a constant convolution of each channel, such as an average pool."""
    is_constant = isinstance(layer, layers.DepthwiseConv2D) and not layer.trainable
    return is_constant and layer.depth_multiplier == 1 and not layer.bias.numpy().any()


def _is_relu(layer):
    return isinstance(layer, layers.ReLU) and layer.max_value is None and not layer.threshold


def _observe(student, names, batches, total):
    """The peaks and the sensitivities of each layer's output, [2, C], but for constant factors.

    Both are of blends of two images: of others the teacher's answer is too sure. Peaks: the highest
    absolute value in each batch, summed over the batches. Sensitivities: the diagonal of the Fisher
    information of the answer, E[(d log p(k | x) / d output)^2] with k drawn from p.
    """
    twin = student.twin
    model = tf_keras.Model(twin.input, [twin.output, *(twin.get_layer(n).output for n in names)])

    @tf.function
    def look(pixels, index):
        pixels = (pixels + tf.roll(pixels, 1, 0)) / 2
        with tf.GradientTape() as tape:
            inputs = student.input_spec.to_inputs(pixels)
            tape.watch(inputs)
            outputs, *tensors = model(inputs, training=False)
            logits = as_logits(outputs)
            drawn = tf.random.stateless_categorical(logits, 1, [0, index])[:, 0]
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(drawn, logits)
        gradients = tape.gradient(loss, tensors)
        return [
            (tf.reduce_max(tf.abs(x), [0, 1, 2]), tf.reduce_sum(g * g, [0, 1, 2]))
            for x, g in zip(tensors, gradients, strict=True)
        ]

    sums = [0.0] * len(names)
    with tqdm.tqdm(total=total, desc='equalization', unit=' images', disable=None) as bar:
        for index, pixels in enumerate(batches()):
            found = look(tf.convert_to_tensor(pixels), tf.constant(index))
            sums = [s + np.stack(pair) for s, pair in zip(sums, found, strict=True)]
            bar.update(len(pixels))
    return sums


def best_scales(peaks, sensitivities):
    """The scales of channels that tensors share; see the formula above.

    Args:
        peaks, sensitivities: sequences of [C] arrays, one a tensor.

    Returns:
        [C], within a factor of `LARGEST_SCALE` of 1, about which they lie. A channel that is always
        zero, or never matters, has the scale 1.
    """
    peaks, sensitivities = np.float64(peaks), np.float64(sensitivities)
    used = (peaks.max(axis=0) > 0) & (sensitivities.max(axis=0) > 0)
    scales = np.ones(peaks.shape[1])
    if not used.any():
        return scales
    peaks, sensitivities, s = peaks[:, used], sensitivities[:, used], scales[used]
    for _ in range(_ROUNDS):
        held = (s * peaks) ** _NORM
        sums = held.sum(axis=1, keepdims=True)
        ranges = sums ** (2 / _NORM)
        noise = ranges * sensitivities / s**2
        costs = noise.sum(axis=1, keepdims=True) * held / np.maximum(sums, 1e-300)
        # In balance, more of either would cost as much as it saves. The exponent: the ratio falls
        # with about s^(2 + _NORM).
        s = s * (noise.sum(axis=0) / costs.sum(axis=0)) ** (1 / (2 + _NORM))
        s = s / np.exp(np.mean(np.log(s)))
        s = np.clip(s, 1 / LARGEST_SCALE, LARGEST_SCALE)
    scales[used] = s
    return scales
