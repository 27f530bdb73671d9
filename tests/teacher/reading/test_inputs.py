"""Models that take no images are told so, before any of their layers is refused."""

import json

import keras
import numpy as np
import pytest
import tf_keras

from tests.teacher.classifiers import refusal
from tests.teacher.reading.test_unsafe_files import rewritten
from zscgan_tf.teacher.reading.inputs import check_takes_images


def of_texts(package):
    kinds = package.layers
    return package.Sequential(
        [kinds.Input((20,)), kinds.Embedding(50, 8), kinds.LSTM(8), kinds.Dense(4)]
    )


def of_texts_of_any_length(package):
    kinds = package.layers
    x = words = package.Input((None,))
    x = kinds.GlobalAveragePooling1D()(kinds.Embedding(50, 8)(x) + 1.0)
    return package.Model(words, kinds.Dense(4)(x))


def of_sequences(package):
    kinds = package.layers
    return package.Sequential([kinds.Input((20, 8)), kinds.Bidirectional(kinds.GRU(8))])


def nested(package):
    return package.Sequential([of_texts(package), package.layers.Dense(3)])


def built_when_called(package):
    kinds = package.layers
    model = package.Sequential([kinds.Embedding(50, 8), kinds.LSTM(8), kinds.Dense(4)])
    model(np.zeros((2, 20)))
    return model


def of_volumes(package):
    kinds = package.layers
    return package.Sequential([kinds.Input((8, 8, 8, 1)), kinds.Conv3D(2, 3), kinds.Flatten()])


def of_images_and_texts(package):
    kinds = package.layers
    photo, words = package.Input((8, 8, 3)), package.Input((5,))
    x = kinds.Concatenate()([kinds.Flatten()(photo), kinds.GRU(3)(kinds.Embedding(9, 3)(words))])
    return package.Model([photo, words], kinds.Dense(3)(x))


SAYS = {
    of_texts: 'takes inputs of shape (None, 20): a classifier of images takes',
    of_texts_of_any_length: 'takes inputs of shape (None, None)',
    of_sequences: 'takes inputs of shape (None, 20, 8)',
    nested: 'takes inputs of shape (None, ',  # tf_keras forgets the length
    built_when_called: 'takes inputs of shape (',  # Keras 3 keeps the size of the batch
    of_volumes: 'takes inputs of shape (None, 8, 8, 8, 1)',
    of_images_and_texts: 'has 2 inputs',
}


@pytest.mark.parametrize('make', SAYS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    'package, form',
    [
        (tf_keras, 'model.h5'),
        (tf_keras, 'model.keras'),
        (tf_keras, 'model'),
        (keras, 'model.h5'),
        (keras, 'model.keras'),
    ],
    ids=lambda value: getattr(value, '__name__', value),
)
def test_models_that_take_no_images(tmp_path, package, form, make):
    make(package).save(tmp_path / form)
    refusal(tmp_path / form, f'{form} {SAYS[make]}')


def test_the_oldest_configurations_of_a_sequential(tmp_path):
    """A list of layers, the first of which says what it takes."""
    model = tf_keras.Sequential(
        [tf_keras.layers.LSTM(3, input_shape=(20, 8)), tf_keras.layers.Dense(4)]
    )
    model.save(tmp_path / 'model.h5')

    def oldest(text):
        layers = json.loads(text)['config']['layers']
        first = next(layer for layer in layers if layer['class_name'] == 'LSTM')
        assert first['config']['batch_input_shape'] == [None, 20, 8]
        return json.dumps({'class_name': 'Sequential', 'config': layers[layers.index(first) :]})

    rewritten(tmp_path / 'model.h5', oldest)
    assert tf_keras.models.load_model(tmp_path / 'model.h5').input_shape == (None, 20, 8)
    refusal(tmp_path / 'model.h5', 'takes inputs of shape (None, 20, 8)')


def test_a_configuration_that_tells_no_inputs_is_let_through():
    for config in ({}, [], None, {'config': []}, {'config': {'layers': [3]}}):
        check_takes_images(config, 'model.keras')
