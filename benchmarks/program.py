r"""Measures what the project's own code costs, as ratios within one run.

Prints a table and writes the ratios to a JSON file, beside the one time that it measures. Takes
half an hour with both teachers.

  bin/benchmark.py --teacher=resnet20.h5 --result_json=training.json
  bin/benchmark.py --teacher=resnet20.h5 --only=loop_over_step,combined_over_sum
"""

import functools
import json
import math
import os
import pathlib

from absl import flags

from zscgan_tf.commands import app, common_flags
from zscgan_tf.errors import UserError

FLAGS = flags.FLAGS

# name: (target or None, what it means). All are ratios but the last.
MEASUREMENTS = {
    'zscgan_step_over_bare': (1.10, 'a training step / its bare forward and backward passes'),
    'loop_over_step': (1.03, 'a step in the training loop / the same step called directly'),
    'bfloat16_speedup': (None, 'a step in float32 / the same step in bfloat16'),
    'distillation_over_float_student': (1.3, 'a distillation step / the same, student in float'),
    'combined_over_sum': (1.05, 'a step that trains generator and student / a step of each'),
    'ptq_over_converter': (1.15, 'synthetic images to a file / the converter with them in memory'),
    'peak_memory_images': (1.05, 'quantize.py, large teacher: many images / few'),
    'peak_memory_steps': (1.05, 'quantize.py, large teacher: many training steps / few'),
    'export_seconds': (60, 'large teacher: a W8A8 student to an audited file, in seconds'),
}
NEED_LARGE_TEACHER = ('peak_memory_images', 'peak_memory_steps', 'export_seconds')
# What is measured, and under which name the file keeps it.
VALUES = {'ratio': 'ratios', 'seconds': 'seconds'}

common_flags.define_teacher_flags()
common_flags.define_overwrite_flag()
flags.DEFINE_string(
    'large_teacher',
    None,
    'A second classifier, of large images, for bfloat16_speedup, peak_memory and export_seconds. '
    'Not measured where none is passed. --mean, --preprocessing and the like hold for both; where '
    'they differ, put a .json beside each file instead.',
)
flags.DEFINE_string('result_json', None, 'The file to write.')
flags.DEFINE_list(
    'only',
    None,
    f'What to measure, of {", ".join(MEASUREMENTS)}; the other entries of --result_json are kept.',
)
flags.DEFINE_integer('repeats', 20, 'Pairs of steps, of which the median counts.', lower_bound=1)
flags.DEFINE_integer(
    'long_repeats', 3, 'Pairs of what takes minutes: the last four measurements.', lower_bound=1
)
flags.DEFINE_integer('batch_size', 64, 'Images a step, of --teacher.', lower_bound=2)
flags.DEFINE_integer(
    'large_batch', None, "Images a step, of --large_teacher. Default: the preset's.", lower_bound=2
)
flags.DEFINE_integer(
    'distillation_batch', 128, 'Images of distillation_over_float_student.', lower_bound=1
)
flags.DEFINE_integer('ptq_images', 10_000, 'Images of ptq_over_converter.', lower_bound=1)


def main():
    from zscgan_tf import atomic_files

    chosen = _chosen()
    results = {}
    made_with = {}
    if FLAGS.result_json:
        atomic_files.check_output(FLAGS.result_json, FLAGS.overwrite)
        results, made_with = _kept()
    print(f'{"":<44}{"ratio":>8}{"target":>8}{"medians":>22}  meaning')
    try:
        for name, result in _measure(chosen):
            results[name] = result
            print(_row(name, result), flush=True)
            if FLAGS.result_json:
                _write(results, made_with)
    except KeyboardInterrupt:
        where = f'; {FLAGS.result_json} holds what was measured' if made_with else ''
        raise KeyboardInterrupt(f'interrupted{where}') from None


def _chosen():
    chosen = FLAGS.only or list(MEASUREMENTS)
    for name in chosen:
        if name not in MEASUREMENTS:
            raise UserError(f'--only={name} is unknown: pass some of {", ".join(MEASUREMENTS)}.')
        if FLAGS.only and name in NEED_LARGE_TEACHER and not FLAGS.large_teacher:
            raise UserError(f'--only={name}: pass the --large_teacher to measure it with.')
    return chosen


