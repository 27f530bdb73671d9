"""Two replicas with different halves of a batch give the losses and gradients of one device."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.students import student_of
from zscgan_tf.generators import ConditionalBatchNormalization, build_generator
from zscgan_tf.methods import adversarial, distillation, zscgan
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.teacher.tap import StoredMoments, batch_moments, build_tap
from zscgan_tf.training.strategy import make_strategy, replica_slice

BATCH = 8


def normal(*shape, seed=0):
    """Random values of which the second half of the batch is of another mean and deviation."""
    x = np.random.default_rng(seed).normal(size=(BATCH, *shape)).astype(np.float32)
    x[BATCH // 2 :] = 3 * x[BATCH // 2 :] + 2
    return x


LABELS = np.int32([0, 3, 1, 1, 2, 0, 4, 4])
STORED = [StoredMoments('norm', np.float32([0, 1, -1]), np.float32([1, 2, 0.5]), 1e-3)]


def loss_of_moments(replicas, x):
    mean, variance = batch_moments(x, replicas)
    return tf.reduce_sum([1.0, 2, -1] * tf.sin(mean) + [0.5, -1, 1] * tf.square(variance))


@functools.cache
def conditional_norm():
    layer = ConditionalBatchNormalization(5)
    layer.build([(None, 4, 3, 3), (None,)])
    layer.gamma.assign(np.random.default_rng(0).uniform(0.5, 2, (5, 3)))
    return layer


def loss_of_conditional_norm(_, x, weights, labels):
    """The layer asks for its replicas itself."""
    return tf.reduce_mean(weights * conditional_norm()([x, labels]))


def loss_of_distillation(weight):
    def loss(_, teacher, student, labels):
        return distillation.distillation_loss(
            teacher, student, labels=labels, soft_target_weight=weight, temperature=3.0
        )

    return loss


def loss_of_features(replicas, teacher, student, other):
    teacher = tf.stop_gradient(teacher)
    return distillation.feature_loss([teacher, teacher], [student, other], replicas)


# A loss of a replica's context and its part of each array, and the arrays.
LOSSES = {
    'moments': (loss_of_moments, [normal(4, 3, 3)]),
    'moments of vectors': (loss_of_moments, [normal(3)]),
    'bns loss': (
        lambda replicas, x: zscgan.bns_loss([batch_moments(x, replicas)], STORED),
        [normal(4, 3, 3)],
    ),
    'conditional batch norm': (
        loss_of_conditional_norm,
        [normal(4, 3, 3), normal(4, 3, 3, seed=1), LABELS],
    ),
    'class loss': (
        lambda _, logits, labels: zscgan.class_loss(labels, logits),
        [normal(5), LABELS],
    ),
    # The answers of each half lack classes, those of the whole lack fewer.
    'entropy loss': (
        lambda replicas, logits: zscgan.entropy_loss(logits, replicas),
        [normal(5) + 4 * np.eye(5, dtype=np.float32)[np.arange(BATCH) // 4]],
    ),
    'distillation loss': (loss_of_distillation(1.0), [normal(5), normal(5, seed=1), LABELS]),
    'with labels': (loss_of_distillation(0.3), [normal(5), normal(5, seed=1), LABELS]),
    'feature loss': (loss_of_features, [normal(4, 2), normal(4, 2, seed=1), normal(4, 2, seed=2)]),
}


@pytest.mark.parametrize('name', LOSSES)
def test_a_loss_of_two_replicas_is_that_of_one_device(two_devices, name):
    loss_of, arrays = LOSSES[name]

    def share_and_gradients():
        replicas = tf.distribute.get_replica_context()
        parts = [replica_slice(tf.constant(x), replicas) for x in arrays]
        followed = [part for part in parts if part.dtype == tf.float32]
        with tf.GradientTape() as tape:
            tape.watch(followed)
            loss = loss_of(replicas, *parts) / replicas.num_replicas_in_sync
        none = tf.UnconnectedGradients.ZERO
        return loss, *tape.gradient(loss, followed, unconnected_gradients=none)

    expected = share_and_gradients()
    found = tf.function(lambda: two_devices.run(share_and_gradients))()
    loss, *gradients = map(two_devices.experimental_local_results, found)
    assert len(loss) == 2
    assert float(sum(loss)) == pytest.approx(float(expected[0]), rel=1e-5)
    largest = max(np.abs(gradient).max() for gradient in expected[1:])
    assert largest > 1e-3
    for parts, one in zip(gradients, expected[1:], strict=True):
        np.testing.assert_allclose(np.concatenate(parts), one, rtol=1e-4, atol=1e-5 * largest)


def test_bfloat16_far_from_zero_is_normalized_as_well_in_replicas(two_devices):
    """A mean of 100 deviations: in bfloat16 a difference of products would have no right digit."""
    x = tf.cast(normal(4, 3, 2) / 4 + 100, tf.bfloat16)
    exact = x.numpy().astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    layer = ConditionalBatchNormalization(5, dtype='mixed_bfloat16')
    layer.build([x.shape, LABELS.shape])

    def normalize():
        replicas = tf.distribute.get_replica_context()
        part, labels = (replica_slice(tensor, replicas) for tensor in (x, tf.constant(LABELS)))
        return layer([part, labels])

    parts = two_devices.experimental_local_results(
        tf.function(lambda: two_devices.run(normalize))()
    )
    for found in (normalize(), tf.concat(parts, 0)):
        assert found.dtype == tf.bfloat16
        np.testing.assert_allclose(found.numpy().astype(np.float64), expected, rtol=0.01, atol=0.01)


def generator_update(teacher, strategy, opponent=None):
    """A generator's variables and the update of them, against a student if there is one."""
    with strategy.scope():
        generator = build_generator((8, 8, 3), 5, scales=1, channels=6, skip_channels=2)
        optimizer = sgd(generator.trainable_variables)
    make = zscgan.make_update
    if opponent:
        make = functools.partial(
            adversarial.make_update, student=opponent, adversarial_weight=20.0, generator_every=1
        )
    update = make(
        generator,
        optimizer,
        *build_tap(teacher.logits_model),
        teacher.input_spec,
        batch_size=BATCH,
        entropy_loss_weight=0.5,
    )
    return generator.trainable_variables, update


