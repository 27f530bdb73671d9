"""Draws grids of images: rows of one class each, panels of several origins beside each other."""

import io
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zscgan_tf.atomic_files import PathLike, write_atomically
from zscgan_tf.errors import UserError
from zscgan_tf.sources import StoredSource
from zscgan_tf.sources.writing import to_bytes

if typing.TYPE_CHECKING:
    from zscgan_tf.sources.generator import GeneratorSource

# Smaller images are enlarged by a whole number, pixel by pixel: what is seen is what there is.
SMALLEST_TILE = 56
_GAP, _ROW_GAP, _MARGIN, _LABEL_GAP, _PANEL_GAP = 2, 6, 8, 6, 14
_BACKGROUND, _INK = (255, 255, 255), (70, 70, 70)
# Around each image: white images end there.
_FRAME = (150, 150, 150)


class Panel(NamedTuple):
    """One grid of a picture.

    Attributes:
        title: what stands above it, or ''.
        pixels: [N, H, W, C] in [0, 1], the images of row 0 first. Of more than three channels the
            first three are shown, of two the mean.
        columns: images a row.
    """

    title: str
    pixels: np.ndarray
    columns: int


def draw_grid(pixels: np.ndarray, columns: int, row_labels: Iterable[Any] = ()) -> Image.Image:
    """A grid of images as a picture, row by row, with the labels of rows at the left.

    Args:
        pixels, columns: see `Panel`.
        row_labels: texts, one a row; none leave them off.
    """
    return draw_panels([Panel('', pixels, columns)], row_labels)


def draw_panels(
    panels: Sequence[Panel],
    row_labels: Iterable[Any] = (),
    caption: str = '',
    font_size: int | None = None,
) -> Image.Image:
    """Grids of the same rows beside each other, as one picture.

    Args:
        panels: from left to right, all with images of one size.
        row_labels: see `draw_grid`.
        caption: a text below, which is broken into lines.
        font_size: in pixels; None for one that fits the images.

    Returns:
        The picture, white where nothing is drawn.
    """
    tiles = [_tiles(panel.pixels) for panel in panels]
    height, width = tiles[0].shape[1:3]
    rows = max(math.ceil(len(t) / p.columns) for t, p in zip(tiles, panels, strict=True))
    row_labels = [str(label) for label in row_labels]

    font = ImageFont.load_default(size=font_size or min(18, max(11, height // 4)))
    text_width = max((math.ceil(font.getlength(text)) for text in row_labels), default=0)
    line = round(1.4 * font.size)
    left = _MARGIN + (text_width + _LABEL_GAP if row_labels else 0)
    top = _MARGIN + (line if any(panel.title for panel in panels) else 0)
    widths = [panel.columns * (width + _GAP) - _GAP for panel in panels]
    right = left + sum(widths) + _PANEL_GAP * (len(panels) - 1) + _MARGIN
    lines = _wrapped(caption, font, right - 2 * _MARGIN)
    bottom = top + rows * (height + _ROW_GAP) - _ROW_GAP + _MARGIN
    text_height = len(lines) * line + _MARGIN if lines else 0
    picture = Image.new('RGB', (right, bottom + text_height), _BACKGROUND)
    draw = ImageDraw.Draw(picture)

    for row, text in enumerate(row_labels):
        middle = top + row * (height + _ROW_GAP) + height // 2
        draw.text((left - _LABEL_GAP, middle), text, fill=_INK, font=font, anchor='rm')
    for panel, images, panel_width in zip(panels, tiles, widths, strict=True):
        middle = (left + panel_width // 2, _MARGIN + line // 2 - 2)
        draw.text(middle, panel.title, fill=_INK, font=font, anchor='mm')
        for i, tile in enumerate(images):
            row, column = divmod(i, panel.columns)
            corner = (left + column * (width + _GAP), top + row * (height + _ROW_GAP))
            frame = (corner[0] - 1, corner[1] - 1, corner[0] + width, corner[1] + height)
            draw.rectangle(frame, outline=_FRAME)
            picture.paste(Image.fromarray(tile), corner)
        left += panel_width + _PANEL_GAP
    for number, text in enumerate(lines):
        draw.text((_MARGIN, bottom + number * line), text, fill=_INK, font=font)
    return picture


def write_grid(
    path: PathLike,
    pixels: np.ndarray,
    columns: int,
    row_labels: Iterable[Any] = (),
) -> None:
    """Writes `draw_grid` as a PNG file; an older one of that name is replaced."""
    write_picture(path, draw_grid(pixels, columns, row_labels))


def write_picture(path: PathLike, picture: Image.Image) -> None:
    """Writes a picture as a PNG file; an older one of that name is replaced."""
    file = io.BytesIO()
    picture.save(file, 'PNG', optimize=True)
    write_atomically(path, file.getvalue(), overwrite=True)


def draw_beside_real(
    generators: Mapping[str, 'GeneratorSource'],
    real: StoredSource,
    class_names: Sequence[str],
    *,
    columns: int,
    caption: str,
    font_size: int | None = None,
) -> Image.Image:
    """Images of generators beside a real image, a row a class.

    Args:
        generators: title -> generator of the same K classes.
        real: labelled images; the first of each class is shown.
        class_names: of all K classes, in their order.
        columns: generated images a row and generator.
        caption, font_size: see `draw_panels`.

    Raises:
        UserError: the real images have no labels, or there is none of some class.
    """
    classes = [c for c in range(len(class_names)) for _ in range(columns)]
    panels = [Panel('real', first_of_each_class(real, len(class_names)), 1)]
    panels += [
        Panel(title, source.images_of(classes), columns) for title, source in generators.items()
    ]
    return draw_panels(panels, class_names, caption, font_size)


def first_of_each_class(source: StoredSource, num_classes: int) -> np.ndarray:
    """The first stored image of each class, [K, H, W, C].

    Args:
        source: labelled images.
        num_classes: K.

    Raises:
        UserError: the images have no labels, or there is none of some class.
    """
    found = {}
    for pixels, labels in source.one_pass() if source.has_labels else ():
        for image, label in zip(np.asarray(pixels), np.asarray(labels), strict=True):
            found.setdefault(int(label), image)
        if all(c in found for c in range(num_classes)):
            return np.stack([found[c] for c in range(num_classes)])
    missing = next(c for c in range(num_classes) if c not in found)
    raise UserError(
        f'There is no real image of class {missing}: pass labelled images of all {num_classes} '
        f'classes.'
    )


def _wrapped(text, font, width):
    """A text as lines that are at most `width` pixels wide, where words allow it."""
    lines = []
    for word in text.split():
        longer = f'{lines[-1]} {word}' if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _tiles(pixels):
    """Images as they are pasted: uint8, [N, H, W, 3], enlarged where they are small."""
    tiles = _to_rgb(np.asarray(pixels, np.float32))
    scale = max(1, math.ceil(SMALLEST_TILE / max(tiles.shape[1:3])))
    return tiles.repeat(scale, axis=1).repeat(scale, axis=2)


def _to_rgb(pixels):
    """Pixels [N, H, W, C] of any number of channels as uint8 [N, H, W, 3]; NaN is black."""
    if pixels.shape[-1] < 3:
        pixels = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1)
    return to_bytes(np.nan_to_num(pixels[..., :3]))
