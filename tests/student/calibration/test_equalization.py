"""Equalized channels: the same function, and less lost to rounding."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.student.test_student import PIXELS, own_teacher
from zscgan_tf.student.calibration.equalization import LARGEST_SCALE, best_scales, equalize
from zscgan_tf.student.student import as_logits, build_student, set_ranges

layers = tf_keras.layers


def residual(x):
    """Two stages, a depthwise convolution, an addition whose channels are tied, and pools."""
    x = stem = layers.ReLU(name='stem')(layers.Conv2D(6, 3, padding='same', name='first')(x))
    x = layers.ReLU(name='inner')(layers.DepthwiseConv2D(3, padding='same', name='depthwise')(x))
    x = layers.Conv2D(6, 1, name='linear')(x)
    x = layers.ReLU(name='sum')(layers.Add()([x, stem]))
    x = layers.MaxPooling2D(name='pool')(layers.ZeroPadding2D()(x))
    x = layers.ReLU(name='last')(layers.Conv2D(8, 3, strides=2, name='second')(x))
    return layers.Dense(4, name='top')(layers.GlobalAveragePooling2D()(x))


def capped(x):
    x = layers.ReLU(6.0)(layers.Conv2D(6, 3)(x))
    return layers.Dense(4)(layers.GlobalAveragePooling2D()(x))


def unevenly(teacher, spread=24.0):
    """The teacher with channels of very different sizes in front of its second convolution."""
    scale = np.geomspace(1, spread, 6)
    depthwise, linear = map(teacher.model.get_layer, ('depthwise', 'linear'))
    kernel, bias = depthwise.get_weights()
    depthwise.set_weights([kernel * scale[:, None], bias * scale])
    kernel, bias = linear.get_weights()
    linear.set_weights([kernel / scale[:, None], bias])
    return teacher


def batches():
    return [tf.constant(PIXELS)]


def logits(model, student):
    inputs = student.input_spec.to_inputs(PIXELS)
    return as_logits(model(inputs, training=False)).numpy()


def test_the_function_stays():
    teacher = unevenly(own_teacher(residual))
    student = build_student(teacher)
    before = logits(student.twin, student)
    kernel = student.twin.get_layer('linear').kernel.numpy()
    equalize(student, batches)
    assert np.abs(student.twin.get_layer('linear').kernel / kernel - 1).max() > 0.5
    np.testing.assert_allclose(logits(student.twin, student), before, atol=1e-5 * before.std())
    for wrapper in student.model.layers:
        for variable, _, _ in getattr(wrapper, '_weight_vars', []):
            own = student.twin.get_layer(wrapper.layer.name)
            np.testing.assert_array_equal(variable, own.get_weights()[0])
            np.testing.assert_array_equal(wrapper.layer.bias, own.bias)


def test_less_is_lost_to_rounding():
    errors = []
    for scaled in (False, True):
        student = build_student(unevenly(own_teacher(residual)), activation_bits=4)
        if scaled:
            equalize(student, batches)
        set_ranges(student, batches)
        found, wanted = (logits(model, student) for model in (student.model, student.twin))
        errors.append(np.mean((found - wanted) ** 2))
    assert errors[1] < 0.7 * errors[0]


def test_a_cap_can_not_be_scaled():
    student = build_student(own_teacher(capped))
    before = [w.copy() for w in student.twin.get_weights()]
    equalize(student, batches)
    for one, two in zip(student.twin.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)


def cost(scales, peaks, sensitivities):
    return sum(
        np.max(scales * peak) ** 2 * np.sum(sensitivity / scales**2)
        for peak, sensitivity in zip(peaks, sensitivities, strict=True)
    )


def test_scales_of_one_tensor_even_out_its_peaks():
    peaks = np.array([1.0, 2.0, 0.5, 4.0])
    scales = best_scales([peaks], [np.array([3.0, 1.0, 2.0, 1.0])])
    assert np.max(scales * peaks) < 1.5 * np.min(scales * peaks)  # not 8 times as much
    assert np.exp(np.mean(np.log(scales))) == pytest.approx(1)


def test_scales_of_tied_tensors_cost_less_than_others():
    random = np.random.default_rng(0)
    peaks, sensitivities = random.lognormal(sigma=0.6, size=(2, 3, 8))
    scales = best_scales(peaks, sensitivities)
    least = cost(scales, peaks, sensitivities)
    assert least < 0.9 * cost(np.ones(8), peaks, sensitivities)
    others = (scales * random.lognormal(sigma=0.3, size=8) for _ in range(200))
    assert all(cost(other, peaks, sensitivities) > 0.98 * least for other in others)


def test_channels_that_are_zero_or_do_not_matter():
    peaks = [np.array([1.0, 0.0, 2.0, 3.0])]
    scales = best_scales(peaks, [np.array([1.0, 1.0, 0.0, 1e-30])])
    assert np.isfinite(scales).all() and scales[1] == scales[2] == 1
    assert scales.max() <= LARGEST_SCALE and scales.min() >= 1 / LARGEST_SCALE
    np.testing.assert_array_equal(best_scales([np.zeros(3)], [np.zeros(3)]), np.ones(3))
