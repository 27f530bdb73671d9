"""DF-QAT: a quantized student distilled from its teacher on generated images (eq. 3 and 4)."""

import collections.abc
import functools
import math
import pathlib

import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.methods import adversarial, zscgan
from zscgan_tf.methods.augmentation import augment, draw_integers, mix
from zscgan_tf.methods.distillation_checks import check_replicas, check_scope, check_source
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.options import COUNT, SEED, check
from zscgan_tf.sources import Source, description_of
from zscgan_tf.student.calibration.calibrate import (
    build,
    calibrate,
    checked_batches,
    first_images,
)
from zscgan_tf.student.student import Student, as_logits, feature_layers
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite import student_export
from zscgan_tf.training import loop
from zscgan_tf.training import workdir as workdirs
from zscgan_tf.training.strategy import fold_seed, replica_slice


def distillation_loss(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    *,
    labels: tf.Tensor | None = None,
    soft_target_weight: float = 1.0,
    temperature: float = 1.0,
    independent: bool = False,
) -> tf.Tensor:
    """Equation 3: (1 - λ) H(y, S(x)) + λ H(T(x), S(x)), mean over the batch; λ = 1 is eq. 4.

    The temperature divides both logits of the second term, which is multiplied by its square, so
    that its gradients keep their size (Hinton et al.).

    Args:
        teacher_logits, student_logits: [B, K].
        labels: [B] int32; used where λ < 1.
        soft_target_weight: λ.
        temperature: positive.
        independent: whether the logits are of K independent labels: H is then the sum of their
            sigmoid cross-entropies.
    """
    teacher_logits, cooled = teacher_logits / temperature, student_logits / temperature
    if independent:
        targets = tf.nn.sigmoid(teacher_logits)
        soft = tf.nn.sigmoid_cross_entropy_with_logits(targets, cooled)
        soft = tf.reduce_sum(soft, axis=1)
    else:
        soft = tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher_logits), cooled)
    loss = soft_target_weight * temperature**2 * tf.reduce_mean(soft)
    if soft_target_weight < 1:
        loss += (1 - soft_target_weight) * zscgan.class_loss(labels, student_logits, independent)
    return loss


def feature_loss(
    teacher_features: list[tf.Tensor],
    student_features: list[tf.Tensor],
    replicas: tf.distribute.ReplicaContext | None = None,
) -> tf.Tensor:
    """Squared error of features over the teacher's mean square, mean over the layers.

    Not in the paper. Logits say little about where in the network a rounding error arose.

    Args:
        teacher_features, student_features: lists of [B, ...], of this replica.
        replicas: the `tf.distribute.ReplicaContext`, or None for one device.

    Returns:
        This replica's loss; the mean of all replicas' is that of the global batch.
    """
    scales = [tf.reduce_mean(t * t) for t in teacher_features]
    if replicas is not None and replicas.num_replicas_in_sync > 1:
        # A mean of ratios is no ratio of means: all replicas divide by the same.
        scales = replicas.all_reduce(tf.distribute.ReduceOp.MEAN, scales)
    return tf.add_n(
        [
            tf.reduce_mean(tf.math.squared_difference(t, s)) / (scale + 1e-12)
            for t, s, scale in zip(teacher_features, student_features, scales, strict=True)
        ]
    ) / len(teacher_features)


