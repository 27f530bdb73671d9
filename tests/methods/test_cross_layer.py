"""Equalization, absorption and clips leave the function of a float student."""

import dataclasses

import numpy as np
import pytest
import tf_keras

from tests.conftest import randomize
from tests.small_mobile_nets import (
    PIXELS,
    assert_same,
    batch_norms,
    block,
    folded,
    mobile_net,
    odd_scales,
    outputs,
    with_true_moments,
)
from zscgan_tf.methods import cross_layer
from zscgan_tf.methods.moments import propagate
from zscgan_tf.student.folding import fold_with_norms
from zscgan_tf.student.graph import computes
from zscgan_tf.teacher.flattening.flatten import flatten

layers = tf_keras.layers


def branched():
    """Groups, a multiplier, pooling, padding, a batch norm of its own, an addition."""
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(8, 3, padding='same'))
    x = layers.ZeroPadding2D()(layers.AveragePooling2D()(x))
    x = block(x, layers.Conv2D(8, 3, groups=2))
    x = y = block(layers.MaxPooling2D(2, 1)(x), layers.DepthwiseConv2D(1, depth_multiplier=2))
    x = layers.Add()([block(x, layers.Conv2D(16, 1)), y])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(block(x, layers.Conv2D(16, 1, groups=4))))
    return with_true_moments(randomize(tf_keras.Model(images, x)))


@pytest.mark.parametrize('make, count', [(mobile_net, 5), (branched, 4)])
def test_equalization_leaves_the_function_and_makes_both_sides_equal(make, count):
    model = odd_scales(make())
    twin, norms, pairs = folded(model)
    assert len(pairs) == count
    before = cross_layer._weights(twin)
    used = [cross_layer._are_used(*cross_layer._magnitudes(pair, before)) for pair in pairs]
    assert not all(map(np.all, used))  # those of gamma 0 are not
    equalized, sweeps = cross_layer.equalize(twin, norms, pairs)
    assert 1 < sweeps < cross_layer.MOST_SWEEPS
    assert_same(twin, outputs(model))
    weights, different = cross_layer._weights(twin), 0
    for pair, of_pair in zip(pairs, used, strict=True):
        first, second = cross_layer._magnitudes(pair, weights)
        np.testing.assert_allclose(first[of_pair], second[of_pair], rtol=1e-3)
        first, second = cross_layer._magnitudes(pair, before)
        different += np.abs(first - second).max() > 0.1
        # The norms still say what the layer gives.
        values = outputs(tf_keras.Model(twin.input, twin.get_layer(pair.first.name).output))
        norm = equalized[pair.first.name]
        np.testing.assert_allclose(values.mean((0, 1, 2)), norm.mean, atol=1e-3 * values.std())
        deviation = values.std((0, 1, 2))
        np.testing.assert_allclose(deviation, norm.deviation, atol=1e-3 * values.std())
    assert different


def test_the_largest_weights_of_a_channel_by_hand():
    """Against loops over the channels of every kind of convolution."""
    twin, _, _ = folded(branched())
    for layer in filter(computes, twin.layers):
        kernel = np.float64(layer.get_weights()[0])
        inputs = layer.input_shape[-1]
        gives = np.zeros(layer.output_shape[-1])
        reads = np.zeros(inputs)
        for c in range(inputs):
            for k in range(len(gives)):
                if isinstance(layer, layers.DepthwiseConv2D):
                    if k // layer.depth_multiplier != c:
                        continue
                    weights = kernel[:, :, c, k % layer.depth_multiplier]
                else:
                    size, outputs = kernel.shape[2], len(gives) // layer.groups
                    if c // size != k // outputs:
                        continue
                    weights = kernel[:, :, c % size, k]
                gives[k] = max(gives[k], np.abs(weights).max())
                reads[c] = max(reads[c], np.abs(weights).max())
        np.testing.assert_array_equal(cross_layer._largest_of_output(layer, kernel), gives)
        np.testing.assert_array_equal(cross_layer._largest_of_input(layer, kernel), reads)


def test_weights_of_dead_channels_do_not_make_the_range():
    """A channel without weights on one side is scaled to the size of the others, no further."""
    first, second = np.array([1e-12, 4.0, 9.0, 1.0]), np.array([900.0, 1.0, 1.0, 1e-15])
    used = np.array([False, True, True, False])
    scales = cross_layer.scales_of(first, second, used)
    np.testing.assert_allclose(scales, [1 / 900, 2, 3, 1])
    assert np.all(cross_layer.scales_of(np.zeros(2), np.zeros(2), np.zeros(2, bool)) == 1)


