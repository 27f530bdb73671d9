"""Functions over batches, whatever makes them."""

import io
import itertools

import numpy as np
import pytest
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.sources.batches import check_pixels, take, with_progress
from zscgan_tf.teacher.input_spec import InputSpec

SPEC = InputSpec((8, 8), 3, 0.5, 0.5)


def pixels(count=4):
    return np.random.default_rng(0).uniform(0, 1, (count, 8, 8, 3)).astype(np.float32)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize('count, sizes', [(3, [3]), (4, [4]), (10, [4, 4, 2])])
def test_take(count, sizes):
    for labels in (np.arange(4), None):
        taken = list(take(itertools.repeat((pixels(), labels)), count))
        assert [len(images) for images, _ in taken] == sizes
        assert all(y is None if labels is None else len(y) == len(x) for x, y in taken)


@pytest.mark.parametrize('kind', ['with labels', 'without labels', 'pixels alone', 'tensors'])
def test_progress_counts_images(kind):
    batches = {
        'with labels': [(pixels(4), np.arange(4)), (pixels(3), np.arange(3))],
        'without labels': [(pixels(4), None), (pixels(3), None)],
        'pixels alone': [pixels(4), pixels(3)],
        'tensors': [tf.constant(pixels(4)), tf.constant(pixels(3))],
    }[kind]
    terminal = Terminal()
    for found, batch in zip(with_progress(batches, 9, 'looking', terminal), batches, strict=True):
        assert found is batch
    last = terminal.getvalue().split('\r')[-1]
    assert 'looking' in last and '7/9' in last and 'images' in last
    assert last.endswith('\n')  # closed: what is printed next begins a line


def test_progress_ends_its_line_where_batches_fail():
    def failing():
        yield pixels(4)
        raise UserError('broken')

    terminal = Terminal()
    with pytest.raises(UserError, match='broken'):
        list(with_progress(failing(), None, 'looking', terminal))
    assert '4 images' in terminal.getvalue() and terminal.getvalue().endswith('\n')


def test_progress_is_silent_without_a_terminal():
    file = io.StringIO()
    assert len(list(with_progress([pixels(4)] * 2, 8, 'looking', file))) == 2
    assert not file.getvalue()


def test_pixels_that_fit():
    images = pixels()
    assert check_pixels(images, SPEC) is images
    for other in (images.astype(np.float64), tf.constant(images)):
        found = check_pixels(other, SPEC)
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        np.testing.assert_array_equal(found, images)
    assert check_pixels(np.full(images.shape, 1 + 1e-6), SPEC).max() == 1


@pytest.mark.parametrize(
    'images, words',
    [
        (np.zeros((2, 9, 8, 3), np.float32), 'shape [2, 9, 8, 3], but the teacher takes [batch, 8'),
        (np.zeros((8, 8, 3), np.float32), 'shape [8, 8, 3]'),
        (np.zeros((0, 8, 8, 3), np.float32), 'shape [0, 8, 8, 3]'),
        (np.zeros((2, 8, 8, 3), np.uint8), 'holds uint8: pass pixels in [0, 1]'),
        (np.full((2, 8, 8, 3), np.nan, np.float32), 'not finite'),
        (np.full((2, 8, 8, 3), np.inf, np.float32), 'not finite'),
        (np.full((2, 8, 8, 3), 1.01, np.float32), 'from 1.01 to 1.01: yield pixels in [0, 1]'),
        (np.full((2, 8, 8, 3), -1.0, np.float32), 'from -1 to -1: yield pixels in [0, 1]'),
    ],
)
def test_pixels_that_do_not_fit(images, words):
    with pytest.raises(UserError) as error:
        check_pixels(images, SPEC)
    assert words in str(error.value) and '\n' not in str(error.value)
