"""Errors by layer, against NumPy and LiteRT read by hand."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tests.conftest import randomize
from tests.small_mobile_nets import PIXELS, mobile_net
from tests.tflite.conftest import pixels
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.methods import dfq
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.calibrate import calibrate_student
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.teacher.raw_pixels import raw_pixels
from zscgan_tf.tflite import calibration, student_export
from zscgan_tf.tflite.counterparts import is_equalized
from zscgan_tf.tflite.flatbuffer import op_name, read_model
from zscgan_tf.tflite.layer_errors import layer_errors

layers = tf_keras.layers


def small_student(teacher, **options):
    return calibrate_student(teacher, NoiseSource(teacher.input_spec), range_images=16, **options)


def rows(errors):
    return {row.layer: row for row in errors.rows}


class ByHand:
    """A file's tensors by their names, as LiteRT itself describes them."""

    def __init__(self, data, inputs):
        self.interpreter = Interpreter(
            model_content=data,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self.interpreter.allocate_tensors()
        self.details = self.interpreter.get_tensor_details()
        (self.given,) = self.interpreter.get_input_details()
        self.runs = [self._run(image) for image in inputs]

    def _run(self, image):
        scale, zero = self.given['quantization']
        image = np.clip(np.rint(np.float32(image[None]) / np.float32(scale)) + zero, -128, 127)
        self.interpreter.set_tensor(self.given['index'], image.astype(np.int8))
        self.interpreter.invoke()
        return {
            detail['index']: self.interpreter.get_tensor(detail['index']).copy()
            for detail in self.details
            if detail['shape'].size and detail['name']
        }

    def find(self, name):
        """The image-like tensor with this in its name."""
        (detail,) = (d for d in self.details if name in d['name'] and len(d['shape']) == 4)
        return detail

    def values(self, detail):
        """Real values of a tensor in each run, [runs, ...]."""
        integers = np.concatenate([run[detail['index']] for run in self.runs]).astype(np.float64)
        scale, zero = detail['quantization']
        return (integers - zero) * scale

    def constant(self, op_number, position):
        """Real values of a constant operand of an op, with a scale a channel."""
        index = self.interpreter._get_ops_details()[op_number]['inputs'][position]
        detail = next(d for d in self.details if d['index'] == index)
        integers = self.interpreter.get_tensor(index).astype(np.float64)
        parameters = detail['quantization_parameters']
        sides = [1] * integers.ndim
        sides[parameters['quantized_dimension']] = -1
        return integers * np.float64(parameters['scales']).reshape(sides)


def decibels(right, given):
    return 10 * np.log10(np.sum(right**2) / np.sum((given - right) ** 2))


def rounded(values, detail):
    scale, zero = detail['quantization']
    return (np.clip(np.rint(values / scale) + zero, -128, 127) - zero) * scale


def convolved(x, kernel, bias):
    """A 3x3 convolution with zero padding: x [B, H, W, C], kernel [O, 3, 3, C]."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    windows = [
        padded[:, i : i + height, j : j + width] @ kernel[:, i, j].T
        for i in range(3)
        for j in range(3)
    ]
    return sum(windows) + bias


@pytest.fixture(scope='module')
def net():
    """Convolution, batch norm, ReLU, convolution, pooling, dense, softmax."""
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, padding='same', use_bias=False, name='first')(x)
    x = layers.ReLU(name='rectified')(layers.BatchNormalization(name='norm')(x))
    x = layers.Conv2D(4, 3, padding='same', name='second')(x)
    x = layers.GlobalAveragePooling2D(name='pool')(x)
    outputs = layers.Softmax(name='end')(layers.Dense(3, name='top')(x))
    model = randomize(tf_keras.Model(inputs, outputs))
    spec = InputSpec((8, 8), 3, (0.5,) * 3, (0.25,) * 3)
    return load_teacher(model, input_spec=spec)


def test_against_numpy(net):
    """Every number of two convolutions and what is behind them, computed without the module."""
    images = pixels(12)
    data = calibration.convert(net, [images])
    found = rows(layer_errors(data, net, images))
    inputs = net.input_spec.to_inputs(images).numpy()
    names = ['rectified', 'second', 'pool', 'top', 'end']
    taps = tf_keras.Model(net.model.input, [net.model.get_layer(name).output for name in names])
    right = dict(zip(names, (np.float64(y) for y in taps(inputs)), strict=True))
    right['input'] = np.float64(inputs)
    file = ByHand(data, inputs)
    ops = [op['op_name'] for op in file.interpreter._get_ops_details()]
    assert ops[:2] == ['CONV_2D', 'CONV_2D']
    (last,) = file.interpreter.get_output_details()
    tensors = {
        'input': file.given,
        'rectified': file.find('/rectified/Relu'),
        'second': file.find('/second/BiasAdd'),
        'end': last,
    }
    for name, detail in tensors.items():
        expected = decibels(right[name], file.values(detail))
        assert found[name].cumulative == pytest.approx(expected, abs=0.01), name
    assert found['input'].alone == found['input'].cumulative

    # Alone: the file's weights on the float model's values, rounded once.
    for number, (name, before) in enumerate([('rectified', 'input'), ('second', 'rectified')]):
        kernel, bias = file.constant(number, 1), file.constant(number, 2)
        y = convolved(right[before], kernel, bias)
        y = np.maximum(y, 0) if name == 'rectified' else y
        own = rounded(y, tensors[name])
        assert found[name].alone == pytest.approx(decibels(right[name], own), abs=0.05), name
        largest = np.abs(kernel).max(axis=(1, 2, 3))
        assert found[name].smallest_weights == pytest.approx(largest.min(), rel=1e-5)
        assert found[name].largest_weights == pytest.approx(largest.max(), rel=1e-5)
        scale, zero = tensors[name]['quantization']
        low = 0 if name == 'rectified' else (-128 - zero) * scale
        assert (found[name].low, found[name].high) == pytest.approx((low, (127 - zero) * scale))
    own = rounded(tf.nn.softmax(right['top']).numpy(), last)
    assert found['end'].alone == pytest.approx(decibels(right['end'], own), abs=0.05)
    assert found['end'].fused == ('end',) and found['pool'].smallest_weights is None
    assert found['rectified'].fused == ('first', 'norm', 'rectified')


def test_share_clipped(net):
    """Calibrated with dark images, asked with bright ones."""
    data = calibration.convert(net, [pixels(8, high=0.3)])
    images = pixels(8)
    row = rows(layer_errors(data, net, images))['rectified']
    layer = tf_keras.Model(net.model.input, net.model.get_layer('rectified').output)
    values = layer(net.input_spec.to_inputs(images)).numpy()
    step = row.high / 255
    assert row.clipped == pytest.approx(np.mean(values > row.high + step / 2))
    assert row.low == 0 and 0.001 < row.clipped < 0.9


def test_activations_of_16_bits(net):
    """Their own rounding is that of the weights; the last layer's that of the softmax."""
    data = calibration.convert(net, [pixels(8)], activation_bits=16)
    errors = layer_errors(data, net, pixels(8))
    found = rows(errors)
    assert errors.left_out == () and found['input'].alone > 80 and found['pool'].alone > 80
    assert 35 < found['rectified'].alone < 70 and 35 < found['second'].alone < 70


ENDS = {
    'softmax': [{'input_type': 'uint8', 'output_type': 'float32'}, {'output_head': 'logits'}],
    'sigmoid': [{'input_type': 'float32', 'output_type': 'uint8', 'output_head': 'logits'}],
}


@pytest.mark.parametrize('head', ['softmax', 'sigmoid'])
def test_ends_change_no_layer_between(head):
    """The rows are the same whatever the file takes and returns."""
    teacher = tiny_teacher(head=head)
    plain = layer_errors(calibration.convert(teacher, [pixels()]), teacher, pixels(6))
    end = 'SOFTMAX' if head == 'softmax' else 'LOGISTIC'
    ops = ['', 'CONV_2D', 'DEPTHWISE_CONV_2D', 'CONV_2D', 'ADD', 'MEAN', 'FULLY_CONNECTED', end]
    assert [row.op for row in plain.rows] == ops
    assert all(row.alone > 35 and row.cumulative > 30 for row in plain.rows)
    expected = teacher.logits(pixels(6)).numpy()[:, -(7 if head == 'softmax' else 1) :]
    for options in ENDS[head]:
        data = calibration.convert(teacher, [pixels()], **options)
        errors = layer_errors(data, teacher, pixels(6))
        assert errors.left_out == ()
        assert errors.rows == plain.rows[: len(ops) - ('output_head' in options)]
        np.testing.assert_allclose(errors.logits[0], expected, atol=1e-5)
        assert errors.logits[1].shape == expected.shape


def test_students(teacher):
    """Folded at 8 bits and at 4 with copies, on raw pixels."""
    images = pixels(6)
    plain = layer_errors(student_export.convert(small_student(teacher)), teacher, images)
    ops = ['', 'CONV_2D', 'DEPTHWISE_CONV_2D', 'CONV_2D', 'ADD', 'MEAN', 'CONV_2D', 'SOFTMAX']
    assert [row.op for row in plain.rows] == ops and plain.left_out == ()
    few = small_student(raw_pixels(teacher), weight_bits=4, activation_bits=4, wide_residuals=True)
    data = student_export.convert(few, input_type='uint8')
    errors = layer_errors(data, teacher, images)
    assert errors.rows == layer_errors(data, raw_pixels(teacher), images).rows
    assert len(errors.rows) == len(plain.rows) + 1 and errors.left_out == ()
    kernels = [row for row in plain.rows if row.largest_weights]
    coarse = [row for row in errors.rows if row.largest_weights and '_read' not in row.layer]
    assert len(kernels) == len(coarse) == 4
    assert all(a.alone > b.alone + 5 for a, b in zip(kernels, coarse, strict=True))


def test_a_student_of_layers_that_are_called_like_its_own():
    inputs = layers.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, name='quant_conv')(inputs)))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    model = randomize(tf_keras.Model(inputs, x))
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    errors = layer_errors(student_export.convert(small_student(teacher)), teacher, pixels(6))
    assert errors.left_out == () and 'quant_conv' in {row.title for row in errors.rows}
    errors = layer_errors(calibration.convert(teacher, [pixels(6)]), teacher, pixels(6))
    assert 'quant_conv' in {row.title for row in errors.rows}


