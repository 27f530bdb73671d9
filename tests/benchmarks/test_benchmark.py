"""The benchmark: its arithmetic, its turns, its file; never a time."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import distillation as distilling
from benchmarks import training
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.generators import draw_noise
from zscgan_tf.methods import distillation, zscgan
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.report import results
from zscgan_tf.tflite import calibration
from zscgan_tf.training.strategy import fold_seed

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def teacher():
    return tiny_teacher()


@pytest.fixture(scope='module')
def teacher_file(teacher, tmp_path_factory):
    path = tmp_path_factory.mktemp('teacher') / 'tiny.h5'
    teacher.model.save(path)
    path.with_suffix('.json').write_text(json.dumps(teacher.input_spec.to_dict()))
    return path


def check(result, unit, repeats):
    assert result['unit'] == unit and result['repeats'] == repeats
    for name in ('ratio', 'numerator', 'denominator'):
        assert math.isfinite(result[name]) and result[name] > 0


def test_calls_take_turns_and_the_first_pair_warms_up():
    calls = []
    seconds = training.interleaved(lambda: calls.append('A'), lambda: calls.append('B'), 3)
    assert calls == list('ABABABAB')
    assert [len(side) for side in seconds] == [3, 3]
    calls.clear()
    training.interleaved(lambda: calls.append('A'), lambda: calls.append('B'), 1, warm_up=False)
    assert calls == list('AB')


def test_the_ratio_is_the_median_over_pairs_and_so_free_of_drift():
    result = training.summarize([2.0, 20.0, 300.0], [1.0, 10.0, 100.0], 'ms', 1000, images=7)
    assert result == {
        'ratio': 2.0,
        'unit': 'ms',
        'numerator': 20_000.0,
        'denominator': 10_000.0,
        'repeats': 3,
        'images': 7,
    }


def test_step_over_bare(teacher):
    check(training.step_over_bare(teacher, 3, batch_size=4), 'ms', 3)


def test_bare_passes_return_the_gradients_of_the_step(teacher):
    """The optimizer of a step gets what the bare passes return for the same noise and labels."""
    options = training._options(teacher, batch_size=4, entropy_loss_weight=0.5)
    generator, optimizer, step = zscgan.build_training(teacher, options, seed=0)
    labels = tf.random.stateless_uniform(
        [4], fold_seed(0, 0, 0), maxval=7, dtype=tf.int32, alg='philox'
    )
    noise = draw_noise(generator, 4, fold_seed(0, 0, 1))
    bare = training._bare_passes(teacher, generator, options)(noise, labels)
    seen = []
    optimizer.apply_gradients = lambda pairs: seen.extend(gradient for gradient, _ in pairs)
    step(tf.constant(0, tf.int64))
    assert len(bare) == len(seen) == len(generator.trainable_variables)
    # Those of the tables of conditional batch norms are sparse.
    bare, seen = ([tf.convert_to_tensor(g).numpy() for g in side] for side in (bare, seen))
    scale = max(np.abs(gradient).max() for gradient in seen)
    for one, other in zip(bare, seen, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * scale)


def test_loop_and_direct_steps_take_turns(teacher, monkeypatch):
    order = []
    real_run, real_compiled = training.loop.run, training.compiled

    def run(step, state, steps, *, write_images, **options):
        def turns(done):
            order.append('loop')
            return write_images(done)

        return real_run(step, state, steps, write_images=turns, **options)

    def compiled(step):
        function = real_compiled(step)
        return lambda: (order.append('direct'), function())

    monkeypatch.setattr(training.loop, 'run', run)
    monkeypatch.setattr(training, 'compiled', compiled)
    check(training.loop_over_step(teacher, 2, batch_size=4, steps_per_turn=3), 'ms', 2)
    assert order == ['loop', *['direct'] * 3] * 3


def test_bfloat16_speedup(teacher):
    result = training.bfloat16_speedup(teacher, 2, batch_size=4)
    check(result, 'ms', 2)
    assert result['batch_size'] == 4


def test_distillation_over_float_student(teacher):
    result = distilling.distillation_over_float_student(teacher, 2, batch_size=4)
    check(result, 'ms', 2)
    assert result['batch_size'] == 4


def test_the_float_student_takes_the_same_step_without_rounding(teacher):
    """Its first loss is the entropy of the teacher's answers, and it learns the same variables."""
    pixels = np.random.default_rng(0).uniform(size=(4, *teacher.input_spec.image_shape))
    pixels = tf.constant(pixels, tf.float32)
    options = DistillationOptions.resolve('paper', {'update_generator': False})
    student = distilling._student(teacher, options, pixels)
    copy = distilling.float_student(student)
    losses = [
        distilling._training(each, options)[1](tf.constant(0, tf.int64), pixels)
        for each in (student, copy)
    ]
    logits = teacher.logits(pixels)
    entropy = float(distillation.distillation_loss(logits, logits))
    assert float(losses[1]['distillation_loss']) == pytest.approx(entropy, rel=1e-4)
    assert float(losses[0]['distillation_loss']) == pytest.approx(entropy, rel=0.05)
    trained = [each.trainable_variables() for each in (student, copy)]
    shapes = [sorted(tuple(v.shape) for v in each) for each in trained]
    assert shapes[0] == shapes[1]


