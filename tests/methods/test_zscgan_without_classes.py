"""A generator without classes: its training and its step."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.methods.test_zscgan import TINY_OPTIONS, make_update, read_metrics
from zscgan_tf.errors import UserError
from zscgan_tf.methods import zscgan
from zscgan_tf.sources.generator import GRID_IMAGES, class_grid
from zscgan_tf.sources.pictures import draw_grid


@pytest.mark.parametrize(
    'options',
    [
        pytest.param({**TINY_OPTIONS, 'noise_scales': 1}, id='unet'),
        pytest.param({'generator': 'dcgan', 'batch_size': 16}, id='dcgan', marks=pytest.mark.slow),
    ],
)
def test_a_training_without_classes(teacher, tmp_path, options):
    options = {**options, 'unconditional': True, 'seed': 3}
    source = zscgan.train_generator(teacher, tmp_path, steps=12, **options)
    lines = read_metrics(tmp_path)
    assert not {'class_loss', 'class_accuracy'} & lines[0].keys()
    assert lines[-1]['bns_loss'] < lines[0]['bns_loss'] and 'entropy_loss' in lines[0]
    assert not source.has_labels
    _, pixels = class_grid(source)
    unnumbered = draw_grid(pixels, GRID_IMAGES)
    np.testing.assert_array_equal(Image.open(tmp_path / 'classes.png'), unnumbered)
    loaded = zscgan.load_generator(teacher, tmp_path, seed=3)
    (one, no_labels), (two, _) = (next(s.batches()) for s in (source, loaded))
    assert no_labels is None and loaded.num_classes is None
    np.testing.assert_array_equal(one, two)
    with pytest.raises(UserError, match=r'unconditional true, not null'):
        others = {**options, 'unconditional': False, 'generator': 'unet'}
        zscgan.train_generator(teacher, tmp_path, steps=12, **others)


def test_the_step_without_classes_has_labels_of_zero(teacher, tap):
    """The gradient is that of BNS and entropies; the other rows of the tables have none."""
    _, optimizer, update = make_update(teacher, tap, weights=(0.0, 1.0, 1.0), unconditional=True)
    metrics, _, labels, _ = update(tf.constant(0, tf.int64))
    assert metrics.keys() == {'bns_loss', 'entropy_loss'} and labels is None
    tables = [g.numpy() for g in optimizer.gradients[0] if len(g.shape) == 2 and g.shape[0] == 5]
    assert tables and all(np.all(table[1:] == 0) for table in tables)
    assert any(np.any(table[0] != 0) for table in tables)
