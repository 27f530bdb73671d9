"""Error compensation: rounding that changes what a layer computes least."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.student.test_student import PIXELS as NOISE
from tests.student.test_student import own_teacher
from tests.students import student_of
from zscgan_tf.student.calibration import error_compensation
from zscgan_tf.student.calibration.error_compensation import compensate_errors, round_compensated
from zscgan_tf.student.calibration.ranges import set_ranges

layers = tf_keras.layers
# Neighbours are alike, as in images: there is something to cancel.
PIXELS = np.repeat(np.repeat(NOISE[:, ::4, ::4], 4, axis=1), 4, axis=2)


def batches():
    return [PIXELS[:48], PIXELS[48:]]  # of different sizes: all images count alike


def nearest(weights, maximum, bits):
    most = 2 ** (bits - 1) - 1
    steps = maximum / most
    return np.clip(np.rint(weights / steps), -most, most) * steps


def problem(seed, inputs=7, outputs=5):
    """Weights, correlated inputs' second moments, and ranges that cut some weights off."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(inputs, outputs))
    x = rng.normal(size=(200, inputs)) @ rng.normal(size=(inputs, inputs)) + 1
    return weights, x.T @ x / len(x), 0.8 * np.abs(weights).max(axis=0)


def one_after_the_other(weights, moments, maximum, bits):
    """The definition: after each weight, least squares of all that are left."""
    weights, result = weights.copy(), np.empty_like(weights)
    left = list(np.argsort(-np.diag(moments), kind='stable'))
    moments = moments + 0.01 * np.diag(moments).mean() * np.eye(len(moments))
    while left:
        first, *rest = left
        result[first] = nearest(weights[first], maximum, bits)
        error = weights[first] - result[first]
        if rest:
            weights[rest] += np.linalg.solve(
                moments[np.ix_(rest, rest)], np.outer(moments[rest, first], error)
            )
        left = rest
    return result


@pytest.mark.parametrize('bits, inputs', [(2, 7), (3, 7), (4, 64), (4, 150), (8, 7)])
def test_it_is_least_squares_of_what_is_left(bits, inputs):
    weights, moments, maximum = problem(bits, inputs)
    found = round_compensated(weights[None], moments[None], maximum[None], bits)
    expected = one_after_the_other(weights, moments, maximum, bits)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-9)


def test_groups_are_rounded_apart_from_each_other():
    problems = [problem(seed) for seed in (1, 2, 3)]
    weights, moments, maximum = (np.stack(values) for values in zip(*problems, strict=True))
    found = round_compensated(weights, moments, maximum, 4)
    for one, parts in zip(found, problems, strict=True):
        np.testing.assert_allclose(one, one_after_the_other(*parts, 4), rtol=0, atol=1e-9)


def test_inputs_without_correlation_are_rounded_to_nearest():
    weights, _, maximum = problem(0)
    moments = np.diag(np.arange(1.0, 8.0))
    for moment in (moments, 0 * moments):  # and inputs that are always zero
        found = round_compensated(weights[None], moment[None], maximum[None], 3)
        np.testing.assert_allclose(found[0], nearest(weights, maximum, 3), rtol=0, atol=1e-12)


def test_channels_of_zeros_stay_zero():
    weights, moments, maximum = problem(0)
    weights[:, 2] = 0
    found = round_compensated(weights[None], moments[None], maximum[None], 4)
    assert not np.any(found[0][:, 2]) and np.all(np.any(found[0][:, [0, 1, 3, 4]], axis=0))


