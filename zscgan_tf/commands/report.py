"""Writes the page of a .tflite: how good it is, how to feed it, and which layer costs what.

The page is one HTML file that opens offline. Its images come from the generator of --workdir, else
from the real ones of --images or --dataset, else they are noise. Pass the --preprocessing of the
model's training too, as to bin/quantize.py.

  bin/report.py model.keras --model=model.tflite --workdir=model.workdir
"""

import functools
import os

from absl import flags

from zscgan_tf import atomic_files
from zscgan_tf.commands import app, common_flags, early, real_images
from zscgan_tf.errors import UserError

FLAGS = flags.FLAGS

common_flags.define_teacher_flags()
common_flags.define_run_flags()
real_images.define_flags()
real_images.define_split_flag()
common_flags.define_page_flags()
common_flags.define_overwrite_flag()
flags.DEFINE_string('model', None, 'The .tflite.')
flags.DEFINE_string('output', None, 'The page. Default: the name of --model with .html.')
flags.DEFINE_string(
    'student_workdir', None, 'The folder of the student, if one was trained: its losses are shown.'
)


def main() -> None:
    from zscgan_tf.report.page import write_page

    teacher = common_flags.load_teacher()
    common_flags.check_class_names(teacher)
    source = workdir = None
    if FLAGS.workdir:
        from zscgan_tf.methods import zscgan

        workdir = common_flags.workdir()
        source = zscgan.load_generator(teacher, workdir, seed=common_flags.fresh_seed())
    write_page(
        _output(),
        teacher,
        FLAGS.model,
        source,
        real=real_images.of_flags(teacher),
        workdir=workdir,
        student_workdir=FLAGS.student_workdir,
        class_names=common_flags.class_names(),
        command=common_flags.command_line(),
        overwrite=FLAGS.overwrite,
    )
    print(f'page         {_output()}')


def check() -> None:
    """Refuses wrong flags before TensorFlow is imported."""
    common_flags.require('model', 'the .tflite that the page is about')
    real_images.check_one_set()
    early.check_distinct(output=_output())
    early.check_inputs()
    common_flags.class_names()
    if not os.path.isfile(FLAGS.model):
        raise UserError(f'--model={FLAGS.model}: no such file: pass a .tflite.')
    if FLAGS.workdir:
        early.check_workdir(holds_run=True)
    atomic_files.check_output(_output(), FLAGS.overwrite)


def _output():
    return FLAGS.output or f'{os.path.splitext(FLAGS.model)[0]}.html'


run = functools.partial(app.run, __name__, main, usage='MODEL --model=FILE.tflite', check=check)

if __name__ == '__main__':
    run()
