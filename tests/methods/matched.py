"""A tiny teacher whose batch norms store the moments of images that exist."""

import numpy as np
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.tap import batch_norm_inputs, build_tap
from zscgan_tf.teacher.teacher import Teacher

layers = tf_keras.layers


def matched_teacher(num_classes=5, size=8):
    """Two convolutions with batch norms and ReLUs, and a dense layer, in front of smooth images."""
    inputs = layers.Input((size, size, 3))
    x = layers.Conv2D(6, 3, padding='same', use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, padding='same', use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(num_classes)(layers.GlobalAveragePooling2D()(x))
    model = randomize(tf_keras.Model(inputs, x))
    spec = InputSpec((size, size), 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    coarse = np.random.default_rng(0).uniform(0, 1, (200, 4, 4, 3)).astype(np.float32)
    images = spec.to_inputs(tf.image.resize(coarse, (size, size)))
    for number, (layer, _) in enumerate(batch_norm_inputs(model)):
        x = build_tap(model)[0](images)[1 + number]
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
    # No class is the answer to nearly all images.
    dense = model.layers[-1]
    dense.kernel.assign(10 * dense.kernel)
    dense.bias.assign_sub(tf.reduce_mean(model(images), axis=0))
    return Teacher(
        model=model,
        logits_model=model,
        input_spec=spec,
        num_classes=num_classes,
        head='logits',
        fingerprint='matched',
        name='matched',
    )


def assert_slopes(function, x, tolerance=1e-6):
    """The gradient of a function of float64 `x` against differences along random directions."""
    x = tf.constant(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    gradient = tape.gradient(value, x).numpy()
    rng = np.random.default_rng(1)
    for _ in range(5):
        direction = rng.normal(size=x.shape)
        step = 1e-5
        slope = (function(x + step * direction) - function(x - step * direction)) / (2 * step)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=tolerance, atol=1e-9)
