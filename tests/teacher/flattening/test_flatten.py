"""Flat copies give the original's answers, whatever the original is made of."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.description import parameter_count
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.teacher.tap import batch_norm_inputs

layers = tf_keras.layers


def make(body, channels=3, size=8, name=None):
    """A functional model with random weights from a function of its input."""
    x = tf_keras.Input((size, size, channels))
    return randomize(tf_keras.Model(x, body(x), name=name))


def end(x, classes=5):
    """Pooling and logits."""
    return layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))


def assert_same(model, flat, low=-1.0, high=1.0):
    """Equal outputs to 1e-5 of their deviation, frozen layers, no layer of the original's."""
    shape = (4, *flat.input_shape[1:])
    x = np.random.default_rng(1).uniform(low, high, shape).astype(np.float32)
    expected = np.asarray(model(x, training=False))
    found = flat(x, training=True).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * expected.std()
    assert not flat.trainable_weights
    allowed = {'HardSigmoid', 'HardSwish', 'SelectChannels'} | set(dir(layers))
    assert {type(layer).__name__ for layer in flat.layers} <= allowed
    assert not any(layer.__class__.__name__.endswith('Lambda') for layer in flat.layers)
    original = set(map(id, model._flatten_layers()))
    assert not any(id(layer) in original for layer in flat.layers)


def names(flat):
    return [type(layer).__name__ for layer in flat.layers]


class Flip(layers.RandomFlip):
    """A user's own name for it."""


def test_batch_norms_of_tensorflow_1():
    """A file of that time names them BatchNormalizationV1."""

    def body(x):
        config = {'name': 'old', 'axis': [3], 'epsilon': 0.01}
        norm = layers.deserialize({'class_name': 'BatchNormalizationV1', 'config': config})
        return end(layers.ReLU()(norm(layers.Conv2D(4, 3)(x))))

    model = make(body)
    flat = flatten(model)
    assert_same(model, flat)
    assert 'BatchNormalization' in names(flat)
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    assert [layer.name for layer, _ in batch_norm_inputs(teacher.model)] == ['old']


def test_constants_that_stand_for_slices_are_no_parameters():
    def body(x):
        x = layers.BatchNormalization()(layers.Conv2D(12, 3)(x))
        one, two = tf.split(x, 2, axis=-1)
        return end(tf.concat([layers.Conv2D(6, 1)(one), two], -1))

    model = make(body)
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    assert parameter_count(teacher) == model.count_params() < teacher.model.count_params()


def test_functional_with_batch_norms_in_all_places():
    def body(x):
        shared = layers.BatchNormalization()
        x = layers.BatchNormalization()(x)
        x = layers.Conv2D(6, 3, padding='same', activation='relu')(x)
        y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding='same')(x))
        x = shared(layers.Add()([x, y]))
        x = shared(layers.Conv2D(6, 1)(x))
        x = layers.BatchNormalization(scale=False, center=False)(layers.Dropout(0.5)(x))
        return layers.BatchNormalization()(end(layers.ReLU()(x)))

    model = make(body)
    before = [w.numpy() for w in model.weights]
    flat = flatten(model)
    assert_same(model, flat)
    assert names(flat).count('BatchNormalization') == 5
    assert 'Dropout' not in names(flat)
    # The original is untouched.
    assert model.trainable_weights
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_sequential():
    model = tf_keras.Sequential(
        [
            layers.Conv2D(4, 3, strides=2, input_shape=(9, 7, 2)),
            layers.BatchNormalization(),
            layers.Activation('hard_sigmoid'),
            layers.Flatten(),
            layers.Dense(3, activation='softmax'),
        ]
    )
    flat = flatten(randomize(model))
    assert_same(model, flat)
    assert names(flat)[-2:] == ['Dense', 'Activation']


def test_sequential_that_was_built_by_a_call():
    model = tf_keras.Sequential(
        [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()]
    )
    model(tf.zeros((1, 6, 6, 3)))
    flat = flatten(randomize(model), (6, 6, 3))
    assert_same(model, flat)


