"""One table of all that is known of each type of layer; whoever needs a fact derives it from here.

`docs/adding_a_layer.md` shows what a new layer takes.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LayerType:
    """What is known of a layer class. A class with no field set may be in a model, and is copied.

    Attributes:
        readable: whether a model file may name it.
        keras3: the settings that a Keras 3 layer of this name passes to that of tf_keras, each
            `name` or `name=its name in Keras 3`; None if it is not translated by its settings.
        keras3_off: settings of Keras 3 that tf_keras does not have: they must be off.
        dropped: whether it does nothing in inference, so that a flat model is without it.
        student: the rule that makes it a part of the student, `_<name>` in `student.rewriting`;
            None if the student does not support it.
        fuses_relu: whether TFLite's converter fuses a ReLU behind it into it.
        preserves_ranges: whether its output has its input's range and levels.
        tflite_ops: of such a layer, the TFLite operations that it may become.
    """

    readable: bool = True
    keras3: str | None = None
    keras3_off: str = ''
    dropped: bool = False
    student: str | None = None
    fuses_relu: bool = False
    preserves_ranges: bool = False
    tflite_ops: str = ''


def _preserving(tflite_ops, student, keras3=None, readable=True):
    return LayerType(
        readable, keras3, student=student, preserves_ranges=True, tflite_ops=tflite_ops
    )


_DROPPED = """
    ActivityRegularization AlphaDropout AugMix Dropout GaussianDropout GaussianNoise Identity
    RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHeight
    RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation
    RandomSharpness RandomShear RandomTranslation RandomWidth RandomZoom SpatialDropout1D
    SpatialDropout2D
"""
# Other names of layers below, layers that are taken apart, and layers for TFLite's own quantization
# alone.
_COPIED = """
    AdaptiveAveragePooling2D AdaptiveMaxPooling2D AveragePooling1D AvgPool2D BatchNormalizationV1
    BatchNormalizationV2 CenterCrop Conv1D Convolution2D DepthwiseConv1D Dot GlobalAveragePooling1D
    GlobalAvgPool2D GlobalMaxPool2D GlobalMaxPooling1D GroupNormalization InputLayer
    LogProbabilities MaxPool2D MaxPooling1D MultiHeadAttention Pipeline RandomCrop RepeatVector
    SeparableConv1D SlicingOpLambda SpectralNormalization SyncBatchNormalization TFOpLambda
    ThresholdedReLU TimeDistributed UnitNormalization
"""
_KERNEL = 'kernel_size strides padding dilation_rate use_bias'
_POOL = 'pool_size strides padding'

LAYER_TYPES = {
    **{name: LayerType(dropped=True) for name in _DROPPED.split()},
    **{name: LayerType() for name in _COPIED.split()},
    # With weights
    'Conv2D': LayerType(keras3=f'filters groups {_KERNEL}', student='convolution', fuses_relu=True),
    'DepthwiseConv2D': LayerType(
        keras3=f'depth_multiplier {_KERNEL}', student='depthwise', fuses_relu=True
    ),
    'SeparableConv2D': LayerType(keras3=f'filters depth_multiplier {_KERNEL}', student='separable'),
    'SelectChannels': LayerType(student='select_channels'),
    'Conv2DTranspose': LayerType(keras3=f'filters output_padding {_KERNEL}'),
    'Dense': LayerType(keras3='units use_bias', student='dense'),
    'BatchNormalization': LayerType(keras3='momentum epsilon center scale', student='batch_norm'),
    'LayerNormalization': LayerType(keras3='axis epsilon center scale', keras3_off='rms_scaling'),
    'Normalization': LayerType(student='affine'),
    'Rescaling': LayerType(student='affine'),
    # Activations
    'Activation': LayerType(keras3='', student='activation'),
    'ELU': LayerType(keras3='alpha'),
    'HardSigmoid': LayerType(student='hard_sigmoid'),
    'HardSwish': LayerType(student='copy'),
    'LeakyReLU': LayerType(keras3='alpha=negative_slope', student='leaky_relu'),
    'PReLU': LayerType(keras3='shared_axes', student='prelu'),
    'ReLU': LayerType(keras3='max_value negative_slope threshold', student='relu'),
    'Softmax': LayerType(keras3='axis', student='softmax'),
    # Merging
    'Add': LayerType(keras3='', student='merge', fuses_relu=True),
    'Subtract': LayerType(keras3='', student='merge'),
    'Multiply': LayerType(keras3='', student='merge'),
    'Average': LayerType(keras3='', student='average'),
    'Maximum': LayerType(keras3=''),
    'Minimum': LayerType(keras3=''),
    'Concatenate': LayerType(keras3='axis', student='concatenate'),
    # Positions. (The int8 average of a window rounds to its input's levels.)
    'AveragePooling2D': _preserving('AVERAGE_POOL_2D', 'average_pooling', _POOL),
    'MaxPooling2D': _preserving('MAX_POOL_2D', 'copy', _POOL),
    'GlobalAveragePooling2D': LayerType(keras3='keepdims', student='global_pooling'),
    'GlobalMaxPooling2D': _preserving('REDUCE_MAX', 'global_pooling', 'keepdims'),
    'ZeroPadding2D': _preserving('PAD PADV2', 'copy', 'padding'),
    'Cropping2D': _preserving('SLICE STRIDED_SLICE', 'copy', 'cropping'),
    'UpSampling2D': _preserving(
        'RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR', 'upsampling', 'size interpolation'
    ),
    'Resizing': LayerType(
        keras3='height width interpolation crop_to_aspect_ratio',
        keras3_off='antialias pad_to_aspect_ratio',
    ),
    # Shapes
    'ConstantChannel': _preserving('PAD PADV2', 'copy', readable=False),
    'Flatten': _preserving('RESHAPE', 'reshape', ''),
    'Permute': _preserving('TRANSPOSE', 'permute', 'dims'),
    'Reshape': _preserving('RESHAPE', 'reshape', 'target_shape'),
}
