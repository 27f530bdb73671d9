"""bin/report.py: the page of a file that was made before."""

import re

import pytest


def report(programs, *flags):
    return programs.run('report', 'tiny.h5', '--model=tiny2.tflite', *flags)


def test_of_a_run(finished, programs):
    """With the run's generator, real images, and names in a file."""
    (programs.folder / 'names.txt').write_text('ant\nbee\ncat\n\ndog\n<emu>\n')
    flags = ['--workdir=run2', '--images=real', '--class_names=names.txt', '--output=page.html']
    result = report(programs, *flags)
    assert result.status == 0, result.stderr
    assert result.stdout == 'page         page.html\n'
    text = (programs.folder / 'page.html').read_text()
    for words in (
        'a row a class',
        '&lt;emu&gt;',
        '20 real images',
        'class loss',
        'real images</th>',
    ):
        assert words in text
    assert 'report.py tiny.h5 --model=tiny2.tflite --workdir=run2' in text
    assert '--generator_channels=4' in text  # the flags of the run
    assert 'page.html: exists already: pass --overwrite' in report(programs, *flags).error


def test_the_images_are_those_of_the_seed(finished, programs):
    images = []
    for seed in ('0', '5'):
        result = report(programs, '--workdir=run2', f'--seed={seed}', f'--output=seed{seed}.html')
        assert result.status == 0, result.stderr
        text = (programs.folder / f'seed{seed}.html').read_text()
        images.append(set(re.findall(r'data:image/png;base64,[\w+/=]+', text)))
    assert images[0] and images[0] != images[1]


def test_refused(finished, programs):
    for flags, words in (
        (['--model='], '--model is missing: pass the .tflite that the page is about'),
        (['--model=missing.tflite'], '--model=missing.tflite: no such file: pass a .tflite'),
        (['--model=tiny.json'], 'tiny.json is not a TFLite model'),
        (['--output=tiny2.tflite'], '--output and --model are the same file'),
        (['--output=missing/page.html'], 'the folder missing does not exist'),
        (['--output=/proc/page.html'], 'the folder /proc cannot be written'),
        (['--images=real', '--dataset=cifar10'], '--images and --dataset name two sets'),
        (['--split=test'], '--split=test is of a --dataset'),
        (['--data_dir=x'], '--data_dir is for real images'),
        (['--workdir=missing'], 'holds no run (no config.json)'),
        (['--class_names=a,b'], '--class_names has 2 names, and tiny has 5 classes'),
        (['--teacher=other.h5', '--workdir=run2'], 'another teacher (tiny)'),
    ):
        if flags[0].startswith('--teacher'):
            result = programs.run('report', '--model=tiny2.tflite', *flags, '--output=no.html')
        else:
            result = report(programs, '--output=no.html', *flags)
        assert words in result.error, flags
    assert not (programs.folder / 'no.html').exists()


@pytest.mark.slow
def test_noise_in_place_of_images(finished, programs):
    result = report(programs, '--output=noise.html')
    assert result.status == 0, result.stderr
    assert 'neither a generator nor a real image' in (programs.folder / 'noise.html').read_text()
