"""Which way `quantize` takes: through the student, or by TFLite's own calibration."""

import dataclasses
import logging
import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.tiny import tiny_teacher
from zscgan_tf import pipeline
from zscgan_tf.errors import UserError
from zscgan_tf.quantized import Quantized
from zscgan_tf.report.summary import summary
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.calibrate import calibrate_student
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite.interpreter import TfliteModel

layers = tf_keras.layers
FEW = {'check_images': 8}


def source_of(teacher):
    return NoiseSource(teacher.input_spec, batch_size=16)


class Recording(NoiseSource):
    """Noise that notes from which batches on it was read."""

    starts = ()

    def batches(self, start=0):
        self.starts = (*self.starts, start)
        return super().batches(start)


@pytest.mark.parametrize(
    'estimator, images', [('mse', 'range_images'), ('tflite', 'calibration_images')]
)
def test_fresh_images_set_no_ranges(tmp_path, estimator, images):
    teacher = tiny_teacher()
    source = Recording(teacher.input_spec, batch_size=16)
    options = {'range_estimator': estimator, images: 40, **FEW}
    pipeline.quantize(teacher, source, tmp_path / 'a.tflite', **options)
    assert set(source.starts) == {0, 3}


def test_the_default_is_the_student(tmp_path):
    """The file is that of a student which is calibrated on the same images."""
    teacher = tiny_teacher(head='logits')
    source = source_of(teacher)
    result = pipeline.quantize(teacher, source, tmp_path / 'a.tflite', range_images=32, **FEW)
    student = calibrate_student(teacher, source, range_images=32)
    pipeline.quantize_student(student, source, tmp_path / 'b.tflite', **FEW)
    assert (tmp_path / 'a.tflite').read_bytes() == (tmp_path / 'b.tflite').read_bytes()
    assert result.levels and result.options.range_estimator == 'mse' and not result.fallback
    assert 'ranges       through the student (mse), 32 images' in summary(teacher, result)
    other = pipeline.quantize(
        teacher, source, tmp_path / 'c.tflite', preset='paper', calibration_images=32, **FEW
    )
    assert other.levels is None and other.options.calibration_images == 32
    assert "ranges       TFLite's own calibration, 32 images" in summary(teacher, other)


@pytest.mark.parametrize(
    'classes, head, threshold', [(10, 'softmax', 55), (2, 'sigmoid', 75), (3, 'labels', 75)]
)
def test_a_file_of_no_use_agrees_in_less_than_half_of_what_chance_leaves(classes, head, threshold):
    """Chance is 10 % of ten classes, and 50 % of two or of independent labels."""
    teacher = dataclasses.replace(tiny_teacher(), num_classes=classes, head=head)
    for agreement, wanted in ((threshold - 0.1, True), (threshold + 0.1, False)):
        assert of_agreement(agreement, positives=50, images=1000).disagrees(teacher) == wanted


def of_agreement(agreement, **measured):
    """A `Quantized` of which only this is known."""
    fields = {field.name: None for field in dataclasses.fields(Quantized)}
    return Quantized(**{**fields, 'real': {'agreement': agreement, **measured}})


@pytest.mark.parametrize('positives', [4, 96])
def test_a_file_that_always_answers_the_same_is_of_no_use(positives):
    """Where 96 % of independent labels are "no", "no" alone agrees in 96 %."""
    teacher = dataclasses.replace(tiny_teacher(), num_classes=80, head='labels')
    for agreement, wanted in ((96, True), (97.9, True), (98.1, False)):
        found = of_agreement(agreement, positives=positives, images=1000)
        assert found.disagrees(teacher) == wanted
    # Too few "yes" to judge by: in 80,000 answers none, or one that the file misses.
    for rare, agreement, wanted in ((0, 20, True), (0, 100, False), (1 / 800, 99.99875, False)):
        assert of_agreement(agreement, positives=rare, images=1000).disagrees(teacher) == wanted


def test_real_images_say_more_than_others():
    measured = Quantized.measured.fget
    fresh, real, seen = ({'agreement': share} for share in (99, 20, 98))
    assert measured(types.SimpleNamespace(fresh=fresh, real=real, seen=None)) is real
    assert measured(types.SimpleNamespace(fresh=fresh, real=None, seen=seen)) is fresh
    assert measured(types.SimpleNamespace(fresh=None, real=None, seen=seen)) is seen


