"""bin/train_generator.py: killed, interrupted and damaged runs end with the same weights."""

import json
import os
import shutil
import signal

import pytest

from tests.commands.conftest import TRAINING
from tests.commands.programs import (
    assert_same_weights,
    full_disk_from,
    interrupt_in,
    kill_in,
    weights,
)

METRICS = ('zscgan_tf.training.loop', '_write_metrics')


def train(programs, workdir, *flags, **options):
    return programs.run(
        'train_generator',
        '--teacher=tiny.h5',
        f'--workdir={workdir}',
        '--seed=2',
        *TRAINING,
        *flags,
        **options,
    )


def assert_same_end(workdir, finished):
    assert_same_weights(weights(workdir), weights(finished.workdir))
    steps = [json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').open()]
    assert steps == sorted(set(steps)) and steps[-1] == 8
    assert (workdir / 'classes.png').read_bytes() == (finished.workdir / 'classes.png').read_bytes()


def test_killed(finished, programs):
    """SIGKILL between two checkpoints."""
    workdir = programs.folder / 'killed'
    result = train(programs, workdir, during=kill_in('zscgan_tf.training.loop', '_check_finite', 4))
    assert result.status == -signal.SIGKILL
    result = train(programs, workdir)
    assert result.status == 0, result.stderr
    assert 'generator: resuming after step 3' in result.stderr
    assert_same_end(workdir, finished)


@pytest.mark.slow
def test_interrupted(finished, programs):
    workdir = programs.folder / 'interrupted'
    result = train(programs, workdir, during=interrupt_in(*METRICS, call=2))
    assert result.status == 130 and 'Traceback' not in result.stderr
    assert 'was interrupted after step 2 of 8; the same command resumes it' in result.stderr
    result = train(programs, workdir)
    assert result.status == 0, result.stderr
    assert 'generator: resuming after step 2' in result.stderr
    assert ': trained (class_loss ' in result.stdout
    assert_same_end(workdir, finished)


@pytest.fixture
def damaged(finished, programs):
    """A copy of the finished run whose newest checkpoint is cut off."""
    workdir = programs.folder / 'damaged'
    shutil.copytree(finished.workdir, workdir)
    newest = workdir / 'checkpoints' / 'ckpt-8.data-00000-of-00001'
    os.truncate(newest, newest.stat().st_size // 2)
    yield workdir
    shutil.rmtree(workdir)


def test_damaged_newest_checkpoint(finished, programs, damaged):
    result = train(programs, damaged)
    assert result.status == 0, result.stderr
    assert 'ckpt-8 is damaged' in result.stderr and 'the one before' in result.stderr
    assert_same_end(damaged, finished)


def test_damaged_checkpoints(programs, damaged):
    for path in (damaged / 'checkpoints').glob('*.data*'):
        path.write_bytes(b'')
    assert (
        'none of its checkpoints can be read; remove the folder' in train(programs, damaged).error
    )


def test_images_of_a_damaged_run(programs, damaged):
    result = programs.run(
        'synthesize', '--teacher=tiny.h5', f'--workdir={damaged}', '--output=damaged.npz'
    )
    assert 'was trained for 6 of 8 steps: run the training again' in result.error


@pytest.mark.slow
def test_a_full_disk(finished, programs):
    workdir = programs.folder / 'full_disk'
    result = train(programs, workdir, during=full_disk_from(*METRICS, call=5, room=600))
    assert 'metrics.jsonl: could not be written' in result.error
    assert train(programs, workdir).status == 0
    assert_same_end(workdir, finished)


def test_a_loss_that_is_not_finite(programs):
    result = train(programs, 'diverged', '--learning_rate=1e30')
    assert 'generator stopped: ' in result.error and 'is nan at step ' in result.error
    assert 'Try a lower --learning_rate in another --workdir' in result.error
