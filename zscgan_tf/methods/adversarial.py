"""Adversarial knowledge distillation: the generator looks for images on which the student is wrong.

"Data-free network quantization with adversarial knowledge distillation", Choi, Choi, El-Khamy and
Lee, arXiv 2005.04136 ([14] of the paper, which compares with it):

    min over the student, max over the generator of
    KL(T(x) || S(x)) - α (L_BN + L_inst + L_batch),    x = G(z)

L_BN is the BNS loss of eq. 2. L_inst, the mean entropy of the teacher's answers, and L_batch, less
the entropy of their mean, are `zscgan.entropy_loss`, up to a constant. (Of a batch with fewer
images than classes, that function asks for no more classes than images.) So the generator goes on
with the losses that it was trained with, less `adversarial_weight` times the divergence, and α is
1 / adversarial_weight. α also scales the step of plain gradients, but not that of Adam.

The generator has one step in `generator_every`. Each step of the student has new images.
"""

import collections.abc

import tensorflow as tf
import tf_keras

from zscgan_tf.generators import draw_inputs
from zscgan_tf.methods import zscgan
from zscgan_tf.student.student import Student
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.tap import StoredMoments, batch_moments


def divergence(teacher_logits: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
    """KL(T(x) || S(x)) of the softmax answers, nats, mean over the batch.

    Args:
        teacher_logits, student_logits: [B, K].
    """
    teacher = tf.nn.log_softmax(tf.cast(teacher_logits, tf.float32))
    student = tf.nn.log_softmax(tf.cast(student_logits, tf.float32))
    return tf.reduce_mean(tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1))


def make_update(
    generator: tf_keras.Model,
    optimizer: tf_keras.optimizers.Optimizer,
    tap: tf_keras.Model,
    stored: list[StoredMoments],
    input_spec: InputSpec,
    *,
    student: Student,
    adversarial_weight: float,
    generator_every: int,
    batch_size: int,
    unconditional: bool = False,
    seed: int = 0,
    **losses: float | bool,
) -> collections.abc.Callable[[tf.Tensor], tuple]:
    """The update of a generator that plays against a student, as `distillation.make_step` takes it.

    In the generator's step the student infers: its ranges stay, moving averages too. A generator
    of classes goes on with its class loss as well, which [14] does not have.

    Args:
        generator, optimizer, tap, stored, input_spec, batch_size, unconditional: see
            `zscgan.make_update`.
        student: the `Student` that learns meanwhile.
        adversarial_weight: weight of the divergence that the generator makes larger; 1 / α.
        generator_every: the generator is updated in steps 0, generator_every, 2 generator_every...
            More than 1 is for one device: replicas cannot meet within a condition.
        seed: of labels and noise.
        **losses: the weights of the generator's other losses; see `zscgan.make_update`.

    Returns:
        A function of the step's number, called in replica context, that updates the generator if it
        is its turn, and makes new images. It returns the metrics of these (this replica's shares),
        and this replica's pixels, labels (None without classes) and logits of the teacher, in the
        dtype that the tap computes in.
    """
    num_classes = None if unconditional else tap.output_shape[0][-1]

    def adversarial_loss(pixels, logits):
        return -adversarial_weight * divergence(logits, student.logits(pixels))

    own_step = zscgan.make_update(
        generator,
        optimizer,
        tap,
        stored,
        input_spec,
        batch_size=batch_size,
        unconditional=unconditional,
        further_loss=adversarial_loss if adversarial_weight else None,
        seed=seed,
        **losses,
    )

    def train(index):
        own_step(index)
        return tf.constant(True)

    def update(index):
        if generator_every > 1:
            tf.cond(index % generator_every == 0, lambda: train(index), lambda: tf.constant(False))
        else:
            train(index)
        replicas = tf.distribute.get_replica_context()
        # Other streams than those of the generator's own step.
        *noise, labels = draw_inputs(generator, num_classes, batch_size, seed, index, stream=2)
        pixels = generator([*noise, labels], training=True)
        logits, *inputs = tap(input_spec.to_inputs(pixels), training=False)
        moments = [batch_moments(x, replicas) for x in inputs]
        share = 1 / replicas.num_replicas_in_sync
        metrics = {
            'bns_loss': share * zscgan.bns_loss(moments, stored),
            'entropy_loss': share * zscgan.entropy_loss(logits, replicas),
        }
        return metrics, pixels, None if unconditional else labels, logits

    return update
