"""How the ranges of weights and activations are chosen: extremes or squared error.

Pure NumPy on kernels and on histograms of activations. Grids are those of TensorFlow's fused
fake-quantization: narrow and symmetric for weights, nudged so that zero is exact for activations.

Usage: limits = weight_ranges(kernel, 4, 'mse')
       low, high = activation_range(histogram, 4, 'mse', nonnegative=True)
"""

import math

import numpy as np

from zscgan_tf.errors import UserError
from zscgan_tf.student.grids import quantize, weight_levels

# Fractions of the largest |w| that are tried, the largest first: it wins where errors are equal.
WEIGHT_FRACTIONS = np.arange(100, 4, -1, dtype=np.float32) / np.float32(100)
# Fine near the extremes, where 8 bits choose; coarse down to 1 %, where outliers lead. Within 0.5 %
# of the least error at all widths, measured on bell-shaped, exponential and clipped values.
ACTIVATION_FRACTIONS = np.float32([*np.linspace(1, 0.4, 61), *np.geomspace(0.4, 0.01, 81)[1:]])
SEARCH_ROUNDS = 3
# An 8-bit step is at least 16 bins: what lies within a bin is not seen by the search.
BINS = 4096
# Images of another kind than those that set a range reach further. Asked with images and blends of
# generators of the class loss and of the BNS loss alone, a margin of a tenth is best at 4, 6 and 8
# bits (of none, 0.1, 0.2 and 0.35).
MARGIN = 1.1
# Larger batches of values are thinned out before they are counted.
COUNTED_VALUES = 2**22


def weight_ranges(kernel: np.ndarray, bits: int, estimator: str) -> np.ndarray:
    """The largest absolute weight m that each output channel's grid represents.

    The grid is symmetric and narrow: step m / (2^(bits-1) - 1), as many levels on either side of
    zero; at 2 bits -m, 0, m.

    Args:
        kernel: float array, [..., channels]; a depthwise kernel [h, w, c, m] as [h, w, c * m].
        bits: 2 to 8.
        estimator: 'minmax' (the largest |w|), or 'mse', the m with the smallest squared error of
            the channel.

    Returns:
        float32, [channels]; 0 where a channel is all zero.
    """
    kernel = np.asarray(kernel, np.float32)
    weights = kernel.reshape(-1, kernel.shape[-1])  # [N, channels]
    magnitudes = np.abs(weights)
    largest = magnitudes.max(axis=0)
    if estimator == 'minmax':
        return largest
    levels = np.float32(weight_levels(bits))
    best, least = largest, np.full(largest.shape, np.inf, np.float32)
    for fraction in WEIGHT_FRACTIONS:
        limits = largest * fraction
        steps = np.where(limits > 0, limits / levels, np.float32(1))
        # The grid is symmetric: magnitudes give the same errors as weights.
        rounded = np.minimum(np.rint(magnitudes / steps), levels) * steps
        error = np.square(magnitudes - rounded).sum(axis=0)
        best = np.where(error < least, limits, best)
        least = np.minimum(error, least)
    return best


