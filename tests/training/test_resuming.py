"""Interrupted runs, damaged checkpoints and full disks: the same call resumes to the bit."""

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import gen_summary_ops

from tests.numbers import read_metrics
from tests.training.test_loop import ROOT, Walk, check_log, saved_steps
from zscgan_tf.errors import UserError
from zscgan_tf.training import loop
from zscgan_tf.training.workdir import NamedFolder

# Runs that are interrupted.


def interrupt_at(step, number=signal.SIGINT):
    def write_images(done):
        if done == step:
            os.kill(os.getpid(), number)
        return {}

    return {'write_images': write_images, 'images_every': 1}


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('step', [1, 13])
def test_a_signal_saves_and_the_same_call_resumes(uninterrupted, tmp_path, capfd, number, step):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match=f'after step {step} of 20; the same .* resumes'):
        Walk().run(tmp_path, **interrupt_at(step, number))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert saved_steps(tmp_path)[-1] == step
    assert 'press Ctrl-C once more to stop' in capfd.readouterr().err
    walk = Walk()
    walk.run(tmp_path)
    np.testing.assert_array_equal(walk.weights, uninterrupted)
    check_log(tmp_path)


def test_a_signal_saves_where_nobody_reads_messages_any_more(tmp_path, monkeypatch):
    """Ctrl-C ends `| tee log` too."""
    read, write = os.pipe()
    os.close(read)
    closed = open(write, 'w', buffering=1, encoding='utf-8')
    monkeypatch.setattr('sys.stderr', closed)
    with pytest.raises(KeyboardInterrupt, match='after step 7 of 20'):
        Walk().run(tmp_path, **interrupt_at(7))
    with contextlib.suppress(BrokenPipeError):
        closed.close()
    assert saved_steps(tmp_path)[-1] == 7


def test_a_signal_in_the_last_step_is_not_lost(uninterrupted, tmp_path):
    """The program stops, as it was told to, and the training counts as done."""
    with pytest.raises(KeyboardInterrupt, match='after step 20 of 20'):
        Walk().run(tmp_path, **interrupt_at(20))
    walk = Walk()
    walk.run(tmp_path)
    np.testing.assert_array_equal(walk.weights, uninterrupted)


