"""bin/quantize.py: the whole job in one command."""

import json
import shutil

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from tests.commands.conftest import TRAINING
from tests.commands.programs import (
    full_disk_from,
    interrupt_in,
    interrupt_soon_after,
    replace_in,
)
from zscgan_tf.errors import UserError
from zscgan_tf.tflite import audit

NOISE = [
    '--teacher=tiny.h5',
    '--source=noise_uniform',
    '--calibration_images=20',
    '--check_images=10',
]


def details(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return interpreter.get_input_details()[0], interpreter.get_output_details()[0]


def test_the_file_is_integer_and_takes_what_the_teacher_took(finished):
    report = audit.audit(finished.output.read_bytes())
    assert not report.float_ops and report.integer_op_count == report.op_count
    ends = details(finished.output)
    assert [end['dtype'] for end in ends] == [np.int8, np.int8]
    assert ends[0]['shape'].tolist() == [1, 8, 8, 3]


def test_the_summary(finished):
    text = finished.result.stdout
    for words in (
        'tiny2.tflite',
        'ops are integer',
        'of float weights ->',
        "TFLite's own calibration, 20 images",
        '% on 30 fresh images of the source',
        '% on 20 real images',
        '(float: 100.00 %)',
        'ms per image',
        'run2/classes.png',
    ):
        assert words in text
    assert 'Traceback' not in finished.result.stderr and 'WARNING' not in finished.result.stderr


def test_what_a_run_leaves(finished, programs):
    """The seed stands in the names, and nothing else lies about."""
    config = json.loads((finished.workdir / 'config.json').read_text())
    assert config['seed'] == 2 and config['steps'] == 8 and config['generator_channels'] == [4]
    assert {path.name for path in finished.workdir.iterdir()} == {
        'checkpoints',
        'classes.png',
        'config.json',
        'flags.cfg',
        'metrics.jsonl',
        'tensorboard',
    }
    with Image.open(finished.workdir / 'classes.png') as picture:
        assert picture.height > 5 * 56
    assert not list(programs.folder.rglob('*.partial'))


def test_the_result_file(finished):
    result = json.loads(finished.result_json.read_text())
    assert result['seeds'] == [2] and result['images'] == 20 and result['steps'] == 8
    assert result['float_accuracy'] == 100
    metrics = result['metrics']
    assert 0 <= metrics['agreement'][0] <= 100 and metrics['accuracy'] == metrics['agreement']
    assert metrics['bns_loss'][0] > 0 and 0 <= metrics['fresh_agreement'][0] <= 100
    assert result['minutes'][0] >= 0 and 'ai-edge-litert' in result['versions']
    config = json.loads((finished.workdir / 'config.json').read_text())
    for name in ('teacher', 'fingerprint', 'seed'):
        del config[name]
    assert result['options'] == {
        **config,
        'source': 'zscgan',
        'output_head': 'model',
        'per_channel': True,
        'input_type': 'int8',
        'output_type': 'int8',
        'allow_float_ops': False,
        'raw_pixels': False,
    }


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--learning_rate=0.5'], 'learning_rate 0.001, not 0.5'),
        (['--input_type=uint8'], 'input_type "int8", not "uint8"'),
        (['--calibration_images=10'], 'images 20, not 10'),
        (['--output_type=float32'], 'output_type "int8", not "float32"'),
        (['--check_images=99'], 'check_images 30, not 99'),
        (['--check_images=30', '--evaluation_images=real'], 'content "'),
    ],
)
def test_a_result_of_another_configuration_is_refused_before_any_work(
    finished, programs, flags, words
):
    before = finished.result_json.read_text()
    message = programs.run(
        'quantize',
        '--teacher=tiny.h5',
        '--workdir=never',
        '--output=never.tflite',
        '--seed=3',
        *TRAINING,
        '--calibration_images=20',
        '--result_json=result.json',
        *flags,
    ).error
    assert 'result.json holds results of another configuration' in message and words in message
    assert finished.result_json.read_text() == before
    assert not list(programs.folder.glob('never*'))


def test_the_same_command_again_refuses_then_reuses(finished, programs):
    command = [
        'quantize',
        '--teacher=tiny.h5',
        '--workdir=run2',
        '--output=tiny2.tflite',
        '--seed=2',
        *TRAINING,
        '--calibration_images=20',
        '--check_images=30',
    ]
    before = finished.output.read_bytes()
    message = programs.run(*command).error
    assert 'tiny2.tflite: exists already: pass --overwrite' in message
    log = (finished.workdir / 'metrics.jsonl').read_text()
    again = programs.run(*command, '--overwrite')
    assert again.status == 0, again.stderr
    assert (finished.workdir / 'metrics.jsonl').read_text() == log
    assert finished.output.read_bytes() == before  # the same images, the same file


