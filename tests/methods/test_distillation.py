"""The whole distillation with its resume, and what it refuses."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from tests.numbers import read_metrics
from tests.students import student_of
from tests.test_pipeline import Recording
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.generators import build_generator
from zscgan_tf.methods import distillation
from zscgan_tf.methods.distillation_checks import check_replicas
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.sources.files import FileSource
from zscgan_tf.sources.generator import GeneratorSource
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.alignment import align_additions
from zscgan_tf.student.calibration.bias_correction import correct_biases
from zscgan_tf.student.calibration.calibrate import calibrate_student
from zscgan_tf.student.calibration.error_compensation import compensate_errors
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import levels
from zscgan_tf.training import loop
from zscgan_tf.training.strategy import make_strategy

SMALL = {'range_images': 16, 'weight_bits': 4, 'activation_bits': 4, 'learning_rate': 3e-3}


@pytest.fixture
def not_exported(monkeypatch):
    """Leaves out the trial export before the first step: seconds, of another test."""
    monkeypatch.setattr(distillation.student_export, 'export', lambda *args: None)


def distill(workdir, teacher, source, steps, **options):
    return distillation.distill(
        teacher, source, workdir, steps=steps, checkpoint_every=5, **{**SMALL, **options}
    )


def test_distillation_lowers_both_losses(tmp_path, not_exported):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=32)
    options = {
        'weight_bits': 3,
        'activation_bits': 3,
        'range_estimator': 'minmax',
        'learning_rate': 1e-2,
    }
    distill(tmp_path, teacher, source, 60, feature_loss_weight=0.5, **options)
    log = read_metrics(tmp_path)
    first, last = (
        {key: np.mean([m[key] for m in part]) for key in log[0]} for part in (log[:10], log[-10:])
    )
    assert last['distillation_loss'] < first['distillation_loss']
    assert last['feature_loss'] < first['feature_loss']


def test_a_student_is_trained_behind_the_images_of_its_ranges(tmp_path, not_exported):
    teacher = tiny_teacher()
    source = Recording(teacher.input_spec, batch_size=8)
    student = distill(tmp_path, teacher, source, 2, range_images=20)
    assert set(source.starts) == {0, 3}
    assert -(-student.options.used_images(8) // 8) == 5


@pytest.mark.parametrize('training', ('learned', 'moving_average'))
def test_resumed_is_bit_equal(tmp_path, not_exported, training):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    options = {'range_training': training}
    whole = distill(tmp_path / 'whole', teacher, source, 12, **options)

    class Stops(NoiseSource):
        """Is interrupted when it is asked for the batches behind the tenth."""

        def batches(self, start=0):
            return itertools.chain(
                itertools.islice(super().batches(start), 12 - start), self.interrupt()
            )

        def interrupt(self):
            raise KeyboardInterrupt
            yield

    broken = Stops(teacher.input_spec, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        distill(tmp_path / 'parts', teacher, broken, 12, **options)
    assert 0 < read_metrics(tmp_path / 'parts')[-1]['step'] < 12
    resumed = distill(tmp_path / 'parts', teacher, source, 12, **options)
    for one, two in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    reused = distill(tmp_path / 'parts', teacher, source, 12, **options)
    for one, two in zip(whole.model.get_weights(), reused.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_ranges_of_weights_follow_them_where_activations_are_moving_averages():
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    student = student_of(teacher, range_training='moving_average')
    set_ranges(student, lambda: [next(source.batches())[0]])
    student.model(next(source.batches())[0], training=True)
    for wrapper in student.model.layers:
        for kernel, quantizer, found in getattr(wrapper, '_weight_vars', []):
            values = np.abs(kernel.numpy())
            if quantizer.depthwise:
                values = values.reshape(*values.shape[:2], -1)
            largest = values.max(axis=tuple(range(values.ndim - 1)))
            np.testing.assert_array_equal(found['max'], largest)


def test_the_generator_is_updated_only_if_asked_for(tmp_path, not_exported):
    teacher = tiny_teacher()
    spec = teacher.input_spec
    generator = build_generator(spec.image_shape, 7, scales=1, channels=4, skip_channels=2)
    options = GeneratorOptions.resolve('small', {'batch_size': 8}, teacher)
    source = GeneratorSource(generator, 7, 8, options=options.record())
    before = generator.get_weights()
    distill(tmp_path / 'fixed', teacher, source, 1)
    for one, two in zip(before, generator.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    distill(tmp_path / 'updated', teacher, source, 1, update_generator=True)
    changed = [
        np.abs(one - two).max() for one, two in zip(before, generator.get_weights(), strict=True)
    ]
    assert max(changed) > 0
    assert {'bns_loss', 'distillation_loss'} <= read_metrics(tmp_path / 'updated')[-1].keys()


@pytest.mark.parametrize(
    'options, message',
    [
        ({'temperature': 0.0}, 'temperature=0.0 must be positive'),
        ({'soft_target_weight': 1.5}, 'soft_target_weight=1.5 must be between 0 and 1'),
        ({'soft_target_weight': 0.5}, 'needs labels'),
        ({'soft_target_weight': 0.5, 'mix': True}, 'a blend of two images has none'),
        ({'update_generator': True}, '--update_generator .* has no generator to update'),
        ({'weight_bits': 9}, 'weight_bits=9 must be 2 to 8'),
        ({'range_training': 'wild'}, 'range_training=wild must be one of'),
    ],
)
def test_refusals(tmp_path, options, message):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    with pytest.raises(UserError, match=message):
        distill(tmp_path / 'run', teacher, source, 2, **options)
    assert not (tmp_path / 'run').exists()


def test_one_class_an_image_is_no_answer_of_independent_labels(tmp_path):
    teacher = dataclasses.replace(tiny_teacher(num_classes=3), head='labels', name='tags')
    images = np.zeros((16, *teacher.input_spec.image_shape), np.uint8)
    np.savez(tmp_path / 'a.npz', images=images, labels=np.arange(16) % 3)
    source = FileSource(tmp_path / 'a.npz', teacher.input_spec, 8)
    words = '--soft_target_weight=0.5 needs labels as tags gives them'
    with pytest.raises(UserError, match=words):
        distill(tmp_path / 'run', teacher, source, 2, soft_target_weight=0.5)
    assert not (tmp_path / 'run').exists()


def test_a_source_that_ends_is_told(tmp_path, not_exported):
    teacher = tiny_teacher()

    class Short(NoiseSource):
        def batches(self, start=0):
            return itertools.islice(super().batches(), start, 2)

    source = Short(teacher.input_spec, batch_size=16)
    with pytest.raises(UserError, match='noise_uniform ended: yield batches without end'):
        distill(tmp_path / 'run', teacher, source, 4)


def test_what_can_not_be_exported_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    check_levels = levels.check_levels
    monkeypatch.setattr(
        levels, 'check_levels', lambda *a, **k: check_levels(*a, **{**k, 'activation_bits': 2})
    )
    with pytest.raises(UserError, match='does not hold 2-bit activations'):
        distill(tmp_path / 'run', teacher, source, 4)
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


@pytest.mark.parametrize('batch', (0, 2), ids=('setting ranges', 'training'))
def test_images_that_are_not_finite_are_refused_with_their_source(tmp_path, not_exported, batch):
    teacher = tiny_teacher()

    class Broken(NoiseSource):
        def _batch(self, index):
            pixels = super()._batch(index)
            return pixels * np.nan if index == batch else pixels

    source = Broken(teacher.input_spec, batch_size=16)
    with pytest.raises(UserError, match='^noise_uniform: A batch of images holds .* not finite'):
        distill(tmp_path / 'run', teacher, source, 4)


def test_images_of_another_shape_and_other_runs_are_refused(tmp_path, not_exported):
    teacher = tiny_teacher()
    other = NoiseSource(tiny_teacher(size=9).input_spec, batch_size=8)
    with pytest.raises(UserError, match='the images have the shape'):
        distill(tmp_path / 'run', teacher, other, 2)
    source = NoiseSource(teacher.input_spec, batch_size=8)
    distill(tmp_path / 'run', teacher, source, 1)
    with pytest.raises(UserError, match='weight_bits 4, not 6'):
        distill(tmp_path / 'run', teacher, source, 1, weight_bits=6)


def test_a_student_of_other_images_is_not_reused(tmp_path, not_exported, monkeypatch):
    teacher = tiny_teacher()
    spec = teacher.input_spec
    generator = build_generator(spec.image_shape, 7, scales=1, channels=4)
    generators = [GeneratorSource(generator, 7, 8, options={'steps': n}) for n in (1, 2)]
    monkeypatch.setattr(loop, 'run', lambda *args, **options: {})
    for name, made, other, message in (
        ('kind', NoiseSource(spec), NoiseSource(spec, 'gaussian'), '"noise_uniform", not "noise_g'),
        ('seed', NoiseSource(spec), NoiseSource(spec, seed=1), 'source_seed 0, not 1'),
        ('generator', *generators, 'source_steps 1, not 2'),
    ):
        distill(tmp_path / name, teacher, made, 1, range_images=8)
        with pytest.raises(UserError, match=message):
            distill(tmp_path / name, teacher, other, 1, range_images=8)


def test_pairs_to_blend_are_of_one_replica():
    blended, plain = (DistillationOptions.resolve('small', {'mix': mix}) for mix in (True, False))
    check_replicas(plain, 6, 2)
    check_replicas(blended, 8, 2)
    check_replicas(blended, 7, 1)
    with pytest.raises(UserError, match='6 images .* 2 replicas in pairs.* --nomix, .* of 4'):
        check_replicas(blended, 6, 2)
    for options, multiple in ((plain, 2), (blended, 4)):
        with pytest.raises(UserError, match=f'7 images .* 2 replicas: .* multiple of {multiple}'):
            check_replicas(options, 7, 2)


def test_a_stock_student_is_for_one_device():
    options = DistillationOptions.resolve('small', {'student': 'tfmot'})
    check_replicas(options, 8, 1)
    with pytest.raises(UserError, match='--student=tfmot is for one device, .* 2 replicas'):
        check_replicas(options, 8, 2)


def test_a_generator_of_another_strategy_is_not_updated(tmp_path, two_devices):
    teacher = tiny_teacher()
    options = GeneratorOptions.resolve('small', {'batch_size': 8}, teacher)
    generator = build_generator(teacher.input_spec.image_shape, 7, scales=1, channels=4)
    source = GeneratorSource(generator, 7, 8, options=options.record())
    with pytest.raises(UserError, match=r'load_generator within strategy.scope\(\)'):
        distill(tmp_path, teacher, source, 1, update_generator=True, strategy=two_devices)


def test_a_folder_is_free_again_where_the_images_cannot_set_ranges(tmp_path):
    """The message tells to remove the image, and that makes it another set of images."""
    teacher = tiny_teacher()
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    (tmp_path / 'photos').mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / 'photos' / f'{number:02d}.png')
    (tmp_path / 'photos' / '99.png').write_bytes(b'no image')

    def run():
        source = FileSource(tmp_path / 'photos', teacher.input_spec, 17)
        return distill(tmp_path / 'run', teacher, source, 1, range_images=16)

    with pytest.raises(UserError, match='99.png: not a readable image .*: remove it'):
        run()
    (tmp_path / 'photos' / '99.png').unlink()
    run()
    (tmp_path / 'photos' / '98.png').write_bytes(b'no image')
    with pytest.raises(UserError, match='another configuration'):
        run()
    assert (tmp_path / 'run' / 'config.json').exists()


def test_all_learned_ranges_are_trained_and_no_constant_kernel():
    layers = tf_keras.layers
    x = inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    x = layers.Average(name='average')([layers.ReLU()(x), layers.Conv2D(4, 1)(x)])
    model = tf_keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    teacher = load_teacher(model, input_spec={'preprocessing': 'tf'})
    student = student_of(teacher)
    trained = {id(v) for v in student.trainable_variables()}
    left = [id(v) for v in student.model.trainable_variables if id(v) not in trained]
    average = student.model.get_layer('quant_average')
    assert left == [id(kernel) for kernel, _, _ in average._weight_vars] and len(left) == 1
    assert {id(v) for v in average._output_quantizer_vars.values()} <= trained


class Uneven(NoiseSource):
    """Batches whose second half is darker: the replicas see other extremes."""

    def _batch(self, index):
        first, second = tf.split(super()._batch(index), 2)
        return tf.concat([first, 0.2 * second], axis=0)


@pytest.mark.parametrize(
    'training', (pytest.param('learned', marks=pytest.mark.slow), 'moving_average')
)
def test_two_replicas_agree_with_one_device(two_devices, tmp_path, not_exported, training):
    teacher = tiny_teacher()
    source = Uneven(teacher.input_spec, batch_size=8)
    # At 8 bits: with few levels, a value on the edge of two tells. Sums of one step come to edges
    # together, when rates like this one move their ranges apart.
    options = {'range_images': 16, 'learning_rate': 3e-3, 'range_training': training, 'mix': True}
    options['align_additions'] = False
    students, losses = [], []
    for name, strategy in (('one', make_strategy('default')), ('two', two_devices)):
        students.append(
            distillation.distill(
                teacher, source, tmp_path / name, steps=3, strategy=strategy, **options
            )
        )
        losses.append([line['distillation_loss'] for line in read_metrics(tmp_path / name)])
    one, two = map(ranges_of, students)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert len(one) == len(two) > 0
    for found, expected in zip(two, one, strict=True):
        first, second = (float(value) for value in found.values)
        assert first == second == pytest.approx(float(expected), rel=1e-3)


def ranges_of(student):
    return [
        variable
        for wrapper in student.model.layers
        for variable in (getattr(wrapper, '_output_quantizer_vars', None) or {}).values()
    ]


@pytest.mark.slow
def test_the_step_compiles_with_xla(tmp_path, not_exported):
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=8)
    # Adam would blow up the rounding of gradients that are nearly 0.
    options = {'weight_bits': 8, 'activation_bits': 8, 'optimizer': 'sgd'}
    plain = distill(tmp_path / 'plain', teacher, source, 2, **options)
    compiled = distill(tmp_path / 'xla', teacher, source, 2, jit_compile=True, **options)
    for one, two in zip(plain.model.get_weights(), compiled.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_a_calibration_is_its_parts_one_after_the_other():
    teacher = tiny_teacher()
    source = NoiseSource(teacher.input_spec, batch_size=16)
    widths = {'weight_bits': 4, 'activation_bits': 4}
    student = calibrate_student(teacher, source, range_images=16, **widths)
    again = student_of(teacher, **widths)
    images = [next(source.batches())[0]]
    set_ranges(again, lambda: images)
    align_additions(again)
    compensate_errors(again, lambda: images)
    correct_biases(again, lambda: images)
    for one, two in zip(student.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
