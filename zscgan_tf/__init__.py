"""Integer `.tflite` files from trained Keras classifiers, without any data (ZS-CGAN).

    import zscgan_tf

    teacher = zscgan_tf.load_teacher('model.h5', input_spec={'preprocessing': 'tf'})
    images = zscgan_tf.train_generator(teacher, 'runs/model')
    result = zscgan_tf.quantize(teacher, images, 'model.tflite')

The functions are imported when they are first used (PEP 562): `import zscgan_tf` is instant.
"""

import importlib

from zscgan_tf import quiet

__version__ = '0.2.0.dev0'

# The public names, and the module that each comes from.
_HOMES = {
    'DatasetSource': 'sources.dataset',
    'FileSource': 'sources.files',
    'InputSpec': 'teacher.input_spec',
    'NoiseSource': 'sources.noise',
    'Teacher': 'teacher.teacher',
    'TfliteModel': 'tflite.interpreter',
    'UserError': 'errors',
    'distill': 'methods.distillation',
    'calibrate_student': 'student.calibration.calibrate',
    'evaluate': 'evaluation',
    'load_generator': 'methods.zscgan',
    'load_teacher': 'teacher.loading',
    'make_deep_inversion_images': 'methods.deep_inversion',
    'make_zeroq_images': 'methods.zeroq',
    'quantize': 'pipeline',
    'quantize_dfq': 'pipeline',
    'quantize_student': 'pipeline',
    'raw_pixels': 'teacher.raw_pixels',
    'summary': 'report.summary',
    'train_generator': 'methods.zscgan',
    'write_folder': 'sources.writing',
    'write_npz': 'sources.writing',
    'write_page': 'report.page',
}

__all__ = sorted(_HOMES)

quiet.hide_logs()


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name != 'UserError':
        quiet.import_tensorflow()
    return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__():
    return __all__
