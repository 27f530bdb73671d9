"""bin/quantize.py --method=qat and bin/distill.py: a student from a file to a file."""

import json
import re
import shutil

import numpy as np
import pytest
import tf_keras

from tests.commands.conftest import TRAINING
from tests.commands.programs import (
    assert_same_weights,
    interrupt_in,
    interrupt_soon_after,
    weights,
)
from tests.conftest import randomize
from zscgan_tf.tflite import audit, levels

layers = tf_keras.layers

STUDENT = [
    '--weight_bits=6',
    '--activation_bits=6',
    '--distillation_steps=6',
    '--range_images=16',
]
TINY = ['--teacher=tiny.h5', '--seed=2', *TRAINING]
SOURCE = [
    '--teacher=tiny.h5',
    '--source=noise_uniform',
    '--batch_size=8',
    '--check_images=10',
    '--range_images=16',
]
# Bad input that is not refused is at least soon done.
NOISE = [*SOURCE, '--method=qat', '--distillation_steps=2']
RANGES_ALONE = [*SOURCE, '--method=ptq', '--range_estimator=mse']


@pytest.fixture(scope='module')
def generator(finished, programs):
    """The name of a workdir with a finished generator and no student."""
    shutil.copytree(finished.workdir, programs.folder / 'student_run')
    return 'student_run'


@pytest.fixture(scope='module')
def quantized(generator, programs):
    """A whole job at W6A6."""
    result = programs.run(
        'quantize',
        *TINY,
        '--method=qat',
        f'--workdir={generator}',
        *STUDENT,
        '--output=w6a6.tflite',
        '--check_images=40',
        '--evaluation_images=real.npz',
        '--result_json=w6a6.json',
    )
    assert result.status == 0, result.stderr
    return result


def test_the_file_is_integer_and_holds_six_bits(quantized, programs):
    data = (programs.folder / 'w6a6.tflite').read_bytes()
    report = audit.audit(data)
    assert not report.float_ops and report.integer_op_count == report.op_count
    assert report.input.type == report.output.type == 'int8'
    images = np.random.default_rng(0).normal(size=(50, 8, 8, 3)).astype(np.float32)
    found = levels.check_levels(data, [images], weight_bits=6, activation_bits=6)
    assert found.weight_levels <= 63 and 2 < found.activation_levels <= 64


def test_the_summary_and_the_result(quantized, programs):
    text = quantized.stdout
    found = re.search(r'levels +at most (\d+) per channel of weights, (\d+) per tensor', text)
    assert 2 < int(found[1]) <= 63 and 2 < int(found[2]) <= 64
    assert re.search(r'student +agrees with its file on \d+\.\d\d % of the images', text)
    assert '% on 40 fresh images' in text and '% on 20 real images' in text
    assert 'Traceback' not in quantized.stderr and 'too often' not in text
    result = json.loads((programs.folder / 'w6a6.json').read_text())
    assert result['steps'] == 6 and result['images'] == 16
    options = result['options']
    assert options['student_weight_bits'] == options['student_first_last_bits'] == 6
    assert result['metrics']['student_agreement'][0] > 90
    assert result['metrics']['accuracy'] == result['metrics']['agreement']


@pytest.mark.slow
def test_distill_then_quantize_reuses_the_finished_student(quantized, generator, programs):
    folder = programs.folder / 'alone'
    flags = [*TINY, f'--workdir={generator}', '--student_workdir=alone', *STUDENT]
    distilled = programs.run('distill', *flags)
    assert distilled.status == 0, distilled.stderr
    assert 'alone: distilled (loss ' in distilled.stdout
    log = (folder / 'metrics.jsonl').read_text()
    assert len(log.splitlines()) == json.loads(log.splitlines()[-1])['step'] == 6
    assert '--weight_bits=6' in (folder / 'flags.cfg').read_text()
    result = programs.run(
        'quantize', *flags, '--method=qat', '--check_images=10', '--output=alone.tflite'
    )
    assert result.status == 0, result.stderr
    assert 'student: ' not in result.stderr  # nothing was left to train
    assert (folder / 'metrics.jsonl').read_text() == log
    # The stage alone does what the whole job does.
    assert_same_weights(weights(folder), weights(programs.folder / generator / 'student_w6a6'))


def test_ranges_by_squared_error_without_training(generator, programs):
    result = programs.run(
        'quantize',
        *TINY,
        f'--workdir={generator}',
        '--method=ptq',
        '--range_estimator=mse',
        '--range_images=16',
        '--check_images=10',
        '--output=mse.tflite',
    )
    assert result.status == 0, result.stderr
    report = audit.audit((programs.folder / 'mse.tflite').read_bytes())
    assert report.integer_op_count == report.op_count
    assert not (programs.folder / generator / 'student_w8a8').exists()


