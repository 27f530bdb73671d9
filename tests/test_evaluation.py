"""Evaluation against NumPy, and against LiteRT run by hand."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

from tests.conftest import randomize
from tests.numbers import softmax
from tests.students import student_of
from tests.tiny import tiny_teacher
from zscgan_tf import evaluation
from zscgan_tf.errors import UserError
from zscgan_tf.evaluation import evaluate
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import calibration, interpreter
from zscgan_tf.tflite.interpreter import TfliteModel, latency


def pixels(count, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (count, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def teacher():
    return tiny_teacher()


@pytest.fixture(scope='module')
def files(teacher):
    """type -> file that ends in a softmax; 'logits' -> int8 file that ends in logits."""
    files = {
        kind: calibration.convert(teacher, [pixels(32)], input_type=kind, output_type=kind)
        for kind in ('int8', 'uint8', 'float32')
    }
    return {**files, 'logits': calibration.convert(teacher, [pixels(32)], output_head='logits')}


def inputs_of(teacher, images):
    return teacher.input_spec.to_inputs(tf.constant(images)).numpy()


def by_hand(data, inputs):
    """The file's outputs, one image at a time, with a plain formula for the quantization."""
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for image in inputs:
        if taken['dtype'] != np.float32:
            scale, zero_point = taken['quantization']
            levels = np.iinfo(taken['dtype'])
            image = np.clip(np.round(image / scale + zero_point), levels.min, levels.max)
        interpreter.set_tensor(taken['index'], image[None].astype(taken['dtype']))
        interpreter.invoke()
        result = interpreter.get_tensor(given['index'])[0].astype(np.float64)
        if given['dtype'] != np.float32:
            scale, zero_point = given['quantization']
            result = (result - zero_point) * scale
        results.append(result)
    return np.array(results)


@pytest.mark.parametrize('kind', ['int8', 'uint8', 'float32', 'logits'])
def test_outputs_in_batches(teacher, files, kind):
    file = TfliteModel(files[kind])
    inputs = inputs_of(teacher, pixels(13))
    inputs[0] *= 50  # saturates
    found = np.concatenate([file.outputs(inputs[:5]), file.outputs(inputs[5:12])])
    found = np.concatenate([found, file.outputs(inputs[12:])])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(files[kind], inputs), atol=1e-6)


def test_quantize_saturates_and_rounds():
    detail = {'dtype': np.int8, 'quantization': (0.5, 3)}
    found = interpreter.quantize(np.array([-1e9, -1.3, -1.2, 0, 0.3, 62.0, 1e9]), detail)
    np.testing.assert_array_equal(found, [-128, 0, 1, 3, 4, 127, 127])
    np.testing.assert_allclose(interpreter.dequantize(found[1:5], detail), [-1.5, -1, 0, 0.5])


def test_files(tmp_path, teacher, files):
    path = tmp_path / 'model.tflite'
    path.write_bytes(files['int8'])
    file = TfliteModel(path, num_threads=1)
    assert file.name == str(path)
    assert file.input_shape == (8, 8, 3)
    with pytest.raises(UserError, match='takes images of the shape'):
        file.outputs(np.zeros((1, 9, 8, 3)))
    path.write_text('a text file')
    with pytest.raises(UserError, match='not a TFLite model') as caught:
        TfliteModel(path)
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match='missing.tflite: cannot be read'):
        TfliteModel(tmp_path / 'missing.tflite')


def test_fixed_batch(teacher):
    signature = tf.TensorSpec((1, 8, 8, 3), tf.float32)
    function = tf.function(teacher.model).get_concrete_function(signature)
    data = tf.lite.TFLiteConverter.from_concrete_functions([function], teacher.model).convert()
    inputs = inputs_of(teacher, pixels(3))
    found = TfliteModel(data).outputs(inputs)
    np.testing.assert_allclose(found, teacher.model(inputs), atol=1e-5)


