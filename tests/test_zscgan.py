"""ZS-CGAN: both losses against NumPy and finite differences, the step, the training."""

import dataclasses
import functools
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from tests.tiny import tiny_teacher
from zscgan_tf import zscgan
from zscgan_tf.errors import UserError
from zscgan_tf.generator import build_generator, draw_noise
from zscgan_tf.teacher.batch_norm import StoredMoments, batch_moments, build_tap

TINY = {'scales': 2, 'channels': 8, 'skip_channels': 2, 'z_channels': 4}
TINY_OPTIONS = {
    'generator_scales': 2,
    'generator_channels': 8,
    'skip_channels': 2,
    'z_channels': 4,
    'noise_scales': 2,
    'batch_size': 16,
    'learning_rate': 0.01,
}


@pytest.fixture(scope='module')
def teacher():
    return tiny_teacher(num_classes=5)


@pytest.fixture(scope='module')
def tap(teacher):
    return build_tap(teacher.logits_model)


def pixels(count=6, seed=0, size=8):
    return np.random.default_rng(seed).uniform(size=(count, size, size, 3)).astype(np.float32)


# Independent forms in NumPy, in double precision.


def numpy_kl(mean, variance, stored_mean, stored_variance):
    """The textbook's KL(N(mean, variance) || N(stored_mean, stored_variance))."""
    return (
        np.log(np.sqrt(stored_variance) / np.sqrt(variance))
        + (variance + (mean - stored_mean) ** 2) / (2 * stored_variance)
        - 0.5
    )


def numpy_bns(teacher, images):
    """Batch norm after batch norm, each with a sub-model of its own."""
    total = 0.0
    inputs = teacher.input_spec.to_inputs(tf.constant(images))
    for layer in teacher.logits_model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            x = tf_keras.Model(teacher.logits_model.inputs, layer.input)(inputs)
            x = x.numpy().astype(np.float64)
            axes = tuple(range(x.ndim - 1))
            total += numpy_kl(
                x.mean(axes),
                x.var(axes) + layer.epsilon,
                layer.moving_mean.numpy().astype(np.float64),
                layer.moving_variance.numpy().astype(np.float64) + layer.epsilon,
            ).sum()
    return total


def bns_of(teacher, tap, images):
    model, stored = tap
    _, *inputs = model(teacher.input_spec.to_inputs(images), training=False)
    return zscgan.bns_loss([batch_moments(x) for x in inputs], stored)


# The losses.


def test_kl_is_the_textbooks():
    rng = np.random.default_rng(0)
    mean, stored_mean = rng.normal(size=(2, 100))
    variance, stored_variance = rng.uniform(0.05, 4, (2, 100))
    kl = zscgan.gaussian_kl(*map(tf.constant, (mean, variance, stored_mean, stored_variance)))
    np.testing.assert_allclose(kl, numpy_kl(mean, variance, stored_mean, stored_variance))
    assert np.min(kl) >= 0


def test_kl_is_the_mean_log_ratio_of_densities():
    mean, variance, stored_mean, stored_variance = 0.7, 0.5, -0.2, 1.3
    x = np.random.default_rng(0).normal(mean, variance**0.5, 400_000)
    logs = [
        -((x - m) ** 2) / (2 * v) - np.log(v) / 2
        for m, v in ((mean, variance), (stored_mean, stored_variance))
    ]
    kl = zscgan.gaussian_kl(*map(tf.constant, (mean, variance, stored_mean, stored_variance)))
    assert float(kl) == pytest.approx(np.mean(logs[0] - logs[1]), abs=0.01)


def test_kl_is_zero_and_flat_at_equality():
    mean, variance = tf.constant([0.0, -3.0, 1e3]), tf.constant([1.0, 1e-5, 1e4])
    with tf.GradientTape() as tape:
        tape.watch([mean, variance])
        kl = zscgan.gaussian_kl(mean, variance, mean.numpy(), variance.numpy())
    np.testing.assert_allclose(kl, 0, atol=1e-6)
    for gradient in tape.gradient(kl, [mean, variance]):
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_bns_loss_is_numpys_sum_over_layers_and_channels(seed):
    teacher = tiny_teacher(num_classes=5, seed=seed)
    loss = bns_of(teacher, build_tap(teacher.logits_model), pixels(seed=seed))
    assert float(loss) == pytest.approx(numpy_bns(teacher, pixels(seed=seed)), rel=1e-4)


