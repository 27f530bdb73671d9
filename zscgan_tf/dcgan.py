"""The generator of [14]: a vector of noise, a small map, and doublings of it; without classes.

"Data-free network quantization with adversarial knowledge distillation", Choi, Choi, El-Khamy and
Lee, arXiv 2005.04136. It is a baseline: ZS-CGAN's own generator is the U-Net of `generators.py`.
"""

import itertools

import tf_keras

from zscgan_tf.generator_layers import (
    ConditionalBatchNormalization,
    StandardizedPixels,
    Upsample,
)
from zscgan_tf.generator_options import dcgan_doublings
from zscgan_tf.teacher.input_spec import InputSpec

layers = tf_keras.layers

Z_SIZE = 512
FIRST_CHANNELS = 512
# Of the last doublings; those that a large image has more of come first, as wide as the first.
CHANNELS = (256, 128, 64)


def build_dcgan(input_spec: InputSpec, *, dtype: str = 'float32', seed: int = 0) -> tf_keras.Model:
    """The generator of [14] as a functional tf_keras model.

    A linear layer makes a map of 512 channels, an eighth of the image's size, of a vector of noise.
    Each doubling is a nearest upsampling, a 3x3 convolution, a batch norm and a ReLU. At the end
    stand a 3x3 convolution, tanh, and a batch norm without γ and β: images are in the normalized
    space that the teacher takes, each channel of mean 0 and deviation 1 over the batch. Two things
    are ours:

    - Images are pixels here. Normalized values become pixels by the mean and deviation of the
      teacher's preprocessing (`image_moments`). What lies outside of [0, 1], where no image can be,
      is clipped at once, so that what is trained on is what a file can be given. [14] leaves it.
    - Moments are those of the batch, in training and when images are made, as in the U-Net. The
      code of [14] takes moving averages where the student learns; a generator that has one step in
      ten runs ahead of such averages.

    Args:
        input_spec: the teacher's `InputSpec`.
        dtype: 'float32' or 'bfloat16' (moments, variables and the output stay float32).
        seed: of the first weights.

    Returns:
        A model, [z, labels] -> pixels in [0, 1], [B, H, W, C]; z is [B, 512]; labels are [B] int32,
        all 0: one class, so that all generators are called alike.

    Raises:
        UserError: the image size is no multiple of eight.
    """
    height, width, image_channels = input_spec.image_shape
    doublings = dcgan_doublings(input_spec.image_size)
    policy = tf_keras.mixed_precision.Policy('float32' if dtype == 'float32' else f'mixed_{dtype}')
    seeds = itertools.count(seed * 1000)

    def settings():
        initializer = tf_keras.initializers.GlorotUniform(next(seeds))
        return {'kernel_initializer': initializer, 'dtype': policy}

    z = layers.Input((Z_SIZE,), name='z0')
    labels = layers.Input((), dtype='int32', name='labels')
    size = (height >> doublings, width >> doublings)
    x = layers.Dense(size[0] * size[1] * FIRST_CHANNELS, **settings())(z)
    x = layers.Reshape((*size, FIRST_CHANNELS), dtype=policy)(x)
    for channels in (CHANNELS[:1] * doublings + CHANNELS[1:])[-doublings:]:
        size = (2 * size[0], 2 * size[1])
        x = Upsample(size, dtype=policy)(x)
        x = layers.Conv2D(channels, 3, padding='same', **settings())(x)
        x = ConditionalBatchNormalization(1, dtype=policy)([x, labels])
        x = layers.ReLU(dtype=policy)(x)
    x = layers.Conv2D(image_channels, 3, padding='same', **settings())(x)
    x = layers.Activation('tanh', dtype='float32')(x)
    x = StandardizedPixels(*image_moments(input_spec), dtype='float32')(x)
    return tf_keras.Model([z, labels], x, name='generator')


def image_moments(input_spec: InputSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, deviation) of the pixels of images, a value a channel: `InputSpec.standardizing`."""
    spec, order = input_spec.standardizing(), -1 if input_spec.bgr else 1
    return spec.mean[::order], spec.std[::order]