def test_models_nested_twice_and_shared():
    inner = tf_keras.Sequential(
        [layers.Conv2D(4, 3, padding='same', input_shape=(8, 8, 4)), layers.BatchNormalization()],
        name='inner',
    )
    x = tf_keras.Input((8, 8, 4))
    middle = tf_keras.Model(x, layers.ReLU()(inner(x) + x), name='middle')
    model = make(lambda x: end(middle(middle(layers.Conv2D(4, 1)(x)))))
    flat = flatten(model)
    assert_same(model, flat)
    assert names(flat).count('BatchNormalization') == 1
    assert 'middle/inner/batch_normalization' in [
        layer.name.rsplit('_', 1)[0] if layer.name[-1].isdigit() else layer.name
        for layer in flat.layers
    ]


def test_names_and_order_repeat():
    def body(x):
        return end(tf.nn.relu(layers.BatchNormalization(name='bn')(x) * 2.0 + 1.0))

    model = make(body)
    first, second = (flatten(model) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


@pytest.mark.parametrize(
    'body, expected',
    [
        (lambda x: x + layers.Conv2D(3, 1)(x), ['Add']),
        (lambda x: x - layers.Conv2D(3, 1)(x), ['Subtract']),
        (lambda x: x * layers.Conv2D(3, 1)(x), ['Multiply']),
        (lambda x: (x / 127.5 - 1.0) * [1.0, 2.0, 3.0], ['Rescaling']),
        (lambda x: 1.0 - x, ['Rescaling']),
        (lambda x: -x + tf.constant([1.0, 2.0, 3.0]), ['Rescaling']),
        (lambda x: tf.math.square(x), ['Multiply']),
        (lambda x: tf.nn.relu(x), ['ReLU']),
        (lambda x: tf.nn.relu6(x * 9), ['ReLU']),
        (lambda x: tf_keras.activations.relu(x * 9, max_value=6.0), ['ReLU']),
        (lambda x: tf.maximum(x, 0.25), ['ReLU']),
        (lambda x: tf.minimum(x, 0.25), ['ReLU']),
        (lambda x: tf.clip_by_value(x, -0.5, 0.25), ['ReLU']),
        (lambda x: tf.nn.leaky_relu(x, 0.1), ['LeakyReLU']),
        (lambda x: tf.nn.silu(x), ['Activation']),
        (lambda x: tf.nn.gelu(x), ['Activation']),
        (lambda x: tf.nn.gelu(x, approximate=True), ['Activation', 'Multiply', 'Add']),
        (lambda x: tf.exp(x), ['Activation']),
        (lambda x: x**3, ['Multiply']),
        (lambda x: tf.sigmoid(x), ['Activation']),
        (lambda x: tf.nn.tanh(x), ['Activation']),
        (lambda x: tf_keras.activations.hard_sigmoid(x * 4), ['Rescaling', 'ReLU']),
        (lambda x: tf.identity(tf.stop_gradient(x)), []),
        (lambda x: tf.cast(x, tf.float32), []),
        (lambda x: layers.Add()([x, tf.constant([[[[0.5, -1, 2]]]])]), ['Rescaling']),
        (lambda x: layers.Subtract()([tf.constant([[[[0.5, -1, 2]]]]), x]), ['Rescaling']),
        (
            lambda x: layers.Multiply()([x, x, tf.constant([[[[0.5, -1, 2]]]])]),
            ['Multiply', 'Rescaling'],
        ),
        (lambda x: layers.Maximum()([x, tf.constant([[[[0.5, -1, 2]]]])]), ['Rescaling', 'ReLU']),
        (lambda x: tf.concat([x, x], axis=3), ['Concatenate']),
        (lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 3], [0, 0]]), ['ZeroPadding2D']),
        (lambda x: tf.pad(x, [[0, 0], [0, 0], [0, 0], [1, 2]]), ['SelectChannels']),
        (lambda x: tf.transpose(x, [0, 3, 2, 1]), ['Permute']),
        (lambda x: tf.transpose(x, [0, -1, 1, 2]), ['Permute']),
        (lambda x: tf.transpose(x, [0, -2, -3, -1]), ['Permute']),
        (lambda x: tf.concat([x, x], axis=-2), ['Concatenate']),
        (lambda x: tf.concat([x], axis=-1), []),
        (lambda x: layers.Concatenate()([x]), []),
        (lambda x: Flip()(x), []),
        (lambda x: tf.nn.softmax(9 * x, axis=-2), ['Softmax']),
        (lambda x: layers.Normalization(axis=-3, mean=range(8), variance=range(1, 9))(x), []),
        (lambda x: x[..., ::-1], ['SelectChannels']),
        (lambda x: tf.reverse(x, [-1]), ['SelectChannels']),
        (lambda x: x[:, -5:-2, :, -2:], ['Cropping2D', 'SelectChannels']),
        (lambda x: x[:, 1:-2, ::3, :], ['Cropping2D', 'AveragePooling2D']),
        (lambda x: x[:, ::2, 1::2], ['AveragePooling2D']),
        (lambda x: x[..., 1:], ['SelectChannels']),
        (lambda x: tf.split(x, 3, axis=-1)[1], ['SelectChannels']),
        (lambda x: tf.nn.max_pool2d(x, 2, 2, 'SAME'), ['MaxPooling2D']),
        (lambda x: tf.nn.avg_pool2d(x, [1, 3, 3, 1], [1, 2, 2, 1], 'VALID'), ['AveragePooling2D']),
        (lambda x: tf.reshape(x, [tf.shape(x)[0], 4, 16, 3]), ['Reshape']),
    ],
)
def test_operations_on_images(body, expected):
    model = make(lambda x: end(layers.BatchNormalization()(body(x))))
    flat = flatten(model)
    assert_same(model, flat)
    assert set(expected) <= set(names(flat))


