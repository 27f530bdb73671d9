"""Measures a `.tflite` that was made before, as `quantize` measures one that it has made."""

import os

from zscgan_tf import evaluation
from zscgan_tf.atomic_files import PathLike
from zscgan_tf.quantized import Quantized, of_file
from zscgan_tf.report.page_images import images_to_look_at
from zscgan_tf.sources import Source, StoredSource, at_most, description_of
from zscgan_tf.sources.batches import take
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite import audit, interpreter


def examine(
    teacher: Teacher, path: PathLike, source: Source | None, real: StoredSource | None
) -> Quantized:
    """What is known of a file that was made before.

    Args:
        teacher: the float model that it was made of.
        path: the `.tflite`.
        source: of images to measure the agreement on; None with real images only.
        real: real images to evaluate on, or None.

    Raises:
        UserError: not a TFLite model, or one of other images or classes than the teacher's.
    """
    tflite = interpreter.TfliteModel(path)
    with open(path, 'rb') as file:
        report = audit.audit(file.read(), allow_float_ops=True)
    count = images_to_look_at(teacher)
    fresh = found = None
    if source is not None:
        total = at_most(source, count)
        images = ((pixels, None) for pixels, _ in take(source.batches(), total))
        fresh = evaluation.evaluate(tflite, teacher, images, total=total)
    if real is not None:
        total = at_most(real, count)
        found = evaluation.evaluate(tflite, teacher, take(real.batches(), total), total=total)
    return Quantized(
        output=os.fspath(path),
        report=report,
        options=None,
        fallback=None,
        fresh=fresh,
        seen=None,
        real=found,
        **of_file(teacher, tflite),
        source_kind=source and description_of(source)['kind'],
    )
