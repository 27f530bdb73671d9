"""bin/evaluate.py: a .tflite, or the float model, on real images or fresh ones."""

import json

import numpy as np
import pytest

from tests.commands.conftest import TRAINING
from tests.commands.programs import interrupt_in


def evaluate(programs, *flags, **options):
    return programs.run('evaluate', '--teacher=tiny.h5', *flags, **options)


def test_folder_and_npz_agree(finished, programs):
    results = []
    for images in ('real', 'real.npz'):
        result = evaluate(
            programs, '--model=tiny2.tflite', f'--images={images}', f'--result_json={images}.json'
        )
        assert result.status == 0, result.stderr
        assert '% on 20 real images' in result.stdout and '(float: 100.00 %)' in result.stdout
        results.append(json.loads((programs.folder / f'{images}.json').read_text()))
    latencies = [result.pop('latency_ms') for result in results]
    assert results[0] == results[1] and min(latencies) > 0
    recorded = json.loads(finished.result_json.read_text())['metrics']
    assert results[0]['accuracy'] == recorded['accuracy'][0]
    assert results[0]['agreement'] == recorded['agreement'][0]
    assert results[0]['tflite_file_bytes'] == finished.output.stat().st_size
    message = evaluate(
        programs, '--model=tiny2.tflite', '--images=real', '--result_json=real.json'
    ).error
    assert 'real.json: exists already: pass --overwrite' in message


def test_the_float_model_itself(programs):
    result = evaluate(
        programs, '--images=real.npz', '--count=7', '--bns', '--result_json=float.json'
    )
    assert result.status == 0, result.stderr
    # Fewer than all are of all classes, though the file is in the order of its classes.
    assert '100.00 % on 7 real images' in result.stdout and 'latency' not in result.stdout
    found = json.loads((programs.folder / 'float.json').read_text())
    by_layer = found['bns_loss_by_layer']
    total = sum(by_layer.values())
    assert len(by_layer) == 3 and found['bns_loss'] == pytest.approx(total, abs=1e-3)
    assert f'BNS loss     {found["bns_loss"]:.4g} nats' in result.stdout
    assert all(name in result.stdout for name in by_layer)


def test_a_few_images_are_of_all_classes(programs):
    """The first seven of a file have their classes, all behind have others."""
    real = np.load(programs.folder / 'real.npz')
    order = np.argsort(real['labels'], kind='stable')
    labels = np.where(np.arange(20) < 7, real['labels'][order], (real['labels'][order] + 1) % 5)
    np.savez(programs.folder / 'in_order.npz', images=real['images'][order], labels=labels)
    result = evaluate(
        programs, '--images=in_order.npz', '--count=7', '--result_json=few.json', '--overwrite'
    )
    assert result.status == 0, result.stderr
    found = json.loads((programs.folder / 'few.json').read_text())
    assert found['agreement'] == 100 and found['accuracy'] < 100


def test_fresh_images_of_a_generator(finished, programs):
    result = evaluate(programs, '--model=tiny2.tflite', '--workdir=run2', '--count=12')
    assert result.status == 0, result.stderr
    assert '% on 12 fresh images of the generator' in result.stdout
    assert 'accuracy' not in result.stdout


@pytest.mark.slow
def test_divergence_and_blends(finished, programs):
    """Of a file that ends in logits; other images of another seed, and other ones blended."""
    made = programs.run(
        'quantize',
        '--teacher=tiny.h5',
        '--workdir=run2',
        '--seed=2',
        *TRAINING,
        '--calibration_images=20',
        '--output=logits.tflite',
        '--output_head=logits',
    )
    assert made.status == 0 and 'nats from the float model' in made.stdout, made
    found = []
    for flags in (['--blend'], ['--blend'], ['--blend', '--seed=1'], []):
        result = evaluate(
            programs,
            '--model=logits.tflite',
            '--workdir=run2',
            '--count=12',
            '--result_json=blends.json',
            '--overwrite',
            *flags,
        )
        images = 'blends of fresh images' if flags else 'fresh images'
        assert f'% on 12 {images} of the generator' in result.stdout, result
        found.append(json.loads((programs.folder / 'blends.json').read_text())['divergence'])
        assert f'{found[-1]:.5f} nats from the float model' in result.stdout
    assert found[0] == found[1] > 0 and len(set(found)) == 3


def test_ctrl_c(finished, programs):
    result = evaluate(
        programs,
        '--model=tiny2.tflite',
        '--images=real',
        '--result_json=stopped.json',
        during=interrupt_in('zscgan_tf.evaluation', 'top_class'),
    )
    assert result.status == 130 and 'interrupted: no output was written' in result.stderr
    assert not (programs.folder / 'stopped.json').exists()


@pytest.mark.parametrize('name, path', [('teacher', 'tiny.h5'), ('model', 'tiny2.tflite')])
def test_a_result_never_replaces_a_model(finished, programs, name, path):
    before = (programs.folder / path).read_bytes()
    flags = [f'--{name}={path}', '--images=real', f'--result_json={path}', '--overwrite']
    message = evaluate(programs, *flags).error
    assert f'--result_json and --{name} are the same file, {path}' in message
    assert (programs.folder / path).read_bytes() == before


def test_refused(finished, programs):
    (programs.folder / 'broken.tflite').write_bytes(b'no model')
    for flags, words in (
        ([], 'there is nothing to evaluate on: pass --dataset and --split, --images, or the'),
        (['--model=missing.tflite', '--images=real'], 'missing.tflite'),
        (['--model=broken.tflite', '--images=real'], 'broken.tflite'),
        (['--images=missing.npz'], 'missing.npz'),
        (['--images=real', '--dataset=cifar10'], '--images and --dataset name two sets'),
        (['--images=real', '--workdir=run2'], '--images or --dataset real ones: pass one of'),
        (['--workdir=run2', '--batch_size=9'], '--batch_size=9 is for real images'),
        (['--images=real', '--blend'], '--blend is for fresh images'),
        (['--images=real', '--batch_size=0'], '--batch_size=0'),
        (['--workdir=run2', '--split=train'], '--split=train is of a --dataset'),
        (['--workdir=run2', '--data_dir=x'], '--data_dir is for real images'),
        (['--images=real', '--count=0'], '--count=0'),
        (['--teacher=other.h5', '--workdir=run2'], 'another teacher (tiny)'),
    ):
        assert words in evaluate(programs, *flags).error
