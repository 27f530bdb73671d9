"""Functions over batches of images: the first images, a progress bar, checks."""

from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.progress import Progress
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.teacher import Teacher

# Pixels, float32 in [0, 1], [B, H, W, C], and labels, integers, [B], or None.
Batch = tuple[np.ndarray | tf.Tensor, np.ndarray | tf.Tensor | None]

_ROUNDING = 1e-3  # a resize or a decoder may round beyond [0, 1]


def take(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The first `count` images of batches; the last batch may be short."""
    for pixels, labels in batches:
        size = min(count, len(pixels))
        yield pixels[:size], None if labels is None else labels[:size]
        count -= size
        if not count:
            return


def with_progress(
    batches: Iterable[Any], total: int | None, description: str, file: IO[str] | None = None
) -> Iterator[Any]:
    """Yields batches, and tells the progress by the images of each when they have been used.

    Args:
        batches: arrays of images, or tuples that begin with one, such as a `Batch`.
        total: number of images, or None.
        description: what is done with them.
        file: where the progress is told; None for stderr and the log.
    """
    with Progress(description, total, 'images', file=file) as progress:
        for batch in batches:
            yield batch
            progress.update(len(batch[0] if isinstance(batch, tuple) else batch))


def check_pixels(pixels: np.ndarray | tf.Tensor, input_spec: InputSpec) -> np.ndarray:
    """A batch of pixels as float32 array in [0, 1], [B, H, W, C].

    Raises:
        UserError: the batch is empty, has another shape or type than the teacher's images, or has
            values that are not finite, or beyond [0, 1] by more than rounding.
    """
    pixels = np.asarray(pixels)
    shape = input_spec.image_shape
    if pixels.ndim != 4 or pixels.shape[1:] != shape or not len(pixels):
        raise UserError(
            f'A batch of images has the shape {list(pixels.shape)}, but the teacher takes '
            f'[batch, {", ".join(map(str, shape))}]: pass images of its size.'
        )
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UserError(
            f'A batch of images holds {pixels.dtype}: pass pixels in [0, 1] as float32.'
        )
    if not np.all(np.isfinite(pixels)):
        raise UserError(
            'A batch of images holds values that are not finite: look at the source of the images '
            '(a generator whose training diverged?).'
        )
    low, high = pixels.min(), pixels.max()
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise UserError(
            f'A batch of images holds pixels from {low:.4g} to {high:.4g}: yield pixels in [0, 1], '
            f'before any preprocessing.'
        )
    if low < 0 or high > 1:
        pixels = np.clip(pixels, 0, 1)
    return pixels.astype(np.float32, copy=False)


def check_batch(
    batch: Batch, source: Any, teacher: Teacher, name: str, reads_labels: bool = True
) -> Batch:
    """A batch of a source as float32 pixels and int32 labels, or None.

    Args:
        batch: what `source.batches` yielded.
        source: a `Source`, which says the size of a batch, and whether there are labels.
        teacher: the `Teacher`.
        name: of the source, for messages.
        reads_labels: whether the labels must be classes of the teacher.

    Raises:
        UserError: no pair; see `check_pixels`; another number of images than `batch_size`; labels
            although `has_labels` is false, or the reverse; labels that are no classes of the
            teacher.
    """
    try:
        pixels, labels = batch
    except (TypeError, ValueError) as error:
        raise UserError(
            f'{name}: a batch is no pair of pixels and labels: yield (pixels, labels), or '
            f'(pixels, None).'
        ) from error
    try:
        pixels = check_pixels(pixels, teacher.input_spec)
    except UserError as error:
        raise UserError(f'{name}: {error}') from error
    if len(pixels) != source.batch_size:
        raise UserError(
            f'{name}: a batch has {len(pixels)} images, and batch_size is {source.batch_size}: '
            f'yield batches of that size.'
        )
    if (labels is not None) != bool(source.has_labels):
        raise UserError(
            f'{name}: has_labels is {source.has_labels}, and the labels of a batch are '
            f'{"missing" if labels is None else "there"}: make both agree.'
        )
    if labels is None:
        return pixels, None
    labels, classes = np.asarray(labels), teacher.num_classes
    whole = labels.shape == (len(pixels),) and np.issubdtype(labels.dtype, np.integer)
    if not whole or (reads_labels and (labels.min() < 0 or labels.max() >= classes)):
        raise UserError(
            f'{name}: labels are to be whole numbers from 0 to {classes - 1}, one an image.'
        )
    return pixels, labels.astype(np.int32)


def check_labels(labels: np.ndarray | tf.Tensor, images: int, teacher: Teacher) -> np.ndarray:
    """The labels of a batch as int64 array, [images].

    Raises:
        UserError: another number of labels, or one that is no class of the teacher.
    """
    labels = np.asarray(labels)
    if labels.shape != (images,):
        raise UserError(
            f'A batch of {images} images has labels of the shape {list(labels.shape)}: pass one '
            f'label an image.'
        )
    wrong = labels[(labels < 0) | (labels >= teacher.num_classes)]
    if len(wrong):
        raise _no_class(wrong[0], teacher)
    return labels.astype(np.int64)


def check_classes(num_classes: int, teacher: Teacher) -> None:
    """Refuses images of more classes than the teacher has, before any work.

    Args:
        num_classes: one more than the images' highest label.
        teacher: the float model; where it gives independent labels, images have any classes.

    Raises:
        UserError: the images have more classes.
    """
    if num_classes > teacher.num_classes and not teacher.has_independent_labels:
        raise _no_class(num_classes - 1, teacher)


def _no_class(label, teacher):
    return UserError(
        f'Label {label} is not a class of the teacher {teacher.name}, which has '
        f'{teacher.num_classes}: labels are 0 ... {teacher.num_classes - 1}.'
    )
