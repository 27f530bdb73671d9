"""What shapes the two trainings: their options, two presets of each, and their legal ranges."""

import math
import numbers

from zscgan_tf.errors import UserError

PRESETS = ('small', 'paper')
# The legal values of the options that have names for values.
CHOICES = {
    'compute_dtype': ('float32', 'bfloat16'),
    'student': ('folded', 'tfmot'),
    'range_estimator': ('minmax', 'percentile', 'mse'),
    'range_training': ('learned', 'moving_average', 'frozen'),
    'optimizer': ('adam', 'sgd'),
}

# Paper, section 3: 200 epochs of 1000 batches of 128, Adam with learning rate 1e-3; the network of
# [22] has 5 scales of 128 channels, skips of 4, and a noise map of 32 channels.
_PAPER = {
    'generator_scales': 5,
    'generator_channels': 128,
    'skip_channels': 4,
    'z_channels': 32,
    'noise_scales': 1,
    'output_stride': 1,
    'batch_size': 128,
    'steps': 200_000,
    'learning_rate': 1e-3,
    'class_loss_weight': 1.0,
    'bns_loss_weight': 1.0,
    'entropy_loss_weight': 0.0,
    'compute_dtype': 'float32',
}

# Two cores and minutes instead of GPUs and days. Lists are cut to the number of scales.
_SMALL = {
    **_PAPER,
    'generator_scales': None,  # `default_scales`
    'generator_channels': [32, 32, 32, 32, 32],
    'z_channels': 8,  # drawing 32 maps costs time, and neither loss is lower for it
    'noise_scales': 5,  # at full resolution alone, z hardly changes an image
    'batch_size': 64,
    'steps': 1000,
}
_LARGE = 96  # pixels of the shorter side
_SMALL_LARGE = {
    **_SMALL,
    # Most of the cost is at full resolution, most of what tells classes apart at the low ones.
    'output_stride': 2,
    'generator_channels': [16, 48, 96, 192, 192],
    'batch_size': 16,  # more steps help more than more images a step
    'steps': 2500,
    'learning_rate': 2e-3,  # few steps: both losses fall faster than at 1e-3
}
# From here on a short training does not learn the classes (see `zscgan.entropy_loss`).
_MANY_CLASSES = 100
# At 30 the BNS loss falls as fast as at 10, and the answers become sure instead of staying unsure.
_SMALL_MANY_CLASSES = {'entropy_loss_weight': 30.0}

OPTIONS = tuple(_PAPER)


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
        options = dict(_SMALL if min(size) < _LARGE else _SMALL_LARGE)
        if teacher.num_classes >= _MANY_CLASSES and not teacher.has_labels:
            options |= _SMALL_MANY_CLASSES
    else:
        raise UserError(f'--preset={preset} is unknown: pass one of {", ".join(PRESETS)}.')
    unknown = sorted(set(overrides) - set(OPTIONS))
    if unknown:
        raise UserError(f'unknown option {unknown[0]}: the options are {", ".join(OPTIONS)}.')
    given = {name: value for name, value in overrides.items() if value is not None}
    options |= given
    for name in ('batch_size', 'steps', 'z_channels', 'noise_scales', 'output_stride'):
        _check(options, name, is_count, 'a whole number, at least 1')
    _check(options, 'generator_scales', is_count, 'a whole number, at least 1')
    _check(options, 'skip_channels', lambda v: v == 0 or is_count(v), '0 (no skips) or more')
    _check(options, 'learning_rate', lambda v: 0 < v < float('inf'), 'positive')
    for name in ('class_loss_weight', 'bns_loss_weight', 'entropy_loss_weight'):
        _check(options, name, lambda v: 0 <= v < float('inf'), '0 (switched off) or more')
    if options['entropy_loss_weight'] and teacher.has_labels:
        raise UserError(
            f'--entropy_loss_weight={options["entropy_loss_weight"]} is for classes, and '
            f'{teacher.name} gives independent labels: leave it out.'
        )
    if not options['class_loss_weight'] and not options['bns_loss_weight']:
        raise UserError(
            '--class_loss_weight=0 and --bns_loss_weight=0 leave nothing to train: keep one.'
        )
    _check_choices(options, 'compute_dtype')
    return options | _fit_to_scales(options, given, size)


