"""The head of a classifier: its last softmax or sigmoid, and the logits before it.

The losses and the distillation work on logits; the `.tflite` ends as the user's model ended. Both
models share their layers.
"""

import math

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UnsupportedError, UserError
from zscgan_tf.teacher.graphs import trace_back
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.layers import LogProbabilities
from zscgan_tf.teacher.teacher import Teacher

layers = tf_keras.layers

_RESHAPING = (layers.Reshape, layers.Flatten)
# Arithmetic that may stand behind a softmax or sigmoid.
_ELEMENTWISE = (
    *(*_RESHAPING, layers.Add, layers.Average, layers.Maximum, layers.Minimum),
    *(layers.ReLU, layers.Rescaling, layers.Subtract),
)
_WEIGHTED = (layers.BatchNormalization, layers.Conv2D, layers.Dense)
_PROBED_IMAGES = 8
# Far beyond the legal range answers leave [0, 1] unless the model keeps them there.
_PROBED_SCALES = (1, -1, 10, -10, 100, -100, 1000, -1000)
_SAME_PROBABILITY = 1e-3


def split_head(
    model: tf_keras.Model, input_spec: InputSpec, name: str
) -> tuple[tf_keras.Model, str]:
    """The logits of a flat classifier.

    Where the model does not end in a softmax or sigmoid, its answers to random images tell whether
    they are probabilities: not negative and of the sum 1, or those of a single unit in [0, 1]
    whatever the image. Several outputs that stay in [0, 1] without this sum are no logits either.

    Args:
        model: a flat model (`flatten`), inputs -> what the user's model returned.
        input_spec: its `InputSpec`.
        name: the model's name for messages.

    Returns:
        The model inputs -> logits, [B, K], and the head; see `Teacher`.

    Raises:
        UserError: the output is not one value a class, or something stands behind the softmax or
            sigmoid so that it gives no probabilities, or the outputs are neither logits nor the
            probabilities of one function.
    """
    sides = model.output_shape[1:]
    classes = math.prod(sides)
    if classes != max(sides, default=1):
        raise UserError(
            f'{name}: the output has the shape {model.output_shape}, but a classifier gives one '
            f'value a class: pass a model that ends in its classes.'
        )
    _, (end_node,) = trace_back(model.output, _RESHAPING)
    end, end_input = end_node.layer, end_node.keras_inputs[0]
    gives_probabilities = True
    if _function_of(end) == 'softmax' and classes == 1:
        raise UserError(
            f'{name} ends in a softmax of one unit, which gives 1 whatever the image: train it '
            f'with a sigmoid instead, or with one unit for each class.'
        )
    if _function_of(end) == 'softmax':
        logits, head = _vector(end_input), 'softmax'
    elif _function_of(end) == 'sigmoid':
        logits, head = _vector(end_input), 'sigmoid' if classes == 1 else 'labels'
    elif _gives_probabilities(model, end, input_spec):
        logits, head = _vector(model.output), 'probabilities'
        if classes == 1:
            logits = _two_classes(logits, [[-1.0, 1.0]], [1.0, 0.0])
        logits = LogProbabilities(name='log_probabilities', dtype='float32')(logits)
    elif _all_come_from_probabilities(model, _ELEMENTWISE):
        raise UserError(
            f"{name}: layer '{end.name}' behind the softmax or sigmoid makes the outputs something "
            f'else than probabilities: pass the model without it.'
        )
    elif classes > 1 and not _is_linear(end) and _stay_in_unit_interval(model, input_spec):
        raise UserError(
            f'{name}: its outputs lie in [0, 1] whatever the image, and do not add up to 1: pass a '
            f'model that ends in its logits, or in one sigmoid layer of all labels.'
        )
    else:
        logits, head = _vector(model.output), 'logits' if classes > 1 else 'sigmoid'
        gives_probabilities = False
    if classes == 1 and head == 'sigmoid':
        logits = _two_classes(logits, [[0.0, 1.0]], [0.0, 0.0])
    logits_model = tf_keras.Model(model.input, logits, name='teacher_logits')
    logits_model.trainable = False
    if gives_probabilities:
        _check_logits(model, logits_model, head, input_spec, name)
    return logits_model, head


