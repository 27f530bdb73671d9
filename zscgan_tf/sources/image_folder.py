"""A folder of images: which files it has, their classes, and one decoded image.

Classes come from, in this order:
    labels.csv or labels.txt in the folder, lines of `filename,label`: the listed images are used;
    folders by class: names that begin with a number (`7`, `0007`, `0007_fox`) are that class,
        otherwise the sorted names are the classes 0, 1, ...;
    nowhere: images without labels.
"""

import os
import re
import struct

import numpy as np
from PIL import Image

from zscgan_tf.errors import UserError
from zscgan_tf.sources.fitting import PIXEL_LIMIT

LABEL_FILES = ('labels.csv', 'labels.txt')
SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF', 'WEBP', 'TIFF', 'PPM')
_DECODING_ERRORS = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    EOFError,
    struct.error,
)


def list_images(folder):
    """The images of a folder.

    Args:
        folder: a path.

    Returns:
        paths, sorted by class and name (or as in the label file); labels, int32 [N], or None.

    Raises:
        UserError: no images, or labels that can't be understood.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f'{folder}: not a readable folder ({error.strerror}).') from error
    entries = [entry for entry in entries if not entry.name.startswith('.')]
    for entry in entries:
        if entry.name in LABEL_FILES:
            return _read_label_file(folder, entry.path)
    images = [entry.path for entry in entries if _is_image(entry)]
    classes = {entry.name: _images_in(entry) for entry in entries if entry.is_dir()}
    classes = {name: paths for name, paths in classes.items() if paths}
    if images and classes:
        raise UserError(
            f'{folder}: holds images beside folders of images: put every image into the folder '
            f'of its class, or list them in {LABEL_FILES[0]}.'
        )
    if not images and not classes:
        raise UserError(f'{folder}: no images ({", ".join(SUFFIXES)}), nor folders of images.')
    if images:
        return images, None
    numbers = _class_numbers(folder, list(classes))
    by_class = sorted(classes, key=numbers.get)
    paths = [path for name in by_class for path in classes[name]]
    labels = np.repeat([numbers[name] for name in by_class], [len(classes[n]) for n in by_class])
    return paths, labels.astype(np.int32)


def _is_image(entry):
    return entry.is_file() and entry.name.lower().endswith(SUFFIXES)


def _images_in(folder):
    return sorted(entry.path for entry in os.scandir(folder) if _is_image(entry))


def _class_numbers(folder, names):
    matches = {name: re.fullmatch(r'([0-9]{1,9})(_.*)?', name) for name in names}
    if not all(matches.values()):
        return {name: number for number, name in enumerate(sorted(names))}
    numbers = {name: int(match[1]) for name, match in matches.items()}
    if len(set(numbers.values())) < len(numbers):
        raise UserError(f'{folder}: two folders have the same class number: {sorted(names)[:6]}.')
    return numbers


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
        name, label = name.strip().strip('"'), label.strip()
        if number == 1 and label.lower() in ('label', 'class'):
            continue  # the header
        if not name or not label.isdecimal():
            raise UserError(f'{path}, line {number}: not `filename,label`: {line.strip()[:60]!r}.')
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


def decode(path, channels):
    """One image, its size checked before it is decoded.

    Args:
        path: the file.
        channels: 1 (gray) or 3 (RGB).

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
            if image.mode.startswith(('I', 'F')):
                raise UserError(
                    f'{path}: more than 8 bits a channel: save it with 8, or use an .npz file.'
                )
            pixels = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except _DECODING_ERRORS as error:
        raise UserError(f'{path}: not a readable image ({_short(error)}): remove it.') from error
    return pixels.reshape(height, width, channels)


def _too_large(path, size):
    return UserError(
        f'{path}: an absurd size, it is not decoded ({size}; at most {PIXEL_LIMIT} are): remove it.'
    )


def _short(error):
    return str(error).split('\n')[0] or type(error).__name__
