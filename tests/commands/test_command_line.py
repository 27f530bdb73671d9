"""The command line of all programs: the model without a flag, help, and messages of mistakes."""

import pathlib
import re
import subprocess
import sys

import pytest

from zscgan_tf.commands import flags_page, groups

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ['quantize', 'train_generator', 'distill', 'synthesize', 'evaluate', 'benchmark']


def start(name, *arguments, cwd=None):
    """A program as a process; stderr says at its end whether it imported TensorFlow."""
    code = """
import atexit, runpy, sys
atexit.register(lambda: print('tensorflow' in sys.modules, file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
    script = str(ROOT / 'bin' / f'{name}.py')
    return subprocess.run(
        [sys.executable, '-c', code, script, *arguments], cwd=cwd, capture_output=True, text=True
    )


def refusal(name, *arguments, cwd=None):
    """The one line that a program refuses its command line with, before it imports TensorFlow."""
    result = start(name, *arguments, cwd=cwd)
    assert result.returncode == 1 and result.stdout == '', result
    error, imported = result.stderr.splitlines()
    assert imported == 'False' and error.startswith('error: '), result.stderr
    return error.removeprefix('error: ')


@pytest.mark.parametrize('name', PROGRAMS)
def test_help_fits_a_terminal(name):
    short, full = (start(name, flag).stdout for flag in ('-h', '--helpfull'))
    assert start(name, '--help').stdout == short if name == 'evaluate' else short
    for text in (short, full):
        assert max(map(len, text.splitlines())) <= 80
        usage, blank, does = text.splitlines()[:3]
        assert usage.startswith(f'usage: bin/{name}.py ') and not blank and does.endswith('.')
        assert len(re.findall(rf'^  bin/{name}.py ', text, re.MULTILINE)) == 2  # the examples
        assert '--flagfile' in text and '--version' in text and 'MODEL or --teacher=FILE' in text
        assert '--pdb' not in text and '--alsologtostderr' not in text and '--undefok' not in text
    shown, everything = (
        set(re.findall(r'^  (?:MODEL or )?--(\S+)', t, re.MULTILINE)) for t in (short, full)
    )
    assert shown <= everything
    if name == 'quantize':
        assert 18 <= len(shown) <= 30 < len(everything)
        positions = [short.index(f'\n{group}:\n') for group in groups.BASIC]
        assert positions == sorted(positions)
        assert 'Small: 1,500. Paper: 50,000.' in short


def test_help_into_a_pipe_that_is_closed():
    command = f'{sys.executable} {ROOT}/bin/quantize.py --helpfull | head -n 1'
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stdout.startswith('usage: ') and result.stderr == ''


PRINTS = """
import os, sys
from zscgan_tf.commands import app

def main():
    for number in range(int(os.environ['LINES'])):
        print(number, flush=number > 0)
    print('to the end', file=sys.stderr)

app.run('__main__', main)
"""


@pytest.mark.parametrize('lines, reader', [(50_000, 'head -n 1'), (1, 'true')])
def test_output_into_a_pipe_that_is_closed(tmp_path, lines, reader):
    (tmp_path / 'prints.py').write_text(PRINTS)
    command = f'LINES={lines} {sys.executable} prints.py | {reader}; exit ${{PIPESTATUS[0]}}'
    result = subprocess.run(
        ['bash', '-c', f'PYTHONPATH={ROOT} {command}'],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stdout == ('' if reader == 'true' else '0\n') and result.returncode == 141
    # A line alone waits in the buffer until the end, unless PYTHONUNBUFFERED is set.
    assert result.stderr in ('', 'to the end\n' if reader == 'true' else '')


HIDES = r"""
import pathlib
from zscgan_tf.commands import app
from zscgan_tf.quiet import hidden_output

app._make_printable()
with hidden_output() as hidden:
    print('caf\udce9')  # such is a file's name that is no UTF-8
    pathlib.Path('hidden').write_text(hidden.text())
