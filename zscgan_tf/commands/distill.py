r"""Distils a quantized student of a float classifier on its generator's images.

This is DF-QAT. The generator is that of --workdir (bin/train_generator.py). A distillation that was
interrupted goes on where it stopped; bin/quantize.py --method=qat with the same flags and --output
writes its .tflite. That program also distils on images of another --source. Pass the
--preprocessing of the model's training too.

  bin/distill.py model.keras --workdir=runs/model
  bin/distill.py model.keras --workdir=runs/model --weight_bits=4
"""

import functools

from absl import flags

from zscgan_tf.commands import app, common_flags, early, option_flags
from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.methods.distillation_options import DistillationOptions

FLAGS = flags.FLAGS

common_flags.define_teacher_flags()
common_flags.define_run_flags()
common_flags.define_generator_flags()
common_flags.define_student_flags()
common_flags.define_raw_pixels_flag()


def main() -> None:
    from zscgan_tf.methods import zscgan
    from zscgan_tf.training import loop

    folder = common_flags.workdir()
    options = DistillationOptions.resolve(FLAGS.preset, option_flags.passed(DistillationOptions))
    teacher = common_flags.load_teacher()
    to_quantize = common_flags.with_raw_pixels(teacher)
    with common_flags.strategy().scope():
        source = zscgan.load_generator(teacher, folder, seed=FLAGS.seed)
    _check_generator(teacher, folder)
    own = common_flags.student_folder(folder, options)
    common_flags.distill(to_quantize, source, own)
    words, last = f'{own}: distilled', loop.last_metrics(own)
    if last:
        words += (
            f' (loss {last["distillation_loss"]:.4g}, agreement with the teacher '
            f'{100 * last["agreement"]:.2f} % in the last step)'
        )
    print(words)


def _check_generator(teacher, folder):
    """Refuses flags of the generator, and a seed, that it was not trained with."""
    from zscgan_tf.training import workdir

    config = workdir.read(folder)
    wanted = common_flags.generator_options(teacher).record()
    passed = {name: wanted.get(name) for name in option_flags.passed_flags(GeneratorOptions)}
    wanted = {**config, **passed, 'seed': FLAGS.seed}
    different = workdir.differences(config, wanted)
    if different:
        raise UserError(
            f'{folder.name} holds a generator of another configuration ({"; ".join(different)}): '
            f'pass what it was made with, or {folder.other}.'
        )


def check() -> None:
    """Refuses wrong flags before TensorFlow is imported."""
    early.check_inputs()
    early.check_workdir(holds_run=True)
    name = 'student_workdir' if FLAGS.student_workdir else 'workdir'
    folder = common_flags.with_seed(getattr(FLAGS, name))
    early.check_folder(name, folder)
    early.check_distinct(**{name: folder})
    DistillationOptions.resolve(FLAGS.preset, option_flags.passed(DistillationOptions))


run = functools.partial(app.run, __name__, main, usage='MODEL --workdir=FOLDER', check=check)

if __name__ == '__main__':
    run()
