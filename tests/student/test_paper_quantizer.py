"""The quantizer of the paper's toolchain: one scale a kernel, moving averages, sums in 6 bits."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.students import student_of
from tests.tiny import tiny_teacher
from zscgan_tf.student import grids
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.tflite import student_export
from zscgan_tf.tflite.flatbuffer import op_name, read_model

layers = tf_keras.layers
PIXELS = np.random.default_rng(0).uniform(size=(40, 8, 8, 3)).astype(np.float32)
PAPER = {'weight_granularity': 'tensor', 'activation_scope': 'all_but_input'}


def make(estimator='minmax', **options):
    student = student_of(tiny_teacher(), **options)
    set_ranges(student, lambda: [PIXELS], estimator)
    return student


def kernel_scales(data):
    """The scales of each kernel of a file, by the number of its output channels."""
    model = read_model(data)
    graph = model.subgraphs[0]
    names = ('CONV_2D', 'DEPTHWISE_CONV_2D')
    kernels = [op.inputs[1] for op in graph.operators if op_name(model, op) in names]
    return [graph.tensors[index].quantization.scale for index in kernels]


@pytest.mark.parametrize('estimator', ['minmax', 'mse'])
@pytest.mark.parametrize('bits', [8, 4])
def test_all_scales_of_a_kernel_are_one(bits, estimator):
    student = make(estimator, weight_granularity='tensor', weight_bits=bits)
    found = kernel_scales(student_export.convert(student))
    kernels = student.kernels()
    assert len(found) == len(kernels) and min(map(len, found)) > 1
    for scales, kernel in zip(found, kernels, strict=True):
        assert np.ptp(scales) == 0
        largest = np.abs(kernel.variable.numpy()).max() / grids.weight_levels(bits)
        if estimator == 'minmax':
            np.testing.assert_allclose(scales[0], largest, rtol=1e-5)
        else:
            assert scales[0] <= largest * (1 + 1e-5)
    by_channel = kernel_scales(student_export.convert(make(weight_bits=bits)))
    assert all(np.ptp(scales) > 0 for scales in by_channel)


def test_the_gradient_of_a_shared_range_is_that_of_one_range():
    generator = np.random.default_rng(1)
    kernel = tf.constant(generator.normal(size=(3, 3, 4, 5)), tf.float32)
    weights = tf.constant(generator.normal(size=kernel.shape), tf.float32)
    several, one = tf.fill([5], 1.3), tf.constant([1.3])
    with tf.GradientTape() as tape:
        tape.watch((several, one))
        loss = tf.reduce_sum(weights * grids.quantize_weights(kernel, grids.shared(several), 4))
        flat = grids.quantize_weights(tf.reshape(kernel, [-1, 1]), one, 4)
        loss += tf.reduce_sum(tf.reshape(weights, [-1, 1]) * flat)
    found, expected = tape.gradient(loss, (several, one))
    np.testing.assert_allclose(found, np.full(5, expected[0]), rtol=1e-4)


@pytest.mark.parametrize('training', ['learned', 'moving_average'])
def test_trained_ranges_of_a_kernel_stay_one(training):
    student = make(weight_granularity='tensor', range_training=training)
    optimizer = tf_keras.optimizers.Adam(1e-2)
    before = [kernel.maximum.numpy() for kernel in student.kernels()]
    inputs = student.input_spec.to_inputs(PIXELS)
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(student.model(inputs, training=True)))
        variables = student.trainable_variables()
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    for kernel, old in zip(student.kernels(), before, strict=True):
        maximum = kernel.maximum.numpy()
        np.testing.assert_allclose(maximum, maximum[0], rtol=1e-6)
        assert maximum[0] != old[0]


def test_moving_averages_of_five_batches():
    student = make(range_training='moving_average', range_decay=0.9)
    name, found = next((n, r) for n, r in student.ranges().items() if not r.nonnegative)
    twin = tf_keras.Model(student.twin.input, student.twin.get_layer(name).output)
    found.assign(-3.0, 5.0)
    low, high = -3.0, 5.0
    for batch in np.split(PIXELS, 5):
        inputs = student.input_spec.to_inputs(batch)
        student.model(inputs, training=True)
        extremes = twin(inputs).numpy()  # layers in front round to 8 bits: near enough
        low = 0.9 * low + 0.1 * min(extremes.min(), 0)
        high = 0.9 * high + 0.1 * max(extremes.max(), 0)
    np.testing.assert_allclose(found.ends(), (low, high), rtol=1e-2)


def test_the_scope_of_the_papers_toolchain_is_all_but_the_input():
    student = make(activation_bits=6, **PAPER)
    outputs = {
        wrapper.layer.name: wrapper.quantize_config.output.bits
        for wrapper in student.model.layers
        if hasattr(wrapper, 'layer') and wrapper.quantize_config.output
    }
    assert set(outputs.values()) == {6} and len(outputs) > 3
    quantize_input = student.model.get_layer('quantize_input')
    assert quantize_input.quantizer.bits == 8
    _, _, report = student_export.export(student, [student.input_spec.to_inputs(PIXELS).numpy()])
    assert report.activation_levels <= 64
