"""A graph that is built again is the same function, with all that its layers were called with."""

import numpy as np
import tf_keras

from tests.conftest import randomize
from zscgan_tf.teacher.graphs import call_again, rebuild

layers = tf_keras.layers


def test_layers_are_called_with_their_further_arguments():
    images = layers.Input((4, 6))
    x = layers.Dense(6)(images)
    attention = layers.MultiHeadAttention(2, 3)
    x = layers.Add()([x, attention(x, value=images, use_causal_mask=True)])
    x = layers.BatchNormalization()(x, training=False)
    model = randomize(tf_keras.Model(images, layers.Flatten()(x)))
    again = layers.Input((4, 6))
    rebuilt = tf_keras.Model(again, rebuild(model, {id(model.input): again}, call_again))
    inputs = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    expected = model(inputs, training=False)
    np.testing.assert_allclose(rebuilt(inputs, training=False), expected, atol=1e-6)
    other = tf_keras.Model(again, rebuild(model, {id(model.input): again}, _without_arguments))
    assert np.max(np.abs(other(inputs, training=False) - expected)) > 1e-3  # they count


def _without_arguments(node, inputs):
    if isinstance(node.layer, layers.MultiHeadAttention):
        return node.layer(*inputs)
    return call_again(node, inputs)
