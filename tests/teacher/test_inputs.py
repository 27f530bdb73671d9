"""Models that take no images are told so, before any of their layers is refused."""

import keras
import numpy as np
import pytest
import tf_keras

from tests.teacher.test_loading import assert_loads_as, classifier, refusal
from tests.teacher.test_unsafe_files import rewritten
from zscgan_tf.teacher.inputs import check_takes_images


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
    # Keras 2 forgets how long the texts are.
    nested: 'takes inputs of shape (None, ',
    built_when_called: 'takes inputs of shape (',
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


@pytest.mark.parametrize('form', ['model.h5', 'model.keras'])
def test_the_oldest_configurations_of_a_sequential(tmp_path, form):
    """A list of layers, the first of which says what it takes."""
    model = tf_keras.Sequential(
        [tf_keras.layers.LSTM(3, input_shape=(20, 8)), tf_keras.layers.Dense(4)]
    )
    layers = [tf_keras.layers.serialize(layer) for layer in model.layers]
    config = {'class_name': 'Sequential', 'config': layers}
    with pytest.raises(Exception, match=r'shape \(None, 20, 8\)'):
        check_takes_images(config, form)


def test_a_configuration_that_tells_no_inputs_is_let_through(tmp_path):
    for config in ({}, [], None, {'config': []}, {'config': {'layers': [3]}}):
        check_takes_images(config, tmp_path)
    path = tmp_path / 'model.keras'
    model = classifier('sequential')
    model.save(path)
    assert_loads_as(model, path)
    rewritten(path, lambda text: text.replace('"batch_input_shape": [', '"other": ['))
    refusal(path)
