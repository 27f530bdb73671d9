"""The options of a distillation (DF-QAT)."""

import dataclasses

from zscgan_tf.errors import UserError
from zscgan_tf.options import (
    COUNT,
    POSITIVE,
    SHARE,
    SWITCH,
    WEIGHT,
    Derived,
    Kind,
    choice,
    is_count,
    option,
)
from zscgan_tf.student.options import CalibrationOptions

# The coarser the grid, the further the best weights lie from the teacher's. Three times as much at
# 4 bits, or 8, ends further from the teacher on another generator's images, blended or not.
_SMALL_RATES = {2: 3e-4, 3: 2e-4, 4: 1e-4, 5: 5e-5, 6: 3e-5, 7: 2e-5, 8: 1e-5}


@dataclasses.dataclass(frozen=True)
class DistillationOptions(CalibrationOptions):
    """What shapes a student, its calibration and its training.

    `paper` is section 3: 50 epochs of 1000 batches of 128 (the generator's batch), Nesterov's SGD
    with learning rate 1e-4, the generator updated; ranges are moving averages of the extremes.
    """

    steps: int = option(
        Kind(
            is_count,
            'a whole number, at least 1; --method=ptq of quantize sets ranges without training',
            int,
        ),
        'Steps of the student.',
        paper=50_000,
        small=1500,
        flag='distillation_steps',
    )
    optimizer: str = option(
        choice('adam', 'sgd'),
        'Adam, or SGD with Nesterov momentum 0.9.',
        paper='sgd',
        small='adam',
        flag='distillation_optimizer',
    )
    learning_rate: float = option(
        POSITIVE,
        "First rate of the student's optimizer; a cosine to 0.",
        paper=1e-4,
        small=Derived('1e-5 at 8 bits to 1e-4 at 4 and 3e-4 at 2, by the smaller width'),
        flag='distillation_learning_rate',
    )
    soft_target_weight: float = option(
        SHARE,
        "Share of the model's answers in the loss (λ of the paper's eq. 3). 1: no labels; 0: "
        'labels alone.',
        paper=1.0,
    )
    temperature: float = option(POSITIVE, 'Temperature of the soft targets.', paper=1.0)
    feature_loss_weight: float = option(
        WEIGHT,
        'Weight of the squared error of what convolutions read.',
        paper=0.0,
        small=10.0,
    )
    augment: bool = option(SWITCH, 'Flip and shift the images.', paper=False, small=True)
    mix: bool = option(
        SWITCH, 'Blend pairs of images; for soft targets only.', paper=False, small=True
    )
    update_generator: bool = option(
        SWITCH, 'Train the generator on while the student learns.', paper=True, small=False
    )
    adversarial_weight: float = option(
        WEIGHT,
        "Weight of the student's divergence from the model, which an updated generator makes "
        'larger: 1 / α of adversarial distillation [14].',
        paper=0.0,
        before=0.0,
    )
    generator_every: int = option(
        COUNT,
        'With --update_generator: steps of the student for each step of the generator.',
        paper=1,
        before=1,
    )

    def used_images(self, batch_size: int) -> int:
        """How many of a source's first images make a student of these options."""
        return self.range_images + self.steps * batch_size

    @classmethod
    def _completed(cls, values, given, preset, teacher) -> dict:
        values = super()._completed(values, given, preset, teacher)
        if values['range_training'] == 'moving_average':
            passed = 'range_training' in given
            moved = '--range_training=moving_average' if passed else f'--preset={preset}'
            for name, does in (
                ('error_compensation', 'chooses weights on their grids'),
                ('align_additions', 'gives tensors grids of one step'),
            ):
                if given.get(name):
                    raise UserError(
                        f'--{name} {does}, and {moved} moves these: pass --range_training=learned '
                        f'or frozen, or --no{name}.'
                    )
                values[name] = False
        _check_generator(values, given, teacher)
        if values['learning_rate'] is None:
            values['learning_rate'] = _SMALL_RATES[
                min(values['weight_bits'], values['activation_bits'])
            ]
        if values['soft_target_weight'] < 1:
            if given.get('mix'):
                raise UserError(
                    f'--soft_target_weight={values["soft_target_weight"]} uses labels, and a blend '
                    f'of two images has none: pass --nomix, or --soft_target_weight=1.'
                )
            values['mix'] = False
        return values


def _check_generator(values, given, teacher):
    """Refuses options of an updated generator that contradict others."""
    for name, off in (('adversarial_weight', 0), ('generator_every', 1)):
        if given.get(name, off) != off and not values['update_generator']:
            raise UserError(
                f'--{name}={given[name]} is for a generator that is updated: pass '
                f'--update_generator, or leave it out.'
            )
    every, steps = values['generator_every'], values['steps']
    if every > steps:
        raise UserError(
            f'--generator_every={every} is more than all {steps} steps of the student: pass '
            f'fewer, or more --distillation_steps.'
        )
    if values['adversarial_weight'] and teacher is not None and teacher.has_independent_labels:
        raise UserError(
            f'--adversarial_weight={values["adversarial_weight"]:g} is for classes, and '
            f'{teacher.name} gives independent labels: leave it out.'
        )
