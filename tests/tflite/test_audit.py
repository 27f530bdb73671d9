"""Audit of files that the converter really wrote, and of damaged ones."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert import schema_py_generated as schema

from tests.tflite.conftest import pixels
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.tflite import calibration, flatbuffer
from zscgan_tf.tflite.audit import audit, audit_model
from zscgan_tf.tflite.flatbuffer import read_model
from zscgan_tf.tflite.interpreter import TfliteModel


@pytest.fixture
def model(int8_file):
    return read_model(int8_file)


def converted(model, **settings):
    """A file of the converter's with settings of its own."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in settings.items():
        setattr(converter, name, value)
    return converter.convert()


def test_report_of_an_int8_file(teacher, int8_file):
    report = audit(int8_file)
    assert report.ops == {
        'ADD': 1,
        'CONV_2D': 2,
        'DEPTHWISE_CONV_2D': 1,
        'FULLY_CONNECTED': 1,
        'MEAN': 1,
        'SOFTMAX': 1,
    }
    assert report.op_count == report.integer_op_count == 7
    assert report.float_ops == ()
    assert report.weights == 'per-channel'
    assert report.weight_types == {'int8': 4}
    assert report.input.shape == (1, 8, 8, 3)
    assert report.output.shape == (1, 7)
    assert report.output.scale == 1 / 256
    assert report.output.zero_point == -128
    # LiteRT tells the same of the input.
    detail = TfliteModel(int8_file)._input
    assert (report.input.scale, report.input.zero_point) == detail['quantization']


@pytest.mark.parametrize('kind', ['int8', 'uint8', 'float32'])
def test_ends(teacher, int8_file, kind):
    report = audit(calibration.convert(teacher, [pixels()], input_type=kind, output_type=kind))
    inner = audit(int8_file)
    assert (report.input.type, report.output.type) == (kind, kind)
    for end, inner_end in ((report.input, inner.input), (report.output, inner.output)):
        assert end.scale == inner_end.scale
        np.testing.assert_allclose(end.value_range, inner_end.value_range, rtol=1e-6)
    extra = {'int8': {}, 'uint8': {'QUANTIZE': 2}, 'float32': {'QUANTIZE': 1, 'DEQUANTIZE': 1}}
    assert report.ops == dict(sorted({**inner.ops, **extra[kind]}.items()))


@pytest.mark.parametrize('kind', ['int8', 'float32'])
def test_shape_arithmetic_is_allowed(kind):
    inputs = tf_keras.Input((8, 8, 3))
    x = tf_keras.layers.Conv2D(4, 8)(inputs)
    outputs = tf_keras.layers.Reshape((4,))(x)
    data = converted(
        tf_keras.Model(inputs, outputs),
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: iter([[pixels()]]),
        target_spec=tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
        inference_input_type=tf.as_dtype(kind),
        inference_output_type=tf.as_dtype(kind),
    )
    report = audit(data)
    assert {'SHAPE', 'STRIDED_SLICE', 'PACK', 'RESHAPE'} <= set(report.ops)
    assert report.integer_op_count == report.op_count


def test_op_that_stays_float_is_named():
    teacher = tiny_teacher(odd=tf.sin)
    data = calibration.convert(teacher, [pixels()])
    with pytest.raises(UserError) as caught:
        audit(data)
    message = str(caught.value)
    assert "SIN at layer '" in message
    assert 'odd/Sin' in message
    assert 'float32' in message
    assert '--allow_float_ops' in message
    assert '\n' not in message
    report = audit(data, allow_float_ops=True)
    assert len(report.float_ops) == report.ops['SIN'] + report.ops['DEQUANTIZE'] + 1
    assert report.integer_op_count == report.op_count - len(report.float_ops)


def test_float_and_hybrid_files(teacher):
    for settings in ({}, {'optimizations': [tf.lite.Optimize.DEFAULT]}):
        data = converted(teacher.model, **settings)
        with pytest.raises(UserError, match="CONV_2D at layer '.*' works on float32"):
            audit(data)
        report = audit(data, allow_float_ops=True)
        assert report.integer_op_count == 0
        assert report.input.value_range is None
    assert audit(converted(teacher.model), allow_float_ops=True).weights == 'none'


def test_int16_activations(teacher):
    """They are integer, beside biases of 64 bits; other tensors of int64 are refused."""
    int16 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    data = converted(
        teacher.model,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: iter([[pixels()]]),
        target_spec=tf.lite.TargetSpec(supported_ops=[int16]),
        inference_input_type=tf.int16,
        inference_output_type=tf.int16,
    )
    report = audit(data)
    assert report.integer_op_count == report.op_count
    assert report.input.type == 'int16' and report.input.zero_point == 0
    model = flatbuffer.read_model(data)
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[1].outputs[0]].type = schema.TensorType.INT64
    with pytest.raises(UserError, match='works on int64'):
        audit_model(model)


@pytest.mark.parametrize('output_type', [tf.int32, tf.int64])
def test_class_index_is_not_shape_arithmetic(output_type):
    inputs = tf_keras.Input((8, 8, 3))
    x = tf_keras.layers.GlobalAveragePooling2D()(tf_keras.layers.Conv2D(4, 3)(inputs))
    outputs = tf_keras.layers.Lambda(lambda t: tf.argmax(t, -1, output_type=output_type))(x)
    data = converted(
        tf_keras.Model(inputs, outputs),
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: iter([[pixels()]]),
    )
    with pytest.raises(UserError, match=f"ARG_MAX at layer '.*' works on .*{output_type.name}"):
        audit(data, allow_float_ops=True)


def kernel(model, op='CONV_2D'):
    graph = model.subgraphs[0]
    found = next(o for o in graph.operators if flatbuffer.op_name(model, o) == op)
    return graph.tensors[found.inputs[1]]


def test_scales_must_fit_their_axis(model):
    assert audit_model(model)
    tensor = kernel(model, 'DEPTHWISE_CONV_2D')
    assert tensor.quantization.quantizedDimension == 3
    tensor.quantization.quantizedDimension = 1
    with pytest.raises(UserError, match='has 6 scales for 3 entries of axis 1'):
        audit_model(model)
    tensor.quantization.quantizedDimension = 9
    with pytest.raises(UserError, match='has 6 scales for 0 entries of axis 9'):
        audit_model(model)


def test_scales_must_be_numbers(model):
    tensor = kernel(model)
    tensor.quantization.scale = [*tensor.quantization.scale[:-1], np.nan]
    with pytest.raises(UserError, match='not finite'):
        audit_model(model)


def test_int8_without_a_scale(model):
    kernel(model).quantization = None
    with pytest.raises(UserError, match='int8 without a scale'):
        audit_model(model)


def test_int4_is_integer_and_int2_is_not(model):
    kernel(model).type = schema.TensorType.INT4
    report = audit_model(model)
    assert report.weight_types == {'int4': 1, 'int8': 3}
    kernel(model).type = schema.TensorType.INT2
    with pytest.raises(UserError, match="CONV_2D at layer '.*' works on int2"):
        audit_model(model)


def test_unknown_op_and_type_are_named(model):
    model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex].builtinCode = 9999
    kernel(model, 'op 9999').type = 77
    with pytest.raises(UserError, match="op 9999 at layer '.*' works on type 77"):
        audit_model(model)


def test_more_than_one_output(model, monkeypatch):
    model.subgraphs[0].outputs = [*model.subgraphs[0].outputs, 1]
    monkeypatch.setattr('zscgan_tf.tflite.audit.read_model', lambda model_bytes: model)
    with pytest.raises(UserError, match='2 outputs'):
        audit(b'')