def test_result_files_collect_seeds(programs):
    for seed in (1, 0):
        result = programs.run(
            'quantize',
            *NOISE,
            '--output=noise{seed}.tflite',
            '--result_json=noise.json',
            f'--seed={seed}',
            '--evaluation_images=real',
        )
        assert result.status == 0, result.stderr
    result = json.loads((programs.folder / 'noise.json').read_text())
    assert result['seeds'] == [0, 1] and result['steps'] == 0
    assert result['options']['source'] == 'noise_uniform' and 'steps' not in result['options']
    assert len(result['metrics']['agreement']) == 2 and 'bns_loss' not in result['metrics']
    assert (programs.folder / 'noise0.tflite').exists() and not list(
        programs.folder.glob('noise*.workdir')
    )


def refuse(*args, **kwargs):
    raise UserError('no room')


def fail(*args, **kwargs):
    raise RuntimeError('no page')


OWN_SOURCE = """
import numpy as np

class Source:
    image_shape, batch_size, has_labels, num_classes = (8, 8, 3), 16, False, None

    def batches(self, start=0):
        while True:
            yield np.float32(np.random.default_rng(start).uniform(size=(16, 8, 8, 3))), None
            start += 1

def make(teacher):
    return Source()
"""


def test_a_source_of_ones_own(programs):
    (programs.folder / 'own_source.py').write_text(OWN_SOURCE)
    command = [
        'quantize',
        '--teacher=tiny.h5',
        '--output=own_source.tflite',
        '--source=own_source:make',
    ]
    command += ['--source=own_source:make']
    assert 'own_source:make is Python code; pass --allow_code' in programs.run(*command).error
    result = programs.run(*command, '--allow_code', '--range_images=32', '--check_images=40')
    assert result.status == 0, result.stderr
    assert '% on 40 fresh images of the source' in result.stdout
    assert not (programs.folder / 'own.workdir').exists()
    assert (
        '--source=noise is unknown: pass one of zscgan, '
        in programs.run(
            'quantize', '--teacher=tiny.h5', '--output=own2.tflite', '--source=noise'
        ).error
    )


@pytest.mark.parametrize('kind, dtype', [('uint8', np.uint8), ('float32', np.float32)])
def test_types_of_the_ends_and_logits(programs, kind, dtype):
    output = programs.folder / f'{kind}.tflite'
    result = programs.run(
        'quantize',
        *NOISE,
        f'--output={output}',
        f'--input_type={kind}',
        f'--output_type={kind}',
        '--output_head=logits',
        '--noper_channel',
    )
    assert result.status == 0, result.stderr
    assert [end['dtype'] for end in details(output)] == [dtype, dtype]
    assert 'SOFTMAX' not in audit.audit(output.read_bytes()).ops
    assert 'per-tensor' in result.stdout


@pytest.mark.parametrize('method', ['ptq', pytest.param('qat', marks=pytest.mark.slow)])
def test_raw_pixels(programs, method):
    """The generator's workdir is that of the model itself; the file takes bytes."""
    output = f'raw_{method}.tflite'
    flags = ['--teacher=tiny.h5', '--workdir=raw', *TRAINING, '--raw_pixels', '--input_type=uint8']
    own = ['--calibration_images=20']
    if method == 'qat':
        own = ['--method=qat', '--distillation_steps=2', '--range_images=16']
    result = programs.run(
        'quantize',
        f'--output={output}',
        *flags,
        *own,
        '--check_images=8',
        '--evaluation_images=real.npz',
        f'--result_json={output}.json',
    )
    assert result.status == 0, result.stderr
    assert (
        '1x8x8x3 uint8 = p, where p are pixels of 0...255, channels in RGB order' in result.stdout
    )
    written = json.loads((programs.folder / f'{output}.json').read_text())
    assert written['options']['raw_pixels'] and written['metrics']['agreement'][0] >= 90
    detail = details(programs.folder / output)[0]
    assert detail['dtype'] == np.uint8 and detail['quantization'][0] == pytest.approx(1)

    evaluated = programs.run(
        'evaluate', '--teacher=tiny.h5', f'--model={output}', '--images=real.npz'
    )
    assert evaluated.status == 0, evaluated.stderr
    agreement = written['metrics']['agreement'][0]
    assert f'{agreement:.2f} % on 20 real images' in evaluated.stdout
    if method == 'qat':  # a student of raw pixels is not one of the model's own inputs
        other = programs.run(
            'quantize', '--output=other.tflite', *flags[:-2], *own, '--check_images=8'
        )
        assert other.status == 1 and 'of another configuration (input_spec' in other.stderr


def test_a_flagfile(programs):
    """A recipe is a flagfile; flags behind it win."""
    lines = ['# A recipe.', *NOISE, '--output=flagfile.tflite', '--seed=5']
    (programs.folder / 'recipe.cfg').write_text('\n'.join(lines))
    result = programs.run('quantize', '--flagfile=recipe.cfg', '--output=behind.tflite')
    assert result.status == 0, result.stderr
    assert (programs.folder / 'behind.tflite').exists()
    assert not (programs.folder / 'flagfile.tflite').exists()


# Ctrl-C, and a disk that is full.


