"""Level counts of files that the converter wrote from fake-quantized models."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from zscgan_tf.errors import UserError
from zscgan_tf.tflite.audit import audit
from zscgan_tf.tflite.flatbuffer import KERNEL_OPS, op_name, read_model
from zscgan_tf.tflite.levels import check_levels, kernel_integers

layers = tf_keras.layers


class Activations(layers.Layer):
    """Fake-quantization whose step is that of `bits`, on the 8-bit grid of the kernels."""

    def __init__(self, high, bits, low=0.0, clamp=True, **kwargs):
        super().__init__(**kwargs)
        step = (high - low) / (2**bits - 1)
        low = round(low / step) * step  # zero is on the grid
        high = low + (2**bits - 1) * step
        self.clamped_high = high if low < 0 and clamp else None
        self.range = (high - 255 * step, high) if low == 0 else (low, low + 255 * step)

    def call(self, values):
        if self.clamped_high is not None:
            values = tf.minimum(values, self.clamped_high)
        return tf.quantization.fake_quant_with_min_max_vars(values, *self.range)


class Kernel(layers.Layer):
    """A convolution whose kernel is integers times a step for each channel."""

    def __init__(self, integers, steps, bits=8, depthwise=False, **kwargs):
        super().__init__(**kwargs)
        self.integers, self.steps, self.bits = integers, steps, bits
        self.depthwise = depthwise

    def build(self, input_shape):
        shape = self.integers.shape
        steps = self.steps[:, None] if self.depthwise else self.steps
        values = (self.integers * steps).astype(np.float32)
        self.kernel = self.add_weight('kernel', shape, initializer=constant(values))
        self.bias = self.add_weight(
            'bias', self.steps.shape, initializer=constant(np.linspace(0.1, 0.2, len(self.steps)))
        )

    def call(self, values):
        limit = (2 ** (self.bits - 1) - 1) * self.steps
        shape = self.integers.shape
        # The op's channels are the last axis: a depthwise kernel is reshaped there and back.
        flat = tf.reshape(self.kernel, [*shape[:2], -1]) if self.depthwise else self.kernel
        flat = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            flat, -limit, limit, num_bits=self.bits, narrow_range=True
        )
        if self.depthwise:
            values = tf.nn.depthwise_conv2d(values, tf.reshape(flat, shape), [1] * 4, 'SAME')
        else:
            values = tf.nn.conv2d(values, flat, 1, 'SAME')
        return tf.nn.bias_add(values, self.bias)


class Dense(layers.Layer):
    """A dense layer whose kernel is integers times one step."""

    def __init__(self, integers, step, bits=8, **kwargs):
        super().__init__(**kwargs)
        self.integers, self.step, self.bits = integers, step, bits

    def build(self, input_shape):
        values = (self.integers * self.step).astype(np.float32)
        self.kernel = self.add_weight('kernel', values.shape, initializer=constant(values))

    def call(self, values):
        limit = (2 ** (self.bits - 1) - 1) * self.step
        kernel = tf.quantization.fake_quant_with_min_max_vars(
            self.kernel, -limit, limit, num_bits=self.bits, narrow_range=True
        )
        return tf.matmul(values, kernel)


def constant(values):
    return tf_keras.initializers.Constant(values)


def level_of(bits):
    return 2 ** (bits - 1) - 1


def known_integers(bits, first_last_bits=None):
    """Integers of the four kernels; no coarser grid than that of their bits holds them."""
    rng = np.random.default_rng(0)
    shapes = {'conv': (3, 3, 3, 8), 'depthwise': (3, 3, 8, 1), 'point': (1, 1, 8, 8)}
    found = {}
    for name, shape in {**shapes, 'dense': (8, 5)}.items():
        wide = first_last_bits and name in ('conv', 'dense')
        level = level_of(first_last_bits if wide else bits)
        found[name] = rng.integers(-level, level + 1, shape)
        channels = found[name].reshape(-1, 5 if name == 'dense' else 8)  # a view
        channels[0], channels[1] = level, level - 1
    found['conv'][..., 2] = found['depthwise'][:, :, 3] = 0  # dead channels
    return found


def converted(
    weight_bits,
    activation_bits,
    *,
    stored_bits=8,
    first_last_bits=None,
    rescaling=False,
    rest_bits=8,
):
    """A small residual net's file, and its kernels' integers.

    Args:
        weight_bits, activation_bits, first_last_bits: as in `check_levels`.
        stored_bits: that the converter is told of.
        rescaling: whether a 1x1 depthwise convolution stands in front.
        rest_bits: of the input, the output and what is only added.
    """
    integers = known_integers(weight_bits, first_last_bits)
    ends = 8 if first_last_bits else stored_bits
    rng = np.random.default_rng(1)

    def steps():
        return rng.uniform(0.5, 1.5, 8).astype(np.float32) / level_of(weight_bits)

    inputs = layers.Input((8, 8, 3))
    x = Activations(1.0, rest_bits)(inputs)
    if rescaling:
        scales = np.float32([0.9, 1.0, 1.1])
        ones = np.full((1, 1, 3, 1), 127)
        x = Activations(2.0, 8)(Kernel(ones, scales / 127, depthwise=True, name='scale')(x))
    first = steps() * level_of(weight_bits) / integers['conv'].max()
    x = layers.ReLU()(Kernel(integers['conv'], first, ends, name='conv')(x))
    x = shortcut = Activations(3.0, activation_bits)(x)
    x = Kernel(integers['depthwise'], steps(), stored_bits, depthwise=True)(x)
    x = Activations(4.0, activation_bits)(layers.ReLU()(x))
    x = Activations(5.0, rest_bits, low=-5.0, clamp=rest_bits < 8)(
        Kernel(integers['point'], steps(), stored_bits)(x)
    )
    x = layers.ReLU()(layers.Add()([x, shortcut]))
    x = Activations(4.0, activation_bits)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = Activations(2.0, activation_bits)(x)
    x = Dense(integers['dense'], 1 / integers['dense'].max(), ends, name='dense')(x)
    x = Activations(4.0, rest_bits, low=-4.0, clamp=rest_bits < 8)(x)
    converter = tf.lite.TFLiteConverter.from_keras_model(tf_keras.Model(inputs, x))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert(), integers


def images(count=64):
    rng = np.random.default_rng(2)
    # Bright and dark ones, so that all levels are used.
    brightness = rng.uniform(0, 1, (count, 1, 1, 1))
    return (rng.uniform(0, 1, (count, 8, 8, 3)) * brightness).astype(np.float32)


def stored_kernels(data):
    model = read_model(data)
    ops = [op for op in model.subgraphs[0].operators if op_name(model, op) in KERNEL_OPS]
    return [kernel_integers(model, op) for op in ops]


def as_stored(integers):
    """[channels, weights] of the four kernels, in the file's order of axes."""
    return [
        np.moveaxis(integers['conv'], 3, 0).reshape(8, -1),
        integers['depthwise'].reshape(9, 8).T,
        np.moveaxis(integers['point'], 3, 0).reshape(8, -1),
        integers['dense'].T,
    ]


