"""How a `.tflite` is fed: the arithmetic in one line, and code that runs.

Both are told from the file and from the preprocessing that its model was trained with.
"""

import os

import numpy as np

from zscgan_tf.pipeline import Quantized
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite.flatbuffer import EndTensor

_CONVERSIONS = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def arithmetic(teacher: Teacher, result: Quantized) -> str:
    """What a pixel of 0...255 becomes before the file takes it, in one line of Python."""
    return _steps(teacher, result, short=True)[-1]


def code(teacher: Teacher, result: Quantized) -> str:
    """Python code that runs the file on `image.png` with LiteRT, and prints the answer.

    Images of other channels than PNG files have are read from `image.npy`.
    """
    spec, end = teacher.input_spec, result.report.input
    height, width = spec.image_size
    name = repr(os.path.basename(os.fspath(result.output)))
    if spec.channels in _CONVERSIONS:
        imports = ['import numpy as np', 'from PIL import Image']
        read = f"Image.open('image.png').convert('{_CONVERSIONS[spec.channels]}')"
        read = f'np.float32({read}.resize(({width}, {height})))'
        read += '[..., None]' if spec.channels == 1 else ''
    else:
        imports = ['import numpy as np']
        read = f"np.float32(np.load('image.npy'))  # [{height}, {width}, {spec.channels}]"
    batch = max(1, end.shape[0])
    feed = 'x[None]' if batch == 1 else f'np.repeat(x[None], {batch}, axis=0)'
    lines = [
        *imports,
        'from ai_edge_litert.interpreter import Interpreter',
        '',
        f'interpreter = Interpreter({name})',
        'interpreter.allocate_tensors()',
        f'pixel = {read}',
        *_steps(teacher, result, short=False),
        f"interpreter.set_tensor(interpreter.get_input_details()[0]['index'], {feed})",
        'interpreter.invoke()',
        "raw = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])[0].ravel()",
        f'scores = {_score(result.report.output)}',
        f'print({_answer(teacher)})',
    ]
    return '\n'.join(lines)


def _steps(teacher, result, short):
    """Lines that make x, the file's input, of `pixel`; in `short` the last one says it all."""
    spec, end = teacher.input_spec, result.report.input
    order = '[..., ::-1]' if spec.bgr else ''
    if result.takes_raw_pixels:
        less = {'uint8': 0, 'int8': 128}.get(end.type, round(255 * spec.mean[0]))
        value = f'pixel - {less}' if less else 'pixel'
        return [f'x = np.{end.type}({value})']
    mean, std = np.float64(spec.mean), np.float64(spec.std)
    if np.allclose(mean, 0) and np.allclose(std, 1 / 255):
        value = f'pixel{order}'
    else:
        value = f'(pixel{order} / 255 - {_numbers(mean)}) / {_numbers(std)}'
    if end.type == 'float32':
        return [f'x = np.float32({value})']
    levels = np.iinfo(end.type)
    steps = [] if short else [f'x = {value}']
    value = f'({value})' if short else 'x'
    zero = f' {"+" if end.zero_point >= 0 else "-"} {abs(end.zero_point)}' if end.zero_point else ''
    rounded = f'np.round({value} / {end.scale:.9g}){zero}'
    return [*steps, f'x = np.{end.type}(np.clip({rounded}, {levels.min}, {levels.max}))']


def _numbers(values):
    """One number, or an array of a number a channel."""
    texts = [f'{value:.8g}' for value in values]
    return texts[0] if len(set(texts)) == 1 else f'np.array([{", ".join(texts)}])'


def _score(end: EndTensor):
    """What the file's output stands for."""
    if end.type == 'float32':
        return 'raw'
    zero = f' - {end.zero_point}' if end.zero_point >= 0 else f' + {-end.zero_point}'
    return f'(np.float32(raw){zero if end.zero_point else ""}) * {end.scale:.9g}'


def _answer(teacher):
    if teacher.has_labels or teacher.head == 'sigmoid':
        return 'scores'
    return 'scores.argmax(), scores.max()'
