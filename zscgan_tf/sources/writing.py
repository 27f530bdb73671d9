"""Images of a source on disk: a folder of PNGs by class, streamed, or a small .npz.

`sources.files.FileSource` reads both back.
"""

import contextlib
import io
import os
import re
import shutil
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from PIL import Image

from zscgan_tf.atomic_files import (
    PathLike,
    check_local,
    check_output,
    check_parent,
    leftovers,
    partial_name,
    write_atomically,
)
from zscgan_tf.errors import UserError
from zscgan_tf.sources.batches import Batch, take, with_progress

NPZ_LIMIT_BYTES = 2**30

# Says that a folder was written here and may be replaced; sources skip hidden files.
_MARKER = '.zscgan-images'


def to_bytes(pixels: np.ndarray | tf.Tensor) -> np.ndarray:
    """Pixels in [0, 1], [..., C], as uint8, rounded to nearest."""
    return np.uint8(np.clip(np.asarray(pixels, np.float32), 0, 1) * 255 + 0.5)


def check_folder(folder: PathLike, overwrite: bool = False) -> None:
    """Refuses a folder that could not be written in the end; called before any work.

    Args:
        folder: the folder that will be written.
        overwrite: whether it may exist, if it holds nothing but what `write_folder` wrote.

    Raises:
        UserError: it exists and may not, or its own folder is missing or read-only.
    """
    check_local(folder)
    folder = os.path.abspath(folder)
    parent = os.path.dirname(folder)
    check_parent(folder)
    # In a container this process may have the number of the one that was killed.
    name = os.path.basename(folder)
    replaced = [entry.path for entry in leftovers(parent, name, 'replaced')]
    for old in {*replaced, _old_name(folder)}:
        if not os.path.lexists(folder) and _foreign_entry(old) is None:
            os.rename(old, folder)  # the process was killed before the new one had its place
        elif os.path.isdir(old) and _other_entry(old) is None:
            shutil.rmtree(old, ignore_errors=True)
    unfinished = [entry.path for entry in leftovers(parent, name)]
    for leftover in {*unfinished, partial_name(folder)}:
        if _foreign_entry(leftover) is None:
            shutil.rmtree(leftover, ignore_errors=True)
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise UserError(f'{folder}: exists already: pass --overwrite or another name.')
    foreign = _foreign_entry(folder)
    if foreign is not None:
        raise UserError(
            f'{folder}: not replaced, as {foreign} was not written by this program: '
            f'pass another name.'
        )


