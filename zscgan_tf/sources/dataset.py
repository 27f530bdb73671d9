"""A TensorFlow dataset (tfds) that is on this machine already: nothing is ever downloaded.

Its TFRecord files are read at random. A record is a length (8 bytes), a checksum of the length (4),
the data, and a checksum of the data (4), so reading the lengths finds the positions of all records.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
import struct

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from zscgan_tf.atomic_files import PathLike, check_local
from zscgan_tf.errors import UserError, first_line
from zscgan_tf.sources import fitting
from zscgan_tf.sources.stored import StoredImages
from zscgan_tf.teacher.input_spec import InputSpec

_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 4


class DatasetSource(StoredImages):
    """Images of one split of a tfds dataset.

    `num_classes` and `class_names`, the names in their order, are what the dataset says, or None.
    A split whose first image has the label -1 has no labels: so tfds marks images without a class.

    So that the classes take turns, `batches` reads all labels when it is first called, and with
    them every byte of the split: pass a part of a large one, as `train[:10000]`.

    Args:
        name: of the dataset, as `cifar10` or `name/config:version`.
        split: as `test` or `train[:5000]`.
        data_dir: the folder that tfds keeps datasets in; None for tfds' default.
        input_spec, batch_size, seed, resize_short_side: see `StoredImages`.

    Raises:
        UserError: no such dataset, split or feature, or a damaged file. The images themselves are
            checked when their batch is asked for.
    """

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: PathLike | None,
        input_spec: InputSpec,
        batch_size: int = 32,
        seed: int = 0,
        resize_short_side: int | None = None,
    ) -> None:
        check_local(data_dir or '')
        super().__init__(input_spec, batch_size, seed, resize_short_side)
        info = _dataset_info(name, data_dir)
        self._image_key, self._label_key = _feature_keys(name, info)
        self._image_feature = info.features[self._image_key]
        self._records = _find_records(_shards(name, split, info))
        self.image_count = len(self._records)
        self.has_labels = self._label_key is not None and self._first_label() >= 0
        label_feature = info.features[self._label_key] if self.has_labels else None
        self.num_classes = getattr(label_feature, 'num_classes', None)
        self.class_names = getattr(label_feature, 'names', None)
        self.description = {
            'kind': 'dataset',
            'dataset': name,
            'split': split,
            'content': self._digest(),
            'short_side': self._short_side,
            'seed': seed,
        }

    def _digest(self):
        """What tells these images from others without reading them: where each one is stored."""
        places = [(os.path.basename(path), *place) for path, *place in self._records]
        return hashlib.sha256(repr(places).encode()).hexdigest()

    def _first_label(self):
        return self._label(self._records[0], self._example(self._records[0]))

    @functools.cached_property
    def _labels(self):
        if not self.has_labels:
            return None
        return np.array([self._label(record, self._example(record)) for record in self._records])

    def _read(self, index):
        record = self._records[index]
        example = self._example(record)
        encoded = _value(record, example, self._image_key, 'bytes_list')
        try:
            image = self._image_feature.decode_example(encoded).numpy()
            pixels = fitting.fit(image, self.image_shape, self._short_side)
        except (UserError, tf.errors.InvalidArgumentError) as error:
            raise UserError(
                f'{record[0]}, image {index} of the split: {first_line(error)}.'
            ) from error
        return pixels, self._label(record, example) if self.has_labels else None

    def _label(self, record, example):
        return _value(record, example, self._label_key, 'int64_list')

    def _example(self, record):
        path, offset, length = record
        try:
            with open(path, 'rb', buffering=0) as file:
                data = os.pread(file.fileno(), length, offset)
            return tf.train.Example.FromString(data)
        except (OSError, DecodeError) as error:
            raise UserError(f'{path}: not a readable TFRecord file ({error}).') from error


def _value(record, example, key, kind):
    values = getattr(example.features.feature[key], kind).value
    if not values:
        raise UserError(f'{record[0]}: damaged: an image without its feature {key!r}.')
    return values[0]


def _dataset_info(name, data_dir):
    """What tfds knows of a dataset from its files alone.

    `tfds.builder` would import the dataset's code, and may look for it on the network.
    """
    import tensorflow_datasets as tfds

    data_dir = data_dir or os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
    try:
        folder = _version_folder(pathlib.Path(data_dir).expanduser(), *name.split(':'))
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f'dataset {name}: no such dataset in {data_dir}: pass its name, as `cifar10`, and the '
            f'--data_dir that tfds prepared it in (nothing is downloaded here).'
        ) from error
    try:
        return tfds.builder_from_directory(folder).info
    except (OSError, LookupError, TypeError, ValueError, json_format.ParseError) as error:
        raise UserError(
            f'dataset {name}: {folder} cannot be read by tfds ({first_line(error)}).'
        ) from error


def _version_folder(data_dir, name, version='*.*.*'):
    """The folder of the newest version that fits: `<data_dir>/<name>[/<config>]/<version>`."""
    import tensorflow_datasets as tfds

    folder = data_dir / name
    metadata = folder / '.config' / 'metadata.json'
    if metadata.exists():
        folder /= json.loads(metadata.read_text())['default_config_name']
    found = [path.parent for path in folder.glob('[0-9]*/features.json')]
    is_version = re.compile(r'\d+\.\d+\.\d+').fullmatch  # a copy of one may stand beside it
    versions = {tfds.core.Version(path.name): path for path in found if is_version(path.name)}
    return versions[max(v for v in versions if v.match(version))]


def _feature_keys(name, info):
    """The names of the features that hold images and labels (None where there are no labels)."""
    from tensorflow_datasets import features

    found = dict(info.features.items())
    image_key, label_key = (info.supervised_keys or ())[:2] or ('image', 'label')
    # The input and the target may be several features, or the other way round.
    if not isinstance(image_key, str) or not isinstance(found.get(image_key), features.Image):
        image_key, label_key = 'image', 'label'
    image = found.get(image_key)
    label = found.get(label_key) if isinstance(label_key, str) else None
    if not isinstance(image, features.Image) or image.np_dtype != np.uint8:
        raise UserError(
            f'dataset {name}: no feature {image_key!r} of 8-bit images; it has '
            f'{", ".join(sorted(found))}.'
        )
    is_class = label is not None and label.shape == () and np.dtype(label.np_dtype).kind in 'iu'
    return image_key, label_key if is_class else None


def _shards(name, split, info):
    """The files of a split, as tfds' (filename, skip, take)."""
    if info.file_format.value != 'tfrecord':
        raise UserError(
            f'dataset {name}: stored as {info.file_format.value}; only tfrecord can be read: '
            f'prepare it with file_format="tfrecord".'
        )
    try:
        shards = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        sizes = ', '.join(f'{n} of {each.num_examples:,}' for n, each in info.splits.items())
        raise UserError(
            f'dataset {name} has no images {split}; its splits are {sizes} images (a part of one '
            f'is written as `{next(iter(info.splits), "train")}[:1000]`).'
        ) from error
    if not shards:
        raise UserError(f'dataset {name}: there are no images in its split {split}.')
    return shards


def _find_records(shards):
    """(path, offset, length) of every record of a split, in stored order."""
    records = []
    for shard in shards:
        path = os.fspath(shard.filename)
        try:
            positions = _record_positions(path, shard.skip + shard.take)
        except OSError as error:
            raise UserError(f'{path}: not a readable file ({error.strerror}).') from error
        if len(positions) < shard.skip + shard.take:
            raise UserError(f'{path}: damaged: it has fewer images than its dataset says.')
        records.extend((path, *position) for position in positions[shard.skip :])
    return records


def _record_positions(path, count):
    """(offset, length) of the first records of a file, `count` at most."""
    positions, offset = [], 0
    with open(path, 'rb', buffering=0) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        while len(positions) < count and offset < file_bytes:
            header = os.pread(file.fileno(), _LENGTH_BYTES, offset)
            length = struct.unpack('<Q', header.ljust(_LENGTH_BYTES, b'\xff'))[0]
            offset += _LENGTH_BYTES + _CHECKSUM_BYTES
            if offset + length + _CHECKSUM_BYTES > file_bytes:
                break
            positions.append((offset, length))
            offset += length + _CHECKSUM_BYTES
    return positions
