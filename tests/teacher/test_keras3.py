"""Keras 3 models and their translations, run side by side."""

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
from zscgan_tf.teacher import keras3
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish

SHAPE = (8, 8, 4)


def images(shape, seed=1):
    return np.random.default_rng(seed).normal(0, 2, (4, *shape)).astype(np.float32)


def difference(model, flat, inputs):
    """Greatest difference of the outputs, in units of the original's deviation."""
    expected = np.asarray(model(inputs, training=False))
    found = np.asarray(flat(inputs, training=False))
    assert expected.shape == found.shape
    return np.abs(expected - found).max() / expected.std()


def check(model, shape=SHAPE, symbolic_input=None, scale=1.0):
    """Randomises, translates, compares; returns the translation."""
    randomize(model)
    flat = keras3.translate(model, symbolic_input)
    for layer in flat.layers:
        known = type(layer).__module__.startswith('tf_keras.')
        assert (
            known
            and 'OpLambda' not in type(layer).__name__
            or type(layer)
            in (
                HardSigmoid,
                HardSwish,
            )
        )
    assert difference(model, flat, scale * images(shape)) < 1e-5
    return flat


def check_function(function, shape=SHAPE, **kwargs):
    """`check` of the functional model x -> function(x)."""
    x = keras.Input(shape)
    return check(keras.Model(x, function(x)), shape, **kwargs)


def kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


SAME = ['linear', 'relu', 'sigmoid', 'tanh', 'softmax', 'elu', 'selu', 'softplus', 'softsign']
SAME += ['silu', 'swish', 'gelu', 'exponential', 'mish']
OTHER = ['relu6', 'leaky_relu', 'hard_sigmoid', 'hard_silu', 'hard_swish', 'hard_tanh']


@pytest.mark.parametrize('name', SAME + OTHER)
def test_activation_by_name(name):
    check_function(lambda x: layers.Activation(name)(x))
    flat = check_function(lambda x: layers.Dense(5, activation=name)(x))
    # What tf_keras computes by another formula may not stay inside the dense layer.
    assert (len(flat.layers) == 2) == (name in SAME)


OPERATIONS = {
    'relu': ops.relu,
    'relu6': ops.relu6,
    'leaky_relu': lambda x: ops.leaky_relu(x, negative_slope=0.3),
    'leaky_relu_default': ops.leaky_relu,
    'relu_of_activations': lambda x: keras.activations.relu(
        x, max_value=2.0, negative_slope=0.1, threshold=0.5
    ),
    'silu': ops.silu,
    'hard_silu': ops.hard_silu,
    'hard_sigmoid': ops.hard_sigmoid,
    'sigmoid': ops.sigmoid,
    'softmax': ops.softmax,
    'softmax_axis': lambda x: ops.softmax(x, axis=1),
    'softplus': ops.softplus,
    'softsign': ops.softsign,
    'tanh': ops.tanh,
    'exp': ops.exp,
    'elu': ops.elu,
    'elu_alpha': lambda x: ops.elu(x, alpha=0.4),
    'selu': ops.selu,
    'gelu_tanh': ops.gelu,
    'gelu': lambda x: ops.gelu(x, approximate=False),
    'add': lambda x: x + 2.5,
    'add_vector': lambda x: x + np.arange(4, dtype=np.float32),
    'add_tensor': lambda x: x + layers.Conv2D(4, 1)(x),
    'add_broadcast': lambda x: ops.mean(x, axis=(1, 2), keepdims=True) + x,
    'subtract': lambda x: x - 1.5,
    'subtract_from': lambda x: 1.5 - x,
    'subtract_tensor': lambda x: x - layers.Conv2D(4, 1)(x),
    'multiply': lambda x: 3.0 * x,
    'multiply_map': lambda x: x * np.arange(32, dtype=np.float32).reshape(1, 8, 1, 4),
    'multiply_tensor': lambda x: x * ops.mean(x, axis=[1, 2], keepdims=True),
    'divide': lambda x: x / np.float32([1, 2, 3, 4]),
    'power': lambda x: x**2 + x**3,
    'square': ops.square,
    'negative': lambda x: -x,
    'clip': lambda x: ops.clip(x, -1, 2),
    'clip_from_zero': lambda x: ops.clip(x, 0, 6),
    'maximum_tensor': lambda x: ops.maximum(x, -x),
    'minimum_tensor': lambda x: ops.minimum(x, 0.5 * x),
    'maximum': lambda x: ops.maximum(x, 0.5),
    'minimum': lambda x: ops.minimum(x, 0.5),
    'mean': lambda x: ops.mean(x, axis=(1, 2)),
    'mean_keepdims': lambda x: ops.mean(x, axis=(-3, -2), keepdims=True),
    'sum': lambda x: ops.sum(x, axis=(1, 2)),
    'max': lambda x: ops.max(x, axis=(1, 2)),
    'reshape': lambda x: ops.reshape(x, (-1, 4, 16, 4)),
    'flatten': lambda x: ops.reshape(x, (-1, 256)),
    'expand_squeeze': lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    'transpose': lambda x: ops.transpose(x, (0, 2, 1, 3)),
    'concatenate': lambda x: ops.concatenate([x, -x], axis=-1),
    'pad': lambda x: ops.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]]),
    'slice': lambda x: x[:, 1:-1, 2:, :],
    'strided_slice': lambda x: x[:, ::2, 1::3],
    'ellipsis': lambda x: x[:, 1:7, ...],
    'pick_position': lambda x: ops.mean(x, axis=(1, 2), keepdims=True)[:, 0, 0, :],
    'max_pool': lambda x: ops.max_pool(x, 2, 2),
    'average_pool': lambda x: ops.average_pool(x, 3, 2, 'same'),
    'conv': lambda x: ops.conv(x, images((3, 4, 6))[:3] / 5, 2, 'same'),
    'depthwise_conv': lambda x: ops.depthwise_conv(x, images((3, 4, 1))[:3], 1, 'same'),
    'matmul': lambda x: ops.matmul(ops.mean(x, axis=(1, 2)), images((5,))),
    'cast': lambda x: ops.cast(ops.stop_gradient(x), 'float32') + 0,
}


