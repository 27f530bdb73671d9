"""Runs a `.tflite` classifier on batches of float inputs, with LiteRT.

Usage: TfliteModel('model.tflite').outputs(inputs)
"""

import functools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from zscgan_tf.atomic_files import PathLike, check_local
from zscgan_tf.errors import UserError, first_line
from zscgan_tf.quiet import hidden_output
from zscgan_tf.teacher.raw_pixels import RAW_PIXELS
from zscgan_tf.tflite import flatbuffer


class TfliteModel:
    """A `.tflite` classifier, for batches of any size.

    A file with an open batch runs each batch at once. One with a fixed batch, as files are by
    default, runs its parts side by side.

    Args:
        path_or_bytes: the file, or its content.
        num_threads: how many cores it may use; None for all.

    Attributes:
        name: the file's path, for messages.
        input_shape: (H, W, C).
        zero_pixel: the grey level, 0 to 255, that its input's zero stands for; None unless it takes
            raw pixels (`teacher.raw_pixels`).
        ends_in_probabilities: whether it returns probabilities, not logits.
        quantized_output: whether its last layer computes integers, whatever type it returns.
        file_bytes: size of the file.

    Raises:
        UserError: unreadable, not a TFLite model, or not an image classifier.
    """

    def __init__(
        self, path_or_bytes: PathLike | bytes | bytearray, num_threads: int | None = None
    ) -> None:
        if isinstance(path_or_bytes, (bytes, bytearray)):
            self.name, content = 'The .tflite', bytes(path_or_bytes)
        else:
            self.name, content = os.fspath(path_or_bytes), _read(path_or_bytes)
        model = flatbuffer.read_model(content, self.name)
        graph = model.subgraphs[0]
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise UserError(f'{self.name}: has more than one input or output.')
        self.ends_in_probabilities = flatbuffer.ends_in_probabilities(model)
        self.quantized_output = flatbuffer.output_tensor(model).scale is not None
        self.file_bytes = len(content)
        self._content, self._threads = content, num_threads or os.cpu_count()
        self._interpreter = _make_interpreter(content, self.name, self._threads)
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        for detail in (self._input, self._output):
            if np.issubdtype(detail['dtype'], np.integer) and not detail['quantization'][0]:
                raise UserError(
                    f'{self.name}: its input or output is {np.dtype(detail["dtype"]).name} without '
                    f'a scale, so nothing tells what its integers stand for: pass a quantized file.'
                )
        self._batch = int(self._input['shape'][0])
        shape = [int(side) for side in self._input['shape_signature']]
        if len(shape) != 4 or min(shape[1:]) < 1:
            raise UserError(
                f'{self.name}: takes the shape {shape} instead of images, '
                f'[batch, height, width, channels].'
            )
        self._fixed_batch = None if shape[0] == -1 else shape[0]
        self.input_shape = tuple(shape[1:])
        self.zero_pixel = self._find_zero_pixel(flatbuffer.input_tensor(model))

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """What the file returns for float inputs, as float.

        Args:
            inputs: [B, H, W, C], what the float model takes.

        Returns:
            float32, [B, K]; of an int8 or uint8 output the values that its integers stand for.

        Raises:
            UserError: inputs of another shape, or a number of them that the file's batch does not
                divide.
        """
        return dequantize(self.raw_outputs(quantize(inputs, self._input)), self._output)

    def scores(self, inputs: np.ndarray, in_probabilities: bool | None = None) -> np.ndarray:
        """Logits or probabilities of all classes, float32, [B, K]; a single unit becomes two.

        Args:
            inputs: as in `outputs`.
            in_probabilities: whether the file returns probabilities; None: as its end tells.

        Raises:
            UserError: inputs of another shape. Of a larger batch of the file the last one is
                filled up.
        """
        if in_probabilities is None:
            in_probabilities = self.ends_in_probabilities
        count = len(inputs)
        missing = -count % (self._fixed_batch or 1)
        if missing:
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
        outputs = self.outputs(inputs)[:count]
        if outputs.shape[1] > 1:
            return outputs
        rest = 1 - outputs if in_probabilities else np.zeros_like(outputs)
        return np.concatenate([rest, outputs], axis=1)

    def raw_outputs(self, raw_inputs: np.ndarray) -> np.ndarray:
        """What the file returns, in its own type, [B, K].

        Args:
            raw_inputs: [B, H, W, C], of the type that the file takes.

        Raises:
            UserError: as `outputs`.
        """
        raw_inputs = np.asarray(raw_inputs)
        if raw_inputs.shape[1:] != self.input_shape:
            raise UserError(
                f'{self.name}: takes images of the shape {list(self.input_shape)}, not '
                f'{list(raw_inputs.shape[1:])}.'
            )
        size = self._fixed_batch
        if size is None or len(raw_inputs) == size:
            return self._run(self._interpreter, raw_inputs)
        if len(raw_inputs) % size:
            raise UserError(f'{self.name}: takes batches of {size} images, not {len(raw_inputs)}.')
        workers = self._workers
        shares = np.array_split(np.arange(0, len(raw_inputs), size), len(workers))

        def run_share(interpreter, starts):
            return [self._run(interpreter, raw_inputs[i : i + size]) for i in starts]

        with ThreadPoolExecutor(len(workers)) as pool:
            parts = pool.map(run_share, workers, shares)
            return np.concatenate([part for share in parts for part in share])

    @functools.cached_property
    def _workers(self):
        """An interpreter a core: single images are too small to share a core's work."""
        return [_make_interpreter(self._content, self.name, 1) for _ in range(self._threads)]

    def _find_zero_pixel(self, end):
        signatures = self._interpreter.get_signature_list().values()
        names = {name for signature in signatures for name in signature['inputs']}
        is_raw = RAW_PIXELS in names and end.scale and abs(end.scale - 1) < 1e-5
        return round(-end.value_range[0]) if is_raw else None

    def _run(self, interpreter, raw_inputs):
        if len(raw_inputs) != self._batch:
            interpreter.resize_tensor_input(self._input['index'], raw_inputs.shape)
            interpreter.allocate_tensors()
            self._batch = len(raw_inputs)
        interpreter.set_tensor(self._input['index'], raw_inputs)
        interpreter.invoke()
        outputs = interpreter.get_tensor(self._output['index'])
        return outputs.reshape(len(raw_inputs), -1)


