"""Logits are found behind every kind of head, and the model still ends as it did."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.numbers import softmax
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers


def loaded(body, keep=()):
    """A teacher whose layers behind the last pooling are `body`'s, and its original.

    Layers named in `keep` keep their weights; the others get random ones.
    """
    x = images = tf_keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3)(x))
    model = tf_keras.Model(images, body(layers.GlobalAveragePooling2D(keepdims=True)(x)))
    kept = [(layer, layer.get_weights()) for layer in model.layers if layer.name in keep]
    randomize(model)
    for layer, weights in kept:
        layer.set_weights(weights)
    return load_teacher(model, input_spec={'preprocessing': 'tf'}), model


def answers(teacher, model):
    """(the teacher's logits, the original's outputs) on random images; checks the model's end."""
    x = np.random.default_rng(3).uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32)
    outputs = model(x, training=False).numpy()
    np.testing.assert_allclose(teacher.model(x), outputs, atol=1e-5)
    return teacher.logits_model(x).numpy(), outputs


@pytest.mark.parametrize(
    'body',
    [
        lambda x: layers.Dense(5, activation='softmax')(layers.Flatten()(x)),
        lambda x: layers.Dense(5, activation=tf.nn.softmax)(layers.Flatten()(x)),
        lambda x: layers.Softmax()(layers.Dense(5)(layers.Flatten()(x))),
        lambda x: layers.Activation('softmax')(layers.Flatten()(layers.Conv2D(5, 1)(x))),
        lambda x: tf.nn.softmax(layers.Dense(5)(tf.squeeze(x, [1, 2]))),
        lambda x: layers.Flatten()(layers.Conv2D(5, 1, activation='softmax')(x)),
        lambda x: layers.Conv2D(5, 1, activation='softmax')(x),
        lambda x: layers.Activation('linear', dtype='float32')(
            layers.Dropout(0.5)(layers.Reshape((5,))(layers.Softmax(3)(layers.Conv2D(5, 1)(x))))
        ),
    ],
)
def test_softmax_is_cut_off(body):
    teacher, model = loaded(body)
    assert (teacher.head, teacher.num_classes) == ('softmax', 5)
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(softmax(logits), outputs.reshape(-1, 5), atol=1e-6)
    assert (logits < 0).any()
    # Both models share their layers.
    kept = set(map(id, teacher.model.layers))
    assert all(id(layer) in kept for layer in teacher.logits_model.layers if layer.weights)


@pytest.mark.parametrize(
    'body',
    [
        lambda x: layers.Dense(5)(layers.Flatten()(x)),
        lambda x: layers.Conv2D(5, 1)(x),
        lambda x: layers.Flatten()(layers.BatchNormalization()(layers.Conv2D(5, 1)(x))),
        lambda x: layers.ReLU()(layers.Dense(5)(layers.Flatten()(x))),
    ],
)
def test_logits(body):
    teacher, model = loaded(body)
    assert (teacher.head, teacher.num_classes) == ('logits', 5)
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(logits, outputs.reshape(-1, 5), atol=1e-6)


def test_probabilities_without_a_softmax():
    def body(x):
        positive = layers.Dense(4, activation='softmax')(layers.Flatten()(x))
        other = layers.Dense(4, activation='softmax')(layers.Flatten()(x))
        return layers.Average()([positive, other])

    teacher, model = loaded(body)
    assert (teacher.head, teacher.num_classes) == ('probabilities', 4)
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(logits, np.log(outputs), atol=1e-5)


@pytest.mark.parametrize(
    'body',
    [
        lambda x: layers.Dense(1, activation='sigmoid')(layers.Flatten()(x)),
        lambda x: layers.Flatten()(tf.sigmoid(layers.Conv2D(1, 1)(x))),
    ],
)
def test_one_sigmoid_unit_is_two_classes(body):
    teacher, model = loaded(body)
    assert (teacher.head, teacher.num_classes) == ('sigmoid', 2)
    logits, outputs = answers(teacher, model)
    assert not logits[:, 0].any()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 1:])), outputs, atol=1e-6)


