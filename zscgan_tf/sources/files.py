"""The user's own images: an .npz file, or a folder of images."""

import os

from zscgan_tf.atomic_files import check_local
from zscgan_tf.errors import UserError
from zscgan_tf.sources import fitting
from zscgan_tf.sources.image_folder import decode, list_images
from zscgan_tf.sources.npz import open_npz
from zscgan_tf.sources.stored import StoredImages


class FileSource(StoredImages):
    """Images from an .npz file (see `npz.open_npz`) or a folder (see `image_folder`).

    Args:
        path: the file or folder.
        input_spec, batch_size, seed, resize_short_side: see `StoredImages`.

    Raises:
        UserError: see the modules named; here or, for the pixels of a single image, later.
    """

    def __init__(self, path, input_spec, batch_size=32, seed=0, resize_short_side=None):
        check_local(path)
        super().__init__(input_spec, batch_size, seed, resize_short_side)
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
    def description(self):
        """Which images these are."""
        return {
            'kind': 'files',
            'path': os.path.abspath(self._path),
            'short_side': self._short_side,
            'seed': self._seed,
        }

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

    def _read(self, index):
        image, name = self._images[index], f'{self._path}, image {index}'
        if self._is_folder:
            image, name = decode(image, self.image_shape[-1]), image
        try:
            pixels = fitting.fit(image, self.image_shape, self._short_side)
        except UserError as error:
            raise UserError(f'{name}: {error}') from error
        return pixels, self._labels[index] if self.has_labels else None
