"""The one training loop: steps, checkpoints, resume, progress, logs, signals, NaN stop.

A training gives it a step function and what to save; the loop knows nothing of losses. Steps draw
their random numbers from the seed and the number of the step, so a run that was interrupted and
resumed goes on exactly as if nothing had happened (bit-equal on a CPU).
"""

import contextlib
import fcntl
import itertools
import json
import logging
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from zscgan_tf.atomic_files import write_atomically
from zscgan_tf.errors import UserError, first_line
from zscgan_tf.progress import Progress, duration
from zscgan_tf.training import workdir as workdirs
from zscgan_tf.training.checkpoints import Checkpoints

logger = logging.getLogger(__name__)

# A call of the compiled function should take about this long: often enough for the progress bar
# and for Ctrl-C, seldom enough that Python costs nothing.
SECONDS_PER_CALL = 1.0
MAX_STEPS_PER_CALL = 100


def run(
    step: Callable[..., dict[str, tf.Tensor]],
    state: Mapping[str, object],
    steps: int,
    *,
    workdir: str | os.PathLike,
    images_per_step: int,
    strategy: tf.distribute.Strategy | None = None,
    jit_compile: bool = False,
    checkpoint_every: int = 1000,
    batches: Callable[[int], Iterator[tuple[tf.Tensor, ...]]] | None = None,
    write_images: Callable[[int], dict[str, np.ndarray]] | None = None,
    images_every: int = 1000,
    name: str = 'training',
    advice: str = 'a lower learning_rate in another folder',
) -> None:
    """Runs a step function until `steps` steps are done, resuming from the workdir.

    Args:
        step: a function of the step's number (a scalar int64 tensor, 0 in the first step), called
            in replica context, that updates the variables and returns a dict of scalar metrics,
            each the replica's share of the global value (they are summed over replicas).
        state: name -> what to checkpoint (a model, an optimizer), made in the strategy's scope,
            all its variables built.
        steps: number of steps of the whole run.
        workdir: folder for `checkpoints/`, `metrics.jsonl`, and TensorBoard's events.
        images_per_step: global batch size, for the progress bar.
        strategy: a `tf.distribute.Strategy`, or None for the current one.
        jit_compile: compile the step with XLA.
        checkpoint_every: steps between two checkpoints; the last two are kept.
        batches: None, or a function of the number of steps done that returns an endless iterator of
            tuples of tensors of the global batch; `step` is then called with them behind its
            number, once a call, and each replica takes its slice (`strategy.replica_slice`).
        write_images: None, or a function of the number of steps done that writes pictures and
            returns {name: image batch [N, H, W, C] of pixels} for TensorBoard, which shows at most
            the first three channels.
        images_every: steps between two calls of it; it is called after the last step too.
        name: what the progress bar and messages call this training.
        advice: what to try where a metric is not finite.

    Raises:
        UserError: a metric is not finite, no checkpoint of the workdir can be read, or another
            process trains in the workdir.
        KeyboardInterrupt: on SIGINT or SIGTERM, after a checkpoint was written.
    """
    strategy = strategy or tf.distribute.get_strategy()
    named, workdir = workdir, pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir / 'checkpoints', state)
    metrics_file, events = workdir / 'metrics.jsonl', workdir / 'tensorboard'
    with contextlib.ExitStack() as stack:
        # A finished training is only read: without the lock.
        done = checkpoints.restore() if checkpoints.newest() >= steps else 0
        if done < steps:
            stack.enter_context(_alone(named))
            done = checkpoints.restore()
        if done >= steps:
            return
        if done:
            logger.info('%s: resuming after step %d', name, done)
        with _needing_space(events):
            writer = tf.summary.create_file_writer(str(events))
        compiled = _compile(step, strategy, jit_compile)
        logger.info('%s: compiling the training step', name)
        iterator = batches(done) if batches else itertools.repeat(())
        stop = stack.enter_context(_stop_on_signal())
        progress = stack.enter_context(Progress(name, steps, 'steps', done=done, is_long=True))
        stack.enter_context(writer.as_default())
        stack.enter_context(_closed_on_error(writer))
        _forget_metrics_after(metrics_file, done)
        clock = _Clock(steps, images_per_step, name, last_metrics(workdir).get('seconds', 0))
        while done < steps:
            until_stop = min(
                checkpoint_every - done % checkpoint_every,
                images_every - done % images_every if write_images else steps,
                steps - done,
            )
            count = min(clock.steps_per_call if batches is None else 1, until_stop)
            started = time.monotonic()
            history = compiled(
                tf.constant(done, tf.int64), tf.constant(count, tf.int64), *next(iterator)
            )
            history = {key: values.numpy() for key, values in history.items()}
            _check_finite(history, done, name, checkpoints, advice)
            done += count
            line = clock.tick(count, done, time.monotonic() - started)
            if line:
                progress.tell(line)

            means = {key: float(values.mean()) for key, values in history.items()}
            metrics = {**means, **clock.rates()}
            _write_metrics(metrics_file, done, metrics)
            with _needing_space(events):
                for key, value in metrics.items():
                    tf.summary.scalar(key, value, step=done)
            note = ', '.join(f'{key} {value:.4g}' for key, value in means.items())
            rate = f'{clock.rates()["images_per_second"]:.0f} images/s'
            progress.update(count, f'{note}, {rate}', clock.seconds_left(done))
            if write_images and (done % images_every == 0 or done == steps):
                for key, pixels in write_images(done).items():
                    shown = pixels[..., : 3 if pixels.shape[-1] > 2 else 1]
                    with _needing_space(events):
                        tf.summary.image(key, shown, step=done, max_outputs=64)
            if done % checkpoint_every == 0 or done == steps or stop():
                checkpoints.save(done)
                with _needing_space(events):
                    writer.flush()
            if stop():
                raise KeyboardInterrupt(
                    f'{name} was interrupted after step {done} of {steps}; '
                    f'the same command resumes it from {workdir}.'
                )


