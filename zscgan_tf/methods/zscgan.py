"""ZS-CGAN: zero-shot learning of a conditional generator (paper, section 2.2, eq. 2)."""

import collections.abc
import dataclasses
import pathlib

import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.generators import draw_inputs, generator_of
from zscgan_tf.options import COUNT, SEED, check
from zscgan_tf.sources.generator import GRID_IMAGES, GeneratorSource, class_grid
from zscgan_tf.sources.pictures import write_grid
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.tap import StoredMoments, batch_moments, build_tap
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.training import loop
from zscgan_tf.training import workdir as workdirs
from zscgan_tf.training.strategy import check_batch_size


def gaussian_kl(
    mean: tf.Tensor, variance: tf.Tensor, stored_mean: tf.Tensor, stored_variance: tf.Tensor
) -> tf.Tensor:
    """KL divergence of N(mean, variance) from N(stored_mean, stored_variance), elementwise.

    The D_N of section 2.2: ((μ̂ - μ)² + σ̂²) / 2σ² - log(σ̂ / σ) - 1/2.
    """
    ratio = variance / stored_variance
    distance = tf.square(mean - stored_mean) / stored_variance
    return 0.5 * (distance + ratio - tf.math.log(ratio) - 1)


def bns_loss(moments: list[tuple[tf.Tensor, tf.Tensor]], stored: list[StoredMoments]) -> tf.Tensor:
    """L_BNS of eq. 2: the KL divergence summed over batch norms and channels.

    Batch norm's own ε is added to both variances, as batch norm does itself: dead channels
    (stored variance 0) stay finite.

    Args:
        moments: a list of (mean [C], variance [C]) of the batch, one a batch norm.
        stored: the list of `StoredMoments` to match.
    """
    return tf.add_n(
        [
            tf.reduce_sum(gaussian_kl(mean, variance + s.epsilon, s.mean, s.variance + s.epsilon))
            for (mean, variance), s in zip(moments, stored, strict=True)
        ]
    )


def class_loss(labels: tf.Tensor, logits: tf.Tensor, independent: bool = False) -> tf.Tensor:
    """The cross-entropy of eq. 2, H(y, T(G(z, y))), mean over the batch.

    Args:
        labels: [B] int32.
        logits: [B, K].
        independent: whether these are of K independent labels: the sum of their sigmoid
            cross-entropies, of the one label on and all others off.
    """
    logits = tf.cast(logits, tf.float32)
    if independent:
        targets = tf.one_hot(labels, logits.shape[1])
        losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        return tf.reduce_mean(tf.reduce_sum(losses, axis=1))
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def entropy_loss(
    logits: tf.Tensor, replicas: tf.distribute.ReplicaContext | None = None
) -> tf.Tensor:
    """The teacher's uncertainty of each image, and the batch's shortfall of class diversity.

    Not in the paper; instance and batch entropies as in [14]. In a short training a thousand
    classes are not learned. The class loss is then lowest where the teacher is unsure of all of
    them, and the logits, which no batch norm guards, stay far below those of real images. The first
    term, the mean entropy of the teacher's answers, asks for sure answers. Alone it is lowest where
    all images are of one class. The second term asks for many classes: it is the largest possible
    entropy of the batch's mean answer, log(min(B, K)), less the entropy that this answer has.

    Args:
        logits: [B, K] of this replica.
        replicas: the `tf.distribute.ReplicaContext`, or None for one device.
    """
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    probabilities = tf.exp(log_probabilities)
    entropies = -tf.reduce_sum(probabilities * log_probabilities, axis=-1)  # [B]
    mean = tf.reduce_mean(probabilities, axis=0)  # [K]
    count = tf.shape(logits)[0]
    if replicas is not None and replicas.num_replicas_in_sync > 1:
        mean = replicas.all_reduce(tf.distribute.ReduceOp.MEAN, mean)
        count *= replicas.num_replicas_in_sync
    batch_entropy = -tf.reduce_sum(mean * tf.math.log(mean + 1e-12))
    most = tf.math.log(tf.cast(tf.minimum(count, logits.shape[1]), tf.float32))
    return tf.reduce_mean(entropies) + tf.nn.relu(most - batch_entropy)


