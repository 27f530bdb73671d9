"""DF-QAT: a quantized student distilled from its teacher on generated images (eq. 3 and 4)."""

import math

import tensorflow as tf
import tf_keras

from zscgan_tf import presets
from zscgan_tf.errors import UserError
from zscgan_tf.evaluation import check_classes
from zscgan_tf.methods import zscgan
from zscgan_tf.sources import take
from zscgan_tf.student.calibration.alignment import align_additions
from zscgan_tf.student.calibration.bias_correction import correct_biases
from zscgan_tf.student.calibration.error_compensation import compensate_errors
from zscgan_tf.student.student import as_logits, build_student, feature_layers, set_ranges
from zscgan_tf.student.tfmot_student import build_tfmot_student, set_tfmot_ranges
from zscgan_tf.tflite import student_export
from zscgan_tf.tflite.calibration import check_pixels
from zscgan_tf.training import loop
from zscgan_tf.training import workdir as workdirs
from zscgan_tf.training.strategy import check_batch_size, fold_seed, replica_slice


def distillation_loss(
    teacher_logits,
    student_logits,
    *,
    labels=None,
    soft_target_weight=1.0,
    temperature=1.0,
    independent=False,
):
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


def feature_loss(teacher_features, student_features, replicas=None):
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


def augment(pixels, draws):
    """Flips images left to right and shifts them by up to an eighth, each in its own way.

    A generator's images of one class look alike; this costs next to nothing. Edges are repeated.

    Args:
        pixels: [B, H, W, C].
        draws: [B, 3 or more] random integers of [0, 2^20): for rows, columns, and the flip.
    """
    height, width = pixels.shape[1:3]

    def shifted(size, numbers):  # [B, size]
        reach = max(1, size // 8)
        shift = numbers % (2 * reach + 1) - reach
        return tf.clip_by_value(tf.range(size)[None] + shift[:, None], 0, size - 1)

    columns = shifted(width, draws[:, 1])
    columns = tf.where(draws[:, 2:3] % 2 == 0, columns, width - 1 - columns)
    pixels = tf.gather(pixels, shifted(height, draws[:, 0]), axis=1, batch_dims=1)
    return tf.gather(pixels, columns, axis=2, batch_dims=1)


def mix(pixels, draws):
    """Blends each image with its neighbour, (0, 1), (2, 3) ..., by a random share of each.

    A generator's images are of one class each and the teacher sure of them; what a coarse student
    gets wrong lies between classes. The teacher says what a blend is (soft targets).

    Args:
        pixels: [B, H, W, C]; of an odd batch the last stays as it is.
        draws: [B] random integers of [0, 2^20), of which each pair's first counts.
    """
    even = pixels.shape[0] // 2 * 2
    share = tf.cast(draws[:even:2], tf.float32)[:, None, None, None] / 2**20
    first, second = pixels[:even:2], pixels[1:even:2]
    mixed = [share * first + (1 - share) * second, share * second + (1 - share) * first]
    mixed = tf.reshape(tf.stack(mixed, axis=1), [even, *pixels.shape[1:]])
    return tf.concat([mixed, pixels[even:]], axis=0)


def blends(batches, seed):
    """Batches (pixels, None) of images blended by `mix`; the same ones of the same seed.

    Args:
        batches: iterable of (pixels [B, H, W, C], labels); labels say nothing of a blend.
        seed: integer.
    """
    for index, (pixels, _) in enumerate(batches):
        yield mix(tf.convert_to_tensor(pixels), _draws([len(pixels)], [seed, index])), None


def _draws(shape, seed):
    """Random integers of [0, 2^20), as `augment` and `mix` take them; the same under XLA."""
    return tf.random.stateless_uniform(shape, seed, maxval=2**20, dtype=tf.int32, alg='philox')


def make_step(student, optimizer, options, *, seed=0, generator_update=None):
    """The step of eq. 3 and 4 as `loop.run` takes it.

    Args:
        student: a `Student`.
        optimizer: built for `trainable_variables(student)`.
        options: dict, as `presets.resolve_distillation` returns it.
        seed: of the augmentation.
        generator_update: the update of `zscgan.make_update`, which then makes the images and
            trains on them; None: the loop passes batches, (pixels,) or (pixels, labels).

    Returns:
        A function (index, *batch) that updates the student and returns this replica's shares of
        the metrics.
    """
    to_inputs = student.input_spec.to_inputs
    independent = student.has_labels
    features = feature_layers(student.twin) if options['feature_loss_weight'] else []
    twin = tf_keras.Model(
        student.twin.input,
        [student.twin.output, *(student.twin.get_layer(n).output for n in features)],
    )
    trained = tf_keras.Model(
        student.model.input,
        [student.model.output, *(student.model.get_layer(f'quant_{n}').output for n in features)],
    )
    variables = trainable_variables(student)

    def outputs(model, inputs, training):
        found = model(inputs, training=training)
        first, *others = found if isinstance(found, list) else [found]
        return as_logits(first), others

    def vary(pixels, seed, replicas):
        draws = _draws([pixels.shape[0] * replicas.num_replicas_in_sync, 4], seed)
        draws = replica_slice(draws, replicas)
        if options['augment']:
            pixels = augment(pixels, draws)
        return mix(pixels, draws[:, 3]) if options['mix'] else pixels

    def step(index, pixels=None, labels=None):
        replicas = tf.distribute.get_replica_context()
        share = 1 / replicas.num_replicas_in_sync
        metrics, teacher_logits = {}, None
        if generator_update is not None:
            metrics, pixels, labels, teacher_logits = generator_update(index)
            pixels = tf.stop_gradient(pixels)
        else:
            pixels = replica_slice(pixels, replicas)
            labels = None if labels is None else replica_slice(labels, replicas)
        varied = options['augment'] or options['mix']
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
                    soft_target_weight=options['soft_target_weight'],
                    temperature=options['temperature'],
                    independent=independent,
                )
            }
            loss = losses['distillation_loss']
            if features:
                losses['feature_loss'] = feature_loss(teacher_features, student_features, replicas)
                loss += options['feature_loss_weight'] * losses['feature_loss']
            loss *= share
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        if independent:
            same = tf.equal(teacher_logits > 0, student_logits > 0)
        else:
            same = tf.equal(tf.argmax(teacher_logits, axis=-1), tf.argmax(student_logits, axis=-1))
        losses['agreement'] = tf.reduce_mean(tf.cast(same, tf.float32))
        return {**metrics, **{name: share * value for name, value in losses.items()}}

    return step


