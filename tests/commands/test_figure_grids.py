"""The program that draws Figure 2, on a tiny teacher, generator and dataset."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.commands.programs import ROOT
from tests.tiny import tiny_teacher
from zscgan_tf.methods.zscgan import train_generator
from zscgan_tf.teacher.loading import load_teacher

CLASSES = 3


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Holds tiny.h5, a generator in run/, and a dataset of one image a class."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp('figure')
    made = tiny_teacher(num_classes=CLASSES)
    made.model.save(folder / 'tiny.h5')
    (folder / 'tiny.json').write_text(json.dumps(made.input_spec.to_dict()))
    options = {'generator_channels': (4,), 'generator_scales': 1, 'skip_channels': 2}
    train_generator(load_teacher(folder / 'tiny.h5'), folder / 'run', steps=1, **options)

    image = tfds.features.Image(shape=(8, 8, 3), encoding_format='png')
    label = tfds.features.ClassLabel(names=['ant', 'bee', 'cow'])
    rows = {
        'image': np.random.default_rng(0).integers(0, 256, (CLASSES, 8, 8, 3)).astype(np.uint8),
        'label': np.arange(CLASSES)[::-1].copy(),
    }
    features = tfds.features.FeaturesDict({'image': image, 'label': label})
    splits = {'test': tf.data.Dataset.from_tensor_slices(rows)}
    tfds.dataset_builders.store_as_tfds_dataset(
        'animals', '1.0.0', features, splits, data_dir=folder, disable_shuffling=True
    )
    np.save(folder / 'images.npy', rows['image'][::-1])  # in the order of the classes
    return folder


def draw(folder, *flags):
    command = [
        sys.executable,
        '-m',
        'zscgan_tf.commands.figure_grids',
        f'--teacher={folder}/tiny.h5',
    ]
    command += ['--dataset=animals', f'--data_dir={folder}', f'--output={folder}/grids.png', *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_real_images_stand_beside_those_of_each_generator(folder):
    done = draw(folder, *[f'--generator={n}={folder}/run' for n in 'ab'], '--columns=2')
    assert done.returncode == 0, done.stderr
    picture = np.asarray(Image.open(folder / 'grids.png'), int)
    tiles = np.load(folder / 'images.npy').repeat(7, 1).repeat(7, 2)
    found = [
        (top, left)
        for top in range(8, 80)
        for left in range(8, 120)
        if (picture[top : top + 56, left : left + 56] == tiles[0]).all()
    ]
    ((top, left),) = found
    for row in range(CLASSES):
        at = top + 62 * row
        assert (picture[at : at + 56, left : left + 56] == tiles[row]).all()
    # One real column, then two panels of two images that are the same generator's.
    one = picture[top : top + 180, left + 70 : left + 184]
    two = picture[top : top + 180, left + 70 + 128 : left + 184 + 128]
    assert (one == two).all() and one.std() > 10


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--generator=a=run'], '--dataset is missing: pass the dataset of the real images'),
        (['--dataset=animals'], '--generator is missing: pass TITLE=WORKDIR'),
        (['--dataset=animals', '--generator=both'], '--generator=both has no workdir'),
    ],
)
def test_what_is_missing_is_asked_for(flags, words):
    """Before TensorFlow is imported, so by the function that the program runs."""
    code = (
        'import sys; from absl import flags; from zscgan_tf.commands import figure_grids\n'
        'flags.FLAGS(sys.argv); figure_grids.main()'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, *flags], cwd=ROOT, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('zscgan_tf.errors.UserError: ') and words in last
