"""The student of stock tfmot: ranges that are set, batch norms that stay, its file, refusals."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.student.test_student import PIXELS, own_teacher, teacher_with_a_channel_of_zeros
from tests.tiny import tiny_teacher
from zscgan_tf import evaluation
from zscgan_tf.errors import UserError
from zscgan_tf.methods import distillation
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.options import PRESETS
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.options import StudentOptions
from zscgan_tf.student.student import as_logits, feature_layers
from zscgan_tf.student.tfmot_student import build_tfmot_student, set_tfmot_ranges
from zscgan_tf.tflite import audit, levels, student_export

layers = tf_keras.layers
STOCK = StudentOptions.resolve('small', {'student': 'tfmot'})


def make(teacher=None, estimator='mse'):
    student = build_tfmot_student(teacher or tiny_teacher(), STOCK)
    set_tfmot_ranges(student, lambda: [PIXELS[:32], PIXELS[32:]], estimator)
    return student


def agreement(one, two):
    return np.mean(np.argmax(one, axis=-1) == np.argmax(two, axis=-1))


@pytest.mark.parametrize('estimator', ('minmax', 'mse'))
def test_it_answers_as_the_teacher_does_once_the_ranges_are_set(estimator):
    teacher = tiny_teacher()
    expected = teacher.logits(PIXELS).numpy()
    student = build_tfmot_student(teacher, STOCK)
    inputs = teacher.input_spec.to_inputs(PIXELS)
    np.testing.assert_allclose(as_logits(student.twin(inputs)), expected, atol=1e-4)
    unset = np.abs(student.logits(PIXELS) - expected).mean()
    set_tfmot_ranges(student, lambda: [PIXELS[:32], PIXELS[32:]], estimator)
    found = student.logits(PIXELS).numpy()
    assert agreement(found, expected) > 0.9
    assert np.abs(found - expected).mean() < min(0.1 * expected.std(), 0.5 * unset)


def test_every_range_is_that_of_its_float_tensor():
    def build(x):
        x = layers.Conv2D(5, 3, activation='relu', name='fused')(x)
        x = layers.DepthwiseConv2D(3, use_bias=False, name='wise')(x)
        x = layers.ReLU(name='relu')(layers.BatchNormalization()(x))
        x = layers.GlobalAveragePooling2D(name='pool')(x)
        return layers.Dense(4, name='top')(layers.Dense(6, activation='tanh', name='tanh')(x))

    student = make(own_teacher(build), 'minmax')
    inputs = student.input_spec.to_inputs(PIXELS)
    names = ('fused', 'relu', 'pool', 'top')
    values = tf_keras.Model(student.twin.input, [student.twin.get_layer(n).output for n in names])(
        inputs
    )
    variables = {v.name.removesuffix(':0'): v.numpy() for v in student.model.variables}
    ends = ('post_activation', 'output', 'output', 'post_activation')
    for name, end, value in zip(names, ends, values, strict=True):
        found = [variables[f'quant_{name}/{end}_{side}'] for side in ('min', 'max')]
        wanted = min(np.min(value), 0), np.max(value)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    dense = student.twin.get_layer('tanh')
    linear = values[2].numpy() @ dense.kernel.numpy() + dense.bias.numpy()
    assert variables['quant_tanh/pre_activation_max'] == pytest.approx(linear.max(), rel=1e-3)
    kernel = np.abs(student.twin.get_layer('fused').kernel.numpy())
    np.testing.assert_allclose(variables['quant_fused/kernel_max'], kernel.max(axis=(0, 1, 2)))
    kernel = np.abs(student.twin.get_layer('wise').depthwise_kernel.numpy())
    np.testing.assert_allclose(variables['quant_wise/depthwise_kernel_max'], [kernel.max()])
    low, high = student.input_spec.input_range
    found = {n.split('_')[-1]: v for n, v in variables.items() if n.startswith('quantize_layer')}
    assert found['min'] == pytest.approx(np.min(low)) and found['max'] == pytest.approx(
        np.max(high)
    )


def test_a_shared_layer_has_the_range_of_all_its_uses():
    def build(x):
        relu = layers.ReLU(name='relu')
        x = relu(layers.BatchNormalization()(layers.Conv2D(5, 3)(x)))
        x = relu(layers.Add()([x, x]))
        return layers.Dense(4)(layers.GlobalAveragePooling2D()(x))

    student = make(own_teacher(build), 'minmax')
    relu = student.twin.get_layer('relu')
    uses = [relu.get_output_at(0), relu.get_output_at(1)]
    first, second = tf_keras.Model(student.twin.input, uses)(student.input_spec.to_inputs(PIXELS))
    assert np.max(second) == pytest.approx(2 * np.max(first))
    (largest,) = (v for v in student.model.variables if v.name == 'quant_relu/output_max:0')
    assert largest.numpy() == pytest.approx(np.max(second), rel=1e-3)


@pytest.mark.slow
def test_training_leaves_batch_norms_alone(tmp_path):
    teacher = tiny_teacher()
    before = teacher.model.get_weights()
    source = NoiseSource(teacher.input_spec, batch_size=16)
    student = distillation.distill(
        teacher, source, tmp_path, steps=8, student='tfmot', range_images=32, learning_rate=1e-3
    )
    norms = [x for x in student.twin.layers if isinstance(x, layers.BatchNormalization)]
    assert len(norms) == 3
    for norm in norms:
        trained = student.model.get_layer(f'quant_{norm.name}').layer
        for one, two in zip(trained.get_weights(), norm.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)
    names = {v.name for v in student.trainable_variables()}
    assert not any('gamma' in name or 'beta' in name for name in names)
    assert sum('kernel' in name for name in names) == 4
    top = student.model.get_layer('quant_top')._weight_vars[0][0]
    assert np.abs(top - student.twin.get_layer('top').kernel).max() > 1e-4
    for one, two in zip(before, teacher.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    features = {f'quant_{name}' for name in feature_layers(student.twin)}
    assert features and features <= {wrapper.name for wrapper in student.model.layers}
    tflite = evaluation.TfliteModel(student_export.convert(student))
    assert evaluation.evaluate(tflite, student, [(PIXELS, None)])['agreement'] > 90


@pytest.mark.parametrize('head', ('softmax', 'logits', 'sigmoid'))
def test_the_file_is_integer_and_computes_what_the_student_does(head):
    teacher = tiny_teacher(head=head)
    student = make(teacher)
    data = student_export.convert(student)
    report = audit.audit(data)
    assert not report.float_ops
    assert report.input.type == 'int8' and report.output.type == 'int8'
    ends = {'softmax': {'SOFTMAX'}, 'logits': set(), 'sigmoid': {'LOGISTIC'}}
    assert {'SOFTMAX', 'LOGISTIC'} & set(report.ops) == ends[head]
    inputs = teacher.input_spec.to_inputs(PIXELS).numpy()
    assert levels.check_levels(data, [inputs], weight_bits=8, activation_bits=8)
    tflite = evaluation.TfliteModel(data)
    assert evaluation.evaluate(tflite, student, [(PIXELS, None)])['agreement'] > 90
    assert evaluation.evaluate(tflite, teacher, [(PIXELS, None)])['agreement'] > 90


def test_channels_of_zeros_survive():
    teacher = teacher_with_a_channel_of_zeros()
    student = make(teacher)
    assert np.all(np.isfinite(student.model(PIXELS, training=True)))
    tflite = evaluation.TfliteModel(student_export.convert(student))
    assert evaluation.evaluate(tflite, student, [(PIXELS, None)])['agreement'] > 90


@pytest.mark.parametrize(
    'build',
    (
        lambda x: layers.Rescaling(2.0)(x),
        lambda x: layers.Conv2D(3, 1)(x) * tf.nn.relu6(x),
        lambda x: layers.SeparableConv2D(4, 3)(x),
        lambda x: layers.Conv2D(4, 3, activation='elu')(x),
        lambda x: layers.BatchNormalization()(layers.MaxPooling2D()(x)),
    ),
    ids=('rescaling', 'operators', 'separable', 'elu', 'batch norm alone'),
)
def test_models_that_tfmot_does_not_take_are_refused(build):
    def model(x):
        return layers.Dense(4)(layers.GlobalAveragePooling2D()(build(x)))

    with pytest.raises(UserError, match='pass --student=folded') as raised:
        build_tfmot_student(own_teacher(model), STOCK)
    assert '\n' not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize('preset', PRESETS)
def test_options(preset):
    found = DistillationOptions.resolve(preset, {'student': 'tfmot', 'weight_bits': 8})
    assert found.range_training == 'moving_average' and found.first_last_bits == 8
    for name, value in {
        'weight_bits': 6,
        'activation_bits': 4,
        'first_last_bits': 4,
        'activation_scope': 'all',
        'wide_residuals': True,
        'range_training': 'learned',
    }.items():
        with pytest.raises(UserError, match=f'--{name}={value} is not for --student=tfmot'):
            DistillationOptions.resolve(preset, {'student': 'tfmot', name: value})
    with pytest.raises(UserError, match='--student=wild must be one of folded, tfmot'):
        DistillationOptions.resolve(preset, {'student': 'wild'})