def test_a_layer_that_is_called_input():
    x = inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name='input')(x))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    teacher = load_teacher(
        randomize(tf_keras.Model(inputs, x)), input_spec={'preprocessing': 'unit'}
    )
    errors = layer_errors(student_export.convert(small_student(teacher)), teacher, pixels(6))
    first, second = errors.rows[:2]
    assert (first.op, second.op) == ('', 'CONV_2D') and second.title == 'input'


@pytest.mark.parametrize('head', ['sigmoid', 'softmax'])
def test_a_layer_that_is_called_like_the_head(head):
    x = inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    x = layers.Multiply()([x, layers.Activation(head, name=head)(x)])
    x = layers.Dense(5, activation=head)(layers.GlobalAveragePooling2D()(x))
    teacher = load_teacher(
        randomize(tf_keras.Model(inputs, x)), input_spec={'preprocessing': 'unit'}
    )
    errors = layer_errors(student_export.convert(small_student(teacher)), teacher, pixels(6))
    assert head in {row.layer for row in errors.rows} and errors.left_out == ()


@pytest.mark.slow
def test_a_stock_student_of_what_no_folded_one_can_hold():
    x = inputs = layers.Input((8, 8, 3))
    x = layers.ReLU(4.0)(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    teacher = load_teacher(
        randomize(tf_keras.Model(inputs, x)), input_spec={'preprocessing': 'unit'}
    )
    with pytest.raises(UserError, match='no int8 counterpart'):
        small_student(teacher)
    student = small_student(teacher, student='tfmot')
    errors = layer_errors(student_export.convert(student), teacher, pixels(6))
    assert len(errors.rows) >= 3 and all(row.alone > 25 for row in errors.rows)


@pytest.mark.slow
def test_the_stock_student(teacher):
    student = small_student(teacher, student='tfmot')
    errors = layer_errors(student_export.convert(student), teacher, pixels(6))
    assert len(errors.rows) == 8 and all(row.alone > 25 for row in errors.rows)


def test_clamped_activations(teacher):
    """A layer behind which the file has a MINIMUM is computed up to there."""
    student = small_student(teacher, weight_bits=4, activation_bits=4, activation_scope='all')
    errors = layer_errors(student_export.convert(student), teacher, pixels(6))
    clamped = [row for row in errors.rows if row.op == 'MINIMUM']
    assert len(clamped) == 2 and all(row.largest_weights > 0 for row in clamped)
    assert all(10 < row.alone < 40 for row in clamped)
    assert all(row.high - row.low < 20 for row in clamped)  # not the whole int8 range
    assert len(errors.left_out) == 3  # the input's MINIMUM, and what stands before the others


def test_layers_in_parts_are_compared_when_they_are_complete():
    """Swish, unfused batch norms and separable convolutions are several ops of one name."""
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation='swish', name='c')(x)
    x = layers.BatchNormalization(name='norm')(x)
    x = layers.SeparableConv2D(6, 3, padding='same', activation='relu', name='separable')(x)
    x = layers.Dense(4, activation='softmax', name='top')(layers.Flatten()(x))
    teacher = load_teacher(
        randomize(tf_keras.Model(inputs, x)), input_spec={'preprocessing': 'unit'}
    )
    errors = layer_errors(calibration.convert(teacher, [pixels()]), teacher, pixels(6))
    found = rows(errors)
    assert found['c'].op == 'MUL' and found['norm'].op == 'ADD'
    assert found['separable'].op == 'CONV_2D' and found['separable'].fused == ('separable',)
    assert all(row.alone > 30 for row in errors.rows)
    assert [name for name in errors.left_out if name.endswith('/c/Sigmoid')]
    assert [name for name in errors.left_out if 'separable_conv2d' in name or 'depthwise' in name]


