"""ZeroQ: its loss against NumPy, its rate against a loop, its start, and what it reaches."""

import numpy as np
import pytest
import tensorflow as tf

from tests.methods.matched import assert_slopes, matched_teacher
from tests.numbers import read_metrics
from zscgan_tf.errors import UserError
from zscgan_tf.methods import zeroq
from zscgan_tf.methods.inversion_options import ZeroqOptions
from zscgan_tf.teacher.tap import StoredMoments, build_tap
from zscgan_tf.training.strategy import fold_seed


@pytest.fixture(scope='module')
def teacher():
    return matched_teacher()


def reference(x, mean, deviation, statistics):
    """The published formula, image by image; torch.var divides by N - 1."""
    x = np.reshape(x, (len(x), -1, x.shape[-1])).astype(np.float64)
    groups = list(x) if statistics == 'image' else [x.reshape(-1, x.shape[-1])]
    total = 0
    for rows in groups:
        s = np.sqrt(np.sum((rows - rows.mean(0)) ** 2, 0) / max(len(rows) - 1, 1) + 1e-6)
        total += np.sum((rows.mean(0) - mean) ** 2) + np.sum((s - deviation) ** 2)
    return total / len(groups)


@pytest.mark.parametrize('statistics', ['image', 'batch'])
def test_the_loss_is_the_published_one_with_its_input_term(teacher, statistics):
    tap, stored = build_tap(teacher.logits_model)
    options = ZeroqOptions.resolve(
        'small', {'images': 6, 'iterations': 1, 'statistics': statistics}, teacher
    )
    optimization = zeroq.build_optimization(teacher, options, 3)
    losses = optimization.step(tf.constant(0, tf.int64))
    images = zeroq.start_images((6, 8, 8, 3), fold_seed(3, 0, 0)).numpy()
    _, *inputs = tap(images)
    wanted = sum(
        reference(x.numpy(), s.mean, np.sqrt(s.variance + 1e-6), statistics)
        for x, s in zip(inputs, stored, strict=True)
    )
    assert losses['moments_loss'].numpy() == pytest.approx(wanted, rel=1e-4)
    wanted = reference(images, 0, 1, statistics)
    assert losses['input_loss'].numpy() == pytest.approx(wanted, rel=1e-4)


