"""What of a folded model has a range, and convolutions that read copies of fewer bits."""

import numpy as np
import pytest
import tf_keras

from tests.student.test_student import PARTS, PIXELS, convolved, ending, make, own_teacher
from tests.students import student_of
from tests.tensors import ops_of
from zscgan_tf import evaluation
from zscgan_tf.student.student import as_logits, feature_layers
from zscgan_tf.teacher.layers import HardSwish
from zscgan_tf.tflite import student_export

layers = tf_keras.layers
W4A4 = {'weight_bits': 4, 'activation_bits': 4, 'first_last_bits': 8}


def residual(x):
    """A stage with ReLUs behind its additions, and one without any, as MobileNetV2's."""
    x = layers.ReLU(name='stem')(convolved(x))
    y = layers.ReLU(name='inner')(convolved(x))
    x = layers.ReLU(name='sum')(layers.Add()([x, convolved(y, name='branch')]))
    x = convolved(x, name='linear')
    for block in 'ab':
        y = layers.ZeroPadding2D(name=f'pad_{block}')(x)
        y = layers.ReLU(name=f'wide_{block}')(layers.Conv2D(8, 3, name=f'{block}')(y))
        x = layers.Add(name=f'sum_{block}')([x, convolved(y)])
    return ending(x)


def widths_of(student):
    outputs = {
        wrapper.layer.name: getattr(wrapper.quantize_config, 'output', None)
        for wrapper in student.model.layers
        if hasattr(wrapper, 'layer')
    }
    return {name: output.bits for name, output in outputs.items() if output is not None}


def test_convolutions_read_copies_of_what_additions_read_too():
    teacher = own_teacher(residual)
    as_before = widths_of(student_of(teacher, **W4A4))
    assert {as_before[name] for name in ('stem', 'inner', 'linear', 'sum_a')} == {4}
    assert as_before['branch'] == 8
    student = student_of(teacher, wide_residuals=True, **W4A4)
    found = widths_of(student)
    for name in ('stem', 'linear', 'sum_a'):
        assert found[name] == 8 and found[f'{name}_read'] == 4
    # Read by convolutions alone, or by none.
    assert found['inner'] == found['sum'] == found['sum_b'] == 4 and found['branch'] == 8
    assert found.keys() - as_before.keys() == {'stem_read', 'linear_read', 'sum_a_read'}
    assert not set(feature_layers(student.twin)) & {'stem', 'linear', 'sum_a'}
    inputs = teacher.input_spec.to_inputs(PIXELS)
    logits = as_logits(student.twin(inputs)).numpy()
    np.testing.assert_allclose(logits, teacher.logits(PIXELS), atol=1e-5 * logits.std())


KINDS = {
    'concatenation': PARTS['concatenation'],
    'sum of three': PARTS['sum of three'],
    'average of three': PARTS['average of three'],
    'product of three': PARTS['product of three'],
    'residual': lambda y: layers.Add()([y, convolved(layers.ReLU()(convolved(y)))]),
    'linear residual': lambda y: layers.Add()([z := convolved(y), convolved(z)]),
    'pooled residual': lambda y: layers.Add()([z := layers.MaxPooling2D()(y), convolved(z)]),
    'swish residual': lambda y: layers.Add()([z := HardSwish()(convolved(y)), convolved(z)]),
}


REPEATED = [k for k in KINDS if k in PARTS]  # without copies they are tested as PARTS


@pytest.mark.parametrize(
    'kind', [pytest.param(k, marks=[pytest.mark.slow] * (k in REPEATED[1:])) for k in KINDS]
)
def test_the_file_computes_what_the_student_does(kind):
    teacher = own_teacher(lambda x: ending(KINDS[kind](layers.ReLU()(convolved(x)))))
    student = make(teacher, wide_residuals=True, **W4A4)
    assert any(layer.name.endswith('_read') for layer in student.twin.layers)
    inputs = student.input_spec.to_inputs(PIXELS).numpy()
    data, report, found = student_export.export(student, [inputs])
    assert not report.float_ops and found.activation_levels <= 16
    expected = student.logits(PIXELS).numpy()
    error = evaluation.TfliteModel(data).scores(inputs) - expected
    assert np.sqrt(np.mean(error**2)) < 0.3 * expected.std()


def test_what_is_no_image_has_no_copy():
    def build(x):
        y = layers.Reshape((64, 6))(layers.ReLU()(convolved(x)))
        image = layers.Reshape((8, 8, 6))
        gated = layers.Multiply()([y, layers.Softmax()(y)])
        return ending(layers.Add()([convolved(image(y)), convolved(image(gated))]))

    teacher = own_teacher(build)
    twin = student_of(teacher, wide_residuals=True, **W4A4).twin
    inputs = teacher.input_spec.to_inputs(PIXELS)
    logits = as_logits(twin(inputs)).numpy()
    np.testing.assert_allclose(logits, teacher.logits(PIXELS), atol=1e-5 * logits.std())


def test_copies_are_rounded_to_the_nearest_level():
    student = make(own_teacher(residual), wide_residuals=True, **W4A4)
    inputs = student.input_spec.to_inputs(PIXELS[:1]).numpy()
    data, *_ = student_export.export(student, [inputs])
    copies = 0
    for (x, *_, y), (step, *_, coarse) in ops_of(data, inputs, 'DEPTHWISE_CONV_2D'):
        copies += 1
        levels = np.clip(x * step / coarse, y.min(), y.max())  # int8 may end there
        # Half a level, and a little: a kernel of 4 bits is a factor of 7 that is divided out.
        assert (
            coarse > 2 * step and np.abs(y - levels).max() <= 0.5 + 0.5 / 7 * step / coarse + 1e-3
        )
        assert abs(np.mean(y - levels)) < 0.1
    assert copies == 3


@pytest.mark.slow
def test_sums_of_8_bits_lose_less():
    errors = {False: 0.0, True: 0.0}
    for seed in range(4):
        teacher = own_teacher(residual, seed=seed)
        wanted = teacher.logits(PIXELS).numpy()
        for wide in errors:
            student = make(teacher, wide_residuals=wide, activation_bits=4)
            found = student.logits(PIXELS).numpy()
            errors[wide] += np.mean((found - wanted) ** 2) / wanted.var()
    assert errors[True] < 0.8 * errors[False]
