"""Writes images of a trained generator: a folder of PNGs by class, or an .npz.

The generator is that of --workdir (bin/train_generator.py). Its images are balanced over classes.
Those of a generator without classes (--unconditional) are in no folders, and have no labels. Pass
the --preprocessing of the model's training too, as to bin/quantize.py.

  bin/synthesize.py model.keras --workdir=runs/model --output=images
  bin/synthesize.py model.keras --workdir=runs/model --output=images.npz
"""

import functools
import os

from absl import flags

from zscgan_tf.commands import app, common_flags, early
from zscgan_tf.errors import UserError

FLAGS = flags.FLAGS

common_flags.define_teacher_flags()
common_flags.define_run_flags()
common_flags.define_overwrite_flag()
flags.DEFINE_string('output', None, 'The folder to write, or a name that ends in .npz.')
flags.DEFINE_integer('count', 1000, 'Number of images, balanced over classes.', lower_bound=1)
flags.DEFINE_integer(
    'batch_size', None, 'Images a batch. Default: that of the training.', lower_bound=2
)


def main() -> None:
    from zscgan_tf import atomic_files
    from zscgan_tf.methods import zscgan
    from zscgan_tf.sources import writing

    to_npz = FLAGS.output.lower().endswith('.npz')
    (atomic_files.check_output if to_npz else writing.check_folder)(FLAGS.output, FLAGS.overwrite)
    teacher = common_flags.load_teacher()
    source = zscgan.load_generator(
        teacher, common_flags.workdir(), batch_size=FLAGS.batch_size, seed=FLAGS.seed
    )
    if to_npz:
        writing.write_npz(FLAGS.output, source.batches(), FLAGS.count, overwrite=FLAGS.overwrite)
    else:
        writing.write_folder(
            FLAGS.output,
            source.batches(),
            FLAGS.count,
            num_classes=teacher.num_classes,
            overwrite=FLAGS.overwrite,
        )
    print(f'{FLAGS.output}: {FLAGS.count} images')


def check() -> None:
    """Refuses wrong flags before TensorFlow is imported."""
    common_flags.require('output', 'the folder or .npz to write')
    early.check_inputs()
    early.check_workdir(holds_run=True)
    early.check_distinct(output=FLAGS.output)
    if os.path.lexists(FLAGS.output) and not FLAGS.overwrite:
        raise UserError(f'{FLAGS.output}: exists already: pass --overwrite or another name.')


run = functools.partial(
    app.run, __name__, main, usage='MODEL --workdir=FOLDER --output=PATH', check=check
)

if __name__ == '__main__':
    run()
