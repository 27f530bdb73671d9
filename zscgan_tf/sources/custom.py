"""A source of the user's own: a function package.module:function that returns an image source."""

import hashlib
import itertools
from typing import Any

import numpy as np

from zscgan_tf.errors import UserError
from zscgan_tf.sources import Source
from zscgan_tf.sources.batches import check_pixels
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.user_code import import_function

_ATTRIBUTES = ('image_shape', 'batch_size', 'has_labels', 'num_classes', 'batches')


def custom_source(name: str, teacher: Teacher, *, allow_code: bool = False) -> Source:
    """The source that a function of the user's own makes for a teacher.

    Two batches are made, and one of them twice: what the pipeline relies on is checked before any
    work. Where the source has no `description`, its name becomes one. A digest of the first batch
    is added: a student of other images is another one.

    Args:
        name: `package.module:function`; the function takes the `Teacher` and returns an object with
            the protocol of `Source`.
        teacher: a `Teacher`.
        allow_code: whether the user allows Python code to run.

    Raises:
        UserError: code is not allowed, there is no such function, it fails, or what it returns is
            no source: an attribute is missing; pixels have another shape or type, are not finite or
            not in [0, 1]; labels are no classes of the teacher; the second call gives others.
    """
    function = import_function(name, allow_code)
    try:
        source = function(teacher)
        missing = [attribute for attribute in _ATTRIBUTES if not hasattr(source, attribute)]
        if missing:
            raise UserError(
                f'{name} returned a {type(source).__name__} without {missing[0]}: return a source, '
                f'as docs/api.md describes it.'
            )
        batches = list(itertools.islice(source.batches(), 2))
        batches += itertools.islice(source.batches(start=1), 1)
        if len(batches) < 3:
            raise UserError(
                f'{name} ended after {len(batches)} batches: yield batches without end, from the '
                f'first image again.'
            )
        for batch in batches:
            _check_batch(batch, source, teacher, name)
    except UserError:
        raise
    except Exception as error:  # whatever the user's code raises
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{name} failed ({type(error).__name__}: {reason}).') from error
    for one, other in zip(*batches[1:], strict=True):
        if (one is None) != (other is None) or not np.array_equal(one, other):
            raise UserError(
                f'{name}: batches(start=1) gives other images than the second batch of batches(): '
                f'draw them from a seed and the number of the batch.'
            )
    description = getattr(source, 'description', None)
    pixels, labels = (np.asarray(values) for values in batches[0])
    digest = hashlib.sha256(pixels.tobytes() + repr(labels.tolist()).encode()).hexdigest()[:16]
    source.description = {
        **(description if isinstance(description, dict) else {'kind': name}),
        'first_batch': digest,
    }
    return source


def _check_batch(batch: Any, source, teacher, name):
    try:
        pixels, labels = batch
    except (TypeError, ValueError) as error:
        raise UserError(
            f'{name}: a batch is no pair of pixels and labels: yield (pixels, labels), or (pixels, '
            f'None).'
        ) from error
    try:
        pixels = check_pixels(pixels, teacher.input_spec)
    except UserError as error:
        raise UserError(f'{name}: {error}') from error
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        raise UserError(
            f'{name}: pixels run from {low:g} to {high:g}: yield pixels in [0, 1], before any '
            f'preprocessing.'
        )
    if len(pixels) != source.batch_size:
        raise UserError(
            f'{name}: a batch has {len(pixels)} images, and batch_size is {source.batch_size}: '
            f'yield batches of that size.'
        )
    if (labels is not None) != bool(source.has_labels):
        raise UserError(
            f'{name}: has_labels is {source.has_labels}, and the labels of a batch are '
            f'{"missing" if labels is None else "there"}: make both agree.'
        )
    if labels is None:
        return
    labels = np.asarray(labels)
    whole = labels.shape == (len(pixels),) and np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.min() < 0 or labels.max() >= teacher.num_classes:
        raise UserError(
            f'{name}: labels are to be whole numbers from 0 to {teacher.num_classes - 1}, one an '
            f'image.'
        )