@pytest.mark.parametrize('change', [lambda model: model, odd_scales])
@pytest.mark.parametrize('padding', ['valid', 'same'])
def test_absorption_leaves_the_function(padding, change):
    model = change(mobile_net(padding=padding))
    for norm in batch_norms(model):
        norm.beta.assign(norm.beta + 5)
    # With stored deviations of four times the true ones, no value is below mean - 3 deviations.
    with_true_moments(model, wider=16)
    expected = outputs(model)
    twin, norms, pairs = folded(model)
    lowered, count = cross_layer.absorb_biases(twin, norms, pairs, False)
    assert count > 10
    assert_same(twin, expected)
    for pair in pairs:
        moved = norms[pair.first.name].mean - lowered[pair.first.name].mean
        assert pair.is_padded == (padding == 'same' and 'depthwise' in pair.second.name)
        assert np.all(moved == 0) == pair.is_padded and np.all(moved >= 0)
        values = outputs(tf_keras.Model(twin.input, twin.get_layer(pair.first.name).output))
        mean = values.mean((0, 1, 2), dtype=np.float64)
        np.testing.assert_allclose(mean, lowered[pair.first.name].mean, atol=1e-3)


def test_nothing_is_absorbed_through_a_padding_layer():
    """Keras' MobileNets have one before strides of two."""
    images = layers.Input((8, 8, 3))
    x = layers.ZeroPadding2D()(block(images, layers.Conv2D(8, 1)))
    x = block(x, layers.DepthwiseConv2D(3, strides=2))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    model = randomize(tf_keras.Model(images, x))
    for norm in batch_norms(model):
        norm.beta.assign(norm.beta + 5)
    with_true_moments(model, wider=16)
    twin, norms, pairs = folded(model)
    assert [pair.is_padded for pair in pairs] == [True, False]
    assert cross_layer.absorb_biases(twin, norms, pairs[:1], False)[1] == 0
    assert_same(twin, outputs(model))


def test_as_much_is_absorbed_as_three_deviations_leave():
    twin, norms, pairs = folded(with_true_moments(mobile_net(padding='valid')))
    name = pairs[0].first.name
    mean, deviation = np.array([5.0, 2, 3.1, 0, 9, 1, 2.9, 3]), np.ones(8)
    norms = {**norms, name: dataclasses.replace(norms[name], mean=mean, deviation=deviation)}
    before = pairs[0].first.bias.numpy()
    lowered, count = cross_layer.absorb_biases(twin, norms, pairs[:1], False)
    moved = np.maximum(mean - 3 * deviation, 0)
    assert count == np.sum(moved > 0)
    np.testing.assert_allclose(before - pairs[0].first.bias.numpy(), moved, atol=1e-5)
    np.testing.assert_allclose(lowered[name].mean, mean - moved)


def test_absorption_into_padded_convolutions_is_wrong_at_the_border_alone():
    twin, norms, pairs = folded(with_true_moments(mobile_net()))
    first = pairs[0]
    raised = {
        first.first.name: dataclasses.replace(norms[first.first.name], deviation=np.zeros(8)),
    }
    bias = first.first.bias
    bias.assign_add(np.full(8, 50.0, np.float32))
    raised[first.first.name] = dataclasses.replace(
        raised[first.first.name], mean=norms[first.first.name].mean + 20
    )
    observer = tf_keras.Model(twin.input, first.second.output)
    before = outputs(observer, PIXELS[:4])
    _, count = cross_layer.absorb_biases(twin, raised, pairs[:1], True)
    assert count == 8
    difference = np.abs(outputs(observer, PIXELS[:4]) - before)
    assert difference[:, 1:-1, 1:-1].max() < 1e-4 * before.std()
    assert difference[:, 0].max() > 0.1 * before.std()


def test_relu6_becomes_relu_but_in_a_hard_sigmoid():
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(4, 1), 6.0)
    x = layers.Activation('hard_sigmoid')(layers.BatchNormalization()(layers.Conv2D(4, 1)(x)))
    twin, _ = fold_with_norms(flatten(randomize(tf_keras.Model(images, x))))
    new, replaced = cross_layer.without_relu6(twin)
    highs = [layer.max_value for layer in new.layers if isinstance(layer, layers.ReLU)]
    assert len(replaced) == 1 and highs == [None, 6.0]
    np.testing.assert_array_equal(outputs(new), outputs(twin))


