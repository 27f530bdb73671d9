"""Every format gives the original's answers; what is no classifier is refused in one line."""

import errno
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.teacher.classifiers import (
    PLAIN,
    assert_loads_as,
    classifier,
    classifier3,
    functional,
    images,
    pooled,
    refusal,
)
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers


# Formats


@pytest.mark.parametrize('kind', ['functional', 'sequential', 'nested'])
@pytest.mark.parametrize('form', ['model.h5', 'model.keras', 'model_folder'])
def test_keras2_files(tmp_path, kind, form):
    model = classifier(kind, activation='softmax')
    model.compile('adam', 'categorical_crossentropy')
    path = tmp_path / form
    model.save(path)
    teacher = assert_loads_as(model, path)
    assert (teacher.head, teacher.num_classes) == ('softmax', 4)
    assert teacher.name == form.split('.')[0]
    assert teacher.fingerprint == load_teacher(model, input_spec=PLAIN).fingerprint


@pytest.mark.parametrize('form', ['model.h5', 'model.keras'])
def test_keras3_files(tmp_path, form):
    model = classifier3()
    model.compile('adam', 'mse')
    model.save(tmp_path / form)
    teacher = assert_loads_as(model, tmp_path / form)
    assert (teacher.head, teacher.num_classes) == ('logits', 4)


def test_keras3_objects():
    assert_loads_as(classifier3(), classifier3())


def test_hdf5_content_counts_not_the_name(tmp_path):
    model = classifier()
    model.save(tmp_path / 'model.h5')
    (tmp_path / 'model.h5').rename(tmp_path / 'model.keras')
    assert_loads_as(model, tmp_path / 'model.keras')


def test_hdf5_content_of_keras3_counts_not_the_name(tmp_path):
    model = classifier3()
    model.save(tmp_path / 'model.h5')
    (tmp_path / 'model.h5').rename(tmp_path / 'model.hdf')
    assert_loads_as(model, tmp_path / 'model.hdf')


def test_no_room_to_unpack(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, 'No space left on device')

    classifier().save(tmp_path / 'model.keras')
    monkeypatch.setattr('shutil.copyfileobj', full)
    refusal(tmp_path / 'model.keras', 'no room to unpack it in', 'TMPDIR')


def test_one_unit_without_an_axis_of_classes():
    unit = layers.Dense(1, activation='sigmoid')
    model = functional(
        lambda x: unit(pooled(layers.BatchNormalization()(layers.Conv2D(4, 3)(x))))[:, 0]
    )
    teacher = load_teacher(model, input_spec=PLAIN)
    assert (teacher.head, teacher.num_classes) == ('sigmoid', 2)


def test_subclassed_models_come_in_through_python(tmp_path, monkeypatch):
    code = """
import tensorflow as tf
import tf_keras

class Net(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution = tf_keras.layers.Conv2D(4, 3)
        self.norm = tf_keras.layers.BatchNormalization()
        self.classes = tf_keras.layers.Dense(3)

    def call(self, x, training=None):
        x = tf.nn.relu(self.norm(self.convolution(x), training=training))
        return self.classes(tf.reduce_mean(x, [1, 2]))

def build():
    model = Net()
    model(tf.zeros((1, 8, 8, 3)))
    return model

def not_a_model():
    return 3

def broken():
    return 1 / 0
"""
    (tmp_path / 'their_model.py').write_text(code)
    monkeypatch.chdir(tmp_path)
    refusal('their_model:build', '--allow_code')
    teacher = load_teacher('their_model:build', input_spec=PLAIN, allow_code=True)
    assert teacher.input_spec.image_shape == (8, 8, 3)
    assert teacher.name == 'build'
    model = randomize(sys.modules['their_model'].build())
    assert_loads_as(model, model)
    refusal('their_model:missing', 'no function missing', allow_code=True)
    refusal('their_model:not_a_model', 'returned a int', allow_code=True)
    refusal('their_model:broken', 'failed (ZeroDivisionError: division by zero)', allow_code=True)
    refusal('no_such_package:build', 'no_such_package', allow_code=True)
    # A file of such a model names a class that is not Keras'.
    sys.modules['their_model'].build().save(tmp_path / 'saved')
    refusal(tmp_path / 'saved', 'Net', 'load_teacher')


