"""What stands beside a model: its fingerprint, and the JSON of its input specification."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tf_keras

from tests.teacher.classifiers import (
    PLAIN,
    classifier,
    functional,
    pooled,
    refusal,
)
from zscgan_tf.errors import UserError
from zscgan_tf.teacher.loading import load_teacher

layers = tf_keras.layers
ROOT = pathlib.Path(__file__).parents[2]


# Fingerprints


def test_fingerprints(tmp_path):
    model = classifier(kind='nested')
    model.save(tmp_path / 'model.h5')
    first, second = (
        load_teacher(tmp_path / 'model.h5', input_spec=PLAIN).fingerprint for _ in range(2)
    )
    assert first == second
    assert len(first) == 64
    norm = [x for x in model.layers if isinstance(x, layers.BatchNormalization)][0]
    norm.beta.assign_add([0, 0, 1e-6, 0])
    assert load_teacher(model, input_spec=PLAIN).fingerprint != first
    # Another structure, the same weights.
    plain = functional(lambda x: pooled(layers.ReLU()(layers.BatchNormalization()(x))))
    other = functional(lambda x: pooled(layers.ReLU(6.0)(layers.BatchNormalization()(x))))
    other.set_weights(plain.get_weights())
    prints = {load_teacher(m, input_spec=PLAIN).fingerprint for m in (plain, other)}
    assert len(prints) == 2


def test_fingerprints_do_not_depend_on_the_process(tmp_path):
    code = (
        'import tf_keras\n'
        '{before}\n'
        'from tests.teacher.classifiers import PLAIN, classifier\n'
        'from zscgan_tf.teacher.loading import load_teacher\n'
        "print(load_teacher(classifier('nested'), input_spec=PLAIN).fingerprint)\n"
    )
    found = {load_teacher(classifier('nested'), input_spec=PLAIN).fingerprint}
    before = 'tf_keras.Sequential([tf_keras.layers.Conv2D(1, 1)] * 3)'
    run = subprocess.run(
        [sys.executable, '-c', code.format(before=before)],
        cwd=ROOT,
        env={**os.environ, 'PYTHONHASHSEED': '7'},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found.add(run.stdout.split()[-1])
    assert len(found) == 1


# The JSON beside the file


def test_unknown_fields_and_images_that_are_too_small_are_refused():
    norm = layers.BatchNormalization
    model = functional(lambda x: pooled(norm()(layers.Conv2D(4, 3)(x))), (None, None, 3))
    with pytest.raises(UserError, match='unknown field BGR of an input specification'):
        load_teacher(model, input_spec={'preprocessing': 'tf', 'BGR': True, 'image_size': [8, 8]})
    with pytest.raises(UserError, match='cannot take images of 2x2 .* another --image_size'):
        load_teacher(model, input_spec={'preprocessing': 'tf', 'image_size': [2, 2]})


def test_the_json_beside_the_file(tmp_path):
    for form in ('a.h5', 'folder'):
        classifier().save(tmp_path / form)
        beside = tmp_path / f'{form.split(".")[0]}.json'
        beside.write_text(json.dumps({'image_size': [8, 8], 'mean': 0.25, 'std': [0.5, 0.5, 1]}))
        spec = load_teacher(tmp_path / form).input_spec
        assert spec.mean == (0.25, 0.25, 0.25)
        assert spec.std == (0.5, 0.5, 1.0)
        spec = load_teacher(tmp_path / form, input_spec={'preprocessing': 'raw'}).input_spec
        assert spec.std[0] == pytest.approx(1 / 255)
        spec = load_teacher(tmp_path / form, input_spec={'mean': [0.1, 0.2, 0.3]}).input_spec
        assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 1.0))
        for wrong, words in (
            ('{"preprocessing": ["tf"]}', '"preprocessing" must be a text'),
            ('{"channels": "3"}', '.json: "channels" must be of whole numbers'),
            ('{"image_size": [8, "8"]}', '.json: "image_size" must be of whole numbers'),
            ('{"preprocessing": "tf", "mean": 0}', '.json: has "preprocessing" and a "mean"'),
            ('{"preprocessing": "tf", "std": 1}', '.json: has "preprocessing" and a "mean"'),
            ('{"mean": 0.5, "std": 1, "bgr": "false"}', '"bgr" must be true or false'),
            ('[' * 100_000, 'not a readable JSON input specification'),
        ):
            beside.write_text(wrong)
            refusal(tmp_path / form, words, input_spec=None)
        beside.write_text('{"image_size": [8, 9]')
        refusal(tmp_path / form, beside.name, input_spec=None)
        beside.write_text('{"image_size": [8, 9], "preprocessing": "tf"}')
        refusal(tmp_path / form, '8x8x3', '8x9', input_spec=None)


def test_names_of_classes_in_the_json_beside_the_file(tmp_path):
    model = classifier()
    model.save(tmp_path / 'a.h5')
    fields = {'image_size': [8, 8], 'preprocessing': 'tf'}
    beside, classes = tmp_path / 'a.json', model.output_shape[1]
    names = [f'<b>{number}' for number in range(classes)]
    for labels, expected in ((names, tuple(names)), (None, None)):
        beside.write_text(json.dumps({**fields, 'labels': labels}))
        assert load_teacher(tmp_path / 'a.h5').class_names == expected
    for labels in ('cat', [1, 2], {'0': 'cat'}, [None] * classes):
        beside.write_text(json.dumps({**fields, 'labels': labels}))
        refusal(tmp_path / 'a.h5', 'a.json', '"labels" must be a list of texts', input_spec=None)
    beside.write_text(json.dumps({**fields, 'labels': names[:-1]}))
    counts = f'has {classes} classes', f'are {classes - 1}'
    refusal(tmp_path / 'a.h5', *counts, input_spec=None)
