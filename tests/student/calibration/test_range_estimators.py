"""Ranges against brute force, and the nudged grid against TensorFlow's op."""

import numpy as np
import pytest
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.student.calibration import range_estimators as ranges
from zscgan_tf.student.calibration.range_estimators import (
    Histogram,
    activation_range,
    weight_ranges,
    with_margin,
)
from zscgan_tf.student.grids import nudge, quantize

BITS = range(2, 9)
ESTIMATORS = ('minmax', 'mse')


def histogram_of(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.see_range(batch)
    for batch in batches:
        histogram.count(batch)
    return histogram


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weight_error(weights, limit, bits):
    """Squared error of TensorFlow's own narrow fake-quantization."""
    quantized = tf.quantization.fake_quant_with_min_max_vars(
        weights, -limit, limit, num_bits=bits, narrow_range=True
    )
    return float(np.square(quantized.numpy().astype(np.float64) - weights).sum())


def activation_error(values, low, high, bits):
    return float(np.square(quantize(values, low, high, bits).astype(np.float64) - values).sum())


# The nudged grid


@pytest.mark.parametrize('bits', BITS)
def test_quantize_is_tensorflows_op(bits):
    rng = np.random.default_rng(bits)
    for _ in range(10):
        low, high = -np.float32(rng.exponential()), np.float32(rng.exponential())
        low *= rng.integers(0, 2)
        values = rng.normal(0, 2, 2000).astype(np.float32)
        ours = quantize(values, low, high, bits)
        op = tf.quantization.fake_quant_with_min_max_vars(values, low, high, num_bits=bits).numpy()
        step = nudge(low, high, bits)[2]
        # Values right between two levels may go either way: the op multiplies and adds at once.
        different = np.abs(ours - op) > step * 1e-3
        assert different.mean() < 2e-3
        np.testing.assert_allclose(ours, op, atol=float(step) * 1.001)


@pytest.mark.parametrize('bits', BITS)
def test_nudged_range_is_tensorflows(bits):
    rng = np.random.default_rng(bits)
    for _ in range(20):
        low, high = -np.float32(rng.exponential()), np.float32(rng.exponential())
        nudged_low, nudged_high, step = nudge(low, high, bits)
        ends = tf.quantization.fake_quant_with_min_max_vars(
            [-1e3, 0.0, 1e3], low, high, num_bits=bits
        ).numpy()
        np.testing.assert_allclose(ends, [nudged_low, 0, nudged_high], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(nudged_high - nudged_low, (2**bits - 1) * step, rtol=1e-5)
        assert nudged_low <= 0 <= nudged_high


def test_nudge_takes_arrays():
    lows, highs = np.array([-1.0, -0.3, 0.0]), np.array([1.0, 2.0, 5.0])
    together = nudge(lows, highs, 4)
    for i in range(3):
        np.testing.assert_array_equal([part[i] for part in together], nudge(lows[i], highs[i], 4))


# Weights


def test_minmax_weights():
    kernel = normal(3, 3, 4, 5)
    limits = weight_ranges(kernel, 8, 'minmax')
    assert limits.shape == (5,) and limits.dtype == np.float32
    np.testing.assert_array_equal(limits, np.abs(kernel).max(axis=(0, 1, 2)))


@pytest.mark.parametrize('bits', BITS)
def test_mse_weights_against_brute_force(bits):
    kernel = normal(40, 3, seed=bits) * np.float32([0.1, 1, 30])
    for channel, limit in enumerate(weight_ranges(kernel, bits, 'mse')):
        weights = kernel[:, channel]
        largest = np.abs(weights).max()
        error = weight_error(weights, limit, bits)
        tried = [weight_error(weights, largest * f / 100, bits) for f in range(5, 101)]
        assert error <= min(tried) * (1 + 1e-4)
        assert error <= weight_error(weights, largest, bits) * (1 + 1e-6)


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('estimator', ['minmax', 'mse'])
def test_weights_on_a_grid_give_that_grid(bits, estimator):
    levels = 2 ** (bits - 1) - 1
    integers = np.random.default_rng(0).integers(-levels, levels + 1, (200, 4))
    integers[0] = levels
    steps = np.float32([1e-4, 0.3, 1, 50])
    limits = weight_ranges((integers * steps).astype(np.float32), bits, estimator)
    np.testing.assert_allclose(limits, levels * steps, rtol=1e-6)


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_all_zero_channels(bits, estimator):
    kernel = normal(3, 3, 4, 3)
    kernel[..., 1] = 0
    with np.errstate(all='raise'):
        limits = weight_ranges(kernel, bits, estimator)
    assert limits[1] == 0 and np.all(limits[[0, 2]] > 0)
    alone = weight_ranges(kernel[..., [0, 2]], bits, estimator)
    np.testing.assert_allclose(limits[[0, 2]], alone, rtol=1e-6)


def test_a_channel_with_one_weight_left():
    kernel = np.zeros((5000, 1), np.float32)
    kernel[7] = -0.5
    for estimator in ESTIMATORS:
        assert weight_ranges(kernel, 4, estimator) == 0.5


def test_an_outlier_among_weights():
    kernel = normal(100_000, 1)
    kernel[0] = 100
    assert weight_ranges(kernel, 4, 'minmax') == 100
    assert weight_ranges(kernel, 4, 'mse') < 10


# Activations


def test_histogram_counts_all_but_zeros():
    batches = [normal(8, 5, 5, 6, seed=seed) for seed in range(3)]
    for batch in batches:
        batch[batch < -0.5] = 0
    histogram = histogram_of(*batches)
    values = np.concatenate([batch.reshape(-1) for batch in batches])
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    edges = np.linspace(histogram.low, histogram.high, ranges.BINS + 1)
    np.testing.assert_array_equal(histogram.counts, np.histogram(values[values != 0], edges)[0])
    np.testing.assert_allclose(histogram.sums.sum(), values.sum(), rtol=1e-4)


def test_histogram_thins_out_large_batches_over_all_channels(monkeypatch):
    monkeypatch.setattr(ranges, 'COUNTED_VALUES', 1000)
    values = np.broadcast_to(np.arange(1, 17, dtype=np.float32), (500, 16))
    histogram = histogram_of(values)
    means, counts = histogram.means_and_counts()
    np.testing.assert_allclose(means, np.arange(1, 17))
    assert 0.9 * counts.max() < counts.min() and counts.sum() <= 1000


def test_values_outside_the_seen_range_count_at_its_ends():
    histogram = Histogram()
    histogram.see_range(np.float32([-1, 1]))
    histogram.count(np.float32([-1.5, 1.5]))
    assert histogram.counts[0] == histogram.counts[-1] == 1
    assert histogram.sums.sum() == 0


@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('nonnegative', [True, False])
def test_constant_tensors(estimator, nonnegative):
    with np.errstate(all='raise'):
        zeros = histogram_of(np.zeros((4, 8), np.float32))
        assert activation_range(zeros, 4, estimator, nonnegative) == (0, 1)
        sixes = histogram_of(np.full((4, 8), 6, np.float32))
        low, high = activation_range(sixes, 4, estimator, nonnegative)
    assert low == 0
    assert activation_error(np.float32([6]), low, high, 4) < 1e-9
    minus = histogram_of(np.full((4, 8), -6, np.float32))
    low, high = activation_range(minus, 4, estimator, False)
    assert low < high == 0
    assert activation_range(minus, 4, estimator, True) == (0, 1)


@pytest.mark.parametrize('bits', BITS)
def test_mse_of_nonnegative_activations_against_brute_force(bits):
    values = np.maximum(normal(64, 512, seed=bits), 0)
    low, high = activation_range(histogram_of(values), bits, 'mse', True)
    assert low == 0 < high <= values.max()
    tried = [activation_error(values, 0, values.max() * f, bits) for f in np.linspace(0.05, 1, 200)]
    error = activation_error(values, low, high, bits)
    assert error <= min(tried) * 1.01
    assert error <= activation_error(values, 0, values.max(), bits) * 1.001


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('shape', ['normal', 'skewed', 'swish'])
def test_mse_of_signed_activations_against_brute_force(bits, shape):
    values = normal(40, 50, seed=bits)
    if shape == 'skewed':
        values = np.exp(values) - 1
    elif shape == 'swish':
        values = values * 2 / (1 + np.exp(-values * 2))
    histogram = histogram_of(values)
    low, high = activation_range(histogram, bits, 'mse', False)
    assert histogram.low <= low <= 0 <= high <= histogram.high and low < high
    fractions = np.linspace(0, 1, 31)
    tried = [
        activation_error(values, values.min() * a, values.max() * b, bits)
        for a in fractions
        for b in fractions[1:]
    ]
    error = activation_error(values, low, high, bits)
    assert error <= min(tried) * 1.1
    assert error <= activation_error(values, values.min(), values.max(), bits) * 1.001


@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('nonnegative', [True, False])
def test_an_outlier_among_activations(estimator, nonnegative):
    values = normal(1_000_000)
    if nonnegative:
        values = np.abs(values)
    values[123] = 100
    low, high = activation_range(histogram_of(values), 4, estimator, nonnegative)
    assert (low == 0) == nonnegative
    assert high == 100 if estimator == 'minmax' else 1 < high < 6


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('zero_level', [0, 1])
def test_activations_on_a_grid_give_that_grid(bits, estimator, zero_level):
    integers = np.random.default_rng(0).integers(0, 2**bits, 20_000) - zero_level
    values = (integers * 0.3).astype(np.float32)
    chosen = activation_range(histogram_of(values), bits, estimator, zero_level == 0)
    np.testing.assert_allclose(chosen, (values.min(), values.max()), rtol=1e-5)


def test_the_margin_ends_at_the_extremes():
    histogram = histogram_of(np.float32([-2, 8]))
    cases = [
        ((-1, 4), (-1.1, 4.4)),
        ((-1.9, 7.9), (-2, 8)),
        ((0, 8), (0, 8)),
        ((-2, 0), (-2, 0)),
        ((0, 9), (0, 9)),  # no range becomes smaller
    ]
    for (low, high), expected in cases:
        np.testing.assert_allclose(with_margin(low, high, histogram), expected, rtol=1e-6)
    zeros = histogram_of(np.zeros((4, 8), np.float32))
    assert with_margin(*activation_range(zeros, 4, 'mse', False), zeros) == (0, 1)


# Mistakes


def test_values_that_are_not_finite_are_refused():
    histogram = histogram_of(normal(10))
    with pytest.raises(UserError, match='not finite'):
        histogram.see_range(np.float32([0, np.nan]))


def cross_entropy(logits, quantized):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return -np.mean(
        np.sum(p * np.log(np.exp(quantized) / np.exp(quantized).sum(1, keepdims=True)), 1)
    )


@pytest.mark.parametrize('bits', (4, 8))
def test_logits_range_costs_less_than_the_extremes(bits):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 10)).astype(np.float32)
    logits[:100, 3] += 20  # sure answers
    low, high = ranges.logits_range(logits, bits)
    assert logits.min() <= low <= 0 < high <= logits.max()
    costs = [
        cross_entropy(logits.astype(float), ranges.quantize(logits, *ends, bits).astype(float))
        for ends in ((low, high), (logits.min(), logits.max()))
    ]
    assert costs[0] < costs[1]
    assert high < 15


def test_logits_range_of_independent_labels():
    """That of least sigmoid cross-entropy, found here by trying the same shares."""
    logits = np.random.default_rng(0).normal(0, 1, (300, 4)).astype(np.float32)
    logits[:20, 2] += 30  # sure answers

    def cost(low, high):
        z = ranges.quantize(logits, low, high, 4).astype(np.float64)
        p = 1 / (1 + np.exp(-np.float64(logits)))
        return np.mean(np.sum(np.logaddexp(0, z) - p * z, axis=1))

    found = ranges.logits_range(logits, 4, independent=True)
    shares = np.arange(1, 21) / 20
    least = min(cost(logits.min() * a, logits.max() * b) for a in shares for b in shares)
    assert cost(*found) == pytest.approx(least, rel=1e-6)
    assert found[1] < logits.max() * 0.9


def test_logits_range_of_a_single_unit_and_of_negative_logits():
    logits = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    low, high = ranges.logits_range(logits, 8)
    assert low < 0 < high
    low, high = ranges.logits_range(-np.abs(logits), 8)
    assert low < 0 < high
    assert ranges.logits_range(np.zeros((3, 4), np.float32), 8) == (0.0, 1.0)
