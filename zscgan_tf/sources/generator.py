"""The images of a trained ZS-CGAN generator as a source."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.generators import draw_noise
from zscgan_tf.sources.batches import Batch, take
from zscgan_tf.sources.order import index_batches

# Rows and columns of a grid of images, a row a class.
GRID_CLASSES, GRID_IMAGES = 10, 8


class GeneratorSource:
    """Batches of a generator's images with the classes that they were made for, if any.

    The generator's batch norms have no moments but those of the batch, so an image depends on its
    batch. A batch depends on the seed and its number alone.

    Args:
        generator: the model of `build_generator` or `build_dcgan`.
        num_classes: number of classes; None for a generator without classes.
        batch_size: images a batch; best that of the generator's training.
        seed: other seeds give other images.
        options: JSON values that the generator was trained with.
    """

    def __init__(
        self,
        generator: tf_keras.Model,
        num_classes: int | None,
        batch_size: int,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.generator = generator
        self.num_classes = num_classes
        self.has_labels = num_classes is not None
        self.batch_size = batch_size
        self.seed = seed
        self.options = options or {}
        self.image_shape = tuple(generator.output_shape[1:])
        self.description = {'kind': 'zscgan', **self.options, 'seed': seed}
        self._make = tf.function(self._make_batch)

    def _make_batch(self, labels, index):
        noise = draw_noise(self.generator, self.batch_size, tf.stack([self.seed, index]))
        return self.generator([*noise, labels], training=True)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """See `Source.batches`."""
        for index, labels in enumerate(self._labels(start), start):
            labels = tf.constant(labels, tf.int32)
            yield self._make(labels, tf.constant(index)), labels if self.has_labels else None

    def _labels(self, start=0):
        if not self.has_labels:
            return itertools.repeat(np.zeros(self.batch_size, np.int64))
        # Permutations of all classes, cut into batches: any number of images is balanced.
        return index_batches(self.num_classes, None, self.batch_size, self.seed, start)

    def images_of(self, classes: Sequence[int]) -> np.ndarray:
        """One image of each of N classes, [N, H, W, C]; the same classes give the same images.

        Batches are filled up with other classes, and the classes asked for are spread over them,
        because an image depends on its batch.

        Raises:
            UserError: a generator without classes.
        """
        if not self.has_labels:
            raise UserError(
                'A generator that was trained with --unconditional makes no images of a class: '
                'pass the folder of one with classes.'
            )
        order = np.random.default_rng(self.seed).permutation(len(classes))
        others = self._labels()
        pixels = np.empty((len(classes), *self.image_shape), np.float32)
        wanted = max(1, self.batch_size // 2)
        for index, start in enumerate(range(0, len(classes), wanted)):
            places = order[start : start + wanted]
            labels = next(others)
            labels[: len(places)] = np.asarray(classes)[places]
            batch = self._make(tf.constant(labels, tf.int32), tf.constant(index)).numpy()
            pixels[places] = batch[: len(places)]
        return pixels


def grid_classes(num_classes: int) -> list[int]:
    """The classes that a grid has rows of: all, or ten that are spread evenly."""
    rows = min(GRID_CLASSES, num_classes)
    return [row * num_classes // rows for row in range(rows)]


def class_grid(source: GeneratorSource) -> tuple[list[int], np.ndarray]:
    """Images for a grid, a row a class: up to ten classes, spread evenly, of eight images.

    Args:
        source: a `GeneratorSource`; of one without classes there are ten rows of any images.

    Returns:
        The rows' classes, none of a source without classes, and the pixels, [rows * 8, H, W, C].
    """
    num_classes = source.num_classes
    if num_classes is None:
        images = take(source.batches(), GRID_CLASSES * GRID_IMAGES)
        return [], np.concatenate([pixels.numpy() for pixels, _ in images])
    classes = grid_classes(num_classes)
    return classes, source.images_of([c for c in classes for _ in range(GRID_IMAGES)])