@pytest.mark.parametrize('name', OPERATIONS)
def test_operation(name):
    check_function(lambda x: OPERATIONS[name](layers.Conv2D(4, 1)(x)))


LAYERS = {
    'conv': lambda: layers.Conv2D(6, 3),
    'conv_groups': lambda: layers.Conv2D(6, 3, groups=2, padding='same'),
    'conv_dilated': lambda: layers.Conv2D(6, 3, dilation_rate=2, padding='same', use_bias=False),
    'conv_strided': lambda: layers.Conv2D(6, (3, 2), strides=(2, 1), activation='relu'),
    'depthwise': lambda: layers.DepthwiseConv2D(3, strides=2, padding='same', activation='relu6'),
    'depthwise_multiplier': lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, dilation_rate=2),
    'separable': lambda: layers.SeparableConv2D(6, 3, depth_multiplier=2, activation='hard_silu'),
    'transpose': lambda: layers.Conv2DTranspose(5, 3, strides=2, padding='same'),
    'transpose_valid': lambda: layers.Conv2DTranspose(5, 3, strides=2, activation='leaky_relu'),
    'transpose_output_padding': lambda: layers.Conv2DTranspose(
        5, 3, strides=2, padding='same', output_padding=1
    ),
    'transpose_uneven': lambda: layers.Conv2DTranspose(5, 2, strides=3, padding='same'),
    'dense': lambda: layers.Dense(7, use_bias=False),
    'batch_norm': lambda: layers.BatchNormalization(epsilon=0.01),
    'batch_norm_axis': lambda: layers.BatchNormalization(axis=3),
    'batch_norm_plain': lambda: layers.BatchNormalization(scale=False, center=False),
    'batch_norm_synchronized': lambda: layers.BatchNormalization(synchronized=True),
    'layer_norm': lambda: layers.LayerNormalization(epsilon=1e-3),
    'layer_norm_axes': lambda: layers.LayerNormalization(axis=(1, 2, 3), center=False),
    'relu': lambda: layers.ReLU(),
    'relu_all': lambda: layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.5),
    'leaky_relu': lambda: layers.LeakyReLU(negative_slope=0.15),
    'leaky_relu_default': lambda: layers.LeakyReLU(),
    'prelu': lambda: layers.PReLU('uniform'),
    'prelu_shared': lambda: layers.PReLU('uniform', shared_axes=(1, 2)),
    'elu': lambda: layers.ELU(0.7),
    'softmax': lambda: layers.Softmax(),
    'softmax_axis': lambda: layers.Softmax(axis=2),
    'zero_padding': lambda: layers.ZeroPadding2D(((0, 1), (2, 3))),
    'cropping': lambda: layers.Cropping2D(((0, 1), (2, 3))),
    'up_nearest': lambda: layers.UpSampling2D((2, 3)),
    'up_bilinear': lambda: layers.UpSampling2D(2, interpolation='bilinear'),
    'max_pooling': lambda: layers.MaxPooling2D(3, 2, padding='same'),
    'average_pooling': lambda: layers.AveragePooling2D((3, 2), 2, padding='same'),
    'global_average': lambda: layers.GlobalAveragePooling2D(),
    'global_average_keepdims': lambda: layers.GlobalAveragePooling2D(keepdims=True),
    'global_max': lambda: layers.GlobalMaxPooling2D(keepdims=True),
    'adaptive_average': lambda: layers.AdaptiveAveragePooling2D(1),
    'flatten': lambda: layers.Flatten(),
    'reshape': lambda: layers.Reshape((4, -1)),
    'permute': lambda: layers.Permute((2, 1, 3)),
    'rescaling': lambda: layers.Rescaling(1 / 255, -0.5),
    'rescaling_vector': lambda: layers.Rescaling([1.0, 2.0, 3.0, 4.0], np.arange(4.0)),
    'normalization': lambda: layers.Normalization(),
    'normalization_values': lambda: layers.Normalization(
        mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0]
    ),
    'normalization_scalar': lambda: layers.Normalization(axis=None, mean=0.5, variance=4.0),
    'normalization_invert': lambda: layers.Normalization(mean=0.5, variance=4.0, invert=True),
    'normalization_axes': lambda: layers.Normalization(
        axis=(1, 3), mean=images((4,), 2)[:1].repeat(8, 0), variance=np.ones((8, 4))
    ),
    'center_crop': lambda: layers.CenterCrop(5, 6),
    'resizing': lambda: layers.Resizing(5, 12),
    'resizing_nearest': lambda: layers.Resizing(16, 11, interpolation='nearest'),
    'activation_layer': lambda: layers.Conv2D(6, 3, activation=layers.LeakyReLU(0.4)),
    'activation_function': lambda: layers.Conv2D(6, 3, activation=lambda x: ops.relu(x) + 1.0),
}


