"""Options: the paper's values, what overrides change, and what is out of range."""

import dataclasses
import json
import types

import numpy as np
import pytest
import tensorflow as tf

from zscgan_tf import options
from zscgan_tf.commands import flags_page
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions, dcgan_doublings, default_scales
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.student.options import CalibrationOptions
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.tflite.options import TfliteCalibrationOptions


def teacher(size, num_classes=10):
    spec = InputSpec((size, size), 3, (0.5,), (0.5,))
    return types.SimpleNamespace(
        input_spec=spec, num_classes=num_classes, has_independent_labels=False
    )


def resolve(preset, teacher, overrides):
    return dataclasses.asdict(GeneratorOptions.resolve(preset, overrides, teacher))


def calibration_images(preset, teacher):
    return TfliteCalibrationOptions.resolve(preset, {}, teacher).calibration_images


def names(options_class):
    return {field.name for field in dataclasses.fields(options_class)}


def test_paper_is_section_3():
    found = resolve('paper', teacher(224, 1000), {})
    assert found['steps'] == 200 * 1000 and found['batch_size'] == 128
    assert found['generator_scales'] == 5 and found['generator_channels'] == [128] * 5
    assert found['learning_rate'] == 1e-3 and found['output_stride'] == 1
    assert found['class_loss_weight'] == found['bns_loss_weight'] == 1
    assert found['entropy_loss_weight'] == 0 and found['noise_scales'] == 1
    assert found['z_channels'] == 32 and found['skip_channels'] == 4
    assert calibration_images('paper', teacher(32)) == 10_000


def test_small_is_smaller():
    for size in (8, 32, 224):
        small, paper = (resolve(p, teacher(size), {}) for p in ('small', 'paper'))
        assert small.keys() == paper.keys() == names(GeneratorOptions)
        assert small['steps'] * small['batch_size'] < paper['steps'] * paper['batch_size']
    assert calibration_images('small', teacher(224)) < 10_000


def test_small_images_calibrate_with_one_a_class_at_least():
    found = [calibration_images('small', teacher(32, k)) for k in (2, 10, 200, 10_000)]
    assert found == [128, 128, 200, 512]


def test_overrides():
    found = resolve(
        'small', teacher(32), {'steps': 7, 'batch_size': None, 'generator_channels': [4]}
    )
    assert found['steps'] == 7 and found['generator_channels'] == [4] * 3
    assert found['batch_size'] == resolve('small', teacher(32), {})['batch_size']
    found = resolve('small', teacher(32), {'generator_channels': [4, 8, 8, 16]})
    assert found['generator_scales'] == 4 and found['generator_channels'] == [4, 8, 8, 16]


def test_the_presets_lists_fit_any_size():
    for size in (8, 17, 32, 95, 96, 224, 512):
        found = resolve('small', teacher(size), {})
        assert len(found['generator_channels']) == found['generator_scales']
        assert 1 <= found['noise_scales'] <= found['generator_scales']
        build = resolve('small', teacher(size), {'generator_scales': 2})
        assert len(build['generator_channels']) == 2 and build['noise_scales'] <= 2


def test_a_preset_resolves_to_itself():
    """What a workdir's configuration holds can be passed again."""
    for preset in options.PRESETS:
        found = resolve(preset, teacher(224, 1000), {})
        assert resolve(preset, teacher(224, 1000), found) == found


def test_scales_fit_the_size_that_the_network_works_at():
    for preset, size, stride, scales in (
        ('paper', 32, 1, 5),  # the paper's five, as far as they fit
        ('paper', 32, 2, 4),
        ('paper', 8, 1, 3),
        ('small', 32, 1, 3),  # those that leave four pixels
        ('small', 32, 2, 2),
    ):
        found = resolve(preset, teacher(size), {'output_stride': stride})
        assert found['generator_scales'] == scales