def _fit_to_scales(options, given, size):
    """Number of scales, their channels, and the scales that noise enters, fitting together."""
    widths = options['generator_channels']
    widths = [widths] if isinstance(widths, int) else list(widths)
    if not widths or min(widths) < 1:
        raise UserError(f'--generator_channels={widths} must be at least 1.')
    working_size = [-(-side // options['output_stride']) for side in size]
    scales = options['generator_scales']
    if 'generator_scales' not in given:
        if 'generator_channels' in given and len(widths) > 1:
            scales = len(widths)
        elif scales is None:
            scales = default_scales(working_size)
        else:  # the paper's five, as far as they fit
            scales = max(1, min(scales, int(math.log2(min(working_size)))))
    if len(widths) == 1:
        widths = widths * scales
    elif 'generator_channels' not in given:  # the preset's list, as far as there are scales
        widths = (widths + widths[-1:] * scales)[:scales]
    noise_scales = options['noise_scales']
    if 'noise_scales' not in given:
        noise_scales = min(noise_scales, scales)
    return {
        'generator_scales': scales,
        'generator_channels': widths,
        'noise_scales': noise_scales,
    }


def default_scales(image_size):
    """As many scales as leave at least four pixels of the shorter side, five at most."""
    return max(1, min(5, int(math.log2(min(image_size))) - 2))


def is_count(value):
    """Whether a value is a whole number, at least 1."""
    return isinstance(value, numbers.Integral) and value >= 1


def _check(options, name, is_legal, legal, flag=None):
    value = options.get(name)
    if value is None:
        return
    try:
        legal_value = is_legal(value)
    except TypeError:  # a text, where a number is compared
        legal_value = False
    if not legal_value:
        raise UserError(f'--{flag or name}={value} must be {legal}.')


def _check_choices(options, *names):
    for name in names:
        legal = f'one of {", ".join(CHOICES[name])}'
        _check(options, name, CHOICES[name].__contains__, legal, DISTILLATION_FLAGS.get(name))


def calibration_images(preset, teacher):
    """How many images calibrate: the paper's 10,000, or as many as still help.

    The converter keeps the extremes of all images: few images clip what others hold, many make
    coarse ranges. ResNet-20, asked with the images of a generator of the class loss alone:
    divergence from the teacher 0.0009 with 16 images, 0.0007 with 32, 0.0003 with 64 to 512. Asked
    with blends of images of its own kind: 0.0023 with 32, 0.0025 with 128, 0.0027 with 1,024.
    """
    if preset == 'paper':
        return 10_000
    if min(teacher.input_spec.image_size) >= _LARGE:
        return 512
    return min(512, max(128, teacher.num_classes))


# Paper, section 3: 50 epochs of 1000 batches of 128 (the generator's batch), Nesterov's SGD with
# learning rate 1e-4, the generator updated; tfmot's ranges are moving averages of the extremes.
_PAPER_DISTILLATION = {
    'student': 'folded',
    'weight_bits': 8,
    'activation_bits': 8,
    'first_last_bits': None,  # `weight_bits`
    'all_activations': False,
    'wide_residuals': False,
    'range_estimator': 'minmax',
    'range_training': 'moving_average',
    'range_images': 1024,
    'equalization': False,
    'align_additions': False,
    'error_compensation': False,
    'bias_correction': False,
    'steps': 50_000,
    'optimizer': 'sgd',
    'learning_rate': 1e-4,
    'soft_target_weight': 1.0,
    'temperature': 1.0,
    'feature_loss_weight': 0.0,
    'augment': False,
    'mix': False,
    'update_generator': True,
}
_SMALL_DISTILLATION = {
    **_PAPER_DISTILLATION,
    'range_estimator': 'mse',
    'range_training': 'learned',
    'range_images': 512,
    'align_additions': True,
    'error_compensation': True,
    'bias_correction': True,
    'steps': 1500,
    'optimizer': 'adam',
    'learning_rate': None,  # by the width, below
    'feature_loss_weight': 10.0,
    'augment': True,
    'mix': True,
    'update_generator': False,
}
# What a student of stock tfmot is: it knows no other widths.
TFMOT_STUDENT = {
    'weight_bits': 8,
    'activation_bits': 8,
    'first_last_bits': 8,
    'all_activations': False,
    'wide_residuals': False,
    'range_training': 'moving_average',
    'equalization': False,
    'align_additions': False,
    'error_compensation': False,
    'bias_correction': False,
}
# The coarser the grid, the further the best weights lie from the teacher's. Three times as much at
# 4 bits, or 8, ends further from the teacher on another generator's images, blended or not.
_SMALL_RATES = {2: 3e-4, 3: 2e-4, 4: 1e-4, 5: 5e-5, 6: 3e-5, 7: 2e-5, 8: 1e-5}

DISTILLATION_OPTIONS = tuple(_PAPER_DISTILLATION)
# What the programs call those that the generator's training has too.
DISTILLATION_FLAGS = {
    name: f'distillation_{name}' for name in ('steps', 'optimizer', 'learning_rate')
}
STUDENT_OPTIONS = (
    'weight_bits',
    'activation_bits',
    'first_last_bits',
    'all_activations',
    'wide_residuals',
    'range_training',
)


def resolve_distillation(preset, overrides):
    """All options of a distillation: the preset's values, with the overrides that are not None.

    Args:
        preset: 'small' or 'paper'.
        overrides: dict of some of `DISTILLATION_OPTIONS`.

    Raises:
        UserError: unknown names, or values out of range.
    """
    if preset not in PRESETS:
        raise UserError(f'--preset={preset} is unknown: pass one of {", ".join(PRESETS)}.')
    unknown = sorted(set(overrides) - set(DISTILLATION_OPTIONS))
    if unknown:
        raise UserError(
            f'unknown option {unknown[0]}: the options are {", ".join(DISTILLATION_OPTIONS)}.'
        )
    options = dict(_PAPER_DISTILLATION if preset == 'paper' else _SMALL_DISTILLATION)
    given = {name: value for name, value in overrides.items() if value is not None}
    options |= given
    _check_choices(options, 'student', 'range_estimator', 'range_training', 'optimizer')
    if options['student'] == 'tfmot':
        for name, only in TFMOT_STUDENT.items():
            if given.get(name, only) != only:
                raise UserError(
                    f'--{name}={given[name]} is not for --student=tfmot, which knows {only} only: '
                    f'leave it out, or pass --student=folded.'
                )
        options |= TFMOT_STUDENT
    if options['range_training'] == 'moving_average' and options['steps']:
        for name, does in (
            ('error_compensation', 'chooses weights on their grids'),
            ('align_additions', 'gives tensors grids of one step'),
        ):
            if given.get(name):
                raise UserError(
                    f'--{name} {does}, and --range_training=moving_average moves these: pass '
                    f'learned or frozen, or --no{name}.'
                )
            options[name] = False
    if options['first_last_bits'] is None:
        options['first_last_bits'] = options['weight_bits']
    for name in ('weight_bits', 'activation_bits', 'first_last_bits'):
        _check(
            options, name, lambda v: isinstance(v, numbers.Integral) and 2 <= v <= 8, '2 to 8 bits'
        )
    if options['wide_residuals'] and (
        options['activation_bits'] == 8 or options['all_activations']
    ):
        raise UserError(
            '--wide_residuals keeps at 8 bits what would have fewer: pass fewer --activation_bits, '
            'and no --all_activations, or leave it out.'
        )
    if options['learning_rate'] is None:
        options['learning_rate'] = _SMALL_RATES[
            min(options['weight_bits'], options['activation_bits'])
        ]
    _check(options, 'range_images', is_count, 'a whole number, at least 1')
    for name, is_legal, legal in (
        ('steps', lambda v: v == 0 or is_count(v), '0 (ranges only, no training) or more'),
        ('learning_rate', lambda v: 0 < v < float('inf'), 'positive'),
    ):
        _check(options, name, is_legal, legal, DISTILLATION_FLAGS[name])
    _check(options, 'temperature', lambda v: 0 < v < float('inf'), 'positive')
    _check(options, 'soft_target_weight', lambda v: 0 <= v <= 1, 'between 0 and 1')
    if options['soft_target_weight'] < 1:
        if given.get('mix'):
            raise UserError(
                f'--soft_target_weight={options["soft_target_weight"]} uses labels, and a blend of '
                f'two images has none: pass --nomix, or --soft_target_weight=1.'
            )
        options['mix'] = False
    _check(options, 'feature_loss_weight', lambda v: 0 <= v < float('inf'), '0 or more')
    return options
