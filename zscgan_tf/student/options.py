"""The options of a quantized student: its widths, and how its ranges are set."""

import dataclasses

from zscgan_tf.errors import UserError
from zscgan_tf.options import BITS, COUNT, SHARE, SWITCH, Derived, Kind, Options, choice, option

# What moving averages keep where nothing else is said.
RANGE_DECAY = 0.99
# What a student of stock tfmot is: it knows no other values.
TFMOT = {
    'weight_bits': 8,
    'activation_bits': 8,
    'first_last_bits': 8,
    'activation_scope': 'read',
    'weight_granularity': 'channel',
    'wide_residuals': False,
    'range_training': 'moving_average',
    'align_additions': False,
    'error_compensation': False,
    'bias_correction': False,
}


@dataclasses.dataclass(frozen=True)
class StudentOptions(Options):
    """What a student is: its kind, and the widths of its tensors."""

    student: str = option(
        choice('folded', 'tfmot'),
        "folded: batch norms folded, any width; tfmot: TensorFlow Model Optimization's own "
        'quantize_model, 8 bits.',
        paper='folded',
    )
    weight_bits: int = option(BITS, 'Width of the weights, 2 to 8.', paper=8)
    activation_bits: int = option(
        Kind(lambda v: BITS.is_legal(v) or v == 16, '2 to 8 bits, or 16', int),
        "Width of what convolutions read, 2 to 8; 16 by TFLite's calibration alone.",
        paper=8,
    )
    first_last_bits: int = option(
        BITS,
        "Width of the first and the last layer's weights.",
        paper=Derived('--weight_bits'),
    )
    activation_scope: str = option(
        choice('read', 'all_but_input', 'all'),
        'Which tensors have --activation_bits; others have 8. read: what convolutions read; '
        'all_but_input: also logits and what is only summed; all: also the input.',
        paper='all_but_input',
        small='read',
        before='read',
    )
    weight_granularity: str = option(
        choice('channel', 'tensor'),
        'Per-channel or per-tensor weights. Default of --method=dfq: tensor.',
        paper='tensor',
        small='channel',
        before='channel',
    )
    wide_residuals: bool = option(
        SWITCH,
        'Keep at 8 bits a tensor that both a convolution and an addition read; the convolution '
        'reads a copy of --activation_bits.',
        paper=False,
    )
    range_training: str = option(
        choice('learned', 'moving_average', 'frozen'),
        'How ranges change in training: learned by gradients, moving averages of the extremes, or '
        'frozen.',
        paper='moving_average',
        small='learned',
    )
    range_decay: float = option(
        SHARE,
        'Share of the old range that a step of moving averages keeps.',
        paper=0.999,
        small=RANGE_DECAY,
        before=RANGE_DECAY,
    )

    @classmethod
    def _completed(cls, values, given, preset, teacher) -> dict:
        if values['activation_bits'] == 16:
            raise UserError(
                "--activation_bits=16 is for TFLite's own calibration, not for a student: quantize "
                'with --method=ptq --range_estimator=tflite, or pass at most 8 bits.'
            )
        if values['student'] == 'tfmot':
            values = values | _only_tfmot(values, given)
        follows = values['student'] == 'folded' and values['range_training'] == 'moving_average'
        if not follows:
            if given.get('range_decay', RANGE_DECAY) != RANGE_DECAY:
                raise UserError(
                    f'--range_decay={given["range_decay"]} is for moving averages of a folded '
                    f'student: pass --student=folded --range_training=moving_average, or leave it '
                    f'out.'
                )
            values['range_decay'] = RANGE_DECAY
        if values['first_last_bits'] is None:
            values['first_last_bits'] = values['weight_bits']
        if values['wide_residuals'] and (
            values['activation_bits'] == 8 or values['activation_scope'] != 'read'
        ):
            raise UserError(
                '--wide_residuals keeps at 8 bits what would have fewer: pass fewer '
                '--activation_bits, and --activation_scope=read, or leave it out.'
            )
        return values


@dataclasses.dataclass(frozen=True)
class CalibrationOptions(StudentOptions):
    """How the ranges, grids, roundings and biases of a student are set on images."""

    range_estimator: str = option(
        choice('mse', 'minmax', 'tflite'),
        'How ranges are set: through the student by the least squared error or by the extremes, or '
        "by TFLite's own calibration.",
        paper=Derived('tflite; minmax with --method=qat'),
        small='mse',
    )
    range_images: int = option(COUNT, 'Images that set the ranges.', paper=1024, small=512)
    align_additions: bool = option(
        SWITCH,
        'Give the operands of an addition and their sum one step: the integer sum is exact.',
        paper=False,
        small=True,
    )
    error_compensation: bool = option(
        SWITCH, 'Round kernels so that their errors cancel.', paper=False, small=True
    )
    bias_correction: bool = option(
        SWITCH,
        'Subtract from the biases the mean error of rounded kernels.',
        paper=False,
        small=True,
    )

    @classmethod
    def _completed(cls, values, given, preset, teacher) -> dict:
        values = super()._completed(values, given, preset, teacher)
        if given.get('range_estimator') == 'tflite':
            raise UserError(
                "--range_estimator=tflite is TFLite's own calibration, which makes no student: "
                'pass --range_estimator=mse or minmax.'
            )
        if values['range_estimator'] is None:
            values['range_estimator'] = 'minmax'
        return values

    def used_images(self, batch_size: int) -> int:
        """How many of a source's first images make a student of these options."""
        return self.range_images


def _only_tfmot(values, given):
    """The options of a stock student; refuses others."""
    for name, value in TFMOT.items():
        if given.get(name, value) != value:
            raise UserError(
                f'--{name}={given[name]} is not for --student=tfmot, which knows {value} only: '
                f'leave it out, or pass --student=folded.'
            )
    return {name: value for name, value in TFMOT.items() if name in values}