@pytest.mark.slow
def test_real_images_may_be_fewer_than_the_training_takes(quantized, programs):
    """20 images, seen again and again; none of them is fresh, all can be answered."""
    result = programs.run(
        'quantize',
        '--teacher=tiny.h5',
        '--seed=2',
        '--method=qat',
        '--source=files',
        '--images=real.npz',
        '--batch_size=8',
        *STUDENT,
        '--output=files.tflite',
        '--result_json=files.json',
    )
    assert result.status == 0, result.stderr
    assert 'fresh' not in result.stdout
    assert '% on 20 images that it was made with' in result.stdout
    metrics = json.loads((programs.folder / 'files.json').read_text())['metrics']
    assert metrics['student_agreement'][0] > 90
    assert 'fresh_agreement' not in metrics and 'generator_minutes' not in metrics


# Ctrl-C.


@pytest.mark.slow
def test_an_interrupted_distillation_goes_on_to_the_same_student(quantized, generator, programs):
    flags = [*TINY, f'--workdir={generator}', '--student_workdir=broken_off', *STUDENT]
    during = interrupt_in('zscgan_tf.training.loop', '_write_metrics', 3)
    result = programs.run('distill', *flags, during=during)
    assert result.status == 130 and 'Traceback' not in result.stderr
    assert 'student was interrupted after step 3 of 6; the same command resumes it' in result.stderr
    result = programs.run('distill', *flags)
    assert result.status == 0, result.stderr
    assert 'student: resuming after step 3' in result.stderr
    whole = weights(programs.folder / generator / 'student_w6a6')
    assert_same_weights(weights(programs.folder / 'broken_off'), whole)


@pytest.mark.parametrize(
    'during',
    [
        interrupt_soon_after('tensorflow.lite.python.lite', 'TFLiteKerasModelConverterV2.convert'),
        interrupt_in('zscgan_tf.tflite.levels', '_seen_levels'),
        interrupt_in('zscgan_tf.pipeline', '_agreement', 2),
        interrupt_in('zscgan_tf.atomic_files', 'write_atomically', 1),
    ],
    ids=['converting', 'counting levels', 'comparing', 'writing'],
)
def test_an_interrupted_export_leaves_no_file(programs, during):
    result = programs.run(
        'quantize',
        *RANGES_ALONE,
        '--weight_bits=4',
        '--activation_bits=4',
        '--output=half.tflite',
        during=during,
    )
    assert result.status == 130, result.stderr
    assert 'interrupted: no output was written' in result.stderr
    assert 'Traceback' not in result.stderr
    assert not list(programs.folder.glob('half*'))


# A student that is of no use.


def test_a_student_that_disagrees_with_its_teacher(programs):
    """Two bits and no training: the file is written, and the summary and the status say so."""
    result = programs.run(
        'quantize',
        *RANGES_ALONE,
        '--weight_bits=2',
        '--activation_bits=2',
        '--check_images=200',
        '--range_estimator=minmax',
        '--noerror_compensation',
        '--nobias_correction',
        '--output=two.tflite',
    )
    assert result.status == 2, result
    assert 'agrees with its teacher too rarely to be of use: pass' in result.stdout
    assert 'error' not in result.stderr and 'Traceback' not in result.stderr
    assert (programs.folder / 'two.tflite').exists()


# What a user may get wrong.


@pytest.fixture(scope='module', autouse=True)
def bad_files(programs):
    folder = programs.folder
    x = inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    x = layers.LayerNormalization(name='odd_norm')(x)
    outputs = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    model = randomize(tf_keras.Model(inputs, outputs))
    model.save(folder / 'unsupported.h5')
    images = np.random.default_rng(0).uniform(size=(20, 8, 8, 3)).astype(np.float32)
    np.savez(folder / 'two_channels.npz', images=images[..., :2])
    np.savez(folder / 'four_images.npz', images=images[:4])
    np.savez(folder / 'labelled.npz', images=images, labels=np.arange(20) % 13)
    images[3, 2, 1, 0] = np.nan
    np.savez(folder / 'not_finite.npz', images=images)


