"""Moments that are told from batch norms, against samples."""

import numpy as np
import pytest
import tf_keras

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.methods.cross_layer import with_clips
from zscgan_tf.methods.moments import gaussian, negates, propagate, rectified
from zscgan_tf.student.folding import fold_with_norms
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.layers import HardSwish

layers = tf_keras.layers
SAMPLES = 1_000_000
BETA = np.array([0.3, -1.0, 2.0, 4.0, -0.2, 0.7])
# Of either sign; the last channel is a constant.
GAMMA = np.array([1.0, 0.5, -1.5, -2.5, 0.05, 0.0])


def normal(seed=0, shift=0.0):
    values = np.random.default_rng(seed).normal(size=(SAMPLES, 6)) * GAMMA + BETA + shift
    return values.astype(np.float32)


def model_of(body, size=4):
    """A folded model, and its norms, of what stands behind batch norms of BETA and GAMMA."""
    images = layers.Input((size, size, 3))
    made = []

    def norm(x=images):
        x = layers.BatchNormalization(epsilon=0.0)(layers.Conv2D(6, 1, use_bias=False)(x))
        made.append(x._keras_history.layer)
        return x

    model = randomize(tf_keras.Model(images, body(norm)))
    for number, layer in enumerate(made):
        layer.beta.assign(BETA + number)
        layer.gamma.assign(GAMMA)
    return fold_with_norms(flatten(model))


def assert_moments(found, samples):
    """The same as those of samples, [N, C], within five standard errors."""
    mean, variance = samples.mean(0), samples.var(0)
    fourth = ((samples - mean) ** 4).mean(0)
    error = np.sqrt(variance / len(samples)) + 1e-5
    assert np.all(np.abs(found.mean - mean) < 5 * error), (found.mean, mean)
    error = np.sqrt(np.maximum(fourth - variance**2, 0) / len(samples)) + 1e-5
    assert np.all(np.abs(found.variance - variance) < 5 * error), (found.variance, variance)


@pytest.mark.parametrize('high', [np.inf, 6.0, 1.0])
def test_a_rectified_normal(high):
    samples = np.float64(np.clip(normal(), 0, high))
    mean, variance = rectified(BETA, GAMMA**2, high)
    assert_moments(gaussian(mean, variance), samples)
    # Without deviation it is the ReLU of the constant.
    assert mean[-1] == min(BETA[-1], high) and variance[-1] == 0
    assert np.all(np.isfinite(rectified(np.array([-40.0, 40.0]), np.ones(2), high)))


FUNCTIONS = {
    'relu': (layers.ReLU(), lambda x: np.maximum(x, 0)),
    'relu6': (layers.ReLU(6.0), lambda x: np.clip(x, 0, 6)),
    'leaky': (layers.LeakyReLU(0.2), lambda x: np.where(x < 0, np.float32(0.2) * x, x)),
    'sigmoid': (layers.Activation('sigmoid'), lambda x: 1 / (1 + np.exp(-x))),
    'tanh': (layers.Activation('tanh'), np.tanh),
    'swish': (layers.Activation('swish'), lambda x: x / (1 + np.exp(-x))),
    'hard swish': (HardSwish(), lambda x: x * np.clip(x + 3, 0, 6) / 6),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_functions_behind_a_batch_norm(name):
    layer, function = FUNCTIONS[name]
    folded, norms = model_of(lambda norm: layer.from_config(layer.get_config())(norm()))
    moments = propagate(folded, norms, (0.0, 1.0))
    found, samples = moments[folded.layers[-1].name], np.float64(function(normal()))
    if name == 'hard swish':  # its quadrature meets two corners
        assert np.allclose(found.mean, samples.mean(0), atol=0.01)
    else:
        assert_moments(found, samples)
    assert found.known
    # The range holds nearly all of it, and is no wider than the function of six deviations.
    ends = function(np.stack([BETA - 6 * np.abs(GAMMA), BETA + 6 * np.abs(GAMMA)]))
    assert np.all(found.high >= samples.max(0) - 1e-4) and np.all(found.low <= samples.min(0) + 0.3)
    assert np.allclose(found.high, ends.max(0), atol=1e-5)
    assert np.all(found.low >= ends.min(0) - 0.4)  # functions that fall have their least inside


def test_a_channel_at_any_position_varies_by_its_means_too():
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=(4, 5, 3)), rng.uniform(0.5, 2, (4, 5, 3))
    found = gaussian(mean, variance).by_channel()
    samples = rng.normal(size=(20_000, 4, 5, 3)) * np.sqrt(variance) + mean
    assert_moments(found, samples.reshape(-1, 3))
    reach = 6 * np.sqrt(variance)
    np.testing.assert_allclose(found.low, (mean - reach).min((0, 1)))
    np.testing.assert_allclose(found.high, (mean + reach).max((0, 1)))


