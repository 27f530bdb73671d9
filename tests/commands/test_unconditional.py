"""A generator without classes from a file to a file, played against its student as in [14]."""

import json

import numpy as np
import pytest


@pytest.mark.slow
def test_a_whole_job(programs):
    teacher, workdir = '--teacher=tiny.h5', '--workdir=without'
    result = programs.run(
        'quantize',
        teacher,
        workdir,
        '--steps=3',
        '--batch_size=8',
        '--unconditional',
        '--generator=dcgan',
        '--method=qat',
        '--update_generator',
        '--adversarial_weight=100',
        '--generator_every=2',
        '--distillation_steps=3',
        '--range_images=16',
        '--output=without.tflite',
        '--page',
        '--check_images=16',
        '--result_json=without.json',
    )
    assert result.status in (0, 2), result.stderr
    page = (programs.folder / 'without.html').read_text()
    assert 'The first of the generated images' in page and 'a row a class' not in page
    found = json.loads((programs.folder / 'without.json').read_text())
    assert found['options']['generator'] == 'dcgan' and found['options']['unconditional'] is True
    assert found['options']['student_adversarial_weight'] == 100
    assert 'bns_loss' in found['metrics'] and 'class_loss' not in found['metrics']
    folder = programs.folder / 'without'
    config = json.loads((folder / 'student_w8a8' / 'config.json').read_text())
    assert config['generator_every'] == 2 and config['source_generator'] == 'dcgan'
    result = programs.run('synthesize', teacher, workdir, '--output=without.npz', '--count=9')
    assert result.status == 0, result.stderr
    made = np.load(programs.folder / 'without.npz')
    assert made.files == ['images'] and made['images'].shape == (9, 8, 8, 3)
