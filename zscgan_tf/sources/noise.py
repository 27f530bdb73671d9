"""Noise as images: the data-free calibration that any other must beat."""

import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.sources.order import check_batch_size

KINDS = ('uniform', 'gaussian')


class NoiseSource:
    """Independent pixels.

    Args:
        input_spec: the teacher's `InputSpec`.
        kind: 'uniform' in [0, 1], or 'gaussian': the mean and deviation of the preprocessing,
            clipped to [0, 1]. (Where the preprocessing has a mean of 0 or a deviation of 1/255,
            as `raw` and `caffe`, that is nearly one colour.)
        batch_size: images a batch.
        seed: batch i depends on (seed, i) alone.
    """

    has_labels = False

    def __init__(self, input_spec, kind='uniform', batch_size=32, seed=0):
        if kind not in KINDS:
            raise UserError(f'noise of kind {kind!r} is unknown: pass one of {", ".join(KINDS)}.')
        check_batch_size(batch_size)
        self.image_shape = input_spec.image_shape
        self.batch_size = batch_size
        self._input_spec = input_spec
        self._kind = kind
        self._seed = seed
        self.description = {'kind': f'noise_{kind}', 'seed': seed}

    def batches(self, start=0):
        """Endless (pixels [B, H, W, C], None), from batch number `start`."""
        index = start
        while True:
            yield self._batch(index), None
            index += 1

    def _batch(self, index):
        shape = (self.batch_size, *self.image_shape)
        seed = (self._seed, index)
        if self._kind == 'uniform':
            return tf.random.stateless_uniform(shape, seed, alg='philox')
        normal = tf.random.stateless_normal(shape, seed, alg='philox')
        # Inputs of mean 0 and deviation 1 are pixels of the preprocessing's mean and deviation.
        return tf.clip_by_value(self._input_spec.to_pixels(normal), 0, 1)
