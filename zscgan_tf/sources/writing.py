"""Images of a source on disk: a folder of PNGs by class, streamed, or a small .npz.

`sources.files.FileSource` reads both back.
"""

import contextlib
import io
import os
import re
import shutil

import numpy as np
import tqdm
from PIL import Image

from zscgan_tf.atomic_files import (
    check_local,
    check_output,
    leftovers,
    partial_name,
    write_atomically,
)
from zscgan_tf.errors import UserError

NPZ_LIMIT_BYTES = 2**30

# Says that a folder was written here and may be replaced; sources skip hidden files.
_MARKER = '.zscgan-images'


def to_bytes(pixels):
    """Pixels in [0, 1], [..., C], as uint8, rounded to nearest."""
    return np.uint8(np.clip(np.asarray(pixels, np.float32), 0, 1) * 255 + 0.5)


def check_folder(folder, overwrite=False):
    """Refuses a folder that could not be written in the end; called before any work.

    Args:
        folder: the folder that will be written.
        overwrite: whether it may exist, if it holds nothing but what `write_folder` wrote.

    Raises:
        UserError: it exists and may not, or its own folder is missing or read-only.
    """
    check_local(folder)
    folder = _strip(folder)
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        raise UserError(f'{folder}: the folder {parent} does not exist: make it, or pass another.')
    # In a container this process may have the number of the one that was killed.
    unfinished = [entry.path for entry in leftovers(parent, os.path.basename(folder))]
    for leftover in {*unfinished, partial_name(folder)}:
        if _foreign_entry(leftover) is None:
            shutil.rmtree(leftover, ignore_errors=True)
    check_output(partial_name(folder))  # a file there could be written
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


def write_folder(folder, batches, count, num_classes=None, overwrite=False):
    """Writes images as `<class>/<number>.png`; without labels, as `<number>.png`.

    The names of classes are numbers with leading zeros, and classes without images have a folder
    too. So whoever reads the folders in alphabetical order (Keras, `FileSource`) finds the labels.

    Never more than a batch is in memory. The images are collected in a folder beside, which gets
    its name when all are there; an interrupted call leaves nothing.

    Args:
        folder: the folder.
        batches: (pixels [B, H, W, C], labels [B] or None), C = 1 or 3; see `zscgan_tf.sources`.
        count: number of images; the first ones of `batches`.
        num_classes: number of classes; None for four digits, and folders up to the highest label.
        overwrite: see `check_folder`.

    Raises:
        UserError: see `check_folder`; other channels; too few images; a full disk.
    """
    check_folder(folder, overwrite)
    folder = _strip(folder)
    temporary = partial_name(folder)
    class_digits = len(str(num_classes - 1)) if num_classes else 4
    try:
        os.mkdir(temporary)
        try:
            with open(os.path.join(temporary, _MARKER), 'w', encoding='utf-8') as file:
                file.write('Written by zscgan_tf, which may replace this folder.\n')
            number = classes = 0
            for images, labels in _first(batches, count):
                if labels is not None:
                    classes = max(classes, num_classes or 0, *(labels + 1))
                for i, image in enumerate(images):
                    where = temporary
                    if labels is not None:
                        where = os.path.join(temporary, f'{labels[i]:0{class_digits}d}')
                        os.makedirs(where, exist_ok=True)
                    name = f'{number:0{len(str(count - 1))}d}.png'
                    _to_image(image).save(os.path.join(where, name))
                    number += 1
            for label in range(classes):
                os.makedirs(os.path.join(temporary, f'{label:0{class_digits}d}'), exist_ok=True)
            _move_into_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f'{folder}: could not be written ({error.strerror or error}); what was there before '
            f'is unchanged: make room or pass another name.'
        ) from error


def write_npz(path, batches, count, overwrite=False):
    """Writes images as an .npz: `images`, uint8 [N, H, W, C], and `labels`, int32 [N], if known.

    Args:
        path: the file.
        batches, count: as in `write_folder`; any number of channels.
        overwrite: whether the file may exist.

    Raises:
        UserError: see `export.check_output`; more than a gibibyte; too few images.
    """
    if not os.fspath(path).endswith('.npz'):
        raise UserError(f'{os.fspath(path)}: the name of this file must end in .npz.')
    check_output(path, overwrite)
    arrays = {}
    position = 0
    for images, labels in _first(batches, count):
        if not arrays:
            image_bytes = images[0].nbytes
            if image_bytes * count > NPZ_LIMIT_BYTES:
                raise UserError(
                    f'{os.fspath(path)}: {count} images are {image_bytes * count / 2**30:.1f} GiB, '
                    f'too much for an .npz: ask for at most {NPZ_LIMIT_BYTES // image_bytes} '
                    f'images, or for a folder.'
                )
            arrays['images'] = np.empty((count, *images.shape[1:]), np.uint8)
            if labels is not None:
                arrays['labels'] = np.empty(count, np.int32)
        part = slice(position, position + len(images))
        arrays['images'][part] = images
        if labels is not None:
            arrays['labels'][part] = labels
        position += len(images)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    write_atomically(path, packed.getbuffer(), overwrite)


def _first(batches, count):
    """The first images of batches, as (uint8 [b, H, W, C], labels [b] or None)."""
    if count < 1:
        raise UserError(f'{count} images: ask for at least one.')
    missing = count
    with tqdm.tqdm(total=count, unit='image', disable=None) as progress:
        for pixels, labels in batches:
            images = to_bytes(pixels[:missing])
            yield images, None if labels is None else np.asarray(labels)[:missing]
            missing -= len(images)
            progress.update(len(images))
            if not missing:
                return
    raise UserError(f'{count} images were asked for, but the source has only {count - missing}.')


def _to_image(image):
    if image.shape[-1] not in (1, 3):
        raise UserError(
            f'images of {image.shape[-1]} channels do not fit into PNG files: write an .npz.'
        )
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _strip(folder):
    """The absolute path, so that a closing slash or `.` does not hide the folder's name."""
    return os.path.abspath(folder)


def _foreign_entry(folder):
    """The first thing in a folder that `write_folder` did not write, or None."""
    if os.path.islink(folder) or not os.path.isfile(os.path.join(folder, _MARKER)):
        return 'it'
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False) and re.fullmatch('[0-9]+', entry.name):
            names = [f'{entry.name}/{inner.name}' for inner in os.scandir(entry.path)]
        else:
            names = [entry.name]
        for name in names:
            if name != _MARKER and not re.fullmatch(r'([0-9]+/)?[0-9]+\.png', name):
                return name
    return None


def _move_into_place(temporary, folder):
    if not os.path.lexists(folder):
        os.rename(temporary, folder)
        return
    old = f'{folder}.{os.getpid()}.old'
    os.rename(folder, old)
    try:
        os.rename(temporary, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    with contextlib.suppress(OSError):
        shutil.rmtree(old)