def test_too_few_images_are_refused(tmp_path):
    """By both ways of setting ranges: an image that is read again tells nothing new."""
    teacher = tiny_teacher()
    source = source_of(teacher)
    source.image_count = 48
    for name, options in (
        ('range_images', {'range_images': 64}),
        ('calibration_images', {'range_estimator': 'tflite', 'calibration_images': 64}),
    ):
        with pytest.raises(UserError, match=f'holds 48 images, fewer than the 64 .* --{name}'):
            pipeline.quantize(teacher, source, tmp_path / 'a.tflite', **options)
    assert not (tmp_path / 'a.tflite').exists()


def unfoldable_teacher():
    """TFLite quantizes its transposed convolution; the student has no counterpart of it."""
    images = x = layers.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(x)))
    x = layers.GlobalAveragePooling2D()(layers.Conv2DTranspose(4, 3, name='odd')(x))
    return load_teacher(
        randomize(tf_keras.Model(images, layers.Dense(5)(x))), input_spec={'preprocessing': 'unit'}
    )


@pytest.mark.parametrize('with_trial', [False, True])
def test_a_layer_without_counterpart(tmp_path, caplog, with_trial):
    teacher = unfoldable_teacher()
    with caplog.at_level(logging.INFO, logger='zscgan_tf'):
        plan = pipeline.make_plan(teacher, 'small', {}, with_trial=with_trial)
    (line,) = [r.getMessage() for r in caplog.records if 'calibration sets' in r.getMessage()]
    assert "layer 'odd' (Conv2DTranspose)" in line and '\n' not in line and 'rebuild' not in line
    result = pipeline.quantize(teacher, source_of(teacher), tmp_path / 'a.tflite', plan=plan, **FEW)
    text = summary(teacher, result)
    assert "TFLite's own calibration, 128 images (" in text and "layer 'odd'" in text
    # Asked for, in words or by options that only a student has, it is an error.
    for options in ({'range_estimator': 'mse'}, {'weight_bits': 4}, {'bias_correction': False}):
        with pytest.raises(UserError, match="'odd' .*quantize with --method=ptq --range"):
            pipeline.quantize(teacher, source_of(teacher), tmp_path / 'b.tflite', **options)
    assert not (tmp_path / 'b.tflite').exists()


def test_the_trial_of_a_stock_student_has_ranges():
    """tfmot's own first ranges round kernels as small as these to zeros."""
    teacher = tiny_teacher()
    for layer in teacher.model.layers:
        if isinstance(layer, layers.Conv2D) and not layer.use_bias:
            layer.kernel.assign(1e-3 * layer.kernel)
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(1e-6 * layer.moving_variance)
    plan = pipeline.make_plan(teacher, 'small', {'student': 'tfmot'}, with_trial=True)
    assert plan.options.student == 'tfmot'


def test_unknown_options(tmp_path):
    teacher = tiny_teacher()
    with pytest.raises(UserError, match='unknown option steps: the options are'):
        pipeline.quantize(teacher, source_of(teacher), tmp_path / 'a.tflite', steps=5)


@pytest.mark.parametrize('options', [{}, {'activation_bits': 16}, {'input_type': 'float32'}])
@pytest.mark.parametrize('channels', [1, 3])
def test_the_line_of_arithmetic_feeds_the_file(tmp_path, options, channels):
    """Evaluated by NumPy, it gives what the interpreter makes of the model's inputs."""
    teacher = tiny_teacher(channels=channels)
    small = {'calibration_images': 16, **FEW}
    result = pipeline.quantize(
        teacher, source_of(teacher), tmp_path / 'a.tflite', **small, **options
    )
    line = summary(teacher, result).splitlines()[-1]
    assert line.startswith('feed ')
    arithmetic = line.partition(' = ')[2].partition(', where p')[0]
    arithmetic = arithmetic.replace('[', 'np.array([').replace(']', '])')
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels))
    names = {'np': np, 'p': images, 'clip': np.clip, 'round': np.round}
    fed = eval(arithmetic, names).astype(result.report.input.type)
    file = TfliteModel(tmp_path / 'a.tflite')
    inputs = teacher.input_spec.to_inputs(tf.constant(np.float32(images / 255))).numpy()
    np.testing.assert_allclose(file.raw_outputs(fed), file.raw_outputs(_own(file, inputs)), atol=1)


def _own(file, inputs):
    if file._input['dtype'] == np.float32:
        return inputs
    scale, zero_point = file._input['quantization']
    levels = np.iinfo(file._input['dtype'])
    steps = np.rint(inputs / np.float32(scale)) + zero_point
    return np.clip(steps, levels.min, levels.max).astype(file._input['dtype'])
