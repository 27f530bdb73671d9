"""The whole job on handwritten digits: train a classifier, put its data aside, quantize it.

The digits are scikit-learn's (real ones, 8x8 pixels, part of that package). A small network with
batch norms learns half of them. The steps after that see only the network: one file is calibrated,
and two students are distilled. The other half of the digits measures the files at the end.
"""

import functools
import os
import pathlib
import shutil
import typing

import numpy as np
from absl import flags

from zscgan_tf.commands import app
from zscgan_tf.errors import UserError
from zscgan_tf.options import MAX_SEED

if typing.TYPE_CHECKING:
    from zscgan_tf.quantized import Quantized

FLAGS = flags.FLAGS

flags.DEFINE_string('output', 'quickstart_output', 'Folder for all that is made.')
flags.DEFINE_integer('seed', 0, 'Seed of everything random.', lower_bound=0, upper_bound=MAX_SEED)
flags.DEFINE_integer('steps', 600, 'Training steps of the generator.', lower_bound=1)
flags.DEFINE_integer('distillation_steps', 400, 'Training steps of either student.', lower_bound=1)


STUDENT_BITS = (8, 4)
# Of a folder that this program made: its files may be replaced.
MARKER = '.quickstart'
CAPTION = (
    'Left: a real digit, which the generator never saw. Right: images that the generator learned '
    'from the classifier alone. Their strokes lie where those of real digits lie; a row need not '
    'look like its digit.'
)


def main() -> None:
    try:
        _run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt('interrupted: the same command begins anew') from None


def _run():
    from zscgan_tf import atomic_files, pipeline
    from zscgan_tf.methods import distillation, zscgan
    from zscgan_tf.report.summary import summary
    from zscgan_tf.sources import pictures
    from zscgan_tf.sources.files import FileSource
    from zscgan_tf.sources.noise import NoiseSource
    from zscgan_tf.teacher.loading import load_teacher

    folder = pathlib.Path(FLAGS.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.listdir(folder)
    except OSError as error:
        raise UserError(
            f'{folder} cannot be made or read ({error.strerror}): pass another --output.'
        ) from error
    classifier, held_out = folder / 'digits.keras', folder / 'held_out_digits.npz'
    if held and MARKER not in held:
        raise UserError(
            f'{folder} has files, and no {MARKER}, so they may be yours: pass another --output, or '
            f'delete the folder if they are not.'
        )
    atomic_files.check_output(classifier, overwrite=True)
    (folder / MARKER).touch()
    runs = [folder / name for name in ('generator', *map(_student_name, STUDENT_BITS))]
    train_classifier(classifier, held_out, FLAGS.seed)

    # From here on no real digit is seen, but for the evaluation in the last column.
    for run_folder in runs:
        shutil.rmtree(run_folder, ignore_errors=True)  # of an earlier classifier
    teacher = load_teacher(str(classifier), input_spec={'mean': [0.0], 'std': [1.0]})
    real = FileSource(held_out, teacher.input_spec, batch_size=100)
    generator = zscgan.train_generator(
        teacher, folder / 'generator', seed=FLAGS.seed, steps=FLAGS.steps, generator_scales=2
    )
    names = [str(digit) for digit in range(teacher.num_classes)]
    picture = pictures.draw_beside_real(
        {'generated': generator}, real, names, columns=8, caption=CAPTION
    )
    pictures.write_picture(folder / 'digits.png', picture)
    noise = NoiseSource(teacher.input_spec, batch_size=64, seed=FLAGS.seed)
    results = {
        name: pipeline.quantize(
            teacher,
            source,
            folder / f'{file}.tflite',
            calibration_images=512,
            evaluate_on=real,
            overwrite=True,
        )
        for name, file, source in (
            ('DF-PTQ (ZS-CGAN images)', 'digits', generator),
            ('PTQ on uniform noise', 'digits_noise', noise),
        )
    }
    for bits in STUDENT_BITS:
        student = distillation.distill(
            teacher,
            generator,
            folder / _student_name(bits),
            seed=FLAGS.seed,
            steps=FLAGS.distillation_steps,
            weight_bits=bits,
            activation_bits=bits,
            range_images=512,
            augment=False,  # mirrored digits are none
        )
        results[f'DF-QAT W{bits}A{bits}'] = pipeline.quantize_student(
            student,
            generator,
            folder / f'digits_w{bits}a{bits}.tflite',
            evaluate_on=real,
            overwrite=True,
        )
    print(summary(teacher, results['DF-PTQ (ZS-CGAN images)']))
    print()
    print(table(results))
    print(f'\ngenerated digits: {folder / "digits.png"}')
    print(f'integer models:   {folder / "digits.tflite"}, digits_w*a*.tflite beside it')


def _student_name(bits):
    return f'student_w{bits}a{bits}'


def train_classifier(path: pathlib.Path, held_out: pathlib.Path, seed: int) -> None:
    """Trains the float classifier on half of the digits and writes the other half beside it."""
    import tf_keras
    from sklearn.datasets import load_digits

    layers = tf_keras.layers
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]

    tf_keras.utils.set_random_seed(seed)
    x = inputs = layers.Input((8, 8, 1))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        x = layers.Conv2D(filters, 3, strides, padding='same', use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Flatten()(x)
    model = tf_keras.Model(inputs, layers.Dense(10, activation='softmax')(x))
    model.compile('adam', 'sparse_categorical_crossentropy')
    model.fit(images[train], labels[train], batch_size=32, epochs=30, verbose=0)
    model.save(path)
    np.savez(held_out, images=images[test], labels=labels[test])


def table(results: dict[str, 'Quantized']) -> str:
    """Accuracy and agreement of each file on the digits that were held out."""
    first = next(iter(results.values())).real
    lines = [
        f'{"on " + str(first["images"]) + " held-out digits":<28}{"accuracy":>10}{"agreement":>11}',
        f'{"float":<28}{first["float_accuracy"]:>8.2f} %{100:>9.2f} %',
    ]
    for name, result in results.items():
        real = result.real
        lines.append(f'{name:<28}{real["accuracy"]:>8.2f} %{real["agreement"]:>9.2f} %')
    return '\n'.join(lines)


run = functools.partial(app.run, __name__, main)

if __name__ == '__main__':
    run()