@pytest.mark.parametrize(
    'overrides, message',
    [
        ({'batch_size': 0}, '--batch_size=0 must be a whole number, at least 1.'),
        ({'batch_size': 2.5}, '--batch_size=2.5 must be a whole number, at least 1.'),
        ({'steps': '5'}, "--steps='5' must be a whole number, at least 1."),
        ({'learning_rate': '1e-3'}, "--learning_rate='1e-3' must be positive."),
        ({'steps': -1}, '--steps=-1 must be a whole number, at least 1.'),
        ({'noise_scales': 0}, '--noise_scales=0 must be a whole number, at least 1.'),
        ({'entropy_loss_weight': -1}, '--entropy_loss_weight=-1 must be 0'),
        ({'z_channels': 0}, '--z_channels=0 must be a whole number, at least 1.'),
        ({'output_stride': 0}, '--output_stride=0 must be a whole number, at least 1.'),
        ({'generator_scales': 0}, '--generator_scales=0 must be a whole number, at least 1.'),
        ({'generator_channels': [4, 0]}, r'--generator_channels=\[4, 0\] must be whole numbers'),
        ({'generator_channels': []}, r'--generator_channels=\[\] must be whole numbers'),
        ({'skip_channels': -1}, '--skip_channels=-1 must be 0 .no skips. or more.'),
        ({'learning_rate': 0.0}, '--learning_rate=0.0 must be positive.'),
        ({'learning_rate': float('nan')}, '--learning_rate=nan must be positive.'),
        ({'learning_rate': float('inf')}, '--learning_rate=inf must be positive.'),
        ({'bns_loss_weight': -1.0}, '--bns_loss_weight=-1.0 must be 0 .switched off. or more.'),
        ({'class_loss_weight': 0, 'bns_loss_weight': 0}, 'leave nothing to train: keep one.'),
        ({'compute_dtype': 'float16'}, 'must be one of float32, bfloat16.'),
        ({'epochs': 3}, 'unknown option epochs: the options are generator_scales, '),
    ],
)
def test_out_of_range(overrides, message):
    with pytest.raises(UserError, match=message):
        resolve('small', teacher(32), overrides)


def test_unknown_preset():
    with pytest.raises(UserError, match='--preset=big is unknown: pass one of small, paper.'):
        resolve('big', teacher(32), {})


def distillation(preset='small', **overrides):
    return dataclasses.asdict(DistillationOptions.resolve(preset, overrides))


def test_a_paper_distillation_is_section_3():
    found = distillation('paper')
    assert found['steps'] == 50 * 1000 and found['learning_rate'] == 1e-4
    assert found['optimizer'] == 'sgd' and found['update_generator']
    assert found['soft_target_weight'] == found['temperature'] == 1  # eq. 4
    assert found['feature_loss_weight'] == 0 and not found['augment']
    assert found['range_training'] == 'moving_average'
    assert found['range_estimator'] == 'minmax'


def test_a_small_distillation_is_shorter_and_keeps_the_generator():
    small, paper = distillation(), distillation('paper')
    assert small.keys() == paper.keys() == names(DistillationOptions)
    assert small['steps'] < paper['steps'] and not small['update_generator']
    for found in (small, paper):
        assert found['weight_bits'] == found['activation_bits'] == 8
    assert small['activation_scope'] == 'read' and small['weight_granularity'] == 'channel'
    assert paper['activation_scope'] == 'all_but_input' and paper['range_decay'] == 0.999
    assert paper['weight_granularity'] == 'tensor'


def test_fewer_bits_learn_faster():
    rates = [distillation(weight_bits=b, activation_bits=b)['learning_rate'] for b in range(2, 9)]
    assert rates == [3e-4, 2e-4, 1e-4, 5e-5, 3e-5, 2e-5, 1e-5]  # docs/choices.md has the reasons
    fewer = distillation(weight_bits=8, activation_bits=4)['learning_rate']
    assert fewer == distillation(weight_bits=4, activation_bits=8)['learning_rate'] == rates[2]
    assert distillation(weight_bits=4, learning_rate=0.5)['learning_rate'] == 0.5
    assert distillation('paper', weight_bits=4)['learning_rate'] == 1e-4


def test_the_first_and_last_layer_are_like_the_others_unless_said():
    assert distillation(weight_bits=5)['first_last_bits'] == 5
    assert distillation(weight_bits=4, first_last_bits=8)['first_last_bits'] == 8
    assert distillation(weight_bits=4, first_last_bits=None)['first_last_bits'] == 4


def test_false_and_zero_override_a_preset():
    found = distillation('paper', update_generator=False, temperature=2)
    assert found['update_generator'] is False and found['temperature'] == 2
    found = distillation(augment=False, feature_loss_weight=0.0, steps=None)
    assert found['augment'] is False and found['feature_loss_weight'] == 0
    assert found['steps'] == distillation()['steps']


def test_a_distillation_resolves_to_itself():
    for preset in options.PRESETS:
        found = distillation(preset, weight_bits=4, activation_bits=6)
        assert distillation(preset, **found) == found


