"""Accuracy of a `.tflite` or a float model, and its agreement with the teacher.

Agreement is the share of images on which both have the same top-1 class. Divergence (Kullback and
Leibler's, of all probabilities) tells more from fewer images, of files that end in logits. Ties are
broken by the lowest class: an int8 softmax has many, so it gets no top-5.

Usage: evaluate(TfliteModel('model.tflite'), teacher, source.one_pass())
"""

import numpy as np
import tensorflow as tf
import tqdm

from zscgan_tf.errors import UserError
from zscgan_tf.litert import TfliteModel, latency
from zscgan_tf.teacher.raw_pixels import raw_pixels_spec
from zscgan_tf.teacher.teacher import Teacher

__all__ = ['TfliteModel', 'evaluate', 'latency', 'sizes']


def evaluate(candidate, teacher, batches, *, total=None):
    """Compares a candidate with its teacher and, where there are labels, with them.

    Args:
        candidate: a `TfliteModel`, a `Teacher`, or None for the teacher itself.
        teacher: a `Teacher`.
        batches: iterable of (pixels [B, H, W, C] in [0, 1], labels [B] or None); one batch is
            held at a time.
        total: number of images, for the progress bar.

    Returns:
        A dict: `images`, their number, and in per cent `agreement`; `ties`, the share of images
        whose top-1 class is not the only one with the highest score; of a candidate that gives
        logits `divergence`, the mean over images of KL(teacher || candidate) in nats; with labels
        `accuracy` and `float_accuracy`; with labels, more than five classes and a candidate that is
        float or ends in logits also `top5` and `float_top5`.

    Raises:
        UserError: no images, a label that is no class of the teacher's, labels for a part of the
            images only, or a candidate with other classes or images than the teacher's.
    """
    teacher_logits = tf.function(teacher.logits, reduce_retracing=True)
    scores_of = _scores_function(candidate, teacher)
    in_probabilities = isinstance(candidate, TfliteModel) and candidate.ends_in_probabilities
    top5 = teacher.num_classes > 5 and not (in_probabilities and candidate.quantized_output)
    images = labelled = 0
    divergence = 0.0
    sums = dict.fromkeys(
        ('agreement', 'ties', 'accuracy', 'float_accuracy', 'top5', 'float_top5'), 0
    )
    with tqdm.tqdm(total=total, desc='evaluating', unit=' images', disable=None) as bar:
        for pixels, labels in batches:
            pixels = tf.convert_to_tensor(pixels, tf.float32)
            expected = teacher_logits(pixels).numpy()
            scores = expected if scores_of is None else scores_of(pixels)
            if scores.shape != expected.shape:
                raise UserError(
                    f'{_name(candidate)} has {scores.shape[1]} classes, but the teacher '
                    f'{teacher.name} has {teacher.num_classes}.'
                )
            images += len(scores)
            sums['agreement'] += np.sum(top_class(scores) == top_class(expected))
            sums['ties'] += np.sum(np.sum(scores == scores.max(1, keepdims=True), axis=1) > 1)
            if not in_probabilities:
                divergence += np.sum(divergences(expected, scores))
            if labels is not None:
                labels = _checked_labels(labels, len(scores), teacher)
                labelled += len(labels)
                ranks, float_ranks = rank(scores, labels), rank(expected, labels)
                sums['accuracy'] += np.sum(ranks == 0)
                sums['float_accuracy'] += np.sum(float_ranks == 0)
                sums['top5'] += np.sum(ranks < 5)
                sums['float_top5'] += np.sum(float_ranks < 5)
            bar.update(len(scores))
    if not images:
        raise UserError('There are no images to evaluate on: pass at least one.')
    if labelled not in (0, images):
        raise UserError(f'Only {labelled} of {images} images have labels: label all, or none.')
    names = ['agreement', 'ties']
    if labelled:
        names += ['accuracy', 'float_accuracy'] + (['top5', 'float_top5'] if top5 else [])
    result = {'images': images, **{name: 100 * float(sums[name]) / images for name in names}}
    return result if in_probabilities else {**result, 'divergence': float(divergence) / images}


def divergences(teacher_logits, logits):
    """KL(softmax(teacher_logits) || softmax(logits)) in nats: [B, K], [B, K] -> [B]."""
    own, other = (tf.nn.log_softmax(np.float64(x)).numpy() for x in (teacher_logits, logits))
    return np.sum(np.exp(own) * (own - other), axis=1)


def top_class(scores):
    """The class with the highest score, the lowest of several: [B, K] -> [B]."""
    return np.argmax(scores, axis=1)


def rank(scores, labels):
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


def sizes(teacher, tflite):
    """Bytes of the teacher's float32 weights and of the whole file.

    Args:
        teacher: a `Teacher`.
        tflite: a `TfliteModel`.

    Returns:
        A dict: `teacher_weight_bytes`, `tflite_file_bytes`.
    """
    return {
        'teacher_weight_bytes': 4 * int(teacher.model.count_params()),
        'tflite_file_bytes': tflite.file_bytes,
    }


def _scores_function(candidate, teacher):
    """Pixels -> the candidate's scores, [B, K]; None where the candidate is the teacher."""
    if candidate is None or candidate is teacher:
        return None
    if isinstance(candidate, Teacher):
        logits = tf.function(candidate.logits, reduce_retracing=True)
        return lambda pixels: logits(pixels).numpy()
    if candidate.input_shape != teacher.input_spec.image_shape:
        raise UserError(
            f'{candidate.name}: takes images of the shape {list(candidate.input_shape)}, but the '
            f'teacher {teacher.name} takes {list(teacher.input_spec.image_shape)}.'
        )
    spec = teacher.input_spec
    if candidate.zero_pixel is not None:
        spec = raw_pixels_spec(spec, candidate.zero_pixel)
    return lambda pixels: candidate.scores(spec.to_inputs(pixels).numpy())


def check_classes(num_classes, teacher):
    """Refuses labelled images of more classes than the teacher has, before any work.

    Args:
        num_classes: one more than the images' highest label.
        teacher: a `Teacher`.
    """
    if num_classes > teacher.num_classes:
        raise _no_class(num_classes - 1, teacher)


def _no_class(label, teacher):
    return UserError(
        f'Label {label} is not a class of the teacher {teacher.name}, which has '
        f'{teacher.num_classes}: labels are 0 ... {teacher.num_classes - 1}.'
    )


def _checked_labels(labels, images, teacher):
    labels = np.asarray(labels)
    if labels.shape != (images,):
        raise UserError(
            f'A batch of {images} images has labels of the shape {list(labels.shape)}: pass one '
            f'label an image.'
        )
    wrong = labels[(labels < 0) | (labels >= teacher.num_classes)]
    if len(wrong):
        raise _no_class(wrong[0], teacher)
    return labels.astype(np.int64)


def _name(candidate):
    return f'{candidate.name}:' if isinstance(candidate, TfliteModel) else candidate.name
