import numpy as np
import pytest
from PIL import Image

from zscgan_tf.errors import UserError
from zscgan_tf.sources.pictures import (
    Panel,
    draw_beside_real,
    draw_grid,
    draw_panels,
    first_of_each_class,
    write_grid,
)


def random_pixels(count, shape):
    return np.random.default_rng(0).uniform(size=(count, *shape)).astype(np.float32)


def test_every_image_is_in_its_place():
    pixels = random_pixels(5, (60, 70, 3))
    grid = np.asarray(draw_grid(pixels, 3))
    assert grid.shape == (8 + 60 + 6 + 60 + 8, 8 + 3 * 70 + 2 * 2 + 8, 3)
    for i, expected in enumerate(np.round(pixels * 255)):
        top, left = 8 + i // 3 * 66, 8 + i % 3 * 72
        np.testing.assert_allclose(grid[top : top + 60, left : left + 70], expected, atol=1)
    assert (grid[74:, 8 + 2 * 72 :] == 255).all()


def test_tiny_images_are_enlarged_pixel_by_pixel():
    pixels = random_pixels(1, (8, 8, 1))
    grid = np.asarray(draw_grid(pixels, 1))
    assert grid.shape == (56 + 16, 56 + 16, 3)
    np.testing.assert_allclose(grid[11:64:7, 11:64:7, 1], pixels[0, ..., 0] * 255, atol=1)


def test_labels_stand_at_the_left():
    pixels = np.ones((4, 32, 32, 3))
    plain, numbered, named = (
        draw_grid(pixels, 2, labels) for labels in ([], [0, 1], ['a', 'long'])
    )
    assert plain.width < numbered.width < named.width
    assert plain.height == numbered.height == named.height
    labels = np.asarray(numbered)[:, : numbered.width - plain.width]
    assert labels.min() < 128  # ink beside the white images


@pytest.mark.parametrize('channels', [1, 2, 3, 7])
def test_any_number_of_channels(tmp_path, channels):
    pixels = random_pixels(2, (60, 60, channels))
    write_grid(tmp_path / 'grid.png', pixels, 2)
    write_grid(tmp_path / 'grid.png', pixels, 2)
    tile = np.asarray(Image.open(tmp_path / 'grid.png'))[8:68, 8:68] / 255
    mean = np.repeat(pixels[0].mean(-1, keepdims=True), 3, -1)
    expected = mean if channels < 3 else pixels[0, ..., :3]
    np.testing.assert_allclose(tile, expected, atol=0.01)


def test_values_outside_of_the_range():
    pixels = np.array([np.nan, -1, 2, np.inf]).reshape(1, 2, 2, 1)
    grid = np.asarray(draw_grid(pixels, 1))
    assert grid[9, 9].tolist() == [0, 0, 0] and grid[9, 60].tolist() == [0, 0, 0]
    assert grid[60, 9].tolist() == [255, 255, 255]


def test_panels_stand_beside_each_other_under_their_titles_and_above_the_caption():
    dark, light = np.zeros((4, 60, 60, 3)), np.full((6, 60, 60, 3), 0.9)
    panels = [Panel('dark', dark, 2), Panel('light', light, 3)]
    bare = np.asarray(draw_panels([p._replace(title='') for p in panels], []))
    assert bare.shape == (142, 8 + 2 * 62 - 2 + 14 + 3 * 62 - 2 + 8, 3)
    assert (bare[8:68, 8:68] == 0).all() and (bare[8:68, 144:204] == 230).all()
    titled = np.asarray(draw_panels(panels, []))
    lower = titled.shape[0] - bare.shape[0]
    np.testing.assert_array_equal(titled[lower + 7 :], bare[7:])
    assert titled[:lower, :130].min() < 128 and titled[:lower, 144:].min() < 128
    long = np.asarray(draw_panels(panels, [], caption='words that need some lines ' * 4))
    np.testing.assert_array_equal(long[: len(titled) - 8], titled[:-8])
    assert long[len(titled) :].min() < 128
    assert (long[:, -7:] == 255).all()  # no line is cut off


class Labelled:
    """Real images of given labels; the first pixel of each image is its number."""

    def __init__(self, labels):
        self.labels, self.has_labels = labels, labels is not None

    def one_pass(self):
        for start in range(0, len(self.labels), 2):
            pixels = np.zeros((2, 8, 8, 1), np.float32)
            pixels[:, 0, 0, 0] = np.arange(start, start + 2) / 10
            yield pixels, np.array(self.labels[start : start + 2])


class Grey:
    """Generated images as bright as their class."""

    def images_of(self, classes):
        return np.repeat(np.float32(classes), 64).reshape(-1, 8, 8, 1) / 10


def test_a_real_image_stands_first_in_each_row():
    real = Labelled([2, 0, 0, 2, 1, 9])
    np.testing.assert_allclose(first_of_each_class(real, 3)[:, 0, 0, 0], [0.1, 0.4, 0.0])
    names = ['a', 'b', 'c']
    picture = draw_beside_real({'made': Grey()}, real, names, columns=2, caption='')
    expected = draw_panels(
        [
            Panel('real', first_of_each_class(real, 3), 1),
            Panel('made', Grey().images_of([0, 0, 1, 1, 2, 2]), 2),
        ],
        names,
    )
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


@pytest.mark.parametrize('labels', [[0, 2, 0, 2], None])
def test_a_class_without_real_images_is_named(labels):
    with pytest.raises(UserError, match='no real image of class [01]: .* 3 classes'):
        first_of_each_class(Labelled(labels), 3)