def _measure(chosen):
    """Yields (name, result) of each measurement that was chosen."""
    from benchmarks import distillation, training

    teacher = common_flags.load_teacher()
    few, many = FLAGS.long_repeats, FLAGS.repeats
    if 'zscgan_step_over_bare' in chosen:
        yield (
            'zscgan_step_over_bare',
            training.step_over_bare(teacher, many, FLAGS.batch_size),
        )
    if 'loop_over_step' in chosen:
        # A turn of the loop is many steps.
        turns = math.ceil(many / 2)
        yield 'loop_over_step', training.loop_over_step(teacher, turns, FLAGS.batch_size)
    if 'bfloat16_speedup' in chosen:
        result = training.bfloat16_speedup(teacher, many, FLAGS.batch_size)
        yield f'bfloat16_speedup_{teacher.name}', result
        if FLAGS.large_teacher:
            large = common_flags.load_teacher('large_teacher')
            result = training.bfloat16_speedup(large, math.ceil(many / 2), FLAGS.large_batch)
            yield f'bfloat16_speedup_{large.name}', result
    if 'distillation_over_float_student' in chosen:
        measure = distillation.distillation_over_float_student
        yield 'distillation_over_float_student', measure(teacher, many, FLAGS.distillation_batch)
    if 'combined_over_sum' in chosen:
        measure = distillation.combined_over_sum
        yield 'combined_over_sum', measure(teacher, many, FLAGS.batch_size)
    if 'ptq_over_converter' in chosen:
        yield 'ptq_over_converter', training.ptq_over_converter(teacher, few, FLAGS.ptq_images)
    if FLAGS.large_teacher:
        passed_on = common_flags.teacher_flags()
        for name in ('peak_memory_images', 'peak_memory_steps'):
            if name in chosen:
                measure = getattr(training, name)
                yield name, measure(FLAGS.large_teacher, few, flags=passed_on)
        if 'export_seconds' in chosen:
            large = common_flags.load_teacher('large_teacher')
            yield 'export_seconds', distillation.export_seconds(large, few)


def _row(name, result):
    """A line of the table."""
    kind = 'bfloat16_speedup' if name.startswith('bfloat16_speedup') else name
    target, meaning = MEASUREMENTS[kind]
    if 'seconds' in result:
        return f'{name:<44}{result["seconds"]:>6.1f} s{f"<= {target} s":>8}{"":>22}  {meaning}'
    medians = f'{result["numerator"]:,.1f} / {result["denominator"]:,.1f} {result["unit"]}'
    target = f'<= {target:.2f}' if target else '-'
    return f'{name:<44}{result["ratio"]:>8.3f}{target:>8}{medians:>22}  {meaning}'


def _kept():
    """With --only: the entries that the file holds, if they come from here; else nothing."""
    from zscgan_tf.report import results

    made_with = results.made_with()
    path = pathlib.Path(FLAGS.result_json)
    if not FLAGS.only or not os.path.exists(path):
        return {}, made_with
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        values = {'ratio': found['ratios'], 'seconds': found.get('seconds', {})}
        kept = {
            name: {kind: value, **found['details'][name]}
            for kind, named in values.items()
            for name, value in named.items()
        }
        others = {key: found[key] for key in made_with}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'--result_json={path} is no result of this program ({error!r}).'
        ) from error
    if others != made_with:
        raise UserError(
            f'--result_json={path} was made with other versions or on another machine: '
            f'run without --only.'
        )
    return kept, made_with


def _write(results, made_with):
    from zscgan_tf.atomic_files import write_atomically

    values = {
        key: {name: found[kind] for name, found in results.items() if kind in found}
        for kind, key in VALUES.items()
    }
    result = {
        'ratios': {},
        **{key: named for key, named in values.items() if named},
        'details': {
            name: {key: value for key, value in found.items() if key not in VALUES}
            for name, found in results.items()
        },
        **made_with,
    }
    data = (json.dumps(result, indent=1) + '\n').encode()
    # Written after every measurement; whether it may be replaced was asked before the first.
    write_atomically(FLAGS.result_json, data, overwrite=True)


run = functools.partial(app.run, __name__, main)

if __name__ == '__main__':
    run()
