"""Remote paths are refused, not made as local folders of that name."""

import pathlib

import pytest

from zscgan_tf import atomic_files, pipeline
from zscgan_tf.errors import UserError
from zscgan_tf.methods import distillation, zscgan
from zscgan_tf.report import results
from zscgan_tf.sources import writing
from zscgan_tf.sources.dataset import DatasetSource
from zscgan_tf.sources.files import FileSource
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite.interpreter import TfliteModel
from zscgan_tf.training import workdir

REMOTE = ['gs://bucket/x', 's3://bucket/x', 'hdfs://x', 'https://host/x.h5', 'file:///tmp/x']


@pytest.mark.parametrize('path', [*REMOTE, pathlib.Path('gs://bucket/x')])
def test_every_path_from_python(teacher, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    noise = NoiseSource(teacher.input_spec, batch_size=4)
    batches = iter([])
    ranges = {'range_images': 4, 'update_generator': False}
    for use in (
        lambda: load_teacher(path),
        lambda: zscgan.train_generator(teacher, path, steps=1),
        lambda: zscgan.load_generator(teacher, path),
        lambda: distillation.distill(teacher, noise, path, steps=1, **ranges),
        lambda: pipeline.quantize(teacher, noise, path, calibration_images=4),
        lambda: pipeline.quantize_student(None, noise, path),
        lambda: writing.write_folder(path, batches, 4),
        lambda: writing.write_npz(f'{path}.npz', batches, 4),
        lambda: results.check(path),
        lambda: results.add(path, 0, {}, 1),
        lambda: workdir.claim(path, {}),
        lambda: TfliteModel(path),
        lambda: FileSource(path, teacher.input_spec),
        lambda: DatasetSource('cifar10', 'test', path, teacher.input_spec),
    ):
        with pytest.raises(UserError, match='remote paths are not supported: pass a local one'):
            use()
    assert not list(tmp_path.iterdir())


def test_local_paths_with_colons():
    for path in ('a:b', 'C:/x', 'package.module:function', 'x/a:1.0.0', './gs://x', '12:/x', ''):
        atomic_files.check_local(path)
