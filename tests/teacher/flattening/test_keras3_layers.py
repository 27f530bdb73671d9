"""Keras 3 activations, operations and layers one by one, and those that are refused."""

import os

os.environ.setdefault('KERAS_BACKEND', 'tensorflow')

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tests.teacher.flattening.test_keras3 import SHAPE, check_function, images, kinds
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.flattening.flatten import flatten

SAME = ['linear', 'relu', 'sigmoid', 'tanh', 'softmax', 'elu', 'selu', 'softplus', 'softsign']
SAME += ['silu', 'swish', 'gelu', 'exponential', 'mish']
OTHER = ['relu6', 'leaky_relu', 'hard_sigmoid', 'hard_silu', 'hard_swish', 'hard_tanh']


@pytest.mark.parametrize('name', SAME + OTHER)
def test_activation_by_name(name):
    check_function(lambda x: layers.Activation(name)(x))
    flat = check_function(lambda x: layers.Dense(5, activation=name)(x))
    # What tf_keras computes by another formula may not stay inside the dense layer, nor may what
    # `flatten` cuts off.
    stays = name in SAME and name not in ('sigmoid', 'softmax')
    assert (len(flat.layers) == 2) == stays


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
    'concatenate_one': lambda x: ops.concatenate([x], axis=-1) * 2,
    'concatenate_negative_axis': lambda x: ops.concatenate([x, -x], axis=-2),
    'transpose_negative_axes': lambda x: ops.transpose(x, (0, -2, -3, -1)),
    'squeeze_all': lambda x: ops.squeeze(ops.mean(x, axis=(1, 2), keepdims=True), axis=(1, 2)),
    'pad_channels': lambda x: ops.pad(x, [[0, 0], [0, 0], [0, 0], [1, 2]]),
    'slice_channels': lambda x: x[..., 1:3],
    'slice_vector': lambda x: ops.mean(x, axis=(1, 2))[:, ::2],
    'new_axis': lambda x: ops.mean(x, axis=(1, 2))[:, None, None, :] * x,
    'split': lambda x: ops.subtract(*ops.split(x, 2, axis=-1)),
    'split_at': lambda x: ops.split(x, [1, 3], axis=3)[1],
    'flip': lambda x: ops.flip(x, axis=-1),
    'take': lambda x: ops.take(x, [2, 0, 0], axis=-1),
    'power_1': lambda x: x**1.0,
    'divide_by_one': lambda x: x / 1,
    'maximum_of_zero': lambda x: ops.maximum(0.0, x),
    'max_initial': lambda x: ops.max(x, axis=(1, 2), initial=4.0),
    'hard_tanh': ops.hard_tanh,
    'integers': lambda x: x * np.arange(4) + 1,
    'conv_strided': lambda x: ops.conv(x, images((3, 4, 6))[:3] / 5, (1, 2), 'valid'),
    'conv_dilated': lambda x: ops.conv(x, images((3, 4, 6))[:3] / 5, 1, 'same', dilation_rate=2),
    'depthwise_conv_dilated': lambda x: ops.depthwise_conv(
        x, images((3, 4, 2))[:3], 1, 'valid', dilation_rate=(2, 2)
    ),
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
    'batch_norm_renorm': lambda: layers.BatchNormalization(renorm=True),
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
        axis=(1, 3), mean=images((2, 4), 2).reshape(8, 4), variance=np.arange(1.0, 33).reshape(8, 4)
    ),
    'center_crop': lambda: layers.CenterCrop(5, 6),
    'resizing': lambda: layers.Resizing(5, 12),
    'resizing_nearest': lambda: layers.Resizing(16, 11, interpolation='nearest'),
    'activation_layer': lambda: layers.Conv2D(6, 3, activation=layers.LeakyReLU(0.4)),
    'activation_of_ops': lambda: layers.Conv2D(6, 3, activation=ops.gelu),
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
        'activation_of_ops',
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


def test_layer_that_is_called_by_keyword():
    assert kinds(check_function(lambda x: layers.Conv2D(4, 3)(inputs=x))) == ['Conv2D']


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
    assert kinds(check_function(lambda x: (x / 6) * ops.relu6(3 + x))) == ['HardSwish']
    assert kinds(check_function(lambda x: ops.clip(x + 3, 0, 6) / 6.0 * x)) == ['HardSwish']
    assert kinds(check_function(lambda x: ops.hard_sigmoid(x) * x)) == ['HardSwish']
    assert 'HardSwish' not in kinds(check_function(lambda x: -x * gate(x)))
    assert 'HardSigmoid' not in kinds(check_function(lambda x: ops.relu6(x + 2.9) / 6))


def test_pipeline():
    flat = check_function(layers.Pipeline([layers.RandomFlip(), layers.Rescaling(1 / 255)]))
    assert kinds(flat) == ['Rescaling']


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
        flatten(model)
    assert '\n' not in str(caught.value)


REFUSED_OPERATIONS = {
    'mean': (
        lambda x: ops.mean(x, axis=-1),
        r"'mean\w*' is the operation tf.reduce_mean over axes",
    ),
    'division': (lambda x: x / ops.relu(x), r"'true_divide\w*' .* a division by a tensor"),
    'power': (lambda x: x**0.5, r"'power\w*' is the operation tf.pow"),
    'sort': (lambda x: ops.sort(x), r"operation 'sort\w*' \(Sort\)"),
    'reshape': (lambda x: ops.reshape(x, (-1, 4)), r"'reshape\w*' is the operation tf.reshape"),
    'pad': (
        lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode='reflect'),
        r"'pad\w*' is the operation tf.pad of mode reflect",
    ),
    'pad_edge': (
        lambda x: ops.pad(x, 1, mode='edge'),
        r"'pad\w*' is the operation tf.pad of mode edge",
    ),
    'integers': (lambda x: ops.cast(x, 'int32'), r"'cast\w*' is the operation a cast to int32"),
    'gather': (lambda x: ops.take(x, [1, 2], axis=1), r"'take\w*' is the operation tf.gather"),
    'zero': (lambda x: x / 0.0, r"'true_divide\w*' is the operation a division"),
    'batch': (lambda x: x * images((8, 4)).reshape(4, 8, 1, 4), r"'multiply\w*' .* constant of"),
}


@pytest.mark.parametrize('name', REFUSED_OPERATIONS)
def test_refused_operation_is_named(name):
    function, words = REFUSED_OPERATIONS[name]
    x = keras.Input(SHAPE)
    model = keras.Model(x, function(x))
    with pytest.raises(UserError, match=words):
        flatten(model)
