import numpy as np
import pytest
from PIL import Image

from zscgan_tf.sources.pictures import draw_grid, main, write_grid


def random_pixels(count, shape):
    return np.random.default_rng(0).uniform(size=(count, *shape)).astype(np.float32)


def test_every_image_is_in_its_place():
    pixels = random_pixels(5, (60, 70, 3))
    grid = np.asarray(draw_grid(pixels, 3, row_labels=[]))
    assert grid.shape == (8 + 60 + 2 + 60 + 8, 8 + 3 * 70 + 2 * 2 + 8, 3)
    for i, expected in enumerate(np.round(pixels * 255)):
        top, left = 8 + i // 3 * 62, 8 + i % 3 * 72
        np.testing.assert_allclose(grid[top : top + 60, left : left + 70], expected, atol=1)
    assert (grid[70:, 8 + 2 * 72 :] == 255).all()


def test_tiny_images_are_enlarged_pixel_by_pixel():
    pixels = random_pixels(1, (8, 8, 1))
    grid = np.asarray(draw_grid(pixels, 1, row_labels=[]))
    assert grid.shape == (56 + 16, 56 + 16, 3)
    np.testing.assert_allclose(grid[11:64:7, 11:64:7, 1], pixels[0, ..., 0] * 255, atol=1)


def test_labels_stand_at_the_left():
    pixels = np.ones((4, 32, 32, 3))
    plain, numbered, named = (draw_grid(pixels, 2, labels) for labels in ([], None, ['a', 'long']))
    assert plain.width < numbered.width < named.width
    assert plain.height == numbered.height == named.height
    labels = np.asarray(numbered)[:, : numbered.width - plain.width]
    assert labels.min() < 128  # ink beside the white images


@pytest.mark.parametrize('channels', [1, 2, 3, 7])
def test_any_number_of_channels(tmp_path, channels):
    pixels = random_pixels(2, (60, 60, channels))
    write_grid(tmp_path / 'grid.png', pixels, 2, [])
    write_grid(tmp_path / 'grid.png', pixels, 2, [])
    tile = np.asarray(Image.open(tmp_path / 'grid.png'))[8:68, 8:68] / 255
    mean = np.repeat(pixels[0].mean(-1, keepdims=True), 3, -1)
    expected = mean if channels < 3 else pixels[0, ..., :3]
    np.testing.assert_allclose(tile, expected, atol=0.01)


def test_values_outside_of_the_range():
    pixels = np.array([np.nan, -1, 2, np.inf]).reshape(1, 2, 2, 1)
    grid = np.asarray(draw_grid(pixels, 1, row_labels=[]))
    assert grid[9, 9].tolist() == [0, 0, 0] and grid[9, 60].tolist() == [0, 0, 0]
    assert grid[60, 9].tolist() == [255, 255, 255]


def test_grids_are_joined_beside_each_other(tmp_path):
    for name, value in (('dark', 0.0), ('light', 1.0)):
        write_grid(tmp_path / f'{name}.png', np.full((4, 8, 8, 3), value, np.float32), 2)
    main([str(tmp_path / 'both.png'), *(f'{n}={tmp_path / n}.png' for n in ('dark', 'light'))])
    joined = np.asarray(Image.open(tmp_path / 'both.png').convert('L'), np.float32)
    middle = joined.shape[1] // 2
    assert joined[:, :middle].mean() < joined[:, middle:].mean() - 50