@pytest.mark.parametrize(
    'during',
    [
        interrupt_in('zscgan_tf.teacher.loading', 'load_teacher'),
        interrupt_in('zscgan_tf.tflite.calibration', 'check_pixels'),
        interrupt_soon_after('tensorflow.lite.python.lite', 'TFLiteKerasModelConverterV2.convert'),
        interrupt_in('zscgan_tf.evaluation', 'top_class'),
    ],
    ids=['loading', 'calibrating', 'converting', 'evaluating'],
)
def test_ctrl_c_leaves_no_file(programs, during):
    output = programs.folder / 'interrupted.tflite'
    result = programs.run('quantize', *NOISE, f'--output={output}', during=during)
    assert result.status == 130, result.stderr
    assert 'interrupted: no output was written' in result.stderr
    assert 'Traceback' not in result.stderr
    assert not list(programs.folder.glob('interrupted*'))


def test_ctrl_c_while_the_page_is_written(programs):
    """The file is there, and what is known of it is said."""
    output = programs.folder / 'no_page.tflite'
    result = programs.run(
        'quantize', *NOISE, f'--output={output}', '--page',
        during=interrupt_in('zscgan_tf.report.page', 'write_page'),
    )  # fmt: skip
    assert result.status == 130 and 'ranges       ' in result.stdout, result
    assert f'{output} is written, and its page is not: zscgan-report makes' in result.stderr
    assert 'Traceback' not in result.stderr and 'no output was written' not in result.stderr
    assert output.exists() and not output.with_suffix('.html').exists()


def test_a_result_that_cannot_be_added_still_leaves_a_summary_and_a_page(programs):
    output = programs.folder / 'no_result.tflite'
    result = programs.run(
        'quantize', *NOISE, f'--output={output}', '--page', '--result_json=lost.json',
        during=replace_in('zscgan_tf.report.results', 'add', refuse),
    )  # fmt: skip
    assert result.error == 'error: no room' and 'ranges       ' in result.stdout
    assert output.exists() and output.with_suffix('.html').exists()


def test_a_page_that_fails_leaves_the_summary(programs):
    output = programs.folder / 'failed_page.tflite'
    result = programs.run(
        'quantize', *NOISE, f'--output={output}', '--page',
        during=replace_in('zscgan_tf.report.page', 'write_page', fail),
    )  # fmt: skip
    assert result.status == 1 and 'ranges       ' in result.stdout and output.exists()
    assert 'RuntimeError: no page' in result.stderr  # a fault of ours is not hidden


def test_a_full_disk_leaves_the_old_file(programs):
    output = programs.folder / 'full.tflite'
    output.write_bytes(b'old')
    result = programs.run(
        'quantize',
        *NOISE,
        f'--output={output}',
        '--overwrite',
        during=full_disk_from('zscgan_tf.atomic_files', 'write_atomically'),
    )
    assert 'full.tflite: could not be written' in result.error
    assert output.read_bytes() == b'old'
    assert [path.name for path in programs.folder.glob('full*')] == ['full.tflite']


# Workdirs that are not this run's.


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--teacher=other.h5'], 'belongs to another teacher (tiny)'),
        (['--teacher=tiny.h5', '--learning_rate=0.5'], 'learning_rate 0.001, not 0.5'),
        pytest.param(['--teacher=tiny.h5', '--seed=3'], 'seed 2, not 3', marks=pytest.mark.slow),
        (
            ['--teacher=tiny.h5', '--mean=0.5', '--std=0.5'],
            'input_spec.mean [0.4, 0.5, 0.6], not [0.5, 0.5, 0.5]',
        ),
    ],
)
def test_workdirs_are_never_mixed(finished, programs, flags, words):
    before = sorted((path, path.stat().st_mtime) for path in finished.workdir.rglob('*'))
    message = programs.run(
        'quantize', '--workdir=run2', '--output=new.tflite', '--seed=2', *TRAINING, *flags
    ).error
    assert words in message
    assert sorted((path, path.stat().st_mtime) for path in finished.workdir.rglob('*')) == before
    assert not (programs.folder / 'new.tflite').exists()


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--teacher=other.h5'], 'belongs to another teacher (tiny): pass {}, or delete it.'),
        (['--teacher=tiny.h5', '--seed=3'], 'seed 2, not 3): pass what it was made with, or {}.'),
    ],
)
def test_no_message_names_a_workdir_that_was_not_passed(finished, programs, flags, words):
    shutil.copytree(finished.workdir, programs.folder / 'own.workdir', dirs_exist_ok=True)
    message = programs.run('quantize', '--output=own.tflite', '--seed=2', *TRAINING, *flags).error
    name = 'error: own.workdir, the default for --output=own.tflite, '
    assert message.startswith(name) and '--workdir=' not in message
    assert message.endswith(words.format('another --output or --workdir'))


def test_a_workdir_whose_checkpoints_are_gone_trains_again(finished, programs):
    folder = programs.folder / 'emptied'
    shutil.copytree(finished.workdir, folder)
    shutil.rmtree(folder / 'checkpoints')
    result = programs.run(
        'train_generator', '--teacher=tiny.h5', '--workdir=emptied', '--seed=2', *TRAINING
    )
    assert result.status == 0, result.stderr
    steps = [json.loads(line)['step'] for line in (folder / 'metrics.jsonl').open()]
    assert steps == sorted(set(steps)) and steps[-1] == 8