@pytest.mark.parametrize('name', LAYERS)
def test_layer(name):
    flat = check_function(lambda x: LAYERS[name]()(x))
    assert len(flat.layers) == 2 or name in (
        'depthwise',
        'separable',
        'transpose_valid',
        'activation_layer',
        'activation_function',
    )


MERGES = [layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum]
MERGES += [layers.Minimum, layers.Concatenate]


@pytest.mark.parametrize('layer', MERGES)
def test_merging_layer(layer):
    check_function(lambda x: layer()([layers.Conv2D(4, 1)(x), x]))
    check_function(lambda x: layer()([x, layers.Conv2D(4, 1)(x)]))


def test_concatenate_along_height():
    check_function(lambda x: layers.Concatenate(axis=1)([x, layers.ReLU()(x)]))


IDENTITIES = [
    layers.Dropout(0.5),
    layers.SpatialDropout2D(0.5),
    layers.GaussianNoise(1.0),
    layers.GaussianDropout(0.5),
    layers.AlphaDropout(0.5),
    layers.Identity(),
    layers.ActivityRegularization(0.1),
    layers.RandomFlip(),
    layers.RandomRotation(0.2),
    layers.RandomZoom(0.2),
    layers.RandomTranslation(0.1, 0.1),
    layers.RandomContrast(0.2, value_range=(-9, 9)),
    layers.RandomBrightness(0.2, value_range=(-9, 9)),
    layers.RandomCrop(8, 8),
]


@pytest.mark.parametrize('layer', IDENTITIES, ids=lambda layer: type(layer).__name__)
def test_layer_of_training_is_dropped(layer):
    flat = check_function(lambda x: layers.ReLU()(layer(x)))
    assert kinds(flat) == ['ReLU']


def test_crop_that_changes_the_size_is_refused():
    with pytest.raises(UserError, match='random_crop'):
        check_function(lambda x: layers.RandomCrop(4, 4, name='random_crop')(x))


def test_stored_training_flag_does_not_count_in_inference():
    check_function(lambda x: layers.BatchNormalization()(x, training=True))


def test_normalization_that_was_adapted():
    layer = layers.Normalization()
    layer.adapt(3 + images(SHAPE))
    check_function(layer)


def test_hard_activations_that_are_spelled_out():
    def gate(x):
        return layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)

    assert kinds(check_function(gate)) == ['HardSigmoid']
    assert kinds(check_function(lambda x: x * gate(x))) == ['HardSwish']
    assert kinds(check_function(lambda x: layers.Multiply()([gate(x), x]))) == ['HardSwish']
    assert kinds(check_function(lambda x: x * ops.relu6(x + 3) / 6)) == ['HardSwish']
    assert 'HardSwish' not in kinds(check_function(lambda x: -x * gate(x)))
    assert 'HardSigmoid' not in kinds(check_function(lambda x: ops.relu6(x + 2.9) / 6))


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
    with pytest.raises(UserError, match='call it once'):
        keras3.translate(keras.Sequential([layers.Flatten(), layers.Dense(3)]))


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
    assert len(set(names)) == len(names) and {'conv', 'conv_1'} < set(names)
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
    assert sorted(kinds(flat)) == ['BatchNormalization', 'Conv2D', 'HardSwish']
    assert len(next(x for x in flat.layers if x.name == norm.name)._inbound_nodes) == 2