def measure(
    step: Callable[..., dict[str, tf.Tensor]],
    steps: int,
    strategy: tf.distribute.Strategy,
    jit_compile: bool = False,
    seconds: float = 5.0,
) -> tuple[float, float]:
    """How long a training takes, from a few of its steps; what they train is lost.

    Args:
        step, steps, strategy, jit_compile: as `run` takes them.
        seconds: how long to measure behind the first step; two steps are run in any case.

    Returns:
        The seconds that the first step takes more than others, as it compiles; and those of each.
    """
    compiled = _compile(step, strategy, jit_compile)
    times = []
    # The second one may still allocate.
    while len(times) < 4 or (sum(times[1:]) < seconds and len(times) < MAX_STEPS_PER_CALL):
        started = time.monotonic()
        number = len(times) % steps  # a short training has fewer than are measured
        history = compiled(tf.constant(number, tf.int64), tf.constant(1, tf.int64))
        for values in history.values():
            values.numpy()
        times.append(time.monotonic() - started)
        if len(times) > 2 and sum(times[1:]) > 3 * seconds:
            break
    each = float(np.median(times[2:]))
    return max(0.0, times[0] - each), each


def restore(state: Mapping[str, object], workdir: str | os.PathLike) -> int:
    """Restores a part of a run's state from its newest readable checkpoint, without training.

    Returns:
        The number of steps done, 0 where there is no checkpoint.
    """
    return Checkpoints(pathlib.Path(workdir) / 'checkpoints', state).restore(partly=True)


def _compile(step, strategy, jit_compile):
    """A function (first step, count, *batch) -> {metric: [count]} that runs `count` steps."""
    step = tf.function(step, jit_compile=True) if jit_compile else step

    @tf.function  # traced once, although `many` calls it twice
    def one(index, *batch):
        metrics = strategy.run(step, args=(index, *batch))
        return {
            key: tf.cast(strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None), tf.float32)
            for key, value in metrics.items()
        }

    names = []

    @tf.function
    def many(start, count, *batch):
        # The first step stands before the loop, so that the loop knows the metrics' names.
        first = one(start, *batch)
        names[:] = sorted(first)
        history = tf.TensorArray(tf.float32, size=tf.cast(count, tf.int32), element_shape=None)
        history = history.write(0, tf.stack([first[key] for key in names]))
        for i in tf.range(1, count):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            values = one(start + i, *batch)
            history = history.write(tf.cast(i, tf.int32), tf.stack([values[key] for key in names]))
        table = history.stack()  # [count, metrics]
        return {key: table[:, column] for column, key in enumerate(names)}

    return many


