"""DeepInversion: its terms against NumPy, jitter, rates, classes, and the adaptive variant."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.commands.programs import assert_same_weights, weights
from tests.methods.matched import assert_slopes, matched_teacher
from tests.numbers import read_metrics, softmax
from tests.small_mobile_nets import one_class
from zscgan_tf.errors import UserError
from zscgan_tf.generators import standard_normal
from zscgan_tf.methods import deep_inversion, inversion
from zscgan_tf.methods.deep_inversion import SETTINGS
from zscgan_tf.methods.inversion_options import DeepInversionOptions
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.teacher.tap import StoredMoments, build_tap
from zscgan_tf.training import loop
from zscgan_tf.training.strategy import fold_seed

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(3, 5, 6, 2))
STORED = [
    StoredMoments('a', rng.normal(size=4), rng.uniform(0.5, 2, 4), 1e-3),
    StoredMoments('b', rng.normal(size=4), rng.uniform(0.5, 2, 4), 1e-3),
]


@pytest.fixture(scope='module')
def teacher():
    return matched_teacher()


def variation(x):
    pairs = [
        (x[:, :, 1:], x[:, :, :-1]),
        (x[:, 1:], x[:, :-1]),
        (x[:, 1:, 1:], x[:, :-1, :-1]),
        (x[:, 1:, :-1], x[:, :-1, 1:]),
    ]
    return sum(np.sqrt(np.sum((a - b) ** 2)) for a, b in pairs)


# The terms.


def test_variation_and_norms():
    assert deep_inversion.variation_loss(tf.constant(IMAGES)).numpy() == pytest.approx(
        variation(IMAGES)
    )
    norms = np.sqrt((IMAGES**2).sum((1, 2, 3)))
    assert deep_inversion.norm_loss(IMAGES, True).numpy() == pytest.approx(norms.mean())
    whole = np.sqrt(np.sum(IMAGES**2))
    assert deep_inversion.norm_loss(IMAGES, False).numpy() == pytest.approx(whole)


def test_constant_images_have_no_variation_and_a_finite_gradient():
    x = tf.zeros((2, 4, 4, 3))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        losses = [
            deep_inversion.variation_loss(x),
            deep_inversion.norm_loss(x, True),
            deep_inversion.norm_loss(x, False),
        ]
    for loss in losses:
        assert loss.numpy() == pytest.approx(0, abs=1e-5)
        assert np.all(tape.gradient(loss, x).numpy() == 0)


def test_moments_are_neither_squared_nor_divided():
    moments = [(rng.normal(size=4), rng.uniform(0.5, 2, 4)) for _ in STORED]
    terms = [
        np.linalg.norm(v - s.variance) + np.linalg.norm(m - s.mean)
        for (m, v), s in zip(moments, STORED, strict=True)
    ]
    found = deep_inversion.moments_loss(moments, STORED, 10.0)
    assert found.numpy() == pytest.approx(10 * terms[0] + terms[1])


@pytest.mark.parametrize('clamped', [False, True])
def test_disagreement(clamped):
    one, other = rng.normal(0, 9, (4, 6)), rng.normal(0, 9, (4, 6))
    p, q = softmax(one / 3), softmax(other / 3)
    m = (p + q) / 2
    if clamped:
        p, q, m = (np.clip(x, 0.01, 0.99) for x in (p, q, m))
        js = 0.5 * np.sum(m * np.log(m / p) + m * np.log(m / q)) / 4
    else:
        js = 0.5 * np.sum(p * np.log(p / m) + q * np.log(q / m)) / 4
        assert 0 < js < np.log(2)
    found = deep_inversion.compete_loss(one, other, clamped)
    assert found.numpy() == pytest.approx(1 - np.clip(js, 0, 1))


def test_disagreement_at_its_ends():
    far = np.float32([[900, 0, -900]])
    assert deep_inversion.compete_loss(far, far).numpy() == pytest.approx(1)
    assert deep_inversion.compete_loss(far, -far).numpy() == pytest.approx(1 - np.log(2))


def test_gradients_are_slopes():
    def moments(x):
        pair = tf.nn.moments(x, [0, 1, 2])
        wide = [tf.concat(2 * [values], 0) for values in pair]
        return deep_inversion.moments_loss([wide, [2 * v for v in wide]], STORED)

    assert_slopes(moments, IMAGES)
    assert_slopes(deep_inversion.variation_loss, IMAGES)
    assert_slopes(lambda x: deep_inversion.norm_loss(x, True), IMAGES)
    fixed = rng.normal(0, 3, (3, 60))
    for clamped in (False, True):
        assert_slopes(
            lambda x, c=clamped: deep_inversion.compete_loss(tf.reshape(x, (3, 60)), fixed, c),
            IMAGES,
        )


# The step.


def test_jitter_moves_all_images_alike():
    setting = dataclasses.replace(SETTINGS['imagenet_2k'], jitter=1)
    found = set()
    for index in range(80):
        moved = deep_inversion.jittered(tf.constant(IMAGES), setting, fold_seed(0, index, 1))
        options = [
            (dy, dx, flip)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            for flip in (1, -1)
            if np.array_equal(np.roll(IMAGES, (dy, dx), (1, 2))[:, :, ::flip], moved)
        ]
        assert len(options) == 1
        found.add(options[0])
    assert len(found) > 14
    assert {flip for *_, flip in found} == {1, -1}
    moved = deep_inversion.jittered(tf.constant(IMAGES), SETTINGS['cifar10'], fold_seed(0, 5, 1))
    assert np.array_equal(np.sort(np.ravel(moved)), np.sort(np.ravel(IMAGES)))


def test_rates():
    def rates(iterations, cosine):
        return [
            deep_inversion.rate_at(i, 0.25, iterations, cosine).numpy() for i in range(iterations)
        ]

    assert set(rates(30, False)) == {np.float32(0.25)}
    found = rates(600, True)
    np.testing.assert_allclose(found[:100], 0.25 * np.arange(1, 101) / 100, rtol=1e-6)
    wanted = 0.125 * (1 + np.cos(np.pi * np.arange(500) / 500))
    np.testing.assert_allclose(found[100:], wanted, rtol=1e-4, atol=1e-7)
    assert np.argmax(rates(20, True)) == 3 and max(rates(1, True)) <= 0.25


@pytest.mark.parametrize('setting', ['cifar10', 'imagenet_2k'])
def test_a_step(teacher, setting):
    """Its losses at the images as they were moved, and a first step of Adam, clipped or not."""
    options = DeepInversionOptions.resolve(
        'small',
        {'images': 10, 'group_size': 10, 'iterations': 2, 'setting': setting, 'learning_rate': 9.0},
        teacher,
    )
    labels = np.int32([list(range(5)) * 2])
    optimization = deep_inversion.build_optimization(teacher, options, 3, labels)
    assert optimization.group._betas == SETTINGS[setting].betas
    losses = optimization.step(tf.constant(0, tf.int64))
    start = standard_normal((10, 8, 8, 3), fold_seed(3, 0, 0))
    x = deep_inversion.jittered(start, SETTINGS[setting], fold_seed(3, 0, 1)).numpy()
    logits, *inputs = build_tap(teacher.logits_model)[0](x)
    right = softmax(logits.numpy())[np.arange(10), labels[0]]
    assert losses['class_loss'].numpy() == pytest.approx(-np.mean(np.log(right)), rel=1e-4)
    assert losses['variation_loss'].numpy() == pytest.approx(variation(x), rel=1e-5)
    wanted = 0
    for weight, values, s in zip(
        (1 if setting == 'cifar10' else 10, 1), inputs, build_tap(teacher.logits_model)[1],
        strict=True,
    ):  # fmt: skip
        values = values.numpy().reshape(-1, values.shape[-1])
        wanted += weight * np.linalg.norm(values.mean(0) - s.mean)
        wanted += weight * np.linalg.norm(values.var(0) - s.variance)
    assert losses['moments_loss'].numpy() == pytest.approx(wanted, rel=1e-4)
    moved = np.abs(optimization.group.images.numpy() - start)
    if setting == 'cifar10':
        np.testing.assert_allclose(np.median(moved), 9, rtol=1e-3)
    else:
        low, high = teacher.input_spec.input_range
        assert optimization.group.images.numpy().min() == pytest.approx(low[0])
        assert optimization.group.images.numpy().max() == pytest.approx(high[0])


@pytest.mark.parametrize('setting', ['cifar10', 'imagenet_2k'])
def test_steps_have_the_rates_of_their_setting(teacher, setting, monkeypatch):
    rates = []
    monkeypatch.setattr(
        inversion.Group, 'descend', lambda self, gradient, iteration, rate: rates.append(rate)
    )
    options = {'images': 10, 'group_size': 10, 'iterations': 4, 'setting': setting}
    options = DeepInversionOptions.resolve('small', options, teacher)
    step = deep_inversion.build_optimization(teacher, options, 3).step
    for index in range(4):
        step(tf.constant(index, tf.int64))
    assert (len(set(map(float, rates))) == 1) == (setting == 'cifar10')
    assert max(map(float, rates)) <= options.learning_rate * 1.0001


class FixedStudent:
    """Answers that no teacher gives."""

    def logits(self, pixels):
        return 3 * tf.reduce_mean(pixels, axis=[1, 2, 3])[:, None] * tf.range(5.0)


@pytest.mark.parametrize('setting', ['cifar10', 'imagenet_2k'])
@pytest.mark.parametrize('term', ['class', 'moments', 'variation', 'norm', 'compete'])
def test_a_step_descends_the_weighted_sum(teacher, setting, term):
    """The first step of Adam goes against the sign of the gradient; each term is large in turn."""
    weights = {'moments': 1.0, 'variation': 0.1, 'norm': 0.1, 'compete': 1.0}
    if term == 'class':
        weights = {name: 0.01 * weight for name, weight in weights.items()}
    else:
        weights[term] *= 100
    options = DeepInversionOptions.resolve(
        'small',
        {
            'images': 10, 'group_size': 5, 'iterations': 1, 'setting': setting,
            'learning_rate': 1e-3, **{f'{name}_weight': w for name, w in weights.items()},
        },
        teacher,
    )  # fmt: skip
    tap, stored = build_tap(teacher.logits_model)
    labels, chosen = np.int32([list(range(5))] * 2), SETTINGS[setting]
    group = deep_inversion.build_optimization(teacher, options, 3, labels).group
    step = deep_inversion.make_step(group, tap, stored, teacher, options, labels, 3, FixedStudent())
    start = standard_normal((5, 8, 8, 3), fold_seed(3, 0, 0))
    with tf.GradientTape() as tape:
        tape.watch(start)
        x = deep_inversion.jittered(start, chosen, fold_seed(3, 0, 1))
        logits, *inputs = tap(x)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels[0], logits)
        moments = [tf.nn.moments(values, [0, 1, 2]) for values in inputs]
        sizes = tf.sqrt(tf.reduce_sum(x**2, [1, 2, 3]))
        terms = {
            'moments': deep_inversion.moments_loss(moments, stored, 10.0 if chosen.clip else 1.0),
            'variation': deep_inversion.variation_loss(x),
            'norm': tf.reduce_mean(sizes) if chosen.clip else tf.norm(x),
            'compete': deep_inversion.compete_loss(
                logits, FixedStudent().logits(teacher.input_spec.to_pixels(x))
            ),
        }
        loss = tf.reduce_mean(cross_entropy)
        loss += tf.add_n([weights[name] * value for name, value in terms.items()])
    gradient = tape.gradient(loss, start).numpy()
    step(tf.constant(0, tf.int64))
    low, high = teacher.input_spec.input_range
    legal = (start > low + 0.01) & (start < high - 0.01)
    clear = legal & (np.abs(gradient) > 1e-2 * np.abs(gradient).max())
    moved = (group.images - start).numpy()[clear]
    assert np.mean(np.sign(moved) == -np.sign(gradient[clear])) > 0.999


def test_a_group_has_its_own_labels_and_a_step_its_own_shift(teacher):
    options = {'images': 10, 'group_size': 5, 'iterations': 2, 'setting': 'imagenet_2k'}
    options = DeepInversionOptions.resolve('small', options, teacher)
    labels = np.int32([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
    step = deep_inversion.build_optimization(teacher, options, 3, labels).step
    losses = step(tf.constant(2, tf.int64))  # the first one of the second group
    start = standard_normal((5, 8, 8, 3), fold_seed(3, 1, 0))
    x = deep_inversion.jittered(start, SETTINGS['imagenet_2k'], fold_seed(3, 2, 1)).numpy()
    logits = build_tap(teacher.logits_model)[0](x)[0].numpy()
    right = softmax(logits)[np.arange(5), labels[1]]
    assert losses['class_loss'].numpy() == pytest.approx(-np.mean(np.log(right)), rel=1e-4)
    assert losses['variation_loss'].numpy() == pytest.approx(variation(x), rel=1e-5)


def test_images_are_of_their_classes(teacher, tmp_path):
    source = deep_inversion.make_deep_inversion_images(
        teacher, tmp_path, images=10, iterations=200, batch_size=10
    )
    assert source.has_labels and source.num_classes == 5
    pixels, labels = next(source.batches())
    assert np.bincount(labels).tolist() == [2] * 5
    right = np.argmax(teacher.logits(pixels), axis=1) == labels.numpy()
    assert right.mean() >= 0.9
    lines = read_metrics(tmp_path)
    assert lines[-1]['class_accuracy'] > 0.9
    assert lines[-1]['moments_loss'] < lines[0]['moments_loss'] / 2


def test_the_loss_of_a_matched_teacher_falls(teacher, tmp_path):
    """More than tenfold in squares, as ZeroQ counts; DeepInversion's distances are not squared."""
    deep_inversion.make_deep_inversion_images(teacher, tmp_path, images=10, iterations=100)
    lines = read_metrics(tmp_path)
    assert lines[-1]['step'] == 100
    assert lines[-1]['moments_loss'] < lines[0]['moments_loss'] / 5


