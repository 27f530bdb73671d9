import itertools
import struct
import zipfile
import zlib

import numpy as np
import pytest
import tf_keras
from PIL import Image

from zscgan_tf.errors import UserError
from zscgan_tf.sources.files import FileSource
from zscgan_tf.sources.image_folder import decode
from zscgan_tf.teacher.input_spec import InputSpec

SPEC = InputSpec((8, 8), 3, 0.5, 0.5)
GRAY = InputSpec((8, 8), 1, 0.5, 0.5)


def random_images(count, shape=(8, 8, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def collect(batches, count=None):
    pixels, labels = zip(*itertools.islice(batches, count), strict=True)
    pixels = np.concatenate(pixels)
    return pixels, None if labels[0] is None else np.concatenate(labels)


def write_classes(folder, names, images_a_class=4):
    images = random_images(images_a_class * len(names))
    for i, image in enumerate(images):
        path = folder / names[i // images_a_class] / f'{i:03d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return images


def message(path, spec=SPEC, read=False):
    with pytest.raises(UserError) as error:
        source = FileSource(path, spec, 4)
        assert read, 'must be refused before any work'
        list(source.one_pass())
    assert '\n' not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('suffix', ['bmp', 'ppm', 'tiff'])
def test_other_images_of_the_same_size_are_others(tmp_path, suffix):
    found = []
    for grey in (10, 20):
        Image.new('RGB', (8, 8), (grey, 0, 0)).save(tmp_path / f'a.{suffix}')
        found.append(FileSource(tmp_path, SPEC).description['content'])
    assert found[0] != found[1]


def test_a_description_is_of_the_images_not_of_their_place(tmp_path):
    def description(name, seed):
        images = random_images(4, (8 + seed, 8, 3), seed)
        np.savez(tmp_path / f'{name}.npz', images=images)
        (tmp_path / name / 'cat').mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / 'cat' / f'{number}.png')
        return [FileSource(tmp_path / x, SPEC).description for x in (f'{name}.npz', name)]

    first, moved, others = description('a', 0), description('b', 0), description('a', 1)
    (tmp_path / 'b' / 'cat' / '._0.jpg').write_bytes(b'as macOS writes them')
    assert FileSource(tmp_path / 'b', SPEC).image_count == 4
    assert first == moved
    assert all(one != other for one, other in zip(first, others, strict=True))


def test_the_suffix_may_be_of_capitals(tmp_path):
    with (tmp_path / 'A.NPZ').open('wb') as file:
        np.savez(file, images=random_images(3))
    assert FileSource(tmp_path / 'A.NPZ', SPEC).image_count == 3


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_one_pass(tmp_path, save):
    images, labels = random_images(10), np.arange(10) % 3
    save(tmp_path / 'a.npz', images=images, labels=labels)
    source = FileSource(tmp_path / 'a.npz', SPEC, 4)
    assert source.image_count == 10 and source.has_labels and source.image_shape == (8, 8, 3)
    batches = list(source.one_pass())
    assert [len(pixels) for pixels, _ in batches] == [4, 4, 2]
    assert batches[0][0].dtype == 'float32' and batches[0][1].dtype == 'int32'
    pixels, found = collect(batches)
    np.testing.assert_array_equal(pixels, images / np.float32(255))
    np.testing.assert_array_equal(found, labels)


def test_uncompressed_npz_is_mapped_not_read(tmp_path):
    np.savez(tmp_path / 'a.npz', images=random_images(10))
    assert isinstance(FileSource(tmp_path / 'a.npz', SPEC, 4)._images, np.memmap)


@pytest.mark.parametrize(
    'arrays',
    [
        {'images': random_images(5)},
        {'x': random_images(5), 'y': np.zeros((5, 1), np.uint8)},
        {'data': random_images(5) / 255},
        {'whatever': (random_images(5) / 255).astype(np.float32), 'other': np.zeros(3)},
        {'images': np.asfortranarray(random_images(5))},
    ],
)
def test_npz_names_and_types(tmp_path, arrays):
    np.savez(tmp_path / 'a.npz', **arrays)
    pixels, _ = collect(FileSource(tmp_path / 'a.npz', SPEC, 4).one_pass())
    np.testing.assert_allclose(pixels, random_images(5) / 255, atol=1e-6)


def test_npz_of_gray_images(tmp_path):
    images = random_images(5, (8, 8))
    np.savez(tmp_path / 'a.npz', images)
    pixels, labels = collect(FileSource(tmp_path / 'a.npz', GRAY, 4).one_pass())
    assert labels is None
    np.testing.assert_allclose(pixels[..., 0], images / 255, atol=1e-6)


def test_npz_of_many_channels(tmp_path):
    spec = InputSpec((8, 8), 5, 0.5, 0.5)
    np.savez(tmp_path / 'a.npz', images=random_images(3, (20, 16, 5)))
    assert collect(FileSource(tmp_path / 'a.npz', spec, 2).one_pass())[0].shape == (3, 8, 8, 5)
    np.savez(tmp_path / 'b.npz', images=random_images(3))
    assert 'image 0: images of 3 channels' in message(tmp_path / 'b.npz', spec, read=True)


def test_endless_batches_are_seeded_and_balanced(tmp_path):
    np.savez(tmp_path / 'a.npz', images=random_images(40), labels=np.sort(np.arange(40) % 4))
    source = FileSource(tmp_path / 'a.npz', SPEC, 8, seed=1)
    pixels, labels = collect(source.batches(), 12)
    for start in range(0, 96, 8):  # 40 images: batches run over the ends of epochs
        assert np.bincount(labels[start : start + 8], minlength=4).tolist() == [2, 2, 2, 2]
    epoch = {image.tobytes() for image in pixels[:40]}
    assert len(epoch) == 40
    again, _ = collect(FileSource(tmp_path / 'a.npz', SPEC, 8, seed=1).batches(), 12)
    np.testing.assert_array_equal(pixels, again)
    late, late_labels = collect(source.batches(start=7), 5)
    np.testing.assert_array_equal(late, pixels[56:])
    np.testing.assert_array_equal(late_labels, labels[56:])
    other, _ = collect(FileSource(tmp_path / 'a.npz', SPEC, 8, seed=2).batches(), 12)
    assert not np.array_equal(pixels, other)


def test_fewer_images_than_a_batch(tmp_path):
    np.savez(tmp_path / 'a.npz', images=random_images(3))
    source = FileSource(tmp_path / 'a.npz', SPEC, 8)
    assert [len(p) for p, _ in source.one_pass()] == [3]
    assert [len(p) for p, _ in itertools.islice(source.batches(), 3)] == [8, 8, 8]


@pytest.mark.parametrize(
    'names, classes, surprising',
    [
        (['cat', 'dog', 'fox'], [0, 1, 2], False),
        (['0', '1', '2'], [0, 1, 2], False),
        (['0', '1', '9'], [0, 1, 2], True),
        (['2', '10', '9'], [1, 0, 2], True),
        (['02', '10', '09'], [0, 2, 1], True),
        (['0000', '0007_fox', '0012'], [0, 1, 2], True),
        (['10', 'b', '9'], [0, 2, 1], False),
        (['Zebra', 'ape', 'élan', 'Ant'], [1, 2, 3, 0], False),
    ],
)
def test_class_folders(tmp_path, caplog, names, classes, surprising):
    images = write_classes(tmp_path, names)
    by_keras = tf_keras.utils.image_dataset_from_directory(tmp_path, batch_size=None)
    assert [by_keras.class_names.index(name) for name in names] == classes
    source = FileSource(tmp_path, SPEC, 5)
    pixels, labels = collect(source.one_pass())
    assert source.image_count == len(images) and source.has_labels
    assert source.num_classes == max(classes) + 1
    expected = np.repeat(classes, 4)
    order = np.argsort(expected, kind='stable')
    np.testing.assert_array_equal(labels, expected[order])
    np.testing.assert_allclose(pixels, images[order] / 255, atol=1e-6)
    # Told where a name would let one expect another class.
    told = [record.getMessage() for record in caplog.records if record.name.startswith('zscgan')]
    assert len(told) == int(surprising)
    if told:
        assert 'alphabetical order, as in Keras' in told[0] and '\n' not in told[0]
        assert all(f'{n} is class {c}' in told[0] for n, c in zip(names, classes, strict=True))


def test_folders_below_a_class_hold_its_images(tmp_path):
    images = write_classes(tmp_path, ['cat', 'dog/part1', 'dog/part2', 'fox/images/deep'])
    by_keras = tf_keras.utils.image_dataset_from_directory(
        tmp_path, batch_size=None, image_size=(8, 8), shuffle=False
    )
    (tmp_path / 'dog' / '.hidden').mkdir()
    (tmp_path / 'dog' / 'nowhere.png').symlink_to(tmp_path / 'nothing')
    Image.fromarray(images[0]).save(tmp_path / 'dog' / '.hidden' / 'a.png')
    pixels, labels = collect(FileSource(tmp_path, SPEC, 5).one_pass())
    np.testing.assert_array_equal(labels, [label for _, label in by_keras])
    np.testing.assert_allclose(pixels, [image / 255 for image, _ in by_keras], atol=1e-6)
    assert labels.tolist() == [0] * 4 + [1] * 8 + [2] * 4


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    write_classes(tmp_path, ['cat', 'dog'])
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    assert 'loop: cannot be read (Too many levels' in message(tmp_path)


def test_a_folder_without_images_is_a_class(tmp_path):
    write_classes(tmp_path, ['cat', 'fox'])
    for name in ('dog', '.ipynb_checkpoints'):
        (tmp_path / name).mkdir()
    by_keras = tf_keras.utils.image_dataset_from_directory(tmp_path, batch_size=None)
    assert by_keras.class_names == ['cat', 'dog', 'fox']
    assert collect(FileSource(tmp_path, SPEC, 5).one_pass())[1].tolist() == [0] * 4 + [2] * 4


def test_many_classes_are_told_in_one_line(tmp_path, caplog):
    write_classes(tmp_path, [str(number) for number in range(1, 101)], images_a_class=1)
    FileSource(tmp_path, SPEC, 5)
    (record,) = caplog.records
    assert '1 is class 0, 10 is class 1, 100 is class 2, 11 is class 3' in record.getMessage()
    assert len(record.getMessage()) < 600 and record.getMessage().endswith(', ...')


@pytest.mark.parametrize('header', ['', 'filename,label\n', '"filename","label"\n'])
def test_label_file(tmp_path, header):
    images = random_images(3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f'{i}.png')
    (tmp_path / 'labels.csv').write_text(f'{header}2.png,7\n"0.png","5"\n\n')
    pixels, labels = collect(FileSource(tmp_path, SPEC, 4).one_pass())
    assert labels.tolist() == [7, 5]
    np.testing.assert_allclose(pixels, images[[2, 0]] / 255, atol=1e-6)


def test_flat_folder_and_modes(tmp_path):
    image = Image.fromarray(random_images(1)[0])
    image.save(tmp_path / 'a.png')
    image.convert('RGBA').save(tmp_path / 'b.png')
    image.convert('L').save(tmp_path / 'c.png')
    image.save(tmp_path / 'd.JPG', quality=95)
    (tmp_path / 'notes.md').write_text('no image')
    pixels, labels = collect(FileSource(tmp_path, SPEC, 4).one_pass())
    assert labels is None and len(pixels) == 4
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_allclose(
        pixels[2], np.repeat(np.asarray(image.convert('L'))[..., None], 3, -1) / 255, atol=1e-6
    )
    gray, _ = collect(FileSource(tmp_path, GRAY, 4).one_pass())
    np.testing.assert_allclose(gray[0], gray[2])


def test_a_turned_tiff_is_not_scrambled(tmp_path):
    Image.fromarray(random_images(1, (12, 8, 3))[0]).save(tmp_path / 'a.tif', tiffinfo={274: 6})
    found = decode(str(tmp_path / 'a.tif'), 3)
    with Image.open(tmp_path / 'a.tif') as image:
        np.testing.assert_array_equal(found, np.asarray(image.convert('RGB')))


def test_large_images_are_resized(tmp_path):
    image = Image.fromarray(random_images(1, (60, 40, 3))[0])
    image.save(tmp_path / 'a.png')
    pixels, _ = collect(FileSource(tmp_path, SPEC, 1).one_pass())
    expected = np.asarray(image.resize((8, 12), Image.BILINEAR))[2:10] / 255
    np.testing.assert_allclose(pixels[0], expected, atol=1.5 / 255)


def broken_images(folder):
    good = folder / 'good.png'
    Image.fromarray(random_images(1, (50, 50, 3))[0]).save(good)
    data = good.read_bytes()
    (folder / 'good.png').unlink()
    header = struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)
    checksum = struct.pack('>I', zlib.crc32(b'IHDR' + header))
    absurd = data[:8] + struct.pack('>I', 13) + b'IHDR' + header + checksum + data[33:]
    return {
        'text': b'just text',
        'empty': b'',
        'truncated': data[: len(data) // 2],
        'scrambled': data[:60] + bytes(len(data) - 60),
        'absurd': absurd,
    }


@pytest.mark.parametrize('kind', ['text', 'empty', 'truncated', 'scrambled', 'absurd'])
def test_a_broken_image_is_named(tmp_path, kind):
    data = broken_images(tmp_path)[kind]
    (tmp_path / 'bad.png').write_bytes(data)
    with pytest.raises(UserError) as error:
        list(FileSource(tmp_path, SPEC, 4).one_pass())
    words = 'absurd size' if kind == 'absurd' else 'not a readable image'
    assert 'bad.png' in str(error.value) and words in str(error.value)
    assert '\n' not in str(error.value)


def test_a_size_just_over_the_limit_is_not_decoded(tmp_path):
    Image.new('1', (8193, 8193)).save(tmp_path / 'bad.png')
    with pytest.raises(UserError, match='bad.png: an absurd size.*8193x8193'):
        list(FileSource(tmp_path, SPEC, 4).one_pass())


def png(header, rows):
    """A PNG of 8x8 pixels: bit depth and kind of colour, and its rows."""

    def chunk(kind, data):
        checksum = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + checksum

    parts = [(b'IHDR', struct.pack('>IIBBBBB', 8, 8, *header, 0, 0, 0))]
    parts += [(b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


@pytest.mark.parametrize('kind, channels', [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_are_refused(tmp_path, kind, channels):
    """Gray or of colours, with and without transparency."""
    row = b'\0' + np.full(8 * channels, 4095, '>u2').tobytes()
    (tmp_path / 'deep.png').write_bytes(png((16, kind), 8 * row))
    with pytest.raises(UserError, match='deep.png: more than 8 bits'):
        list(FileSource(tmp_path, GRAY, 4).one_pass())


@pytest.mark.parametrize(
    'arrays, words',
    [
        ({'images': np.array([{}], object)}, 'pickled'),
        ({'images': random_images(4), 'labels': np.array(['a'] * 4, object)}, 'pickled'),
        ({'images': np.zeros((4, 8))}, r'shape [4, 8]'),
        ({'images': np.zeros((0, 8, 8, 3))}, 'shape [0, 8, 8, 3]'),
        ({'images': np.zeros((4, 8, 8, 3), np.int64)}, 'int64'),
        ({'images': np.full((4, 8, 8, 3), 1.5)}, 'from 1.5 to 1.5'),
        ({'images': np.full((4, 8, 8, 3), np.nan)}, 'from nan'),
        ({'a': random_images(4), 'b': random_images(4)}, 'which array'),
        ({'a': np.zeros(4)}, 'a [4]'),
        ({}, 'no array'),
        ({'images': random_images(4), 'labels': np.zeros(3, int)}, 'one for each of the 4'),
        ({'images': random_images(4), 'labels': np.zeros(4)}, 'whole numbers'),
        ({'images': random_images(4), 'labels': np.array([0, -1, 0, 0])}, 'negative'),
    ],
)
def test_npz_that_holds_something_else(tmp_path, arrays, words):
    np.savez(tmp_path / 'bad.npz', **arrays)
    assert words in message(tmp_path / 'bad.npz')


def test_damaged_npz(tmp_path):
    np.savez_compressed(tmp_path / 'good.npz', images=random_images(50))
    data = (tmp_path / 'good.npz').read_bytes()
    bad = tmp_path / 'bad.npz'
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
    for damaged in (b'text', b'', data[:middle], flipped):
        bad.write_bytes(damaged)
        assert 'not a readable .npz file' in message(bad)


def test_a_header_of_npz_that_is_damaged(tmp_path):
    np.savez(tmp_path / 'bad.npz', images=random_images(3))
    data = (tmp_path / 'bad.npz').read_bytes()
    assert b'), }' in data
    (tmp_path / 'bad.npz').write_bytes(data.replace(b'), }', b' , }'))
    assert 'not a readable .npz file' in message(tmp_path / 'bad.npz')


def write_header(path, shape, data_bytes, compression, version=1):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + '\n'
    length = struct.pack('<H' if version == 1 else '<I', len(header))
    data = b'\x93NUMPY' + bytes([version, 0]) + length + header.encode() + bytes(data_bytes)
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('images.npy', data)


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    'shape, words',
    [
        ((1000000, 4000, 4000, 3), 'not as long as its header says'),
        ((-2, -1, 8, 3), 'not a readable .npz file'),
        ((0.25, 8, 8, 3), 'not a readable .npz file'),
        ((True, 2, 8, 3), 'not a readable .npz file'),
    ],
)
def test_an_absurd_npz_header_is_not_believed(tmp_path, shape, words, compression):
    write_header(tmp_path / 'bad.npz', shape, 48, compression)
    assert words in message(tmp_path / 'bad.npz')


def test_npz_header_of_other_versions(tmp_path):
    write_header(tmp_path / 'a.npz', (1, 8, 8, 3), 192, zipfile.ZIP_STORED, version=2)
    assert FileSource(tmp_path / 'a.npz', SPEC, 4).image_count == 1
    write_header(tmp_path / 'bad.npz', (1, 8, 8, 3), 192, zipfile.ZIP_STORED, version=3)
    assert 'unknown format version' in message(tmp_path / 'bad.npz')


def test_an_array_that_reaches_beyond_its_file(tmp_path):
    np.savez(tmp_path / 'bad.npz', images=random_images(3))
    data = bytearray((tmp_path / 'bad.npz').read_bytes())
    data[28:30] = b'\xff\xff'  # the length of what stands before the array
    (tmp_path / 'bad.npz').write_bytes(data)
    assert 'not a readable .npz file' in message(tmp_path / 'bad.npz')


def test_too_large_to_unpack(tmp_path, monkeypatch):
    monkeypatch.setattr('zscgan_tf.sources.npz.COMPRESSED_LIMIT_BYTES', 1000)
    np.savez_compressed(tmp_path / 'bad.npz', images=random_images(10))
    assert 'np.savez' in message(tmp_path / 'bad.npz')
    np.savez(tmp_path / 'good.npz', images=random_images(10))
    assert FileSource(tmp_path / 'good.npz', SPEC, 4).image_count == 10


def test_paths_that_are_no_images(tmp_path):
    assert 'no such file' in message(tmp_path / 'missing')
    (tmp_path / 'a.txt').write_text('text')
    assert '.npz' in message(tmp_path / 'a.txt')
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert 'no images' in message(empty)
    assert 'pass an .npz' in message(empty, InputSpec((8, 8), 2, 0.5, 0.5))
    write_classes(empty, ['1', '01'])
    Image.fromarray(random_images(1)[0]).save(empty / 'stray.png')
    assert 'beside folders' in message(empty)


@pytest.mark.parametrize(
    'text, words',
    [
        ('missing.png,1', "line 1: there is no image 'missing.png'"),
        ('a.png,1\na.png', 'line 2: not `filename,label`'),
        ('a.png,fox', 'line 1: not `filename,label`'),
        ('cat\ndog', 'give the file another name if it lists no images'),
        ('../a.png,1', 'outside of the folder'),
        ('a.png,99999999999', 'class numbers'),
        ('', 'lists no images'),
    ],
)
def test_bad_label_files(tmp_path, text, words):
    Image.fromarray(random_images(1)[0]).save(tmp_path / 'a.png')
    (tmp_path / 'labels.txt').write_text(text)
    assert words in message(tmp_path)


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match='--batch_size=-1'):
        FileSource(tmp_path, SPEC, -1)
    with pytest.raises(UserError, match='--resize_short_side=4'):
        FileSource(tmp_path, SPEC, 1, resize_short_side=4)
