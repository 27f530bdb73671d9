"""DFQ: corrected biases leave the mean, unequal scales are equalized, no image is needed."""

import numpy as np
import pytest
import tf_keras

from tests.conftest import randomize
from tests.small_mobile_nets import (
    PIXELS,
    batch_norms,
    folded,
    mobile_net,
    one_class,
    outputs,
)
from tests.students import student_of
from tests.tiny import tiny_teacher
from zscgan_tf import pipeline
from zscgan_tf.errors import UserError
from zscgan_tf.methods import cross_layer, dfq
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.methods.moments import Moments, propagate
from zscgan_tf.report.summary import summary
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite.flatbuffer import op_name, read_model

layers = tf_keras.layers
SPEC = {'preprocessing': 'unit'}


def test_corrected_biases_leave_the_mean():
    """Over Gaussian inputs, of the moments that the batch norms store."""
    teacher = load_teacher(mobile_net(), input_spec=SPEC)
    made = dfq.make_student(teacher, DfqOptions.resolve('small', {'weight_bits': 4}))
    rng, checked, shifted = np.random.default_rng(0), 0, 0
    other, norms, pairs = folded(teacher.logits_model)
    norms, _ = cross_layer.equalize(other, norms, pairs)
    norms, absorbed = cross_layer.absorb_biases(other, norms, pairs, False)
    assert made.absorbed == absorbed
    twin = made.student.twin
    for pair in cross_layer.find_pairs(twin):
        norm = propagate(twin, norms, (0, 1))[pair.first.name]
        # One position wide: the first lines of a padded convolution would read zeros.
        shape = (20_000, *pair.second.kernel_size, len(norm.mean))
        x = np.maximum(rng.normal(size=shape) * np.sqrt(norm.variance) + norm.mean, 0)
        (kernel,) = (k for k in made.student.kernels() if k.layer.name == pair.second.name)
        exact, rounded = pair.second.get_weights()[0], kernel.rounded().numpy()
        moved = kernel.layer.bias.numpy() - pair.second.get_weights()[1]
        sums = 'nhwc,hwcm->ncm' if 'depthwise' in pair.second.name else 'nhwc,hwco->no'
        errors = np.einsum(sums, x, np.float64(rounded) - exact).reshape(len(x), -1)
        bound = 4 * errors.std(0) / np.sqrt(len(x)) + 1e-6
        assert np.all(np.abs(errors.mean(0) + moved) < bound)
        shifted += np.sum(np.abs(errors.mean(0)) > bound)
        checked += 1
    assert checked == len(pairs) and shifted
    # Nothing is known of the images that the first convolution reads.
    assert made.corrected == len(made.student.kernels()) - 1


def uneven_mobile_net():
    """Depthwise channels scaled from 1 to 1,000; the next layer takes it back."""
    model = mobile_net(classes=3)
    kinds = [type(layer) for layer in model.layers]
    for index, kind in enumerate(kinds):
        if kind is layers.DepthwiseConv2D:
            norm, pointwise = model.layers[index + 1], model.layers[index + 3]
            factors = np.logspace(0, -3, norm.gamma.shape[0]).astype(np.float32)
            norm.gamma.assign(norm.gamma * factors)
            norm.beta.assign(norm.beta * factors)
            pointwise.kernel.assign(pointwise.kernel / factors[:, None])
    return model


def agreement(student, teacher):
    """In per cent, on the images on which the teacher is not undecided: nine of ten."""
    expected, found = teacher.logits(PIXELS).numpy(), student.logits(PIXELS).numpy()
    best = np.sort(expected, axis=1)
    margins = best[:, -1] - best[:, -2]
    same = np.argmax(expected, axis=1) == np.argmax(found, axis=1)
    return 100 * np.mean(same[margins > np.quantile(margins, 0.1)])


def sharpened(model):
    """Centres and scales the logits, so that noise images are of all classes."""
    dense = model.layers[-1]
    logits = outputs(model)
    dense.bias.assign(dense.bias - logits.mean(0))
    return model


def test_scales_from_1_to_1000_are_equalized():
    model = sharpened(uneven_mobile_net())
    teacher = load_teacher(model, input_spec=SPEC)
    counts = np.bincount(np.argmax(outputs(model), axis=1), minlength=3)
    assert counts.max() < 0.6 * len(PIXELS)
    plain = student_of(teacher, weight_granularity='tensor')
    set_ranges(plain, lambda: [PIXELS], 'minmax')
    made = dfq.make_student(teacher, DfqOptions.resolve('small', {}))
    before, after = agreement(plain, teacher), agreement(made.student, teacher)
    assert before < 50 < 95 < after, (before, after)


