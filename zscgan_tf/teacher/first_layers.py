"""A model's own preprocessing: what its first layers say of the pixels that it takes.

Many models begin with their own preprocessing: Rescaling, Normalization, `x - c`, `x / c`. Together
these compute scale x + offset. Of the three units that pixels come in, a unit is plausible if it
gives the layers behind a range that networks are trained on.
"""

import dataclasses

import numpy as np
import tf_keras

from zscgan_tf.teacher.graphs import leading_nodes
from zscgan_tf.teacher.input_spec import UNIT_NAMES
from zscgan_tf.teacher.layers import SelectChannels, affine_of, by_channel
from zscgan_tf.teacher.tap import is_batch_norm

# The legal range of a pixel by the preprocessing that gives it.
UNITS = {'raw': (0.0, 255.0), 'unit': (0.0, 1.0), 'tf': (-1.0, 1.0)}

# Largest values behind preprocessing: 0.5 of [-0.5, 0.5], 2.9 of SVHN's normalized images. A dark
# channel has a small deviation, and so a large range.
_LARGEST_VALUES = (0.4, 4.0)
# Width of pixels of 0...255 that are at most shifted.
_BYTE_WIDTHS = (200.0, 300.0)
# Where zero lies, as a share of the range: at its lower end, or at the mean of the training images.
_LOWER_END = 1e-3
_MEANS = (0.05, 0.66)
# Black and white pixels have the variance 1; less by the ε of the batch norm.
_LEAST_LARGEST_VARIANCE = 0.9
# What a batch norm does to inputs that have about the mean 0 and the variance 1 already. Pixels of
# -1...1 have a deviation of about 0.5.
_UNIT_SCALES = (0.75, 1.33)
_NEAR_ZERO = 0.4
# These change no pixel.
_PASSING = (tf_keras.layers.Cropping2D, tf_keras.layers.Resizing, tf_keras.layers.ZeroPadding2D)


@dataclasses.dataclass(frozen=True)
class FirstLayers:
    """The map scale x + offset that a model's first layers compute.

    Attributes:
        scale, offset: float64, [C].
        by_constants: whether constants alone say so; otherwise the last layer is a batch norm, of
            which the stored moments count: those of its training images.
    """

    scale: np.ndarray
    offset: np.ndarray
    by_constants: bool = True

    def plausible_units(self) -> list[str]:
        """The names of the units that give what follows a usual range."""
        return [unit for unit, (low, high) in UNITS.items() if self.is_plausible(low, high)]

    def is_plausible(self, low: float | np.ndarray, high: float | np.ndarray) -> bool:
        """Whether inputs between low and high, numbers or [C], give what follows a usual range."""
        limits = np.stack([self.scale * low + self.offset, self.scale * high + self.offset])
        low, high = limits.min(axis=0), limits.max(axis=0)
        largest, width = np.maximum(-low, high), np.maximum(high - low, 1e-30)
        zero = -low / width
        sized = _between(largest, _LARGEST_VALUES) | _between(width, _BYTE_WIDTHS)
        placed = (np.abs(zero) <= _LOWER_END) | _between(zero, _MEANS)
        if not self.by_constants:
            # The batch norm gives a mean of 0 and a variance of 1. Values within limits have no
            # larger variance than this product (the inequality of Bhatia and Davis).
            placed &= -low * high > _LEAST_LARGEST_VARIANCE
            # Inputs that were standardized outside of the model look like pixels of -1...1.
            standardized = _between(self.scale, _UNIT_SCALES) & (np.abs(self.offset) < _NEAR_ZERO)
            placed &= ~standardized
        return bool(np.all(sized & placed))

    def describe(self) -> str:
        """The map and what it makes of each unit, for messages."""
        ranges = []
        for unit, limits in UNITS.items():
            values = np.outer(limits, self.scale) + self.offset
            ranges.append(f'{UNIT_NAMES[unit]} becomes {values.min():.4g}...{values.max():.4g}')
        return f'{_numbers(self.scale)} x + {_numbers(self.offset)}: {", ".join(ranges)}'


def first_layers(model: tf_keras.Model, channels: int) -> FirstLayers | None:
    """The map that the first layers of a flat model compute; None where it begins with others.

    Args:
        model: a flat tf_keras model.
        channels: of its images.
    """
    scale, offset, is_identity = np.ones(channels), np.zeros(channels), True
    for node in leading_nodes(model):
        layer = node.layer
        if isinstance(layer, _PASSING):
            continue
        if isinstance(layer, SelectChannels):
            order = layer.order()
            if order is None:
                break
            scale, offset = scale[order], offset[order]  # as in BGR order
            continue
        is_norm = is_batch_norm(layer)
        affine = _standardization(layer) if is_norm else affine_of(layer)
        affine = affine and [by_channel(values, channels) for values in affine]
        if affine is None or any(values is None for values in affine):
            break
        scale, offset = scale * affine[0], offset * affine[0] + affine[1]
        is_identity = False
        if is_norm:
            return FirstLayers(scale, offset, by_constants=False)
    return None if is_identity else FirstLayers(scale, offset)


def _standardization(layer):
    """Scale and offset by the stored moments of a batch norm, without its γ and β."""
    deviation = np.sqrt(np.float64(layer.moving_variance) + layer.epsilon)
    return 1 / deviation, -np.float64(layer.moving_mean) / deviation


def _between(values, limits):
    return (values >= limits[0]) & (values <= limits[1])


def _numbers(values):
    values = [f'{value:.4g}' for value in values]
    return values[0] if len(set(values)) == 1 else f'[{", ".join(values)}]'
