"""ZeroQ [12]: images whose moments at each batch norm are the stored ones (arXiv 2001.00281).

Beside ZS-CGAN (`zscgan.py`): no generator, no classes, and squared distances, not divergences.
"""

import collections.abc
import pathlib

import tensorflow as tf
import tf_keras

from zscgan_tf.methods import inversion
from zscgan_tf.methods.inversion import Group, Optimization, OptimizedImages
from zscgan_tf.methods.inversion_options import ZeroqOptions
from zscgan_tf.options import COUNT, SEED, check
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.tap import StoredMoments, build_tap
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.training import workdir as workdirs

# Added to variances before their root, the stored ones and the images'.
EPSILON = 1e-6
# The rate falls to a tenth after more than so many steps without a loss that is lower by so much.
PATIENCE, THRESHOLD, FACTOR, LOWEST_RATE = 100, 1e-4, 0.1, 1e-4


def distance(
    x: tf.Tensor, mean: tf.Tensor, deviation: tf.Tensor, statistics: str = 'image'
) -> tf.Tensor:
    """||m - mean||² + ||s - deviation||², summed over channels, mean over the images.

    The published code takes the moments m and s of each image; the paper's equation 3, as
    remembered, can be read as those of the whole batch (`ZeroqOptions` says what follows of it).
    Variances are unbiased, that of a single position is 0.

    Args:
        x: [B, ..., C].
        mean, deviation: targets, [C], or one for all channels.
        statistics: 'image', or 'batch' for moments of all images.
    """
    # [B or 1, positions, C].
    rows = tf.reshape(x, [x.shape[0] if statistics == 'image' else 1, -1, x.shape[-1]])
    mean_of_x = tf.reduce_mean(rows, axis=1, keepdims=True)
    count = tf.cast(tf.maximum(tf.shape(rows)[1] - 1, 1), x.dtype)
    variance = tf.reduce_sum(tf.square(rows - mean_of_x), axis=1) / count
    of_means = tf.square(mean_of_x[:, 0] - mean)
    of_deviations = tf.square(tf.sqrt(variance + EPSILON) - deviation)
    return tf.reduce_mean(tf.reduce_sum(of_means + of_deviations, axis=1))


def moments_loss(
    inputs: list[tf.Tensor], stored: list[StoredMoments], statistics: str = 'image'
) -> tf.Tensor:
    """The distances at all batch norms, summed.

    Args:
        inputs: what each batch norm reads, [B, ..., C].
        stored: the list of `StoredMoments` to match.
        statistics: see `distance`.
    """
    return tf.add_n(
        [
            distance(x, s.mean, tf.sqrt(tf.cast(s.variance, x.dtype) + EPSILON), statistics)
            for x, s in zip(inputs, stored, strict=True)
        ]
    )


class Plateau(tf.Module):
    """A learning rate that falls where the loss does not; checkpointed with the images.

    Args:
        first_rate: where it begins.
    """

    def __init__(self, first_rate: float) -> None:
        super().__init__()
        self._first_rate = first_rate
        self.rate = tf.Variable(first_rate, trainable=False, dtype=tf.float32, name='rate')
        self._best = tf.Variable(tf.float32.max, trainable=False, name='best')
        self._bad = tf.Variable(0, trainable=False, dtype=tf.int64, name='bad')

    def restart(self) -> None:
        """As at the start of a group."""
        self.rate.assign(self._first_rate)
        self._best.assign(tf.float32.max)
        self._bad.assign(0)

    def observe(self, loss: tf.Tensor) -> None:
        """Takes the loss of a step, after its update."""
        is_better = loss < self._best * (1 - THRESHOLD)
        bad = tf.where(is_better, tf.zeros_like(self._bad), self._bad + 1)
        falls = bad > PATIENCE
        lower = tf.maximum(self.rate * FACTOR, LOWEST_RATE)
        self._best.assign(tf.where(is_better, loss, self._best))
        self._bad.assign(tf.where(falls, tf.zeros_like(bad), bad))
        # A rate that was below the floor from the start stays.
        self.rate.assign(tf.where(falls, tf.minimum(lower, self.rate), self.rate))


