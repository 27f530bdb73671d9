"""The order in which stored images are handed out: seeded, and balanced over classes."""

from collections.abc import Iterator

import numpy as np


def epoch_order(count: int, labels: np.ndarray | None, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the images, in which the classes take turns where they are known.

    With labels, any beginning of the permutation holds every class equally often, give or take
    one image, until a class has no more images.

    Args:
        count: number of images, N.
        labels: integers, [N], or None.
        seed, epoch: integers >= 0; each pair has its own permutation.

    Returns:
        Indices, [N].
    """
    permutation = np.random.default_rng([seed, epoch]).permutation(count)
    if labels is None:
        return permutation
    labels = np.asarray(labels)[permutation]
    by_class = np.argsort(labels, kind='stable')
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(count, np.int64)  # [N], how many images of its class come before an image
    turn[by_class] = np.arange(count) - np.repeat(starts, sizes)
    return permutation[np.argsort(turn, kind='stable')]


def index_batches(
    count: int, labels: np.ndarray | None, batch_size: int, seed: int, start: int = 0
) -> Iterator[np.ndarray]:
    """Endless batches of indices: one `epoch_order` after the other, cut into batches.

    Args:
        count, labels, seed: as in `epoch_order`.
        batch_size: B.
        start: number of the first batch.

    Yields:
        Indices, [B]; the next epoch begins within a batch where B does not divide the images.
    """
    position = start * batch_size
    epoch = None
    while True:
        batch = []
        while len(batch) < batch_size:
            if position // count != epoch:
                epoch = position // count
                order = epoch_order(count, labels, seed, epoch)
            first = position % count
            part = order[first : first + batch_size - len(batch)]
            batch.extend(part)
            position += len(part)
        yield np.array(batch)


def consecutive_batches(count: int, batch_size: int) -> Iterator[np.ndarray]:
    """Batches of the indices 0...N-1; the last batch may be short."""
    for start in range(0, count, batch_size):
        yield np.arange(start, min(start + batch_size, count))
