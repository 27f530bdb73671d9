"""A workdir belongs to one teacher and one configuration."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.raw_pixels import raw_pixels
from zscgan_tf.training import workdir

CONFIG = {'teacher': 'net', 'fingerprint': 'abc', 'channels': [4, 8], 'rate': 1e-3, 'seed': 0}


def test_claims_a_new_folder_and_its_own_again(tmp_path):
    folder = tmp_path / 'new' / 'run'
    workdir.claim(folder, CONFIG)
    assert workdir.read(folder) == CONFIG == json.loads((folder / 'config.json').read_text())
    workdir.claim(folder, {**CONFIG, 'channels': (4, 8)})  # equal as JSON
    workdir.claim(str(folder), dict(reversed(CONFIG.items())))
    assert [path.name for path in folder.iterdir()] == ['config.json']


def test_two_processes_claim_a_new_folder_at_once(tmp_path, monkeypatch):
    """The one that comes second goes on if it is of the same configuration."""
    write = workdir.write_atomically

    def written_before(path, data, *args, **kwargs):
        path.write_text(json.dumps(CONFIG))
        write(path, data, *args, **kwargs)

    monkeypatch.setattr(workdir, 'write_atomically', written_before)
    workdir.claim(tmp_path / 'a', CONFIG)
    with pytest.raises(UserError, match='holds a run of another configuration .rate 0.001, not 9'):
        workdir.claim(tmp_path / 'b', {**CONFIG, 'rate': 9})


def test_keeps_texts_beside_the_configuration(tmp_path):
    workdir.claim(tmp_path, CONFIG, {'flags.cfg': '--seed=0'})
    workdir.claim(tmp_path, CONFIG, {'flags.cfg': '--seed=0\n--steps=3'})
    assert (tmp_path / 'flags.cfg').read_text() == '--seed=0\n--steps=3'
    with pytest.raises(UserError):
        workdir.claim(tmp_path, {**CONFIG, 'seed': 1}, {'flags.cfg': 'other'})
    assert (tmp_path / 'flags.cfg').read_text() == '--seed=0\n--steps=3'


def test_another_teacher_is_refused(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    other = {**CONFIG, 'fingerprint': 'xyz', 'seed': 3}
    words = 'belongs to another teacher .net.: pass another folder, or delete it.'
    with pytest.raises(UserError, match=f'^{tmp_path} {words}$'):
        workdir.claim(tmp_path, other)
    name, instead = 'm.workdir, the default for --output=m.tflite,', 'another --output'
    words = words.replace('another folder', instead)
    with pytest.raises(UserError, match=f'^{name} {words}$'):
        workdir.claim(workdir.NamedFolder(tmp_path, name, instead), other)
    assert workdir.read(tmp_path) == CONFIG


def test_another_configuration_is_refused_by_the_names_that_differ(tmp_path):
    workdir.claim(tmp_path, CONFIG)
    other = {**CONFIG, 'rate': 2e-3, 'new': list(range(100))}
    del other['seed']
    with pytest.raises(UserError) as error:
        workdir.claim(tmp_path, other)
    message = str(error.value)
    assert 'rate 0.001, not 0.002' in message
    assert 'seed 0, not null' in message
    assert 'new null, not [0, 1, 2,' in message and '...' in message and '99' not in message
    assert 'channels' not in message and 'fingerprint' not in message and '\n' not in message
    assert workdir.read(tmp_path) == CONFIG


def test_what_differs_within_a_value_is_named(tmp_path):
    spec = {'image_size': [32, 32], 'channels': 3, 'mean': [0.0] * 3}
    workdir.claim(tmp_path, {**CONFIG, 'input_spec': spec})
    other = {**spec, 'mean': [0.5] * 3}
    words = r'\(input_spec.mean \[0.0, 0.0, 0.0\], not \[0.5, 0.5, 0.5\]\)'
    with pytest.raises(UserError, match=words):
        workdir.claim(tmp_path, {**CONFIG, 'input_spec': other})


def test_raw_pixels_of_another_preprocessing_are_another_configuration():
    """The input specification of raw pixels does not say what the first convolution does."""
    teacher = tiny_teacher()
    spec = teacher.input_spec
    other = dataclasses.replace(spec, std=tuple(1.01 * std for std in spec.std))
    other = dataclasses.replace(teacher, input_spec=other)
    found, expected = (workdir.config_of(raw_pixels(t), {}, 0) for t in (other, teacher))
    assert found['input_spec'] == expected['input_spec'] and found != expected
    names = ('raw_pixels_mean', 'raw_pixels_std', 'raw_pixels_bgr')
    assert [expected[name] for name in names] == [spec.mean, spec.std, spec.bgr]
    assert not set(names) & workdir.config_of(teacher, {}, 0).keys()


def test_a_teacher_that_was_renamed_is_the_same(tmp_path):
    """Keras numbers models without a name by what else a process has built."""
    workdir.claim(tmp_path, {**CONFIG, 'teacher': 'model_1'})
    workdir.claim(tmp_path, {**CONFIG, 'teacher': 'model_7'})
    assert workdir.read(tmp_path)['teacher'] == 'model_1'


def test_folders_that_can_not_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be made .*: pass a folder that can be written'):
        workdir.claim(tmp_path / 'file' / 'run', CONFIG)
    with pytest.raises(UserError, match='cannot be made'):
        workdir.claim(tmp_path / 'file', CONFIG)
    with pytest.raises(UserError, match='cannot be made'):
        workdir.claim('/proc/run', CONFIG)


@pytest.mark.parametrize(
    'text, words',
    [
        ('{"teacher": ', 'cannot be read'),
        ('[1, 2]', 'is no configuration'),
        ('\udcff', 'cannot be read'),
    ],
)
def test_broken_configurations(tmp_path, text, words):
    (tmp_path / 'config.json').write_bytes(text.encode(errors='surrogateescape'))
    for use in (lambda: workdir.read(tmp_path), lambda: workdir.claim(tmp_path, CONFIG)):
        with pytest.raises(UserError, match=words):
            use()


def test_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / 'missing'):
        with pytest.raises(UserError, match='holds no run .no config.json.: pass the folder of'):
            workdir.read(folder)


def test_what_killed_processes_left_is_removed_when_a_run_goes_on(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    workdir.claim(tmp_path, CONFIG, {'flags.cfg': '--seed=0'})
    for name in ('flags.cfg', 'metrics.jsonl'):
        (tmp_path / f'{name}.{process.pid}.partial').write_text('half')
    living = tmp_path / f'metrics.jsonl.{os.getpid()}.partial'
    living.write_text('half')
    with pytest.raises(UserError):
        workdir.claim(tmp_path, {**CONFIG, 'seed': 1})
    assert len(list(tmp_path.iterdir())) == 5  # another run's folder is left as it is
    workdir.claim(tmp_path, CONFIG)
    assert {path.name for path in tmp_path.iterdir()} == {'config.json', 'flags.cfg', living.name}
