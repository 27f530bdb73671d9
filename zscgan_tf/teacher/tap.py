"""The tap: a teacher's logits and the inputs of all its batch norms in one forward pass.

The stored moments of these layers are what the BNS loss (paper, section 2.2) compares the moments
of generated images with. A layer that is used twice counts twice.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.teacher.graphs import nodes


@dataclasses.dataclass(frozen=True)
class StoredMoments:
    """The moments that one batch norm stores.

    Attributes:
        layer: the layer's name.
        mean, variance: float32 arrays, [C], a value for each index of the axis it normalizes.
        epsilon: what the layer itself adds to its variances.
    """

    layer: str
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


def is_batch_norm(layer: tf_keras.layers.Layer) -> bool:
    """Whether the layer is a batch norm, as those of TensorFlow 1 and the synchronized ones are."""
    return isinstance(layer, tf_keras.layers.BatchNormalization.__base__)


def batch_norm_inputs(model: tf_keras.Model) -> list[tuple[tf_keras.layers.Layer, tf.Tensor]]:
    """(layer, input tensor) of every use of a batch norm in a flat functional model, in order."""
    return [
        (node.layer, node.keras_inputs[0]) for node in nodes(model) if is_batch_norm(node.layer)
    ]


def build_tap(
    logits_model: tf_keras.Model, compute_dtype: str = 'float32'
) -> tuple[tf_keras.Model, list[StoredMoments]]:
    """The tap of a flat functional model.

    Args:
        logits_model: a tf_keras model, inputs -> logits.
        compute_dtype: 'float32', or 'bfloat16' for a copy of the model that computes in it.

    Returns:
        A model, inputs -> [logits, input of batch norm 1, ...], and the list of the
        `StoredMoments` of these batch norms. The last axis of each input is the one that its batch
        norm has moments for.
    """
    if compute_dtype != 'float32':
        logits_model = _with_dtype(logits_model, compute_dtype)
    used = batch_norm_inputs(logits_model)
    inputs = [_channels_last(layer, x, number) for number, (layer, x) in enumerate(used)]
    tap = tf_keras.Model(logits_model.inputs, [logits_model.output, *inputs])
    stored = [
        StoredMoments(
            layer.name,
            layer.moving_mean.numpy().astype(np.float32).ravel(),
            layer.moving_variance.numpy().astype(np.float32).ravel(),
            float(layer.epsilon),
        )
        for layer, _ in used
    ]
    return tap, stored


def _channels_last(layer, x, number):
    """A batch norm's input with the axis, or axes, that it normalizes as the last one.

    `number` makes the names of the new layers unlike all others.
    """
    axes = sorted(axis % x.shape.rank for axis in np.atleast_1d(layer.axis))
    if axes == [x.shape.rank - 1]:
        return x
    others = [axis for axis in range(1, x.shape.rank) if axis not in axes]
    name = f'{layer.name}/input_{number}'
    x = tf_keras.layers.Permute((*others, *axes), name=f'{name}/permute', dtype=x.dtype)(x)
    shape = (-1, math.prod(x.shape[len(others) + 1 :]))
    return tf_keras.layers.Reshape(shape, name=f'{name}/reshape', dtype=x.dtype)(x)


def _with_dtype(model, compute_dtype):
    """A frozen copy of a flat model that computes in another type; variables stay float32."""

    def clone(layer):
        return type(layer).from_config({**layer.get_config(), 'dtype': f'mixed_{compute_dtype}'})

    copy = tf_keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        layer.finalize_state()  # a Normalization computes with what was set
    copy.trainable = False
    return copy


@tf.custom_gradient
def _moments(x):
    """Mean and biased variance over all axes but the last of one device's float32 `x`.

    Two to three times as fast on a CPU as `tf.nn.moments` and its gradient, and the moments are a
    good part of a step: the gradient is written out, and the sums are `BiasAddGrad`, which is just
    that. A product with a vector of ones is no faster, and rounds its factors to a few digits where
    a device multiplies matrices in TensorFloat-32 or bfloat16.
    """
    rows = tf.reshape(x, [-1, x.shape[-1]])
    count = tf.cast(tf.shape(rows)[0], tf.float32)
    mean = tf.raw_ops.BiasAddGrad(out_backprop=rows) / count
    variance = tf.raw_ops.BiasAddGrad(out_backprop=tf.square(rows - mean)) / count

    def gradient(mean_gradient, variance_gradient):
        slope = 2 * variance_gradient / count
        return x * slope + (mean_gradient / count - slope * mean)

    return (mean, variance), gradient


def batch_moments(
    x: tf.Tensor, replicas: tf.distribute.ReplicaContext | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and biased variance of each channel over batch and positions, of the global batch.

    Moments are float32 whatever the type of `x`. Those of several replicas are combined by the law
    of total variance (differentiably), so that every replica has those of the global batch.

    Args:
        x: [B, ..., C].
        replicas: the `tf.distribute.ReplicaContext`, or None for one device.

    Returns:
        mean [C], variance [C].
    """
    mean, variance = _moments(tf.cast(x, tf.float32))
    if replicas is None or replicas.num_replicas_in_sync == 1:
        return mean, variance
    local_mean = mean
    mean = replicas.all_reduce(tf.distribute.ReduceOp.MEAN, local_mean)
    variance += tf.square(local_mean - mean)
    return mean, replicas.all_reduce(tf.distribute.ReduceOp.MEAN, variance)
