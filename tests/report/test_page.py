"""The page: one file that needs nothing else, and holds what it promises."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import zscgan_tf
from tests.conftest import randomize
from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.generators import build_generator
from zscgan_tf.report.examine import examine
from zscgan_tf.report.page import write_page
from zscgan_tf.report.summary import summary_rows
from zscgan_tf.sources.files import FileSource
from zscgan_tf.sources.generator import GeneratorSource
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite import calibration

SCRIPT = '<script>alert("1")</script>{{ 7 * 7 }}$\\frac{'
TWO_MEGABYTES = 2_000_000


class Page(html.parser.HTMLParser):
    """A page's elements, the texts of each, and its visible text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.code, self._open = [], '', '', []
        self.size = path.stat().st_size
        self.feed(path.read_text(encoding='utf-8'))
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ('meta', 'img', 'br', 'link'):
            self._open.append((tag, dict(attributes).get('id')))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == ('pre', 'code'):
            self.code += data
        elif self._open and self._open[-1][0] != 'style':
            self.text += f' {" ".join(data.split())}'

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def pixels(count=16):
    return np.random.default_rng(0).uniform(0, 1, (count, 8, 8, 3)).astype(np.float32)


def untrained(teacher):
    """A generator as a source, of no training at all."""
    settings = {'scales': 1, 'channels': 4, 'skip_channels': 2, 'z_channels': 3}
    generator = build_generator(teacher.input_spec.image_shape, teacher.num_classes, **settings)
    return GeneratorSource(generator, teacher.num_classes, batch_size=8)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, teacher):
    """tiny.tflite, and real.npz: images of which every other one has another class's label."""
    folder = tmp_path_factory.mktemp('pages')
    (folder / 'tiny.tflite').write_bytes(calibration.convert(teacher, [pixels()]))
    np.savez(folder / 'real.npz', images=pixels(24), labels=np.arange(24) % 5)
    return folder


@pytest.fixture(scope='module')
def run(folder, teacher):
    """A workdir with two steps of training."""
    source = zscgan_tf.train_generator(
        teacher,
        folder / 'run',
        steps=2,
        batch_size=8,
        generator_scales=1,
        generator_channels=4,
        skip_channels=2,
        z_channels=3,
        keep={'flags.cfg': '--steps=2\n'},
    )
    return source, folder / 'run'


def test_a_whole_page(folder, teacher, run, monkeypatch):
    """What `quantize` returned, a generator, real images, names: in the order of the questions."""
    source, workdir = run
    real = FileSource(folder / 'real.npz', teacher.input_spec)
    names = ['cat', 'dog', SCRIPT, 'cow', 'emu']
    result = zscgan_tf.quantize(
        teacher,
        source,
        folder / 'made.tflite',
        range_estimator='tflite',
        calibration_images=16,
        check_images=16,
        evaluate_on=real,
    )
    monkeypatch.setattr('zscgan_tf.evaluation.evaluate', None)  # is not measured again
    path = folder / 'whole.html'
    zscgan_tf.write_page(
        path,
        teacher,
        result,
        source,
        real=real,
        workdir=workdir,
        class_names=names,
        command='do it',
    )
    page = Page(path)
    assert page.size < TWO_MEGABYTES
    assert not page.of('script') and not page.of('link') and not page.of('iframe')
    assert len(page.of('img')) >= 5 * 8 + 4
    assert all(image['src'].startswith('data:image/') for image in page.of('img'))
    links = [link['href'] for link in page.of('a')]
    targets = [f'#{section["id"]}' for section in page.of('section')]
    assert links[:5] == targets == ['#good', '#feed', '#layers', '#images', '#again']
    content = path.read_text(encoding='utf-8')
    assert not re.search(r'https?://', content.replace('https://ai.google.dev/edge/litert', ''))
    assert not re.search(r'@import|url\(|\son\w+=', content)

    for name, text in summary_rows(teacher, result):
        if name not in ('WARNING', 'feed'):
            assert f' {name} {text} ' in re.sub(r'\s+', ' ', page.text) + ' '
    places = [page.text.index(words) for words in (
        'agreement', 'the answers differ', 'int8 = ', 'costs most in', 'as it runs',
        'a row a class', 'class loss', 'Farthest off is', 'do it', 'generator_scales',
        '--steps=2', f', fingerprint {teacher.fingerprint}', 'tensorflow-model-optimization',
    )]  # fmt: skip
    assert places == sorted(places)
    assert SCRIPT in page.text and '49$' not in content
    assert SCRIPT not in content and '&lt;script&gt;' in content
    with pytest.raises(UserError, match='whole.html: exists already: pass --overwrite'):
        write_page(path, teacher, result, source)