@pytest.mark.parametrize(
    'body',
    [
        lambda x: tf.reduce_mean(x, [1, 2]),
        lambda x: tf.reduce_max(x, [-3, -2]),
        lambda x: tf.reduce_sum(x, axis=(1, 2)),
        lambda x: tf.squeeze(tf.reduce_mean(x, [1, 2], keepdims=True), [1, 2]),
        lambda x: tf.reduce_mean(x, [1, 2], keepdims=True)[:, 0, 0],
        lambda x: tf.reduce_mean(x, [1, 2])[:, tf.newaxis, tf.newaxis, :],
        lambda x: tf.expand_dims(tf.reduce_mean(x, [1, 2]), 1),
        lambda x: tf.reshape(x, [-1, 8 * 8 * 3]),
        lambda x: tf.reshape(x, [tf.shape(x)[0], -1]),
        lambda x: tf.nn.softmax(tf.reduce_mean(x, [1, 2])),
        lambda x: tf.reduce_mean(x, [-2, -3])[:, ::-1],
        lambda x: tf.reduce_mean(x, [1, 2])[:, 1:],
        lambda x: tf.reduce_mean(x, [1, 2])[:, ::2],
        lambda x: tf.split(tf.reduce_mean(x, [1, 2]), [1, 2], axis=-1)[1],
        lambda x: tf_keras.activations.softmax(tf.reduce_mean(x, [1, 2])),
    ],
)
def test_operations_at_the_end(body):
    model = make(lambda x: body(layers.BatchNormalization()(x)))
    assert_same(model, flatten(model))


@pytest.mark.parametrize(
    'hard_swish',
    [
        lambda x: x * tf.nn.relu6(x + 3) / 6,
        lambda x: x * (tf.nn.relu6(x + 3) * (1 / 6)),
        lambda x: tf.nn.relu6(x + 3.0) / 6 * x,
        lambda x: (x / 6) * tf.nn.relu6(3 + x),
        lambda x: layers.Multiply()([x, layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)]),
    ],
)
def test_hard_swish_is_one_layer(hard_swish):
    model = make(lambda x: end(hard_swish(layers.BatchNormalization()(x) * 5.0)))
    flat = flatten(model)
    assert_same(model, flat)
    kinds = names(flat)
    assert kinds.count('HardSwish') == 1
    assert not {'ReLU', 'Multiply', 'HardSigmoid'} & set(kinds)


def test_hard_sigmoid_and_its_parts():
    def body(x):
        x = layers.BatchNormalization()(x)
        shifted = tf.nn.relu6(x + 3.0)
        gate = layers.Conv2D(3, 1)(x) * (shifted / 6.0)
        return end(gate + shifted)

    model = make(body)
    flat = flatten(model)
    assert_same(model, flat, -6, 6)
    assert names(flat).count('HardSigmoid') == 1
    assert names(flat).count('ReLU') == 1


ACTIVATIONS = [tf.nn.relu6, tf.nn.softmax, layers.ReLU(6.0), 'sigmoid']


