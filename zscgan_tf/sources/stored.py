"""What sources of stored images share: files and datasets."""

import concurrent.futures
import os

import numpy as np
import tensorflow as tf

from zscgan_tf.sources import fitting, order


class StoredImages:
    """A source of images that are read when their batch is asked for.

    `batches` runs through seeded permutations of all images, in which the classes take turns where
    they are known. A kind of store adds `has_labels`, `image_count`, `_labels` (int [N] or None)
    and `_read(index)`, which returns pixels [H, W, C] and a label or None.

    Args:
        input_spec: the teacher's `InputSpec`.
        batch_size: images a batch.
        seed: of the permutations.
        resize_short_side: see `fitting.fit`; None for 256/224 of the teacher's short side, or just
            this where it is below 64.
    """

    def __init__(self, input_spec, batch_size, seed, resize_short_side):
        order.check_batch_size(batch_size)
        self.image_shape = input_spec.image_shape
        self.batch_size = batch_size
        self._seed = seed
        self._short_side = fitting.check_short_side(resize_short_side, input_spec.image_size)

    def batches(self, start=0):
        """Endless (pixels [B, H, W, C], labels [B] or None), from batch number `start`."""
        return self._load(
            order.index_batches(self.image_count, self._labels, self.batch_size, self._seed, start)
        )

    def one_pass(self):
        """Every image once, in stored order; the last batch may be short."""
        return self._load(order.consecutive_batches(self.image_count, self.batch_size))

    def _load(self, index_batches):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for indices in index_batches:
                pixels, labels = zip(*pool.map(self._read, indices), strict=True)
                labels = tf.constant(labels, tf.int32) if self.has_labels else None
                yield tf.constant(np.stack(pixels)), labels
