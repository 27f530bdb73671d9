import json
import pathlib
import statistics

import pytest

from zscgan_tf.errors import UserError
from zscgan_tf.report import tables

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write_result(folder, name, accuracy, minutes):
    seeds = list(range(len(accuracy)))
    result = {
        'metrics': {'accuracy': accuracy, 'agreement': [99.0] * len(seeds)},
        'float_accuracy': 88.5,
        'images': 512,
        'steps': 1000,
        'minutes': minutes,
        'seeds': seeds,
    }
    (folder / f'{name}.json').write_text(json.dumps(result))


def test_a_row_shows_mean_and_deviation_over_seeds(tmp_path):
    values = [88.1, 88.4, 88.6]
    write_result(tmp_path, 'ptq', values, [3.0, 4.0, 5.0])
    row = next(line for line in tables.result_table(tmp_path) if '/ptq`' in line)
    expected = f'{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} (3 seeds)'
    assert expected in row
    assert '4.0 min, 1,000 steps' in row


def test_rows_come_in_order_and_noise_has_no_training(tmp_path):
    write_result(tmp_path, 'ptq_noise_uniform', [80.0], [0])
    write_result(tmp_path, 'ptq', [88.0], [3.0])
    lines = tables.result_table(tmp_path)
    assert '88.50' in lines[2]  # the float row
    assert '`' + tmp_path.name + '/ptq`' in lines[3]
    assert lines[4].endswith('| none |')


def test_the_benchmark_shows_ratios_and_seconds(tmp_path):
    path = tmp_path / 'benchmark.json'
    path.write_text(json.dumps({'ratios': {'a_over_b': 1.046}, 'seconds': {'export': 41.27}}))
    assert tables.benchmark_table(path)[2:] == ['| `a_over_b` | 1.05 |', '| `export` | 41.3 s |']
    path.write_text(json.dumps({'ratios': {'a_over_b': 1.046}}))
    assert tables.benchmark_table(path)[2:] == ['| `a_over_b` | 1.05 |']


@pytest.mark.parametrize(
    'change, words',
    [
        ('text', 'damaged'),
        ('[]', 'damaged'),
        ({'metrics': {'accuracy': []}}, 'damaged'),
        ({'metrics': {'accuracy': [88.0]}}, "damaged: it has no 'agreement'"),
        ({'metrics': {'accuracy': ['high'], 'agreement': [99.0]}}, 'damaged'),
        ({'minutes': []}, 'damaged'),
        ({'steps': None}, 'damaged'),
        ({'float_accuracy': 'high'}, 'damaged'),
    ],
)
def test_a_damaged_result_file_is_named(tmp_path, change, words):
    path = tmp_path / 'ptq.json'
    write_result(tmp_path, 'ptq', [88.0], [3.0])
    result = json.loads(path.read_text())
    path.write_text(change if isinstance(change, str) else json.dumps(result | change))
    with pytest.raises(UserError) as error:
        tables.result_table(tmp_path)
    assert str(error.value).startswith(f'{path}: {words}') and '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['text', '[]', '{}', '{"ratios": {"a": "b"}}', '{"ratios": []}'])
def test_a_damaged_benchmark_is_named(tmp_path, text):
    path = tmp_path / 'benchmark.json'
    path.write_text(text)
    with pytest.raises(UserError, match='benchmark.json: damaged') as error:
        tables.benchmark_table(path)
    assert '\n' not in str(error.value)


def test_render_replaces_what_stands_between_the_markers(tmp_path):
    write_result(tmp_path, 'ptq', [88.0], [3.0])
    before = f'a\n<!-- table {tmp_path.name} -->\nold\n<!-- end -->\nb\n'
    after = tables.render(before, tmp_path.parent)
    assert 'old' not in after and '88.00' in after
    assert after.startswith('a\n') and after.endswith('b\n')
    assert tables.render(after, tmp_path.parent) == after


def test_the_readme_shows_the_result_files():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert '<!-- table resnet20_cifar10_jpeg -->' in readme
    assert tables.render(readme, ROOT / 'flags') == readme
