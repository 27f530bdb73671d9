"""The whole path, from a file to a file, for the teachers at the edges of what is allowed."""

import json

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.tiny import tiny_teacher
from zscgan_tf import evaluation, pipeline
from zscgan_tf.errors import UserError
from zscgan_tf.methods import zscgan
from zscgan_tf.report.summary import summary
from zscgan_tf.sources.files import FileSource
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import audit

OPTIONS = {'generator_channels': [6], 'skip_channels': 2, 'z_channels': 3, 'batch_size': 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    'made, entropy_loss_weight',
    [
        ({'num_classes': 3, 'size': (17, 13), 'channels': 1}, 0),
        ({'num_classes': 2, 'head': 'sigmoid', 'size': (9, 8)}, 0),
        ({'num_classes': 1000, 'size': 16}, 30),
    ],
    ids=['grey 17x13', 'two classes', 'thousand classes'],
)
def test_from_a_file_to_an_integer_file(made, entropy_loss_weight, tmp_path):
    original = tiny_teacher(**made)
    shape = original.input_spec.image_shape
    classes = made['num_classes']
    original.model.save(tmp_path / 'teacher.h5')
    (tmp_path / 'teacher.json').write_text(json.dumps(original.input_spec.to_dict()))
    teacher = load_teacher(str(tmp_path / 'teacher.h5'))
    assert teacher.input_spec == original.input_spec and teacher.num_classes == classes
    images = np.random.default_rng(0).integers(0, 256, (30, *shape)).astype(np.uint8)
    pixels = np.float32(images / 255)
    expected = original.logits(tf.constant(pixels)).numpy()
    np.testing.assert_allclose(teacher.logits(tf.constant(pixels)), expected, atol=1e-5)

    workdir = tmp_path / 'run'
    source = zscgan.train_generator(teacher, workdir, steps=4, **OPTIONS)
    config = json.loads((workdir / 'config.json').read_text())
    assert config['entropy_loss_weight'] == entropy_loss_weight
    made_pixels, labels = next(source.batches())
    assert made_pixels.shape == (8, *shape) and 0 <= np.min(labels) <= np.max(labels) < classes

    np.savez(tmp_path / 'real.npz', images=images, labels=np.argmax(expected, axis=1))
    real = FileSource(tmp_path / 'real.npz', teacher.input_spec, batch_size=10)
    output = tmp_path / 'teacher.tflite'
    result = pipeline.quantize(
        teacher, source, output, calibration_images=20, check_images=12, evaluate_on=real
    )
    assert result.fresh['images'] == 12 and result.real['images'] == 30
    assert result.real['float_accuracy'] == 100
    assert 'ops are integer' in summary(teacher, result)
    with pytest.raises(UserError, match='--check_images=0 must be a whole number, at least 1'):
        pipeline.quantize(teacher, source, tmp_path / 'none.tflite', check_images=0)
    assert not (tmp_path / 'none.tflite').exists()

    data = output.read_bytes()
    report = audit.audit(data)
    assert not report.float_ops and report.integer_op_count == report.op_count
    tflite = evaluation.TfliteModel(str(output))
    again = evaluation.evaluate(tflite, teacher, real.one_pass())
    assert again == result.real

    # By LiteRT alone, as the user's device runs it: what the model gave, but for rounding.
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert taken['shape'].tolist() == [1, *shape] and taken['dtype'] == np.int8
    outputs = 1 if made.get('head') == 'sigmoid' else classes
    assert given['shape'].tolist() == [1, outputs] and given['dtype'] == np.int8
    scale, zero_point = taken['quantization']
    inputs = teacher.input_spec.to_inputs(tf.constant(np.asarray(made_pixels[:1]))).numpy()
    quantized = np.clip(np.round(inputs / scale) + zero_point, -128, 127).astype(np.int8)
    interpreter.set_tensor(taken['index'], quantized)
    interpreter.invoke()
    scale, zero_point = given['quantization']
    found = scale * (interpreter.get_tensor(given['index']).astype(np.float32) - zero_point)
    np.testing.assert_allclose(found, original.model(inputs), atol=0.1)
