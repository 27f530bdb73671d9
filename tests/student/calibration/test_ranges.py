"""Ranges of weights: each channel's own, unless they are next to nothing."""

import numpy as np
import tf_keras

from tests.student.test_student import own_teacher
from tests.students import student_of
from zscgan_tf.student.calibration import ranges

layers = tf_keras.layers
SIZES = np.float32([1, 1e-3, 2e-5, 1e-7, 1])


def test_a_small_channel_has_a_small_range():
    """Of depthwise kernels, too; what is next to nothing has the range of the largest."""

    def build(x):
        x = layers.Conv2D(5, 3, name='conv')(x)
        x = layers.DepthwiseConv2D(3, name='wise')(layers.ReLU()(x))
        return layers.Dense(4)(layers.GlobalAveragePooling2D()(x))

    teacher = own_teacher(build)
    for name in ('conv', 'wise'):
        layer = teacher.model.get_layer(name)
        kernel, bias = layer.get_weights()
        scales = SIZES[:, None] if name == 'wise' else SIZES
        layer.set_weights([kernel / np.abs(kernel).max((0, 1)) * scales, np.zeros_like(bias)])
    student = student_of(teacher)
    ranges.set_weight_ranges(student, 'minmax')
    for kernel in student.kernels():
        if kernel.layer.name in ('conv', 'wise'):
            values = np.abs(kernel.by_channel(kernel.variable).numpy()).max((0, 1))
            values = values.max(0) if values.ndim > 1 else values
            wanted = np.where(SIZES < 1e-5, values.max(), values)
            np.testing.assert_allclose(kernel.maximum.numpy(), wanted, rtol=1e-6)
