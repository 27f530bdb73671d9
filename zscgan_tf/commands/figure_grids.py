"""Draws Figure 2: images of generators that were trained on different losses, beside real ones.

python -m zscgan_tf.commands.figure_grids --teacher=model.h5 --dataset=cifar10 --generator=both=run
"""

import functools

from absl import flags

from zscgan_tf.commands import app, common_flags, real_images
from zscgan_tf.errors import UserError
from zscgan_tf.options import MAX_SEED

FLAGS = flags.FLAGS

common_flags.define_teacher_flags()
real_images.define_flags()
flags.DEFINE_string('split', 'test', 'Split of --dataset whose images are shown.')
flags.DEFINE_integer(
    'seed', 0, 'Seed of the generated images.', lower_bound=0, upper_bound=MAX_SEED
)
flags.DEFINE_integer('columns', 6, 'Generated images a row and generator.', lower_bound=1)
flags.DEFINE_multi_string(
    'generator', [], 'TITLE=WORKDIR of a trained generator; once for each, from left to right.'
)
flags.DEFINE_string('output', 'docs/images/grids.png', 'The PNG file to write or replace.')

CAPTION = (
    'Each row is a class of the model. With both losses, generated images have colours as real '
    'ones have, and each row looks different. With the class loss only, rows differ, but colours '
    'and textures are not those of photographs. With the BNS loss only, colours are as in real '
    'images, but rows look alike.'
)
# The page shows the picture at about half of its size.
FONT_SIZE = 26


def main() -> None:
    common_flags.require('dataset', 'the dataset of the real images')
    if FLAGS.images:
        raise UserError('--images is not read here: pass --dataset, or leave --images out.')
    workdirs = dict(map(_title_and_workdir, FLAGS.generator))
    if not workdirs:
        raise UserError('--generator is missing: pass TITLE=WORKDIR of each generator.')
    from zscgan_tf.methods.zscgan import load_generator
    from zscgan_tf.sources import pictures

    teacher = common_flags.load_teacher()
    real = real_images.of_split(FLAGS.split, teacher)
    picture = pictures.draw_beside_real(
        {
            title: load_generator(teacher, workdir, seed=FLAGS.seed)
            for title, workdir in workdirs.items()
        },
        real,
        real.class_names or [str(c) for c in range(teacher.num_classes)],
        columns=FLAGS.columns,
        caption=CAPTION,
        font_size=FONT_SIZE,
    )
    pictures.write_picture(FLAGS.output, picture)
    print(f'{FLAGS.output}: {len(workdirs)} generators beside real images')


def _title_and_workdir(text):
    title, _, workdir = text.partition('=')
    if not workdir:
        raise UserError(f'--generator={text} has no workdir: pass TITLE=WORKDIR.')
    return title, workdir


run = functools.partial(app.run, __name__, main)

if __name__ == '__main__':
    run()