@pytest.mark.parametrize(
    'overrides, message',
    [
        ({'weight_bits': 1}, '--weight_bits=1 must be 2 to 8 bits.'),
        ({'activation_bits': 9}, '--activation_bits=9 must be 2 to 8 bits.'),
        ({'first_last_bits': 16}, '--first_last_bits=16 must be 2 to 8 bits.'),
        ({'weight_bits': 4.5}, '--weight_bits=4.5 must be 2 to 8 bits.'),
        ({'temperature': 0.0}, '--temperature=0.0 must be positive.'),
        ({'temperature': float('nan')}, '--temperature=nan must be positive.'),
        ({'soft_target_weight': -0.1}, '--soft_target_weight=-0.1 must be between 0 and 1.'),
        ({'soft_target_weight': 2.0}, '--soft_target_weight=2.0 must be between 0 and 1.'),
        (
            {'feature_loss_weight': -1.0},
            '--feature_loss_weight=-1.0 must be 0 .switched off. or more.',
        ),
        ({'steps': 0}, '--distillation_steps=0 must be a whole number, at least 1; --method=ptq'),
        ({'learning_rate': 0.0}, '--distillation_learning_rate=0.0 must be positive.'),
        ({'optimizer': 'adamw'}, '--distillation_optimizer=adamw must be one of adam, sgd.'),
        ({'range_images': 0}, '--range_images=0 must be a whole number, at least 1.'),
        ({'range_estimator': 'kl'}, '--range_estimator=kl must be one of mse, minmax, tflite.'),
        ({'range_decay': 0.9}, '--range_decay=0.9 is for moving averages of a folded student'),
        ({'range_training': 'no'}, '--range_training=no must be one of learned, moving_average, '),
        ({'wide_residuals': True}, '--wide_residuals keeps at 8 bits what would have fewer: pass'),
        (
            {'wide_residuals': True, 'activation_bits': 6, 'activation_scope': 'all'},
            '--wide_residuals keeps at 8 bits what would have fewer: pass',
        ),
        (
            {'error_compensation': True, 'range_training': 'moving_average'},
            '--error_compensation chooses weights on their grids, and',
        ),
        (
            {'align_additions': True, 'range_training': 'moving_average'},
            '--align_additions gives tensors grids of one step, and',
        ),
        ({'epochs': 3}, 'unknown option epochs: the options are '),
    ],
)
def test_a_distillation_out_of_range(overrides, message):
    with pytest.raises(UserError, match=message):
        distillation(**overrides)


def test_a_range_training_that_was_not_passed_is_not_named():
    with pytest.raises(UserError, match='and --preset=paper moves these: pass --range_training='):
        distillation('paper', error_compensation=True)


@pytest.mark.parametrize('option', ['error_compensation', 'align_additions'])
def test_what_is_chosen_for_a_grid_needs_grids_that_stay(option):
    assert distillation()[option]
    assert not distillation(range_training='moving_average')[option]
    assert not distillation('paper')[option]
    # Without training they stay, whatever would move them.
    for preset, given in (('small', {'range_training': 'moving_average'}), ('paper', {})):
        assert getattr(CalibrationOptions.resolve(preset, {option: True, **given}), option)


def test_a_distillation_of_an_unknown_preset():
    with pytest.raises(UserError, match='--preset=big is unknown: pass one of small, paper.'):
        distillation('big')


@pytest.mark.parametrize(
    'size, scales', [((224, 224), 5), ((32, 32), 3), ((33, 17), 2), ((8, 8), 1), ((2, 9), 1)]
)
def test_default_scales(size, scales):
    assert default_scales(size) == scales


def test_independent_labels_have_no_entropy_loss():
    labels = types.SimpleNamespace(
        **{**vars(teacher(32, 500)), 'has_independent_labels': True, 'name': 'net'}
    )
    assert resolve('small', teacher(32, 500), {})['entropy_loss_weight'] == 30
    assert resolve('small', labels, {})['entropy_loss_weight'] == 0
    with pytest.raises(
        UserError, match='--entropy_loss_weight=2.0 .* net gives independent labels'
    ):
        resolve('small', labels, {'entropy_loss_weight': 2})


def test_a_generator_without_classes_has_entropies_instead_of_the_class_loss():
    for preset in options.PRESETS:
        found = resolve(preset, teacher(32, 500), {'unconditional': True})
        weights = [found[f'{name}_loss_weight'] for name in ('class', 'bns', 'entropy')]
        assert weights == [0, 1, 1]
    given = {'unconditional': True, 'entropy_loss_weight': 5, 'class_loss_weight': 0}
    assert resolve('small', teacher(32), given)['entropy_loss_weight'] == 5
    with pytest.raises(UserError, match='weight=0.5 is for a generator of classes, and --uncond'):
        resolve('small', teacher(32), {'unconditional': True, 'class_loss_weight': 0.5})
    with pytest.raises(
        UserError, match='--bns_loss_weight=0 leaves too little to train with --unc'
    ):
        resolve('small', teacher(32), {'unconditional': True, 'bns_loss_weight': 0})
    labels = types.SimpleNamespace(
        **{**vars(teacher(32)), 'has_independent_labels': True, 'name': 'net'}
    )
    assert resolve('small', labels, {'unconditional': True})['entropy_loss_weight'] == 0


def test_a_list_of_channels_has_no_more_scales_than_fit():
    with pytest.raises(UserError, match='--generator_channels has 7 numbers, .* at most 5 scales'):
        resolve('small', teacher(32), {'generator_channels': [8] * 7})