def trainable_variables(student):
    """What distillation trains: weights, and ranges if they are learned; no constants' kernels."""
    frozen = {
        id(variable)
        for wrapper in student.model.layers
        if hasattr(wrapper, 'layer') and not wrapper.layer.trainable
        # Their kernels are the wrapper's own; the range of their output is learned like others.
        for variable in (*wrapper.layer.weights, *(kernel for kernel, *_ in wrapper._weight_vars))
    }
    return [v for v in student.model.trainable_variables if id(v) not in frozen]


def make_optimizer(options, variables):
    """Nesterov's SGD with momentum 0.9 (paper, section 3) or Adam; a cosine to zero; built."""
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        options['learning_rate'], max(1, options['steps'])
    )
    if options['optimizer'] == 'sgd':
        optimizer = tf_keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True)
    else:
        optimizer = tf_keras.optimizers.Adam(schedule)
    optimizer.build(variables)
    return optimizer


def distill(
    teacher,
    source,
    workdir,
    *,
    preset='small',
    seed=0,
    strategy=None,
    jit_compile=False,
    checkpoint_every=500,
    keep=None,
    **options,
):
    """Distills a quantized student from its teacher on a source's images (DF-QAT, section 2.3).

    A workdir that holds such a training goes on where it stopped; a finished one is reused.

    Args:
        teacher: a `Teacher`.
        source: where the images come from. The first ones set the ranges.
        workdir: the distillation's folder, not the generator's; unused with 0 steps.
        preset: 'small' or 'paper': defaults of the options.
        seed: of the augmentation, and of the images where the generator is updated.
        strategy, jit_compile, checkpoint_every, keep: as in `zscgan.train_generator`.
        **options: any of `presets.DISTILLATION_OPTIONS`, in place of the preset's value.

    Returns:
        The trained `Student`.

    Raises:
        UserError: an option is out of range, a layer is not supported, the workdir belongs to
            another run, images of another shape or not finite, a loss that is not finite, a student
            that can not be exported (known before it is trained).
    """
    strategy = strategy or tf.distribute.get_strategy()
    options = presets.resolve_distillation(preset, options)
    seed = presets.checked('seed', seed)
    checkpoint_every = presets.checked('checkpoint_every', checkpoint_every)
    batch_size, steps = source.batch_size, options['steps']
    check_source(teacher, source, options)
    replicas = strategy.num_replicas_in_sync
    # A pair that is blended is of one replica.
    pairs = options['mix'] and replicas > 1
    check_batch_size(batch_size, replicas, multiple=2 if pairs else 1)
    with strategy.scope():
        student = build(teacher, options)
        optimizer = make_optimizer(options, trainable_variables(student))
        state = {'student': student.model, 'twin': student.twin, 'optimizer': optimizer}
        update = None
        if options['update_generator']:
            generator_optimizer, update = zscgan.continue_training(
                teacher, source.generator, source.options, steps, seed
            )
            state |= {'generator': source.generator, 'generator_optimizer': generator_optimizer}
        step = make_step(student, optimizer, options, seed=seed, generator_update=update)
    if steps:
        config = workdirs.config_of(teacher, _with_source(source, options), seed)
        workdirs.claim(workdir, config, keep)
    if not steps or loop.restore(state, workdir) == 0:
        _prepare(student, source, options)
        if steps:
            # What can not be exported is known now, not when all is trained.
            pixels, _ = next(_batches(teacher, source))
            student_export.export(student, [teacher.input_spec.to_inputs(pixels).numpy()])
    first = math.ceil(options['range_images'] / batch_size)

    def batches(done):
        for pixels, labels in _batches(teacher, source, first + done):
            yield (pixels,) if labels is None else (pixels, labels)

    if steps:
        loop.run(
            step,
            state,
            steps,
            workdir=workdir,
            images_per_step=batch_size,
            strategy=strategy,
            jit_compile=jit_compile,
            checkpoint_every=checkpoint_every,
            batches=None if options['update_generator'] else batches,
            name='student',
            advice='a lower learning_rate of the distillation in another folder',
        )
    return student


