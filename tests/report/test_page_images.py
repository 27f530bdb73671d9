"""The images on which the answers differ, and how images are shown."""

import base64
import io
import types

import numpy as np
import tensorflow as tf
from PIL import Image

from tests.tiny import tiny_teacher
from zscgan_tf.generators import build_generator
from zscgan_tf.report import page_images
from zscgan_tf.sources.generator import GeneratorSource
from zscgan_tf.teacher.input_spec import InputSpec


def shown(uri):
    kind, data = uri.split(';base64,')
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_small_images_are_exact_and_large_ones_small():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 7, 3))
    kind, found = shown(page_images.data_uri(np.float32(image / 255)))
    assert kind == 'data:image/png'
    np.testing.assert_array_equal(found, image)
    kind, found = shown(page_images.data_uri(rng.uniform(0, 1, (300, 200, 3))))
    assert kind == 'data:image/jpeg' and found.shape == (96, 64, 3)
    for channels in (1, 2, 5):
        _, found = shown(page_images.data_uri(rng.uniform(0, 1, (8, 8, channels))))
        assert found.shape[:2] == (8, 8)


class Answers:
    """A model that answers image i, whose pixels are i / 100, with row i of a table."""

    def __init__(self, rows, independent=False):
        self.rows, self.has_independent_labels = np.float32(rows), independent
        self.input_spec = InputSpec((2, 2), 1, 0.0, 1.0)
        self.head, self.zero_pixel, self.ends_in_probabilities = 'logits', None, False

    def logits(self, pixels):
        return tf.constant(self.scores(np.asarray(pixels)))

    def scores(self, inputs, in_probabilities=None):
        return self.rows[np.rint(100 * inputs[:, 0, 0, 0]).astype(int)]


def source_of(count, labels=None):
    pixels = np.tile(np.arange(count, dtype=np.float32)[:, None, None, None] / 100, (1, 2, 2, 1))
    batches = [(pixels[i : i + 4], labels and labels[i : i + 4]) for i in range(0, count, 4)]
    return types.SimpleNamespace(image_count=count, batches=lambda: iter(batches))


def test_the_most_certain_difference_comes_first():
    floats = [[9, 0, 0], [0, 1, 0], [0, 0, 5], [0, 3, 0], [2, 0, 0]]
    files = [[9, 0, 0], [1, 0, 0], [5, 0, 0], [0, 3, 0], [0, 0, 2]]
    found = page_images.differences(
        Answers(files), Answers(floats), source_of(5, [0, 1, 2, 1, 2]), 100, ['a', 'b', '<c>']
    )
    assert (found.count, found.images) == (3, 5)
    answers = [(d.label, d.float_answer, d.file_answer) for d in found.shown]
    assert answers == [('<c>', '<c>', 'a'), ('<c>', 'a', '<c>'), ('b', 'b', 'a')]
    certainties = [np.exp(z) / (np.exp(z) + 2) for z in (5, 2, 1)]
    np.testing.assert_allclose([d.certainty for d in found.shown], certainties, rtol=1e-6)
    found = page_images.differences(Answers(files), Answers(floats), source_of(5), 2, None)
    assert (found.count, found.images) == (1, 2)
    assert (found.shown[0].label, found.shown[0].float_answer) == (None, '1')
    same = page_images.differences(
        Answers(files), Answers(floats), source_of(5), 100, ['crane'] * 3
    )
    assert same.count == 3  # two classes may have one name


def test_a_grid_of_a_generator_without_classes_has_no_names():
    made = tiny_teacher()
    settings = {'scales': 1, 'channels': 4, 'skip_channels': 2, 'z_channels': 3}
    generator = build_generator(made.input_spec.image_shape, 1, **settings)
    rows = page_images.grid(GeneratorSource(generator, None, batch_size=8), made, list('abcdefg'))
    assert [(name, len(images)) for name, images in rows] == [(None, 8), (None, 8)]


def test_at_most_a_dozen_are_shown():
    floats = [[1, 0]] * 40
    found = page_images.differences(
        Answers([[0, 1]] * 40), Answers(floats), source_of(40), 40, None
    )
    assert found.count == 40 and len(found.shown) == page_images.SHOWN_DIFFERENCES == 12


def test_independent_labels_show_the_one_that_differs():
    """Of several labels the one of which the float model is most certain."""
    floats, files = [[4, -1, 2], [1, 1, 1]], [[4, 1, -2], [1, 1, 1]]
    found = page_images.differences(
        Answers(files, True), Answers(floats, True), source_of(2, [0, 1]), 2, ['a', 'b', 'c']
    )
    (only,) = found.shown
    assert (only.label, only.float_answer, only.file_answer) == (None, 'c: yes', 'c: no')
    assert only.certainty == 1 / (1 + np.exp(-2.0))
