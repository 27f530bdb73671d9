"""DFQ: equalization and absorption leave the function, corrected biases leave the mean."""

import dataclasses

import numpy as np
import pytest
import tf_keras

from tests.conftest import randomize
from tests.students import student_of
from tests.tiny import tiny_teacher
from zscgan_tf import pipeline
from zscgan_tf.errors import UserError
from zscgan_tf.methods import cross_layer, dfq
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.methods.moments import propagate
from zscgan_tf.report.summary import summary
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.student.calibration.ranges import set_ranges
from zscgan_tf.student.folding import fold_with_norms
from zscgan_tf.teacher.flattening.flatten import flatten
from zscgan_tf.teacher.loading import load_teacher
from zscgan_tf.tflite.flatbuffer import op_name, read_model

layers = tf_keras.layers


def images_of_several_colours(count=400):
    rng = np.random.default_rng(0)
    colours, noise = rng.uniform(size=(count, 1, 1, 3)), rng.uniform(size=(count, 8, 8, 3))
    return (0.95 * colours + 0.05 * noise).astype(np.float32)


PIXELS = images_of_several_colours()
SPEC = {'preprocessing': 'unit'}


def outputs(model, pixels=PIXELS):
    return model(pixels, training=False).numpy()


def block(x, layer, high=None):
    x = layers.BatchNormalization()(layer(x))
    return layers.ReLU(high)(x)


def mobile_net(high=None, padding='same', classes=5):
    """Three depthwise blocks; between them channels can be scaled."""
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(8, 3, padding=padding, use_bias=False), high)
    for filters in (12, 16):
        x = block(x, layers.DepthwiseConv2D(3, padding=padding, use_bias=False), high)
        x = block(x, layers.Conv2D(filters, 1, use_bias=False), high)
    x = layers.Dense(classes)(layers.GlobalAveragePooling2D()(x))
    return with_true_moments(randomize(tf_keras.Model(images, x)))


def batch_norms(model):
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def with_true_moments(model, wider=1.0):
    """Stores in each batch norm what its inputs have on `PIXELS`, the variance `wider` times."""
    for norm in batch_norms(model):
        x = outputs(tf_keras.Model(model.input, norm.input))
        norm.moving_mean.assign(x.mean((0, 1, 2)))
        norm.moving_variance.assign(x.var((0, 1, 2)) * wider)
    return model


def odd_scales(model):
    """Gives batch norms scales of either sign, and of 0."""
    rng = np.random.default_rng(1)
    for norm in batch_norms(model):
        gamma = norm.gamma.numpy() * rng.choice([-1, 1], norm.gamma.shape)
        gamma[:2] = 0
        norm.gamma.assign(gamma)
    return with_true_moments(model)


def folded(model):
    """The float student, its norms and its pairs."""
    twin, norms = fold_with_norms(flatten(model))
    return twin, norms, cross_layer.find_pairs(twin)


def assert_same(twin, expected, share=1e-5):
    found = outputs(twin)
    assert np.abs(found - expected).max() < share * expected.std()


def branched():
    """Groups, a multiplier, pooling, padding, a batch norm of its own, an addition."""
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(8, 3, padding='same'))
    x = layers.ZeroPadding2D()(layers.AveragePooling2D()(x))
    x = block(x, layers.Conv2D(8, 3, groups=2))
    x = y = block(layers.MaxPooling2D(2, 1)(x), layers.DepthwiseConv2D(1, depth_multiplier=2))
    x = layers.Add()([block(x, layers.Conv2D(16, 1)), y])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(block(x, layers.Conv2D(16, 1, groups=4))))
    return with_true_moments(randomize(tf_keras.Model(images, x)))


