"""The page docs/flags.md, made from the options' fields.

python -m zscgan_tf.commands.flags_page          writes it
"""

import dataclasses
import pathlib

from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.options import Options, flag_of, preset_words
from zscgan_tf.student.options import CalibrationOptions, StudentOptions
from zscgan_tf.tflite.options import FileOptions, TfliteCalibrationOptions

PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'flags.md'
SECTIONS = {
    'The generator and its training': (GeneratorOptions,),
    'The student': (StudentOptions,),
    "The student's calibration": (CalibrationOptions, StudentOptions),
    "The student's training (`--method=qat`)": (DistillationOptions, CalibrationOptions),
    'The `.tflite`': (FileOptions,),
    "TFLite's own calibration": (TfliteCalibrationOptions, FileOptions),
}


def page() -> str:
    """The page's text: a table of each class of options, without those that it inherits."""
    lines = [
        '# Options and their values under the presets',
        '',
        'This page is made from the code by `python -m zscgan_tf.commands.flags_page`. The reasons '
        'for `small` are in [small_preset.md](small_preset.md), those for `paper` in '
        '[paper.md](paper.md). Flags that are no options of an algorithm (`--teacher`, '
        '`--workdir`, `--output`, ...) are in `--help`.',
    ]
    for title, classes in SECTIONS.items():
        lines += ['', f'## {title}', '', '| flag | what it is | legal | `small` | `paper` |']
        lines += ['| --- | --- | --- | --- | --- |', *_rows(*classes)]
    return '\n'.join(lines) + '\n'


def _rows(options_class: type[Options], base: type[Options] = Options):
    inherited = {field.name for field in dataclasses.fields(base)}
    for field in dataclasses.fields(options_class):
        if field.name not in inherited:
            values = ' | '.join(preset_words(field, preset) for preset in ('small', 'paper'))
            legal = field.metadata['kind'].legal
            yield f'| `--{flag_of(field)}` | {field.metadata["help"]} | {legal} | {values} |'


if __name__ == '__main__':
    PAGE.write_text(page(), encoding='utf-8')
