"""The user's own images: an .npz file, or a folder of images."""

import concurrent.futures
import os

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.sources import fitting, order
from zscgan_tf.sources.image_folder import decode, list_images
from zscgan_tf.sources.npz import open_npz


class FileSource:
    """Images from an .npz file (see `npz.open_npz`) or a folder (see `image_folder`).

    Images are read and fitted to the teacher's size (see `fitting.fit`) when their batch is asked
    for. `batches` runs through seeded permutations of all images, in which the classes take turns
    where they are known.

    Args:
        path: the file or folder.
        input_spec: the teacher's `InputSpec`.
        batch_size: images a batch.
        seed: of the permutations.
        resize_short_side: see `fitting.fit`; None for 256/224 of the teacher's short side, or just
            this where it is below 64.

    Raises:
        UserError: see the modules named; here or, for the pixels of a single image, later.
    """

    def __init__(self, path, input_spec, batch_size=32, seed=0, resize_short_side=None):
        order.check_batch_size(batch_size)
        self.image_shape = input_spec.image_shape
        self.batch_size = batch_size
        self._seed = seed
        self._short_side = fitting.check_short_side(resize_short_side, input_spec.image_size)
        self._path = path = os.fspath(path)
        self._is_folder = os.path.isdir(path)
        if self._is_folder:
            self._check_channels(input_spec.channels)
            self._images, self._labels = list_images(path)
        elif not os.path.exists(path):
            raise UserError(f'{path}: no such file or folder of images.')
        elif path.endswith('.npz'):
            self._images, self._labels = open_npz(path)
        else:
            raise UserError(f'{path}: images come from an .npz file or a folder of images.')

    def _check_channels(self, channels):
        if channels not in (1, 3):
            raise UserError(
                f'{self._path}: image files have 1 or 3 channels, but the teacher takes '
                f'{channels}: pass an .npz file.'
            )

    @property
    def has_labels(self):
        """Whether the classes of the images are known."""
        return self._labels is not None

    @property
    def image_count(self):
        """How many images there are."""
        return len(self._images)

    @property
    def num_classes(self):
        """One more than the highest label, or None; the teacher may have more classes."""
        return int(self._labels.max()) + 1 if self.has_labels else None

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
                pixels = tf.constant(np.stack(list(pool.map(self._read, indices))))
                labels = tf.constant(self._labels[indices]) if self.has_labels else None
                yield pixels, labels

    def _read(self, index):
        image, name = self._images[index], f'{self._path}, image {index}'
        if self._is_folder:
            image, name = decode(image, self.image_shape[-1]), image
        try:
            return fitting.fit(image, self.image_shape, self._short_side)
        except UserError as error:
            raise UserError(f'{name}: {error}') from error
