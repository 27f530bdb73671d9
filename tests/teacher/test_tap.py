"""The tap gives the moments of every batch norm's input, next to those that it stores."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

from tests.conftest import randomize
from zscgan_tf.methods import zscgan
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.teacher.tap import batch_moments, batch_norm_inputs, build_tap
from zscgan_tf.tflite import calibration

layers = tf_keras.layers


def images(count=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 6, 5, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def model():
    """Batch norms of different widths, one used twice, two synchronized ones."""
    x = start = tf_keras.Input((6, 5, 3))
    shared = layers.BatchNormalization(name='shared', epsilon=0.01)
    x = shared(layers.Conv2D(4, 3, padding='same')(x))
    x = layers.ReLU()(x)
    x = shared(layers.Conv2D(4, 1)(x))
    x = layers.BatchNormalization(name='synchronized', synchronized=True)(layers.Conv2D(5, 1)(x))
    x = layers.experimental.SyncBatchNormalization(name='old')(layers.DepthwiseConv2D(3)(x))
    x = layers.Dense(7)(layers.GlobalAveragePooling2D()(x))
    x = layers.BatchNormalization(name='vector')(x)
    return randomize(tf_keras.Model(start, x))


def test_every_use_counts_in_order(model):
    tap, stored = build_tap(model)
    assert [moments.layer for moments in stored] == [
        'shared',
        'shared',
        'synchronized',
        'old',
        'vector',
    ]
    logits, *inputs = tap(images())
    assert [x.shape[-1] for x in inputs] == [len(moments.mean) for moments in stored]
    np.testing.assert_allclose(logits, model(images()), rtol=1e-5)
    assert stored[0].epsilon == pytest.approx(0.01)


def test_inputs_belong_to_their_batch_norms(model):
    """Each input, normalized by the stored moments, is what the layer itself makes of it."""
    tap, stored = build_tap(model)
    _, *inputs = tap(images())
    for moments, x in zip(stored, inputs, strict=True):
        layer = model.get_layer(moments.layer)
        normalized = (x - moments.mean) / np.sqrt(moments.variance + moments.epsilon)
        expected = normalized * layer.gamma.numpy() + layer.beta.numpy()
        np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-4)
    # The whole batch, from the graph of the model itself.
    first = model.layers[1](images())
    np.testing.assert_allclose(inputs[0], first, atol=1e-5)
    assert all(x.shape[0] == 4 for x in inputs)


def test_moments_are_numpys(model):
    tap, _ = build_tap(model)
    for x in tap(images(8))[1:]:
        x = x.numpy().astype(np.float64)
        mean, variance = batch_moments(tf.constant(x, tf.float32))
        axes = tuple(range(x.ndim - 1))
        np.testing.assert_allclose(mean, x.mean(axes), atol=1e-6)
        np.testing.assert_allclose(variance, x.var(axes), rtol=1e-4, atol=1e-6)


def test_moments_are_float32_and_keep_their_digits():
    x = np.random.default_rng(0).normal(1000, 1, (64, 4, 4, 2))
    mean, variance = batch_moments(tf.constant(x, tf.float32))
    np.testing.assert_allclose(variance, x.var((0, 1, 2)), rtol=1e-3)
    mean, variance = batch_moments(tf.constant(x, tf.bfloat16))
    assert mean.dtype == variance.dtype == tf.float32


def norm_over(axis, channels):
    """A batch norm of [B, 4, channels]."""
    x = start = tf_keras.Input((8, 8, 1))
    x = layers.Reshape((4, channels))(layers.Conv2D(channels, 4, strides=4)(x))
    # Momentum 0: in training, Keras stores the moments of the last batch.
    x = layers.BatchNormalization(axis=axis, momentum=0.0, name='norm')(x)
    model = tf_keras.Model(start, layers.Dense(3)(layers.Flatten()(x)))
    return randomize(model)


@pytest.mark.parametrize('channels', (4, 6))
@pytest.mark.parametrize('axis', (1, -2, 2, [1, 2]))
@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_moments_over_any_axis_are_keras(axis, channels, dtype):
    model = norm_over(axis, channels)
    tap, (stored,) = build_tap(model, dtype)
    norm = model.get_layer('norm')
    np.testing.assert_array_equal(stored.mean, norm.moving_mean.numpy().ravel())
    np.testing.assert_array_equal(stored.variance, norm.moving_variance.numpy().ravel())
    pixels = np.random.default_rng(0).normal(3, 2, (8, 8, 8, 1)).astype(np.float32)
    logits, x = tap(pixels)
    np.testing.assert_allclose(
        tf.cast(logits, tf.float32),
        model(pixels),
        rtol=1e-4,
        atol=1e-4 if dtype == 'float32' else 0.1,
    )
    mean, variance = batch_moments(x)
    norm.trainable = True
    tf_keras.Model(model.input, norm.output)(pixels, training=True)
    tolerance = {'rtol': 1e-4, 'atol': 1e-5} if dtype == 'float32' else {'rtol': 0.05, 'atol': 0.02}
    np.testing.assert_allclose(mean, norm.moving_mean.numpy().ravel(), **tolerance)
    np.testing.assert_allclose(variance, norm.moving_variance.numpy().ravel(), **tolerance)


def test_the_taps_own_layers_have_names_of_their_own():
    """A teacher's layers may be called as Keras would call new ones, and be used twice."""
    x = start = tf_keras.Input((8, 8, 1))
    x = layers.Reshape((4, 16), name='reshape')(x)
    norm = layers.BatchNormalization(axis=1, name='norm')
    x = layers.Permute((1, 2), name='permute')(norm(norm(x)))
    model = randomize(tf_keras.Model(start, layers.Dense(3)(layers.Flatten()(x))))
    tap, stored = build_tap(model)
    _, *inputs = tap(np.ones((2, 8, 8, 1), np.float32))
    assert [x.shape[-1] for x in inputs] == [4, 4] and len(stored) == 2


