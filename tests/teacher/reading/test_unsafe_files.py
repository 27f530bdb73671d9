"""Python code in files never runs; damaged files and what is no model are refused in one line."""

import zipfile

import h5py
import keras
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import randomize
from tests.teacher.classifiers import (
    PLAIN,
    assert_loads_as,
    classifier,
    classifier3,
    images,
    refusal,
)
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers


# Python code in files


def test_lambda_layers_never_run(tmp_path):
    trace = tmp_path / 'trace'

    def touch(x, path=str(trace)):
        import tensorflow

        tensorflow.io.gfile.GFile(path, 'w').write('ran')
        return x * 2.0

    def model_of(wrap):
        x = start = tf_keras.Input((8, 8, 3))
        x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
        x = wrap(layers.Lambda(touch, name='sneaky'))(x)
        return tf_keras.Model(start, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))

    wrappers = {
        'plain': lambda layer: layer,
        'nested': lambda layer: tf_keras.Sequential([layer]),
        'wrapped': layers.TimeDistributed,
    }
    for name, wrap in wrappers.items():
        for form in (f'{name}.h5', f'{name}.keras', f'{name}_folder'):
            model_of(wrap).save(tmp_path / form)
            trace.unlink()
            refusal(tmp_path / form, "contains a Lambda layer 'sneaky'", '--allow_code')
            assert not trace.exists(), form
    teacher = load_teacher(tmp_path / 'plain.h5', input_spec=PLAIN, allow_code=True)
    assert trace.exists()
    assert 'Lambda' not in {type(layer).__name__ for layer in teacher.model.layers}


@pytest.mark.parametrize('form', ['model.h5', 'model.keras'])
def test_keras3_lambda_layers_never_run(tmp_path, form):
    trace = tmp_path / 'trace'

    def touch(x, path=str(trace)):
        import tensorflow

        tensorflow.io.gfile.GFile(path, 'w').write('ran')
        return x * 2.0

    sneaky = keras.layers.Lambda(touch, name='sneaky', output_shape=(4,))
    classifier3(before_the_head=sneaky).save(tmp_path / form)
    trace.unlink(missing_ok=True)
    for allow_code in (False, True):
        words = ("a Lambda layer 'sneaky'", 'with --allow_code neither', 'keras.ops', '--teacher=')
        refusal(tmp_path / form, *words, allow_code=allow_code)
        assert not trace.exists()


def rewritten(path, change):
    """Rewrites the configuration in an .h5 or .keras file as text."""
    if path.suffix == '.h5':
        with h5py.File(path, 'r+') as file:
            file.attrs['model_config'] = change(file.attrs['model_config'])
        return
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts['config.json'] = change(parts['config.json'].decode()).encode()
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@pytest.mark.parametrize('form', ['model.h5', 'model.keras'])
@pytest.mark.parametrize(
    'old, new, words',
    [
        ('"class_name": "Conv2D"', '"class_name": "Mine"', ['Mine', 'load_teacher']),
        ('"class_name": "Conv2D"', '"class_name": "TFSMLayer"', ['TFSMLayer']),
        ('"class_name": "Conv2D"', '"class_name": "Their>Conv2D"', ['Their>Conv2D']),
        (
            '"class_name": "GlorotUniform"',
            '"class_name": "__lambda__"',
            ['lambda function', '--allow_code'],
        ),
        ('"function": "nn.relu"', '"function": "io.read_file"', ['tf.io.read_file']),
        ('"class_name": "Conv2D"', '"class_name": ["Conv2D"]', ['Conv2D', 'not part of Keras']),
    ],
)
def test_what_is_not_keras_is_refused(tmp_path, form, old, new, words):
    path = tmp_path / form
    classifier().save(path)
    rewritten(path, lambda text: text.replace(old, new))
    refusal(path, *words)


def test_modules_from_outside_of_keras_are_refused(tmp_path):
    path = tmp_path / 'model.keras'
    classifier3().save(path)
    rewritten(path, lambda text: text.replace('"module": "keras.layers"', '"module": "os"'))
    refusal(path, 'not part of Keras')


