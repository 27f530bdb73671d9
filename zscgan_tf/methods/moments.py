"""Moments of every tensor of a float student, told from its batch norms alone: no image is needed.

A batch norm stores the mean and the deviation of what it gives, channel by channel. From there both
are propagated through the graph, each channel taken for a Gaussian variable that is independent of
the others (Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction",
ICCV 2019, arXiv 1906.04721, section 4.2.1, appendix C). This is a part of `methods.dfq`.

    moments = propagate(twin, norms, image_range)
    moments['conv2d'].mean, moments['conv2d'].variance
"""

import collections.abc
import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UnsupportedError
from zscgan_tf.student.folding import Norm
from zscgan_tf.student.graph import Graph, activation_name, has_kernel
from zscgan_tf.teacher.layers import ConstantChannel, HardSwish, Reshape

layers = tf_keras.layers

# Ranges end so many deviations from the mean (Nagel et al., section 5, as remembered).
DEVIATIONS = 6
# Points of the Gauss-Hermite quadrature, for functions whose moments have no closed form.
_POINTS = 64
# Points between the ends of a range at which a function is asked for its least and largest value.
_PROBES = 65

_KEPT = (
    *(layers.MaxPooling2D, layers.AveragePooling2D, layers.GlobalAveragePooling2D),
    *(layers.GlobalMaxPooling2D, layers.ZeroPadding2D, layers.Cropping2D, layers.UpSampling2D),
)
_FUNCTIONS = {'sigmoid': tf.sigmoid, 'tanh': tf.tanh}


@dataclasses.dataclass(frozen=True)
class Moments:
    """What is known of a tensor's values over all images. Arrays are float64.

    Attributes:
        mean, variance: of each channel, [C], or of every position, if these differ: arrays that
            broadcast with the tensor's shape without the batch.
        low, high: where the values end, as far as ranges are concerned; of the same shape.
        known: whether they follow from batch norms alone, not from what was assumed of the images.
    """

    mean: np.ndarray
    variance: np.ndarray
    low: np.ndarray
    high: np.ndarray
    known: bool = True

    def by_channel(self) -> 'Moments':
        """The same of each channel at any position, [C]."""
        if self.mean.ndim == 1:
            return self
        axes = tuple(range(self.mean.ndim - 1))
        return Moments(
            self.mean.mean(axes),
            self.variance.mean(axes) + self.mean.var(axes),
            self.low.min(axes),
            self.high.max(axes),
            self.known,
        )

    def mapped(self, function: collections.abc.Callable[[np.ndarray], np.ndarray]) -> 'Moments':
        """The same of values that are moved, with `function` applied to each of the four arrays."""
        arrays = (self.mean, self.variance, self.low, self.high)
        return Moments(*map(function, arrays), self.known)


def gaussian(mean: np.ndarray, variance: np.ndarray, known: bool = True) -> Moments:
    """The moments of Gaussian values, which end at six deviations from their mean."""
    reach = DEVIATIONS * np.sqrt(variance)
    return Moments(mean, variance, mean - reach, mean + reach, known)


def propagate(
    model: tf_keras.Model, norms: dict[str, Norm], image_range: tuple[float, float]
) -> dict[str, Moments]:
    """The moments of the output of every layer of a folded model.

    Zeros that pad an image are not counted. An average keeps the variance of what it averages, as
    an upper bound. Of the model's input nothing is known: its values are assumed to be uniform
    over their range. That matters only where no batch norm stands between.

    Args:
        model: a folded model (`student.folding`).
        norms: the `Norm` of each convolution that a batch norm became part of, by its name.
        image_range: (low, high) of the model's input.

    Returns:
        Dict of a layer's name -> `Moments`.

    Raises:
        UserError: a layer whose moments are not known how to be computed, by name.
    """
    graph, moments = Graph(model), {}
    for layer in model.layers:
        sources = graph.sources[layer.name]
        if isinstance(layer, layers.InputLayer):
            low, high = (np.full(model.input_shape[-1], end, np.float64) for end in image_range)
            found = Moments((low + high) / 2, (high - low) ** 2 / 12, low, high, known=False)
        elif layer.name in norms:
            norm = norms[layer.name]
            found = gaussian(norm.mean, np.square(norm.deviation))
        elif _is_swish(layer, sources, graph):
            (x,) = graph.sources[_gate(sources).name]
            found = _of_function(moments[x.name], tf.nn.silu)
        elif isinstance(layer, layers.ReLU):
            found = _rectified(layer, moments[sources[0].name], graph)
        else:
            found = _behind(layer, [moments[source.name] for source in sources])
        moments[layer.name] = found
    return moments