class _Clock:
    """Measures the run: steps per call, images a second, and the estimate before it starts."""

    def __init__(self, steps, images_per_step, name, seconds):
        self._steps, self._images, self._name = steps, images_per_step, name
        self._seconds = seconds  # of the whole run, those before an interruption included
        self._calls = 0
        self._seconds_per_step = None
        self.steps_per_call = 1

    def tick(self, count, done, seconds):
        """Takes note of a call: `count` steps in `seconds`, `done` steps in all.

        Returns:
            How long the rest will take, as a line for the log, once that is known; else None.
        """
        self._calls += 1
        self._seconds += seconds
        latest = seconds / count
        if self._calls > 2:  # the first call compiled
            latest = 0.9 * self._seconds_per_step + 0.1 * latest
        self._seconds_per_step = latest
        if self._calls == 1:
            return None
        wanted = SECONDS_PER_CALL / max(self._seconds_per_step, 1e-9)
        self.steps_per_call = int(max(1, min(MAX_STEPS_PER_CALL, wanted)))
        if self._calls != 4:
            return None
        return (
            f'{self._name}: {self._steps - done:,} of {self._steps:,} steps left, '
            f'{self.rates()["images_per_second"]:.0f} images/s: '
            f'about {duration(self.seconds_left(done))}'
        )

    def seconds_left(self, done):
        """How long the rest will take; None behind the first call, which compiled."""
        if self._calls == 1:
            return None
        return self._seconds_per_step * (self._steps - done)

    def rates(self):
        """Images a second now, and seconds of training so far, as metrics."""
        return {
            'images_per_second': self._images / max(self._seconds_per_step, 1e-9),
            'seconds': self._seconds,
        }


@contextlib.contextmanager
def _stop_on_signal():
    """Yields a function that says whether SIGINT or SIGTERM came; a second one stops at once.

    Signals only reach the main thread; in another one the caller's handlers stay.
    """
    caught = []

    def handler(number, frame):
        if caught:
            raise KeyboardInterrupt(
                'interrupted at once; the same command goes on from the last checkpoint'
            )
        caught.append(number)
        # What read the output got the signal too, or the signal came within another message.
        with contextlib.suppress(OSError, RuntimeError):
            print(
                '\nstopping after this step; press Ctrl-C once more to stop at once',
                file=sys.stderr,
            )

    old = {}
    with contextlib.suppress(ValueError):  # not the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, handler)
    try:
        yield lambda: bool(caught)
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def _check_finite(history, done, name, checkpoints, advice):
    for key, values in history.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise UserError(
                f'{name} stopped: {key} is {values[bad[0]]} at step '
                f'{done + int(bad[0]) + 1}{checkpoints.what_stays()}. Try {advice}.'
            )


@contextlib.contextmanager
def _alone(workdir):
    """Keeps other processes from training in the same folder.

    Raises:
        UserError: one does.
    """
    checkpoints = pathlib.Path(workdir) / 'checkpoints'  # other locks are on whole workdirs
    checkpoints.mkdir(exist_ok=True)
    folder = os.open(checkpoints, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise UserError(
            f'{workdirs.name_of(workdir)}: another process trains in this folder: wait until it is '
            f'done, or pass {workdirs.other_than(workdir)}.'
        ) from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def _closed_on_error(writer):
    """Closes the writer: what it still holds may not be writable, which would hide the error."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(tf.errors.OpError):
            writer.close()
        raise


def _write_metrics(path, done, metrics):
    with _needing_space(path), open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps({'step': done, **metrics}) + '\n')


@contextlib.contextmanager
def _needing_space(path):
    """Turns the errors of a full disk into a message."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, 'strerror', None) or first_line(error)
        raise UserError(
            f'{path}: could not be written ({reason}). Free some space and run the same command '
            f'again: it goes on from the last checkpoint.'
        ) from error


def last_metrics(workdir: str | os.PathLike) -> dict[str, float]:
    """The last whole line of a run's `metrics.jsonl`, or {} where there is none."""
    path = pathlib.Path(workdir) / 'metrics.jsonl'
    lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    for line in reversed(lines):
        with contextlib.suppress(ValueError):  # the last line may be cut off by a kill
            return json.loads(line)
    return {}


def _forget_metrics_after(path, done):
    """Drops what an interrupted run logged after its last checkpoint, so no step stands twice."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            if json.loads(line)['step'] <= done:
                kept.append(line + '\n')
        except ValueError:  # cut off by a kill
            break
    write_atomically(path, ''.join(kept).encode(), overwrite=True)
