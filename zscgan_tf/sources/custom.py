"""A source of the user's own: a function package.module:function that returns an image source."""

import copy
import hashlib
import inspect
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from zscgan_tf.errors import UserError
from zscgan_tf.sources.batches import Batch, check_batch
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.user_code import import_function, one_line_errors

_ATTRIBUTES = ('image_shape', 'batch_size', 'has_labels', 'num_classes', 'batches')
_MISSING = object()


def custom_source(
    name: str, teacher: Teacher, *, allow_code: bool = False, seed: int = 0
) -> 'CustomSource':
    """The source that a function of the user's own makes for a teacher.

    Args:
        name: `package.module:function`; the function takes the `Teacher`, and `seed` if it has an
            argument of this name, and returns an object with the protocol of `Source`.
        teacher: a `Teacher`.
        allow_code: whether the user allows Python code to run.
        seed: for the function.

    Raises:
        UserError: code is not allowed, there is no such function, it fails, or see `CustomSource`.
    """
    function = import_function(name, allow_code)
    with one_line_errors(name):
        takes_seed = 'seed' in inspect.signature(function).parameters
        source = function(teacher, **({'seed': seed} if takes_seed else {}))
        return CustomSource(name, source, teacher)


class CustomSource:
    """A source of the user's own, whose every batch is checked.

    Two batches are made at once, and one of them twice: what the pipeline relies on is known before
    any work. A digest of the first batch is added to `description`: a student of other images is
    another one.

    Args:
        name: of the function, for messages; where the source has no `description`, its `kind`.
        source: an object with the protocol of `Source`.
        teacher: the `Teacher`.

    Raises:
        UserError: here and while batches are made: an attribute is missing; pixels have another
            shape or type, are not finite or not in [0, 1]; labels are no classes of the teacher;
            the second call gives others; batches end.
    """

    def __init__(self, name: str, source: Any, teacher: Teacher) -> None:
        self._name, self._source, self._teacher = name, source, teacher
        values = {attribute: getattr(source, attribute, _MISSING) for attribute in _ATTRIBUTES}
        missing = [attribute for attribute, value in values.items() if value is _MISSING]
        if missing:
            raise UserError(
                f'{name} returned a {type(source).__name__} without {missing[0]}: return a source, '
                f'as docs/api.md describes it.'
            )
        self.image_shape = tuple(source.image_shape)
        self.batch_size = int(source.batch_size)  # these are kept as JSON
        self.has_labels = bool(source.has_labels)
        self.num_classes = None if source.num_classes is None else int(source.num_classes)
        if getattr(source, 'image_count', None) is not None:  # it begins again behind its last one
            self.image_count = int(source.image_count)
        # Copies: a source may fill the same array again.
        first, second = map(copy.deepcopy, itertools.islice(self.batches(), 2))
        again = next(self.batches(start=1))
        for one, other in zip(second, again, strict=True):
            if not np.array_equal(one, other):
                raise UserError(
                    f'{name}: batches(start=1) gives other images than the second batch of '
                    f'batches(): draw them from a seed and the number of the batch.'
                )
        self.description = self._describe(first)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """See `Source.batches`; images are checked batch by batch."""
        made = 0
        with one_line_errors(self._name):
            for batch in self._source.batches(start=start):
                # Where labels are independent, those of images are of any classes.
                reads_labels = not self._teacher.has_independent_labels
                yield check_batch(batch, self, self._teacher, self._name, reads_labels)
                made += 1
        raise UserError(
            f'{self._name} ended after {start + made} batches: yield batches without end, from the '
            f'first image again.'
        )

    def _describe(self, first):
        """JSON values that say which images these are."""
        description = getattr(self._source, 'description', None)
        description = {'kind': self._name, **(description if isinstance(description, dict) else {})}
        try:
            json.dumps(description)
        except (TypeError, ValueError) as error:
            raise UserError(
                f'{self._name}: description cannot be kept as JSON ({error}): give it texts and '
                f"plain numbers, int(n) instead of NumPy's."
            ) from error
        pixels, labels = first
        labels = None if labels is None else labels.tolist()
        digest = hashlib.sha256(pixels.tobytes() + repr(labels).encode()).hexdigest()[:16]
        return {**description, 'first_batch': digest}
