"""The package: instant import, help and version, entry points, recipes."""

import ast
import graphlib
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS = [
    'quantize',
    'train_generator',
    'distill',
    'synthesize',
    'evaluate',
    'report',
    'benchmark',
]
HEAVY = ['tensorflow', 'tf_keras', 'keras', 'numpy', 'matplotlib', 'PIL', 'tensorflow_datasets']


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, '-c', code, *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_import_is_lazy():
    result = python(
        f'import sys, zscgan_tf; dir(zscgan_tf); print(set({HEAVY}) & set(sys.modules))'
    )
    assert result.stdout == 'set()\n', result.stderr


def test_public_names_are_there():
    import zscgan_tf

    assert zscgan_tf.__all__ == sorted(zscgan_tf.__all__) == dir(zscgan_tf)
    for name in zscgan_tf.__all__:
        assert getattr(zscgan_tf, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zscgan_tf.nothing  # noqa: B018


def run_alone(name, flag):
    """What a program prints for a flag, having warned of nothing and imported nothing heavy."""
    code = f"""
import atexit, runpy, sys
atexit.register(lambda: print('HEAVY', sorted(set({HEAVY}) & set(sys.modules))))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
    result = python(code, str(ROOT / 'bin' / f'{name}.py'), flag)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ''
    text, heavy = result.stdout.split('HEAVY')
    assert heavy.strip() == '[]'
    return text


@pytest.fixture(scope='module')
def setup_fields():
    """What setup.py passes to setuptools where the package cannot be imported."""
    code = """
import json, runpy, sys, setuptools
sys.path.remove('')
sys.modules['zscgan_tf'] = None
setuptools.setup = lambda **fields: print(json.dumps(fields))
runpy.run_path('setup.py')
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_version_has_one_place(setup_fields):
    import zscgan_tf

    assert setup_fields['version'] == zscgan_tf.__version__
    lines = (ROOT / 'CHANGELOG.md').read_text().splitlines()
    version = 'Unreleased' if 'dev' in zscgan_tf.__version__ else zscgan_tf.__version__
    assert next(line for line in lines if line.startswith('## ')).startswith(f'## [{version}]')


def test_license(setup_fields):
    assert setup_fields['license'] == 'Apache-2.0'
    assert setup_fields['license_files'] == ['LICENSE']
    text = (ROOT / 'LICENSE').read_text()
    assert 'Apache License' in text and 'Copyright 2026 The zscgan_tf authors' in text


@pytest.mark.parametrize('name', PROGRAMS)
def test_version_of_programs(name):
    import zscgan_tf

    stdout = run_alone(name, '--version')
    assert stdout == f'zscgan_tf {zscgan_tf.__version__}\n'


def test_version_is_no_flag_of_a_run():
    """A workdir keeps the flags that were passed to its run."""
    code = """
import sys
from zscgan_tf.commands import app, common_flags, quantize
quantize.FLAGS(['quantize', '--seed=3'])
sys.argv = ['quantize']
app.app.run = lambda *_, **__: print(common_flags.flags_text())
app.run('zscgan_tf.commands.quantize', quantize.main)
"""
    result = python(code)
    assert '--seed=3' in result.stdout, result.stderr
    assert 'version' not in result.stdout


@pytest.mark.parametrize('flag', ['--help', '--helpfull'])
@pytest.mark.parametrize('name', PROGRAMS)
def test_help_needs_no_tensorflow(name, flag):
    text = run_alone(name, flag)
    assert '--teacher' in text and f'bin/{name}.py ' in text
    assert '--version' in text


def entry_points():
    tree = ast.parse((ROOT / 'setup.py').read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and ' = zscgan_tf.' in text]


def test_entry_points_are_the_programs():
    points = dict(point.split(' = ') for point in entry_points())
    installed = [name for name in PROGRAMS if name != 'benchmark']
    assert sorted(points) == sorted('zscgan-' + name.replace('_', '-') for name in installed)
    for program, place in points.items():
        module, function = place.split(':')
        code = f'import {module}; assert callable({module}.{function})'
        if program == 'zscgan-quantize':  # one is enough for the price of an interpreter
            assert python(code).returncode == 0
        assert (ROOT / (module.replace('.', '/') + '.py')).exists()


def test_all_programs_have_one_launcher():
    launchers = {(ROOT / 'bin' / f'{name}.py').resolve() for name in PROGRAMS}
    assert launchers == {ROOT / 'bin' / 'quantize.py'}


RECIPES = sorted((ROOT / 'flags').glob('*/*.cfg'))


def test_recipes_are_those_of_quantize():
    """Every recipe parses, names its teacher and its files, and is headed by what it is."""
    code = """
import sys
from zscgan_tf.commands.quantize import FLAGS
for path in sys.argv[1:]:
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    rest = FLAGS(['quantize', f'--flagfile={path}'])
    assert rest == ['quantize'], (path, rest)
    assert FLAGS.teacher and '{seed}' in FLAGS.output, path
    assert FLAGS.result_json == path[:-len('.cfg')] + '.json', path
    has_workdir = FLAGS.source == 'zscgan' and FLAGS.method != 'dfq'
    assert not has_workdir or '{seed}' in FLAGS.workdir, path
print('parsed', len(sys.argv) - 1)
"""
    paths = [str(path.relative_to(ROOT)) for path in RECIPES]
    result = python(code, *paths)
    assert result.stdout == f'parsed {len(RECIPES)}\n', result.stderr


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_recipes_say_what_they_are(path):
    lines = path.read_text().splitlines()
    heading = ' '.join(line for line in lines if line.startswith('# '))
    assert lines[0].startswith('# ') and any(word in heading for word in ('Costs', 'Days'))
    assert len({line.split('=')[0] for line in lines if line.startswith('--')}) == sum(
        line.startswith('--') for line in lines
    )


DOCUMENTS = [ROOT / f'{name}.md' for name in ('README', 'CONTRIBUTING', 'CHANGELOG')]
DOCUMENTS += sorted((ROOT / 'docs').glob('*.md'))


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_exist(path):
    text = path.read_text()
    links = [link for link in re.findall(r'\]\(([^)#]+)', text) if '://' not in link]
    named = re.findall(r'`((?:zscgan_tf|benchmarks|bin|docs|flags|tests)/[\w./]+)[` ]', text)
    paths = [(path.parent / link).resolve() for link in links] + [ROOT / name for name in named]
    missing = {str(p.relative_to(ROOT)) for p in paths if not p.exists()}
    assert not missing


MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for folder in ('zscgan_tf', 'benchmarks')
    for path in sorted((ROOT / folder).rglob('*.py'))
}


