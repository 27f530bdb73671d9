"""Accuracy of a candidate (a `.tflite` or a float model), and its agreement with the teacher.

Agreement (`agreements`) is the share of images on which both have the same top-1 class; with a
teacher of independent labels (several sigmoids) it is the share of all labels on which both say the
same (`label_agreements`). Divergence (`divergences`) compares all probabilities, so fewer images
tell more. It needs logits.

Usage: evaluate(TfliteModel('model.tflite'), teacher, source.one_pass())
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.sources.batches import Batch, check_labels, check_pixels, with_progress
from zscgan_tf.teacher.description import parameter_count
from zscgan_tf.teacher.raw_pixels import raw_pixels_spec
from zscgan_tf.tflite.interpreter import TfliteModel

if TYPE_CHECKING:
    from zscgan_tf.student.student import Student
    from zscgan_tf.teacher.teacher import Teacher


def evaluate(
    candidate: TfliteModel | Student | Teacher | None,
    teacher: Teacher,
    batches: Iterable[Batch],
    *,
    total: int | None = None,
) -> dict[str, float]:
    """Compares a candidate with its teacher and, where there are labels, both with them.

    Args:
        candidate: what is evaluated; None for the teacher itself.
        teacher: the float model.
        batches: images, one batch at a time. With a teacher of independent labels the images' own
            labels are ignored: one class an image says nothing of them.
        total: number of images, for the progress bar.

    Returns:
        `images`: their number.
        `classes`: number of the teacher's top-1 classes among them (of independent labels: of those
            that the teacher finds in an image at least).
        `agreement`: in per cent, see the module.
        `positives`: labels in per cent that the teacher finds; of independent labels.
        `ties`: images in per cent whose top-1 class shares its score with another (of independent
            labels: those that are neither more nor less likely than not).
        `accuracy`, `float_accuracy`: the candidate's and the teacher's, in per cent; with labels.
        `top5`, `float_top5`: likewise; of more than five classes. An int8 softmax has too many
            ties, so these are left out for a file that ends in one.
        `divergence`: mean over images in nats; of a candidate that returns logits.

    Raises:
        UserError: no images, pixels of another shape or type or beyond [0, 1], a label that is no
            class of the teacher's, labels for a part of the images only, answers that are not
            finite, or a candidate with other classes or images than the teacher's.
    """
    in_probabilities = _gives_probabilities(candidate, teacher)
    with_top5 = teacher.num_classes > 5 and not (in_probabilities and candidate.quantized_output)
    images = labelled = 0
    found_classes = np.zeros(teacher.num_classes, bool)
    sums = collections.Counter()
    answers = _answers(candidate, teacher, batches, in_probabilities)
    for scores, teacher_logits, labels in with_progress(answers, total, 'evaluating'):
        images += len(scores)
        if teacher.has_independent_labels:
            found_classes |= np.any(teacher_logits > 0, axis=0)
            values = _compare_labels(scores, teacher_logits, in_probabilities)
            values['positives'] = np.mean(teacher_logits > 0, axis=1)
        else:
            found_classes[top_class(teacher_logits)] = True
            values = {'agreement': agreements(scores, teacher_logits), 'ties': ties(scores)}
        if labels is not None:
            labelled += len(labels)
            values |= _accuracies(scores, teacher_logits, labels, with_top5)
        if not in_probabilities:
            values['divergence'] = divergences(
                teacher_logits, scores, teacher.has_independent_labels
            )
        sums.update({name: np.sum(of_images) for name, of_images in values.items()})
    if not images:
        raise UserError('There are no images to evaluate on: pass at least one.')
    if labelled not in (0, images):
        raise UserError(f'Only {labelled} of {images} images have labels: label all, or none.')
    units = {'divergence': 1}  # all others are in per cent
    means = {name: units.get(name, 100) * float(value) / images for name, value in sums.items()}
    return {'images': images, 'classes': int(np.sum(found_classes)), **means}


def agreements(scores: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    """Whether both have the same top-1 class: [B, K], [B, K] -> bool, [B]."""
    return top_class(scores) == top_class(teacher_logits)


def label_agreements(says_yes: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    """Share of an image's K independent labels on which both say the same.

    Args:
        says_yes: where the candidate's p > 0.5, bool, [B, K].
        teacher_logits: [B, K].

    Returns:
        [B], in [0, 1].
    """
    return np.mean(says_yes == (teacher_logits > 0), axis=1)


def divergences(
    teacher_logits: np.ndarray, logits: np.ndarray, independent: bool = False
) -> np.ndarray:
    """KL(teacher || candidate), Kullback and Leibler's divergence, of each image in nats.

    Args:
        teacher_logits: [B, K].
        logits: the candidate's, [B, K].
        independent: whether these are of K independent labels, whose divergences add up.

    Returns:
        float64, [B].
    """
    own, other = np.float64(teacher_logits), np.float64(logits)
    if independent:  # yes and no of each label: [B, K, 2]
        own, other = (np.stack([np.zeros_like(x), x], axis=-1) for x in (own, other))
    own, other = (tf.nn.log_softmax(x).numpy() for x in (own, other))
    kl = np.sum(np.exp(own) * (own - other), axis=-1)
    return np.sum(kl, axis=1) if independent else kl


def top_class(scores: np.ndarray) -> np.ndarray:
    """The class with the highest score, the lowest of several: [B, K] -> [B]."""
    return np.argmax(scores, axis=1)


def ties(scores: np.ndarray) -> np.ndarray:
    """Whether more than one class has the highest score: [B, K] -> bool, [B]."""
    return np.sum(scores == scores.max(axis=1, keepdims=True), axis=1) > 1


def rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label's, the lower of equal ones first.

    Args:
        scores: [B, K].
        labels: [B].

    Returns:
        [B], in [0, K).
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    lower = np.arange(scores.shape[1]) < labels[:, None]
    return np.sum((scores > own) | ((scores == own) & lower), axis=1)


def sizes(teacher: Teacher, tflite: TfliteModel) -> dict[str, int]:
    """Bytes of the teacher's weights in float32, and of the whole file."""
    return {
        'teacher_weight_bytes': 4 * parameter_count(teacher),
        'tflite_file_bytes': tflite.file_bytes,
    }


