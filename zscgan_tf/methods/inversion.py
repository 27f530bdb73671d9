"""Images that are optimized instead of generated: what ZeroQ [12] and DeepInversion [13] share.

A group of images is one variable, which gradients of a method's loss change. When its last step is
done, the group is written to the workdir, and the next one begins from new random images. All
groups together become an .npz file, and so a source like any other.
"""

import collections.abc
import dataclasses
import itertools
import logging
import os
import pathlib
import zipfile

import numpy as np
import tensorflow as tf

from zscgan_tf.atomic_files import PathLike, open_atomically, remove_leftovers
from zscgan_tf.errors import UserError, first_line
from zscgan_tf.methods.inversion_options import InversionOptions
from zscgan_tf.sources.files import FileSource
from zscgan_tf.sources.generator import GRID_CLASSES, GRID_IMAGES, grid_classes
from zscgan_tf.sources.npz import NPZ_ERRORS, open_npz
from zscgan_tf.sources.order import index_batches
from zscgan_tf.sources.pictures import write_grid
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.training import loop
from zscgan_tf.training.strategy import fold_seed

logger = logging.getLogger(__name__)


class Group(tf.Module):
    """The images that are being optimized, with Adam's two moments; all of it is checkpointed.

    Adam is written out, as its ε counts here: gradients of single pixels are tiny. It is added to
    the root of the corrected second moment, as the published codes' optimizer does.

    Args:
        shape: (B, H, W, C).
        start: a function of a stateless seed, [2], that returns the images that a group starts
            with, standardized, [B, H, W, C].
        iterations: steps of a group.
        seed: of the start images.
        beta_1, beta_2: Adam's.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        start: collections.abc.Callable[[tf.Tensor], tf.Tensor],
        iterations: int,
        seed: int,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
    ) -> None:
        super().__init__()
        self.images = tf.Variable(tf.zeros(shape), trainable=False, name='images')
        self._first = tf.Variable(tf.zeros(shape), trainable=False, name='first_moment')
        self._second = tf.Variable(tf.zeros(shape), trainable=False, name='second_moment')
        self._start, self._seed = start, seed
        self._iterations = iterations
        self._betas = beta_1, beta_2

    def restart(self, number: tf.Tensor | int) -> None:
        """Begins group `number`: new images, and moments of zero."""
        self.images.assign(self._start(fold_seed(self._seed, number, 0)))
        for moment in (self._first, self._second):
            moment.assign(tf.zeros_like(moment))

    def begin(
        self, index: tf.Tensor, *restarts: collections.abc.Callable[[], None]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Begins a step; a group's first one restarts the group.

        Args:
            index: number of the step in the whole run, a scalar int64.
            *restarts: functions that restart what else a group has.

        Returns:
            The images as a tensor, the number of the group, and that of the step within it.
        """
        number, iteration = index // self._iterations, index % self._iterations

        def restart():
            self.restart(number)
            for other in restarts:
                other()
            return True

        tf.cond(tf.equal(iteration, 0), restart, lambda: False)
        return self.images.read_value(), number, iteration

    def descend(self, gradient: tf.Tensor, iteration: tf.Tensor, rate: tf.Tensor) -> None:
        """One step of Adam.

        Args:
            gradient: of the loss with respect to the images.
            iteration: number of the step within the group, from 0 on.
            rate: the learning rate, a scalar.
        """
        beta_1, beta_2 = self._betas
        self._first.assign(beta_1 * self._first + (1 - beta_1) * gradient)
        self._second.assign(beta_2 * self._second + (1 - beta_2) * tf.square(gradient))
        steps = tf.cast(iteration + 1, tf.float32)
        first = self._first / (1 - beta_1**steps)
        second = self._second / (1 - beta_2**steps)
        self.images.assign_sub(rate * first / (tf.sqrt(second) + 1e-8))


@dataclasses.dataclass(frozen=True)
class Optimization:
    """What a method gives to `optimize`.

    Attributes:
        group: the `Group`.
        state: name -> what else a checkpoint holds.
        step: as `loop.run` takes it.
    """

    group: Group
    state: dict[str, tf.Module]
    step: collections.abc.Callable[[tf.Tensor], dict[str, tf.Tensor]]


class OptimizedImages(FileSource):
    """The images of a finished optimization, a `StoredSource`.

    Args:
        path: the .npz that `join` wrote.
        teacher: what they were optimized for.
        batch_size: images a batch.
        seed: of their order.
        description: see `Source`; without paths, so that a workdir can be moved.
    """

    def __init__(
        self,
        path: PathLike,
        teacher: Teacher,
        batch_size: int,
        seed: int,
        description: dict[str, object],
    ) -> None:
        try:
            super().__init__(path, teacher.input_spec, batch_size, seed)
            with np.load(path) as arrays:
                # In [0, 1]: how many of the values were outside of legal pixels.
                self.clipped_share = float(arrays['clipped_share'])
        except (UserError, *NPZ_ERRORS) as error:
            reason = str(error).rstrip('.')
            raise UserError(
                f'{reason}: delete {os.path.dirname(path)}, and run the same command again.'
            ) from error
        self.description = description


def to_inputs(standardized: tf.Tensor, input_spec: InputSpec) -> tf.Tensor:
    """What the teacher takes of standardized images; a gradient passes.

    Start images, rates and norms are published for such images (`InputSpec.standardizing`).
    """
    standard = input_spec.standardizing()
    if standard is input_spec:
        return standardized
    return input_spec.to_inputs(standard.to_pixels(standardized))


