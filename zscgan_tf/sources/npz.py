"""Images and labels in an .npz file, checked from its headers before anything is read.

Arrays of an uncompressed file (`np.savez`) are mapped, so they may be larger than the memory.
Those of a compressed one (`np.savez_compressed`) are read whole, up to a limit.
"""

import math
import struct
import tokenize
import zipfile
import zlib

import numpy as np

from zscgan_tf.atomic_files import PathLike
from zscgan_tf.errors import UserError, first_line

IMAGE_KEYS = ('images', 'x', 'data')
LABEL_KEYS = ('labels', 'y')
COMPRESSED_LIMIT_BYTES = 4 * 2**30
_CHECKED_AT_ONCE = 1024
# RuntimeError: encrypted, or compressed in a way that Python does not know. TypeError: sides of an
# array that are no numbers. TokenError: a header that NumPy cannot take apart.
NPZ_ERRORS = (
    OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, TypeError,
    tokenize.TokenError,
)  # fmt: skip


def open_npz(path: PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and labels of an .npz file.

    Args:
        path: a file with the images as `images`, `x` or `data`, or as its only array of four
            dimensions (three: one channel), uint8 or float in [0, 1]; and their classes, if at
            all, as `labels` or `y`.

    Returns:
        images, [N, h, w, c], perhaps mapped into memory; labels, int32 [N], or None.

    Raises:
        UserError: the file is damaged, holds something else, or too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith('.npy')]
            arrays = {name.removesuffix('.npy'): _StoredArray(archive, name) for name in names}
            key = _image_key(path, arrays)
            images = _check_images(path, key, arrays[key].load(path, key))
            label_key = next((k for k in LABEL_KEYS if k in arrays and k != key), None)
            if label_key is None:
                return images, None
            labels = arrays[label_key].load(path, label_key)
            return images, _check_labels(path, label_key, labels, len(images))
    except NPZ_ERRORS as error:
        raise UserError(f'{path}: not a readable .npz file ({first_line(error)}).') from error


class _StoredArray:
    """One array of an archive: its header is read, its data are not."""

    def __init__(self, archive, name):
        self._archive = archive
        self._info = archive.getinfo(name)
        with archive.open(name) as file:
            version = '_'.join(map(str, np.lib.format.read_magic(file)))
            read_header = getattr(np.lib.format, f'read_array_header_{version}', None)
            if read_header is None:
                raise ValueError(f'{name} has the unknown format version {version}')
            self.shape, self._fortran_order, self._dtype = read_header(file)
            self._header_bytes = file.tell()

    def load(self, path, key):
        """The array: mapped where the archive holds it uncompressed, else read."""
        data_bytes = math.prod(self.shape) * self._dtype.itemsize
        if self._dtype.hasobject:
            raise UserError(f'{path}: "{key}" holds pickled Python objects, which are not loaded.')
        if self._header_bytes + data_bytes != self._info.file_size:
            raise UserError(f'{path}: damaged: "{key}" is not as long as its header says.')
        if self._info.compress_type == zipfile.ZIP_STORED and data_bytes:
            order = 'F' if self._fortran_order else 'C'
            return np.memmap(path, self._dtype, 'r', self._data_offset(path), self.shape, order)
        if data_bytes > COMPRESSED_LIMIT_BYTES:
            raise UserError(
                f'{path}: "{key}" is {data_bytes / 2**30:.1f} GiB when unpacked: store it with '
                f'np.savez, which is not compressed and read piece by piece, or as a folder of '
                f'images.'
            )
        with self._archive.open(self._info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def _data_offset(self, path):
        # In front of the array stand the archive's own header of 30 bytes, whose last two fields
        # are the lengths of the name and of the extra fields that follow, and NumPy's header.
        with open(path, 'rb') as file:
            file.seek(self._info.header_offset + 26)
            return sum(struct.unpack('<HH', file.read(4))) + file.tell() + self._header_bytes


def _image_key(path, arrays):
    for key in IMAGE_KEYS:
        if key in arrays:
            return key
    for rank in (4, 3):
        keys = [key for key, array in arrays.items() if len(array.shape) == rank]
        if len(keys) == 1:
            return keys[0]
        if keys:
            break
    found = ', '.join(f'{key} {list(array.shape)}' for key, array in arrays.items())
    raise UserError(
        f'{path}: which array holds the images? Name it "images", [N, height, width, channels]; '
        f'found: {found or "no array"}.'
    )


def _check_images(path, key, images):
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f'{path}: "{key}" has the shape {list(images.shape)}: images are '
            f'[N, height, width, channels], or [N, height, width] of one channel.'
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != 'f':
        raise UserError(f'{path}: "{key}" is {images.dtype}: images are uint8, or float in [0, 1].')
    for start in range(0, len(images), _CHECKED_AT_ONCE):
        part = images[start : start + _CHECKED_AT_ONCE]
        low, high = part.min(), part.max()
        if not (low >= 0 and high <= 1):  # NaN, too
            raise UserError(
                f'{path}: "{key}" has values from {low:.4g} to {high:.4g}: images are uint8, or '
                f'float in [0, 1], before any preprocessing.'
            )
    return images


def _check_labels(path, key, labels, count):
    if labels.size != count or labels.dtype.kind not in 'iu':
        raise UserError(
            f'{path}: "{key}" is {labels.dtype} {list(labels.shape)}: labels are whole numbers, '
            f'one for each of the {count} images.'
        )
    if labels.max() >= 2**31:
        raise UserError(f'{path}: "{key}" has {labels.max()}: labels are class numbers.')
    if labels.min() < 0:
        raise UserError(f'{path}: "{key}" has negative labels: classes are counted from 0.')
    return np.asarray(labels, np.int32).reshape(-1)