def test_a_step_descends_the_sum_of_both_terms(teacher):
    """The first step of Adam moves each value by the rate, against the sign of its gradient."""
    options = ZeroqOptions.resolve('small', {'images': 6, 'iterations': 2}, teacher)
    optimization = zeroq.build_optimization(teacher, options, 3)
    tap, stored = build_tap(teacher.logits_model)
    start = tf.constant(zeroq.start_images((6, 8, 8, 3), fold_seed(3, 0, 0)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(start)
        moments = zeroq.moments_loss(tap(start)[1:], stored, 'batch')
        loss = moments + zeroq.distance(start, 0.0, 1.0, 'batch')
    total, part = tape.gradient(loss, start).numpy(), tape.gradient(moments, start).numpy()
    optimization.step(tf.constant(0, tf.int64))
    moved = optimization.group.images.numpy() - start.numpy()
    clear = np.abs(total) > 1e-3 * np.abs(total).max()
    np.testing.assert_allclose(moved[clear], -0.5 * np.sign(total[clear]), rtol=1e-2)
    assert np.mean(np.sign(part[clear]) != np.sign(total[clear])) > 0.01


def test_the_rate_of_a_group_falls_and_begins_anew(teacher, monkeypatch):
    monkeypatch.setattr(zeroq, 'PATIENCE', 1)
    monkeypatch.setattr(zeroq, 'THRESHOLD', 1.0)  # no loss is ever lower enough
    options = ZeroqOptions.resolve(
        'small', {'images': 8, 'group_size': 4, 'iterations': 5}, teacher
    )
    step = zeroq.build_optimization(teacher, options, 3).step
    rates = [step(tf.constant(i, tf.int64))['rate'].numpy() for i in range(10)]
    np.testing.assert_allclose(rates, 2 * [0.5, 0.5, 0.05, 0.05, 0.005], rtol=1e-5)


@pytest.mark.parametrize('statistics', ['image', 'batch'])
def test_gradients_are_slopes(statistics):
    rng = np.random.default_rng(0)
    stored = [
        StoredMoments('a', rng.normal(size=4), rng.uniform(0.5, 2, 4), 1e-3),
        StoredMoments('b', rng.normal(size=4), rng.uniform(0.5, 2, 4), 1e-3),
    ]

    def loss(x):
        return zeroq.moments_loss([x, tf.nn.relu(x[:, ::2]) * 2], stored, statistics)

    assert_slopes(loss, rng.normal(size=(3, 4, 5, 4)))


def test_a_map_of_one_position_has_a_finite_gradient():
    x = tf.constant(np.ones((3, 1, 1, 2), np.float32))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = zeroq.distance(x, 0.5, 1.0)
    assert loss.numpy() == pytest.approx(2 * (0.25 + (1 - 1e-3) ** 2))
    assert np.all(np.isfinite(tape.gradient(loss, x)))


def test_the_rate_falls_as_published():
    """Against the rule written anew; among the losses are tiny improvements, which do not count."""
    rng = np.random.default_rng(0)
    losses = np.float32(
        [*np.linspace(9, 5, 50), *rng.uniform(5, 6, 260), *5 * (1 - 1e-6 * np.arange(120)), 4]
    )
    rate, best, bad, wanted = 0.5, np.inf, 0, []
    for loss in losses:
        if loss < best * (1 - 1e-4):
            best, bad = loss, 0
        else:
            bad += 1
        if bad > 100:
            rate, bad = max(rate * 0.1, 1e-4), 0
        wanted.append(rate)
    plateau, found = zeroq.Plateau(0.5), []
    for loss in losses:
        plateau.observe(tf.constant(loss))
        found.append(plateau.rate.numpy())
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert len(set(wanted)) == 4 and plateau.rate.numpy() == pytest.approx(5e-4)
    for _ in range(300):
        plateau.observe(tf.constant(9.0))
    assert plateau.rate.numpy() == pytest.approx(1e-4)
    assert all(np.all(np.isfinite(v)) for v in plateau.variables)
    plateau.restart()
    assert plateau.rate.numpy() == 0.5
    for loss in np.linspace(20, 10, 150, dtype=np.float32):  # above the best of the group before
        plateau.observe(tf.constant(loss))
    assert plateau.rate.numpy() == 0.5


def test_start_images():
    images = zeroq.start_images((200, 8, 8, 3), tf.constant([1, 2])).numpy()
    numbers = images * 5418.75 + 127.5
    assert np.allclose(numbers, np.round(numbers), atol=1e-3)
    assert round(numbers.min()) == 0 and round(numbers.max()) == 254
    assert images.std() == pytest.approx(0.0136, rel=0.01)


def test_the_loss_of_a_matched_teacher_falls(teacher, tmp_path):
    source = zeroq.make_zeroq_images(teacher, tmp_path, images=8, iterations=100)
    lines = read_metrics(tmp_path)
    assert lines[-1]['step'] == 100
    first, last = (line['moments_loss'] + line['input_loss'] for line in (lines[0], lines[-1]))
    assert last < first / 10
    assert not source.has_labels and source.num_classes is None


def test_a_loss_that_is_not_finite(teacher, tmp_path):
    with pytest.raises(UserError, match=r'zeroq stopped: \w+_loss is (nan|inf) at step'):
        zeroq.make_zeroq_images(
            teacher, tmp_path, images=4, iterations=20, learning_rate=1e30, checkpoint_every=1
        )
    assert not (tmp_path / 'images.npz').exists() and not list((tmp_path / 'groups').iterdir())
