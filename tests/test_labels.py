"""A teacher of several independent labels: every training takes their sigmoid cross-entropies."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from zscgan_tf import pipeline
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.methods import distillation, zscgan
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.report.summary import summary
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.calibrate import calibrate_student
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers
LABELS = 6
GENERATOR = {'generator_channels': [4], 'skip_channels': 2, 'z_channels': 3, 'batch_size': 8}


@pytest.fixture(scope='module')
def teacher():
    x = images = tf_keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3)(x)))
    x = layers.Dense(LABELS, activation='sigmoid')(layers.Flatten()(x))
    return load_teacher(randomize(tf_keras.Model(images, x)), input_spec={'preprocessing': 'unit'})


def sigmoid_cross_entropy(p, z):
    q = 1 / (1 + np.exp(-np.float64(z)))
    return np.mean(np.sum(-p * np.log(q) - (1 - p) * np.log(1 - q), axis=1))


def test_the_generator_is_asked_for_one_label(teacher):
    options = GeneratorOptions.resolve('small', {**GENERATOR, 'steps': 5}, teacher)
    generator, _, _ = zscgan.build_training(teacher, options, seed=0)
    _, update = zscgan.continue_training(teacher, generator, options.record(), 5, seed=0)
    metrics, _, labels, logits = tf.function(update)(tf.constant(0, tf.int64))
    expected = sigmoid_cross_entropy(np.eye(LABELS)[labels.numpy()], logits.numpy())
    assert float(metrics['class_loss']) == pytest.approx(expected, rel=1e-4)


def test_the_student_learns_every_label(teacher, tmp_path):
    widths = {'weight_bits': 4, 'activation_bits': 4}
    options = DistillationOptions.resolve(
        'small', {**widths, 'augment': False, 'mix': False, 'steps': 1}
    )
    source = NoiseSource(teacher.input_spec, batch_size=16)
    student = calibrate_student(teacher, source, range_images=32, **widths)
    pixels, _ = next(source.batches(start=5))
    own, expected = student.logits(pixels).numpy(), teacher.logits(pixels).numpy()
    optimizer = distillation.make_optimizer(options, student.trainable_variables())
    step = distillation.make_step(student, optimizer, options)
    metrics = step(tf.constant(0, tf.int64), tf.constant(pixels))
    loss = sigmoid_cross_entropy(1 / (1 + np.exp(-expected)), own)
    assert float(metrics['distillation_loss']) == pytest.approx(loss, rel=1e-3)
    agreement = np.mean((own > 0) == (expected > 0))
    assert 0.5 < agreement < 1
    assert float(metrics['agreement']) == pytest.approx(agreement, abs=0.02)


def test_the_summary_speaks_of_labels(teacher, tmp_path):
    source = NoiseSource(teacher.input_spec, batch_size=16)
    result = pipeline.quantize(
        teacher, source, tmp_path / 'a.tflite', calibration_images=32, check_images=32
    )
    text = summary(teacher, result)
    assert f'% of the labels on 32 fresh images of noise, {result.fresh["classes"]} of' in text
    assert f'of {LABELS} labels among them' in text and 'top-1' not in text
