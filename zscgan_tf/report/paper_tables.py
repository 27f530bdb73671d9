"""The paper's Tables 1a, 1b and 2 beside this project's results, for docs/paper.md.

The paper's numbers are those of arXiv 2210.14392. Ours are of other models, so a cell shows the
accuracy and, in brackets, what it lost against its own float model.
"""

import statistics
from collections.abc import Callable
from typing import Any

# The paper's models and their float accuracies, section 3.
FLOAT = {
    'ResNet-18': 71.92,
    'ResNet-50': 77.86,
    'MobileNetV1': 73.57,
    'MobileNetV2': 73.24,
    'MobileNetV3-L': 75.31,
}
# Ours, and the folder of their recipes in flags/.
OURS = {
    'ours: ResNet-20': 'resnet20_cifar10_jpeg',
    'ours: MobileNetV1 0.75': 'mobilenet_v1_075_imagenet',
}

# Rows of a table: what the paper calls it, the paper's cells, our recipe. None: the paper has none.
# Rows without any cell of the paper are ours alone.
TABLE_1A = (
    ('ZS-CGAN DF-PTQ', (70.27, 76.76, 69.20, 72.37, 73.45), 'ptq'),
    ('ZS-CGAN DF-QAT', (71.72, 77.87, 73.37, 73.05, 74.75), 'qat_w8a8'),
    ('[11]; ours clips ReLU6 by channel', (69.70, None, 70.50, 71.20, None), 'ptq_dfq'),
    ('[11]; ours replaces ReLU6 by ReLU', (None,) * 5, 'ptq_dfq_relu'),
    ('[12]; ours with moments of the batch', (71.43, 77.67, None, 72.91, None), 'ptq_zeroq_tflite'),
    ('[13]', (71.35, 77.58, None, 72.45, 74.41), 'qat_w8a8_deep_inversion'),
    ('[14]', (71.56, 77.81, 73.06, 72.91, 74.71), 'qat_w8a8_adversarial'),
    ('our U-Net without a condition', (None,) * 5, 'qat_w8a8_unconditional'),
    ('real images, PTQ', (71.00, 77.34, 72.01, 72.58, 73.64), 'ptq_real'),
    (
        'real images and labels, QAT [8]',
        (71.82, 77.86, 73.54, 73.24, 74.97),
        'qat_w8a8_real_labels',
    ),
)
TABLE_1B = (
    ('ZS-CGAN DF-QAT', (70.78, 76.82, 71.05, 72.24), 'qat_w6a6'),
    ('[13]', (70.20, 76.47, None, 71.47), 'qat_w6a6_deep_inversion'),
    ('[14]', (70.73, 76.44, 70.81, 71.93), 'qat_w6a6_adversarial'),
    ('our U-Net without a condition', (None,) * 4, 'qat_w6a6_unconditional'),
    ('real images and labels, QAT [8]', (71.02, 77.06, 72.01, 72.51), 'qat_w6a6_real_labels'),
)
TABLE_2 = (
    ('CE + BNS', (71.72,), 'qat_w8a8'),
    ('CE', (69.63,), 'qat_w8a8_class_only'),
    ('BNS', (71.69,), 'qat_w8a8_bns_only'),
    ('BigGAN [26]', (71.69,), 'qat_w8a8_biggan'),
    ('original images and labels', (71.82,), 'qat_w8a8_real_labels'),
)
TABLES = {'1a': TABLE_1A, '1b': TABLE_1B, '2': TABLE_2}


def table(name: str, result_of: Callable[[str], dict[str, Any] | None]) -> list[str]:
    """A table of the paper with our results in columns of their own.

    Args:
        name: '1a', '1b' or '2'.
        result_of: gives the content of the result file of a recipe, `<teacher>/<recipe>`; None
            if there is none.

    Returns:
        Markdown lines.

    Raises:
        UserError: a result file is damaged.
    """
    rows = TABLES[name]
    models = list(FLOAT)[: len(rows[0][1])]
    heading = ['', *models, *OURS, 'recipe']
    lines = [f'| {" | ".join(heading)} |', '|' + ' --- |' * len(heading)]
    floats = [f'{FLOAT[model]:.2f}' for model in models]
    _, _, reference = rows[0]
    ours = [_cell(folder, reference, result_of, quantized=False) for folder in OURS.values()]
    lines.append(f'| float | {" | ".join(floats + ours)} | |')
    for words, values, recipe in rows:
        paper = [
            '' if value is None else _with_loss(value, FLOAT[model])
            for value, model in zip(values, models, strict=True)
        ]
        ours = [_cell(folder, recipe, result_of) for folder in OURS.values()]
        lines.append(f'| {words} | {" | ".join(paper + ours)} | `{recipe}` |')
    return lines


def _cell(folder, recipe, result_of, quantized=True):
    """Our accuracy, or that of the float model; empty where there is no result."""
    found = result_of(f'{folder}/{recipe}')
    if not found:
        return ''
    if not quantized:
        return f'{found["float_accuracy"]:.2f}'
    return _with_loss(statistics.fmean(found['metrics']['accuracy']), found['float_accuracy'])


def _with_loss(accuracy, before):
    return f'{accuracy:.2f} ({accuracy - before:+.2f})'
