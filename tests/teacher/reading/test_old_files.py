"""Files of older versions of Keras 2 load; their layouts are written here from today's files."""

import io
import re
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf import saved_model_pb2
from tf_keras.protobuf import saved_metadata_pb2

from tests.conftest import randomize
from tests.teacher.classifiers import assert_loads_as, classifier, classifier3, refusal

layers = tf_keras.layers


def shared():
    """Two convolutions of one shape, one of them used twice; a model inside without weights."""
    x = start = tf_keras.Input((8, 8, 3))
    x = tf_keras.Sequential([layers.ReLU(), layers.RandomFlip()])(x)
    twice = layers.Conv2D(3, 3, padding='same')
    x = layers.Conv2D(3, 3, padding='same')(layers.BatchNormalization()(twice(twice(x))))
    block = tf_keras.Sequential([layers.Conv2D(3, 1), layers.BatchNormalization(), layers.ReLU()])
    x = layers.Conv2D(3, 3)(block(x))
    return randomize(tf_keras.Model(start, layers.Dense(4)(layers.GlobalMaxPooling2D()(x))))


MODELS = {
    'functional': classifier,
    'nested': lambda: classifier('nested'),
    'sequential': lambda: classifier('sequential'),
    'shared': shared,
}


def of_keras_2_14(name):
    return re.sub(r'\blayers/', '_layer_checkpoint_dependencies/', name)


def of_keras_2_13(name):
    """Keras 2.13 counts a layer with weights twice, and one without once."""

    def count(match):
        kind, number = match.groups()
        # In the models above, only the nested one without weights stands before one of its class.
        doubled = 2 * int(number or 0) - (kind == 'sequential' and number is not None)
        return f'layers/{kind}' + (f'_{doubled}' if doubled else '')

    return of_keras_2_14(re.sub(r'layers/([a-z0-9_]+?)(?:_(\d+))?(?=/)', count, name))


def of_windows(name):
    head, middle, tail = name.rpartition('/vars')
    return head.replace('/', '\\') + middle + tail


def of_both(name):
    return of_windows(of_keras_2_14(name))


def rewrite(path, renamed, version):
    """Renames the groups of the weights in a .keras file."""
    archive, buffer = zipfile.ZipFile(io.BytesIO(path.read_bytes())), io.BytesIO()
    weights = h5py.File(io.BytesIO(archive.read('model.weights.h5')))
    with h5py.File(buffer, 'w') as file:

        def copy(name, part):
            if isinstance(part, h5py.Dataset):
                file[renamed(name)] = part[()]
            elif name.split('/')[-1] == 'vars':
                file.require_group(renamed(name))

        weights.visititems(copy)
    with zipfile.ZipFile(path, 'w') as out:
        out.writestr('metadata.json', f'{{"keras_version": "{version}"}}')
        out.writestr('config.json', archive.read('config.json'))
        out.writestr('model.weights.h5', buffer.getvalue())


@pytest.mark.parametrize('kind', MODELS)
@pytest.mark.parametrize('renamed', [of_keras_2_13, of_keras_2_14, of_windows, of_both])
def test_keras_files_of_older_layout(tmp_path, kind, renamed):
    model = MODELS[kind]()
    path = tmp_path / 'model.keras'
    model.save(path)
    rewrite(path, renamed, '2.14.0')
    # They cannot be read by chance: today's tf_keras refuses them.
    with pytest.raises((KeyError, ValueError)):
        tf_keras.models.load_model(path)
    assert_loads_as(model, path)


def test_the_numbers_of_keras_2_13():
    """As the real Keras 2.13 wrote them."""
    assert of_keras_2_13('layers/conv2d_2/vars/0').split('/')[1] == 'conv2d_4'
    assert of_keras_2_13('layers/conv2d/vars/0').split('/')[1] == 'conv2d'
    assert of_keras_2_13('layers/sequential_1/layers/conv2d_1/vars/0').endswith('conv2d_2/vars/0')


def test_keras3_files_with_backslashes(tmp_path):
    model = classifier3()
    model.save(tmp_path / 'model.keras')
    rewrite(tmp_path / 'model.keras', of_windows, '3.0.0')
    assert_loads_as(model, tmp_path / 'model.keras')


@pytest.mark.parametrize('kind', MODELS)
def test_saved_models_of_tensorflow_2_0_to_2_4(tmp_path, kind):
    model = MODELS[kind]()
    folder = tmp_path / 'model'
    model.save(folder)
    in_the_graph_of_objects(folder)
    assert_loads_as(model, folder)


def in_the_graph_of_objects(folder):
    """Moves what Keras writes about the layers to where TensorFlow 2.0 to 2.4 had it."""
    path = folder / 'saved_model.pb'
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    metadata = folder / 'keras_metadata.pb'
    for node in saved_metadata_pb2.SavedMetadata.FromString(metadata.read_bytes()).nodes:
        place = saved.meta_graphs[0].object_graph_def.nodes[node.node_id]
        place.user_object.metadata = node.metadata
    path.write_bytes(saved.SerializeToString())
    metadata.unlink()


def test_what_old_saved_models_name_is_checked(tmp_path):
    trace = tmp_path / 'trace'

    def touch(x, path=str(trace)):
        import tensorflow

        tensorflow.io.gfile.GFile(path, 'w').write('ran')
        return x

    x = start = tf_keras.Input((8, 8, 3))
    x = layers.Lambda(touch, name='sneaky')(layers.BatchNormalization()(x))
    tf_keras.Model(start, layers.Dense(3)(layers.Flatten()(x))).save(tmp_path / 'model')
    trace.unlink()
    in_the_graph_of_objects(tmp_path / 'model')
    refusal(tmp_path / 'model', "a Lambda layer 'sneaky'", '--allow_code')
    assert not trace.exists()


def test_a_saved_model_cut_off_or_without_keras(tmp_path):
    classifier().save(tmp_path / 'model')
    in_the_graph_of_objects(tmp_path / 'model')
    path = tmp_path / 'model' / 'saved_model.pb'
    path.write_bytes(path.read_bytes()[:1000])
    refusal(tmp_path / 'model', 'damaged')
    tf.saved_model.save(tf.Module(), tmp_path / 'plain')
    refusal(tmp_path / 'plain', 'without Keras layers')


def test_the_content_counts_not_the_name(tmp_path):
    model = classifier()
    model.save(tmp_path / 'model.keras')
    (tmp_path / 'model.keras').rename(tmp_path / 'model.zip')
    assert_loads_as(model, tmp_path / 'model.zip')


def test_weights_compressed_afterwards(tmp_path):
    """Somebody's tool wrote the archive and the weights in it anew, smaller."""
    model = classifier()
    path = tmp_path / 'model.keras'
    model.save(path)
    archive, buffer = zipfile.ZipFile(io.BytesIO(path.read_bytes())), io.BytesIO()
    weights = h5py.File(io.BytesIO(archive.read('model.weights.h5')))
    with h5py.File(buffer, 'w') as file:

        def copy(name, part):
            if isinstance(part, h5py.Dataset):
                file.create_dataset(name, data=np.asarray(part), compression='gzip')

        weights.visititems(copy)
        file.require_group('vars')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as out:
        for name in archive.namelist():
            data = buffer.getvalue() if name == 'model.weights.h5' else archive.read(name)
            out.writestr(name, data)
    assert_loads_as(model, path)