def most_distinct(integers):
    return max(len(set(channel)) for kernel in as_stored(integers) for channel in kernel)


@pytest.fixture(scope='module')
def file_w8a8():
    return converted(8, 8)


@pytest.fixture(scope='module')
def file_w6a6():
    return converted(6, 6)


@pytest.fixture(scope='module')
def file_w4a4():
    return converted(4, 4, stored_bits=4)


def test_6_bits_in_int8(file_w6a6):
    data, integers = file_w6a6
    assert audit(data).weight_types == {'int8': 4}
    report = check_levels(data, [images()], weight_bits=6, activation_bits=6)
    assert (report.kernels, report.activations) == (4, 3)
    assert report.weight_levels == most_distinct(integers) <= 63
    assert 48 < report.activation_levels <= 64
    for stored, known in zip(stored_kernels(data), as_stored(integers), strict=True):
        np.testing.assert_array_equal(stored, known)


def test_4_bits_in_int4(file_w4a4):
    data, integers = file_w4a4
    assert audit(data).weight_types == {'int4': 4}
    report = check_levels(data, [images()], weight_bits=4, activation_bits=4)
    assert report.weight_levels == most_distinct(integers) <= 15
    assert report.activation_levels == 16
    for stored, known in zip(stored_kernels(data), as_stored(integers), strict=True):
        np.testing.assert_array_equal(stored, known)


def test_batches_are_counted_together(file_w4a4):
    data, _ = file_w4a4
    one = check_levels(data, [images()], weight_bits=4, activation_bits=4)
    several = np.split(images(), [5, 30, 55])
    assert check_levels(data, several, weight_bits=4, activation_bits=4) == one


