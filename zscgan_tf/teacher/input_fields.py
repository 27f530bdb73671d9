"""Which input specification a model has: by flags, the JSON beside its file, and its first layers.

A field of the specification is what one flag gives: `image_size` for --image_size.
"""

import json
import os
from collections.abc import Collection, Mapping

import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.options import is_count
from zscgan_tf.teacher.first_layers import first_layers
from zscgan_tf.teacher.input_spec import UNIT_NAMES, InputSpec

FIELDS = ('image_size', 'channels', 'mean', 'std', 'bgr', 'preprocessing')


def read_fields(path: str | os.PathLike) -> dict[str, object]:
    """The fields of an input specification's JSON file; other keys are ignored.

    Raises:
        UserError: the file is not a JSON object, a field has another type, or there is a
            preprocessing and a mean or deviation too.
    """
    fields = _read(path)
    for name, kind, words in (('preprocessing', str, 'a text'), ('bgr', bool, 'true or false')):
        if not isinstance(fields.get(name), (kind, type(None))):
            raise UserError(f'{path}: "{name}" must be {words}: correct it, or remove it.')
    for name in ('image_size', 'channels'):
        values = fields.get(name)
        values = values if isinstance(values, list) else [values]
        if not all(isinstance(value, (int, type(None))) for value in values):
            raise UserError(f'{path}: "{name}" must be of whole numbers: correct it, or remove it.')
    found = {name: fields[name] for name in FIELDS if fields.get(name) is not None}
    if _is_twofold(found):
        raise UserError(
            f'{path}: has "preprocessing" and a "mean" or "std" too: remove one of them.'
        )
    return found


def read_labels(path: str | os.PathLike) -> list[str] | None:
    """The names of the classes in such a file, its `labels`; None where it has none.

    Raises:
        UserError: the file is not a JSON object, or its labels are no list of texts.
    """
    labels = _read(path).get('labels')
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(
            f'{path}: "labels" must be a list of texts, the name of each class in order: correct '
            f'it, or remove it.'
        )
    return labels


def _read(path):
    try:
        with open(path, encoding='utf-8') as file:
            fields = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path}: not a readable JSON input specification ({error}).') from error
    if not isinstance(fields, dict):
        raise UserError(f'{path}: an input specification is a JSON object, not a list or value.')
    return fields


def merge_fields(explicit: Mapping[str, object], stored: Mapping[str, object]) -> dict[str, object]:
    """Fields of an input specification, explicit ones before those of a JSON file.

    Raises:
        UserError: the explicit ones have a preprocessing and a mean or deviation too.
    """
    if _is_twofold(explicit):
        raise UserError(
            'The input specification has both a preprocessing and a mean or std: pass either '
            '--preprocessing, or --mean and --std.'
        )
    merged = dict(stored)
    # A preprocessing is mean, deviation and channel order in one: the two forms do not mix.
    if 'preprocessing' in explicit:
        merged = {k: v for k, v in merged.items() if k not in FIELDS[2:]}
    elif 'mean' in explicit or 'std' in explicit:
        merged.pop('preprocessing', None)
    return {**merged, **explicit}


def resolve_image_shape(
    model_shape: tuple[int | None, ...] | None, fields: Mapping[str, object], name: str
) -> tuple[int, int, int]:
    """(height, width, channels) of the images that a model takes.

    Args:
        model_shape: the model's own, None where it is open; or None where nothing is known.
        fields: of the input specification; see `merge_fields`.
        name: the model's name for messages.

    Raises:
        UserError: both sides contradict each other, or neither tells.
    """
    model_shape = (None, None, None) if model_shape is None else tuple(model_shape)
    size, channels = fields.get('image_size'), fields.get('channels')
    if size is not None:
        size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        size = size * 2 if len(size) == 1 else size
        if len(size) != 2 or not all(is_count(side) for side in size):
            raise UserError(f'--image_size={fields["image_size"]}: pass height,width in pixels.')
    if channels is not None and not is_count(channels):
        raise UserError(f'--channels={channels}: pass a positive number.')
    wanted = (*(size or (None, None)), channels)
    pairs = list(zip(wanted, model_shape, strict=True))
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise UserError(
            f'{name} takes images of {_sides(model_shape)} (height x width x channels), but the '
            f'input specification says {_sides(wanted)}: correct --image_size or --channels, or '
            f'the JSON beside the model.'
        )
    shape = tuple(a if b is None else b for a, b in pairs)
    if None in shape[:2]:
        raise UserError(f'{name} has no fixed image size: pass --image_size=height,width.')
    if shape[2] is None:
        raise UserError(f'{name} has no fixed number of channels: pass --channels.')
    return shape