@pytest.mark.parametrize('package', [tf_keras, keras], ids=['tf_keras', 'keras'])
@pytest.mark.parametrize('form', ['model.h5', 'model.keras'])
def test_layers_of_keras_that_can_not_be_quantized(tmp_path, package, form):
    kinds = package.layers
    makers = {
        'LSTM': lambda: kinds.LSTM(3, name='layer'),
        'Bidirectional': lambda: kinds.Bidirectional(kinds.GRU(3), name='layer'),
        'RNN': lambda: kinds.RNN(kinds.SimpleRNNCell(3), name='layer'),
        'Conv1DTranspose': lambda: kinds.Conv1DTranspose(3, 3, name='layer'),
        'Embedding': lambda: kinds.Embedding(9, 3, name='layer'),
        'EinsumDense': lambda: kinds.EinsumDense('abc,cd->abd', (64, 4), name='layer'),
    }
    for kind, make in makers.items():
        x = start = package.Input((8, 8, 3))
        x = kinds.Reshape((64, 3))(kinds.BatchNormalization()(x))
        model = package.Model(start, kinds.Dense(3)(kinds.Flatten()(make()(x))))
        model.save(tmp_path / form)
        message = refusal(tmp_path / form, "'layer'", kind, 'a Keras layer that cannot be quantiz')
        assert 'not part of Keras' not in message


@pytest.mark.parametrize('form', ['model.h5', 'model.keras', 'model_folder'])
def test_activations_of_the_users_own(tmp_path, form):
    def squash(x):
        return tf.nn.relu(x) + x

    model = tf_keras.Sequential(
        [
            layers.Conv2D(4, 3, activation=squash, name='c', input_shape=(8, 8, 3)),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    randomize(model).save(tmp_path / form)
    if form == 'model.keras':
        with tf_keras.utils.custom_object_scope({'squash': squash}):
            assert_loads_as(model, tmp_path / form, allow_code=True)
    message = refusal(tmp_path / form, "'c'", 'squash', 'not part of Keras')
    assert 'damaged' not in message


@pytest.mark.parametrize('layer', ['RandomGrayscale', 'RandAugment', 'AdaptiveAveragePooling2D'])
def test_newer_layers_of_keras3(tmp_path, layer):
    """Those that are translated are let through."""
    x = start = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(x)
    x = getattr(keras.layers, layer)(*([1] if layer.startswith('Adaptive') else []))(x)
    model = keras.Model(start, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    model.save(tmp_path / 'model.keras')
    assert_loads_as(model, tmp_path / 'model.keras')


def test_optimizers_of_nested_models_are_no_obstacle(tmp_path):
    inner = tf_keras.Sequential(
        [layers.Conv2D(4, 3, input_shape=(8, 8, 3)), layers.BatchNormalization()]
    )
    inner.compile('adam', 'mse', metrics=['mae'])
    model = randomize(tf_keras.Sequential([inner, layers.Flatten(), layers.Dense(3)]))
    model(images())
    model.compile(tf_keras.optimizers.SGD(), 'mse')
    model.save(tmp_path / 'model.keras')
    assert_loads_as(model, tmp_path / 'model.keras')


def test_what_keras3_can_not_read_back(tmp_path):
    classifier3(before_the_head=lambda x: x + 1.0).save(tmp_path / 'model.h5')
    refusal(tmp_path / 'model.h5', 'operation Add', 'model.save("model.keras")')


# Damaged files and things that are no models


def test_files_that_are_no_models(tmp_path):
    refusal(tmp_path / 'missing.h5', 'missing.h5', 'no such file')
    text = tmp_path / 'text.keras'
    text.write_text('weights: all of them')
    refusal(text, 'text.keras', 'is not a model file')
    empty = tmp_path / 'empty.h5'
    empty.touch()
    refusal(empty, 'is empty')
    (tmp_path / 'folder').mkdir()
    refusal(tmp_path / 'folder', 'saved_model.pb')
    with zipfile.ZipFile(tmp_path / 'other.keras', 'w') as archive:
        archive.writestr('hello', 'world')
    refusal(tmp_path / 'other.keras', 'config.json')
    with h5py.File(tmp_path / 'other.h5', 'w') as file:
        file['x'] = [1, 2, 3]
    refusal(tmp_path / 'other.h5', 'weights alone')
    refusal(3, 'int is no teacher')


@pytest.mark.parametrize('share', [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize('form', ['model.h5', 'model.keras'])
def test_truncated_files(tmp_path, form, share):
    path = tmp_path / form
    classifier().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refusal(path, form)


def test_damaged_saved_models(tmp_path):
    classifier().save(tmp_path / 'model')
    for name in ('variables/variables.index', 'keras_metadata.pb'):
        path = tmp_path / 'model' / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        refusal(tmp_path / 'model', 'damaged')
        path.write_bytes(content)
    (tmp_path / 'model' / 'variables' / 'variables.index').unlink()
    refusal(tmp_path / 'model', 'damaged')


def test_exported_directories_are_refused(tmp_path):
    classifier3().export(tmp_path / 'exported', verbose=False)
    refusal(tmp_path / 'exported', 'without Keras layers', '.keras')
    tf.saved_model.save(tf.Module(), tmp_path / 'plain')
    refusal(tmp_path / 'plain', 'without Keras layers')
