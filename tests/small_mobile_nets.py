"""Small MobileNets with true moments, and images for them."""

import numpy as np
import tf_keras

from tests.conftest import randomize
from zscgan_tf.methods import cross_layer
from zscgan_tf.student.folding import fold_with_norms
from zscgan_tf.teacher.flattening.flatten import flatten

layers = tf_keras.layers


def images_of_several_colours(count=400):
    rng = np.random.default_rng(0)
    colours, noise = rng.uniform(size=(count, 1, 1, 3)), rng.uniform(size=(count, 8, 8, 3))
    return (0.95 * colours + 0.05 * noise).astype(np.float32)


PIXELS = images_of_several_colours()


def outputs(model, pixels=PIXELS):
    return model(pixels, training=False).numpy()


def block(x, layer, high=None):
    x = layers.BatchNormalization()(layer(x))
    return layers.ReLU(high)(x)


def mobile_net(high=None, padding='same', classes=5):
    """Three depthwise blocks; between them channels can be scaled."""
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(8, 3, padding=padding, use_bias=False), high)
    for filters in (12, 16):
        x = block(x, layers.DepthwiseConv2D(3, padding=padding, use_bias=False), high)
        x = block(x, layers.Conv2D(filters, 1, use_bias=False), high)
    x = layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))
    return with_true_moments(randomize(tf_keras.Model(images, x)))


def one_class():
    """A classifier of one output: of an image it says yes or no."""
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(4, 3))
    x = layers.Dense(1, activation='sigmoid')(layers.GlobalAveragePooling2D()(x))
    return with_true_moments(randomize(tf_keras.Model(images, x)))


def batch_norms(model):
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def with_true_moments(model, wider=1.0):
    """Stores in each batch norm what its inputs have on `PIXELS`, the variance `wider` times."""
    for norm in batch_norms(model):
        x = outputs(tf_keras.Model(model.input, norm.input))
        norm.moving_mean.assign(x.mean((0, 1, 2)))
        norm.moving_variance.assign(x.var((0, 1, 2)) * wider)
    return model


def odd_scales(model):
    """Gives batch norms scales of either sign, and of 0."""
    rng = np.random.default_rng(1)
    for norm in batch_norms(model):
        gamma = norm.gamma.numpy() * rng.choice([-1, 1], norm.gamma.shape)
        gamma[:2] = 0
        norm.gamma.assign(gamma)
    return with_true_moments(model)


def folded(model):
    """The float student, its norms and its pairs."""
    twin, norms = fold_with_norms(flatten(model))
    return twin, norms, cross_layer.find_pairs(twin)


def assert_same(twin, expected, share=1e-5):
    found = outputs(twin)
    assert np.abs(found - expected).max() < share * expected.std()
