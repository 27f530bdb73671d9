"""The step of ZS-CGAN and the whole training."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from tests.methods.test_zscgan_losses import TINY, bns_of, pixels
from tests.numbers import read_metrics
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.generators import build_generator, draw_noise
from zscgan_tf.methods import zscgan
from zscgan_tf.sources.generator import class_grid
from zscgan_tf.teacher.tap import StoredMoments, batch_moments, build_tap

TINY_OPTIONS = {
    'generator_scales': 2,
    'generator_channels': 8,
    'skip_channels': 2,
    'z_channels': 4,
    'noise_scales': 2,
    'batch_size': 16,
    'learning_rate': 0.01,
}


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


def make_update(teacher, tap, *, weights=(1.0, 1.0, 0.0), dtype='float32', **options):
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
        **options,
    )
    return generator, optimizer, update


def make_step(teacher, tap, **options):
    generator, optimizer, update = make_update(teacher, tap, **options)
    return generator, optimizer, lambda index: update(index)[0]


@pytest.fixture(scope='module')
def sure_teacher():
    """A teacher whose answers differ from image to image."""
    teacher = tiny_teacher(num_classes=5, seed=1)
    kernel = teacher.logits_model.get_layer('top').kernel
    kernel.assign(20 * kernel)
    return teacher


@pytest.mark.parametrize('weights', [(1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (3.0, 0.5, 2.0)])
def test_step_has_the_gradient_of_the_weighted_losses(sure_teacher, weights):
    teacher, tap = sure_teacher, build_tap(sure_teacher.logits_model)
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
        # Eight images can be of all five classes.
        entropy += tf.math.log(5.0) + tf.reduce_sum(mean * tf.math.log(mean))
        loss = weights[0] * class_loss + weights[1] * bns + weights[2] * entropy
    expected = tape.gradient(loss, generator.trainable_variables)
    metrics = {key: float(value) for key, value in step(tf.constant(4, tf.int64)).items()}

    assert metrics['class_loss'] == pytest.approx(float(class_loss), rel=1e-4)
    assert metrics['bns_loss'] == pytest.approx(float(bns), rel=1e-4)
    assert metrics['entropy_loss'] == pytest.approx(float(entropy), rel=1e-4)
    right = np.argmax(teacher.logits(images), axis=1) == labels
    assert metrics['class_accuracy'] == pytest.approx(np.mean(right))
    expected = [tf.convert_to_tensor(gradient) for gradient in expected]
    assert max(np.abs(gradient).max() for gradient in expected) > 0.01
    for one, two in zip(optimizer.gradients[0], expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('weight', ('class_loss_weight', 'bns_loss_weight', 'entropy_loss_weight'))
def test_a_training_weighs_the_losses_by_its_options(sure_teacher, weight):
    """As by hand; Adam only sees how the weights relate."""
    options = {**TINY_OPTIONS, 'class_loss_weight': 1.0, 'bns_loss_weight': 0.1}
    options = {**options, 'entropy_loss_weight': 1.5, weight: 0.7}
    options = GeneratorOptions.resolve('small', options, sure_teacher)
    generator, _, step = zscgan.build_training(sure_teacher, options, seed=3)
    by_hand = tf_keras.models.clone_model(generator)
    by_hand.set_weights(generator.get_weights())
    first = generator.get_weights()
    variables = by_hand.trainable_variables
    update = zscgan.make_update(
        by_hand,
        zscgan.make_optimizer(options.learning_rate, options.steps, variables),
        *build_tap(sure_teacher.logits_model),
        sure_teacher.input_spec,
        batch_size=16,
        seed=3,
        class_loss_weight=options.class_loss_weight,
        bns_loss_weight=options.bns_loss_weight,
        entropy_loss_weight=options.entropy_loss_weight,
    )
    for index in range(2):
        step(tf.constant(index, tf.int64))
        update(tf.constant(index, tf.int64))
    for one, two, before in zip(generator.get_weights(), by_hand.get_weights(), first, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
        assert np.any(one != before)


def test_a_generator_goes_on_at_a_tenth_of_its_rate_with_new_images(teacher):
    options = GeneratorOptions.resolve('small', {**TINY_OPTIONS, 'learning_rate': 0.02}, teacher)
    generator, _, _ = zscgan.build_training(teacher, options, seed=0)
    optimizer, update = zscgan.continue_training(teacher, generator, options.record(), 10, seed=0)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 5, 10)]
    assert rates == pytest.approx([0.002, 0.001, 0], abs=1e-9)
    before = generator.get_weights()
    _, _, labels, _ = update(tf.constant(0, tf.int64))
    # Adam's first step is its rate, where a gradient is not nearly 0.
    moves = [np.abs(w - v).max() for w, v in zip(generator.get_weights(), before, strict=True)]
    assert max(moves) == pytest.approx(0.002, rel=0.01)
    assert not np.array_equal(labels, drawn(generator, 16, 0)[0])


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
    from zscgan_tf.training.strategy import fold_seed

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


@pytest.mark.slow
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
    labels, images = class_grid(source)
    assert labels == [0, 1, 2, 3, 4] and images.shape == (40, 8, 8, 3)
    with Image.open(workdir / 'classes.png') as picture:
        assert picture.height > 5 * 56 and picture.width > 8 * 56


def test_grid_spreads_over_many_classes():
    class Source:
        num_classes = 1000

        def images_of(self, classes):
            return classes

    labels, classes = class_grid(Source())
    assert labels == list(range(0, 1000, 100))
    assert classes == [c for c in labels for _ in range(8)]


def test_a_finished_run_is_reused(trained, teacher):
    workdir, source = trained
    before = (workdir / 'metrics.jsonl').read_text()
    again = zscgan.train_generator(teacher, workdir, steps=40, seed=3, **TINY_OPTIONS)
    loaded = zscgan.load_generator(teacher, workdir)
    assert loaded.description['generator_seed'] == 3  # another seed makes other images
    assert (workdir / 'metrics.jsonl').read_text() == before
    assert loaded.batch_size == 16 and loaded.options == source.options
    for one, two, three in zip(
        *(s.generator.get_weights() for s in (source, again, loaded)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_a_workdir_belongs_to_one_teacher_and_configuration(trained, teacher, tmp_path):
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
    held = json.loads((workdir / 'config.json').read_text()) | {'source_kind': 'zscgan'}
    student = tmp_path / 'student'
    student.mkdir()
    (student / 'config.json').write_text(json.dumps(held))
    with pytest.raises(UserError, match='holds a student, not a generator: pass the folder of'):
        zscgan.load_generator(other, student)  # as of a student of raw pixels
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
    with pytest.raises(UserError, match='holds no run .no config.json.: pass the folder of'):
        zscgan.load_generator(teacher, tmp_path)
    monkeypatch.setattr(zscgan.loop, 'run', interrupted)
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

    with pytest.raises(
        UserError, match='16 images a batch cannot be shared by 3 replicas: pass a batch'
    ):
        zscgan.train_generator(teacher, tmp_path, strategy=Three(), steps=2, **TINY_OPTIONS)


@pytest.mark.parametrize('size, batch_size', [((30, 1), 8), ((1, 1), 1)])
def test_images_one_pixel_wide_train(tmp_path, size, batch_size):
    teacher = tiny_teacher(num_classes=3, size=size)
    source = zscgan.train_generator(teacher, tmp_path, steps=2, batch_size=batch_size)
    assert source.images_of([0, 1, 2]).shape == (3, *size, 3)


def test_a_training_computes_in_the_type_of_its_options(sure_teacher):
    options = {**TINY_OPTIONS, 'compute_dtype': 'bfloat16'}
    options = GeneratorOptions.resolve('small', options, sure_teacher)
    generator, _, _ = zscgan.build_training(sure_teacher, options, seed=0)
    assert 'bfloat16' in {layer.compute_dtype for layer in generator.layers}
    _, update = zscgan.continue_training(sure_teacher, generator, options.record(), 2, seed=0)
    _, pixels, _, logits = update(tf.constant(0, tf.int64))
    assert (pixels.dtype, logits.dtype) == (tf.float32, tf.bfloat16)
