"""bin/quantize.py --source=zeroq and deep_inversion: a whole run, and flags that are refused."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_zeroq(programs):
    """More ranges' images than there are images is the preset's: it takes what there is."""
    flags = ['--teacher=tiny.h5', '--source=zeroq', '--optimized_images=10', '--group_size=4']
    flags += ['--iterations=3', '--output=zeroq.tflite', '--result_json=zeroq.json', '--page']
    result = programs.run('quantize', *flags, '--evaluation_images=real.npz')
    assert result.status == 0, result.stderr
    assert 'images       zeroq.workdir/classes.png' in result.stdout
    assert 'through the student (mse), 10 images' in result.stdout
    assert 'of their values were outside of legal pixels and are clipped' in result.stderr
    found = json.loads((programs.folder / 'zeroq.json').read_text())
    assert found['images'] == 10 and found['steps'] == 9 and found['minutes'][0] > 0
    options = found['options']
    assert options['source'] == 'zeroq' and options['statistics'] == 'batch'
    assert options['image_passes'] == 36 and options['student_range_images'] == 10
    assert found['metrics']['moments_loss'][0] > 0 and 'clipped_percent' in found['metrics']
    page = (programs.folder / 'zeroq.html').read_text()
    assert 'Optimization of the images' in page and 'loss of moments' in page
    with np.load(programs.folder / 'zeroq.workdir' / 'images.npz') as arrays:
        assert arrays['images'].shape == (10, 8, 8, 3) and 'labels' not in arrays
    more = programs.run('quantize', *flags, '--overwrite', '--range_images=11')
    assert '--range_images=11 is more than the 10 images of --source=zeroq' in more.error


REFUSED = {
    '--group_size=4': '--group_size is for --source=zeroq or deep_inversion: pass it, or leave',
    '--source=deep_inversion --statistics=image': '--statistics is for --source=zeroq: pass it',
    '--source=zeroq --norm_weight=1': '--norm_weight is for --source=deep_inversion: pass it',
    '--source=files --images=x.npz --iterations=1': '--iterations is for --source=zeroq or deep_',
    '--source=zeroq --steps=5': '--steps is for a generator, and --source=zeroq has none',
    '--source=zeroq --strategy=mirrored': '--strategy=mirrored: --source=zeroq optimizes images on',
    '--source=deep_inversion --compete_weight=1': '--compete_weight needs a student that is trai',
    '--source=zeroq --method=qat --preset=paper': 'no generator to update with --source=zeroq',
    '--source=zeroq --method=qat --soft_target_weight=0': 'of --source=zeroq do not have: pass 1',
    '--source=a.b:c --allow_code --batch_size=3': '--batch_size=3: --source=a.b:c says itself how',
    '--method=qat --unconditional --soft_target_weight=0.5': 'of --unconditional do not have: pas',
    '--source=noise_uniform --checkpoint_every=9': '--checkpoint_every is for a training that',
    '--source=noise_uniform --workdir=x': '--workdir is for a training that --source=noise_unifor',
    '--source=zeroq --images_every=9': '--images_every is for a training that --source=zeroq does',
    '--teacher=setup.py --evaluation_images=docs --output=docs': '--output and --evaluati',
    '--teacher=setup.py --workdir=a --output=a': '--workdir and --output are the same file, a',
    '--source=zero': '--source=zero is unknown: pass one of zscgan, zeroq, deep_inversion, noise',
}


def test_flags_that_are_refused_before_tensorflow_is_imported():
    code = """
import sys
from zscgan_tf.commands.quantize import FLAGS, check_flags
from zscgan_tf.errors import UserError
for flags in sys.argv[1:]:
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    FLAGS(['quantize', '--output=x.tflite', *flags.split()])
    try:
        check_flags()
        print('accepted')
    except UserError as error:
        print(error)
assert 'tensorflow' not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, '-c', code, *REFUSED], cwd=ROOT, capture_output=True, text=True
    )
    lines = result.stdout.splitlines()
    assert len(lines) == len(REFUSED), result.stderr
    for line, (flags, words) in zip(lines, REFUSED.items(), strict=True):
        assert words in line, flags
