"""The options of a `.tflite`, and of TFLite's own calibration."""

import dataclasses

from zscgan_tf.errors import UserError
from zscgan_tf.options import COUNT, SWITCH, WHOLE, Derived, Kind, Options, choice, is_large, option
from zscgan_tf.student.options import CalibrationOptions

TYPES = ('int8', 'uint8', 'int16', 'float32')
# The integers that a file's ends may have, by the width of its activations; the first by default.
TYPES_OF_WIDTH = {8: ('int8', 'uint8'), 16: ('int16',)}
_TYPE = Derived('int8; int16 with --activation_bits=16')


@dataclasses.dataclass(frozen=True)
class FileOptions(Options):
    """What a file takes and returns; inside it is integer in any case."""

    input_type: str = option(choice(*TYPES), "Type of the file's input.", paper=_TYPE)
    output_type: str = option(choice(*TYPES), "Type of the file's output.", paper=_TYPE)
    output_head: str = option(
        choice('model', 'logits'),
        'model: the file ends as the model did; logits: its last softmax or sigmoid is left off, '
        'in the same shape ([1, 1] of a single unit).',
        paper='model',
    )
    file_batch: int = option(
        WHOLE,
        'Images that the file takes at once; 0 leaves that open.',
        paper=1,
        before=1,
    )

    @classmethod
    def _completed(cls, values, given, preset, teacher) -> dict:
        width = values.get('activation_bits', 8)
        legal = TYPES_OF_WIDTH[width]
        for name in ('input_type', 'output_type'):
            if values[name] is None:
                values[name] = legal[0]
            elif values[name] not in (*legal, 'float32'):
                raise UserError(
                    f'--{name}={values[name]} does not fit activations of {width} bits: pass '
                    f'{", ".join(legal)} or float32.'
                )
        return values


def _calibration_images(teacher):
    """As many images as still help.

    The converter keeps the extremes of all images: few images clip what others hold, many make
    coarse ranges. ResNet-20, asked with the images of a generator of the class loss alone:
    divergence from the teacher 0.0009 with 16 images, 0.0007 with 32, 0.0003 with 64 to 512. Asked
    with blends of images of its own kind: 0.0023 with 32, 0.0025 with 128, 0.0027 with 1,024.
    """
    return 512 if is_large(teacher) else min(512, max(128, teacher.num_classes))


@dataclasses.dataclass(frozen=True)
class TfliteCalibrationOptions(FileOptions):
    """How TFLite's own calibration quantizes (the paper's DF-PTQ)."""

    calibration_images: int = option(
        COUNT,
        "Images of TFLite's own calibration, which this flag chooses; see --range_images.",
        paper=10_000,
        small=Derived('one a class, 128 to 512; from 96 pixels on 512', _calibration_images),
    )
    activation_bits: int = option(
        Kind(TYPES_OF_WIDTH.__contains__, '8 or 16', int),
        'Width of activations: 8, or 16 with weights of 8.',
        paper=8,
        before=8,
    )
    per_channel: bool = option(
        SWITCH,
        "Per-channel weights, else per-tensor ones. Chooses TFLite's own calibration.",
        paper=True,
    )
    allow_float_ops: bool = option(
        SWITCH,
        "Keep in float what TFLite cannot quantize. Chooses TFLite's own calibration.",
        paper=False,
    )


def range_estimator(preset: str, options: dict[str, object]) -> str:
    """Which way of setting ranges options ask for, where no student is trained.

    Args:
        preset: 'small' or 'paper'.
        options: any fields of `CalibrationOptions` and `TfliteCalibrationOptions`; None where one
            was not passed.

    Returns:
        'mse' or 'minmax': through the student. 'tflite': by TFLite's own calibration, which options
        choose that it alone has.

    Raises:
        UserError: some options are for one way, some for the other.
    """
    passed = {name for name, value in options.items() if value is not None}
    student, tflite, file = (
        options_class.names()
        for options_class in (CalibrationOptions, TfliteCalibrationOptions, FileOptions)
    )
    if unknown := passed - student - tflite:
        known = ', '.join(sorted(student | tflite))
        raise UserError(f'unknown option {min(unknown)}: the options are {known}.')
    for_student = passed & student - tflite - {'range_estimator'}
    for_tflite = passed & tflite - student - file
    bits = options.get('activation_bits')
    if bits is not None and bits != 8:
        (for_tflite if bits == 16 else for_student).add('activation_bits')
    asked = options.get('range_estimator')
    if asked not in (None, 'tflite') and for_tflite:
        raise UserError(
            f"--{min(for_tflite)} is for TFLite's own calibration, not for a student: leave it "
            f'out, or pass --range_estimator=tflite.'
        )
    estimator = asked or ('tflite' if for_tflite or preset == 'paper' else 'mse')
    if estimator == 'tflite' and for_student:
        rest = ': pass --method=qat, or --range_estimator=mse for ranges without training.'
        if for_tflite:
            other = f"--{min(for_tflite)} for TFLite's own calibration"
            rest = f', and {other}: leave one of them out.'
        raise UserError(f'--{min(for_student)} is for a student{rest}')
    return estimator