def test_a_second_signal_stops_at_once(tmp_path):
    def write_images(done):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        raise AssertionError('still running')

    with pytest.raises(KeyboardInterrupt):
        Walk().run(tmp_path, write_images=write_images, images_every=1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_runs_in_other_threads_too(uninterrupted, tmp_path):
    walk = Walk()
    thread = threading.Thread(target=walk.run, args=(tmp_path,))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(walk.weights, uninterrupted)


def test_seconds_of_an_interrupted_run_count(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Walk().run(tmp_path, **interrupt_at(13))
    before = loop.last_metrics(tmp_path)['seconds']
    Walk().run(tmp_path)
    assert read_metrics(tmp_path)[-1]['seconds'] > before


SLOW_WALK = """
import pathlib, sys, time
from tests.training.test_loop import Walk

walk = Walk()
wait = lambda done: time.sleep(0.05 if done < 12 else 1) or {}
walk.run(pathlib.Path(sys.argv[1]), write_images=wait, images_every=1)
"""


def test_a_killed_process_resumes_to_the_bit(uninterrupted, tmp_path):
    """SIGKILL after the second checkpoint; then with a log line that was cut off."""
    process = subprocess.Popen([sys.executable, '-c', SLOW_WALK, tmp_path], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (tmp_path / 'checkpoints' / 'ckpt-10.index').exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)  # it goes on logging behind the checkpoint
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert saved_steps(tmp_path)[-1] < 20
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 1')
    walk = Walk()
    walk.run(tmp_path)
    np.testing.assert_array_equal(walk.weights, uninterrupted)
    check_log(tmp_path)


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', SLOW_WALK, tmp_path], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (tmp_path / 'checkpoints' / 'ckpt-5.index').exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    folder = NamedFolder(tmp_path, '--workdir=run', 'another --workdir')
    with pytest.raises(UserError, match='--workdir=run: another process .* or pass another --work'):
        Walk().run(folder)
    process.kill()
    process.wait()
    Walk().run(folder)
    check_log(tmp_path)


# Checkpoints that are damaged, or cannot be written.


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def garble(path):
    data = bytearray(path.read_bytes())
    for i in range(0, len(data), 7):
        data[i] ^= 0xFF
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b'')


@pytest.mark.parametrize('damage', [truncate, garble, empty, os.remove])
@pytest.mark.parametrize('part', ['data-00000-of-00001', 'index'])
def test_a_damaged_checkpoint_falls_back(uninterrupted, tmp_path, caplog, damage, part):
    with pytest.raises(KeyboardInterrupt):
        Walk().run(tmp_path, **interrupt_at(13))
    assert saved_steps(tmp_path) == [10, 13]
    damage(tmp_path / 'checkpoints' / f'ckpt-13.{part}')
    walk = Walk()
    with caplog.at_level(logging.INFO, 'zscgan_tf'):
        walk.run(tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    assert any('ckpt-13 is damaged' in m and 'the one before' in m for m in messages)
    assert any('resuming after step 10' in m for m in messages)
    np.testing.assert_array_equal(walk.weights, uninterrupted)
    check_log(tmp_path)


@pytest.mark.parametrize('part', ['data-00000-of-00001', 'index'])
def test_nothing_but_damaged_checkpoints(tmp_path, part):
    with pytest.raises(KeyboardInterrupt):
        Walk().run(tmp_path, **interrupt_at(13))
    for step in (10, 13):
        garble(tmp_path / 'checkpoints' / f'ckpt-{step}.{part}')
    for again in (lambda: Walk().run(tmp_path), lambda: loop.restore({}, tmp_path)):
        with pytest.raises(UserError, match='none of its checkpoints can be read; remove'):
            again()


@pytest.mark.parametrize('damage', [truncate, garble, empty, os.remove])
def test_a_damaged_list_of_checkpoints_loses_nothing(uninterrupted, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        Walk().run(tmp_path, **interrupt_at(13))
    damage(tmp_path / 'checkpoints' / 'checkpoint')
    walk = Walk()
    walk.run(tmp_path)
    assert min(line['step'] for line in read_metrics(tmp_path)) == 1
    np.testing.assert_array_equal(walk.weights, uninterrupted)
    check_log(tmp_path)
    assert saved_steps(tmp_path)[-2:] == [15, 20]


def test_a_workdir_may_be_moved(uninterrupted, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Walk().run(tmp_path / 'old', **interrupt_at(13))
    os.rename(tmp_path / 'old', tmp_path / 'new')
    walk = Walk()
    walk.run(tmp_path / 'new')
    np.testing.assert_array_equal(walk.weights, uninterrupted)
    check_log(tmp_path / 'new')


def test_checkpoints_of_another_training_are_refused(tmp_path):
    Walk(size=3).run(tmp_path)
    with pytest.raises(UserError, match='its checkpoints hold other variables'):
        Walk(size=4).run(tmp_path, 40)


def test_restoring_needs_the_variables(tmp_path):
    """A part of what was saved will do; what was not saved will not."""
    Walk().run(tmp_path)
    walk = Walk()
    walk.weights.assign(np.zeros(3))
    assert loop.restore({'walk': walk.module}, tmp_path) == 20
    assert np.all(walk.weights.numpy() != 0)
    with pytest.raises(UserError, match='its checkpoints hold other variables'):
        loop.restore({'other': tf.Variable([1.0])}, tmp_path)
    assert loop.restore({'walk': walk.module}, tmp_path / 'nothing') == 0


@contextlib.contextmanager
def files_of_at_most(size):
    """A stand-in for a full disk: writing past `size` bytes fails."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_while_saving(tmp_path):
    """The checkpoint before stays whole, and the same call goes on when there is room."""
    with pytest.raises(KeyboardInterrupt):
        Walk(size=5000).run(tmp_path, **interrupt_at(6))
    with files_of_at_most(30_000), pytest.raises(UserError, match='could not be written .*space'):
        Walk(size=5000).run(tmp_path)
    assert 6 in saved_steps(tmp_path)
    walk, other = Walk(size=5000), Walk(size=5000)
    walk.run(tmp_path)
    other.run(tmp_path / 'other')
    np.testing.assert_array_equal(walk.weights, other.weights)
    check_log(tmp_path)


def test_a_full_disk_while_logging(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Walk().run(tmp_path, **interrupt_at(6))
    size = (tmp_path / 'metrics.jsonl').stat().st_size
    with files_of_at_most(size + 40), pytest.raises(UserError, match='metrics.jsonl.*space'):
        Walk().run(tmp_path)
    Walk().run(tmp_path)
    check_log(tmp_path)


def test_a_writer_of_events_that_cannot_flush_does_not_hide_the_error(tmp_path, monkeypatch):
    """As the disk is full, TensorFlow's own flush at the end fails too."""
    write = loop._write_metrics

    def full_at_13(path, done, metrics):
        if done >= 13:
            tf.summary.text('waits', 'x' * 50_000, step=done)
            with files_of_at_most(100):
                write(path, done, metrics)
        write(path, done, metrics)

    def fail_to_flush(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(loop, '_write_metrics', full_at_13)
        patch.setattr(gen_summary_ops, 'flush_summary_writer', fail_to_flush)
        patch.setattr(loop.Checkpoints, 'save', lambda *args: None)
        with pytest.raises(UserError, match='metrics.jsonl: could not be written'):
            Walk().run(tmp_path, checkpoint_every=1000)


def test_a_full_disk_while_logging_for_tensorboard(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise tf.errors.UnknownError(None, None, 'events.out; No space left on device\nmore')

    with monkeypatch.context() as patch:
        patch.setattr(tf.summary, 'scalar', full)
        with pytest.raises(UserError, match=r'tensorboard: could not .*left on device\). Free'):
            Walk().run(tmp_path)
    Walk().run(tmp_path)
    check_log(tmp_path)
