"""Every layer becomes some that the student knows, and computes the same, or is refused."""

import os

os.environ.setdefault('KERAS_BACKEND', 'tensorflow')

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.student.test_folding import (
    assert_same,
    end,
    folded_same,
    kinds,
    make,
    names,
    random_moments,
    weight_layers,
)
from tests.students import student_of
from zscgan_tf import evaluation
from zscgan_tf.errors import UserError
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.student.folding import fold
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish, LogProbabilities
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import student_export

layers = tf_keras.layers


# Activations


@pytest.mark.parametrize('place', ['fused', 'layer', 'dense'])
@pytest.mark.parametrize(
    'function, expected',
    [
        ('relu', ['ReLU']),
        (tf.nn.relu6, ['ReLU']),
        ('linear', []),
        ('sigmoid', ['Activation']),
        ('tanh', ['Activation']),
        ('softmax', ['Activation']),
        ('swish', ['Activation', 'Multiply']),
        ('hard_sigmoid', ['DepthwiseConv2D', 'ReLU', 'DepthwiseConv2D']),
    ],
)
def test_activations(function, expected, place):
    # Straight into `fold`: `flatten` splits some of these off already.
    x = tf_keras.Input((8, 8, 3))
    norm = layers.BatchNormalization()
    if place == 'fused':
        y = layers.Conv2D(4, 3, activation=function, name='act')(norm(x))
    elif place == 'layer':
        y = layers.Activation(function, name='act')(norm(layers.Conv2D(4, 3)(x)))
    else:
        y = layers.GlobalMaxPooling2D()(norm(x))
        y = layers.Dense(6, activation=function, name='act')(y)
    y = layers.Dense(5)(y if place == 'dense' else layers.GlobalMaxPooling2D()(y))
    model = random_moments(tf_keras.Model(x, y))
    folded = fold(model)
    assert_same(model, folded, -9, 9)
    base = ['InputLayer', 'Conv2D', 'GlobalMaxPooling2D', 'Conv2D', 'Flatten']
    if place != 'layer':
        base.append('DepthwiseConv2D')
    assert sorted(kinds(folded)) == sorted(base + expected)
    name = 'act' if place == 'layer' else 'act_activation'
    assert (name in names(folded)) == bool(expected)
    if expected:
        inner = tf_keras.Model(folded.input, folded.get_layer(name).output)
        if place == 'layer':
            images = np.random.default_rng(0).normal(0, 9, (2, 8, 8, 3)).astype(np.float32)
            outer = tf_keras.Model(model.input, model.get_layer('act').output)
            np.testing.assert_allclose(inner(images), outer(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'layer, expected',
    [
        (lambda: layers.ReLU(), ['ReLU']),
        (lambda: layers.ReLU(6.0), ['ReLU']),
        (lambda: layers.ReLU(negative_slope=0.2), ['LeakyReLU']),
        (lambda: layers.LeakyReLU(0.1), ['LeakyReLU']),
        (lambda: layers.Softmax(), ['Activation']),
        (lambda: HardSwish(), ['HardSwish']),
        (lambda: HardSigmoid(), ['DepthwiseConv2D', 'ReLU', 'DepthwiseConv2D']),
    ],
)
@pytest.mark.parametrize('rank', [2, 4])
def test_activation_layers(layer, expected, rank):
    def body(x):
        x = layers.Conv2D(4, 3)(x)
        # A maximum would hide what an activation makes of negative values.
        x = layer()(layers.GlobalAveragePooling2D()(x) if rank == 2 else x)
        x = x if rank == 2 else layers.GlobalAveragePooling2D()(x)
        return layers.Dense(5)(x)

    folded = folded_same(make(body), -9, 9)
    base = ['InputLayer', 'Conv2D', 'GlobalAveragePooling2D', 'Conv2D', 'Flatten']
    assert sorted(kinds(folded)) == sorted(base + expected)
    constants = [layer for layer in weight_layers(folded) if not layer.trainable]
    assert len(constants) == expected.count('DepthwiseConv2D')


def test_the_steps_of_a_hard_sigmoid():
    folded = folded_same(make(lambda x: end(HardSigmoid(name='gate')(x))))
    shift, relu6, gate = (folded.get_layer(f'gate{x}') for x in ('_shift', '_relu6', ''))
    assert np.all(shift.depthwise_kernel == 1)
    assert np.all(shift.bias == 3)
    assert relu6.max_value == 6
    np.testing.assert_allclose(gate.depthwise_kernel, 1 / 6, rtol=1e-6)
    assert not np.any(gate.bias)


@pytest.mark.parametrize('package, file', [(tf_keras, 'model.h5'), (keras, 'model.keras')])
def test_prelu_in_an_integer_file(package, file, tmp_path):
    """Against NumPy: from a file of either Keras to the answers of its `.tflite`."""
    kinds, x = package.layers, package.Input((8, 8, 3))
    y = kinds.BatchNormalization()(kinds.Conv2D(4, 3)(x))
    body = package.Model(x, y)
    y = kinds.GlobalAveragePooling2D()(kinds.PReLU(shared_axes=[1, 2], name='act')(y))
    model = randomize(package.Model(x, kinds.Dense(5, name='end')(y)))
    slopes = np.float32([0.0, 0.1, 0.5, -1.0])
    model.get_layer('act').set_weights([slopes.reshape(1, 1, 4)])
    model.save(tmp_path / file)
    teacher = load_teacher(tmp_path / file, input_spec={'preprocessing': 'unit'})
    pixels = np.random.default_rng(0).uniform(size=(64, 8, 8, 3)).astype(np.float32)
    student = student_of(teacher)
    set_ranges(student, lambda: [pixels[:32], pixels[32:]])
    data, report, _ = student_export.export(student, [pixels])
    y = np.asarray(body(pixels))
    kernel, bias = model.get_layer('end').get_weights()
    expected = np.where(y > 0, y, slopes * y).mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(teacher.logits(pixels), expected, atol=1e-4 * expected.std())
    assert not report.float_ops
    error = evaluation.TfliteModel(data).scores(pixels) - expected
    assert np.sqrt(np.mean(error**2)) < 0.03 * expected.std()


@pytest.mark.parametrize('rank', [2, 4])
def test_the_steps_of_a_prelu(rank):
    def body(x):
        y = layers.Conv2D(4, 3)(layers.BatchNormalization()(x))
        y = layers.GlobalAveragePooling2D()(y) if rank == 2 else y
        y = layers.PReLU('uniform', shared_axes=[1, 2] if rank == 4 else None, name='act')(y)
        return layers.Dense(5)(y if rank == 2 else layers.GlobalAveragePooling2D()(y))

    folded = folded_same(make(body), -9, 9)
    assert type(folded.get_layer('act')) is layers.Add
    assert not folded.get_layer('act_sloped').trainable


class FixedDropout(layers.Dropout):
    """As old EfficientNets have it."""

    def _get_noise_shape(self, inputs):
        return (None, 1, 1, 1)


def test_what_does_nothing_in_inference_is_dropped_under_any_name():
    folded = folded_same(make(lambda x: end(FixedDropout(0.5)(layers.Conv2D(4, 3)(x)))))
    assert not any(isinstance(layer, layers.Dropout) for layer in folded.layers)


# Other layers


@pytest.mark.parametrize('scale, offset', [(2.0, -1.0), ([1.0, 0.0, -3.0], [0.5, 2.0, 0.0])])
def test_rescaling(scale, offset):
    # Straight into `fold`: `flatten` gives its Rescaling a name of its own.
    model = make(lambda x: end(layers.Rescaling(scale, offset, name='scale')(x)))
    folded = fold(model)
    assert_same(model, folded)
    assert type(folded.get_layer('scale')) is layers.DepthwiseConv2D
    assert not folded.get_layer('scale').trainable
    folded_same(make(lambda x: layers.Rescaling(0.5, offset=2.0)(end(x))))


@pytest.mark.parametrize('invert', [False, True])
@pytest.mark.parametrize('axis, shape', [(-1, 3), (None, ())])
def test_normalization(invert, axis, shape):
    mean, variance = np.full(shape, 0.4), np.full(shape, 0.04)
    x = tf_keras.Input((8, 8, 3))
    layer = layers.Normalization(axis, mean, variance, invert, name='normal')
    model = random_moments(tf_keras.Model(x, end(layer(x))))
    folded = fold(model)
    assert_same(model, folded)
    assert not folded.get_layer('normal').trainable


def test_sums_and_products_of_many_values_are_made_in_pairs():
    def body(x):
        y, z = layers.Conv2D(3, 1)(x), layers.Conv2D(3, 1)(x)
        total = layers.Add(name='total')([x, y, z, y])
        product = layers.Multiply(name='product')([total, y, z])
        return end(layers.Average(name='average')([product, total, x]))

    folded = folded_same(make(body))
    assert all(
        len(x.input) == 2 for x in folded.layers if isinstance(x, (layers.Add, layers.Multiply))
    )
    assert {'total', 'product', 'average'} <= set(names(folded))


def test_average_pools_have_ranges_of_their_own():
    def body(x):
        x = layers.AveragePooling2D((2, 3), strides=(2, 1), name='part')(x)
        return layers.Dense(4)(layers.Flatten()(layers.AveragePooling2D((4, 6), name='whole')(x)))

    folded = folded_same(make(body))
    part = folded.get_layer('part')
    assert type(part) is layers.DepthwiseConv2D and not part.trainable
    assert type(folded.get_layer('whole')) is layers.GlobalAveragePooling2D


def test_merging_and_shaping_layers():
    def body(x):
        y = layers.Conv2D(4, 3, padding='same')(x)
        z = layers.AveragePooling2D(2, strides=1, padding='same')(y)
        x = layers.Concatenate()([layers.Add()([y, z]), layers.Subtract()([y, z]), x])
        x = layers.Concatenate(axis=1)([x, layers.Average()([x, x, layers.ReLU()(x)])])
        x = layers.UpSampling2D(2)(layers.MaxPooling2D(2)(layers.Permute((2, 1, 3))(x)))
        x = layers.UpSampling2D(2, interpolation='bilinear')(layers.Cropping2D(1)(x))
        x = layers.ZeroPadding2D(((1, 0), (2, 1)))(x)
        gate = layers.Dense(11, activation='sigmoid')(layers.GlobalAveragePooling2D()(x))
        x = layers.Multiply()([x, gate])
        gate = layers.Reshape((1, 1, 11))(layers.GlobalMaxPooling2D()(x))
        gate = layers.Conv2D(11, 1)(gate)
        x = layers.Multiply()([x, gate])
        a, b = layers.Flatten()(gate), layers.GlobalAveragePooling2D(keepdims=True)(x)
        y = layers.Concatenate(axis=1)([a, layers.Flatten()(b)])
        x = layers.Concatenate()([layers.Dense(4)(y), layers.Flatten()(layers.Conv2D(2, 1)(x))])
        return layers.Reshape((5,))(layers.Reshape((1, 5, 1))(layers.Dense(5)(x)))

    folded = folded_same(make(body))
    # The long Flatten, and the way into [1, 5, 1] and back: nothing else changes shape.
    assert kinds(folded).count('Reshape') == 3
    assert kinds(folded).count('Flatten') == 1


def test_outputs_that_are_images_or_softmax():
    model = make(lambda x: layers.Conv2D(5, 1)(layers.BatchNormalization()(x)))
    assert kinds(folded_same(model))[-1] == 'Conv2D'
    model = make(lambda x: layers.Softmax()(end(x)))
    assert kinds(folded_same(model))[-2:] == ['Activation', 'Flatten']


def test_dense_layers_on_images():
    folded = folded_same(make(lambda x: end(layers.Dense(4, name='mix')(x))))
    assert type(folded.get_layer('mix')) is layers.Conv2D


# Refusals


@pytest.mark.parametrize(
    'layer, words',
    [
        (lambda: layers.Conv2DTranspose(4, 3, name='odd'), ['Conv2DTranspose']),
        (lambda: layers.PReLU(name='odd'), ['PReLU', 'channel']),
        (lambda: layers.ELU(name='odd'), ['ELU']),
        (lambda: layers.ReLU(3.0, name='odd'), ['ReLU', 'max_value']),
        (lambda: layers.ReLU(threshold=0.5, name='odd'), ['ReLU', 'threshold']),
        (lambda: layers.Activation('elu', name='odd'), ['Activation', "'elu'"]),
        (lambda: layers.Conv2D(3, 1, activation='selu', name='odd'), ['Conv2D', "'selu'"]),
        (lambda: layers.Softmax(axis=1, name='odd'), ['Softmax', 'axis 1']),
        (lambda: layers.BatchNormalization(axis=1, name='odd'), ['BatchNormalization', 'axis']),
        (lambda: layers.Rescaling(np.ones((8, 1, 3)), name='odd'), ['Rescaling', 'channel']),
        (lambda: layers.UpSampling2D(interpolation='bicubic', name='odd'), ['bicubic']),
        (lambda: LogProbabilities(name='odd'), ['LogProbabilities']),
        (lambda: layers.Conv2D(4, 3, dilation_rate=2, name='odd'), ['Conv2D', 'dilation_rate']),
        (lambda: layers.DepthwiseConv2D(3, dilation_rate=(1, 2), name='odd'), ['dilation_rate']),
        (
            lambda: (
                lambda x: layers.Reshape((8, 8, 3))(
                    HardSigmoid(name='odd')(layers.Reshape((64, 3))(x))
                )
            ),
            ['HardSigmoid on (64, 3)'],
        ),
    ],
)
def test_what_the_student_can_not_hold_is_refused(layer, words):
    x = tf_keras.Input((8, 8, 3))
    model = tf_keras.Model(x, end(layer()(x)))
    with pytest.raises(UserError) as error:
        fold(model, 'model.h5')
    message = str(error.value)
    assert all(
        word in message
        for word in [
            'model.h5',
            "'odd'",
            *words,
            'quantize with --method=ptq --range_estimator=tflite',
        ]
    )
    assert '\n' not in message


def test_arithmetic_that_vectors_as_images_would_change_is_refused():
    def body(x):
        x = layers.Reshape((3, 64))(x)
        return layers.Flatten()(
            layers.Multiply(name='odd')([x, layers.Dense(64)(layers.Flatten()(x))])
        )

    with pytest.raises(UserError, match="'odd'"):
        fold(make(body))