def test_one_output_is_two_classes(tmp_path):
    teacher = load_teacher(one_class(), input_spec={'preprocessing': 'unit'})
    source = deep_inversion.make_deep_inversion_images(
        teacher, tmp_path, images=6, iterations=2, batch_size=6
    )
    _, labels = next(source.batches())
    assert np.bincount(labels).tolist() == [3, 3]


def test_an_adaptive_variant_that_no_student_can_be_made_for(teacher, tmp_path):
    for student, words in (
        ({'update_generator': True}, 'no generator to update'),
        ({'weight_bits': 9}, 'weight_bits=9 must be'),
    ):
        with pytest.raises(UserError, match=words):
            deep_inversion.make_deep_inversion_images(
                teacher, tmp_path / 'run', compete_weight=1.0, student_options=student
            )
    assert not (tmp_path / 'run').exists()


ADAPTIVE = {
    'images': 10, 'group_size': 5, 'iterations': 3, 'compete_weight': 2.0, 'batch_size': 5,
    'student_options': {
        'steps': 4, 'weight_bits': 4, 'range_estimator': 'minmax', 'feature_loss_weight': 0,
        'error_compensation': False, 'bias_correction': False,
    },
}  # fmt: skip


@pytest.mark.slow
def test_the_adaptive_variant(teacher, tmp_path):
    """The second half competes with a student of the first half; the same call reuses all."""
    options = dict(ADAPTIVE)
    source = deep_inversion.make_deep_inversion_images(teacher, tmp_path, **options)
    lines = read_metrics(tmp_path)
    assert {line['step'] > 3 for line in lines if 'compete_loss' in line} == {True}
    assert {line['step'] <= 3 for line in lines if 'compete_loss' not in line} == {True}
    student = json.loads((tmp_path / 'first_student' / 'config.json').read_text())
    assert student['distillation_steps'] == 2 and student['range_images'] == 5
    assert source.description['student_weight_bits'] == 4
    assert not (tmp_path / 'first_half.npz').exists()
    before = (tmp_path / 'images.npz').read_bytes()
    deep_inversion.make_deep_inversion_images(teacher, tmp_path, **options)
    assert (tmp_path / 'images.npz').read_bytes() == before
    with pytest.raises(UserError, match='student_batch_size 5, not 4'):
        deep_inversion.make_deep_inversion_images(teacher, tmp_path, **options | {'batch_size': 4})
    options['student_options'] = {**options['student_options'], 'weight_bits': 8}
    with pytest.raises(UserError, match='student_weight_bits 4, not 8'):
        deep_inversion.make_deep_inversion_images(teacher, tmp_path, **options)


@pytest.mark.slow
@pytest.mark.parametrize('step', [2, 5])  # of the first student, and of the second group
def test_the_adaptive_variant_resumes_to_the_bit(teacher, tmp_path, monkeypatch, step):
    write = loop._write_metrics

    def write_or_die(path, done, metrics):
        if done == step and ('agreement' in metrics or step > 3):
            raise KeyboardInterrupt
        write(path, done, metrics)

    finished, stopped = tmp_path / 'finished', tmp_path / 'stopped'
    options = {**ADAPTIVE, 'checkpoint_every': 1}
    deep_inversion.make_deep_inversion_images(teacher, finished, **options)
    monkeypatch.setattr(loop, '_write_metrics', write_or_die)
    with pytest.raises(KeyboardInterrupt):
        deep_inversion.make_deep_inversion_images(teacher, stopped, **options)
    monkeypatch.undo()
    assert (stopped / 'first_student').exists() and not (stopped / 'images.npz').exists()
    deep_inversion.make_deep_inversion_images(teacher, stopped, **options)
    assert (stopped / 'images.npz').read_bytes() == (finished / 'images.npz').read_bytes()
    for folder in ('.', 'first_student'):
        assert_same_weights(weights(stopped / folder), weights(finished / folder))
