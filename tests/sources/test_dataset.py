import itertools
import json
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.sources import dataset
from zscgan_tf.sources.dataset import DatasetSource
from zscgan_tf.teacher import input_spec

SPEC = input_spec.InputSpec((8, 8), 3, 0.5, 0.5)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
LABELS = np.sort(np.arange(24) % 4)


def store(folder, name, features, splits, **options):
    """Writes a dataset with tfds' own writer."""
    import tensorflow_datasets as tfds

    tfds.dataset_builders.store_as_tfds_dataset(
        name, '1.0.0', features, splits, data_dir=folder, disable_shuffling=True, **options
    )


def examples(images, labels):
    rows = [{'image': i, 'label': n} for i, n in zip(images, labels, strict=True)]
    return tf.data.Dataset.from_tensor_slices(
        {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    )


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp('tfds')
    image = tfds.features.Image(shape=(8, 8, 3), encoding_format='png')
    label = tfds.features.ClassLabel(num_classes=4)
    splits = {
        'train': examples(IMAGES, LABELS),
        'test': examples(IMAGES[::-1], LABELS[::-1]),
        'secret': examples(IMAGES, np.full_like(LABELS, -1)),
    }
    store(folder, 'tiny', tfds.features.FeaturesDict({'image': image, 'label': label}), splits)
    unlabelled = {'train': tf.data.Dataset.from_tensor_slices({'image': IMAGES})}
    store(folder, 'unlabelled', tfds.features.FeaturesDict({'image': image}), unlabelled)
    words = {'train': tf.data.Dataset.from_tensor_slices({'words': ['a', 'b']})}
    store(folder, 'words', tfds.features.FeaturesDict({'words': tfds.features.Text()}), words)
    return str(folder)


def collect(batches, count=None):
    pixels, labels = zip(*itertools.islice(batches, count), strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def stored_order(data_dir, split):
    """Images and labels as tfds itself reads them."""
    import tensorflow_datasets as tfds

    config = tfds.ReadConfig(interleave_cycle_length=1)
    data = tfds.load('tiny', split=split, data_dir=data_dir, download=False, read_config=config)
    rows = list(data.as_numpy_iterator())
    return np.stack([row['image'] for row in rows]), np.stack([row['label'] for row in rows])


def test_labels_of_minus_one_are_none(data_dir):
    source = DatasetSource('tiny', 'secret', data_dir, SPEC, 5)
    assert not source.has_labels and source.num_classes is None
    assert all(labels is None for _, labels in source.one_pass())


@pytest.mark.parametrize('split', ['train', 'test', 'train[5:17]', 'train+test', 'test[:25%]'])
def test_one_pass_is_what_tfds_reads(data_dir, split):
    images, labels = stored_order(data_dir, split)
    source = DatasetSource('tiny', split, data_dir, SPEC, 5)
    assert source.image_count == len(images) and source.has_labels
    assert source.image_shape == (8, 8, 3) and source.num_classes == 4
    pixels, found = collect(source.one_pass())
    np.testing.assert_allclose(pixels, images / 255, atol=1e-6)
    np.testing.assert_array_equal(found, labels)


def test_batches_are_seeded_and_balanced(data_dir):
    source = DatasetSource('tiny', 'train', data_dir, SPEC, 8, seed=1)
    pixels, labels = collect(source.batches(), 9)
    for start in range(0, 72, 8):
        assert np.bincount(labels[start : start + 8]).tolist() == [2, 2, 2, 2]
    assert len({image.tobytes() for image in pixels[:24]}) == 24
    known = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    stored = np.round(pixels * 255).astype(np.uint8)
    assert [known[image.tobytes()] for image in stored] == labels.tolist()

    again = DatasetSource('tiny', 'train', data_dir, SPEC, 8, seed=1)
    np.testing.assert_array_equal(collect(again.batches(), 9)[0], pixels)
    np.testing.assert_array_equal(collect(again.batches(start=4), 5)[0], pixels[32:])
    other = DatasetSource('tiny', 'train', data_dir, SPEC, 8, seed=2)
    assert not np.array_equal(collect(other.batches(), 9)[0], pixels)


def test_a_description_is_of_the_images_not_of_their_place(data_dir, tmp_path):
    import tensorflow_datasets as tfds

    def description(folder, split='train', seed=0):
        return DatasetSource('tiny', split, folder, SPEC, 8, seed).description

    copy = shutil.copytree(data_dir, tmp_path / 'copy')
    assert description(copy) == description(data_dir) != description(data_dir, 'train[:10]')
    features = DatasetSource('tiny', 'train', data_dir, SPEC, 8)._image_feature
    label = tfds.features.ClassLabel(num_classes=4)
    features = tfds.features.FeaturesDict({'image': features, 'label': label})
    other = {'train': examples(IMAGES // 64 * 64, LABELS)}  # PNG makes less of them
    store(tmp_path / 'other', 'tiny', features, other)
    assert description(tmp_path / 'other') != description(data_dir)


def test_without_labels(data_dir):
    source = DatasetSource('unlabelled', 'train', data_dir, SPEC, 8)
    assert not source.has_labels and source.num_classes is None
    assert [(len(pixels), labels) for pixels, labels in source.one_pass()] == [(8, None)] * 3
    assert next(source.batches())[1] is None


@pytest.fixture
def versions(data_dir, tmp_path):
    """Three versions of different sizes, an unfinished one, and one that is a configuration's."""
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=(8, 8, 3), encoding_format='png')
    label = tfds.features.ClassLabel(num_classes=4)
    features = tfds.features.FeaturesDict({'image': image, 'label': label})
    for count, version in enumerate(('1.2.0', '1.10.0', '2.0.0', '3.0.0'), 3):
        tfds.dataset_builders.store_as_tfds_dataset(
            'many', version, features, {'train': examples(IMAGES[:count], LABELS[:count])},
            data_dir=tmp_path, disable_shuffling=True,
        )  # fmt: skip
    (tmp_path / 'many' / '3.0.0').rename(tmp_path / 'many' / 'incomplete.XYZ_3.0.0')
    shutil.copytree(tmp_path / 'many' / '1.2.0', tmp_path / 'sets' / 'small' / '1.2.0')
    shutil.copytree(tmp_path / 'many' / '2.0.0', tmp_path / 'many' / '9.0.0_old')
    (tmp_path / 'sets' / '.config').mkdir()
    (tmp_path / 'sets' / '.config' / 'metadata.json').write_text('{"default_config_name": "small"}')
    return tmp_path


@pytest.mark.parametrize(
    'name, count',
    [
        ('many', 5),
        ('many:1.2.0', 3),
        ('many:1.*.*', 4),
        ('many:*.*.*', 5),
        ('sets', 3),
        ('sets/small', 3),
        ('sets/small:1.2.0', 3),
    ],
)
def test_versions_and_configurations(versions, name, count, monkeypatch):
    assert DatasetSource(name, 'train', versions, SPEC, 8).image_count == count
    monkeypatch.setenv('TFDS_DATA_DIR', str(versions))
    assert DatasetSource(name, 'train', None, SPEC, 8).image_count == count


def test_the_name_of_a_known_dataset_runs_no_code_and_asks_no_network(data_dir, tmp_path):
    folder = shutil.copytree(f'{data_dir}/tiny', tmp_path / 'cifar10')
    for path in folder.glob('1.0.0/*'):
        path.rename(path.with_name(path.name.replace('tiny', 'cifar10')))
    info = folder / '1.0.0' / 'dataset_info.json'
    info.write_text(info.read_text().replace('tiny', 'cifar10'))
    program = f"""
import socket, sys
socket.socket.connect = socket.getaddrinfo = None
from zscgan_tf.sources.dataset import DatasetSource
from zscgan_tf.teacher.input_spec import InputSpec
source = DatasetSource('cifar10', 'train', {str(tmp_path)!r}, InputSpec((8, 8), 3, 0.5, 0.5))
next(source.batches())
assert source.image_count == 24
assert not [m for m in sys.modules if m.startswith('tensorflow_datasets') and 'cifar' in m]
"""
    root = pathlib.Path(__file__).parents[2]
    subprocess.run([sys.executable, '-c', program], check=True, cwd=root)


@pytest.mark.parametrize(
    'supervised, expected',
    [
        (('image', 'label'), ('image', 'label')),
        (('label', 'image'), ('image', 'label')),
        (('image', 'label', 'weight'), ('image', 'label')),
        (({'image': 'image'}, 'label'), ('image', 'label')),
        (('image', 'depth'), ('image', None)),
        (None, ('image', 'label')),
    ],
)
def test_which_features_are_images_and_labels(supervised, expected):
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(shape=(8, 8, 3)),
            'label': tfds.features.ClassLabel(num_classes=3),
            'weight': tfds.features.Scalar(np.float32),
            'depth': tfds.features.Tensor(shape=(8, 8), dtype=np.float32),
        }
    )
    info = types.SimpleNamespace(supervised_keys=supervised, features=features)
    assert dataset._feature_keys('made', info) == expected


@pytest.mark.parametrize(
    'name, split, words',
    [
        ('nowhere', 'train', 'dataset nowhere: no such dataset in .* --data_dir'),
        ('mnist', 'train', 'dataset mnist: no such dataset'),
        ('tiny:9.9.9', 'train', 'no such dataset'),
        ('tiny:9.*.*', 'train', 'no such dataset'),
        ('tiny/nothing', 'train', 'no such dataset'),
        ('tiny:1:0', 'train', 'no such dataset'),
        ('not a name', 'train', 'no such dataset'),
        (
            'tiny',
            'validation',
            'no images validation; its splits are train of 24, test of 24',
        ),
        ('tiny', 'train[oops]', r'no images train\[oops\]; its splits'),
        ('tiny', 'train[:0]', 'no images'),
        ('words', 'train', "no feature 'image' of 8-bit images; it has words"),
    ],
)
def test_what_is_not_there(data_dir, name, split, words):
    with pytest.raises(UserError, match=words) as error:
        DatasetSource(name, split, data_dir, SPEC, 8)
    assert '\n' not in str(error.value)


def test_damaged_records(data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / 'copy')
    path = next(folder.glob('tiny/1.0.0/*train*'))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match='train.*damaged: it has fewer images'):
        DatasetSource('tiny', 'train', str(folder), SPEC, 8)
    path.write_bytes(data.replace(b'IDAT', b'JUNK'))
    with pytest.raises(UserError, match='train.*image 0 of the split') as error:
        list(DatasetSource('tiny', 'train', str(folder), SPEC, 1).one_pass())
    assert '\n' not in str(error.value)
    for broken, words in (
        (data.replace(b'image', b'omage'), "damaged: an image without its feature 'image'"),
        (data.replace(b'label', b'lobel'), "damaged: an image without its feature 'label'"),
        (data[:12] + b'\xff' + data[13:], 'not a readable TFRecord file'),
    ):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f'train.*: {words}'):
            list(DatasetSource('tiny', 'train', str(folder), SPEC, 1).one_pass())
    path.unlink()
    with pytest.raises(UserError, match='not a readable file'):
        DatasetSource('tiny', 'train', str(folder), SPEC, 8)


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('text', ['', 'no JSON', '[]', '{}', '{"a": 1}'])
def test_damaged_descriptions(data_dir, tmp_path, file, text):
    folder = shutil.copytree(data_dir, tmp_path / 'copy')
    (folder / 'tiny' / '1.0.0' / file).write_text(text)
    with pytest.raises(UserError, match='dataset tiny: .*(cannot be read by tfds|has no)') as error:
        DatasetSource('tiny', 'train', folder, SPEC, 8)
    assert '\n' not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    'teacher, dataset, split, accuracy',
    [
        ('mobilenet_v1_075_imagenet', 'imagenet_like', 'validation', 70.2),
        ('resnet20_cifar10_jpeg', 'cifar10_jpeg', 'test', 88.54),
    ],
)
def test_float_accuracy_of_real_teachers(shared_folder, teacher, dataset, split, accuracy):
    path = shared_folder / 'teachers' / teacher
    fields = json.loads(path.with_suffix('.json').read_text())
    size, channels = fields['image_size'], fields['channels']
    if 'preprocessing' in fields:
        spec = input_spec.InputSpec.from_preprocessing(size, channels, fields['preprocessing'])
    else:
        spec = input_spec.InputSpec(size, channels, fields['mean'], fields['std'])
    model = tf_keras.models.load_model(path.with_suffix('.h5'), compile=False)
    source = DatasetSource(dataset, split, str(shared_folder / 'tfds'), spec, 100)
    correct = 0
    for pixels, labels in source.one_pass():
        classes = tf.argmax(model(spec.to_inputs(pixels), training=False), -1)
        correct += np.sum(classes.numpy() == labels.numpy())
    assert 100 * correct / source.image_count == pytest.approx(accuracy, abs=1e-6)
