import itertools

import numpy as np
import pytest

from zscgan_tf.errors import UserError
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.teacher.input_spec import InputSpec

SPEC = InputSpec((16, 12), 3, (0.3, 0.5, 0.6), (0.1, 0.05, 0.1))


def first(source, count, start=0):
    return [pixels.numpy() for pixels, _ in itertools.islice(source.batches(start), count)]


def test_uniform_noise_is_uniform():
    pixels, labels = next(NoiseSource(SPEC, 'uniform', 64).batches())
    assert labels is None
    assert pixels.shape == (64, 16, 12, 3) and pixels.dtype == 'float32'
    counts, _ = np.histogram(pixels, bins=10, range=(0, 1))
    assert counts.sum() == pixels.numpy().size
    np.testing.assert_allclose(counts / counts.sum(), 0.1, atol=0.01)


@pytest.mark.parametrize('bgr', [False, True])
def test_gaussian_noise_has_the_moments_of_the_preprocessing(bgr):
    spec = InputSpec((16, 12), 3, SPEC.mean, SPEC.std, bgr)
    pixels, _ = next(NoiseSource(spec, 'gaussian', 64).batches())
    order = slice(None, None, -1 if bgr else 1)
    np.testing.assert_allclose(np.mean(pixels, (0, 1, 2)), SPEC.mean[order], atol=0.005)
    np.testing.assert_allclose(np.std(pixels, (0, 1, 2)), SPEC.std[order], atol=0.005)


def test_gaussian_noise_is_clipped():
    wide = InputSpec((16, 12), 3, 0.5, 2.0)
    pixels, _ = next(NoiseSource(wide, 'gaussian', 8).batches())
    assert np.min(pixels) == 0 and np.max(pixels) == 1


@pytest.mark.parametrize('kind', ['uniform', 'gaussian'])
def test_a_batch_depends_on_seed_and_number_alone(kind):
    batches = first(NoiseSource(SPEC, kind, 4, seed=3), 4)
    np.testing.assert_array_equal(batches, first(NoiseSource(SPEC, kind, 4, seed=3), 4))
    np.testing.assert_array_equal(
        batches[2:], first(NoiseSource(SPEC, kind, 4, seed=3), 2, start=2)
    )
    others = [*batches[1:], *first(NoiseSource(SPEC, kind, 4, seed=4), 4)]
    assert not any(np.array_equal(batches[0], other) for other in others)


def test_refuses_bad_arguments():
    with pytest.raises(UserError, match='--batch_size=0'):
        NoiseSource(SPEC, 'uniform', 0)
    with pytest.raises(UserError, match='--seed=-1'):
        NoiseSource(SPEC, seed=-1)
    with pytest.raises(UserError, match='uniform, gaussian'):
        NoiseSource(SPEC, 10, 'perlin', 4)