def numpy_evaluation(scores, expected, labels):
    """The definitions, image by image."""
    images = len(scores)
    order = [sorted(range(len(s)), key=lambda k, s=s: (-s[k], k)) for s in scores]
    float_order = [sorted(range(len(s)), key=lambda k, s=s: (-s[k], k)) for s in expected]
    counts = {
        'agreement': sum(a[0] == b[0] for a, b in zip(order, float_order, strict=True)),
        'ties': sum(list(s).count(max(s)) > 1 for s in scores),
        'accuracy': sum(a[0] == y for a, y in zip(order, labels, strict=True)),
        'float_accuracy': sum(a[0] == y for a, y in zip(float_order, labels, strict=True)),
        'top5': sum(y in a[:5] for a, y in zip(order, labels, strict=True)),
        'float_top5': sum(y in a[:5] for a, y in zip(float_order, labels, strict=True)),
    }
    divergence = sum(
        sum(p * math.log(p / q) for p, q in zip(softmax(e), softmax(s), strict=True))
        for s, e in zip(scores.tolist(), expected.tolist(), strict=True)
    )
    shares = {name: 100 * n / images for name, n in counts.items()}
    classes = len({row[0] for row in float_order})
    return {'images': images, 'classes': classes, **shares, 'divergence': divergence / images}


class Fixed(TfliteModel):
    """A candidate with scores made by hand."""

    def __init__(self, scores):
        self.name, self.input_shape = 'fixed', (8, 8, 3)
        self.zero_pixel = None
        self.ends_in_probabilities, self.quantized_output = False, True
        self.left = scores

    def scores(self, inputs, in_probabilities=None):
        found, self.left = self.left[: len(inputs)], self.left[len(inputs) :]
        return found


def batches_of(images, labels, size):
    for i in range(0, len(images), size):
        yield images[i : i + size], None if labels is None else labels[i : i + size]


def test_evaluate_with_many_ties(teacher):
    rng = np.random.default_rng(3)
    images, labels = pixels(50), rng.integers(0, 7, 50).astype(np.int32)
    scores = rng.integers(-3, 3, (50, 7)).astype(np.float32)
    scores[0] = 0
    expected = numpy_evaluation(scores, teacher.logits(tf.constant(images)).numpy(), labels)
    assert 0 < expected['ties'] < 100
    found = evaluate(Fixed(scores), teacher, batches_of(images, labels, 16), total=50)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize('kind', ['int8', 'float32', 'logits'])
def test_evaluate_a_file(teacher, files, kind):
    images = pixels(21, seed=1)
    labels = np.arange(21) % 7
    file = TfliteModel(files[kind])
    logits = teacher.logits(tf.constant(images)).numpy()
    scores = by_hand(files[kind], inputs_of(teacher, images)).astype(np.float32)
    expected = numpy_evaluation(scores, logits, labels)
    if kind != 'logits':  # an int8 softmax, even where it is returned as float
        del expected['top5'], expected['float_top5'], expected['divergence']
    found = evaluate(file, teacher, batches_of(tf.constant(images), tf.constant(labels), 8))
    assert found == pytest.approx(expected)


def test_without_labels(teacher, files):
    found = evaluate(TfliteModel(files['int8']), teacher, batches_of(pixels(9), None, 4))
    assert set(found) == {'images', 'classes', 'agreement', 'ties'}
    assert found['images'] == 9


@pytest.mark.parametrize('itself', [True, False])
def test_float_candidates(teacher, itself):
    other = None if itself else dataclasses.replace(tiny_teacher(seed=5), name='other')
    images, labels = pixels(20), np.arange(20) % 7
    scores = (other or teacher).logits(tf.constant(images)).numpy()
    expected = numpy_evaluation(scores, teacher.logits(tf.constant(images)).numpy(), labels)
    found = evaluate(other, teacher, batches_of(images, labels, 8))
    assert found == pytest.approx(expected)
    assert itself == (found['agreement'] == 100)
    assert itself == (found['divergence'] == 0)


