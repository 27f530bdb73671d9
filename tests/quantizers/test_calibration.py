"""The record holders calibrate as all images do."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf.audit import read_model
from zscgan_tf.quantizers.calibration import Records, extremes_function

layers = tf_keras.layers


def plain(x):
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, use_bias=False)(x)))
    shortcut = x
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding='same')(x))
    return layers.ReLU(6.0)(layers.Add()([x, shortcut]))


def batch_norm_first(x):
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(6, 3, padding='same')(x)
    x = layers.BatchNormalization()(layers.Concatenate()([x, y]))
    return layers.Conv2D(4, 1)(layers.ReLU()(x))


def dilated(x):
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, dilation_rate=2)(x))
    return layers.ReLU()(layers.Conv2D(5, 2, dilation_rate=2)(x))


def smooth(x):
    x = layers.BatchNormalization()(layers.Conv2D(6, 3)(x))
    x = layers.Activation('swish')(x)
    x = layers.BatchNormalization()(layers.Conv2D(6, 3)(x))
    gate = layers.Activation('sigmoid')(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, layers.ReLU(6.0)(x)])
    return layers.ZeroPadding2D()(layers.Multiply()([x, gate]))


def dense(x):
    x = layers.Dense(6)(layers.Flatten()(layers.MaxPooling2D()(x)))
    x = layers.LeakyReLU(0.1)(layers.BatchNormalization()(x))
    return layers.Reshape((1, 1, 6))(x)


def build(body):
    inputs = tf_keras.Input((9, 9, 3))
    x = layers.GlobalAveragePooling2D()(body(inputs))
    return randomize(tf_keras.Model(inputs, layers.Dense(4, activation='softmax')(x)))


def images(count=200):
    return np.random.default_rng(0).normal(0, 1, (count, 9, 9, 3)).astype(np.float32)


def convert(model, samples):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([samples[i : i + 50]] for i in range(0, 200, 50))
    return converter.convert()


def scales(data):
    tensors = read_model(data).subgraphs[0].tensors
    return {
        (number, tensor.name): (tensor.quantization.scale, tensor.quantization.zeroPoint)
        for number, tensor in enumerate(tensors)
        if tensor.quantization is not None and tensor.quantization.scale is not None
    }


@pytest.mark.parametrize('body', [plain, batch_norm_first, dilated, smooth, dense])
def test_same_ranges_as_all_images(body):
    model, inputs = build(body), images()
    records = Records(model)
    for start in range(0, len(inputs), 33):
        records.add(inputs[start : start + 33])
    chosen = records.images()
    assert len(chosen) < 100
    expected, found = scales(convert(model, inputs)), scales(convert(model, chosen))
    assert set(found) == set(expected)
    for name, (scale, zero_point) in expected.items():
        np.testing.assert_allclose(found[name][0], scale, rtol=1e-5, err_msg=str(name))
        np.testing.assert_array_equal(found[name][1], zero_point)


def test_extremes_of_the_input_and_the_output():
    model, inputs = build(plain), images(5)
    values = extremes_function(model)(inputs).numpy()
    assert values.shape[1] == 5
    outputs = model(inputs).numpy()
    np.testing.assert_allclose(values[0], -inputs.min(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(values[1], inputs.max(axis=(1, 2, 3)), rtol=1e-6)
    assert np.abs(values - outputs.max(axis=1)).max(axis=1).min() < 1e-5


def test_few_images_are_kept():
    model = build(plain)
    records = Records(model)
    for seed in range(60):
        batch = np.random.default_rng(seed).normal(0, 1, (50, 9, 9, 3)).astype(np.float32)
        records.add(batch)
        assert len(records._images) <= len(records._best)
        assert all(image.base is None for image in records._images.values())
