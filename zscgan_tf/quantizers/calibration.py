"""Which images calibrate: those on which a tensor of the model is at its lowest or highest.

TFLite's calibrator keeps the minimum and the maximum of every tensor over all images and forgets
the rest, on one thread and with plain kernels. So only the images that set these records have to
pass through it, and TensorFlow finds them several times as fast: the ranges are the same.
"""

import numpy as np
import tensorflow as tf

# What the converter folds a batch norm into; behind anything else it becomes MUL and ADD.
FOLDED = ('Conv2D', 'DepthwiseConv2dNative', 'BiasAdd', 'BatchToSpaceND')


class Records:
    """The images that hold the records so far.

    At most two images for each tensor of the model are kept, however many were seen.

    Args:
        model: a functional tf_keras model of images.
    """

    def __init__(self, model):
        self.extremes = extremes_function(model)
        self._images = {}  # number -> image
        self._best = self._holders = None  # of each record: its value, the number of its image
        self._seen = 0

    def add(self, inputs):
        """Sees a batch of the model's inputs, [B, H, W, C]."""
        values = self.extremes(tf.constant(inputs)).numpy()  # [records, B]
        if self._best is None:
            self._best = np.full(len(values), -np.inf, np.float32)
            self._holders = np.full(len(values), -1)
        best = values.max(axis=1)
        broken = best > self._best
        self._best[broken] = best[broken]
        self._holders[broken] = self._seen + values.argmax(axis=1)[broken]
        holders = set(self._holders.tolist()) - {-1}
        # Copies: a view would keep the whole batch.
        new = {n: inputs[n - self._seen].copy() for n in holders if n >= self._seen}
        self._images = {n: i for n, i in self._images.items() if n in holders} | new
        self._seen += len(inputs)

    def images(self):
        """The record holders in the order in which they came, [N, H, W, C]."""
        return np.stack([self._images[number] for number in sorted(self._images)])


def extremes_function(model):
    """A function of inputs, [B, H, W, C]: -minimum and maximum of every tensor, [records, B]."""

    @tf.function(input_signature=[tf.TensorSpec(model.input_shape, tf.float32)])
    def extremes(inputs):
        model(inputs, training=False)
        batch = tf.shape(inputs)[0]
        found = []
        for tensor in _tensors(tf.compat.v1.get_default_graph()):
            # Dilated layers move positions into the batch, [blocks * B, ...], and back.
            flat = tf.reshape(tensor, [tf.shape(tensor)[0], -1])
            for values in (-tf.reduce_min(flat, axis=1), tf.reduce_max(flat, axis=1)):
                found.append(tf.reduce_max(tf.reshape(values, [-1, batch]), axis=0))
        return tf.stack(found)

    return extremes


def _tensors(graph):
    """Every float tensor of a graph that depends on the images."""
    tensors = []
    for op in graph.get_operations():
        for tensor in op.outputs[:1]:
            rank = tensor.shape.rank
            if tensor.dtype == tf.float32 and rank and tensor.shape[0] is None:
                tensors.append(tensor)
        if op.type == 'FusedBatchNormV3' and op.inputs[0].op.type not in FOLDED:
            x, scale, _, _, variance = op.inputs
            epsilon = op.get_attr('epsilon')
            tensors.append(x * (scale * tf.math.rsqrt(variance + epsilon)))
    return tensors
