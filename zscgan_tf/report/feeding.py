"""How a `.tflite` is fed: the arithmetic in one line, and code that runs.

Both are told from the file and from the preprocessing that its model was trained with.
"""

import math
import os

import numpy as np

from zscgan_tf.quantized import Quantized
from zscgan_tf.teacher.raw_pixels import raw_pixels_spec
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite.flatbuffer import EndTensor

# What Pillow calls images of so many channels.
_CONVERSIONS = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def feeding(teacher: Teacher, result: Quantized) -> str:
    """How an image becomes what the file takes: one line of arithmetic."""
    spec, end = _input_spec(teacher, result), result.report.input
    value = _value(spec, end, in_code=False)
    order = '' if spec.channels != 3 else f', channels in {"BGR" if spec.bgr else "RGB"} order'
    size = 'x'.join('N' if side == -1 else str(side) for side in end.shape)
    return f'{size} {end.type} = {value}, where p are pixels of 0...255{order}'


def code(teacher: Teacher, result: Quantized) -> str:
    """Python code that runs the file on `image.png` with LiteRT, and prints the answer.

    Images of other channels than PNG files have are read from `image.npy`. The file is looked for
    in the current folder.
    """
    spec, end = _input_spec(teacher, result), result.report.input
    height, width = spec.image_size
    lines = ['import numpy as np']
    if spec.channels in _CONVERSIONS:
        lines.append('from PIL import Image')
        read = f"Image.open('image.png').convert('{_CONVERSIONS[spec.channels]}')"
        read = f'np.float32({read}.resize(({width}, {height})))'
        read += '[..., None]' if spec.channels == 1 else ''
        read += '[..., ::-1]' if spec.bgr else ''
    else:
        read = f"np.load('image.npy')  # {height} x {width} x {spec.channels}, 0...255"
    images = max(1, end.shape[0])
    batch = 'x[None]' if images == 1 else f'np.repeat(x[None], {images}, axis=0)'
    lines += [
        'from ai_edge_litert.interpreter import Interpreter',
        '',
        f'model = Interpreter({os.path.basename(os.fspath(result.output))!r})',
        'model.allocate_tensors()',
        f'p = {read}',
        f'x = np.{end.type}({_value(spec, end, in_code=True)})',
        f"model.set_tensor(model.get_input_details()[0]['index'], {batch})",
        'model.invoke()',
        "y = model.get_tensor(model.get_output_details()[0]['index'])[0].ravel()",
        f'scores = {_scores(result.report.output)}',
        f'print({_answer(teacher)})',
    ]
    return '\n'.join(lines)


def _input_spec(teacher, result):
    """What the file takes, which may be raw pixels where the teacher does not."""
    if not result.takes_raw_pixels:
        return teacher.input_spec
    return raw_pixels_spec(teacher.input_spec, round(-result.report.input.value_range[0]))


def _value(spec, end, in_code):
    """The file's input as an expression of p, a pixel of 0...255; in Python code or for people."""
    integer = end.type != 'float32'
    scale, zero_point = (end.scale, end.zero_point) if integer else (1, 0)
    std, mean = np.float64(spec.std) * scale, np.float64(spec.mean)
    factor, shift = 1 / (255 * std), zero_point - mean / std
    if np.allclose(factor, 1, atol=1e-5) and np.allclose(shift, np.rint(shift), atol=1e-3):
        factor, shift = np.ones(1), np.rint(shift)
        integer = False  # nothing to round
    value = 'p' if np.allclose(factor, 1, rtol=0, atol=1e-6) else f'p * {_numbers(factor, in_code)}'
    if np.any(shift):
        single = len(set(np.ravel(shift))) == 1
        sign = '-' if single and shift.flat[0] < 0 else '+'
        value += f' {sign} {_numbers(np.abs(shift) if single else shift, in_code)}'
    if integer:
        levels, numpy = np.iinfo(end.type), 'np.' if in_code else ''
        value = f'{numpy}clip({numpy}round({value}), {levels.min}, {levels.max})'
    return value


def _numbers(values, in_code):
    """One number, or a list of one a channel."""
    texts = [f'{value:.{9 if in_code else 6}g}' for value in np.ravel(values)]
    if len(set(texts)) == 1:
        return texts[0]
    listed = f'[{", ".join(texts)}]'
    return f'np.array({listed})' if in_code else listed


def _scores(end: EndTensor):
    """What the integers of the file's output stand for, as code."""
    if end.type == 'float32':
        return 'y'
    sign = '-' if end.zero_point >= 0 else '+'
    zero = f' {sign} {abs(end.zero_point)}' if end.zero_point else ''
    return f'(np.float32(y){zero}) * {end.scale:.9g}'


def _answer(teacher):
    """What is printed: the best class and its score, or all scores where classes do not compete."""
    if teacher.has_independent_labels or math.prod(teacher.model.output_shape[1:]) == 1:
        return 'scores'
    return 'scores.argmax(), scores.max()'
