"""What tf_keras has no layer for, as layers of a flat teacher."""

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.teacher.layer_types import LAYER_TYPES


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class HardSigmoid(tf_keras.layers.Layer):
    """relu6(x + 3) / 6, MobileNetV3's gate (tf_keras' own `hard_sigmoid` is another function)."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class HardSwish(tf_keras.layers.Layer):
    """x relu6(x + 3) / 6, the activation of MobileNetV3."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class LogProbabilities(tf_keras.layers.Layer):
    """log p, finite for p = 0: the logits of a model that ends in something behind its softmax."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.math.log(tf.maximum(inputs, 1e-30))


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class ConstantChannel(tf_keras.layers.Layer):
    """Images [B, H, W, C] with one more channel, the same number everywhere."""

    def __init__(self, value: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.value = float(value)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, 1]], constant_values=self.value)

    def get_config(self) -> dict:
        return {**super().get_config(), 'value': self.value}


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class Reshape(tf_keras.layers.Reshape):
    """Keras' own, but to a constant shape: one RESHAPE in a `.tflite`.

    Keras computes the size of the batch, which stays in the file as SHAPE, STRIDED_SLICE and PACK.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        shape = self.compute_output_shape(inputs.shape)[1:]
        return tf.reshape(inputs, [-1, *shape])


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class SelectChannels(tf_keras.layers.Conv2D):
    """Channels chosen, moved or filled with zeros: a 1x1 convolution of zeros and ones.

    It stands for slices, splits and paddings of channels; nothing of it is ever trained.
    """

    def order(self) -> np.ndarray | None:
        """The order in which it hands on all channels, [C]; None if it drops or adds some."""
        kernel = self.get_weights()[0][0, 0]
        order = np.argmax(kernel, axis=0)
        return order if np.array_equal(kernel[order], np.eye(len(kernel))) else None


def classes_of(name: str) -> list[type]:
    """The classes of a layer type: of this module, and of tf_keras."""
    homes = (globals(), vars(tf_keras.layers))
    return [home[name] for home in homes if name in home]


def classes_with(fact: str) -> tuple[type, ...]:
    """The layer classes of which a field of `LayerType` is true or says something."""
    names = (name for name, layer_type in LAYER_TYPES.items() if getattr(layer_type, fact))
    return tuple(layer_class for name in names for layer_class in classes_of(name))


def affine_of(layer: tf_keras.layers.Layer) -> tuple[np.ndarray, np.ndarray] | None:
    """What a Rescaling or a Normalization computes.

    Returns:
        (scale, offset), float64 arrays that broadcast with its inputs; None of any other layer.
    """
    if isinstance(layer, tf_keras.layers.Rescaling):
        return np.float64(layer.scale), np.float64(layer.offset)
    if not isinstance(layer, tf_keras.layers.Normalization):
        return None
    mean, variance = normalization_moments(layer)
    deviation = np.maximum(np.sqrt(variance), tf_keras.backend.epsilon())
    return (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)


def normalization_moments(layer: object) -> tuple[np.ndarray, np.ndarray]:
    """(mean, variance) that a Normalization of either Keras uses, float64; both broadcast.

    Those of a layer that computes in 16 bits are rounded; what they were rounded from is taken.
    """
    exact = (layer.input_mean, layer.input_variance)
    if layer.input_mean is None:
        exact = (layer.adapt_mean, layer.adapt_variance)
    moments = []
    for used, value in zip((layer.mean, layer.variance), exact, strict=True):
        used, value = np.array(used), np.float64(np.array(value))
        if used.dtype.itemsize == 2 and value.size in (1, used.size):
            whole = np.broadcast_to(value.ravel(), [used.size]).reshape(used.shape)
            used = whole if np.allclose(whole, np.float64(used), rtol=0.01) else used
        moments.append(np.float64(used))
    return tuple(moments)


def by_channel(values: np.ndarray, channels: int) -> np.ndarray | None:
    """A number, or a value a channel in the last axis, as [channels]; None of other shapes."""
    if values.size > 1 and values.shape[-1] != values.size:
        return None
    return np.broadcast_to(values.reshape(-1), channels) if values.size in (1, channels) else None
