"""Checks that a model takes images and nothing else, by Keras or by its file's configuration."""

import pathlib
from collections.abc import Sequence

from zscgan_tf.errors import UserError


def only_image_shape(
    inputs: Sequence[tuple[int | None, ...]], label: str
) -> tuple[int | None, int | None, int | None]:
    """(height, width, channels) of a model's only input, None where it is open.

    Args:
        inputs: the shapes of all its inputs, batch included.
        label: the model, for messages.

    Raises:
        UserError: it takes no images, or something beside them.
    """
    if len(inputs) != 1:
        raise UserError(f'{label} has {len(inputs)} inputs: a classifier takes images alone.')
    shape = tuple(inputs[0])
    if len(shape) != 4:
        raise UserError(
            f'{label} takes inputs of shape {shape}: a classifier of images takes [batch, height, '
            f'width, channels].'
        )
    return shape[1:]


def check_takes_images(config: object, path: pathlib.Path) -> None:
    """Refuses the configuration of a model that takes no images.

    Of a model for texts this says more than the first of its layers that cannot be quantized. A
    configuration that does not tell its inputs is let through: the model is asked later.

    Args:
        config: the parsed configuration of the model.
        path: the file, for messages.

    Raises:
        UserError: it takes something else.
    """
    inputs = _input_shapes(config)
    if inputs:
        only_image_shape(inputs, path)


def _input_shapes(config):
    """The shapes of a model's inputs, as far as its configuration tells all of them."""
    shape = None
    while isinstance(config, dict):
        inner = config.get('config')
        # The oldest files have a list of layers there.
        layers = inner.get('layers') if isinstance(inner, dict) else inner
        if not isinstance(layers, list):
            break
        inputs = [layer for layer in layers if _is_input(layer)]
        if inputs:
            shapes = [_own_shape(layer) for layer in inputs]
            return [] if None in shapes else shapes
        # A Sequential takes what its first layer takes, which may be a model. Where it was built by
        # a call it tells the shape itself, better than an Embedding that leaves it open.
        shape = shape or _built_shape(config)
        config = layers[0] if layers and 'input_layers' not in inner else None
    shape = shape or _own_shape(config)
    return [] if shape is None else [shape]


def _is_input(layer):
    return isinstance(layer, dict) and layer.get('class_name') == 'InputLayer'


def _own_shape(layer):
    """The shape of inputs that a layer was made with."""
    inner = layer.get('config') if isinstance(layer, dict) else None
    if not isinstance(inner, dict):
        return None
    # As Keras 2 and as Keras 3 name it.
    return _shape(inner.get('batch_input_shape')) or _shape(inner.get('batch_shape'))


def _built_shape(model):
    """The shape of images that a model without an input layer was built for."""
    inner, built = model.get('config'), model.get('build_config')
    shape = _shape(inner.get('build_input_shape')) if isinstance(inner, dict) else None
    return shape or (_shape(built.get('input_shape')) if isinstance(built, dict) else None)


def _shape(value):
    """A shape in a configuration as a tuple; None of anything else."""
    if isinstance(value, dict):
        value = value.get('items')
    if not isinstance(value, list) or not value:
        return None
    return tuple(value) if all(n is None or isinstance(n, int) for n in value) else None
