"""Tiny teachers made by hand, for tests that need no file."""

import tf_keras

from tests.conftest import randomize
from zscgan_tf.teacher.input_spec import InputSpec
from zscgan_tf.teacher.teacher import Teacher

layers = tf_keras.layers


def tiny_teacher(num_classes=7, head='softmax', size=8, seed=0, odd=None, channels=3):
    """A random teacher: convolutions, batch norms, ReLU, depthwise, addition, pooling, dense.

    Args:
        num_classes: K.
        head: 'softmax', 'logits' or 'sigmoid'.
        size: height and width, one value or two.
        seed: of weights and moments.
        odd: function that is applied to the last feature map, in a Lambda layer of this name.
        channels: of the images, five at most.
    """
    size = (size, size) if isinstance(size, int) else size
    inputs = layers.Input((*size, channels))
    x = layers.Conv2D(6, 3, padding='same', use_bias=False)(inputs)
    x = shortcut = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding='same', use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Add()([layers.BatchNormalization()(layers.Conv2D(6, 1)(x)), shortcut])
    if odd is not None:
        x = layers.Lambda(odd, name='odd')(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    logits = z = layers.Dense(1 if head == 'sigmoid' else num_classes, name='top')(x)
    outputs = z
    if head == 'softmax':
        outputs = layers.Softmax()(z)
    elif head == 'sigmoid':
        num_classes = 2
        outputs = layers.Activation('sigmoid')(z)
        logits = layers.Concatenate()([layers.Rescaling(0.0)(z), z])
    model = tf_keras.Model(inputs, outputs)
    randomize(model, seed)
    return Teacher(
        model=model,
        logits_model=tf_keras.Model(inputs, logits),
        input_spec=InputSpec(
            size,
            channels,
            (0.4, 0.5, 0.6, 0.5, 0.4)[:channels],
            (0.2, 0.25, 0.3, 0.3, 0.2)[:channels],
        ),
        num_classes=num_classes,
        head=head,
        fingerprint=f'tiny-{head}-{seed}',
        name=f'tiny_{head}',
    )