def test_an_unbuilt_model_is_refused():
    refusal(tf_keras.Sequential([layers.Conv2D(4, 3)]), 'no weights yet')


# What is no classifier that can be quantized


def test_refusals():
    norm = layers.BatchNormalization
    refusal(functional(pooled), 'net has no batch normalization')
    refusal(functional(lambda x: [pooled(norm()(x)), pooled(x)]), '2 outputs')
    x, y = tf_keras.Input((8, 8, 3)), tf_keras.Input((8, 8, 3))
    refusal(tf_keras.Model([x, y], pooled(norm()(x) + y)), '2 inputs')
    flat = functional(lambda x: layers.Dense(3)(norm()(x)), (5,))
    refusal(flat, 'shape (None, 5)', 'height')
    refusal(functional(lambda x: pooled(norm()(x)), (None, None, 3)), 'image_size')
    refusal(functional(lambda x: layers.Conv2D(4, 3)(norm()(x))), 'shape (None, 6, 6, 4)')
    refusal(functional(lambda x: pooled(norm(axis=1, name='b')(x))), "'b' takes the channels first")
    broken = functional(lambda x: pooled(norm(name='bad')(x)))
    broken.get_layer('bad').moving_variance.assign([1.0, np.nan, 1.0])
    refusal(broken, "'bad'", 'not finite')
    broken.get_layer('bad').moving_variance.assign([1.0, -0.5, 1.0])
    refusal(broken, "'bad'", 'negative moving_variance')


def test_settings_of_keras_that_models_would_inherit_are_refused(monkeypatch):
    backend = tf_keras.backend
    for name, value in (('image_data_format', 'channels_first'), ('floatx', 'float64')):
        old = getattr(backend, name)()
        getattr(backend, f'set_{name}')(value)
        try:
            refusal(functional(pooled), 'tf_keras', value, 'keras.json')
        finally:
            getattr(backend, f'set_{name}')(old)
    monkeypatch.setattr(keras.backend, 'backend', lambda: 'jax')
    refusal(functional(pooled), 'Keras 3 is set to jax', 'KERAS_BACKEND=tensorflow')


def test_programs_run_keras_3_on_tensorflow_whatever_is_set(tmp_path):
    (tmp_path / 'keras.json').write_text('{"backend": "torch"}')
    code = (
        'from zscgan_tf.quiet import import_tensorflow as i; i(); import keras; keras.Input((1,))'
    )
    environment = {**os.environ, 'KERAS_BACKEND': 'torch', 'KERAS_HOME': str(tmp_path)}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)


@pytest.mark.parametrize('library', [tf_keras, keras], ids=['tf_keras', 'keras'])
@pytest.mark.parametrize('channels', [3, 1])
def test_channels_that_a_model_moves_back_are_refused(library, channels):
    k = library.layers
    images = library.Input((channels, 8, 9))
    x = k.Permute((2, 3, 1), name='moved')(k.Rescaling(0.5)(images))
    x = k.GlobalAveragePooling2D()(k.BatchNormalization()(k.Conv2D(4, 3)(x)))
    refusal(library.Model(images, k.Dense(4)(x)), "'moved' takes the channels first")
    images = library.Input((channels, 8, 9))
    x = k.Reshape((8, 9, 1), name='moved')(images) if channels == 1 else images
    x = k.GlobalAveragePooling2D()(k.BatchNormalization()(k.Conv2D(4, 1)(x)))
    model = library.Model(images, k.Dense(4)(x))
    if channels == 1:
        refusal(model, "'moved' takes the channels first")
    else:
        load_teacher(model, input_spec={'mean': 0.5, 'std': 0.5})


