"""A folder with a tiny teacher, real images, and what a finished run left."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from tests.commands.programs import Programs
from tests.tiny import tiny_teacher

CLASSES = 5
TRAINING = [
    '--steps=8',
    '--batch_size=8',
    '--generator_channels=4',
    '--generator_scales=1',
    '--skip_channels=2',
    '--z_channels=3',
    '--checkpoint_every=3',
]


@pytest.fixture(scope='session')
def programs(tmp_path_factory):
    """Starts the programs in a folder that holds:

    tiny.h5, tiny.keras: a teacher of 8x8 images, with tiny.json beside them.
    other.h5: another teacher, with its JSON.
    real.npz, real/: 20 images with the classes that the teacher gives them.
    """
    folder = tmp_path_factory.mktemp('programs')
    teacher = tiny_teacher(num_classes=CLASSES)
    for name, made in (('tiny', teacher), ('other', tiny_teacher(num_classes=CLASSES, seed=1))):
        made.model.save(folder / f'{name}.h5')
        (folder / f'{name}.json').write_text(json.dumps(made.input_spec.to_dict()))
    teacher.model.save(folder / 'tiny.keras')

    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    labels = np.argmax(teacher.logits(np.float32(images / 255)), axis=1)
    np.savez(folder / 'real.npz', images=images, labels=labels)
    for label in range(CLASSES):  # a class without images is one too
        (folder / 'real' / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / 'real' / str(label) / f'{number}.png')
    return Programs(folder)


@pytest.fixture(scope='session')
def finished(programs):
    """A run of quantize: `output`, `workdir`, `result_json`, and the program's `result`."""
    result = programs.run(
        'quantize',
        '--teacher=tiny.h5',
        '--workdir=run{seed}',
        '--output=tiny{seed}.tflite',
        '--seed=2',
        *TRAINING,
        '--calibration_images=20',
        '--check_images=30',
        '--evaluation_images=real.npz',
        '--result_json=result.json',
    )
    assert result.status == 0, result.stderr
    folder = programs.folder
    return types.SimpleNamespace(
        output=folder / 'tiny2.tflite',
        workdir=folder / 'run2',
        result_json=folder / 'result.json',
        result=result,
    )
