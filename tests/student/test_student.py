"""The student: what is quantized to how many bits, and that its file computes what it does."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.students import student_of
from tests.tiny import tiny_teacher
from zscgan_tf import evaluation
from zscgan_tf.errors import UserError
from zscgan_tf.student.calibration import range_estimators as ranges
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.student.graph import constants
from zscgan_tf.student.student import as_logits, feature_layers
from zscgan_tf.teacher.head import split_end
from zscgan_tf.teacher.layers import HardSigmoid, HardSwish, SelectChannels
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import audit, levels, student_export

layers = tf_keras.layers
PIXELS = np.random.default_rng(0).uniform(size=(64, 8, 8, 3)).astype(np.float32)


def make(teacher=None, **options):
    student = student_of(teacher or tiny_teacher(), **options)
    set_ranges(student, lambda: [PIXELS[:32], PIXELS[32:]])
    return student


def own_teacher(build, size=8, seed=0, head='logits'):
    """A teacher of a function of tensors."""
    inputs = layers.Input((size, size, 3))
    model = randomize(tf_keras.Model(inputs, build(inputs)), seed)
    return dataclasses.replace(
        tiny_teacher(),
        model=model,
        logits_model=model,
        num_classes=model.output_shape[-1],
        head=head,
        name='own',
        fingerprint='own',
    )


def teacher_with_a_channel_of_zeros():
    teacher = tiny_teacher()
    convolution = next(x for x in teacher.model.layers if isinstance(x, layers.Conv2D))
    kernel = convolution.kernel.numpy()
    kernel[..., 2] = 0
    convolution.kernel.assign(kernel)
    return teacher


def wrappers(student):
    return [w for w in student.model.layers if getattr(w, '_weight_vars', None)]


def test_every_kernel_has_a_range_and_changing_it_changes_the_output():
    def build(x):
        x = layers.ReLU()(layers.Conv2D(6, 3, padding='same')(x))
        x = layers.DepthwiseConv2D(3, activation='relu')(x)
        x = layers.BatchNormalization()(layers.MaxPooling2D()(x))
        x = layers.Dense(12, activation='relu')(layers.Flatten()(x))
        return layers.Dense(4)(x)

    student = make(own_teacher(build))
    before = student.logits(PIXELS).numpy()
    kernels = wrappers(student)
    assert len(kernels) == 5  # the batch norm behind the pool is one
    for wrapper in kernels:
        ((_, _, variables),) = wrapper._weight_vars
        old = variables['max'].numpy()
        variables['max'].assign(old / 3)
        assert np.abs(student.logits(PIXELS).numpy() - before).max() > 1e-3, wrapper.name
        variables['max'].assign(old)


def test_a_depthwise_range_has_as_many_entries_as_channels():
    student = make()
    found = {w.layer.name: w._weight_vars[0][2]['max'].shape for w in wrappers(student)}
    depthwise = [n for n in found if isinstance(student.twin.get_layer(n), layers.DepthwiseConv2D)]
    assert [tuple(found[name]) for name in depthwise] == [(6,)]


def test_channels_of_zeros_survive():
    teacher = teacher_with_a_channel_of_zeros()
    for bits in (4, 8):
        student = make(teacher, weight_bits=bits)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(
                tf.square(student.model(teacher.input_spec.to_inputs(PIXELS), True))
            )
        for gradient in tape.gradient(loss, student.model.trainable_variables):
            assert np.all(np.isfinite(gradient))
        tflite = evaluation.TfliteModel(student_export.convert(student))
        found = evaluation.evaluate(tflite, student, [(PIXELS, None)])
        assert found['agreement'] >= 95


WIDTHS = [
    (8, 8, {}),
    (8, 6, {'first_last_bits': 4}),
    (6, 6, {}),
    (7, 5, {}),
    (4, 4, {'first_last_bits': 8}),
    (4, 4, {}),
    (3, 6, {}),
    (2, 8, {}),
    (5, 4, {'activation_scope': 'all'}),
    (6, 6, {'activation_scope': 'all_but_input'}),
]


@pytest.mark.parametrize('weight_bits, activation_bits, options', WIDTHS)
def test_the_file_holds_the_widths_and_computes_what_the_student_does(
    weight_bits, activation_bits, options
):
    student = make(weight_bits=weight_bits, activation_bits=activation_bits, **options)
    data = student_export.convert(student)
    report = audit.audit(data)
    assert report.weights == 'per-channel' and not report.float_ops
    stored = {'int4' if weight_bits <= 4 else 'int8'}
    if 'first_last_bits' in options:
        stored |= {'int4', 'int8'}
    assert set(report.weight_types) == stored
    inputs = student.input_spec.to_inputs(PIXELS).numpy()
    first_last = [f'quant_{student.twin.layers[1].name}', 'quant_top']
    found = levels.check_levels(
        data,
        [inputs],
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        first_last=first_last,
        **options,
    )
    assert found.activation_levels <= 2**activation_bits
    assert report.output.type == 'int8' and report.input.type == 'int8'
    probabilities = tf.nn.softmax(student.logits(PIXELS)).numpy()
    scores = evaluation.TfliteModel(data).scores(inputs)
    # A value on the edge of two levels may round to either; the fewer, the more it tells.
    tolerance = 0.02 if activation_bits >= 6 else 0.15
    np.testing.assert_allclose(scores, probabilities, atol=tolerance)
    assert np.mean(scores.argmax(1) == probabilities.argmax(1)) > 0.9


def convolved(x, **options):
    return layers.Conv2D(6, 3, padding='same', **options)(x)


def ending(x):
    return layers.Dense(6)(layers.GlobalAveragePooling2D()(layers.ReLU()(convolved(x))))


def squeezed(y, gate):
    z = layers.Dense(4, activation='relu')(layers.GlobalAveragePooling2D()(y))
    return layers.Multiply()([y, layers.Reshape((1, 1, 6))(gate(layers.Dense(6)(z)))])


PARTS = {
    'average pool': lambda y: layers.AveragePooling2D(2)(y),
    'whole average pool': lambda y: layers.UpSampling2D(8)(layers.AveragePooling2D(8)(y)),
    'concatenation': lambda y: layers.Concatenate()([y, convolved(y), layers.MaxPooling2D(1)(y)]),
    'squeeze and excite': lambda y: squeezed(y, layers.Activation('sigmoid')),
    'hard squeeze': lambda y: squeezed(y, HardSigmoid()),
    'hard-swish': lambda y: HardSwish()(convolved(y)),
    'swish': lambda y: layers.Activation('swish')(convolved(y)),
    'leaky ReLU': lambda y: layers.LeakyReLU(0.1)(convolved(y)),
    'sigmoid that is read': lambda y: layers.Activation('sigmoid')(convolved(y)),
    'sum of three': lambda y: layers.Add()([y, convolved(y), layers.Conv2D(6, 1)(y)]),
    'average of three': lambda y: layers.Average()([y, convolved(y), layers.Conv2D(6, 1)(y)]),
    'product of three': lambda y: layers.Multiply()([y, y, layers.ReLU()(convolved(y))]),
    'groups': lambda y: layers.ReLU()(layers.Conv2D(6, 3, groups=2)(y)),
    'depth multiplier': lambda y: layers.DepthwiseConv2D(3, depth_multiplier=2)(y),
    'ReLU of a pool': lambda y: layers.ReLU()(layers.MaxPooling2D()(convolved(y))),
    'batch norm of its own': lambda y: layers.BatchNormalization()(layers.MaxPooling2D()(y)),
}


WIDTHS = {'W8A8': (8, 8), 'W4A4': (4, 4, 8)}
# Much like another one at 4 bits.
ALIKE = (
    'whole average pool', 'hard squeeze', 'swish', 'sum of three', 'average of three', 'groups',
    'depth multiplier', 'ReLU of a pool',
)  # fmt: skip


@pytest.mark.parametrize(
    'part, widths',
    [
        pytest.param(
            part, widths, id=f'{name}-{part}',
            marks=[pytest.mark.slow] * (name == 'W4A4' and part in ALIKE),
        )
        for name, widths in WIDTHS.items()
        for part in PARTS
    ],
)  # fmt: skip
def test_the_file_computes_what_the_student_does_with_every_kind_of_layer(part, widths):
    teacher = own_teacher(lambda x: ending(PARTS[part](layers.ReLU()(convolved(x)))))
    names = ('weight_bits', 'activation_bits', 'first_last_bits')
    student = make(teacher, **dict(zip(names, widths, strict=False)))
    inputs = student.input_spec.to_inputs(PIXELS).numpy()
    data, report, _ = student_export.export(student, [inputs])
    assert not report.float_ops
    expected = student.logits(PIXELS).numpy()
    error = evaluation.TfliteModel(data).scores(inputs) - expected
    # Of the logits' own deviation: steps of int8, and few levels of which one may flip.
    assert np.sqrt(np.mean(error**2)) < (0.08 if widths[0] == 8 else 0.3) * expected.std()


@pytest.mark.parametrize('scope', ['read', 'all', 'all_but_input'])
def test_functions_of_a_fixed_range_keep_8_bits_in_every_scope(scope):
    def build(x):
        x = convolved(layers.Activation('tanh')(convolved(x)))
        return ending(layers.MaxPooling2D()(layers.Activation('sigmoid')(x)))

    student = make(own_teacher(build), weight_bits=4, activation_bits=4, activation_scope=scope)
    inputs = student.input_spec.to_inputs(PIXELS).numpy()
    _, _, found = student_export.export(student, [inputs])
    assert found.activation_levels <= 16


REVERSED = tf.constant_initializer(np.eye(3)[::-1])
FRONTS = {
    'rescaling': lambda x: layers.Rescaling(1 / 0.45, -1.0, name='front')(x),
    'average of a negative': lambda x: layers.AveragePooling2D(2, name='front')(
        layers.Rescaling(-2.0)(x)
    ),
    'padded, then shifted': lambda x: layers.Rescaling(1.0, 3.0, name='front')(
        layers.ZeroPadding2D()(x)
    ),
    'three times': lambda x: layers.Concatenate(name='front')([x, x, x]),
    'batch norm': layers.BatchNormalization(name='front'),
    'batch norm of other channels': lambda x: layers.BatchNormalization(name='norm')(
        SelectChannels(3, 1, kernel_initializer=REVERSED, name='front')(x)
    ),
}


@pytest.mark.parametrize('front, bits', [*((front, 8) for front in FRONTS), ('rescaling', 4)])
def test_no_image_is_clipped_before_the_first_layer(front, bits):
    """Whatever images set the ranges: black and white ones are handed on as they are."""
    options = {'activation_bits': bits, 'activation_scope': 'all'}
    student = student_of(own_teacher(lambda x: ending(convolved(FRONTS[front](x)))), **options)
    assert 'front' in constants(student.twin) or front == 'three times'
    grey = 0.45 + 0.1 * PIXELS
    set_ranges(student, lambda: [grey])
    images = student.input_spec.to_inputs(np.stack([np.zeros_like(PIXELS[0]), PIXELS[0] * 0 + 1]))
    expected = tf_keras.Model(student.twin.input, student.twin.get_layer('front').output)(images)
    found = tf_keras.Model(student.model.input, student.output_of('front'))(images)
    step = np.ptp(np.append(expected, 0)) / (2**bits - 1)
    assert np.abs(found - expected).max() < 1.6 * step  # the input has been rounded before


def test_constants_are_not_what_a_width_applies_to():
    def build(x):
        x = layers.Rescaling(1.5, name='scaled')(x)
        x = layers.Average(name='mean')([layers.ReLU(name='inner')(convolved(x)), convolved(x)])
        return layers.Rescaling(0.5)(layers.Dense(4)(layers.Flatten()(x)))

    student = make(own_teacher(build), weight_bits=4, activation_bits=4, first_last_bits=8)
    bits = {
        w.layer.name: w.quantize_config.output.bits
        for w in student.model.layers
        if getattr(getattr(w, 'quantize_config', None), 'output', None)
    }
    # The input behind its rescaling, and what an average reads, are read by no convolution.
    assert bits['scaled'] == 8 and bits['inner'] == 8 and bits['mean'] == 4
    student_export.export(student, [student.input_spec.to_inputs(PIXELS).numpy()])


def test_ranges_of_logits_are_those_of_least_cross_entropy():
    """Of the file's last tensor, with sure answers among the images."""
    student = make(tiny_teacher(head='logits'), activation_bits=4, activation_scope='all')
    logits = student.twin(student.input_spec.to_inputs(PIXELS)).numpy()
    expected = ranges.logits_range(logits, 4)
    assert student.ranges()['top'].ends() == pytest.approx(expected)
    histogram = ranges.Histogram()
    histogram.see_range(logits)
    histogram.count(logits)
    plain = ranges.with_margin(*ranges.activation_range(histogram, 4, 'mse', False), histogram)
    assert plain != pytest.approx(expected, rel=0.02)