def test_without_images_nothing_is_said_of_the_agreement(tmp_path, caplog):
    teacher = load_teacher(mobile_net(high=6.0), input_spec=SPEC)
    with caplog.at_level('INFO', logger='zscgan_tf'):
        result = pipeline.quantize_dfq(teacher, tmp_path / 'a.tflite', relu6='replaced')
    assert 'DFQ: 5 ReLU6 became ReLU, 5 pairs equalized in ' in caplog.text
    assert result.measured is None and not result.disagrees(teacher)
    text = summary(teacher, result)
    assert 'agreement    not measured, for lack of images: pass --evaluation_images' in text
    assert 'ranges       from the means and deviations of batch norms, no images' in text
    assert '5 pairs equalized' in text and 'before ' not in text and 'WARNING' not in text
    model = read_model((tmp_path / 'a.tflite').read_bytes())
    kernels = [
        model.subgraphs[0].tensors[op.inputs[1]].quantization.scale
        for op in model.subgraphs[0].operators
        if op_name(model, op).endswith('CONV_2D')
    ]
    assert len(kernels) == 6 and all(np.ptp(scales) == 0 for scales in kernels)
    assert result.report.integer_op_count == result.report.op_count
    with pytest.raises(UserError, match='exists already'):
        pipeline.quantize_dfq(teacher, tmp_path / 'a.tflite')


def test_with_images_the_float_model_is_measured_too(tmp_path):
    class Images(NoiseSource):
        image_count = 40

        def one_pass(self):
            return iter([(PIXELS[:40], None)])

    teacher = load_teacher(sharpened(mobile_net(high=6.0)), input_spec=SPEC)
    result = pipeline.quantize_dfq(
        teacher,
        tmp_path / 'a.tflite',
        evaluate_on=Images(teacher.input_spec),
        relu6='replaced',
        weight_granularity='channel',
        input_type='uint8',
    )
    assert result.real['images'] == result.unquantized['images'] == 40
    assert result.options.weight_granularity == 'channel' and result.report.input.type == 'uint8'
    assert 'before       it was rounded, the model agreed with its teacher on' in summary(
        teacher, result
    )


def without_pairs():
    images = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(images))
    x = layers.LeakyReLU()(x)
    return tf_keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def test_teachers_at_the_edge(tmp_path):
    teacher = load_teacher(randomize(without_pairs()), input_spec=SPEC)
    with pytest.raises(UserError, match='no two convolutions follow .*pass --method=ptq'):
        pipeline.quantize_dfq(teacher, tmp_path / 'a.tflite')
    twin, norms, pairs = folded(teacher.logits_model)
    assert not pairs and cross_layer.equalize(twin, norms, pairs) == (norms, 0)
    assert not (tmp_path / 'a.tflite').exists()
    made = dfq.make_student(
        load_teacher(one_class(), input_spec=SPEC), DfqOptions.resolve('small', {})
    )
    assert made.pairs == 1 and made.student.logits(PIXELS[:3]).shape == (3, 2)


def test_scales_of_zero_throughout():
    model = mobile_net()
    for norm in batch_norms(model)[:2]:
        norm.gamma.assign(np.zeros(norm.gamma.shape))
    teacher = load_teacher(model, input_spec=SPEC)
    made = dfq.make_student(teacher, DfqOptions.resolve('small', {}))
    assert np.all(np.isfinite(made.student.logits(PIXELS[:4])))
    assert all(np.all(np.isfinite(w)) for w in made.student.model.get_weights())


@pytest.mark.parametrize(
    'options, words',
    [
        ({'steps': 5}, 'unknown option steps'),
        ({'range_images': 5}, 'unknown option range_images'),
        ({'range_training': 'learned'}, '--range_training=learned must be frozen'),
        ({'student': 'tfmot'}, '--student=tfmot must be folded'),
        ({'weight_bits': 1}, '--weight_bits=1 must be 2 to 8 bits'),
        ({'activation_bits': 16}, '--activation_bits=16 is for TFLite'),
        ({'absorb_padded': 3}, '--absorb_padded=3 must be True or False'),
    ],
)
def test_refused_options(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        pipeline.quantize_dfq(tiny_teacher(), tmp_path / 'a.tflite', **options)
    assert not list(tmp_path.iterdir())


def test_ranges_end_where_moments_do_and_kernels_at_their_largest_weight():
    teacher = load_teacher(mobile_net(), input_spec=SPEC)
    student = dfq.make_student(teacher, DfqOptions.resolve('small', {'weight_bits': 3})).student
    zero, low, high = np.zeros(2), np.array([-0.5, -2.0]), np.array([3.0, 1.0])
    moments = {
        name: Moments(zero, zero, low, high + number)
        for number, name in enumerate(student.ranges())
    }
    dfq.set_ranges(student, moments)
    for number, each in enumerate(student.ranges().values()):
        assert each.ends() == (0.0 if each.nonnegative else -2.0, 3.0 + number)
    for kernel in student.kernels():
        largest = np.abs(kernel.variable.numpy()).max()
        np.testing.assert_allclose(kernel.maximum.numpy(), largest, rtol=1e-6)