def test_a_layer_that_is_used_twice_is_left_out():
    x = inputs = layers.Input((8, 8, 3))
    twice = layers.Conv2D(3, 3, padding='same', name='twice')
    x = layers.BatchNormalization(name='norm')(twice(layers.ReLU(name='between')(twice(x))))
    x = layers.Dense(4, activation='softmax', name='top')(layers.Flatten()(x))
    teacher = load_teacher(
        randomize(tf_keras.Model(inputs, x)), input_spec={'preprocessing': 'unit'}
    )
    errors = layer_errors(calibration.convert(teacher, [pixels()]), teacher, pixels(6))
    assert 'twice' not in rows(errors)
    assert all(row.alone > 30 for row in errors.rows)


def test_refused(teacher, int8_file):
    with pytest.raises(UserError, match=r'takes images of the shape \[8, 8, 3\], but the teacher'):
        other = tiny_teacher(size=10)
        layer_errors(int8_file, other, np.zeros((2, 10, 10, 3), np.float32))
    x = inputs = layers.Input((8, 8, 3))
    x = layers.ReLU(name='b')(layers.BatchNormalization(name='a')(x))
    x = layers.Dense(7, activation='softmax', name='z')(layers.Flatten()(x))
    stranger = load_teacher(tf_keras.Model(inputs, x), input_spec={'preprocessing': 'unit'})
    with pytest.raises(UserError, match='No layer of the .tflite has the name of a layer of'):
        layer_errors(int8_file, stranger, pixels(2))
    with pytest.raises(UserError, match='not a TFLite model'):
        layer_errors(b'nothing', teacher, pixels(2))
    with pytest.raises(UserError, match='but the teacher takes'):
        layer_errors(int8_file, teacher, pixels(2)[:, :4])