@pytest.mark.parametrize('axis', (1, [1, 2]))
def test_a_teacher_that_normalizes_another_axis_is_quantized(tmp_path, axis):
    """From loading to a file of integers that answers as the model does."""
    model = norm_over(axis, channels=6)
    teacher = load_teacher(model, input_spec={'mean': [0.5], 'std': [0.25]})
    options = {'generator_scales': 1, 'generator_channels': 4, 'batch_size': 32}
    source = zscgan.train_generator(teacher, tmp_path, steps=4, **options)
    pixels = next(source.batches())[0].numpy()
    interpreter = Interpreter(model_content=calibration.convert(teacher, [pixels]))
    given, answer = (
        details()[0] for details in (interpreter.get_input_details, interpreter.get_output_details)
    )
    images = (pixels - 0.5) / 0.25
    interpreter.resize_tensor_input(given['index'], images.shape)
    interpreter.allocate_tensors()
    scale, zero = given['quantization']
    interpreter.set_tensor(
        given['index'], np.clip(np.rint(images / scale + zero), -128, 127).astype(np.int8)
    )
    interpreter.invoke()
    scale, zero = answer['quantization']
    found = (interpreter.get_tensor(answer['index']).astype(int) - zero) * scale
    expected = model(images).numpy()
    assert np.abs(found - expected).mean() < 0.05 * expected.std()


def test_a_normalization_over_other_axes_is_kept_in_bfloat16():
    normalization = layers.Normalization(axis=(1, 2, 3))
    normalization.adapt(5 + 3 * images(32))
    x = start = tf_keras.Input(images().shape[1:])
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(normalization(x)))
    model = flatten(tf_keras.Model(start, layers.Dense(3)(layers.GlobalMaxPooling2D()(x))))
    exact, found = (
        build_tap(model, dtype)[0](5 + 3 * images()) for dtype in ('float32', 'bfloat16')
    )
    for a, b in zip(exact, found, strict=True):
        np.testing.assert_allclose(tf.cast(b, tf.float32), a, atol=0.05 * np.std(a))


def test_no_batch_norm_no_inputs():
    x = tf_keras.Input((4, 4, 3))
    assert batch_norm_inputs(tf_keras.Model(x, layers.Flatten()(x))) == []
