"""The tap gives the moments of every batch norm's input, next to those that it stores."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.teacher.batch_norm import batch_moments, batch_norm_inputs, build_tap

layers = tf_keras.layers


def images(count=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 6, 5, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def model():
    """Batch norms of different widths, one used twice, two synchronized ones."""
    x = start = tf_keras.Input((6, 5, 3))
    shared = layers.BatchNormalization(name='shared', epsilon=0.01)
    x = shared(layers.Conv2D(4, 3, padding='same')(x))
    x = layers.ReLU()(x)
    x = shared(layers.Conv2D(4, 1)(x))
    x = layers.BatchNormalization(name='synchronized', synchronized=True)(layers.Conv2D(5, 1)(x))
    x = layers.experimental.SyncBatchNormalization(name='old')(layers.DepthwiseConv2D(3)(x))
    x = layers.Dense(7)(layers.GlobalAveragePooling2D()(x))
    x = layers.BatchNormalization(name='vector')(x)
    return randomize(tf_keras.Model(start, x))


def test_every_use_counts_in_order(model):
    tap, stored = build_tap(model)
    assert [moments.layer for moments in stored] == [
        'shared',
        'shared',
        'synchronized',
        'old',
        'vector',
    ]
    logits, *inputs = tap(images())
    assert [x.shape[-1] for x in inputs] == [len(moments.mean) for moments in stored]
    np.testing.assert_allclose(logits, model(images()), rtol=1e-5)
    assert stored[0].epsilon == pytest.approx(0.01)


def test_inputs_belong_to_their_batch_norms(model):
    """Each input, normalized by the stored moments, is what the layer itself makes of it."""
    tap, stored = build_tap(model)
    _, *inputs = tap(images())
    for moments, x in zip(stored, inputs, strict=True):
        layer = model.get_layer(moments.layer)
        normalized = (x - moments.mean) / np.sqrt(moments.variance + moments.epsilon)
        expected = normalized * layer.gamma.numpy() + layer.beta.numpy()
        np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-4)
    # The whole batch, from the graph of the model itself.
    first = model.layers[1](images())
    np.testing.assert_allclose(inputs[0], first, atol=1e-5)
    assert all(x.shape[0] == 4 for x in inputs)


def test_moments_are_numpys(model):
    tap, _ = build_tap(model)
    for x in tap(images(8))[1:]:
        x = x.numpy().astype(np.float64)
        mean, variance = batch_moments(tf.constant(x, tf.float32))
        axes = tuple(range(x.ndim - 1))
        np.testing.assert_allclose(mean, x.mean(axes), atol=1e-6)
        np.testing.assert_allclose(variance, x.var(axes), rtol=1e-4, atol=1e-6)


def test_moments_are_float32_and_keep_their_digits():
    x = np.random.default_rng(0).normal(1000, 1, (64, 4, 4, 2))
    mean, variance = batch_moments(tf.constant(x, tf.float32))
    np.testing.assert_allclose(variance, x.var((0, 1, 2)), rtol=1e-3)
    mean, variance = batch_moments(tf.constant(x, tf.bfloat16))
    assert mean.dtype == variance.dtype == tf.float32


def test_moments_of_replicas_are_those_of_the_global_batch():
    devices = tf.config.list_logical_devices('CPU')
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    x = tf.constant(images(8) * 3 + 1)

    def local(part):
        return batch_moments(part, tf.distribute.get_replica_context())

    mean, variance = strategy.run(local, (x,))
    np.testing.assert_allclose(
        strategy.experimental_local_results(mean)[0], x.numpy().mean((0, 1, 2)), atol=1e-5
    )
    np.testing.assert_allclose(
        strategy.experimental_local_results(variance)[0], x.numpy().var((0, 1, 2)), rtol=1e-4
    )


def test_no_batch_norm_no_inputs():
    x = tf_keras.Input((4, 4, 3))
    assert batch_norm_inputs(tf_keras.Model(x, layers.Flatten()(x))) == []
