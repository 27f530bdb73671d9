"""What the configuration of a model file may name: checked before anything is deserialized.

Keras builds whatever a configuration names, Python code of Lambda layers and functions of any
module included. Only Keras' own layers for images, and the plain operations that `operations`
knows, are let through. Nothing here imports Keras.
"""

from zscgan_tf.errors import UserError

_LAYERS = frozenset(
    """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D
    AvgPool2D BatchNormalization BatchNormalizationV1 BatchNormalizationV2 CenterCrop Concatenate
    Conv1D Conv2D Conv2DTranspose Convolution2D Cropping2D Dense DepthwiseConv1D DepthwiseConv2D
    Dot Dropout ELU Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalAvgPool2D GlobalMaxPool2D GlobalMaxPooling1D GlobalMaxPooling2D
    GroupNormalization HardSigmoid HardSwish Identity InputLayer LayerNormalization LeakyReLU
    LogProbabilities MaxPool2D MaxPooling1D MaxPooling2D Maximum Minimum MultiHeadAttention Multiply
    Normalization PReLU Permute RandomBrightness RandomContrast RandomCrop RandomFlip RandomHeight
    RandomRotation RandomTranslation RandomWidth RandomZoom ReLU RepeatVector Rescaling Reshape
    Resizing SeparableConv1D SeparableConv2D SlicingOpLambda Softmax SpatialDropout1D
    SpatialDropout2D SpectralNormalization Subtract SyncBatchNormalization TFOpLambda
    ThresholdedReLU TimeDistributed UnitNormalization UpSampling2D ZeroPadding2D
    """.split()
)
_MODELS = frozenset(('Functional', 'Model', 'Sequential'))
# Beside layers: dtype policies, tensors, shapes and slices in the arguments of layers.
_VALUES = frozenset(
    """
    DTypePolicy Policy TensorShape TypeSpec __ellipsis__ __keras_tensor__ __numpy__ __slice__
    __tensor__ __tuple__ slice
    """.split()
)
# Keras' own things of which a name alone says enough; none of them runs what a file brings.
_HARMLESS_MODULES = (
    'constraints',
    'initializers',
    'losses',
    'metrics',
    'optimizers',
    'regularizers',
)
_LEGACY_HARMLESS = frozenset(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity L1 L1L2 L2 LecunNormal
    LecunUniform MaxNorm MinMaxNorm NonNeg Ones Orthogonal OrthogonalRegularizer RandomNormal
    RandomUniform RadialConstraint TruncatedNormal UnitNorm VarianceScaling Zeros
    """.split()
)
_KERAS_PACKAGES = ('keras', 'tf_keras', 'tensorflow.keras', 'tensorflow.python.keras')


def check_configuration(config, path, operations, allow_code=False):
    """Refuses configurations that name anything but Keras' own building blocks.

    Args:
        config: the parsed configuration: dicts, lists and values.
        path: the file, for messages.
        operations: names of the TensorFlow functions that op layers may call.
        allow_code: lets Lambda layers and functions through.

    Raises:
        UserError: with the name of the layer and what to do.
    """
    pending = [(config, None)]
    while pending:
        part, layer = pending.pop()
        if isinstance(part, dict):
            inner = part.get('config')
            if isinstance(inner, dict) and isinstance(inner.get('name'), str):
                layer = inner['name']
            if 'class_name' in part:
                _check_class(part, layer, path, operations, allow_code)
            pending.extend((value, layer) for value in part.values())
        elif isinstance(part, list):
            pending.extend((value, layer) for value in part)


def dicts_in(value):
    """All dicts in a parsed JSON value."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def _check_class(part, layer, path, operations, allow_code):
    """Refuses one `class_name` of a configuration, and what stands beside it."""
    name = part['class_name']
    module = part.get('module') or ''
    inner = part.get('config')
    where = f"'{layer}'" if layer else 'without a name'
    if name in ('Lambda', '__lambda__') or (isinstance(inner, dict) and 'function_type' in inner):
        if not allow_code:
            raise UserError(
                f'{path} contains a Lambda layer {where}, which is Python code; pass '
                f'--allow_code if you trust the file.'
            )
        return
    if name == 'function':
        _check_function(part, where, path, allow_code)
        return
    if (
        not isinstance(name, str)
        or not isinstance(module, str)
        or not _is_known(name, module, part.get('registered_name'))
    ):
        shown = f'{module}.{name}' if module and not _is_keras(module) else str(name)
        raise UserError(
            f'{path}: layer {where} is of class {shown:.80}, which is not part of Keras: build '
            f'the model in Python and pass it to zscgan_tf.load_teacher, or pass '
            f'--teacher=package.module:function --allow_code.'
        )
    if name in ('TFOpLambda', 'SlicingOpLambda'):
        function = inner.get('function') if isinstance(inner, dict) else None
        if str(function).removeprefix('compat.v1.') not in operations:
            raise UserError(
                f'{path}: layer {where} is the operation tf.{function}, which no Keras layer '
                f'stands for: rebuild the model with Keras layers.'
            )


def _check_function(part, where, path, allow_code):
    """Refuses a function that is named by a module outside of Keras."""
    module = part.get('module') or 'builtins'
    if module != 'builtins' and not _is_keras(module) and not allow_code:
        raise UserError(
            f'{path}: layer {where} uses the function {part.get("config")!s:.80} of {module}, '
            f'which is Python code from outside of Keras: build the model in Python and pass it '
            f'to zscgan_tf.load_teacher.'
        )


def _is_known(name, module, registered):
    """Whether Keras or this project brings the class."""
    if _is_keras(module) and any(part in _HARMLESS_MODULES for part in module.split('.')):
        return True
    # `package>name` stands for a class that was registered: a user's, if not ours.
    for registration in (name, registered):
        package, separator, _ = str(registration or '').rpartition('>')
        if separator and package not in ('zscgan_tf', 'keras'):
            return False
    name = name.rpartition('>')[2]
    if module in ('', 'builtins'):
        return name in _LAYERS | _MODELS | _VALUES | _LEGACY_HARMLESS
    if module.startswith('zscgan_tf.'):
        return name in _LAYERS
    if not _is_keras(module):
        return False
    return name in _LAYERS | _MODELS | _VALUES or module.startswith('keras.src.ops.')


def _is_keras(module):
    return any(module == p or module.startswith(f'{p}.') for p in _KERAS_PACKAGES)
