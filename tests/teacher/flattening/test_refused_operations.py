"""What no layer stands for is refused in one line that names it."""

import pytest
import tensorflow as tf
import tf_keras

from tests.teacher.flattening.test_flatten import RawConvolution, end, make
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.flattening.flatten import flatten

layers = tf_keras.layers


class RawTransposition(RawConvolution):
    def call(self, x):
        return tf.nn.conv2d_transpose(x, self.kernel, (1, 8, 8, 3), 1)


class PythonBranch(layers.Layer):
    def call(self, x):
        return x if float(tf.reduce_sum(x)) > 0 else -x


@pytest.mark.parametrize(
    'body, words',
    [
        (lambda x: tf.cumsum(x, 1), ['tf.math.cumsum', 'Keras layers']),
        (lambda x: tf.reduce_mean(x, -1, keepdims=True), ['tf.reduce_mean over axes [3]']),
        (lambda x: 1.0 / x, ['division by a tensor']),
        (lambda x: RawTransposition(name='mine')(x), ['raw_model', 'conv2d_transpose', 'mine']),
        (lambda x: PythonBranch(name='branch')(x), ["'branch'", 'PythonBranch', 'followed']),
        (lambda x: layers.Dropout(0.5, name='mc')(x, training=True), ["'mc'", 'training=True']),
        (lambda x: layers.BatchNormalization(name='b')(x, True), ["'b'", 'training=True']),
        (lambda x: tf.reshape(x, [tf.shape(x)[0] * 4, 4, 4, 3]), ['with these arguments']),
        (lambda x: tf.clip_by_value(x, [0.0] * 3, [1.0] * 3), ['with these arguments']),
        (lambda x: tf.clip_by_value(x, -65504, 65504), ['at 65504, too far off']),
        (lambda x: tf.minimum(x, 1e4), ['at 10000, too far off']),
        (lambda x: layers.BatchNormalization(axis=1, name='nchw')(x), ["'nchw'", 'channels first']),
        (
            lambda x: layers.MaxPooling2D(data_format='channels_first', name='pool')(x),
            ["'pool'", 'channels first'],
        ),
    ],
)
def test_what_no_layer_stands_for_is_refused_by_name(body, words):
    model = make(lambda x: end(layers.BatchNormalization()(body(x))), name='raw_model')
    with pytest.raises(UserError) as error:
        flatten(model)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert '\n' not in str(error.value)
