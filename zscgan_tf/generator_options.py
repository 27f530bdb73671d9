"""The options of a generator and of its training (ZS-CGAN), and the scales that fit an image."""

import dataclasses
import math
import typing

from zscgan_tf.errors import UserError
from zscgan_tf.options import (
    COUNT,
    LARGE_SIDE,
    POSITIVE,
    SWITCH,
    WEIGHT,
    Derived,
    Kind,
    Options,
    choice,
    counts,
    is_large,
    is_whole,
    option,
)

# What shapes the U-Net alone.
_OF_UNET = (
    'generator_scales',
    'generator_channels',
    'skip_channels',
    'z_channels',
    'noise_scales',
    'output_stride',
)
# From here on a short training does not learn the classes (see `zscgan.entropy_loss`).
MANY_CLASSES = 100


def _by_size(value, large):
    small_words, large_words = (
        f'{v:,}' if isinstance(v, int) else str(v).strip('[]') for v in (value, large)
    )
    words = f'{small_words}; from {LARGE_SIDE} pixels on {large_words}'
    return Derived(words, lambda teacher: large if is_large(teacher) else value)


def _entropy_loss_weight(teacher):
    # At 30 the BNS loss falls as fast as at 10, and the answers become sure instead of unsure.
    return (
        30.0 if teacher.num_classes >= MANY_CLASSES and not teacher.has_independent_labels else 0.0
    )


@dataclasses.dataclass(frozen=True)
class GeneratorOptions(Options):
    """What shapes a generator and its training.

    `paper` is section 3: 200 epochs of 1000 batches of 128, Adam with learning rate 1e-3; the
    network of [22] has 5 scales of 128 channels, skips of 4, and a noise map of 32 channels.
    `small` is for two cores and minutes instead of GPUs and days (docs/choices.md).

    What shapes the U-Net alone is None for a generator of another network.
    """

    generator_scales: int = option(
        COUNT,
        'How often the generator halves the image size; fewer for small images.',
        paper=5,
        small=Derived('5, as long as 4 pixels are left'),
    )
    generator_channels: list[int] = option(
        counts('whole numbers, at least 1: one for all scales, or one a scale'),
        'Channels of all scales, or of each.',
        paper=[128],
        # Most of the cost is at full resolution, most of what tells classes apart at the low ones.
        small=_by_size([32, 32, 32, 32, 32], [16, 48, 96, 192, 192]),
    )
    skip_channels: int = option(
        Kind(is_whole, '0 (no skips) or more', int), 'Channels of the skips, 0 for none.', paper=4
    )
    z_channels: int = option(
        COUNT,
        'Channels of a noise map.',
        paper=32,
        small=8,  # drawing 32 maps costs time, and neither loss is lower for it
    )
    noise_scales: int = option(
        COUNT,
        'Scales at which noise enters.',
        paper=1,
        small=5,  # at full resolution alone, z hardly changes an image
    )
    output_stride: int = option(
        COUNT,
        'The generator works at 1/stride of the image size.',
        paper=1,
        small=_by_size(1, 2),
    )
    generator: str = option(
        choice('unet', 'dcgan'),
        'The network: unet, of the paper; dcgan, of adversarial distillation [14], without '
        'classes.',
        paper='unet',
        before='unet',
    )
    unconditional: bool = option(
        SWITCH,
        'A generator without classes, as in adversarial distillation [14]: one row of each '
        'conditional batch norm, and no cross-entropy.',
        paper=False,
        before=False,
    )
    batch_size: int = option(
        COUNT,
        'Images a batch, over all replicas.',
        paper=128,
        small=_by_size(64, 16),  # more steps help more than more images a step
    )
    steps: int = option(
        COUNT, 'Training steps (batches).', paper=200_000, small=_by_size(1000, 2500)
    )
    learning_rate: float = option(
        POSITIVE,
        "First rate of the generator's Adam; a cosine to 0.",
        paper=1e-3,
        small=_by_size(1e-3, 2e-3),  # few steps: both losses fall faster than at 1e-3
    )
    class_loss_weight: float = option(
        WEIGHT,
        'Weight of the cross-entropy.',
        paper=Derived('1.0; with --unconditional 0', lambda teacher: 1.0),
    )
    bns_loss_weight: float = option(WEIGHT, 'Weight of the BNS loss.', paper=1.0)
    entropy_loss_weight: float = option(
        WEIGHT,
        "Weight of the entropy of the teacher's answers and of a batch's shortfall of class "
        'diversity.',
        paper=Derived('0; with --unconditional 1', lambda teacher: 0.0),
        small=Derived(
            f'0; from {MANY_CLASSES} classes on 30; with --unconditional 1', _entropy_loss_weight
        ),
    )
    compute_dtype: str = option(
        choice('float32', 'bfloat16'),
        'Type of the forward and backward passes; moments are float32.',
        paper='float32',
    )

    @classmethod
    def _completed(cls, values, given, preset, teacher) -> dict:
        if values['unconditional']:
            values = values | _without_classes(given, teacher)
        if values['entropy_loss_weight'] and teacher.has_independent_labels:
            raise UserError(
                f'--entropy_loss_weight={values["entropy_loss_weight"]} is for classes, and '
                f'{teacher.name} gives independent labels: leave it out.'
            )
        if values['unconditional'] and not values['bns_loss_weight']:
            raise UserError(
                '--bns_loss_weight=0 leaves too little to train with --unconditional: leave one of '
                'them out.'
            )
        if not values['class_loss_weight'] and not values['bns_loss_weight']:
            raise UserError(
                '--class_loss_weight=0 and --bns_loss_weight=0 leave nothing to train: keep one.'
            )
        if values['generator'] == 'dcgan':
            return values | _of_dcgan(values, given, teacher.input_spec.image_size)
        return values | _fit_to_scales(values, given, teacher.input_spec.image_size)

    @classmethod
    def from_record(cls, record: dict[str, object]) -> typing.Self:
        """See `Options.from_record`."""
        if record.get('generator') == 'dcgan':
            record = dict.fromkeys(_OF_UNET) | record
        return super().from_record(record)


