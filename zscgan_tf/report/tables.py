"""Writes the documents' tables of results, made from the result files in flags/.

python -m zscgan_tf.report.tables          writes them between their markers in `DOCUMENTS`
"""

import contextlib
import json
import math
import pathlib
import re
import statistics
import sys
from typing import Any, NamedTuple

from zscgan_tf.atomic_files import PathLike
from zscgan_tf.errors import UserError
from zscgan_tf.report import paper_tables

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = ('README.md', 'docs/results.md', 'docs/paper.md')

RESNET20, MOBILENET = 'resnet20_cifar10_jpeg', 'mobilenet_v1_075_imagenet'


class Measured(NamedTuple):
    """What a teacher and its data are called, and the number of its test images."""

    name: str
    data: str
    images: int


TEACHERS = {
    RESNET20: Measured('ResNet-20', 'CIFAR-10', 10_000),
    MOBILENET: Measured('MobileNetV1 0.75', 'ImageNet', 1_000),
}

# What a row is called, in the order of the rows.
ROWS = {
    'ptq': 'DF-PTQ, ZS-CGAN images',
    'ptq_class_only': 'DF-PTQ, class loss only',
    'ptq_bns_only': 'DF-PTQ, BNS loss only',
    'ptq_bfloat16': 'DF-PTQ, trained in bfloat16',
    'ptq_noise_gaussian': 'Gaussian noise',
    'ptq_noise_uniform': 'uniform noise',
    'ptq_real': 'real images (not data-free)',
    'paper_ptq_real': '10,000 real images, --preset=paper (not data-free)',
    'ptq_mse': 'through the student, ZS-CGAN images',
    'ptq_mse_unconditional': 'through the student, U-Net without classes',
    'ptq_deep_inversion': 'through the student, DeepInversion [13]',
    'ptq_zeroq': 'through the student, ZeroQ [12]',
    'ptq_zeroq_512': 'through the student, ZeroQ [12], as many images',
    'ptq_zeroq_image': 'through the student, ZeroQ [12], moments of each image',
    'ptq_zeroq_start': 'through the student, what ZeroQ starts with',
    'ptq_zeroq_tflite': "ZeroQ [12], TFLite's calibration",
    'ptq_mse_noise': 'through the student, uniform noise',
    'ptq_mse_real': 'through the student, real images (not data-free)',
    'ptq_tensor': 'per-tensor weights, ZS-CGAN images',
    'ptq_tensor_real': 'per-tensor weights, real images (not data-free)',
    'ptq_dfq': 'DFQ [11], per-tensor weights',
    'ptq_dfq_relu': 'DFQ [11], per-tensor weights, ReLU6 replaced by ReLU',
    'ptq_dfq_channel': 'DFQ [11], per-channel weights',
    'qat_w8a8': 'DF-QAT W8A8',
    'qat_w8a8_update': 'W8A8, generator updated',
    'qat_w8a8_unconditional': 'W8A8, U-Net without classes',
    'qat_w8a8_adversarial': 'W8A8, adversarial [14]',
    'qat_w8a8_deep_inversion': 'W8A8, DeepInversion [13]',
    'qat_w8a8_adaptive': 'W8A8, adaptive DeepInversion [13]',
    'qat_w8a8_adaptive_clamped': 'W8A8, adaptive DeepInversion [13], clamped',
    'qat_w8a8_zeroq': 'W8A8, ZeroQ [12]',
    'qat_w8a8_tfmot': 'W8A8, stock tfmot student',
    'qat_w8a8_class_only': 'W8A8, class loss only',
    'qat_w8a8_bns_only': 'W8A8, BNS loss only',
    'qat_w8a8_noise': 'W8A8 on uniform noise',
    'qat_w8a8_real': 'W8A8 distilled on real images (not data-free)',
    'qat_w8a8_real_labels': 'W8A8, real images and labels [8] (not data-free)',
    'qat_w6a6': 'DF-QAT W6A6',
    'qat_w6a6_wide': 'W6A6, residuals at 8 bits',
    'qat_w6a6_unconditional': 'W6A6, U-Net without classes',
    'qat_w6a6_adversarial': 'W6A6, adversarial [14]',
    'qat_w6a6_deep_inversion': 'W6A6, DeepInversion [13]',
    'qat_w6a6_zeroq': 'W6A6, ZeroQ [12]',
    'qat_w6a6_real': 'W6A6 distilled on real images (not data-free)',
    'qat_w6a6_real_1600': 'W6A6 on real images (not data-free), 1,600 steps',
    'qat_w6a6_real_labels': 'W6A6, real images and labels [8] (not data-free)',
    'qat_w5a5': 'DF-QAT W5A5',
    'qat_w5a5_wide': 'W5A5, residuals at 8 bits',
    'qat_w5a5_real': 'W5A5 distilled on real images (not data-free)',
    'qat_w4a4': 'DF-QAT W4A4, first and last layer W8',
    'qat_w4a4_unconditional': 'W4A4, U-Net without classes',
    'qat_w4a4_adversarial': 'W4A4, adversarial [14]',
    'qat_w4a4_dcgan': 'W4A4, generator of [14], no game',
    'qat_w4a4_deep_inversion': 'W4A4, DeepInversion [13]',
    'qat_w4a4_zeroq': 'W4A4, ZeroQ [12]',
    'qat_w4a4_all': 'DF-QAT W4A4, every layer',
    'qat_w4a4_noise': 'W4A4 on uniform noise',
    'qat_w4a4_real': 'W4A4 distilled on real images (not data-free)',
}