def test_bns_loss_is_zero_where_the_moments_are_met(tap):
    _, stored = tap
    moments = [(tf.constant(s.mean), tf.constant(s.variance)) for s in stored]
    assert float(zscgan.bns_loss(moments, stored)) == pytest.approx(0, abs=1e-5)


def test_class_loss_is_the_mean_cross_entropy():
    logits = np.random.default_rng(0).normal(0, 5, (6, 4)).astype(np.float32)
    labels = np.array([0, 3, 1, 1, 2, 0])
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = -np.log(p[np.arange(6), labels]).mean()
    assert float(zscgan.class_loss(labels, logits)) == pytest.approx(expected, rel=1e-5)


def numpy_entropy_loss(logits):
    """The mean entropy of the rows, and what that of their mean lacks to log(min(B, K))."""

    def entropy(p):
        return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)

    p = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    lacking = np.log(min(p.shape)) - entropy(p.mean(0))
    return entropy(p).mean() + max(0, lacking)


@pytest.mark.parametrize('shape', [(6, 4), (4, 6), (5, 5), (1, 3), (40, 2), (16, 1000)])
@pytest.mark.parametrize('scale', [0.1, 5])
def test_entropy_loss_is_numpys(shape, scale):
    logits = np.random.default_rng(0).normal(0, scale, shape).astype(np.float32)
    logits[0] = 0
    logits[0, :2] = [500, -500]  # sure: no NaN of 0 log 0
    with tf.GradientTape() as tape:
        x = tf.constant(logits)
        tape.watch(x)
        loss = zscgan.entropy_loss(x)
    assert float(loss) == pytest.approx(numpy_entropy_loss(logits), rel=1e-4, abs=1e-5)
    assert np.all(np.isfinite(tape.gradient(loss, x)))


@pytest.mark.parametrize('images, classes', [(4, 4), (4, 9), (12, 4)])
def test_entropy_loss_of_sure_answers(images, classes):
    """Nothing where they are of as many classes as can be; all of it where they are of one."""
    many = 100 * np.eye(classes, dtype=np.float32)[np.arange(images) % classes]
    assert float(zscgan.entropy_loss(many)) == pytest.approx(0, abs=1e-5)
    one = np.repeat(many[:1], images, axis=0)
    assert float(zscgan.entropy_loss(one)) == pytest.approx(np.log(min(images, classes)), rel=1e-5)


def test_unsure_answers_of_a_large_batch_lack_no_class():
    """The mean answer may be of more classes than there are images: no reward for that."""
    assert float(zscgan.entropy_loss(np.zeros((2, 8), 'f'))) == pytest.approx(np.log(8), rel=1e-5)


def test_entropy_loss_of_two_replicas_is_that_of_one_device():
    """Half of a batch each, where only the other half shows the classes that one's own lacks."""
    logits = np.random.default_rng(0).normal(0, 3, (8, 5)).astype(np.float32)
    logits[:4, 0] += 9
    means = [tf.reduce_mean(tf.nn.softmax(half), axis=0) for half in (logits[:4], logits[4:])]

    class Replica:
        """Of two: what it reduces is the mean answer of its half."""

        num_replicas_in_sync = 2

        def __init__(self, index):
            self.index = index

        def all_reduce(self, operation, value):
            assert operation == tf.distribute.ReduceOp.MEAN
            np.testing.assert_allclose(value, means[self.index], rtol=1e-5)
            return (means[0] + means[1]) / 2

    losses = [zscgan.entropy_loss(logits[4 * i : 4 * i + 4], Replica(i)) for i in range(2)]
    assert np.mean(losses) == pytest.approx(float(zscgan.entropy_loss(logits)), rel=1e-5)


