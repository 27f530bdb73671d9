"""The charts of a page, as SVG pictures inside it."""

import base64
import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from zscgan_tf.tflite.layer_errors import LayerError

_SIZE = (5.8, 3.0)
_BLUE, _ORANGE, _GREY = '#2563a8', '#d9730d', '#8a8a8a'
# Ratios above this are drawn here: an exact layer has none.
_HIGHEST_DECIBELS = 80.0
# Text stays text, and the same numbers give the same bytes.
_STYLE = {
    'font.size': 11,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'zscgan_tf',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.color': '#e4e4e4',
    'axes.axisbelow': True,
    'legend.frameon': False,
}


def layer_chart(rows: Sequence[LayerError]) -> str:
    """Signal-to-noise ratios by the number of the layer, as a data URI."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        numbers = np.arange(len(rows))
        for name, color, marker in (('alone', _BLUE, 'o'), ('cumulative', _ORANGE, 's')):
            values = [_drawn(getattr(row, name)) for row in rows]
            label = {'alone': 'its own rounding', 'cumulative': 'as the file runs'}[name]
            axes.plot(numbers, values, marker, ls='-', color=color, ms=4, lw=1.4, label=label)
        axes.set_xlabel('number of the layer in the table')
        axes.set_ylabel('signal to noise, dB')
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2)
        return _svg(figure)


def _drawn(value):
    return math.nan if value is None else min(value, _HIGHEST_DECIBELS)


def loss_chart(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Losses by step, a panel a loss, as a data URI.

    Args:
        curves: name of the loss -> {'step': [...], 'value': [...]}.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0], 2.5), layout='constrained')
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (name, curve) in zip(panels, curves.items(), strict=True):
            values = np.asarray(curve['value'], float)
            axes.plot(curve['step'], values, color=_BLUE, lw=1.2)
            positive = values[values > 0]
            if len(positive) == len(values) and positive.max() > 30 * positive.min():
                axes.set_yscale('log')
            axes.set_title(name, fontsize=11, parse_math=False)
            axes.set_xlabel('step')
        return _svg(figure)


def moments_chart(distances: Mapping[str, Sequence[float]]) -> str:
    """Distances from stored moments by the number of the batch norm, as a data URI.

    Args:
        distances: what the images are -> mean divergence a channel, nats, of each batch norm.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        for (name, values), color in zip(distances.items(), (_BLUE, _ORANGE, _GREY), strict=False):
            numbers = np.arange(1, len(values) + 1)
            values = np.maximum(values, 1e-9)
            axes.plot(numbers, values, 'o-', color=color, ms=4, lw=1.4, label=name)
        axes.set_yscale('log')
        axes.set_xlabel('number of the batch norm in the table')
        axes.set_ylabel('nats a channel')
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2)
        return _svg(figure)


def logits_chart(float_logits: np.ndarray, file_logits: np.ndarray) -> str:
    """Histograms of logits, of the float model and of the file, as a data URI."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        both = np.concatenate([float_logits.ravel(), file_logits.ravel()])
        bins = np.histogram_bin_edges(both, bins=60)
        axes.hist(float_logits.ravel(), bins, color=_BLUE, alpha=0.35, label='float model')
        axes.hist(file_logits.ravel(), bins, histtype='step', color=_ORANGE, lw=1.5, label='file')
        axes.set_xlabel('logit')
        axes.set_ylabel('number of logits')
        axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2)
        return _svg(figure)


def _figure():
    figure = Figure(figsize=_SIZE, layout='constrained')
    return figure, figure.subplots()


def _svg(figure):
    file = io.BytesIO()
    figure.savefig(file, format='svg', metadata={'Date': None})
    return 'data:image/svg+xml;base64,' + base64.b64encode(file.getvalue()).decode()
