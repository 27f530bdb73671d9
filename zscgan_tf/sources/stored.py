"""What sources of stored images (files, datasets) share: order, fitting, reading in threads."""

import concurrent.futures
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from zscgan_tf.options import COUNT, SEED, check
from zscgan_tf.sources import fitting, order
from zscgan_tf.sources.batches import Batch
from zscgan_tf.teacher.input_spec import InputSpec


class StoredImages:
    """A `StoredSource` without its store; images are read when their batch is asked for.

    `batches` runs through seeded permutations of all images, in which the classes take turns where
    they are known. A subclass sets `image_count`, `has_labels`, `num_classes`, `description` and
    `_labels` (int, [N], or None). Its `_read(index)` returns pixels, [H, W, C], and a label or
    None.

    Args:
        input_spec: of the teacher, which says the size of the images.
        batch_size: images a batch.
        seed: of the permutations.
        resize_short_side: see `fitting.check_short_side`; None for 256/224 of the teacher's short
            side, or just this where it is below 64.

    Raises:
        UserError: a batch of no images, a seed that is out of range, or a short side that is too
            short.
    """

    def __init__(
        self, input_spec: InputSpec, batch_size: int, seed: int, resize_short_side: int | None
    ) -> None:
        self.image_shape = input_spec.image_shape
        self.batch_size = check(COUNT, 'batch_size', batch_size)
        self._seed = check(SEED, 'seed', seed)
        self._short_side = fitting.check_short_side(resize_short_side, input_spec.image_size)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """See `Source.batches`."""
        return self._load(
            order.index_batches(self.image_count, self._labels, self.batch_size, self._seed, start)
        )

    def one_pass(self) -> Iterator[Batch]:
        """See `StoredSource.one_pass`."""
        return self._load(order.consecutive_batches(self.image_count, self.batch_size))

    def _load(self, index_batches):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for indices in index_batches:
                pixels, labels = zip(*pool.map(self._read, indices), strict=True)
                labels = tf.constant(labels, tf.int32) if self.has_labels else None
                yield tf.constant(np.stack(pixels)), labels