FILES = '--source=files'


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--weight_bits=1'], ['--weight_bits=1 must be 2 to 8 bits']),
        (['--weight_bits=9'], ['--weight_bits=9 must be 2 to 8 bits']),
        (['--activation_bits=16'], ["--activation_bits=16 is for TFLite's own calibration"]),
        (['--first_last_bits=0'], ['--first_last_bits=0 must be 2 to 8 bits']),
        (['--temperature=0'], ['--temperature=0.0 must be positive']),
        (['--soft_target_weight=2'], ['--soft_target_weight=2.0 must be between 0 and 1']),
        (['--soft_target_weight=0.5'], ['--soft_target_weight=0.5 needs labels']),
        (['--calibration_images=9'], ["--calibration_images is for TFLite's own calibration, not"]),
        (['--noper_channel'], ["--per_channel is for TFLite's own calibration, not for a"]),
        (['--allow_float_ops'], ["--allow_float_ops is for TFLite's own calibration, not"]),
        (
            ['--raw_pixels', '--activation_scope=all', '--activation_bits=4'],
            ['--activation_scope=all rounds the input'],
        ),
        (['--range_images=0'], ['--range_images=0 must be a whole number, at least 1']),
        (
            [FILES, '--images=labelled.npz', '--soft_target_weight=0.5', '--nomix'],
            ['Label 12 is not a class of the teacher tiny'],
        ),
        (['--distillation_steps=0'], ['--distillation_steps=0 must be', '--method=ptq']),
        (['--distillation_learning_rate=0'], ['--distillation_learning_rate=0.0 must be positive']),
        (
            ['--update_generator'],
            ['--update_generator has no generator to update with --source=', 'noupdate_generator'],
        ),
        (['--method=ptq'], ['--distillation_steps is for the training of a student: pass']),
        (
            ['--method=ptq', '--range_estimator=mse'],
            ['--distillation_steps is for the training of a student: pass --method=qat'],
        ),
        (
            ['--teacher=unsupported.h5', '--mean=0.5', '--std=0.5', '--source=zscgan'],
            ['odd_norm', 'LayerNormalization'],
        ),
        ([FILES, '--images=two_channels.npz'], ['two_channels.npz', '2 channels', '3 channels']),
        ([FILES, '--images=not_finite.npz'], ['not_finite.npz', 'nan']),
        (
            [FILES, '--images=four_images.npz'],
            ['the source holds 4 images, fewer than the 16 that set the ranges'],
        ),
    ],
    ids=lambda value: ' '.join(value)[:60],
)
def test_refused_before_any_training(programs, flags, words):
    message = programs.run(
        'quantize', *NOISE, *flags, '--workdir=refused', '--output=refused.tflite'
    ).error
    for word in words:
        assert word in message
    left = sorted(path.name for path in programs.folder.glob('refused*'))
    assert left == [] or FILES in flags
    assert 'refused.tflite' not in left
    shutil.rmtree(programs.folder / 'refused', ignore_errors=True)


def times(folder):
    # The generator's flags.cfg is of the last command that used it.
    files = [path for path in folder.rglob('*') if path != folder / 'flags.cfg']
    return {path: path.stat().st_mtime for path in files if path.is_file()}


@pytest.mark.parametrize(
    'program, flags, words',
    [
        ('quantize', ['--teacher=other.h5'], ['belongs to another teacher (tiny)']),
        ('distill', ['--teacher=other.h5'], ['belongs to another teacher (tiny)']),
        (
            'quantize',
            ['--weight_bits=4', '--student_workdir=student_run/student_w6a6'],
            ['--student_workdir=student_run/student_w6a6 holds a run of', 'weight_bits 6, not 4'],
        ),
        (
            'distill',
            ['--temperature=2'],
            ['temperature 1.0, not 2.0', 'or a --student_workdir, or another --workdir.'],
        ),
        ('distill', ['--distillation_steps=0'], ['--distillation_steps=0 must be', '--method=ptq']),
        ('distill', ['--workdir=missing'], ['--workdir=missing holds no run']),
        (
            'quantize',
            ['--student_workdir=student_run'],
            ['--student_workdir and --workdir are the same file, student_run'],
        ),
        (
            'distill',
            ['--student_workdir=student_run'],
            ['--student_workdir=student_run holds a generator, not a student'],
        ),
        (
            'distill',
            ['--workdir=student_run/student_w6a6'],
            ['holds a student, not a generator: pass the folder of a generator'],
        ),
        (
            'distill',
            ['--distillation_steps=7'],
            ['distillation_steps 6, not 7', 'or a --student_workdir, or another --workdir.'],
        ),
        ('distill', ['--seed=3'], ['holds a generator of another configuration', 'seed 2, not 3']),
        ('distill', ['--z_channels=7', '--steps=9'], ['steps 8, not 9', 'z_channels 3, not 7']),
    ],
    ids=lambda value: ' '.join(value)[:60],
)
def test_folders_of_another_run(quantized, generator, programs, program, flags, words):
    folder = programs.folder / generator
    before = times(folder)
    own = [] if program == 'distill' else ['--method=qat', '--output=mixed.tflite']
    message = programs.run(program, *TINY, f'--workdir={generator}', *STUDENT, *own, *flags).error
    for word in words:
        assert word in message
    assert times(folder) == before
    assert not (programs.folder / 'mixed.tflite').exists()
