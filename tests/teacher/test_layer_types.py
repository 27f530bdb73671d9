"""The table of layer types names classes that exist, and says nothing that contradicts itself."""

import os

os.environ.setdefault('KERAS_BACKEND', 'tensorflow')

import keras
import pytest
import tf_keras

from zscgan_tf.teacher import layers
from zscgan_tf.teacher.layer_types import LAYER_TYPES

# Names in files of old versions.
OLD = {'BatchNormalizationV1', 'BatchNormalizationV2', 'SyncBatchNormalization'}
OP_LAYERS = {'SlicingOpLambda', 'TFOpLambda'}


@pytest.mark.parametrize('name', sorted(LAYER_TYPES.keys() - OLD - OP_LAYERS))
def test_row(name):
    row = LAYER_TYPES[name]
    assert layers.classes_of(name) or hasattr(keras.layers, name)
    if row.keras3 is not None:
        assert hasattr(keras.layers, name) and hasattr(tf_keras.layers, name)
    assert bool(row.tflite_ops) == row.preserves_ranges
    assert not (row.dropped and (row.student or row.keras3 is not None))
    assert not (row.preserves_ranges and row.student is None)
