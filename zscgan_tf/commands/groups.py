"""The groups in which `--help` and docs/flags.md show flags: one table for all programs.

An option that stands in neither table is in the group of the class that declares it.
"""

import dataclasses

from zscgan_tf.commands import option_flags
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.methods.inversion_options import (
    DeepInversionOptions,
    InversionOptions,
    ZeroqOptions,
)
from zscgan_tf.student.options import CalibrationOptions, StudentOptions
from zscgan_tf.tflite.options import FileOptions, TfliteCalibrationOptions

# What `--help` shows. What stands behind a = is the flag's value in words.
BASIC = {
    'Model in': (
        'teacher=FILE',
        'model=FILE',
        'preprocessing',
        'mean=X,...',
        'std=X,...',
        'image_size=H,W',
    ),
    'File out': (
        'output=PATH',
        'overwrite',
        'raw_pixels',
        'input_type',
        'file_batch',
    ),
    'Images': ('source', 'images=PATH', 'dataset=NAME', 'split=NAME', 'count', 'blend'),
    'Check': ('check', 'page', 'evaluation_images=PATH', 'result_json=FILE'),
    'Fewer bits': ('method', 'weight_bits', 'activation_bits'),
    'Run': ('preset', 'steps', 'distillation_steps', 'workdir=FOLDER', 'seed', 'strategy'),
    'Help': ('help', 'helpfull', 'version', 'flagfile=FILE'),
}
# What `--helpfull` adds to these groups.
FULL = {
    'Model in': ('channels', 'channel_order', 'output_layer=NAME', 'allow_code'),
    'Images': ('calibration_split=NAME', 'data_dir=FOLDER', 'resize_short_side'),
    'Check': ('check_images', 'evaluation_split=NAME', 'class_names=NAME,...', 'bns'),
    'Run': (
        'batch_size',
        'student_workdir=FOLDER',
        'jit_compile',
        'checkpoint_every',
        'images_every',
    ),
}
_OPTIMIZED = 'Optimized images (--source=zeroq, deep_inversion)'
OF_OPTIONS = {
    FileOptions: 'File out',
    StudentOptions: 'Fewer bits',
    GeneratorOptions: 'The generator and its training',
    InversionOptions: _OPTIMIZED,
    ZeroqOptions: _OPTIMIZED,
    DeepInversionOptions: _OPTIMIZED,
    CalibrationOptions: 'Ranges set through the student',
    DistillationOptions: 'Training of the student (--method=qat)',
    DfqOptions: 'Quantization without images (--method=dfq)',
    TfliteCalibrationOptions: "TFLite's own calibration",
}
# Of flags that are in no table: those of a program that is not installed.
OTHER = 'This program'
ORDER = tuple(dict.fromkeys((*list(BASIC)[:-1], *OF_OPTIONS.values(), OTHER, 'Help')))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a flag is shown.

    Attributes:
        group: its group.
        basic: whether `--help` shows it, not only `--helpfull`.
        value: its value in words, or ''.
        rank: its place among the flags of its group.
    """

    group: str
    basic: bool = False
    value: str = ''
    rank: int = 1000


def _places():
    for basic, table in ((True, BASIC), (False, FULL)):
        for group, entries in table.items():
            for rank, entry in enumerate(entries):
                name, _, value = entry.partition('=')
                yield name, Place(group, basic, value, rank if basic else 100 + rank)


_PLACES = dict(_places())


def place(name: str) -> Place:
    """Where the flag of this name is shown."""
    found, owner = _PLACES.get(name), option_flags.owner(name)
    if owner and not (found and found.basic):
        return Place(OF_OPTIONS[owner])
    return found or Place(OTHER, basic=True)
