"""The images of a page: a sample, a grid by class, and those on which the answers differ."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from zscgan_tf.evaluation import top_class
from zscgan_tf.sources import Source, StoredSource, at_most
from zscgan_tf.sources.batches import take
from zscgan_tf.sources.generator import GeneratorSource, class_grid
from zscgan_tf.sources.writing import to_bytes
from zscgan_tf.teacher.raw_pixels import raw_pixels_spec
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite.interpreter import TfliteModel

# Larger images are shown at this size; smaller ones pixel by pixel.
_LARGEST_SIDE = 96
SHOWN_DIFFERENCES = 12


@dataclasses.dataclass(frozen=True)
class Difference:
    """An image on which the answers of the float model and of the file differ.

    Attributes:
        image: a data URI.
        label: the name of its class, or None.
        float_answer, file_answer: what the models say.
        certainty: the float model's probability of its answer.
    """

    image: str
    label: str | None
    float_answer: str
    file_answer: str
    certainty: float


@dataclasses.dataclass(frozen=True)
class Differences:
    """The images that `differences` found.

    Attributes:
        shown: the most certain ones first, at most `SHOWN_DIFFERENCES`.
        count: number of all of them.
        images: number of images that were looked at.
    """

    shown: tuple[Difference, ...]
    count: int
    images: int


def sample(source: Source, count: int) -> np.ndarray:
    """The first images of a source, [N, H, W, C]; all of a source that has fewer."""
    batches = take(source.batches(), at_most(source, count))
    return np.concatenate([np.asarray(pixels) for pixels, _ in batches])


def images_to_look_at(teacher: Teacher) -> int:
    """How many images a page evaluates in some seconds: 1,000, and 200 from 215 pixels on."""
    height, width = teacher.input_spec.image_size
    return int(np.clip(1000 * 96 * 96 // (height * width), 200, 1000))


def name_of(label: int, names: Sequence[str] | None) -> str:
    """The name of a class, its number where it has none."""
    return str(label) if names is None else names[label]


def data_uri(pixels: np.ndarray) -> str:
    """One image of pixels, [H, W, C], as a data URI; a large one is made smaller.

    Of more than three channels the first three are shown, of two the mean.
    """
    channels = pixels.shape[-1]
    shown = pixels[..., :3] if channels > 2 else np.mean(pixels, axis=-1)
    image = Image.fromarray(to_bytes(np.nan_to_num(shown)))
    file = io.BytesIO()
    if max(image.size) <= _LARGEST_SIDE:
        image.save(file, 'PNG', optimize=True)
        kind = 'png'
    else:
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        image.save(file, 'JPEG', quality=85)
        kind = 'jpeg'
    return f'data:image/{kind};base64,' + base64.b64encode(file.getvalue()).decode()


def grid(
    source: Source, teacher: Teacher, names: Sequence[str] | None
) -> list[tuple[str | None, list[str]]]:
    """Rows of images for a page: (the name of their class or None, data URIs).

    Of a generator of classes a row a class, ten classes at most, spread evenly; of other sources
    two rows.
    """
    if isinstance(source, GeneratorSource) and source.has_labels:
        classes, pixels = class_grid(source)
        rows = pixels.reshape(len(classes), -1, *pixels.shape[1:])
        return [
            (name_of(label, names), [data_uri(image) for image in row])
            for label, row in zip(classes, rows, strict=True)
        ]
    pixels = sample(source, 16)
    return [
        (None, [data_uri(image) for image in row]) for row in (pixels[:8], pixels[8:]) if row.size
    ]


def differences(
    tflite: TfliteModel,
    teacher: Teacher,
    source: StoredSource,
    count: int,
    names: Sequence[str] | None,
) -> Differences:
    """Finds the images on which the file answers something else than the float model.

    Args:
        tflite: the file.
        teacher: the float model.
        source: real images.
        count: how many of them are looked at, drawn at random.
        names: of the classes, or None.

    Raises:
        UserError: see `TfliteModel.scores`.
    """
    spec = teacher.input_spec
    if tflite.zero_pixel is not None:
        spec = raw_pixels_spec(spec, tflite.zero_pixel)
    in_probabilities = tflite.ends_in_probabilities or teacher.head == 'probabilities'
    found, images = [], 0
    for pixels, labels in take(source.batches(), min(count, source.image_count)):
        pixels = tf.convert_to_tensor(pixels, tf.float32)
        images += len(pixels)
        logits = teacher.logits(pixels).numpy()
        scores = tflite.scores(spec.to_inputs(pixels).numpy(), in_probabilities)
        if teacher.has_independent_labels:
            differs, own, other, certainty = _label_answers(logits, scores, in_probabilities, names)
        else:
            own, other = top_class(logits), top_class(scores)
            certainty = tf.nn.softmax(np.float64(logits)).numpy().max(axis=1)
            differs = own != other  # two classes may have one name
            own, other = ([name_of(i, names) for i in part] for part in (own, other))
        for number in np.flatnonzero(differs):
            label = None
            if labels is not None and not teacher.has_independent_labels:
                label = name_of(int(labels[number]), names)
            found.append((certainty[number], pixels[number], label, own[number], other[number]))
    found.sort(key=lambda entry: -entry[0])
    shown = tuple(
        Difference(data_uri(pixels.numpy()), label, own, other, float(certainty))
        for certainty, pixels, label, own, other in found[:SHOWN_DIFFERENCES]
    )
    return Differences(shown, len(found), images)


def _label_answers(logits, scores, in_probabilities, names):
    """The answers to one independent label of each image, as yes or no.

    It is that of which the float model is most certain among those on which both differ.
    """
    says_yes = scores > (0.5 if in_probabilities else 0.0)
    probabilities = 1 / (1 + np.exp(-np.float64(logits)))
    certainty = np.maximum(probabilities, 1 - probabilities)
    differs = says_yes != (logits > 0)
    label = np.argmax(np.where(differs, certainty, -1), axis=1)
    rows = np.arange(len(label))
    texts = [name_of(i, names) for i in label]
    own, other = (
        [f'{text}: {"yes" if yes else "no"}' for text, yes in zip(texts, part, strict=True)]
        for part in ((logits > 0)[rows, label], says_yes[rows, label])
    )
    return differs.any(axis=1), own, other, certainty[rows, label]
