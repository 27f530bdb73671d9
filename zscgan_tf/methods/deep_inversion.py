"""DeepInversion [13]: natural images of given classes, with stored moments (arXiv 1912.08795).

Beside ZeroQ (`zeroq.py`): labels, moments of the whole group, priors of smooth images, and jitter.
The adaptive variant adds images on which a student still errs.
"""

import collections.abc
import dataclasses
import math
import os
import pathlib

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.generators import standard_normal
from zscgan_tf.methods import inversion
from zscgan_tf.methods.distillation import distill
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.methods.inversion import Group, Optimization, OptimizedImages
from zscgan_tf.methods.inversion_options import DeepInversionOptions
from zscgan_tf.methods.zscgan import class_loss
from zscgan_tf.options import COUNT, SEED, check
from zscgan_tf.student.calibration.calibrate import build
from zscgan_tf.student.student import Student
from zscgan_tf.teacher.raw_pixels import takes_raw_pixels
from zscgan_tf.teacher.tap import StoredMoments, batch_moments, build_tap
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.training import workdir as workdirs
from zscgan_tf.training.strategy import fold_seed

# Both answers are softened by this temperature before their disagreement is measured.
TEMPERATURE = 3.0
# Under the root of norms: that of zeros has no gradient otherwise.
FLOOR = 1e-12
WARM_UP = 100
# The folder, in the workdir, of the student that judges the second half of the images.
FIRST_STUDENT = 'first_student'
_FIRST_HALF = 'first_half.npz'  # what that student learns from


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a published run fixes beside its weights.

    Attributes:
        betas: Adam's.
        jitter: images are shifted by up to so many pixels, all in the same way.
        flip: mirror all images in half of the steps.
        clip: clip images to legal pixels after each step.
        cosine: 100 steps of linear warm-up and a cosine to 0, or a constant rate.
        first_weight: of the first batch norm's moments.
        norm_by_image: the mean norm of the images, or the norm of all of them.
    """

    betas: tuple[float, float]
    jitter: int
    flip: bool
    clip: bool
    cosine: bool
    first_weight: float
    norm_by_image: bool


_IMAGENET = Setting((0.5, 0.9), 30, True, True, True, 10.0, True)
SETTINGS = {
    'cifar10': Setting((0.9, 0.999), 2, False, False, False, 1.0, False),
    'imagenet_2k': _IMAGENET,
    'imagenet_20k': dataclasses.replace(_IMAGENET, betas=(0.9, 0.999), clip=False),
}


def norm(x: tf.Tensor, axis: object = None) -> tf.Tensor:
    """The Euclidean norm, with a finite gradient at 0."""
    return tf.sqrt(tf.reduce_sum(tf.square(x), axis=axis) + FLOOR)


def moments_loss(
    moments: list[tuple[tf.Tensor, tf.Tensor]],
    stored: list[StoredMoments],
    first_weight: float = 1.0,
) -> tf.Tensor:
    """||v - σ²|| + ||m - μ||, neither squared nor divided, summed over batch norms.

    Args:
        moments: a list of (mean [C], biased variance [C]) of the batch, one a batch norm.
        stored: the list of `StoredMoments` to match.
        first_weight: of the first batch norm.
    """
    terms = [
        norm(variance - s.variance) + norm(mean - s.mean)
        for (mean, variance), s in zip(moments, stored, strict=True)
    ]
    return tf.add_n([first_weight * terms[0], *terms[1:]])


def variation_loss(images: tf.Tensor) -> tf.Tensor:
    """Total variation: differences to the right, below and along both diagonals of [B, H, W, C].

    Each norm is that of the whole batch, so it grows with the root of B.
    """
    return tf.add_n(
        [
            norm(images[:, :, 1:] - images[:, :, :-1]),
            norm(images[:, 1:] - images[:, :-1]),
            norm(images[:, 1:, 1:] - images[:, :-1, :-1]),
            norm(images[:, 1:, :-1] - images[:, :-1, 1:]),
        ]
    )


def norm_loss(images: tf.Tensor, by_image: bool) -> tf.Tensor:
    """R₂: the mean norm of the images, or the norm of the whole batch."""
    return tf.reduce_mean(norm(images, axis=[1, 2, 3])) if by_image else norm(images)


def compete_loss(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, clamped: bool = False
) -> tf.Tensor:
    """1 - clip(JS, 0, 1), JS the Jensen-Shannon divergence of softened answers, in nats.

    The published code exchanges the arguments of both divergences and clamps all probabilities to
    0.01...0.99 after their mean was formed. Of a thousand classes nearly all are then clamped, and
    have no gradient.

    Args:
        teacher_logits, student_logits: [B, K].
        clamped: the published code's form.
    """
    logs = [tf.nn.log_softmax(z / TEMPERATURE) for z in (teacher_logits, student_logits)]
    p, q = (tf.exp(log) for log in logs)
    mean = 0.5 * (p + q)
    if clamped:
        p, q, mean = (tf.clip_by_value(x, 0.01, 0.99) for x in (p, q, mean))
        parts = [mean * (tf.math.log(mean) - tf.math.log(x)) for x in (p, q)]
    else:
        # log(M) = log(P + Q) - log 2, from logarithms: no probability is rounded to 0.
        log_mean = tf.reduce_logsumexp(tf.stack(logs), axis=0) - math.log(2)
        parts = [x * (log - log_mean) for x, log in zip((p, q), logs, strict=True)]
    divergence = 0.5 * tf.reduce_mean(tf.reduce_sum(parts[0] + parts[1], axis=-1))
    return 1 - tf.clip_by_value(divergence, 0.0, 1.0)


def jittered(images: tf.Tensor, setting: Setting, seed: tf.Tensor) -> tf.Tensor:
    """The images shifted around their edges and perhaps mirrored, all in the same way.

    Args:
        images: [B, H, W, C].
        setting: how far.
        seed: a stateless seed, [2].
    """
    draws = tf.random.stateless_uniform([3], seed, maxval=2**20, dtype=tf.int32, alg='philox')
    shift = draws[:2] % (2 * setting.jitter + 1) - setting.jitter
    images = tf.roll(images, shift, axis=[1, 2])
    if setting.flip:
        images = tf.where(draws[2] % 2 == 0, images, tf.reverse(images, axis=[2]))
    return images


def rate_at(iteration: tf.Tensor, first_rate: float, iterations: int, cosine: bool) -> tf.Tensor:
    """The learning rate of a step of a group: constant, or a warm-up and a cosine to 0.

    The warm-up takes a fifth of a group at the most.
    """
    if not cosine:
        return tf.constant(first_rate, tf.float32)
    done = tf.cast(iteration, tf.float32)
    warm_up = min(WARM_UP, max(1, iterations // 5))
    share = (done - warm_up) / max(1, iterations - warm_up)
    falling = 0.5 * (1 + tf.cos(math.pi * share))
    return first_rate * tf.where(done < warm_up, (done + 1) / warm_up, falling)


def make_step(
    group: Group,
    tap: tf_keras.Model,
    stored: list[StoredMoments],
    teacher: Teacher,
    options: DeepInversionOptions,
    labels: np.ndarray,
    seed: int,
    student: Student | None = None,
) -> collections.abc.Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """The step of DeepInversion as `loop.run` takes it.

    Args:
        group: of the images.
        tap, stored: what `build_tap` returned.
        teacher: whose tap that is.
        options: of the images.
        labels: of all groups, [groups, B].
        seed: of the jitter.
        student: that of the adaptive variant, frozen; None without.
    """
    setting, spec = SETTINGS[options.setting], teacher.input_spec
    standard = spec.standardizing()
    low, high = standard.input_range
    all_labels = tf.constant(labels)
    weights = {
        'class_loss': 1.0,
        'moments_loss': options.moments_weight,
        'variation_loss': options.variation_weight,
        'norm_loss': options.norm_weight,
        'compete_loss': options.compete_weight,
    }

    def step(index):
        images, number, iteration = group.begin(index)
        own_labels = all_labels[number]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            moved = jittered(images, setting, fold_seed(seed, index, 1))
            logits, *inputs = tap(inversion.to_inputs(moved, spec), training=False)
            moments = [batch_moments(x) for x in inputs]
            losses = {
                'class_loss': class_loss(own_labels, logits, teacher.has_independent_labels),
                'moments_loss': moments_loss(moments, stored, setting.first_weight),
                'variation_loss': variation_loss(moved),
                'norm_loss': norm_loss(moved, setting.norm_by_image),
            }
            if student is not None:
                answers = student.logits(standard.to_pixels(moved))
                losses['compete_loss'] = compete_loss(logits, answers, options.clamped_js)
            loss = tf.add_n([weights[name] * value for name, value in losses.items()])
        rate = rate_at(iteration, options.learning_rate, options.iterations, setting.cosine)
        group.descend(tape.gradient(loss, images), iteration, rate)
        if setting.clip:
            group.images.assign(tf.clip_by_value(group.images, low, high))
        right = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), own_labels)
        return {**losses, 'class_accuracy': tf.reduce_mean(tf.cast(right, tf.float32))}

    return step


def build_optimization(
    teacher: Teacher, options: DeepInversionOptions, seed: int, labels: np.ndarray | None = None
) -> Optimization:
    """What DeepInversion optimizes with, without a student.

    Args:
        teacher: a `Teacher`.
        options: of the images.
        seed: of start images, jitter and labels.
        labels: of all groups, [groups, B]; None for those of the seed.
    """
    if labels is None:
        labels = inversion.group_labels(teacher.num_classes, options, seed)
    shape = (options.group_size, *teacher.input_spec.image_shape)
    group = Group(
        shape,
        lambda key: standard_normal(shape, key),
        options.iterations,
        seed,
        *SETTINGS[options.setting].betas,
    )
    tap, stored = build_tap(teacher.logits_model)
    return Optimization(group, {}, make_step(group, tap, stored, teacher, options, labels, seed))


def make_deep_inversion_images(
    teacher: Teacher,
    workdir: str,
    *,
    preset: str = 'small',
    seed: int = 0,
    batch_size: int = 32,
    jit_compile: bool = False,
    checkpoint_every: int = 500,
    keep: dict[str, str] | None = None,
    student_teacher: Teacher | None = None,
    student_options: dict[str, object] | None = None,
    **options: object,
) -> OptimizedImages:
    """Optimizes images of balanced classes (DeepInversion), with a student where it is adaptive.

    A workdir that holds such an optimization goes on where it stopped; a finished one is reused.

    With a `compete_weight` the first half of the groups is optimized without a student. A student
    is distilled on these images in half of its steps, in a folder of the workdir. The other half
    is optimized with the student's disagreement as a further term. In the paper, images alternate
    with the training of the final student (maintainers of NVlabs/DeepInversion, issues 10 and 20).
    The published code asks a student that it does not train.

    Args:
        teacher: a `Teacher`.
        workdir: the run's folder.
        preset: 'small' or 'paper': defaults of the options.
        seed: of start images, jitter and labels, and of the order in which the source hands images
            out.
        batch_size: images a batch of the source.
        jit_compile: compile the step with XLA.
        checkpoint_every: steps between two checkpoints.
        keep: dict of name -> text of files to keep in the workdir, such as a program's flags.
        student_teacher: what the student is made of, such as the `raw_pixels` teacher; None for
            the teacher itself.
        student_options: the student's options as `distill` takes them; None for the preset's.
        **options: any field of `DeepInversionOptions`, in place of the preset's value.

    Returns:
        The images, a labelled source; they are in `images.npz` of the workdir too.

    Raises:
        UserError: an option is out of range, fewer images than classes, the workdir belongs to
            another run, a loss is not finite; see `distill`.
    """
    resolved = DeepInversionOptions.resolve(preset, options, teacher)
    seed = check(SEED, 'seed', seed)
    batch_size = check(COUNT, 'batch_size', batch_size)
    checkpoint_every = check(COUNT, 'checkpoint_every', checkpoint_every)
    config = {'images_method': 'deep_inversion', **resolved.record()}
    student_teacher, distilled = student_teacher or teacher, None
    if resolved.compete_weight:
        # Optimized images have no generator to update.
        given = {'update_generator': False, **(student_options or {})}
        distilled = DistillationOptions.resolve(preset, given, student_teacher)
        if distilled.update_generator:
            raise UserError('update_generator=True: optimized images have no generator to update.')
        distilled = dataclasses.replace(distilled, steps=max(1, distilled.steps // 2))
        config |= {f'student_{name}': value for name, value in distilled.record().items()}
        config['student_batch_size'] = batch_size
        config['student_raw_pixels'] = takes_raw_pixels(student_teacher.model)
    workdirs.claim(workdir, workdirs.config_of(teacher, config, seed), keep)
    description = {'kind': 'deep_inversion', **config, 'seed': seed}
    path = pathlib.Path(workdir) / 'images.npz'
    labels = inversion.group_labels(teacher.num_classes, resolved, seed)
    if not path.exists():
        optimization = build_optimization(teacher, resolved, seed, labels)
        run = {'jit_compile': jit_compile, 'checkpoint_every': checkpoint_every}
        if distilled is not None:
            build(student_teacher, distilled)  # what cannot be made is known before any image
            half = resolved.groups // 2
            inversion.optimize(
                optimization, teacher, workdir, resolved, groups=half, name='deep_inversion', **run
            )
            first = pathlib.Path(workdir) / _FIRST_HALF
            if not first.exists() and path.exists():  # another process has finished just now
                return OptimizedImages(path, teacher, batch_size, seed, description)
            if not first.exists():  # a run that is resumed has it
                count = half * resolved.group_size
                inversion.join(workdir, _FIRST_HALF, count, half, labels.reshape(-1))
            own = {**description, 'half': 1}
            source = OptimizedImages(first, teacher, batch_size, seed, own)
            student = _first_student(student_teacher, source, workdir, distilled, seed, run)
            tap, stored = build_tap(teacher.logits_model)
            step = make_step(
                optimization.group, tap, stored, teacher, resolved, labels, seed, student
            )
            optimization = dataclasses.replace(optimization, step=step)
        inversion.optimize(
            optimization,
            teacher,
            workdir,
            resolved,
            groups=resolved.groups,
            name='deep_inversion',
            **run,
        )
    inversion.finish(workdir, resolved, labels, teacher.num_classes)
    (pathlib.Path(workdir) / _FIRST_HALF).unlink(missing_ok=True)
    return OptimizedImages(path, teacher, batch_size, seed, description)


def _first_student(teacher, source, workdir, distilled, seed, run):
    """The student of the first half of the groups, distilled in a folder of the workdir."""
    fewer = min(distilled.range_images, source.image_count)
    distilled = dataclasses.replace(distilled, range_images=fewer)
    try:
        return distill(
            teacher,
            source,
            os.path.join(workdir, FIRST_STUDENT),
            seed=seed,
            **run,
            **distilled.values(),
        )
    except UserError as error:  # this student's folder is in that of the images
        raise UserError(str(error).replace('--student_workdir', '--workdir')) from error