def test_without_anything(folder, teacher, tmp_path):
    """A file alone: noise, and a sentence that says so."""
    path = tmp_path / 'page.html'
    write_page(path, teacher, folder / 'tiny.tflite')
    page = Page(path)
    assert 'neither a generator nor a real image' in page.text
    assert 'No real images were passed' in page.text and 'No workdir was passed' in page.text
    assert 'Training of the' not in page.text and 'a row a class' not in page.text
    assert "model = Interpreter('tiny.tflite')" in page.code


def test_a_file_of_float16(folder, teacher, tmp_path):
    converter = tf.lite.TFLiteConverter.from_keras_model(teacher.model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    (tmp_path / 'half.tflite').write_bytes(converter.convert())
    real = FileSource(folder / 'real.npz', teacher.input_spec)
    write_page(tmp_path / 'half.html', teacher, tmp_path / 'half.tflite', real=real)
    assert 'costs most in' in Page(tmp_path / 'half.html').text


def test_the_page_says_how_the_model_itself_takes_pixels(folder, teacher, tmp_path):
    raw = zscgan_tf.raw_pixels(teacher)
    real = FileSource(folder / 'real.npz', teacher.input_spec)
    options = {'range_estimator': 'tflite', 'calibration_images': 16, 'check_images': 8}
    result = zscgan_tf.quantize(raw, real, tmp_path / 'raw.tflite', **options)
    write_page(tmp_path / 'raw.html', raw, result, real)
    assert f'preprocessing {teacher.input_spec.describe()}' in Page(tmp_path / 'raw.html').text


def test_losses_of_the_generator_are_not_the_students(folder, teacher, tmp_path):
    config = {'fingerprint': teacher.fingerprint, 'teacher': 'tiny', 'source_kind': 'zscgan'}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    metrics = {'bns_loss': 1, 'class_loss': 2, 'distillation_loss': 3.25, 'feature_loss': 4.5}
    (tmp_path / 'metrics.jsonl').write_text(json.dumps({'step': 1, **metrics}))
    write_page(tmp_path / 'a.html', teacher, folder / 'tiny.tflite', workdir=tmp_path)
    text = Page(tmp_path / 'a.html').text
    assert 'At the end: distillation loss 3.25, feature loss 4.5' in text


def test_noise_beside_real_images(folder, teacher, tmp_path):
    """Fewer images than a page looks at are counted once."""
    np.savez(tmp_path / 'five.npz', images=pixels(5))
    real = FileSource(tmp_path / 'five.npz', teacher.input_spec)
    noise = NoiseSource(teacher.input_spec, batch_size=8)
    write_page(tmp_path / 'noise.html', teacher, folder / 'tiny.tflite', noise, real=real)
    text = Page(tmp_path / 'noise.html').text
    assert 'The layers were compared on noise.' in text and 'neither a generator' not in text
    write_page(tmp_path / 'real.html', teacher, folder / 'tiny.tflite', real=real)
    page = Page(tmp_path / 'real.html')
    assert ' 5 images' in page.text and ' 32 ' not in page.text
    found = examine(teacher, folder / 'tiny.tflite', real, None)
    assert found.fresh['images'] == 5


def test_a_file_whose_layers_were_rescaled(folder, teacher, tmp_path):
    """Compared with the float model that was rounded, and with none where that is not known."""
    real = FileSource(folder / 'real.npz', teacher.input_spec)
    result = zscgan_tf.quantize_dfq(teacher, tmp_path / 'dfq.tflite', evaluate_on=real)
    write_page(tmp_path / 'known.html', teacher, result, real=real)
    text = Page(tmp_path / 'known.html').text
    assert 'The own rounding costs most' in text and 'after equalization and absorption' in text
    write_page(tmp_path / 'unknown.html', teacher, result.output, real=real)
    text = Page(tmp_path / 'unknown.html').text
    assert 'The own rounding costs most' not in text and 'This page cannot tell.' in text


def test_a_workdir_without_metrics(folder, teacher, run, tmp_path):
    source, workdir = run
    for content in (None, '{"step": 1, "bns_lo'):
        bare = tmp_path / f'bare{content}'
        bare.mkdir()
        (bare / 'config.json').write_bytes((workdir / 'config.json').read_bytes())
        if content is not None:
            (bare / 'metrics.jsonl').write_text(content)
        path = tmp_path / 'page.html'
        write_page(path, teacher, folder / 'tiny.tflite', source, workdir=bare, overwrite=True)
        assert 'has no metrics, so there are no losses to show' in Page(path).text


def test_the_teacher_names_its_classes(folder, teacher, tmp_path):
    named = dataclasses.replace(teacher, class_names=('ant', 'bee', 'cat', 'dog', 'emu'))
    path = tmp_path / 'page.html'
    write_page(path, named, folder / 'tiny.tflite', untrained(teacher))
    assert all(f' {name} ' in Page(path).text for name in named.class_names)
    broken = ['ant', 'bee', 'half of a pair \ud83d', 'dog', 'emu']  # as JSON may hold it
    write_page(
        path,
        teacher,
        folder / 'tiny.tflite',
        untrained(teacher),
        class_names=broken,
        overwrite=True,
    )
    assert ' half of a pair ? ' in Page(path).text
    with pytest.raises(UserError, match='4 names of classes were passed, but tiny_softmax has 5'):
        write_page(path, teacher, folder / 'tiny.tflite', class_names=list('abcd'), overwrite=True)


def test_a_hostile_model(tmp_path):
    """Names of layers and of the model from a stranger's file; Keras 3 lets them be anything."""
    import keras

    hostile = '<script>alert(1)<|script>'
    x = inputs = keras.layers.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name=hostile)(x)
    x = keras.layers.BatchNormalization(name='<img src=x onerror=alert(1)>')(x)
    x = keras.layers.Dense(3, activation='softmax')(keras.layers.Flatten()(x))
    model = keras.Model(inputs, x, name='<b>model')
    (tmp_path / hostile).mkdir()
    model.save(tmp_path / hostile / '<script>.keras')
    teacher = load_teacher(
        tmp_path / hostile / '<script>.keras', input_spec={'preprocessing': 'unit'}
    )
    file = tmp_path / hostile / '<i>.tflite'
    file.write_bytes(calibration.convert(teacher, [pixels()]))
    config = {'fingerprint': teacher.fingerprint, hostile: hostile, 'list': [hostile]}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'flags.cfg').write_text(hostile)
    path = tmp_path / 'page.html'
    write_page(path, teacher, file, workdir=tmp_path, command=hostile)
    page = Page(path)
    assert not page.of('script') and not page.of('i')
    assert page.text.count(hostile) >= 4
    assert all(image['src'].startswith('data:image/') for image in page.of('img'))
    assert 'layer_script_alert_1___script_' in page.text  # errors by layer, under its name here


