"""Writes the README's tables, made from the result files in flags/.

python -m zscgan_tf.report.tables          writes them between their markers in README.md
"""

import contextlib
import json
import pathlib
import re
import statistics
import sys

from zscgan_tf.atomic_files import PathLike
from zscgan_tf.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What a row is called, in the order of the rows.
ROWS = {
    'ptq': 'DF-PTQ, ZS-CGAN images',
    'ptq_class_only': 'DF-PTQ, class loss only',
    'ptq_bns_only': 'DF-PTQ, BNS loss only',
    'ptq_bfloat16': 'DF-PTQ, trained in bfloat16',
    'ptq_noise_gaussian': 'Gaussian noise',
    'ptq_noise_uniform': 'uniform noise',
    'ptq_real': 'real images (not data-free)',
    'ptq_mse': 'DF-PTQ through the student: ranges by squared error, errors compensated',
    'qat_w8a8': 'DF-QAT W8A8',
    'qat_w8a8_update': 'W8A8, generator updated',
    'qat_w8a8_tfmot': 'W8A8, stock tfmot student',
    'qat_w8a8_class_only': 'W8A8, class loss only',
    'qat_w8a8_bns_only': 'W8A8, BNS loss only',
    'qat_w8a8_noise': 'W8A8 on uniform noise',
    'qat_w8a8_real': 'W8A8 on real images (not data-free)',
    'qat_w6a6': 'DF-QAT W6A6',
    'qat_w6a6_wide': 'W6A6, residuals at 8 bits',
    'qat_w6a6_real': 'W6A6 on real images (not data-free)',
    'qat_w5a5': 'DF-QAT W5A5',
    'qat_w5a5_wide': 'W5A5, residuals at 8 bits',
    'qat_w5a5_real': 'W5A5 on real images (not data-free)',
    'qat_w4a4': 'DF-QAT W4A4, first and last layer W8',
    'qat_w4a4_all': 'DF-QAT W4A4, every layer',
    'qat_w4a4_noise': 'W4A4 on uniform noise',
    'qat_w4a4_wide': 'W4A4, residuals at 8 bits',
    'qat_w4a4_real': 'W4A4 on real images (not data-free)',
}

# What the first column of a method's table says.
METHODS = {'ptq': 'calibration', 'qat': 'distillation'}


def result_table(folder: PathLike, method: str = 'ptq') -> list[str]:
    """The table of one teacher and method: a row for each result file of `flags/<teacher>/`.

    Args:
        folder: `flags/<teacher>`.
        method: 'ptq' or 'qat', how the recipes' names begin.

    Returns:
        Markdown lines.

    Raises:
        UserError: a result file is damaged.
    """
    rows, floats = {}, set()
    for path in pathlib.Path(folder).glob(f'{method}*.json'):
        with _whole(path):
            result = json.loads(path.read_text(encoding='utf-8'))
            if 'accuracy' in result['metrics']:
                rows[path.stem] = _row(path, result)
                floats.add(f'| none: float | | {result["float_accuracy"]:.2f} | 100 | | |')
    order = {name: position for position, name in enumerate(ROWS)}
    return [
        f'| {METHODS[method]} | recipe | accuracy | agreement | images | training |',
        '| --- | --- | --- | --- | --- | --- |',
        *sorted(floats),
        *(rows[name] for name in sorted(rows, key=lambda name: (order.get(name, 99), name))),
    ]


def _row(path, result):
    minutes, name = result['minutes'], path.stem
    training = f'{statistics.fmean(minutes):.1f} min, {result["steps"]:,} steps'
    return (
        f'| {ROWS.get(name, name)} | `{path.parent.name}/{name}` '
        f'| {spread(result["metrics"]["accuracy"])} | {spread(result["metrics"]["agreement"])} '
        f'| {result["images"]:,} | {training if max(minutes) else "none"} |'
    )


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
    except KeyError as error:
        raise UserError(f'{path}: damaged: it has no {error}; restore it from git.') from error
    except (OSError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f'{path}: damaged ({error}): restore it from git.') from error


def render(readme: str, flags_folder: PathLike) -> str:
    """The README's text with the tables between `<!-- table X -->` and `<!-- end -->` renewed.

    Raises:
        UserError: a result file is damaged.
    """
    flags_folder = pathlib.Path(flags_folder)

    def table(match):
        name = match.group(1)
        if name == 'benchmark':
            lines = benchmark_table(flags_folder / 'benchmark.json')
        else:
            lines = result_table(flags_folder / name.split('/')[0], *name.split('/')[1:])
        return '\n'.join([f'<!-- table {name} -->', *lines, '<!-- end -->'])

    return re.sub(r'<!-- table ([\w/-]+) -->\n.*?<!-- end -->', table, readme, flags=re.DOTALL)


def main() -> str | None:
    """Writes the tables into README.md; returns what is wrong, where a result file is damaged."""
    path = ROOT / 'README.md'
    try:
        text = render(path.read_text(encoding='utf-8'), ROOT / 'flags')
    except UserError as error:
        return str(error)
    path.write_text(text, encoding='utf-8')
    return None


if __name__ == '__main__':
    sys.exit(main())
