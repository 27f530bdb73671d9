"""Equations 3 and 4, the step, the whole distillation with its resume, and what it refuses."""

import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.students import student_of
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.generators import build_generator
from zscgan_tf.methods import augmentation, distillation
from zscgan_tf.sources.generator import GeneratorSource
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.alignment import align_additions
from zscgan_tf.student.calibration.bias_correction import correct_biases
from zscgan_tf.student.calibration.calibrate import calibrate_student
from zscgan_tf.student.calibration.error_compensation import compensate_errors
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import levels
from zscgan_tf.training import loop
from zscgan_tf.training.strategy import check_batch_size, make_strategy

RNG = np.random.default_rng(0)
SMALL = {'range_images': 16, 'weight_bits': 4, 'activation_bits': 4, 'learning_rate': 3e-3}


def softmax(x):
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


@pytest.mark.parametrize('weight', (0.0, 0.3, 1.0))
@pytest.mark.parametrize('temperature', (1.0, 4.0))
def test_loss_is_equation_3(weight, temperature):
    teacher, student = RNG.normal(size=(2, 6, 5)).astype(np.float32) * 3
    labels = np.arange(6) % 5
    soft = -np.sum(softmax(teacher / temperature) * np.log(softmax(student / temperature)), axis=1)
    hard = -np.log(softmax(student))[np.arange(6), labels]
    expected = np.mean(weight * temperature**2 * soft + (1 - weight) * hard)
    found = distillation.distillation_loss(
        tf.constant(teacher),
        tf.constant(student),
        labels=tf.constant(labels, tf.int32),
        soft_target_weight=weight,
        temperature=temperature,
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('weight', (0.3, 1.0))
def test_loss_of_independent_labels_is_the_sigmoid_cross_entropy(weight):
    teacher, student = RNG.normal(size=(2, 6, 5)).astype(np.float32) * 3
    labels, temperature = np.arange(6) % 5, 2.0

    def cross_entropy(p, z):
        q = 1 / (1 + np.exp(-np.float64(z)))
        return -np.sum(p * np.log(q) + (1 - p) * np.log(1 - q), axis=1)

    soft = cross_entropy(1 / (1 + np.exp(-teacher / temperature)), student / temperature)
    hard = cross_entropy(np.eye(5)[labels], student)
    expected = np.mean(weight * temperature**2 * soft + (1 - weight) * hard)
    found = distillation.distillation_loss(
        tf.constant(teacher),
        tf.constant(student),
        labels=tf.constant(labels, tf.int32),
        soft_target_weight=weight,
        temperature=temperature,
        independent=True,
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_papers_optimizer():
    """Against Nesterov's rule with momentum 0.9 written out, and a cosine to zero."""
    options = distillation.DistillationOptions.resolve(
        'paper', {'learning_rate': 0.1, 'steps': 4, 'update_generator': False}
    )
    variable = tf.Variable([1.0, -2.0])
    optimizer = distillation.make_optimizer(options, [variable])
    expected, velocity = variable.numpy(), 0
    for step, gradient in enumerate(np.float32([[1, -3], [0.5, 2], [-1, 0.1], [0.2, 0.2]])):
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        rate = 0.1 * (1 + np.cos(np.pi * step / 4)) / 2
        velocity = 0.9 * velocity - rate * gradient
        expected = expected + 0.9 * velocity - rate * gradient
        np.testing.assert_allclose(variable, expected, rtol=1e-5)


def test_a_step_has_the_weight_and_temperature_of_its_options():
    teacher = tiny_teacher(num_classes=5)
    options = distillation.DistillationOptions.resolve(
        'small',
        {'soft_target_weight': 0.3, 'temperature': 2.0, 'feature_loss_weight': 0.0,
         'augment': False, 'mix': False, 'steps': 4},
    )  # fmt: skip
    student = student_of(teacher)
    pixels = RNG.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    labels = np.arange(6, dtype=np.int32) % 5
    set_ranges(student, lambda: [pixels])
    optimizer = distillation.make_optimizer(options, student.trainable_variables())
    step = distillation.make_step(student, optimizer, options)
    wanted, given = teacher.logits(pixels).numpy(), student.logits(pixels).numpy()
    soft = -np.sum(softmax(wanted / 2) * np.log(softmax(given / 2)), axis=1)
    hard = -np.log(softmax(given))[np.arange(6), labels]
    found = step(tf.constant(0, tf.int64), tf.constant(pixels), tf.constant(labels))
    assert float(found['distillation_loss']) == pytest.approx(
        np.mean(0.3 * 4 * soft + 0.7 * hard), rel=1e-3
    )


class HalfPrecision:
    """An update whose logits are rounded."""

    def __init__(self, pixels, logits, dtype):
        self.result = {}, tf.constant(pixels), None, tf.cast(logits, dtype)

    def __call__(self, index):
        return self.result


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_a_rounded_teacher_does_not_teach(dtype):
    """Where the generator's teacher is rounded, the student learns from the float one."""
    teacher = tiny_teacher(num_classes=5)
    options = distillation.DistillationOptions.resolve(
        'small', {'feature_loss_weight': 0.0, 'augment': False, 'mix': False, 'steps': 4}
    )
    student = student_of(teacher)
    pixels = RNG.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    set_ranges(student, lambda: [pixels])
    wanted, given = teacher.logits(pixels).numpy(), student.logits(pixels).numpy()
    other = wanted[:, ::-1]  # of neither
    optimizer = distillation.make_optimizer(options, student.trainable_variables())
    step = distillation.make_step(
        student, optimizer, options, generator_update=HalfPrecision(pixels, other, dtype)
    )
    target = wanted if dtype == 'bfloat16' else other
    loss = -np.mean(np.sum(softmax(target) * np.log(softmax(given)), axis=1))
    found = step(tf.constant(0, tf.int64))['distillation_loss']
    assert float(found) == pytest.approx(loss, rel=1e-3)


def test_feature_loss_is_relative_to_the_teachers_features():
    teacher = [tf.constant(RNG.normal(size=(4, 3, 3, s)), tf.float32) for s in (2, 5)]
    assert float(distillation.feature_loss(teacher, teacher)) == 0
    halves = [0.5 * t for t in teacher]
    assert float(distillation.feature_loss(teacher, halves)) == pytest.approx(0.25, rel=1e-5)


def test_augmentation_flips_and_shifts():
    pixels = RNG.uniform(size=(3, 16, 16, 2)).astype(np.float32)
    # Numbers modulo 5 are shifts of -2 ... 2.
    draws = tf.constant([[2, 2, 0], [2, 2, 1], [4, 0, 0]])
    same, flipped, shifted = augmentation.augment(tf.constant(pixels), draws).numpy()
    np.testing.assert_array_equal(same, pixels[0])
    np.testing.assert_array_equal(flipped, pixels[1][:, ::-1])
    padded = np.pad(pixels[2], ((2, 2), (2, 2), (0, 0)), 'edge')
    np.testing.assert_array_equal(shifted, padded[4:20, 0:16])


def test_mixing_blends_neighbours():
    pixels = RNG.uniform(size=(5, 4, 4, 2)).astype(np.float32)
    draws = tf.constant([2**18, 7, 0, 7, 2**19])
    found = augmentation.mix(tf.constant(pixels), draws).numpy()
    a, b, c, d, last = pixels
    expected = [0.25 * a + 0.75 * b, 0.25 * b + 0.75 * a, d, c, last]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_blends_are_the_same_of_the_same_seed():
    pixels = RNG.uniform(size=(10, 4, 4, 2)).astype(np.float32)
    batches = [(pixels[:6], np.arange(6)), (pixels[6:], np.arange(4))]
    first, again, other = (list(augmentation.blends(batches, seed)) for seed in (3, 3, 4))
    assert all(labels is None for _, labels in first)
    first, again, other = ([x.numpy() for x, _ in found] for found in (first, again, other))
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.abs(one - three).max() > 0.01
    found, original = np.concatenate(first), pixels
    # Of a pair, the sum is what it was, and each of the two is between both.
    np.testing.assert_allclose(
        found[::2] + found[1::2], original[::2] + original[1::2], rtol=1e-5, atol=1e-6
    )
    shares = (found[::2] - original[1::2])[:, 0, 0, 0] / (original[::2] - original[1::2])[
        :, 0, 0, 0
    ]
    assert np.all((shares > 0) & (shares < 1)) and len(np.unique(shares.round(3))) == 5


@pytest.fixture
def not_exported(monkeypatch):
    """Leaves out the trial export before the first step: seconds, of another test."""
    monkeypatch.setattr(distillation.student_export, 'export', lambda *args: None)


def distill(workdir, teacher, source, steps, **options):
    return distillation.distill(
        teacher, source, workdir, steps=steps, checkpoint_every=5, **{**SMALL, **options}
    )


def metrics(workdir):
    return [json.loads(x) for x in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_distillation_lowers_both_losses(tmp_path, not_exported):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=32)
    options = {
        'weight_bits': 3,
        'activation_bits': 3,
        'range_estimator': 'minmax',
        'learning_rate': 1e-2,
    }
    distill(tmp_path, teacher, source, 60, feature_loss_weight=0.5, **options)
    log = metrics(tmp_path)
    first, last = (
        {key: np.mean([m[key] for m in part]) for key in log[0]} for part in (log[:10], log[-10:])
    )
    assert last['distillation_loss'] < first['distillation_loss']
    assert last['feature_loss'] < first['feature_loss']


@pytest.mark.parametrize('training', ('learned', 'moving_average'))
def test_resumed_is_bit_equal(tmp_path, not_exported, training):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    options = {'range_training': training}
    whole = distill(tmp_path / 'whole', teacher, source, 12, **options)

    class Stops(NoiseSource):
        """Is interrupted when it is asked for the batches behind the tenth."""

        def batches(self, start=0):
            return itertools.chain(
                itertools.islice(super().batches(start), 12 - start), self.interrupt()
            )

        def interrupt(self):
            raise KeyboardInterrupt
            yield

    broken = Stops(teacher.input_spec, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        distill(tmp_path / 'parts', teacher, broken, 12, **options)
    assert 0 < metrics(tmp_path / 'parts')[-1]['step'] < 12
    resumed = distill(tmp_path / 'parts', teacher, source, 12, **options)
    for one, two in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    reused = distill(tmp_path / 'parts', teacher, source, 12, **options)
    for one, two in zip(whole.model.get_weights(), reused.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_ranges_of_weights_follow_them_where_activations_are_moving_averages():
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    student = student_of(teacher, range_training='moving_average')
    set_ranges(student, lambda: [next(source.batches())[0]])
    student.model(next(source.batches())[0], training=True)
    for wrapper in student.model.layers:
        for kernel, quantizer, found in getattr(wrapper, '_weight_vars', []):
            values = np.abs(kernel.numpy())
            if quantizer.depthwise:
                values = values.reshape(*values.shape[:2], -1)
            largest = values.max(axis=tuple(range(values.ndim - 1)))
            np.testing.assert_array_equal(found['max'], largest)


def test_the_generator_is_updated_only_if_asked_for(tmp_path, not_exported):
    teacher = tiny_teacher()
    spec = teacher.input_spec
    generator = build_generator(spec.image_shape, 7, scales=1, channels=4, skip_channels=2)
    options = GeneratorOptions.resolve('small', {'batch_size': 8}, teacher)
    source = GeneratorSource(generator, 7, 8, options=options.record())
    before = generator.get_weights()
    distill(tmp_path / 'fixed', teacher, source, 1)
    for one, two in zip(before, generator.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    distill(tmp_path / 'updated', teacher, source, 1, update_generator=True)
    changed = [
        np.abs(one - two).max() for one, two in zip(before, generator.get_weights(), strict=True)
    ]
    assert max(changed) > 0
    assert {'bns_loss', 'distillation_loss'} <= metrics(tmp_path / 'updated')[-1].keys()


@pytest.mark.parametrize(
    'options, message',
    [
        ({'temperature': 0.0}, 'temperature=0.0 must be positive'),
        ({'soft_target_weight': 1.5}, 'soft_target_weight=1.5 must be between 0 and 1'),
        ({'soft_target_weight': 0.5}, 'needs labels'),
        ({'soft_target_weight': 0.5, 'mix': True}, 'a blend of two images has none'),
        ({'update_generator': True}, '--update_generator, .* has no generator to update'),
        ({'weight_bits': 9}, 'weight_bits=9 must be 2 to 8'),
        ({'range_training': 'wild'}, 'range_training=wild must be one of'),
    ],
)
def test_refusals(tmp_path, options, message):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    with pytest.raises(UserError, match=message):
        distill(tmp_path / 'run', teacher, source, 2, **options)
    assert not (tmp_path / 'run').exists()


def test_what_can_not_be_exported_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    check_levels = levels.check_levels
    monkeypatch.setattr(
        levels, 'check_levels', lambda *a, **k: check_levels(*a, **{**k, 'activation_bits': 2})
    )
    with pytest.raises(UserError, match='does not hold 2-bit activations'):
        distill(tmp_path / 'run', teacher, source, 4)
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


@pytest.mark.parametrize('batch', (0, 2), ids=('setting ranges', 'training'))
def test_images_that_are_not_finite_are_refused_with_their_source(tmp_path, not_exported, batch):
    teacher = tiny_teacher()

    class Broken(NoiseSource):
        def _batch(self, index):
            pixels = super()._batch(index)
            return pixels * np.nan if index == batch else pixels

    source = Broken(teacher.input_spec, batch_size=16)
    with pytest.raises(UserError, match='^noise_uniform: A batch of images holds .* not finite'):
        distill(tmp_path / 'run', teacher, source, 4)


def test_images_of_another_shape_and_other_runs_are_refused(tmp_path, not_exported):
    teacher = tiny_teacher()
    other = NoiseSource(tiny_teacher(size=9).input_spec, batch_size=8)
    with pytest.raises(UserError, match='the images have the shape'):
        distill(tmp_path / 'run', teacher, other, 2)
    source = NoiseSource(teacher.input_spec, batch_size=8)
    distill(tmp_path / 'run', teacher, source, 1)
    with pytest.raises(UserError, match='weight_bits 4, not 6'):
        distill(tmp_path / 'run', teacher, source, 1, weight_bits=6)


def test_a_student_of_other_images_is_not_reused(tmp_path, not_exported, monkeypatch):
    teacher = tiny_teacher()
    spec = teacher.input_spec
    generator = build_generator(spec.image_shape, 7, scales=1, channels=4)
    generators = [GeneratorSource(generator, 7, 8, options={'steps': n}) for n in (1, 2)]
    monkeypatch.setattr(loop, 'run', lambda *args, **options: {})
    for name, made, other, message in (
        ('kind', NoiseSource(spec), NoiseSource(spec, 'gaussian'), '"noise_uniform", not "noise_g'),
        ('seed', NoiseSource(spec), NoiseSource(spec, seed=1), 'source_seed 0, not 1'),
        ('generator', *generators, 'source_steps 1, not 2'),
    ):
        distill(tmp_path / name, teacher, made, 1, range_images=8)
        with pytest.raises(UserError, match=message):
            distill(tmp_path / name, teacher, other, 1, range_images=8)


def test_pairs_to_blend_are_of_one_replica():
    check_batch_size(6, 2)
    check_batch_size(8, 2, multiple=2)
    with pytest.raises(UserError, match='6 images .* 2 replicas: .*--batch_size .* multiple of 4'):
        check_batch_size(6, 2, multiple=2)


def test_all_learned_ranges_are_trained_and_no_constant_kernel():
    layers = tf_keras.layers
    x = inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    x = layers.Average(name='average')([layers.ReLU()(x), layers.Conv2D(4, 1)(x)])
    model = tf_keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    teacher = load_teacher(model, input_spec={'preprocessing': 'tf'})
    student = student_of(teacher)
    trained = {id(v) for v in student.trainable_variables()}
    left = [id(v) for v in student.model.trainable_variables if id(v) not in trained]
    average = student.model.get_layer('quant_average')
    assert left == [id(kernel) for kernel, _, _ in average._weight_vars] and len(left) == 1
    assert {id(v) for v in average._output_quantizer_vars.values()} <= trained


class Uneven(NoiseSource):
    """Batches whose second half is darker: the replicas see other extremes."""

    def _batch(self, index):
        first, second = tf.split(super()._batch(index), 2)
        return tf.concat([first, 0.2 * second], axis=0)


@pytest.mark.parametrize('training', ('learned', 'moving_average'))
def test_two_replicas_agree_with_one_device(two_devices, tmp_path, not_exported, training):
    teacher = tiny_teacher()
    source = Uneven(teacher.input_spec, batch_size=8)
    # At 8 bits: with few levels, a value on the edge of two tells. Sums of one step come to edges
    # together, when rates like this one move their ranges apart.
    options = {'range_images': 16, 'learning_rate': 3e-3, 'range_training': training, 'mix': True}
    options['align_additions'] = False
    students, losses = [], []
    for name, strategy in (('one', make_strategy('default')), ('two', two_devices)):
        students.append(
            distillation.distill(
                teacher, source, tmp_path / name, steps=3, strategy=strategy, **options
            )
        )
        losses.append([line['distillation_loss'] for line in metrics(tmp_path / name)])
    one, two = map(ranges_of, students)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert len(one) == len(two) > 0
    for found, expected in zip(two, one, strict=True):
        first, second = (float(value) for value in found.values)
        assert first == second == pytest.approx(float(expected), rel=1e-3)


def ranges_of(student):
    return [
        variable
        for wrapper in student.model.layers
        for variable in (getattr(wrapper, '_output_quantizer_vars', None) or {}).values()
    ]


def test_the_step_compiles_with_xla(tmp_path, not_exported):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    # Adam would blow up the rounding of gradients that are nearly 0.
    options = {'weight_bits': 8, 'activation_bits': 8, 'optimizer': 'sgd'}
    plain = distill(tmp_path / 'plain', teacher, source, 2, **options)
    compiled = distill(tmp_path / 'xla', teacher, source, 2, jit_compile=True, **options)
    for one, two in zip(plain.model.get_weights(), compiled.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_a_calibration_is_its_parts_one_after_the_other():
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=16)
    widths = {'weight_bits': 4, 'activation_bits': 4}
    student = calibrate_student(teacher, source, range_images=16, **widths)
    again = student_of(teacher, **widths)
    images = [next(source.batches())[0]]
    set_ranges(again, lambda: images)
    align_additions(again)
    compensate_errors(again, lambda: images)
    correct_biases(again, lambda: images)
    for one, two in zip(student.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
