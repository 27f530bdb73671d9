"""Images and labels in an .npz file, checked from its headers before anything is read.

Arrays of an uncompressed file (`np.savez`) are mapped into memory, not read; those of a compressed
one (`np.savez_compressed`) are read whole, up to a limit.
"""

import dataclasses
import math
import zipfile
import zlib

import numpy as np

from zscgan_tf.errors import UserError

IMAGE_KEYS = ('images', 'x', 'data')
LABEL_KEYS = ('labels', 'y')
COMPRESSED_LIMIT_BYTES = 4 * 2**30
_CHECKED_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class _Member:
    """One array in the file: what its header says, and where its data begin in the member."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    data_start: int

    @property
    def data_bytes(self):
        return math.prod(self.shape) * self.dtype.itemsize


def open_npz(path):
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
            members = {
                info.filename.removesuffix('.npy'): _read_header(archive, info)
                for info in archive.infolist()
                if info.filename.endswith('.npy')
            }
            key = _image_key(path, members)
            images = _check_images(path, key, _read(path, archive, key, members[key]))
            labels = None
            for label_key in LABEL_KEYS:
                if label_key in members and label_key != key:
                    labels = _read(path, archive, label_key, members[label_key])
                    labels = _check_labels(path, label_key, labels, len(images))
                    break
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        # RuntimeError: encrypted, or compressed in a way that Python does not know.
        raise UserError(f'{path}: not a readable .npz file ({_short(error)}).') from error
    return images, labels


def _read_header(archive, info):
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f'{info.filename} has the unknown format version {version}')
        read = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
        return _Member(info, shape, fortran_order, dtype, file.tell())


def _image_key(path, members):
    for key in IMAGE_KEYS:
        if key in members:
            return key
    for rank in (4, 3):
        keys = [key for key, member in members.items() if len(member.shape) == rank]
        if len(keys) == 1:
            return keys[0]
        if keys:
            break
    found = ', '.join(f'{key} {list(member.shape)}' for key, member in members.items())
    raise UserError(
        f'{path}: which array holds the images? Name it "images", [N, height, width, channels]; '
        f'found: {found or "no array"}.'
    )


def _read(path, archive, key, member):
    if member.dtype.hasobject:
        raise UserError(f'{path}: "{key}" holds pickled Python objects, which are not loaded.')
    if member.data_start + member.data_bytes != member.info.file_size:
        raise UserError(f'{path}: damaged: "{key}" is not as long as its header says.')
    if member.info.compress_type == zipfile.ZIP_STORED and member.data_bytes:
        order = 'F' if member.fortran_order else 'C'
        offset = _data_offset(path, member)
        return np.memmap(path, member.dtype, 'r', offset, member.shape, order)
    if member.data_bytes > COMPRESSED_LIMIT_BYTES:
        raise UserError(
            f'{path}: "{key}" is {member.data_bytes / 2**30:.1f} GiB when unpacked: store it with '
            f'np.savez, which is not compressed and read piece by piece, or as a folder of images.'
        )
    with archive.open(member.info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _data_offset(path, member):
    """Where an uncompressed array begins in the file: behind the member's local header."""
    with open(path, 'rb') as file:
        file.seek(member.info.header_offset)
        header = file.read(30)
    name_length = int.from_bytes(header[26:28], 'little')
    extra_length = int.from_bytes(header[28:30], 'little')
    return member.info.header_offset + 30 + name_length + extra_length + member.data_start


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
    if labels.min() < 0:
        raise UserError(f'{path}: "{key}" has negative labels: classes are counted from 0.')
    return np.asarray(labels, np.int32).reshape(-1)


def _short(error):
    return str(error).split('\n')[0] or type(error).__name__
