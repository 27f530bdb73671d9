"""bin/evaluate.py: a .tflite, or the float model, on real images or fresh ones."""

import json

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
    result = evaluate(programs, '--images=real.npz', '--count=7')
    assert result.status == 0, result.stderr
    assert '100.00 % on 7 real images' in result.stdout and 'latency' not in result.stdout


def test_fresh_images_of_a_generator(finished, programs):
    result = evaluate(programs, '--model=tiny2.tflite', '--workdir=run2', '--count=12')
    assert result.status == 0, result.stderr
    assert '% on 12 fresh images of the generator' in result.stdout
    assert 'accuracy' not in result.stdout


def test_blends(finished, programs):
    """The same blends of the same seed; of labelled images too, which then have no labels."""
    flags = ('--model=tiny2.tflite', '--images=real.npz', '--blend', '--overwrite')
    results = []
    for seed in (0, 0, 1):
        result = evaluate(programs, *flags, f'--seed={seed}', '--result_json=blends.json')
        assert result.status == 0, result.stderr
        assert '% on 20 blends of real images' in result.stdout
        results.append(json.loads((programs.folder / 'blends.json').read_text()))
        assert 'accuracy' not in results[-1]
    for values in results:
        del values['latency_ms']
    assert results[0] == results[1]
    plain = evaluate(programs, '--model=tiny2.tflite', '--images=real.npz')
    assert '% on 20 real images' in plain.stdout
    generated = evaluate(
        programs, '--model=tiny2.tflite', '--workdir=run2', '--count=12', '--blend'
    )
    assert '% on 12 blends of fresh images of the generator' in generated.stdout


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


def test_refused(finished, programs):
    (programs.folder / 'broken.tflite').write_bytes(b'no model')
    for flags, words in (
        ([], 'there is nothing to evaluate on: pass --dataset and --split, --images, or the'),
        (['--model=missing.tflite', '--images=real'], 'missing.tflite'),
        (['--model=broken.tflite', '--images=real'], 'broken.tflite'),
        (['--images=missing.npz'], 'missing.npz'),
        (['--images=real', '--dataset=cifar10'], '--images and --dataset name two sets'),
        (['--images=real', '--batch_size=0'], '--batch_size=0'),
        (['--images=real', '--count=0'], '--count=0'),
        (['--teacher=other.h5', '--workdir=run2'], 'another teacher (tiny)'),
    ):
        assert words in evaluate(programs, *flags).error