def make_update(
    generator: tf_keras.Model,
    optimizer: tf_keras.optimizers.Optimizer,
    tap: tf_keras.Model,
    stored: list[StoredMoments],
    input_spec: InputSpec,
    *,
    batch_size: int,
    class_loss_weight: float = 1.0,
    bns_loss_weight: float = 1.0,
    entropy_loss_weight: float = 0.0,
    independent: bool = False,
    unconditional: bool = False,
    further_loss: collections.abc.Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    seed: int = 0,
) -> collections.abc.Callable[[tf.Tensor], tuple]:
    """The update of eq. 2: one batch of new images, and a step of the generator on their losses.

    Labels are drawn uniformly (the paper's p(y)) and z from N(0, 1), for the global batch from the
    seed and the number of the step; each replica takes its slice, so replicas change nothing.

    Args:
        generator: the model of `build_generator` or `build_dcgan`.
        optimizer: a tf_keras optimizer, built for the generator's variables.
        tap, stored: what `build_tap` returned.
        input_spec: the teacher's `InputSpec`.
        batch_size: global batch size.
        class_loss_weight, bns_loss_weight: weights of the two terms; 0 switches one off (it is
            still measured).
        entropy_loss_weight: weight of `entropy_loss`, which the paper does not have.
        independent: whether the teacher gives independent labels; see `class_loss`.
        unconditional: whether the generator has no classes: labels are 0, and neither the class
            loss nor the accuracy is measured.
        further_loss: None, or a function of pixels and logits, of this replica, that is one more
            term of the loss: the mean over the replica's images.
        seed: of labels and noise.

    Returns:
        A function of the step's number, called in replica context, that updates the generator and
        returns the metrics (this replica's shares) and this replica's pixels, labels (None without
        classes) and logits, in the dtype that the tap computes in.
    """
    num_classes = None if unconditional else tap.output_shape[0][-1]
    variables = generator.trainable_variables
    weights = {
        'class_loss': class_loss_weight,
        'bns_loss': bns_loss_weight,
        'entropy_loss': entropy_loss_weight,
    }

    def update(index):
        replicas = tf.distribute.get_replica_context()
        *noise, labels = draw_inputs(generator, num_classes, batch_size, seed, index)
        with tf.GradientTape() as tape:
            pixels = generator([*noise, labels], training=True)
            logits, *inputs = tap(input_spec.to_inputs(pixels), training=False)
            moments = [batch_moments(x, replicas) for x in inputs]
            losses = (
                {} if unconditional else {'class_loss': class_loss(labels, logits, independent)}
            )
            # Every replica has the moments of the global batch, so the same BNS loss.
            losses['bns_loss'] = bns_loss(moments, stored)
            losses['entropy_loss'] = entropy_loss(logits, replicas)
            share = 1 / replicas.num_replicas_in_sync
            losses = {name: share * loss for name, loss in losses.items()}
            loss = tf.add_n([weights[n] * loss for n, loss in losses.items() if weights[n]])
            if further_loss is not None:
                loss += share * further_loss(pixels, logits)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        if unconditional:
            return losses, pixels, None, logits
        right = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
        accuracy = share * tf.reduce_mean(tf.cast(right, tf.float32))
        return {**losses, 'class_accuracy': accuracy}, pixels, labels, logits

    return update


def make_optimizer(
    learning_rate: float, steps: int, variables: list[tf.Variable]
) -> tf_keras.optimizers.Optimizer:
    """Adam with β1 0.5 and a cosine from `learning_rate` to zero (paper, section 3), built."""
    schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = tf_keras.optimizers.Adam(schedule, beta_1=0.5)
    optimizer.build(variables)
    return optimizer


def build_training(
    teacher: Teacher, options: GeneratorOptions, seed: int
) -> tuple[tf_keras.Model, tf_keras.optimizers.Optimizer, collections.abc.Callable]:
    """What a training is made of; called in the strategy's scope.

    Args:
        teacher: a `Teacher`.
        options: of the generator and its training.
        seed: of the first weights, labels and noise.

    Returns:
        The generator, its optimizer, and the step that `loop.run` takes.
    """
    generator = generator_of(teacher, options, seed)
    optimizer, update = _update_of(generator, teacher, options, options.steps, seed, make_update)
    return generator, optimizer, lambda index: update(index)[0]


def continue_training(
    teacher: Teacher,
    generator: tf_keras.Model,
    options: dict[str, object],
    steps: int,
    seed: int,
    make: collections.abc.Callable = make_update,
) -> tuple[tf_keras.optimizers.Optimizer, collections.abc.Callable]:
    """The update of a trained generator that goes on learning while a student is distilled.

    The paper does not say at which rate: the cosine begins anew, at a tenth of the first rate.

    Args:
        teacher: a `Teacher`.
        generator: the model of a `GeneratorSource`.
        options: what it was trained with, as a `GeneratorSource` keeps it.
        steps: of the generator; those of the distillation where each is one of the generator too.
        seed: of labels and noise.
        make: what makes the update, called as `make_update`.

    Returns:
        The optimizer and the update of `make_update`.
    """
    trained = GeneratorOptions.from_record(options)
    options = dataclasses.replace(trained, learning_rate=trained.learning_rate / 10)
    # Another stream than the training's.
    return _update_of(generator, teacher, options, steps, seed + 1_000_003, make)


