"""Runs a function over batches of images, with a progress bar: how all calibration sees images."""

import collections.abc

import numpy as np
import tensorflow as tf

from zscgan_tf.sources.batches import with_progress


def observe(
    function: collections.abc.Callable[[tf.Tensor], object],
    images: collections.abc.Callable[[], collections.abc.Iterable[np.ndarray]],
    description: str,
    total: int | None = None,
) -> collections.abc.Iterator[list[np.ndarray]]:
    """Yields what a function gives for each batch of images.

    Args:
        function: of pixels, [B, H, W, C]; returns tensors, in any structure. It is compiled.
        images: a function that returns batches of pixels.
        description: of the progress bar.
        total: number of images, for the progress bar.

    Yields:
        The tensors of one batch as arrays.
    """
    run = tf.function(function)
    for pixels in with_progress(images(), total, description):
        yield [x.numpy() for x in tf.nest.flatten(run(tf.convert_to_tensor(pixels)))]
