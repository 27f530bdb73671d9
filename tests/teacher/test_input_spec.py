"""How pixels become inputs: the bridge, and where its numbers come from."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.input_fields import merge_fields, read_fields, resolve_image_shape
from zscgan_tf.teacher.input_spec import InputSpec
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
    """Both together: a deviation of 1 is legal, but not beside a mean of 123."""
    for mean, std, words in (
        ((123.675, 116.28, 103.53), 1, '--mean=0.485,0.456,0.406 --std=0.00392157.'),
        (0, 58.395, '--mean=0 --std=0.229.'),
        (-127.5, 127.5, '--mean=-0.5 --std=0.5.'),
    ):
        with pytest.raises(UserError, match=f'0...255, pass both over 255, {words}$'):
            InputSpec((8, 8), 3, mean, std)


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
    with pytest.raises(UserError, match='both a preprocessing and a mean or std: pass either'):
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


@pytest.mark.parametrize(
    'start, seen',
    [
        (lambda x: x, 'nothing tells'),
        (layers.Rescaling(0.7), '0.7 x + 0: 0...255 becomes 0...178.5, [0, 1] becomes 0...0.7'),
        (layers.Rescaling(1.0), '[-1, 1] becomes -1...1'),
        # Of digits in [0, 1], or in [-1, 1].
        (layers.Normalization(mean=0.1307, variance=0.3081**2), '[0, 1] becomes -0.4242...2.821'),
        (layers.BatchNormalization(), '[0, 1] becomes'),
    ],
)
def test_where_nothing_tells_the_error_says_what_to_pass(start, seen):
    with pytest.raises(UserError) as error:
        load_teacher(model(start))
    message = str(error.value)
    assert seen in message
    places = [message.index(f'--preprocessing={mode} ') for mode in ('unit', 'raw', 'torch', 'tf')]
    assert places == sorted(places)


# (what the model begins with, lowest and highest pixel of what it takes)
FIRST_LAYERS = {
    'mean of 0...255': (lambda k: k.Rescaling(1.0, offset=[-123.7, -116.8, -103.9]), (0, 255)),
    'middle of 0...255': (lambda k: k.Rescaling(1.0, offset=-127.5), (0, 255)),
    'subtraction': (lambda k: lambda x: x - 127.5, (0, 255)),
    'division': (lambda k: lambda x: (x - 120.0) / 64.0, (0, 255)),
    'variance 1': (lambda k: k.Normalization(mean=[123.0, 117, 104], variance=[1.0] * 3), (0, 255)),
    'chain': (
        lambda k: (
            lambda x: k.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05] * 3)(
                k.Rescaling(1 / 255)(x)
            )
        ),
        (0, 255),
    ),
    'behind padding': (lambda k: lambda x: k.Rescaling(1 / 255)(k.ZeroPadding2D(1)(x)), (0, 255)),
    'one half to each side': (lambda k: k.Rescaling(1.0, offset=-0.5), (0, 1)),
    'to 0...255': (lambda k: k.Rescaling(255.0), (0, 1)),
    'torch': (lambda k: k.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05] * 3), (0, 1)),
    '[-1, 1] to 0...255': (lambda k: k.Rescaling(127.5, offset=127.5), (-1, 1)),
    '[-1, 1] to [0, 1]': (lambda k: k.Rescaling(0.5, offset=0.5), (-1, 1)),
}


@pytest.mark.parametrize('library', [tf_keras, keras], ids=['tf_keras', 'keras'])
@pytest.mark.parametrize('name', FIRST_LAYERS)
def test_the_unit_that_the_first_layers_tell(library, name):
    start, (lowest, highest) = FIRST_LAYERS[name]
    k = library.layers
    x = images = library.Input((8, 8, 3))
    x = k.BatchNormalization()(k.Conv2D(4, 3)(start(k)(x)))
    made = library.Model(images, k.Dense(3)(k.GlobalAveragePooling2D()(x)))
    spec = load_teacher(made).input_spec
    np.testing.assert_allclose(spec.to_inputs(tf.ones((1, 8, 8, 3))), highest, rtol=1e-6)
    np.testing.assert_allclose(spec.to_inputs(tf.zeros((1, 8, 8, 3))), lowest, atol=1e-6)


@pytest.mark.parametrize('deviation, mean, highest', [(64, 120, 255), (0.25, 0.47, 1)])
def test_moments_of_a_first_batch_norm_tell_the_unit(deviation, mean, highest):
    made = model(layers.BatchNormalization(name='start'))
    norm = made.get_layer('start')
    norm.moving_mean.assign(np.full(3, mean, np.float32))
    norm.moving_variance.assign(np.full(3, deviation**2, np.float32))
    spec = load_teacher(made).input_spec
    np.testing.assert_allclose(spec.to_inputs(tf.ones((1, 8, 8, 3))), highest, rtol=1e-6)


@pytest.mark.parametrize(
    'deviation, mean', [(1, 0.45), (1, -0.5), (65, 15), (0.6, 0.5), (1, 0), (0.9, 0.2)]
)
def test_moments_of_no_pixels_are_no_answer(deviation, mean):
    """Values in [0, 1] have a variance of at most mean (1 - mean), and so on.

    The last two are those of inputs that were standardized already, and before any training.
    """
    made = model(layers.BatchNormalization(name='start'))
    norm = made.get_layer('start')
    norm.moving_mean.assign(np.full(3, mean, np.float32))
    norm.moving_variance.assign(np.full(3, deviation**2, np.float32))
    with pytest.raises(UserError, match='--preprocessing'):
        load_teacher(made)


@pytest.mark.parametrize(
    'fields, flags',
    [
        ({'preprocessing': 'tf'}, 'leave --preprocessing out'),
        ({'preprocessing': 'torch'}, 'leave --preprocessing out'),
        ({'preprocessing': 'unit'}, 'leave --preprocessing out'),
        ({'mean': 0.5, 'std': 0.25}, 'leave --mean and --std out'),
    ],
)
def test_a_preprocessing_that_the_model_does_itself_is_refused(fields, flags):
    with pytest.raises(UserError) as error:
        load_teacher(model(layers.Rescaling(1 / 127.5, offset=-1)), input_spec=fields)
    assert 'rescales pixels of 0...255 itself' in str(error.value) and flags in str(error.value)


def test_a_preprocessing_of_the_json_that_the_model_does_itself_is_refused(tmp_path):
    model(layers.Rescaling(1 / 127.5, offset=-1)).save(tmp_path / 'a.keras')
    (tmp_path / 'a.json').write_text('{"preprocessing": "imagenet"}')
    with pytest.raises(UserError, match='in the JSON beside the file: .*=imagenet is unknown'):
        load_teacher(tmp_path / 'a.keras')
    (tmp_path / 'a.json').write_text('{"preprocessing": "tf"}')
    with pytest.raises(UserError, match='remove preprocessing from the JSON beside the file'):
        load_teacher(tmp_path / 'a.keras')


@pytest.mark.parametrize(
    'start, fields',
    [
        (layers.Rescaling(1 / 255), {'preprocessing': 'raw'}),
        (layers.Rescaling(1 / 255), {'mean': 0.0, 'std': 1 / 255}),
        (layers.Rescaling(1.0), {'preprocessing': 'torch'}),
        (layers.BatchNormalization(), {'preprocessing': 'caffe'}),
    ],
)
def test_a_preprocessing_that_fits_the_first_layers(start, fields):
    spec = load_teacher(model(start), input_spec=fields).input_spec
    if 'preprocessing' in fields:
        assert spec == InputSpec.from_preprocessing((8, 8), 3, fields['preprocessing'])
    else:
        assert spec.std == pytest.approx((1 / 255,) * 3)


def test_channels_in_bgr_order():
    """As cv2.imread gives them; the deviations of a named preprocessing are turned around too."""
    images = np.rint(pixels(2, 8, 8, 3) * 255)
    bgr = images[..., ::-1].astype(np.float32)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for fields, expected in (
        ({'preprocessing': 'raw', 'bgr': True}, bgr),
        ({'preprocessing': 'torch', 'bgr': True}, (bgr / 255 - mean[::-1]) / std[::-1]),
        ({'mean': [0.1, 0.2, 0.3], 'std': 0.5, 'bgr': True}, (bgr / 255 - [0.1, 0.2, 0.3]) / 0.5),
        (
            {'preprocessing': 'caffe', 'bgr': False},
            images - np.array([123.68, 116.779, 103.939]),
        ),
    ):
        spec = load_teacher(model(lambda x: x), input_spec=fields).input_spec
        found = spec.to_inputs(tf.constant(images / 255, tf.float32))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(UserError, match='--channel_order=bgr is for 3 channels'):
        load_teacher(model(lambda x: x, 1), input_spec={'preprocessing': 'unit', 'bgr': True})


def test_the_preprocessing_in_words():
    def words(**fields):
        return load_teacher(model(lambda x: x), input_spec=fields).input_spec.describe()

    assert words(preprocessing='raw') == '8x8x3, pixels of 0...255'
    assert words(preprocessing='unit') == '8x8x3, pixels scaled to [0, 1]'
    assert words(preprocessing='tf') == '8x8x3, pixels scaled to [-1, 1]'
    assert words(preprocessing='torch') == (
        '8x8x3, (pixels of 0...255 / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]'
    )
    assert words(preprocessing='caffe') == (
        '8x8x3, pixels of 0...255 - [103.939, 116.779, 123.68], channels in BGR order'
    )


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
