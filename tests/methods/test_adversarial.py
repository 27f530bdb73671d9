"""[14]: the divergence, whose side each step is on, and whose turn it is."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.numbers import softmax
from tests.students import student_of
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.generators import build_generator, draw_inputs
from zscgan_tf.methods import adversarial, distillation, zscgan
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.sources.generator import GeneratorSource
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.teacher.tap import build_tap

BATCH = 8
STEPS = [tf.constant(index, tf.int64) for index in range(22)]


@pytest.mark.parametrize('scale', (0.1, 3, 100))
def test_divergence_is_numpys(scale):
    logits = np.random.default_rng(0).normal(0, scale, (2, 6, 5)).astype(np.float32)
    p, q = map(softmax, logits)
    expected = np.sum(p * (np.log(p + 1e-300) - np.log(q)), axis=1).mean()
    assert float(adversarial.divergence(*logits)) == pytest.approx(expected, rel=1e-4)
    assert float(adversarial.divergence(logits[0], logits[0])) == 0


def test_sure_answers_have_a_finite_divergence_and_gradient():
    """0 log 0 is 0."""
    teacher, student = tf.constant([[500.0, -500, 0]]), tf.constant([[0.0, 1, -1]])
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        loss = adversarial.divergence(teacher, student)
    assert np.isfinite(loss) and np.all(np.isfinite(tape.gradient(loss, [teacher, student])))


@pytest.fixture(scope='module')
def teacher():
    """A teacher whose answers differ from image to image."""
    teacher = tiny_teacher(num_classes=5, seed=1)
    kernel = teacher.logits_model.get_layer('top').kernel
    kernel.assign(10 * kernel)
    return teacher


class Game:
    """A teacher, its student of two-bit weights, a generator without classes, and its update."""

    def __init__(self, teacher, every=1, training='learned', rate=0.02, **weights):
        self.teacher = teacher
        self.student = student_of(
            teacher, weight_bits=2, activation_bits=8, range_training=training
        )
        noise = NoiseSource(teacher.input_spec, batch_size=32)
        set_ranges(self.student, lambda: [next(noise.batches())[0].numpy()])
        self.generator = build_generator((8, 8, 3), 1, scales=1, channels=6, skip_channels=2)
        self.optimizer = tf_keras.optimizers.SGD(rate)
        self.optimizer.build(self.generator.trainable_variables)
        self.update = adversarial.make_update(
            self.generator,
            self.optimizer,
            *build_tap(teacher.logits_model),
            teacher.input_spec,
            student=self.student,
            generator_every=every,
            batch_size=BATCH,
            unconditional=True,
            **{'adversarial_weight': 1.0, **weights},
        )

    def divergence(self, pixels):
        return float(
            adversarial.divergence(self.teacher.logits(pixels), self.student.logits(pixels))
        )

    def images(self, stream, index=0):
        """Those of a step: of the generator's own noise, stream 0, or the student's, stream 2."""
        inputs = draw_inputs(self.generator, None, BATCH, 0, STEPS[index], stream)
        return self.generator(inputs, training=True)


ALONE = {'class_loss_weight': 0.0, 'bns_loss_weight': 0.0, 'entropy_loss_weight': 1e-9}


def test_the_generators_step_raises_the_divergence_on_the_same_noise(teacher):
    game = Game(teacher, **ALONE)
    before = game.divergence(game.images(0))
    game.update(STEPS[0])
    assert game.divergence(game.images(0)) > 1.01 * before


def test_the_students_step_lowers_the_divergence_on_the_same_images(teacher):
    game = Game(teacher, **ALONE)
    options = DistillationOptions.resolve(
        'small', {'augment': False, 'mix': False, 'feature_loss_weight': 0.0}
    )
    optimizer = tf_keras.optimizers.SGD(0.02)
    optimizer.build(game.student.trainable_variables())
    made = []

    def update(index):
        made.append(game.update(index))
        return made[-1]

    step = distillation.make_step(game.student, optimizer, options, generator_update=update)
    step(STEPS[0])
    _, pixels, labels, logits = made[0]
    after = game.divergence(pixels)
    untrained = Game(teacher)
    before = untrained.divergence(pixels)
    assert after < before
    # The student learns on the generator's new images, those of another noise than its step's.
    np.testing.assert_allclose(pixels, game.images(2), atol=1e-6)
    np.testing.assert_allclose(logits, teacher.logits(pixels), rtol=1e-4, atol=1e-5)
    assert np.abs(pixels - game.images(0)).max() > 0.01 and labels is None


def test_the_gradient_is_that_of_the_formula(teacher):
    """α (L_BN + L_inst + L_batch) - KL, by hand, over α."""
    weights = {'class_loss_weight': 0.0, 'bns_loss_weight': 1.0, 'entropy_loss_weight': 1.0}
    game = Game(teacher, rate=1e-3, **{**weights, 'adversarial_weight': 20.0})
    first = game.generator.get_weights()
    tap, stored = build_tap(teacher.logits_model)
    variables = game.generator.trainable_variables
    with tf.GradientTape() as tape:
        pixels = game.images(0)
        logits, *inputs = tap(teacher.input_spec.to_inputs(pixels))
        bns = zscgan.bns_loss([tf.nn.moments(x, [0, 1, 2]) for x in inputs], stored)
        p = tf.nn.softmax(logits)
        mean = tf.reduce_mean(p, axis=0)
        entropies = tf.reduce_sum(mean * tf.math.log(mean))
        entropies -= tf.reduce_mean(tf.reduce_sum(p * tf.math.log(p), axis=1))
        q = tf.nn.softmax(game.student.logits(pixels))
        kl = tf.reduce_mean(tf.reduce_sum(p * tf.math.log(p / q), axis=1))
        loss = (0.05 * (bns + entropies) - kl) / 0.05
    expected = tape.gradient(loss, variables)
    game.update(STEPS[0])
    expected = [tf.convert_to_tensor(gradient).numpy() for gradient in expected]
    largest = max(np.abs(gradient).max() for gradient in expected)
    assert largest > 1
    for variable, old, gradient in zip(variables, first, expected, strict=True):
        moved = (old - variable.numpy()) / 1e-3
        np.testing.assert_allclose(moved, gradient, rtol=0.01, atol=1e-3 * largest)


@pytest.mark.parametrize('compiled', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_generator_has_one_step_in_ten(teacher, compiled):
    game = Game(teacher, every=10, **ALONE)
    update = tf.function(game.update, jit_compile=True) if compiled else game.update
    changed, images = [], []
    for number, index in enumerate(STEPS):
        before = game.generator.get_weights()
        images.append(update(index)[1].numpy())
        after = game.generator.get_weights()
        if any(np.any(one != two) for one, two in zip(before, after, strict=True)):
            changed.append(number)
    assert changed == [0, 10, 20] and int(game.optimizer.iterations) == 3
    # Every step has new images.
    assert len({pixels.tobytes() for pixels in images}) == len(STEPS)


def test_the_generators_step_leaves_moving_ranges_alone(teacher):
    game = Game(teacher, training='moving_average', **ALONE)
    before = game.student.model.get_weights()
    game.update(STEPS[0])
    for one, two in zip(before, game.student.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_metrics_are_those_of_the_images_that_the_student_sees(teacher):
    game = Game(teacher, **ALONE)
    metrics, pixels, _, logits = game.update(STEPS[3])
    assert metrics.keys() == {'bns_loss', 'entropy_loss'}
    p = softmax(logits.numpy())
    mean = p.mean(0)
    expected = -np.sum(p * np.log(p), axis=1).mean() + np.log(5) + np.sum(mean * np.log(mean))
    assert float(metrics['entropy_loss']) == pytest.approx(expected, rel=1e-3)


def source_of(teacher, unconditional=True):
    options = GeneratorOptions.resolve(
        'small',
        {
            'unconditional': unconditional,
            'generator_channels': 4,
            'batch_size': BATCH,
            'learning_rate': 0.01,
        },
        teacher,
    )
    generator, _, _ = zscgan.build_training(teacher, options, seed=0)
    classes = None if unconditional else teacher.num_classes
    return GeneratorSource(generator, classes, BATCH, options=options.record())


@pytest.mark.parametrize('unconditional', (True, False))
def test_a_distillation_plays_by_its_options(teacher, unconditional):
    """Its state has both players and their optimizers; the generator's cosine ends with it."""
    source = source_of(teacher, unconditional)
    options = DistillationOptions.resolve(
        'small',
        {
            'update_generator': True,
            'adversarial_weight': 100,
            'generator_every': 3,
            'steps': 10,
            'range_images': BATCH,
        },
    )
    student, state, step = distillation.build_training(teacher, source, options, seed=0)
    make = distillation._maker_of_updates(student, options)
    assert make.keywords['adversarial_weight'] == 100  # larger divergences are sought
    set_ranges(student, lambda: [next(source.batches())[0].numpy()])
    assert state['generator'] is source.generator
    optimizer = state['generator_optimizer']
    rates = [float(optimizer._learning_rate(step)) for step in (0, 2, 4)]
    assert rates == pytest.approx([0.001, 0.0005, 0], abs=1e-8)
    for index in STEPS[:4]:
        metrics = step(index)
    assert int(optimizer.iterations) == 2 and int(state['optimizer'].iterations) == 4
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    'options, message',
    [
        ({'adversarial_weight': 100.0}, 'adversarial_weight=100.0 is for a generator that is up'),
        ({'generator_every': 10}, '--generator_every=10 is for a generator that is updated: pass'),
        (
            {'update_generator': True, 'generator_every': 3, 'steps': 2},
            '--generator_every=3 is more than all 2 steps of the student',
        ),
        (
            {'update_generator': True, 'adversarial_weight': 1.0},
            '--update_generator .* has no generator to update',
        ),
        ({'adversarial_weight': -1.0}, 'adversarial_weight=-1.0 must be 0'),
        ({'generator_every': 0}, 'generator_every=0 must be a whole number'),
    ],
)
def test_refusals(teacher, tmp_path, options, message):
    source = NoiseSource(teacher.input_spec, batch_size=8)
    with pytest.raises(UserError, match=message):
        distillation.distill(teacher, source, tmp_path / 'run', **{'steps': 4, **options})
    assert not (tmp_path / 'run').exists()