# What the first column of a method's table says.
METHODS = {'ptq': 'calibration', 'qat': 'distillation'}

# The README's first table: the same quantization with other images.
POINT = {
    'ptq_mse': 'generated images (no data)',
    'ptq_mse_real': 'real images',
    'ptq_mse_noise': 'uniform noise (no data)',
}

# The README's table of what to expect.
HEADLINES = {
    f'{RESNET20}/ptq_mse': '8 bits, no training of weights',
    f'{RESNET20}/qat_w8a8': '8 bits, distilled',
    f'{RESNET20}/qat_w6a6': '6 bits, distilled',
    f'{RESNET20}/qat_w4a4': '4 bits, distilled; first and last layer W8',
    f'{MOBILENET}/ptq_mse': '8 bits, no training of weights',
    f'{MOBILENET}/qat_w6a6': '6 bits, distilled',
}


_SHARES = ('accuracy', 'agreement')


def result_table(folder: PathLike, method: str = 'ptq') -> list[str]:
    """The table of one teacher and method: a row for each result file of `flags/<teacher>/`.

    Args:
        folder: `flags/<teacher>`.
        method: 'ptq' or 'qat', how the recipes' names begin.

    Returns:
        Markdown lines.

    Raises:
        UserError: the teacher is unknown, or a result file is damaged.
    """
    rows, floats, teacher = {}, set(), pathlib.Path(folder).name
    if teacher not in TEACHERS:
        raise UserError(f'{folder}: name the teacher and its test images in {__name__}.TEACHERS.')
    for path in pathlib.Path(folder).glob('*.json'):
        if not path.stem.removeprefix('paper_').startswith(method):
            continue
        with _whole(path):
            result = json.loads(path.read_text(encoding='utf-8'))
            if 'accuracy' in result['metrics']:
                rows[path.stem] = _row(path, result)
                floats.add(f'| none: float | | {result["float_accuracy"]:.2f} | 100 | | | |')
    order = {name: position for position, name in enumerate(ROWS)}
    return [
        f'| {METHODS[method]} | recipe | accuracy | agreement | standard errors | images '
        '| training |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        *sorted(floats),
        *(rows[name] for name in sorted(rows, key=lambda name: (order.get(name, 99), name))),
    ]


def _row(path, result):
    minutes, name = result['minutes'], path.stem
    training = f'{statistics.fmean(minutes):.1f} min, {result["steps"]:,} steps'
    metrics = result['metrics']
    images = TEACHERS[path.parent.name].images
    errors = [standard_error(statistics.fmean(metrics[key]), images) for key in _SHARES]
    raw = result.get('options', {}).get('raw_pixels')
    label = f'{ROWS.get(name, name)}{"" if raw else " (normalized inputs)"}'
    return (
        f'| {label} | `{path.parent.name}/{name}` '
        f'| {spread(metrics["accuracy"])} | {spread(metrics["agreement"])} '
        f'| {errors[0]:.2f}, {errors[1]:.2f} '
        f'| {result["images"]:,} | {training if max(minutes) else "none"} |'
    )


def standard_error(percentage: float, count: int) -> float:
    """One standard error of a share of `count` images, both in per cent (binomial)."""
    share = percentage / 100
    return 100 * math.sqrt(share * (1 - share) / count)


def _with_error(values, teacher):
    mean = statistics.fmean(values)
    return f'{mean:.1f} ± {standard_error(mean, TEACHERS[teacher].images):.1f}'


