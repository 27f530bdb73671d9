"""docs/models.md: each cell of its table of architectures is tried; its lists of layers too."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tf_keras

from tests.conftest import randomize
from zscgan_tf.errors import UserError
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.calibrate import build, calibrate_student
from zscgan_tf.student.options import CalibrationOptions
from zscgan_tf.teacher.layer_types import LAYER_TYPES
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.teacher.raw_pixels import raw_pixels
from zscgan_tf.tflite import student_export
from zscgan_tf.tflite.convertible import check_convertible

PAGE = (pathlib.Path(__file__).parents[1] / 'docs' / 'models.md').read_text(encoding='utf-8')
COLUMNS = ['architecture', 'Keras 2', 'Keras 3', 'student', "TFLite's calibration", 'raw pixels']
# The student is calibrated with few images and without what takes time and moves no layer.
QUICK = {
    'range_images': 4,
    'range_estimator': 'minmax',
    'align_additions': False,
    'error_compensation': False,
    'bias_correction': False,
}


def architectures():
    """Architecture -> what the page says of it, by column."""
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in PAGE.splitlines()]
    first = lines.index(COLUMNS)
    rows = [line for line in lines[first + 2 :] if len(line) == len(COLUMNS)]
    return {row[0]: dict(zip(COLUMNS[1:], row[1:], strict=True)) for row in rows}


def application(package, name):
    """A model of `applications` with random weights, on images of 64 or 96 pixels."""
    size = 96 if name in ('InceptionV3', 'Xception') else 64
    build_model = getattr(package.applications, name)
    model = build_model(weights=None, input_shape=(size, size, 3), classes=10)
    return randomize(model) if package is tf_keras else model


def load(package, name):
    model = application(package, name)
    try:
        return load_teacher(model)
    except UserError as error:  # it does not contain its preprocessing
        if 'pass --preprocessing' not in str(error):
            raise
        return load_teacher(model, input_spec={'preprocessing': 'tf'})


def student_file(teacher):
    """An integer file through the student; the audit and the count of levels are in it."""
    source = NoiseSource(teacher.input_spec, batch_size=4)
    student = calibrate_student(teacher, source, **QUICK)
    pixels, _ = next(source.batches())
    return student_export.export(student, [teacher.input_spec.to_inputs(pixels).numpy()])


def check(said, attempt):
    """What the page says, 'yes' or 'no: words of the message', comes true."""
    if said == 'yes':
        return attempt()
    with pytest.raises(UserError, match=re.escape(said.removeprefix('no: ').strip('`'))):
        attempt()


@pytest.mark.slow
@pytest.mark.parametrize('name', architectures())
def test_an_architecture_of_keras_2(name):
    said = architectures()[name]
    if said['Keras 2'] == 'not there':
        assert not hasattr(tf_keras.applications, name)
        return
    check(said['Keras 2'], lambda: load(tf_keras, name))
    if said['Keras 2'] == 'yes':
        teacher = load(tf_keras, name)
        check(said['student'], lambda: student_file(teacher))
        check(said["TFLite's calibration"], lambda: check_convertible(teacher))
        check(said['raw pixels'], lambda: raw_pixels(teacher))


@pytest.mark.slow
@pytest.mark.parametrize('name', architectures())
def test_an_architecture_of_keras_3(name):
    said = architectures()[name]
    check(said['Keras 3'], lambda: load(keras, name))
    if said['Keras 3'] == 'yes':
        teacher = load(keras, name)
        options = CalibrationOptions.resolve('small', {})
        check(said['student'], lambda: build(teacher, options))
        check(said['raw pixels'], lambda: raw_pixels(teacher))


def listed(heading):
    """The names in backticks of the paragraph behind a bold heading."""
    paragraph = re.search(rf'\*\*{re.escape(heading)}\*\*(.*?)\n\n', PAGE, re.S).group(1)
    return set(re.findall(r'`(\w+)`', paragraph))


def test_the_layers_of_the_student():
    ours = {'ConstantChannel', 'SelectChannels'}  # made by flattening and raw pixels alone
    held = {name for name, kind in LAYER_TYPES.items() if kind.student}
    assert listed('The student supports') == held - ours
    dropped = {name for name, kind in LAYER_TYPES.items() if kind.dropped}
    assert {'Dropout', 'RandomFlip'} <= listed('Layers that do nothing in inference') <= dropped
    alone = listed("TFLite's calibration alone takes")
    assert alone and not alone & held and alone <= LAYER_TYPES.keys()


def test_a_row_has_one_of_the_words():
    for name, said in architectures().items():
        for cell in said.values():
            assert re.fullmatch(r'yes|not there|no: `.+`', cell), (name, cell)
    assert len(architectures()) > 8 and np.all([s['Keras 3'] for s in architectures().values()])
