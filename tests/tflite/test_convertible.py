"""What TFLite cannot quantize is told by the layer's name, before anything is trained."""

import pytest
import tf_keras

from tests.conftest import randomize
from zscgan_tf import pipeline
from zscgan_tf.errors import UserError
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite.convertible import check_convertible

layers = tf_keras.layers


def teacher_with(layer):
    x = images = layers.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(x)))
    x = layers.Add(name='sum')([x, layers.Conv2D(8, 1)(x)])  # converts, with its two inputs
    x = layers.ReLU()(layer(x) if layer else x)
    model = tf_keras.Model(images, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    return load_teacher(randomize(model), input_spec={'preprocessing': 'unit'})


CANNOT = {
    'Activation selu': lambda: layers.Activation('selu', name='odd'),
    'GroupNormalization': lambda: layers.GroupNormalization(2, name='odd'),
    'Activation elu': lambda: layers.Activation('elu', name='odd'),
    'ReLU': lambda: layers.ReLU(threshold=0.1, name='odd'),
    'UpSampling2D': lambda: layers.UpSampling2D(2, interpolation='bicubic', name='odd'),
}


@pytest.mark.parametrize('kind', CANNOT)
def test_the_layer_is_named(kind):
    teacher = teacher_with(CANNOT[kind]())
    with pytest.raises(UserError) as error:
        check_convertible(teacher)
    message = str(error.value)
    assert f"cannot quantize layer 'odd' ({kind})" in message and '\n' not in message
    assert 'rebuild the model' in message and 'tfl.' not in message and 'MLIR' not in message
    # What is offered works.
    if 'allow_float_ops' in message:
        check_convertible(teacher, allow_float_ops=True)


def test_from_python_too(tmp_path):
    teacher = teacher_with(CANNOT['Activation elu']())
    source = NoiseSource(teacher.input_spec, batch_size=4)
    with pytest.raises(UserError, match="'odd' .Activation elu.*--allow_float_ops"):
        pipeline.quantize(teacher, source, tmp_path / 'a.tflite', calibration_images=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'layer',
    [None, layers.Activation('tanh'), layers.LayerNormalization(), layers.Conv2DTranspose(4, 3)],
)
def test_what_can_be_quantized(layer):
    check_convertible(teacher_with(layer))
