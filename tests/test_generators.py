"""The conditional U-Net: conditional batch norm against plain ones, shapes, sizes, the paper's."""

import random
import statistics
import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.generator_layers import EPSILON
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.generators import (
    ConditionalBatchNormalization,
    Upsample,
    build_generator,
    draw_noise,
    standard_normal,
)
from zscgan_tf.options import PRESETS
from zscgan_tf.teacher.input_spec import InputSpec

TINY = {'scales': 2, 'channels': 4, 'skip_channels': 2, 'z_channels': 3}


def images(count, shape, seed=0):
    return np.random.default_rng(seed).normal(2, 3, (count, *shape)).astype(np.float32)


def conditional_norm(num_classes, channels):
    layer = ConditionalBatchNormalization(num_classes)
    layer.build([(None, None, None, channels), (None,)])
    rng = np.random.default_rng(1)
    layer.gamma.assign(rng.uniform(0.5, 2, (num_classes, channels)))
    layer.beta.assign(rng.normal(size=(num_classes, channels)))
    return layer


def test_conditional_norm_is_a_plain_one_with_the_rows_gamma_and_beta():
    """Each image of a mixed batch is what a plain batch norm of the whole batch makes of it."""
    x, labels = images(6, (5, 4, 3)), np.array([0, 1, 1, 0, 0, 1])
    layer = conditional_norm(2, 3)
    y = layer([x, labels])
    for row in range(2):
        plain = tf_keras.layers.BatchNormalization(epsilon=EPSILON)
        plain.build(x.shape)
        plain.gamma.assign(layer.gamma[row])
        plain.beta.assign(layer.beta[row])
        np.testing.assert_allclose(
            y[labels == row], plain(x, training=True)[labels == row], atol=1e-5
        )


