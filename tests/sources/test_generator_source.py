"""The generator as a source: reproducible, balanced, from any batch on."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.generators import build_generator, draw_noise
from zscgan_tf.sources.batches import take
from zscgan_tf.sources.generator import GeneratorSource, class_grid


@pytest.fixture(scope='module')
def generator():
    """Random weights and tables, so that classes and noise show."""
    generator = build_generator((9, 8, 3), 5, scales=1, channels=4, skip_channels=2, z_channels=3)
    rng = np.random.default_rng(0)
    for variable in generator.trainable_variables:
        variable.assign_add(rng.normal(0, 0.5, variable.shape).astype(np.float32))
    return generator


def source_of(generator, batch_size=7, seed=0):
    return GeneratorSource(generator, 5, batch_size, seed)


def batches(source, count, start=0):
    taken = itertools.islice(source.batches(start), count)
    return [(pixels.numpy(), labels.numpy()) for pixels, labels in taken]


def same(one, two):
    return all(
        np.array_equal(p, q) and np.array_equal(y, z)
        for (p, y), (q, z) in zip(one, two, strict=True)
    )


def test_shapes_and_types(generator):
    source = source_of(generator)
    assert source.image_shape == (9, 8, 3) and source.has_labels and source.batch_size == 7
    for pixels, labels in batches(source, 3):
        assert pixels.shape == (7, 9, 8, 3) and pixels.dtype == np.float32
        assert labels.shape == (7,) and labels.dtype == np.int32
        assert pixels.min() >= 0 and pixels.max() <= 1


def test_same_seed_same_batches(generator):
    first = batches(source_of(generator), 4)
    assert same(first, batches(source_of(generator), 4))
    other = batches(source_of(generator, seed=1), 4)
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], first[1][0])
    source = source_of(generator)
    assert same(batches(source, 2), batches(source, 2))  # each call begins anew


def test_noise_is_of_the_seed_and_the_batch():
    """Of one class, images differ by their noise alone."""
    generator = build_generator((9, 8, 3), 1, scales=1, channels=4, skip_channels=2, z_channels=3)
    sources = [GeneratorSource(generator, 1, 7, seed) for seed in (0, 1)]
    images = [pixels for source in sources for pixels, _ in batches(source, 2)]
    for one, two in itertools.combinations(images, 2):
        assert np.abs(one - two).mean() > 0.01


def test_start_skips(generator):
    source = source_of(generator)
    assert same(batches(source, 3, start=4), batches(source, 7)[4:])


def test_labels_are_balanced_from_the_first_image_on(generator):
    labels = np.concatenate([labels for _, labels in batches(source_of(generator), 10)])
    for count in (5, 10, 13, 33, 70):
        numbers = np.bincount(labels[:count], minlength=5)
        assert numbers.max() - numbers.min() <= 1
    assert not np.array_equal(labels[:5], labels[5:10])  # permutations, not one order


def test_take_cuts_the_last_batch(generator):
    sizes = [len(pixels) for pixels, _ in take(source_of(generator).batches(), 17)]
    assert sizes == [7, 7, 3]


def test_images_of_classes(generator):
    """The same each time, and each one of the class that was asked for."""
    source = source_of(generator, batch_size=16)
    classes = [c for c in range(5) for _ in range(4)]
    images = source.images_of(classes)
    assert images.shape == (20, 9, 8, 3)
    np.testing.assert_array_equal(images, source.images_of(classes))
    np.testing.assert_array_equal(images, source_of(generator, 16).images_of(classes))
    means = images.reshape(5, 4, -1).mean(1)
    made, labels = batches(source_of(generator, batch_size=500, seed=9), 1)[0]
    expected = np.stack([made[labels == c].mean(0).ravel() for c in range(5)])
    distances = np.linalg.norm(means[:, None] - expected, axis=-1)
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(5))


def test_without_classes(generator):
    """No labels, the images of the first row, and a grid of the first images."""
    source = GeneratorSource(generator, None, 7)
    assert not source.has_labels and source.num_classes is None
    made = list(itertools.islice(source.batches(), 12))
    assert all(labels is None for _, labels in made)
    noise = draw_noise(generator, 7, tf.constant([0, 3]))
    expected = generator([*noise, tf.zeros([7], tf.int32)], training=True)
    np.testing.assert_allclose(made[3][0], expected, atol=1e-5)
    skipped, _ = next(source.batches(3))
    np.testing.assert_array_equal(skipped, made[3][0])
    classes, pixels = class_grid(source)
    assert classes == []
    np.testing.assert_array_equal(pixels, np.concatenate([x for x, _ in made])[:80])
    with pytest.raises(UserError, match='--unconditional makes no images of a class: pass'):
        source.images_of([0, 1])


@pytest.mark.parametrize('batch_size, count', [(1, 3), (2, 5), (64, 1)])
def test_any_number_of_images_of_classes(generator, batch_size, count):
    images = source_of(generator, batch_size).images_of([2] * count)
    assert images.shape == (count, 9, 8, 3) and np.all(np.isfinite(images))
