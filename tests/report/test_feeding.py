"""How a file is fed: the arithmetic and the code do what the preprocessing says."""

import re

import numpy as np
import pytest
import tf_keras
from PIL import Image

from tests.conftest import randomize
from tests.tiny import tiny_teacher
from zscgan_tf.report.examine import examine
from zscgan_tf.report.feeding import code, feeding
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.teacher.raw_pixels import raw_pixels
from zscgan_tf.tflite import calibration
from zscgan_tf.tflite.interpreter import TfliteModel

layers = tf_keras.layers
FLOAT = {'input_type': 'float32', 'output_type': 'float32'}
CASES = {
    'int8': {'channels': 3},
    'raw': {'channels': 1, 'raw': True},
    'labels': {'channels': 4, 'head': 'sigmoid', 'file_batch': 2, **FLOAT},
    'array': {'channels': 2, 'file_batch': 0, 'input_type': 'uint8', 'output_type': 'uint8'},
}


def averaged_sigmoids():
    images = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(images))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Average()([layers.Dense(1, 'sigmoid')(x) for _ in range(2)])
    return load_teacher(randomize(tf_keras.Model(images, x)), input_spec={'preprocessing': 'unit'})


def test_the_one_output_of_a_model_is_printed_not_its_place(tmp_path):
    teacher = averaged_sigmoids()
    assert teacher.head == 'probabilities'
    pixels = np.random.default_rng(0).uniform(0, 1, (16, 8, 8, 3)).astype(np.float32)
    path = tmp_path / 'a.tflite'
    path.write_bytes(calibration.convert(teacher, [pixels]))
    result = examine(teacher, path, NoiseSource(teacher.input_spec, batch_size=16), None)
    text = code(teacher, result)
    assert 'print(scores)' in text and 'argmax' not in text


def made(folder, channels, raw=False, head='softmax', **options):
    teacher = tiny_teacher(num_classes=5, channels=channels, head=head)
    pixels = np.random.default_rng(0).uniform(0, 1, (16, 8, 8, channels)).astype(np.float32)
    quantized = raw_pixels(teacher) if raw else teacher
    path = folder / 'it is.tflite'
    path.write_bytes(calibration.convert(quantized, [pixels], **options))
    source = NoiseSource(teacher.input_spec, batch_size=16)
    return teacher, path, examine(teacher, path, source, None)


@pytest.mark.parametrize('case', CASES)
def test_code_and_arithmetic(case, tmp_path, monkeypatch, capsys):
    """The code is run on an image, and the line is calculated."""
    teacher, path, result = made(tmp_path, **CASES[case])
    channels = teacher.input_spec.channels
    image = np.random.default_rng(3).integers(0, 256, (8, 8, channels)).astype(np.uint8)
    np.save(tmp_path / 'image.npy', image)
    if channels != 2:
        Image.fromarray(image[..., 0] if channels == 1 else image).save(tmp_path / 'image.png')
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code(teacher, result), names)
    tflite = TfliteModel(path)
    pixels = np.float32(image / 255)[None]
    inputs = (raw_pixels(teacher) if case == 'raw' else teacher).input_spec.to_inputs(pixels)
    expected = tflite.outputs(np.repeat(inputs, max(1, result.report.input.shape[0]), axis=0))[0]
    step = result.report.output.scale or 1e-6
    np.testing.assert_allclose(names['scores'], expected, atol=1.01 * step)
    assert capsys.readouterr().out
    assert len(code(teacher, result).splitlines()) <= 14

    shape, line = feeding(teacher, result).split(' = ')
    assert shape.endswith(result.report.input.type)
    line = line.split(', where p are pixels of 0...255')[0]
    line = re.sub(r'\[', 'np.array([', line).replace(']', '])')
    value = eval(line, {'np': np, 'clip': np.clip, 'round': np.round, 'p': np.float64(image)})
    assert np.max(np.abs(value - np.float64(names['x']))) <= (1e-4 if case == 'labels' else 1)
    if case == 'raw':
        assert line == 'p - 128'
