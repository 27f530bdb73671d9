"""bin/quickstart: the whole job on digits, with few steps, and once more over its own output."""

import os
import subprocess
import sys

import pytest

from tests.commands.programs import ROOT
from zscgan_tf.tflite import audit, levels

ROWS = ('float', 'DF-PTQ (ZS-CGAN images)', 'PTQ on uniform noise', 'DF-QAT W8A8', 'DF-QAT W4A4')


def quickstart(folder, seed):
    return subprocess.run(
        [
            sys.executable,
            '-m',
            'zscgan_tf.commands.quickstart',
            f'--output={folder}',
            f'--seed={seed}',
            '--steps=20',
            '--distillation_steps=5',
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def rows(printed):
    """What the table says: {row: (accuracy, agreement)}."""
    lines = [line for line in printed.splitlines() if line.startswith(ROWS) and line.endswith('%')]
    return {
        line[:28].strip(): tuple(float(text) for text in line[28:].split() if text != '%')
        for line in lines
    }


@pytest.mark.parametrize('name', ['notes.txt', 'digits.keras', 'generator/config.json'])
def test_a_folder_of_somebody_else_is_kept(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('mine')
    done = quickstart(tmp_path, 0)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert f'{tmp_path} has files, and no .quickstart, so they may be yours' in done.stderr
    assert os.listdir(tmp_path) == [name.split('/')[0]] and file.read_text() == 'mine'


@pytest.mark.slow
def test_the_table_has_both_students_and_a_second_run_starts_anew(tmp_path):
    for seed in (0, 1):  # another classifier: nothing of the first run can be reused
        done = quickstart(tmp_path, seed)
        assert done.returncode == 0, done.stderr
        assert 'held-out digits' in done.stdout and 'Traceback' not in done.stderr
        found = rows(done.stdout)
        assert tuple(found) == ROWS
        assert found['float'][0] > 90 and found['float'][1] == 100
        assert found['DF-QAT W8A8'][1] > 95 and found['DF-QAT W4A4'][1] > 60
    for bits in (8, 4):
        data = (tmp_path / f'digits_w{bits}a{bits}.tflite').read_bytes()
        report = audit.audit(data)
        assert report.integer_op_count == report.op_count
        # The levels of activations were counted when it was written.
        levels.check_levels(data, [], weight_bits=bits, activation_bits=8)
    assert os.listdir(tmp_path / 'student_w4a4')
