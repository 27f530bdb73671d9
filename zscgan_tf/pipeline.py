"""The whole job behind the generator or the student: convert, audit, write, say how good it is."""

import itertools

from zscgan_tf import atomic_files, evaluation
from zscgan_tf.errors import UserError
from zscgan_tf.presets import is_count
from zscgan_tf.sources import take
from zscgan_tf.tflite import audit, calibration, convertible, student_export

LEVEL_IMAGES = 64


def quantize(
    teacher,
    source,
    output,
    *,
    calibration_images,
    check_images=1000,
    evaluate_on=None,
    input_type='int8',
    output_type='int8',
    per_channel=True,
    output_head='model',
    allow_float_ops=False,
    overwrite=False,
):
    """Quantizes a teacher by TFLite's post-training quantization (DF-PTQ with a generator).

    Args:
        teacher: a `Teacher`.
        source: where the calibration images come from, such as `train_generator` returns.
        output: the `.tflite` to write.
        calibration_images: how many; the source's first ones.
        check_images: on how many of the source's next images, which did not calibrate, the
            agreement with the teacher is measured.
        evaluate_on: a source with `one_pass` of real images to evaluate on too, or None.
        input_type, output_type, per_channel, output_head: see `calibration.convert`.
        allow_float_ops: write a file that is not integer throughout too.
        overwrite: replace the output if it exists.

    Returns:
        A dict: `output`, `report` (an `AuditReport`), `takes_raw_pixels` (of a `raw_pixels`
        teacher), `clipped_input_share`, `fresh` (what `evaluate` says of the source's next images;
        None where it has no more), `seen` (of its first images, where there are neither fresh nor
        real ones), `real` (of `evaluate_on`, or None), `teacher_weight_bytes`,
        `tflite_file_bytes`, `latency_ms`.

    Raises:
        UserError: see `atomic_files.check_output`, `calibration.convert`, `audit.audit`; nothing is
            written.
    """
    atomic_files.check_output(output, overwrite)
    if not is_count(calibration_images):
        raise UserError(
            f'--calibration_images={calibration_images}: pass a whole number, at least 1.'
        )
    data = calibration.convert(
        teacher,
        (pixels for pixels, _ in take(source.batches(), calibration_images)),
        total=calibration_images,
        input_type=input_type,
        output_type=output_type,
        per_channel=per_channel,
        output_head=output_head,
    )
    try:
        report = audit.audit(data, allow_float_ops=allow_float_ops)
    except UserError as error:
        raise convertible.explained(teacher, allow_float_ops, error) from error
    tflite = evaluation.TfliteModel(data)
    result = _measure(
        teacher, source, tflite, report, calibration_images, check_images, evaluate_on
    )
    atomic_files.write_atomically(output, data, overwrite)
    return {'output': str(output), **result}


def quantize_student(
    student,
    source,
    output,
    *,
    used_images,
    check_images=1000,
    evaluate_on=None,
    input_type='int8',
    output_type='int8',
    output_head='model',
    overwrite=False,
):
    """Writes a student as an integer `.tflite` that holds its widths (DF-QAT).

    Args:
        student: a `Student` whose ranges are set, such as `distill` returns.
        source: where its images came from.
        output: the `.tflite` to write.
        used_images: how many of the source's images set its ranges and trained it.
        check_images, evaluate_on, input_type, output_type, output_head, overwrite: see `quantize`.

    Returns:
        What `quantize` does, and `levels` (a `LevelsReport`) and `student_agreement`, of the
        student with its file on `check_images` images of the source, in per cent (None where the
        source has no more).

    Raises:
        UserError: see `atomic_files.check_output` and `student_export.export`; nothing is written.
    """
    atomic_files.check_output(output, overwrite)
    teacher = student.teacher
    data, report, found = student_export.export(
        student,
        _inputs(teacher, source, used_images),
        input_type=input_type,
        output_type=output_type,
        output_head=output_head,
    )
    tflite = evaluation.TfliteModel(data)
    result = _measure(teacher, source, tflite, report, used_images, check_images, evaluate_on)
    own = _agreement(tflite, student, source, used_images, check_images)
    atomic_files.write_atomically(output, data, overwrite)
    return {
        'output': str(output),
        **result,
        'levels': found,
        'student_agreement': own and own['agreement'],
    }


