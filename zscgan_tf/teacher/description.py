"""What a teacher is, in words: its layers, its images and its classes."""

import collections

from zscgan_tf.teacher.graphs import nodes
from zscgan_tf.teacher.layers import SelectChannels
from zscgan_tf.teacher.tap import batch_norm_inputs
from zscgan_tf.teacher.teacher import Teacher

_ENDS = {
    'logits': 'logits',
    'softmax': 'a softmax',
    'probabilities': 'probabilities',
    'sigmoid': 'one unit',
    'labels': 'a sigmoid for each',
}


def in_one_line(teacher: Teacher) -> str:
    """A teacher in one line: convolutions, batch norms, classes, images, preprocessing."""
    counts = layer_counts(teacher)
    convolutions = sum(count for name, count in counts.items() if 'Conv' in name)
    return (
        f'{convolutions} convolutions, {len(batch_norm_inputs(teacher.model))} batch norms, '
        f'{classes(teacher)}, images of {teacher.input_spec.describe()}'
    )


def layer_counts(teacher: Teacher) -> dict[str, int]:
    """How often a teacher calls layers of each class, the most frequent class first."""
    counts = collections.Counter(type(node.layer).__name__ for node in nodes(teacher.model))
    return dict(counts.most_common())


def parameter_count(teacher: Teacher) -> int:
    """The number of a teacher's weights, without the constants that stand for its slices."""
    constant = sum(
        layer.count_params() for layer in teacher.model.layers if isinstance(layer, SelectChannels)
    )
    return teacher.model.count_params() - constant


def classes(teacher: Teacher) -> str:
    """How many classes, or independent labels, a teacher tells apart, and what it ends in."""
    kind = 'independent labels' if teacher.has_independent_labels else 'classes'
    return f'{teacher.num_classes:,} {kind} ({_ENDS[teacher.head]})'
