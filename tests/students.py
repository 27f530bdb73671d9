"""Students and options for tests."""

from zscgan_tf.student.options import StudentOptions
from zscgan_tf.student.student import build_student


def student_of(teacher, **options):
    """The student of a teacher, its ranges not set yet."""
    return build_student(teacher, StudentOptions.resolve('small', options))
