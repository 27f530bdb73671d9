"""Teachers that take raw pixels: the same function, and files that lose nothing at their input."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.students import student_of
from tests.tiny import tiny_teacher
from zscgan_tf import pipeline
from zscgan_tf.errors import UserError
from zscgan_tf.evaluation import evaluate
from zscgan_tf.report.summary import summary
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.calibrate import calibrate_student
from zscgan_tf.student.graph import computes, constants, is_the_input
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.teacher.raw_pixels import RAW_PIXELS, raw_pixels
from zscgan_tf.tflite import calibration, interpreter
from zscgan_tf.tflite.converter import make_converter, make_integer_converter
from zscgan_tf.tflite.interpreter import TfliteModel
from zscgan_tf.tflite.options import TfliteCalibrationOptions

layers = tf_keras.layers
BYTES = np.random.default_rng(0).integers(0, 256, (64, 9, 8, 3)).astype(np.uint8)
PIXELS = np.float32(BYTES / 255)


def normalization():
    return layers.Normalization(mean=[0.2, 0.1, -0.3], variance=[0.5, 1.0, 2.0])


STARTS = {
    'convolution': [layers.Conv2D(6, 3, padding='same')],
    'without padding': [layers.Conv2D(6, 3)],
    'strides and no bias': [layers.Conv2D(6, 5, 2, padding='same', use_bias=False)],
    'dilated': [layers.Conv2D(6, 3, dilation_rate=2, padding='same', activation='relu')],
    'padded': [layers.ZeroPadding2D(((1, 0), (2, 3))), layers.Conv2D(6, 3, 2)],
    'rescaled': [layers.Rescaling(1 / 127.5, -1), layers.Conv2D(6, 3, padding='same')],
    'normalized': [
        layers.Rescaling(2.0, [0.1, 0.2, 0.3]),
        layers.Normalization(mean=[0.2, 0.1, -0.3], variance=[0.5, 1.0, 2.0], invert=True),
        normalization(),
        layers.ZeroPadding2D(1),
        layers.Conv2D(6, 3),
    ],
}
PREPROCESSINGS = [
    {'mean': [0.4, 0.5, 0.6], 'std': [0.2, 0.25, 0.3]},
    {'preprocessing': 'tf'},
    {'preprocessing': 'caffe'},
    {'preprocessing': 'raw'},
    {'mean': [0.0, 1.0, 1.5], 'std': 0.25},  # greys far apart, and one that no pixel has
]


def teacher_of(start, input_spec, head='softmax'):
    copies = [type(layer).from_config(layer.get_config()) for layer in start]
    model = tf_keras.Sequential(
        [
            layers.Input((9, 8, 3)),
            *copies,
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation=head),
        ]
    )
    randomize(model, 0)
    if 'preprocessing' in input_spec:
        spec = InputSpec.from_preprocessing((9, 8), 3, input_spec['preprocessing'])
    else:
        spec = InputSpec((9, 8), 3, **input_spec)
    # What rescales its pixels itself would be refused with some of these.
    rescales = start in (STARTS['rescaled'], STARTS['normalized'])
    teacher = load_teacher(model, input_spec=None if rescales else spec)
    return dataclasses.replace(teacher, input_spec=spec)


@pytest.mark.parametrize('input_spec', [PREPROCESSINGS[0], PREPROCESSINGS[2]])
@pytest.mark.parametrize('channels', [[2, 1, 0], [1, 2, 0], [2, 0], [1, 1, 1]])
def test_a_model_that_orders_its_channels_itself(channels, input_spec):
    """Its file takes RGB bytes, and rounds nothing between the image and the first convolution."""
    images = layers.Input((9, 8, 3))
    x = tf.gather(layers.ZeroPadding2D(1)(images), channels, axis=-1)
    x = layers.BatchNormalization()(layers.Conv2D(6, 3)(x))
    model = tf_keras.Model(
        images, layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    )
    if 'preprocessing' in input_spec:
        input_spec = InputSpec.from_preprocessing((9, 8), 3, input_spec['preprocessing'])
    else:
        input_spec = InputSpec((9, 8), 3, **input_spec)
    teacher = load_teacher(randomize(model, 0), input_spec=input_spec)
    found = raw_pixels(teacher)
    expected = teacher.logits(PIXELS).numpy()
    np.testing.assert_allclose(found.logits(PIXELS), expected, atol=1e-4 * expected.std())
    twin = student_of(found, activation_bits=4).twin
    first = next(layer for layer in twin.layers if computes(layer))
    assert first.kernel_size == (3, 3) and is_the_input(first.input)
    assert bool(constants(twin)) == (sorted(channels) != [0, 1, 2])


def test_a_model_in_bgr_order_still_takes_rgb_bytes():
    bgr = {'preprocessing': 'torch', 'bgr': True}
    model = teacher_of(STARTS['convolution'], PREPROCESSINGS[0]).model
    teacher = load_teacher(model, input_spec=bgr)
    mean, std = np.array([0.406, 0.456, 0.485]), np.array([0.225, 0.224, 0.229])
    expected = model.predict(np.float32((PIXELS[..., ::-1] - mean) / std), verbose=0)
    found = raw_pixels(teacher)
    zero = round(255 * found.input_spec.mean[0])
    np.testing.assert_allclose(found.model(np.float32(BYTES) - zero), expected, atol=1e-4)
    assert 'BGR' in teacher.input_spec.describe() and 'BGR' not in found.input_spec.describe()


@pytest.mark.parametrize('input_spec', PREPROCESSINGS)
@pytest.mark.parametrize('start', STARTS)
def test_the_same_answers(start, input_spec):
    teacher = teacher_of(STARTS[start], input_spec)
    found = raw_pixels(teacher)
    logits = teacher.logits(PIXELS).numpy()
    np.testing.assert_allclose(found.logits(PIXELS), logits, atol=1e-4 * logits.std())
    # Of bytes less one whole number for all channels.
    zero = round(255 * found.input_spec.mean[0])
    assert 0 <= zero <= 255 and not found.input_spec.bgr
    answers = found.model(np.float32(BYTES) - zero).numpy()
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)
    expected = teacher.model(teacher.input_spec.to_inputs(tf.constant(PIXELS))).numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert found.fingerprint == teacher.fingerprint and found.head == teacher.head


def test_no_channel_for_offsets_that_are_whole():
    start = STARTS['convolution']
    for input_spec, channels in ((PREPROCESSINGS[3], 3), (PREPROCESSINGS[0], 4)):
        model = raw_pixels(teacher_of(start, input_spec)).model
        kernels = [x.kernel.shape[2] for x in model.layers if isinstance(x, layers.Conv2D)]
        assert kernels == [channels] and model.input_names == [RAW_PIXELS]


def twice(x):
    """The first convolution, and the zero padding in front of it, are used again."""
    padding, convolution = layers.ZeroPadding2D(1), layers.Conv2D(3, 3)
    x = convolution(padding(x))
    return convolution(padding(layers.ReLU(name='raw_pixels')(x)))


HEADS = {
    'logits': lambda: tiny_teacher(head='logits'),
    'softmax': lambda: tiny_teacher(head='softmax'),
    'sigmoid': lambda: tiny_teacher(head='sigmoid'),
    'linear unit': lambda: loaded(lambda x: layers.Dense(1)(x)),
    'probabilities': lambda: loaded(lambda x: tf.nn.softmax(layers.Dense(3)(x)) * 1.0),
    'shared layers': lambda: loaded(layers.Dense(4), twice),
}


def loaded(head, start=lambda x: layers.Conv2D(6, 3, padding='same')(x)):
    inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(start(inputs))
    model = tf_keras.Model(inputs, head(layers.GlobalAveragePooling2D()(layers.ReLU()(x))))
    randomize(model, 0)
    return load_teacher(model, input_spec=PREPROCESSINGS[0])


@pytest.mark.parametrize('head', HEADS)
def test_every_head(head):
    teacher = HEADS[head]()
    pixels = PIXELS[:, :8]
    found = raw_pixels(teacher)
    np.testing.assert_allclose(found.logits(pixels), teacher.logits(pixels), atol=1e-4)
    answers, expected = (x.model(x.input_spec.to_inputs(pixels)) for x in (found, teacher))
    np.testing.assert_allclose(answers, expected, atol=1e-4)


@pytest.mark.parametrize('far_apart', [False, True])
@pytest.mark.parametrize(
    'bits, input_type',
    [(None, 'int8'), (None, 'uint8'), (None, 'float32'), (8, 'uint8'), (8, 'float32'), (4, 'int8')],
)
def test_a_file_takes_bytes(tmp_path, bits, input_type, far_apart):
    teacher = tiny_teacher(head='logits')
    if far_apart:  # greys for which the constant channel would have to be beyond the grid
        spec = InputSpec((8, 8), 3, **PREPROCESSINGS[4])
        teacher = dataclasses.replace(teacher, input_spec=spec)
    quantized, source = raw_pixels(teacher), NoiseSource(teacher.input_spec, batch_size=32)
    output, options = tmp_path / 'a.tflite', {'input_type': input_type, 'check_images': 32}
    if bits is None:
        result = pipeline.quantize(quantized, source, output, calibration_images=64, **options)
    else:
        student = calibrate_student(
            quantized, source, range_images=64, weight_bits=bits, activation_bits=bits
        )
        result = pipeline.quantize_student(student, source, output, **options)
    assert result.takes_raw_pixels
    zero = round(255 * quantized.input_spec.mean[0])
    off = {'uint8': 0, 'int8': 128, 'float32': zero}[input_type]
    less = f'p - {off}' if off else 'p'
    feed = f'1x8x8x3 {input_type} = {less}, where p are pixels of 0...255, channels in RGB order'
    assert feed in summary(quantized, result)

    file = TfliteModel(output)
    assert file.zero_pixel == zero
    raw = (BYTES[:, :8].astype(int) - off).astype(input_type)
    by_bytes = file.raw_outputs(raw)
    logits = interpreter.dequantize(by_bytes, file._output)
    # What `evaluate` says of it with the teacher that it was made of, which takes other inputs.
    agreement = evaluate(file, teacher, [(PIXELS[:, :8], None)])['agreement']
    expected = teacher.logits(PIXELS[:, :8]).numpy()
    assert agreement == 100 * np.mean(logits.argmax(1) == expected.argmax(1))
    assert np.sqrt(np.mean((logits - expected) ** 2)) < (0.6 if bits == 4 else 0.1) * expected.std()


def test_the_file_of_another_teacher_takes_its_inputs():
    teacher = tiny_teacher()
    data = calibration.convert(teacher, [PIXELS[:, :8]])
    assert TfliteModel(data).zero_pixel is None
    # An input of this name alone does not make it bytes: its step is another, or it has none.
    inputs = tf_keras.Input((8, 8, 3), name=RAW_PIXELS)
    model = tf_keras.Model(inputs, teacher.model(inputs))
    ends = {'input_type': 'float32', 'output_type': 'float32', 'calibration_images': 1}
    ends = TfliteCalibrationOptions.resolve('small', ends)
    converter = make_converter(model, ends)
    converter.representative_dataset = lambda: [[PIXELS[:1, :8]]]
    assert TfliteModel(converter.convert()).zero_pixel is None
    data = make_integer_converter(model, ends).convert()
    assert TfliteModel(data).zero_pixel is None


def test_pixels_beyond_the_legal_ones_do_not_move_the_grid():
    data = calibration.convert(raw_pixels(tiny_teacher()), [1.001 * PIXELS[:32, :8] - 0.0005])
    assert TfliteModel(data).zero_pixel is not None


def test_bytes_are_on_the_grid_of_the_input():
    """Of inputs normalized by channel they are not: up to half a step of an image is lost."""
    lost = []
    for teacher in (tiny_teacher(), raw_pixels(tiny_teacher())):
        detail = TfliteModel(calibration.convert(teacher, [PIXELS[:, :8]]))._input
        inputs = teacher.input_spec.to_inputs(tf.constant(PIXELS[:, :8])).numpy()
        error = interpreter.dequantize(interpreter.quantize(inputs, detail), detail) - inputs
        lost.append(np.abs(error * np.float32(teacher.input_spec.std) * 255).max())  # grey levels
    assert lost[0] > 0.4 and lost[1] < 1e-3


@pytest.mark.parametrize(
    'start, words',
    [
        ([layers.DepthwiseConv2D(3)], "layer 'depthwise_conv2d"),
        ([layers.MaxPooling2D()], "layer 'max_pooling2d"),
        ([layers.ZeroPadding2D(1), layers.Rescaling(2.0), layers.Conv2D(4, 3)], 'zero padding'),
        ([layers.Conv2D(6, 3, groups=3)], "layer 'conv2d"),
        ([layers.Conv2DTranspose(6, 3)], "layer 'conv2d_transpose"),
        ([layers.Rescaling([1.0, 0.0, 1.0]), layers.Conv2D(6, 3)], 'one scale, not 0, a channel'),
        ([layers.Rescaling(1.0, np.ones((9, 8, 3))), layers.Conv2D(6, 3)], 'one scale, not 0'),
    ],
)
def test_other_starts_are_refused(start, words):
    teacher = teacher_of(start, PREPROCESSINGS[0])
    with pytest.raises(UserError, match='--raw_pixels needs a convolution') as error:
        raw_pixels(teacher)
    assert words in str(error.value)


def test_an_input_that_is_read_twice_is_refused():
    inputs = layers.Input((9, 8, 3))
    x = layers.Add()([layers.Conv2D(3, 3, padding='same')(inputs), inputs])
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    model = tf_keras.Model(inputs, layers.Dense(4)(x))
    with pytest.raises(UserError, match='begins with several layers'):
        raw_pixels(load_teacher(model, input_spec=PREPROCESSINGS[0]))


def test_fewer_bits_of_the_input_are_refused():
    teacher = raw_pixels(tiny_teacher())
    with pytest.raises(UserError, match='--activation_scope=all'):
        calibrate_student(
            teacher, NoiseSource(teacher.input_spec), activation_bits=4, activation_scope='all'
        )
