"""What shapes a generator's training: the options, their two presets, and their legal ranges."""

import numbers

from zscgan_tf.errors import UserError
from zscgan_tf.generator import default_scales

PRESETS = ('small', 'paper')

# Paper, section 3: 200 epochs of 1000 batches of 128, Adam with learning rate 1e-3; the network of
# [22] has 5 scales of 128 channels, skips of 4, and a noise map of 32 channels.
_PAPER = {
    'generator_channels': 128,
    'skip_channels': 4,
    'z_channels': 32,
    'output_stride': 1,
    'batch_size': 128,
    'steps': 200_000,
    'learning_rate': 1e-3,
    'class_loss_weight': 1.0,
    'bns_loss_weight': 1.0,
    'compute_dtype': 'float32',
}

# Two cores and minutes instead of GPUs and days.
_SMALL = {
    **_PAPER,
    'generator_channels': 32,
    'batch_size': 64,
    'steps': 1500,
}
_SMALL_FROM_96_PIXELS = {
    **_SMALL,
    'output_stride': 2,  # most of the generator's cost is at full resolution
    'batch_size': 16,
    'steps': 4000,
}

OPTIONS = ('generator_scales', *_PAPER)


def resolve(preset, teacher, overrides):
    """All options of a training: the preset's values, with the overrides that are not None.

    Args:
        preset: 'small' or 'paper'.
        teacher: the `Teacher`; its image size decides how many scales fit.
        overrides: dict of some of `OPTIONS`.

    Raises:
        UserError: unknown names, or values out of range.
    """
    size = teacher.input_spec.image_size
    if preset == 'paper':
        options = dict(_PAPER)
    elif preset == 'small':
        options = dict(_SMALL if min(size) < 96 else _SMALL_FROM_96_PIXELS)
    else:
        raise UserError(f'--preset={preset} is unknown: pass one of {", ".join(PRESETS)}.')
    unknown = sorted(set(overrides) - set(OPTIONS))
    if unknown:
        raise UserError(f'unknown option {unknown[0]}: the options are {", ".join(OPTIONS)}.')
    options |= {name: value for name, value in overrides.items() if value is not None}
    for name in ('batch_size', 'steps', 'z_channels', 'output_stride', 'generator_scales'):
        _check(options, name, lambda v: isinstance(v, numbers.Integral) and v >= 1, 'at least 1')
    _check(options, 'skip_channels', lambda v: v >= 0, '0 (no skips) or more')
    _check(options, 'learning_rate', lambda v: 0 < v < float('inf'), 'positive')
    for name in ('class_loss_weight', 'bns_loss_weight'):
        _check(options, name, lambda v: 0 <= v < float('inf'), '0 (switched off) or more')
    if not options['class_loss_weight'] and not options['bns_loss_weight']:
        raise UserError(
            '--class_loss_weight=0 and --bns_loss_weight=0 leave nothing to train: keep one.'
        )
    _check(options, 'compute_dtype', lambda v: v in ('float32', 'bfloat16'), 'float32 or bfloat16')
    channels = options['generator_channels']
    widths = [channels] if isinstance(channels, int) else list(channels)
    if not widths or min(widths) < 1:
        raise UserError(f'--generator_channels={channels} must be at least 1.')
    options['generator_channels'] = widths[0] if len(widths) == 1 else widths
    if 'generator_scales' not in options:
        options['generator_scales'] = (
            default_scales([-(-side // options['output_stride']) for side in size])
            if len(widths) == 1
            else len(widths)
        )
    return options


def _check(options, name, is_legal, legal):
    value = options.get(name)
    if value is not None and not is_legal(value):
        raise UserError(f'--{name}={value} must be {legal}.')


def calibration_images(preset):
    """How many images calibrate: the paper's 10,000, or as many as still help."""
    return 10_000 if preset == 'paper' else 512
