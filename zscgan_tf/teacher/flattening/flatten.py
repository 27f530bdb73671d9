"""Any Keras 2 or Keras 3 classifier becomes one flat tf_keras model of built-in layers."""

import tf_keras

from zscgan_tf.teacher.flattening.flattener import Flattener
from zscgan_tf.teacher.flattening.keras3 import Keras3Flattener


def flatten(
    model: object, image_shape: tuple[int, int, int] | None = None, name: str | None = None
) -> tf_keras.Model:
    """A flat, frozen, functional copy of a classifier.

    Args:
        model: a built tf_keras or Keras 3 model: functional, sequential, nested or subclassed.
        image_shape: (height, width, channels); None for the shape that the model itself names.
        name: the model's name for messages; None for its own.

    Returns:
        A tf_keras model of one input and one output, of built-in layers and `layers`' own.

    Raises:
        UserError: something in the model has no equivalent among these layers.
    """
    image_shape = model.input_shape[1:] if image_shape is None else image_shape
    inputs = tf_keras.Input(tuple(image_shape), name='images')
    # Keras 3's subclassed models have no inputs.
    own_inputs = getattr(model, 'inputs', None)
    batch_size = own_inputs[0].shape[0] if own_inputs else None
    flattener_class = Flattener if isinstance(model, tf_keras.Model) else Keras3Flattener
    flattener = flattener_class(name or model.name, batch_size)
    output = flattener.tensor(flattener.single(flattener.follow(model, (inputs,), {}, '')))
    flat = tf_keras.Model(inputs, output, name='teacher')
    flat.trainable = False
    return flat