def labels_teacher():
    """A teacher of five independent labels, as `load_teacher` makes it, and its original."""
    layers = tf_keras.layers
    x = images = tf_keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3)(x)))
    x = layers.Dense(5, activation='sigmoid', name='top')(layers.Flatten()(x))
    model = randomize(tf_keras.Model(images, x))
    return load_teacher(model, input_spec={'preprocessing': 'unit'}), model


@pytest.mark.parametrize('output_head', ['model', 'logits'])
def test_independent_labels(output_head):
    teacher, model = labels_teacher()
    images = pixels(60)
    data = calibration.convert(teacher, [images], output_head=output_head)
    own, expected = by_hand(data, images), model(images).numpy() > 0.5
    middle = 0.5 if output_head == 'model' else 0
    found = evaluate(TfliteModel(data), teacher, batches_of(images, np.zeros(60, int), 16))
    assert found['agreement'] == pytest.approx(100 * np.mean((own > middle) == expected))
    assert found['ties'] == pytest.approx(100 * np.mean(own == middle))
    assert found['positives'] == pytest.approx(100 * np.mean(expected))
    assert found['classes'] == np.sum(expected.any(axis=0)) > 1
    assert 'accuracy' not in found
    if output_head == 'logits':
        p, q = (np.float64(1 / (1 + np.exp(-z))) for z in (teacher.logits_model(images), own))
        kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        assert found['divergence'] == pytest.approx(kl.sum(axis=1).mean(), rel=1e-3)


def test_probabilities_behind_a_sigmoid_in_a_file():
    """A file that ends in 1 - sigmoid holds nothing that tells what it returns."""
    layers = tf_keras.layers
    x = images = tf_keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3)(x)))
    x = 1.0 - tf.nn.sigmoid(layers.Dense(1, name='top')(layers.Flatten()(x)))
    model = randomize(tf_keras.Model(images, x))
    x = pixels(60)
    top = model.get_layer('top')
    p = model(x).numpy()
    # The boundary among the images.
    top.bias.assign(top.bias - np.median(-np.log(p / (1 - p))))
    teacher = load_teacher(model, input_spec={'preprocessing': 'unit'})
    data = calibration.convert(teacher, [x])
    expected = model(x).numpy()[:, 0] > 0.5
    assert 20 < expected.sum() < 40
    found = evaluate(TfliteModel(data), teacher, [(x, None)])
    agreement = 100 * np.mean((by_hand(data, x)[:, 0] > 0.5) == expected)
    assert found['agreement'] == pytest.approx(agreement) and agreement > 90
    assert found['classes'] == 2


def test_answers_that_are_not_finite(teacher):
    broken = tiny_teacher(seed=5)
    for variable in broken.model.weights:
        if 'kernel' in variable.name:
            variable.assign(np.full(variable.shape, np.nan, np.float32))
    broken = dataclasses.replace(broken, name='broken')
    for candidate, judge in ((broken, teacher), (None, broken), (broken, broken)):
        with pytest.raises(UserError, match='broken answers with values that are not finite'):
            evaluate(candidate, judge, [(pixels(4), np.zeros(4, int))])
    with pytest.raises(UserError, match='fixed: answers with values that are not finite'):
        scores = np.full((4, 7), np.nan, np.float32)
        evaluate(Fixed(scores), teacher, [(pixels(4), np.zeros(4, int))])


def test_a_student_against_its_teacher(teacher):
    student = student_of(teacher, weight_bits=4, activation_bits=4)
    images = pixels(40)
    set_ranges(student, lambda: [images])
    scores = student.model(inputs_of(teacher, images)).numpy()
    expected = numpy_evaluation(scores, teacher.logits(images).numpy(), np.zeros(40, int))
    found = evaluate(student, teacher, batches_of(images, None, 16))
    assert found['agreement'] == pytest.approx(expected['agreement'])
    assert found['divergence'] == pytest.approx(expected['divergence'], rel=1e-4)