print('end')
"""


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '>&- 2>&-'])
def test_streams_that_are_closed(tmp_path, closed):
    (tmp_path / 'hides.py').write_text(HIDES)
    command = f'PYTHONIOENCODING=utf-8 PYTHONPATH={ROOT} {sys.executable} hides.py {closed}'
    result = subprocess.run(['bash', '-c', command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result
    assert (tmp_path / 'hidden').read_text() == 'caf\\udce9\n'


def test_every_flag_has_a_group():
    text = flags_page.page()
    assert f'## {groups.OTHER}' not in text
    assert all(f'## {group}\n' in text for group in groups.ORDER if group != groups.OTHER)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--weight_bits=eight'], '--weight_bits=eight must be 2 to 8 bits.'),
        (['--steps=1.5'], '--steps=1.5 must be a whole number, at least 1 and below 2^31.'),
        (['--preset=big'], '--preset=big must be one of small, paper.'),
        (['--seed=-1'], '--seed=-1 must be a whole number from 0 to 2,000,000,000.'),
        (['--check_images=0'], '--check_images=0 must be a whole number, at least 1.'),
        (['--learning_rate=a: b'], '--learning_rate=a: b must be positive.'),
        (['--raw_pixels=maybe'], '--raw_pixels=maybe must be true or false.'),
        (['--raw_pixel'], '--raw_pixel is no flag of this program: did you mean --raw_pixels?'),
        (['--noaugmen'], '--noaugmen is no flag of this program: did you mean --noaugment?'),
        (['--bogus=1'], '--bogus is no flag of this program: see --help, or --helpfull'),
        (['--alsologtostder'], 'no flag of this program: see --help'),  # not those of absl
        (['--seed'], '--seed is without its value: pass --seed=VALUE'),
        (['--output', '--seed=3'], '--output is without its value'),
        (['--nomix=3'], '--nomix=3 does not take an argument'),
        (['--flagfile=none.cfg'], "No such file or directory: 'none.cfg'"),
        (['a.h5', 'b.h5'], "unexpected argument 'b.h5': only the model, 'a.h5' here, stands"),
        (['a.h5', 'b.tflite'], '; did you mean --output=b.tflite?'),
        (['a.h5', '--teacher=b.h5'], "unexpected argument 'a.h5': the model is --teacher=b.h5"),
    ],
    ids=' '.join,
)
def test_mistakes(arguments, words):
    assert words in refusal('quantize', *arguments)


def test_the_second_argument_of_report_and_evaluate_is_the_file():
    for program in ('report', 'evaluate'):
        assert '; did you mean --model=b.tflite?' in refusal(program, 'a.h5', 'b.tflite')


def test_a_message_does_not_control_the_terminal():
    message = refusal('quantize', 'a\x1b[2K\x9b\u202e.h5', '--output=a.tflite')
    assert '\x1b' not in message and '\\x1b[2K\\x9b\\u202e.h5' in message


def test_a_run_keeps_its_flags():
    """Those of every module; the model needs no flag, and flags may stand before and behind it."""
    code = """
import sys
from zscgan_tf.commands import app, common_flags, parsing, quantize
for arguments in (['a/b.h5', '--seed=3'], ['--seed=3', '--raw_pixels', 'a/b.h5', '--overwrite'],
                  ['a/b.h5', '--teacher=a/../a/b.h5']):
    sys.argv = ['quantize', *arguments, '--source=zeroq']
    app.collect_flags('zscgan_tf.commands.quantize')
    parsing.parse(sys.argv)
    assert {'--teacher=a/b.h5', '--source=zeroq'} <= set(common_flags.flags_text().splitlines())
    parsing.FLAGS.unparse_flags()
"""
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with files that nothing has to open."""
    path = tmp_path_factory.mktemp('early')
    for name in ('model.h5', 'there.tflite', 'a_file', 'images.npz'):
        (path / name).write_text('not read')
    (path / 'no_text').write_bytes(b'\x89HDF\r\n\xff')
    (path / 'run').mkdir()
    (path / 'run' / 'config.json').write_text('{}')
    (path / 'photos').mkdir()
    (path / 'saved_model').mkdir()
    return path


