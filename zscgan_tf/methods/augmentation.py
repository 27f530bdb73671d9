"""Varies images while a student is distilled: flips and shifts, and blends of pairs."""

import collections.abc

import tensorflow as tf


def augment(pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Flips images left to right and shifts them by up to an eighth, each in its own way.

    A generator's images of one class look alike. Flips and shifts vary them at next to no cost.
    Edges are repeated.

    Args:
        pixels: [B, H, W, C].
        draws: [B, 3 or more] random integers of [0, 2^20): for rows, columns, and the flip.
    """
    height, width = pixels.shape[1:3]

    def shifted(size, numbers):  # [B, size]
        reach = max(1, size // 8)
        shift = numbers % (2 * reach + 1) - reach
        return tf.clip_by_value(tf.range(size)[None] + shift[:, None], 0, size - 1)

    columns = shifted(width, draws[:, 1])
    columns = tf.where(draws[:, 2:3] % 2 == 0, columns, width - 1 - columns)
    pixels = tf.gather(pixels, shifted(height, draws[:, 0]), axis=1, batch_dims=1)
    return tf.gather(pixels, columns, axis=2, batch_dims=1)


def mix(pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Blends each image with its neighbour, (0, 1), (2, 3) ..., by a random share of each.

    The teacher is sure of the class of a generated image. What a coarse student gets wrong lies
    between classes. The teacher says what a blend is (soft targets).

    Args:
        pixels: [B, H, W, C]; of an odd batch the last stays as it is.
        draws: [B] random integers of [0, 2^20), of which each pair's first counts.
    """
    even = pixels.shape[0] // 2 * 2
    share = tf.cast(draws[:even:2], tf.float32)[:, None, None, None] / 2**20
    first, second = pixels[:even:2], pixels[1:even:2]
    mixed = [share * first + (1 - share) * second, share * second + (1 - share) * first]
    mixed = tf.reshape(tf.stack(mixed, axis=1), [even, *pixels.shape[1:]])
    return tf.concat([mixed, pixels[even:]], axis=0)


def blends(
    batches: collections.abc.Iterable[tuple], seed: int
) -> collections.abc.Iterator[tuple[tf.Tensor, None]]:
    """Batches (pixels, None) of images blended by `mix`; the same ones of the same seed.

    Args:
        batches: iterable of (pixels [B, H, W, C], labels); labels say nothing of a blend.
        seed: integer.
    """
    for index, (pixels, _) in enumerate(batches):
        yield mix(tf.convert_to_tensor(pixels), draw_integers([len(pixels)], [seed, index])), None


def draw_integers(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
    """Random integers of [0, 2^20), as `augment` and `mix` take them; the same under XLA."""
    return tf.random.stateless_uniform(shape, seed, maxval=2**20, dtype=tf.int32, alg='philox')
