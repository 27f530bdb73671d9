"""Where a classifier ends: its logits, whatever its head gives.

The losses and the distillation work on logits; the `.tflite` ends as the user's model ended. Both
models share their layers.
"""

import math

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.layers import LogProbabilities

_RESHAPING = (tf_keras.layers.Reshape, tf_keras.layers.Flatten)
_LINEAR = (
    tf_keras.layers.BatchNormalization,
    tf_keras.layers.Conv2D,
    tf_keras.layers.Dense,
    tf_keras.layers.GlobalAveragePooling2D,
    tf_keras.layers.Rescaling,
)
_PROBED_IMAGES = 8


def split_head(model, input_spec, name):
    """The logits of a flat classifier.

    Args:
        model: a flat model (`flatten`), inputs -> what the user's model returned.
        input_spec: its `InputSpec`; where no softmax or sigmoid is found, random images within
            the legal range tell whether the outputs are probabilities.
        name: the model's name for messages.

    Returns:
        The model inputs -> logits, [B, K], and the head; see `Teacher`.

    Raises:
        UserError: the output is not one value a class.
    """
    sides = model.output_shape[1:]
    classes = math.prod(sides)
    if classes != max(sides):
        raise UserError(
            f'{name}: the output has the shape {model.output_shape}, but a classifier gives one '
            f'value a class: pass a model that ends in its classes.'
        )
    end, end_input = _last_function(model)
    if _is_activation(end, 'softmax') and classes > 1:
        logits, head = _vector(end_input), 'softmax'
    elif _is_activation(end, 'sigmoid'):
        logits, head = _vector(end_input), 'sigmoid'
    elif isinstance(end, _LINEAR) and _is_linear(end):
        logits, head = _vector(model.output), 'logits'
    else:
        logits, head = _vector(model.output), _probe(model, input_spec)
    if head == 'probabilities':
        if classes == 1:
            logits = _two_classes(logits, [[-1.0, 1.0]], [1.0, 0.0])
        logits = LogProbabilities(name='log_probabilities', dtype='float32')(logits)
    elif classes == 1:
        logits = _two_classes(logits, [[0.0, 1.0]], [0.0, 0.0])
    head = 'sigmoid' if classes == 1 else head
    logits_model = tf_keras.Model(model.input, logits, name='teacher_logits')
    logits_model.trainable = False
    return logits_model, head


def _last_function(model):
    """The last layer that computes something, and its input there."""
    x = model.output
    while True:
        layer, node_index, _ = x._keras_history
        x = layer._inbound_nodes[node_index].keras_inputs[0]
        if not isinstance(layer, _RESHAPING):
            return layer, x


def _is_activation(layer, name):
    if isinstance(layer, tf_keras.layers.Activation):
        return layer.activation is getattr(tf_keras.activations, name)
    return name == 'softmax' and isinstance(layer, tf_keras.layers.Softmax)


def _is_linear(layer):
    return getattr(layer, 'activation', None) in (None, tf_keras.activations.linear)


def _vector(x):
    """The outputs as [B, K]."""
    if x.shape.rank == 2:
        return x
    return tf_keras.layers.Flatten(name='logits_vector', dtype='float32')(x)


def _two_classes(x, kernel, bias):
    """[B, 1] to [B, 2] by constants."""
    layer = tf_keras.layers.Dense(2, name='two_classes', dtype='float32')
    y = layer(x)
    layer.set_weights([np.float32(kernel), np.float32(bias)])
    return y


def _probe(model, input_spec):
    """'probabilities' or 'logits', from what the model says to random images."""
    low, high = input_spec.input_range
    shape = (_PROBED_IMAGES, *input_spec.image_shape)
    images = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
    outputs = model(tf.constant(images), training=False).numpy().reshape(_PROBED_IMAGES, -1)
    if outputs.shape[1] == 1:
        is_probability = outputs.min() >= 0 and outputs.max() <= 1
    else:
        is_probability = outputs.min() >= 0 and np.allclose(outputs.sum(1), 1, atol=1e-3)
    return 'probabilities' if is_probability else 'logits'
