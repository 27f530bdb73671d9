"""Fits a stored image of any size, uint8 or float, to the shape that a teacher takes."""

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError

# The common evaluation on ImageNet: 224 of 256. Tiny images are not cropped.
SHORT_SIDE_RATIO = 256 / 224
SMALLEST_CROPPED_SIDE = 64

# A larger image, stored or resized, is a mistake or an attack.
PIXEL_LIMIT = 64 * 2**20

# Luma, ITU-R 601, as Pillow's mode L.
GRAY_WEIGHTS = np.float32([0.299, 0.587, 0.114])


def check_short_side(resize_short_side: int | None, image_size: tuple[int, int]) -> int:
    """The length to which an image's short side is resized before its centre is cut out.

    Args:
        resize_short_side: None for the common one of images of this size.
        image_size: (height, width) that the teacher takes.

    Raises:
        UserError: it is shorter than the teacher's images.
    """
    side = min(image_size)
    if resize_short_side is None:
        return round(side * SHORT_SIDE_RATIO) if side >= SMALLEST_CROPPED_SIDE else side
    if resize_short_side < side:
        raise UserError(
            f'--resize_short_side={resize_short_side} is shorter than the {side} pixels that the '
            f'teacher takes: pass at least {side}.'
        )
    return resize_short_side


def fit(image: np.ndarray, image_shape: tuple[int, int, int], short_side: int) -> np.ndarray:
    """Resizes an image (bilinear, antialiased), cuts out its centre and converts it to float.

    An image of exactly the teacher's size is taken as it is. Of any other the short side becomes
    `short_side` long. Where the teacher's images are not square, the image becomes so large that it
    covers the teacher's size times `short_side` / the teacher's short side.

    Args:
        image: [h, w, c], uint8, or float in [0, 1].
        image_shape: (H, W, C) of the teacher.
        short_side: at least min(H, W).

    Returns:
        Pixels, float32 in [0, 1], [H, W, C].

    Raises:
        UserError: the image has a number of channels that cannot become the teacher's, or is so
            narrow that it would have to be enlarged absurdly.
    """
    height, width, channels = image_shape
    highest = np.float32(255 if image.dtype == np.uint8 else 1)
    image = _to_channels(image, channels)
    if image.shape != tuple(image_shape):
        old_height, old_width, _ = image.shape
        scale = short_side / min(height, width) * max(height / old_height, width / old_width)
        new_height = max(height, round(old_height * scale))
        new_width = max(width, round(old_width * scale))
        if new_height * new_width > PIXEL_LIMIT:
            raise UserError(f'an image of {old_width}x{old_height} pixels is too narrow to fit.')
        image = tf.image.resize(image, (new_height, new_width), antialias=True).numpy()
        top, left = (new_height - height) // 2, (new_width - width) // 2
        image = image[top : top + height, left : left + width]
    return np.clip(np.asarray(image, np.float32) / highest, 0, 1)


def _to_channels(image, channels):
    found = image.shape[-1]
    if found == channels:
        return image
    if found == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    if found == 3 and channels == 1:
        return image @ GRAY_WEIGHTS[:, None]
    raise UserError(f'images of {found} channels do not fit a teacher of {channels} channels.')