def a_step(teacher, strategy, generator_is):
    """A step of a student, and of a generator: metrics, and how far each weight went."""
    varied = generator_is == 'fixed'
    options = {'feature_loss_weight': 2.0, 'temperature': 2.0, 'augment': varied, 'mix': varied}
    # With labels too, although those of blends mean nothing.
    options = dataclasses.replace(
        DistillationOptions.resolve('small', options), soft_target_weight=0.3
    )
    pixels = np.random.default_rng(0).uniform(size=(BATCH, 8, 8, 3)).astype(np.float32)
    pixels[BATCH // 2 :] *= 0.3
    with strategy.scope():
        student = student_of(teacher, weight_bits=8, activation_bits=8)
        variables = student.trainable_variables()
        optimizer = sgd(variables)
    set_ranges(student, lambda: [pixels])
    batch, update = (tf.constant(pixels), tf.constant(LABELS)), None
    if generator_is != 'fixed':
        opponent = student if generator_is == 'opposed' else None
        others, update = generator_update(teacher, strategy, opponent)
        batch, variables = (), [*variables, *others]
    step = distillation.make_step(student, optimizer, options, generator_update=update)

    @tf.function(autograph=False)
    def run():
        metrics = strategy.run(step, (tf.constant(0, tf.int64), *batch))
        add = tf.distribute.ReduceOp.SUM
        return {key: strategy.reduce(add, value, axis=None) for key, value in metrics.items()}

    before = [variable.numpy() for variable in variables]
    metrics = {key: float(value) for key, value in run().items()}
    return metrics, [
        variable.numpy() - old for variable, old in zip(variables, before, strict=True)
    ]


def sgd(variables):
    """An optimizer whose steps are the gradients."""
    optimizer = tf_keras.optimizers.SGD(0.1)
    optimizer.build(variables)
    return optimizer


@pytest.mark.parametrize(
    'generator_is',
    ['fixed', *(pytest.param(name, marks=pytest.mark.slow) for name in ('updated', 'opposed'))],
)
def test_a_step_of_two_replicas_is_that_of_one_device(two_devices, teacher, generator_is):
    names = {'distillation_loss', 'feature_loss', 'agreement'}
    if generator_is != 'fixed':
        names |= {'bns_loss', 'entropy_loss'}
    if generator_is == 'updated':
        names |= {'class_loss', 'class_accuracy'}
    one_device = make_strategy('default')
    expected, moves = a_step(teacher, one_device, generator_is)
    metrics, found = a_step(teacher, two_devices, generator_is)
    assert expected.keys() == names
    assert metrics == pytest.approx(expected, rel=1e-4)
    for two, one in zip(found, moves, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-3 * np.abs(one).max() + 1e-6)
    assert max(np.abs(one).max() for one in moves) > 1e-4