def test_combined_over_sum(teacher):
    check(distilling.combined_over_sum(teacher, 2, batch_size=8), 'ms', 2)


def test_the_combined_step_is_the_two_steps(teacher, monkeypatch):
    """From the same weights it finds the losses that a step of each finds on the same images."""
    updates = []
    real = zscgan.continue_training

    def keep(*args, **kwargs):
        updates.append(real(*args, **kwargs)[1])
        return None, updates[-1]

    monkeypatch.setattr(zscgan, 'continue_training', keep)
    pixels = tf.random.stateless_uniform([8, *teacher.input_spec.image_shape], (0, 0))
    index = tf.constant(0, tf.int64)
    combined = distilling.combined_training(teacher, pixels)[0](index)
    student_step = distilling.combined_training(teacher, pixels)[2]
    generated, made, _, _ = updates[1](index)
    alone = {**generated, **student_step(index, made)}
    assert combined.keys() == alone.keys()
    for name, value in combined.items():
        assert float(value) == pytest.approx(float(alone[name]), rel=1e-3), name


def test_export_seconds(teacher):
    result = distilling.export_seconds(teacher, 2, batch_size=4)
    assert result['repeats'] == 2 and result['seconds'] > 0


def test_ptq_over_converter(teacher):
    check(training.ptq_over_converter(teacher, 1, images=70), 'ms', 1)


def test_the_converter_alone_makes_the_same_file(teacher):
    pixels = np.random.default_rng(0).uniform(size=(20, *teacher.input_spec.image_shape))
    pixels = pixels.astype(np.float32)
    pixels[0, 0, 0], pixels[0, -1, -1] = 0, 1  # as `convert` does with the ends of the legal range
    inputs = teacher.input_spec.to_inputs(pixels).numpy()
    file = calibration.convert(teacher, [pixels], file_batch=0)
    assert training.convert_in_memory(teacher, inputs) == file


def test_peak_memory_is_that_of_the_child():
    """Not of this process, which holds TensorFlow, and not of the small one in between."""
    small = training.peak_memory([sys.executable, '-c', 'pass'])
    large = training.peak_memory([sys.executable, '-c', 'x = b"1" * 200_000_000'])
    assert 1e6 < small < 60e6
    assert 190e6 < large - small < 230e6


def test_peak_memory_names_what_failed():
    with pytest.raises(UserError, match='no such thing'):
        training.peak_memory([sys.executable, '-c', 'raise SystemExit("no such thing")'])


@pytest.mark.slow
def test_peak_memory_of_the_real_program(teacher_file):
    flags = ['--mean=0.5', '--std=0.25']
    result = training.peak_memory_images(teacher_file, 1, images=(16, 32), flags=flags)
    check(result, 'MB', 1)
    assert result['images'] == [16, 32]
    result = training.peak_memory_steps(teacher_file, 1, steps=(2, 4))
    check(result, 'MB', 1)
    assert result['steps'] == [2, 4]