def kinds(x):
    """A layer of each kind: strides, groups, 'valid', depthwise with a multiplier."""
    x = layers.Conv2D(6, 3, strides=2, padding='same', name='strided')(x)
    x = layers.DepthwiseConv2D(3, padding='same', depth_multiplier=2, name='wise')(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(8, 2, groups=4, padding='same', name='grouped')(x)
    x = layers.Conv2D(5, (2, 1), name='valid')(x)
    x = layers.Flatten()(layers.ReLU()(x))
    return layers.Dense(4, name='top')(x)


def output_error(student, wrapper, kernel):
    """Mean square of what other kernels of one layer change in its output, by the layer itself."""
    inputs = student.input_spec.to_inputs(PIXELS)
    x = tf_keras.Model(student.model.input, wrapper.input)(inputs, training=False)
    twin = student.twin.get_layer(wrapper.layer.name)
    layer = type(twin).from_config(twin.get_config())
    layer.build(x.shape)
    layer.set_weights([kernel, twin.bias.numpy()])
    return float(tf.reduce_mean(tf.square(layer(x) - twin(x))))


@pytest.mark.parametrize('largest', [error_compensation.LARGEST_MOMENTS, 4000])
def test_every_kind_of_layer_computes_more_exactly_than_rounded_to_nearest(largest, monkeypatch):
    monkeypatch.setattr(error_compensation, 'LARGEST_MOMENTS', largest)  # one pass, or several
    passes = []
    student = student_of(own_teacher(kinds), weight_bits=3, activation_bits=8)
    set_ranges(student, batches)
    before = {w.name: w.get_weights() for w in student.model.layers}
    compensate_errors(student, lambda: passes.append(1) or batches())
    assert len(passes) == (1 if largest > 4000 else 2)
    checked = 0
    for wrapper in student.model.layers:
        for kernel, quantizer, variables in getattr(wrapper, '_weight_vars', []):
            old = student.twin.get_layer(wrapper.layer.name).get_weights()[0]
            rounded = [
                quantizer(tf.constant(k), training=False, weights=variables).numpy()
                for k in (old, kernel.numpy())
            ]
            # On the grid already: what is trained and exported is what was chosen here.
            np.testing.assert_allclose(kernel.numpy(), rounded[1], rtol=0, atol=1e-6)
            errors = [output_error(student, wrapper, k) for k in rounded]
            assert errors[1] < 0.9 * errors[0], (wrapper.name, errors)
            checked += 1
    assert checked == 5
    # Nothing but kernels has changed.
    for wrapper in student.model.layers:
        kept = [v for v in wrapper.weights if not v.name.endswith('kernel:0')]
        names = [v.name for v in wrapper.weights]
        for variable in kept:
            old = before[wrapper.name][names.index(variable.name)]
            np.testing.assert_array_equal(variable.numpy(), old)


def test_what_is_too_large_is_rounded_to_nearest(monkeypatch):
    monkeypatch.setattr(error_compensation, 'LARGEST_MOMENTS', 10)
    student = student_of(own_teacher(kinds), weight_bits=3, activation_bits=8)
    set_ranges(student, batches)
    before = student.model.get_weights()
    compensate_errors(student, lambda: pytest.fail('images are not needed'))
    for one, two in zip(before, student.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_constants_are_not_rounded_to_make_up_for_errors():
    """The kernel of an average stays one."""

    def build(x):
        x = layers.AveragePooling2D((2, 4), name='mean')(layers.Rescaling(0.7, name='scale')(x))
        return layers.Dense(4)(layers.Flatten()(layers.Conv2D(6, 1, name='learned')(x)))

    student = student_of(own_teacher(build), weight_bits=3, activation_bits=8)
    set_ranges(student, batches)
    for name in ('quant_mean', 'quant_scale'):
        # A grid that their weights are not on.
        ((_, _, variables),) = student.model.get_layer(name)._weight_vars
        variables['max'].assign(1.3 * variables['max'])
    before = {w.name: w.get_weights() for w in student.model.layers}
    compensate_errors(student, batches)
    for name in ('quant_mean', 'quant_scale'):
        for one, two in zip(before[name], student.model.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)
    changed = student.model.get_layer('quant_learned').get_weights()
    assert any(np.any(a != b) for a, b in zip(before['quant_learned'], changed, strict=True))
