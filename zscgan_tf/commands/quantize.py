r"""Quantizes a trained Keras classifier to an integer .tflite, without its data.

The program trains a conditional generator against the model. If --workdir has such a generator, the
program continues or reuses it. The generated images set the ranges of the integer file. With
--method=qat they train its weights too. Weights may have 2 to 8 bits, activations 2 to 8 or 16. The
file is written only if all its operations are integer, or with --allow_float_ops. At the end the
program says how good it is.

  bin/quantize.py model.keras --output=model.tflite --preprocessing=unit
  bin/quantize.py model.keras --output=model_w4.tflite --preprocessing=unit \
      --method=qat --weight_bits=4

With --method=dfq no image is made at all (Nagel et al., "Data-Free Quantization through Weight
Equalization and Bias Correction").
"""

import dataclasses
import functools
import logging
import os

from absl import flags

from zscgan_tf import atomic_files
from zscgan_tf.commands import (
    app,
    check,
    common_flags,
    dfq_flags,
    early,
    image_sources,
    option_flags,
    real_images,
    result_json,
)
from zscgan_tf.errors import UserError
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.options import flag_of
from zscgan_tf.student.options import CalibrationOptions
from zscgan_tf.tflite.options import FileOptions, TfliteCalibrationOptions, range_estimator
from zscgan_tf.user_code import is_function_name

FLAGS = flags.FLAGS
logger = logging.getLogger(__name__)

common_flags.define_teacher_flags()
common_flags.define_run_flags()
common_flags.define_generator_flags()
common_flags.define_student_flags()
common_flags.define_raw_pixels_flag()
image_sources.define_flags()
real_images.define_flags()
common_flags.define_page_flags()
common_flags.define_overwrite_flag()
flags.DEFINE_string('output', None, 'The .tflite to write. "{seed}" stands for the seed.')
flags.DEFINE_boolean(
    'page',
    True,
    'Write a page beside the file, --output with .html: errors by layer, images, curves.',
)
flags.DEFINE_boolean(
    'check',
    None,
    'Say what was found in the model, what can quantize it, and the time and memory that its '
    'training will need; write nothing.',
)
flags.DEFINE_enum(
    'method',
    'ptq',
    ['ptq', 'qat', 'dfq'],
    'ptq: set ranges on the images, no training; qat: train a student, distilled from the model; '
    'dfq: no images; ranges are computed from the statistics of batch norms (Nagel et al., 2019).',
)
option_flags.define(DfqOptions)
option_flags.define(TfliteCalibrationOptions)
flags.DEFINE_integer(
    'check_images', 1000, 'Fresh images of the source to measure agreement on.', lower_bound=1
)
flags.DEFINE_string('evaluation_split', None, 'Split of --dataset to evaluate on.')
flags.DEFINE_string(
    'evaluation_images',
    None,
    'Real images to evaluate on: an .npz file or a folder; with labels for accuracy.',
)
flags.DEFINE_string('result_json', None, "A file that this seed's result is added to.")


def main() -> int:
    if FLAGS.check:
        return check.run()
    if dfq_flags.is_chosen():
        return _run_dfq()
    from zscgan_tf import pipeline
    from zscgan_tf.report import results

    output = _output()
    if FLAGS.result_json:
        results.check(FLAGS.result_json)
    passed = _passed_options()
    teacher, to_quantize, evaluate_on = _load()
    plan = _plan(to_quantize, passed)  # before the training of its generator
    folder = common_flags.workdir(default_of=output)
    shared = result_json.shared_results(teacher, plan, evaluate_on)
    result_json.check(teacher, evaluate_on, shared)
    source = image_sources.make(teacher, folder, to_quantize)
    arguments = {
        'check_images': FLAGS.check_images,
        'evaluate_on': evaluate_on,
        'overwrite': FLAGS.overwrite,
    }
    student_folder = None
    if FLAGS.method == 'qat':
        student_folder = common_flags.student_folder(folder, plan.options)
        student = common_flags.distill(
            to_quantize, source, student_folder, range_images=plan.options.range_images
        )
        result = pipeline.quantize_student(
            student, source, output, **arguments, **plan.file.values()
        )
    else:
        result = pipeline.quantize(to_quantize, source, output, plan=plan, **arguments)
    problem = None
    if FLAGS.result_json:
        metrics, minutes = result_json.training_metrics(result, source, folder, student_folder)
        problem = result_json.add(result, metrics, minutes, shared)
    return _tell(to_quantize, result, evaluate_on, problem, source, folder, student_folder)


