"""Sources: objects that make or read batches of images; `Source` says what all of them offer."""

from collections.abc import Iterator
from typing import Any, Protocol

from zscgan_tf.sources.batches import Batch


class Source(Protocol):
    """What every source offers. The same seed gives the same batches.

    Attributes:
        image_shape: (H, W, C).
        batch_size: B, images a batch.
        has_labels: whether the images come with their classes.
        num_classes: number of classes, as far as the source knows it, or None.
        description: JSON values that say which images these are; `kind` names the source. What is
            made of the images belongs to this description.
    """

    image_shape: tuple[int, int, int]
    batch_size: int
    has_labels: bool
    num_classes: int | None
    description: dict[str, Any]

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Endless (pixels, labels) from batch number `start`.

        Pixels are float32 in [0, 1], [B, H, W, C]; labels are int32, [B], or None.
        `batches(start)` gives what `batches()` gives after `start` batches.
        """


class StoredSource(Source, Protocol):
    """A source of a finite number of stored images.

    Attributes:
        image_count: number of images.
    """

    image_count: int

    def one_pass(self) -> Iterator[Batch]:
        """Every image once, in stored order; the last batch may be short."""


def at_most(source: Source, count: int) -> int:
    """`count` images, or all of a source that has fewer: behind its last image it begins again."""
    stored = getattr(source, 'image_count', None)
    return count if stored is None else min(count, stored)


def description_of(source: Source) -> dict[str, Any]:
    """What a source says of its images; one of a user's own need not say it."""
    return {'kind': type(source).__name__, **(getattr(source, 'description', None) or {})}
