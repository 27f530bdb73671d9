"""Options of DeepInversion: what the published scripts have, and what is refused."""

import dataclasses

import numpy as np
import pytest

from tests.methods.matched import matched_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.methods.deep_inversion import SETTINGS
from zscgan_tf.methods.inversion_options import DeepInversionOptions


@pytest.fixture(scope='module')
def teacher():
    return matched_teacher()


def resolve(teacher, preset='small', **options):
    return DeepInversionOptions.resolve(preset, options, teacher)


def test_presets(teacher):
    cifar, short, long = (SETTINGS[name] for name in ('cifar10', 'imagenet_2k', 'imagenet_20k'))
    assert (cifar.jitter, short.jitter, long.jitter) == (2, 30, 30)
    assert (cifar.betas, short.betas, long.betas) == ((0.9, 0.999), (0.5, 0.9), (0.9, 0.999))
    assert (cifar.first_weight, short.first_weight, long.first_weight) == (1, 10, 10)
    assert (cifar.norm_by_image, short.norm_by_image, long.norm_by_image) == (0, 1, 1)
    assert (cifar.cosine, short.cosine, long.cosine) == (0, 1, 1)
    assert (cifar.flip, short.flip, cifar.clip, short.clip, long.clip) == (0, 1, 0, 1, 0)
    paper = resolve(teacher, 'paper')
    assert (paper.setting, paper.iterations, paper.group_size) == ('cifar10', 2000, 256)
    assert (paper.learning_rate, paper.moments_weight) == (0.05, 10)
    assert (paper.variation_weight, paper.norm_weight, paper.images) == (2.5e-5, 0, 1_000_000)
    large = matched_teacher(num_classes=600, size=96)
    paper, small = resolve(large, 'paper'), resolve(large)
    assert (paper.setting, paper.iterations, paper.group_size) == ('imagenet_20k', 20_000, 84)
    assert (small.setting, small.images, small.group_size) == ('imagenet_2k', 600, 32)
    assert (small.learning_rate, small.moments_weight) == (0.25, 0.01)
    assert small.variation_weight == pytest.approx(1e-4 * np.sqrt(84 / 32))
    assert small.norm_weight == 1e-5
    small = resolve(teacher)
    assert (small.images, small.group_size, small.iterations) == (512, 256, 1000)
    assert small.variation_weight == 2.5e-5
    assert resolve(teacher, group_size=64).variation_weight == pytest.approx(5e-5)
    assert resolve(teacher, group_size=64, variation_weight=1e-4).variation_weight == 1e-4


@pytest.mark.parametrize(
    'options, words',
    [
        ({'images': 4}, 'optimized_images=4 leaves classes without an image.* has 5: pass at le'),
        ({'images': 10, 'group_size': 11}, 'group_size=11 is more than the --optimized_images=10'),
        ({'clamped_js': True}, 'clamped_js is for adaptive DeepInversion'),
        ({'images': 10, 'compete_weight': 1}, 'compete_weight=1.0 needs two groups'),
        ({'compete_weight': 1, 'iterations': 0}, 'compete_weight=1.0 is of no use with'),
        ({'moments_weight': -1}, '--moments_weight=-1 must be 0'),
        ({'setting': 'mnist'}, '--published_setting=mnist must be one of cifar10'),
    ],
)
def test_options_that_are_refused(teacher, options, words):
    with pytest.raises(UserError, match=words):
        resolve(teacher, **options)


def test_independent_labels_cannot_compete(teacher):
    labels = dataclasses.replace(teacher, head='labels', name='tags')
    with pytest.raises(UserError, match='compete_weight=1.0 is for classes, and tags gives indep'):
        resolve(labels, images=10, group_size=5, compete_weight=1)
