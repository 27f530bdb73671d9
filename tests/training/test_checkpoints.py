"""Checkpoints by themselves; damage, full disks and resuming are tested with the loop."""

import numpy as np
import pytest
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.training.checkpoints import Checkpoints


def module(value):
    made = tf.Module()
    made.weights = tf.Variable([float(value)])
    return made


def test_the_last_two_are_kept_and_the_newest_is_restored(tmp_path):
    saved = {'one': module(0), 'other': module(0)}
    checkpoints = Checkpoints(tmp_path, saved)
    assert checkpoints.restore() == 0
    for done in (5, 9, 10):
        for part in saved.values():
            part.weights.assign([float(done)])
        checkpoints.save(done)
    assert sorted(path.stem for path in tmp_path.glob('*.index')) == ['ckpt-10', 'ckpt-9']

    state = {'one': module(0), 'other': module(0)}
    assert Checkpoints(tmp_path, state).restore() == 10
    assert [part.weights.numpy().tolist() for part in state.values()] == [[10], [10]]
    part = module(0)
    assert Checkpoints(tmp_path, {'one': part}).restore(partly=True) == 10
    assert part.weights.numpy().tolist() == [10]


def test_names_with_signs_of_patterns(tmp_path):
    """The name m[1] is not taken for a pattern that m1 fits."""
    for name, steps in (('m1', (5, 6)), ('m[1]', (5, 6, 7, 8)), ('m*', (1, 2, 3))):
        checkpoints = Checkpoints(tmp_path / name, {'one': module(0)})
        for done in steps:
            checkpoints.save(done)
        assert checkpoints.newest() == steps[-1]
    found = {
        name: sorted(path.name for path in (tmp_path / name).iterdir() if path.suffix == '.index')
        for name in ('m1', 'm[1]', 'm*')
    }
    assert found == {
        'm1': ['ckpt-5.index', 'ckpt-6.index'],
        'm[1]': ['ckpt-7.index', 'ckpt-8.index'],
        'm*': ['ckpt-2.index', 'ckpt-3.index'],
    }


def test_what_is_not_finite_is_not_saved(tmp_path):
    state = module(1)
    checkpoints = Checkpoints(tmp_path, {'state': state})
    checkpoints.save(1)
    state.weights.assign([np.inf])
    with pytest.raises(UserError, match='of the state is not finite after step 2; the last'):
        checkpoints.save(2)
    assert Checkpoints(tmp_path, {'state': state}).restore() == 1
    assert state.weights.numpy().tolist() == [1]