class Histogram:
    """The values of one activation tensor over many batches, in `BINS` bins.

    Two passes over the same images: `see_range` for all batches, then `count` for all of them.
    Exact zeros, often most of a ReLU's values, are left out: every grid represents them.

    Attributes:
        low, high: extremes of all values seen and of zero, low <= 0 <= high.
        counts: [BINS], number of values that are not zero.
        sums: [BINS], their sums: a bin stands for its mean, so that many equal values (a ReLU6's
            6) stay where they are.
    """

    def __init__(self):
        self.low = 0.0
        self.high = 0.0
        self.counts = np.zeros(BINS, np.int64)
        self.sums = np.zeros(BINS, np.float64)

    def see_range(self, values: np.ndarray) -> None:
        """Widens the range to a batch of values; all of them are looked at.

        Raises:
            UserError: values that are not finite.
        """
        low, high = float(np.min(values)), float(np.max(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UserError(
                'An activation is not finite: look at the images that ranges are set from, and at '
                "the teacher's weights."
            )
        self.low, self.high = min(self.low, low), max(self.high, high)

    def count(self, values: np.ndarray) -> None:
        """Counts a batch of values, [..., C]; what lies outside the range counts at its end.

        Of more than `COUNTED_VALUES` values each k-th one is counted, k prime to C, so that all
        channels take part.
        """
        if self.low == self.high:
            return  # all zero
        values = np.asarray(values, np.float32)
        channels = values.shape[-1] if values.ndim else 1
        values = values.reshape(-1)
        stride = -(-values.size // COUNTED_VALUES)
        while math.gcd(stride, channels) > 1:
            stride += 1
        values = values[::stride]
        values = np.clip(values[values != 0], self.low, self.high)
        places = (values.astype(np.float64) - self.low) * (BINS / (self.high - self.low))
        places = np.minimum(places.astype(np.int32), BINS - 1)
        self.counts += np.bincount(places, minlength=BINS)
        self.sums += np.bincount(places, values, minlength=BINS)

    def means_and_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The filled bins: mean value and number of values, float64, [filled] each, ascending."""
        filled = self.counts > 0
        return self.sums[filled] / self.counts[filled], self.counts[filled].astype(np.float64)


def activation_range(
    histogram: Histogram, bits: int, estimator: str, nonnegative: bool
) -> tuple[float, float]:
    """The range that one activation tensor's grid of 2^bits levels covers.

    Args:
        histogram: a `Histogram` that has counted.
        bits: 2 to 8.
        estimator: 'minmax' (the extremes), or 'mse', the smallest expected squared error of the
            grid, nudged as TensorFlow nudges it.
        nonnegative: whether it stands behind a ReLU: low is 0 and only high is chosen.

    Returns:
        (low, high) with low <= 0 <= high and low < high; of an all-zero tensor (0, 1), whose step
        is as good as any.
    """
    low, high = (0.0 if nonnegative else histogram.low), histogram.high
    values, counts = histogram.means_and_counts()
    if low == high:
        return 0.0, 1.0
    if estimator == 'minmax' or not len(values):
        return low, high
    return _least_error_range(low, high, values, counts, bits)


def with_margin(low: float, high: float, histogram: Histogram) -> tuple[float, float]:
    """A range of least error, wider by `MARGIN`, but not beyond the extremes of all values."""
    low = min(low, max(MARGIN * low, histogram.low))
    return low, max(high, min(MARGIN * high, histogram.high))


def logits_range(logits: np.ndarray, bits: int, independent: bool = False) -> tuple[float, float]:
    """The range of the logits that costs least of eq. 4's cross-entropy.

    Small differences decide which class comes first, so a fine step matters more than the size of
    the largest logits. A range of least squared error would be wide enough for these.

    Args:
        logits: [N, K], float values; of a single unit z, [N, 1], those of (0, z).
        bits: 2 to 8.
        independent: whether they are of K independent labels, whose cross-entropies add up.

    Returns:
        (low, high) with low <= 0 < high.
    """
    logits = logits[..., None] if independent else logits  # [N, K, 1], each of (0, z)
    least, most = min(0.0, float(logits.min())), max(0.0, float(logits.max()))
    if most == 0.0:
        return (least, 1e-3 * -least) if least else (0.0, 1.0)
    targets = np.exp(_log_softmax(logits))

    def cost(low, high):
        return -np.mean(np.sum(targets * _log_softmax(quantize(logits, low, high, bits)), axis=-1))

    shares = np.arange(1, 21) / 20
    candidates = [(least * a, most * b) for a in shares for b in shares]
    return min(candidates, key=lambda candidate: cost(*candidate))


def _log_softmax(logits):
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def _least_error_range(low, high, values, counts, bits):
    """Scales both ends together, then one at a time."""

    def best(lows, highs):
        lows, highs = np.broadcast_arrays(lows, highs)
        errors = np.empty(len(lows))
        for i in range(len(lows)):
            residues = quantize(values, lows[i], highs[i], bits) - values
            errors[i] = counts @ np.square(residues)
        least = np.argmin(errors)
        return float(lows[least]), float(highs[least])

    lows, highs = low * ACTIVATION_FRACTIONS, high * ACTIVATION_FRACTIONS
    chosen = best(lows, highs)
    if low == 0 or high == 0:
        return chosen
    for _ in range(SEARCH_ROUNDS):
        before = chosen
        # An end may go to zero altogether: of a swish, which has little below it.
        chosen = best(np.append(lows, [chosen[0], 0]), np.float32(chosen[1]))
        # Where low went to zero high must not.
        chosen = best(np.float32(chosen[0]), np.append(highs, chosen[1]))
        if chosen == before:
            break
    return chosen
