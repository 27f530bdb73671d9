"""The wheel: it holds the whole package, and its programs run where the source code is not."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from tests.tiny import tiny_teacher

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ('LICENSE', 'README.md', 'pyproject.toml', 'setup.py')  # and zscgan_tf


def run(*command, folder):
    """What a command prints, run in a folder, without what would lead it to the source code."""
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is made of, so that no earlier build leaks in."""
    folder = tmp_path_factory.mktemp('source')
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / 'zscgan_tf', folder / 'zscgan_tf', ignore=ignored)
    options = ('--no-deps', '--no-build-isolation', '--no-index', '-w', 'dist')
    run(sys.executable, '-m', 'pip', 'wheel', *options, '.', folder=folder)
    (path,) = (folder / 'dist').glob('*.whl')
    return path


def new_environment(folder):
    """A new environment without packages, and its Python."""
    venv.create(folder, symlinks=True)
    return folder / 'bin' / 'python'


def install(python, wheel, *options, folder):
    pip = (sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', *options)
    run(*pip, wheel, folder=folder)


def check_installed(python, folder):
    """Has the installed program look at a model in an empty folder; returns both."""
    empty = folder / 'empty'
    empty.mkdir()
    code = 'import zscgan_tf; print(zscgan_tf.__file__)'
    imported = pathlib.Path(run(python, '-c', code, folder=empty).strip())
    assert imported.is_relative_to(python.parents[1])
    program = python.parent / 'zscgan-quantize'
    assert run(program, '--version', folder=empty).startswith('zscgan_tf ')

    teacher = tiny_teacher()
    teacher.model.save(empty / 'tiny.h5')
    (empty / 'tiny.json').write_text(json.dumps(teacher.input_spec.to_dict()))
    run(program, 'tiny.h5', '--output=tiny.tflite', '--check', folder=empty)
    assert sorted(os.listdir(empty)) == ['tiny.h5', 'tiny.json']
    return program, empty


def test_the_wheel_holds_all_files_of_the_package(wheel):
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'zscgan_tf').rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if '.dist-info/' not in name} == package
    assert any(name.endswith('LICENSE') for name in names)


def test_the_gpu_extra_has_the_range_of_tensorflow(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        lines = archive.read(name).decode().splitlines()
    required = [line.removeprefix('Requires-Dist: ') for line in lines if 'tensorflow' in line]
    (cpu,) = (line for line in required if line.startswith(('tensorflow>', 'tensorflow<')))
    (gpu,) = (line for line in required if line.startswith('tensorflow[and-cuda]'))
    assert gpu.split(';')[0].strip() == cpu.replace('tensorflow', 'tensorflow[and-cuda]')


def test_the_container_is_made_of_what_the_wheel_is_made_of():
    lines = (ROOT / '.dockerignore').read_text().splitlines()
    let_in = [line.removeprefix('!') for line in lines if line.startswith('!')]
    assert lines[1] == '*' and let_in == [*SOURCES, 'zscgan_tf']
    text = (ROOT / 'Dockerfile').read_text()
    assert text.index('\nUSER ') > text.index('\nRUN pip install ')
    assert 'ENTRYPOINT ["zscgan-quantize"]' in text


@pytest.mark.slow
def test_an_installed_wheel_runs(wheel, tmp_path):
    """Its dependencies are those of the environment that runs the tests."""
    python = new_environment(tmp_path / 'environment')
    install(python, wheel, '--no-deps', '--no-index', folder=tmp_path)
    (packages,) = (tmp_path / 'environment').glob('lib/python*/site-packages')
    # Of a folder that such a file names, the files of this kind are not read: what an editable
    # installation put there does not lead to the source code.
    (packages / 'tests.pth').write_text(sysconfig.get_path('purelib') + '\n')
    check_installed(python, tmp_path)


@pytest.mark.slow
def test_a_wheel_brings_its_dependencies(wheel, tmp_path):
    """From the package index: 2.7 GB."""
    python = new_environment(tmp_path / 'environment')
    install(python, wheel, folder=tmp_path)
    program, empty = check_installed(python, tmp_path)
    flags = ('--source=noise_uniform', '--range_images=8', '--check_images=8')
    printed = run(program, 'tiny.h5', '--output=tiny.tflite', *flags, folder=empty)
    assert 'ops are integer' in printed and (empty / 'tiny.tflite').exists()
    assert (empty / 'tiny.html').exists()  # of the wheel's template
