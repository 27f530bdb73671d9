"""The result of quantizing a model, as a short table of text."""

from zscgan_tf.pipeline import Quantized
from zscgan_tf.teacher.teacher import Teacher


def summary(teacher: Teacher, result: Quantized) -> str:
    """The result of `quantize` or `quantize_student` as a short table of text."""
    return '\n'.join(f'{name:<12} {text}' for name, text in summary_rows(teacher, result))


def summary_rows(teacher: Teacher, result: Quantized) -> list[tuple[str, str]]:
    """The rows of `summary`: (name, text)."""
    report = result.report
    ops = f'{report.integer_op_count} of {report.op_count} ops are integer'
    if report.float_ops:
        ops += f'; in float: {"; ".join(report.float_ops)}'
    kinds = ', '.join(f'{count} {name}' for name, count in report.ops.items())
    fresh, real, seen = result.fresh, result.real, result.seen
    size, before = result.tflite_file_bytes, result.teacher_weight_bytes
    return [
        ('output', result.output),
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
        ('latency', f'{result.latency_ms:.2f} ms an image (LiteRT, this machine)'),
        *(('WARNING', text) for text in _warnings(teacher, result)),
    ]


# Below this TFLite's calibration leaves something to be had (MobileNetV1: 89.1 against 95.9).
_LOW_AGREEMENT = 95.0


def _warnings(teacher, result):
    """What the user should know before using the file, and what to do."""
    measured, warnings = result.measured, []
    if not measured:
        return warnings
    by_calibration = result.levels is None
    more = 'pass --range_estimator=mse' if by_calibration else 'pass 8 bits if it has fewer'
    images = 'train the generator longer (--steps) or take other images (--source)'
    if result.disagrees(teacher):
        warnings.append(
            f'answers otherwise than its teacher too often to be of use: {more}, {images}, and '
            f'look at the images'
        )
    elif by_calibration and measured['agreement'] < _LOW_AGREEMENT:
        warnings.append(
            f'agrees on less than {_LOW_AGREEMENT:g} %: {more}, which sets ranges more carefully '
            f"than TFLite's calibration, or {images}"
        )
    if measured['classes'] < 2 and not teacher.has_labels:
        warnings.append(
            'the checked images are all of one class to the model, so the agreement says little: '
            f'{images}, and look at the images'
        )
    return warnings


def _input_rows(teacher, result):
    """What has to be done to an image before the file takes it."""
    if result.takes_raw_pixels:
        zero = round(255 * teacher.input_spec.mean[0])
        less = {'uint8': '', 'int8': ', less 128', 'float32': f', less {zero}'}
        size = 'x'.join(map(str, teacher.input_spec.image_shape))
        order = ' in RGB order' if teacher.input_spec.channels == 3 else ''
        pixels = f'pixels of 0...255{order}{less[result.report.input.type]}'
        return [('', f'{size}, {pixels}: no preprocessing')]
    clipped = f'its scale clips {100 * result.clipped_input_share:.1f} % of the legal range'
    return [('', f'preprocessing as before: {teacher.input_spec.describe()}'), ('', clipped)]


def _student_rows(result):
    """What a student's file says beside what every file says."""
    levels = result.levels
    if not levels:
        return []
    rows = [
        (
            'levels',
            f'at most {levels.weight_levels} a channel of weights, {levels.activation_levels} of '
            f'what a convolution reads',
        )
    ]
    if result.student_agreement is not None:
        own = f'{result.student_agreement:.2f} %'
        rows.append(('student', f'agrees with its file on {own} of the images'))
    return rows


def evaluation_rows(
    teacher: Teacher, result: dict, images: str = 'real images'
) -> list[tuple[str, str]]:
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
