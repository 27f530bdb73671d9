"""The user's own images as a source: an .npz file, or a folder of images."""

import functools
import hashlib
import os
import zipfile
import zlib

from zscgan_tf.atomic_files import PathLike, check_local
from zscgan_tf.errors import UserError
from zscgan_tf.sources import fitting
from zscgan_tf.sources.image_folder import decode, list_images
from zscgan_tf.sources.npz import open_npz
from zscgan_tf.sources.stored import StoredImages
from zscgan_tf.teacher.input_spec import InputSpec

# The size of these files says only how many pixels they have.
_UNCOMPRESSED = ('.bmp', '.pgm', '.ppm', '.tif', '.tiff')
# Bytes that are read of the start, the middle and the end of such a file.
_PART = 2**16


class FileSource(StoredImages):
    """Images from an .npz file (see `npz.open_npz`) or a folder (see `image_folder`).

    `num_classes` is one more than the highest label, or None; the teacher may have more classes.

    Args:
        path: the file or folder.
        input_spec, batch_size, seed, resize_short_side: see `StoredImages`.

    Raises:
        UserError: no such file or folder, no images in it, or as the modules named. The pixels of
            an image file are checked when its batch is asked for.
    """

    def __init__(
        self,
        path: PathLike,
        input_spec: InputSpec,
        batch_size: int = 32,
        seed: int = 0,
        resize_short_side: int | None = None,
    ) -> None:
        check_local(path)
        super().__init__(input_spec, batch_size, seed, resize_short_side)
        self._path = path = os.fspath(path)
        self._is_folder = os.path.isdir(path)
        if self._is_folder:
            if input_spec.channels not in (1, 3):
                raise UserError(
                    f'{path}: image files have 1 or 3 channels, but the teacher takes '
                    f'{input_spec.channels}: pass an .npz file.'
                )
            self._images, self._labels = list_images(path)
        elif not os.path.exists(path):
            raise UserError(f'{path}: no such file or folder of images.')
        elif path.lower().endswith('.npz'):
            self._images, self._labels = open_npz(path)
        else:
            raise UserError(f'{path}: images come from an .npz file or a folder of images.')
        self.image_count = len(self._images)
        self.has_labels = self._labels is not None
        self.num_classes = int(self._labels.max()) + 1 if self.has_labels else None

    @functools.cached_property
    def description(self) -> dict[str, object]:
        """See `Source`; made when it is asked for, since it asks for the size of every image."""
        return {
            'kind': 'files',
            'content': self._digest(),
            'short_side': self._short_side,
            'seed': self._seed,
        }

    def _digest(self):
        """What tells these images from others, mostly without reading them: checksums, or sizes."""
        if self._is_folder:
            names = [os.path.relpath(image, self._path) for image in self._images]
            labels = [None] * len(names) if self._labels is None else self._labels.tolist()
            entries = list(zip(names, map(_mark, self._images), labels, strict=True))
        else:
            with zipfile.ZipFile(self._path) as archive:
                entries = [(each.filename, each.CRC) for each in archive.infolist()]
        return hashlib.sha256(repr(entries).encode()).hexdigest()[:16]

    def _read(self, index):
        image, name = self._images[index], f'{self._path}, image {index}'
        if self._is_folder:
            image, name = decode(image, self.image_shape[-1]), image
        try:
            pixels = fitting.fit(image, self.image_shape, self._short_side)
        except UserError as error:
            raise UserError(f'{name}: {error}') from error
        return pixels, self._labels[index] if self.has_labels else None


def _mark(image):
    """A number that tells a file from others: its size, or a checksum of parts of it."""
    size = os.path.getsize(image)
    if not image.lower().endswith(_UNCOMPRESSED):
        return size
    try:
        with open(image, 'rb') as file:
            parts = []
            for place in (0, size // 2, max(0, size - _PART)):
                file.seek(place)
                parts.append(file.read(_PART))
            return zlib.crc32(b''.join(parts))
    except OSError as error:
        raise UserError(
            f'{image}: cannot be read ({error.strerror}): make it readable, or move it elsewhere.'
        ) from error
