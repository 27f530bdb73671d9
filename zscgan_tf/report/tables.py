"""The README's tables, made from the result files in flags/.

python -m zscgan_tf.report.tables          writes them between their markers in README.md
"""

import json
import math
import pathlib
import re
import sys

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
}


def result_table(folder):
    """The table of one teacher: a row a result file of `flags/<teacher>/`, as Markdown lines."""
    folder = pathlib.Path(folder)
    results = {path.stem: json.loads(path.read_text()) for path in folder.glob('*.json')}
    results = {name: r for name, r in results.items() if 'accuracy' in r['metrics']}
    lines = [
        '| calibration | recipe | accuracy | agreement | images | training |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    floats = sorted({result['float_accuracy'] for result in results.values()})
    lines += [f'| none: float | | {value:.2f} | 100 | | |' for value in floats]
    for name in sorted(results, key=lambda n: (list(ROWS).index(n) if n in ROWS else 99, n)):
        result = results[name]
        minutes = result['minutes']
        training = f'{mean(minutes):.1f} min, {result["steps"]:,} steps' if max(minutes) else 'none'
        lines.append(
            f'| {ROWS.get(name, name)} | `{folder.name}/{name}` '
            f'| {spread(result["metrics"]["accuracy"])} | {spread(result["metrics"]["agreement"])} '
            f'| {result["images"]:,} | {training} |'
        )
    return lines


def benchmark_table(path):
    """The table of `flags/benchmark.json`, as Markdown lines."""
    ratios = json.loads(pathlib.Path(path).read_text())['ratios']
    lines = ['| ratio | median |', '| --- | --- |']
    return lines + [f'| `{name}` | {value:.2f} |' for name, value in ratios.items()]


def mean(values):
    """The mean of a list."""
    return sum(values) / len(values)


def spread(values):
    """'mean ± deviation (n seeds)', or the value of one seed."""
    if len(values) == 1:
        return f'{values[0]:.2f}'
    middle = mean(values)
    deviation = math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1))
    return f'{middle:.2f} ± {deviation:.2f} ({len(values)} seeds)'


def render(readme, flags_folder):
    """The README's text with the tables between `<!-- table X -->` and `<!-- end -->` renewed."""
    flags_folder = pathlib.Path(flags_folder)

    def table(match):
        name = match.group(1)
        if name == 'benchmark':
            lines = benchmark_table(flags_folder / 'benchmark.json')
        else:
            lines = result_table(flags_folder / name)
        return '\n'.join([f'<!-- table {name} -->', *lines, '<!-- end -->'])

    return re.sub(r'<!-- table ([\w-]+) -->\n.*?<!-- end -->', table, readme, flags=re.DOTALL)


def main():
    """Writes the tables into README.md."""
    path = ROOT / 'README.md'
    path.write_text(render(path.read_text(encoding='utf-8'), ROOT / 'flags'), encoding='utf-8')


if __name__ == '__main__':
    sys.exit(main())
