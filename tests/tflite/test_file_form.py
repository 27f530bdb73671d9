"""What a device sees of a file: batch, shapes, and the input's scale; both kinds of file."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

from tests.conftest import randomize
from tests.students import student_of
from tests.tflite.conftest import pixels
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.pipeline import make_plan
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.student.options import StudentOptions
from zscgan_tf.student.tfmot_student import build_tfmot_student, set_tfmot_ranges
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.raw_pixels import raw_pixels
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite import calibration, student_export
from zscgan_tf.tflite.audit import audit
from zscgan_tf.tflite.flatbuffer import op_name, read_model
from zscgan_tf.tflite.interpreter import TfliteModel

layers = tf_keras.layers
GREY = pixels(low=0.4, high=0.6)


def by_calibration(teacher, **options):
    return calibration.convert(teacher, [GREY], **options)


def by_student(teacher, **options):
    student = student_of(teacher)
    set_ranges(student, lambda: [GREY])
    return student_export.convert(student, **options)


def by_tfmot(teacher, **options):
    student = build_tfmot_student(teacher, StudentOptions.resolve('small', {'student': 'tfmot'}))
    set_tfmot_ranges(student, lambda: [GREY])
    return student_export.convert(student, **options)


WAYS = [by_calibration, by_student, by_tfmot]


def flattening_teacher():
    """Its Flatten asks for the batch's size where that is open."""
    inputs = layers.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=4)(inputs)))
    outputs = layers.Dense(5)(layers.Flatten()(x))
    model = randomize(tf_keras.Model(inputs, outputs), 0)
    spec = InputSpec((8, 8), 3, 0.0, 1 / 255)
    return Teacher(model, model, spec, 5, 'logits', 'flattening', 'flattening')


@pytest.mark.parametrize('make', WAYS)
def test_one_image_at_once_by_default(make):
    teacher = flattening_teacher()
    data = make(teacher)
    model = read_model(data)
    ops = {op_name(model, op) for op in model.subgraphs[0].operators}
    assert not ops & {'SHAPE', 'STRIDED_SLICE', 'PACK'}
    interpreter = Interpreter(model_content=data)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert list(taken['shape_signature']) == [1, 8, 8, 3]
    assert list(given['shape_signature']) == [1, 5]
    open_batch = TfliteModel(make(teacher, file_batch=0))
    assert open_batch._input['shape_signature'][0] == -1
    inputs = teacher.input_spec.to_inputs(tf.constant(pixels(7))).numpy()
    # One by one by hand, side by side by the class, and all at once.
    interpreter.allocate_tensors()
    scale, zero_point = taken['quantization']
    expected = []
    for image in inputs:
        integers = np.clip(np.rint(image / np.float32(scale)) + zero_point, -128, 127)
        interpreter.set_tensor(taken['index'], np.int8(integers[None]))
        interpreter.invoke()
        scale_out, zero_out = given['quantization']
        answer = np.float32(interpreter.get_tensor(given['index'])[0])
        expected.append((answer - zero_out) * np.float32(scale_out))
    for file in (TfliteModel(data), TfliteModel(data, num_threads=3), open_batch):
        np.testing.assert_allclose(file.outputs(inputs), expected, rtol=1e-6)


def test_several_images_at_once(teacher):
    """The last batch of calibration images is smaller than the file's."""
    data = calibration.convert(teacher, [pixels(10)], file_batch=4)
    one = TfliteModel(calibration.convert(teacher, [pixels(10)]))
    file = TfliteModel(data)
    inputs = teacher.input_spec.to_inputs(tf.constant(pixels(8))).numpy()
    assert audit(data).input.shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(file.outputs(inputs), one.outputs(inputs))
    with pytest.raises(UserError, match='takes batches of 4 images, not 6'):
        file.outputs(inputs[:6])
    np.testing.assert_array_equal(file.scores(inputs[:6]), one.scores(inputs[:6]))


@pytest.mark.parametrize('make', WAYS)
def test_the_inputs_scale_is_that_of_the_legal_range(make):
    """Whatever images set the ranges: no other image is clipped."""
    end = audit(make(flattening_teacher())).input
    assert end.scale == pytest.approx(1, abs=1e-6) and end.zero_point == -128
    teacher = tiny_teacher()
    low, high = teacher.input_spec.input_range
    end = audit(make(teacher)).input
    assert end.scale == pytest.approx((high.max() - low.min()) / 255, rel=1e-5)
    assert end.value_range[0] == pytest.approx(low.min(), abs=end.scale / 2 + 1e-6)


def test_activations_of_16_bits(teacher):
    data = calibration.convert(teacher, [pixels()], activation_bits=16, output_head='logits')
    report, model = audit(data), read_model(data)
    assert report.integer_op_count == report.op_count
    assert (report.input.type, report.output.type) == ('int16', 'int16')
    assert report.weight_types == {'int8': report.ops['CONV_2D'] + 2}  # depthwise and dense
    kinds = {
        model.subgraphs[0].tensors[i].type
        for op in model.subgraphs[0].operators
        for i in op.outputs
    }
    assert len(kinds) == 1  # int16 throughout
    inputs = teacher.input_spec.to_inputs(tf.constant(pixels())).numpy()
    expected = teacher.logits_model(inputs).numpy()
    narrow = calibration.convert(teacher, [pixels()], output_head='logits')
    wide_error, error = (
        np.abs(TfliteModel(file).outputs(inputs) - expected).mean() for file in (data, narrow)
    )
    assert wide_error < error
    with pytest.raises(UserError, match='leave --raw_pixels out'):
        calibration.convert(raw_pixels(tiny_teacher()), [pixels()], activation_bits=16)
    with pytest.raises(UserError, match='leave --raw_pixels out'):  # before a training
        make_plan(raw_pixels(tiny_teacher()), 'small', {'activation_bits': 16})
