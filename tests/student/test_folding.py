"""The float twin computes what the teacher computes, its batch norms folded, its names kept."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.student.folding import fold
from zscgan_tf.student.graph import has_kernel
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.layers import HardSwish
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers

KINDS = {
    *('InputLayer', 'Conv2D', 'DepthwiseConv2D', 'ReLU', 'LeakyReLU', 'Activation', 'HardSwish'),
    *('Add', 'Subtract', 'Multiply', 'Concatenate', 'MaxPooling2D', 'AveragePooling2D'),
    *('GlobalAveragePooling2D', 'GlobalMaxPooling2D', 'ZeroPadding2D', 'Cropping2D'),
    *('UpSampling2D', 'Reshape', 'Flatten', 'Permute'),
}


def weight_layers(model):
    return list(filter(has_kernel, model.layers))


def random_moments(model, seed=0):
    """Random weights and moments; of each batch norm, one scale is 0 and some are negative."""
    randomize(model, seed)
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if 'BatchNormalization' in type(layer).__name__ and layer.scale:
            gamma = layer.gamma.numpy() * rng.choice([-1, 1], layer.gamma.shape)
            gamma[-1] = 0
            layer.gamma.assign(gamma)
    return model


def make(body, channels=3, size=8):
    """A model from a function of its input."""
    x = tf_keras.Input((size, size, channels))
    return random_moments(tf_keras.Model(x, body(x)))


def end(x, classes=5):
    return layers.Dense(classes, name='top')(layers.GlobalAveragePooling2D(name='pool')(x))


def assert_same(model, folded, low=-2.0, high=2.0):
    """Outputs equal to 1e-5 of their deviation, layers of the known kinds only, all fresh."""
    shape = (4, *model.input_shape[1:])
    x = np.random.default_rng(1).uniform(low, high, shape).astype(np.float32)
    expected = model(x, training=False).numpy()
    found = folded(x, training=True).numpy()
    assert found.shape == expected.shape
    assert folded.output_shape == model.output_shape
    assert np.all(np.isfinite(found))
    assert np.abs(found - expected).max() <= 1e-5 * expected.std()
    assert set(kinds(folded)) <= KINDS
    for layer in folded.layers:
        assert layer.dtype == 'float32'
        if type(layer) in (layers.Conv2D, layers.DepthwiseConv2D):
            assert layer.use_bias
            assert layer.activation is tf_keras.activations.linear
            assert len(layer._inbound_nodes) == 1
    own = {id(x) for x in (*model.layers, *model.variables)}
    assert not any(id(x) in own for x in (*folded.layers, *folded.variables))


def folded_same(model, low=-2.0, high=2.0):
    """The folded model of a model, compared with it."""
    flat = flatten(model)
    folded = fold(flat)
    assert_same(flat, folded, low, high)
    return folded


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def names(model):
    return [layer.name for layer in model.layers]


# Batch norms


@pytest.mark.parametrize(
    'layer',
    [
        lambda: layers.Conv2D(4, 3, use_bias=False),
        lambda: layers.Conv2D(6, 3, groups=3, strides=2, padding='same'),
        lambda: layers.Conv2D(4, (3, 2)),
        lambda: layers.DepthwiseConv2D(3, use_bias=False, strides=2),
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, padding='same'),
        lambda: layers.SeparableConv2D(4, 3, strides=2, depth_multiplier=2),
        lambda: layers.SeparableConv2D(4, 3, use_bias=False),
        lambda: layers.Dense(4),
    ],
)
def test_batch_norms_fold_into_what_is_in_front(layer):
    before = kinds(folded_same(make(lambda x: end(layer()(x)))))

    def body(x):
        x = layers.BatchNormalization()(layer()(x))
        x = layers.Dropout(0.5)(x)
        return end(layers.BatchNormalization(scale=False)(layers.Activation('linear')(x)))

    assert kinds(folded_same(make(body))) == before


def test_a_folded_kernel_by_hand():
    model = make(lambda x: layers.BatchNormalization(epsilon=0.1)(layers.Conv2D(4, 3)(x)))
    flat = flatten(model)
    kernel, bias = (w.numpy() for w in flat.layers[1].weights)
    gamma, beta, mean, variance = (w.numpy() for w in flat.layers[2].weights)
    step = gamma / np.sqrt(variance + 0.1)
    (layer,) = weight_layers(fold(flat))
    np.testing.assert_allclose(layer.kernel, kernel * step, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(layer.bias, beta + (bias - mean) * step, rtol=1e-5, atol=1e-6)
    assert not np.any(layer.kernel[..., -1])
    assert layer.name == flat.layers[1].name


def test_batch_norms_behind_a_dense_layer_fold():
    def body(x):
        x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
        x = layers.ReLU(name='rectified')(layers.BatchNormalization()(layers.Dense(6)(x)))
        return layers.BatchNormalization(center=False)(layers.Dense(5)(x))

    folded = folded_same(make(body))
    assert kinds(folded) == [
        *('InputLayer', 'DepthwiseConv2D', 'GlobalAveragePooling2D'),
        *('Conv2D', 'ReLU', 'Conv2D', 'Flatten'),
    ]
    assert folded.get_layer('rectified').output.shape == (None, 1, 1, 6)


def before(model, name):
    """The layers that a layer's input is computed by."""
    return tf_keras.Model(model.input, model.get_layer(name).input).layers