def test_independent_labels_are_refused(tmp_path):
    labels = dataclasses.replace(tiny_teacher(), head='labels', name='tags')
    options = {'update_generator': True, 'adversarial_weight': 2}
    with pytest.raises(UserError, match='weight=2 is for classes, and tags gives independent'):
        distillation.distill(labels, None, tmp_path / 'run', **options)


def test_replicas_cannot_take_turns(two_devices, teacher, tmp_path):
    options = {'update_generator': True, 'generator_every': 2, 'strategy': two_devices}
    with pytest.raises(UserError, match='--generator_every=2 is for one device, .* 2 replicas'):
        distillation.distill(teacher, source_of(teacher), tmp_path / 'run', **options)
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_the_generators_folder_stays_as_it_was(teacher, tmp_path, monkeypatch):
    """Students of several widths start from one generator; each folder has what became of it."""
    monkeypatch.setattr(distillation.student_export, 'export', lambda *args: None)
    settings = {'unconditional': True, 'generator_channels': 4, 'batch_size': BATCH, 'steps': 2}
    trained = zscgan.train_generator(teacher, tmp_path / 'generator', **settings)

    def state():
        files = (tmp_path / 'generator').rglob('*')
        return {path: path.read_bytes() for path in files if path.is_file()}

    before = state()
    weights = [trained.generator.get_weights()]
    for _ in range(2):
        source = zscgan.load_generator(teacher, tmp_path / 'generator')
        options = {'adversarial_weight': 100.0, 'generator_every': 2, 'update_generator': True}
        options |= {'range_images': BATCH, 'feature_loss_weight': 0.0, 'augment': False}
        options |= dict.fromkeys(
            ('align_additions', 'error_compensation', 'bias_correction'), False
        )
        distillation.distill(teacher, source, tmp_path / 'student', steps=3, **options)
        weights.append(source.generator.get_weights())
    assert state() == before
    # The second call found the first one's generator in the student's folder.
    for one, two in zip(*weights[1:], strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(np.any(one != two) for one, two in zip(*weights[:2], strict=True))
