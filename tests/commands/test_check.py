"""bin/quantize.py --check: what it finds in a model, and that it writes nothing."""

import pytest
import tf_keras

from tests.commands.conftest import TRAINING
from tests.conftest import randomize

layers = tf_keras.layers
SMALL = TRAINING[1:]  # of the tiny generator; its steps are the preset's


def check(programs, *flags):
    before = sorted(programs.folder.glob('[!.]*'))
    result = programs.run('quantize', *flags, '--check')
    assert sorted(programs.folder.glob('[!.]*')) == before
    assert result.status == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    return ' '.join(result.stdout.split()), result


def test_a_model_that_all_can_take(programs):
    text, result = check(programs, 'tiny.h5', *SMALL)
    assert 'model tiny.h5: ' in text and '3 BatchNormalization' in text
    assert '2 Conv2D' in text and '1 DepthwiseConv2D' in text
    assert 'images 8x8x3' in text and 'classes 5 classes (a softmax)' in text
    assert 'batch norms 3 with 18 channels' in text
    assert 'student can be made' in text and 'TFLite its own calibration takes the model' in text
    assert 'training 1,000 steps of 8 images' in text and ' on this machine' in text
    assert (
        'GB: the peak of this process' in text
        and '--method=qat --weight_bits=4 trains a student: 1,500' in text
    )
    assert result.stderr.startswith('loaded tiny.h5: 3 convolutions, 3 batch norms, 5 classes')


def test_layers_that_a_student_cannot_take_are_named(programs):
    x = inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    x = layers.Conv2DTranspose(4, 3, name='up')(layers.ReLU()(x))
    x = layers.LayerNormalization(name='norm')(x)
    x = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    randomize(tf_keras.Model(inputs, x)).save(programs.folder / 'odd.h5')
    # A run's own flags.cfg has defaults too, which nothing reads here.
    flags = ['--source=noise_uniform', '--method=qat', '--images_every=500']
    text, _ = check(programs, 'odd.h5', '--preprocessing=unit', *flags)
    assert "cannot be made: odd: layer 'up' (Conv2DTranspose)" in text
    assert "counterpart: 'up' (Conv2DTranspose), 'norm' (LayerNormalization)" in text
    assert text.endswith('training none: --source=noise_uniform has no generator')


@pytest.mark.slow
def test_images_that_a_student_judges_say_that_it_is_trained_first(programs):
    flags = ['--source=deep_inversion', '--iterations=4', '--optimized_images=10', '--group_size=5']
    text, _ = check(programs, 'tiny.h5', *flags, '--method=qat', '--compete_weight=1')
    assert 'training 8 steps of 5 images' in text
    assert 'student 1 half of the steps of the student below' in text


def test_what_dfq_finds_to_do(programs):
    text, _ = check(programs, 'tiny.h5', '--method=dfq')
    assert 'DFQ can be made: 1 ReLU6 clip each channel' in text and 'student can be' not in text
    x = inputs = layers.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, layers.Conv2D(4, 3)(inputs)]))
    randomize(tf_keras.Model(inputs, layers.Dense(4)(x))).save(programs.folder / 'single.h5')
    text, _ = check(programs, 'single.h5', '--preprocessing=unit', '--method=dfq')
    assert 'DFQ cannot be made: --method=dfq has nothing to equalize in single' in text


def test_a_file_that_is_no_model(programs):
    (programs.folder / 'text.h5').write_text('This is no model.')
    assert 'text.h5' in programs.run('quantize', 'text.h5', '--check').error