def test_a_file_of_a_larger_batch(net):
    """Each image is computed several times, and counts once."""
    single, several = (
        layer_errors(calibration.convert(net, [pixels(8)], file_batch=n), net, pixels(4))
        for n in (1, 4)
    )
    assert len(single.rows) == len(several.rows)
    for one, other in zip(single.rows, several.rows, strict=True):
        assert (one.alone, one.cumulative) == pytest.approx((other.alone, other.cumulative))


def test_a_student_whose_branches_are_requantized():
    """The joined values are rounded to 6 bits, by MINIMUM and MAXIMUM and QUANTIZE in the file."""
    images = layers.Input((8, 8, 3))
    branches = [layers.BatchNormalization()(layers.Conv2D(6, 3)(images)) for _ in range(2)]
    x = [layers.ReLU()(branches[0]), layers.Activation('swish')(branches[1])]
    x = layers.MaxPooling2D()(layers.Concatenate(name='joined')(x))
    x = layers.ReLU()(layers.Conv2D(8, 1, name='last')(x))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    teacher = load_teacher(
        randomize(tf_keras.Model(images, x)), input_spec={'preprocessing': 'unit'}
    )
    widths = {'weight_bits': 6, 'activation_bits': 6, 'activation_scope': 'all_but_input'}
    data = student_export.convert(small_student(teacher, **widths))
    file = read_model(data)
    assert 'QUANTIZE' in [op_name(file, op) for op in file.subgraphs[0].operators]
    errors = layer_errors(data, teacher, PIXELS[:4])
    assert 'joined' in rows(errors)
    assert all(row.alone > 10 for row in errors.rows)


@pytest.mark.slow
@pytest.mark.parametrize('relu6', ['clipped', 'replaced'])
def test_an_equalized_file_is_compared_with_what_was_rounded(relu6):
    """The same layers as the teacher's, but for their scales."""
    teacher = load_teacher(mobile_net(6.0), input_spec={'preprocessing': 'unit'})
    options = DfqOptions.resolve('small', {'weight_granularity': 'channel', 'relu6': relu6})
    student = dfq.make_student(teacher, options).student
    data = student_export.convert(student)
    assert is_equalized(read_model(data))
    errors = layer_errors(data, teacher, PIXELS[:4], student.twin)
    assert sum(row.largest_weights is not None for row in errors.rows) >= 6
    assert all(row.alone > 25 for row in errors.rows)
    plain = student_export.convert(small_student(teacher))
    assert not is_equalized(read_model(plain))
