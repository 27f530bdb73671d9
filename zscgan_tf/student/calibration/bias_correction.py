"""Bias correction (Nagel et al., Data-free quantization, section 4.2), on generated images.

Rounding a kernel moves the mean of each channel that it computes: its error times the mean input.
Where a folded batch norm divided by a small deviation, that shift is larger than all that differs
between images. Biases are stored in 32 bits and take it back.
"""

import tensorflow as tf
import tf_keras
import tqdm

from zscgan_tf.student.folding import kernel_name


def correct_biases(student, batches, total=None):
    """Subtracts from the student's biases what the rounding of kernels adds to their channels.

    Args:
        student: a `Student` of kind 'folded' whose ranges are set.
        batches: a function that returns an iterable of batches of pixels.
        total: number of images, for the progress bar.
    """
    biases, shifts = [], []
    for wrapper in student.model.layers:
        for kernel, quantizer, variables in getattr(wrapper, '_weight_vars', []):
            layer = student.twin.get_layer(wrapper.layer.name)
            # As tensors: a custom gradient refuses a strategy's variables.
            kernel = tf.convert_to_tensor(kernel)
            ranges = {name: tf.convert_to_tensor(v) for name, v in variables.items()}
            error = quantizer(kernel, training=False, weights=ranges)
            error -= tf.convert_to_tensor(getattr(layer, kernel_name(layer)))
            biases.append(wrapper.layer.bias)
            shifts.append(tf.reduce_mean(_with_kernel(layer, error)(layer.input), [0, 1, 2]))
    if not shifts:
        return
    model = tf_keras.Model(student.twin.input, shifts)
    run = tf.function(lambda pixels: model(student.input_spec.to_inputs(pixels), training=False))
    sums, images = [0.0] * len(shifts), 0
    with tqdm.tqdm(total=total, desc='bias correction', unit=' images', disable=None) as bar:
        for pixels in batches():
            found = tf.nest.flatten(run(tf.convert_to_tensor(pixels)))
            sums = [s + len(pixels) * f.numpy() for s, f in zip(sums, found, strict=True)]
            images += len(pixels)
            bar.update(len(pixels))
    for bias, shift in zip(biases, sums, strict=True):
        bias.assign_sub(shift / images)


def _with_kernel(layer, kernel):
    """A linear layer like another, with a kernel of its own and no bias."""
    config = {**layer.get_config(), 'name': f'{layer.name}_error', 'activation': 'linear'}
    copy = type(layer).from_config(config)
    copy.build(layer.input_shape)
    getattr(copy, kernel_name(layer)).assign(kernel)
    return copy
