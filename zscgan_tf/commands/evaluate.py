r"""Measures how well a .tflite, or the float model itself, answers.

The program measures the accuracy, and how often the file and the float model agree. It takes real
images (--images, or --dataset and --split), or generated ones (--workdir). Without real images, use
a second generator, whose images differ from those that set the ranges: train it with
bin/train_generator.py --bns_loss_weight=0, and pass its --workdir and --blend. Pass the
--preprocessing of the model's training too, as to bin/quantize.py.

  bin/evaluate.py model.keras --model=model.tflite --images=photos
  bin/evaluate.py model.keras --images=photos --bns

With --bns the program says how near images are to those that the model was trained on: it prints
the BNS loss of the images by layer. Of several sets of photographs, the set of the lowest loss is
the best proxy.
"""

import functools
import json
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
common_flags.define_overwrite_flag()
flags.DEFINE_string('model', None, 'The .tflite. Default: the float model itself.')
flags.DEFINE_integer(
    'count', None, 'Number of images. Default: all real ones, or 1,000 fresh ones.', lower_bound=1
)
flags.DEFINE_integer('batch_size', None, 'Real images a batch. Default: 100.', lower_bound=1)
flags.DEFINE_boolean(
    'blend', False, 'Blend fresh images in pairs: most are then between two classes.'
)
flags.DEFINE_boolean(
    'bns',
    False,
    "Print the BNS loss of the images by layer: how far they are from the batch norms' moments.",
)
flags.DEFINE_string('result_json', None, 'A file to write the result to.')


def main() -> None:
    from zscgan_tf import evaluation
    from zscgan_tf.report.summary import evaluation_rows
    from zscgan_tf.sources.batches import take
    from zscgan_tf.tflite.interpreter import TfliteModel, latency

    tflite = TfliteModel(FLAGS.model) if FLAGS.model else None
    teacher = common_flags.load_teacher()
    source = real_images.of_flags(teacher, FLAGS.batch_size or 100)
    images = 'real images' if source else 'fresh images of the generator'
    if source is not None:
        count = min(FLAGS.count or source.image_count, source.image_count)

        def batches():
            if count == source.image_count:
                return source.one_pass()
            return take(source.batches(), count)  # of all classes, though files are in their order
    else:
        from zscgan_tf.methods import zscgan
        from zscgan_tf.methods.augmentation import blends

        count = FLAGS.count or 1000
        source = zscgan.load_generator(
            teacher, common_flags.workdir(), seed=common_flags.fresh_seed()
        )
        images = f'blends of {images}' if FLAGS.blend else images

        def batches():
            fresh = ((pixels, None) for pixels, _ in take(source.batches(), count))
            return blends(fresh, FLAGS.seed) if FLAGS.blend else fresh

    result = evaluation.evaluate(tflite, teacher, batches(), total=count)
    rows = evaluation_rows(teacher, result, images)
    if tflite:
        sizes = evaluation.sizes(teacher, tflite)
        result |= {**sizes, 'latency_ms': latency(tflite)}
        rows += [
            ('size', f'{sizes["tflite_file_bytes"]:,} bytes; float weights '
             f'{sizes["teacher_weight_bytes"]:,}'),
            ('latency', f'{result["latency_ms"]:.2f} ms per image (LiteRT, this machine)'),
        ]  # fmt: skip
    if FLAGS.bns:
        distances = _distances(teacher, batches(), count)
        result |= distances
        rows += _distance_rows(distances)
    print('\n'.join(f'{name:<12} {text}' for name, text in rows))
    if FLAGS.result_json:
        atomic_files.write_atomically(
            FLAGS.result_json, (json.dumps(result, indent=1) + '\n').encode(), FLAGS.overwrite
        )


def _distances(teacher, batches, count):
    from zscgan_tf.report.moments import bns_loss_of, loss_by_layer, moment_distances
    from zscgan_tf.sources.batches import with_progress

    pixels = (pixels for pixels, _ in with_progress(batches, count, 'moments'))
    found = moment_distances(teacher, pixels)
    by_layer = {name: round(loss, 4) for name, loss in loss_by_layer(found).items()}
    return {'bns_loss': round(bns_loss_of(found), 4), 'bns_loss_by_layer': by_layer}


def _distance_rows(distances):
    yield 'BNS loss', f'{distances["bns_loss"]:.4g} nats, of these batch norms:'
    for layer, loss in distances['bns_loss_by_layer'].items():
        yield '', f'{loss:<10.4g} {layer}'


def check() -> None:
    """Refuses wrong flags before TensorFlow is imported."""
    real_images.check_one_set()
    if FLAGS.blend and (FLAGS.images or FLAGS.dataset):
        raise UserError(
            '--blend is for fresh images: leave --images and --dataset out, and pass the --workdir '
            'of a generator.'
        )
    if FLAGS.workdir and (FLAGS.images or FLAGS.dataset):
        raise UserError(
            '--workdir names the images of a generator, and --images or --dataset real ones: pass '
            'one of them.'
        )
    if FLAGS.workdir and FLAGS.batch_size:
        raise UserError(
            f'--batch_size={FLAGS.batch_size} is for real images; a generator keeps the batches of '
            f'its training: leave it out.'
        )
    early.check_distinct(result_json=FLAGS.result_json)
    if not FLAGS.images and not FLAGS.dataset and FLAGS.workdir is None:
        raise UserError(
            'there is nothing to evaluate on: pass --dataset and --split, --images, or the '
            '--workdir of a trained generator.'
        )
    early.check_inputs()
    if FLAGS.model and not os.path.exists(FLAGS.model):
        raise UserError(f'--model={FLAGS.model}: no such file: pass a .tflite.')
    if FLAGS.result_json:
        atomic_files.check_output(FLAGS.result_json, FLAGS.overwrite)
    if not FLAGS.images and not FLAGS.dataset:
        early.check_workdir(holds_run=True)


run = functools.partial(app.run, __name__, main, usage='MODEL --model=FILE.tflite', check=check)

if __name__ == '__main__':
    run()
