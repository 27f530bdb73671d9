"""The options of a `.tflite`, and of TFLite's own calibration."""

import dataclasses

from zscgan_tf.generator_options import is_large
from zscgan_tf.options import COUNT, SWITCH, Derived, Options, choice, option

TYPES = ('int8', 'uint8', 'float32')


@dataclasses.dataclass(frozen=True)
class FileOptions(Options):
    """What a file takes and returns; inside it is int8 in any case."""

    input_type: str = option(choice(*TYPES), "Type of the file's input.", paper='int8')
    output_type: str = option(choice(*TYPES), "Type of the file's output.", paper='int8')
    output_head: str = option(
        choice('model', 'logits'),
        'model: the file ends as the model did; logits: its last softmax or sigmoid is left off, '
        'in the same shape ([1, 1] of a single unit).',
        paper='model',
    )


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
        'Images to calibrate with.',
        paper=10_000,
        small=Derived('one a class, 128 to 512; from 96 pixels on 512', _calibration_images),
    )
    per_channel: bool = option(
        SWITCH, 'A weight scale for each channel, or for each tensor.', paper=True
    )
    allow_float_ops: bool = option(
        SWITCH, 'Keep in float what TFLite cannot quantize.', paper=False
    )
