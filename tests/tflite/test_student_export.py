"""What files hold: the widths of ends and constants, constant shapes, logits of one shape."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.student.test_student import PIXELS, convolved, ending, make, own_teacher, wrappers
from zscgan_tf import evaluation
from zscgan_tf.errors import UserError
from zscgan_tf.student import grids
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import calibration, flatbuffer, interpreter, student_export

layers = tf_keras.layers


@pytest.mark.parametrize('ends, others', [(8, 4), (4, 8)])
def test_first_and_last_layer_are_convolutions(ends, others):
    """A batch norm in front of the first one is none; the count of levels asks the same layers."""

    def build(x):
        x = layers.BatchNormalization(name='input_norm')(x)
        for name in ('first_conv', 'second_conv'):
            x = layers.ReLU()(layers.Conv2D(6, 3, padding='same', name=name)(x))
        return layers.Dense(4, name='top')(layers.GlobalAveragePooling2D()(x))

    student = make(own_teacher(build), weight_bits=others, activation_bits=8, first_last_bits=ends)
    bits = {w.layer.name: w.quantize_config.weights.bits for w in wrappers(student)}
    expected = {'first_conv': ends, 'top': ends, 'input_norm': others, 'second_conv': others}
    assert bits == expected
    data, _, _ = student_export.export(student, [student.input_spec.to_inputs(PIXELS).numpy()])
    model = flatbuffer.read_model(data)
    graph, found = model.subgraphs[0], {}
    for op in graph.operators:
        if flatbuffer.op_name(model, op) in flatbuffer.KERNEL_OPS:
            kernel = graph.tensors[op.inputs[1]]
            (name,) = [n for n in expected if f'quant_{n}/' in kernel.name.decode()]
            found[name] = flatbuffer.type_name(kernel)
    assert found == {name: f'int{n}' for name, n in expected.items()}


def test_channels_that_flattening_moves_are_constants():
    """Slices, splits and paddings of channels: not trained, exact, and no layer of the ends."""

    def build(x):
        x = layers.ReLU()(layers.BatchNormalization()(convolved(x)))
        first, second = tf.split(x, [2, 4], axis=3)
        y = layers.ReLU()(convolved(first, name='branch'))
        x = tf.pad(second, [[0, 0], [0, 0], [0, 0], [1, 1]]) + y
        x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
        return layers.Softmax()(layers.Dense(4, name='top')(x))

    inputs = layers.Input((8, 8, 3))
    model = randomize(tf_keras.Model(inputs, build(inputs)))
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    student = make(teacher, weight_bits=4, activation_bits=4, first_last_bits=8)
    selecting = [w for w in wrappers(student) if not w.layer.trainable]
    assert len(selecting) == 3
    bits = {w.layer.name: w.quantize_config.weights.bits for w in wrappers(student)}
    ends = [name for name, n in bits.items() if n == 8]
    assert len(ends) == 2 and 'top' in ends
    trained = set(map(id, student.trainable_variables()))
    for wrapper in selecting:
        ((kernel, quantizer, variables),) = wrapper._weight_vars
        assert id(kernel) not in trained and id(variables['max']) not in trained
        values = kernel.numpy()
        assert set(np.unique(values)) <= {0.0, 1.0}
        found = quantizer(kernel, False, variables).numpy()
        np.testing.assert_array_equal(found, values)
    data, report, _ = student_export.export(student, [PIXELS])
    assert not report.float_ops
    scores = evaluation.TfliteModel(data).scores(PIXELS)
    np.testing.assert_allclose(scores, tf.nn.softmax(student.logits(PIXELS)), atol=0.15)
    np.testing.assert_allclose(tf.nn.softmax(student.twin(PIXELS)), model(PIXELS), atol=1e-5)


HANDING_THE_INPUT_ON = {
    'maximum': layers.MaxPooling2D(2),
    'average': layers.AveragePooling2D(3, 2, padding='same'),
    'crop': layers.Cropping2D(1),
    'padding': layers.ZeroPadding2D(1),
    'nearest': layers.UpSampling2D(2),
    'permute': layers.Permute((2, 1, 3)),
    'scaled, three times': lambda x: layers.Rescaling(2.0)(layers.Concatenate()([x, x, x])),
}


@pytest.mark.parametrize('front', HANDING_THE_INPUT_ON)
def test_the_input_keeps_8_bits_whatever_hands_it_on(front):
    def build(x):
        x = convolved(HANDING_THE_INPUT_ON[front](x), name='block')
        return ending(layers.ReLU()(convolved(layers.ReLU()(x), name='block/second')))

    student = make(own_teacher(build), weight_bits=4, activation_bits=4, first_last_bits=8)
    bits = {w.layer.name: w.quantize_config.weights.bits for w in wrappers(student)}
    # The name of one layer is the beginning of another's.
    assert (bits['block'], bits['block/second']) == (8, 4)
    _, report, found = student_export.export(
        student, [student.input_spec.to_inputs(PIXELS).numpy()]
    )
    assert not report.float_ops and found.activation_levels <= 16


def with_a_reshape(x):
    x = layers.ReLU()(layers.BatchNormalization()(convolved(x)))
    x = layers.Reshape((4, 16, 6))(x)
    return layers.Dense(4)(layers.Flatten()(layers.ReLU()(convolved(x))))


def with_a_vector_of_one_pixel(x):
    x = layers.ReLU()(layers.BatchNormalization()(convolved(x)))
    x = layers.Reshape((1, 1, 6))(layers.GlobalAveragePooling2D()(x))
    return layers.Reshape((4,))(layers.Conv2D(4, 1)(x))


@pytest.mark.parametrize('body', [with_a_reshape, with_a_vector_of_one_pixel])
def test_reshapes_of_constant_shape(body):
    """No arithmetic with the batch's size in files, and they still take batches."""
    inputs = layers.Input((8, 8, 3))
    model = randomize(tf_keras.Model(inputs, body(inputs)))
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    expected = model(PIXELS).numpy()
    student, _, _ = student_export.export(make(teacher), [PIXELS])
    for data in (student, calibration.convert(teacher, [PIXELS])):
        read = flatbuffer.read_model(data)
        names = [flatbuffer.op_name(read, op) for op in read.subgraphs[0].operators]
        assert not {'SHAPE', 'STRIDED_SLICE', 'PACK'} & set(names)
        assert names.count('RESHAPE') <= 3
        found = evaluation.TfliteModel(data).scores(PIXELS)
        assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * expected.std()


