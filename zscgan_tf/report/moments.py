"""How far images are from the moments that the batch norms of a teacher have stored, by layer."""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from zscgan_tf.methods.zscgan import gaussian_kl
from zscgan_tf.teacher.tap import build_tap
from zscgan_tf.teacher.teacher import Teacher

_IMAGES_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class MomentDistance:
    """One batch norm and the images.

    Attributes:
        layer: the batch norm's name.
        channels: number of its channels.
        divergence: KL divergence of the images' moments from the stored ones, mean over channels,
            nats: this layer's share of the BNS loss (paper, section 2.2) over its channels.
    """

    layer: str
    channels: int
    divergence: float


def bns_loss_of(distances: list[MomentDistance]) -> float:
    """The BNS loss of images (paper, section 2.2): the sum over batch norms and channels, nats."""
    return sum(found.channels * found.divergence for found in distances)


def loss_by_layer(distances: list[MomentDistance]) -> dict[str, float]:
    """The share of each batch norm in the BNS loss, nats; of a shared one, of each use."""
    losses, uses = {}, collections.Counter()
    for found in distances:
        uses[found.layer] += 1
        again = f' (use {uses[found.layer]})' if uses[found.layer] > 1 else ''
        losses[f'{found.layer}{again}'] = found.channels * found.divergence
    return losses


def moment_distances(
    teacher: Teacher, batches: Iterable[np.ndarray | tf.Tensor]
) -> list[MomentDistance]:
    """The distance of images from every batch norm's stored moments.

    Args:
        teacher: a `Teacher`.
        batches: images in batches of pixels, [B, H, W, C]; the moments are those of all of them.
    """
    tap, stored = build_tap(teacher.logits_model)
    run = tf.function(lambda x: tap(x, training=False), reduce_retracing=True)
    sums = [np.zeros((2, len(moments.mean))) for moments in stored]
    counts = np.zeros(len(stored))
    for part in _parts(batches):
        _, *inputs = run(teacher.input_spec.to_inputs(tf.convert_to_tensor(part)))
        for number, x in enumerate(inputs):
            x = np.float64(x).reshape(-1, x.shape[-1])
            counts[number] += len(x)
            # Around the stored means, which keeps the digits of small variances.
            x = x - stored[number].mean
            sums[number] += [x.sum(axis=0), np.square(x).sum(axis=0)]
    found = []
    for moments, (first, second), count in zip(stored, sums, counts, strict=True):
        shift, epsilon = first / count, moments.epsilon
        variance = np.maximum(second / count - shift**2, 0)
        divergences = gaussian_kl(
            shift, variance + epsilon, np.zeros_like(shift), np.float64(moments.variance) + epsilon
        )
        found.append(MomentDistance(moments.layer, len(shift), float(np.mean(divergences))))
    return found


def _parts(batches):
    for pixels in batches:
        for start in range(0, len(pixels), _IMAGES_AT_ONCE):
            yield pixels[start : start + _IMAGES_AT_ONCE]
