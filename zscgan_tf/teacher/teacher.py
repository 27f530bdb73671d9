"""The teacher: the frozen float classifier that all else works on."""

import dataclasses

import tensorflow as tf
import tf_keras

from zscgan_tf.teacher.input_spec import InputSpec


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A float classifier as one flat, frozen, functional tf_keras model.

    Attributes:
        model: inputs -> what the user's model returned; the `.tflite` ends like this.
        logits_model: inputs -> logits, [B, K]; shares its layers with `model`.
        input_spec: what the first layer takes.
        num_classes: K.
        head: 'logits', 'softmax', 'probabilities' (something stands behind the softmax or sigmoid;
            the logits are log p), 'sigmoid' (one unit, a linear one too: two classes, the logits
            are (0, z)) or 'labels' (several sigmoids: K independent labels, the logits are z).
        fingerprint: SHA-256 over structure and weights.
        name: a short name for messages.
        class_names: the names of the K classes; None where they are not known.
        preprocessing: of a `raw_pixels` teacher, the input specification of the teacher that it was
            made of; None of others.
    """

    model: tf_keras.Model
    logits_model: tf_keras.Model
    input_spec: InputSpec
    num_classes: int
    head: str
    fingerprint: str
    name: str
    class_names: tuple[str, ...] | None = None
    preprocessing: InputSpec | None = None

    @property
    def has_independent_labels(self) -> bool:
        """Whether the K classes are independent labels: several or none may be in an image."""
        return self.head == 'labels'

    def logits(self, pixels: tf.Tensor) -> tf.Tensor:
        """Logits, [B, K], of pixels in [0, 1], [B, H, W, C]."""
        return self.logits_model(self.input_spec.to_inputs(pixels), training=False)
