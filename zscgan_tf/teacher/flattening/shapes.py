"""Reshapes, slices, paddings and poolings of op layers as layers; see `operations`.

The shape of a tensor is a list of numbers, None for the batch.
"""

import collections.abc
import math

import numpy as np
import tf_keras

from zscgan_tf.teacher.flattening.arithmetic import Place, Value, affine, is_tensor
from zscgan_tf.teacher.graphs import is_symbolic, node_of
from zscgan_tf.teacher.layers import Reshape, SelectChannels


def shape(at: Place, input: Value, name: str | None = None, out_type: Value = None) -> Value:
    return list(input.shape)


def pack(at: Place, values: Value, axis: Value = 0) -> Value:
    if any(is_tensor(value) for value in values):
        at.refuse('tf.stack')
    return list(values)


def reshape(at: Place, tensor: Value, shape: Value) -> Value:
    shape = [None if side is None else int(side) for side in np.ravel(np.array(shape, object))]
    sides = list(tensor.shape[1:])
    target = shape[1:]
    if -1 in target:
        known = math.prod(side for side in target if side != -1)
        target = [math.prod(sides) // known if side == -1 else side for side in target]
    # A model of a fixed number of images says that number for its batch.
    if (
        shape[0] not in (None, -1, 1, at.flat.batch_size)
        or None in target
        or math.prod(target) != math.prod(sides)
    ):
        at.refuse(f'tf.reshape from {tuple(tensor.shape)} to {shape}')
    return _reshape(at, tensor, target)


def _reshape(at, x, target):
    if list(x.shape[1:]) == list(target):
        return x
    # Of two reshapes in a row the second says it all.
    if is_symbolic(x) and isinstance(x._keras_history.layer, Reshape):
        return _reshape(at, node_of(x).keras_inputs[0], target)
    return at.emit(Reshape, x, 'reshape', target_shape=tuple(target))


def expand_dims(
    at: Place, input: Value, axis: Value = None, name: str | None = None, dim: Value = None
) -> Value:
    axis = dim if axis is None else axis
    axis = int(axis) % (input.shape.rank + 1)
    if axis == 0:
        at.refuse('tf.expand_dims of the batch')
    sides = list(input.shape[1:])
    return _reshape(at, input, [*sides[: axis - 1], 1, *sides[axis - 1 :]])


def squeeze(
    at: Place, input: Value, axis: Value = None, name: str | None = None, squeeze_dims: Value = None
) -> Value:
    axis = squeeze_dims if axis is None else axis
    rank, sides = input.shape.rank, list(input.shape)
    if axis is None:
        axes = [i for i in range(1, rank) if sides[i] == 1]
    else:
        axes = [int(i) % rank for i in np.ravel(axis)]
    return _reshape(at, input, [sides[i] for i in range(1, rank) if i not in axes])


def transpose(at: Place, a: Value, perm: Value = None, conjugate: bool = False) -> Value:
    rank = a.shape.rank
    perm = None if perm is None else [int(i) % rank for i in perm]
    if perm is None or perm[0] != 0:
        at.refuse('a transposition of the batch')
    sides = list(a.shape)
    moved = [i for i in perm[1:] if sides[i] != 1]
    if moved == sorted(moved):
        return _reshape(at, a, [sides[i] for i in perm[1:]])
    return at.emit(tf_keras.layers.Permute, a, 'permute', dims=tuple(perm[1:]))


def concat(at: Place, values: Value, axis: Value) -> Value:
    if not any(is_tensor(value) for value in values):
        return [side for value in values for side in np.ravel(np.array(value, object))]
    if not all(is_tensor(value) for value in values):
        at.refuse('tf.concat with a constant')
    axis = int(axis) % values[0].shape.rank
    if axis == 0:
        at.refuse('tf.concat of the batch')
    if len(values) == 1:  # Keras does not concatenate one tensor
        return values[0]
    axis = -1 if axis == values[0].shape.rank - 1 else axis
    return at.emit(tf_keras.layers.Concatenate, list(values), 'concatenate', axis=axis)


# Positions and channels


def reduction(layer_class: type, kind: str) -> collections.abc.Callable[..., Value]:
    """The handler of a reduction over height and width."""

    def handler(at, input_tensor, axis=None, keepdims=False):
        rank = input_tensor.shape.rank
        axes = list(range(rank)) if axis is None else [int(i) % rank for i in np.ravel(axis)]
        if rank != 4 or sorted(axes) != [1, 2]:
            at.refuse(f'tf.{kind} over axes {axes} of {tuple(input_tensor.shape)}')
        return at.emit(layer_class, input_tensor, f'global_{kind}', keepdims=bool(keepdims))

    return handler


reduce_mean = reduction(tf_keras.layers.GlobalAveragePooling2D, 'reduce_mean')
reduce_max = reduction(tf_keras.layers.GlobalMaxPooling2D, 'reduce_max')


def reduce_sum(at: Place, input_tensor: Value, axis: Value = None, keepdims: bool = False) -> Value:
    mean = reduce_mean(at, input_tensor, axis, keepdims)
    return affine(at, mean, float(math.prod(input_tensor.shape[1:3])), 0.0)


def pad(
    at: Place,
    tensor: Value,
    paddings: Value,
    mode: str = 'CONSTANT',
    name: str | None = None,
    constant_values: Value = 0,
) -> Value:
    paddings = np.array(paddings, int).tolist()
    if mode.upper() != 'CONSTANT' or constant_values != 0:
        at.refuse(f'tf.pad of mode {mode}')
    if tensor.shape.rank != 4 or any(paddings[0]):
        at.refuse(f'tf.pad of {tuple(tensor.shape)} by {paddings}')
    if any(map(any, paddings[1:3])):
        tensor = at.emit(
            tf_keras.layers.ZeroPadding2D, tensor, 'pad', padding=tuple(map(tuple, paddings[1:3]))
        )
    if not any(paddings[3]):
        return tensor
    channels, (before, after) = tensor.shape[3], paddings[3]
    return _channels(at, tensor, np.eye(channels, before + channels + after, before))


def _channels(at, x, matrix):
    """Channels chosen or added by a 1x1 convolution of zeros and ones, of images or vectors."""
    if x.shape.rank == 2:
        image = _reshape(at, x, [1, 1, matrix.shape[0]])
        return _reshape(at, _channels(at, image, matrix), [matrix.shape[1]])
    kernel = matrix[None, None]
    return _with_kernel(at, SelectChannels, x, kernel, 'channels', filters=matrix.shape[1])


def _with_kernel(at, layer_class, x, kernel, kind, **config):
    """A layer with a constant kernel and no bias."""
    if layer_class is not tf_keras.layers.Dense:
        config['kernel_size'] = kernel.shape[:2]
    initializer = 'depthwise' if layer_class is tf_keras.layers.DepthwiseConv2D else 'kernel'
    config[f'{initializer}_initializer'] = 'zeros'
    y = at.emit(layer_class, x, kind, use_bias=False, **config)
    y._keras_history.layer.set_weights([np.float32(kernel)])
    return y


def conv2d(
    at: Place,
    input: Value,
    filters: Value,
    strides: Value = 1,
    padding: str = 'VALID',
    use_cudnn_on_gpu: bool = True,
    data_format: str | None = None,
    dilations: Value = 1,
) -> Value:
    config = _window(at, filters, strides, padding, data_format, dilations)
    config |= {'filters': filters.shape[3], 'groups': input.shape[3] // filters.shape[2]}
    return _with_kernel(at, tf_keras.layers.Conv2D, input, filters, 'conv2d', **config)


def depthwise_conv2d(
    at: Place,
    input: Value,
    filter: Value,
    strides: Value,
    padding: str,
    rate: Value = 1,
    data_format: str | None = None,
    dilations: Value = None,
) -> Value:
    config = _window(at, filter, strides, padding, data_format, dilations or rate)
    config['depth_multiplier'] = filter.shape[3]
    layer_class = tf_keras.layers.DepthwiseConv2D
    return _with_kernel(at, layer_class, input, filter, 'depthwise_conv2d', **config)


def _window(at, kernel, strides, padding, data_format, dilations):
    """The settings of a convolution as its layer has them."""
    if is_tensor(kernel) or np.ndim(kernel) != 4:
        at.refuse('a convolution with other than a constant kernel of two dimensions')
    if data_format not in (None, 'NHWC') or not isinstance(padding, str):
        at.refuse('a convolution in that form')
    strides, dilations = _two(strides), _two(dilations)
    return {'strides': strides, 'padding': padding.lower(), 'dilation_rate': dilations}


def _two(sizes):
    """Height and width of 1, 2 or 4 sizes as TensorFlow's functions have them."""
    sizes = np.ravel(1 if sizes is None else sizes)
    sizes = sizes[1:3] if len(sizes) == 4 else np.broadcast_to(sizes, 2)
    return tuple(map(int, sizes))


def matmul(at: Place, a: Value, b: Value, **options: object) -> Value:
    if not is_tensor(a) or is_tensor(b) or np.ndim(b) != 2 or any(options.values()):
        at.refuse('a product with something else than a constant matrix')
    return _with_kernel(at, tf_keras.layers.Dense, a, b, 'matmul', units=b.shape[1])


def gather(
    at: Place,
    params: Value,
    indices: Value,
    axis: Value = None,
    batch_dims: Value = 0,
    validate_indices: Value = None,
) -> Value:
    """tf.gather: of channels."""
    rank = params.shape.rank
    if axis is None or int(axis) % rank != rank - 1 or batch_dims or np.ndim(indices) != 1:
        at.refuse('tf.gather of something else than channels')
    return _channels(at, params, np.eye(params.shape[-1])[:, np.array(indices)])


def split(
    at: Place, value: Value, num_or_size_splits: Value, axis: Value = 0, num: Value = None
) -> Value:
    channels = value.shape[-1]
    if int(axis) % value.shape.rank != value.shape.rank - 1 or value.shape.rank not in (2, 4):
        at.refuse(f'tf.split along axis {axis}')
    sizes = num_or_size_splits
    sizes = [channels // sizes] * sizes if np.ndim(sizes) == 0 else [int(n) for n in sizes]
    starts = np.cumsum([0, *sizes])
    eye = np.eye(channels)
    return [_channels(at, value, eye[:, a:b]) for a, b in zip(starts[:-1], starts[1:], strict=True)]


def getitem(at: Place, tensor: Value, slice_spec: Value, var: Value = None) -> Value:
    """tensor[slices]: of a shape; or of a tensor's positions, channels, or sides of 1."""
    spec = list(slice_spec) if isinstance(slice_spec, (tuple, list)) else [slice_spec]
    spec = [slice(s['start'], s['stop'], s['step']) if isinstance(s, dict) else s for s in spec]
    if not is_tensor(tensor):
        part = tensor
        for index in spec:
            part = part[index if isinstance(index, slice) else int(index)]
        return part
    rank = tensor.shape.rank
    if Ellipsis in spec:
        i = spec.index(Ellipsis)
        spec[i : i + 1] = [slice(None)] * (rank - len(spec) + 1 + spec.count(None))
    spec += [slice(None)] * (rank - len([s for s in spec if s is not None]))
    if spec[0] != slice(None):
        at.refuse('a slice of the batch')
    return _slice_sides(at, tensor, spec)


def _slice_sides(at, tensor, spec):
    """`getitem` for one entry an axis, None where a new axis is put in."""
    sides = iter(tensor.shape[1:])
    ranges, target = [], []
    for entry in spec[1:]:
        if entry is None:
            target.append(1)
            continue
        side = next(sides)
        if isinstance(entry, slice):
            ranges.append(range(side)[entry])
            target.append(len(ranges[-1]))
        else:
            index = int(entry) % side
            ranges.append(range(index, index + 1))
    whole = [range(side) for side in tensor.shape[1:]]
    if ranges != whole:
        *positions, channels = ranges
        if tensor.shape.rank not in (2, 4) or not all(map(len, ranges)):
            at.refuse('a slice')
        if any(r.step < 1 for r in positions):
            at.refuse('a slice that turns images around')
        tensor = _slice_image(at, tensor, ranges, whole) if positions else tensor
        if channels != whole[-1]:
            tensor = _channels(at, tensor, np.eye(whole[-1].stop)[:, list(channels)])
    return _reshape(at, tensor, target)


def _slice_image(at, x, ranges, whole):
    """The positions of a slice; its channels are not taken yet."""
    rows, columns, _ = ranges
    # The last position that counts: a strided range may end before its bound.
    crop = [
        (kept[0], everything[-1] - kept[-1]) if kept.step == 1 else (kept[0], 0)
        for kept, everything in zip((rows, columns), whole, strict=False)
    ]
    if any(map(any, crop)):
        x = at.emit(tf_keras.layers.Cropping2D, x, 'crop', cropping=tuple(crop))
    if rows.step > 1 or columns.step > 1:
        strides = (rows.step, columns.step)
        x = at.emit(tf_keras.layers.AveragePooling2D, x, 'stride', pool_size=1, strides=strides)
        kept = (len(rows), len(columns))
        crop = [(0, side - n) for side, n in zip(x.shape[1:3], kept, strict=True)]
        if any(map(any, crop)):
            x = at.emit(tf_keras.layers.Cropping2D, x, 'crop', cropping=tuple(crop))
    return x


def resize(at: Place, images: Value, size: Value, **options: object) -> Value:
    """tf.image.resize to the size that the images have."""
    if [int(side) for side in size] != list(images.shape[1:3]):
        at.refuse(f'tf.image.resize from {tuple(images.shape[1:3])} to {tuple(size)}')
    return images


def reverse(at: Place, tensor: Value, axis: Value) -> Value:
    """tf.reverse: of channels."""
    rank = tensor.shape.rank
    if [int(i) % rank for i in np.ravel(axis)] != [rank - 1]:
        at.refuse('tf.reverse of other axes than the last')
    return getitem(at, tensor, (Ellipsis, slice(None, None, -1)))


def pooling(layer_class: type, kind: str) -> collections.abc.Callable[..., Value]:
    """The handler of a pooling over height and width."""

    def handler(at, input=None, ksize=1, strides=1, padding='VALID', data_format='NHWC', **other):
        x = other.pop('value', input)
        if data_format not in (None, 'NHWC') or other:
            at.refuse(f'tf.nn.{kind} in that form')
        settings = {'pool_size': _two(ksize), 'strides': _two(strides), 'padding': padding.lower()}
        return at.emit(layer_class, x, kind, **settings)

    return handler
