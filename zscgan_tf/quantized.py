"""What is known of a `.tflite` that was written."""

import dataclasses

import tf_keras

from zscgan_tf import evaluation
from zscgan_tf.options import Options
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite import audit, interpreter
from zscgan_tf.tflite.levels import LevelsReport

# Of independent labels: fewer of one kind do not tell how often a file finds them.
_FEWEST_ANSWERS = 30


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A `.tflite` that was written, and what is known of it.

    Attributes:
        output: its path.
        report: what the audit found, an `AuditReport`.
        options: how its ranges were set: `TfliteCalibrationOptions`, or those of its student; None
            where it was made before, which the file does not tell.
        fallback: why TFLite's calibration set them where the preset sets them through a student;
            None where it does not.
        takes_raw_pixels: whether it takes pixels as they are, of a `raw_pixels` teacher.
        fresh: what `evaluate` says of the source's next images, which made nothing; None where the
            source has no more.
        seen: the same of the source's first images, where there are neither fresh nor real ones.
        real: the same of real images, or None.
        teacher_weight_bytes, tflite_file_bytes: sizes before and after.
        latency_ms: milliseconds an image, batch 1, on this machine.
        levels: of a student's file the levels that it holds, a `LevelsReport`; else None.
        student_agreement: agreement of the student with its file on the source's next images, or
            on images that it has seen where there are no more, in per cent; None without a student,
            and of DFQ.
        dfq: what `quantize_dfq` did, in words; None of any other method.
        unquantized: what `evaluate` says, on the real images, of the float model that was rounded
            by `quantize_dfq`; None without images, or where it is the teacher's function.
        twin: the float model that was rounded by `quantize_dfq`; its layers have other scales than
            the teacher's.
        source_kind: the kind of the source of its images, see `Source`; None without one.
    """

    output: str
    report: audit.AuditReport
    options: Options | None
    fallback: str | None
    takes_raw_pixels: bool
    fresh: dict | None
    seen: dict | None
    real: dict | None
    teacher_weight_bytes: int
    tflite_file_bytes: int
    latency_ms: float
    levels: LevelsReport | None = None
    student_agreement: float | None = None
    dfq: str | None = None
    unquantized: dict | None = None
    twin: tf_keras.Model | None = None
    source_kind: str | None = None

    @property
    def measured(self) -> dict | None:
        """What `evaluate` said: of real images if there are any, else of fresh ones."""
        return self.real or self.fresh or self.seen

    def beyond_chance(self, teacher: Teacher) -> float | None:
        """The agreement as a share of what chance leaves open; 1 at the most.

        Chance is 1 / K of K classes. Of independent labels it is the agreement of a file that
        answers everywhere what is more frequent, yes or no; a half if the other answer is too rare
        to judge by.

        Returns:
            The share; None where nothing was measured.
        """
        if not self.measured:
            return None
        chance = 100 / teacher.num_classes
        if teacher.has_independent_labels:
            rarer = min(self.measured['positives'], 100 - self.measured['positives'])
            answers = rarer / 100 * self.measured['images'] * teacher.num_classes
            chance = 100 - rarer if answers >= _FEWEST_ANSWERS else 50
        return (self.measured['agreement'] - chance) / (100 - chance)

    def disagrees(self, teacher: Teacher) -> bool:
        """Whether the file agrees with its teacher in less than half of what chance leaves open."""
        share = self.beyond_chance(teacher)
        return share is not None and share < 0.5


def of_file(teacher: Teacher, tflite: interpreter.TfliteModel) -> dict[str, object]:
    """What is known of a file without images: fields of `Quantized`."""
    return {
        'takes_raw_pixels': tflite.zero_pixel is not None,
        **evaluation.sizes(teacher, tflite),
        'latency_ms': interpreter.latency(tflite),
    }
