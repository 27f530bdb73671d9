"""The fingerprint of a teacher: a hash that ties a workdir to it."""

import hashlib
import json

import numpy as np
import tensorflow as tf
import tf_keras

from zscgan_tf.teacher.graphs import nodes_in_order
from zscgan_tf.teacher.layers import SelectChannels


def fingerprint(model: tf_keras.Model) -> str:
    """SHA-256 over the structure and the weights of a flat model, 64 hexadecimal digits.

    Names of layers do not count: Keras numbers them by what else a process has built.
    """
    digest = hashlib.sha256()
    numbers, layers = {}, {}
    for node in nodes_in_order(model.output, {}):
        layer = node.layer
        first_use = layer not in layers
        layers.setdefault(layer, len(layers))
        uses = {
            'class': _class_name(layer),
            'layer': layers[layer],
            'inputs': [numbers[id(x)] for x in node.keras_inputs],
            'config': _without_names(layer.get_config()) if first_use else None,
        }
        for x in tf.nest.flatten(node.outputs):
            numbers[id(x)] = len(numbers)
        digest.update(json.dumps(uses, sort_keys=True, default=str).encode())
        for weight in layer.get_weights() if first_use else ():
            digest.update(f'{weight.dtype.name}{weight.shape}'.encode())
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _class_name(layer):
    """The layer's class; a selection of channels counts as the convolution that it is."""
    return 'Conv2D' if isinstance(layer, SelectChannels) else type(layer).__name__


def _without_names(config):
    """A configuration without its names, nested ones included."""
    if isinstance(config, dict):
        return {k: _without_names(v) for k, v in config.items() if k != 'name'}
    if isinstance(config, (list, tuple)):
        return [_without_names(v) for v in config]
    return config