def test_gradients_of_the_tables_are_those_of_plain_batch_norm():
    x, labels = images(6, (5, 4, 3)), np.array([0, 1, 1, 0, 0, 1])
    layer = conditional_norm(2, 3)
    weights = images(6, (5, 4, 3), seed=2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer([x, labels]) * weights)
    gamma, beta = (tf.convert_to_tensor(g) for g in tape.gradient(loss, [layer.gamma, layer.beta]))
    normalized = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON)
    for row in range(2):
        own = labels == row
        np.testing.assert_allclose(
            gamma[row], (normalized * weights)[own].sum((0, 1, 2)), rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(beta[row], weights[own].sum((0, 1, 2)), rtol=1e-3, atol=1e-3)


def test_upsample_repeats_and_crops():
    x = images(2, (3, 4, 2))
    expected = x.repeat(2, axis=1).repeat(2, axis=2)[:, :5, :7]
    np.testing.assert_array_equal(Upsample((5, 7))(x), expected)


@pytest.mark.parametrize(
    'shape, options',
    [
        ((8, 8, 3), {}),
        ((7, 9, 1), {}),
        ((33, 17, 4), {}),
        ((8, 8, 3), {'skip_channels': 0}),
        ((7, 9, 3), {'output_stride': 2, 'scales': 1}),
        ((33, 17, 1), {'output_stride': 2}),
        ((12, 20, 2), {'channels': [3, 5]}),
        ((9, 9, 3), {'dtype': 'bfloat16'}),
        ((9, 9, 3), {'noise_scales': 2}),
        ((33, 17, 1), {'noise_scales': 3, 'scales': 3, 'output_stride': 2}),
    ],
)
def test_shapes_and_range(shape, options):
    generator = build_generator(shape, 3, **{**TINY, **options})
    pixels = generator(
        [*draw_noise(generator, 4, tf.constant([0, 1])), tf.constant([0, 1, 2, 0])], training=True
    )
    assert pixels.dtype == tf.float32
    assert pixels.shape == (4, *shape) == (4, *generator.output_shape[1:])
    assert 0 <= np.min(pixels) < np.max(pixels) <= 1
    assert all(v.dtype == tf.float32 for v in generator.variables)


def test_activations_are_leaky():
    """With a slope of 0.2, as in [22], behind every convolution but the last."""
    generator = build_generator((8, 8, 3), 2, **TINY)
    leaky = [x for x in generator.layers if isinstance(x, tf_keras.layers.LeakyReLU)]
    convolutions = [x for x in generator.layers if isinstance(x, tf_keras.layers.Conv2D)]
    assert len(leaky) == len(convolutions) - 1 == 10
    ends = tf_keras.Model(generator.inputs, [[x.input, x.output] for x in leaky])
    noise = draw_noise(generator, 4, tf.constant([0, 0]))
    for x, y in ends([*noise, tf.constant([0, 1, 0, 1])]):
        assert np.min(x) < -0.1 and np.max(x) > 0.1
        np.testing.assert_allclose(y, np.where(x > 0, x, 0.2 * x), rtol=1e-5)


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('size', [(30, 1), (1, 30), (1, 1), (2, 2), (3, 3), (5, 7), (2, 40)])
def test_images_of_any_size_can_be_made(preset, size):
    """Down to one pixel, and each depends on its label."""
    teacher = types.SimpleNamespace(
        input_spec=InputSpec(size, 3, 0.5, 0.5), num_classes=2, has_independent_labels=False
    )
    options = GeneratorOptions.resolve(preset, {'generator_channels': 4}, teacher)
    generator = build_generator(
        (*size, 3),
        2,
        scales=options.generator_scales,
        channels=options.generator_channels,
        noise_scales=options.noise_scales,
        output_stride=options.output_stride,
    )
    noise = draw_noise(generator, 6, [0, 0])
    labels = tf.constant([0, 0, 0, 1, 1, 1])
    with tf.GradientTape() as tape:
        made = generator([*noise, labels], training=True)
        loss = tf.reduce_sum(made[3:] - made[:3])
    assert made.shape == (6, *size, 3) and np.all((made > 0) & (made < 1))
    found = tape.gradient(loss, generator.trainable_variables)
    assert all(np.all(np.isfinite(tf.convert_to_tensor(gradient))) for gradient in found)


def test_output_stride_halves_the_noise():
    generator = build_generator((7, 9, 3), 2, **{**TINY, 'scales': 1}, output_stride=2)
    assert [x.shape for x in draw_noise(generator, 2, tf.constant([0, 0]))] == [(2, 4, 5, 3)]


def test_noise_at_several_scales():
    """A map for each, independent of the others, and each one matters."""
    generator = build_generator((9, 12, 3), 2, **{**TINY, 'noise_scales': 2})
    noise = draw_noise(generator, 2, tf.constant([0, 0]))
    assert [z.shape for z in noise] == [(2, 9, 12, 3), (2, 5, 6, 3)]
    # None is a piece of another: they are drawn from streams of their own.
    assert np.isin(noise[1], noise[0]).mean() < 0.01
    labels = tf.constant([0, 1])
    pixels = generator([*noise, labels]).numpy()
    for number in range(2):
        changed = list(noise)
        changed[number] = -changed[number]
        assert np.abs(generator([*changed, labels]).numpy() - pixels).max() > 1e-3


def test_label_and_noise_matter():
    generator = build_generator((8, 8, 3), 2, **TINY)
    for variable in generator.trainable_variables:
        if 'gamma' in variable.name or 'beta' in variable.name:
            shift = np.random.default_rng(0).normal(0, 0.5, variable.shape)
            variable.assign_add(shift.astype('f'))
    first, second = (draw_noise(generator, 4, tf.constant([0, i])) for i in range(2))
    labels = tf.constant([0, 1, 0, 1])
    pixels = generator([*first, labels]).numpy()
    changed = generator([*first, tf.constant([0, 1, 0, 0])]).numpy()
    # Only the image whose label changed is much different: the others share its batch moments.
    difference = np.abs(changed - pixels).mean((1, 2, 3))
    assert difference[3] > 1.5 * difference[:3].max()
    assert np.abs(generator([*second, labels]).numpy() - pixels).mean() > 0.01


def test_noise_is_normal_and_of_its_seed():
    generator = build_generator((16, 16, 3), 2, **TINY)
    (z,) = draw_noise(generator, 64, tf.constant([3, 4]))
    assert np.mean(z) == pytest.approx(0, abs=0.02) and np.std(z) == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(z, draw_noise(generator, 64, tf.constant([3, 4]))[0])
    assert np.any(z != draw_noise(generator, 64, tf.constant([3, 5]))[0])


def test_standard_normal_is_the_inverse_distribution_of_integers():
    """In both tails too: of 100,000 integers the outermost come near the ends."""
    seed = tf.constant([1, 2])
    bits = tf.random.stateless_uniform(
        [100_000], seed, maxval=2**23, dtype=tf.int32, alg='philox'
    ).numpy()
    assert bits.min() < 2**10 and bits.max() > 2**23 - 2**10
    z = standard_normal([100_000], seed).numpy()
    assert z.dtype == np.float32
    few = np.concatenate([np.argsort(bits)[:50], np.argsort(bits)[-50:], np.arange(500)])
    inverse = statistics.NormalDist().inv_cdf
    expected = [inverse((int(b) + 0.5) / 2**23) for b in bits[few]]
    np.testing.assert_allclose(z[few], expected, rtol=1e-4, atol=1e-5)


def test_standard_normal_has_the_quantiles_of_one():
    z = standard_normal([250, 400], tf.constant([3, 4])).numpy()
    assert z.shape == (250, 400)
    # A standard error is 0.003.
    assert np.mean(z) == pytest.approx(0, abs=0.015)
    assert np.std(z) == pytest.approx(1, abs=0.015)
    shares = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    expected = [statistics.NormalDist().inv_cdf(share) for share in shares]
    np.testing.assert_allclose(np.quantile(z, shares), expected, atol=0.05)


def test_noise_is_the_same_under_xla():
    generator = build_generator((9, 12, 3), 2, **{**TINY, 'noise_scales': 2})
    fast = tf.function(lambda seed: draw_noise(generator, 64, seed), jit_compile=True)
    seed = tf.constant([3, 4])
    for one, other in zip(draw_noise(generator, 64, seed), fast(seed), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)


def test_first_weights_are_of_the_seed_alone():
    """Whatever the global seeds are; the largest seed of the programs included."""

    def weights(seed, global_seed):
        tf_keras.utils.set_random_seed(global_seed)
        return build_generator((8, 8, 3), 2, **TINY, seed=seed).get_weights()

    for seed in (3, 2_000_000_000):
        first = weights(seed, 0)
        for one, other in zip(first, weights(seed, 1), strict=True):
            np.testing.assert_array_equal(one, other)
        others = weights(seed - 1, 0)
        kernels = [number for number, w in enumerate(first) if w.ndim == 4]
        assert len(kernels) > 5
        assert all(np.any(first[number] != others[number]) for number in kernels)
    # Nor do kernels of one shape begin alike.
    assert len({first[number].ravel()[:4].tobytes() for number in kernels}) == len(kernels)


def test_building_leaves_the_callers_random_numbers_alone():
    def drawn(between):
        tf_keras.utils.set_random_seed(5)
        between()
        return random.random(), np.random.uniform(), float(tf.random.uniform([]))

    assert drawn(lambda: build_generator((8, 8, 3), 2, **TINY)) == drawn(lambda: None)


def test_the_papers_network():
    """At 224 pixels: 5 scales of 128, 30 conditional batch norms of 3240 channels in all."""
    generator = build_generator((224, 224, 3), 2)
    norms = [x for x in generator.layers if isinstance(x, ConditionalBatchNormalization)]
    assert len(norms) == 30
    assert sum(norm.gamma.shape[-1] for norm in norms) == 3240
    strided = [
        layer
        for layer in generator.layers
        if isinstance(layer, tf_keras.layers.Conv2D) and layer.strides == (2, 2)
    ]
    assert [layer.output_shape[1] for layer in strided] == [112, 56, 28, 14, 7]
    assert generator.input_shape == [(None, 224, 224, 32), (None,)]
    # The label has no other way in.
    consumers = {node.outbound_layer for node in generator.get_layer('labels')._outbound_nodes}
    assert consumers == set(norms)


@pytest.mark.parametrize('size', [(224, 224), (33, 17), (8, 8), (2, 9)])
def test_any_size_has_as_many_scales_as_fit(size):
    build_generator((*size, 1), 2, **{**TINY, 'scales': None})


@pytest.mark.parametrize(
    'options, words',
    [
        ({'scales': 4}, '--generator_scales=4 halves 8x8 pixels below one: pass at most 3'),
        ({'scales': 3, 'output_stride': 2}, '4x4 pixels below one: pass at most 2'),
        ({'output_stride': 8}, '--output_stride=8 leaves 1x1 of 8x8 pixels: pass at most 4'),
        ({'channels': [4, 4, 4]}, '--generator_channels has 3 values for 2 scales'),
        ({'noise_scales': 3}, '--noise_scales=3: the generator has 2 scales'),
    ],
)
def test_refused(options, words):
    with pytest.raises(UserError, match=words):
        build_generator((8, 8, 3), 2, **{**TINY, **options})
