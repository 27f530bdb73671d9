"""Post-training quantization against the float model, and what goes wrong in it."""

import os
import signal
import subprocess
import sys
import termios
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.input_fields import read_fields
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite import calibration
from zscgan_tf.tflite.audit import audit
from zscgan_tf.tflite.flatbuffer import read_model
from zscgan_tf.tflite.interpreter import TfliteModel


def pixels(count=32, size=8, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (count, size, size, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def int8_file(teacher):
    return calibration.convert(teacher, [pixels()])


@pytest.mark.parametrize('input_type', ['int8', 'uint8', 'float32'])
@pytest.mark.parametrize('output_type', ['int8', 'uint8', 'float32'])
def test_types_and_values(teacher, input_type, output_type):
    images = pixels()
    data = calibration.convert(teacher, [images], input_type=input_type, output_type=output_type)
    report = audit(data)
    assert (report.input.type, report.output.type) == (input_type, output_type)
    inputs = teacher.input_spec.to_inputs(tf.constant(images)).numpy()
    expected = teacher.model(inputs).numpy()
    found = TfliteModel(data).outputs(inputs)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.05
    assert np.abs(found - expected).mean() < 0.01


def test_batches_and_order_do_not_matter(teacher, int8_file):
    images = pixels()
    one_by_one = (images[i : i + 1] for i in reversed(range(32)))
    assert calibration.convert(teacher, one_by_one) == int8_file
    assert calibration.convert(teacher, [tf.constant(images[:27]), images[27:]]) == int8_file


def test_large_batches_are_cut(teacher, monkeypatch):
    monkeypatch.setattr(calibration, 'POSITIONS', 20 * 8 * 8)
    parts = [x for (x,) in calibration._samples([pixels(50)], teacher.input_spec, 0, None, None)]
    assert [len(part) for part in parts] == [17, 17, 16]
    inputs = teacher.input_spec.to_inputs(pixels(50)).numpy()
    np.testing.assert_allclose(np.concatenate(parts)[1:], inputs[1:], atol=1e-6)


def test_the_callers_images_stay_as_they_are(teacher):
    images = np.full((4, 8, 8, 3), 0.5, np.float32)
    calibration.convert(teacher, [images])
    assert np.all(images == 0.5)


def test_per_tensor_and_per_channel(teacher, int8_file):
    assert audit(int8_file).weights == 'per-channel'
    assert (
        audit(calibration.convert(teacher, [pixels()], per_channel=False)).weights == 'per-tensor'
    )


def test_logits_head(teacher, int8_file):
    file = TfliteModel(calibration.convert(teacher, [pixels()], output_head='logits'))
    assert not file.ends_in_probabilities
    assert TfliteModel(int8_file).ends_in_probabilities
    logits = teacher.logits(tf.constant(pixels())).numpy()
    found = file.outputs(teacher.input_spec.to_inputs(tf.constant(pixels())).numpy())
    assert np.abs(found - logits).max() < 0.15 * logits.std()


def test_images_are_never_all_in_memory(teacher):
    alive, most = set(), 0

    def images():
        nonlocal most
        for number in range(12):
            batch = pixels(4, seed=number).view(Tracked)
            batch.alive = alive
            alive.add(id(batch))
            most = max(most, len(alive))
            yield batch
            del batch

    calibration.convert(teacher, images())
    assert most <= 4


class Tracked(np.ndarray):
    """An array that tells when it is freed."""

    def __del__(self):
        if getattr(self, 'alive', None) is not None:
            self.alive.discard(id(self))


@pytest.mark.parametrize(
    ('batches', 'message'),
    [
        ([], 'There are no images'),
        ([np.zeros((2, 8, 9, 3), np.float32)], 'has the shape [2, 8, 9, 3]'),
        ([np.zeros((8, 8, 3), np.float32)], 'has the shape [8, 8, 3]'),
        ([np.zeros((0, 8, 8, 3), np.float32)], 'has the shape [0, 8, 8, 3]'),
        ([np.zeros((2, 8, 8, 3), np.uint8)], 'holds uint8: pass pixels in [0, 1]'),
        ([pixels(4), np.full((2, 8, 8, 3), np.nan, np.float32)], 'not finite'),
        ([np.full((2, 8, 8, 3), np.inf, np.float32)], 'not finite'),
    ],
)
def test_bad_images(teacher, batches, message):
    with pytest.raises(UserError) as caught:
        calibration.convert(teacher, batches)
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_unknown_options(teacher):
    with pytest.raises(UserError, match='--input_type=int16'):
        calibration.convert(teacher, [pixels()], input_type='int16')
    with pytest.raises(UserError, match='--output_head=softmax'):
        calibration.convert(teacher, [pixels()], output_head='softmax')


def test_failure_of_the_converter_in_one_line():
    teacher = tiny_teacher(odd=lambda x: tf.math.erfinv(tf.clip_by_value(x, -0.9, 0.9)))
    with pytest.raises(UserError) as caught:
        calibration.convert(teacher, [pixels()])
    message = str(caught.value)
    assert 'tiny_softmax' in message
    assert 'Erfinv' in message
    assert '\n' not in message
    assert len(message) < 500


def test_error_of_the_images_is_not_blamed_on_the_converter(teacher):
    def images():
        yield pixels(2)
        raise ValueError('broken source')

    with pytest.raises(ValueError, match='broken source'):
        calibration.convert(teacher, images())


def test_interrupt_in_the_images(teacher):
    def images():
        yield pixels(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibration.convert(teacher, images())


PROGRAM = """
    import sys, time
    import numpy as np
    from tests.tiny import tiny_teacher
    from zscgan_tf.tflite import calibration

    def images():
        for _ in range({batches}):
            yield np.random.default_rng(0).uniform(0, 1, (8, 8, 8, 3)).astype('float32')
            time.sleep({pause})
    teacher = tiny_teacher()
    print('ready', flush=True)
    try:
        calibration.convert(teacher, images(), total=8 * {batches})
    except KeyboardInterrupt:
        print('interrupted', flush=True)
        print('still heard', file=sys.stderr, flush=True)
        sys.exit(130)
    print('done', flush=True)
"""


def program(batches, pause):
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    return {
        'args': [
            sys.executable,
            '-c',
            textwrap.dedent(PROGRAM.format(batches=batches, pause=pause)),
        ],
        'env': {**os.environ, 'PYTHONPATH': root},
        'cwd': root,
        'text': True,
        'stdout': subprocess.PIPE,
    }


def test_ctrl_c_in_a_real_process(tmp_path):
    process = subprocess.Popen(**program(10_000, 0.02), stderr=subprocess.PIPE)
    assert process.stdout.readline() == 'ready\n'
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)  # inside the conversion or its calibration
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == 'interrupted\n'
    assert process.returncode == 130
    assert err.endswith('still heard\n')  # stderr is back where it was


def test_chatter_is_hidden_and_progress_is_not():
    leader, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = subprocess.Popen(**program(5, 0.0), stderr=terminal)
    os.close(terminal)
    out, _ = process.communicate(timeout=120)
    shown = read_all(leader)
    assert out == 'ready\ndone\n'
    assert 'calibrating' in shown
    assert '40/40' in shown
    for chatter in ('fully_quantize', 'Statistics for quantized inputs', 'saved_model', 'Assets'):
        assert chatter not in shown


def test_quiet_without_a_terminal():
    done = subprocess.run(**program(5, 0.0), stderr=subprocess.PIPE, timeout=120, check=True)
    assert done.stdout == 'ready\ndone\n'
    assert 'calibrating' not in done.stderr
    assert 'fully_quantize' not in done.stderr


def read_all(descriptor):
    parts = []
    try:
        while part := os.read(descriptor, 65536):
            parts.append(part)
    except OSError:  # how Linux says that the terminal's other end is closed
        pass
    os.close(descriptor)
    return b''.join(parts).decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'count', 'head'),
    [('resnet20_cifar10_jpeg', 64, 'logits'), ('mobilenet_v1_075_imagenet', 8, 'softmax')],
)
def test_real_teachers(shared_folder, name, count, head):
    path = shared_folder / 'teachers' / name
    model = tf_keras.models.load_model(path.with_suffix('.h5'), compile=False)
    fields = read_fields(path.with_suffix('.json'))
    size = model.input_shape[1]
    if 'preprocessing' in fields:
        spec = InputSpec.from_preprocessing((size, size), 3, fields['preprocessing'])
    else:
        spec = InputSpec((size, size), 3, fields['mean'], fields['std'])
    classes = model.output_shape[-1]
    teacher = Teacher(model, model, spec, classes, head, 'real', name)
    images = pixels(count, size)
    data = calibration.convert(teacher, [images])
    report = audit(data)
    assert report.integer_op_count == report.op_count
    assert report.weights == 'per-channel'
    constants = [buffer.data for buffer in read_model(data).buffers if buffer.data is not None]
    assert sum(map(len, constants)) < 4 * model.count_params() / 3
    inputs = spec.to_inputs(tf.constant(images)).numpy()
    # Not the float model's values: on noise MobileNet's int8 probabilities are far off them.
    # The size of the batches shows in the scales' last bits (2e-7 on ResNet-20).
    expected, found = scales(stock(model, inputs)), scales(data)
    assert set(found) == set(expected)
    for tensor, (scale, zero_point) in expected.items():
        np.testing.assert_allclose(found[tensor][0], scale, rtol=1e-5, err_msg=str(tensor))
        np.testing.assert_array_equal(found[tensor][1], zero_point)
    file = TfliteModel(data)
    alone = np.concatenate([file.outputs(image[None]) for image in inputs[:5]])
    np.testing.assert_array_equal(alone, file.outputs(inputs)[:5])


def stock(model, inputs):
    """The converter as its documentation has it, image by image."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter.representative_dataset = lambda: ([image[None]] for image in inputs)
    return converter.convert()


def scales(data):
    """(number, name) of every quantized tensor -> its scales and zero points."""
    return {
        (number, tensor.name): (tensor.quantization.scale, tensor.quantization.zeroPoint)
        for number, tensor in enumerate(read_model(data).subgraphs[0].tensors)
        if tensor.quantization is not None and tensor.quantization.scale is not None
    }