def test_clips_leave_the_function_and_scale():
    model = odd_scales(mobile_net(high=1.0))
    flat = flatten(model)
    for layer in flat.layers:  # many values are clipped, of a ReLU6 too
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(layer.gamma * 5)
            layer.beta.assign(layer.beta + 3)
    for layer in flat.layers:
        layer.max_value = 6.0 if isinstance(layer, layers.ReLU) else None
    expected = outputs(flat)
    twin, norms = fold_with_norms(flat)
    plain, replaced = cross_layer.without_relu6(twin)
    assert np.abs(outputs(plain) - expected).max() > 0.1 * expected.std()
    twin, clipped = cross_layer.with_clips(twin)
    assert clipped == replaced and len(clipped) == 5
    assert_same(twin, expected, 1e-3)  # 6 - (6 - x) loses bits of x
    pairs = cross_layer.find_pairs(twin)
    norms, _ = cross_layer.equalize(twin, norms, pairs)
    assert_same(twin, expected, 1e-3)
    assert [len(pair.clips) for pair in pairs] == [2] * 5
    first, second = (twin.get_layer(name).get_weights()[1] for name in pairs[0].clips)
    assert np.ptp(first) > 1 and np.array_equal(first, second)

    # Its three tensors have one range, and nothing is rounded but once.
    cross_layer.limit_clips(twin, pairs, propagate(twin, norms, (0, 1)))
    moments = propagate(twin, norms, (0, 1))
    relu, _, left, last = (layer.name for layer in pairs[0].between)
    (high,) = {np.float32(moments[name].high.max()) for name in (relu, left, last)}
    assert np.float32(twin.get_layer(last).get_weights()[1].max()) == high
    clip = tf_keras.Model(twin.get_layer(relu).output, twin.get_layer(last).output)
    grid = high / 255 * np.random.default_rng(0).integers(0, 256, (1, 8, 8, 8))
    bias = np.float64(twin.get_layer(last).get_weights()[1])
    left_over = np.round(np.maximum(bias - grid, 0) / high * 255) / 255 * high
    found = np.round((bias - left_over) / high * 255)
    exact = np.round(np.float64(outputs(clip, np.float32(grid))) / high * 255)
    assert np.abs(found - exact).max() <= 1 and np.mean(found == exact) > 0.99


def test_nothing_is_absorbed_through_an_odd_number_of_negations():
    """Behind 2 - x, a lower x is a higher one; a clip is two negations more."""
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(8, 3, use_bias=False), 6.0)
    x = block(layers.Rescaling(-1.0, 2.0)(x), layers.Conv2D(6, 1))
    model = randomize(tf_keras.Model(images, layers.GlobalAveragePooling2D()(x)))
    for norm in batch_norms(model):
        norm.beta.assign(norm.beta + 5)
    with_true_moments(model, wider=0.01)
    expected = outputs(model)
    twin, norms = fold_with_norms(flatten(model))
    twin, _ = cross_layer.with_clips(twin)
    pairs = cross_layer.find_pairs(twin)
    assert [len(pair.clips) for pair in pairs] == [3]
    _, count = cross_layer.absorb_biases(twin, norms, pairs, False)
    assert count == 0
    assert_same(twin, expected, 1e-3)


def test_clips_and_absorption():
    """Clips are lowered by what a channel is lowered by."""
    model = mobile_net(high=6.0, padding='valid')
    for norm in batch_norms(model):
        norm.beta.assign(norm.beta + 5)
    with_true_moments(model, wider=16)
    twin, norms = fold_with_norms(flatten(model))
    twin, _ = cross_layer.with_clips(twin)
    pairs = cross_layer.find_pairs(twin)
    _, count = cross_layer.absorb_biases(twin, norms, pairs, False)
    assert count > 10
    assert_same(twin, outputs(model), 1e-4)
    (bias, other) = (twin.get_layer(name).get_weights()[1] for name in pairs[0].clips)
    assert np.array_equal(bias, other) and np.all((0 <= bias) & (bias < 6))


def test_a_negation_between_is_scaled_and_nothing_is_absorbed():
    images = layers.Input((8, 8, 3))
    x = layers.Rescaling(-1.0, 2.0)(block(images, layers.Conv2D(8, 3)))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(block(x, layers.Conv2D(8, 1))))
    model = randomize(tf_keras.Model(images, x))
    for norm in batch_norms(model):
        norm.beta.assign(norm.beta + 5)
    with_true_moments(model, wider=16)
    twin, norms, pairs = folded(model)
    assert [len(pair.clips) for pair in pairs] == [1, 0]
    norms, _ = cross_layer.equalize(twin, norms, pairs)
    cross_layer.limit_clips(twin, pairs, propagate(twin, norms, (0, 1)))
    assert_same(twin, outputs(model), 1e-4)
    cross_layer.absorb_biases(twin, norms, pairs[:1], False)
    assert_same(twin, outputs(model), 1e-4)