def point_table(flags_folder: PathLike) -> list[str]:
    """The README's first table: one teacher, quantized with three kinds of images.

    Raises:
        UserError: a result file is damaged.
    """
    lines = ['| ranges set with | accuracy | agreement |', '| --- | --- | --- |']
    for name, words in POINT.items():
        result = read_result(flags_folder, f'{MOBILENET}/{name}')
        if len(lines) == 2:
            lines.append(
                f'| float model | {_with_error([result["float_accuracy"]], MOBILENET)} % | |'
            )
        values = [f'{_with_error(result["metrics"][key], MOBILENET)} %' for key in _SHARES]
        lines.append(f'| {words} | {" | ".join(values)} |')
    return lines


def headline_table(flags_folder: PathLike) -> list[str]:
    """The README's table of what to expect of each kind of file.

    Raises:
        UserError: a result file is damaged.
    """
    lines = ['| model | file | accuracy | float | agreement |', '| --- | --- | --- | --- | --- |']
    for recipe, words in HEADLINES.items():
        teacher = recipe.split('/')[0]
        result = read_result(flags_folder, recipe)
        accuracy, agreement = (_with_error(result['metrics'][key], teacher) for key in _SHARES)
        lines.append(
            f'| {TEACHERS[teacher].name} | {words} | {accuracy} % '
            f'| {result["float_accuracy"]:.1f} % | {agreement} % |'
        )
    return lines


def read_result(flags_folder: PathLike, recipe: str, needed: bool = True) -> dict[str, Any] | None:
    """The result file of a recipe, `<teacher>/<recipe>`; None if there is none and none is needed.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = pathlib.Path(flags_folder) / f'{recipe}.json'
    if not needed and not path.exists():
        return None
    with _whole(path):
        found = json.loads(path.read_text(encoding='utf-8'))
        for key in _SHARES:
            statistics.fmean(found['metrics'][key])
        float(found['float_accuracy'])
        return found


def benchmark_table(path: PathLike) -> list[str]:
    """The table of `flags/benchmark.json`, as Markdown lines.

    Raises:
        UserError: the file is damaged.
    """
    with _whole(path):
        found = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
        lines = ['| ratio | median |', '| --- | --- |']
        lines += [f'| `{name}` | {value:.2f} |' for name, value in found['ratios'].items()]
        return lines + [f'| `{name}` | {s:.1f} s |' for name, s in found.get('seconds', {}).items()]


def spread(values: list[float]) -> str:
    """'mean ± deviation (n seeds)', or the value of one seed."""
    if len(values) == 1:
        return f'{values[0]:.2f}'
    middle = statistics.fmean(values)
    deviation = statistics.stdev(values)
    return f'{middle:.2f} ± {deviation:.2f} ({len(values)} seeds)'


@contextlib.contextmanager
def _whole(path):
    """Names the file whose content is not as it was written."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f'{path}: there is no such file: restore it from git.') from error
    except KeyError as error:
        raise UserError(f'{path}: damaged: it has no {error}; restore it from git.') from error
    except (OSError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f'{path}: damaged ({error}): restore it from git.') from error


def render(document: str, flags_folder: PathLike) -> str:
    """A document's text with the tables between `<!-- table X -->` and `<!-- end -->` renewed.

    Raises:
        UserError: a result file is damaged.
    """
    flags_folder = pathlib.Path(flags_folder)

    def table(match):
        name = match.group(1)
        if name == 'benchmark':
            lines = benchmark_table(flags_folder / 'benchmark.json')
        elif name == 'point':
            lines = point_table(flags_folder)
        elif name == 'headlines':
            lines = headline_table(flags_folder)
        elif name.startswith('paper/'):
            lines = paper_tables.table(
                name.removeprefix('paper/'),
                lambda recipe: read_result(flags_folder, recipe, needed=False),
            )
        else:
            lines = result_table(flags_folder / name.split('/')[0], *name.split('/')[1:])
        return '\n'.join([f'<!-- table {name} -->', *lines, '<!-- end -->'])

    return re.sub(r'<!-- table ([\w/-]+) -->\n.*?<!-- end -->', table, document, flags=re.DOTALL)


def main() -> str | None:
    """Writes the tables into the documents; returns what is wrong, of a damaged result file."""
    paths = [ROOT / name for name in DOCUMENTS]
    try:
        texts = [render(path.read_text(encoding='utf-8'), ROOT / 'flags') for path in paths]
    except UserError as error:
        return str(error)
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding='utf-8')
    return None


if __name__ == '__main__':
    sys.exit(main())
