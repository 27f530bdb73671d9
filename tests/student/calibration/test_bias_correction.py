"""Bias correction: channels keep the means that they have in float."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.student.test_student import PIXELS, own_teacher
from tests.students import student_of
from zscgan_tf.student.calibration.bias_correction import correct_biases
from zscgan_tf.student.calibration.error_compensation import compensate_errors
from zscgan_tf.student.calibration.ranges import set_ranges

layers = tf_keras.layers


def batches():
    return [PIXELS[:48], PIXELS[48:]]  # of different sizes: all images count alike


def test_any_names_of_layers_will_do():
    def build(x):
        for name in ('a', 'a_error', 'a_error_'):
            x = layers.ReLU()(layers.Conv2D(4, 1, name=name)(x))
        return layers.Dense(4)(layers.GlobalAveragePooling2D()(x))

    student = student_of(own_teacher(build))
    set_ranges(student, batches)
    correct_biases(student, batches)


@pytest.mark.parametrize('compensated', [False, True])
def test_channels_keep_their_means(compensated):
    def build(x):
        x = layers.Conv2D(5, 3, padding='same', name='conv')(x)
        x = layers.DepthwiseConv2D(3, strides=2, use_bias=False, name='wise')(layers.ReLU()(x))
        x = layers.BatchNormalization()(x)
        x = layers.GlobalAveragePooling2D()(x)
        return layers.Dense(4, name='top')(x)

    student = student_of(own_teacher(build), weight_bits=3, activation_bits=8)
    set_ranges(student, batches)
    if compensated:  # the kernels are on their grids already
        compensate_errors(student, batches)
    before = {v.name: v.numpy() for v in student.model.variables}
    correct_biases(student, batches)
    after = {v.name: v.numpy() for v in student.model.variables}
    changed = {name for name in after if np.any(after[name] != before[name])}
    assert len(changed) == 3 and all('bias' in name for name in changed)

    inputs = student.input_spec.to_inputs(PIXELS)
    for wrapper in student.model.layers:
        for kernel, quantizer, variables in getattr(wrapper, '_weight_vars', []):
            twin = student.twin.get_layer(wrapper.layer.name)
            x = tf_keras.Model(student.twin.input, twin.input)(inputs)
            padding = twin.padding.upper()
            rounded = quantizer(kernel, training=False, weights=variables)
            if isinstance(twin, layers.DepthwiseConv2D):
                found = tf.nn.depthwise_conv2d(x, rounded, [1, 2, 2, 1], padding)
            else:
                found = tf.nn.conv2d(x, rounded, 1, padding)
            difference = found + wrapper.layer.bias - twin(x)
            means = np.mean(difference, axis=(0, 1, 2))
            np.testing.assert_allclose(means, 0, atol=1e-5 * float(np.std(twin(x))))
            assert np.abs(difference).max() > 1e-3  # rounding itself stays