def _run_dfq():
    """--method=dfq: without a source and without a workdir."""
    from zscgan_tf import pipeline

    passed = dfq_flags.passed_options()
    teacher, to_quantize, evaluate_on = _load()
    shared = result_json.shared_results_of_dfq(teacher, to_quantize, passed, evaluate_on)
    result_json.check(teacher, evaluate_on, shared)
    result = pipeline.quantize_dfq(
        to_quantize,
        _output(),
        preset=FLAGS.preset,
        evaluate_on=evaluate_on,
        overwrite=FLAGS.overwrite,
        **passed,
    )
    metrics = {}
    if result.unquantized:
        metrics |= {
            f'unquantized_{name}': result.unquantized[name]
            for name in ('agreement', 'accuracy')
            if name in result.unquantized
        }
    problem = result_json.add(result, metrics, 0.0, shared)
    return _tell(to_quantize, result, evaluate_on, problem)


def _load():
    """The teacher, what is quantized of it, and images to evaluate on or None."""
    teacher = common_flags.load_teacher()
    common_flags.check_class_names(teacher)
    return teacher, common_flags.with_raw_pixels(teacher), _evaluation_source(teacher)


def _tell(teacher, result, evaluate_on, problem, source=None, folder=None, student_folder=None):
    """Writes the page, prints the summary, raises the `problem`; returns the exit status."""
    from zscgan_tf.report.summary import summary

    paths = {}
    if folder and image_sources.has_workdir():
        paths['images'] = os.path.join(folder, 'classes.png')
    if _writes_page():
        try:
            _write_page(teacher, result, source, folder, student_folder, evaluate_on)
            paths['page'] = _page_path(result.output)
        except Exception as error:  # the file is there, and so is what is known of it
            problem = _next_problem(problem, error)
        except KeyboardInterrupt:
            interrupt = KeyboardInterrupt(
                f'interrupted: {result.output} is written, and its page is not: zscgan-report '
                f'makes one.'
            )
            problem = _next_problem(problem, interrupt)
    elif FLAGS.page:
        logger.info(
            'no page is written: it compares layers on images, and --method=dfq has none. Pass '
            '--evaluation_images or --evaluation_split.'
        )
    print(summary(teacher, result, **paths))
    if problem:
        raise problem
    return 2 if result.disagrees(teacher) else 0


def _next_problem(problem, error):
    """The error to raise at last; logs the one before it."""
    if problem:
        logger.error('%s', problem)
    return error


def _output():
    return common_flags.with_seed(FLAGS.output)


def _page_path(output):
    return f'{os.path.splitext(output)[0]}.html'


def _writes_page():
    """Whether there is a page, and images to compare layers on."""
    has_images = FLAGS.evaluation_images or FLAGS.evaluation_split
    return FLAGS.page and (has_images or not dfq_flags.is_chosen())


def _write_page(teacher, result, source, folder, student_folder, real):
    from zscgan_tf.report.page import write_page

    write_page(
        _page_path(result.output),
        teacher,
        result,
        source,
        real=real,
        workdir=folder if image_sources.has_workdir() else None,
        student_workdir=student_folder,
        class_names=common_flags.class_names(),
        command=common_flags.command_line(),
        overwrite=FLAGS.overwrite,
    )


