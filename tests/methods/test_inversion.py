"""Optimized images: groups, Adam, resuming to the bit, the joined file, and whose workdir it is."""

import contextlib
import dataclasses
import json
import logging
import shutil
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from tests.commands.programs import assert_same_weights, weights
from tests.methods.matched import matched_teacher
from tests.numbers import read_metrics
from zscgan_tf.errors import UserError
from zscgan_tf.methods import inversion, zscgan
from zscgan_tf.methods.deep_inversion import make_deep_inversion_images
from zscgan_tf.methods.inversion_options import ZeroqOptions
from zscgan_tf.methods.zeroq import make_zeroq_images
from zscgan_tf.sources.npz import open_npz
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.training import loop, workdir

# Three groups of six steps; the last image of the third is left out.
RUN = {'images': 14, 'group_size': 5, 'iterations': 6, 'checkpoint_every': 4, 'batch_size': 4}


@pytest.fixture(scope='module')
def teacher():
    return matched_teacher()


@pytest.fixture(scope='module')
def finished(teacher, tmp_path_factory):
    """method -> the workdir of a run that nothing stopped, and its source."""
    folder = tmp_path_factory.mktemp('finished')
    makers = {'zeroq': make_zeroq_images, 'deep_inversion': make_deep_inversion_images}
    return {
        name: (folder / name, make(teacher, folder / name, **RUN)) for name, make in makers.items()
    }


def killed(*args, **kwargs):
    raise KeyboardInterrupt


def killed_at(step, monkeypatch):
    """The process is gone after so many steps; the last checkpoint was at 4, 8, 12 ..."""
    write = loop._write_metrics

    def write_or_die(path, done, metrics):
        if done >= step:
            killed()
        write(path, done, metrics)

    monkeypatch.setattr(loop, '_write_metrics', write_or_die)


def killed_when_written(number, monkeypatch):
    """The process is gone while the group of this number is written: between two groups."""
    opened = inversion.open_atomically

    def open_or_die(path, overwrite):
        if path.name == f'{number:05d}.npy':
            killed()
        return opened(path, overwrite)

    monkeypatch.setattr(inversion, 'open_atomically', open_or_die)


def killed_behind(number, monkeypatch):
    """The process is gone when the group of this number is on disk, and no checkpoint knows it."""
    opened = inversion.open_atomically

    @contextlib.contextmanager
    def open_and_die(path, overwrite):
        with opened(path, overwrite) as file:
            yield file
        if path.name == f'{number:05d}.npy':
            killed()

    monkeypatch.setattr(inversion, 'open_atomically', open_and_die)