def test_one_probability_without_a_sigmoid():
    def body(x):
        first, second = (layers.Dense(1, activation='sigmoid')(layers.Flatten()(x)) for _ in '12')
        return layers.Average()([first, second])

    teacher, model = loaded(body)
    assert (teacher.head, teacher.num_classes) == ('probabilities', 2)
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(softmax(logits)[:, 1:], outputs, atol=1e-5)


def one_minus_sigmoid(x):
    return 1.0 - tf.nn.sigmoid(layers.Dense(1)(layers.Flatten()(x)))


def half_of_one_plus_tanh(x):
    return tf.nn.tanh(layers.Dense(1)(layers.Flatten()(x))) * 0.5 + 0.5


def second_of_two(x):
    two = layers.Dense(2, activation='softmax')(layers.Flatten()(x))
    pick = tf_keras.initializers.Constant([[0.0], [1.0]])
    return layers.Dense(1, use_bias=False, kernel_initializer=pick, name='select')(two)


@pytest.mark.parametrize('body', [one_minus_sigmoid, half_of_one_plus_tanh, second_of_two])
def test_one_probability_behind_something(body):
    teacher, model = loaded(body, keep=('select',))
    assert (teacher.head, teacher.num_classes) == ('probabilities', 2)
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(softmax(logits)[:, 1:], outputs, atol=1e-6)
    assert np.ptp(outputs) > 0.05


def clipped(x):
    return tf.clip_by_value(tf.nn.softmax(layers.Dense(5)(layers.Flatten()(x))), 1e-7, 1 - 1e-7)


def smoothed(x):
    return tf.nn.softmax(layers.Dense(5)(layers.Flatten()(x))) * 0.9 + 0.02


def averaged(x):
    z = layers.Dense(5)(layers.Flatten()(x))
    return (tf.nn.softmax(z) + tf.nn.softmax(2 * z)) / 2.0


def multiplied(x):
    matrix = np.random.default_rng(0).dirichlet(np.ones(5), 5)
    mixing = layers.Dense(
        5,
        use_bias=False,
        kernel_initializer=tf_keras.initializers.Constant(matrix),
        name='select',
    )
    return mixing(tf.nn.softmax(layers.Dense(5)(layers.Flatten()(x))))


@pytest.mark.parametrize('body', [clipped, smoothed, averaged, multiplied])
def test_probabilities_behind_a_softmax(body):
    teacher, model = loaded(body, keep=('select',))
    assert (teacher.head, teacher.num_classes) == ('probabilities', 5)
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(softmax(logits), outputs, atol=1e-6)
    assert np.ptp(outputs) > 0.05


@pytest.mark.parametrize(
    'body',
    [
        lambda x: tf.nn.softmax(layers.Dense(5)(layers.Flatten()(x))) * 0.9,
        lambda x: 1.0 - tf.nn.sigmoid(layers.Dense(3)(layers.Flatten()(x))),
        lambda x: 2.0 * tf.nn.sigmoid(layers.Dense(1)(layers.Flatten()(x))) - 1.0,
        lambda x: layers.Softmax(1)(layers.Dense(5)(x)),
    ],
)
def test_what_makes_no_probabilities_is_refused(body):
    with pytest.raises(UserError, match='probabilities'):
        loaded(body)


def several(units, activation):
    """Dense layers beside each other."""

    def body(x):
        x = layers.Flatten()(x)
        return layers.Concatenate()([layers.Dense(units, activation)(x) for _ in range(3)])

    return body


@pytest.mark.parametrize(
    'body',
    [
        several(1, 'sigmoid'),
        several(2, 'softmax'),
        several(1, 'hard_sigmoid'),
        lambda x: layers.Dense(5, activation='hard_sigmoid')(layers.Flatten()(x)),
        lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(5, 1, activation='sigmoid')(x)),
    ],
)
def test_outputs_of_zero_to_one_are_no_logits(body):
    words = r'outputs lie in \[0, 1\] whatever the image, .*: pass a model that ends in its logits'
    with pytest.raises(UserError, match=words):
        loaded(body)


