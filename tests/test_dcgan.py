"""The generator of [14]: its layers by hand, its size, and its pixels."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from zscgan_tf.dcgan import build_dcgan, image_moments
from zscgan_tf.errors import UserError
from zscgan_tf.generators import draw_noise
from zscgan_tf.teacher.input_spec import InputSpec

CIFAR = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images_of(generator, count=16):
    noise = draw_noise(generator, count, tf.constant([0, 1]))
    return generator([*noise, tf.zeros([count], tf.int32)], training=True).numpy(), noise


def test_size_and_parameters():
    """At 32 pixels as in [14]; at 224 five doublings of a map of 7 pixels."""
    generator = build_dcgan(InputSpec((32, 32), 3, *CIFAR))
    convolutions = [512, 256, 128, 64]
    expected = (512 + 1) * 4 * 4 * 512 + 9 * 64 * 3 + 3
    for before, after in zip(convolutions, convolutions[1:], strict=False):
        expected += 9 * before * after + after + 2 * after
    assert generator.count_params() == expected == 5_753_859
    assert generator.input_shape == [(None, 512), (None,)]
    assert generator.output_shape == (None, 32, 32, 3)
    large = build_dcgan(InputSpec((224, 224), 1, 0.5, 0.5))
    maps = [x.output_shape[1:] for x in large.layers if isinstance(x, tf_keras.layers.Conv2D)]
    widths = [(14, 256), (28, 256), (56, 256), (112, 128), (224, 64), (224, 1)]
    assert maps == [(size, size, channels) for size, channels in widths]


def test_images_are_those_of_the_layers_by_hand():
    generator = build_dcgan(InputSpec((8, 16), 3, *CIFAR), seed=3)
    found, (z,) = images_of(generator)
    weighted = [x for x in generator.layers if x.get_weights()]
    dense, *others = weighted
    x = np.reshape(z.numpy() @ dense.kernel.numpy() + dense.bias.numpy(), (-1, 1, 2, 512))

    def standardized(x):
        return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)

    for convolution, norm in zip(others[:-1:2], others[1:-1:2], strict=True):
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        x = tf.nn.conv2d(x, convolution.kernel, 1, 'SAME').numpy() + convolution.bias.numpy()
        x = np.maximum(standardized(x) * norm.gamma.numpy() + norm.beta.numpy(), 0)
    x = tf.nn.conv2d(x, others[-1].kernel, 1, 'SAME').numpy() + others[-1].bias.numpy()
    normalized = standardized(np.tanh(x))
    expected = np.clip(normalized * CIFAR[1] + CIFAR[0], 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (np.abs(normalized) > 2.5).any()  # some are clipped


@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_pixels_are_legal_and_of_the_moments_of_images(dtype):
    spec = InputSpec((16, 16), 3, *CIFAR)
    generator = build_dcgan(spec, dtype=dtype)
    found, _ = images_of(generator)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found.mean((0, 1, 2)), CIFAR[0], atol=0.02)
    np.testing.assert_allclose(found.std((0, 1, 2)), CIFAR[1], atol=0.02)
    assert all(v.dtype == tf.float32 for v in generator.variables)


def test_moments_of_images():
    """Those of the preprocessing, in the order of pixels; none of a change of the unit."""
    spec = InputSpec((8, 8), 3, *CIFAR, bgr=True)
    assert image_moments(spec) == (CIFAR[0][::-1], CIFAR[1][::-1])
    assert image_moments(InputSpec((8, 8), 1, 0.13, 0.31)) == ((0.13,), (0.31,))
    for name in ('tf', 'caffe', 'raw', 'unit'):
        spec = InputSpec.from_preprocessing((8, 8), 3, name)
        assert image_moments(spec) == ((0.45,) * 3, (0.225,) * 3)
    spec = InputSpec.from_preprocessing((8, 8), 3, 'torch')
    assert image_moments(spec) == (spec.mean, spec.std)


def test_first_weights_are_of_the_seed():
    one, again, other = (
        build_dcgan(InputSpec((8, 8), 3, *CIFAR), seed=seed).get_weights() for seed in (0, 0, 1)
    )
    for first, second, third in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(first, second)
        assert first.ndim == 1 or np.ptp(first) == 0 or np.any(first != third)


def test_other_sizes_are_refused():
    with pytest.raises(UserError, match='--generator=dcgan .* and 32x30 pixels are no multiples'):
        build_dcgan(InputSpec((32, 30), 3, *CIFAR))
