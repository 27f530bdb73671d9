"""The flat model is compared with the original where a saturated softmax hides nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.flattening import comparison
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers
SPEC = InputSpec((8, 8), 3, 0.5, 0.5)


def classifier(end, library=tf_keras):
    k = library.layers
    x = images = library.Input((8, 8, 3))
    x = k.BatchNormalization()(k.Conv2D(4, 3)(x))
    return library.Model(images, end(k.GlobalAveragePooling2D()(k.ReLU()(x))))


def saturated(x):
    bias = tf_keras.initializers.Constant([200.0, 0, 0, 0, 0])
    return layers.Softmax()(layers.Dense(5, bias_initializer=bias)(x))


def saturated_unit(x):
    bias = tf_keras.initializers.Constant(40.0)
    return layers.Dense(1, activation='sigmoid', bias_initializer=bias)(x)


def clipped(x):
    return tf.clip_by_value(saturated(x), 1e-7, 1 - 1e-7)


@pytest.mark.parametrize('end', [saturated, saturated_unit, clipped])
def test_other_answers_behind_a_saturated_end_are_seen(end):
    model = classifier(end)
    flat = flatten(model)
    probabilities = model(np.ones((1, 8, 8, 3), np.float32)).numpy()
    assert probabilities.max() >= 1 - 1e-6
    comparison.check_same(model, flat, SPEC, 'net')
    convolution = next(x for x in flat.layers if isinstance(x, layers.Conv2D))
    kernel, *rest = convolution.get_weights()
    convolution.set_weights([kernel[:, :, ::-1] + 0.1, *rest])
    with pytest.raises(UserError, match='net cannot be taken apart: .* gives other answers'):
        comparison.check_same(model, flat, SPEC, 'net')


def test_load_teacher_compares(monkeypatch):
    model = randomize(classifier(saturated))
    load_teacher(model, input_spec=SPEC)
    monkeypatch.setattr(
        'zscgan_tf.teacher.loading.flatten', lambda *args: randomize(flatten(*args), seed=1)
    )
    with pytest.raises(UserError, match='cannot be taken apart'):
        load_teacher(model, input_spec=SPEC)


@pytest.mark.parametrize('library', [tf_keras, keras], ids=['tf_keras', 'keras'])
@pytest.mark.parametrize('policy', ['mixed_bfloat16', 'mixed_float16', 'bfloat16'])
def test_originals_in_16_bits_are_compared_as_closely(library, policy):
    mixed = library.mixed_precision
    mixed.set_global_policy(policy)
    try:
        model = classifier(library.layers.Dense(5), library)
    finally:
        mixed.set_global_policy('float32')
    teacher = load_teacher(model, input_spec=SPEC)
    bias = teacher.model.layers[-1].bias
    spread = teacher.logits(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype('f')).numpy()
    bias.assign_add([0.02 * spread.std(), 0, 0, 0, 0])
    with pytest.raises(UserError, match='cannot be taken apart'):
        comparison.check_same(model, teacher.model, SPEC, 'net')


@pytest.mark.parametrize('library', [tf_keras, keras], ids=['tf_keras', 'keras'])
def test_a_normalization_in_16_bits_keeps_its_digits(library):
    pixels = np.random.default_rng(0).uniform(size=(50, 8, 8, 3)).astype(np.float32)
    library.mixed_precision.set_global_policy('mixed_bfloat16')
    try:
        normalization = library.layers.Normalization()
        normalization.adapt(pixels)
        images = library.Input((8, 8, 3))
        x = library.layers.BatchNormalization()(library.layers.Conv2D(4, 3)(normalization(images)))
        x = library.layers.Dense(5, dtype='float32')(library.layers.GlobalMaxPooling2D()(x))
        model = library.Model(images, x)
    finally:
        library.mixed_precision.set_global_policy('float32')
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    first = teacher.model.layers[1]
    found = tf_keras.Model(teacher.model.input, first.output)(np.ones((1, 8, 8, 3), 'f')).numpy()
    moments = (normalization.adapt_mean, normalization.adapt_variance)
    mean, variance = (np.float64(np.array(value)).ravel() for value in moments)
    expected = (1 - mean) / np.sqrt(variance)
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-5)


def test_a_wrapped_layer_in_16_bits_becomes_float32():
    tf_keras.mixed_precision.set_global_policy('mixed_float16')
    try:
        convolution = layers.TimeDistributed(layers.Conv1D(4, 3))
        images = layers.Input((8, 8, 3))
        x = layers.GlobalMaxPooling2D()(layers.BatchNormalization()(convolution(images)))
        model = tf_keras.Model(images, layers.Dense(5, dtype='float32')(x))
    finally:
        tf_keras.mixed_precision.set_global_policy('float32')
    teacher = load_teacher(model, input_spec=SPEC)
    (found,) = (x.layer for x in teacher.model.layers if hasattr(x, 'layer'))
    assert found.compute_dtype == 'float32'


def test_what_has_no_float32_copy_is_compared_less_closely():
    class Net(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.end = layers.BatchNormalization(), layers.Dense(3)
            self.flat = layers.Flatten()

        def call(self, x):
            return self.end(self.flat(self.norm(x)))

    tf_keras.mixed_precision.set_global_policy('mixed_bfloat16')
    try:
        model = Net()
        model(np.zeros((1, 8, 8, 3), np.float32))
    finally:
        tf_keras.mixed_precision.set_global_policy('float32')
    load_teacher(model, input_spec=SPEC)
