"""The layers of generators that Keras has not: batch norms of classes and of pixels, upsampling."""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from zscgan_tf.teacher.tap import batch_moments

layers = tf_keras.layers

# Is added to variances.
EPSILON = 1e-5


def standardize(x: tf.Tensor) -> tf.Tensor:
    """Each channel less its mean, over its deviation: moments of the global batch, differentiable.

    Args:
        x: [B, H, W, C] of this replica.
    """
    replicas = tf.distribute.get_replica_context()
    # None: the model is being built in a strategy's scope, outside of its replicas.
    if replicas is None or replicas.num_replicas_in_sync == 1:
        # The fused op is three times as fast on a CPU.
        channels = x.shape[-1]
        return tf.compat.v1.nn.fused_batch_norm(
            x, tf.ones([channels]), tf.zeros([channels]), epsilon=EPSILON
        )[0]
    mean, variance = batch_moments(x, replicas)
    # In float32, as the fused op does it: in bfloat16 a mean that is large beside the deviation
    # would leave only the rounding of x.
    centered = tf.cast(x, tf.float32) - mean
    return tf.cast(centered * tf.math.rsqrt(variance + EPSILON), x.dtype)


class ConditionalBatchNormalization(layers.Layer):
    """Batch norm whose γ and β are looked up by class [3, 23].

    The moments are always those of the (global) batch, in training and when images are made
    (so an image depends on its batch), so nothing is stored but the two tables.
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes

    def build(self, input_shape: list[tf.TensorShape]) -> None:
        shape = (self.num_classes, input_shape[0][-1])
        self.gamma = self.add_weight('gamma', shape, initializer='ones')
        self.beta = self.add_weight('beta', shape, initializer='zeros')

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Normalizes x, [B, H, W, C], with the rows of labels, [B]."""
        x, labels = inputs
        gamma, beta = (tf.gather(table, labels) for table in (self.gamma, self.beta))
        x = standardize(x)
        return x * tf.cast(gamma, x.dtype)[:, None, None] + tf.cast(beta, x.dtype)[:, None, None]

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), 'num_classes': self.num_classes}


class Upsample(layers.Layer):
    """Nearest upsampling by two, cropped to (height, width).

    By repeating: XLA does not compile the gradient of the resizing op.
    """

    def __init__(self, size: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
        return x[:, : self.size[0], : self.size[1]]

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), 'size': self.size}


class StandardizedPixels(layers.Layer):
    """Pixels whose channels have a given mean and deviation over the batch, clipped to [0, 1].

    Where a pixel is clipped, it has no gradient of its own; through the moments of the batch it
    still has one.

    Args:
        mean, std: of pixels in [0, 1], a value a channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs):
        super().__init__(**kwargs)
        self.mean, self.std = tuple(mean), tuple(std)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        pixels = standardize(x) * tf.constant(self.std) + tf.constant(self.mean)
        return tf.clip_by_value(pixels, 0.0, 1.0)
