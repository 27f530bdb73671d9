"""Draws two pictures of the documents: the method's drawing, and the chart of results.

python -m zscgan_tf.report.figures           writes path.png and chart.png into docs/images/
"""

import io
import pathlib
import statistics
import sys
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from zscgan_tf.atomic_files import PathLike, write_atomically
from zscgan_tf.errors import UserError
from zscgan_tf.report.tables import POINT, TEACHERS, read_result, standard_error

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = ROOT / 'docs' / 'images'

# The recipes of the chart, and what their images are called.
RECIPES = {name: words.removesuffix(' (no data)') for name, words in POINT.items()}
_BLUE, _GREEN, _ORANGE, _GREY = '#2f6db5', '#2a7f4f', '#b5561a', '#5d6878'
# Has the same contrast on a white page and on a dark one.
_LINE = '#757e8b'
_INK = '#303640'
_PIXELS_AN_INCH, _SCALE = 100, 2  # a file has twice the pixels of its place on a page


def draw_path() -> Figure:
    """The way from a classifier to a quantized file, 800 pixels wide on a page.

    Returns:
        The figure. Its background is transparent, for pages of any colour.
    """
    width, height = 800, 256
    figure = _figure(width, height)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis('off')
    box, tall = 168, 96
    lefts, upper, lower = (1, 193, 449, 631), height - tall - 1, 1
    boxes = (
        (0, upper, _GREY, 'Your classifier', '.keras, .h5, a folder,\nor a model object'),
        (
            1,
            upper,
            _BLUE,
            'Teacher',
            'frozen; has the stored\nmean and variance\nof each batch norm',
        ),
        (2, upper, _GREEN, 'Generator', 'makes an image\nof a given class'),
        (3, upper, _GREEN, 'Images', 'or noise, your files,\na dataset'),
        (
            1,
            lower,
            _BLUE,
            'Student',
            "sets ranges by images,\nor trains too (eq. 4);\nor TFLite's calibration",
        ),
        (2, lower, _ORANGE, '.tflite file', 'audited: all operations\nare integer'),
        (3, lower, _ORANGE, 'Report', 'agreement, size,\nerror by layer'),
    )
    for column, bottom, colour, title, text in boxes:
        _box(axes, lefts[column], bottom, box, tall, colour, title, text)

    middle = upper + tall / 2
    _arrow(axes, (lefts[0] + box, middle), (lefts[1], middle))
    _arrow(axes, (lefts[1] + box, middle + 12), (lefts[2], middle + 12), above='losses (eq. 2)')
    _arrow(axes, (lefts[2], middle - 12), (lefts[1] + box, middle - 12), below='images')
    _arrow(axes, (lefts[2] + box, middle), (lefts[3], middle))
    between = (upper + lower + tall) / 2
    down, corner, images = lefts[1] + 45, lefts[1] + box - 45, lefts[3] + box / 2
    _arrow(axes, (down, upper), (down, lower + tall))
    axes.plot([images, images, corner], [upper, between, between], color=_LINE, linewidth=1.8)
    _arrow(axes, (corner, between + 0.8), (corner, lower + tall))
    middle = lower + tall / 2
    _arrow(axes, (lefts[1] + box, middle), (lefts[2], middle), above='conversion')
    _arrow(axes, (lefts[2] + box, middle), (lefts[3], middle))
    _text(axes, lefts[0] + box / 2, middle, 'No step\nneeds your data.', 16, _LINE, weight='bold')
    return figure