def check_resumed(make, teacher, tmp_path, finished_folder, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        make(teacher, tmp_path, **RUN)
    monkeypatch.undo()
    assert not (tmp_path / 'images.npz').exists()
    make(teacher, tmp_path, **RUN)
    for name in ('images.npz', 'classes.png'):
        assert (tmp_path / name).read_bytes() == (finished_folder / name).read_bytes()
    assert_same_weights(weights(tmp_path), weights(finished_folder))
    steps = [line['step'] for line in read_metrics(tmp_path)]
    assert steps == sorted(set(steps)) and steps[-1] == 18


@pytest.mark.parametrize(
    'method, stop, at',
    [
        ('zeroq', killed_at, 10),  # resumes behind step 8, the second of the second group
        ('zeroq', killed_when_written, 1),
        ('deep_inversion', killed_at, 10),
        ('deep_inversion', killed_behind, 1),
    ],
)
def test_what_was_killed_resumes_to_the_bit(
    teacher, finished, tmp_path, monkeypatch, method, stop, at
):
    stop(at, monkeypatch)
    make = {'zeroq': make_zeroq_images, 'deep_inversion': make_deep_inversion_images}[method]
    check_resumed(make, teacher, tmp_path, finished[method][0], monkeypatch)


def test_killed_while_joining(teacher, finished, tmp_path, monkeypatch):
    """Nothing is optimized again."""
    monkeypatch.setattr(inversion, 'join', killed)
    with pytest.raises(KeyboardInterrupt):
        make_zeroq_images(teacher, tmp_path, **RUN)
    monkeypatch.undo()
    monkeypatch.setattr(loop, '_compile', killed)
    make_zeroq_images(teacher, tmp_path, **RUN)
    own, other = (folder / 'images.npz' for folder in (tmp_path, finished['zeroq'][0]))
    assert own.read_bytes() == other.read_bytes()
    # Killed before the grid of images, and before the last groups were removed.
    (tmp_path / 'classes.png').unlink()
    (tmp_path / 'groups' / '00002.npy').touch()
    make_zeroq_images(teacher, tmp_path, **RUN)
    own, other = (folder / 'classes.png' for folder in (tmp_path, finished['zeroq'][0]))
    assert own.read_bytes() == other.read_bytes() and not list((tmp_path / 'groups').iterdir())
    damaged = tmp_path / 'images.npz'
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(UserError, match='images.npz: .*: delete .*, and run the same command'):
        make_zeroq_images(teacher, tmp_path, **RUN)
    damaged.unlink()  # and the groups are gone
    with pytest.raises(UserError, match='00000.npy cannot be read .*: delete .*, and run the same'):
        make_zeroq_images(teacher, tmp_path, **RUN)


def test_images_that_another_process_joined_meanwhile_are_taken(
    teacher, finished, tmp_path, monkeypatch
):
    folder, source = finished['zeroq']
    shutil.copytree(folder, tmp_path / 'run')
    images = (tmp_path / 'run' / 'images.npz').read_bytes()
    (tmp_path / 'run' / 'images.npz').unlink()

    def join_first(*args):
        (tmp_path / 'run' / 'images.npz').write_bytes(images)
        raise UserError('groups/00000.npy cannot be read')

    monkeypatch.setattr(inversion, 'join', join_first)
    assert make_zeroq_images(teacher, tmp_path / 'run', **RUN).image_count == source.image_count


def test_the_source(teacher, finished):
    folder, source = finished['deep_inversion']
    assert source.image_count == 14 and source.batch_size == 4 and source.image_shape == (8, 8, 3)
    assert isinstance(open_npz(folder / 'images.npz')[0], np.memmap)
    assert sum(len(pixels) for pixels, _ in source.one_pass()) == 14
    counts = np.bincount(np.concatenate([labels for _, labels in source.one_pass()]))
    assert sorted(counts) == [2, 3, 3, 3, 3]
    batches = source.batches()
    next(batches)
    for one, other in zip(next(batches), next(source.batches(start=1)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert source.description['kind'] == 'deep_inversion'
    assert str(folder) not in json.dumps(source.description)
    assert 0 < source.clipped_share < 1


def test_no_images_a_batch_are_refused_before_any_work(teacher, tmp_path):
    for make in (make_zeroq_images, make_deep_inversion_images):
        with pytest.raises(UserError, match='batch_size=0 must be'):
            make(teacher, tmp_path / 'run', **{**RUN, 'batch_size': 0})
    assert not (tmp_path / 'run').exists()


def test_a_finished_run_is_reused(teacher, finished, monkeypatch):
    folder, source = finished['zeroq']
    monkeypatch.setattr(inversion, 'optimize', killed)
    again = make_zeroq_images(teacher, folder, **RUN)
    np.testing.assert_array_equal(next(again.batches())[0], next(source.batches())[0])
    assert sorted(path.name for path in folder.iterdir()) == [
        'checkpoints', 'classes.png', 'config.json', 'groups', 'images.npz', 'metrics.jsonl',
        'tensorboard',
    ]  # fmt: skip
    assert not list((folder / 'groups').iterdir())


def test_no_steps_leave_the_start_images(teacher, tmp_path):
    source = make_zeroq_images(teacher, tmp_path, images=6, group_size=4, iterations=0)
    pixels = np.concatenate([pixels for pixels, _ in source.one_pass()])
    assert pixels.shape == (6, 8, 8, 3) and abs(pixels - 0.5).max() < 0.01
    assert len(np.unique(pixels.reshape(6, -1), axis=0)) == 6
    assert source.clipped_share == 0


# Parts.


def test_joining_holds_one_group(tmp_path, caplog):
    rng = np.random.default_rng(0)
    groups = rng.uniform(-0.1, 1.1, (40, 8, 16, 16, 3)).astype(np.float32)
    (tmp_path / 'groups').mkdir()
    for number, group in enumerate(groups):
        np.save(tmp_path / 'groups' / f'{number:05d}.npy', group)
    labels = np.arange(320) % 7
    tracemalloc.start()
    with caplog.at_level(logging.INFO):
        inversion.join(tmp_path, 'all.npz', 317, 40, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * groups[0].nbytes
    flat = groups.reshape(-1, 16, 16, 3)[:317]
    with np.load(tmp_path / 'all.npz') as arrays:
        np.testing.assert_array_equal(arrays['images'], np.clip(flat, 0, 1))
        np.testing.assert_array_equal(arrays['labels'], labels[:317])
        share = np.mean((flat < 0) | (flat > 1))
        assert arrays['clipped_share'] == pytest.approx(share)
    assert f'317 images; {100 * share:.2f} % of their values were outside' in caplog.text


def test_adam_and_its_restart():
    """Against the rule written anew, ε behind the root; a group begins as if none had been."""
    gradients = np.random.default_rng(0).normal(0, 1e-7, (8, 2, 1, 1, 1))

    def start(seed):
        return tf.random.stateless_normal((2, 1, 1, 1), seed, alg='philox')

    group = inversion.Group((2, 1, 1, 1), start, 4, seed=5, beta_1=0.5, beta_2=0.9)
    restarts = []
    for index in range(8):
        images, number, iteration = group.begin(
            tf.constant(index, tf.int64), lambda: restarts.append(0)
        )
        assert (int(number), int(iteration)) == divmod(index, 4)
        if index % 4 == 0:
            x = images.numpy().astype(float)
            m = v = 0
        np.testing.assert_allclose(images, x, rtol=1e-5)
        group.descend(tf.constant(gradients[index], tf.float32), iteration, tf.constant(0.1))
        t = index % 4 + 1
        m, v = 0.5 * m + 0.5 * gradients[index], 0.9 * v + 0.1 * gradients[index] ** 2
        x = x - 0.1 * (m / (1 - 0.5**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
    assert len(restarts) == 2


@pytest.mark.parametrize('mean, std, bgr', [(0, 1 / 255, False), (0, 1, True), (0.5, 0.5, False)])
def test_inputs_in_other_units_are_standardized(teacher, mean, std, bgr):
    spec = dataclasses.replace(teacher.input_spec, mean=(mean,) * 3, std=(std,) * 3, bgr=bgr)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    inputs = inversion.to_inputs(tf.constant(x), spec).numpy()
    np.testing.assert_allclose(inputs, (0.45 + 0.225 * x - mean) / std, rtol=1e-4, atol=1e-5)
    digits = InputSpec((8, 8), 1, 0.1307, 0.3081)  # deviates as the teacher's own images did
    assert inversion.to_inputs(x, digits) is x


def test_options():
    found = ZeroqOptions.resolve('paper', {})
    assert (found.images, found.group_size, found.iterations) == (64, 64, 500)
    assert (found.learning_rate, found.statistics) == (0.5, 'image')
    assert ZeroqOptions.resolve('small', {}) == dataclasses.replace(found, statistics='batch')
    found = ZeroqOptions.resolve('small', {'images': 130})
    assert (found.groups, found.steps, found.image_passes) == (3, 1500, 96_000)
    assert ZeroqOptions.resolve('small', {'images': 6}).group_size == 6
    assert ZeroqOptions.from_record(found.record()) == found


# Whose workdir it is.


def test_workdirs_of_other_methods_are_refused(teacher, finished, tmp_path):
    folder, source = finished['zeroq']
    with pytest.raises(UserError, match='holds images of zeroq, not images of deep_inversion: pa'):
        make_deep_inversion_images(teacher, folder, **RUN)
    with pytest.raises(UserError, match='holds images of zeroq, not a generator: pass another'):
        zscgan.train_generator(teacher, folder, steps=2)
    with pytest.raises(UserError, match='holds images of zeroq .*images.npz., not a generator'):
        zscgan.load_generator(teacher, folder)
    with pytest.raises(UserError, match='iterations 6, not 7; seed 0, not 1'):
        make_zeroq_images(teacher, folder, **{**RUN, 'iterations': 7}, seed=1)
    generator = workdir.config_of(teacher, {'steps': 3}, 0)
    student = workdir.config_of(teacher, {'source_kind': 'zeroq', 'source_images_method': 1}, 0)
    for config, words in ((generator, 'a generator'), (student, 'a student')):
        own = tmp_path / words
        workdir.claim(own, config)
        with pytest.raises(UserError, match=f'holds {words}, not images of zeroq: pass another'):
            make_zeroq_images(teacher, own, **RUN)