@pytest.mark.parametrize('output_head', ['model', 'logits'])
def test_sigmoid(output_head):
    teacher = tiny_teacher(head='sigmoid')
    images = pixels(64)
    z = teacher.logits(tf.constant(images)).numpy()[:, 1]
    # Puts the boundary among the images.
    bias = teacher.model.get_layer('top').bias
    bias.assign(bias - np.median(z))
    data = calibration.convert(teacher, [images], output_head=output_head)
    file = TfliteModel(data)
    scores = file.scores(inputs_of(teacher, images))
    assert scores.shape == (64, 2)
    labels = (teacher.model(inputs_of(teacher, images)).numpy()[:, 0] > 0.5).astype(int)
    assert 20 < labels.sum() < 44
    found = evaluate(file, teacher, batches_of(images, labels, 64))
    assert found['float_accuracy'] == 100
    assert found['agreement'] == found['accuracy'] > 90
    assert 'top5' not in found


def test_single_logit_has_its_threshold_at_zero(teacher):
    data = tf.lite.TFLiteConverter.from_keras_model(single_unit_model()).convert()
    file = TfliteModel(data)
    assert not file.ends_in_probabilities
    inputs = np.zeros((3, 8, 8, 1), np.float32)
    inputs[1], inputs[2] = 0.2, -0.2
    np.testing.assert_array_equal(evaluation.top_class(file.scores(inputs)), [0, 1, 0])


def single_unit_model():
    inputs = tf_keras.Input((8, 8, 1))
    return tf_keras.Model(inputs, tf_keras.layers.GlobalAveragePooling2D()(inputs))


@pytest.mark.parametrize(
    ('batches', 'message'),
    [
        ([], 'no images'),
        ([(pixels(2), [0, 7])], 'Label 7 is not a class'),
        ([(pixels(2), [-1, 0])], 'Label -1 is not a class'),
        ([(pixels(2), [0])], 'labels of the shape'),
        ([(pixels(2), [0, 1]), (pixels(3), None)], 'Only 2 of 5 images have labels'),
        ([(np.uint8(255 * pixels(2)), None)], 'holds uint8: pass pixels in'),
        ([(255 * pixels(2), None)], 'yield pixels in'),
        ([(pixels(2)[:, :7], None)], 'has the shape'),
    ],
)
def test_bad_batches(teacher, batches, message):
    with pytest.raises(UserError, match=message):
        evaluate(None, teacher, batches)


def test_candidate_that_does_not_fit(teacher, files):
    with pytest.raises(UserError, match='has 7 classes, but the teacher tiny_softmax has 5'):
        evaluate(TfliteModel(files['int8']), tiny_teacher(num_classes=5), [(pixels(2), None)])
    with pytest.raises(UserError, match='takes images of the shape'):
        evaluate(TfliteModel(files['int8']), tiny_teacher(size=9), [(pixels(2), None)])


def test_sizes_and_latency(teacher, files):
    file = TfliteModel(files['int8'])
    floats = sum(int(np.prod(w.shape)) for w in teacher.model.weights)
    assert evaluation.sizes(teacher, file) == {
        'teacher_weight_bytes': 4 * floats,
        'tflite_file_bytes': len(files['int8']),
    }
    assert 0 < latency(file, repeats=5) < 1000


@pytest.mark.parametrize('batch', [1, 4])
def test_latency_is_of_one_image_in_milliseconds(teacher, monkeypatch, batch):
    """By a clock on which every call of the file takes a second."""
    data = calibration.convert(teacher, [pixels(8)], file_batch=batch)
    clock = itertools.count()
    monkeypatch.setattr(interpreter, 'time', SimpleNamespace(perf_counter=clock.__next__))
    assert latency(TfliteModel(data), repeats=3) == 1000 / batch
