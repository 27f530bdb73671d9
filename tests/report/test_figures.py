import json
import math
import pathlib
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from zscgan_tf.errors import UserError
from zscgan_tf.report import figures, tables

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write_results(folder, **changes):
    for number, teacher in enumerate(figures.TEACHERS):
        (folder / teacher).mkdir()
        for place, recipe in enumerate(figures.RECIPES):
            values = [80.0 - 20 * place - number, 82.0 - 20 * place - number]
            result = {
                'metrics': {'accuracy': values, 'agreement': [90.0 - 30 * place] * 2},
                'float_accuracy': 85.5 - number,
            }
            (folder / teacher / f'{recipe}.json').write_text(json.dumps(result | changes))


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_standard_error_is_that_of_repeated_draws():
    shares = np.random.default_rng(0).binomial(500, 0.7, 20_000) / 500
    assert math.isclose(tables.standard_error(70, 500), 100 * shares.std(), rel_tol=0.02)
    assert tables.standard_error(100, 500) == 0


def test_the_chart_shows_means_over_seeds(tmp_path):
    write_results(tmp_path)
    for number, axes in enumerate(draw(tmp_path).axes):
        widths = [bar.get_width() for bar in axes.patches]
        expected = [85.5 - number]
        for place in range(len(figures.RECIPES)):
            expected += [81 - 20 * place - number, 90 - 30 * place]
        assert widths == expected
        assert {f'{value:.1f}' for value in expected} <= set(texts(axes))


def draw(folder):
    figure = figures.draw_chart(folder)
    assert len(figure.axes) == len(figures.TEACHERS)
    return figure


@pytest.mark.parametrize(
    'change',
    [{'metrics': {}}, {'metrics': {'accuracy': [], 'agreement': []}}, {'float_accuracy': None}],
)
def test_a_damaged_result_file_is_named(tmp_path, change):
    write_results(tmp_path, **change)
    with pytest.raises(UserError, match='ptq_mse.json: damaged') as error:
        figures.draw_chart(tmp_path)
    assert '\\n' not in str(error.value)


def test_a_missing_result_file_is_named(tmp_path):
    with pytest.raises(UserError, match='ptq_mse.json: there is no such file'):
        figures.draw_chart(tmp_path)


def test_the_recipes_of_the_chart_are_there():
    for teacher in figures.TEACHERS:
        for recipe in figures.RECIPES:
            assert (ROOT / 'flags' / teacher / f'{recipe}.json').exists()


def test_no_text_of_the_drawing_leaves_its_box():
    figure = figures.draw_path()
    (axes,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches]
    white = [text for text in axes.texts if text.get_color() == 'white']
    assert len(boxes) == 7 and len(white) == 14
    for text in white:
        extent = text.get_window_extent(renderer)
        assert any(
            box.x0 < extent.x0 and extent.x1 < box.x1 and box.y0 < extent.y0 and extent.y1 < box.y1
            for box in boxes
        ), text.get_text()


def test_lines_have_the_same_contrast_on_white_and_on_dark_pages():
    def luminance(colour):
        channels = [int(part, 16) / 255 for part in re.findall('[0-9a-f]{2}', colour)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    line = luminance(figures._LINE) + 0.05
    white, dark = luminance('#ffffff') + 0.05, luminance('#0d1117') + 0.05
    assert white / line > 4 and line / dark > 4  # WCAG 2.2 asks for 3 of graphics


def test_pictures_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, 'IMAGES', tmp_path)
    assert figures.main() is None
    assert {path.name for path in tmp_path.iterdir()} == {'path.png', 'chart.png'}
    monkeypatch.setattr(figures, 'ROOT', tmp_path)
    assert 'there is no such file' in figures.main()