def rectified(
    mean: np.ndarray, variance: np.ndarray, high: float | np.ndarray = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of Gaussian values behind a ReLU: min(max(x, 0), high).

    With h = high, A = -m / d, B = (h - m) / d, Z = Phi(B) - Phi(A), z = phi(A) - phi(B):
    E[y] = m Z + d z + h (1 - Phi(B)) and E[y^2] = (m^2 + v) Z + 2 m d z + v (A phi(A) - B phi(B)) +
    h^2 (1 - Phi(B)) (arXiv 1906.04721, appendix C).

    Args:
        mean, variance: arrays; a variance of 0 stands for a constant.
        high: where the values are clipped, 6 of a ReLU6; one value or one a channel.
    """
    d = np.sqrt(np.where(variance > 0, variance, 1.0))
    a, b = -mean / d, (high - mean) / d
    z_share, density = _cdf(b) - _cdf(a), _pdf(a) - _pdf(b)
    first = mean * z_share + d * density
    second = (mean**2 + d**2) * z_share + 2 * mean * d * density + d**2 * a * _pdf(a)
    if np.all(np.isfinite(high)):
        first += high * (1 - _cdf(b))
        second += high**2 * (1 - _cdf(b)) - d**2 * b * _pdf(b)
    first = np.where(variance > 0, np.clip(first, 0, high), np.clip(mean, 0, high))
    # Where nearly nothing is left of a channel, rounding may leave less than nothing.
    return first, np.where(variance > 0, np.maximum(second - first**2, 0), 0.0)


def per_input(layer: tf_keras.layers.Layer, values: np.ndarray) -> np.ndarray:
    """Values of a convolution's input channels, [C], as an array that broadcasts with its kernel.

    Kernels are [h, w, C / groups, out], of depthwise convolutions [h, w, C, m].
    """
    if isinstance(layer, layers.DepthwiseConv2D):
        return values[:, None]
    groups = layer.groups
    return np.repeat(values.reshape(groups, -1).T, layer.filters // groups, axis=1)


def sum_of_inputs(layer: tf_keras.layers.Layer, kernel: np.ndarray) -> np.ndarray:
    """What a kernel's weights add up to for each output channel, [out] or [C m]."""
    is_depthwise = isinstance(layer, layers.DepthwiseConv2D)
    return kernel.sum((0, 1) if is_depthwise else (0, 1, 2)).reshape(-1)


def _behind(layer, inputs):
    """The moments of a layer's output from those of its inputs."""
    x, *others = inputs
    known = all(each.known for each in inputs)
    if has_kernel(layer):
        return _convolved(layer, x.by_channel())
    if isinstance(layer, _KEPT):
        return x.by_channel()
    if isinstance(layer, (Reshape, layers.Flatten)):
        before, after = layer.input_shape[1:], layer.output_shape[1:]
        return x.mapped(lambda values: np.broadcast_to(values, before).reshape(after))
    if isinstance(layer, layers.Permute):
        axes, before = [dim - 1 for dim in layer.dims], layer.input_shape[1:]
        return x.mapped(lambda values: np.broadcast_to(values, before).transpose(axes))
    if isinstance(layer, ConstantChannel):
        ends = [np.append(each, layer.value) for each in (x.mean, x.low, x.high)]
        return Moments(ends[0], np.append(x.variance, 0.0), *ends[1:], x.known)
    if isinstance(layer, layers.LeakyReLU):
        return _leaky(x, float(layer.alpha))
    if isinstance(layer, HardSwish):
        return _of_function(x, lambda values: values * tf.nn.relu6(values + 3) / 6)
    if activation_name(layer) in _FUNCTIONS:
        return _of_function(x, _FUNCTIONS[activation_name(layer)])
    if isinstance(layer, layers.Concatenate) and layer.axis in (-1, len(layer.output_shape) - 1):
        parts = [each.by_channel() for each in inputs]
        names = ('mean', 'variance', 'low', 'high')
        joined = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
        return Moments(*joined, known)
    if len(others) == 1:
        (y,) = others
        if y is x and isinstance(layer, layers.Add):
            return gaussian(2 * x.mean, 4 * x.variance, known)
        if y is x and isinstance(layer, layers.Multiply):
            return _of_function(x, tf.square)
        if isinstance(layer, layers.Add):
            return gaussian(x.mean + y.mean, x.variance + y.variance, known)
        if isinstance(layer, layers.Subtract):
            return gaussian(x.mean - y.mean, x.variance + y.variance, known)
        if isinstance(layer, layers.Multiply):
            variance = x.variance * y.variance + x.variance * y.mean**2 + y.variance * x.mean**2
            return gaussian(x.mean * y.mean, variance, known)
    raise UnsupportedError(
        f"layer '{layer.name}' ({type(layer).__name__}): --method=dfq cannot tell what means and "
        f'deviations it gives',
        'pass --method=ptq, which sets ranges on images.',
    )


def negates(layer: tf_keras.layers.Layer) -> bool:
    """Whether a layer is the constant convolution b - x, as `cross_layer.with_clips` has them."""
    if not isinstance(layer, layers.DepthwiseConv2D) or layer.trainable:
        return False
    return layer.kernel_size == (1, 1) and bool(np.all(layer.get_weights()[0] == -1))


def _rectified(layer, x, graph):
    """Behind a ReLU; where b - y is taken next, and rectified, y above b counts as b."""
    high, readers = layer.max_value or np.inf, graph.readers[layer.name]
    if len(readers) == 1 and negates(readers[0]):
        behind = graph.readers[readers[0].name]
        if behind and all(isinstance(each, layers.ReLU) for each in behind):
            high = np.minimum(high, np.float64(readers[0].get_weights()[1]))
    mean, variance = rectified(x.mean, x.variance, high)
    # Of what is never below 0 the ReLU leaves all: a rectified one need be no Gaussian.
    same = (x.low >= 0) & (x.high <= high)
    mean, variance = np.where(same, x.mean, mean), np.where(same, x.variance, variance)
    return Moments(mean, variance, np.clip(x.low, 0, high), np.clip(x.high, 0, high), x.known)


def _convolved(layer, x):
    """A convolution without a batch norm, its inputs independent of each other."""
    kernel, bias = (np.float64(weight) for weight in layer.get_weights())
    mean = sum_of_inputs(layer, kernel * per_input(layer, x.mean)) + bias
    variance = sum_of_inputs(layer, kernel**2 * per_input(layer, x.variance))
    if layer.trainable:
        return gaussian(mean, variance, x.known)
    # Constants: a rescaling, an average, a choice of channels. Ends stay where they were.
    low, high = (per_input(layer, end) for end in (x.low, x.high))
    above, below = np.maximum(kernel, 0), np.minimum(kernel, 0)
    if isinstance(layer, layers.DepthwiseConv2D):  # neighbours are not independent
        variance = sum_of_inputs(layer, kernel) ** 2 * np.repeat(x.variance, kernel.shape[-1])
    return Moments(
        mean,
        variance,
        sum_of_inputs(layer, above * low + below * high) + bias,
        sum_of_inputs(layer, above * high + below * low) + bias,
        x.known,
    )


def _leaky(x, slope):
    """relu(x) - slope relu(-x)."""
    (above, variance_above), (below, variance_below) = (
        rectified(mean, x.variance) for mean in (x.mean, -x.mean)
    )
    squares = variance_above + above**2 + slope**2 * (variance_below + below**2)
    mean = above - slope * below
    low, high = (np.where(end < 0, slope * end, end) for end in (x.low, x.high))
    return Moments(mean, np.maximum(squares - mean**2, 0), low, high, x.known)


def _of_function(x, function):
    """A smooth function of Gaussian values, by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    values = function(x.mean + np.sqrt(x.variance) * _first_axis(points, x)).numpy()
    weights = _first_axis(weights / weights.sum(), x)
    mean = (weights * values).sum(0)
    variance = (weights * (values - mean) ** 2).sum(0)
    share = _first_axis(np.linspace(0, 1, _PROBES), x)
    probes = function(x.low + (x.high - x.low) * share).numpy()
    return Moments(mean, variance, probes.min(0), probes.max(0), x.known)


def _first_axis(values, x):
    return values.reshape(-1, *[1] * x.mean.ndim)


def _is_swish(layer, sources, graph):
    """Whether a layer is x sigmoid(x), whose factors are anything but independent."""
    gate = _gate(sources) if isinstance(layer, layers.Multiply) else None
    return gate is not None and graph.sources[gate.name][0] in sources


def _gate(sources):
    """The sigmoid among the factors of a product, or None."""
    return next((source for source in sources if activation_name(source) == 'sigmoid'), None)


def _pdf(x):
    return np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)


def _cdf(x):
    return tf.math.erfc(-np.asarray(x) / np.sqrt(2)).numpy() / 2