@pytest.mark.parametrize('make, count', [(mobile_net, 5), (branched, 4)])
def test_equalization_leaves_the_function_and_makes_both_sides_equal(make, count):
    model = odd_scales(make())
    twin, norms, pairs = folded(model)
    assert len(pairs) == count
    before = cross_layer._weights(twin)
    used = [cross_layer._are_used(*cross_layer._magnitudes(pair, before)) for pair in pairs]
    assert not all(map(np.all, used))  # those of gamma 0 are not
    equalized, sweeps = cross_layer.equalize(twin, norms, pairs)
    assert 1 < sweeps < cross_layer.MOST_SWEEPS
    assert_same(twin, outputs(model))
    weights, different = cross_layer._weights(twin), 0
    for pair, of_pair in zip(pairs, used, strict=True):
        first, second = cross_layer._magnitudes(pair, weights)
        np.testing.assert_allclose(first[of_pair], second[of_pair], rtol=1e-3)
        first, second = cross_layer._magnitudes(pair, before)
        different += np.abs(first - second).max() > 0.1
        # The norms still say what the layer gives.
        values = outputs(tf_keras.Model(twin.input, twin.get_layer(pair.first.name).output))
        norm = equalized[pair.first.name]
        np.testing.assert_allclose(values.mean((0, 1, 2)), norm.mean, atol=1e-3 * values.std())
        deviation = values.std((0, 1, 2))
        np.testing.assert_allclose(deviation, norm.deviation, atol=1e-3 * values.std())
    assert different


def test_the_largest_weights_of_a_channel_by_hand():
    """Against loops over the channels of every kind of convolution."""
    twin, _, _ = folded(branched())
    for layer in filter(cross_layer._is_weighted, twin.layers):
        kernel = np.float64(layer.get_weights()[0])
        inputs = layer.input_shape[-1]
        gives = np.zeros(layer.output_shape[-1])
        reads = np.zeros(inputs)
        for c in range(inputs):
            for k in range(len(gives)):
                if isinstance(layer, layers.DepthwiseConv2D):
                    if k // layer.depth_multiplier != c:
                        continue
                    weights = kernel[:, :, c, k % layer.depth_multiplier]
                else:
                    size, outputs = kernel.shape[2], len(gives) // layer.groups
                    if c // size != k // outputs:
                        continue
                    weights = kernel[:, :, c % size, k]
                gives[k] = max(gives[k], np.abs(weights).max())
                reads[c] = max(reads[c], np.abs(weights).max())
        np.testing.assert_array_equal(cross_layer._largest_of_output(layer, kernel), gives)
        np.testing.assert_array_equal(cross_layer._largest_of_input(layer, kernel), reads)


def test_weights_of_dead_channels_do_not_make_the_range():
    """A channel without weights on one side is scaled to the size of the others, no further."""
    first, second = np.array([1e-12, 4.0, 9.0, 1.0]), np.array([900.0, 1.0, 1.0, 1e-15])
    used = np.array([False, True, True, False])
    scales = cross_layer.scales_of(first, second, used)
    np.testing.assert_allclose(scales, [1 / 900, 2, 3, 1])
    assert np.all(cross_layer.scales_of(np.zeros(2), np.zeros(2), np.zeros(2, bool)) == 1)


@pytest.mark.parametrize('padding', ['valid', 'same'])
def test_absorption_leaves_the_function(padding):
    model = mobile_net(padding=padding)
    for norm in batch_norms(model):
        norm.beta.assign(norm.beta + 5)
    # With stored deviations of four times the true ones, no value is below mean - 3 deviations.
    with_true_moments(model, wider=16)
    expected = outputs(model)
    twin, norms, pairs = folded(model)
    lowered, count = cross_layer.absorb_biases(twin, norms, pairs, False)
    assert count > 10
    assert_same(twin, expected)
    for pair in pairs:
        moved = norms[pair.first.name].mean - lowered[pair.first.name].mean
        assert pair.is_padded == (padding == 'same' and 'depthwise' in pair.second.name)
        assert np.all(moved == 0) == pair.is_padded and np.all(moved >= 0)
        values = outputs(tf_keras.Model(twin.input, twin.get_layer(pair.first.name).output))
        mean = values.mean((0, 1, 2))
        np.testing.assert_allclose(mean, lowered[pair.first.name].mean, atol=1e-3)


