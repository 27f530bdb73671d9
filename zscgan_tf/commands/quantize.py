"""Quantizes a trained Keras classifier to an integer .tflite, without its data.

Trains a conditional generator against the model (or goes on with, or reuses, that of --workdir),
calibrates TFLite's post-training quantization with its images, proves that the file is integer,
and says how good it is.

  bin/quantize.py --teacher=model.h5 --output=model.tflite
"""

import functools
import os
import pathlib

from absl import flags

from zscgan_tf.commands import app, common_flags
from zscgan_tf.errors import UserError

FLAGS = flags.FLAGS

common_flags.define_teacher_flags()
common_flags.define_run_flags()
common_flags.define_generator_flags()
common_flags.define_real_images_flags()
common_flags.define_overwrite_flag()
flags.DEFINE_string('output', None, 'The .tflite to write. "{seed}" stands for the seed.')
flags.DEFINE_enum(
    'source',
    'zscgan',
    ['zscgan', 'noise_uniform', 'noise_gaussian', 'files', 'dataset'],
    'Where the calibration images come from: a generator (no data), noise (no data), --images, or '
    '--dataset with --calibration_split.',
)
flags.DEFINE_string('calibration_split', 'train', 'Split of --dataset for --source=dataset.')
flags.DEFINE_integer(
    'calibration_images', None, 'Images to calibrate with. Paper: 10,000.', lower_bound=1
)
flags.DEFINE_integer(
    'check_images', 1000, 'Fresh images of the source to measure agreement on.', lower_bound=1
)
flags.DEFINE_string('evaluation_split', None, 'Split of --dataset to evaluate on.')
flags.DEFINE_string('evaluation_images', None, 'Images by class to evaluate on: .npz or folder.')
flags.DEFINE_enum('input_type', 'int8', ['int8', 'uint8', 'float32'], "Type of the file's input.")
flags.DEFINE_enum('output_type', 'int8', ['int8', 'uint8', 'float32'], 'Type of its output.')
flags.DEFINE_boolean('per_channel', True, 'A weight scale for each channel, or for each tensor.')
flags.DEFINE_enum(
    'output_head',
    'model',
    ['model', 'logits'],
    'model: the file ends as the model did; logits: its softmax is left off.',
)
flags.DEFINE_boolean('allow_float_ops', False, 'Keep in float what TFLite can not quantize.')
flags.DEFINE_string('result_json', None, "A file that this seed's result is added to.")


def main():
    from zscgan_tf import export, pipeline, results
    from zscgan_tf.presets import calibration_images

    common_flags.require('output', 'the .tflite to write')
    output = FLAGS.output.replace('{seed}', str(FLAGS.seed))
    if output in ('logits', 'model'):
        raise UserError(f'--output={output}: pass a file name, and --output_head={output}.')
    export.check_output(output, FLAGS.overwrite)
    if FLAGS.result_json:
        results.check(FLAGS.result_json)
    teacher = common_flags.load_teacher()
    evaluate_on = _evaluation_source(teacher)
    folder = pathlib.Path(common_flags.workdir(default=os.path.splitext(output)[0] + '.workdir'))
    count = FLAGS.calibration_images or calibration_images(
        FLAGS.preset, teacher.input_spec.image_size
    )
    source = _source(teacher, folder)
    result = pipeline.quantize(
        teacher,
        source,
        output,
        calibration_images=count,
        check_images=FLAGS.check_images,
        evaluate_on=evaluate_on,
        input_type=FLAGS.input_type,
        output_type=FLAGS.output_type,
        per_channel=FLAGS.per_channel,
        output_head=FLAGS.output_head,
        allow_float_ops=FLAGS.allow_float_ops,
        overwrite=FLAGS.overwrite,
    )
    print(pipeline.summary(teacher, result))
    if FLAGS.source == 'zscgan':
        print(f'{"images":<12} {folder / "classes.png"}')
    if FLAGS.result_json:
        _add_result(result, folder, count)


def _source(teacher, folder):
    if FLAGS.source == 'zscgan':
        return common_flags.train_generator(teacher, folder)
    if FLAGS.source.startswith('noise_'):
        from zscgan_tf.sources.noise import NoiseSource

        kind = FLAGS.source.removeprefix('noise_')
        return NoiseSource(teacher.input_spec, kind, batch_size=32, seed=FLAGS.seed)
    common_flags.require(
        'images' if FLAGS.source == 'files' else 'dataset', f'what --source={FLAGS.source} reads'
    )
    return common_flags.real_images(teacher, FLAGS.calibration_split)


def _evaluation_source(teacher):
    if FLAGS.evaluation_images:
        from zscgan_tf.sources.files import FileSource

        return FileSource(
            FLAGS.evaluation_images,
            teacher.input_spec,
            batch_size=100,
            resize_short_side=FLAGS.resize_short_side,
        )
    if FLAGS.evaluation_split:
        common_flags.require('dataset', 'the dataset of --evaluation_split')
        return common_flags.real_images(teacher, FLAGS.evaluation_split)
    return None


def _add_result(result, folder, count):
    from zscgan_tf import results, training_loop

    real = dict(result['real'] or {})
    metrics = {
        name: real[name] for name in ('accuracy', 'agreement', 'top5', 'ties') if name in real
    }
    if result['fresh']:
        metrics['fresh_agreement'] = result['fresh']['agreement']
    common = {'float_accuracy': round(real['float_accuracy'], 4)} if 'accuracy' in metrics else {}
    log = training_loop.last_metrics(folder) if FLAGS.source == 'zscgan' else {}
    metrics |= {name: log[name] for name in ('class_loss', 'bns_loss') if name in log}
    results.add(
        FLAGS.result_json,
        FLAGS.seed,
        metrics,
        log.get('seconds', 0) / 60,
        **common,
        images=count,
        steps=log.get('step', 0),
    )


run = functools.partial(app.run, __name__, main)

if __name__ == '__main__':
    run()
