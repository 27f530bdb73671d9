"""Loads a trained classifier, from a file or as an object, and makes it a `Teacher`.

Usage: teacher = load_teacher('model.h5')
"""

import os
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.atomic_files import check_local
from zscgan_tf.errors import UserError, first_line
from zscgan_tf.quiet import hidden_warnings
from zscgan_tf.teacher.fingerprint import fingerprint
from zscgan_tf.teacher.flattening.comparison import check_same
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.graphs import leading_nodes
from zscgan_tf.teacher.head import split_head
from zscgan_tf.teacher.input_fields import (
    FIELDS,
    merge_fields,
    read_fields,
    read_labels,
    resolve_image_shape,
    resolve_input_spec,
)
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.layers import affine_of
from zscgan_tf.teacher.reading.files import load_file
from zscgan_tf.teacher.reading.inputs import only_image_shape
from zscgan_tf.teacher.tap import batch_norm_inputs, is_batch_norm
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.user_code import import_function, is_function_name, one_line_errors

if TYPE_CHECKING:
    import keras


@hidden_warnings()
def load_teacher(
    source: 'str | os.PathLike | tf_keras.Model | keras.Model',
    *,
    input_spec: InputSpec | Mapping[str, object] | None = None,
    allow_code: bool = False,
    output_layer: str | None = None,
) -> Teacher:
    """A trained classifier as a `Teacher`.

    Args:
        source: a path (Keras 2 `.h5`, `.keras` or SavedModel directory, Keras 3 `.keras` or
            `.h5`), `package.module:function` for a function that returns a model, or a tf_keras or
            Keras 3 model.
        input_spec: an `InputSpec`; or a dict of its fields as flags give them, of `image_size`,
            `channels`, `mean`, `std`, `bgr`, `preprocessing`; missing ones come from the JSON
            beside the file (`model.json` for `model.h5`), from the model's input shape, or from
            the layers that the model starts with, such as a Rescaling or a Normalization. The JSON
            may have the names of the classes too, a list `labels`.
        allow_code: lets the source bring Python code: Lambda layers, or the function named.
        output_layer: the name of the output that classifies, of a model with several outputs.

    Raises:
        UserError: the source is no classifier that can be quantized; the message says why.
    """
    _check_settings()
    if isinstance(input_spec, InputSpec):
        explicit = {'bgr': False, **input_spec.to_dict()}
    else:
        explicit = {k: v for k, v in (input_spec or {}).items() if v is not None}
        unknown = sorted(explicit.keys() - set(FIELDS))
        if unknown:
            raise UserError(
                f'unknown field {unknown[0]} of an input specification: the fields are '
                f'{", ".join(FIELDS)}.'
            )
    model, label, name, stored, class_names = _open(source, allow_code)
    fields = merge_fields(explicit, stored)
    model_shape = _image_shape(model, label)
    model = _with_one_output(model, output_layer, label)
    image_shape = resolve_image_shape(model_shape, fields, label)
    try:
        flat = flatten(model, image_shape, label)
    except ValueError as error:
        size_is_open = model_shape is None or None in model_shape[:2]
        advice = 'pass another --image_size.' if size_is_open else 'does it predict such images?'
        raise UserError(
            f'{label} cannot take images of {image_shape[0]}x{image_shape[1]} '
            f'({first_line(error)}): {advice}'
        ) from error
    _check_weights(flat, label)
    _check_channels_last(flat, label)
    spec = resolve_input_spec(
        image_shape, fields, flat, label, stored=fields.keys() - explicit.keys()
    )
    check_same(model, flat, spec, label)
    logits_model, head = split_head(flat, spec, label)
    num_classes = logits_model.output_shape[1]
    if class_names is not None and len(class_names) != num_classes:
        raise UserError(
            f'{label} has {num_classes} classes, but the "labels" of the JSON beside it are '
            f'{len(class_names)}: correct the list, or remove it.'
        )
    return Teacher(
        model=flat,
        logits_model=logits_model,
        input_spec=spec,
        num_classes=num_classes,
        head=head,
        fingerprint=fingerprint(flat),
        name=name,
        class_names=class_names and tuple(class_names),
    )


def _check_settings():
    """Refuses settings of both Keras that models could not be read or built with."""
    try:
        import keras
    except ImportError as error:
        raise UserError(
            f'Keras 3 cannot be imported ({first_line(error)}): set the environment variable '
            f'KERAS_BACKEND=tensorflow, or if it is set, install keras again.'
        ) from error
    backend = keras.backend.backend()
    if backend != 'tensorflow':
        raise UserError(
            f'Keras 3 is set to {backend}: set the environment variable KERAS_BACKEND=tensorflow '
            f'before TensorFlow or Keras is imported.'
        )
    found = tf_keras.backend.image_data_format(), tf_keras.backend.floatx()
    if found != ('channels_last', 'float32'):
        raise UserError(
            f'Keras 2 (tf_keras) is set to {" and ".join(found)}: set "image_data_format" to '
            f'"channels_last" and "floatx" to "float32" in keras.json, in ~/.keras or $KERAS_HOME.'
        )


