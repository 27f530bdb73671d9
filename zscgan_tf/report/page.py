"""The page beside a `.tflite`: how good it is, how to feed it, which layer costs what.

One HTML file that needs nothing else: pictures are inside, there is no script, and every text from
a user's files is escaped.

    write_page('model.html', teacher, result, source)
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import jinja2
import numpy as np

from zscgan_tf import __version__
from zscgan_tf.atomic_files import PathLike, check_output, write_atomically
from zscgan_tf.errors import UserError
from zscgan_tf.quantized import Quantized
from zscgan_tf.report import charts, page_images
from zscgan_tf.report.examine import examine
from zscgan_tf.report.feeding import code, feeding
from zscgan_tf.report.moments import moment_distances
from zscgan_tf.report.results import made_with
from zscgan_tf.report.summary import summary_rows
from zscgan_tf.sources import Source, StoredSource
from zscgan_tf.sources.generator import GeneratorSource
from zscgan_tf.sources.noise import NoiseSource
from zscgan_tf.teacher.teacher import Teacher
from zscgan_tf.tflite.interpreter import TfliteModel
from zscgan_tf.tflite.layer_errors import LayerErrors, layer_errors
from zscgan_tf.training import workdir as workdirs

LAYER_IMAGES = 32
# A file of the teacher's own weights has a layer above this, however few its bits are.
_LEAST_DECIBELS = 6.0
_TEMPLATES = pathlib.Path(__file__).parent / 'templates'
# What a metric of a run is called on the page; others are not shown.
_LOSSES = {
    'class_loss': 'class loss',
    'bns_loss': 'BNS loss',
    'moments_loss': 'loss of moments',
    'variation_loss': 'variation',
    'input_loss': 'loss of inputs',
    'compete_loss': 'loss of agreement',
}
_LOSSES_OF_STUDENTS = {'distillation_loss': 'distillation loss', 'feature_loss': 'feature loss'}


def write_page(
    path: PathLike,
    teacher: Teacher,
    result: Quantized | PathLike,
    source: Source | None = None,
    *,
    real: StoredSource | None = None,
    workdir: PathLike | None = None,
    student_workdir: PathLike | None = None,
    class_names: Sequence[str] | None = None,
    command: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the page of a `.tflite`: one HTML file that opens anywhere, offline.

    Args:
        path: the HTML file to write.
        teacher: the float model that the file was made of.
        result: what `quantize` or `quantize_student` returned, whose measurements are taken over;
            or the path of a `.tflite`, which is then measured.
        source: where the images come from that layers are compared on, a generator's above all.
            None for real images if there are any, else uniform noise.
        real: real images, to show those on which the answers differ; None without any.
        workdir: the folder of the generator, or of optimized images, for its losses and its
            configuration.
        student_workdir: likewise the folder of the student that was trained.
        class_names: the names of the classes; None for those of the teacher.
        command: the command line that made the file or the page, to be shown.
        overwrite: replace the page if it exists.

    Raises:
        UserError: the page cannot be written, names of other classes than the teacher's, a file or
            a workdir of another teacher, or no `.tflite`.
    """
    check_output(path, overwrite)
    names = class_names if class_names is not None else teacher.class_names
    if names is not None and len(names) != teacher.num_classes:
        raise UserError(
            f'{len(names)} names of classes were passed, but {teacher.name} has '
            f'{teacher.num_classes} classes: pass one name a class.'
        )
    runs = [_run_of(folder, teacher) for folder in (workdir, student_workdir) if folder is not None]
    kind_of_images = _kind_of_images(source, real)
    if source is None:
        source = real or NoiseSource(teacher.input_spec, batch_size=LAYER_IMAGES)
    is_of_before = not isinstance(result, Quantized)
    if is_of_before:
        result = examine(teacher, result, None if source is real else source, real)
    data = pathlib.Path(result.output).read_bytes()
    pixels = page_images.sample(source, LAYER_IMAGES)
    errors = layer_errors(data, teacher, pixels, result.twin)
    if errors and is_of_before:
        _check_same_teacher(teacher, result, errors)
    tflite, made = TfliteModel(result.output), made_with()
    values = {
        'name': os.path.basename(os.fspath(result.output)),
        'teacher': teacher.name,
        'independent': teacher.has_independent_labels,
        'rows': summary_rows(teacher, result),
        'differences': real
        and page_images.differences(
            tflite, teacher, real, page_images.images_to_look_at(teacher), names
        ),
        'feeding': feeding(teacher, result),
        'height': teacher.input_spec.image_size[0],
        'width': teacher.input_spec.image_size[1],
        'code': code(teacher, result),
        'kind_of_images': kind_of_images,
        'images': len(pixels),
        'layers': None,
        **(_layer_values(errors) if errors else {}),
        'equalized': result.twin is not None,
        'grid': page_images.grid(source, teacher, names),
        'of_classes': isinstance(source, GeneratorSource) and source.has_labels,
        'num_classes': teacher.num_classes,
        'runs': runs,
        **_moment_values(teacher, pixels, real if real is not source else None, kind_of_images),
        'command': command,
        'options': result.options and {n: _text(v) for n, v in result.options.record().items()},
        'versions': {'zscgan_tf': __version__, **made['versions']},
        'machine': made['machine'],
        'fingerprint': teacher.fingerprint,
        'preprocessing': (teacher.preprocessing or teacher.input_spec).describe(),
    }
    write_atomically(path, _render(values).encode(errors='replace'), overwrite)


