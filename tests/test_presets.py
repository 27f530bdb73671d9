"""Presets: the paper's values, what overrides change, and what is out of range."""

import types

import pytest

from zscgan_tf import presets
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.input_spec import InputSpec


def teacher(size, num_classes=10):
    spec = InputSpec((size, size), 3, (0.5,), (0.5,))
    return types.SimpleNamespace(input_spec=spec, num_classes=num_classes)


def test_paper_is_section_3():
    options = presets.resolve('paper', teacher(224, 1000), {})
    assert options['steps'] == 200 * 1000 and options['batch_size'] == 128
    assert options['generator_scales'] == 5 and options['generator_channels'] == [128] * 5
    assert options['learning_rate'] == 1e-3 and options['output_stride'] == 1
    assert options['class_loss_weight'] == options['bns_loss_weight'] == 1
    assert options['entropy_loss_weight'] == 0 and options['noise_scales'] == 1
    assert options['z_channels'] == 32 and options['skip_channels'] == 4
    assert presets.calibration_images('paper', (32, 32)) == 10_000


def test_small_is_smaller():
    for size in (8, 32, 224):
        small, paper = (presets.resolve(p, teacher(size), {}) for p in ('small', 'paper'))
        assert small.keys() == paper.keys() == set(presets.OPTIONS)
        assert small['steps'] * small['batch_size'] < paper['steps'] * paper['batch_size']
    assert presets.calibration_images('small', (224, 224)) < 10_000


def test_overrides():
    options = presets.resolve(
        'small', teacher(32), {'steps': 7, 'batch_size': None, 'generator_channels': [4]}
    )
    assert options['steps'] == 7 and options['generator_channels'] == [4] * 3
    assert options['batch_size'] == presets.resolve('small', teacher(32), {})['batch_size']
    options = presets.resolve('small', teacher(32), {'generator_channels': [4, 8, 8, 16]})
    assert options['generator_scales'] == 4 and options['generator_channels'] == [4, 8, 8, 16]


def test_the_presets_lists_fit_any_size():
    for size in (8, 17, 32, 95, 96, 224, 512):
        options = presets.resolve('small', teacher(size), {})
        assert len(options['generator_channels']) == options['generator_scales']
        assert 1 <= options['noise_scales'] <= options['generator_scales']
        build = presets.resolve('small', teacher(size), {'generator_scales': 2})
        assert len(build['generator_channels']) == 2 and build['noise_scales'] <= 2


def test_a_preset_resolves_to_itself():
    """What a workdir's configuration holds can be passed again."""
    for preset in presets.PRESETS:
        options = presets.resolve(preset, teacher(224, 1000), {})
        assert presets.resolve(preset, teacher(224, 1000), options) == options


def test_scales_fit_the_size_that_the_network_works_at():
    for preset, size, stride, scales in (
        ('paper', 32, 1, 5),  # the paper's five, as far as they fit
        ('paper', 32, 2, 4),
        ('paper', 8, 1, 3),
        ('small', 32, 1, 3),  # those that leave four pixels
        ('small', 32, 2, 2),
    ):
        options = presets.resolve(preset, teacher(size), {'output_stride': stride})
        assert options['generator_scales'] == scales


@pytest.mark.parametrize(
    'overrides, message',
    [
        ({'batch_size': 0}, '--batch_size=0 must be at least 1.'),
        ({'batch_size': 2.5}, '--batch_size=2.5 must be at least 1.'),
        ({'steps': -1}, '--steps=-1 must be at least 1.'),
        ({'noise_scales': 0}, '--noise_scales=0 must be at least 1.'),
        ({'entropy_loss_weight': -1}, '--entropy_loss_weight=-1 must be 0'),
        ({'z_channels': 0}, '--z_channels=0 must be at least 1.'),
        ({'output_stride': 0}, '--output_stride=0 must be at least 1.'),
        ({'generator_scales': 0}, '--generator_scales=0 must be at least 1.'),
        ({'generator_channels': [4, 0]}, r'--generator_channels=\[4, 0\] must be at least 1.'),
        ({'generator_channels': []}, r'--generator_channels=\[\] must be at least 1.'),
        ({'skip_channels': -1}, '--skip_channels=-1 must be 0 .no skips. or more.'),
        ({'learning_rate': 0.0}, '--learning_rate=0.0 must be positive.'),
        ({'learning_rate': float('nan')}, '--learning_rate=nan must be positive.'),
        ({'learning_rate': float('inf')}, '--learning_rate=inf must be positive.'),
        ({'bns_loss_weight': -1.0}, '--bns_loss_weight=-1.0 must be 0 .switched off. or more.'),
        ({'class_loss_weight': 0, 'bns_loss_weight': 0}, 'leave nothing to train: keep one.'),
        ({'compute_dtype': 'float16'}, 'must be float32 or bfloat16.'),
        ({'epochs': 3}, 'unknown option epochs: the options are generator_scales, '),
    ],
)
def test_out_of_range(overrides, message):
    with pytest.raises(UserError, match=message):
        presets.resolve('small', teacher(32), overrides)


def test_unknown_preset():
    with pytest.raises(UserError, match='--preset=big is unknown: pass one of small, paper.'):
        presets.resolve('big', teacher(32), {})