def test_absorption_into_padded_convolutions_is_wrong_at_the_border_alone():
    twin, norms, pairs = folded(with_true_moments(mobile_net()))
    first = pairs[0]
    raised = {
        first.first.name: dataclasses.replace(norms[first.first.name], deviation=np.zeros(8)),
    }
    bias = first.first.bias
    bias.assign_add(np.full(8, 50.0, np.float32))
    raised[first.first.name] = dataclasses.replace(
        raised[first.first.name], mean=norms[first.first.name].mean + 20
    )
    observer = tf_keras.Model(twin.input, first.second.output)
    before = outputs(observer, PIXELS[:4])
    _, count = cross_layer.absorb_biases(twin, raised, pairs[:1], True)
    assert count == 8
    difference = np.abs(outputs(observer, PIXELS[:4]) - before)
    assert difference[:, 1:-1, 1:-1].max() < 1e-4 * before.std()
    assert difference[:, 0].max() > 0.1 * before.std()


def test_relu6_becomes_relu_but_in_a_hard_sigmoid():
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(4, 1), 6.0)
    x = layers.Activation('hard_sigmoid')(layers.BatchNormalization()(layers.Conv2D(4, 1)(x)))
    twin, _ = fold_with_norms(flatten(randomize(tf_keras.Model(images, x))))
    new, replaced = cross_layer.without_relu6(twin)
    highs = [layer.max_value for layer in new.layers if isinstance(layer, layers.ReLU)]
    assert len(replaced) == 1 and highs == [None, 6.0]
    np.testing.assert_array_equal(outputs(new), outputs(twin))


def test_clips_leave_the_function_and_scale():
    model = odd_scales(mobile_net(high=1.0))
    flat = flatten(model)
    for layer in flat.layers:  # many values are clipped, of a ReLU6 too
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(layer.gamma * 5)
            layer.beta.assign(layer.beta + 3)
    for layer in flat.layers:
        layer.max_value = 6.0 if isinstance(layer, layers.ReLU) else None
    expected = outputs(flat)
    twin, norms = fold_with_norms(flat)
    plain, replaced = cross_layer.without_relu6(twin)
    assert np.abs(outputs(plain) - expected).max() > 0.1 * expected.std()
    twin, clipped = cross_layer.with_clips(twin)
    assert clipped == replaced and len(clipped) == 5
    assert_same(twin, expected, 1e-3)  # 6 - (6 - x) loses bits of x
    pairs = cross_layer.find_pairs(twin)
    norms, _ = cross_layer.equalize(twin, norms, pairs)
    assert_same(twin, expected, 1e-3)
    assert [len(pair.clips) for pair in pairs] == [2] * 5
    first, second = (twin.get_layer(name).get_weights()[1] for name in pairs[0].clips)
    assert np.ptp(first) > 1 and np.array_equal(first, second)

    # Its three tensors have one range, and nothing is rounded but once.
    cross_layer.limit_clips(twin, pairs, propagate(twin, norms, (0, 1)))
    moments = propagate(twin, norms, (0, 1))
    relu, _, left, last = (layer.name for layer in pairs[0].between)
    (high,) = {np.float32(moments[name].high.max()) for name in (relu, left, last)}
    assert np.float32(twin.get_layer(last).get_weights()[1].max()) == high
    clip = tf_keras.Model(twin.get_layer(relu).output, twin.get_layer(last).output)
    grid = high / 255 * np.random.default_rng(0).integers(0, 256, (1, 8, 8, 8))
    bias = np.float64(twin.get_layer(last).get_weights()[1])
    left_over = np.round(np.maximum(bias - grid, 0) / high * 255) / 255 * high
    found = np.round((bias - left_over) / high * 255)
    exact = np.round(np.float64(outputs(clip, np.float32(grid))) / high * 255)
    assert np.abs(found - exact).max() <= 1 and np.mean(found == exact) > 0.99


def test_clips_and_absorption():
    """Clips are lowered by what a channel is lowered by."""
    model = mobile_net(high=6.0, padding='valid')
    for norm in batch_norms(model):
        norm.beta.assign(norm.beta + 5)
    with_true_moments(model, wider=16)
    twin, norms = fold_with_norms(flatten(model))
    twin, _ = cross_layer.with_clips(twin)
    pairs = cross_layer.find_pairs(twin)
    _, count = cross_layer.absorb_biases(twin, norms, pairs, False)
    assert count > 10
    assert_same(twin, outputs(model), 1e-4)
    (bias, other) = (twin.get_layer(name).get_weights()[1] for name in pairs[0].clips)
    assert np.array_equal(bias, other) and np.all((0 <= bias) & (bias < 6))