def test_deep_network_does_not_exhaust_the_stack():
    def network(x):
        for _ in range(600):
            x = layers.ReLU()(x)
        return x

    x = keras.Input((2, 2, 1))
    assert len(keras3.translate(keras.Model(x, network(x))).layers) == 601


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
    assert [layer.name for layer in keras3.translate(model).layers] == first
    check(model, symbolic_input=keras.Input(SHAPE))


def test_subclassed_model_that_was_never_called():
    with pytest.raises(UserError, match='call it once on a batch'):
        keras3.translate(Classifier())
    with pytest.raises(UserError, match='call'):
        keras3.translate(Classifier(), keras.Input(SHAPE))


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


def test_pipeline():
    flat = check_function(layers.Pipeline([layers.RandomFlip(), layers.Rescaling(1 / 255)]))
    assert kinds(flat) == ['Rescaling']


def test_integer_inputs_and_mixed_precision():
    x = keras.Input(SHAPE, dtype='uint8')
    y = layers.Conv2D(4, 3, dtype='mixed_bfloat16')(layers.Rescaling(1 / 255)(x))
    model = randomize(keras.Model(x, ops.cast(y, 'float32')))
    flat = keras3.translate(model)
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


class Raw(keras.layers.Layer):
    def call(self, inputs):
        return tf.nn.relu(inputs)


class AlwaysTraining(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(name='code')

    def call(self, inputs):
        return self.norm(inputs, training=True)


REFUSED = {
    'Lambda': lambda x: layers.Lambda(lambda y: y + 1, name='code')(x),
    'attention': lambda x: layers.MultiHeadAttention(1, 2, name='code')(x, x),
    'conv1d': lambda x: layers.Conv1D(2, 3, name='code')(layers.Reshape((8, 32))(x)),
    'channels_first': lambda x: layers.GlobalAveragePooling2D('channels_first', name='code')(x),
    'axis': lambda x: layers.BatchNormalization(axis=1, name='code')(x),
    'activation': lambda x: layers.Dense(3, activation='celu', name='code')(x),
    'raw_tensorflow': lambda x: Raw(name='code')(x),
    'training': lambda x: AlwaysTraining()(x),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_layer_is_named(name):
    x = keras.Input(SHAPE)
    model = keras.Model(x, REFUSED[name](x))
    with pytest.raises(UserError, match="'code'") as caught:
        keras3.translate(model)
    assert '\n' not in str(caught.value)


REFUSED_OPERATIONS = {
    'Mean': lambda x: ops.mean(x, axis=-1),
    'GetItem': lambda x: x[..., :2],
    'TrueDivide': lambda x: x / ops.relu(x),
    'Power': lambda x: x**0.5,
    'Sort': lambda x: ops.sort(x),
    'Reshape': lambda x: ops.reshape(x, (-1, 4)),
    'Pad': lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode='reflect'),
}


@pytest.mark.parametrize('name', REFUSED_OPERATIONS)
def test_refused_operation_is_named(name):
    x = keras.Input(SHAPE)
    model = keras.Model(x, REFUSED_OPERATIONS[name](x))
    with pytest.raises(UserError, match=rf'\({name}\)'):
        keras3.translate(model)


def test_refused_inputs_and_outputs():
    x, y = keras.Input(SHAPE), keras.Input(SHAPE)
    with pytest.raises(UserError, match='2 inputs'):
        keras3.translate(keras.Model([x, y], x + y))
    with pytest.raises(UserError, match='2 outputs'):
        keras3.translate(keras.Model(x, [x + 1, x + 2]))
    z = keras.Input((None, None, 3))
    with pytest.raises(UserError, match='fixed'):
        keras3.translate(keras.Model(z, layers.GlobalAveragePooling2D()(z)))


def test_model_of_no_fixed_size_takes_that_of_the_symbolic_input():
    inner_input = keras.Input((None, None, 4))
    inner = keras.Model(inner_input, block(inner_input, 5), name='inner')
    x = keras.Input((None, None, 4))
    y = layers.Conv2D(4, 3)(layers.Dropout(0.5)(x + 1.0))
    y = layers.GlobalAveragePooling2D()(inner(y))
    model = keras.Model(x, layers.Dense(3)(y))
    flat = check(model, symbolic_input=keras.Input(SHAPE))
    assert flat.input_shape == (None, *SHAPE)
    assert keras3.translate(model, keras.Input((9, 7, 4))).input_shape == (None, 9, 7, 4)


def test_saved_and_loaded(tmp_path):
    x = keras.Input(SHAPE)
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.Add()([block(x, 4), x]))))
    randomize(model)
    for name in ('model.keras', 'model.h5'):
        model.save(tmp_path / name)
        loaded = keras.models.load_model(tmp_path / name)
        assert difference(model, keras3.translate(loaded), images(SHAPE)) < 1e-5


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
