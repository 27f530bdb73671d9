"""bin/quantize.py --method=dfq: no images, no workdir, and no flag that nothing would read."""

import json
import re
import subprocess
import sys

from tests.commands.programs import ROOT


def test_a_file_without_images(programs):
    folder = programs.folder
    before = set(folder.glob('[!.]*'))
    result = programs.run(
        'quantize',
        'tiny.h5',
        '--method=dfq',
        '--output=dfq.tflite',
        '--result_json=dfq.json',
        '--page',
        '--seed=3',
    )
    assert result.status == 0, result.stderr
    made = {path.name for path in set(folder.glob('[!.]*')) - before}
    assert made == {'dfq.tflite', 'dfq.json'}
    assert 'DFQ: 1 ReLU6 clip each channel at its own value, 1 pair equalized' in result.stderr
    assert 'no page is written' in result.stderr and '--evaluation_images' in result.stderr
    assert 'agreement    not measured, for lack of images' in result.stdout
    found = json.loads((folder / 'dfq.json').read_text())
    assert found['images'] == found['steps'] == 0 and found['seeds'] == [3]
    assert found['metrics'] == {} and found['minutes'] == [0.0]
    options = found['options']
    assert options['method'] == 'dfq' and options['dfq_weight_granularity'] == 'tensor'
    assert options['dfq_absorb_padded'] is False and options['output_head'] == 'model'
    assert 'source' not in options

    # With images there is a page, and the agreement is known, of the float model too.
    again = ['tiny.h5', '--method=dfq', '--overwrite', '--output=dfq.tflite', '--relu6=replaced']
    result = programs.run(
        'quantize',
        *again,
        '--page',
        '--evaluation_images=real.npz',
        '--absorb_padded',
        '--result_json=dfq_of_real.json',
    )
    assert result.status in (0, 2), result.stderr
    assert '% on 20 real images' in result.stdout and 'page         dfq.html' in result.stdout
    before = re.search(r'it was rounded, the model agreed with its teacher on .*', result.stdout)[0]
    found = json.loads((folder / 'dfq_of_real.json').read_text())['metrics']
    (agreement,), (accuracy,) = found['unquantized_agreement'], found['unquantized_accuracy']
    assert before.endswith(f'{agreement:.2f} % (accuracy {accuracy:.2f} %)')
    assert (folder / 'dfq.html').exists()


def test_check_says_that_nothing_is_trained(monkeypatch):
    from zscgan_tf.commands import check

    monkeypatch.setattr(check.dfq_flags, 'is_chosen', lambda: True)
    ((name, text),) = check._training(None)
    assert name == 'training' and text.startswith('none: --method=dfq needs neither images')


REFUSED = {
    '--source=noise_uniform': '--source is not for --method=dfq',
    '--workdir=run': '--workdir is not for --method=dfq',
    '--student_workdir=run': '--student_workdir is not for --method=dfq',
    '--check_images=9': '--check_images is not for --method=dfq',
    '--images=real.npz': '--images is not for --method=dfq',
    '--strategy=mirrored': '--strategy is not for --method=dfq',
    '--checkpoint_every=9': '--checkpoint_every is not for --method=dfq',
    '--steps=9': '--steps is not for --method=dfq',
    '--batch_size=9': '--batch_size is not for --method=dfq',
    '--distillation_steps=9': '--distillation_steps is not for --method=dfq',
    '--range_images=9': '--range_images is not for --method=dfq',
    '--range_estimator=mse': '--range_estimator is not for --method=dfq',
    '--noerror_compensation': '--error_compensation is not for --method=dfq',
    '--bias_correction': '--bias_correction is not for --method=dfq',
    '--calibration_images=9': '--calibration_images is not for --method=dfq',
    '--noper_channel': '--per_channel is not for --method=dfq',
    '--range_training=learned': '--range_training is not for --method=dfq',
    '--range_decay=0.9': '--range_decay is not for --method=dfq',
    '--student=tfmot': '--student=tfmot must be folded',
    '--dataset=cifar10': '--dataset is for --evaluation_split: pass that too',
    '--activation_bits=16': "--activation_bits=16 is for TFLite's own calibration",
    '--method=ptq --absorb_padded': '--absorb_padded is for --method=dfq',
    '--method=qat --noabsorb_padded': '--absorb_padded is for --method=dfq',
    '--weight_granularity=channel --output_head=logits --input_type=uint8': None,
}


def test_refused_before_tensorflow_is_imported():
    code = """
import json, sys
from zscgan_tf.commands import quantize
from zscgan_tf.errors import UserError
found = {}
for flags in json.loads(sys.argv[1]):
    quantize.FLAGS.unparse_flags()
    for name in quantize.FLAGS:
        quantize.FLAGS[name].unparse()
    quantize.FLAGS(['quantize', '--teacher=README.md', '--output=a.tflite', '--method=dfq',
                    *flags.split()])
    try:
        quantize.check_flags()
        found[flags] = None
    except UserError as error:
        found[flags] = str(error)
assert 'tensorflow' not in sys.modules
print(json.dumps(found))
"""
    result = subprocess.run(
        [sys.executable, '-c', code, json.dumps(list(REFUSED))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for flags, message in json.loads(result.stdout).items():
        if REFUSED[flags] is None:
            assert message is None
        else:
            assert message.startswith(REFUSED[flags]) and '\n' not in message, (flags, message)