def _answers(candidate, teacher, batches, in_probabilities):
    """Yields (the candidate's scores [B, K], the teacher's logits [B, K], labels [B] or None)."""
    logits_of_teacher = tf.function(teacher.logits, reduce_retracing=True)
    scores_of = _scores_function(candidate, teacher, in_probabilities)
    for pixels, labels in batches:
        pixels = tf.constant(check_pixels(pixels, teacher.input_spec))
        teacher_logits = _finite(logits_of_teacher(pixels).numpy(), teacher)
        scores = teacher_logits if scores_of is None else _finite(scores_of(pixels), candidate)
        if scores.shape != teacher_logits.shape:
            raise UserError(
                f'{_name(candidate)} has {scores.shape[1]} classes, but the teacher '
                f'{teacher.name} has {teacher.num_classes}.'
            )
        if labels is None or teacher.has_independent_labels:
            yield scores, teacher_logits, None
        else:
            yield scores, teacher_logits, check_labels(labels, len(scores), teacher)


def _compare_labels(scores, teacher_logits, in_probabilities):
    """Agreement and ties of independent labels: name -> value of each image, [B]."""
    undecided = 0.5 if in_probabilities else 0.0
    return {
        'agreement': label_agreements(scores > undecided, teacher_logits),
        'ties': np.mean(scores == undecided, axis=1),
    }


def _accuracies(scores, teacher_logits, labels, with_top5):
    """Whether the labels are hit: name -> value of each image, bool, [B]."""
    ranks, float_ranks = rank(scores, labels), rank(teacher_logits, labels)
    values = {'accuracy': ranks == 0, 'float_accuracy': float_ranks == 0}
    return values | ({'top5': ranks < 5, 'float_top5': float_ranks < 5} if with_top5 else {})


def _gives_probabilities(candidate, teacher):
    """Whether a candidate's scores are probabilities and not logits."""
    if not isinstance(candidate, TfliteModel):
        return False
    # Where a layer follows the softmax or sigmoid, the file alone does not tell.
    return candidate.ends_in_probabilities or teacher.head == 'probabilities'


def _scores_function(candidate, teacher, in_probabilities):
    """Pixels -> the candidate's scores, [B, K]; None where the candidate is the teacher."""
    if candidate is None or candidate is teacher:
        return None
    if not isinstance(candidate, TfliteModel):
        logits = tf.function(candidate.logits, reduce_retracing=True)
        return lambda pixels: logits(pixels).numpy()
    spec = teacher.input_spec
    if candidate.input_shape != spec.image_shape:
        raise UserError(
            f'{candidate.name}: takes images of the shape {list(candidate.input_shape)}, but the '
            f'teacher {teacher.name} takes {list(spec.image_shape)}.'
        )
    if candidate.zero_pixel is not None:
        spec = raw_pixels_spec(spec, candidate.zero_pixel)
    return lambda pixels: candidate.scores(spec.to_inputs(pixels).numpy(), in_probabilities)


def _finite(scores, model):
    """The scores; refuses answers that are not finite, which no class can be told from."""
    if not np.all(np.isfinite(scores)):
        raise UserError(
            f'{_name(model)} answers with values that are not finite: look at its weights and '
            f'ranges, or make it again.'
        )
    return scores


def _name(model):
    return f'{model.name}:' if isinstance(model, TfliteModel) else model.name
