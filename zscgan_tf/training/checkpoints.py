"""Checkpoints of a training: the last two are kept, and a damaged one is passed over."""

import logging
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError

logger = logging.getLogger(__name__)


class Checkpoints:
    """The last two checkpoints of a run; a damaged newest one falls back to the one before.

    Args:
        folder: where they are, as `ckpt-<steps done>.*`; made with the first one.
        state: name -> what to save and restore (a model, an optimizer), all its variables built.
    """

    def __init__(self, folder: pathlib.Path, state: Mapping[str, object]):
        self._state = state
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._checkpoint = tf.train.Checkpoint(step=self._step, **state)
        self._folder = folder
        try:
            self._manager = self._make_manager()
        except ValueError:  # TensorFlow's list of checkpoints is damaged; `_paths` needs none
            (folder / 'checkpoint').unlink()
            self._manager = self._make_manager()

    def _make_manager(self):
        # None: what it deletes it finds by a pattern, and a folder's name may have a * or a [.
        return tf.train.CheckpointManager(self._checkpoint, str(self._folder), max_to_keep=None)

    def restore(self, partly: bool = False) -> int:
        """Restores the newest readable checkpoint and returns its number of steps, or 0.

        Args:
            partly: the state is a part of what was saved.

        Raises:
            UserError: there are checkpoints, and none of them can be read.
        """
        paths, others = self._paths(), 0
        for path in paths:
            try:
                status = self._checkpoint.restore(str(path))
                status.assert_existing_objects_matched()
                if partly:
                    status.expect_partial()
                return int(self._step.numpy())
            except (AssertionError, ValueError):  # it is read, and does not fit
                others += 1
            except (tf.errors.OpError, LookupError) as error:
                logger.warning(
                    'checkpoint %s is damaged (%s); falling back to the one before',
                    path, type(error).__name__,
                )  # fmt: skip
        if others:
            raise UserError(
                f'{self._folder}: its checkpoints hold other variables: another version or another '
                f'training wrote them; pass another folder.'
            )
        if paths:
            raise UserError(
                f'{self._folder}: none of its checkpoints can be read; remove the folder to start '
                f'again, or pass another one.'
            )
        return 0

    def newest(self) -> int:
        """The number of steps of the newest checkpoint, readable or not; 0 where there is none."""
        return next((int(path.name.split('-')[1]) for path in self._paths()), 0)

    def what_stays(self) -> str:
        """What a message adds of earlier checkpoints: nothing where there is none."""
        return '; the last checkpoint is whole' if self._paths() else ''

    def _paths(self):
        # TensorFlow's own list may be damaged, and names the files where they were written: the
        # folder may have been moved since.
        names = {pathlib.Path(path).name for path in self._manager.checkpoints}
        names |= {path.stem for path in self._folder.glob('ckpt-*.index')}
        names = {name for name in names if any(self._folder.glob(f'{name}.*'))}
        newest_first = sorted(names, key=lambda name: int(name.split('-')[1]), reverse=True)
        return [self._folder / name for name in newest_first]

    def _sweep(self):
        """Deletes all but the last two."""
        kept = {path.name for path in self._paths()[:2]}
        for path in self._folder.glob('ckpt-*.*'):
            if path.name.partition('.')[0] not in kept:
                path.unlink(missing_ok=True)

    def save(self, done: int) -> None:
        """Writes a checkpoint after `done` steps, if all that it would hold is finite.

        Raises:
            UserError: a value is not finite, or the checkpoint cannot be written; the one before
                stays.
        """
        for name, value in self._state.items():
            for variable in value.variables:
                if variable.dtype.is_floating and not np.all(np.isfinite(variable.numpy())):
                    raise UserError(
                        f'{variable.name} of the {name} is not finite after step '
                        f'{done}{self.what_stays()}. Try a lower learning rate in another folder.'
                    )
        self._step.assign(done)
        try:
            self._manager.save(checkpoint_number=done)
        except tf.errors.OpError as error:
            raise UserError(
                f'{self._folder}: the checkpoint could not be written '
                f'({error.message.splitlines()[0]}){self.what_stays()}. Free some space and run '
                f'the same command again.'
            ) from error
        self._sweep()
