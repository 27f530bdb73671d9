"""Model files: reads `.h5`, `.keras` and SavedModel directories into Keras models.

Every configuration is checked (`configuration`) before Keras deserializes it, and so is what a
file may allocate (`sizes`) or read (`hdf5`). Files that Keras 3 wrote are read with Keras 3, all
others with tf_keras.
"""

import errno
import json
import math
import pathlib
import shutil
import tempfile
import zipfile
from typing import TYPE_CHECKING

import h5py
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf import saved_model_pb2
from tf_keras.protobuf import saved_metadata_pb2

from zscgan_tf.errors import UserError, first_line
from zscgan_tf.teacher.reading.configuration import check_configuration, dicts_in
from zscgan_tf.teacher.reading.hdf5 import check_hdf5, rename_groups
from zscgan_tf.teacher.reading.inputs import check_takes_images
from zscgan_tf.teacher.reading.sizes import bounded_weights, check_outputs, check_unpacked

if TYPE_CHECKING:
    import keras

_FORMATS = 'pass a Keras .keras or .h5 file, or a SavedModel directory written by tf_keras'
# Far more than any network's configuration takes.
_CONFIG_BYTES = 256 * 2**20
_WEIGHTS = 'model.weights.h5'


def load_file(path: pathlib.Path, allow_code: bool = False) -> 'tf_keras.Model | keras.Model':
    """The model of a file or SavedModel directory.

    Args:
        path: an existing file or directory.
        allow_code: lets Lambda layers through.

    Returns:
        A tf_keras model, or a Keras 3 model where Keras 3 wrote the file.

    Raises:
        UserError: it is no model, is damaged, names something that is not Keras' or another file,
            or would take more memory than there is.
    """
    try:
        model = _load(path, allow_code)
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(
            f'{path}: its configuration is nested too deeply for a model: do not trust this file.'
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise _unreadable(path, error) from error
        raise UserError(
            f'{path}: there is no room to unpack it in {tempfile.gettempdir()}: free some space, '
            f'or set TMPDIR to another folder.'
        ) from error
    # Whatever a file's bytes make of h5py, zipfile, TensorFlow and Keras.
    except Exception as error:
        raise _unreadable(path, error) from error
    check_outputs(model, path)
    return model


def _unreadable(path, error):
    return UserError(
        f'{path} cannot be read, it may be damaged or cut off ({first_line(error)}): {_FORMATS}.'
    )


def _load(path, allow_code):
    if path.is_dir():
        return _load_saved_model(path, allow_code)
    try:
        with open(path, 'rb') as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}.') from error
    if start.startswith(b'\x89HDF\r\n\x1a\n'):
        return _load_hdf5(path, allow_code)
    if start.startswith(b'PK'):
        return _load_keras_zip(path, allow_code)
    what = 'is empty' if not start else 'is not a model file'
    raise UserError(f'{path} {what}: {_FORMATS}.')


def _load_hdf5(path, allow_code):
    size = path.stat().st_size
    with h5py.File(path, 'r') as file:
        check_hdf5(file, size, path)
        config = file.attrs.get('model_config')
        version = _text(file.attrs.get('keras_version', '2'))
    if config is None:
        raise UserError(
            f'{path} holds weights alone, without the model: save the whole model with '
            f'model.save().'
        )
    config = json.loads(_text(config))
    keras3 = _is_keras3_version(version)
    check_takes_images(config, path)
    if keras3:
        _refuse_operations(config, path)
    check_configuration(config, path, allow_code, keras3)
    with bounded_weights(size, path):
        if keras3:
            with tempfile.TemporaryDirectory(prefix='zscgan_') as folder:
                named = pathlib.Path(folder) / 'model.h5'  # Keras 3 goes by the name
                named.symlink_to(path.resolve())
                return _load_keras3(named, allow_code)
        with h5py.File(path, 'r') as file:
            return tf_keras.models.load_model(file, compile=False)


def _refuse_operations(config, path):
    """Refuses what Keras 3 writes to .h5 but cannot read back: operations such as x + 1."""
    for part in dicts_in(config):
        inner = part.get('config')
        if 'inbound_nodes' not in part or not isinstance(inner, dict):
            continue
        # Only layers have a dtype, and only models have layers.
        if 'dtype' not in inner and 'layers' not in inner:
            raise UserError(
                f"{path}: '{inner.get('name')}' is the operation {part.get('class_name')}, which "
                f'Keras 3 cannot read back from an .h5 file: save the model with '
                f'model.save("model.keras").'
            )