@pytest.mark.parametrize(
    'body',
    [
        lambda x, norm: end(layers.Conv2D(4, 3)(norm(x))),
        lambda x, norm: end(norm(layers.Add()([x, layers.Conv2D(3, 1)(x)]))),
        lambda x, norm: end(norm(layers.MaxPooling2D()(layers.Conv2D(4, 1)(x)))),
        lambda x, norm: end(norm(layers.ZeroPadding2D()(layers.Conv2D(4, 1)(x)))),
        lambda x, norm: end(norm(layers.Conv2D(4, 3, activation='relu')(x))),
        lambda x, norm: layers.Dense(5)(norm(layers.Flatten()(x))),
        lambda x, norm: norm(layers.GlobalMaxPooling2D()(x)),
    ],
)
def test_other_batch_norms_become_depthwise_convolutions(body):
    """One of the input itself is preprocessing: a constant."""
    model = make(lambda x: body(x, layers.BatchNormalization(name='norm')))
    layer = folded_same(model).get_layer('norm')
    assert type(layer) is layers.DepthwiseConv2D
    assert layer.kernel_size == (1, 1)
    convolved = any(isinstance(x, layers.Conv2D) for x in before(model, 'norm'))
    assert layer.trainable == convolved
    chain = make(
        lambda x: body(x, lambda y: layers.BatchNormalization()(layers.BatchNormalization()(y)))
    )
    assert kinds(folded_same(chain)) == kinds(folded_same(model))


@pytest.mark.parametrize('both_read', ['convolution', 'dropout'])
def test_an_output_that_others_read_is_not_changed(both_read):
    def body(x):
        y = layers.Conv2D(4, 3, name='convolution')(x)
        z = layers.Dropout(0.1)(y)
        other = layers.ReLU()(y if both_read == 'convolution' else z)
        return end(layers.Add()([layers.BatchNormalization(name='norm')(z), other]))

    # Straight into `fold`: `flatten` leaves the Dropout out.
    model = make(body)
    folded = fold(model)
    assert_same(model, folded)
    assert 'norm' in names(folded)
    np.testing.assert_array_equal(
        model.get_layer('convolution').kernel, folded.get_layer('convolution').kernel
    )


def test_synchronized_batch_norms():
    x = tf_keras.Input((8, 8, 3))
    norm = layers.experimental.SyncBatchNormalization()
    model = random_moments(tf_keras.Model(x, end(norm(layers.Conv2D(4, 3)(x)))))
    assert len(weight_layers(folded_same(model))) == 2


def test_no_variance_and_no_scale_stay_finite():
    model = make(lambda x: end(layers.BatchNormalization(name='norm')(layers.Conv2D(4, 3)(x))))
    norm = model.get_layer('norm')
    norm.gamma.assign(tf.zeros(4))
    norm.moving_variance.assign([0.0, 0.0, 1e-30, 1.0])
    folded = fold(flatten(model))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    expected = model(images, training=False).numpy()
    np.testing.assert_allclose(folded(images), expected, rtol=1e-5, atol=1e-6)
    assert not np.any(weight_layers(folded)[0].kernel)


