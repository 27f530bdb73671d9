"""The losses of ZS-CGAN and their gradients, against NumPy and finite differences."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.tiny import tiny_teacher
from zscgan_tf.generators import build_generator, draw_noise
from zscgan_tf.methods import zscgan
from zscgan_tf.teacher.tap import StoredMoments, batch_moments, build_tap

TINY = {'scales': 2, 'channels': 8, 'skip_channels': 2, 'z_channels': 4}


def pixels(count=6, seed=0, size=8):
    return np.random.default_rng(seed).uniform(size=(count, size, size, 3)).astype(np.float32)


# Independent forms in NumPy, in double precision.


def numpy_kl(mean, variance, stored_mean, stored_variance):
    """The textbook's KL(N(mean, variance) || N(stored_mean, stored_variance))."""
    return (
        np.log(np.sqrt(stored_variance) / np.sqrt(variance))
        + (variance + (mean - stored_mean) ** 2) / (2 * stored_variance)
        - 0.5
    )


def numpy_bns(teacher, images):
    """Batch norm after batch norm, each with a sub-model of its own."""
    total = 0.0
    inputs = teacher.input_spec.to_inputs(tf.constant(images))
    for layer in teacher.logits_model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            x = tf_keras.Model(teacher.logits_model.inputs, layer.input)(inputs)
            x = x.numpy().astype(np.float64)
            axes = tuple(range(x.ndim - 1))
            total += numpy_kl(
                x.mean(axes),
                x.var(axes) + layer.epsilon,
                layer.moving_mean.numpy().astype(np.float64),
                layer.moving_variance.numpy().astype(np.float64) + layer.epsilon,
            ).sum()
    return total


def bns_of(teacher, tap, images):
    model, stored = tap
    _, *inputs = model(teacher.input_spec.to_inputs(images), training=False)
    return zscgan.bns_loss([batch_moments(x) for x in inputs], stored)


# The losses.


def test_kl_is_the_textbooks():
    rng = np.random.default_rng(0)
    mean, stored_mean = rng.normal(size=(2, 100))
    variance, stored_variance = rng.uniform(0.05, 4, (2, 100))
    kl = zscgan.gaussian_kl(*map(tf.constant, (mean, variance, stored_mean, stored_variance)))
    np.testing.assert_allclose(kl, numpy_kl(mean, variance, stored_mean, stored_variance))
    assert np.min(kl) >= 0


def test_kl_is_the_mean_log_ratio_of_densities():
    mean, variance, stored_mean, stored_variance = 0.7, 0.5, -0.2, 1.3
    x = np.random.default_rng(0).normal(mean, variance**0.5, 400_000)
    logs = [
        -((x - m) ** 2) / (2 * v) - np.log(v) / 2
        for m, v in ((mean, variance), (stored_mean, stored_variance))
    ]
    kl = zscgan.gaussian_kl(*map(tf.constant, (mean, variance, stored_mean, stored_variance)))
    assert float(kl) == pytest.approx(np.mean(logs[0] - logs[1]), abs=0.01)


def test_kl_is_zero_and_flat_at_equality():
    mean, variance = tf.constant([0.0, -3.0, 1e3]), tf.constant([1.0, 1e-5, 1e4])
    with tf.GradientTape() as tape:
        tape.watch([mean, variance])
        kl = zscgan.gaussian_kl(mean, variance, mean.numpy(), variance.numpy())
    np.testing.assert_allclose(kl, 0, atol=1e-6)
    for gradient in tape.gradient(kl, [mean, variance]):
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_bns_loss_is_numpys_sum_over_layers_and_channels(seed):
    teacher = tiny_teacher(num_classes=5, seed=seed)
    loss = bns_of(teacher, build_tap(teacher.logits_model), pixels(seed=seed))
    assert float(loss) == pytest.approx(numpy_bns(teacher, pixels(seed=seed)), rel=1e-4)


def test_bns_loss_is_zero_where_the_moments_are_met(tap):
    _, stored = tap
    moments = [(tf.constant(s.mean), tf.constant(s.variance)) for s in stored]
    assert float(zscgan.bns_loss(moments, stored)) == pytest.approx(0, abs=1e-5)


