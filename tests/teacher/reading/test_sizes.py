"""Sizes in messages."""

import pytest
import tensorflow as tf
import tf_keras

from zscgan_tf.teacher.reading.sizes import check_outputs, in_words


@pytest.mark.parametrize(
    'size, words',
    [
        (0, '0 bytes'),
        (1023, '1023 bytes'),
        (1024, '1 kB'),
        (1000 * 2**20, '1000 MB'),
        (64 * 10**9, '59.6 GB'),
        (5000 * 2**40, '5000 TB'),
        (10**300, '9.09e+287 TB'),
    ],
)
def test_sizes_in_words(size, words):
    assert in_words(size) == words


def test_an_output_of_unknown_rank_has_no_size():
    images = tf_keras.Input((8, 8, 3))
    answers = tf.squeeze(tf_keras.layers.GlobalAveragePooling2D(keepdims=True)(images))
    assert answers.shape.rank is None
    check_outputs(tf_keras.Model(images, answers), 'a.h5')
