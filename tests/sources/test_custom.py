"""A source of the user's own: what is checked of it, and that it is used as it is."""

import itertools
import json

import numpy as np
import pytest

from tests.tiny import tiny_teacher
from zscgan_tf.errors import UserError
from zscgan_tf.sources import at_most
from zscgan_tf.sources.custom import custom_source

MODULE = """
import itertools

import numpy as np

class Photos:
    image_shape, batch_size, has_labels, num_classes = (8, 8, 3), 4, True, 7
    change, shape, types = staticmethod(lambda pixels, index: pixels), (8, 8, 3), np.int64
    highest = 7

    def batches(self, start=0):
        while True:
            random = np.random.default_rng(start)
            pixels = random.uniform(size=(4, *self.shape)).astype(np.float32)
            labels = random.integers(0, self.highest, 4).astype(self.types)
            yield self.change(pixels, start), labels if self.has_labels else None
            start += 1

def photos(teacher):
    return Photos()

def variant(**changes):
    return lambda teacher: type('Variant', (Photos,), changes)()

calls = iter(range(1000))
unlabelled = variant(has_labels=False)
larger = variant(shape=(9, 9, 3))
nans = variant(change=staticmethod(lambda pixels, index: pixels * np.nan))
later_nans = variant(change=staticmethod(lambda pixels, index: pixels * (np.nan ** (index > 2))))
later_break = variant(change=staticmethod(lambda pixels, index: pixels / (1 + 0 // (3 - index))))
late_nans = variant(change=staticmethod(lambda pixels, index: pixels / (1 - index)))
bright = variant(change=staticmethod(lambda pixels, index: 255 * pixels))
bytes_ = variant(change=staticmethod(lambda pixels, index: np.uint8(255 * pixels)))
restless = variant(change=staticmethod(lambda pixels, index: pixels / (2 + next(calls))))
kept = np.zeros((4, 8, 8, 3), np.float32)

def fill(pixels, index):
    kept[...] = pixels / (2 + next(calls))
    return kept

same_array = variant(change=staticmethod(fill))
short = variant(batch_size=5)
class_of_others = variant(highest=90)
texts = variant(types=str)
silent = variant(batches=lambda self, start=0: iter([np.zeros(3)] * 9))
broken = variant(batches=lambda self, start=0: 1 / 0)
finite = variant(batches=lambda self, start=0: iter([]))
three = variant(batches=lambda self, start=0: itertools.islice(Photos.batches(self, start), 3))
counted = variant(image_count=8, description={'album': 3})
uncounted = variant(image_count=None)
rounded = variant(change=staticmethod(lambda pixels, index: np.float32(1 + 1e-6) + 0 * pixels))
described = variant(description={'size': np.int64(3)})
numpys = variant(batch_size=np.int64(4), num_classes=np.int64(7))

def seeded(teacher, seed):
    return variant(description={'kind': f'seed {seed}'})(teacher)

def leaving(teacher):
    raise SystemExit(3)

def slots(teacher):
    class Bare:
        __slots__ = ()
        image_shape, batch_size, has_labels, num_classes = (8, 8, 3), 4, False, None

        def batches(self, start=0):
            return unlabelled(teacher).batches(start)

    return Bare()

def number(teacher):
    return 7
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    (tmp_path / 'own_images.py').write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: custom_source(f'own_images:{name}', tiny_teacher(), allow_code=True)


def test_it_is_used_as_it_is(load):
    source = load('photos')
    assert source.description['kind'] == 'own_images:photos'
    # Of other images it is another one.
    assert source.description == load('photos').description != load('unlabelled').description
    pixels, labels = next(iter(source.batches(start=3)))
    expected = np.random.default_rng(3).uniform(size=(4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(pixels, expected)
    assert len(labels) == 4
    assert next(iter(load('unlabelled').batches()))[1] is None
    assert load('seeded').description['kind'] == 'seed 0'
    assert load('slots').batch_size == 4
    counted = load('counted')
    assert counted.image_count == 8 and counted.description['kind'] == 'own_images:counted'
    assert at_most(counted, 9) == 8 and at_most(load('uncounted'), 9) == 9
    pixels, _ = next(load('rounded').batches())
    assert pixels.min() == pixels.max() == 1


def test_numbers_of_numpy_are_numbers(load):
    source = load('numpys')
    assert json.dumps([source.batch_size, source.num_classes]) == '[4, 7]'


def test_later_batches_are_checked_when_they_are_made(load):
    with pytest.raises(UserError, match='own_images:three ended after 3 batches: yield batches'):
        list(load('three').batches())
    source = load('later_nans')
    with pytest.raises(UserError, match='own_images:later_nans: .* values that are not finite'):
        list(itertools.islice(source.batches(), 5))
    with pytest.raises(UserError, match=r'later_break failed \(ZeroDivisionError: '):
        list(itertools.islice(load('later_break').batches(), 5))


@pytest.mark.parametrize(
    'name, words',
    [
        ('larger', r'own_images:larger: A batch of images has the shape \[4, 9, 9, 3\]'),
        ('nans', 'own_images:nans: A batch of images holds values that are not finite'),
        ('late_nans', 'own_images:late_nans: A batch of images holds values that are not finite'),
        ('bright', r'own_images:bright: A batch .* from .* to .*: yield pixels in \[0, 1\]'),
        ('bytes_', 'own_images:bytes_: A batch of images holds uint8'),
        ('restless', r'own_images:restless: batches\(start=1\) gives other images'),
        ('same_array', r'own_images:same_array: batches\(start=1\) gives other images'),
        ('short', 'own_images:short: a batch has 4 images, and batch_size is 5'),
        ('class_of_others', 'own_images:class_of_others: labels are to be whole numbers from 0 to'),
        ('texts', 'own_images:texts: labels are to be whole numbers'),
        ('silent', 'own_images:silent: a batch is no pair of pixels and labels'),
        ('broken', r'own_images:broken failed \(ZeroDivisionError: division by zero\)'),
        ('leaving', r'own_images:leaving failed \(SystemExit: 3\)'),
        ('described', r'own_images:described: description cannot be kept as JSON \(Object of type'),
        ('finite', 'own_images:finite ended after 0 batches'),
        ('number', 'own_images:number returned a int without image_shape'),
        ('absent', 'own_images:absent: own_images has no function absent'),
    ],
)
def test_what_is_no_source_is_refused(load, name, words):
    with pytest.raises(UserError, match=words):
        load(name)


def test_code_runs_only_where_it_is_allowed(tmp_path, monkeypatch):
    (tmp_path / 'harmful.py').write_text('raise SystemExit(9)')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match='harmful:f is Python code; pass --allow_code'):
        custom_source('harmful:f', tiny_teacher())


def test_a_module_that_leaves_at_its_import_ends_in_one_line(tmp_path, monkeypatch):
    (tmp_path / 'leaving_module.py').write_text('raise SystemExit(9)')
    monkeypatch.syspath_prepend(tmp_path)
    words = r'the import of leaving_module failed \(SystemExit: 9\)'
    with pytest.raises(UserError, match=words):
        custom_source('leaving_module:f', tiny_teacher(), allow_code=True)