def train_generator(
    teacher: Teacher,
    workdir: str,
    *,
    preset: str = 'small',
    seed: int = 0,
    strategy: tf.distribute.Strategy | None = None,
    jit_compile: bool = False,
    checkpoint_every: int = 500,
    images_every: int = 500,
    keep: dict[str, str] | None = None,
    **options: object,
) -> GeneratorSource:
    """Trains a conditional generator against a teacher, without data (eq. 2).

    A workdir that holds such a training goes on where it stopped; a finished one is reused.

    Args:
        teacher: a `Teacher`.
        workdir: the run's folder.
        preset: 'small' (fits two cores) or 'paper' (section 3): defaults of the options.
        seed: of the generator's first weights, labels and noise.
        strategy: a `tf.distribute.Strategy`, or None for one device.
        jit_compile: compile the step with XLA.
        checkpoint_every, images_every: steps between two checkpoints, two grids.
        keep: dict of name -> text of files to keep in the workdir, such as a program's flags.
        **options: any field of `GeneratorOptions`, in place of the preset's value.

    Returns:
        A `GeneratorSource` of the trained generator.

    Raises:
        UserError: an option is out of range, the workdir belongs to another run, a loss is not
            finite.
    """
    strategy = strategy or tf.distribute.get_strategy()
    resolved = GeneratorOptions.resolve(preset, options, teacher)
    seed = check(SEED, 'seed', seed)
    checkpoint_every = check(COUNT, 'checkpoint_every', checkpoint_every)
    images_every = check(COUNT, 'images_every', images_every)
    batch_size = resolved.batch_size
    check_batch_size(batch_size, strategy.num_replicas_in_sync)
    with strategy.scope():
        generator, optimizer, step = build_training(teacher, resolved, seed)
    # Claimed when all options are known to be right.
    workdirs.claim(workdir, workdirs.config_of(teacher, resolved.record(), seed), keep)
    source = _source_of(generator, teacher, resolved, batch_size, seed)

    def write_images(done):
        labels, pixels = class_grid(source)
        write_grid(pathlib.Path(workdir) / 'classes.png', pixels, GRID_IMAGES, row_labels=labels)
        return {'classes': pixels}

    loop.run(
        step,
        {'generator': generator, 'optimizer': optimizer},
        resolved.steps,
        workdir=workdir,
        images_per_step=batch_size,
        strategy=strategy,
        jit_compile=jit_compile,
        checkpoint_every=checkpoint_every,
        write_images=write_images,
        images_every=images_every,
        name='generator',
        advice=_advice(resolved),
    )
    return source


def load_generator(
    teacher: Teacher, workdir: str, *, batch_size: int | None = None, seed: int = 0
) -> GeneratorSource:
    """The trained generator of a workdir, as a `GeneratorSource`.

    Args:
        teacher: the `Teacher` that it was trained against.
        workdir: the run's folder.
        batch_size: images a batch; None: that of the training, which the images are best with.
        seed: of the images.

    Raises:
        UserError: no generator, an unfinished one, or one of another teacher.
    """
    config, name = workdirs.read_of(workdir, teacher.fingerprint), workdirs.name_of(workdir)
    if workdirs.kind_of(config) != 'generator':
        where = ''
        if workdirs.kind_of(config) == 'images':
            where = f' (they are in {pathlib.Path(workdir) / "images.npz"})'
        raise UserError(
            f'{name} holds {workdirs.held(config)}{where}, not a generator: pass the folder of a '
            f'generator.'
        )
    if config.get('input_spec') != teacher.input_spec.to_dict():
        raise UserError(
            f'{name} was made with another preprocessing: pass the one of its '
            f'config.json, {config.get("input_spec")}.'
        )
    try:
        options, first_seed = GeneratorOptions.from_record(config), config['seed']
    except KeyError as error:
        raise UserError(f'{name}: its config.json is not complete: train again.') from error
    generator = generator_of(teacher, options, first_seed)
    done = loop.restore({'generator': generator}, workdir)
    if done < options.steps:
        raise UserError(
            f'{name}: its generator was trained for {done} of {options.steps} '
            f'steps: run the training again to finish it.'
        )
    if batch_size is None:
        batch_size = options.batch_size
    batch_size = check(COUNT, 'batch_size', batch_size)
    seed = check(SEED, 'seed', seed)
    source = _source_of(generator, teacher, options, batch_size, seed)
    if first_seed != seed:  # another generator of these options makes other images
        source.description['generator_seed'] = first_seed
    return source


def _source_of(generator, teacher, options, batch_size, seed):
    num_classes = None if options.unconditional else teacher.num_classes
    return GeneratorSource(generator, num_classes, batch_size, seed, options.record())


def _update_of(generator, teacher, options, steps, seed, make):
    """The optimizer and the update of a generator."""
    optimizer = make_optimizer(options.learning_rate, steps, generator.trainable_variables)
    tap, stored = build_tap(teacher.logits_model, options.compute_dtype)
    update = make(
        generator,
        optimizer,
        tap,
        stored,
        teacher.input_spec,
        batch_size=options.batch_size,
        class_loss_weight=options.class_loss_weight,
        bns_loss_weight=options.bns_loss_weight,
        entropy_loss_weight=options.entropy_loss_weight,
        independent=teacher.has_independent_labels,
        unconditional=options.unconditional,
        seed=seed,
    )
    return optimizer, update


def _advice(options):
    """What to try where a loss is not finite."""
    float32 = ', or float32 as the compute_dtype,' if options.compute_dtype != 'float32' else ''
    return f'a lower --learning_rate{float32} in another --workdir'
