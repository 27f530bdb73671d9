import json
import pathlib
import statistics

import numpy as np
import pytest

from zscgan_tf.errors import UserError
from zscgan_tf.report import tables

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """The results of one teacher."""
    path = tmp_path / tables.RESNET20
    path.mkdir()
    return path


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


def test_a_row_shows_mean_and_deviation_over_seeds(folder):
    values = [88.1, 88.4, 88.6]
    write_result(folder, 'ptq', values, [3.0, 4.0, 5.0])
    row = next(line for line in tables.result_table(folder) if '/ptq`' in line)
    expected = f'{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} (3 seeds)'
    assert expected in row
    assert '4.0 min, 1,000 steps' in row


def test_standard_errors_are_those_of_ten_thousand_coins(folder):
    write_result(folder, 'ptq', [80.0], [3.0])
    row = next(line for line in tables.result_table(folder) if '/ptq`' in line)
    thrown = np.random.default_rng(0).binomial(10_000, [[0.8], [0.99]], (2, 100_000)) / 100
    accuracy, agreement = thrown.std(axis=1)
    found = [float(value) for value in row.split('|')[5].split(',')]
    np.testing.assert_allclose(found, [accuracy, agreement], atol=0.006)


def test_rows_come_in_order_and_noise_has_no_training(folder):
    write_result(folder, 'ptq_noise_uniform', [80.0], [0])
    write_result(folder, 'ptq', [88.0], [3.0])
    lines = tables.result_table(folder)
    assert '88.50' in lines[2]  # the float row
    assert '`' + folder.name + '/ptq`' in lines[3]
    assert '| none |' in lines[4]


def test_a_row_says_where_inputs_are_normalized(folder):
    write_result(folder, 'qat_w8a8', [88.0], [3.0])
    path = folder / 'qat_w8a8.json'
    for options, words in (({'raw_pixels': True}, ''), ({}, ' (normalized inputs)')):
        path.write_text(json.dumps(json.loads(path.read_text()) | {'options': options}))
        row = tables.result_table(folder, 'qat')[-1]
        assert row.split('|')[1].strip() == f'DF-QAT W8A8{words}'


def test_an_unknown_teacher_is_named(tmp_path):
    with pytest.raises(UserError, match='TEACHERS'):
        tables.result_table(tmp_path)


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
def test_a_damaged_result_file_is_named(folder, change, words):
    path = folder / 'ptq.json'
    write_result(folder, 'ptq', [88.0], [3.0])
    result = json.loads(path.read_text())
    path.write_text(change if isinstance(change, str) else json.dumps(result | change))
    with pytest.raises(UserError) as error:
        tables.result_table(folder)
    assert str(error.value).startswith(f'{path}: {words}') and '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['text', '[]', '{}', '{"ratios": {"a": "b"}}', '{"ratios": []}'])
def test_a_damaged_benchmark_is_named(tmp_path, text):
    path = tmp_path / 'benchmark.json'
    path.write_text(text)
    with pytest.raises(UserError, match='benchmark.json: damaged') as error:
        tables.benchmark_table(path)
    assert '\n' not in str(error.value)


def test_render_replaces_what_stands_between_the_markers(folder):
    write_result(folder, 'ptq', [88.0], [3.0])
    before = f'a\n<!-- table {folder.name} -->\nold\n<!-- end -->\nb\n'
    after = tables.render(before, folder.parent)
    assert 'old' not in after and '88.00' in after
    assert after.startswith('a\n') and after.endswith('b\n')
    assert tables.render(after, folder.parent) == after


def test_the_tables_of_the_readme(tmp_path):
    for recipe in [f'{tables.MOBILENET}/{name}' for name in tables.POINT] + list(tables.HEADLINES):
        (tmp_path / recipe).parent.mkdir(exist_ok=True)
        write_result((tmp_path / recipe).parent, recipe.split('/')[1], [50.0], [3.0])
    point = tables.point_table(tmp_path)
    assert [line.split('|')[2].strip() for line in point[2:]] == ['88.5 ± 1.0 %'] + 3 * [
        '50.0 ± 1.6 %'  # of 1,000 images
    ]
    headlines = tables.headline_table(tmp_path)
    assert len(headlines) == 2 + len(tables.HEADLINES)
    assert '| 50.0 ± 0.5 % | 88.5 % | 99.0 ± 0.1 % |' in headlines[2]  # of 10,000
    (tmp_path / tables.MOBILENET / 'ptq_mse_real.json').unlink()
    with pytest.raises(UserError, match='ptq_mse_real.json: there is no such file'):
        tables.point_table(tmp_path)


def test_our_results_stand_beside_those_of_the_paper(tmp_path):
    folder = tmp_path / tables.RESNET20
    folder.mkdir()
    (tmp_path / tables.MOBILENET).mkdir()
    write_result(folder, 'qat_w8a8', [88.0, 88.2], [3.0, 3.0])
    text = '<!-- table paper/2 -->\n<!-- end -->\n'
    lines = tables.render(text, tmp_path).splitlines()[1:-1]
    cells = {line.split('|')[1].strip(): line.split('|')[2:-1] for line in lines}
    assert [cell.strip() for cell in cells['float']] == ['71.92', '88.50', '', '']
    assert [cell.strip() for cell in cells['CE + BNS']] == [
        '71.72 (-0.20)',
        '88.10 (-0.40)',
        '',
        '`qat_w8a8`',
    ]
    assert [cell.strip() for cell in cells['CE']] == [
        '69.63 (-2.29)',
        '',
        '',
        '`qat_w8a8_class_only`',
    ]


@pytest.mark.parametrize('name', tables.DOCUMENTS)
def test_the_documents_show_the_result_files(name):
    text = (ROOT / name).read_text(encoding='utf-8')
    assert '<!-- table ' in text
    assert tables.render(text, ROOT / 'flags') == text


def test_every_result_file_has_a_row():
    text = (ROOT / 'docs' / 'results.md').read_text(encoding='utf-8')
    for path in (ROOT / 'flags').glob('*/*.json'):
        assert f'`{path.parent.name}/{path.stem}`' in text, path
