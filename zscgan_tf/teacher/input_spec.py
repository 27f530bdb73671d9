"""The input specification: image size, channels, and how pixels become a model's inputs.

Generators, sources, files and grids speak *pixels* (float32 in [0, 1], NHWC); a teacher takes
*inputs*. `InputSpec.to_inputs` and `InputSpec.to_pixels` are the only bridge between the two.
"""

import dataclasses

import numpy as np
import tensorflow as tf

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
# The units that pixels come in, by the preprocessing that gives them.
UNIT_NAMES = {'raw': '0...255', 'unit': '[0, 1]', 'tf': '[-1, 1]'}
# Mean and deviation of photographs' pixels, about.
_PHOTO_MEAN, _PHOTO_STD = 0.45, 0.225
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
            object.__setattr__(
                self, name, tuple(np.broadcast_to(values, self.channels).astype(float).tolist())
            )
        if np.any(np.abs(self.mean + self.std) > _LARGEST):
            raise UserError(
                f'--mean and --std are those of pixels in [0, 1], and a value is above '
                f'{_LARGEST:g}: if yours are of pixels in 0...255, pass both over 255, '
                f'--mean={_over_255(self.mean)} --std={_over_255(self.std)}.'
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
        """The specification of a named preprocessing, one of `PREPROCESSINGS`.

        Raises:
            UserError: the name is unknown, or is for 3 channels.
        """
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

    def standardizing(self) -> 'InputSpec':
        """The preprocessing that gives images mean 0 and deviation 1 in each channel, about.

        One by mean and deviation does: these are the moments of the images that the teacher was
        trained on. One that only changes the unit (0...255, [0, 1], [-1, 1]) tells nothing of
        them. Then the moments are those of photographs, and the order of channels stays.
        """
        units = [PREPROCESSINGS[name][1] for name in UNIT_NAMES]
        if not any(np.allclose(self.std, unit, rtol=1e-4) for unit in units):
            return self
        return dataclasses.replace(
            self, mean=(_PHOTO_MEAN,) * self.channels, std=(_PHOTO_STD,) * self.channels
        )

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
        for unit, unit_name in UNIT_NAMES.items():
            unit_mean, unit_std, _ = PREPROCESSINGS[unit]
            if np.allclose(mean, unit_mean, atol=1e-6) and np.allclose(std, unit_std, rtol=1e-5):
                return f'pixels {"of" if unit == "raw" else "scaled to"} {unit_name}'
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


def _over_255(values):
    """Values, a number a channel, over 255: one text where all are equal."""
    texts = [f'{value / 255:.6g}' for value in values]
    return texts[0] if len(set(texts)) == 1 else ','.join(texts)


def _short(values):
    values = [round(float(v), 4) for v in values]
    return str(values[0]) if len(set(values)) == 1 else str(values)