def public_functions(tree):
    """The public functions of a module, and the public methods and `__init__`s of its classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from (f for f in public_functions(node) if f.name != '__post_init__')
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith('_') or node.name == '__init__'
        ):
            yield node


def test_parameters_of_public_functions_are_annotated():
    """What ruff cannot demand of public functions alone; it demands the types that they return."""
    bare = []
    for module, path in MODULES.items():
        if module.startswith('benchmarks'):
            continue
        for function in public_functions(ast.parse(path.read_text())):
            arguments = function.args
            bare += [
                f'{module}.{function.name}: {parameter.arg}'
                for parameter in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
                if parameter.annotation is None and parameter.arg not in ('self', 'cls')
            ]
    assert not bare


# From the bottom to the top: a room imports from its own line and those above it.
FLOORS = """
    errors quiet atomic_files options progress user_code
    teacher
    generator_options generator_layers dcgan generators sources training
    student
    tflite
    evaluation
    methods
    quantized pipeline report
    commands
    benchmarks
"""


def imports_of(path):
    """The modules of this project that a module imports, in its functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            name = name if name in MODULES else name.rpartition('.')[0]
            if name in MODULES:
                yield name


def test_no_module_imports_upwards():
    lines = FLOORS.strip().splitlines()
    floors = {room: floor for floor, line in enumerate(lines) for room in line.split()}

    def floor(module):
        return floors[module.removeprefix('zscgan_tf.').split('.')[0]]

    graph = {name: set(imports_of(path)) for name, path in MODULES.items() if name != 'zscgan_tf'}
    upwards = {
        (module, imported)
        for module, imports in graph.items()
        for imported in imports - {'zscgan_tf'}
        if floor(imported) > floor(module)
    }
    assert not upwards
    graphlib.TopologicalSorter(graph).prepare()  # raises where modules import in a circle