def test_what_a_width_applies_to():
    student = make(weight_bits=4, activation_bits=3, first_last_bits=8)
    configs = {w.layer.name: w.quantize_config for w in student.model.layers if hasattr(w, 'layer')}
    weights = [c.weights.bits for c in configs.values() if c.weights]
    assert weights == [8, 4, 4, 8]
    twin = student.twin
    for name, config in configs.items():
        if config.output is None:
            continue
        layer = twin.get_layer(name)
        # The linear convolution in front of the addition, and the logits, are read by none.
        linear = isinstance(layer, layers.Conv2D)
        last_relu = (
            isinstance(layer, layers.ReLU)
            and name == [x.name for x in twin.layers if isinstance(x, layers.ReLU)][-1]
        )
        assert config.output.bits == (8 if linear or last_relu else 3), name
    everything = make(weight_bits=4, activation_bits=3, activation_scope='all')
    outputs = [w.quantize_config.output for w in everything.model.layers if hasattr(w, 'layer')]
    assert {o.bits for o in outputs if o is not None} == {3}


@pytest.mark.parametrize(
    'head', ('softmax', pytest.param('logits', marks=pytest.mark.slow), 'sigmoid')
)
def test_the_twin_is_the_teacher_and_the_file_ends_as_it_did(head):
    teacher = tiny_teacher(head=head)
    student = make(teacher)
    inputs = teacher.input_spec.to_inputs(PIXELS)
    np.testing.assert_allclose(
        as_logits(student.twin(inputs)), teacher.logits_model(inputs), atol=1e-4
    )
    ends = {'softmax': 'softmax', 'logits': None, 'sigmoid': 'sigmoid'}
    assert split_end(teacher)[1] == ends[head]
    data = student_export.convert(student)
    tflite = evaluation.TfliteModel(data)
    assert evaluation.evaluate(tflite, teacher, [(PIXELS, None)])['agreement'] > 90
    logits = audit.audit(student_export.convert(student, output_head='logits'))
    assert not {'SOFTMAX', 'LOGISTIC'} & set(logits.ops)


