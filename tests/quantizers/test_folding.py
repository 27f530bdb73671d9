"""The float twin computes what the teacher computes, of the layers that the student knows."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.quantizers.folding import fold, weight_layers
from zscgan_tf.teacher.flatten import flatten
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish, LogProbabilities
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers

KINDS = {
    *('InputLayer', 'Conv2D', 'DepthwiseConv2D', 'ReLU', 'LeakyReLU', 'Activation', 'HardSwish'),
    *('Add', 'Subtract', 'Multiply', 'Concatenate', 'MaxPooling2D', 'AveragePooling2D'),
    *('GlobalAveragePooling2D', 'GlobalMaxPooling2D', 'ZeroPadding2D', 'Cropping2D'),
    *('UpSampling2D', 'Reshape', 'Flatten', 'Permute'),
}


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
    model = make(lambda x: body(x, layers.BatchNormalization(name='norm')))
    layer = folded_same(model).get_layer('norm')
    assert type(layer) is layers.DepthwiseConv2D
    assert layer.kernel_size == (1, 1)
    assert layer.trainable
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
    folded = fold(model)
    assert_same(model, folded)
    assert len(weight_layers(folded)) == 2


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
        (lambda: layers.ReLU(negative_slope=0.3), ['LeakyReLU']),
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
        x = layer()(layers.GlobalMaxPooling2D()(x) if rank == 2 else x)
        x = x if rank == 2 else layers.GlobalMaxPooling2D()(x)
        return layers.Dense(5)(x)

    folded = folded_same(make(body), -9, 9)
    base = ['InputLayer', 'Conv2D', 'GlobalMaxPooling2D', 'Conv2D', 'Flatten']
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


def test_constants_are_not_folded_into():
    model = make(lambda x: end(layers.BatchNormalization(name='norm')(layers.Rescaling(2.0)(x))))
    folded = folded_same(model)
    assert [layer.trainable for layer in weight_layers(folded)] == [False, True, True]


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


# Refusals


@pytest.mark.parametrize(
    'layer, words',
    [
        (lambda: layers.Conv2DTranspose(4, 3, name='odd'), ['Conv2DTranspose']),
        (lambda: layers.PReLU(name='odd'), ['PReLU']),
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
    ],
)
def test_what_the_student_can_not_hold_is_refused(layer, words):
    x = tf_keras.Input((8, 8, 3))
    model = tf_keras.Model(x, end(layer()(x)))
    with pytest.raises(UserError) as error:
        fold(model, 'model.h5')
    message = str(error.value)
    assert all(word in message for word in ['model.h5', "'odd'", *words, '--method=ptq'])
    assert '\n' not in message


def test_arithmetic_that_vectors_as_images_would_change_is_refused():
    def body(x):
        x = layers.Reshape((3, 64))(x)
        return layers.Flatten()(
            layers.Multiply(name='odd')([x, layers.Dense(64)(layers.Flatten()(x))])
        )

    with pytest.raises(UserError, match="'odd'"):
        fold(make(body))


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
