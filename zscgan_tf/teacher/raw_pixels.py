"""A teacher whose model takes raw pixels: its preprocessing becomes part of its first convolution.

A file's int8 input has one step for all channels, and inputs normalized channel by channel do not
fall on its grid: an image loses up to half a step before the first layer (ResNet-20: a third of the
error of an untrained W8A8 student). Raw pixels, 0...255, are on a grid of step 1.

    teacher = raw_pixels(load_teacher('model.h5'))

The convolution's zero padding means the model's own zero, which is a grey that may differ from
channel to channel. So 0 becomes a whole grey level near all of them, and a constant channel, which
is padded with zeros too, carries what is left of the offsets: the function stays the same up to
float rounding, the border included.
"""

import dataclasses
import math

import numpy as np
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.graphs import call_again, leading_nodes, rebuild
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.layers import ConstantChannel, SelectChannels, affine_of, by_channel
from zscgan_tf.teacher.teacher import Teacher

layers = tf_keras.layers

# What the input of a model of raw pixels, and of its file, is called.
RAW_PIXELS = 'raw_pixels_0_to_255'

# Offsets below this, in grey levels, are float rounding.
_NO_OFFSET = 1e-3


def raw_pixels(teacher: Teacher) -> Teacher:
    """The same classifier, on pixels of 0...255 in RGB order less a whole number.

    Args:
        teacher: a `Teacher`.

    Returns:
        A `Teacher` with the same answers to the same pixels, and the same fingerprint. Its input
        specification has the deviation 1/255 and as mean the number over 255.

    Raises:
        UserError: the model does not begin with a convolution (rescalings, normalizations, zero
            padding and another order of the channels may stand before it).
    """
    start = _Start(teacher)
    zero = int(np.clip(np.rint(np.mean(-start.offset / start.scale)), 0, 255))
    spec = raw_pixels_spec(teacher.input_spec, zero)
    images = tf_keras.Input(spec.image_shape, name=RAW_PIXELS, dtype='float32')
    values = {id(start.node.outputs): start.convolution(images, zero)}
    models = {}
    for name in ('model', 'logits_model'):
        model = getattr(teacher, name)
        output = rebuild(model, values, call_again)
        models[name] = tf_keras.Model(images, output, name=model.name)
        models[name].trainable = False
    return dataclasses.replace(teacher, input_spec=spec, preprocessing=teacher.input_spec, **models)


def takes_raw_pixels(model: tf_keras.Model) -> bool:
    """Whether a tf_keras model is one of a `raw_pixels` teacher's."""
    return model.input_names[0] == RAW_PIXELS


def raw_pixels_spec(input_spec: InputSpec, zero: int) -> InputSpec:
    """An input specification for the same images: pixels of 0...255 in RGB order, less `zero`."""
    return InputSpec(input_spec.image_size, input_spec.channels, zero / 255, 1 / 255)


class _Start:
    """What stands before and in a model's first convolution.

    Attributes:
        node: the convolution's.
        order: the pixels' channels in the order of the convolution's inputs, [C].
        scale, offset: the convolution's inputs are scale p + offset, of pixels p of 0...255 in this
            order; float64, a value a channel.
    """

    def __init__(self, teacher):
        spec = teacher.input_spec
        self._name, self._padding = teacher.name, []
        self.order = np.arange(spec.channels)[:: -1 if spec.bgr else 1]
        mean, std = np.float64(spec.mean), np.float64(spec.std)
        self.scale, self.offset = 1 / (255 * std), -mean / std
        for self.node in leading_nodes(teacher.model):
            layer = self.node.layer
            what, found = f"layer '{layer.name}'", affine_of(layer)
            order = layer.order() if isinstance(layer, SelectChannels) else None
            if order is not None:
                self.order = self.order[order]
                self.scale, self.offset = self.scale[order], self.offset[order]
                continue
            if type(layer) in (layers.Conv2D, SelectChannels) and layer.groups == 1:
                return
            if isinstance(layer, layers.ZeroPadding2D):
                self._padding.append(layer)
                continue
            if found is None:
                raise self._refused(f'{what} ({type(layer).__name__})')
            if self._padding:
                raise self._refused(f'{what} behind a zero padding')
            scale, offset = (by_channel(values, self.scale.size) for values in found)
            if scale is None or offset is None or not np.all(scale):
                raise self._refused(f'{what} without one scale, not 0, a channel')
            self.scale, self.offset = self.scale * scale, self.offset * scale + offset
        raise self._refused('several layers')

    def convolution(self, images, zero):
        """The first convolution's outputs, of pixels less `zero`."""
        layer = self.node.layer
        kernel, *bias = layer.get_weights()
        left = self.offset + self.scale * zero
        new = np.float64(kernel) * self.scale[:, None]
        constant = np.einsum('hwco,c->hwo', np.float64(kernel), left)[:, :, None]
        new = new[:, :, np.argsort(self.order)]
        x = images
        if np.max(np.abs(left / self.scale)) > _NO_OFFSET:
            # Large enough for its weights not to stretch the range of the others.
            largest = [np.max(np.abs(k), axis=(0, 1, 2)) for k in (constant, new)]
            value = math.ceil(np.max(largest[0] / np.maximum(largest[1], 1e-30), initial=1))
            value = min(value, 255 - zero) if zero < 128 else -min(value, zero)
            x = ConstantChannel(value, name=f'{RAW_PIXELS}_and_{value}', dtype='float32')(x)
            new = np.concatenate([new, constant / value], axis=2)
        for padding in self._padding:
            x = padding(x)
        # The layer itself may be used elsewhere too.
        config = {**layer.get_config(), 'name': f'{layer.name}_of_{RAW_PIXELS}'}
        copy = type(layer).from_config(config)
        copy.trainable = False
        y = copy(x)
        copy.set_weights([np.float32(new), *bias])
        return y

    def _refused(self, what):
        return UserError(
            f'{self._name} begins with {what}: --raw_pixels needs a convolution (without groups) '
            f'there to take the preprocessing over; leave --raw_pixels out.'
        )
