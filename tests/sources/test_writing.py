import itertools
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import tf_keras
from PIL import Image

from zscgan_tf.errors import UserError
from zscgan_tf.sources import writing
from zscgan_tf.sources.files import FileSource
from zscgan_tf.sources.writing import write_folder, write_npz
from zscgan_tf.teacher.input_spec import InputSpec


def batches(count=None, channels=3, labelled=True, batch_size=4, classes=3):
    """Batches of random pixels that lie on the grid of 8 bits."""
    rng = np.random.default_rng(0)
    numbers = range(count) if count is not None else itertools.count()
    for i in numbers:
        stored = rng.integers(0, 256, (batch_size, 8, 8, channels), np.uint8)
        pixels = stored / np.float32(255)
        labels = (np.arange(batch_size) + i) % classes
        yield pixels, labels if labelled else None


def everything(count, **options):
    pixels, labels = zip(*batches(-(-count // 4), **options), strict=True)
    labels = np.concatenate(labels)[:count] if labels[0] is not None else None
    return np.concatenate(pixels)[:count], labels


def read_back(path, channels=3):
    spec = InputSpec((8, 8), channels, 0.5, 0.5)
    pixels, labels = zip(*FileSource(path, spec, 5).one_pass(), strict=True)
    return np.concatenate(pixels), None if labels[0] is None else np.concatenate(labels)


def interrupted():
    yield from batches(2)
    raise KeyboardInterrupt


@pytest.mark.parametrize('channels', [1, 3])
def test_folder_by_class(tmp_path, channels):
    folder = tmp_path / 'images'
    write_folder(folder, batches(channels=channels, classes=12), 10, num_classes=12)
    pixels, labels = everything(10, channels=channels, classes=12)
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert classes == [f'{label:02d}' for label in range(12)]
    by_keras = tf_keras.utils.image_dataset_from_directory(folder, batch_size=None)
    assert by_keras.class_names == classes
    order = np.argsort(labels, kind='stable')
    found, found_labels = read_back(folder, channels)
    np.testing.assert_array_equal(found, pixels[order])
    np.testing.assert_array_equal(found_labels, labels[order])
    assert Image.open(next(folder.glob('*/*.png'))).mode == ('L' if channels == 1 else 'RGB')
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize('num_classes', [None, 7, 11])
def test_classes_without_images_keep_the_labels_of_others(tmp_path, num_classes):
    """Of the classes 0 ... 6 only 3 and 5 are written, and read back as 3 and 5."""
    pixels, _ = next(batches())
    write_folder(tmp_path / 'images', [(pixels, np.array([3, 5, 5, 3]))], 4, num_classes)
    assert read_back(tmp_path / 'images')[1].tolist() == [3, 3, 5, 5]
    by_keras = tf_keras.utils.image_dataset_from_directory(
        tmp_path / 'images', batch_size=None, image_size=(8, 8), shuffle=False
    )
    assert [int(label) for _, label in by_keras] == [3, 3, 5, 5]
    assert len(by_keras.class_names) == (num_classes or 6)


def test_folder_without_labels(tmp_path):
    write_folder(tmp_path / 'images', batches(labelled=False), 12, num_classes=3)
    assert not [path for path in (tmp_path / 'images').iterdir() if path.is_dir()]
    assert (tmp_path / 'images' / '07.png').is_file()
    found, labels = read_back(tmp_path / 'images')
    assert labels is None
    np.testing.assert_array_equal(found, everything(12)[0])


def test_takes_no_more_batches_than_needed(tmp_path):
    source = batches()
    write_folder(tmp_path / 'images', source, 8)
    np.testing.assert_array_equal(next(source)[0], everything(12)[0][8:])


def test_folder_is_replaced_only_if_it_is_ours(tmp_path):
    folder = tmp_path / 'images'
    write_folder(folder, batches(), 8)
    with pytest.raises(UserError, match='exists already: pass --overwrite'):
        write_folder(folder, batches(), 4)
    write_folder(f'{folder}/', batches(), 4, overwrite=True)
    assert len(list(folder.glob('*/*.png'))) == 4
    (folder / '0000' / 'mine.txt').write_text('precious')
    with pytest.raises(UserError, match='0000/mine.txt was not written by this program'):
        write_folder(folder, batches(), 4, overwrite=True)
    theirs = tmp_path / 'theirs' / '0'
    theirs.mkdir(parents=True)
    (theirs / '0.png').write_bytes(b'precious')
    with pytest.raises(UserError, match='it was not written by this program'):
        write_folder(theirs.parent, batches(), 4, overwrite=True)
    assert (theirs / '0.png').read_bytes() == b'precious'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['images', 'theirs']


def test_interrupted_calls_leave_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / 'images', interrupted(), 20)
    with pytest.raises(KeyboardInterrupt):
        write_npz(tmp_path / 'images.npz', interrupted(), 20)
    assert list(tmp_path.iterdir()) == []
    write_folder(tmp_path / 'images', batches(), 4)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / 'images', interrupted(), 20, overwrite=True)
    np.testing.assert_array_equal(np.sort(read_back(tmp_path / 'images')[1]), [0, 0, 1, 2])


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    gone, here = f'{process.pid}.partial', f'{os.getpid()}.partial'
    # Processes of a container have the same few numbers again and again.
    for name in (f'images.{gone}', f'images.{here}', 'images.1.partial', f'other.{gone}'):
        write_folder(tmp_path / name, batches(), 4)
    mine = tmp_path / f'images.{gone}.txt'
    mine.write_text('mine')
    write_folder(tmp_path / 'images', batches(), 4)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {'images', 'images.1.partial', f'other.{gone}', mine.name}

    (tmp_path / f'images.{gone}').mkdir()
    (tmp_path / f'images.{gone}' / 'precious.png').write_text('not written here')
    write_folder(tmp_path / 'images', batches(), 4, overwrite=True)
    assert (tmp_path / f'images.{gone}' / 'precious.png').exists()


def test_a_folder_whose_replacement_was_killed(tmp_path):
    """Between the two renames, the old images get their name back; behind them, they go."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    folder = tmp_path / 'images'
    write_folder(folder, batches(), 4)
    for pid in (process.pid, os.getpid()):
        folder.rename(tmp_path / f'images.{pid}.replaced')
        with pytest.raises(UserError, match='exists already'):
            write_folder(folder, batches(), 8)
        assert len(read_back(folder)[1]) == 4
        write_folder(folder, batches(), 4, overwrite=True)
        write_folder(tmp_path / f'images.{pid}.replaced', batches(), 8)
        (tmp_path / f'images.{pid}.replaced' / '.zscgan-images').unlink()  # is removed first
        write_folder(folder, batches(), 4, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ['images']
    other = tmp_path / f'images.{process.pid}.replaced'
    other.mkdir()
    (other / 'precious.txt').write_text('not written here')
    write_folder(folder, batches(), 4, overwrite=True)
    assert (other / 'precious.txt').exists()


def test_a_full_disk_leaves_the_old_folder_whole(tmp_path, monkeypatch):
    write_folder(tmp_path / 'images', batches(), 4)

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(UserError, match='No space left on device'):
        write_folder(tmp_path / 'images', batches(), 20, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ['images']
    assert len(read_back(tmp_path / 'images')[1]) == 4


@pytest.mark.parametrize('labelled', [True, False])
def test_npz(tmp_path, labelled):
    write_npz(tmp_path / 'a.npz', batches(channels=5, labelled=labelled), 10)
    pixels, labels = everything(10, channels=5, labelled=labelled)
    found, found_labels = read_back(tmp_path / 'a.npz', 5)
    np.testing.assert_array_equal(found, pixels)
    if labelled:
        np.testing.assert_array_equal(found_labels, labels)
    else:
        assert found_labels is None
    with pytest.raises(UserError, match='exists already'):
        write_npz(tmp_path / 'a.npz', batches(), 10)


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match='5 channels do not fit into PNG files'):
        write_folder(tmp_path / 'a', batches(channels=5), 4)
    with pytest.raises(UserError, match='only 8'):
        write_folder(tmp_path / 'a', batches(2), 9)
    with pytest.raises(UserError, match='only 8'):
        write_npz(tmp_path / 'a.npz', batches(2), 9)
    with pytest.raises(UserError, match='at least one'):
        write_folder(tmp_path / 'a', batches(), 0)
    with pytest.raises(UserError, match='missing does not exist'):
        write_folder(tmp_path / 'missing' / 'a', batches(), 4)
    with pytest.raises(UserError, match='end in .npz'):
        write_npz(tmp_path / 'a', batches(), 4)
    monkeypatch.setattr(writing, 'NPZ_LIMIT_BYTES', 1000)
    with pytest.raises(UserError, match='at most 5 images, or for a folder'):
        write_npz(tmp_path / 'a.npz', batches(), 6)
    assert list(tmp_path.iterdir()) == []