def test_options_of_the_generator_of_14():
    """Nothing of the U-Net; records of before mean the U-Net with classes."""
    given = {'unconditional': True, 'generator': 'dcgan'}
    found = GeneratorOptions.resolve('small', given, teacher(32))
    record = found.record()
    assert record['generator'] == 'dcgan' and record['unconditional'] is True
    assert not {'generator_scales', 'generator_channels', 'z_channels'} & record.keys()
    assert GeneratorOptions.from_record(record) == found
    with pytest.raises(UserError, match="--steps='5' must be a whole number"):
        GeneratorOptions.from_record({**record, 'steps': '5'})
    before = GeneratorOptions.resolve('small', {}, teacher(32))
    assert not {'generator', 'unconditional'} & before.record().keys()
    assert GeneratorOptions.from_record(before.record()) == before
    assert before.generator == 'unet' and before.unconditional is False
    for wrong, size, message in (
        ({'generator': 'dcgan'}, 32, '--generator=dcgan is a generator without classes: pass --un'),
        ({**given, 'z_channels': 4}, 32, '--z_channels is for the U-Net: leave it out'),
        (given, 100, '100x100 pixels are no multiples of 8: pass --generator=unet'),
    ):
        with pytest.raises(UserError, match=message):
            GeneratorOptions.resolve('small', wrong, teacher(size))


@pytest.mark.parametrize(
    'size, doublings',
    [(8, 3), (32, 3), (64, 3), (72, 3), (96, 4), (120, 3), (128, 4), (160, 5), (224, 5)],
)
def test_doublings_of_the_generator_of_14(size, doublings):
    assert dcgan_doublings((size, size)) == doublings
    assert dcgan_doublings((8, size)) == 3


ODD_VALUES = [
    '4', b'4', '', 2.5, 4.5 + 1j, True, np.array([[1, 2], [3, 4]]), np.zeros(50), {}, [None], (),
    object(), float('nan'), -3, 10**400, tf.constant(4),
]  # fmt: skip


@pytest.mark.parametrize('value', ODD_VALUES, ids=lambda value: repr(value)[:20])
def test_no_value_is_a_traceback(value):
    """Each is taken, and then fits into JSON, or refused in one line that names the option."""
    for options_class in (GeneratorOptions, DistillationOptions, TfliteCalibrationOptions):
        for name in names(options_class):
            try:
                found = options_class.resolve('small', {name: value}, teacher(32))
                json.dumps(found.record())
            except UserError as error:
                assert name in str(error) and '\n' not in str(error) and len(str(error)) < 250


def test_numpy_numbers_are_numbers():
    given = {
        'batch_size': np.int64(16),
        'steps': np.uint8(7),
        'learning_rate': np.float32(0.5),
        'bns_loss_weight': np.int32(2),
        'generator_channels': np.array([4, 8]),
    }
    found = resolve('small', teacher(32), given)
    assert json.loads(json.dumps(found)) == found
    assert (found['batch_size'], found['steps'], found['learning_rate']) == (16, 7, 0.5)
    assert found['generator_channels'] == [4, 8] and found['bns_loss_weight'] == 2
    for channels in (np.int64(4), (4,), [np.int8(4)], np.array([4])):
        given = {'generator_channels': channels}
        assert resolve('small', teacher(32), given)['generator_channels'] == [4] * 3
    found = distillation(weight_bits=np.int64(4), augment=np.True_, temperature=np.float64(2))
    assert json.loads(json.dumps(found)) == found
    assert found['weight_bits'] == 4 and found['augment'] is True


def test_arguments_of_the_functions_that_train():
    assert options.check(options.SEED, 'seed', np.int64(3)) == 3
    for kind, value in (
        (options.SEED, '0'),
        (options.SEED, -1),
        (options.SEED, 2**32),
        (options.COUNT, 0),
    ):
        with pytest.raises(UserError, match='--name='):
            options.check(kind, 'name', value)


def test_the_page_of_flags_is_of_today():
    assert flags_page.PAGE.read_text(encoding='utf-8') == flags_page.page()


@dataclasses.dataclass(frozen=True)
class Later(options.Options):
    """Options of which the second came later, when all trainings had 0.5 there."""

    first: int = options.option(options.COUNT, 'The first.', paper=1)
    second: float = options.option(options.POSITIVE, 'The second.', paper=0.5, before=0.5)


def test_records_from_before_an_option_mean_what_they_did():
    assert Later.from_record({'first': 3}) == Later(3, 0.5)
    assert Later(3, 0.5).record() == {'first': 3}
    assert Later(3, 0.7).record() == {'first': 3, 'second': 0.7}
    assert Later.from_record(Later(3, 0.7).record()) == Later(3, 0.7)
    with pytest.raises(KeyError, match='first'):
        Later.from_record({'second': 0.7})
