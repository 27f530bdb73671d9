"""What the project's own code costs beside the work that it cannot avoid, as ratios.

Both sides of a ratio are measured in one process, in turns (A B A B ...), because a machine's speed
drifts by tens of per cent from minute to minute; the ratio is the median over the pairs.

Each function returns a dict: `ratio`, `unit` ('ms' or 'MB'), `numerator` and `denominator` (the
medians of the two sides in that unit), `repeats`, and what was measured.
"""

import itertools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from zscgan_tf.errors import UserError
from zscgan_tf.generator_options import GeneratorOptions
from zscgan_tf.generators import draw_noise
from zscgan_tf.methods import zscgan
from zscgan_tf.quiet import hidden_output
from zscgan_tf.sources.batches import take
from zscgan_tf.sources.generator import GeneratorSource
from zscgan_tf.teacher.tap import batch_moments, build_tap
from zscgan_tf.tflite import calibration
from zscgan_tf.tflite.converter import make_converter, prepared
from zscgan_tf.tflite.options import TfliteCalibrationOptions
from zscgan_tf.training import loop

# Steps of the two sides of `loop_over_step` in a turn: a few calls of the loop's function.
STEPS_PER_TURN = 30

# The kernel goes on counting from what a process was before it started a program. A child of this
# process would be at least as large as TensorFlow made this one, so a small one stands between.
MEASURE_CHILD = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
MAXRSS_BYTES = 1 if sys.platform == 'darwin' else 1024


def interleaved(numerator, denominator, repeats, warm_up=True):
    """The seconds of two functions that are called in turns.

    Args:
        numerator, denominator: functions without arguments that return when their work is done.
        repeats: number of calls of each.
        warm_up: call each once before, which compiles it.

    Returns:
        Two lists of seconds, [repeats].
    """
    seconds = ([], [])
    for turn in range(-1 if warm_up else 0, repeats):
        for function, found in zip((numerator, denominator), seconds, strict=True):
            started = time.perf_counter()
            function()
            if turn >= 0:
                found.append(time.perf_counter() - started)
    return seconds


def summarize(numerator, denominator, unit, scale, **facts):
    """The result of a measurement; see the module's docstring.

    Args:
        numerator, denominator: lists of values, [repeats], in the order in which they came.
        unit: what they are in when multiplied by `scale`.
        scale: as said.
        **facts: what was measured.
    """
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {
        'ratio': round(statistics.median(ratios), 4),
        'unit': unit,
        'numerator': round(scale * statistics.median(numerator), 3),
        'denominator': round(scale * statistics.median(denominator), 3),
        'repeats': len(ratios),
        **facts,
    }


def compiled(step, *batch):
    """A function without arguments that runs the next step of a training and reads its metrics.

    Args:
        step: as `loop.run` takes it.
        *batch: tensors that every step is called with, behind its number.
    """
    function = tf.function(step)
    numbers = itertools.count()

    def run():
        metrics = function(tf.constant(next(numbers), tf.int64), *batch)
        return {name: value.numpy() for name, value in metrics.items()}

    return run


def step_over_bare(teacher, repeats, batch_size=64):
    """A compiled training step over the bare forward and backward passes of the same batch.

    The step draws labels and noise, applies the optimizer and returns the metrics. The bare passes
    take constant labels and noise through the generator and the tapped teacher, and return the
    gradients of the same losses.
    """
    options = _options(teacher, batch_size=batch_size)
    generator, _, step = zscgan.build_training(teacher, options, seed=0)
    bare = _bare_passes(teacher, generator, options)
    noise = draw_noise(generator, batch_size, tf.constant([0, 0]))
    labels = tf.range(batch_size) % teacher.num_classes
    seconds = interleaved(compiled(step), lambda: bare(noise, labels)[0].numpy(), repeats)
    return summarize(*seconds, 'ms', 1000, batch_size=batch_size, dtype=options.compute_dtype)


def loop_over_step(teacher, repeats, batch_size=64, steps_per_turn=STEPS_PER_TURN):
    """A step inside `loop.run` over the same compiled step called directly.

    The loop adds its progress bar, metrics and logs, and the loop over several steps inside its
    compiled function; checkpoints and images come too seldom to count and are left out.
    """
    options = _options(teacher, batch_size=batch_size)
    generator, optimizer, step = zscgan.build_training(teacher, options, seed=0)
    direct = compiled(step)
    in_loop, alone = [], []
    turn_started = time.perf_counter()

    def take_turns(_):
        # The loop calls this between its steps, where others write images.
        nonlocal turn_started
        in_loop.append(time.perf_counter() - turn_started)
        started = time.perf_counter()
        for _ in range(steps_per_turn):
            direct()
        alone.append(time.perf_counter() - started)
        turn_started = time.perf_counter()
        return {}

    steps = (repeats + 1) * steps_per_turn
    with tempfile.TemporaryDirectory() as folder:
        loop.run(
            step,
            {'generator': generator, 'optimizer': optimizer},
            steps,
            workdir=folder,
            images_per_step=batch_size,
            checkpoint_every=steps,
            write_images=take_turns,
            images_every=steps_per_turn,
            name='loop_over_step',
        )
    # The first turns compiled.
    return summarize(in_loop[1:], alone[1:], 'ms', 1000 / steps_per_turn, batch_size=batch_size)


def bfloat16_speedup(teacher, repeats, batch_size=None):
    """A training step in float32 over the same step in bfloat16.

    Args:
        teacher: a `Teacher`.
        repeats: steps of each.
        batch_size: None: that of the small preset.
    """
    steps = []
    for dtype in ('float32', 'bfloat16'):
        options = _options(teacher, batch_size=batch_size, compute_dtype=dtype)
        steps.append(compiled(zscgan.build_training(teacher, options, seed=0)[2]))
    seconds = interleaved(*steps, repeats=repeats)
    return summarize(*seconds, 'ms', 1000, batch_size=options.batch_size)