# The lines that bin/benchmark.py measures, without teachers and without measuring them.
LINES = """
import json, sys
from benchmarks import program as command, training
from zscgan_tf.commands import common_flags

lines = []
training.peak_memory = lambda line: lines.append(line) or 1
common_flags.load_teacher = lambda: None
command.FLAGS(sys.argv)
assert len(list(command._measure(['peak_memory_images', 'peak_memory_steps']))) == 2
print(json.dumps(lines))
"""


@pytest.mark.slow
def test_the_teachers_flags_are_passed_on():
    flags = ['--image_size=8,9', '--channels=1', '--mean=0.5', '--std=0.25', '--allow_code']
    for given, expected in ((flags, flags), (['--preprocessing=tf'], ['--preprocessing=tf'])):
        done = subprocess.run(
            [sys.executable, '-c', LINES, '--teacher=a.h5', '--large_teacher=b.h5', *given],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        lines = json.loads(done.stdout.splitlines()[-1])
        assert len(lines) > 4
        for line in lines:
            own = ('--teacher', '--output', '--workdir', '--overwrite', '--steps')
            own += ('--calibration_images', '--check_images')
            assert '--teacher=b.h5' in line
            passed = [part for part in line[3:] if not part.startswith(own)]
            assert sorted(passed) == sorted(expected)


def program(*arguments):
    return subprocess.run(
        [sys.executable, 'bin/benchmark.py', *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_partial_run_updates_its_entry_and_keeps_the_others(teacher_file, tmp_path):
    path = tmp_path / 'benchmark.json'
    kept = {'unit': 'ms', 'numerator': 3.0, 'denominator': 2.0, 'repeats': 1}
    stale = {**kept, 'batch_size': 999}
    path.write_text(
        json.dumps(
            {
                'ratios': {'loop_over_step': 1.5, 'zscgan_step_over_bare': 1.5},
                'seconds': {'export_seconds': 12.5},
                'details': {
                    'loop_over_step': kept,
                    'zscgan_step_over_bare': stale,
                    'export_seconds': {'repeats': 3},
                },
                **results.made_with(),
            }
        )
    )
    flags = (f'--teacher={teacher_file}', f'--result_json={path}', '--repeats=2', '--batch_size=4')
    done = program(*flags, '--only=zscgan_step_over_bare', '--overwrite')
    assert done.returncode == 0, done.stderr
    assert 'zscgan_step_over_bare' in done.stdout and '<= 1.10' in done.stdout
    found = json.loads(path.read_text())
    assert set(found) == {'ratios', 'seconds', 'details', 'versions', 'machine'}
    assert found['seconds'] == {'export_seconds': 12.5}
    assert found['details']['export_seconds'] == {'repeats': 3}
    assert found['ratios']['loop_over_step'] == 1.5
    assert found['details']['loop_over_step'] == kept
    new = found['details']['zscgan_step_over_bare']
    check({'ratio': found['ratios']['zscgan_step_over_bare'], **new}, 'ms', 2)
    assert new['batch_size'] == 4
    assert [file.name for file in tmp_path.iterdir()] == ['benchmark.json']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--overwrite', '--only=loop_over_step'], 'run without --only'),
        (['--only=peak_memory_steps'], 'pass the --large_teacher'),
        pytest.param(['--only=export_seconds'], 'pass the --large_teacher', marks=pytest.mark.slow),
        pytest.param([], 'pass --overwrite', marks=pytest.mark.slow),
        pytest.param(['--only=speed'], '--only=speed is unknown', marks=pytest.mark.slow),
    ],
)
def test_a_mistake_is_one_line_and_the_file_stays(arguments, message, teacher_file, tmp_path):
    path = tmp_path / 'benchmark.json'
    path.write_text(json.dumps({'ratios': {}, 'details': {}, 'versions': {}, 'machine': 'a'}))
    before = path.read_text()
    done = program(f'--teacher={teacher_file}', f'--result_json={path}', *arguments)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and message in lines[0]
    assert path.read_text() == before
