"""Flat copies of models and layers that are classes of the user's own."""

import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.teacher.flattening.test_flatten import assert_same, end, make, names
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.flattening.flatten import flatten

layers = tf_keras.layers


class Block(layers.Layer):
    """A composite layer as users write them: sublayers, operations, a list, `training`."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.convolutions = [layers.Conv2D(channels, 3, padding='same') for _ in range(2)]
        self.norm = layers.BatchNormalization()

    def call(self, x, training=None):
        y = x
        for convolution in self.convolutions:
            y = tf.nn.relu(self.norm(convolution(y), training=training))
        return x + y


class Scale(layers.Layer):
    """Own weights in plain arithmetic, and no sublayers."""

    def build(self, shape):
        self.scale = self.add_weight('scale_kernel', shape[-1:])

    def call(self, x):
        return x * self.scale


class Plain(layers.Layer):
    def call(self, x):
        return tf.nn.relu(x) * 3.0


class OwnNorm(layers.BatchNormalization):
    """A subclass that adds nothing to how it works."""

    def __init__(self, momentum=0.9, **kwargs):
        super().__init__(momentum=momentum, **kwargs)


class Classifier(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.stem = tf_keras.Sequential([layers.Conv2D(4, 3), OwnNorm(), Plain()])
        self.blocks = tf_keras.Sequential([Block(4), Block(4)])
        self.scale = Scale()
        self.head = layers.Dense(5)

    def call(self, x, training=False):
        x = self.scale(self.blocks(self.stem(x, training=training), training=training))
        return self.head(tf.reduce_mean(x, axis=[1, 2]))


def test_subclassed_model():
    model = Classifier()
    model(tf.zeros((1, 8, 8, 3)))
    flat = flatten(randomize(model), (8, 8, 3))
    assert_same(model, flat)
    assert names(flat).count('BatchNormalization') == 3
    batch_norms = [x for x in flat.layers if isinstance(x, layers.BatchNormalization)]
    assert type(batch_norms[0]) is layers.BatchNormalization


def test_composite_layers_in_a_functional_model():
    block = Block(3)
    model = make(lambda x: end(block(block(x))))
    flat = flatten(model)
    assert_same(model, flat)
    assert names(flat).count('BatchNormalization') == 1


@pytest.mark.parametrize('error', [AssertionError, KeyError, IndexError, NotImplementedError])
def test_whatever_a_layer_raises_is_told_in_one_line(error):
    class Strict(layers.Layer):
        def call(self, x):
            if x.shape[0] is None:
                raise error('a batch of unknown size')
            return x + 1.0

    images = tf_keras.Input((8, 8, 3), batch_size=4)
    x = Strict(name='strict')(layers.BatchNormalization()(layers.Conv2D(4, 3)(images)))
    model = tf_keras.Model(images, end(x))
    with pytest.raises(UserError, match="'strict' of class Strict cannot be followed layer by la"):
        flatten(model)


def test_training_that_is_passed_on_by_position():
    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.block = Block(3)

        def call(self, x, training=None):
            return self.block(x, training)

    model = make(lambda x: end(Outer()(x)))
    assert_same(model, flatten(model))


_TF2CV = """
import numpy as np, tensorflow as tf
from tf2cv.model_provider import get_model
from tests.conftest import randomize
from zscgan_tf.teacher.loading import load_teacher
model = get_model('{name}')
model(tf.zeros((1, 224, 224, 3)))
randomize(model)
teacher = load_teacher(model, input_spec={{'preprocessing': 'torch'}})
x = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype('float32')
expected = model(x, training=False).numpy()
difference = np.abs(teacher.logits_model(x).numpy() - expected).max() / expected.std()
assert difference <= 1e-5, difference
count = lambda modules: sum('BatchNorm' in type(x).__name__ for x in modules)
assert count(teacher.model.layers) == count(model.submodules) >= {norms}
print(teacher.num_classes, teacher.head)
"""


@pytest.mark.slow
@pytest.mark.parametrize('name, norms', [('resnet18', 20), ('mobilenetv2_w1', 52)])
def test_subclassed_models_of_tf2cv(name, norms):
    pytest.importorskip('tf2cv')
    # tf2cv is written for Keras 2; TensorFlow decides on import which Keras `tf.keras` is.
    environment = {**os.environ, 'TF_USE_LEGACY_KERAS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    run = subprocess.run(
        [sys.executable, '-c', _TF2CV.format(name=name, norms=norms)],
        cwd=pathlib.Path(__file__).parents[3],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == ['1000', 'logits']
