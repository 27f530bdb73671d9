"""What tf_keras has no layer for, as layers of a flat teacher."""

import tensorflow as tf
import tf_keras


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class HardSigmoid(tf_keras.layers.Layer):
    """relu6(x + 3) / 6, MobileNetV3's gate (tf_keras' own `hard_sigmoid` is another function)."""

    def call(self, inputs):
        return tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class HardSwish(tf_keras.layers.Layer):
    """x relu6(x + 3) / 6, the activation of MobileNetV3."""

    def call(self, inputs):
        return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class LogProbabilities(tf_keras.layers.Layer):
    """log p, finite for p = 0: the logits of a model whose softmax could not be found."""

    def call(self, inputs):
        return tf.math.log(tf.maximum(inputs, 1e-30))


@tf_keras.utils.register_keras_serializable('zscgan_tf')
class ConstantChannel(tf_keras.layers.Layer):
    """Images [B, H, W, C] with one more channel, the same number everywhere."""

    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        self.value = float(value)

    def call(self, inputs):
        return tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, 1]], constant_values=self.value)

    def get_config(self):
        return {**super().get_config(), 'value': self.value}