def write_folder(
    folder: PathLike,
    batches: Iterable[Batch],
    count: int,
    num_classes: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes images as `<class>/<number>.png`; without labels, as `<number>.png`.

    The names of classes are numbers with leading zeros, and classes without images have a folder
    too. So whoever reads the folders in alphabetical order (Keras, `FileSource`) finds the labels.

    Never more than a batch is in memory. The images are collected in a folder beside, which gets
    its name when all are there; an interrupted call leaves nothing.

    Args:
        folder: the folder.
        batches: of a source, of 1 or 3 channels.
        count: number of images; the first ones of `batches`.
        num_classes: number of classes; None for four digits, and folders up to the highest label.
        overwrite: see `check_folder`.

    Raises:
        UserError: see `check_folder`; other channels; too few images; a full disk.
    """
    check_folder(folder, overwrite)
    folder = os.path.abspath(folder)
    temporary = partial_name(folder)
    try:
        os.mkdir(temporary)
        try:
            with open(os.path.join(temporary, _MARKER), 'w', encoding='utf-8') as file:
                file.write('Written by zscgan_tf, which may replace this folder.\n')
            _write_images(temporary, batches, count, num_classes)
            _move_into_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f'{folder}: could not be written ({error.strerror or error}); what was there before '
            f'is unchanged: make room or pass another name.'
        ) from error


def write_npz(
    path: PathLike,
    batches: Iterable[Batch],
    count: int,
    overwrite: bool = False,
) -> None:
    """Writes images as an .npz: `images`, uint8 [N, H, W, C], and `labels`, int32 [N], if known.

    Args:
        path: the file.
        batches, count: as in `write_folder`; any number of channels.
        overwrite: whether the file may exist.

    Raises:
        UserError: see `atomic_files.check_output`; more than a gibibyte; too few images.
    """
    path = os.fspath(path)
    if not path.lower().endswith('.npz'):
        raise UserError(f'{path}: the name of this file must end in .npz.')
    check_output(path, overwrite)
    packed = io.BytesIO()
    np.savez(packed, **_collect(path, batches, count))
    write_atomically(path, packed.getbuffer(), overwrite)


def _write_images(folder, batches, count, num_classes):
    digits = len(str(count - 1))
    class_digits = len(str(num_classes - 1)) if num_classes else 4

    def class_folder(label):
        path = os.path.join(folder, f'{label:0{class_digits}d}')
        os.makedirs(path, exist_ok=True)
        return path

    number = classes = 0
    for images, labels in _first(batches, count):
        if labels is not None:
            classes = max(classes, num_classes or 0, *(labels + 1))
            if classes > 10**class_digits:  # names would not be in the order of the numbers
                raise UserError(
                    f'label {classes - 1} needs more digits than num_classes={num_classes} has: '
                    f'pass the number of classes.'
                )
        for i, image in enumerate(images):
            where = folder if labels is None else class_folder(labels[i])
            _to_image(image).save(os.path.join(where, f'{number:0{digits}d}.png'))
            number += 1
    for label in range(classes):
        class_folder(label)


def _collect(path, batches, count):
    """The arrays of an .npz, by name; their size is checked as soon as one image is known."""
    parts = []
    for images, labels in _first(batches, count):
        image_bytes = images[0].nbytes
        if image_bytes * count > NPZ_LIMIT_BYTES:
            raise UserError(
                f'{path}: {count} images are {image_bytes * count / 2**30:.1f} GiB, too much for '
                f'an .npz: ask for at most {NPZ_LIMIT_BYTES // image_bytes} images, or for a '
                f'folder.'
            )
        parts.append((images, labels))
    images, labels = zip(*parts, strict=True)
    arrays = {'images': np.concatenate(images)}
    if labels[0] is not None:
        arrays['labels'] = np.concatenate(labels).astype(np.int32)
    return arrays


def _first(batches, count):
    """The first images of batches, as (uint8 [b, H, W, C], labels [b] or None)."""
    if count < 1:
        raise UserError(f'{count} images: ask for at least one.')
    missing = count
    for pixels, labels in with_progress(take(batches, count), count, 'writing'):
        yield to_bytes(pixels), None if labels is None else np.asarray(labels)
        missing -= len(pixels)
    if missing:
        raise UserError(
            f'{count} images were asked for, but the source has only {count - missing}.'
        )


def _to_image(image):
    if image.shape[-1] not in (1, 3):
        raise UserError(
            f'images of {image.shape[-1]} channels do not fit into PNG files: write an .npz.'
        )
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _foreign_entry(folder):
    """The first thing in a folder that `write_folder` did not write, or None."""
    if os.path.islink(folder) or not os.path.isfile(os.path.join(folder, _MARKER)):
        return 'it'
    return _other_entry(folder)


def _other_entry(folder):
    """The first thing in a folder that is neither the marker nor an image as it is named here."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False) and re.fullmatch('[0-9]+', entry.name):
            names = [f'{entry.name}/{inner.name}' for inner in os.scandir(entry.path)]
        else:
            names = [entry.name]
        for name in names:
            if name != _MARKER and not re.fullmatch(r'([0-9]+/)?[0-9]+\.png', name):
                return name
    return None


def _old_name(folder):
    """Where this process puts a folder that it replaces."""
    return f'{folder}.{os.getpid()}.replaced'


def _move_into_place(temporary, folder):
    if not os.path.lexists(folder):
        os.rename(temporary, folder)
        return
    old = _old_name(folder)
    os.rename(folder, old)
    try:
        os.rename(temporary, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    with contextlib.suppress(OSError):
        shutil.rmtree(old)