@pytest.mark.parametrize(
    'command, words',
    [
        ('quantize', '--teacher is missing: pass the file of your float classifier'),
        ('quantize missing.h5 --output=a.tflite', 'missing.h5: no such file or directory'),
        ('quantize model.h5', '--output is missing: pass the .tflite to write'),
        ('quantize model.h5 --output=there.tflite', 'exists already: pass --overwrite'),
        ('quantize model.h5 --output=no/a.tflite', 'the folder no does not exist'),
        ('quantize model.h5 --output=/proc/a.tflite', 'the folder /proc cannot be written'),
        ('quantize model.h5 --output=a.tflite --weight_bits=12', 'weight_bits=12 must be 2 to 8'),
        ('quantize model.h5 --output=a.tflite --batch_size=0', '--batch_size=0 must be a whole'),
        ('quantize model.h5 --output=a.tflite --mean=a --std=1', '--mean=a: not numbers'),
        ('quantize model.h5 --output=a.tflite --image_size=1,2,3', 'pass height,width in pixels'),
        ('quantize model.h5 --output=a.tflite --generator_channels=a', '=a: not whole numbers'),
        ('quantize --flagfile=no_text', '--flagfile names a file that is no text'),
        ('quantize model.h5 --output=a.tflite --preprocessing=tf --mean=0', 'either it, or --mean'),
        ('quantize model.h5 --output=a.tflite --workdir=a_file/run', 'a_file is a file'),
        ('quantize model.h5 --output=a.tflite --evaluation_images=none', 'none: no such file or'),
        ('quantize model.h5 --output=a.tflite --source=files', '--images is missing'),
        ('quantize model.h5 --output=a.tflite --evaluation_split=test', '--dataset is missing'),
        (
            'quantize model.h5 --output=a.tflite --dataset=no --data_dir=run --source=dataset',
            '--dataset=no: no such dataset in run',
        ),
        ('quantize model.h5 --output=a.tflite --temperature=2', 'pass --method=qat'),
        ('quantize model.h5 --output=a.tflite --method=qat --range_decay=0.9', 'moving averages'),
        ('train_generator model.h5', '--workdir is missing: pass the folder of the run'),
        ('train_generator model.h5 --workdir=a_file', 'a_file is a file'),
        (
            'quantize model.h5 --output=a.tflite --method=qat --workdir=run --student_workdir=run',
            '--student_workdir and --workdir are the same file',
        ),
        (
            'quantize model.h5 --output=photos/a.tflite --evaluation_images=photos',
            'photos/a.workdir lies in --evaluation_images=photos, where its pictures would count',
        ),
        (
            'quantize model.h5 --output=a.tflite --method=qat --source=files --images=photos/ '
            '--student_workdir=photos/student',
            'photos/student lies in --images=photos/, where its pictures would count as images: '
            'pass another --student_workdir',
        ),
        (
            'train_generator saved_model --workdir=saved_model',
            '--workdir and --teacher are the same file, saved_model',
        ),
        ('quantize model.h5 --output=~/there.tflite', '/there.tflite: exists already'),
        ('train_generator model.h5 --workdir=~/a_file', '/a_file is a file'),
        ('distill model.h5 --workdir=none', 'holds no run (no config.json)'),
        ('synthesize model.h5 --workdir=run', '--output is missing'),
        ('synthesize model.h5 --workdir=run --output=run', 'run: exists already'),
        ('evaluate model.h5', 'there is nothing to evaluate on'),
        ('evaluate model.h5 --images=images.npz --model=none', '--model=none: no such file'),
        ('evaluate model.h5 --images=images.npz --blend', '--blend is for fresh images'),
        ('evaluate model.h5 --images=images.npz --result_json=no/a', 'the folder no does not'),
    ],
)
def test_refused_before_tensorflow_is_imported(folder, monkeypatch, command, words):
    monkeypatch.setenv('HOME', str(folder))
    before = sorted(folder.rglob('*'))
    assert words in refusal(*command.split(), cwd=folder)
    assert sorted(folder.rglob('*')) == before
