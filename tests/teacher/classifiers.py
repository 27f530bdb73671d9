"""Small classifiers of Keras 2 and 3, and how tests load them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers
PLAIN = {'preprocessing': 'tf'}


def classifier(kind='functional', classes=4, **options):
    """A tiny classifier with an op layer, a nested model and random weights."""
    if kind == 'sequential':
        model = tf_keras.Sequential(
            [
                layers.Conv2D(4, 3, input_shape=(8, 8, 3)),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(classes, **options),
            ]
        )
        return randomize(model)
    x = images = tf_keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding='same')(x))
    x = x + layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding='same')(x))
    if kind == 'nested':
        y = inner_images = tf_keras.Input((8, 8, 4))
        block = tf_keras.Sequential([layers.Conv2D(4, 1), layers.BatchNormalization()])
        inner = tf_keras.Model(inner_images, tf.nn.relu(block(y)) + y)
        x = inner(inner(x))
    x = layers.GlobalAveragePooling2D()(tf.nn.relu(x))
    return randomize(tf_keras.Model(images, layers.Dense(classes, **options)(x)))


def classifier3(classes=4, before_the_head=None, **options):
    """The same with Keras 3."""
    x = images = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    if before_the_head is not None:
        x = before_the_head(x)
    model = keras.Model(images, keras.layers.Dense(classes, **options)(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.2, 0.9, w.shape) for w in model.get_weights()])
    return model


def images(count=3, shape=(8, 8, 3)):
    return np.random.default_rng(2).uniform(-1, 1, (count, *shape)).astype(np.float32)


def assert_loads_as(model, source, **options):
    """Loads a source; its answers must be the model's."""
    teacher = load_teacher(source, input_spec=PLAIN, **options)
    expected = np.asarray(model(images(), training=False))
    found = teacher.model(images()).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * expected.std()
    return teacher


def refusal(source, *words, **options):
    """The message with which a source is refused: one line that has the words in it."""
    with pytest.raises(UserError) as error:
        load_teacher(source, **{'input_spec': PLAIN, **options})
    message = str(error.value)
    assert '\n' not in message, message
    assert all(word in message for word in words), message
    return message


def functional(body, shape=(8, 8, 3), name='net'):
    x = tf_keras.Input(shape)
    return randomize(tf_keras.Model(x, body(x), name=name))


def pooled(x, classes=4):
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))