def quantize(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Floats to a tensor's integers, rounded to the nearest and saturated.

    Args:
        values: floats.
        detail: LiteRT's description of the tensor.
    """
    values = np.asarray(values, np.float32)
    if np.issubdtype(detail['dtype'], np.floating):
        return values.astype(detail['dtype'])
    scale, zero_point = detail['quantization']
    levels = np.iinfo(detail['dtype'])
    steps = np.rint(values / np.float32(scale)) + zero_point
    return np.clip(steps, levels.min, levels.max).astype(detail['dtype'])


def dequantize(integers: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """The inverse of `quantize`, float32."""
    if np.issubdtype(detail['dtype'], np.floating):
        return integers.astype(np.float32)
    scale, zero_point = detail['quantization']
    return (integers.astype(np.float32) - zero_point) * np.float32(scale)


def latency(tflite: TfliteModel, repeats: int = 50, warm_up: int = 5) -> float:
    """Milliseconds that one image takes (batch 1): the median, after warm-up.

    Args:
        tflite: the file.
        repeats: number of measurements.
        warm_up: number of runs before them.
    """
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (1, *tflite.input_shape))
    # A fixed batch of several images is timed as it is, and divided.
    inputs = np.repeat(quantize(inputs, tflite._input), tflite._fixed_batch or 1, axis=0)
    seconds = []
    for _ in range(warm_up + repeats):
        start = time.perf_counter()
        tflite.raw_outputs(inputs)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[warm_up:])) * 1e3 / len(inputs)


def _read(path):
    check_local(path)
    try:
        with open(path, 'rb') as file:
            return file.read()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}): pass a .tflite.') from error


def _make_interpreter(content, name, num_threads):
    try:
        with hidden_output():  # LiteRT announces its delegate on stderr.
            interpreter = Interpreter(model_content=content, num_threads=num_threads)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise UserError(f'{name}: LiteRT cannot run it: {first_line(error)}.') from error
    return interpreter
