"""Draws grids of generated images.

python -m zscgan_tf.sources.pictures grids.png 'class loss=a/classes.png' 'both=b/classes.png'
"""

import io
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zscgan_tf.atomic_files import PathLike, write_atomically
from zscgan_tf.errors import UserError
from zscgan_tf.sources.writing import to_bytes

# Smaller images are enlarged by a whole number, pixel by pixel: what is seen is what there is.
SMALLEST_TILE = 56
_GAP, _MARGIN, _LABEL_GAP = 2, 8, 6
_BACKGROUND, _INK = (255, 255, 255), (70, 70, 70)


def draw_grid(
    pixels: np.ndarray, columns: int, row_labels: Iterable[Any] | None = None
) -> Image.Image:
    """A grid of images as a picture, row by row, with the labels of rows at the left.

    Args:
        pixels: [N, H, W, C] in [0, 1], the images of row 0 first. Of more than three channels the
            first three are shown, of two the mean.
        columns: images a row.
        row_labels: texts, one a row; None numbers the rows from 0, an empty list leaves them off.
    """
    tiles = _to_rgb(np.asarray(pixels, np.float32))
    scale = max(1, math.ceil(SMALLEST_TILE / max(tiles.shape[1:3])))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, _ = tiles.shape
    rows = math.ceil(count / columns)
    if row_labels is None:
        row_labels = range(rows)
    row_labels = [str(label) for label in row_labels]

    font = ImageFont.load_default(size=min(18, max(11, height // 4)))
    text_width = max((math.ceil(font.getlength(text)) for text in row_labels), default=0)
    left = _MARGIN + (text_width + _LABEL_GAP if row_labels else 0)
    size = (
        left + columns * (width + _GAP) - _GAP + _MARGIN,
        2 * _MARGIN + rows * (height + _GAP) - _GAP,
    )
    picture = Image.new('RGB', size, _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        corner = (left + column * (width + _GAP), _MARGIN + row * (height + _GAP))
        picture.paste(Image.fromarray(tile), corner)
    for row, text in enumerate(row_labels):
        middle = _MARGIN + row * (height + _GAP) + height // 2
        draw.text((left - _LABEL_GAP, middle), text, fill=_INK, font=font, anchor='rm')
    return picture


def write_grid(
    path: PathLike,
    pixels: np.ndarray,
    columns: int,
    row_labels: Iterable[Any] | None = None,
) -> None:
    """Writes `draw_grid` as a PNG file; an older one of that name is replaced."""
    file = io.BytesIO()
    draw_grid(pixels, columns, row_labels).save(file, 'PNG', optimize=True)
    write_atomically(path, file.getvalue(), overwrite=True)


def join_grids(grids: Sequence[tuple[str, PathLike]], height: int = 400) -> Image.Image:
    """Grids of several runs as one picture, beside each other under their titles.

    Args:
        grids: (title, path of a PNG file) of each.
        height: of every grid, in pixels.

    Raises:
        UserError: a file is no picture.
    """
    pictures = []
    for _, path in grids:
        try:
            picture = Image.open(path).convert('RGB')
        except OSError as error:
            raise UserError(f'{path}: not a readable picture ({error}).') from error
        pictures.append(picture.resize((round(picture.width * height / picture.height), height)))
    font = ImageFont.load_default(size=16)
    top = 16 + 2 * _MARGIN
    width = sum(picture.width for picture in pictures)
    joined = Image.new('RGB', (width, height + top), _BACKGROUND)
    draw = ImageDraw.Draw(joined)
    left = 0
    for (title, _), picture in zip(grids, pictures, strict=True):
        middle = left + picture.width // 2
        draw.text((middle, top // 2), title, fill=_INK, font=font, anchor='mm')
        joined.paste(picture, (left, top))
        left += picture.width
    return joined


def main(arguments: list[str]) -> None:
    """Joins grids: the file to write, then `title=path` of each."""
    output, *grids = arguments
    file = io.BytesIO()
    join_grids([grid.split('=', 1) for grid in grids]).save(file, 'PNG', optimize=True)
    write_atomically(output, file.getvalue(), overwrite=True)


def _to_rgb(pixels):
    """Pixels [N, H, W, C] of any number of channels as uint8 [N, H, W, 3]; NaN is black."""
    if pixels.shape[-1] < 3:
        pixels = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1)
    return to_bytes(np.nan_to_num(pixels[..., :3]))


if __name__ == '__main__':
    main(sys.argv[1:])
