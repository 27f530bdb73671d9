"""Accuracy of a `.tflite` or a float model, and its agreement with the teacher.

Agreement is the share of images on which both have the same top-1 class. Divergence (Kullback and
Leibler's, of all probabilities) tells more from fewer images, of files that end in logits. Ties are
broken by the lowest class: an int8 softmax has many, so it gets no top-5.

Of a teacher of independent labels (several sigmoids) agreement is the share of all labels on which
both say the same, yes where p > 0.5.

Usage: evaluate(TfliteModel('model.tflite'), teacher, source.one_pass())
"""

import numpy as np
import tensorflow as tf
import tqdm

from zscgan_tf.errors import UserError
from zscgan_tf.teacher.raw_pixels import raw_pixels_spec
from zscgan_tf.tflite.interpreter import TfliteModel, latency

__all__ = ['TfliteModel', 'evaluate', 'latency', 'sizes']


def evaluate(candidate, teacher, batches, *, total=None):
    """Compares a candidate with its teacher and, where there are labels, with them.

    Args:
        candidate: a `TfliteModel`, a `Student`, a `Teacher`, or None for the teacher itself.
        teacher: a `Teacher`.
        batches: iterable of (pixels [B, H, W, C] in [0, 1], labels [B] or None); one batch is
            held at a time. One class an image says nothing of independent labels: of a teacher
            that has them the labels of images are not looked at.
        total: number of images, for the progress bar.

    Returns:
        A dict: `images`, their number; `classes`, the number of the teacher's top-1 classes among
        them (of labels: those that are in an image at least); and in per cent `agreement`; `ties`,
        the share of images whose top-1 class is not the only one with the highest score (of
        labels: the share of those that are neither more nor less likely than not); of a candidate
        that gives
        logits `divergence`, the mean over images of KL(teacher || candidate) in nats; with labels
        `accuracy` and `float_accuracy`; with labels, more than five classes and a candidate that is
        float or ends in logits also `top5` and `float_top5`.

    Raises:
        UserError: no images, a label that is no class of the teacher's, labels for a part of the
            images only, answers that are not finite, or a candidate with other classes or images
            than the teacher's.
    """
    teacher_logits = tf.function(teacher.logits, reduce_retracing=True)
    in_probabilities = _gives_probabilities(candidate, teacher)
    scores_of = _scores_function(candidate, teacher, in_probabilities)
    top5 = teacher.num_classes > 5 and not (in_probabilities and candidate.quantized_output)
    images = labelled = 0
    divergence = 0.0
    classes = np.zeros(teacher.num_classes, bool)
    sums = dict.fromkeys(
        ('agreement', 'ties', 'accuracy', 'float_accuracy', 'top5', 'float_top5'), 0
    )
    with tqdm.tqdm(total=total, desc='evaluating', unit=' images', disable=None) as bar:
        for pixels, labels in batches:
            pixels = tf.convert_to_tensor(pixels, tf.float32)
            expected = _finite(teacher_logits(pixels).numpy(), teacher)
            scores = expected if scores_of is None else _finite(scores_of(pixels), candidate)
            if scores.shape != expected.shape:
                raise UserError(
                    f'{_name(candidate)} has {scores.shape[1]} classes, but the teacher '
                    f'{teacher.name} has {teacher.num_classes}.'
                )
            images += len(scores)
            if teacher.has_labels:
                middle = 0.5 if in_probabilities else 0.0
                classes |= np.any(expected > 0, axis=0)
                sums['agreement'] += np.sum(np.mean((scores > middle) == (expected > 0), axis=1))
                sums['ties'] += np.sum(np.mean(scores == middle, axis=1))
                labels = None
            else:
                classes[top_class(expected)] = True
                sums['agreement'] += np.sum(top_class(scores) == top_class(expected))
                sums['ties'] += np.sum(np.sum(scores == scores.max(1, keepdims=True), axis=1) > 1)
            if not in_probabilities:
                divergence += np.sum(divergences(expected, scores, teacher.has_labels))
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
    result = {
        'images': images,
        'classes': int(np.sum(classes)),
        **{name: 100 * float(sums[name]) / images for name in names},
    }
    return result if in_probabilities else {**result, 'divergence': float(divergence) / images}


def divergences(teacher_logits, logits, has_labels=False):
    """KL of the candidate's answers from the teacher's in nats: [B, K], [B, K] -> [B].

    Args:
        teacher_logits, logits: [B, K].
        has_labels: whether these are of K independent labels, whose divergences add up.
    """
    own, other = np.float64(teacher_logits), np.float64(logits)
    if has_labels:  # yes and no of each label: [B, K, 2]
        own, other = (np.stack([np.zeros_like(x), x], axis=-1) for x in (own, other))
    own, other = (tf.nn.log_softmax(x).numpy() for x in (own, other))
    kl = np.sum(np.exp(own) * (own - other), axis=-1)
    return np.sum(kl, axis=1) if has_labels else kl


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


def _gives_probabilities(candidate, teacher):
    """Whether a candidate's scores are probabilities and not logits."""
    if not isinstance(candidate, TfliteModel):
        return False
    # Behind a softmax or sigmoid that something follows, the file alone does not tell.
    return candidate.ends_in_probabilities or teacher.head == 'probabilities'


def _scores_function(candidate, teacher, in_probabilities):
    """Pixels -> the candidate's scores, [B, K]; None where the candidate is the teacher."""
    if candidate is None or candidate is teacher:
        return None
    if not isinstance(candidate, TfliteModel):
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
    return lambda pixels: candidate.scores(spec.to_inputs(pixels).numpy(), in_probabilities)


def _finite(scores, model):
    """The scores; refuses answers that are not finite, which no class can be told from."""
    if not np.all(np.isfinite(scores)):
        raise UserError(
            f'{_name(model)} answers with values that are not finite: look at its weights and '
            f'ranges, or make it again.'
        )
    return scores


def check_classes(num_classes, teacher):
    """Refuses images of more classes than the teacher has, before any work.

    The classes of images are not looked at where the teacher gives independent labels.

    Args:
        num_classes: one more than the images' highest label.
        teacher: a `Teacher`.
    """
    if num_classes > teacher.num_classes and not teacher.has_labels:
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
