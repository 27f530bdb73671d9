"""What shapes the two trainings: their options, two presets of each, and their legal ranges."""

import math
import numbers

from zscgan_tf.errors import UserError

PRESETS = ('small', 'paper')
# The legal values of the options that have names for values.
CHOICES = {
    'compute_dtype': ('float32', 'bfloat16'),
    'student': ('folded', 'tfmot'),
    'range_estimator': ('minmax', 'mse'),
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
# NumPy's global seed and the int32 of a batch's seed end soon above.
MAX_SEED = 2_000_000_000


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
    given = {
        name: value if name == 'generator_channels' else checked(name, value)
        for name, value in overrides.items()
        if value is not None
    }
    options |= given
    if options['entropy_loss_weight'] and teacher.has_labels:
        raise UserError(
            f'--entropy_loss_weight={options["entropy_loss_weight"]} is for classes, and '
            f'{teacher.name} gives independent labels: leave it out.'
        )
    if not options['class_loss_weight'] and not options['bns_loss_weight']:
        raise UserError(
            '--class_loss_weight=0 and --bns_loss_weight=0 leave nothing to train: keep one.'
        )
    return options | _fit_to_scales(options, given, size)


def _fit_to_scales(options, given, size):
    """Number of scales, their channels, and the scales that noise enters, fitting together."""
    widths = _widths(options['generator_channels'])
    working_size = [-(-side // options['output_stride']) for side in size]
    scales = options['generator_scales']
    if 'generator_scales' not in given:
        if 'generator_channels' in given and len(widths) > 1:
            scales = len(widths)
        elif scales is None:
            scales = default_scales(working_size)
        else:  # the paper's five, as far as they fit
            scales = min(scales, most_scales(working_size))
    check_scales(scales, working_size)
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


def _widths(channels):
    """The channels of a generator as a list of ints: one for all scales, or one a scale."""
    several = isinstance(channels, (list, tuple)) or getattr(channels, 'ndim', 0) == 1
    widths = list(channels) if several else [channels]
    if not widths or not all(map(is_count, widths)):
        raise UserError(
            f'--generator_channels={_shown(channels)} must be whole numbers, at least 1: one for '
            f'all scales, or one a scale.'
        )
    return [int(width) for width in widths]


def default_scales(image_size):
    """As many scales as leave at least four pixels of the shorter side, five at most."""
    return max(1, min(5, int(math.log2(min(image_size))) - 2))


def most_scales(image_size):
    """How often an image can be halved; once in any case: a side of one pixel stays one."""
    return max(1, int(math.log2(min(image_size))))


def check_scales(scales, image_size):
    """Refuses more scales than halve the shorter side to one pixel.

    Raises:
        UserError: there are more.
    """
    most = most_scales(image_size)
    if scales > most:
        height, width = image_size
        raise UserError(
            f'--generator_scales={scales} halves {height}x{width} pixels below one: pass at most '
            f'{most}.'
        )


def is_count(value):
    """Whether a value is a whole number, at least 1."""
    return is_whole(value) and value >= 1


def is_whole(value):
    """Whether a value is a whole number, at least 0, that TensorFlow can hold."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and 0 <= value < 2**31


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


# Kinds of options: what is legal, in words, and the type that the value is kept in (a NumPy number
# does not fit into JSON).
_COUNT = (is_count, 'a whole number, at least 1 and below 2^31', int)
_POSITIVE = (lambda v: _is_number(v) and 0 < v < float('inf'), 'positive', float)
_WEIGHT = (lambda v: _is_number(v) and 0 <= v < float('inf'), '0 (switched off) or more', float)
_BITS = (lambda v: is_whole(v) and 2 <= v <= 8, '2 to 8 bits', int)
_SWITCH = (lambda v: type(v).__name__ in ('bool', 'bool_'), 'True or False', bool)
_KINDS = {
    'generator_scales': _COUNT,
    'skip_channels': (is_whole, '0 (no skips) or more', int),
    'z_channels': _COUNT,
    'noise_scales': _COUNT,
    'output_stride': _COUNT,
    'batch_size': _COUNT,
    'steps': _COUNT,
    'learning_rate': _POSITIVE,
    'class_loss_weight': _WEIGHT,
    'bns_loss_weight': _WEIGHT,
    'entropy_loss_weight': _WEIGHT,
    'weight_bits': _BITS,
    'activation_bits': _BITS,
    'first_last_bits': _BITS,
    'range_images': _COUNT,
    'distillation_steps': (is_whole, '0 (ranges only, no training) or more', int),
    'soft_target_weight': (lambda v: _is_number(v) and 0 <= v <= 1, 'between 0 and 1', float),
    'temperature': _POSITIVE,
    'distillation_learning_rate': _POSITIVE,
    'feature_loss_weight': _WEIGHT,
    # Of the functions that train.
    'seed': (lambda v: is_whole(v) and v <= MAX_SEED, f'0 to {MAX_SEED:,}', int),
    'checkpoint_every': _COUNT,
    'images_every': _COUNT,
}


def checked(flag, value):
    """The value of an option or argument, in its type.

    Args:
        flag: its name, as the programs call it.
        value: what was passed.

    Raises:
        UserError: another type, or out of range.
    """
    name = flag.removeprefix('distillation_')
    if name in CHOICES:
        choices = CHOICES[name]
        is_legal, legal, kind = choices.__contains__, f'one of {", ".join(choices)}', str
    else:
        is_legal, legal, kind = _KINDS.get(flag, _SWITCH)
    try:
        if is_legal(value):
            return kind(value)
    except (TypeError, ValueError, OverflowError):  # such as an array, where a value is compared
        pass
    raise UserError(f'--{flag}={_shown(value, name in CHOICES)} must be {legal}.')


def _shown(value, plain=False):
    """A value in a message: texts where numbers belong are quoted, arrays are cut."""
    text = ' '.join((str if plain else repr)(value).split())
    return text if len(text) <= 60 else text[:57] + '...'


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
    given = {
        name: checked(DISTILLATION_FLAGS.get(name, name), value)
        for name, value in overrides.items()
        if value is not None
    }
    options |= given
    if options['student'] == 'tfmot':
        for name, only in TFMOT_STUDENT.items():
            if given.get(name, only) != only:
                raise UserError(
                    f'--{name}={given[name]} is not for --student=tfmot, which knows {only} only: '
                    f'leave it out, or pass --student=folded.'
                )
        options |= TFMOT_STUDENT
    if options['range_training'] == 'moving_average' and options['steps']:
        passed = 'range_training' in given
        moved = '--range_training=moving_average' if passed else f'--preset={preset}'
        for name, does in (
            ('error_compensation', 'chooses weights on their grids'),
            ('align_additions', 'gives tensors grids of one step'),
        ):
            if given.get(name):
                raise UserError(
                    f'--{name} {does}, and {moved} moves these: pass --range_training=learned or '
                    f'frozen, or --no{name}.'
                )
            options[name] = False
    if options['first_last_bits'] is None:
        options['first_last_bits'] = options['weight_bits']
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
    if options['soft_target_weight'] < 1:
        if given.get('mix'):
            raise UserError(
                f'--soft_target_weight={options["soft_target_weight"]} uses labels, and a blend of '
                f'two images has none: pass --nomix, or --soft_target_weight=1.'
            )
        options['mix'] = False
    return options
