"""Convertibility: whether TFLite can quantize a teacher, before its generator is trained.

The converter answers in words of its compiler, often without a layer's name. So where it fails,
each kind of layer is converted by itself.
"""

import dataclasses
import json

import numpy as np
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.graphs import call_copy, nodes
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite import audit
from zscgan_tf.tflite.converter import make_converter, run_converter
from zscgan_tf.tflite.flatbuffer import read_model
from zscgan_tf.tflite.options import TfliteCalibrationOptions


def check_convertible(teacher: Teacher, **options: object) -> None:
    """Refuses a teacher that TFLite's post-training quantization fails on.

    Args:
        teacher: a `Teacher`.
        **options: any field of `TfliteCalibrationOptions`, in place of the value of `small`.

    Raises:
        UserError: with the name of a layer that fails, or that stays in float and may not.
    """
    resolved = TfliteCalibrationOptions.resolve('small', options, teacher)
    try:
        _convert(teacher.model, teacher.name, resolved)
    except UserError as error:
        raise explained(teacher, resolved, error) from error


def explained(teacher: Teacher, options: TfliteCalibrationOptions, error: UserError) -> UserError:
    """The `UserError` of a conversion that failed with one: of the layer that fails alone too."""
    layer = _layer_at_fault(teacher.model, options)
    if layer is None:
        return error
    advice = ''
    if not options.allow_float_ops and _fits(
        layer, dataclasses.replace(options, allow_float_ops=True)
    ):
        advice = f', {audit.KEEP_FLOAT}'
    return UserError(
        f"{teacher.name}: TFLite cannot quantize layer '{layer.name}' ({_kind(layer)}): rebuild "
        f'the model with other layers there{advice}.'
    )


def _layer_at_fault(model, options):
    """The first layer that cannot be converted alone, of those set alike one; None if all can."""
    seen = set()
    for node in nodes(model):
        config = {**node.layer.get_config(), 'name': type(node.layer).__name__}
        settings = json.dumps(config, sort_keys=True, default=str)
        if settings not in seen and not _fits(node.layer, options):
            return node.layer
        seen.add(settings)
    return None


def _fits(layer, options):
    """Whether a layer converts by itself; True where it cannot be called alone."""
    node = layer._inbound_nodes[0]
    inputs = [tf_keras.Input(x.shape[1:]) for x in node.keras_inputs]
    try:
        output = call_copy(layer, inputs)
    except (TypeError, ValueError):  # of several arguments
        return True
    try:
        _convert(tf_keras.Model(inputs, output), layer.name, options)
    except UserError:
        return False
    return True


def _convert(model, name, options):
    """Converts a model with random values, and audits the file; all failures are `UserError`s."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(1, *x.shape[1:])).astype(np.float32) for x in model.inputs]
    data = run_converter(make_converter(model, options), name, lambda _: [values, values])
    audit.audit_model(read_model(data), options.allow_float_ops)


def _kind(layer):
    """A layer's class, with its activation if it has one."""
    activation = getattr(layer, 'activation', None)
    name = getattr(activation, '__name__', None)
    return type(layer).__name__ + (f' {name}' if name not in (None, 'linear') else '')