def _measure(teacher, source, tflite, report, used_images, check_images, evaluate_on):
    """What is known of a file that was audited, but not written yet."""
    fresh = _fresh_agreement(tflite, teacher, source, used_images, check_images)
    real = evaluate_on and evaluation.evaluate(
        tflite, teacher, evaluate_on.one_pass(), total=evaluate_on.image_count
    )
    seen = None
    if not fresh and not real:
        seen = _agreement(tflite, teacher, source, 0, min(check_images, source.image_count))
    return {
        'report': report,
        'takes_raw_pixels': tflite.zero_pixel is not None,
        'clipped_input_share': audit.clipped_input_share(report, teacher.input_spec),
        'fresh': fresh,
        'seen': seen,
        'real': real,
        **evaluation.sizes(teacher, tflite),
        'latency_ms': evaluation.latency(tflite),
    }


def _inputs(teacher, source, used):
    """Batches of the source's next images as the model takes them, to count levels on."""
    batches = source.batches(start=_next_batch(source, used))
    for pixels, _ in itertools.islice(batches, -(-LEVEL_IMAGES // source.batch_size)):
        yield teacher.input_spec.to_inputs(pixels).numpy()


def _next_batch(source, used):
    """The number of a source's first batch behind the `used` first images."""
    return -(-used // source.batch_size)


def disagrees(teacher, result):
    """Whether a file agrees with its teacher in less than half of what chance leaves open."""
    measured = _measured(result)
    chance = 50 if teacher.has_labels else 100 / teacher.num_classes
    return bool(measured) and (measured['agreement'] - chance) / (100 - chance) < 0.5


def _measured(result):
    """What `evaluate` said, of fresh images if there are any."""
    return result['fresh'] or result['real'] or result['seen']


def _fresh_agreement(tflite, teacher, source, used, wanted):
    """Agreement on images of the source behind the `used` first ones; None if it has no more."""
    stored = getattr(source, 'image_count', None)
    if stored is not None:  # a source of stored images begins again behind its last one
        wanted = min(wanted, stored - _next_batch(source, used) * source.batch_size)
    return _agreement(tflite, teacher, source, used, wanted)


def _agreement(tflite, model, source, used, wanted):
    """Agreement with a teacher or student behind the `used` first images; None of no images."""
    if wanted < 1:
        return None
    batches = source.batches(start=_next_batch(source, used))
    # Without labels: a generator's are what it aimed at, not what the images show.
    images = ((pixels, None) for pixels, _ in take(batches, wanted))
    return evaluation.evaluate(tflite, model, images, total=wanted)


def summary(teacher, result):
    """The result of `quantize` as a short table of text."""
    report = result['report']
    ops = f'{report.integer_op_count} of {report.op_count} ops are integer'
    if report.float_ops:
        ops += f'; in float: {"; ".join(report.float_ops)}'
    kinds = ', '.join(f'{count} {name}' for name, count in report.ops.items())
    fresh, real, seen = result['fresh'], result['real'], result['seen']
    size, before = result['tflite_file_bytes'], result['teacher_weight_bytes']
    rows = [
        ('output', result['output']),
        ('size', f'{_size(before)} of float weights -> {_size(size)} ({before / size:.1f} times)'),
        ('integer', f'{ops} ({kinds})'),
        ('weights', f'{report.weights}, {", ".join(report.weight_types)}'),
        *_student_rows(result),
        ('input', _end(report.input)),
        *_input_rows(teacher, result),
        ('output type', _end(report.output)),
        *(evaluation_rows(teacher, fresh, 'fresh images of the source') if fresh else []),
        *(evaluation_rows(teacher, seen, 'images that it was made with') if seen else []),
        *(evaluation_rows(teacher, real) if real else []),
        ('latency', f'{result["latency_ms"]:.2f} ms an image (LiteRT, this machine)'),
    ]
    rows += [('WARNING', text) for text in _warnings(teacher, result)]
    return '\n'.join(f'{name:<12} {text}' for name, text in rows)


# Below this TFLite's calibration leaves something to be had (MobileNetV1: 89.1 against 95.9).
_LOW_AGREEMENT = 95.0


def _warnings(teacher, result):
    """What the user should know before using the file, and what to do."""
    measured, found = _measured(result), []
    if not measured:
        return found
    by_calibration = 'levels' not in result
    more = 'pass --range_estimator=mse, ' if by_calibration else 'pass more bits, '
    if disagrees(teacher, result):
        found.append(
            f'answers otherwise than its teacher too often to be of use: {more}or more --steps, '
            f'and look at the images'
        )
    elif by_calibration and measured['agreement'] < _LOW_AGREEMENT:
        found.append(
            f'agrees on less than {_LOW_AGREEMENT:g} %: {more}which sets ranges more carefully '
            f"than TFLite's calibration, or more --steps"
        )
    if measured['classes'] < 2 and not teacher.has_labels:
        found.append(
            'the checked images are all of one class to the model, so the agreement says little: '
            'pass more --steps, and look at the images'
        )
    return found


def _input_rows(teacher, result):
    """What has to be done to an image before the file takes it."""
    if result['takes_raw_pixels']:
        zero = round(255 * teacher.input_spec.mean[0])
        less = {'uint8': '', 'int8': ', less 128', 'float32': f', less {zero}'}
        size = 'x'.join(map(str, teacher.input_spec.image_shape))
        order = ' in RGB order' if teacher.input_spec.channels == 3 else ''
        pixels = f'pixels of 0...255{order}{less[result["report"].input.type]}'
        return [('', f'{size}, {pixels}: no preprocessing')]
    clipped = f'its scale clips {100 * result["clipped_input_share"]:.1f} % of the legal range'
    return [('', f'preprocessing as before: {teacher.input_spec.describe()}'), ('', clipped)]


def _student_rows(result):
    """What a student's file says beside what every file says."""
    found = result.get('levels')
    if not found:
        return []
    rows = [
        (
            'levels',
            f'at most {found.weight_levels} a channel of weights, {found.activation_levels} of '
            f'what a convolution reads',
        )
    ]
    if result['student_agreement'] is not None:
        own = f'{result["student_agreement"]:.2f} %'
        rows.append(('student', f'agrees with its file on {own} of the images'))
    return rows


def evaluation_rows(teacher, result, images='real images'):
    """What `evaluate` returned for these images, as (name, text) rows."""
    agreement = f'{result["agreement"]:.2f} %{" of the labels" if teacher.has_labels else ""}'
    kinds = 'labels' if teacher.has_labels else 'classes'
    covered = f'{result["classes"]} of {teacher.num_classes} {kinds} among them'
    rows = [('agreement', f'{agreement} on {result["images"]} {images}, {covered}')]
    if 'divergence' in result:
        rows.append(('divergence', f'{result["divergence"]:.5f} nats from the float model'))
    if 'accuracy' in result:
        rows.append(
            ('accuracy', f'{result["accuracy"]:.2f} % (float: {result["float_accuracy"]:.2f} %)')
        )
    if 'top5' in result:
        rows.append(('top-5', f'{result["top5"]:.2f} % (float: {result["float_top5"]:.2f} %)'))
    if result['ties']:
        rows.append(('ties', _ties(teacher, result)))
    return rows


def _ties(teacher, result):
    if teacher.has_labels:
        return f'{result["ties"]:.2f} % of the labels are at 0.5; they count as no'
    return f'{result["ties"]:.2f} % of the top-1 classes; the lowest counts'


def _end(tensor):
    if tensor.scale is None:
        return tensor.type
    return f'{tensor.type}, scale {tensor.scale:.6g}, zero point {tensor.zero_point}'


def _size(count):
    return f'{count / 1e6:.2f} MB' if count >= 1e5 else f'{count / 1e3:.1f} kB'