def test_class_loss_is_the_mean_cross_entropy():
    logits = np.random.default_rng(0).normal(0, 5, (6, 4)).astype(np.float32)
    labels = np.array([0, 3, 1, 1, 2, 0])
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = -np.log(p[np.arange(6), labels]).mean()
    assert float(zscgan.class_loss(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_class_loss_of_independent_labels():
    logits = np.random.default_rng(0).normal(0, 3, (6, 4)).astype(np.float32)
    labels = np.array([0, 3, 1, 1, 2, 0])
    expected = 0.0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        for k, z in enumerate(row):
            p = 1 / (1 + np.exp(-z))
            expected -= np.log(p if k == label else 1 - p) / 6
    found = float(zscgan.class_loss(labels, logits, independent=True))
    assert found == pytest.approx(expected, rel=1e-5)


def numpy_entropy_loss(logits):
    """The mean entropy of the rows, and what that of their mean lacks to log(min(B, K))."""

    def entropy(p):
        return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)

    p = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    lacking = np.log(min(p.shape)) - entropy(p.mean(0))
    return entropy(p).mean() + max(0, lacking)


@pytest.mark.parametrize('shape', [(6, 4), (4, 6), (5, 5), (1, 3), (40, 2), (16, 1000)])
@pytest.mark.parametrize('scale', [0.1, 5])
def test_entropy_loss_is_numpys(shape, scale):
    logits = np.random.default_rng(0).normal(0, scale, shape).astype(np.float32)
    logits[0] = 0
    logits[0, :2] = [500, -500]  # sure: no NaN of 0 log 0
    with tf.GradientTape() as tape:
        x = tf.constant(logits)
        tape.watch(x)
        loss = zscgan.entropy_loss(x)
    assert float(loss) == pytest.approx(numpy_entropy_loss(logits), rel=1e-4, abs=1e-5)
    assert np.all(np.isfinite(tape.gradient(loss, x)))


@pytest.mark.parametrize('images, classes', [(4, 4), (4, 9), (12, 4)])
def test_entropy_loss_of_sure_answers(images, classes):
    """Nothing where they are of as many classes as can be; all of it where they are of one."""
    many = 100 * np.eye(classes, dtype=np.float32)[np.arange(images) % classes]
    assert float(zscgan.entropy_loss(many)) == pytest.approx(0, abs=1e-5)
    one = np.repeat(many[:1], images, axis=0)
    assert float(zscgan.entropy_loss(one)) == pytest.approx(np.log(min(images, classes)), rel=1e-5)


def test_unsure_answers_of_a_large_batch_lack_no_class():
    """The mean answer may be of more classes than there are images: no reward for that."""
    assert float(zscgan.entropy_loss(np.zeros((2, 8), 'f'))) == pytest.approx(np.log(8), rel=1e-5)


def test_gradient_with_respect_to_pixels(teacher, tap):
    """Against central differences of the NumPy loss, along random directions."""
    images = tf.constant(pixels(seed=3))
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = bns_of(teacher, tap, images)
    gradient = tape.gradient(loss, images).numpy().astype(np.float64)
    rng = np.random.default_rng(0)
    for _ in range(3):
        # Steps along the sign of the gradient, on a random half of the pixels.
        direction = np.sign(gradient) * rng.integers(0, 2, images.shape)
        up, down = (numpy_bns(teacher, np.float32(images + s * direction)) for s in (2e-3, -2e-3))
        assert (up - down) / 4e-3 == pytest.approx(np.sum(gradient * direction), rel=0.02)


def test_gradient_with_respect_to_the_generators_weights(teacher, tap):
    generator = build_generator((8, 8, 3), 5, **TINY)
    noise = draw_noise(generator, 8, tf.constant([0, 0]))
    labels = tf.constant([0, 1, 2, 3, 4, 0, 1, 2])
    with tf.GradientTape() as tape:
        loss = bns_of(teacher, tap, generator([*noise, labels], training=True))
    variables = generator.trainable_variables
    gradients = [
        tf.convert_to_tensor(g).numpy().astype(np.float64) for g in tape.gradient(loss, variables)
    ]
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    start = [v.numpy() for v in variables]

    def at(step):
        for variable, value, gradient in zip(variables, start, gradients, strict=True):
            variable.assign(value + np.float32(step * gradient / norm))
        return numpy_bns(teacher, generator([*noise, labels], training=True).numpy())

    assert (at(2e-3) - at(-2e-3)) / 4e-3 == pytest.approx(norm, rel=0.02)


def test_moments_have_the_gradient_of_tensorflows():
    x = tf.constant(np.random.default_rng(0).normal(3, 2, (5, 4, 3, 6)), tf.float32)
    weights = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)

    def gradient(moments):
        with tf.GradientTape() as tape:
            tape.watch(x)
            mean, variance = moments(x)
            loss = tf.reduce_sum(weights[0] * tf.sin(mean) + weights[1] * tf.square(variance))
        return tape.gradient(loss, x)

    expected = gradient(functools.partial(tf.nn.moments, axes=[0, 1, 2]))
    np.testing.assert_allclose(gradient(batch_moments), expected, rtol=1e-4, atol=1e-6)


def test_dead_channels_stay_finite():
    """Stored variance 0, with batches that are constant too, or are not."""
    stored = [StoredMoments('dead', np.zeros(3, 'f'), np.zeros(3, 'f'), 1e-3)]
    for x in (np.zeros((4, 2, 2, 3)), np.random.default_rng(0).normal(size=(4, 2, 2, 3))):
        x = tf.constant(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = zscgan.bns_loss([batch_moments(x)], stored)
        assert np.isfinite(loss) and np.all(np.isfinite(tape.gradient(loss, x)))
        expected = numpy_kl(
            x.numpy().mean((0, 1, 2)), x.numpy().var((0, 1, 2)) + 1e-3, np.zeros(3), 1e-3
        )
        assert float(loss) == pytest.approx(expected.sum(), rel=1e-4, abs=1e-6)
