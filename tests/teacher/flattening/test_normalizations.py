"""Flat copies of the layers that normalize."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.teacher.flattening.test_flatten import assert_same, end, make, names
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers


def test_rescaling_and_normalization_become_one_rescaling():
    def body(x):
        x = layers.Rescaling(1 / 255)(x)
        x = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])(x)
        return end(layers.BatchNormalization()(layers.Rescaling([1.0, 2.0, 3.0])(x)))

    model = make(body)
    flat = flatten(model)
    assert_same(model, flat, 0, 255)
    assert names(flat).count('Rescaling') == 1


@pytest.mark.parametrize('axis', [-1, None, 1, (1, 2, 3)])
def test_adapted_normalization(axis):
    layer = layers.Normalization(axis=axis)
    layer.adapt(np.random.default_rng(0).normal(5, 2, (100, 8, 8, 3)))
    model = make(lambda x: end(layers.BatchNormalization()(layer(x))))
    layer.finalize_state()  # `make` changed its weights
    assert_same(model, flatten(model), 0, 9)


@pytest.mark.parametrize('axis', [(1, 2, 3), (1, 3)])
def test_normalization_of_fewer_values_than_positions(axis):
    layer = layers.Normalization(axis=axis, mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0])
    model = make(lambda x: end(layers.BatchNormalization()(layer(x))))
    assert_same(model, flatten(model), 0, 4)
    assert load_teacher(model, input_spec={'preprocessing': 'raw'}).num_classes == 5


@pytest.mark.parametrize('library', [tf_keras, keras], ids=['tf_keras', 'keras'])
def test_spectral_normalization_is_what_it_wraps(library, monkeypatch):
    # That of tf_keras makes one of `tf.keras`, which may be Keras 3.
    monkeypatch.setattr(tf.keras.layers, 'InputSpec', tf_keras.layers.InputSpec)
    k = library.layers
    start = library.Input((8, 8, 3))
    x = k.SpectralNormalization(k.Conv2D(4, 3, activation='relu'))(start)
    x = k.GlobalAveragePooling2D()(k.BatchNormalization()(x))
    model = library.Model(start, k.SpectralNormalization(k.Dense(5))(x))
    model(np.ones((2, 8, 8, 3), np.float32), training=True)  # normalizes
    teacher = load_teacher(model, input_spec={'preprocessing': 'raw'})
    assert_same(model, teacher.model)
    assert {'Conv2D', 'Dense'} <= set(names(teacher.model))


def test_synchronized_batch_norms_become_plain():
    def body(x):
        x = layers.BatchNormalization(synchronized=True)(x)
        return end(layers.experimental.SyncBatchNormalization()(x))

    model = make(body)
    flat = flatten(model)
    assert_same(model, flat)
    assert names(flat).count('BatchNormalization') == 2
    assert not any(getattr(layer, 'synchronized', False) for layer in flat.layers)