def _render(values):
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['decibels'] = _decibels
    environment.filters['number'] = lambda value: '–' if value is None else f'{value:.3g}'
    environment.filters['percent'] = _percent
    return environment.get_template('model.html').render(**values)


def _decibels(value):
    if value is None:
        return '–'
    return 'exact' if math.isinf(value) else f'{value:.1f}'


def _percent(share):
    percent = 100 * share
    return '0' if not percent else '<0.01' if percent < 0.01 else f'{percent:.2f}'


def _kind_of_images(source, real):
    if isinstance(source, GeneratorSource):
        return 'generated images'
    if source is None and real is None or isinstance(source, NoiseSource):
        return 'noise'
    return 'real images' if source is None or source is real else 'images of the source'


def _check_same_teacher(teacher, result, errors):
    """Refuses a file whose weights are not the teacher's and whose answers are not either."""
    ratios = [row.alone for row in errors.rows if row.largest_weights and row.alone is not None]
    if result.disagrees(teacher) and max(ratios, default=0) < _LEAST_DECIBELS:
        raise UserError(
            f'{result.output}: no layer computes what the layer of that name in {teacher.name} '
            f'does, and the answers do not agree: pass the teacher that the file was made of.'
        )


def _layer_values(errors: LayerErrors):
    rows = errors.rows
    measured = [n for n, row in enumerate(rows) if n and row.alone is not None]
    worst = sorted(measured, key=lambda n: rows[n].alone)[:3]
    return {
        'layers': rows,
        'worst': worst,
        'worst_sentence': _worst_sentence(rows, worst),
        'fall_sentence': _fall_sentence(rows, measured),
        'left_out': errors.left_out,
        'layer_chart': charts.layer_chart(rows),
        'logits_chart': errors.logits and charts.logits_chart(*errors.logits),
    }


def _worst_sentence(rows, worst):
    if not worst:
        return 'No layer of the file has an error of its own.'
    texts = [
        f'{rows[n].title} (number {n}, {_decibels(rows[n].alone)}'
        f'{"" if math.isinf(rows[n].alone) else " dB"})'
        for n in worst
    ]
    listed = texts[0] if len(texts) == 1 else f'{", ".join(texts[:-1])} and {texts[-1]}'
    return f'The own rounding costs most in {listed}.'


def _fall_sentence(rows, measured):
    """Where the ratio of the running file falls most from one layer to the next."""
    falls = [
        (rows[n - 1].cumulative - rows[n].cumulative, n)
        for n in measured
        if all(
            row.cumulative is not None and not math.isinf(row.cumulative)
            for row in rows[n - 1 : n + 1]
        )
    ]
    fall, n = max(falls, default=(0, 0))
    if fall <= 0:
        return None
    return (
        f'As the file runs, the ratio falls most at {rows[n].title} (number {n}), by {fall:.1f} dB.'
    )


def _moment_values(teacher, pixels, real, kind_of_images):
    own = moment_distances(teacher, [pixels])
    shown = {kind_of_images: [distance.divergence for distance in own]}
    others = None
    if real is not None:
        others = moment_distances(teacher, [page_images.sample(real, len(pixels))])
        shown['real images'] = [distance.divergence for distance in others]
    return {
        'moments': own,
        'real_moments': others,
        'farthest': max(own, key=lambda distance: distance.divergence),
        'moments_chart': charts.moments_chart(shown),
    }


def _run_of(folder, teacher):
    """What a page shows of a workdir: its losses and its options."""
    config = workdirs.read_of(folder, teacher.fingerprint)
    flags = pathlib.Path(folder) / 'flags.cfg'
    kind = workdirs.kind_of(config)
    # The metrics of a student's run have the losses of a generator that is updated meanwhile too.
    shown = _LOSSES_OF_STUDENTS if kind == 'student' else _LOSSES
    curves = _curves(pathlib.Path(folder) / 'metrics.jsonl', shown)
    return {
        'kind': kind,
        'folder': os.fspath(folder),
        'options': {name: _text(value) for name, value in config.items()},
        'flags': flags.read_text(encoding='utf-8', errors='replace') if flags.exists() else None,
        'losses': {name: curve['value'][-1] for name, curve in curves.items()},
        'chart': charts.loss_chart(curves) if curves else None,
    }


def _text(value):
    return value if isinstance(value, str) else json.dumps(value)


def _curves(path, shown) -> Mapping[str, dict]:
    """The shown losses of a run's metrics: name -> steps and values; empty where there are none."""
    curves = {}
    lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
            step = entry['step']
        except (ValueError, KeyError, TypeError):  # cut off by a kill
            continue
        for key, name in shown.items():
            if isinstance(entry.get(key), (int, float)):
                curve = curves.setdefault(name, {'step': [], 'value': []})
                curve['step'].append(step)
                curve['value'].append(entry[key])
    # More points than the chart has pixels only make the page larger.
    for curve in curves.values():
        kept = np.unique(np.linspace(0, len(curve['step']) - 1, 400).astype(int))
        curve.update({name: [values[i] for i in kept] for name, values in curve.items()})
    return curves