def split_end(teacher: Teacher) -> tuple[tf_keras.Model, str | None]:
    """A teacher's model without its last softmax or sigmoid.

    Returns:
        The model, inputs -> what that function takes, in the shape of the teacher's output; and the
        function's name, or None where the teacher ends in logits.

    Raises:
        UserError: something stands behind the softmax or sigmoid.
    """
    if teacher.head == 'probabilities':
        raise UnsupportedError(
            f'{teacher.name} computes something behind its softmax or sigmoid, so no model ends in '
            f'its logits',
            'pass the model without it, or quantize with --method=ptq --range_estimator=tflite and '
            'without --output_head=logits.',
        )
    model = teacher.model
    reshaping, (end,) = trace_back(model.output, _RESHAPING)
    name = _function_of(end.layer)
    if name is None:
        return model, None
    x = end.keras_inputs[0]
    for node in reversed(reshaping):
        x = node.layer(x)
    return tf_keras.Model(model.input, x, name=model.name), name


def _all_come_from_probabilities(model, passing):
    """Whether every way back from the output through such layers meets a softmax or sigmoid."""
    return all(_function_of(node.layer) for node in trace_back(model.output, passing)[1])


def _gives_probabilities(model, end, input_spec):
    """Whether the outputs are probabilities, by what the model says to random images."""
    # The logit of a dense layer may lie in [0, 1] by chance, unless it adds up probabilities.
    single = math.prod(model.output_shape[1:]) == 1
    if single and _is_linear(end):
        if not _all_come_from_probabilities(model, (*_ELEMENTWISE, *_WEIGHTED)):
            return False
    for outputs in _probed(model, input_spec):
        totals = outputs.sum(axis=1)
        if np.any(outputs < -_SAME_PROBABILITY) or np.any(totals > 1 + _SAME_PROBABILITY):
            return False
        if not single and np.any(totals < 1 - _SAME_PROBABILITY):
            return False
    return True


def _stay_in_unit_interval(model, input_spec):
    """Whether each output lies in [0, 1], by what the model says to random images."""
    return all(
        np.all((outputs > -_SAME_PROBABILITY) & (outputs < 1 + _SAME_PROBABILITY))
        for outputs in _probed(model, input_spec)
    )


def _probed(model, input_spec):
    """The finite outputs, [N, K], for random images within the legal range and far beyond it."""
    images = _random_images(input_spec, seed=0)
    for scale in _PROBED_SCALES:
        outputs = _outputs(model, images * np.float32(scale))
        yield outputs[np.all(np.isfinite(outputs), axis=1)]


def _is_linear(layer):
    """Whether a layer has weights and no activation."""
    linear = tf_keras.activations.linear
    return isinstance(layer, _WEIGHTED) and getattr(layer, 'activation', linear) is linear


def _random_images(input_spec, seed):
    """Inputs within the legal range."""
    low, high = input_spec.input_range
    shape = (_PROBED_IMAGES, *input_spec.image_shape)
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def _outputs(model, images):
    """What a model gives, [B, K]."""
    return model(tf.constant(images), training=False).numpy().reshape(len(images), -1)


def _check_logits(model, logits_model, head, input_spec, name):
    """Refuses logits that do not give the probabilities of the model."""
    images = _random_images(input_spec, seed=1)
    outputs, logits = _outputs(model, images), _outputs(logits_model, images)
    probabilities = tf.sigmoid(logits) if head == 'labels' else tf.nn.softmax(logits)
    expected = outputs if outputs.shape[1] > 1 else np.concatenate([1 - outputs, outputs], axis=1)
    if not np.allclose(probabilities, expected, atol=_SAME_PROBABILITY):
        raise UserError(
            f'{name}: its outputs are not the probabilities that its last softmax or sigmoid '
            f'gives: pass a model that ends in it.'
        )


def _function_of(layer):
    """'softmax' or 'sigmoid' of a layer that is one of these, None of others."""
    if isinstance(layer, layers.Softmax):
        return 'softmax'
    activation = layer.activation if isinstance(layer, layers.Activation) else None
    names = {tf_keras.activations.softmax: 'softmax', tf_keras.activations.sigmoid: 'sigmoid'}
    return names.get(activation)


def _vector(x):
    """The outputs as [B, K]."""
    return x if x.shape.rank == 2 else layers.Flatten(name='logits_vector', dtype='float32')(x)


def _two_classes(x, kernel, bias):
    """[B, 1] to [B, 2] by constants."""
    layer = layers.Dense(2, name='two_classes', dtype='float32')
    y = layer(x)
    layer.set_weights([np.float32(kernel), np.float32(bias)])
    return y
