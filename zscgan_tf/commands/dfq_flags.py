"""--method=dfq: which flags it reads. It takes no images, so all that makes images is refused."""

import dataclasses

from absl import flags

from zscgan_tf.commands import option_flags
from zscgan_tf.errors import UserError
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.options import flag_of
from zscgan_tf.tflite.options import FileOptions

FLAGS = flags.FLAGS

# Flags that are no options, and that only images or trainings need.
_OF_IMAGES = (
    *('workdir', 'student_workdir', 'check_images', 'images', 'calibration_split'),
    *('strategy', 'jit_compile', 'checkpoint_every', 'images_every'),
)
# Options of a student that DFQ has one value of, as long as nothing is trained.
_OF_TRAINING = {'range_training', 'range_decay'}


def is_chosen() -> bool:
    """Whether the method is DFQ."""
    return FLAGS.method == 'dfq'


def passed_options() -> dict[str, object]:
    """The options of the student and of the file that were passed, checked.

    Raises:
        UserError: a flag was passed that DFQ does not read, or options that contradict each other.
    """
    if FLAGS.source != 'zscgan':
        raise _refused('source')
    for name in _OF_IMAGES:
        if FLAGS[name].present:
            raise _refused(name)
    read = {flag_of(field) for field in _fields()} - _OF_TRAINING
    for field, _ in option_flags.all_passed():
        if flag_of(field) not in read:
            raise _refused(flag_of(field))
    passed = option_flags.passed(DfqOptions) | option_flags.passed(FileOptions)
    DfqOptions.resolve(FLAGS.preset, DfqOptions.among(passed))
    FileOptions.resolve(FLAGS.preset, FileOptions.among(passed))
    return passed


def check_unused() -> None:
    """Refuses options that DFQ alone has, where the method is another.

    Raises:
        UserError: such a flag was passed.
    """
    own = {field.name for field in _fields() if option_flags.owner(flag_of(field)) is DfqOptions}
    if passed := sorted(own & option_flags.passed(DfqOptions).keys()):
        raise UserError(f'--{passed[0]} is for --method=dfq: pass it, or leave --{passed[0]} out.')


def _fields():
    return (*dataclasses.fields(DfqOptions), *dataclasses.fields(FileOptions))


def _refused(name):
    return UserError(
        f'--{name} is not for --method=dfq, which needs neither images nor training: leave it out, '
        f'or pass --method=ptq or qat.'
    )
