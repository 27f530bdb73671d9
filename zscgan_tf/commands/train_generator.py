"""Trains a generator of images against a float classifier, without data.

This is ZS-CGAN. A workdir that holds an interrupted training goes on where it stopped.
Pass the --preprocessing of the model's training too, as to bin/quantize.py.

  bin/train_generator.py model.keras --workdir=runs/model
  bin/train_generator.py model.keras --workdir=runs/longer --steps=5000
"""

import functools

from absl import flags

from zscgan_tf.commands import app, common_flags, early

FLAGS = flags.FLAGS

common_flags.define_teacher_flags()
common_flags.define_run_flags()
common_flags.define_generator_flags()


def main() -> None:
    from zscgan_tf.training import loop

    folder = common_flags.workdir()
    common_flags.train_generator(common_flags.load_teacher(), folder)
    last = loop.last_metrics(folder)
    losses = ', '.join(
        f'{name} {last[name]:.4g}'
        for name in ('class_loss', 'bns_loss', 'class_accuracy', 'entropy_loss')
        # Where there is a class loss, the entropies are an extra of few trainings.
        if name in last and (name != 'entropy_loss' or FLAGS.unconditional)
    )
    print(f'{folder}: trained ({losses}); images in classes.png')


def check() -> None:
    """Refuses wrong flags before TensorFlow is imported."""
    early.check_inputs()
    early.check_workdir()
    early.check_distinct(workdir=common_flags.workdir_path())


run = functools.partial(app.run, __name__, main, usage='MODEL --workdir=FOLDER', check=check)

if __name__ == '__main__':
    run()
