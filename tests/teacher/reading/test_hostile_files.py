"""Files that a stranger made to do harm are refused in one line, or load and do none."""

import json
import os
import time

import keras
import numpy as np
import pytest
import tf_keras
from tf_keras.protobuf import saved_metadata_pb2

from tests.teacher.classifiers import images, refusal
from tests.teacher.reading import hostile
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.loading import load_teacher

SECRET = np.array([12.5, 13.5, 14.5, 15.5], np.float32)


def net(package):
    layers = package.layers
    return package.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(6, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation='softmax'),
        ]
    )


@pytest.fixture(scope='module')
def harmless(tmp_path_factory):
    """Files of both Keras: {(package, suffix): (path, answers)}."""
    folder = tmp_path_factory.mktemp('harmless')
    found = {}
    for package in (tf_keras, keras):
        model = net(package)
        for suffix in ('.keras', '.h5'):
            path = folder / f'{package.__name__}{suffix}'
            model.save(path)
            found[package.__name__, suffix] = (path, np.asarray(model(images(), training=False)))
    return found


def cases():
    for package in ('tf_keras', 'keras'):
        for kind in hostile.KINDS:
            yield package, '.keras', kind
            # HDF5 attributes have no module beside a class and no compile settings.
            if kind in hostile.WEIGHTS or kind in (
                'class of the model',
                'deep configuration',
                'function of os',
                'huge layer',
                'layer larger than the file',
                'pickle',
            ):
                yield package, '.h5', kind


@pytest.mark.parametrize('package, suffix, kind', cases())
def test_hostile_files(tmp_path, harmless, package, suffix, kind):
    base, expected = harmless[package, suffix]
    (tmp_path / 'inside').mkdir()
    path = tmp_path / 'inside' / f'model{suffix}'
    secret = tmp_path / 'secret'
    secret.write_bytes(SECRET.tobytes())
    hostile.write(kind, base, path, secret)
    before = sorted(tmp_path.rglob('*'))
    start = time.process_time()
    try:
        teacher = load_teacher(path, input_spec={'preprocessing': 'tf'})
    except UserError as error:
        message = str(error)
        assert '\n' not in message and message.startswith(str(path)) and len(message) < 600
        assert kind not in hostile.MAY_LOAD, message
    else:
        assert kind in hostile.MAY_LOAD
        np.testing.assert_allclose(teacher.model(images()), expected, rtol=1e-4)
    # Nothing ran, nothing was unpacked or allocated.
    assert sorted(tmp_path.rglob('*')) == before
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    'kind, words',
    [
        ('huge layer', ["layer 'dense", 'weights of 44.7 GB', "this machine's memory of"]),
        ('layer larger than the file', ["layer 'dense", 'weights of 45.8 MB', 'the file holds']),
        ('weights that unpack to much', ['model.weights.h5', 'unpacks to 300 MB']),
        ('dataset of a gigabyte', ['tensors take 1 GB']),
        ('dataset of terabytes', ['tensors take 4 TB', "this machine's memory of"]),
        ('huge image', ["layer 'u'", 'for one image']),
        ('deep configuration', ['nested too deeply']),
        ('external storage', ['in another file']),
        ('external link', ['is a link']),
        ('virtual dataset', ['in another file']),
        ('function of Python', ['function eval', 'not part of Keras']),
        ('function of Keras that loads', ['function load_model', 'no activation']),
        ('pickle', ['TorchModuleWrapper', 'a Keras layer that cannot be quantized here']),
        ('vocabulary', ['StringLookup', 'a Keras layer that cannot be quantized here']),
        ('class of the model', ['subprocess.Popen', 'not part of Keras']),
    ],
)
@pytest.mark.parametrize('package', ['tf_keras', 'keras'])
def test_the_message_says_what_is_wrong(tmp_path, harmless, package, kind, words):
    path = tmp_path / 'model.keras'
    secret = tmp_path / 'secret'
    secret.write_bytes(SECRET.tobytes())
    hostile.write(kind, harmless[package, '.keras'][0], path, secret)
    assert 'damaged' not in refusal(path, *words)


def test_saved_models_ask_for_no_more_than_they_hold(tmp_path):
    net(tf_keras).save(tmp_path / 'model')
    metadata = tmp_path / 'model' / 'keras_metadata.pb'
    content = saved_metadata_pb2.SavedMetadata.FromString(metadata.read_bytes())
    root = next(node for node in content.nodes if node.node_path == 'root')
    for units, words in ((2_000_000_000, 'memory of'), (2_000_000, 'the file holds')):
        config = json.loads(root.metadata)
        config['config']['layers'][-1]['config']['units'] = units
        root.metadata = json.dumps(config)
        metadata.write_bytes(content.SerializeToString())
        refusal(tmp_path / 'model', 'asks for weights of', words)


def test_saved_models_may_be_folders_of_links(tmp_path):
    """As caches of downloads are."""
    model = net(tf_keras)
    model.save(tmp_path / 'model')
    for name in os.listdir(tmp_path / 'model' / 'variables'):
        file = tmp_path / 'model' / 'variables' / name
        file.rename(tmp_path / name)
        file.symlink_to(tmp_path / name)
    teacher = load_teacher(tmp_path / 'model', input_spec={'preprocessing': 'tf'})
    np.testing.assert_allclose(teacher.model(images()), model(images()), rtol=1e-4)


def test_bytes_that_are_no_weights_are_noticed_in_saved_models(tmp_path):
    """A link to a file of the user's is of no use: TensorFlow compares checksums."""
    net(tf_keras).save(tmp_path / 'model')
    data = tmp_path / 'model' / 'variables' / 'variables.data-00000-of-00001'
    (tmp_path / 'secret').write_bytes(os.urandom(data.stat().st_size))
    data.unlink()
    data.symlink_to(tmp_path / 'secret')
    refusal(tmp_path / 'model', 'damaged')
