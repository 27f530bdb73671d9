"""Result files: a value a seed, merged, never mixed."""

import concurrent.futures
import json
import pathlib
import subprocess
import sys

import pytest

from zscgan_tf.errors import UserError
from zscgan_tf.report import results


def add(path, seed, accuracy, minutes=1.0, **common):
    common = {'float_accuracy': 90.0, 'images': 512, 'steps': 100, **common}
    results.add(path, seed, {'accuracy': accuracy, 'agreement': 99.0 + seed}, minutes, **common)


def test_seeds_are_merged_in_order(tmp_path):
    path = tmp_path / 'ptq.json'
    add(path, 2, 80.123456, minutes=1.239)
    add(path, 0, 81)
    add(path, 1, 82)
    add(path, 0, 83, minutes=5)  # in place of the first one
    result = results.read(path)
    assert result == json.loads(path.read_text())
    assert result['seeds'] == [0, 1, 2]
    assert result['metrics'] == {'accuracy': [83, 82, 80.1235], 'agreement': [99, 100, 101]}
    assert result['minutes'] == [5, 1, 1.24]
    assert result['float_accuracy'] == 90 and result['images'] == 512 and result['steps'] == 100
    assert result['versions']['tensorflow'].startswith('2.') and 'cores' in result['machine']


def test_a_seed_without_a_metric_has_null(tmp_path):
    path = tmp_path / 'ptq.json'
    results.add(path, 0, {'accuracy': 1, 'top5': 2}, 0, steps=1)
    results.add(path, 1, {'accuracy': 3}, 0, steps=1)
    results.add(path, 2, {'accuracy': 4, 'loss': 5}, 0, steps=1)
    metrics = {'accuracy': [1, 3, 4], 'top5': [2, None, None], 'loss': [None, None, 5]}
    assert results.read(path)['metrics'] == metrics


@pytest.mark.parametrize('other', [{'steps': 200}, {'images': 64}, {'float_accuracy': 91.0}])
def test_other_configurations_are_refused(tmp_path, other):
    path = tmp_path / 'ptq.json'
    add(path, 0, 80)
    before = path.read_text()
    with pytest.raises(UserError, match='holds results of another configuration'):
        add(path, 1, 81, **other)
    assert path.read_text() == before


OPTIONS = {'source': 'zscgan', 'steps': 100, 'generator_channels': (8, 8), 'per_channel': True}


def test_a_seed_of_other_options_is_refused_naming_the_first(tmp_path):
    path = tmp_path / 'ptq.json'
    add(path, 0, 80, options=OPTIONS)
    assert results.read(path)['options'] == {**OPTIONS, 'generator_channels': [8, 8]}
    before = path.read_text()
    other = {**OPTIONS, 'generator_channels': (8, 16), 'source': 'files'}
    words = r'configuration \(generator_channels \[8, 8\], not \[8, 16\]\): remove it'
    for refused in (
        lambda: add(path, 1, 81, options=other),
        lambda: results.check(path, options=other, images=512),
    ):
        with pytest.raises(UserError, match=words):
            refused()
    with pytest.raises(UserError, match=r'\(images 512, not 64\)'):
        results.check(path, options=OPTIONS, images=64)
    with pytest.raises(UserError, match='another configuration'):
        add(path, 1, 81)  # by whom it is not known
    assert path.read_text() == before
    results.check(path, options=OPTIONS, images=512, steps=100)
    add(path, 1, 81, options=OPTIONS)
    assert results.read(path)['seeds'] == [0, 1]


def test_a_file_without_options_takes_them_over(tmp_path):
    path = tmp_path / 'ptq.json'
    add(path, 0, 80)
    results.check(path, options=OPTIONS, images=512)
    add(path, 1, 81, options=OPTIONS)
    found = results.read(path)
    assert found['options']['source'] == 'zscgan' and found['seeds'] == [0, 1]
    with pytest.raises(UserError, match='per_channel true, not false'):
        add(path, 2, 82, options={**OPTIONS, 'per_channel': False})


def test_a_seed_that_is_measured_on_other_images_is_refused(tmp_path):
    path = tmp_path / 'ptq.json'
    images = {'kind': 'files', 'content': 'abc', 'check_images': 1000}
    add(path, 0, 80)  # of an earlier version: on which images is not known
    results.check(path, evaluation=images)
    add(path, 1, 81, evaluation=images)
    for other in ({**images, 'content': 'def'}, {'check_images': 1000}):
        words = r'configuration \(content "abc", not ("def"|null)\)'
        for refused in (
            lambda other=other: results.check(path, evaluation=other),
            lambda other=other: add(path, 2, 82, evaluation=other),
        ):
            with pytest.raises(UserError, match=words):
                refused()
    assert results.read(path)['seeds'] == [0, 1]


def test_a_seed_without_real_images_does_not_join_those_with(tmp_path):
    path = tmp_path / 'ptq.json'
    add(path, 0, 80)
    with pytest.raises(UserError, match='holds results of another configuration'):
        results.add(path, 1, {'agreement': 99}, 1, images=512, steps=100)
    assert results.read(path)['float_accuracy'] == 90


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"metrics": {}}', 'no JSON'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / 'ptq.json'
    path.write_text(text)
    for use in (results.read, results.check, lambda p: add(p, 0, 1)):
        with pytest.raises(UserError, match='not a result file'):
            use(path)
    assert path.read_text() == text


def test_a_seed_that_is_evaluated_otherwise_is_refused_before_any_work(tmp_path):
    path, unlabelled = tmp_path / 'ptq.json', tmp_path / 'unlabelled.json'
    add(path, 0, 80)
    results.check(path, evaluated=True)
    with pytest.raises(UserError, match='holds results with an accuracy'):
        results.check(path, evaluated=False)
    results.add(unlabelled, 0, {'agreement': 99}, 1, images=512, steps=100)
    results.check(unlabelled, evaluated=False)
    with pytest.raises(UserError, match='holds results without an accuracy'):
        results.check(unlabelled, evaluated=True)


def test_check_is_called_before_any_work(tmp_path):
    results.check(tmp_path / 'new.json')
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match='does not exist'):
        results.check(tmp_path / 'missing' / 'new.json')


MANY = """
import sys, time
from zscgan_tf.report import results

read = results.read
results.read = lambda path: (read(path), time.sleep(0.02))[0]  # others write meanwhile
print('ready', flush=True)
sys.stdin.readline()
for seed in range(int(sys.argv[2]), 8, 2):
    results.add(sys.argv[1], seed, {'accuracy': seed}, 1, steps=100)
"""


def test_processes_that_write_one_file_lose_nothing(tmp_path):
    path = tmp_path / 'ptq.json'
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', MANY, path, str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=pathlib.Path(__file__).parents[2],
        )
        for first in range(2)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write(b'\n')
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    found = results.read(path)
    assert found['seeds'] == list(range(8)) == found['metrics']['accuracy']
    assert [entry.name for entry in tmp_path.iterdir()] == ['ptq.json']


def test_threads_that_write_one_file_lose_nothing(tmp_path):
    path = tmp_path / 'ptq.json'
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: add(path, seed, 80), range(8)))
    assert results.read(path)['seeds'] == list(range(8))
