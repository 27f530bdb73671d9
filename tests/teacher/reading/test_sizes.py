"""Sizes in messages."""

import pytest

from zscgan_tf.teacher.reading.sizes import in_words


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
