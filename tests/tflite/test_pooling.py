"""Pools in every place: the file's answers are those of the Keras model."""

import numpy as np
import pytest
import tf_keras

from tests.student.test_folding import make
from tests.student.test_student import PIXELS, own_teacher
from tests.students import student_of
from tests.tensors import answers
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.student.folding import fold
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.tflite import student_export

layers = tf_keras.layers


def pool(size, strides=1, padding='same'):
    return layers.AveragePooling2D(size, strides, padding)


def conv(x, strides=1):
    return layers.ReLU()(layers.Conv2D(6, 3, strides, padding='same')(x))


def end(x):
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


def beside_a_larger_range(x):
    x = conv(x)
    larger = layers.Rescaling(5.0)(conv(x, 2))
    return end(conv(layers.Concatenate()([larger, pool(3, 2)(x), layers.MaxPooling2D(2)(x)])))


def beside_its_input(x):
    x = layers.Concatenate()([x, pool(3)(x)])
    return end(conv(layers.ReLU()(pool(3, 2)(layers.Conv2D(6, 1)(x)))))


def added_and_at_the_end(x):
    x = conv(x)
    x = layers.ReLU()(layers.Add()([layers.Conv2D(6, 3, padding='same')(x), pool(5)(x)]))
    return layers.Flatten()(pool(5, 8)(layers.Conv2D(5, 1)(x)))


def of_unequal_strides(x):
    x = pool(3, (1, 2))(pool((2, 1), (2, 1), 'valid')(conv(x)))
    return end(pool(1, (2, 1))(conv(x)))


PLACES = [beside_a_larger_range, beside_its_input, added_and_at_the_end, of_unequal_strides]


@pytest.mark.parametrize('build', PLACES)
def test_the_file_answers_as_the_model(build):
    teacher = own_teacher(build)
    inputs = teacher.input_spec.to_inputs(PIXELS).numpy()
    student = student_of(teacher)
    set_ranges(student, lambda: [PIXELS])
    data, report, _ = student_export.export(student, [inputs])
    assert report.integer_op_count == report.op_count
    expected, found = teacher.model(inputs).numpy(), answers(data, inputs)
    for right in (expected, student.logits(PIXELS).numpy()):
        assert np.sqrt(np.mean((found - right) ** 2)) < 0.03 * expected.std()


@pytest.mark.parametrize('size', [1, 2, 3, (1, 3), (5, 8), 9])
@pytest.mark.parametrize('strides', [1, 2, (1, 3), 4])
@pytest.mark.parametrize('padding', ['same', 'valid'])
def test_the_twin_averages_as_keras_does(size, strides, padding):
    if size == 9 and padding == 'valid':
        pytest.skip('larger than the image')
    model = make(lambda x: pool(size, strides, padding)(x), size=8)
    folded = fold(flatten(model))
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(folded(images), model(images), rtol=1e-5, atol=1e-6)
