"""Whether a flat model computes what the original computes, on random images.

Probabilities tell little where a softmax is saturated: a whole network may be wrong behind them. So
both models are compared in what their last softmax or sigmoid takes, found in the graph of
TensorFlow operations that each of them runs.
"""

import re
import sys
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError

# Largest difference between the flat model's answers and the original's, as a share of the
# deviation of the original's, or of a hundredth of the largest: float32 rounding stays well below,
# another function well above.
_SAME = 1e-3
# The same for an original that computes in 16 bits and of which no float32 copy can be made.
_SAME_IN_HALF = 0.3
_HALF_TYPES = ('bfloat16', 'float16', 'mixed_bfloat16', 'mixed_float16')
# Operations between the last softmax or sigmoid and the output.
_BEHIND_THE_END = frozenset(
    """
    Add AddN AddV2 Cast ClipByValue ExpandDims Identity Maximum Minimum Mul Neg RealDiv Relu Relu6
    Reshape Squeeze Sub
    """.split()
)
_ENDS = ('Softmax', 'Sigmoid')


def check_same(model: object, flat: tf_keras.Model, input_spec: object, label: str) -> None:
    """Refuses a flat model that answers differently from the original.

    Args:
        model: the original, a tf_keras or Keras 3 model.
        flat: its flat copy.
        input_spec: its `InputSpec`.
        label: the model's name for messages.

    Raises:
        UserError: they differ, or TensorFlow cannot run them on this machine.
    """
    low, high = input_spec.input_range
    rng = np.random.default_rng(0)
    # As many at a time as the original is made for. Of one image alone a squeeze drops the batch.
    inputs = getattr(model, 'inputs', None)
    batch = (inputs[0].shape[0] if inputs else None) or 2
    images = rng.uniform(low, high, (2, batch, *input_spec.image_shape)).astype(np.float32)
    # Whole numbers: the original may take uint8.
    images = np.rint(images) if np.max(high - low) > 100 else images
    tolerance, reference = _SAME, model
    if any(layer.compute_dtype in _HALF_TYPES for layer in model._flatten_layers()):
        reference = _in_float32(model)
        if reference is None:
            tolerance, reference = _SAME_IN_HALF, model
    try:
        expected, answers = (_answers(m, images) for m in (reference, flat))
    except tf.errors.OpError as error:
        # Of oneDNN alone: depthwise convolutions with unequal strides, say. The reason stands
        # before the node, which has the layer's name.
        found = re.search(r'([^\n}]+)\n\s*\[\[\{\{node (\S+?)\}\}', error.message)
        reason = ' in '.join(found.groups()).strip() if found else error.message.splitlines()[0]
        raise UserError(
            f'{label} cannot be run on this machine ({reason[:200]}): does it predict such images '
            f'here? TF_ENABLE_ONEDNN_OPTS=1 in the environment may help.'
        ) from error
    if [x.shape for x in expected] != [x.shape for x in answers]:
        # The softmaxes of the two graphs are not the same: their outputs alone are compared.
        expected, answers = expected[:1], answers[:1]
    differences = [_difference(a, b) for a, b in zip(expected, answers, strict=True)]
    if not max(differences) <= tolerance:
        raise UserError(
            f'{label} cannot be taken apart: its copy of built-in layers gives other answers (by '
            f'{max(differences):.2g} of their deviation). Probably a layer of your own is called '
            f'like one of Keras and computes something else: rebuild the model with that of Keras.'
        )


def _difference(expected, answers):
    if expected.shape != answers.shape:
        return np.inf
    # Answers of one unit to noise may be almost alike: float32 rounds them, whatever they have in
    # common.
    scale = max(expected.std(), 0.01 * np.abs(expected).max(), 1e-6)
    return np.abs(answers - expected).max() / scale


def _answers(model, images):
    """A model's outputs, and behind them what each of its last softmaxes or sigmoids takes.

    Of several batches of images, [N, B, H, W, C].
    """

    def run(batch):
        output = tf.nest.flatten(model(batch, training=False))[0]
        return [tf.cast(x, tf.float32) for x in (output, *_end_inputs(output))]

    images = [tf.constant(batch) for batch in images]
    try:
        traced = tf.function(run, autograph=False)
        answers = [traced(batch) for batch in images]
    except tf.errors.OpError:
        raise
    # Whatever the user's own code raises where it is no graph: its outputs alone.
    except Exception:
        answers = [run(batch) for batch in images]
    return [np.concatenate([x.numpy() for x in parts]) for parts in zip(*answers, strict=True)]


def _end_inputs(output):
    """The inputs of the softmaxes and sigmoids that an output is plain arithmetic of.

    A tensor that was computed eagerly has no graph, so there are none.
    """
    if tf.is_tensor(output) and hasattr(output, 'numpy'):
        return []
    end_inputs, seen, pending = [], set(), [output]
    while pending:
        x = pending.pop(0)
        if x.ref() in seen:
            continue
        seen.add(x.ref())
        if x.op.type in _ENDS:
            end_inputs.append(x.op.inputs[0])
        elif x.op.type in _BEHIND_THE_END:
            pending.extend(x.op.inputs)
    return end_inputs


def _in_float32(model):
    """A copy of a model that computes in float32, or None where its class has no configuration."""
    library = tf_keras if isinstance(model, tf_keras.Model) else sys.modules['keras']
    own = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    try:
        with library.utils.custom_object_scope(own):
            copy = type(model).from_config(without_half(model.get_config()))
        copy.set_weights([np.float32(weight) for weight in model.get_weights()])
        for layer in copy._flatten_layers():
            if hasattr(layer, 'finalize_state'):  # a Normalization keeps what its weights give
                layer.finalize_state()
    # What user's classes raise that cannot be made of a configuration.
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return None
    return copy


def without_half(value: Any) -> Any:
    """A configuration without types of 16 bits."""
    if isinstance(value, dict):
        return {
            key: 'float32' if isinstance(part, str) and part in _HALF_TYPES else without_half(part)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        parts = [without_half(part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value
