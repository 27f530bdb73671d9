"""Reads a folder of images: lists its files and their classes, and decodes single images.

Classes come from, in this order:
    labels.csv or labels.txt in the folder, lines of `filename,label`: the listed images are used;
    folders by class, with images in them or in folders below: their names in alphabetical order
        are the classes 0, 1, ..., as in Keras' `image_dataset_from_directory`; a folder without
        images is a class too, and numbers are sorted as texts (`10` before `2`; `02` before `10`);
    nowhere: images without labels.
"""

import logging
import os
import re
import struct

import numpy as np
from PIL import Image

from zscgan_tf.errors import UserError, first_line
from zscgan_tf.sources.fitting import PIXEL_LIMIT

logger = logging.getLogger(__name__)

LABEL_FILES = ('labels.csv', 'labels.txt')
SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF', 'WEBP', 'TIFF', 'PPM')
_CLASSES_IN_WARNING = 12
# SyntaxError is Pillow's word for a broken PNG.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def list_images(folder: str) -> tuple[list[str], np.ndarray | None]:
    """The images of a folder.

    Returns:
        paths, sorted by class and name (or as in the label file); labels, int32 [N], or None.

    Raises:
        UserError: no images, or labels that cannot be understood.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f'{folder}: not a readable folder ({error.strerror}).') from error
    entries = [entry for entry in entries if not entry.name.startswith('.')]
    for entry in entries:
        if entry.name in LABEL_FILES:
            return _read_label_file(folder, entry.path)
    try:
        images = [entry.path for entry in entries if entry.is_file() and _is_image(entry.name)]
        classes = {entry.name: _images_in(entry.path) for entry in entries if entry.is_dir()}
    except OSError as error:  # such as a link that leads to itself
        raise UserError(
            f'{error.filename or folder}: cannot be read ({error.strerror}): make it readable, or '
            f'move it elsewhere.'
        ) from error
    if not any(classes.values()):
        classes = {}
    if images and classes:
        raise UserError(
            f'{folder}: holds images beside folders of images: put every image into the folder '
            f'of its class, or list them in {LABEL_FILES[0]}.'
        )
    if not images and not classes:
        raise UserError(f'{folder}: no images ({", ".join(SUFFIXES)}), nor folders of images.')
    if images:
        return images, None
    _warn_of_numbers(folder, list(classes))
    paths = [path for found in classes.values() for path in found]
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in classes.values()])
    return paths, labels.astype(np.int32)


def _is_image(name):
    return not name.startswith('.') and name.lower().endswith(SUFFIXES)


def _images_in(folder):
    """The images of a class, those in folders below too, as Keras takes them."""

    def fail(error):
        raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        paths = [os.path.join(place, name) for name in sorted(names) if _is_image(name)]
        readable = [path for path in paths if os.path.isfile(path)]
        if len(readable) < len(paths):
            logger.warning(
                '%s: %d links or files lead to no image, and are left out.',
                place, len(paths) - len(readable),
            )  # fmt: skip
        found += readable
    return found


def _warn_of_numbers(folder, names):
    """Logs the class of each folder where the names of folders begin with other numbers."""
    matches = [re.match(r'[0-9]+(?![0-9])', name) for name in names]
    if all(matches) and any(int(match[0]) != i for i, match in enumerate(matches)):
        shown = [f'{name} is class {number}' for number, name in enumerate(names)]
        if len(shown) > _CLASSES_IN_WARNING:
            shown[_CLASSES_IN_WARNING:] = ['...']
        logger.warning(
            "%s: its folders are classes in alphabetical order, as in Keras, not by their names' "
            'numbers: %s', folder, ', '.join(shown),
        )  # fmt: skip


def _read_label_file(folder, path):
    try:
        with open(path, encoding='utf-8-sig') as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a readable text file ({error}).') from error
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(',' if ',' in line else ' ')
        name, label = (part.strip().strip('"') for part in (name, label))
        if number == 1 and label.lower() in ('label', 'class'):
            continue  # the header
        if not name or not label.isdecimal():
            raise UserError(
                f'{path}, line {number}: not `filename,label`, with the number of a class: '
                f'{line.strip()[:60]!r}; give the file another name if it lists no images.'
            )
        image = os.path.normpath(os.path.join(folder, name))
        if os.path.isabs(name) or os.path.relpath(image, folder).startswith('..'):
            raise UserError(f'{path}, line {number}: {name!r} lies outside of the folder.')
        if not os.path.isfile(image):
            raise UserError(f'{path}, line {number}: there is no image {name!r} in the folder.')
        paths.append(image)
        labels.append(int(label))
    if not paths:
        raise UserError(f'{path}: lists no images; its lines are `filename,label`.')
    if max(labels) >= 2**31:
        raise UserError(f'{path}: labels are class numbers, not {max(labels)}.')
    return paths, np.array(labels, np.int32)


def decode(path: str, channels: int) -> np.ndarray:
    """One image; its size is checked before it is decoded.

    Args:
        path: the file.
        channels: what the teacher takes: 1 (gray) or 3 (RGB).

    Returns:
        uint8, [h, w, channels].

    Raises:
        UserError: the file is broken, of an absurd size, or has more than 8 bits.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > PIXEL_LIMIT:
                raise _too_large(path, f'{width}x{height} pixels')
            if image.mode.startswith(('I', 'F')) or _has_16_bits(image):
                raise UserError(
                    f'{path}: more than 8 bits a channel: save it with 8, or use an .npz file.'
                )
            pixels = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except _DECODING_ERRORS as error:
        raise UserError(
            f'{path}: not a readable image ({first_line(error)}): remove it.'
        ) from error
    return pixels.reshape(*pixels.shape[:2], channels)  # some TIFFs are turned when decoded


def _has_16_bits(image):
    """Whether an opened file has 16 bits a channel, of which Pillow would take eight."""
    arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    if image.format == 'PPM':
        return any(isinstance(last, int) and last > 255 for *_, last in arguments)
    # BGR;16 of a BMP has 16 bits a pixel.
    modes = [str(mode) for mode, *_ in arguments if mode]
    return any(';16' in mode and not mode.startswith('BGR') for mode in modes)


def _too_large(path, size):
    return UserError(
        f'{path}: an absurd size, it is not decoded ({size}; at most {PIXEL_LIMIT} are): remove it.'
    )