def test_constants_are_not_folded_into():
    model = make(lambda x: end(layers.BatchNormalization(name='norm')(layers.Rescaling(2.0)(x))))
    folded = folded_same(model)
    assert [layer.trainable for layer in weight_layers(folded)] == [False, False, True]


# Names and copies


def test_shared_layers_are_copied():
    def body(x):
        convolution = layers.Conv2D(3, 3, padding='same', name='shared')
        norm, relu = layers.BatchNormalization(name='norm'), layers.ReLU(name='relu')
        x = relu(norm(convolution(x)))
        x = layers.ReLU(name='shared_2')(norm(layers.Add()([x, convolution(x)])))
        return end(relu(convolution(x)))

    folded = folded_same(make(body))
    assert {'shared', 'shared_3', 'shared_4', 'relu', 'relu_2', 'norm'} <= set(names(folded))
    assert type(folded.get_layer('shared_2')) is layers.ReLU
    assert kinds(folded).count('Conv2D') == 4


def test_names_of_nested_models_are_kept():
    x = tf_keras.Input((8, 8, 3))
    inner = tf_keras.Model(x, layers.ReLU(name='relu')(layers.Conv2D(3, 1, name='conv')(x)))
    inner._name = 'inner'

    def body(x):
        return end(layers.Conv2D(4, 1, activation='relu', name='inner/conv_activation')(inner(x)))

    folded = folded_same(make(body))
    assert {'inner/conv', 'inner/relu', 'inner/conv_activation', 'pool', 'top'} <= set(
        names(folded)
    )


def test_constraints_and_regularizers_are_dropped():
    layer = layers.Conv2D(
        4, 3, kernel_constraint='non_neg', kernel_regularizer='l2', bias_regularizer='l1'
    )
    model = make(lambda x: end(layer(x)))
    folded = fold(model)
    assert_same(model, folded)
    assert not folded.losses
    assert weight_layers(folded)[0].kernel_constraint is None


def test_the_teacher_is_unchanged_and_the_folded_model_trains():
    model = flatten(
        make(
            lambda x: end(layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))),
        )
    )
    weights, config = model.get_weights(), model.get_config()
    folded = fold(model)
    folded.set_weights([w + 1 for w in folded.get_weights()])
    assert model.get_config() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not model.trainable_weights
    assert len(folded.trainable_weights) == len(folded.weights) == 4


def test_weight_layers_are_in_order():
    def body(x):
        y = layers.Conv2D(4, 3, padding='same', name='b')(layers.ReLU()(x))
        y = layers.DepthwiseConv2D(3, padding='same', name='a')(y)
        return end(layers.Add()([y, layers.Conv2D(4, 1, name='c')(x)]))

    found = [layer.name for layer in weight_layers(folded_same(make(body)))]
    assert sorted(found) == ['a', 'b', 'c', 'top']
    assert found.index('b') < found.index('a') < found.index('top') == 3


# Whole architectures


@pytest.mark.parametrize(
    'builder, size, settings',
    [
        ('MobileNetV3Small', 32, {'alpha': 0.35, 'minimalistic': True}),
        pytest.param('MobileNetV3Small', 64, {}, marks=pytest.mark.slow),
        pytest.param('MobileNet', 64, {}, marks=pytest.mark.slow),
        pytest.param('MobileNetV2', 64, {}, marks=pytest.mark.slow),
        pytest.param('ResNet50', 64, {}, marks=pytest.mark.slow),
        pytest.param('EfficientNetB0', 64, {}, marks=pytest.mark.slow),
    ],
)
def test_applications(builder, size, settings):
    model = getattr(tf_keras.applications, builder)(
        weights=None, input_shape=(size, size, 3), classes=10, **settings
    )
    teacher = load_teacher(random_moments(model), input_spec={'preprocessing': 'raw'})
    folded = fold(teacher.logits_model, teacher.name)
    low, high = teacher.input_spec.input_range
    assert_same(teacher.logits_model, folded, np.min(low), np.max(high))
    # Batch norms are behind convolutions there, so none becomes a layer.
    kept = {name for name in names(folded) if name.endswith(('_bn', '_BN', '_norm'))}
    assert not kept
    for layer in teacher.logits_model.layers:
        if isinstance(layer, (layers.Add, layers.ReLU, layers.Multiply, HardSwish)):
            assert folded.get_layer(layer.name).output.shape[-1] == layer.output.shape[-1]