def test_outputs_of_one_name():
    k = keras.layers
    images = keras.Input((8, 8, 3))
    x = k.Flatten()(k.BatchNormalization()(k.Conv2D(4, 3)(images)))
    inner = keras.Model(images, [k.Dense(4)(x), k.Dense(6)(x)], name='inner')
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, inner(images))
    refusal(model, "'inner' (None, 4), 'inner_1' (None, 6)")
    spec = {'preprocessing': 'unit'}
    assert load_teacher(model, input_spec=spec, output_layer='inner').num_classes == 4
    assert load_teacher(model, input_spec=spec, output_layer='inner_1').num_classes == 6


def test_a_squeeze_that_would_drop_a_batch_of_one():
    k = keras.layers
    images = keras.Input((8, 8, 3))
    x = k.BatchNormalization()(k.Conv2D(4, 3)(images))
    x = keras.ops.squeeze(keras.ops.mean(x, (1, 2), keepdims=True))
    model = keras.Model(images, k.Dense(4)(x))
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    pixels = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(teacher.logits(pixels), np.asarray(model(pixels)), atol=1e-5)


def test_one_unit_that_answers_noise_almost_alike():
    """The answers are alike to 6 digits, and Keras 3 rounds otherwise."""
    k = keras.layers
    images = keras.Input((8, 8, 3))
    x = k.GlobalAveragePooling2D()(k.BatchNormalization()(k.Conv2D(4, 3)(images)))
    end = k.Dense(1, bias_initializer=keras.initializers.Constant(5.03))
    model = keras.Model(images, end(x))
    end.kernel.assign(np.full((4, 1), 1e-5, np.float32))
    load_teacher(model, input_spec={'preprocessing': 'unit'})


def test_a_folder_that_is_named_by_a_dot_has_its_json(tmp_path, monkeypatch):
    classifier('functional').save(tmp_path / 'net', save_format='tf')
    (tmp_path / 'net.json').write_text('{"preprocessing": "caffe"}')
    monkeypatch.chdir(tmp_path / 'net')
    teacher = load_teacher('.')
    assert (teacher.name, teacher.input_spec.bgr) == ('net', True)


def test_a_file_in_a_folder_that_cannot_be_entered(monkeypatch):
    def denied(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(os, 'stat', denied)
    with pytest.raises(UserError, match='/closed/model.h5: no such file'):
        load_teacher('/closed/model.h5')


@pytest.mark.parametrize('library', [tf_keras, keras], ids=['tf_keras', 'keras'])
def test_one_of_two_outputs(library):
    k = library.layers
    x = images = library.Input((8, 8, 3))
    x = k.Flatten()(k.BatchNormalization()(k.Conv2D(4, 3)(x)))
    ends = [k.Dense(4, name='kind')(x), k.Dense(6, name='place')(x)]
    model = library.Model(images, ends, name='net')
    refusal(model, 'net has 2 outputs', '--output_layer', "'kind' (None, 4), 'place' (None, 6)")
    refusal(model, "no output 'top'", "'kind' (None, 4)", output_layer='top')
    pixels = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    for index, name in enumerate(('kind', 'place')):
        teacher = load_teacher(model, input_spec={'preprocessing': 'unit'}, output_layer=name)
        np.testing.assert_allclose(
            teacher.logits(pixels), np.asarray(model(pixels)[index]), atol=1e-5
        )


def test_what_takes_no_images_is_told_first():
    x = tf_keras.Input((20, 5))
    model = tf_keras.Model(x, [layers.LSTM(4)(x), layers.Dense(3)(x)], name='net')
    refusal(model, 'takes inputs of shape (None, 20, 5)', 'image')


def test_an_open_image_size_is_taken_from_the_specification():
    model = functional(lambda x: pooled(layers.BatchNormalization()(x)), (None, None, 3))
    teacher = load_teacher(model, input_spec={**PLAIN, 'image_size': [10, 9]})
    assert teacher.input_spec.image_size == (10, 9)
    assert teacher.logits(np.zeros((2, 10, 9, 3), np.float32)).shape == (2, 4)


def test_weights_that_need_another_image_size():
    def body(x):
        x = layers.BatchNormalization()(layers.Conv2D(2, 3)(x))
        return layers.Dense(3)(layers.Reshape((-1,))(x))

    model = functional(body)
    refusal(model, '8x8x3', '9x9', input_spec={**PLAIN, 'image_size': (9, 9)})


def test_the_input_may_be_whole_numbers():
    x = start = tf_keras.Input((8, 8, 3), dtype='uint8')
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(x)))
    teacher = load_teacher(randomize(tf_keras.Model(start, pooled(x))))
    assert teacher.input_spec.std == pytest.approx((1 / 255,) * 3)
    assert teacher.model.inputs[0].dtype == tf.float32


