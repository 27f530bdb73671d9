"""Noise as a source of images: the data-free calibration that any other must beat."""

import itertools
from collections.abc import Iterator

import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.options import COUNT, SEED, check
from zscgan_tf.sources.batches import Batch
from zscgan_tf.teacher.input_spec import InputSpec

KINDS = ('uniform', 'gaussian')


class NoiseSource:
    """Images of independent random pixels.

    Args:
        input_spec: of the teacher.
        kind: 'uniform' in [0, 1], or 'gaussian': of the mean and deviation of the preprocessing,
            clipped to [0, 1]. (Where the preprocessing has a mean of 0 or a deviation of 1/255,
            as `raw` and `caffe`, that is nearly one colour.)
        batch_size: images a batch.
        seed: batch i depends on (seed, i) alone.

    Raises:
        UserError: an unknown kind, a batch of no images, or a seed that is out of range.
    """

    has_labels = False
    num_classes = None

    def __init__(
        self, input_spec: InputSpec, kind: str = 'uniform', batch_size: int = 32, seed: int = 0
    ) -> None:
        if kind not in KINDS:
            raise UserError(f'noise of kind {kind!r} is unknown: pass one of {", ".join(KINDS)}.')
        self.image_shape = input_spec.image_shape
        self.batch_size = check(COUNT, 'batch_size', batch_size)
        self._input_spec = input_spec
        self._kind = kind
        self._seed = check(SEED, 'seed', seed)
        self.description = {'kind': f'noise_{kind}', 'seed': seed}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """See `Source.batches`."""
        for index in itertools.count(start):
            yield self._batch(index), None

    def _batch(self, index):
        shape = (self.batch_size, *self.image_shape)
        seed = (self._seed, index)
        if self._kind == 'uniform':
            return tf.random.stateless_uniform(shape, seed, alg='philox')
        normal = tf.random.stateless_normal(shape, seed, alg='philox')
        # Inputs of mean 0 and deviation 1 are pixels of the preprocessing's mean and deviation.
        return tf.clip_by_value(self._input_spec.to_pixels(normal), 0, 1)