def _is_twofold(fields):
    """Whether fields give a preprocessing, and a mean or deviation beside it."""
    return 'preprocessing' in fields and ('mean' in fields or 'std' in fields)


def _sides(shape):
    return 'x'.join('?' if side is None else str(side) for side in shape)


def resolve_input_spec(
    image_shape: tuple[int, int, int],
    fields: Mapping[str, object],
    flat_model: tf_keras.Model,
    name: str,
    stored: Collection[str] = (),
) -> InputSpec:
    """The `InputSpec` of a model.

    Args:
        image_shape: (height, width, channels), see `resolve_image_shape`.
        fields: of the input specification; see `merge_fields`.
        flat_model: the flat model; what it begins with tells where `fields` do not.
        name: the model's name for messages.
        stored: the fields that come from a JSON beside the file, for messages.

    Raises:
        UserError: nothing tells how pixels become inputs, or the fields contradict the model's own
            first layers.
    """
    *size, channels = image_shape
    own = first_layers(flat_model, channels)
    given = [field for field in ('preprocessing', 'mean', 'std') if field in fields]
    if given:
        try:
            spec = _spec_of_fields(tuple(size), channels, fields)
        except UserError as error:
            used = {*given, 'bgr'} & fields.keys()
            flags = ' and the flags' if used - set(stored) else ''
            where = f' in the JSON beside the file{flags}:' if used & set(stored) else ''
            raise UserError(f'{name}:{where} {error}') from error
        _check_against(own, spec, given, stored, name)
        return spec
    plausible = own.plausible_units() if own else []
    if len(plausible) != 1:
        raise UserError(_question(name, channels, own))
    spec = InputSpec.from_preprocessing(tuple(size), channels, plausible[0])
    return spec.with_bgr(fields.get('bgr'))


def _spec_of_fields(size, channels, fields):
    """The `InputSpec` of a preprocessing, or of a mean and a deviation."""
    if 'preprocessing' in fields:
        spec = InputSpec.from_preprocessing(size, channels, fields['preprocessing'])
        return spec.with_bgr(fields.get('bgr'))
    if ('mean' in fields) != ('std' in fields):
        given, missing = ('mean', 'std') if 'mean' in fields else ('std', 'mean')
        raise UserError(f'--{given} is given without --{missing}: pass both.')
    bgr = bool(fields.get('bgr'))
    try:
        return InputSpec(size, channels, fields['mean'], fields['std'], bgr)
    except (TypeError, ValueError) as error:
        raise UserError(f'--mean and --std must be numbers ({error}).') from error


def _check_against(own, spec, given, stored, name):
    """Refuses a preprocessing that contradicts what the model's own first layers do."""
    if own is None or not own.by_constants:
        return
    plausible = own.plausible_units()
    if len(plausible) != 1 or own.is_plausible(*spec.input_range):
        return
    if set(given) <= set(stored):
        advice = f'remove {" and ".join(given)} from the JSON beside the file'
    else:
        advice = f'leave {" and ".join(f"--{field}" for field in given)} out'
    low, high = spec.input_range
    raise UserError(
        f'{name} rescales pixels of {UNIT_NAMES[plausible[0]]} itself, in its first layers '
        f'({own.describe()}); the inputs that were asked for, {low.min():.4g}...{high.max():.4g}, '
        f'do not fit: {advice}.'
    )


def _question(name, channels, own):
    """The message that asks for a preprocessing."""
    seen = 'nothing tells' if own is None else f'its first layers ({own.describe()}) do not tell'
    choices = [
        ('--preprocessing=unit', 'pixels / 255: most training code of Keras users'),
        ('--preprocessing=raw', 'pixels of 0...255 as they are'),
        ('--preprocessing=torch', 'PyTorch, torchvision'),
        ('--preprocessing=tf', 'pixels in [-1, 1]: MobileNet V1, V2, Inception, ResNetV2 of Keras'),
        ('--preprocessing=caffe', 'BGR less its mean: ResNet, VGG of Keras'),
    ]
    if channels != 3:
        of_colours = ('--preprocessing=torch', '--preprocessing=caffe')
        choices = [choice for choice in choices if choice[0] not in of_colours]
    lines = '\n'.join(f'  {flag:<23} ({meaning})' for flag, meaning in choices)
    return (
        f'{name}: {seen} which inputs the model was trained on: pass --preprocessing, or --mean '
        f'and --std, or put a JSON beside the file. The most common are:\n{lines}'
    )
