"""What is read of a `.tflite`: damaged ones are refused, probabilities are told from logits."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.tflite.conftest import pixels
from tests.tflite.test_audit import converted
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import calibration, flatbuffer
from zscgan_tf.tflite.audit import audit
from zscgan_tf.tflite.flatbuffer import read_model
from zscgan_tf.tflite.interpreter import TfliteModel


def test_bytes_that_are_no_model(int8_file):
    rng = np.random.default_rng(0)
    strange = [
        b'',
        b'a text file',
        bytes(1000),
        int8_file[:8] + bytes(1000),
        int8_file[: len(int8_file) // 2],
        rng.bytes(5000),
    ]
    for data in strange:
        with pytest.raises(UserError, match='not a TFLite model'):
            audit(data)


def test_damaged_files_never_crash(int8_file):
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(int8_file)
        for place in rng.integers(len(data) // 2, len(data), 4):
            data[place] = rng.integers(256)
        try:
            audit(bytes(data))
        except UserError as error:
            assert '\n' not in str(error)


@pytest.mark.parametrize('file_batch', [1, 4])
def test_a_single_unit_within_0_and_1_is_no_probability(file_batch):
    layers = tf_keras.layers
    inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(inputs)
    # Between 0 and 1 for images between 0 and 1.
    logit = layers.Dense(1, kernel_initializer=tf_keras.initializers.Constant(0.3))(
        layers.GlobalAveragePooling2D()(x)
    )
    teacher = load_teacher(tf_keras.Model(inputs, logit), input_spec={'preprocessing': 'unit'})
    images = np.random.default_rng(0).uniform(size=(16, 8, 8, 3)).astype(np.float32)
    data = calibration.convert(teacher, [images], file_batch=file_batch)
    file, (low, high) = TfliteModel(data), flatbuffer.output_tensor(read_model(data)).value_range
    assert 0 <= low and high <= 1 and not file.ends_in_probabilities
    np.testing.assert_array_equal(file.scores(images)[:, 0], 0)


def test_ends_in_probabilities(teacher, int8_file):
    def ends(data):
        return flatbuffer.ends_in_probabilities(read_model(data))

    assert ends(int8_file)
    assert ends(converted(teacher.model))
    assert ends(calibration.convert(teacher, [pixels()], output_type='uint8'))
    assert not ends(
        calibration.convert(teacher, [pixels()], output_head='logits', output_type='float32')
    )
    assert ends(
        calibration.convert(tiny_teacher(head='sigmoid'), [pixels()], output_type='float32')
    )
    assert not ends(converted(teacher.logits_model))


def test_integers_without_a_scale_are_refused():
    """A float file whose images are bytes: nothing tells what they stand for."""
    images = tf_keras.Input((8, 8, 3), batch_size=1, dtype='uint8')
    x = tf_keras.layers.Dense(3)(
        tf_keras.layers.Flatten()(tf_keras.backend.cast(images, 'float32'))
    )
    data = tf.lite.TFLiteConverter.from_keras_model(tf_keras.Model(images, x)).convert()
    with pytest.raises(UserError, match='is uint8 without a scale'):
        TfliteModel(data)
