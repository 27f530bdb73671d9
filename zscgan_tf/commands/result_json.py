"""--result_json: what made a result and measured it; checked early, added at last."""

import os
import typing

from absl import flags

from zscgan_tf.commands import dfq_flags, image_sources
from zscgan_tf.errors import UserError
from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.options import flag_of
from zscgan_tf.tflite.options import FileOptions, TfliteCalibrationOptions

if typing.TYPE_CHECKING:
    from zscgan_tf.pipeline import Plan
    from zscgan_tf.quantized import Quantized
    from zscgan_tf.sources import Source, StoredSource
    from zscgan_tf.teacher.teacher import Teacher

FLAGS = flags.FLAGS


def check(
    teacher: 'Teacher', evaluate_on: 'StoredSource | None', shared: dict[str, object]
) -> None:
    """Refuses, before any work, a --result_json that this result could not be added to."""
    from zscgan_tf.report import results

    if FLAGS.result_json:
        evaluated = evaluate_on and evaluate_on.has_labels and not teacher.has_independent_labels
        results.check(FLAGS.result_json, evaluated=bool(evaluated), **shared)


def shared_results(
    teacher: 'Teacher', plan: 'Plan', evaluate_on: 'StoredSource | None'
) -> dict[str, object]:
    """What the results of all seeds have in common: images, steps, and what shaped them."""
    if isinstance(plan.options, TfliteCalibrationOptions):
        record = plan.options.record()
        images = record.pop('calibration_images')
    else:
        record = plan.file.record()
        record |= {f'student_{flag_of(f)}': value for f, value in plan.options.recorded()}
        images = plan.options.range_images
    record |= {
        'input_spec': teacher.input_spec.to_dict(),
        'raw_pixels': FLAGS.raw_pixels,
        **image_sources.record(teacher),
    }
    steps = image_sources.training_steps(teacher)
    if FLAGS.method == 'qat':
        steps = plan.options.steps
    evaluation = _evaluation(evaluate_on)
    return {'images': images, 'steps': steps, 'options': record, 'evaluation': evaluation}


def shared_results_of_dfq(
    teacher: 'Teacher',
    to_quantize: 'Teacher',
    passed: dict[str, object],
    evaluate_on: 'StoredSource | None',
) -> dict[str, object]:
    """The same of DFQ, whose `passed` options are of the file too."""
    options = DfqOptions.resolve(FLAGS.preset, DfqOptions.among(passed), to_quantize)
    file = FileOptions.resolve(FLAGS.preset, FileOptions.among(passed), to_quantize)
    record = file.record() | {'method': 'dfq'}
    record |= {f'dfq_{name}': value for name, value in options.record().items()}
    record |= {'input_spec': teacher.input_spec.to_dict(), 'raw_pixels': FLAGS.raw_pixels}
    return {'images': 0, 'steps': 0, 'options': record, 'evaluation': _evaluation(evaluate_on)}


def _evaluation(evaluate_on):
    """What the results say of the images that they were measured on; the seed is their order's."""
    from zscgan_tf.sources import description_of

    found = {'check_images': 0 if dfq_flags.is_chosen() else FLAGS.check_images}
    if evaluate_on is not None:
        found |= description_of(evaluate_on)
        found.pop('seed')
    return found


def training_metrics(
    result: 'Quantized', source: 'Source', folder: str, student_folder: str | None
) -> tuple[dict[str, float], float]:
    """What results say of the trainings: metrics by their names, and minutes."""
    from zscgan_tf.methods import deep_inversion
    from zscgan_tf.training import loop

    metrics = {}
    if result.fresh:
        metrics['fresh_agreement'] = result.fresh['agreement']
    log = loop.last_metrics(folder) if image_sources.has_workdir() else {}
    seconds = log.get('seconds', 0)
    if image_sources.is_optimized() and FLAGS.compete_weight:
        first_student = loop.last_metrics(os.path.join(folder, deep_inversion.FIRST_STUDENT))
        seconds += first_student.get('seconds', 0)
    minutes = seconds / 60
    losses = ('class_loss', 'bns_loss', 'moments_loss')
    metrics |= {name: log[name] for name in losses if name in log}
    if image_sources.is_optimized():
        metrics['clipped_percent'] = 100 * source.clipped_share
    if result.student_agreement is not None:
        metrics['student_agreement'] = result.student_agreement
    if student_folder:
        if log:
            name = 'generator' if image_sources.has_generator() else 'images'
            metrics[f'{name}_minutes'] = minutes
        minutes = loop.last_metrics(student_folder).get('seconds', 0) / 60
    return metrics, minutes


def add(
    result: 'Quantized', metrics: dict[str, float], minutes: float, shared: dict[str, object]
) -> UserError | None:
    """Adds to --result_json; returns the error where that failed, as the file is written."""
    from zscgan_tf.report import results

    if not FLAGS.result_json:
        return None
    metrics = _real_metrics(result) | metrics
    if 'accuracy' in metrics:
        shared = {'float_accuracy': round(result.real['float_accuracy'], 4), **shared}
    try:
        results.add(FLAGS.result_json, FLAGS.seed, metrics, minutes, **shared)
    except UserError as error:
        return error
    return None


def _real_metrics(result):
    """What was measured on real images, as result files hold it."""
    real = result.real or {}
    return {name: real[name] for name in ('accuracy', 'agreement', 'top5', 'ties') if name in real}
