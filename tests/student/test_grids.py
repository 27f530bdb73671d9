"""Fake quantization against NumPy: values, LSQ's gradients, and what export makes of them."""

import numpy as np
import pytest
import tensorflow as tf

from zscgan_tf.student import grids as fake

RNG = np.random.default_rng(0)


def round_weights(w, m, bits):
    levels = 2 ** (bits - 1) - 1
    step = m / levels
    return np.clip(np.round(w / step), -levels, levels) * step


def gradients(function, *values):
    variables = [tf.constant(v, tf.float32) for v in values[:-1]]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        y = function(*variables)
        loss = tf.reduce_sum(y * values[-1])
    return [g.numpy() for g in tape.gradient(loss, variables)]


@pytest.mark.parametrize('bits', range(2, 9))
def test_weights_are_rounded_as_numpy_rounds(bits):
    w = RNG.normal(size=(3, 3, 4, 5)).astype(np.float32)
    m = np.float32([0.5, 1, 2, 3, 0.1])
    q = fake.quantize_weights(tf.constant(w), tf.constant(m), bits).numpy()
    np.testing.assert_allclose(q, round_weights(w, m, bits), atol=1e-5)
    assert all(len(np.unique(q[..., c])) <= 2**bits - 1 for c in range(5))


@pytest.mark.parametrize('bits', (2, 4, 8))
def test_gradient_of_a_weight_range_is_lsqs(bits):
    w = RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)
    m = np.float32([0.5, 1.5, 2.5, 6])
    upstream = RNG.normal(size=w.shape).astype(np.float32)
    dw, dm = gradients(lambda w, m: fake.quantize_weights(w, m, bits), w, m, upstream)
    levels = 2 ** (bits - 1) - 1
    inside = np.abs(w) <= m
    # Esser et al., eq. 3, for the step m / levels; then the scale of their section 2.2.
    step_slope = np.where(inside, np.round(w / m * levels) - w / m * levels, levels * np.sign(w))
    scale = 1 / np.sqrt(w[..., 0].size * levels)
    expected = (step_slope / levels * upstream).sum((0, 1, 2)) * scale
    np.testing.assert_allclose(dw, upstream * inside, rtol=1e-5)
    np.testing.assert_allclose(dm, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('bits', (2, 4, 8))
@pytest.mark.parametrize('low', (0.0, -1.0))
def test_gradient_of_an_activation_range_is_lsqs(bits, low):
    x = RNG.normal(size=(4, 5, 5, 3)).astype(np.float32)
    step = 3 / (2**bits - 1)
    low = np.float32(np.round(low / step) * step)  # zero is on the grid: nothing is nudged
    high = np.float32(low + 3)
    upstream = RNG.normal(size=x.shape).astype(np.float32)
    dx, dlow, dhigh = gradients(
        lambda x, a, b: fake.quantize_activations(x, a, b, bits), x, low, high, upstream
    )
    below, above = x < low, x > high
    inside = ~below & ~above
    error = (np.round((x - low) / step) * step + low - x) / 3 * inside * upstream
    scale = 1 / np.sqrt(x[0].size * (2**bits - 1))
    np.testing.assert_allclose(dx, upstream * inside, rtol=1e-5)
    expected = scale * ((upstream * above).sum() + error.sum())
    np.testing.assert_allclose(dhigh, expected, rtol=1e-3, atol=1e-4)
    expected = scale * ((upstream * below).sum() - error.sum())
    np.testing.assert_allclose(dlow, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('bits', (2, 4, 8))
@pytest.mark.parametrize('low, high', [(None, 1.3), (0.0, 1.3), (-0.7, 1.1)])
def test_gradient_between_fixed_ranges_is_the_fused_ops(bits, low, high):
    x = RNG.normal(size=(4, 5, 5, 3)).astype(np.float32)
    x[0, 0, 0] = [high, 0, 0 if low is None else low]
    x = np.maximum(x, 0) if low is None else x
    upstream = RNG.normal(size=x.shape).astype(np.float32)
    (found,) = gradients(
        lambda x: fake.quantize_activations(x, low, high, bits, learned=False), x, upstream
    )
    expected, _, _ = tf.quantization.fake_quant_with_min_max_vars_gradient(
        upstream, x, low or 0.0, high, num_bits=bits
    )
    np.testing.assert_array_equal(found, expected)


def test_ranges_of_zero_stay_finite():
    w = tf.zeros([3, 3, 2, 2])
    dw, dm = gradients(lambda w, m: fake.quantize_weights(w, m, 4), w, [0.0, 1.0], np.ones(w.shape))
    assert np.all(np.isfinite(dw)) and np.all(np.isfinite(dm))
    x = tf.zeros([1, 2])
    found = gradients(
        lambda x, a, b: fake.quantize_activations(x, a, b, 4), x, 0.0, 0.0, np.ones((1, 2))
    )
    assert all(np.all(np.isfinite(g)) for g in found)


@pytest.mark.parametrize('bits', range(2, 9))
def test_stored_weights_are_the_trained_ones(bits):
    w = RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)
    m = np.float32([0.5, 1.5, 2.5, 6])
    snapped = fake.quantize_weights(tf.constant(w), tf.constant(m), bits)
    stored = fake.stored_weights(snapped, m, bits).numpy()
    np.testing.assert_allclose(stored, snapped, atol=1e-5)


@pytest.mark.parametrize('bits', range(2, 9))
@pytest.mark.parametrize('nonnegative', (False, True))
def test_stored_activations_are_the_trained_ones(bits, nonnegative):
    x = RNG.normal(0, 2, size=(64, 50)).astype(np.float32)
    low, high = (0.0, 3.1) if nonnegative else (-1.3, 2.2)
    x = np.maximum(x, 0) if nonnegative else x
    trained = fake.quantize_activations(tf.constant(x), low, high, bits).numpy()
    stored = fake.stored_activations(tf.constant(x), low, high, bits, nonnegative).numpy()
    np.testing.assert_allclose(stored, trained, atol=1e-5)
    assert len(np.unique(np.round(stored, 4))) <= 2**bits


@pytest.mark.parametrize('bits', range(2, 9))
def test_nudge_is_tensorflows(bits):
    for low, high in RNG.uniform(0.1, 5, (20, 2)):
        found_low, found_high, _ = fake.nudge(-low, high, bits)
        ends = tf.quantization.fake_quant_with_min_max_vars(
            tf.constant([-100.0, 100.0]), np.float32(-low), np.float32(high), num_bits=bits
        )
        np.testing.assert_allclose(ends, [found_low, found_high], rtol=1e-4)