@pytest.mark.parametrize('side', [(6, 1), (1, 6)])
def test_the_softmax_of_a_file_is_over_the_classes(side):
    """They need not be on the last axis."""
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Dense(6)(layers.GlobalAveragePooling2D()(layers.BatchNormalization()(convolved(x))))
    x = layers.Softmax(1 + side.index(6))(layers.Reshape(side)(x))
    model = randomize(tf_keras.Model(inputs, x))
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    scores = evaluation.TfliteModel(student_export.convert(make(teacher))).scores(PIXELS)
    expected = model(PIXELS).numpy().reshape(-1, 6)
    assert expected.std() > 0.05
    np.testing.assert_allclose(scores, expected, atol=0.05)


@pytest.mark.parametrize('bits', [3, 8])
def test_ranges_of_activations_are_a_tenth_wider_than_those_of_least_error(bits):
    student = make(activation_bits=bits)
    wider = 0
    for wrapper in student.model.layers:
        variables = getattr(wrapper, '_output_quantizer_vars', None)
        if (
            not variables or wrapper.layer.name == 'top'
        ):  # the logits have an estimator of their own
            continue
        quantizer = wrapper.quantize_config.output
        inner = tf_keras.Model(
            student.twin.input, student.twin.get_layer(wrapper.layer.name).output
        )
        values = inner(student.input_spec.to_inputs(PIXELS)).numpy()
        histogram = ranges.Histogram()
        histogram.see_range(values)
        histogram.count(values)
        _, high = ranges.activation_range(histogram, quantizer.bits, 'mse', quantizer.nonnegative)
        np.testing.assert_allclose(variables['max'], min(1.1 * high, values.max()), rtol=1e-4)
        wider += variables['max'].numpy() > 1.05 * high
    assert wider or bits == 8