def ptq_over_converter(teacher, repeats, images=10_000):
    """Synthetic images to a calibrated file, over the converter's own time for the same images.

    The numerator makes the images (an untrained generator of the small preset: the time does not
    depend on its weights) and quantizes with them as `bin/quantize.py` does. The denominator is
    `TFLiteConverter.from_keras_model` with the same settings up to the file's bytes, and all images
    as the model's inputs in memory, in slices of the size in which
    `calibration.convert` passes them on.
    """
    options = _options(teacher)
    generator = zscgan.build_training(teacher, options, seed=0)[0]
    source = GeneratorSource(generator, teacher.num_classes, options.batch_size)
    inputs = np.concatenate(
        [teacher.input_spec.to_inputs(p).numpy() for p, _ in take(source.batches(), images)]
    )

    def whole():
        pixels = (pixels for pixels, _ in take(source.batches(), images))
        return calibration.convert(teacher, pixels, total=images, file_batch=0)

    seconds = interleaved(whole, lambda: convert_in_memory(teacher, inputs), repeats, warm_up=False)
    return summarize(*seconds, 'ms', 1000, images=images)


def convert_in_memory(teacher, inputs):
    """What `calibration.convert` makes, by the converter alone, of inputs [N, H, W, C]."""
    size = calibration.slice_size(teacher.input_spec)
    options = TfliteCalibrationOptions.resolve('small', {'file_batch': 0}, teacher)
    converter = make_converter(prepared(teacher.model, teacher.name), options)
    converter.representative_dataset = lambda: (
        [inputs[i : i + size]] for i in range(0, len(inputs), size)
    )
    with hidden_output():
        return converter.convert()


def peak_memory_images(teacher_file, repeats, images=(64, 512), flags=()):
    """Peak memory of `bin/quantize.py` with many images over that with few.

    The generator was trained by an earlier process, so that the training's peak hides nothing.

    Args:
        teacher_file: what --teacher takes.
        repeats: runs with either number.
        images: the two numbers, of images to calibrate with and of fresh ones to check with.
        flags: further flags of the program, such as the teacher's preprocessing.
    """
    few, many = images
    with tempfile.TemporaryDirectory() as folder:
        peaks = {few: [], many: []}
        quantize_peak(teacher_file, folder, steps=2, images=few, flags=flags)
        for _ in range(repeats):
            for count, found in peaks.items():
                peak = quantize_peak(teacher_file, folder, steps=2, images=count, flags=flags)
                found.append(peak)
    return summarize(peaks[many], peaks[few], 'MB', 1e-6, images=[few, many])


def peak_memory_steps(teacher_file, repeats, steps=(4, 16), flags=()):
    """Peak memory of `bin/quantize.py` with many training steps over that with few.

    Args:
        teacher_file: what --teacher takes.
        repeats: runs with either number.
        steps: the two numbers.
        flags: further flags of the program.
    """
    few, many = steps
    peaks = {few: [], many: []}
    for _ in range(repeats):
        for count, found in peaks.items():
            with tempfile.TemporaryDirectory() as folder:
                peak = quantize_peak(teacher_file, folder, steps=count, images=16, flags=flags)
                found.append(peak)
    return summarize(peaks[many], peaks[few], 'MB', 1e-6, steps=[few, many])


def quantize_peak(teacher_file, folder, *, steps, images, flags=()):
    """Peak memory, in bytes, of the program that `bin/quantize.py` starts, in a process."""
    folder = pathlib.Path(folder)
    # From this copy of the project, as bin/quantize.py does.
    start = (
        f'import sys; sys.path[0] = {str(pathlib.Path(__file__).resolve().parents[1])!r}; '
        f'from zscgan_tf.commands.quantize import run; run()'
    )
    return peak_memory(
        [
            sys.executable,
            '-c',
            start,
            f'--teacher={teacher_file}',
            f'--output={folder / "model.tflite"}',
            f'--workdir={folder / "workdir"}',
            '--overwrite',
            f'--steps={steps}',
            f'--calibration_images={images}',
            f'--check_images={images}',
            *flags,
        ]
    )


def peak_memory(command):
    """Peak resident memory, in bytes, of a command that runs in a process of its own.

    Raises:
        UserError: it failed; what it printed last.
    """
    done = subprocess.run(
        [sys.executable, '-c', MEASURE_CHILD, *command], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['it printed nothing'])[-1]
        raise UserError(f'a process whose memory is measured failed: {last}')
    return int(done.stdout.split()[-1]) * MAXRSS_BYTES


def _options(teacher, **overrides):
    return GeneratorOptions.resolve('small', overrides, teacher)


def _bare_passes(teacher, generator, options):
    """A function of noise and labels: the gradients alone; see `step_over_bare`."""
    tap, stored = build_tap(teacher.logits_model, options.compute_dtype)
    weights = options.record()

    @tf.function
    def passes(noise, labels):
        with tf.GradientTape() as tape:
            pixels = generator([*noise, labels], training=True)
            logits, *inputs = tap(teacher.input_spec.to_inputs(pixels), training=False)
            terms = {
                'class_loss_weight': zscgan.class_loss(labels, logits),
                'bns_loss_weight': zscgan.bns_loss([batch_moments(x) for x in inputs], stored),
                'entropy_loss_weight': zscgan.entropy_loss(logits),
            }
            loss = tf.add_n([weights[name] * term for name, term in terms.items() if weights[name]])
        return tape.gradient(loss, generator.trainable_variables)

    return passes