@pytest.mark.parametrize(
    'merge, combine',
    [
        (layers.Add, np.add),
        (layers.Subtract, np.subtract),
        (layers.Multiply, np.multiply),
        (layers.Concatenate, lambda a, b: np.concatenate([a, b], axis=1)),
    ],
)
def test_two_branches(merge, combine):
    folded, norms = model_of(lambda norm: merge()([layers.ReLU()(norm()), norm()]))
    found = propagate(folded, norms, (0.0, 1.0))[folded.layers[-1].name]
    assert_moments(found, np.float64(combine(np.maximum(normal(), 0), normal(1, shift=1.0))))


@pytest.mark.parametrize('merge, combine', [(layers.Add, np.add), (layers.Multiply, np.multiply)])
def test_a_tensor_and_itself(merge, combine):
    def body(norm):
        x = norm()
        return merge()([x, x])

    folded, norms = model_of(body)
    found = propagate(folded, norms, (0.0, 1.0))[folded.layers[-1].name]
    samples = np.float64(normal())
    assert_moments(found, combine(samples, samples))
    assert found.known and np.all(found.high >= combine(samples, samples).max(0) - 1e-4)


def test_a_clip_at_a_value_of_each_channel():
    folded, norms = model_of(lambda norm: layers.Conv2D(2, 1)(layers.ReLU(6.0)(norm())))
    twin, (name,) = with_clips(folded)
    values = np.array([0.5, 0.0, 3.0, 5.0, 6.0, 9.0], np.float32)
    for layer in filter(negates, twin.layers):
        layer.set_weights([layer.get_weights()[0], values])
    found = propagate(twin, norms, (0.0, 1.0))[name]
    assert_moments(found, np.float64(np.clip(normal(), 0, values)))
    assert np.allclose(found.low[:5], 0) and np.all(found.high <= values)


@pytest.mark.parametrize('high, offset', [(None, 2.0), (None, 0.0), (6.0, 2.0)])
def test_a_negation_of_the_models_own_clips_nothing(high, offset):
    def body(norm):
        return layers.Conv2D(2, 1)(layers.Rescaling(-1.0, offset)(layers.ReLU(high)(norm())))

    folded, norms = model_of(body)
    (negation,) = filter(negates, folded.layers)
    found, wanted = propagate(folded, norms, (0.0, 1.0)), np.clip(normal(), 0, high)
    assert_moments(found[negation.name], np.float64(offset - wanted))
    assert np.all(found[negation.name].low <= offset - wanted.max(0) + 1e-6)