def _open(source, allow_code):
    """What a source is: the model, its name for messages, a short name, the JSON beside it.

    Of the JSON the fields of the input specification, and the names of the classes or None.
    """
    if isinstance(source, (str, os.PathLike)):
        check_local(source)
        path = pathlib.Path(source)
        if os.path.exists(path):  # no error where a folder cannot be entered
            # `.` and `..` have no names of their own.
            named = path if path.name not in ('', '..') else pathlib.Path(os.path.abspath(path))
            beside = named.parent / f'{named.name if path.is_dir() else named.stem}.json'
            found = os.path.exists(beside)
            stored, labels = (read_fields(beside), read_labels(beside)) if found else ({}, None)
            return load_file(path, allow_code), str(path), beside.stem, stored, labels
        if is_function_name(str(source)):
            return _call(str(source), allow_code), str(source), str(source).split(':')[1], {}, None
        raise UserError(f'{source}: no such file or directory.')
    if _is_model(source):
        return source, source.name, source.name, {}, None
    raise UserError(
        f'{type(source).__name__} is no teacher: pass a path, package.module:function, or a '
        f'tf_keras or Keras 3 model.'
    )


def _call(source, allow_code):
    """The model that the function `package.module:function` returns."""
    function = import_function(source, allow_code)
    with one_line_errors(source):
        model = function()
    if not _is_model(model):
        raise UserError(
            f'{source} returned a {type(model).__name__}: it must return a tf_keras or Keras 3 '
            f'model.'
        )
    return model


# Kinds of models


def _is_keras3(model):
    keras = sys.modules.get('keras')
    return keras is not None and isinstance(model, getattr(keras, 'Model', ()))


def _is_model(model):
    return isinstance(model, tf_keras.Model) or _is_keras3(model)


def _image_shape(model, label):
    """(height, width, channels) that a model names, None where it is open; None of an open model.

    A subclassed model knows what it was called with.
    """
    if not model.built:
        raise UserError(
            f'{label} has no weights yet: call it on a batch of images before it is passed.'
        )
    # Of the subclassed models, those of Keras 2 have None for inputs and outputs, others nothing.
    shapes = [x.shape for x in getattr(model, 'inputs', None) or ()]
    if not shapes and _is_keras3(model):
        shapes = (getattr(model, '_build_shapes_dict', None) or {}).values()
    elif not shapes:
        called_with = tf.nest.flatten(model.save_spec())
        shapes = [x.shape for x in called_with if isinstance(x, tf.TensorSpec)]
    return only_image_shape([tuple(shape) for shape in shapes], label) if shapes else None


def _with_one_output(model, output_layer, label):
    """The model up to the one output that classifies."""
    outputs = getattr(model, 'outputs', None) or ()
    # Keras 3's Sequential has no names of outputs, and one output.
    names = _numbered(getattr(model, 'output_names', None) or ['output'])
    if output_layer is None:
        if len(outputs) < 2:
            return model
        wrong = f'has {len(outputs)} outputs: pass the one that classifies as --output_layer'
    elif output_layer not in names:
        wrong = f'has no output {output_layer!r}: pass another --output_layer'
        wrong += ', or leave it out' if len(outputs) < 2 else ''
    elif len(outputs) < 2:
        return model
    else:
        functional = sys.modules['keras'].Model if _is_keras3(model) else tf_keras.Model
        return functional(model.inputs, outputs[names.index(output_layer)], name=model.name)
    known = [f"'{n}' {tuple(x.shape)}" for n, x in zip(names, outputs, strict=False)]
    raise UserError(f'{label} {wrong} ({", ".join(known) or "its outputs have no names"}).')


def _numbered(names):
    """The names, `name_1` and so on where one is there before, as tf_keras numbers outputs."""
    return [f'{n}_{names[:i].count(n)}' if n in names[:i] else n for i, n in enumerate(names)]


# Checks


def _check_channels_last(flat, label):
    """Refuses a model that begins by moving its channels behind height and width."""
    image = flat.input_shape[1:]
    for node in leading_nodes(flat):
        if affine_of(node.layer) is not None:
            continue
        moved = tuple(node.outputs.shape[1:])
        is_permuted = getattr(node.layer, 'dims', None) == (2, 3, 1)
        is_reshaped = isinstance(node.layer, tf_keras.layers.Reshape) and (
            image[0] == 1 < image[2] and moved == (*image[1:], 1)
        )
        if is_permuted or is_reshaped:
            raise UserError(
                f"{label}: layer '{node.layer.name}' takes the channels first: rebuild the model "
                f'with channels last (NHWC) and copy the weights.'
            )
        return


def _check_weights(flat, label):
    """Refuses weights that are not finite, and models without batch norm."""
    for layer in flat.layers:
        if not all(np.all(np.isfinite(weight)) for weight in layer.get_weights()):
            raise UserError(
                f"{label}: layer '{layer.name}' has weights that are not finite: train the model "
                f'again, or load a checkpoint from before it diverged.'
            )
        if is_batch_norm(layer) and np.any(np.asarray(layer.moving_variance) < 0):
            raise UserError(
                f"{label}: batch norm '{layer.name}' has a negative moving_variance: the file is "
                f'damaged, or was converted wrongly; save the trained model again.'
            )
    if not batch_norm_inputs(flat):
        raise UserError(
            f'{label} has no batch normalization: ZS-CGAN makes images from the means and '
            f'variances that batch norms store, so there is nothing to make them from.'
        )
