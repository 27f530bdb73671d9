"""Input specification: image size, channels, and the bridge between pixels and a model's inputs.

Generators, sources, files and grids speak *pixels* (float32 in [0, 1], NHWC); a teacher takes
*inputs*. `InputSpec.to_inputs` and `InputSpec.to_pixels` are the only bridge between the two.
"""

import dataclasses
import json

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError

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
        object.__setattr__(self, 'image_size', tuple(int(side) for side in self.image_size))

    @classmethod
    def from_preprocessing(cls, image_size, channels, preprocessing):
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

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return (*self.image_size, self.channels)

    def to_inputs(self, pixels):
        """Pixels in [0, 1], [..., H, W, C], to what the teacher's first layer takes."""
        if self.bgr:
            pixels = tf.reverse(pixels, axis=[-1])
        mean, std = (tf.constant(v, pixels.dtype) for v in (self.mean, self.std))
        return (pixels - mean) / std

    def to_pixels(self, inputs):
        """The inverse of `to_inputs`."""
        mean, std = (tf.constant(v, inputs.dtype) for v in (self.mean, self.std))
        pixels = inputs * std + mean
        return tf.reverse(pixels, axis=[-1]) if self.bgr else pixels

    @property
    def input_range(self):
        """(lowest, highest) legal value of each channel of the inputs: float32 arrays, [C]."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        return -mean / std, (1 - mean) / std

    def describe(self):
        """The preprocessing in one line, for summaries."""
        order = ', channels in BGR order' if self.bgr else ''
        height, width, channels = self.image_shape
        return (
            f'{height}x{width}x{channels}, (pixels in [0, 1] - {_short(self.mean)}) / '
            f'{_short(self.std)}{order}'
        )

    def to_dict(self):
        """The JSON form: `image_size`, `channels`, `mean`, `std`, and `bgr` where it is set."""
        fields = {
            'image_size': list(self.image_size),
            'channels': self.channels,
            'mean': list(self.mean),
            'std': list(self.std),
        }
        return {**fields, 'bgr': True} if self.bgr else fields


def _short(values):
    values = [round(v, 4) for v in values]
    return str(values[0]) if len(set(values)) == 1 else str(values)


def read_fields(path):
    """The fields of an input specification's JSON file, as a dict; other keys are ignored.

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


FIELDS = ('image_size', 'channels', 'mean', 'std', 'bgr', 'preprocessing')
_PIXEL_FIELDS = ('mean', 'std', 'bgr', 'preprocessing')


def merge_fields(explicit, stored):
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
    # A preprocessing is mean, deviation and channel order in one: the two forms don't mix.
    if 'preprocessing' in explicit:
        merged = {k: v for k, v in merged.items() if k not in _PIXEL_FIELDS}
    elif 'mean' in explicit or 'std' in explicit:
        merged.pop('preprocessing', None)
    return {**merged, **explicit}


def resolve_image_shape(model_shape, fields, name):
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


def resolve_input_spec(image_shape, fields, flat_model, name):
    """The `InputSpec` of a model.

    Args:
        image_shape: (height, width, channels), see `resolve_image_shape`.
        fields: of the input specification; see `merge_fields`.
        flat_model: the flat model; a Rescaling that it starts with tells where `fields` do not.
        name: the model's name for messages.

    Raises:
        UserError: nothing tells how pixels become inputs.
    """
    *size, channels = image_shape
    bgr = fields.get('bgr')
    if 'preprocessing' in fields:
        spec = InputSpec.from_preprocessing(tuple(size), channels, fields['preprocessing'])
        return spec if bgr is None else dataclasses.replace(spec, bgr=bool(bgr))
    if ('mean' in fields) != ('std' in fields):
        given, missing = ('mean', 'std') if 'mean' in fields else ('std', 'mean')
        raise UserError(f'{name}: --{given} is given without --{missing}: pass both.')
    if 'mean' in fields:
        try:
            return InputSpec(tuple(size), channels, fields['mean'], fields['std'], bool(bgr))
        except (TypeError, ValueError) as error:
            raise UserError(f'{name}: --mean and --std must be numbers ({error}).') from error
    found = _detect(flat_model)
    if found is None:
        raise UserError(
            f'{name}: nothing tells how pixels become the inputs that the model was trained on: '
            f'pass --preprocessing, or --mean and --std, or put a JSON beside the file. The two '
            f'most common are:\n'
            f'  --preprocessing=tf   (pixels in [-1, 1]: MobileNet and most of '
            f'tf_keras.applications)\n'
            f'{_SECOND_MOST_COMMON if channels == 3 else _SECOND_OF_OTHER_CHANNELS}'
        )
    return dataclasses.replace(
        InputSpec.from_preprocessing(tuple(size), channels, found), bgr=bool(bgr)
    )


_SECOND_MOST_COMMON = '  --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225   (PyTorch, torchvision)'
_SECOND_OF_OTHER_CHANNELS = '  --preprocessing=unit   (pixels in [0, 1])'


def _detect(flat_model):
    """The preprocessing that a Rescaling at the start of a flat model makes likely, or None.

    The model then does its own preprocessing and takes raw pixels, 0...255, or pixels in [0, 1].
    """
    consumers = flat_model.layers[0]._outbound_nodes
    layers = [n.outbound_layer for n in consumers if n.outbound_layer in flat_model.layers]
    if len(layers) != 1 or not isinstance(layers[0], tf_keras.layers.Rescaling):
        return None
    # Whoever scales by a deviation: pixels' is at most 1/2 of [0, 1], and some tens of 0...255.
    scale = np.max(np.abs(layers[0].scale))
    return 'raw' if scale < 0.5 else 'unit' if scale >= 1 else None
