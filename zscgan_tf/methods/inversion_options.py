"""The options of the methods that optimize images: ZeroQ [12] and DeepInversion [13]."""

import collections.abc
import dataclasses
import math

from zscgan_tf.errors import UserError
from zscgan_tf.options import (
    COUNT,
    LARGE_SIDE,
    POSITIVE,
    SWITCH,
    WEIGHT,
    WHOLE,
    Derived,
    Options,
    choice,
    is_large,
    option,
)


@dataclasses.dataclass(frozen=True)
class InversionOptions(Options):
    """What both methods have: how many images, in which groups, and how long each is optimized.

    `paper` is what the methods' authors publish, `small` fits two cores.
    """

    images: int = option(
        COUNT,
        'Number of images that are optimized (--source=zeroq or deep_inversion).',
        paper=Derived('64; 1,000,000 for deep_inversion'),
        small=Derived('64; 512 for deep_inversion, one a class at least'),
        flag='optimized_images',
    )
    group_size: int = option(
        COUNT,
        'Images that are optimized together. --statistics says whose moments count (ZeroQ). '
        'Surplus images of the last group are dropped.',
        paper=Derived('64; for deep_inversion 256, in the ImageNet settings 84'),
        small=Derived(f'64; for deep_inversion 256, from {LARGE_SIDE} pixels on 32'),
    )
    iterations: int = option(
        WHOLE,
        'Optimization steps of each group. 0: the random start images are used, as a control.',
        paper=Derived('500; for deep_inversion 2,000, with imagenet_20k 20,000'),
        small=Derived(f'500; for deep_inversion 1,000, from {LARGE_SIDE} pixels on 500'),
    )
    learning_rate: float = option(
        POSITIVE,
        'First rate of the Adam that optimizes images.',
        paper=Derived('0.5; for deep_inversion 0.05, in the ImageNet settings 0.25'),
        flag='image_learning_rate',
    )

    @property
    def groups(self) -> int:
        """Number of groups."""
        return -(-self.images // self.group_size)

    @property
    def steps(self) -> int:
        """Steps of all groups."""
        return self.groups * self.iterations

    @property
    def image_passes(self) -> int:
        """Forward and backward passes of the teacher, counted by images."""
        return self.steps * self.group_size

    @classmethod
    def _filled(cls, values, given, defaults) -> dict:
        """The values, with a method's defaults where a preset left one open."""
        values = {k: defaults[k] if v is None else v for k, v in values.items()}
        if 'group_size' not in given:
            values['group_size'] = min(values['group_size'], values['images'])
        if values['group_size'] > values['images']:
            raise UserError(
                f'--group_size={values["group_size"]} is more than the '
                f'--optimized_images={values["images"]}: pass fewer, or leave it out.'
            )
        return values


@dataclasses.dataclass(frozen=True)
class ZeroqOptions(InversionOptions):
    """What shapes the images of ZeroQ (arXiv 2001.00281): one batch of 64 in both presets.

    The published code takes the moments of each image, and leaves logits in float. Its images all
    have the same mean features, and so logits far below those of real images. In a file whose
    logits are integers too, ranges set on such images cut real logits off. `small` therefore reads
    equation 3 (as we remember it) as moments of all images.
    """

    statistics: str = option(
        choice('image', 'batch'),
        'Whose moments come near the stored ones: those of each image, as in the published code, '
        'or of all images of a group (--source=zeroq).',
        paper='image',
        small='batch',
    )

    @classmethod
    def _completed(cls, values, given, preset, teacher) -> dict:
        defaults = {'images': 64, 'group_size': 64, 'iterations': 500, 'learning_rate': 0.5}
        return cls._filled(values, given, defaults)


# The published scripts' numbers. Those for large images are of their 224 pixel runs: most teachers
# are graphs of one size, so the run that begins at 112 pixels cannot be offered. The variation's
# norm grows with the root of the group's size, so its weight belongs to that size.
_PUBLISHED = {
    'cifar10': {
        'group_size': 256,
        'iterations': 2000,
        'learning_rate': 0.05,
        'moments_weight': 10.0,
        'variation_weight': 2.5e-5,
        'norm_weight': 0.0,
    },
    'imagenet_2k': {
        'group_size': 84,
        'iterations': 2000,
        'learning_rate': 0.25,
        'moments_weight': 0.01,
        'variation_weight': 1e-4,
        'norm_weight': 1e-5,
    },
}
_PUBLISHED['imagenet_20k'] = {**_PUBLISHED['imagenet_2k'], 'iterations': 20_000}


def _setting(large: str) -> collections.abc.Callable[[object], str]:
    return lambda teacher: large if is_large(teacher) else 'cifar10'


def _from_large(value, large):
    return Derived(f'{value:g}; in the ImageNet settings {large:g}')


@dataclasses.dataclass(frozen=True)
class DeepInversionOptions(InversionOptions):
    """What shapes the images of DeepInversion (arXiv 1912.08795), and of its adaptive variant."""

    setting: str = option(
        choice('cifar10', 'imagenet_2k', 'imagenet_20k'),
        'Which published run of DeepInversion: its optimizer, jitter, clipping and norms, and the '
        'defaults of its weights and its rate.',
        paper=Derived(
            f'cifar10; from {LARGE_SIDE} pixels on imagenet_20k', _setting('imagenet_20k')
        ),
        small=Derived(f'cifar10; from {LARGE_SIDE} pixels on imagenet_2k', _setting('imagenet_2k')),
        flag='published_setting',
    )
    moments_weight: float = option(
        WEIGHT,
        "Weight of the moments' distances from the stored ones (DeepInversion).",
        paper=_from_large(10, 0.01),
    )
    variation_weight: float = option(
        WEIGHT,
        "Weight of the images' total variation (DeepInversion).",
        paper=Derived(
            '2.5e-05 x sqrt(256 / --group_size); in the ImageNet settings 0.0001 x sqrt(84 / '
            '--group_size)'
        ),
    )
    norm_weight: float = option(
        WEIGHT, "Weight of the images' norm (DeepInversion).", paper=_from_large(0, 1e-5)
    )
    compete_weight: float = option(
        WEIGHT,
        'Adaptive DeepInversion, with --method=qat. A student is distilled on the first half of '
        'the images; this is the weight of its disagreement in the loss of the second half. '
        'Published are 0.2 (ImageNet) and 10 (CIFAR).',
        paper=0.0,
    )
    clamped_js: bool = option(
        SWITCH,
        'The disagreement in the form of the published code, probabilities clamped to 0.01...0.99.',
        paper=False,
    )

    @classmethod
    def _completed(cls, values, given, preset, teacher) -> dict:
        found = {**_PUBLISHED[values['setting']], 'images': 1_000_000}
        if preset == 'small':
            found['images'] = max(512, teacher.num_classes)
            found['iterations'] = 500 if is_large(teacher) else 1000
            found['group_size'] = min(found['group_size'], 32) if is_large(teacher) else 256
        values = cls._filled(values, given, found)
        if 'variation_weight' not in given:
            published = _PUBLISHED[values['setting']]['group_size']
            values['variation_weight'] *= math.sqrt(published / values['group_size'])
        if values['images'] < teacher.num_classes:
            raise UserError(
                f'--optimized_images={values["images"]} leaves classes without an image, and '
                f'{teacher.name} has {teacher.num_classes}: pass at least {teacher.num_classes}, '
                f'or --source=zeroq, which knows no classes.'
            )
        if values['clamped_js'] and not values['compete_weight']:
            raise UserError(
                '--clamped_js is for adaptive DeepInversion: pass a --compete_weight, or leave it '
                'out.'
            )
        if values['compete_weight'] and not values['iterations']:
            raise UserError(
                f'--compete_weight={values["compete_weight"]} is of no use with --iterations=0, '
                f'which optimizes no image: leave one out.'
            )
        if values['compete_weight'] and teacher.has_independent_labels:
            raise UserError(
                f'--compete_weight={values["compete_weight"]} is for classes, and {teacher.name} '
                f'gives independent labels: leave it out.'
            )
        if values['compete_weight'] and values['images'] <= values['group_size']:
            raise UserError(
                f'--compete_weight={values["compete_weight"]} needs two groups, and '
                f'--optimized_images={values["images"]} are one: pass more, or a smaller '
                f'--group_size.'
            )
        return values