def test_learned_ranges_are_trained_and_others_not():
    learned = make(range_training='learned').model
    frozen = make(range_training='frozen').model
    assert len(learned.weights) == len(frozen.weights)
    ranges = [v for v in learned.trainable_variables if '_max' in v.name or '_min' in v.name]
    assert len(ranges) == len(learned.trainable_variables) - len(frozen.trainable_variables) > 0
    assert not any('_max' in v.name or '_min' in v.name for v in frozen.trainable_variables)


@pytest.mark.parametrize('given, decay', [({}, 0.99), ({'range_decay': 0.75}, 0.75)])
def test_moving_averages_follow_the_images(given, decay):
    student = make(range_training='moving_average', **given)
    wrapper = next(w for w in student.model.layers if getattr(w, '_output_quantizer_vars', None))
    variable = wrapper._output_quantizer_vars['max']
    variable.assign(1000.0)
    student.model(student.input_spec.to_inputs(PIXELS), training=False)
    assert float(variable) == 1000
    output = student.twin.get_layer(wrapper.layer.name).output
    twin = tf_keras.Model(student.twin.input, output)
    student.model(student.input_spec.to_inputs(PIXELS), training=True)
    highest = float(tf.reduce_max(twin(student.input_spec.to_inputs(PIXELS))))
    assert float(variable) == pytest.approx(decay * 1000 + (1 - decay) * highest, rel=1e-3)


def test_features_are_what_kernels_read():
    def build(x):
        for filters, strides in ((4, 1), (6, 2)):
            x = layers.Conv2D(filters, 3, strides, padding='same', name=f'conv_{filters}')(x)
            x = layers.ReLU(name=f'relu_{filters}')(x)
        x = layers.Add(name='sum')([x, layers.Conv2D(6, 1, name='branch')(x)])
        x = layers.ZeroPadding2D(name='pad')(x)
        x = layers.ReLU(name='relu')(layers.DepthwiseConv2D(3)(x))
        return layers.Dense(4)(layers.GlobalAveragePooling2D(name='pool')(x))

    student = make(own_teacher(build))
    # Not `branch`, which is only summed, `pad`, which hands `sum` on, and the logits.
    assert feature_layers(student.twin) == ['relu_4', 'relu_6', 'sum', 'pool']


@pytest.mark.parametrize(
    'options', ({'weight_bits': 1}, {'activation_bits': 9}, {'first_last_bits': 16})
)
def test_bits_out_of_range_are_refused(options):
    with pytest.raises(UserError, match='2 to 8'):
        student_of(tiny_teacher(), **options)