def _without_classes(given, teacher):
    """The weights of the losses of a generator without classes; refuses the loss of classes."""
    if given.get('class_loss_weight'):
        raise UserError(
            f'--class_loss_weight={given["class_loss_weight"]} is for a generator of classes, and '
            f'--unconditional has none: leave one of them out.'
        )
    # Independent labels have no entropy of classes.
    entropy_loss_weight = given.get(
        'entropy_loss_weight', 0.0 if teacher.has_independent_labels else 1.0
    )
    return {'class_loss_weight': 0.0, 'entropy_loss_weight': entropy_loss_weight}


def _of_dcgan(values, given, image_size):
    """None for what shapes the U-Net alone; refuses what the generator of [14] cannot be."""
    if not values['unconditional']:
        raise UserError(
            '--generator=dcgan is a generator without classes: pass --unconditional too, or '
            '--generator=unet.'
        )
    if wrong := [name for name in _OF_UNET if name in given]:
        raise UserError(
            f'--{wrong[0]} is for the U-Net: leave it out, or pass --generator=unet instead of '
            f'dcgan.'
        )
    dcgan_doublings(image_size)
    return dict.fromkeys(_OF_UNET)


def dcgan_doublings(image_size: tuple[int, int]) -> int:
    """How often the generator of [14] doubles its first map.

    Three times, as in [14]; more often where the first map would be larger than 8 pixels and can
    still be halved. The linear layer that makes the map would have 206 million weights at 224
    pixels otherwise.

    Raises:
        UserError: the image size is no multiple of eight.
    """
    height, width = image_size
    if height % 8 or width % 8:
        raise UserError(
            f'--generator=dcgan doubles a small map three times, and {height}x{width} pixels are '
            f'no multiples of 8: pass --generator=unet, which makes images of any size.'
        )
    doublings = 3
    while max(height, width) >> doublings > 8 and not (height | width) % (2 << doublings):
        doublings += 1
    return doublings


def _fit_to_scales(values, given, image_size):
    """Number of scales, their channels, and the scales that noise enters, fitting together."""
    channels = values['generator_channels']
    working_size = [-(-side // values['output_stride']) for side in image_size]
    scales = values['generator_scales']
    if 'generator_scales' not in given:
        if 'generator_channels' in given and len(channels) > 1:
            scales = len(channels)
            if scales > most_scales(working_size):
                raise UserError(
                    f'--generator_channels has {scales} numbers, one a scale, and images of this '
                    f'size have at most {most_scales(working_size)} scales: pass fewer.'
                )
        elif scales is None:
            scales = default_scales(working_size)
        else:  # the paper's five, as far as they fit
            scales = min(scales, most_scales(working_size))
    check_scales(scales, working_size)
    if len(channels) == 1:
        channels = channels * scales
    elif 'generator_channels' not in given:  # the preset's list, as far as there are scales
        channels = (channels + channels[-1:] * scales)[:scales]
    noise_scales = values['noise_scales']
    if 'noise_scales' not in given:
        noise_scales = min(noise_scales, scales)
    return {
        'generator_scales': scales,
        'generator_channels': channels,
        'noise_scales': noise_scales,
    }


def default_scales(image_size: tuple[int, int]) -> int:
    """As many scales as leave at least four pixels of the shorter side, five at most."""
    return max(1, min(5, int(math.log2(min(image_size))) - 2))


def most_scales(image_size: tuple[int, int]) -> int:
    """How often an image can be halved; once in any case: a side of one pixel stays one."""
    return max(1, int(math.log2(min(image_size))))


def check_scales(scales: int, image_size: tuple[int, int]) -> None:
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