def test_corrected_biases_leave_the_mean():
    """Over Gaussian inputs, of the moments that the batch norms store."""
    teacher = load_teacher(mobile_net(), input_spec=SPEC)
    made = dfq.make_student(teacher, DfqOptions.resolve('small', {'weight_bits': 4}))
    rng, checked, shifted = np.random.default_rng(0), 0, 0
    _, norms = fold_with_norms(flatten(teacher.logits_model))
    norms, _ = cross_layer.equalize(*folded(teacher.logits_model))
    twin = made.student.twin
    for pair in cross_layer.find_pairs(twin):
        norm = propagate(twin, norms, (0, 1))[pair.first.name]
        # One position wide: the first lines of a padded convolution would read zeros.
        shape = (20_000, *pair.second.kernel_size, len(norm.mean))
        x = np.maximum(rng.normal(size=shape) * np.sqrt(norm.variance) + norm.mean, 0)
        (kernel,) = (k for k in made.student.kernels() if k.layer.name == pair.second.name)
        exact, rounded = pair.second.get_weights()[0], kernel.rounded().numpy()
        moved = kernel.layer.bias.numpy() - pair.second.get_weights()[1]
        sums = 'nhwc,hwcm->ncm' if 'depthwise' in pair.second.name else 'nhwc,hwco->no'
        errors = np.einsum(sums, x, np.float64(rounded) - exact).reshape(len(x), -1)
        bound = 4 * errors.std(0) / np.sqrt(len(x)) + 1e-6
        absorbed = made.absorbed and not pair.is_padded
        if not absorbed:
            assert np.all(np.abs(errors.mean(0) + moved) < bound)
            shifted += np.sum(np.abs(errors.mean(0)) > bound)
            checked += 1
    assert checked and shifted


def uneven_mobile_net():
    """Depthwise channels scaled from 1 to 1,000; the next layer takes it back."""
    model = mobile_net(classes=3)
    kinds = [type(layer) for layer in model.layers]
    for index, kind in enumerate(kinds):
        if kind is layers.DepthwiseConv2D:
            norm, pointwise = model.layers[index + 1], model.layers[index + 3]
            factors = np.logspace(0, -3, norm.gamma.shape[0]).astype(np.float32)
            norm.gamma.assign(norm.gamma * factors)
            norm.beta.assign(norm.beta * factors)
            pointwise.kernel.assign(pointwise.kernel / factors[:, None])
    return model


def agreement(student, teacher):
    """In per cent, on the images on which the teacher is not undecided: nine of ten."""
    expected, found = teacher.logits(PIXELS).numpy(), student.logits(PIXELS).numpy()
    best = np.sort(expected, axis=1)
    margins = best[:, -1] - best[:, -2]
    same = np.argmax(expected, axis=1) == np.argmax(found, axis=1)
    return 100 * np.mean(same[margins > np.quantile(margins, 0.1)])


def sharpened(model):
    """Centres and scales the logits, so that noise images are of all classes."""
    dense = model.layers[-1]
    logits = outputs(model)
    dense.bias.assign(dense.bias - logits.mean(0))
    return model


def test_scales_from_1_to_1000_are_equalized():
    model = sharpened(uneven_mobile_net())
    teacher = load_teacher(model, input_spec=SPEC)
    counts = np.bincount(np.argmax(outputs(model), axis=1), minlength=3)
    assert counts.max() < 0.6 * len(PIXELS)
    plain = student_of(teacher, weight_granularity='tensor')
    set_ranges(plain, lambda: [PIXELS], 'minmax')
    made = dfq.make_student(teacher, DfqOptions.resolve('small', {}))
    before, after = agreement(plain, teacher), agreement(made.student, teacher)
    assert before < 50 < 95 < after, (before, after)