def make_step(
    student: Student,
    optimizer: tf_keras.optimizers.Optimizer,
    options: DistillationOptions,
    *,
    seed: int = 0,
    generator_update: collections.abc.Callable | None = None,
) -> collections.abc.Callable[..., dict[str, tf.Tensor]]:
    """The step of eq. 3 and 4 as `loop.run` takes it.

    Args:
        student: a `Student`.
        optimizer: built for the student's trainable variables.
        options: of the distillation.
        seed: of the augmentation.
        generator_update: the update of `zscgan.make_update` or `adversarial.make_update`, which
            then makes the images and trains on them; None: the loop passes batches, (pixels,) or
            (pixels, labels).

    Returns:
        A function (index, *batch) that updates the student and returns this replica's shares of
        the metrics.
    """
    to_inputs = student.input_spec.to_inputs
    independent = student.has_independent_labels
    features = feature_layers(student.twin) if options.feature_loss_weight else []
    twin = tf_keras.Model(
        student.twin.input,
        [student.twin.output, *(student.twin.get_layer(n).output for n in features)],
    )
    trained = tf_keras.Model(
        student.model.input,
        [student.model.output, *map(student.output_of, features)],
    )
    variables = student.trainable_variables()

    def outputs(model, inputs, training):
        first, *others = tf.nest.flatten(model(inputs, training=training))
        return as_logits(first), others

    def vary(pixels, seed, replicas):
        draws = draw_integers([pixels.shape[0] * replicas.num_replicas_in_sync, 4], seed)
        draws = replica_slice(draws, replicas)
        if options.augment:
            pixels = augment(pixels, draws)
        return mix(pixels, draws[:, 3]) if options.mix else pixels

    def step(index, pixels=None, labels=None):
        replicas = tf.distribute.get_replica_context()
        share = 1 / replicas.num_replicas_in_sync
        metrics, teacher_logits = {}, None
        if generator_update is not None:
            metrics, pixels, labels, teacher_logits = generator_update(index)
            if teacher_logits.dtype != tf.float32:
                teacher_logits = None  # a rounded teacher trains generators, no students
        else:
            pixels = replica_slice(pixels, replicas)
            labels = None if labels is None else replica_slice(labels, replicas)
        varied = options.augment or options.mix
        if varied:
            pixels = vary(pixels, fold_seed(seed, index, 2), replicas)
        inputs = to_inputs(pixels)
        if teacher_logits is None or features or varied:
            teacher_logits, teacher_features = outputs(twin, inputs, training=False)
        else:
            teacher_features = []
        with tf.GradientTape() as tape:
            student_logits, student_features = outputs(trained, inputs, training=True)
            losses = {
                'distillation_loss': distillation_loss(
                    teacher_logits,
                    student_logits,
                    labels=labels,
                    soft_target_weight=options.soft_target_weight,
                    temperature=options.temperature,
                    independent=independent,
                )
            }
            loss = losses['distillation_loss']
            if features:
                losses['feature_loss'] = feature_loss(teacher_features, student_features, replicas)
                loss += options.feature_loss_weight * losses['feature_loss']
            loss *= share
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        if independent:
            same = tf.equal(teacher_logits > 0, student_logits > 0)
        else:
            same = tf.equal(tf.argmax(teacher_logits, axis=-1), tf.argmax(student_logits, axis=-1))
        losses['agreement'] = tf.reduce_mean(tf.cast(same, tf.float32))
        return {**metrics, **{name: share * value for name, value in losses.items()}}

    return step


def make_optimizer(
    options: DistillationOptions, variables: list[tf.Variable]
) -> tf_keras.optimizers.Optimizer:
    """Nesterov's SGD with momentum 0.9 (paper, section 3) or Adam; a cosine to zero; built."""
    schedule = tf_keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
    if options.optimizer == 'sgd':
        optimizer = tf_keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True)
    else:
        optimizer = tf_keras.optimizers.Adam(schedule)
    optimizer.build(variables)
    return optimizer


