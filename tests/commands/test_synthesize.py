"""bin/synthesize.py: folders by class and .npz files of a trained generator's images."""

import collections

import numpy as np
import pytest
from PIL import Image

from tests.commands.programs import full_disk_from, interrupt_in


def synthesize(programs, output, *flags, **options):
    return programs.run(
        'synthesize',
        '--teacher=tiny.h5',
        '--workdir=run{seed}',
        '--seed=2',
        f'--output={output}',
        *flags,
        **options,
    )


def test_folder_and_npz_hold_the_same_balanced_images(finished, programs):
    result = synthesize(programs, 'made.npz', '--count=23')
    assert result.status == 0, result.stderr
    assert result.stdout == 'made.npz: 23 images\n'
    made = np.load(programs.folder / 'made.npz')
    assert made['images'].shape == (23, 8, 8, 3) and made['images'].dtype == np.uint8
    counts = collections.Counter(made['labels'].tolist())
    assert sorted(counts) == [0, 1, 2, 3, 4] and max(counts.values()) - min(counts.values()) <= 1

    assert synthesize(programs, 'made', '--count=23').status == 0
    files = sorted((programs.folder / 'made').rglob('*.png'), key=lambda path: path.stem)
    assert [int(path.stem) for path in files] == list(range(23))
    assert [int(path.parent.name) for path in files] == made['labels'].tolist()
    for path, image in zip(files, made['images'], strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image)

    assert 'made: exists already: pass --overwrite' in synthesize(programs, 'made').error
    assert synthesize(programs, 'made', '--count=3', '--overwrite').status == 0
    assert len(list((programs.folder / 'made').rglob('*.png'))) == 3


@pytest.mark.parametrize('output', ['stopped', 'stopped.npz'])
def test_ctrl_c_and_a_full_disk_leave_nothing(finished, programs, output):
    place = ('zscgan_tf.sources.writing', 'to_bytes', 2)
    result = synthesize(programs, output, during=interrupt_in(*place))
    assert result.status == 130 and 'interrupted: no output was written' in result.stderr
    result = synthesize(programs, output, during=full_disk_from(*place))
    assert f'{output}: could not be written' in result.error
    assert not list(programs.folder.glob('stopped*'))


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--workdir=nowhere'], '--workdir=nowhere holds no run'),
        (['--teacher=other.h5'], 'belongs to another teacher (tiny)'),
        (['--count=0'], '--count=0'),
        (['--output='], '--output is missing'),
        (['--output=missing/images'], 'missing does not exist: make it, or pass another.'),
    ],
)
def test_refused(finished, programs, flags, words):
    assert words in synthesize(programs, 'refused', *flags).error
    assert not list(programs.folder.glob('refused*'))