@pytest.mark.parametrize('policy', ['mixed_bfloat16', 'mixed_float16'])
def test_mixed_precision_becomes_float32(policy):
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        model = functional(lambda x: pooled(layers.BatchNormalization()(layers.Conv2D(4, 3)(x))))
    finally:
        tf_keras.mixed_precision.set_global_policy('float32')
    teacher = load_teacher(model, input_spec=PLAIN)
    assert {layer.compute_dtype for layer in teacher.logits_model.layers} == {'float32'}


def test_keras3_models_with_open_image_size_and_subclassed():
    images = keras.Input((None, None, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(images))
    model = keras.Model(images, keras.layers.Dense(4)(keras.layers.GlobalMaxPooling2D()(x)))
    refusal(model, 'no fixed image size')
    teacher = load_teacher(model, input_spec={**PLAIN, 'image_size': (9, 7)})
    assert teacher.input_spec.image_shape == (9, 7, 3)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()
            self.end = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])

        def call(self, x, training=None):
            return self.end(self.norm(x, training=training))

    model = Net()
    refusal(model, 'no weights yet')
    model(np.zeros((2, 8, 8, 3), np.float32))
    assert_loads_as(model, model)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['MobileNetV3Small', 'EfficientNetB0'])
@pytest.mark.parametrize('package', [tf_keras, keras], ids=['tf_keras', 'keras'])
def test_applications_that_scale_their_own_images(tmp_path, name, package):
    model = getattr(package.applications, name)(weights=None, input_shape=(64, 64, 3), classes=9)
    if package is tf_keras:
        randomize(model)
        for layer in model.layers:
            if isinstance(layer, tf_keras.layers.Normalization):  # of pixels
                layer.set_weights([np.zeros(3), np.ones(3), 0])
    model.save(tmp_path / 'model.keras')
    teacher = load_teacher(tmp_path / 'model.keras')
    assert (teacher.head, teacher.num_classes) == ('softmax', 9)
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    expected = np.log(np.asarray(model(x, training=False)))
    found = np.log(teacher.model(x).numpy())
    assert np.abs(found - expected).max() <= 1e-5 * max(expected.std(), 1e-2)
    np.testing.assert_allclose(teacher.input_spec.std, 1 / 255)


@pytest.mark.slow
def test_real_teachers(shared_folder):
    for name, head, classes, norms in (
        ('resnet20_cifar10_jpeg', 'logits', 10, 19),
        ('mobilenet_v1_075_imagenet', 'softmax', 1000, 27),
    ):
        path = shared_folder / 'teachers' / f'{name}.h5'
        teacher = load_teacher(path)
        assert (teacher.head, teacher.num_classes) == (head, classes)
        kinds = [type(layer).__name__ for layer in teacher.model.layers]
        assert kinds.count('BatchNormalization') == norms
        original = tf_keras.models.load_model(path, compile=False)
        x = images(2, teacher.input_spec.image_shape)
        expected = original(x).numpy()
        assert np.abs(teacher.model(x) - expected).max() <= 1e-5 * expected.std()
