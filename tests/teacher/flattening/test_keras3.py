"""Keras 3 models and their flat copies, run side by side."""

import os

os.environ.setdefault('KERAS_BACKEND', 'tensorflow')

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers, ops

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish, Reshape, SelectChannels

SHAPE = (8, 8, 4)


def images(shape, seed=1):
    return np.random.default_rng(seed).normal(0, 2, (4, *shape)).astype(np.float32)


def difference(model, flat, inputs):
    """Greatest difference of the outputs, in units of the original's deviation."""
    expected = np.asarray(model(inputs, training=False))
    found = np.asarray(flat(inputs, training=False))
    assert expected.shape == found.shape
    return np.abs(expected - found).max() / expected.std()


def check(model, shape=SHAPE, scale=1.0):
    """Randomises, flattens, compares; returns the flat model."""
    randomize(model)
    flat = flatten(model, shape)
    for layer in flat.layers:
        own = (HardSigmoid, HardSwish, Reshape, SelectChannels)
        assert type(layer).__module__.startswith('tf_keras.') or type(layer) in own
        assert 'OpLambda' not in type(layer).__name__
    assert difference(model, flat, scale * images(shape)) < 1e-5
    return flat


def check_function(function, shape=SHAPE, **kwargs):
    """`check` of the functional model x -> function(x)."""
    x = keras.Input(shape)
    return check(keras.Model(x, function(x)), shape, **kwargs)


def kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


def block(x, filters, stride=1):
    y = layers.Conv2D(filters, 3, stride, padding='same', use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(y))


def test_batch_norm_wherever_it_stands():
    def network(x):
        x = layers.Conv2D(6, 3)(layers.BatchNormalization()(x))
        y = layers.DepthwiseConv2D(3, padding='same')(x)
        y = layers.BatchNormalization()(y)
        x = layers.BatchNormalization()(layers.Add()([x, y]))
        return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))

    flat = check_function(network)
    assert kinds(flat).count('BatchNormalization') == 3


def test_sequential():
    model = keras.Sequential(
        [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)]
    )
    model(images(SHAPE))
    flat = check(model)
    assert [layer.name for layer in flat.layers[1:]] == [layer.name for layer in model.layers]
    with pytest.raises(UserError, match='call the model once'):
        flatten(keras.Sequential([layers.Flatten(), layers.Dense(3)]), SHAPE)


def test_nested_models_are_inlined_and_names_made_unique():
    inner_input = keras.Input((6, 6, 5))
    inner = keras.Model(inner_input, layers.Conv2D(5, 1, name='conv')(inner_input), name='inner')
    deep = keras.Sequential([keras.Input((6, 6, 5)), inner, layers.ReLU()], name='deep')
    x = keras.Input(SHAPE)
    y = layers.Conv2D(5, 3, name='conv')(x)
    # Used twice: its weights are shared.
    y = deep(layers.BatchNormalization()(deep(y)))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(y)))
    flat = check(model)
    names = [layer.name for layer in flat.layers]
    assert len(set(names)) == len(names) and {'conv', 'deep/inner/conv'} < set(names)
    assert flat.count_params() == model.count_params()


def test_nested_model_of_several_inputs_and_outputs():
    a, b = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    inner = keras.Model([a, b], [a - b, layers.Conv2D(4, 1)(b)])

    def network(x):
        c, d = inner([x, layers.Conv2D(4, 1)(x)])
        return layers.Concatenate()([c, d])

    check_function(network)


def test_shared_layers_stay_shared():
    conv, norm = layers.Conv2D(4, 3, padding='same', activation='hard_silu'), None
    norm = layers.BatchNormalization()
    flat = check_function(lambda x: norm(conv(norm(conv(x)))))
    assert sorted(kinds(flat)) == ['BatchNormalization', 'Conv2D', 'HardSwish', 'HardSwish']
    assert len(next(x for x in flat.layers if x.name == norm.name)._inbound_nodes) == 2


def test_deep_network_does_not_exhaust_the_stack():
    def network(x):
        for _ in range(600):
            x = layers.ReLU()(x)
        return x

    x = keras.Input((2, 2, 1))
    assert len(flatten(keras.Model(x, network(x))).layers) == 601


