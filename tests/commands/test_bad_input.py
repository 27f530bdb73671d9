"""What a user may get wrong: exit status 1, and one line that says what to do."""

import contextlib
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tf_keras
from PIL import Image

from tests.sources.test_dataset import examples, store

layers = tf_keras.layers


def save(path, *stack, size=8):
    model = tf_keras.Sequential([layers.Input((size, size, 3)), *stack])
    model.save(path)
    return model


@pytest.fixture(scope='module', autouse=True)
def bad_files(programs):
    folder = programs.folder
    (folder / 'text.keras').write_text('This is no model.')
    (folder / 'text.h5').write_text('This is no model.')
    (folder / 'folder').mkdir()
    data = (folder / 'tiny.h5').read_bytes()
    (folder / 'truncated.h5').write_bytes(data[: len(data) // 2])
    data = (folder / 'tiny.keras').read_bytes()
    (folder / 'truncated.keras').write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(folder / 'zip.keras', 'w') as archive:
        archive.writestr('letter.txt', 'This is no model.')
    head = [layers.GlobalAveragePooling2D(), layers.Dense(4)]
    save(folder / 'plain.h5', layers.Conv2D(4, 3), *head)
    norm = [layers.Conv2D(4, 3), layers.BatchNormalization()]
    save(folder / 'unknown_pixels.h5', *norm, *head)
    spy = "open('lambda_ran', 'w').write('x') and None"
    with contextlib.chdir(folder):  # it runs when it is made, too
        save(folder / 'lambda.h5', *norm, layers.Lambda(lambda x, spy=spy: eval(spy) or x), *head)
        (folder / 'lambda_ran').unlink()
    model = save(folder / 'nan.h5', *norm, *head)
    model.layers[0].kernel.assign(np.full((3, 3, 3, 4), np.nan))
    model.save(folder / 'nan.h5')

    for name in ('broken', 'absurd', 'empty'):
        (folder / name / '0').mkdir(parents=True)
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for name in ('broken', 'absurd'):
        picture.save(folder / name / '0' / 'a.png')
    images = examples(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 8]))
    features = tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(shape=(8, 8, 3), encoding_format='png'),
            'label': tfds.features.ClassLabel(num_classes=9),
        }
    )
    store(folder / 'tfds', 'nine_classes', features, {'test': images})
    data = (folder / 'real.npz').read_bytes()
    (folder / 'truncated.npz').write_bytes(data[: len(data) // 2])
    png = (folder / 'broken' / '0' / 'a.png').read_bytes()
    (folder / 'broken' / '0' / 'b.png').write_bytes(png[: len(png) // 2])
    Image.new('1', (40_000, 40_000)).save(folder / 'absurd' / '0' / 'huge.png')
    np.savez(folder / 'wrong_labels.npz', images=np.zeros((3, 8, 8, 3), 'uint8'), labels=[0, 1, 9])


OUTPUT = '--output=bad.tflite'
TINY = '--teacher=tiny.h5'
PIXELS = ['--mean=0.5', '--std=0.5']


@pytest.mark.parametrize(
    'flags, words',
    [
        # Flags
        (['--bogus=1'], ['--bogus is no flag']),
        ([TINY, OUTPUT, 'stray'], ["unexpected argument 'stray'", 'see --help']),
        (['missing.h5', OUTPUT], ['missing.h5: no such file']),
        (['--flagfile=missing.cfg'], ['missing.cfg']),
        (['--steps=many'], ['--steps=many']),
        (['--preset=big'], ['--preset=big', 'one of small, paper']),
        ([OUTPUT], ['--teacher is missing: pass the file of your float classifier']),
        ([TINY], ['--output is missing: pass the .tflite to write']),
        ([TINY, '--output=logits'], ['pass a file name, and --output_head=logits']),
        ([TINY, OUTPUT, '--batch_size=0'], ['--batch_size=0 must be a whole number, at least 1']),
        ([TINY, OUTPUT, '--steps=0'], ['--steps=0 must be a whole number, at least 1']),
        ([TINY, '--output=tiny.h5', '--overwrite'], ['--output and --teacher are the same file']),
        ([TINY, OUTPUT, '--result_json=bad.tflite'], ['--result_json and --output are the same']),
        ([TINY, OUTPUT, '--images=real'], ['--images is for --source=files']),
        ([TINY, OUTPUT, '--dataset=cifar10'], ['--dataset is for --source=dataset or']),
        ([TINY, OUTPUT, '--calibration_split=test'], ['--calibration_split is for --source=']),
        ([TINY, OUTPUT, '--resize_short_side=9'], ['--resize_short_side is for real images']),
        (
            [TINY, OUTPUT, '--student_workdir=s'],
            ['--student_workdir is for the training of a student'],
        ),
        (
            [TINY, OUTPUT, '--source=noise_uniform', '--steps=9'],
            ['--steps is for a generator, and --source=noise_uniform has none'],
        ),
        (
            [TINY, OUTPUT, '--source=zscgan', '--output_stride=8'],
            ['--output_stride=8 leaves 1x1 of 8x8', 'most 4'],
        ),
        ([TINY, OUTPUT, '--flagfile=none.cfg'], ['error: Unable to open flagfile']),
        (
            [TINY, OUTPUT, '--evaluation_images=wrong_labels.npz'],
            ['Label 9 is not a class of the teacher tiny'],
        ),
        (
            [TINY, OUTPUT, '--dataset=nine_classes', '--data_dir=tfds', '--evaluation_split=test'],
            ['Label 8 is not a class of the teacher tiny'],
        ),
        (
            [TINY, OUTPUT, '--generator_channels=a,b'],
            ['channels=a,b: not whole numbers'],
        ),
        ([TINY, OUTPUT, '--generator_scales=9'], ['--generator_scales=9', 'pass at most 3']),
        ([TINY, OUTPUT, '--calibration_images=0'], ['--calibration_images=0']),
        ([TINY, OUTPUT, '--mean=0.5,0.5', '--std=1'], ['--mean has 2 values', '3 channels']),
        ([TINY, OUTPUT, '--mean=a', '--std=1'], ['--mean=a: not numbers']),
        ([TINY, OUTPUT, '--image_size=9,9'], ['9x9', '8x8']),
        ([TINY, OUTPUT, '--source=files'], ['--images is missing']),
        ([TINY, OUTPUT, '--evaluation_split=test'], ['--dataset is missing']),
        ([TINY, OUTPUT, '--dataset=bogus', '--evaluation_split=test'], ['bogus']),
        # Outputs
        ([TINY, '--output=missing/a.tflite'], ['the folder missing does not exist: make it']),
        ([TINY, '--output=text.h5/a.tflite'], ['text.h5', 'pass another']),
        ([TINY, '--output=/proc/a.tflite'], ['/proc', 'pass another']),
        ([TINY, '--output=folder'], ['folder: is a folder: pass the name of a file']),
        ([TINY, '--output=text.h5'], ['text.h5: exists already: pass --overwrite']),
        ([TINY, OUTPUT, '--workdir=text.h5/run'], ['--workdir=text.h5/run cannot be made']),
        ([TINY, OUTPUT, '--workdir=/proc/run'], ['--workdir=/proc/run cannot be made']),
        ([TINY, OUTPUT, '--result_json=missing/a.json'], ['the folder missing does not exist']),
        ([TINY, OUTPUT, '--result_json=text.h5'], ['text.h5: not a result file']),
        # Teachers
        (['--teacher=missing.h5', OUTPUT], ['missing.h5']),
        (['--teacher=text.keras', OUTPUT], ['text.keras']),
        (['--teacher=text.h5', OUTPUT], ['text.h5']),
        (['--teacher=folder', OUTPUT], ['folder']),
        (['--teacher=zip.keras', OUTPUT], ['zip.keras']),
        (['--teacher=truncated.h5', OUTPUT], ['truncated.h5']),
        (['--teacher=truncated.keras', OUTPUT], ['truncated.keras']),
        (['--teacher=lambda.h5', OUTPUT, *PIXELS], ['lambda.h5', '--allow_code']),
        (['--teacher=plain.h5', OUTPUT, *PIXELS], ['plain.h5', 'batch norm']),
        (['--teacher=nan.h5', OUTPUT, *PIXELS], ['nan.h5', 'finite']),
        (['--teacher=no_module:function', OUTPUT, '--allow_code'], ['no_module']),
        # Images
        ([TINY, OUTPUT, '--evaluation_images=broken'], ['broken/0/b.png']),
        ([TINY, OUTPUT, '--evaluation_images=absurd'], ['absurd/0/huge.png']),
        ([TINY, OUTPUT, '--evaluation_images=empty'], ['empty']),
        ([TINY, OUTPUT, '--evaluation_images=missing.npz'], ['missing.npz']),
        ([TINY, OUTPUT, '--evaluation_images=truncated.npz'], ['truncated.npz']),
        ([TINY, OUTPUT, '--evaluation_images=text.h5'], ['text.h5']),
    ],
    ids=lambda value: ' '.join(value)[-60:],
)
def test_refused(programs, flags, words):
    # Should something not be refused, it is soon done.
    soon = [] if '--bogus=1' in flags else ['--calibration_images=4', '--check_images=4']
    if not any('--source' in flag or '_scales' in flag or 'workdir' in flag for flag in flags):
        soon += ['--source=noise_uniform'] if 'generator' not in ' '.join(flags) else []
    if '--batch_size=0' in flags or '--steps=0' in flags:
        soon.remove('--source=noise_uniform')
    message = programs.run('quantize', *soon, *flags).error
    for word in words:
        assert word in message
    left = [path.name for path in programs.folder.glob('bad*')]
    assert [name for name in left if name.endswith(('.tflite', '.partial'))] == []
    assert not (programs.folder / 'lambda_ran').exists()


def test_unknown_pixels_come_with_the_lines_to_copy(programs):
    """The one message of several lines."""
    result = programs.run('quantize', '--teacher=unknown_pixels.h5', OUTPUT)
    assert result.status == 1 and 'Traceback' not in result.stderr
    message = result.stderr.strip()
    assert message.startswith('error: unknown_pixels.h5')
    for mode in ('unit', 'raw', 'torch', 'tf'):
        assert f'--preprocessing={mode} ' in message


def test_help_names_the_flags_that_programs_share(programs):
    for name in ('quantize', 'distill', 'evaluate'):
        result = programs.run(name, '--help')
        assert result.status == 0 and '--teacher' in result.stdout
    assert '--weight_bits' not in result.stdout  # not those of other programs


@pytest.mark.parametrize(
    'name', ['train_generator', 'distill', 'synthesize', 'evaluate', 'benchmark']
)
def test_every_program_refuses_alike(programs, name):
    assert '--bogus is no flag of this program' in programs.run(name, '--bogus=1').error
    assert "unexpected argument 'stray'" in programs.run(name, 'model.h5', 'stray').error
    message = programs.run(name, '--teacher=missing.h5', '--workdir=w', '--output=x').error
    assert message


@pytest.mark.parametrize(
    'program, flags',
    [
        ('quantize', ['--teacher=gs://b/tiny.h5', OUTPUT]),
        ('quantize', [TINY, '--output=gs://b/bad.tflite']),
        ('quantize', [TINY, OUTPUT, '--workdir=gs://b/run']),
        ('quantize', [TINY, OUTPUT, '--method=qat', '--student_workdir=s3://b/run']),
        ('quantize', [TINY, OUTPUT, '--result_json=gs://b/r.json']),
        ('quantize', [TINY, OUTPUT, '--source=files', '--images=gs://b/real']),
        ('quantize', [TINY, OUTPUT, '--evaluation_images=gs://b/real.npz']),
        ('quantize', [TINY, OUTPUT, '--dataset=cifar10', '--data_dir=gs://b']),
        ('train_generator', [TINY, '--workdir=gs://b/run']),
        ('distill', [TINY, '--workdir=gs://b/run']),
        ('synthesize', [TINY, '--workdir=run', '--output=gs://b/images']),
        ('evaluate', [TINY, '--model=gs://b/tiny.tflite', '--images=real.npz']),
        ('evaluate', [TINY, '--images=gs://b/real.npz']),
        ('benchmark', [TINY, '--large_teacher=gs://b/large.h5']),
    ],
)
def test_remote_paths(programs, program, flags):
    before = sorted(programs.folder.glob('[!.]*'))
    error = programs.run(program, *flags).error
    (flag,) = [flag for flag in flags if '://' in flag]
    assert error.startswith(f'error: {flag}: remote paths are not supported: pass a local one')
    assert sorted(programs.folder.glob('[!.]*')) == before
