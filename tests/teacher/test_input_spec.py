"""How pixels become inputs: the bridge, and where its numbers come from."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.input_spec import InputSpec, merge_fields, read_fields, resolve_image_shape
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers


def pixels(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize('mode', ['tf', 'torch', 'caffe'])
def test_named_preprocessings_are_those_of_applications(mode):
    spec = InputSpec.from_preprocessing((5, 4), 3, mode)
    images = np.rint(pixels(2, 5, 4, 3) * 255)
    expected = tf_keras.applications.imagenet_utils.preprocess_input(images.copy(), mode=mode)
    found = spec.to_inputs(tf.constant(images / 255))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(spec.to_pixels(found), images / 255, atol=1e-6)


def test_raw_and_unit_pixels():
    x = pixels(2, 3, 3, 2)
    np.testing.assert_allclose(
        InputSpec.from_preprocessing((3, 3), 2, 'raw').to_inputs(tf.constant(x)), x * 255, rtol=1e-6
    )
    unit = InputSpec.from_preprocessing((3, 3), 2, 'unit')
    np.testing.assert_array_equal(unit.to_inputs(tf.constant(x)), x)


def test_the_legal_range_of_inputs():
    low, high = InputSpec((2, 2), 3, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)).input_range
    np.testing.assert_allclose(low, [-1, -1, 0])
    np.testing.assert_allclose(high, [1, 3, 0.5])


@pytest.mark.parametrize(
    'mean, std, words',
    [
        ((0.1, 0.2), 1.0, ['--mean has 2 values', '3 channels']),
        (0.0, (1.0, 1.0), ['--std has 2 values']),
        (0.0, 0.0, ['--std', 'positive']),
        (float('nan'), 1.0, ['--mean', 'finite']),
    ],
)
def test_impossible_numbers(mean, std, words):
    with pytest.raises(UserError) as error:
        InputSpec((2, 2), 3, mean, std)
    assert all(word in str(error.value) for word in words)


def test_values_for_pixels_in_0_255_are_named():
    with pytest.raises(UserError, match='is for pixels in 0...255.* pass --mean=0.485,0.456'):
        InputSpec((8, 8), 2, (123.675, 116.28), 1)
    with pytest.raises(UserError, match='--std=58.395 is for pixels .* pass --std=0.229'):
        InputSpec((8, 8), 3, 0, 58.395)


def test_the_json_form_comes_back(tmp_path):
    spec = InputSpec.from_preprocessing((5, 4), 3, 'caffe')
    path = tmp_path / 'model.json'
    path.write_text(json.dumps({**spec.to_dict(), 'about': 'ignored'}))
    fields = read_fields(path)
    assert 'about' not in fields
    assert InputSpec(**{k: v for k, v in fields.items()}) == spec


def test_explicit_fields_come_before_stored_ones():
    stored = {'image_size': [8, 8], 'mean': 0.5, 'std': 0.5, 'bgr': True}
    assert merge_fields({'mean': 0.1}, stored) == {**stored, 'mean': 0.1}
    assert not merge_fields({'bgr': False}, stored)['bgr']
    assert merge_fields({'preprocessing': 'tf'}, stored) == {
        'image_size': [8, 8],
        'preprocessing': 'tf',
    }
    assert merge_fields({'mean': 0.1, 'std': 1}, {'preprocessing': 'tf'}) == {'mean': 0.1, 'std': 1}
    with pytest.raises(UserError, match='both a preprocessing and'):
        merge_fields({'preprocessing': 'tf', 'mean': 0.1}, {})


def test_image_shapes():
    assert resolve_image_shape((8, 9, 3), {}, 'm') == (8, 9, 3)
    assert resolve_image_shape((None, None, 3), {'image_size': 32}, 'm') == (32, 32, 3)
    assert resolve_image_shape(None, {'image_size': [7, 5], 'channels': 1}, 'm') == (7, 5, 1)
    for shape, fields, words in (
        ((8, 9, 3), {'image_size': [9, 8]}, '8x9x3'),
        ((8, 9, 3), {'channels': 4}, '--channels'),
        ((None, None, 3), {}, 'm has no fixed image size'),
        (None, {'image_size': [8, 8]}, '--channels'),
        ((None, None, 3), {'image_size': [8, 8, 8]}, '--image_size'),
        ((None, None, 3), {'image_size': [0, 8]}, '--image_size'),
        ((None, None, 3), {'image_size': 'big'}, '--image_size'),
        ((8, 8, 3), {'channels': -3}, '--channels'),
    ):
        with pytest.raises(UserError, match=words):
            resolve_image_shape(shape, fields, 'm')


# Where nothing is passed


def model(start, channels=3):
    x = images = tf_keras.Input((8, 8, channels))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(start(x)))
    return randomize(tf_keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))


@pytest.mark.parametrize(
    'start, highest',
    [
        (layers.Rescaling(1 / 255), 255),
        (layers.Rescaling(1 / 127.5, offset=-1), 255),
        (lambda x: x / 127.5 - 1.0, 255),
        (layers.Rescaling(2.0, offset=-1.0), 1),
        (layers.Normalization(mean=[120.0, 110, 100], variance=[3000.0, 3100, 3200]), 255),
        (layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.05, 0.06, 0.07]), 1),
        (
            tf_keras.Sequential(
                [layers.Rescaling(1 / 255), layers.Normalization(mean=0.5, variance=0.04)]
            ),
            255,
        ),
    ],
)
def test_a_model_that_scales_its_own_images(start, highest):
    spec = load_teacher(model(start)).input_spec
    np.testing.assert_allclose(spec.to_inputs(tf.ones((1, 8, 8, 3))), highest)
    np.testing.assert_allclose(spec.to_inputs(tf.zeros((1, 8, 8, 3))), 0)


def test_explicit_fields_come_before_the_models_own_rescaling():
    spec = load_teacher(
        model(layers.Rescaling(1 / 255)), input_spec={'mean': [0.5], 'std': [0.25], 'bgr': True}
    ).input_spec
    assert (spec.mean, spec.std, spec.bgr) == ((0.5,) * 3, (0.25,) * 3, True)


@pytest.mark.parametrize('start', [lambda x: x, layers.Rescaling(0.7)])
def test_where_nothing_tells_the_error_says_what_to_pass(start):
    with pytest.raises(UserError) as error:
        load_teacher(model(start))
    message = str(error.value)
    assert '--preprocessing=tf ' in message
    assert '--mean=0.485,0.456,0.406 --std=0.229,0.224,0.225' in message


@pytest.mark.parametrize(
    'fields, words',
    [
        ({'mean': 0.5}, '--mean is given without --std'),
        ({'std': 0.5}, '--std is given without --mean'),
        ({'preprocessing': 'pytorch'}, 'one of tf, torch, caffe'),
        ({'mean': [0.5, 0.5], 'std': 1.0}, '--mean has 2 values'),
        ({'mean': 'a', 'std': 1.0}, 'must be numbers'),
    ],
)
def test_fields_that_say_nothing(fields, words):
    with pytest.raises(UserError, match=words):
        load_teacher(model(lambda x: x), input_spec=fields)


def test_other_numbers_of_channels():
    teacher = load_teacher(model(lambda x: x, 5), input_spec={'preprocessing': 'tf'})
    assert teacher.input_spec.image_shape == (8, 8, 5)
    with pytest.raises(UserError, match='is for 3 channels'):
        load_teacher(model(lambda x: x, 5), input_spec={'preprocessing': 'torch'})


def test_a_whole_specification():
    spec = InputSpec((8, 8), 3, 0.2, 0.3, True)
    assert load_teacher(model(lambda x: x), input_spec=spec).input_spec == spec
