"""The conditional generator: the U-Net-type network of [22] with conditional batch norms [3, 23].

Paper, section 3: "we adopt the U-Net architecture used in [22] and replace batch normalization
with conditional batch normalization". Noise and images have the same size; each scale halves it
and doubles it again, beside a thin skip. The label acts through the γ and β of every batch norm,
and in no other way.
"""

import itertools
from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import check_scales, default_scales
from zscgan_tf.teacher.tap import batch_moments

layers = tf_keras.layers


class ConditionalBatchNormalization(layers.Layer):
    """Batch norm whose γ and β are looked up by class [3, 23].

    The moments are always those of the (global) batch, in training and when images are made
    (so an image depends on its batch), so nothing is stored but the two tables.
    """

    def __init__(self, num_classes: int, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.epsilon = epsilon

    def build(self, input_shape: list[tf.TensorShape]) -> None:
        shape = (self.num_classes, input_shape[0][-1])
        self.gamma = self.add_weight('gamma', shape, initializer='ones')
        self.beta = self.add_weight('beta', shape, initializer='zeros')

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Normalizes x, [B, H, W, C], with the rows of labels, [B]."""
        x, labels = inputs
        gamma, beta = (tf.gather(table, labels) for table in (self.gamma, self.beta))
        x = self._standardize(x)
        return x * tf.cast(gamma, x.dtype)[:, None, None] + tf.cast(beta, x.dtype)[:, None, None]

    def _standardize(self, x):
        replicas = tf.distribute.get_replica_context()
        # None: the model is being built in a strategy's scope, outside of its replicas.
        if replicas is None or replicas.num_replicas_in_sync == 1:
            # The fused op is three times as fast on a CPU.
            channels = x.shape[-1]
            return tf.compat.v1.nn.fused_batch_norm(
                x, tf.ones([channels]), tf.zeros([channels]), epsilon=self.epsilon
            )[0]
        mean, variance = batch_moments(x, replicas)
        # In float32, as the fused op does it: in bfloat16 a mean that is large beside the deviation
        # would leave only the rounding of x.
        centered = tf.cast(x, tf.float32) - mean
        return tf.cast(centered * tf.math.rsqrt(variance + self.epsilon), x.dtype)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), 'num_classes': self.num_classes, 'epsilon': self.epsilon}


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


def build_generator(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    scales: int | None = None,
    channels: int | Sequence[int] = 128,
    skip_channels: int = 4,
    z_channels: int = 32,
    noise_scales: int = 1,
    output_stride: int = 1,
    dtype: str = 'float32',
    seed: int = 0,
) -> tf_keras.Model:
    """The generator as a functional tf_keras model.

    Args:
        image_shape: (H, W, C) of the pixels that it makes.
        num_classes: rows of the conditional batch norms.
        scales: how often the size is halved; None: `default_scales`.
        channels: channels of every scale, or a list with those of each scale.
        skip_channels: channels of the 1x1 skips.
        z_channels: channels of a noise map.
        noise_scales: at how many scales noise enters, each with a map of its own; 1: at full
            resolution only, where the strided convolutions average most of it away.
        output_stride: the network works at 1 / output_stride of the image size, and its output is
            upsampled bilinearly.
        dtype: 'float32' or 'bfloat16' (moments, variables and the output stay float32).
        seed: of the first weights.

    Returns:
        A model, [noise maps..., labels] -> pixels in [0, 1], [B, H, W, C]; the noise maps are
        [B, height, width, z_channels] of their scales, labels are [B] int32.

    Raises:
        UserError: the image is too small for the number of scales, or there are more noise maps or
            channels than scales.
    """
    height, width, image_channels = image_shape
    size = (-(-height // output_stride), -(-width // output_stride))
    if output_stride > 1 and min(size) < 2:
        raise UserError(
            f'--output_stride={output_stride} leaves {size[0]}x{size[1]} of {height}x{width} '
            f'pixels: pass at most {max(1, min(height, width) // 2)}.'
        )
    scales = scales or default_scales(size)
    check_scales(scales, size)
    if noise_scales > scales:
        raise UserError(
            f'--noise_scales={noise_scales}: the generator has {scales} scales; pass at most that.'
        )
    widths = [channels] * scales if isinstance(channels, int) else list(channels)
    if len(widths) != scales:
        raise UserError(
            f'--generator_channels has {len(widths)} values for {scales} scales: pass one, or one '
            f'a scale.'
        )
    policy = tf_keras.mixed_precision.Policy('float32' if dtype == 'float32' else f'mixed_{dtype}')
    labels = layers.Input((), dtype='int32', name='labels')
    noise = []
    seeds = itertools.count(seed * 1000)  # of the kernels; a generator has fewer than a thousand

    def noise_map(map_size):
        noise.append(layers.Input((*map_size, z_channels), name=f'z{len(noise)}'))
        return noise[-1]

    def norm(x):
        x = ConditionalBatchNormalization(num_classes, dtype=policy)([x, labels])
        return layers.LeakyReLU(0.2, dtype=policy)(x)

    def plain_conv(x, filters, kernel_size, strides=1, use_bias=True):
        initializer = tf_keras.initializers.GlorotUniform(next(seeds))
        settings = {'padding': 'same', 'use_bias': use_bias, 'kernel_initializer': initializer}
        return layers.Conv2D(filters, kernel_size, strides, **settings, dtype=policy)(x)

    def conv(x, filters, kernel_size, strides=1):
        return norm(plain_conv(x, filters, kernel_size, strides, use_bias=False))

    def scale(x, index):
        skip = conv(x, skip_channels, 1) if skip_channels else None
        x_size = x.shape[1:3]
        if 0 < index < noise_scales:
            x = layers.Concatenate(dtype=policy)([x, noise_map(x_size)])
        x = conv(x, widths[index], 3, strides=2)
        x = conv(x, widths[index], 3)
        if index + 1 < scales:
            x = scale(x, index + 1)
        x = Upsample(x_size, dtype=policy)(x)
        if skip is not None:
            x = layers.Concatenate(dtype=policy)([skip, x])
        x = ConditionalBatchNormalization(num_classes, dtype=policy)([x, labels])
        x = conv(x, widths[index], 3)
        return conv(x, widths[index], 1)

    x = scale(noise_map(size), 0)
    x = plain_conv(x, image_channels, 1)
    if output_stride > 1:
        x = layers.UpSampling2D(output_stride, interpolation='bilinear', dtype=policy)(x)
        x = layers.Cropping2D(((0, x.shape[1] - height), (0, x.shape[2] - width)), dtype=policy)(x)
    x = layers.Activation('sigmoid', dtype='float32')(x)
    return tf_keras.Model([*noise, labels], x, name='generator')


def draw_noise(generator: tf_keras.Model, batch_size: int, seed: tf.Tensor) -> list[tf.Tensor]:
    """The generator's noise inputs for a batch, z ~ N(0, 1).

    Args:
        generator: the model of `build_generator`.
        batch_size: number of images.
        seed: a stateless seed, [2].
    """
    shapes = [tuple(shape[1:]) for shape in generator.input_shape[:-1]]
    fold = tf.random.experimental.stateless_fold_in
    return [
        standard_normal((batch_size, *shape), fold(seed, number, alg='philox'))
        for number, shape in enumerate(shapes)
    ]


def standard_normal(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Random values of N(0, 1), float32, by the inverse of its distribution, from random integers.

    The same under XLA as without it, which `tf.random.stateless_normal` is not, even with the
    generator of random bits named.
    """
    bits = tf.random.stateless_uniform(shape, seed, maxval=2**23, dtype=tf.int32, alg='philox')
    return tf.math.ndtri((tf.cast(bits, tf.float32) + 0.5) * 2.0**-23)
