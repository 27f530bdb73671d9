"""Model files: what a format's configuration is, and the model in it.

Every configuration is read and checked (`configuration`) before Keras deserializes it. Files that
Keras 3 wrote are read with Keras 3, all others with tf_keras.
"""

import json
import zipfile

import h5py
import tensorflow as tf
import tf_keras
from google.protobuf.message import DecodeError
from tf_keras.protobuf import saved_metadata_pb2

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.configuration import check_configuration, dicts_in
from zscgan_tf.teacher.operations import HANDLERS

_FORMATS = 'pass a Keras .keras or .h5 file, or a SavedModel directory written by tf_keras'
# Far more than any network's configuration takes.
_CONFIG_BYTES = 256 * 2**20
# What h5py, zipfile, TensorFlow and Keras raise for a damaged file.
_DAMAGED = (
    AssertionError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    tf.errors.OpError,
)


def load_file(path, load_keras3, allow_code=False):
    """The model of a file or SavedModel directory.

    Args:
        path: an existing `pathlib.Path`.
        load_keras3: gives the model of a file that Keras 3 wrote, of its path and whether Lambda
            layers are let through.
        allow_code: lets Lambda layers through.

    Returns:
        A tf_keras model, or a Keras 3 model where Keras 3 wrote the file.

    Raises:
        UserError: it is no model, is damaged, or names something that is not Keras'.
    """
    if path.is_dir():
        return _load_saved_model(path, allow_code)
    try:
        with open(path, 'rb') as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}.') from error
    if start.startswith(b'\x89HDF\r\n\x1a\n'):
        return _load_hdf5(path, load_keras3, allow_code)
    if start.startswith(b'PK'):
        return _load_keras_zip(path, load_keras3, allow_code)
    what = 'is empty' if not start else 'is not a model file'
    raise UserError(f'{path} {what}: {_FORMATS}.')


def _load_hdf5(path, load_keras3, allow_code):
    try:
        with h5py.File(path, 'r') as file:
            config = file.attrs.get('model_config')
            version = _text(file.attrs.get('keras_version', '2'))
        config = None if config is None else json.loads(_text(config))
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if config is None:
        raise UserError(
            f'{path} holds weights alone, without the model: save the whole model with '
            f'model.save().'
        )
    if _is_keras3_version(version):
        _refuse_operations(config, path)
    _check(config, path, allow_code)
    try:
        if _is_keras3_version(version):
            return load_keras3(path, allow_code)
        with h5py.File(path, 'r') as file:
            return tf_keras.models.load_model(file, compile=False)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _refuse_operations(config, path):
    """Refuses what Keras 3 writes to .h5 but can't read back: operations such as x + 1."""
    for part in dicts_in(config):
        inner = part.get('config')
        if 'inbound_nodes' not in part or not isinstance(inner, dict):
            continue
        # Only layers have a dtype, and only models have layers.
        if 'dtype' not in inner and 'layers' not in inner:
            raise UserError(
                f"{path}: '{inner.get('name')}' is the operation {part.get('class_name')}, which "
                f'Keras 3 can not read back from an .h5 file: save the model with '
                f'model.save("model.keras").'
            )


def _load_keras_zip(path, load_keras3, allow_code):
    try:
        with zipfile.ZipFile(path) as archive:
            config = _member(archive, 'config.json')
            version = str(_member(archive, 'metadata.json').get('keras_version', '2'))
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if path.suffix != '.keras':
        raise UserError(f'{path} is a .keras file by its content: rename it to {path.stem}.keras.')
    # Optimizer, loss and metrics are left out of what is deserialized.
    config.pop('compile_config', None)
    _check(config, path, allow_code)
    try:
        if _is_keras3_version(version):
            return load_keras3(path, allow_code)
        return tf_keras.models.load_model(path, compile=False, safe_mode=not allow_code)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


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
    metadata = path / 'keras_metadata.pb'
    if not metadata.exists():
        raise UserError(
            f"{path} is a SavedModel without Keras layers (Keras 3's model.export() writes such "
            f'directories): save the model with model.save("model.keras") and pass that file.'
        )
    try:
        nodes = saved_metadata_pb2.SavedMetadata.FromString(metadata.read_bytes()).nodes
        root = next(json.loads(node.metadata) for node in nodes if node.node_path == 'root')
        config = {'class_name': root['class_name'], 'config': root.get('config')}
    except (*_DAMAGED, StopIteration, DecodeError) as error:
        raise _damaged(path, error) from error
    _check(config, path, allow_code)
    try:
        model = tf_keras.models.model_from_config(_decoded(config))
        status = tf.train.Checkpoint(model).read(str(path / 'variables' / 'variables'))
        status.assert_existing_objects_matched().expect_partial()
        for layer in model._flatten_layers():
            layer.finalize_state()
        return model
    except _DAMAGED as error:
        raise _damaged(path, error) from error


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


def _check(config, path, allow_code):
    if not isinstance(config, dict):
        raise UserError(f'{path} is damaged: its configuration is no JSON object.')
    check_configuration(config, path, HANDLERS, allow_code)


def _is_keras3_version(version):
    return version.split('.')[0].isdigit() and int(version.split('.')[0]) >= 3


def _text(value):
    return value.decode('utf-8') if isinstance(value, bytes) else str(value)


def _damaged(path, error):
    """The error of a file that can't be read, in one line."""
    return UserError(
        f'{path} can not be read, it may be damaged or cut off ({_reason(error)}): {_FORMATS}.'
    )


def _reason(error):
    """The first line of another library's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip('.') if lines else type(error).__name__