@pytest.mark.parametrize('activation', ['relu', 'tanh', 'softplus'])
def test_outputs_behind_another_function_are_logits(activation):
    teacher, model = loaded(lambda x: layers.Dense(5, activation)(layers.Flatten()(x)))
    assert teacher.head == 'logits'
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(logits, outputs, atol=1e-6)


def test_one_hard_sigmoid_unit_is_two_classes():
    """tf_keras' own hard sigmoid, clip(0.2 x + 0.5, 0, 1)."""
    teacher, model = loaded(lambda x: layers.Dense(1, 'hard_sigmoid')(layers.Flatten()(x)))
    assert (teacher.head, teacher.num_classes) == ('probabilities', 2)
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(softmax(logits)[:, 1:], outputs, atol=1e-5)
    assert np.ptp(outputs) > 0.05


def test_a_dense_layer_behind_a_hidden_sigmoid_gives_logits():
    def body(x):
        return layers.Dense(5)(layers.Dense(4, activation='sigmoid')(layers.Flatten()(x)))

    teacher, model = loaded(body)
    assert (teacher.head, teacher.num_classes) == ('logits', 5)
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(logits, outputs, atol=1e-6)


def test_a_small_positive_logit_is_no_probability():
    def body(x):
        return layers.Dense(1, kernel_initializer='zeros', name='select')(layers.Flatten()(x))

    teacher, model = loaded(body, keep=('select',))
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(logits[:, 1:], outputs, atol=1e-6)
    assert not logits[:, 0].any()


def test_one_linear_unit_is_two_classes():
    teacher, model = loaded(lambda x: layers.Dense(1)(layers.Flatten()(x)))
    assert (teacher.head, teacher.num_classes) == ('sigmoid', 2)
    logits, outputs = answers(teacher, model)
    assert not logits[:, 0].any()
    np.testing.assert_allclose(logits[:, 1:], outputs, atol=1e-6)


@pytest.mark.parametrize('name', ['two_classes', 'log_probabilities', 'logits_vector'])
def test_layers_may_be_called_as_those_that_are_added(name):
    """A unit, a probability behind something, and an image of 1x1: each has a layer added."""

    def unit(x):
        return layers.Dense(1, activation='sigmoid', name=name)(layers.Flatten()(x))

    def behind(x):
        return layers.Reshape((1, 1, 1))(layers.Rescaling(0.5)(unit(x)))

    for body in (unit, behind):
        teacher, model = loaded(body)
        logits, outputs = answers(teacher, model)
        expected = 1 / (1 + np.exp(logits[:, :1] - logits[:, 1:]))
        np.testing.assert_allclose(expected, outputs.reshape(-1, 1), atol=1e-5)


@pytest.mark.parametrize('library', ['tf_keras', 'keras'])
def test_a_softmax_of_one_unit_is_refused(library):
    library = importlib.import_module(library)
    x = inputs = library.layers.Input((4, 4, 3))
    x = library.layers.BatchNormalization()(library.layers.Conv2D(3, 3)(x))
    x = library.layers.Dense(1, activation='softmax')(library.layers.Flatten()(x))
    with pytest.raises(UserError, match='a softmax of one unit, which gives 1 whatever'):
        load_teacher(library.Model(inputs, x), input_spec={'preprocessing': 'unit'})


def test_several_sigmoid_units():
    teacher, model = loaded(lambda x: layers.Dense(3, activation='sigmoid')(layers.Flatten()(x)))
    assert (teacher.head, teacher.num_classes) == ('labels', 3) and teacher.has_independent_labels
    logits, outputs = answers(teacher, model)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), outputs, atol=1e-6)


def test_ten_thousand_classes():
    teacher, _ = loaded(lambda x: layers.Dense(10_000, activation='softmax')(layers.Flatten()(x)))
    assert teacher.num_classes == 10_000


def test_a_map_of_classes_is_refused():
    x = images = tf_keras.Input((8, 8, 3))
    x = layers.Softmax()(layers.Conv2D(5, 3)(layers.BatchNormalization()(x)))
    with pytest.raises(UserError, match='one value a class'):
        load_teacher(tf_keras.Model(images, x), input_spec={'preprocessing': 'tf'})