@pytest.mark.parametrize('groups', [1, 2])
def test_a_convolution_without_batch_norm(groups):
    conv = layers.Conv2D(4, 1, groups=groups, name='conv')
    folded, norms = model_of(lambda norm: conv(layers.ReLU()(norm())))
    found = propagate(folded, norms, (0.0, 1.0))['conv']
    kernel, bias = folded.get_layer('conv').get_weights()
    x, wide = np.maximum(normal(), 0), np.zeros((6, 4), np.float32)
    for group in range(groups):
        rows, columns = (slice(group * n // groups, (group + 1) * n // groups) for n in (6, 4))
        wide[rows, columns] = kernel[0, 0][:, columns]
    assert_moments(found, np.float64(x @ wide + bias))


@pytest.mark.parametrize('high', [None, 6.0])
def test_constants_keep_ends_and_an_average_its_variance(high):
    def body(norm):
        x = layers.AveragePooling2D(2)(layers.ReLU(high)(norm()))
        return layers.Conv2D(2, 1)(layers.Rescaling(-2.0, 1.0)(x))

    folded, norms = model_of(body)
    found, wanted = propagate(folded, norms, (0.0, 1.0)), np.clip(normal(), 0, high)
    ends = np.clip([BETA - 6 * np.abs(GAMMA), BETA + 6 * np.abs(GAMMA)], 0, high)
    average, rescaled, _ = list(found.values())[-3:]
    assert_moments(average, np.float64(wanted))
    np.testing.assert_allclose([average.low, average.high], ends, atol=1e-6)
    np.testing.assert_allclose(rescaled.mean, 1 - 2 * average.mean, atol=1e-6)
    np.testing.assert_allclose([rescaled.high, rescaled.low], 1 - 2 * ends, atol=1e-6)


def test_a_rescaling_of_images_has_the_ends_of_its_outputs():
    images = layers.Input((4, 4, 3))
    x = layers.Rescaling(1 / 127.5, -1.0, name='rescaled')(images)
    x = layers.BatchNormalization()(layers.Conv2D(6, 1)(x))
    folded, norms = fold_with_norms(flatten(randomize(tf_keras.Model(images, x))))
    found = propagate(folded, norms, (0.0, 255.0))
    ends = [(each.low.min(), each.high.max()) for each in found.values()]
    assert ends[0] == (0, 255) and np.allclose(ends[1], (-1, 1), atol=1e-6)


def test_positions_keep_their_channels():
    """Flattening, and the shuffle of channels of ShuffleNet."""

    def shuffled(norm):
        x = layers.Reshape((4, 4, 2, 3))(norm())
        return layers.Flatten()(layers.Reshape((4, 4, 6))(layers.Permute((1, 2, 4, 3))(x)))

    folded, norms = model_of(shuffled)
    found = propagate(folded, norms, (0.0, 1.0))[folded.layers[-1].name]
    expected = BETA.reshape(2, 3).T.reshape(-1)
    assert np.allclose(found.mean.reshape(16, 6), expected)
    assert np.allclose(found.variance.reshape(16, 6)[3], (GAMMA**2).reshape(2, 3).T.reshape(-1))
    folded, norms = model_of(lambda norm: layers.GlobalAveragePooling2D()(layers.ReLU()(norm())))
    found = propagate(folded, norms, (0.0, 1.0))
    assert np.allclose(found[folded.layers[-1].name].mean.reshape(-1), rectified(BETA, GAMMA**2)[0])


def test_a_channel_that_is_constant_has_no_deviation_whatever_its_gamma():
    """The batch norm's own arithmetic: it divides by the root of variance and epsilon."""
    images = layers.Input((4, 4, 3))
    norm = layers.BatchNormalization(epsilon=1e-3, name='norm')
    model = randomize(tf_keras.Model(images, norm(layers.Conv2D(4, 1, name='conv')(images))))
    norm.moving_variance.assign([0.0, 1e-3, 1.0, 50.0])
    norm.gamma.assign([1.0, -2.0, -2.0, 3.0])
    _, norms = fold_with_norms(flatten(model))
    expected = [0, 2 / np.sqrt(2), 2 / np.sqrt(1.001), 3 / np.sqrt(1 + 1e-3 / 50)]
    np.testing.assert_allclose(norms['conv'].deviation, expected, rtol=1e-6)
    np.testing.assert_allclose(norms['conv'].mean, norm.beta, rtol=1e-6)


def test_norms_without_gamma_or_beta_and_without_a_convolution():
    images = layers.Input((4, 4, 3))
    bare = layers.BatchNormalization(scale=False, center=False, epsilon=0.0)
    x = layers.ReLU()(bare(layers.Conv2D(3, 1, name='conv')(images)))
    x = layers.BatchNormalization(epsilon=0.0, name='alone')(layers.Add(name='sum')([x, images]))
    model = randomize(tf_keras.Model(images, x))
    folded, norms = fold_with_norms(flatten(model))
    np.testing.assert_allclose(norms['conv'].mean, np.zeros(3))
    np.testing.assert_allclose(norms['conv'].deviation, np.ones(3))
    np.testing.assert_allclose(norms['alone'].mean, model.get_layer('alone').beta, rtol=1e-6)
    moments = propagate(folded, norms, (-2.0, 1.0))
    image = moments[folded.layers[0].name]
    assert not image.known and image.mean[0] == -0.5 and image.variance[0] == 0.75
    assert not moments['sum'].known and moments['alone'].known


def test_an_unknown_layer_is_named():
    images = layers.Input((4, 4, 3))
    x = layers.BatchNormalization()(layers.Conv2D(6, 1)(images))
    x = layers.Conv2D(2, 1)(layers.Softmax(name='attention')(x))
    folded, norms = fold_with_norms(flatten(randomize(tf_keras.Model(images, x))))
    with pytest.raises(UserError, match="layer 'attention' .*pass --method=ptq"):
        propagate(folded, norms, (0.0, 1.0))