def test_gradient_with_respect_to_pixels(teacher, tap):
    """Against central differences of the NumPy loss, along random directions."""
    images = tf.constant(pixels(seed=3))
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = bns_of(teacher, tap, images)
    gradient = tape.gradient(loss, images).numpy().astype(np.float64)
    rng = np.random.default_rng(0)
    for _ in range(3):
        # Steps along the sign of the gradient, on a random half of the pixels.
        direction = np.sign(gradient) * rng.integers(0, 2, images.shape)
        up, down = (numpy_bns(teacher, np.float32(images + s * direction)) for s in (2e-3, -2e-3))
        assert (up - down) / 4e-3 == pytest.approx(np.sum(gradient * direction), rel=0.02)


def test_gradient_with_respect_to_the_generators_weights(teacher, tap):
    generator = build_generator((8, 8, 3), 5, **TINY)
    noise = draw_noise(generator, 8, tf.constant([0, 0]))
    labels = tf.constant([0, 1, 2, 3, 4, 0, 1, 2])
    with tf.GradientTape() as tape:
        loss = bns_of(teacher, tap, generator([*noise, labels], training=True))
    variables = generator.trainable_variables
    gradients = [
        tf.convert_to_tensor(g).numpy().astype(np.float64) for g in tape.gradient(loss, variables)
    ]
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    start = [v.numpy() for v in variables]

    def at(step):
        for variable, value, gradient in zip(variables, start, gradients, strict=True):
            variable.assign(value + np.float32(step * gradient / norm))
        return numpy_bns(teacher, generator([*noise, labels], training=True).numpy())

    assert (at(2e-3) - at(-2e-3)) / 4e-3 == pytest.approx(norm, rel=0.02)


def test_moments_have_the_gradient_of_tensorflows():
    x = tf.constant(np.random.default_rng(0).normal(3, 2, (5, 4, 3, 6)), tf.float32)
    weights = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)

    def gradient(moments):
        with tf.GradientTape() as tape:
            tape.watch(x)
            mean, variance = moments(x)
            loss = tf.reduce_sum(weights[0] * tf.sin(mean) + weights[1] * tf.square(variance))
        return tape.gradient(loss, x)

    expected = gradient(functools.partial(tf.nn.moments, axes=[0, 1, 2]))
    np.testing.assert_allclose(gradient(batch_moments), expected, rtol=1e-4, atol=1e-6)