def distill(
    teacher: Teacher,
    source: Source,
    workdir: str,
    *,
    preset: str = 'small',
    seed: int = 0,
    strategy: tf.distribute.Strategy | None = None,
    jit_compile: bool = False,
    checkpoint_every: int = 500,
    keep: dict[str, str] | None = None,
    **options: object,
) -> Student:
    """Distills a quantized student from its teacher on a source's images (DF-QAT, section 2.3).

    A workdir that holds such a training goes on where it stopped; a finished one is reused.

    With `update_generator` the source's own generator is trained on: load it anew for the next
    student.

    Args:
        teacher: a `Teacher`.
        source: where the images come from. The first ones set the ranges.
        workdir: the distillation's folder, not the generator's.
        preset: 'small' or 'paper': defaults of the options.
        seed: of the augmentation, and of the images where the generator is updated.
        strategy, jit_compile, checkpoint_every, keep: as in `zscgan.train_generator`.
        **options: any field of `DistillationOptions`, in place of the preset's value.

    Returns:
        The trained `Student`.

    Raises:
        UserError: an option is out of range, a layer is not supported, the workdir belongs to
            another run, images of another shape or not finite, a loss that is not finite, a student
            that cannot be exported (known before it is trained).
    """
    strategy = strategy or tf.distribute.get_strategy()
    resolved = DistillationOptions.resolve(preset, options, teacher)
    seed = check(SEED, 'seed', seed)
    checkpoint_every = check(COUNT, 'checkpoint_every', checkpoint_every)
    check_source(teacher, source, resolved)
    check_replicas(resolved, source.batch_size, strategy.num_replicas_in_sync)
    if resolved.update_generator:
        check_scope(source.generator, strategy)
    with strategy.scope():
        student, state, step = build_training(teacher, source, resolved, seed)
    config_path = pathlib.Path(workdir) / 'config.json'
    is_new = not config_path.exists()
    workdirs.claim(workdir, _config(teacher, source, resolved, seed), keep)
    if loop.restore(state, workdir) == 0:
        try:
            calibrate(student, first_images(teacher, source, resolved), resolved)
            # What cannot be exported is known now, not when all is trained.
            pixels, _ = next(checked_batches(teacher, source))
            student_export.export(student, [teacher.input_spec.to_inputs(pixels).numpy()])
        except UserError:
            if is_new:  # what the message advises, such as other images, may use the folder
                config_path.unlink(missing_ok=True)
            raise

    def batches(done):
        start = math.ceil(resolved.range_images / source.batch_size) + done
        reads_labels = resolved.soft_target_weight < 1
        for pixels, labels in checked_batches(teacher, source, start, reads_labels):
            yield (pixels,) if labels is None else (pixels, labels)

    loop.run(
        step,
        state,
        resolved.steps,
        workdir=workdir,
        images_per_step=source.batch_size,
        strategy=strategy,
        jit_compile=jit_compile,
        checkpoint_every=checkpoint_every,
        batches=None if resolved.update_generator else batches,
        name='student',
        advice=_advice(resolved),
    )
    return student


def build_training(
    teacher: Teacher, source: Source, options: DistillationOptions, seed: int
) -> tuple[Student, dict[str, object], collections.abc.Callable]:
    """What a distillation is made of; called in the strategy's scope.

    Args:
        teacher: a `Teacher`.
        source: where the images come from; its generator is trained on where the options say so.
        options: of the distillation.
        seed: of the augmentation, labels and noise.

    Returns:
        The student, what to checkpoint, and the step that `training.loop.run` takes.
    """
    student = build(teacher, options)
    optimizer = make_optimizer(options, student.trainable_variables())
    state = {'student': student.model, 'twin': student.twin, 'optimizer': optimizer}
    update = None
    if options.update_generator:
        generator_optimizer, update = zscgan.continue_training(
            teacher,
            source.generator,
            source.options,
            math.ceil(options.steps / options.generator_every),
            seed,
            _maker_of_updates(student, options),
        )
        state |= {'generator': source.generator, 'generator_optimizer': generator_optimizer}
    step = make_step(student, optimizer, options, seed=seed, generator_update=update)
    return student, state, step


def _maker_of_updates(student, options):
    """What makes the generator's update: that of eq. 2, or that of the adversarial game."""
    if not options.adversarial_weight and options.generator_every == 1:
        return zscgan.make_update
    return functools.partial(
        adversarial.make_update,
        student=student,
        adversarial_weight=options.adversarial_weight,
        generator_every=options.generator_every,
    )


def _config(teacher, source, options, seed):
    """What the workdir belongs to: the options, and the images that they are used on."""
    images = {f'source_{name}': value for name, value in description_of(source).items()}
    images['batch_size'] = source.batch_size
    return workdirs.config_of(teacher, {**images, **options.record()}, seed)


def _advice(options):
    """What to try where a loss is not finite."""
    students = 'a lower --distillation_learning_rate'
    if options.adversarial_weight:
        students += ', or a lower --adversarial_weight,'
    elif options.update_generator:
        students += ', or --noupdate_generator,'
    return f'{students} in another --student_workdir'