def start_images(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """The published start, nearly grey: whole numbers 0...254, less 127.5, over 5418.75.

    The published code divides by the variance of such numbers, not by their deviation.
    """
    numbers = tf.random.stateless_uniform(shape, seed, maxval=255, dtype=tf.int32, alg='philox')
    return (tf.cast(numbers, tf.float32) - 127.5) / 5418.75


def make_step(
    group: Group,
    plateau: Plateau,
    tap: tf_keras.Model,
    stored: list[StoredMoments],
    input_spec: InputSpec,
    statistics: str = 'image',
) -> collections.abc.Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """The step of ZeroQ as `loop.run` takes it.

    Args:
        group: of the images.
        plateau: their rate.
        tap, stored: what `build_tap` returned.
        input_spec: the teacher's `InputSpec`.
        statistics: see `distance`.
    """

    def step(index):
        images, _, iteration = group.begin(index, plateau.restart)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            _, *inputs = tap(inversion.to_inputs(images, input_spec), training=False)
            losses = {
                'moments_loss': moments_loss(inputs, stored, statistics),
                # Inputs are standardized: their moments are known as well.
                'input_loss': distance(images, 0.0, 1.0, statistics),
            }
            loss = losses['moments_loss'] + losses['input_loss']
        rate = plateau.rate.read_value()
        group.descend(tape.gradient(loss, images), iteration, rate)
        plateau.observe(loss)
        return {**losses, 'rate': rate}

    return step


def build_optimization(teacher: Teacher, options: ZeroqOptions, seed: int) -> Optimization:
    """What ZeroQ optimizes with.

    Args:
        teacher: a `Teacher`.
        options: of the images.
        seed: of the start images.
    """
    shape = (options.group_size, *teacher.input_spec.image_shape)
    group = Group(shape, lambda key: start_images(shape, key), options.iterations, seed)
    plateau = Plateau(options.learning_rate)
    tap, stored = build_tap(teacher.logits_model)
    step = make_step(group, plateau, tap, stored, teacher.input_spec, options.statistics)
    return Optimization(group, {'plateau': plateau}, step)


def make_zeroq_images(
    teacher: Teacher,
    workdir: str,
    *,
    preset: str = 'small',
    seed: int = 0,
    batch_size: int = 32,
    jit_compile: bool = False,
    checkpoint_every: int = 500,
    keep: dict[str, str] | None = None,
    **options: object,
) -> OptimizedImages:
    """Optimizes images so that their moments are those that a teacher's batch norms store.

    A workdir that holds such an optimization goes on where it stopped; a finished one is reused.

    Args:
        teacher: a `Teacher`.
        workdir: the run's folder.
        preset: 'small' or 'paper': defaults of the options.
        seed: of the start images, and of the order in which the source hands images out.
        batch_size: images a batch of the source.
        jit_compile: compile the step with XLA.
        checkpoint_every: steps between two checkpoints.
        keep: dict of name -> text of files to keep in the workdir, such as a program's flags.
        **options: any field of `ZeroqOptions`, in place of the preset's value.

    Returns:
        The images, a source without labels; they are in `images.npz` of the workdir too.

    Raises:
        UserError: an option is out of range, the workdir belongs to another run, a loss is not
            finite.
    """
    resolved = ZeroqOptions.resolve(preset, options, teacher)
    seed = check(SEED, 'seed', seed)
    batch_size = check(COUNT, 'batch_size', batch_size)
    checkpoint_every = check(COUNT, 'checkpoint_every', checkpoint_every)
    config = {'images_method': 'zeroq', **resolved.record()}
    workdirs.claim(workdir, workdirs.config_of(teacher, config, seed), keep)
    path = pathlib.Path(workdir) / 'images.npz'
    if not path.exists():
        inversion.optimize(
            build_optimization(teacher, resolved, seed),
            teacher,
            workdir,
            resolved,
            groups=resolved.groups,
            name='zeroq',
            jit_compile=jit_compile,
            checkpoint_every=checkpoint_every,
        )
    inversion.finish(workdir, resolved, None, teacher.num_classes)
    description = {'kind': 'zeroq', **config, 'seed': seed}
    return OptimizedImages(path, teacher, batch_size, seed, description)