def group_labels(num_classes: int, options: InversionOptions, seed: int) -> np.ndarray:
    """The labels that the images of all groups are optimized for, int32 [groups, B].

    Permutations of all classes, one after the other: any number of images is balanced.
    """
    batches = index_batches(num_classes, None, options.group_size, seed)
    return np.stack(list(itertools.islice(batches, options.groups))).astype(np.int32)


def optimize(
    optimization: Optimization,
    teacher: Teacher,
    workdir: PathLike,
    options: InversionOptions,
    *,
    groups: int,
    name: str,
    jit_compile: bool,
    checkpoint_every: int,
) -> None:
    """Optimizes groups of images until `groups` are done, writing each; the workdir resumes.

    Args:
        optimization: of the method.
        teacher: a `Teacher`.
        workdir: the run's folder, claimed.
        options: of the method.
        groups: how many groups are to be done in the end.
        name: what messages call the method.
        jit_compile, checkpoint_every: see `loop.run`.

    Raises:
        UserError: see `loop.run`.
    """
    group, standard = optimization.group, teacher.input_spec.standardizing()
    (pathlib.Path(workdir) / 'groups').mkdir(exist_ok=True)
    remove_leftovers(pathlib.Path(workdir) / 'groups')

    def write(number):
        pixels = standard.to_pixels(group.images).numpy()
        with open_atomically(_group_path(workdir, number), overwrite=True) as file:
            np.save(file, pixels)
        return {'images': np.clip(pixels, 0, 1)}

    if not options.iterations:
        for number in range(groups):
            group.restart(number)
            write(number)
        return
    loop.run(
        optimization.step,
        {'group': group, **optimization.state},
        groups * options.iterations,
        workdir=workdir,
        images_per_step=options.group_size,
        jit_compile=jit_compile,
        checkpoint_every=checkpoint_every,
        # Before a checkpoint of the same step: what is killed between both repeats the group.
        write_images=lambda done: write(done // options.iterations - 1),
        images_every=options.iterations,
        name=name,
        advice='a lower --image_learning_rate in another --workdir',
    )


def join(
    workdir: PathLike, file_name: str, count: int, groups: int, labels: np.ndarray | None
) -> None:
    """Joins groups into an uncompressed .npz; never more than a group is in memory.

    Pixels are clipped to [0, 1] here, and the share of values that were outside is told.

    Args:
        workdir: the run's folder.
        file_name: of the .npz in it.
        count: N, how many of the groups' images are taken.
        groups: number of groups.
        labels: [at least N], or None.

    Raises:
        UserError: a group is missing or damaged, or the disk is full.
    """
    path = pathlib.Path(workdir) / file_name
    shape = (count, *_read_group(workdir, 0).shape[1:])
    left, clipped = count, 0
    with open_atomically(path, overwrite=True) as file, zipfile.ZipFile(file, 'w') as archive:
        with _member(archive, 'images') as member:
            header = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
            np.lib.format.write_array_header_1_0(member, header)
            for number in range(groups):
                pixels = _read_group(workdir, number)[:left]
                left -= len(pixels)
                clipped += int(np.sum((pixels < 0) | (pixels > 1)))
                member.write(np.ascontiguousarray(np.clip(pixels, 0, 1), '<f4').data.cast('B'))
        arrays = {'clipped_share': np.float64(clipped / np.prod(shape))}
        if labels is not None:
            arrays['labels'] = np.int32(labels[:count])
        for name, array in arrays.items():
            with _member(archive, name) as member:
                np.lib.format.write_array(member, array)
    logger.info(
        '%s: %d images; %.2f %% of their values were outside of legal pixels and are clipped',
        path, count, 100 * clipped / np.prod(shape),
    )  # fmt: skip


def finish(
    workdir: PathLike,
    options: InversionOptions,
    labels: np.ndarray | None,
    num_classes: int,
) -> None:
    """Makes `images.npz` and `classes.png` of the groups, which are then removed.

    What is there already stays: a kill may have come between two of these steps.

    Args:
        workdir: the run's folder.
        options: of the method.
        labels: [groups, B], or None.
        num_classes: K.
    """
    flat = None if labels is None else labels.reshape(-1)
    path, grid = (pathlib.Path(workdir) / name for name in ('images.npz', 'classes.png'))
    if not path.exists():
        try:
            join(workdir, path.name, options.images, options.groups, flat)
        except UserError:
            if not path.exists():  # another process may have joined them just now
                raise
    if not grid.exists():
        _write_grid(path, grid, num_classes)
    for number in range(options.groups):
        _group_path(workdir, number).unlink(missing_ok=True)


def _write_grid(path, target, num_classes):
    """A grid of the first images: with labels a row a class, as of a generator."""
    images, labels = open_npz(path)  # mapped
    if labels is None:
        write_grid(target, images[: GRID_CLASSES * GRID_IMAGES], GRID_IMAGES)
        return
    classes = grid_classes(num_classes)
    of_class = [np.flatnonzero(labels == label)[:GRID_IMAGES] for label in classes]
    columns = min(map(len, of_class))
    shown = np.concatenate([indices[:columns] for indices in of_class])
    write_grid(target, images[shown], columns, row_labels=classes)


def _group_path(workdir, number):
    return pathlib.Path(workdir) / 'groups' / f'{number:05d}.npy'


def _read_group(workdir, number):
    path = _group_path(workdir, number)
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f'{path} cannot be read ({first_line(error)}): delete {os.fspath(workdir)}, '
            f'and run the same command again.'
        ) from error


def _member(archive, name):
    # A fixed time, so that the same images are the same bytes.
    info = zipfile.ZipInfo(f'{name}.npy', (1980, 1, 1, 0, 0, 0))
    return archive.open(info, 'w', force_zip64=True)