def test_8_bits_need_no_images(file_w8a8):
    data, integers = file_w8a8
    report = check_levels(data, None, weight_bits=8, activation_bits=8)
    assert report.activation_levels == 256 and (report.kernels, report.activations) == (4, 3)
    assert report.weight_levels == most_distinct(integers)


def test_weights_of_8_bits_are_no_6_bit_weights(file_w8a8):
    with pytest.raises(UserError, match="6-bit weights: CONV_2D at layer '.+' needs .* 255 levels"):
        check_levels(file_w8a8[0], [images()], weight_bits=6, activation_bits=6)


def test_depthwise_kernels_of_8_bits_are_found(file_w8a8):
    # The first kernel may be wide: the next is depthwise, with 9 weights a channel.
    with pytest.raises(UserError, match='DEPTHWISE_CONV_2D'):
        check_levels(file_w8a8[0], [], weight_bits=6, activation_bits=8, first_last_bits=8, **ENDS)


def test_silent_8_bit_activations():
    data, _ = converted(6, 8)
    check_levels(data, None, weight_bits=6, activation_bits=8)
    with pytest.raises(UserError, match="6-bit activations: .* what DEPTHWISE_CONV_2D at layer '"):
        check_levels(data, [images()], weight_bits=6, activation_bits=6)


ENDS = {'first_last': ['conv', 'dense'], 'constants': ['scale']}
W4A4 = {'weight_bits': 4, 'activation_bits': 4}


def test_first_and_last_layer():
    data, _ = converted(4, 4, stored_bits=4, first_last_bits=8, rescaling=True)
    assert audit(data).weight_types == {'int8': 3, 'int4': 2}
    report = check_levels(data, [images()], **W4A4, first_last_bits=8, **ENDS)
    # The input behind its rescaling stays at 8 bits.
    assert (report.kernels, report.activations) == (5, 3)
    assert report.weight_levels > 15
    with pytest.raises(UserError, match='does not hold 4-bit weights: CONV_2D'):
        check_levels(data, [images()], **W4A4)
    with pytest.raises(UserError, match='does not hold 6-bit weights: CONV_2D'):
        check_levels(data, [images()], **W4A4, first_last_bits=6, **ENDS)
    with pytest.raises(UserError, match="4-bit activations: .* what CONV_2D at layer '"):
        check_levels(data, [images()], **W4A4, first_last_bits=8, first_last=ENDS['first_last'])
    with pytest.raises(UserError, match="no kernel of layer 'elsewhere'"):
        names = ['conv', 'dense', 'elsewhere']
        check_levels(data, [images()], **W4A4, first_last_bits=8, first_last=names)


def test_first_and_last_layers_of_fewer_bits():
    data, _ = converted(6, 8)
    check_levels(data, None, weight_bits=6, activation_bits=8)
    with pytest.raises(UserError, match='does not hold 4-bit weights: CONV_2D'):
        check_levels(
            data, None, weight_bits=6, activation_bits=8, first_last_bits=4, first_last=['conv']
        )


def test_the_scope_of_activations(file_w4a4):
    with pytest.raises(UserError, match='4-bit activations'):
        check_levels(
            file_w4a4[0], [images()], weight_bits=4, activation_bits=4, activation_scope='all'
        )
    data, _ = converted(4, 4, stored_bits=4, rest_bits=4)
    widths = {'weight_bits': 4, 'activation_bits': 4}
    report = check_levels(data, [images()], **widths, activation_scope='all')
    assert report.activation_levels == 16 and report.activations > 5
    fewer = check_levels(data, [images()], **widths, activation_scope='all_but_input')
    assert fewer.activations == report.activations - 1


def test_one_bit_less_is_refused(file_w6a6):
    data, _ = file_w6a6
    with pytest.raises(UserError, match='5-bit weights'):
        check_levels(data, [images()], weight_bits=5, activation_bits=6)
    with pytest.raises(UserError, match='5-bit activations'):
        check_levels(data, [images()], weight_bits=6, activation_bits=5)


def test_no_images(file_w6a6):
    with pytest.raises(UserError, match='no images'):
        check_levels(file_w6a6[0], [], weight_bits=6, activation_bits=6)


def test_no_tflite():
    with pytest.raises(UserError, match='not a TFLite model'):
        check_levels(b'nothing', [], weight_bits=6, activation_bits=6)