@pytest.mark.parametrize('head', ['sigmoid', 'softmax'])
def test_logits_have_one_shape_whatever_the_method(head):
    inputs = layers.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(convolved(inputs)))
    units = 1 if head == 'sigmoid' else 4
    z = layers.Dense(units, name='top')(layers.GlobalAveragePooling2D()(x))
    model = randomize(tf_keras.Model(inputs, layers.Activation(head)(z)))
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    expected = tf_keras.Model(inputs, z)(PIXELS).numpy()
    for data in (
        calibration.convert(teacher, [PIXELS], output_head='logits'),
        student_export.convert(make(teacher), output_head='logits'),
    ):
        read = flatbuffer.read_model(data)
        (output,) = read.subgraphs[0].outputs
        assert read.subgraphs[0].tensors[output].shape == [1, units]
        error = evaluation.TfliteModel(data).outputs(PIXELS) - expected
        assert np.abs(error).max() < 0.05 * np.ptp(expected)


def teacher_of_a_large_bias():
    """A channel of the layer `odd` has a large bias beside small weights."""

    def build(x):
        x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(6, 3)(x)))
        x = layers.Conv2D(4, 1, name='odd')(x)
        return layers.Dense(4)(layers.GlobalAveragePooling2D()(x))

    teacher = own_teacher(build)
    layer = teacher.model.get_layer('odd')
    kernel = layer.kernel.numpy()
    kernel *= 0.5 / np.abs(kernel).max()
    kernel[..., 1] *= 5.1e-6 / np.abs(kernel[..., 1]).max()
    layer.set_weights([kernel, np.float32([0.1, 6.0, -0.2, 0.3])])
    return teacher


@pytest.mark.parametrize('granularity', ['channel', 'tensor'])
def test_moving_averages_leave_room_for_a_large_bias(granularity):
    """A step of training makes the largest weights of the moment the ranges."""
    options = {'range_training': 'moving_average', 'weight_granularity': granularity}
    student = make(teacher_of_a_large_bias(), **options)
    inputs = student.input_spec.to_inputs(PIXELS).numpy()
    student.model(inputs, training=True)
    least = min(kernel.maximum.numpy().min() for kernel in student.kernels())
    assert granularity == 'tensor' or least < 6e-6
    data, _, _ = student_export.export(student, [inputs])
    expected, found = student.logits(PIXELS).numpy(), interpreter.TfliteModel(data).outputs(inputs)
    assert np.abs(found - expected).max() < 0.02 * np.ptp(expected)


def test_a_shared_last_layer():
    """Its kernel stands in the file once, under one of the student's two names."""

    def build(x):
        x, top = convolved(x), layers.Dense(4, name='top')
        pools = layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)
        return layers.Average()([top(values) for values in pools])

    student = make(own_teacher(build))
    inputs = student.input_spec.to_inputs(PIXELS).numpy()
    _, report, _ = student_export.export(student, [inputs])
    assert not report.float_ops


@pytest.mark.parametrize('granularity', ['channel', 'tensor'])
def test_a_large_bias_beside_small_weights(granularity, monkeypatch):
    """In steps of its own weights it would not fit into int32, and the converter clips it."""
    teacher = teacher_of_a_large_bias()
    inputs = teacher.input_spec.to_inputs(PIXELS).numpy()

    def exported():
        student = make(teacher, weight_bits=8, activation_bits=8, weight_granularity=granularity)
        data, _, _ = student_export.export(student, [inputs])
        return student.logits(PIXELS).numpy(), interpreter.TfliteModel(data).outputs(inputs)

    expected, found = exported()
    assert np.abs(found - expected).max() < 0.02 * np.ptp(expected)
    monkeypatch.setattr(grids, 'BIAS_RANGE_FLOOR', 0.0)
    if granularity == 'channel':
        with pytest.raises(
            UserError, match="CONV_2D at layer 'own.quant_odd.* is too large for int32 beside"
        ):
            exported()
