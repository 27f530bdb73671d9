"""Equations 3 and 4, the optimizer, one step, and the variations of images."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.methods.test_zscgan import Recorder
from tests.numbers import softmax
from tests.students import student_of
from zscgan_tf.methods import augmentation, distillation
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.student.student import feature_layers
from zscgan_tf.training.strategy import fold_seed

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('weight', (0.0, 0.3, 1.0))
@pytest.mark.parametrize('temperature', (1.0, 4.0))
def test_loss_is_equation_3(weight, temperature):
    teacher, student = RNG.normal(size=(2, 6, 5)).astype(np.float32) * 3
    labels = np.arange(6) % 5
    soft = -np.sum(softmax(teacher / temperature) * np.log(softmax(student / temperature)), axis=1)
    hard = -np.log(softmax(student))[np.arange(6), labels]
    expected = np.mean(weight * temperature**2 * soft + (1 - weight) * hard)
    found = distillation.distillation_loss(
        tf.constant(teacher),
        tf.constant(student),
        labels=tf.constant(labels, tf.int32),
        soft_target_weight=weight,
        temperature=temperature,
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('weight', (0.3, 1.0))
def test_loss_of_independent_labels_is_the_sigmoid_cross_entropy(weight):
    teacher, student = RNG.normal(size=(2, 6, 5)).astype(np.float32) * 3
    labels, temperature = np.arange(6) % 5, 2.0

    def cross_entropy(p, z):
        q = 1 / (1 + np.exp(-np.float64(z)))
        return -np.sum(p * np.log(q) + (1 - p) * np.log(1 - q), axis=1)

    soft = cross_entropy(1 / (1 + np.exp(-teacher / temperature)), student / temperature)
    hard = cross_entropy(np.eye(5)[labels], student)
    expected = np.mean(weight * temperature**2 * soft + (1 - weight) * hard)
    found = distillation.distillation_loss(
        tf.constant(teacher),
        tf.constant(student),
        labels=tf.constant(labels, tf.int32),
        soft_target_weight=weight,
        temperature=temperature,
        independent=True,
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_papers_optimizer():
    """Against Nesterov's rule with momentum 0.9 written out, and a cosine to zero."""
    options = distillation.DistillationOptions.resolve(
        'paper', {'learning_rate': 0.1, 'steps': 4, 'update_generator': False}
    )
    variable = tf.Variable([1.0, -2.0])
    optimizer = distillation.make_optimizer(options, [variable])
    expected, velocity = variable.numpy(), 0
    for step, gradient in enumerate(np.float32([[1, -3], [0.5, 2], [-1, 0.1], [0.2, 0.2]])):
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        rate = 0.1 * (1 + np.cos(np.pi * step / 4)) / 2
        velocity = 0.9 * velocity - rate * gradient
        expected = expected + 0.9 * velocity - rate * gradient
        np.testing.assert_allclose(variable, expected, rtol=1e-5)


def test_the_default_optimizer_is_adam_with_a_cosine():
    options = distillation.DistillationOptions.resolve('small', {'learning_rate': 0.1, 'steps': 4})
    variable = tf.Variable([1.0, -2.0])
    optimizer = distillation.make_optimizer(options, [variable])
    rates = [float(optimizer._learning_rate(step)) for step in (0, 2, 4)]
    assert rates == pytest.approx([0.1, 0.05, 0], abs=1e-8)
    optimizer.apply_gradients([(tf.constant([3.0, -0.2]), variable)])
    np.testing.assert_allclose(variable, [0.9, -1.9], atol=1e-5)  # Adam's first step is the rate


def make_step(teacher, pixels, generator_update=None, optimizer=None, **options):
    """A student whose ranges are set, and its step without features and without variation."""
    options = distillation.DistillationOptions.resolve(
        'small',
        {'feature_loss_weight': 0.0, 'augment': False, 'mix': False, 'steps': 4, **options},
    )
    student = student_of(teacher)
    set_ranges(student, lambda: [pixels])
    optimizer = optimizer or distillation.make_optimizer(options, student.trainable_variables())
    return student, distillation.make_step(
        student, optimizer, options, generator_update=generator_update
    )


