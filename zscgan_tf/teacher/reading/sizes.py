"""Limits on the memory that a model file asks for: that of the machine, and the file's own size.

A few bytes of a configuration or of an archive can stand for any number of bytes in memory. What
they stand for is worked out before it is allocated.
"""

import contextlib
import itertools
import math
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError

if TYPE_CHECKING:
    import keras

# Trained weights are close to random bits and hardly compress; those of a network pruned to a few
# per cent do so ten or twenty times. Zeros compress a thousand times.
_COMPRESSION = 100
# What small files may take beside their weights.
_SLACK = 16 * 2**20


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def in_words(size: float) -> str:
    """A number of bytes for people: '59.6 GB'."""
    for unit in ('bytes', 'kB', 'MB', 'GB', 'TB'):
        if size < 1024 or unit == 'TB':
            # Three digits, but '1000 MB' rather than '1e+03 MB'.
            return f'{size:.0f} {unit}' if 999.5 <= size < 1e6 else f'{size:.3g} {unit}'
        size /= 1024


def check_unpacked(size: int, packed: int, what: str, path: pathlib.Path) -> None:
    """Refuses what takes far more memory than the bytes it is stored in.

    Args:
        size: bytes in memory.
        packed: bytes in the file.
        what: what takes the memory, and a verb: the beginning of the message.
        path: the file, for the message.

    Raises:
        UserError: it does, or the machine has less memory.
    """
    memory = machine_memory()
    if size > memory:
        raise UserError(
            f"{path}: {what} {in_words(size)}, more than this machine's memory of "
            f'{in_words(memory)}: is this file the model that you trained?'
        )
    if size > _COMPRESSION * packed + _SLACK:
        raise UserError(
            f'{path}: {what} {in_words(size)}, the file holds {in_words(packed)}, and trained '
            f'weights do not compress so much: save the model anew, and do not trust this file.'
        )


@contextlib.contextmanager
def bounded_weights(stored: int, path: pathlib.Path) -> Iterator[None]:
    """A context in which Keras cannot make weights that no file of this size holds.

    Args:
        stored: bytes of the file that holds the weights.
        path: the file, for messages.

    Raises:
        UserError: before the first variable is made that goes too far.
    """
    total, refusals = 0, []

    def creator(make, **settings):
        nonlocal total
        size = _size(settings)
        total += size
        # Variables are made in the name scope of their layer.
        name = tf.get_current_name_scope().split('/')[-1]
        try:
            check_unpacked(size, stored, f"layer '{name}' asks for weights of", path)
            check_unpacked(total, stored, f"its layers up to '{name}' ask for weights of", path)
        except UserError as error:
            refusals.append(error)
            raise
        return make(**settings)

    try:
        with tf.variable_creator_scope(creator):
            yield
    except Exception:
        # Keras may have wrapped the error in one of its own.
        if refusals:
            raise refusals[0] from None
        raise


def _size(settings):
    """Bytes of the variable that `tf.Variable(**settings)` would make."""
    value, shape, dtype = (settings.get(key) for key in ('initial_value', 'shape', 'dtype'))
    if shape is None and callable(value):
        # Keras 3 tells the shape to the initializer alone; in a graph nothing is computed.
        with tf.Graph().as_default():
            value = value()
    if shape is None:
        shape = value.shape if hasattr(value, 'shape') else np.shape(value)
    dtype = getattr(value, 'dtype', tf.float32) if dtype is None else dtype
    return math.prod(tf.TensorShape(shape).as_list()) * tf.as_dtype(dtype).size


def check_outputs(model: 'tf_keras.Model | keras.Model', path: pathlib.Path) -> None:
    """Refuses a model with a layer whose output for one image does not fit the machine's memory."""
    memory = machine_memory()
    pending = [model]
    while pending:
        inner = pending.pop()
        pending.extend(layer for layer in inner.layers if hasattr(layer, 'layers'))
        # A Sequential of Keras 3 keeps its graph in a model of its own.
        graph = getattr(inner, '_functional', None) or inner
        for node in itertools.chain(*getattr(graph, '_nodes_by_depth', {}).values()):
            for tensor in tf.nest.flatten(node.outputs):
                if getattr(tensor.shape, 'rank', 0) is None:  # as of a squeeze
                    continue
                size = 4 * math.prod(n or 1 for n in tuple(tensor.shape))
                if size > memory:
                    layer = getattr(node, 'operation', None) or node.layer
                    raise UserError(
                        f"{path}: the output of layer '{layer.name}' takes {in_words(size)} for "
                        f"one image, more than this machine's memory of {in_words(memory)}."
                    )