def _passed_options():
    """The options of the student, of TFLite's calibration and of the file that were passed."""
    if dfq_flags.is_chosen():
        return dfq_flags.passed_options()
    dfq_flags.check_unused()
    passed = option_flags.passed(DistillationOptions) | option_flags.passed(
        TfliteCalibrationOptions
    )
    if FLAGS.method == 'qat':
        names = TfliteCalibrationOptions.names() - FileOptions.names() - CalibrationOptions.names()
        if wrong := sorted(names & passed.keys()):
            raise UserError(
                f"--{wrong[0]} is for TFLite's own calibration, not for a student: leave it out."
            )
        DistillationOptions.resolve(FLAGS.preset, DistillationOptions.among(passed))
        return passed
    calibrating = CalibrationOptions.names() - {'range_training', 'range_decay'}
    training = [
        flag_of(field)
        for field in dataclasses.fields(DistillationOptions)
        if field.name in passed.keys() - calibrating
    ]
    training += ['student_workdir'] if FLAGS.student_workdir else []
    if training:
        raise UserError(
            f'--{training[0]} is for the training of a student: pass --method=qat, or leave it out.'
        )
    range_estimator(FLAGS.preset, passed)
    return passed


def _plan(teacher, passed):
    """How the teacher is quantized, a `Plan`; refuses what cannot be, before any work."""
    from zscgan_tf import pipeline
    from zscgan_tf.methods.distillation_checks import check_replicas

    with_trial = image_sources.has_workdir()
    if FLAGS.method == 'ptq':
        plan = pipeline.make_plan(teacher, FLAGS.preset, passed, with_trial=with_trial)
        options = image_sources.limited(plan.options, teacher, passed.keys())
        return dataclasses.replace(plan, options=options)
    options = DistillationOptions.resolve(FLAGS.preset, DistillationOptions.among(passed), teacher)
    plan = pipeline.Plan(
        image_sources.limited(options, teacher, passed.keys()),
        FileOptions.resolve(FLAGS.preset, FileOptions.among(passed), teacher),
    )
    pipeline.check_student(teacher, plan, with_trial=with_trial)
    if not is_function_name(FLAGS.source):  # it says itself how many images a batch has
        batch_size = common_flags.generator_options(teacher).batch_size
        replicas = common_flags.strategy().num_replicas_in_sync
        check_replicas(plan.options, batch_size, replicas)
    return plan


def _evaluation_source(teacher):
    from zscgan_tf.sources.batches import check_classes

    if FLAGS.evaluation_images and FLAGS.evaluation_split:
        raise UserError(
            '--evaluation_images and --evaluation_split name two sets of images: pass one.'
        )
    source = None
    if FLAGS.evaluation_images:
        source = real_images.in_path(FLAGS.evaluation_images, teacher)
    elif FLAGS.evaluation_split:
        source = real_images.of_split(FLAGS.evaluation_split, teacher)
    if source is not None and source.has_labels and source.num_classes:
        check_classes(source.num_classes, teacher)
    return source


def check_flags() -> None:
    """Refuses wrong flags before TensorFlow is imported."""
    _passed_options()
    image_sources.check()
    early.check_inputs()
    if FLAGS.evaluation_split:
        split = FLAGS.evaluation_split
        common_flags.require('dataset', f'the dataset that --evaluation_split={split} reads')
    if not FLAGS.check:
        _check_outputs()


def _check_outputs():
    common_flags.require('output', 'the .tflite to write')
    output = _output()
    if output in ('logits', 'model'):
        raise UserError(f'--output={output}: pass a file name, and --output_head={output}.')
    page = _page_path(output) if _writes_page() else None
    workdir = None
    if image_sources.has_workdir() or FLAGS.method == 'qat':
        workdir = common_flags.workdir_path(default_of=output)
    folders = {
        'workdir': workdir,
        'student_workdir': FLAGS.student_workdir and common_flags.with_seed(FLAGS.student_workdir),
    }
    early.check_distinct(output=output, result_json=FLAGS.result_json, page=page, **folders)
    early.check_outside_images(**folders)
    common_flags.class_names()
    for path in filter(None, (output, page)):
        atomic_files.check_output(path, FLAGS.overwrite)
    if FLAGS.result_json:
        atomic_files.check_output(FLAGS.result_json, overwrite=True)
    if FLAGS.workdir:
        early.check_workdir()
    if FLAGS.student_workdir:
        early.check_folder('student_workdir', common_flags.with_seed(FLAGS.student_workdir))


run = functools.partial(
    app.run, __name__, main, usage='MODEL --output=FILE.tflite', check=check_flags
)

if __name__ == '__main__':
    run()
