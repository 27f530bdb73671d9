"""Which way of quantizing options ask for, and what a file's ends may be."""

import pytest

from zscgan_tf.errors import UserError
from zscgan_tf.tflite.options import FileOptions, TfliteCalibrationOptions, range_estimator


@pytest.mark.parametrize(
    'preset, options, expected',
    [
        ('small', {}, 'mse'),
        ('small', {'input_type': 'uint8', 'file_batch': 4, 'activation_bits': 8}, 'mse'),
        ('small', {'weight_bits': 6, 'range_images': None}, 'mse'),
        ('small', {'range_estimator': 'minmax'}, 'minmax'),
        ('small', {'range_estimator': 'tflite', 'per_channel': False}, 'tflite'),
        ('small', {'allow_float_ops': True}, 'tflite'),
        ('small', {'calibration_images': 9}, 'tflite'),
        ('small', {'activation_bits': 16}, 'tflite'),
        ('paper', {'output_head': 'logits'}, 'tflite'),
        ('paper', {'range_estimator': 'mse', 'weight_bits': 4}, 'mse'),
    ],
)
def test_the_way_that_options_ask_for(preset, options, expected):
    assert range_estimator(preset, options) == expected


@pytest.mark.parametrize(
    'preset, options, words',
    [
        ('small', {'range_estimator': 'mse', 'per_channel': True}, '--per_channel is for TFLite.s'),
        ('small', {'range_estimator': 'mse', 'activation_bits': 16}, '--activation_bits is for TF'),
        ('small', {'per_channel': True, 'weight_bits': 4}, 'leave one of them out'),
        ('small', {'range_estimator': 'tflite', 'bias_correction': True}, 'is for a student: pass'),
        ('paper', {'activation_bits': 6}, '--activation_bits is for a student: pass'),
        ('paper', {'wait_bits': 6}, 'unknown option wait_bits: the options are activation_bits'),
    ],
)
def test_contradictions(preset, options, words):
    with pytest.raises(UserError, match=words):
        range_estimator(preset, options)


def test_types_follow_the_width_of_activations():
    ends = TfliteCalibrationOptions.resolve(
        'small', {'activation_bits': 16, 'per_channel': True, 'calibration_images': 4}
    )
    assert (ends.input_type, ends.output_type) == ('int16', 'int16')
    assert FileOptions.resolve('paper', {}).input_type == 'int8'
    for bits, kind in ((16, 'int8'), (16, 'uint8'), (8, 'int16')):
        with pytest.raises(UserError, match=f'--output_type={kind} does not fit activations of'):
            TfliteCalibrationOptions.resolve(
                'paper', {'activation_bits': bits, 'output_type': kind}
            )
