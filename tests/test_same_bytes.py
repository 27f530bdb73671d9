"""The same run gives the same bytes, whatever stopped it or was built in the process before."""

import dataclasses
import os
import signal

import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert import schema_py_generated as schema

from tests.conftest import randomize
from zscgan_tf.methods import distillation
from zscgan_tf.sources.batches import take
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.calibrate import calibrate_student
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import calibration, converter, student_export


@pytest.fixture(scope='module')
def teacher():
    layers = tf_keras.layers
    inputs = layers.Input((6, 6, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs)))
    x = layers.Dense(3, activation='softmax')(layers.GlobalAveragePooling2D()(x))
    model = randomize(tf_keras.Model(inputs, x, name='net(1)'))
    return load_teacher(model, input_spec={'mean': [0.5], 'std': [0.5]})


def renumbered(teacher):
    """The teacher with models that Keras gives the next numbers."""
    tf_keras.Model(teacher.model.input, teacher.model.output)
    models = (teacher.model, teacher.logits_model)
    model, logits_model = (tf_keras.Model(m.input, m.output) for m in models)
    return dataclasses.replace(teacher, model=model, logits_model=logits_model)


def calibrated(teacher, head):
    source = NoiseSource(teacher.input_spec, batch_size=8)
    pixels = (pixels for pixels, _ in take(source.batches(), 8))
    return calibration.convert(teacher, pixels, output_head=head)


def distilled(teacher, head, **options):
    source = NoiseSource(teacher.input_spec, batch_size=8)
    student = calibrate_student(teacher, source, range_images=8, **options)
    return student_export.convert(student, output_head=head)


def stock(teacher, head):
    return distilled(teacher, head, student='tfmot')


def tensor_names(data):
    return [
        tensor.name.decode()
        for tensor in schema.ModelT.InitFromPackedBuf(data, 0).subgraphs[0].tensors
    ]


@pytest.mark.parametrize(
    'make, head',
    [(calibrated, 'model'), (calibrated, 'logits'), (distilled, 'model'), (stock, 'logits')],
)
def test_other_models_of_the_process_change_nothing(teacher, make, head):
    first = make(renumbered(teacher), head)
    assert make(renumbered(teacher), head) == first
    assert any(name.startswith('net_1_/') for name in tensor_names(first))


@pytest.mark.parametrize(
    'name, wanted',
    [
        ('resnet-20.v2', 'resnet-20.v2'),
        ('my net (1)', 'my_net_1_'),
        ('сеть', 'teacher'),
        ('__net', 'net'),
        ('model_12', 'model'),
        ('model_b', 'model_b'),
        ('resnet_50', 'resnet_50'),
        ('equalized_net', 'net'),
    ],
)
def test_any_name_of_a_teacher_will_do(teacher, name, wanted):
    model = converter.prepared(teacher.model, name)
    assert model.name == wanted
    equalized = converter.prepared(teacher.model, name, equalized=True)
    assert equalized.name == f'equalized_{wanted}'
    # TensorFlow takes it for a scope.
    tf.function(model).get_concrete_function(tf.TensorSpec([1, 6, 6, 1]))


class Interrupting(NoiseSource):
    """Presses Ctrl-C when its fourth batch is asked for."""

    def batches(self, start=0):
        for number, batch in enumerate(super().batches(start), start):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


@pytest.mark.slow
def test_an_interruption_changes_nothing(teacher, tmp_path):
    options = {'steps': 5, 'range_images': 8, 'update_generator': False, 'weight_bits': 4}

    def run(folder, source_class=NoiseSource):
        source = source_class(teacher.input_spec, batch_size=8)
        return student_export.convert(distillation.distill(teacher, source, folder, **options))

    whole = run(tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt, match='after step 3 of 5'):
        run(tmp_path / 'stopped', Interrupting)
    assert run(tmp_path / 'stopped') == whole
