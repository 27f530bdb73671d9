"""DFQ: a quantized student without training, and without a single image.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019,
arXiv 1906.04721. All that the method knows of images is what the batch norms have stored.

Two things differ from public codes. The deviation of a channel is that of the batch norm's own
arithmetic, which is not |gamma| where epsilon counts (`folding.Norm`). Under the preset `small` a
ReLU6 is not replaced but clips each channel at its own value (`cross_layer.with_clips`).

    made = make_student(teacher, DfqOptions.resolve('small', {}))
    made.student, made.pairs, made.sweeps, made.absorbed

The steps, in their order, are those of `make_student`.
"""

import dataclasses
import logging

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.methods.cross_layer import (
    absorb_biases,
    equalize,
    find_pairs,
    limit_clips,
    with_clips,
    without_relu6,
)
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.methods.moments import Moments, per_input, propagate, sum_of_inputs
from zscgan_tf.student.calibration.ranges import set_weight_ranges
from zscgan_tf.student.folding import fold_with_norms, kernel_name
from zscgan_tf.student.graph import Graph, with_copies
from zscgan_tf.student.grids import SMALLEST_RANGE
from zscgan_tf.student.student import Student, build_student, legal_range
from zscgan_tf.teacher.head import split_end
from zscgan_tf.teacher.teacher import Teacher

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Dfq:
    """A student that DFQ made, and what was done to it.

    Attributes:
        student: the `Student`, its ranges set and its biases corrected.
        relu6: how many ReLU6 became ReLU, or clips of each channel.
        pairs: how many pairs of convolutions were equalized.
        sweeps: how many times each, until nothing changed.
        absorbed: how many channels had a part of their bias moved into the next convolution.
        channels: how many channels the pairs have between them.
        corrected: how many kernels had their mean error taken out of the biases behind them.
    """

    student: Student
    relu6: int
    pairs: int
    sweeps: int
    absorbed: int
    channels: int
    corrected: int

    def unquantized(self) -> Student | None:
        """The float twin in the place of a `Student`, to measure what its changes cost.

        None where it has the teacher's function, up to clips that `limit_clips` lowered.
        """
        replaced = self.relu6 and self.student.options.relu6 == 'replaced'
        if not replaced and not self.absorbed:
            return None
        return dataclasses.replace(self.student, model=self.student.twin)


def make_student(teacher: Teacher, options: DfqOptions) -> Dfq:
    """A student whose weights, ranges and biases are set by DFQ.

    Args:
        teacher: a `Teacher`.
        options: its widths and switches.

    Raises:
        UserError: a layer that the student or the moments do not know, or a teacher without any
            pair of convolutions that can be equalized.
    """
    folded, norms = fold_with_norms(split_end(teacher)[0], teacher.name)
    if options.wide_residuals:
        folded = with_copies(folded)
    clips = options.relu6 == 'clipped'
    twin, relu6 = with_clips(folded) if clips else without_relu6(folded)
    pairs = find_pairs(twin)
    if not pairs:
        raise UserError(
            f'--method=dfq has nothing to equalize in {teacher.name}: no two convolutions follow '
            f'each other with only ReLU, padding or pooling between: pass --method=ptq.'
        )
    norms, sweeps = equalize(twin, norms, pairs)
    norms, absorbed = absorb_biases(twin, norms, pairs, options.absorb_padded)
    image_range = legal_range(teacher.input_spec)
    if clips:
        limit_clips(twin, pairs, propagate(twin, norms, image_range))
    moments = propagate(twin, norms, image_range)
    student = build_student(teacher, options, twin=twin)
    student = dataclasses.replace(student, equalized=True)
    set_ranges(student, moments)
    corrected = correct_biases(student, moments)
    channels = sum(pair.first.bias.shape[0] for pair in pairs)
    made = Dfq(student, len(relu6), len(pairs), sweeps, absorbed, channels, corrected)
    logger.info('DFQ: %s', in_words(made))
    return made


def in_words(made: Dfq) -> str:
    """What was done, in one line."""
    became = {'replaced': 'became ReLU', 'clipped': 'clip each channel at its own value'}
    words = [f'{made.relu6} ReLU6 {became[made.student.options.relu6]}'] if made.relu6 else []
    words += [
        f'{made.pairs} pair{"s" if made.pairs > 1 else ""} equalized in {made.sweeps} sweeps',
        f'biases of {made.absorbed} of {made.channels:,} channels absorbed',
        f'biases behind {made.corrected} kernels corrected',
    ]
    return ', '.join(words)


def set_ranges(student: Student, moments: dict[str, Moments]) -> None:
    """Steps 4 and 5: ranges of activations from moments, ranges of weights from their extremes.

    A tensor's range holds six deviations around the mean of each of its channels, cut at 0 by a
    ReLU (section 5, as remembered). The model's input keeps its legal range.

    Args:
        student: a `Student` of kind 'folded'.
        moments: of its twin's layers, of `moments.propagate`.
    """
    set_weight_ranges(student, 'minmax')
    for name, each in student.ranges().items():
        low, high = moments[name].low.min(), moments[name].high.max()
        each.assign(min(low, 0.0), max(high, SMALLEST_RANGE))


def correct_biases(student: Student, moments: dict[str, Moments]) -> int:
    """Step 6: takes the mean error of rounded kernels out of the biases (section 4.2, equation 17).

    The error of an output is the sum of the errors of its weights, each times the mean of what the
    weight reads. Kernels whose input's mean is not known from batch norms are left out, as the
    first layer's is.

    (`student.calibration.bias_correction` does the same with means over images.)

    Args:
        student: a `Student` of kind 'folded' whose ranges are set.
        moments: of its twin's layers, of `moments.propagate`.

    Returns:
        How many kernels had their error taken out.
    """
    graph, count = Graph(student.twin), 0
    for kernel in student.kernels():
        layer = student.twin.get_layer(kernel.layer.name)
        read = moments[graph.sources[layer.name][0].name].by_channel()
        if not read.known or not layer.trainable:  # constants are on their grids
            continue
        exact = np.float64(getattr(layer, kernel_name(layer)))
        error = np.float64(kernel.rounded()) - exact
        kernel.layer.bias.assign_sub(
            tf.constant(sum_of_inputs(layer, error * per_input(layer, read.mean)), tf.float32)
        )
        count += 1
    return count