def draw_chart(flags_folder: PathLike, recipes: Mapping[str, str] = RECIPES) -> Figure:
    """Accuracy and agreement of the files of each teacher, 800 pixels wide on a page.

    Bars are means over seeds, and lines one standard error of the test images.

    Args:
        flags_folder: with the result files, `<teacher>/<recipe>.json`.
        recipes: recipe -> what its images are called, from top to bottom.

    Raises:
        UserError: a result file is missing or damaged.
    """
    figure = _figure(800, 330)
    all_axes = figure.subplots(1, len(TEACHERS), sharey=True, squeeze=False)[0]
    names = ['float model', *recipes.values()]
    for axes, (teacher, (name, data, count)) in zip(all_axes, TEACHERS.items(), strict=True):
        rows = [_measured(flags_folder, f'{teacher}/{recipe}') for recipe in recipes]
        _bar(axes, 0, rows[0][0], count, _BLUE)
        for position, (_, accuracy, agreement) in enumerate(rows, 1):
            _bar(axes, position - 0.2, accuracy, count, _BLUE)
            _bar(axes, position + 0.2, agreement, count, _GREEN)
        axes.set(xlim=(0, 100), ylim=(len(names) - 0.45, -0.4), yticks=range(len(names)))
        axes.set_yticklabels(names, fontsize=_points(14), color=_INK)
        axes.set_xticks(range(0, 101, 25))
        axes.tick_params(length=0)
        axes.tick_params(axis='x', labelsize=_points(12), labelcolor=_INK)
        title = f'{name}, {data}'
        axes.set_title(title, fontsize=_points(15), color=_INK, weight='bold', loc='left', pad=20)
        text = f'per cent of {count:,} real images'
        axes.text(0, 1.03, text, transform=axes.transAxes, size=_points(12.5), color=_INK)
        axes.grid(axis='x', color='#e3e6ea', linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    first = all_axes[0]
    heading = {'xy': (0, 0.5), 'xycoords': first.get_yaxis_transform()}
    first.annotate(
        '8-bit file, ranges from',
        xytext=(-5, 0),
        textcoords='offset points',
        ha='right',
        va='center',
        size=_points(12),
        color=_LINE,
        **heading,
    )
    handles = [
        Patch(color=_BLUE, label='accuracy'),
        Patch(color=_GREEN, label='same answer as the float model'),
        Line2D([], [], color=_INK, linewidth=1.1, marker='|', label='one standard error'),
    ]
    style = {'frameon': False, 'fontsize': _points(13), 'labelcolor': _INK, 'handlelength': 1.4}
    figure.legend(handles=handles, loc='lower center', ncols=3, **style)
    figure.subplots_adjust(left=0.2, right=0.98, top=0.83, bottom=0.19, wspace=0.1)
    return figure


def write(path: PathLike, figure: Figure) -> None:
    """Writes a figure as a PNG file; an older one of that name is replaced."""
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=_PIXELS_AN_INCH * _SCALE)
    write_atomically(path, file.getvalue(), overwrite=True)


def _measured(flags_folder, recipe):
    """Accuracy of the float model, accuracy and agreement of the file, of a result file."""
    result = read_result(flags_folder, recipe)
    means = [statistics.fmean(result['metrics'][name]) for name in ('accuracy', 'agreement')]
    return float(result['float_accuracy']), *means


def _figure(width, height):
    return Figure(figsize=(width / _PIXELS_AN_INCH, height / _PIXELS_AN_INCH))


def _points(pixels):
    return pixels * 72 / _PIXELS_AN_INCH


def _text(axes, x, y, text, pixels, colour, **options):
    axes.text(
        x,
        y,
        text,
        ha='center',
        va='center',
        color=colour,
        fontsize=_points(pixels),
        linespacing=1.35,
        **options,
    )


def _box(axes, left, bottom, width, height, colour, title, text):
    style = 'round,pad=0,rounding_size=9'
    shape = FancyBboxPatch((left, bottom), width, height, style, facecolor=colour, linewidth=0)
    axes.add_patch(shape)
    middle, centre = bottom + height / 2, left + width / 2
    text_height = 17 * (text.count('\n') + 1)
    _text(axes, centre, middle + text_height / 2, title, 16, 'white', weight='bold')
    _text(axes, centre, middle - 13, text, 12.5, 'white')


def _arrow(axes, start, end, above='', below=''):
    axes.annotate(
        '',
        end,
        start,
        arrowprops={
            'arrowstyle': '-|>,head_length=0.5,head_width=0.25',
            'color': _LINE,
            'linewidth': 1.8,
            'shrinkA': 0,
            'shrinkB': 0,
            'mutation_scale': 13,
        },
    )
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    _text(axes, middle[0], middle[1] + 12, above, 12.5, _LINE)
    _text(axes, middle[0], middle[1] - 12, below, 12.5, _LINE)


def _bar(axes, position, value, count, colour):
    error = standard_error(value, count)
    axes.barh(position, value, 0.36, color=colour)
    axes.errorbar(value, position, xerr=error, color=_INK, linewidth=1.1, capsize=2.5)
    inside = value > 50  # the text is within a bar that has room for it
    place = (value - error - 2, position) if inside else (value + error + 2, position)
    side, ink = ('right', 'white') if inside else ('left', _INK)
    text = {'size': _points(12.5), 'ha': side, 'va': 'center_baseline', 'color': ink}
    axes.text(*place, f'{value:.1f}', **text)


def main() -> str | None:
    """Writes both pictures; returns what is wrong, where a result file is missing or damaged."""
    try:
        chart = draw_chart(ROOT / 'flags')
    except UserError as error:
        return str(error)
    write(IMAGES / 'path.png', draw_path())
    write(IMAGES / 'chart.png', chart)
    return None


if __name__ == '__main__':
    sys.exit(main())
