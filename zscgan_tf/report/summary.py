"""The result of quantizing a model, as a short table of text."""

from zscgan_tf.methods.dfq_options import DfqOptions
from zscgan_tf.methods.distillation_options import DistillationOptions
from zscgan_tf.quantized import Quantized
from zscgan_tf.report.feeding import feeding
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite.options import TfliteCalibrationOptions


def summary(teacher: Teacher, result: Quantized, **paths: str) -> str:
    """The result of `quantize`, `quantize_student` or `quantize_dfq` as a short table of text.

    Args:
        teacher: what was quantized.
        result: what these functions returned.
        **paths: what was written beside the file, by the names of their rows.
    """
    return '\n'.join(f'{name:<12} {text}' for name, text in summary_rows(teacher, result, **paths))


def summary_rows(teacher: Teacher, result: Quantized, **paths: str) -> list[tuple[str, str]]:
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
        ('weights', f'{_scales(result)}, {", ".join(report.weight_types)}'),
        *([('ranges', _ranges(result))] if result.options else []),
        *_student_rows(teacher, result),
        *_dfq_rows(result),
        ('input', _end(report.input)),
        ('output type', _end(report.output)),
        *(evaluation_rows(teacher, fresh, _images_of(result)) if fresh else []),
        *(evaluation_rows(teacher, seen, 'images that it was made with') if seen else []),
        *(evaluation_rows(teacher, real) if real else []),
        *([] if result.measured else [('agreement', _NOT_MEASURED)]),
        ('latency', f'{result.latency_ms:.2f} ms per image (LiteRT, this machine)'),
        *paths.items(),
        *(('WARNING', text) for text in _warnings(teacher, result)),
        ('feed', feeding(teacher, result)),
    ]


_NOT_MEASURED = (
    'not measured, for lack of images: pass --evaluation_images or --evaluation_split, or run '
    'zscgan-evaluate'
)


def _images_of(result):
    """What the source's images are called. A file does not tell which ones it was made with."""
    is_noise = (result.source_kind or '').startswith('noise_')
    return f'{"fresh " if result.options else ""}images of {"noise" if is_noise else "the source"}'


def _scales(result):
    """How many scales kernels have."""
    one = getattr(result.options, 'weight_granularity', 'channel') == 'tensor'
    return f'{result.report.weights}{", equal within a kernel" if one else ""}'


def _ranges(result):
    """How the ranges were set."""
    options = result.options
    if isinstance(options, DfqOptions):
        return 'from the means and deviations of batch norms, no images'
    if isinstance(options, TfliteCalibrationOptions):
        words = f"TFLite's own calibration, {options.calibration_images:,} images"
        return f'{words} ({result.fallback})' if result.fallback else words
    words = f'through the student ({options.range_estimator}), {options.range_images:,} images'
    if isinstance(options, DistillationOptions):
        words += f', then {options.steps:,} steps of distillation'
    return words


_BETTER_IMAGES = {
    'zscgan': 'train the generator longer (--steps), or take other images (--source)',
    'zeroq': 'optimize the images longer (--iterations), or take others (--source)',
    'deep_inversion': 'optimize the images longer (--iterations), or take others (--source)',
}
# Below this there is often something to be had (MobileNetV1: 89.0 by TFLite's calibration, 95.9
# through the student).
_LOW_AGREEMENT = 95.0
# The same for independent labels, as a share of what chance leaves open: an agreement of 95 % if
# half of the answers are "no", and more if most of them are.
_LOW_SHARE = 0.9


