"""The one loop: its steps, its log, losses that are not finite, replicas."""

import logging
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.numbers import read_metrics
from zscgan_tf.errors import UserError
from zscgan_tf.training import loop
from zscgan_tf.training.strategy import fold_seed

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Walk:
    """A training without a model: Adam on a noisy quadratic, its noise from the step's number."""

    def __init__(self, size=3, spoil_at=None):
        self.weights = tf.Variable(np.linspace(1, 2, size), dtype=tf.float32)
        self.optimizer = tf_keras.optimizers.Adam(0.05, beta_1=0.5)
        self.optimizer.build([self.weights])
        self.spoil_at = spoil_at
        self.module = tf.Module()
        self.module.weights = self.weights
        self.state = {'walk': self.module, 'optimizer': self.optimizer}

    def step(self, index):
        seed = fold_seed(0, index, 0)
        noise = tf.random.stateless_uniform(self.weights.shape, seed, -9, 9, tf.int32, alg='philox')
        noise = tf.cast(noise, tf.float32)
        share = 1 / tf.distribute.get_replica_context().num_replicas_in_sync
        with tf.GradientTape() as tape:
            loss = share * tf.reduce_sum(tf.square(self.weights - noise))
        self.optimizer.apply_gradients([(tape.gradient(loss, self.weights), self.weights)])
        if self.spoil_at is not None:
            loss = tf.where(index + 1 == self.spoil_at, np.nan, loss)
        return {'loss': loss, 'index': share * tf.cast(index, tf.float32)}

    def run(self, workdir, steps=20, **options):
        options = {'checkpoint_every': 5, 'images_per_step': 4, **options}
        return loop.run(self.step, self.state, steps, workdir=workdir, **options)


def saved_steps(workdir):
    return sorted(int(p.stem[5:]) for p in (workdir / 'checkpoints').glob('ckpt-*.index'))


def check_log(workdir, steps=20):
    """Every step stands once in the log, in order."""
    lines = read_metrics(workdir)
    done = [0] + [line['step'] for line in lines]
    assert done == sorted(set(done)) and done[-1] == steps
    for before, line in zip(done[:-1], lines, strict=True):
        # `index` is the mean of the numbers of the steps that the line tells of.
        assert line['index'] == pytest.approx((before + line['step'] - 1) / 2)


# Runs that end.


def test_steps_are_those_of_a_plain_loop(uninterrupted, tmp_path):
    walk = Walk()
    for index in range(20):
        walk.step(tf.constant(index, tf.int64))
    np.testing.assert_array_equal(walk.weights, uninterrupted)


def test_log_and_checkpoints(tmp_path):
    Walk().run(tmp_path, 23)
    lines = read_metrics(tmp_path)
    check_log(tmp_path, 23)
    assert saved_steps(tmp_path) == [20, 23]  # the last two, the end among them
    assert {'loss', 'index'} < set(lines[-1])
    assert all(line['images_per_second'] > 0 for line in lines)
    seconds = [line['seconds'] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert loop.last_metrics(tmp_path) == lines[-1]
    with open(tmp_path / 'metrics.jsonl', 'a', encoding='utf-8') as file:
        file.write('{"step": 2')  # cut off by a kill
    assert loop.last_metrics(tmp_path) == lines[-1]


def test_how_steps_are_cut_into_calls_changes_nothing(uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, 'MAX_STEPS_PER_CALL', 1)
    walk = Walk()
    walk.run(tmp_path)
    assert len(read_metrics(tmp_path)) == 20
    np.testing.assert_array_equal(walk.weights, uninterrupted)


def test_a_finished_run_does_nothing(tmp_path):
    Walk().run(tmp_path)
    before = (tmp_path / 'metrics.jsonl').read_text()
    Walk().run(tmp_path)
    assert (tmp_path / 'metrics.jsonl').read_text() == before
    assert loop.restore({'walk': Walk().module}, tmp_path) == 20


def test_tensorboard_has_scalars_and_grids(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def write_images(done):
        return {'classes': np.full((2, 4, 4, 3), done / 20, np.float32)}

    Walk().run(tmp_path, write_images=write_images, images_every=10)
    events = EventAccumulator(str(tmp_path / 'tensorboard'), {'tensors': 0}).Reload()
    names = set(events.Tags()['tensors'])
    assert {'loss', 'images_per_second', 'classes'} <= names
    assert [event.step for event in events.Tensors('classes')] == [10, 20]
    lines = read_metrics(tmp_path)
    assert [event.step for event in events.Tensors('loss')] == [line['step'] for line in lines]
    values = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors('loss')]
    np.testing.assert_allclose(values, [line['loss'] for line in lines], rtol=1e-6)


def test_the_time_is_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO, 'zscgan_tf'):
        Walk().run(tmp_path, 50)
    told = [r.getMessage() for r in caplog.records if 'images/s: about' in r.getMessage()]
    assert len(told) == 1 and 'of 50 steps left' in told[0] and 'seconds' in told[0]
    first, *_, last = (record.getMessage() for record in caplog.records)
    assert first == 'training: compiling the training step'  # at once, also without a terminal
    assert last.startswith('training: 50 steps in ') and ', loss ' in last


