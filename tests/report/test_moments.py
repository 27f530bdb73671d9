"""Distances from stored moments are the BNS loss, layer by layer."""

import numpy as np
import pytest

from zscgan_tf.methods.zscgan import bns_loss
from zscgan_tf.report.moments import MomentDistance, bns_loss_of, loss_by_layer, moment_distances
from zscgan_tf.teacher.tap import batch_moments


def test_they_add_up_to_the_loss(teacher, tap):
    images = np.random.default_rng(0).uniform(0, 1, (37, 8, 8, 3)).astype(np.float32)
    found = moment_distances(teacher, [images[:20], images[20:]])
    model, stored = tap
    _, *inputs = model(teacher.input_spec.to_inputs(images))
    for distance, x, moments in zip(found, inputs, stored, strict=True):
        assert (distance.layer, distance.channels) == (moments.layer, len(moments.mean))
        expected = bns_loss([batch_moments(x)], [moments]).numpy() / distance.channels
        assert distance.divergence == pytest.approx(expected, rel=1e-4)
    whole = bns_loss([batch_moments(x) for x in inputs], stored).numpy()
    assert bns_loss_of(found) == pytest.approx(whole, rel=1e-4)


def test_each_use_of_a_shared_batch_norm_has_its_loss():
    distances = [MomentDistance(name, 2, n) for n, name in enumerate(['a', 'b', 'a'], start=1)]
    assert loss_by_layer(distances) == {'a': 2, 'b': 4, 'a (use 2)': 6}


def test_images_of_the_stored_moments_are_at_zero(teacher):
    """A batch norm that stores the moments of the images themselves."""
    images = np.random.default_rng(1).uniform(0, 1, (20, 8, 8, 3)).astype(np.float32)
    first = moment_distances(teacher, [images])[0]
    layer = teacher.model.get_layer(first.layer)
    before = layer.get_weights()
    try:
        x = teacher.input_spec.to_inputs(images)
        for part in teacher.model.layers[1:]:
            if part is layer:
                break
            x = part(x)
        mean, variance = batch_moments(x)
        layer.set_weights([*before[:2], mean.numpy(), variance.numpy()])
        assert moment_distances(teacher, [images])[0].divergence == pytest.approx(0, abs=1e-6)
    finally:
        layer.set_weights(before)
    assert first.divergence > 1e-3