def test_a_thousand_classes(tmp_path):
    teacher = tiny_teacher(num_classes=1000)
    (tmp_path / 'file.tflite').write_bytes(calibration.convert(teacher, [pixels()]))
    path, names = tmp_path / 'page.html', [f'class {i}, ' + 'long ' * 20 for i in range(1000)]
    write_page(path, teacher, tmp_path / 'file.tflite', untrained(teacher), class_names=names)
    page = Page(path)
    assert page.size < TWO_MEGABYTES
    assert 'of 10 of the 1,000 classes' in page.text and 'class 900,' in page.text


def test_one_class(tmp_path):
    teacher = tiny_teacher(head='sigmoid')
    (tmp_path / 'file.tflite').write_bytes(calibration.convert(teacher, [pixels()]))
    np.savez(tmp_path / 'real.npz', images=pixels(8), labels=np.arange(8) % 2)
    real = FileSource(tmp_path / 'real.npz', teacher.input_spec)
    path = tmp_path / 'page.html'
    write_page(path, teacher, tmp_path / 'file.tflite', real=real, class_names=['no', 'yes'])
    page = Page(path)
    assert 'LOGISTIC' in page.text and 'real images' in page.text and '(noise)' not in page.text
    assert 'print(scores)' in page.code


def test_files_of_another_teacher(folder, teacher, run, tmp_path):
    """Of other images, other classes, other layers, other weights; and the workdir of another."""
    path, file = tmp_path / 'page.html', folder / 'tiny.tflite'
    copy = tf_keras.models.clone_model(teacher.model)
    other = load_teacher(randomize(copy, seed=7), input_spec=teacher.input_spec)
    cases = [
        (tiny_teacher(size=9), 'takes images of the shape'),
        (tiny_teacher(num_classes=6), 'classes, but the teacher'),
        (other, 'no layer computes what the layer of that name in .* does'),
    ]
    for wrong, message in cases:
        with pytest.raises(UserError, match=message):
            write_page(path, wrong, file, NoiseSource(wrong.input_spec))
    stranger = dataclasses.replace(teacher, fingerprint='another')
    with pytest.raises(UserError, match=r'run belongs to another teacher \(tiny_softmax\)'):
        write_page(path, stranger, file, workdir=run[1])
    assert not path.exists()


def test_pages_that_cannot_be_written(folder, teacher, tmp_path):
    for path, message in (
        (tmp_path / 'missing' / 'page.html', 'does not exist'),
        ('/proc/page.html', 'cannot be written'),
        (tmp_path, 'is a folder'),
    ):
        with pytest.raises(UserError, match=message):
            write_page(path, teacher, folder / 'tiny.tflite')
    with pytest.raises(UserError, match='nothing.tflite: cannot be read'):
        write_page(tmp_path / 'page.html', teacher, tmp_path / 'nothing.tflite')
    assert not list(tmp_path.iterdir())
