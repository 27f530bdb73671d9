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

from zscgan_tf.dcgan import build_dcgan
from zscgan_tf.errors import UserError
from zscgan_tf.generator_layers import ConditionalBatchNormalization, Upsample
from zscgan_tf.generator_options import GeneratorOptions, check_scales, default_scales
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.training.strategy import fold_seed, replica_slice

layers = tf_keras.layers


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


def generator_of(teacher: Teacher, options: GeneratorOptions, seed: int) -> tf_keras.Model:
    """The generator that options describe: the U-Net of `build_generator`, or that of [14].

    Args:
        teacher: the `Teacher` whose images it makes.
        options: of the generator.
        seed: of the first weights.
    """
    if options.generator == 'dcgan':
        return build_dcgan(teacher.input_spec, dtype=options.compute_dtype, seed=seed)
    return build_generator(
        teacher.input_spec.image_shape,
        1 if options.unconditional else teacher.num_classes,
        scales=options.generator_scales,
        channels=options.generator_channels,
        skip_channels=options.skip_channels,
        z_channels=options.z_channels,
        noise_scales=options.noise_scales,
        output_stride=options.output_stride,
        dtype=options.compute_dtype,
        seed=seed,
    )


def draw_noise(generator: tf_keras.Model, batch_size: int, seed: tf.Tensor) -> list[tf.Tensor]:
    """The generator's noise inputs for a batch, z ~ N(0, 1).

    Args:
        generator: the model of `build_generator` or `build_dcgan`.
        batch_size: number of images.
        seed: a stateless seed, [2].
    """
    shapes = [tuple(shape[1:]) for shape in generator.input_shape[:-1]]
    fold = tf.random.experimental.stateless_fold_in
    return [
        standard_normal((batch_size, *shape), fold(seed, number, alg='philox'))
        for number, shape in enumerate(shapes)
    ]


def draw_inputs(
    generator: tf_keras.Model,
    num_classes: int | None,
    batch_size: int,
    seed: int,
    index: tf.Tensor,
    stream: int = 0,
) -> list[tf.Tensor]:
    """This replica's part of a generator's inputs, [noise maps..., labels], of one step.

    Args:
        generator: what they are for.
        num_classes: labels are uniform over so many classes; None: they are 0.
        batch_size: global batch size.
        seed, index: of labels and noise, and the number of the step.
        stream: of random numbers; this one and the next are used.
    """
    replicas = tf.distribute.get_replica_context()
    labels = tf.random.stateless_uniform(
        [batch_size],
        fold_seed(seed, index, stream),
        maxval=num_classes or 1,
        dtype=tf.int32,
        alg='philox',
    )
    noise = draw_noise(generator, batch_size, fold_seed(seed, index, stream + 1))
    return [replica_slice(tensor, replicas) for tensor in (*noise, labels)]


def standard_normal(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Random values of N(0, 1), float32, by the inverse of its distribution, from random integers.

    The same under XLA as without it, which `tf.random.stateless_normal` is not, even with the
    generator of random bits named.
    """
    bits = tf.random.stateless_uniform(shape, seed, maxval=2**23, dtype=tf.int32, alg='philox')
    return tf.math.ndtri((tf.cast(bits, tf.float32) + 0.5) * 2.0**-23)