class Block(keras.layers.Layer):
    """A layer of layers, with a weight of its own."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding='same')
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name='scale_gamma')
        self.conv.build(shape)
        self.norm.build(shape)

    def call(self, inputs, training=None):
        x = self.drop(self.norm(self.conv(inputs), training=training), training=training)
        if training:
            x = x * 1e3
        return ops.hard_silu(inputs + ops.multiply(self.scale, x))


class Classifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [Block(4), Block(4)]
        self.stem = keras.Sequential([layers.Conv2D(4, 1), layers.ReLU()])
        self.head = layers.Dense(3, activation='softmax')

    def call(self, inputs, training=False):
        x = self.stem(inputs)
        for part in self.blocks:
            x = part(x, training=training)
        return self.head(ops.mean(x, axis=(1, 2)))


def test_subclassed_model():
    model = Classifier()
    model(images(SHAPE))
    flat = check(model)
    assert kinds(flat).count('BatchNormalization') == 2
    assert kinds(flat).count('HardSwish') == 2
    first = [layer.name for layer in flat.layers]
    assert [layer.name for layer in flatten(model, SHAPE).layers] == first


def test_subclassed_model_that_was_never_called():
    with pytest.raises(UserError, match='call the model once on a batch'):
        flatten(Classifier(), SHAPE)


def test_layer_of_the_users_in_a_functional_model():
    check_function(lambda x: layers.Flatten()(Block(4)(Block(4)(x))))


def test_layer_that_multiplies_by_a_weight_is_told_how():
    class Scaled(Block):
        def call(self, inputs):
            return self.scale * inputs

    with pytest.raises(UserError, match=r'ops.multiply\(weight, x\)'):
        check_function(Scaled(4))


class Functional(keras.Model):
    """A functional model in the clothes of a class."""

    def __init__(self):
        x = keras.Input(SHAPE)
        super().__init__(x, layers.Conv2D(3, 3, activation='hard_silu')(x))


class FunctionalWithCall(Functional):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training) + 1


def test_subclasses_of_functional_models():
    assert kinds(check(Functional())) == ['Conv2D', 'HardSwish']
    check(FunctionalWithCall())
    check_function(lambda x: layers.Flatten()(FunctionalWithCall()(x)))


def test_integer_inputs_and_mixed_precision():
    x = keras.Input(SHAPE, dtype='uint8')
    y = layers.Conv2D(4, 3, dtype='mixed_bfloat16')(layers.Rescaling(1 / 255)(x))
    model = randomize(keras.Model(x, ops.cast(y, 'float32')))
    flat = flatten(model)
    assert flat.inputs[0].dtype == tf.float32 and flat.output.dtype == tf.float32
    inputs = np.random.default_rng(0).integers(0, 256, (4, *SHAPE)).astype(np.float32)
    assert difference(model, flat, inputs) < 0.05


class MyConv(layers.Conv2D):
    def __init__(self, filters, **kwargs):
        super().__init__(filters, 3, padding='same', **kwargs)


class Standardized(layers.Conv2D):
    """Weight standardization: the kernel is computed from the weights."""

    def call(self, inputs):
        kernel = self.kernel - ops.mean(self.kernel, axis=(0, 1, 2), keepdims=True)
        return ops.conv(inputs, kernel, 1, self.padding) + self.bias


def test_subclasses_of_built_in_layers():
    assert kinds(check_function(MyConv(4))) == ['Conv2D']
    assert 'Conv2D' in kinds(check_function(Standardized(4, 3, padding='same')))


def test_refused_inputs_and_outputs():
    x, y = keras.Input(SHAPE), keras.Input(SHAPE)
    with pytest.raises(UserError, match='second input'):
        flatten(keras.Model([x, y], x + y), SHAPE)
    with pytest.raises(UserError, match='2 outputs'):
        flatten(keras.Model(x, [x + 1, x + 2]))


def test_model_of_no_fixed_size_takes_that_of_the_images():
    inner_input = keras.Input((None, None, 4))
    inner = keras.Model(inner_input, block(inner_input, 5), name='inner')
    x = keras.Input((None, None, 4))
    y = layers.Conv2D(4, 3)(layers.Dropout(0.5)(x + 1.0))
    y = layers.GlobalAveragePooling2D()(inner(y))
    model = keras.Model(x, layers.Dense(3)(y))
    assert check(model).input_shape == (None, *SHAPE)
    assert flatten(model, (9, 7, 4)).input_shape == (None, 9, 7, 4)


def test_saved_and_loaded(tmp_path):
    x = keras.Input(SHAPE)
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.Add()([block(x, 4), x]))))
    randomize(model)
    for name in ('model.keras', 'model.h5'):
        model.save(tmp_path / name)
        loaded = keras.models.load_model(tmp_path / name)
        assert difference(model, flatten(loaded), images(SHAPE)) < 1e-5


def test_translation_can_be_saved(tmp_path):
    flat = check_function(
        lambda x: layers.Dense(3, activation='hard_silu')(layers.Normalization()(x * np.ones(4)))
    )
    flat.save(tmp_path / 'flat.keras')
    again = tf_keras.models.load_model(tmp_path / 'flat.keras')
    np.testing.assert_array_equal(flat(images(SHAPE)), again(images(SHAPE)))


APPLICATIONS = [
    'MobileNet',
    'MobileNetV2',
    'MobileNetV3Small',
    'MobileNetV3Large',
    'EfficientNetB0',
    'ResNet50',
    pytest.param('DenseNet121', marks=pytest.mark.slow),
    pytest.param('NASNetMobile', marks=pytest.mark.slow),
    pytest.param('Xception', marks=pytest.mark.slow),
    pytest.param('InceptionV3', marks=pytest.mark.slow),
    pytest.param('ConvNeXtTiny', marks=pytest.mark.slow),
    pytest.param('EfficientNetV2B0', marks=pytest.mark.slow),
]


@pytest.mark.parametrize('name', APPLICATIONS)
def test_application(name):
    size = {'InceptionV3': 96, 'Xception': 96}.get(name, 64)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    flat = check(model, (size, size, 3), scale=30.0)
    if name.startswith('MobileNetV3'):
        assert {'HardSwish', 'HardSigmoid'} <= set(kinds(flat))