# Losses that are not finite.


@pytest.mark.parametrize('step', [1, 7, 20])
def test_stops_where_a_loss_is_not_finite(tmp_path, step):
    with pytest.raises(UserError, match=f'stopped: loss is nan at step {step}[.;]') as raised:
        Walk(spoil_at=step).run(tmp_path)
    assert ('the last checkpoint is whole' in str(raised.value)) == bool(saved_steps(tmp_path))
    assert all(saved < step for saved in saved_steps(tmp_path))
    assert all(line['step'] < step for line in read_metrics(tmp_path)) if step > 1 else True


def test_never_saves_weights_that_are_not_finite(tmp_path):
    """A last update may spoil them behind losses that are finite."""
    walk = Walk()

    def step(index):
        metrics = walk.step(index)
        walk.weights.assign(tf.where(index + 1 == 10, np.inf, walk.weights))
        return {'index': metrics['index']}

    with pytest.raises(UserError, match='walk is not finite after step 10; the last checkpoint'):
        loop.run(step, walk.state, 20, workdir=tmp_path, images_per_step=1, checkpoint_every=5)
    assert saved_steps(tmp_path) == [5]


# Strategies, XLA.


def test_two_replicas_walk_as_one_device(two_devices, uninterrupted, tmp_path):
    with two_devices.scope():
        walk = Walk()
    walk.run(tmp_path, strategy=two_devices)
    check_log(tmp_path)
    for weights in walk.weights.values:
        np.testing.assert_allclose(weights.numpy(), uninterrupted, rtol=1e-6)


def test_xla_traces_the_step_once(uninterrupted, tmp_path):
    walk, traced = Walk(), []

    def step(index):
        traced.append(index)
        return walk.step(index)

    loop.run(step, walk.state, 20, workdir=tmp_path, images_per_step=1, jit_compile=True)
    assert len(traced) == 1
    np.testing.assert_allclose(walk.weights, uninterrupted, rtol=1e-4)


def test_measuring_runs_steps_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk = Walk()
    before = walk.weights.numpy()
    first, each = loop.measure(walk.step, 1000, tf.distribute.get_strategy(), seconds=0.1)
    assert each > 0 and first > each  # the first one is traced
    assert np.any(walk.weights.numpy() != before) and not list(tmp_path.iterdir())


def test_the_clock_asks_for_calls_of_a_second():
    """A slow step is a call of its own, so that Ctrl-C need not wait."""
    clock = loop._Clock(1000, 8, 'walk', 0)
    assert clock.tick(1, 1, 9.0) is None and clock.seconds_left(1) is None  # it compiled
    clock.tick(1, 2, loop.SECONDS_PER_CALL / 10)
    assert clock.steps_per_call == 10
    assert clock.seconds_left(500) == pytest.approx(500 * loop.SECONDS_PER_CALL / 10)
    assert clock.rates()['images_per_second'] == pytest.approx(80 / loop.SECONDS_PER_CALL)
    for done in range(3, 60):
        clock.tick(1, done, 100.0)
    assert clock.steps_per_call == 1
    for done in range(60, 400):
        clock.tick(1, done, 0.0)
    assert clock.steps_per_call == loop.MAX_STEPS_PER_CALL
