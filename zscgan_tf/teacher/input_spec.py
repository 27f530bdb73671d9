"""The input specification: image size, channels, and how pixels become a model's inputs.

Generators, sources, files and grids speak *pixels* (float32 in [0, 1], NHWC); a teacher takes
*inputs*. `InputSpec.to_inputs` and `InputSpec.to_pixels` are the only bridge between the two.
"""

import dataclasses
import json
import os
from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.first_layers import UNIT_NAMES, first_layers

FIELDS = ('image_size', 'channels', 'mean', 'std', 'bgr', 'preprocessing')
_PIXEL_FIELDS = ('mean', 'std', 'bgr', 'preprocessing')

# The `mode`s of tf_keras.applications' preprocess_input, raw (0...255) and unit ([0, 1]) pixels, as
# (mean, std, bgr): inputs = (pixels - mean) / std, after the channels were turned around where bgr
# is set.
PREPROCESSINGS = {
    'tf': (0.5, 0.5, False),
    'torch': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False),
    'caffe': ((103.939 / 255, 116.779 / 255, 123.68 / 255), 1 / 255, True),
    'raw': (0.0, 1 / 255, False),
    'unit': (0.0, 1.0, False),
}
# Means and deviations of pixels in [0, 1] are below 1; those of pixels in 0...255 are not.
_LARGEST = 2.0


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a teacher's first layer takes.

    Attributes:
        image_size: (height, width).
        channels: number of channels.
        mean, std: a value a channel, of pixels in [0, 1], in the model's channel order.
        bgr: whether the model takes the channels in reverse order (`caffe`).
    """

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False

    def __post_init__(self):
        for name in ('mean', 'std'):
            values = np.atleast_1d(np.asarray(getattr(self, name), np.float64))
            if values.size not in (1, self.channels):
                raise UserError(
                    f'--{name} has {values.size} values, but the teacher takes {self.channels} '
                    f'channels: pass one value, or one a channel.'
                )
            if not np.all(np.isfinite(values)) or (name == 'std' and np.any(values <= 0)):
                raise UserError(
                    f'--{name} has values that are not '
                    f'{"positive and " if name == "std" else ""}finite: {values.tolist()}.'
                )
            if np.any(np.abs(values) > _LARGEST):
                raise UserError(
                    f'--{name}={",".join(f"{v:g}" for v in values)} is for pixels in 0...255; here '
                    f'they are in [0, 1]: pass --{name}='
                    f'{",".join(f"{v / 255:.4g}" for v in values)} (the same over 255).'
                )
            object.__setattr__(
                self, name, tuple(np.broadcast_to(values, self.channels).astype(float).tolist())
            )
        if self.bgr and self.channels != 3:
            raise UserError(
                f'--channel_order=bgr is for 3 channels, but the teacher takes {self.channels}: '
                f'leave it out.'
            )
        object.__setattr__(self, 'image_size', tuple(int(side) for side in self.image_size))

    @classmethod
    def from_preprocessing(
        cls, image_size: tuple[int, int], channels: int, preprocessing: str
    ) -> 'InputSpec':
        """The specification of a named preprocessing, one of `PREPROCESSINGS`."""
        if preprocessing not in PREPROCESSINGS:
            raise UserError(
                f'--preprocessing={preprocessing} is unknown: pass one of '
                f'{", ".join(PREPROCESSINGS)}, or --mean and --std.'
            )
        mean, std, bgr = PREPROCESSINGS[preprocessing]
        if channels != 3 and preprocessing in ('torch', 'caffe'):
            raise UserError(
                f'--preprocessing={preprocessing} is for 3 channels, but the teacher takes '
                f'{channels}: pass --mean and --std.'
            )
        return cls(image_size, channels, mean, std, bgr)

    def with_bgr(self, bgr: bool | None) -> 'InputSpec':
        """The same preprocessing of models that take BGR (or RGB) order; None: as it is."""
        if bgr is None or bool(bgr) == self.bgr:
            return self
        return dataclasses.replace(self, mean=self.mean[::-1], std=self.std[::-1], bgr=bool(bgr))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.image_size, self.channels)

    def to_inputs(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pixels in [0, 1], [..., H, W, C], to what the teacher's first layer takes."""
        if self.bgr:
            pixels = tf.reverse(pixels, axis=[-1])
        mean, std = (tf.constant(v, pixels.dtype) for v in (self.mean, self.std))
        return (pixels - mean) / std

    def to_pixels(self, inputs: tf.Tensor) -> tf.Tensor:
        """The inverse of `to_inputs`."""
        mean, std = (tf.constant(v, inputs.dtype) for v in (self.mean, self.std))
        pixels = inputs * std + mean
        return tf.reverse(pixels, axis=[-1]) if self.bgr else pixels

    @property
    def input_range(self) -> tuple[np.ndarray, np.ndarray]:
        """(lowest, highest) legal value of each channel of the inputs, float32, [C]."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        return -mean / std, (1 - mean) / std

    def describe(self) -> str:
        """The preprocessing in one line, for summaries."""
        order = ', channels in BGR order' if self.bgr else ''
        height, width, channels = self.image_shape
        return f'{height}x{width}x{channels}, {self._formula()}{order}'

    def _formula(self):
        """How pixels of 0...255 become inputs."""
        mean, std = np.float64(self.mean), np.float64(self.std)
        for unit, (unit_mean, unit_std) in _UNIT_SPECS.items():
            if np.allclose(mean, unit_mean, atol=1e-6) and np.allclose(std, unit_std, rtol=1e-5):
                return f'pixels {"of" if unit == "raw" else "scaled to"} {UNIT_NAMES[unit]}'
        if np.allclose(std, 1 / 255, rtol=1e-5):
            return f'pixels of 0...255 - {_short(255 * mean)}'
        return f'(pixels of 0...255 / 255 - {_short(mean)}) / {_short(std)}'

    def to_dict(self) -> dict[str, object]:
        """The JSON form: `image_size`, `channels`, `mean`, `std`, and `bgr` where it is set."""
        fields = {
            'image_size': list(self.image_size),
            'channels': self.channels,
            'mean': list(self.mean),
            'std': list(self.std),
        }
        return {**fields, 'bgr': True} if self.bgr else fields


_UNIT_SPECS = {unit: PREPROCESSINGS[unit][:2] for unit in UNIT_NAMES}


def _short(values):
    values = [round(float(v), 4) for v in values]
    return str(values[0]) if len(set(values)) == 1 else str(values)


def read_fields(path: str | os.PathLike) -> dict[str, object]:
    """The fields of an input specification's JSON file; other keys are ignored.

    Raises:
        UserError: the file is not a JSON object.
    """
    try:
        with open(path, encoding='utf-8') as file:
            fields = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: not a readable JSON input specification ({error}).') from error
    if not isinstance(fields, dict):
        raise UserError(f'{path}: an input specification is a JSON object, not a list or value.')
    return {name: fields[name] for name in FIELDS if name in fields}


def merge_fields(explicit: Mapping[str, object], stored: Mapping[str, object]) -> dict[str, object]:
    """Fields of an input specification, explicit ones before those of a JSON file.

    Raises:
        UserError: one source gives a preprocessing and a mean or deviation too.
    """
    for fields in (explicit, stored):
        if 'preprocessing' in fields and ('mean' in fields or 'std' in fields):
            raise UserError(
                'The input specification has both a preprocessing and a mean or std: pass either '
                '--preprocessing, or --mean and --std.'
            )
    merged = dict(stored)
    # A preprocessing is mean, deviation and channel order in one: the two forms do not mix.
    if 'preprocessing' in explicit:
        merged = {k: v for k, v in merged.items() if k not in _PIXEL_FIELDS}
    elif 'mean' in explicit or 'std' in explicit:
        merged.pop('preprocessing', None)
    return {**merged, **explicit}


def resolve_image_shape(
    model_shape: tuple[int | None, ...] | None, fields: Mapping[str, object], name: str
) -> tuple[int, int, int]:
    """(height, width, channels) of the images that a model takes.

    Args:
        model_shape: the model's own, None where it is open; or None where nothing is known.
        fields: of the input specification; see `merge_fields`.
        name: the model's name for messages.

    Raises:
        UserError: both sides contradict each other, or neither tells.
    """
    model_shape = (None, None, None) if model_shape is None else tuple(model_shape)
    size, channels = fields.get('image_size'), fields.get('channels')
    if size is not None:
        size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        size = size * 2 if len(size) == 1 else size
        if len(size) != 2 or not all(_is_count(side) for side in size):
            raise UserError(f'--image_size={fields["image_size"]}: pass height,width in pixels.')
    if channels is not None and not _is_count(channels):
        raise UserError(f'--channels={channels}: pass a positive number.')
    wanted = (*(size or (None, None)), channels)
    pairs = list(zip(wanted, model_shape, strict=True))
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise UserError(
            f'{name} takes images of {_sides(model_shape)} (height x width x channels), but the '
            f'input specification says {_sides(wanted)}: correct --image_size or --channels, or '
            f'the JSON beside the model.'
        )
    shape = tuple(a if b is None else b for a, b in pairs)
    if None in shape[:2]:
        raise UserError(f'{name} has no fixed image size: pass --image_size=height,width.')
    if shape[2] is None:
        raise UserError(f'{name} has no fixed number of channels: pass --channels.')
    return shape


def _is_count(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0


def _sides(shape):
    return 'x'.join('?' if side is None else str(side) for side in shape)


def resolve_input_spec(
    image_shape: tuple[int, int, int],
    fields: Mapping[str, object],
    flat_model: tf_keras.Model,
    name: str,
    stored: Collection[str] = (),
) -> InputSpec:
    """The `InputSpec` of a model.

    Args:
        image_shape: (height, width, channels), see `resolve_image_shape`.
        fields: of the input specification; see `merge_fields`.
        flat_model: the flat model; what it begins with tells where `fields` do not.
        name: the model's name for messages.
        stored: the fields that come from a JSON beside the file, for messages.

    Raises:
        UserError: nothing tells how pixels become inputs, or the fields contradict the model's own
            first layers.
    """
    *size, channels = image_shape
    own = first_layers(flat_model, channels)
    given = [field for field in ('preprocessing', 'mean', 'std') if field in fields]
    if given:
        spec = _spec_of_fields(tuple(size), channels, fields, name)
        _check_against(own, spec, given, stored, name)
        return spec
    plausible = own.plausible_units() if own else []
    if len(plausible) != 1:
        raise UserError(_question(name, channels, own))
    spec = InputSpec.from_preprocessing(tuple(size), channels, plausible[0])
    return spec.with_bgr(fields.get('bgr'))


def _spec_of_fields(size, channels, fields, name):
    """The `InputSpec` of a preprocessing, or of a mean and a deviation."""
    if 'preprocessing' in fields:
        spec = InputSpec.from_preprocessing(size, channels, fields['preprocessing'])
        return spec.with_bgr(fields.get('bgr'))
    if ('mean' in fields) != ('std' in fields):
        given, missing = ('mean', 'std') if 'mean' in fields else ('std', 'mean')
        raise UserError(f'{name}: --{given} is given without --{missing}: pass both.')
    bgr = bool(fields.get('bgr'))
    try:
        return InputSpec(size, channels, fields['mean'], fields['std'], bgr)
    except (TypeError, ValueError) as error:
        raise UserError(f'{name}: --mean and --std must be numbers ({error}).') from error


def _check_against(own, spec, given, stored, name):
    """Refuses a preprocessing that a model which does its own cannot have been trained with."""
    if own is None or not own.by_constants:
        return
    plausible = own.plausible_units()
    if len(plausible) != 1 or own.is_plausible(*spec.input_range):
        return
    if set(given) <= set(stored):
        advice = f'remove {" and ".join(given)} from the JSON beside the file'
    else:
        advice = f'leave {" and ".join(f"--{field}" for field in given)} out'
    low, high = spec.input_range
    raise UserError(
        f'{name} rescales pixels of {UNIT_NAMES[plausible[0]]} itself, in its first layers '
        f'({own.describe()}); the inputs that were asked for, {low.min():.4g}...{high.max():.4g}, '
        f'do not fit: {advice}.'
    )


def _question(name, channels, own):
    """The message that asks for a preprocessing."""
    seen = 'nothing tells' if own is None else f'its first layers ({own.describe()}) do not tell'
    choices = [
        ('--preprocessing=unit', 'pixels / 255: most training code of Keras users'),
        ('--preprocessing=raw', 'pixels of 0...255 as they are'),
        ('--preprocessing=torch', 'PyTorch, torchvision'),
        ('--preprocessing=tf', 'pixels in [-1, 1]: MobileNet and others of Keras applications'),
    ]
    if channels != 3:
        choices = [choice for choice in choices if choice[0] != '--preprocessing=torch']
    lines = '\n'.join(f'  {flag:<23} ({meaning})' for flag, meaning in choices)
    return (
        f'{name}: {seen} which inputs the model was trained on: pass --preprocessing, or --mean '
        f'and --std, or put a JSON beside the file. The most common are:\n{lines}'
    )
