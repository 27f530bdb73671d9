import numpy as np
import pytest
from PIL import Image

from zscgan_tf.errors import UserError
from zscgan_tf.sources.fitting import check_short_side, fit


def smooth_image(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC))


@pytest.mark.parametrize('size', [(300, 400), (401, 300), (97, 130), (256, 256)])
def test_resizes_and_crops_as_pillow_does(size):
    image = smooth_image(*size)
    scale = 73 / min(size)
    resized = Image.fromarray(image).resize(
        (round(size[1] * scale), round(size[0] * scale)), Image.BILINEAR
    )
    left, top = (resized.width - 64) // 2, (resized.height - 64) // 2
    expected = np.asarray(resized.crop((left, top, left + 64, top + 64))) / 255
    pixels = fit(image, (64, 64, 3), 73)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected, atol=1.5 / 255)


def test_takes_an_image_of_the_right_size_as_it_is():
    image = smooth_image(64, 64)
    np.testing.assert_allclose(fit(image, (64, 64, 3), 73) * 255, image, atol=1e-4)
    np.testing.assert_array_equal(
        fit(image.astype(np.float32) / 255, (64, 64, 3), 73), fit(image, (64, 64, 3), 73)
    )


@pytest.mark.parametrize('size', [(10, 300), (300, 10), (40, 50), (7, 7)])
@pytest.mark.parametrize('target', [(64, 96), (33, 17), (1, 5)])
def test_covers_any_size(size, target):
    pixels = fit(smooth_image(*size), (*target, 3), check_short_side(None, target))
    assert pixels.shape == (*target, 3)
    assert pixels.min() >= 0 and pixels.max() <= 1


def test_channels():
    image = smooth_image(8, 8)
    gray = np.asarray(Image.fromarray(image).convert('L'))
    np.testing.assert_allclose(fit(image, (8, 8, 1), 8)[..., 0], gray / 255, atol=1 / 255)
    np.testing.assert_array_equal(
        fit(gray[..., None], (8, 8, 3), 8), np.repeat(gray[..., None] / np.float32(255), 3, -1)
    )
    with pytest.raises(UserError, match='3 channels do not fit a teacher of 5'):
        fit(image, (8, 8, 5), 8)


def test_short_side():
    assert check_short_side(None, (224, 224)) == 256
    assert check_short_side(None, (64, 80)) == 73
    assert check_short_side(None, (32, 32)) == 32
    assert check_short_side(300, (224, 224)) == 300
    with pytest.raises(UserError, match='--resize_short_side=200'):
        check_short_side(200, (224, 224))


def test_refuses_to_enlarge_absurdly():
    with pytest.raises(UserError, match='1000000x1 pixels is too narrow'):
        fit(np.zeros((1, 1_000_000, 3), np.uint8), (224, 224, 3), 256)