def test_a_step_has_the_weight_and_temperature_of_its_options(teacher):
    pixels = RNG.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    labels = np.arange(6, dtype=np.int32) % 5
    student, step = make_step(teacher, pixels, soft_target_weight=0.3, temperature=2.0)
    wanted, given = teacher.logits(pixels).numpy(), student.logits(pixels).numpy()
    soft = -np.sum(softmax(wanted / 2) * np.log(softmax(given / 2)), axis=1)
    hard = -np.log(softmax(given))[np.arange(6), labels]
    found = step(tf.constant(0, tf.int64), tf.constant(pixels), tf.constant(labels))
    assert float(found['distillation_loss']) == pytest.approx(
        np.mean(0.3 * 4 * soft + 0.7 * hard), rel=1e-3
    )


def test_a_step_is_of_varied_images(teacher):
    pixels = RNG.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    student, step = make_step(teacher, pixels, augment=True, mix=True)
    draws = augmentation.draw_integers([6, 4], fold_seed(0, 3, 2))
    varied = augmentation.augment(tf.constant(pixels), draws)
    varied = augmentation.mix(varied, draws[:, 3])

    def loss(x):
        wanted, given = teacher.logits(x).numpy(), student.logits(x).numpy()
        return -np.mean(np.sum(softmax(wanted) * np.log(softmax(given)), axis=1))

    expected, unvaried = loss(varied), loss(pixels)
    found = float(step(tf.constant(3, tf.int64), tf.constant(pixels))['distillation_loss'])
    assert found == pytest.approx(expected, rel=1e-4) != pytest.approx(unvaried, rel=1e-3)


def test_features_count_by_their_weight(teacher):
    """The gradient is linear in the weight."""
    pixels = RNG.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    gradients = []
    for weight in (0.0, 1.0, 3.0):
        recorder = Recorder()
        _, step = make_step(
            teacher, pixels, optimizer=recorder, feature_loss_weight=weight, weight_bits=4
        )
        step(tf.constant(0, tf.int64), tf.constant(pixels))
        gradients.append(np.concatenate([np.ravel(g) for g in recorder.gradients[0]]))
    none, one, three = gradients
    size = np.abs(one - none).max()
    assert size > 0
    np.testing.assert_allclose(three - none, 3 * (one - none), atol=1e-3 * size)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_a_rounded_teacher_does_not_teach(teacher, dtype):
    """Where the generator's teacher is rounded, the student learns from the float one."""
    pixels = RNG.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    wanted = teacher.logits(pixels).numpy()
    other = wanted[:, ::-1]  # of neither
    result = {}, tf.constant(pixels), None, tf.cast(other, dtype)
    student, step = make_step(teacher, pixels, lambda index: result)
    given = student.logits(pixels).numpy()
    target = wanted if dtype == 'bfloat16' else other
    loss = -np.mean(np.sum(softmax(target) * np.log(softmax(given)), axis=1))
    found = step(tf.constant(0, tf.int64))['distillation_loss']
    assert float(found) == pytest.approx(loss, rel=1e-3)


def test_feature_loss_is_relative_to_the_teachers_features():
    teacher = [tf.constant(RNG.normal(size=(4, 3, 3, s)), tf.float32) for s in (2, 5)]
    assert float(distillation.feature_loss(teacher, teacher)) == 0
    halves = [0.5 * t for t in teacher]
    assert float(distillation.feature_loss(teacher, halves)) == pytest.approx(0.25, rel=1e-5)


def test_augmentation_flips_and_shifts():
    pixels = RNG.uniform(size=(3, 16, 16, 2)).astype(np.float32)
    # Numbers modulo 5 are shifts of -2 ... 2.
    draws = tf.constant([[2, 2, 0], [2, 2, 1], [4, 0, 0]])
    same, flipped, shifted = augmentation.augment(tf.constant(pixels), draws).numpy()
    np.testing.assert_array_equal(same, pixels[0])
    np.testing.assert_array_equal(flipped, pixels[1][:, ::-1])
    padded = np.pad(pixels[2], ((2, 2), (2, 2), (0, 0)), 'edge')
    np.testing.assert_array_equal(shifted, padded[4:20, 0:16])


