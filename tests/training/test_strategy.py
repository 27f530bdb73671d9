"""Strategies by name, slices of replicas, seeds of steps."""

import numpy as np
import pytest
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.training import strategy
from zscgan_tf.training.strategy import fold_seed, make_strategy, replica_slice


def test_strategies_by_name():
    assert make_strategy('default') is tf.distribute.get_strategy()
    mirrored = make_strategy('mirrored')
    assert isinstance(mirrored, tf.distribute.MirroredStrategy)
    # Collective operations of two strategies in one process would be taken for each other's.
    assert make_strategy('mirrored') is mirrored
    with pytest.raises(UserError, match='--strategy=many is unknown: pass one of default,'):
        make_strategy('many')


def test_a_tpu_is_initialized_once(monkeypatch):
    """A second time would lose what was made on it."""
    initialized = []
    monkeypatch.setattr(tf.distribute.cluster_resolver, 'TPUClusterResolver', object)
    monkeypatch.setattr(tf.config, 'experimental_connect_to_cluster', lambda resolver: None)
    monkeypatch.setattr(tf.tpu.experimental, 'initialize_tpu_system', initialized.append)
    monkeypatch.setattr(tf.distribute, 'TPUStrategy', lambda resolver: object())
    try:
        assert make_strategy('tpu') is make_strategy('tpu') and len(initialized) == 1
    finally:
        strategy._tpu.cache_clear()
    monkeypatch.undo()
    with pytest.raises(
        UserError, match='--strategy=tpu: no TPU was found; pass --strategy=default'
    ):
        make_strategy('tpu')


def test_replica_slices_make_up_the_whole():
    class Replica:
        num_replicas_in_sync = 3

        def __init__(self, index):
            self.replica_id_in_sync_group = index

    x = tf.range(12)
    parts = [replica_slice(x, Replica(i)) for i in range(3)]
    np.testing.assert_array_equal(tf.concat(parts, 0), x)


def test_seeds_differ_by_seed_step_and_stream():
    seeds = {
        tuple(fold_seed(seed, tf.constant(index, tf.int64), stream).numpy())
        for seed in range(3)
        for index in range(3)
        for stream in range(3)
    }
    assert len(seeds) == 27