def _warnings(teacher, result):
    """What the user should know before using the file, and what to do."""
    measured, warnings = result.measured, []
    if not measured:
        return warnings
    images = _BETTER_IMAGES.get(result.source_kind, 'take other images (--source)')
    advice = [_more_exact(result)]
    if result.options is None:  # of a file that was made before
        images = 'measure on other images (--workdir, --images or --dataset)'
    if isinstance(result.options, DfqOptions):
        images = 'evaluate on other images'
    else:
        advice.append(images)
    if result.disagrees(teacher):
        listed = ', or '.join(advice)
        warnings.append(f'agrees with its teacher too rarely to be of use: {listed}')
    elif teacher.has_independent_labels and result.beyond_chance(teacher) < _LOW_SHARE:
        share = f'{100 * _LOW_SHARE:g} % of the labels that chance leaves open'
        warnings.append(f'agrees on less than {share}: {", or ".join(advice)}')
    elif measured['agreement'] < _LOW_AGREEMENT:
        warnings.append(f'agrees on less than {_LOW_AGREEMENT:g} %: {", or ".join(advice)}')
    found = None
    if teacher.has_independent_labels and not measured['classes']:
        found = 'the model finds no label in the checked images'
    elif measured['classes'] < 2 and not teacher.has_independent_labels:
        found = 'the checked images are all of one class to the model'
    if found:
        warnings.append(f'{found}, so the agreement says little: {images}, and look at the images')
    return warnings


def _more_exact(result):
    """What quantizes closer to the teacher than a result's options."""
    options = result.options
    if options is None:
        return 'look at the layers that cost most, and make it with more bits'
    if isinstance(options, DfqOptions):
        return 'pass --method=ptq, which sets ranges on images'
    if options.activation_bits < 8 or getattr(options, 'weight_bits', 8) < 8:
        return 'pass more bits'
    if isinstance(options, DistillationOptions):
        return 'pass a larger --distillation_steps'
    if not isinstance(options, TfliteCalibrationOptions):
        wide = '' if result.takes_raw_pixels else ', or --activation_bits=16'
        return f'pass --method=qat, which trains the student{wide}'
    if options.activation_bits == 16 or result.fallback or options.allow_float_ops:
        return 'rebuild layers whose outputs have wide ranges'
    return (
        "pass --range_estimator=mse, which sets ranges more carefully, without flags of TFLite's "
        'own calibration'
    )


def _student_rows(teacher, result):
    """What a student's file says beside what every file says."""
    levels, options = result.levels, result.options
    if not levels:
        return []
    weights = f'at most {levels.weight_levels} per channel of weights'
    if options.first_last_bits != options.weight_bits:
        weights += f' (first and last layer: {options.first_last_bits} bits)'
    read = 'that a convolution reads' if options.activation_scope == 'read' else 'of activations'
    if options.activation_bits < 8:  # these are not counted
        image = '' if options.activation_scope == 'all' else 'the image and for '
        read += f', but for {image}what a sigmoid, softmax or tanh gives'
    rows = [('levels', f'{weights}, {levels.activation_levels} per tensor {read}')]
    if result.student_agreement is not None:
        kinds = 'labels' if teacher.has_independent_labels else 'images'
        own = f'{result.student_agreement:.2f} %'
        rows.append(('student', f'agrees with its file on {own} of the {kinds}'))
    return rows


def _dfq_rows(result):
    """What DFQ did, and what it did to the float model."""
    rows = [('DFQ', result.dfq)] if result.dfq else []
    if result.unquantized:
        text = f'agreed with its teacher on {result.unquantized["agreement"]:.2f} %'
        if 'accuracy' in result.unquantized:
            text += f' (accuracy {result.unquantized["accuracy"]:.2f} %)'
        rows.append(('before', f'it was rounded, the model {text}'))
    return rows


def evaluation_rows(
    teacher: Teacher, result: dict, images: str = 'real images'
) -> list[tuple[str, str]]:
    """What `evaluate` returned for these images, as (name, text) rows."""
    agreement = (
        f'{result["agreement"]:.2f} %{" of the labels" if teacher.has_independent_labels else ""}'
    )
    kinds = 'labels' if teacher.has_independent_labels else 'classes'
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
    if teacher.has_independent_labels:
        return f'{result["ties"]:.2f} % of the labels are at 0.5; they count as no'
    return f'{result["ties"]:.2f} % of the top-1 classes; the lowest counts'


def _end(tensor):
    if tensor.scale is None:
        return tensor.type
    return f'{tensor.type}, scale {tensor.scale:.6g}, zero point {tensor.zero_point}'


def _size(count):
    return f'{count / 1e6:.2f} MB' if count >= 1e5 else f'{count / 1e3:.1f} kB'
