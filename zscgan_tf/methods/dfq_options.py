"""The options of DFQ, data-free quantization without any image (`methods.dfq`)."""

import dataclasses

from zscgan_tf.options import SWITCH, choice, option
from zscgan_tf.student.options import StudentOptions


@dataclasses.dataclass(frozen=True)
class DfqOptions(StudentOptions):
    """What shapes a student that is made by DFQ: its widths, and two choices in the method.

    The method is that of a folded student whose kernels have one scale each and whose ranges are
    not trained. With a scale for each channel of a kernel there is little left to equalize.
    """

    student: str = option(choice('folded'), 'The folded student.', paper='folded')
    weight_granularity: str = option(
        choice('channel', 'tensor'),
        'Scales of a kernel: one for each output channel, or one for all of them.',
        paper='tensor',
    )
    range_training: str = option(choice('frozen'), 'Nothing is trained.', paper='frozen')
    relu6: str = option(
        choice('replaced', 'clipped'),
        'A ReLU6 between two convolutions: replaced by a ReLU, as published; or clipped, each '
        'channel at its own value, by two small integer operations more.',
        paper='replaced',
        small='clipped',
    )
    absorb_padded: bool = option(
        SWITCH,
        'Absorb high biases into convolutions that pad with zeros, too: at the border of an image '
        'that changes the answers.',
        paper=False,
    )