def test_without_images_nothing_is_said_of_the_agreement(tmp_path, caplog):
    teacher = load_teacher(mobile_net(high=6.0), input_spec=SPEC)
    with caplog.at_level('INFO', logger='zscgan_tf'):
        result = pipeline.quantize_dfq(teacher, tmp_path / 'a.tflite', relu6='replaced')
    assert 'DFQ: 5 ReLU6 became ReLU, 5 pairs equalized in ' in caplog.text
    assert result.measured is None and not result.disagrees(teacher)
    text = summary(teacher, result)
    assert 'agreement    not measured, for lack of images: pass --evaluation_images' in text
    assert 'ranges       from the means and deviations of batch norms, no images' in text
    assert '5 pairs equalized' in text and 'before ' not in text and 'WARNING' not in text
    model = read_model((tmp_path / 'a.tflite').read_bytes())
    kernels = [
        model.subgraphs[0].tensors[op.inputs[1]].quantization.scale
        for op in model.subgraphs[0].operators
        if op_name(model, op).endswith('CONV_2D')
    ]
    assert len(kernels) == 6 and all(np.ptp(scales) == 0 for scales in kernels)
    assert result.report.integer_op_count == result.report.op_count
    with pytest.raises(UserError, match='exists already'):
        pipeline.quantize_dfq(teacher, tmp_path / 'a.tflite')


def test_with_images_the_float_model_is_measured_too(tmp_path):
    class Images(NoiseSource):
        image_count = 40

        def one_pass(self):
            return iter([(PIXELS[:40], None)])

    teacher = load_teacher(sharpened(mobile_net(high=6.0)), input_spec=SPEC)
    result = pipeline.quantize_dfq(
        teacher,
        tmp_path / 'a.tflite',
        evaluate_on=Images(teacher.input_spec),
        relu6='replaced',
        weight_granularity='channel',
        input_type='uint8',
    )
    assert result.real['images'] == result.unquantized['images'] == 40
    assert result.options.weight_granularity == 'channel' and result.report.input.type == 'uint8'
    assert 'before       it was rounded, the model agreed with its teacher on' in summary(
        teacher, result
    )


def without_pairs():
    images = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(images))
    x = layers.LeakyReLU()(x)
    return tf_keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def one_class():
    images = layers.Input((8, 8, 3))
    x = block(images, layers.Conv2D(4, 3))
    x = layers.Dense(1, activation='sigmoid')(layers.GlobalAveragePooling2D()(x))
    return with_true_moments(randomize(tf_keras.Model(images, x)))


def test_teachers_at_the_edge(tmp_path):
    teacher = load_teacher(randomize(without_pairs()), input_spec=SPEC)
    with pytest.raises(UserError, match='no two convolutions follow .*pass --method=ptq'):
        pipeline.quantize_dfq(teacher, tmp_path / 'a.tflite')
    twin, norms, pairs = folded(teacher.logits_model)
    assert not pairs and cross_layer.equalize(twin, norms, pairs) == (norms, 0)
    assert not (tmp_path / 'a.tflite').exists()
    made = dfq.make_student(
        load_teacher(one_class(), input_spec=SPEC), DfqOptions.resolve('small', {})
    )
    assert made.pairs == 1 and made.student.logits(PIXELS[:3]).shape == (3, 2)


def test_scales_of_zero_throughout():
    model = mobile_net()
    for norm in batch_norms(model)[:2]:
        norm.gamma.assign(np.zeros(norm.gamma.shape))
    teacher = load_teacher(model, input_spec=SPEC)
    made = dfq.make_student(teacher, DfqOptions.resolve('small', {}))
    assert np.all(np.isfinite(made.student.logits(PIXELS[:4])))
    assert all(np.all(np.isfinite(w)) for w in made.student.model.get_weights())


@pytest.mark.parametrize(
    'options, words',
    [
        ({'steps': 5}, 'unknown option steps'),
        ({'range_images': 5}, 'unknown option range_images'),
        ({'range_training': 'learned'}, '--range_training=learned must be one of frozen'),
        ({'student': 'tfmot'}, '--student=tfmot must be one of folded'),
        ({'weight_bits': 1}, '--weight_bits=1 must be 2 to 8 bits'),
        ({'activation_bits': 16}, '--activation_bits=16 is for TFLite'),
        ({'absorb_padded': 3}, '--absorb_padded=3 must be True or False'),
    ],
)
def test_refused_options(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        pipeline.quantize_dfq(tiny_teacher(), tmp_path / 'a.tflite', **options)
    assert not list(tmp_path.iterdir())