def test_dead_channels_stay_finite():
    """Stored variance 0, with batches that are constant too, or are not."""
    stored = [StoredMoments('dead', np.zeros(3, 'f'), np.zeros(3, 'f'), 1e-3)]
    for x in (np.zeros((4, 2, 2, 3)), np.random.default_rng(0).normal(size=(4, 2, 2, 3))):
        x = tf.constant(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = zscgan.bns_loss([batch_moments(x)], stored)
        assert np.isfinite(loss) and np.all(np.isfinite(tape.gradient(loss, x)))
        expected = numpy_kl(
            x.numpy().mean((0, 1, 2)), x.numpy().var((0, 1, 2)) + 1e-3, np.zeros(3), 1e-3
        )
        assert float(loss) == pytest.approx(expected.sum(), rel=1e-4, abs=1e-6)


# The step.


class Recorder:
    """An optimizer that keeps the gradients and takes small plain steps."""

    def __init__(self):
        self.gradients = []

    def apply_gradients(self, pairs):
        pairs = [(tf.convert_to_tensor(gradient), variable) for gradient, variable in pairs]
        self.gradients.append([gradient for gradient, _ in pairs])
        for gradient, variable in pairs:
            variable.assign_sub(1e-3 * gradient)


def make_step(teacher, tap, *, weights=(1.0, 1.0, 0.0), dtype='float32'):
    generator = build_generator((8, 8, 3), 5, **TINY, dtype=dtype)
    optimizer = Recorder()
    update = zscgan.make_update(
        generator,
        optimizer,
        *tap,
        teacher.input_spec,
        batch_size=8,
        class_loss_weight=weights[0],
        bns_loss_weight=weights[1],
        entropy_loss_weight=weights[2],
        seed=0,
    )
    return generator, optimizer, lambda index: update(index)[0]


@pytest.mark.parametrize('weights', [(1, 1, 0), (1, 0, 0), (0, 1, 0), (3.0, 0.5, 2.0)])
def test_step_has_the_gradient_of_the_weighted_losses(teacher, tap, weights):
    generator, optimizer, step = make_step(teacher, tap, weights=weights)
    labels, noise = drawn(generator, 8, 4)
    with tf.GradientTape() as tape:
        images = generator([*noise, labels], training=True)
        class_loss = tf.reduce_mean(
            tf_keras.losses.sparse_categorical_crossentropy(
                labels, teacher.logits(images), from_logits=True
            )
        )
        bns = bns_of(teacher, tap, images)
        p = teacher.model(teacher.input_spec.to_inputs(images))  # its softmax
        entropy = tf.reduce_mean(-tf.reduce_sum(p * tf.math.log(p), axis=1))
        mean = tf.reduce_mean(p, axis=0)
        # Five classes and eight images; the tiny teacher's answers are all alike.
        entropy += tf.math.log(5.0) + tf.reduce_sum(mean * tf.math.log(mean))
        loss = weights[0] * class_loss + weights[1] * bns + weights[2] * entropy
    expected = tape.gradient(loss, generator.trainable_variables)
    metrics = {key: float(value) for key, value in step(tf.constant(4, tf.int64)).items()}

    assert metrics['class_loss'] == pytest.approx(float(class_loss), rel=1e-4)
    assert metrics['bns_loss'] == pytest.approx(float(bns), rel=1e-4)
    assert metrics['entropy_loss'] == pytest.approx(float(entropy), rel=1e-4)
    right = np.argmax(teacher.logits(images), axis=1) == labels
    assert metrics['class_accuracy'] == pytest.approx(np.mean(right))
    for one, two in zip(optimizer.gradients[0], expected, strict=True):
        np.testing.assert_allclose(one, tf.convert_to_tensor(two), rtol=1e-3, atol=1e-4)


def test_optimizer_is_adam_with_a_cosine_to_zero():
    """Against Adam written out, on gradients that are given."""
    variable = tf.Variable([1.0, -2.0])
    optimizer = zscgan.make_optimizer(1e-2, 4, [variable])
    expected, first, second = variable.numpy(), 0, 0
    for step, gradient in enumerate(np.float32([[1, -3], [0.5, 2], [-1, 0.1], [0.2, 0.2]])):
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        first, second = 0.5 * first + 0.5 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 1e-2 * (1 + np.cos(np.pi * step / 4)) / 2
        m, v = first / (1 - 0.5 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        expected = expected - rate * m / (np.sqrt(v) + 1e-7)
        np.testing.assert_allclose(variable, expected, rtol=1e-5)
    assert float(optimizer._learning_rate(4)) == pytest.approx(0, abs=1e-9)


def drawn(generator, batch_size, index, seed=0, num_classes=5):
    """Labels and noise of one step, as the step's docstring says it draws them."""
    from zscgan_tf.training_loop import fold_seed

    labels = tf.random.stateless_uniform(
        [batch_size], fold_seed(seed, index, 0), 0, num_classes, tf.int32, alg='philox'
    )
    return labels, draw_noise(generator, batch_size, fold_seed(seed, index, 1))


def test_switched_off_losses_do_not_matter(teacher, tap):
    """Another teacher's stored moments change nothing in class only; other logits in BNS only."""
    model, stored = tap
    others = [StoredMoments(s.layer, s.mean + 1, s.variance * 2, s.epsilon) for s in stored]
    logits, *inputs = model.outputs
    relabelled = tf_keras.Model(model.inputs, [tf.reverse(logits, [-1]) * 3, *inputs])
    cases = [((1, 0, 0), (model, others)), ((0, 1, 0), (relabelled, stored))]
    for weights, other in cases:
        trained = []
        for used in (tap, other):
            generator, _, step = make_step(teacher, used, weights=weights)
            for index in range(2):
                step(tf.constant(index, tf.int64))
            trained.append(generator.get_weights())
        for one, two in zip(*trained, strict=True):
            np.testing.assert_array_equal(one, two)


def test_images_of_five_channels(tmp_path):
    teacher = tiny_teacher(channels=5)
    zscgan.train_generator(teacher, tmp_path, steps=2, batch_size=8, generator_channels=4)
    events = next((tmp_path / 'tensorboard').iterdir()).read_bytes()
    assert (tmp_path / 'classes.png').exists() and b'classes' in events


def test_labels_are_uniform(teacher, tap):
    generator = build_generator((8, 8, 3), 5, **TINY)
    update = zscgan.make_update(generator, Recorder(), *tap, teacher.input_spec, batch_size=100)
    update = tf.function(update)
    labels = np.concatenate([update(tf.constant(i, tf.int64))[2] for i in range(50)])
    assert np.bincount(labels, minlength=5).min() > 850  # of 1000 +- 28


def test_the_teacher_is_frozen(teacher, tap):
    weights = teacher.model.get_weights()
    _, _, step = make_step(teacher, tap)
    step(tf.constant(0, tf.int64))
    for before, after in zip(weights, teacher.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_xla_compiles_the_step_once_and_gives_the_same_numbers(teacher, tap):
    histories = []
    for jit_compile in (False, True):
        _, _, step = make_step(teacher, tap)
        compiled = tf.function(step, jit_compile=jit_compile)
        histories.append([compiled(tf.constant(i, tf.int64)) for i in range(3)])
        assert compiled.experimental_get_tracing_count() == 1
    for plain, fast in zip(*histories, strict=True):
        plain, fast = ({key: float(value) for key, value in m.items()} for m in (plain, fast))
        assert fast == pytest.approx(plain, rel=1e-3)


def test_bfloat16_is_near_float32(teacher, tap):
    tap16 = build_tap(teacher.logits_model, 'bfloat16')
    metrics = []
    for used, dtype in ((tap, 'float32'), (tap16, 'bfloat16')):
        generator, _, step = make_step(teacher, used, dtype=dtype)
        history = [step(tf.constant(i, tf.int64)) for i in range(5)]
        metrics.append({k: np.mean([float(m[k]) for m in history]) for k in history[0]})
        assert all(v.dtype == tf.float32 for v in generator.trainable_variables)
    _, *inputs = tap16[0](teacher.input_spec.to_inputs(tf.constant(pixels())))
    assert {x.dtype for x in inputs} == {tf.bfloat16}
    assert {moment.dtype for x in inputs for moment in batch_moments(x)} == {tf.float32}
    assert metrics[1]['class_loss'] == pytest.approx(metrics[0]['class_loss'], rel=0.05)
    assert metrics[1]['bns_loss'] == pytest.approx(metrics[0]['bns_loss'], rel=0.05)


# The training.


def read_metrics(workdir):
    text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def trained(teacher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run') / 'made' / 'here'
    source = zscgan.train_generator(
        teacher, workdir, steps=40, seed=3, checkpoint_every=20, images_every=20, **TINY_OPTIONS
    )
    return workdir, source


def test_training_lowers_both_losses(trained):
    lines = read_metrics(trained[0])
    first, last = lines[0], lines[-1]
    assert last['step'] == 40
    assert last['bns_loss'] < 0.7 * first['bns_loss']
    assert last['class_loss'] + last['bns_loss'] < first['class_loss'] + first['bns_loss']


def test_training_leaves_a_grid_of_classes(trained, teacher):
    workdir, source = trained
    labels, images = zscgan.class_grid(source, teacher.num_classes)
    assert labels == [0, 1, 2, 3, 4] and images.shape == (40, 8, 8, 3)
    with Image.open(workdir / 'classes.png') as picture:
        assert picture.height > 5 * 56 and picture.width > 8 * 56


def test_grid_spreads_over_many_classes():
    class Source:
        def images_of(self, classes):
            return classes

    labels, classes = zscgan.class_grid(Source(), 1000)
    assert labels == list(range(0, 1000, 100))
    assert classes == [c for c in labels for _ in range(8)]


def test_a_finished_run_is_reused(trained, teacher):
    workdir, source = trained
    before = (workdir / 'metrics.jsonl').read_text()
    again = zscgan.train_generator(teacher, workdir, steps=40, seed=3, **TINY_OPTIONS)
    loaded = zscgan.load_generator(teacher, workdir)
    assert (workdir / 'metrics.jsonl').read_text() == before
    assert loaded.batch_size == 16
    for one, two, three in zip(
        *(s.generator.get_weights() for s in (source, again, loaded)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_a_workdir_belongs_to_one_teacher_and_configuration(trained, teacher):
    workdir, _ = trained
    with pytest.raises(UserError, match='belongs to another teacher .tiny_softmax.'):
        zscgan.train_generator(tiny_teacher(5, seed=1), workdir, steps=40, seed=3, **TINY_OPTIONS)
    with pytest.raises(UserError, match='another teacher .tiny_softmax.'):
        zscgan.load_generator(tiny_teacher(5, seed=1), workdir)
    other = dataclasses.replace(
        teacher, input_spec=dataclasses.replace(teacher.input_spec, mean=(0.1, 0.2, 0.3))
    )
    with pytest.raises(UserError, match='made with another preprocessing: pass the one of its'):
        zscgan.load_generator(other, workdir)
    with pytest.raises(UserError, match=r'batch_size 16, not 8; seed 3, not 4\)'):
        zscgan.train_generator(
            teacher, workdir, steps=40, seed=4, **{**TINY_OPTIONS, 'batch_size': 8}
        )


def test_refused_options_do_not_claim_the_workdir(teacher, tmp_path):
    with pytest.raises(UserError, match='--generator_scales=9'):
        zscgan.train_generator(
            teacher, tmp_path, steps=2, **{**TINY_OPTIONS, 'generator_scales': 9}
        )
    zscgan.train_generator(teacher, tmp_path, steps=2, **TINY_OPTIONS)


def test_unfinished_and_missing_generators_are_refused(teacher, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='holds no run .no config.json.: train a generator'):
        zscgan.load_generator(teacher, tmp_path)
    monkeypatch.setattr(zscgan.training_loop, 'run', interrupted)
    with pytest.raises(KeyboardInterrupt):
        zscgan.train_generator(teacher, tmp_path, steps=20, **TINY_OPTIONS)
    with pytest.raises(UserError, match='was trained for 0 of 20 steps: run the training again'):
        zscgan.load_generator(teacher, tmp_path)


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_diverging_training_stops_and_saves_nothing(teacher, tmp_path):
    with pytest.raises(UserError, match=r'generator stopped: \w+_loss is (nan|inf) at step \d+;'):
        zscgan.train_generator(
            teacher,
            tmp_path,
            steps=30,
            checkpoint_every=1,
            **{**TINY_OPTIONS, 'learning_rate': 1e30},
        )
    assert all(np.isfinite(line['bns_loss']) for line in read_metrics(tmp_path))
    with pytest.raises(UserError, match='of 30 steps'):
        zscgan.load_generator(teacher, tmp_path)
    saved = tf.train.latest_checkpoint(str(tmp_path / 'checkpoints'))
    if saved:
        reader = tf.train.load_checkpoint(saved)
        for name, dtype in reader.get_variable_to_dtype_map().items():
            if dtype == tf.float32:
                assert np.all(np.isfinite(reader.get_tensor(name))), name


def test_batches_that_replicas_can_not_share(teacher, tmp_path):
    class Three:
        num_replicas_in_sync = 3

    with pytest.raises(UserError, match='--batch_size=16 can not be shared by 3 replicas'):
        zscgan.train_generator(teacher, tmp_path, strategy=Three(), steps=2, **TINY_OPTIONS)