@pytest.mark.parametrize('activation', [*ACTIVATIONS, lambda x: tf.nn.relu(x) * 0.5 + 1.0])
def test_fused_activations(activation):
    model = make(
        lambda x: end(layers.BatchNormalization()(layers.Conv2D(4, 3, activation=activation)(x)))
    )
    assert_same(model, flatten(model), -9, 9)


def test_lambda_layers_are_followed():
    model = make(
        lambda x: end(layers.Lambda(lambda x: tf.nn.relu(x) * 2)(layers.BatchNormalization()(x)))
    )
    assert_same(model, flatten(model))


class RawConvolution(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight('kernel', (3, 3, shape[-1], shape[-1]))
        self.bias = self.add_weight('bias', (shape[-1],))

    def call(self, x):
        x = tf.nn.bias_add(tf.nn.conv2d(x, self.kernel, 1, 'SAME'), self.bias)
        x = tf.nn.depthwise_conv2d(x, self.kernel[..., :1], [1, 1, 1, 1], 'VALID')
        x = tf.nn.convolution(x, self.kernel, strides=2, padding='SAME')
        return tf.gather(tf.matmul(x, self.kernel[0, 0]) ** 2, [2, 0], axis=-1)


def test_convolutions_of_the_users_own():
    model = make(lambda x: end(layers.BatchNormalization()(RawConvolution()(x))))
    flat = flatten(model)
    assert_same(model, flat)
    assert {'Conv2D', 'DepthwiseConv2D', 'SelectChannels'} < set(names(flat))


def test_an_open_image_size():
    model = make(lambda x: end(layers.BatchNormalization()(layers.Conv2D(4, 3)(x))), size=None)
    flat = flatten(model, (10, 12, 3))
    assert flat.input_shape == (None, 10, 12, 3)
    assert_same(model, flat)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'ResNet50',
        'MobileNet',
        'MobileNetV2',
        'MobileNetV3Small',
        'MobileNetV3Large',
        'EfficientNetB0',
    ],
)
def test_applications(name):
    builder = getattr(tf_keras.applications, name)
    model = randomize(
        builder(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
    )
    flat = flatten(model)
    assert_same(model, flat, 0, 255)
    if 'V3' in name:
        assert names(flat).count('HardSwish') > 5
        assert names(flat).count('HardSigmoid') > 5


def test_depthwise_convolutions_of_unequal_strides():
    """TensorFlow computes them with oneDNN alone: elsewhere one line says so."""
    wide = layers.DepthwiseConv2D(3, strides=(1, 2), name='wide')
    model = make(lambda x: end(layers.BatchNormalization()(wide(x))))
    try:
        model(np.zeros((1, 8, 8, 3), np.float32))
    except tf.errors.InvalidArgumentError:
        with pytest.raises(UserError, match='equal length strides .*/wide/.* TF_ENABLE_ONEDNN'):
            load_teacher(model, input_spec={'preprocessing': 'unit'})
    else:
        assert_same(model, flatten(model))


@pytest.mark.parametrize(
    'body',
    [
        layers.Resizing(8, 8),
        layers.UpSampling2D(1),
        lambda x: tf.image.resize(x, (8, 8)),
    ],
)
def test_a_resize_that_changes_nothing_is_dropped(body):
    model = make(lambda x: end(body(layers.BatchNormalization()(x))))
    flat = flatten(model)
    assert_same(model, flat)
    assert not {'Resizing', 'UpSampling2D'} & set(names(flat))


def test_a_reshape_to_the_number_of_images_that_a_model_is_made_for():
    x = images = tf_keras.Input((8, 8, 3), batch_size=4)
    x = tf.reshape(layers.BatchNormalization()(x), [4, 4, 16, 3])
    model = randomize(tf_keras.Model(images, end(x)))
    assert_same(model, flatten(model))
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    assert teacher.logits(np.zeros((7, 8, 8, 3), np.float32)).shape == (7, 5)
    x = images = tf_keras.Input((8, 8, 3), batch_size=4)
    x = tf.reshape(layers.BatchNormalization()(x), [2, 16, 8, 3])
    with pytest.raises(UserError, match='tf.reshape from'):
        flatten(tf_keras.Model(images, end(x)))