def test_mixing_blends_neighbours():
    pixels = RNG.uniform(size=(5, 4, 4, 2)).astype(np.float32)
    draws = tf.constant([2**18, 7, 0, 7, 2**19])
    found = augmentation.mix(tf.constant(pixels), draws).numpy()
    a, b, c, d, last = pixels
    expected = [0.25 * a + 0.75 * b, 0.25 * b + 0.75 * a, d, c, last]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_blends_are_the_same_of_the_same_seed():
    pixels = RNG.uniform(size=(10, 4, 4, 2)).astype(np.float32)
    batches = [(pixels[:6], np.arange(6)), (pixels[6:], np.arange(4))]
    first, again, other = (list(augmentation.blends(batches, seed)) for seed in (3, 3, 4))
    assert all(labels is None for _, labels in first)
    first, again, other = ([x.numpy() for x, _ in found] for found in (first, again, other))
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.abs(one - three).max() > 0.01
    found, original = np.concatenate(first), pixels
    # Of a pair, the sum is what it was, and each of the two is between both.
    np.testing.assert_allclose(
        found[::2] + found[1::2], original[::2] + original[1::2], rtol=1e-5, atol=1e-6
    )
    shares = (found[::2] - original[1::2])[:, 0, 0, 0] / (original[::2] - original[1::2])[
        :, 0, 0, 0
    ]
    assert np.all((shares > 0) & (shares < 1)) and len(np.unique(shares.round(3))) == 5


def test_a_step_moves_ranges_that_are_moving_averages(teacher):
    pixels = np.random.default_rng(3).uniform(size=(6, 8, 8, 3)).astype(np.float32)
    student = student_of(teacher, range_training='moving_average')
    set_ranges(student, lambda: [pixels])
    off = {'feature_loss_weight': 0.0, 'augment': False, 'mix': False}
    options = distillation.DistillationOptions.resolve(
        'small', {'range_training': 'moving_average', **off}
    )
    optimizer = distillation.make_optimizer(options, student.trainable_variables())
    found = next(iter(student.ranges().values()))
    found.high.assign(1000.0)
    step = distillation.make_step(student, optimizer, options)
    step(tf.constant(0, tf.int64), tf.constant(pixels))
    assert 989 < float(found.high) < 991


def test_the_gradient_of_a_step_is_that_of_both_terms(teacher):
    pixels = np.random.default_rng(4).uniform(size=(6, 8, 8, 3)).astype(np.float32)
    recorder = Recorder()
    student, step = make_step(teacher, pixels, optimizer=recorder, feature_loss_weight=3.0)
    names, inputs = feature_layers(student.twin), teacher.input_spec.to_inputs(pixels)
    twin = tf_keras.Model(
        student.twin.input, [student.twin.get_layer(name).output for name in names]
    )
    own = tf_keras.Model(student.model.input, [student.output_of(name) for name in names])
    wanted, variables = tf.nn.softmax(teacher.logits(pixels)), student.trainable_variables()
    with tf.GradientTape() as tape:
        given = tf.nn.log_softmax(student.logits(pixels))
        parts = [
            tf.reduce_mean((s - t) ** 2) / tf.reduce_mean(t**2)
            for s, t in zip(own(inputs), twin(inputs), strict=True)
        ]
        loss = 3 * tf.add_n(parts) / len(parts) - tf.reduce_mean(tf.reduce_sum(wanted * given, 1))
    expected = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, variables)]
    step(tf.constant(0, tf.int64), tf.constant(pixels))
    largest = max(np.abs(g).max() for g in expected)
    for found, one in zip(recorder.gradients[0], expected, strict=True):
        np.testing.assert_allclose(found, one, rtol=1e-2, atol=1e-3 * largest)