def _with_source(source, options):
    """The options under their flags' names, and the images that they are used on."""
    return {
        **{f'source_{name}': value for name, value in source.description.items()},
        'batch_size': source.batch_size,
        **{presets.DISTILLATION_FLAGS.get(name, name): value for name, value in options.items()},
    }


def build(teacher, options):
    """The `Student` of these options, its ranges not set yet; all of its `UserError`s."""
    if options['student'] == 'tfmot':
        return build_tfmot_student(teacher)
    return build_student(teacher, **{name: options[name] for name in presets.STUDENT_OPTIONS})


def _prepare(student, source, options):
    """What is done before the first step: scales of channels, ranges, grids, rounding, biases."""
    count = options['range_images']

    def images():
        return (pixels for pixels, _ in take(_batches(student.teacher, source), count))

    set_all = set_tfmot_ranges if student.kind == 'tfmot' else set_ranges
    set_all(student, images, options['range_estimator'], total=count)
    if options['align_additions']:
        align_additions(student)
    if options['error_compensation']:
        compensate_errors(student, images, total=count)
    if options['bias_correction']:
        correct_biases(student, images, total=count)


def _batches(teacher, source, start=0):
    """A source's batches: none trains, or sets ranges, that is not finite."""
    for pixels, labels in source.batches(start=start):
        try:
            check_pixels(pixels, teacher.input_spec)
        except UserError as error:
            raise UserError(f'{source.description["kind"]}: {error}') from error
        yield pixels, labels


def check_source(teacher, source, options):
    """Whether a source can feed this distillation, before any work.

    Raises:
        UserError: images of another shape, λ < 1 without labels, or no generator to update.
    """
    if tuple(source.image_shape) != teacher.input_spec.image_shape:
        raise UserError(
            f'the images have the shape {list(source.image_shape)}, but {teacher.name} takes '
            f'{list(teacher.input_spec.image_shape)}: pass images of its size.'
        )
    if options['soft_target_weight'] < 1 and not source.has_labels:
        raise UserError(
            f'--soft_target_weight={options["soft_target_weight"]} needs labels, which this source '
            f'does not have: pass 1 (eq. 4), or a source with labels.'
        )
    if options['soft_target_weight'] < 1 and source.num_classes:
        check_classes(source.num_classes, teacher)
    if options['update_generator'] and not hasattr(source, 'generator'):
        raise UserError(
            'there is no generator to update while the student learns: pass --source=zscgan, or '
            '--noupdate_generator.'
        )
    count = getattr(source, 'image_count', None)
    if count is not None and count < options['range_images']:
        raise UserError(
            f'the source holds {count} images, fewer than the {options["range_images"]} that set '
            f'the ranges: pass more images, or a smaller --range_images.'
        )
