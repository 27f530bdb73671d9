"""Additions of one step: exact in the student and in the file, and worth it."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.student.test_student import PIXELS, own_teacher
from tests.students import student_of
from tests.tensors import ops_of
from zscgan_tf.student.calibration.alignment import align_additions, joined_steps
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.tflite import student_export

layers = tf_keras.layers


def residual(x):
    """Two blocks, between them a shortcut that takes every second pixel and adds channels."""

    def convolved(x, name, filters=6, strides=1):
        return layers.Conv2D(filters, 3, strides, padding='same', name=name)(x)

    x = layers.ReLU(name='stem')(convolved(x, 'first'))
    x = layers.ReLU(name='one')(layers.Add()([convolved(x, 'branch'), x]))
    shortcut = layers.Conv2D(8, 1, strides=2, use_bias=False, name='shortcut')(x)
    x = layers.ReLU(name='two')(layers.Add()([convolved(x, 'wider', 8, 2), shortcut]))
    return layers.Dense(4, name='top')(layers.GlobalAveragePooling2D()(x))


SUMS = {'one': ('branch', 'stem'), 'two': ('wider', 'shortcut'), 'shortcut': ('one',)}


def make(seed=0, **options):
    teacher = own_teacher(residual, seed=seed)
    selection = np.zeros((1, 1, 6, 8), np.float32)
    selection[0, 0, range(6), range(1, 7)] = 1
    teacher.model.get_layer('shortcut').set_weights([selection])
    student = student_of(teacher, **options)
    set_ranges(student, lambda: [PIXELS])
    return student


def limits(student):
    return {name: each.ends() for name, each in student.ranges().items()}


def steps(student):
    return {
        name: np.ptp([0.0, *ends]) / (2 ** student.ranges()[name].bits - 1)
        for name, ends in limits(student).items()
    }


def exact(student):
    """The results of additions and selections whose step is that of all their operands."""
    found = steps(student)
    return {
        result
        for result, operands in SUMS.items()
        if np.allclose([found[name] for name in operands], found[result], rtol=1e-6)
    }


def values(student, names):
    wrappers = [student.model.get_layer(f'quant_{name}').output for name in names]
    model = tf_keras.Model(student.model.input, wrappers)
    found = model(student.input_spec.to_inputs(PIXELS), training=False)
    return [x.numpy() for x in tf.nest.flatten(found)]


def test_an_aligned_addition_rounds_nothing():
    student = make()
    before = limits(student)
    assert 'two' not in exact(student)
    align_additions(student)
    assert {'two', 'shortcut'} <= exact(student)
    wider, shortcut, two = values(student, ('wider', 'shortcut', 'two'))
    highest = limits(student)['two'][1]
    np.testing.assert_allclose(two, np.clip(wider + shortcut, 0, highest), atol=1e-5)
    (one,) = values(student, ['one'])
    np.testing.assert_allclose(shortcut[..., 1:7], one[:, ::2, ::2], atol=1e-5)
    for name, ends in limits(student).items():
        # No range is narrower, but for the shift that puts zero on its grid.
        least = np.ptp([0.0, *before[name]])
        assert np.ptp([0.0, *ends]) >= least * (1 - 1e-6)
        assert max(ends) >= max(before[name]) - steps(student)[name]


def test_the_file_adds_exactly():
    student = make()
    align_additions(student)
    inputs = student.input_spec.to_inputs(PIXELS[:1]).numpy()
    data, *_ = student_export.export(student, [inputs])
    aligned = 0
    for (first, second, result), scales in ops_of(data, inputs, 'ADD'):
        if np.allclose(scales, scales[0], rtol=1e-6):
            aligned += 1
            np.testing.assert_array_equal(result, np.clip(first + second, 0, 255))
    assert aligned == len(exact(student) & {'one', 'two'}) > 0


@pytest.mark.slow
def test_less_is_lost_to_rounding():
    errors = np.zeros([4, 2])
    for seed, aligned in np.ndindex(errors.shape):
        student = make(seed)
        if aligned:
            align_additions(student)
        float_values = tf_keras.Model(student.twin.input, student.twin.get_layer('two').output)
        expected = float_values(student.input_spec.to_inputs(PIXELS), training=False)
        errors[seed, aligned] = np.mean(np.square(values(student, ['two'])[0] - expected))
    assert (errors[:, 1] < errors[:, 0]).all()
    assert np.mean(errors[:, 1] / errors[:, 0]) < 0.95, errors


def test_fewer_bits_than_their_branch_has_are_not_aligned():
    student = make(activation_bits=6)
    before = limits(student)
    align_additions(student)
    after = limits(student)
    # The second sum is read by no convolution: it has the 8 bits of its branch.
    assert 'two' in exact(student)
    assert all(after[name] == before[name] for name in ('stem', 'branch', 'one'))


def test_a_convolution_that_does_more_than_select_is_rounded():
    for scale, offset in ((0.9, 0.0), (1.0, 0.1)):
        student = make()
        shortcut = student.twin.get_layer('shortcut')
        kernel, bias = shortcut.get_weights()
        shortcut.set_weights([kernel * scale, bias + offset])
        align_additions(student)
        assert 'shortcut' not in exact(student)


@pytest.mark.parametrize('seed', range(5))
def test_joined_steps_are_those_of_the_best_choice_of_additions(seed):
    rng = np.random.default_rng(seed)
    names = [f'stream {i}' for i in range(5)] + [f'branch {i}' for i in range(1, 5)]
    asked = dict(zip(names, rng.uniform(1, 2, len(names)), strict=True))
    sums = [(f'stream {i}', (f'branch {i}', f'stream {i - 1}')) for i in range(1, 5)]

    def cost(found, exact):
        return sum(step**2 for name, step in found.items() if name not in exact)

    def of(chosen):
        found, results = dict(asked), {result for result, _ in chosen}
        for _ in names:  # as often as a step can be handed on
            for result, operands in chosen:
                largest = max(found[name] for name in (result, *operands))
                found |= dict.fromkeys((result, *operands), largest)
        return cost(found, results)

    best = min(of(c) for n in range(5) for c in itertools.combinations(sums, n))
    found = joined_steps(asked, sums)
    results = {r for r, operands in sums if len({found[n] for n in (r, *operands)}) == 1}
    assert cost(found, results) == pytest.approx(best)
    assert all(found[name] >= asked[name] for name in names)