def _load_keras_zip(path, allow_code):
    with zipfile.ZipFile(path) as archive:
        config = _member(archive, 'config.json')
        metadata = _member(archive, 'metadata.json')
        keras3 = _is_keras3_version(str(metadata.get('keras_version', '2')))
        # Optimizer, loss and metrics are left out of what is deserialized.
        config.pop('compile_config', None)
        check_takes_images(config, path)
        check_configuration(config, path, allow_code, keras3)
        with tempfile.TemporaryDirectory(prefix='zscgan_') as folder:
            weights = _unpacked_weights(archive, pathlib.Path(folder), path)
            # What was checked and nothing else: other members of the archive stay there.
            clean = pathlib.Path(folder) / 'model.keras'
            with zipfile.ZipFile(clean, 'w') as file:
                file.writestr('config.json', json.dumps(config))
                file.writestr('metadata.json', json.dumps(metadata))
                file.write(weights, _WEIGHTS)
            with bounded_weights(weights.stat().st_size, path):
                if keras3:
                    return _load_keras3(clean, allow_code)
                return tf_keras.models.load_model(clean, compile=False, safe_mode=not allow_code)


def _load_keras3(path, allow_code):
    """The model of a file whose configuration was checked."""
    import keras  # takes a second, which files of Keras 2 do not need

    return keras.saving.load_model(path, compile=False, safe_mode=not allow_code)


def _unpacked_weights(archive, folder, path):
    """The file of weights in a `.keras` file, checked and as Keras names its groups today."""
    packed = archive.getinfo(_WEIGHTS)
    check_unpacked(packed.file_size, packed.compress_size, f'{_WEIGHTS} in it unpacks to', path)
    weights = folder / 'unpacked.h5'
    with archive.open(packed) as member, open(weights, 'wb') as file:
        shutil.copyfileobj(member, file, 2**20)
    with h5py.File(weights, 'r') as file:
        names = check_hdf5(file, packed.file_size, path)
        renamed = folder / 'renamed.h5'
        return renamed if rename_groups(file, names, renamed) else weights


def _member(archive, name):
    """The JSON object in a file of an archive."""
    if archive.getinfo(name).file_size > _CONFIG_BYTES:
        raise ValueError(f'{name} is implausibly large')
    value = json.loads(archive.read(name))
    if not isinstance(value, dict):
        raise ValueError(f'{name} is no JSON object')
    return value


def _load_saved_model(path, allow_code):
    """The model of a SavedModel directory, rebuilt from its configuration and its variables.

    The traced functions beside them are never loaded: they may hold any operation.
    """
    if not (path / 'saved_model.pb').exists():
        raise UserError(f'{path} is a directory without a saved_model.pb: {_FORMATS}.')
    metadata = _saved_metadata(path)
    if not metadata:
        raise UserError(
            f"{path} is a SavedModel without Keras layers (Keras 3's model.export() writes such "
            f'directories): save the model with model.save("model.keras") and pass that file.'
        )
    root = json.loads(metadata)
    config = {'class_name': root['class_name'], 'config': root.get('config')}
    check_takes_images(config, path)
    check_configuration(config, path, allow_code)
    # The names of these files follow from the prefix, so a checkpoint cannot name another one; and
    # every tensor has a checksum. A folder of links, as download caches have, is therefore fine.
    prefix = str(path / 'variables' / 'variables')
    stored = sum(file.stat().st_size for file in (path / 'variables').glob('variables.data*'))
    reader = tf.train.load_checkpoint(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    size = sum(math.prod(shape) * dtypes[name].size for name, shape in shapes.items())
    check_unpacked(size, stored, 'its tensors take', path)
    with bounded_weights(stored, path):
        model = tf_keras.models.model_from_config(_decoded(config))
    status = tf.train.Checkpoint(model).read(prefix)
    status.assert_existing_objects_matched().expect_partial()
    for layer in model._flatten_layers():
        layer.finalize_state()
    return model


def _saved_metadata(path):
    """The JSON text that says what the model of a SavedModel directory is; empty without Keras."""
    file = path / 'keras_metadata.pb'
    if file.exists():
        nodes = saved_metadata_pb2.SavedMetadata.FromString(file.read_bytes()).nodes
        return next((node.metadata for node in nodes if node.node_path == 'root'), '')
    # TensorFlow 2.0 to 2.4 kept it in the graph of objects, whose first node is the model.
    saved = saved_model_pb2.SavedModel.FromString((path / 'saved_model.pb').read_bytes())
    nodes = saved.meta_graphs[0].object_graph_def.nodes if saved.meta_graphs else ()
    return nodes[0].user_object.metadata if nodes else ''


def _decoded(value):
    """A SavedModel's configuration with its tuples and shapes as Python's."""
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    if not isinstance(value, dict):
        return value
    if value.get('class_name') in ('__tuple__', 'TensorShape') and 'items' in value:
        return tuple(_decoded(part) for part in value['items'])
    if value.get('class_name') == '__ellipsis__':
        return ...
    return {key: _decoded(part) for key, part in value.items()}


def _is_keras3_version(version):
    return version.split('.')[0].isdigit() and int(version.split('.')[0]) >= 3


def _text(value):
    return value.decode('utf-8') if isinstance(value, bytes) else str(value)
