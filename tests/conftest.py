"""Fixtures that several test modules share."""

import os
import pathlib
import signal

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# A shell starts background jobs with SIGINT ignored, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the slow tests too')


def pytest_configure(config):
    """Two logical devices on one CPU, for tests of replicas; TensorFlow must not have started."""
    if getattr(config.option, 'numprocesses', None):
        return  # runs no tests itself: its workers do
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices('CPU')
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow'):
        return
    skip = pytest.mark.skip(reason='slow: run bin/test --slow')
    for item in items:
        if 'slow' in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope='session')
def shared_folder():
    """The folder with real teachers and images beside the project; skips where there is none."""
    folder = pathlib.Path(__file__).resolve().parents[2] / 'shared'
    if not (folder / 'teachers').is_dir():
        pytest.skip('no real teachers and images beside the project')
    return folder


@pytest.fixture(scope='module')
def teacher():
    """A tiny teacher of five classes; some modules have one of their own."""
    from tests.tiny import tiny_teacher

    return tiny_teacher(num_classes=5)


@pytest.fixture(scope='module')
def tap(teacher):
    """The tap of the module's teacher."""
    from zscgan_tf.teacher.tap import build_tap

    return build_tap(teacher.logits_model)


@pytest.fixture(scope='session')
def two_devices():
    """A strategy of two replicas."""
    from zscgan_tf.training.strategy import make_strategy

    strategy = make_strategy('mirrored')
    if strategy.num_replicas_in_sync != 2:
        pytest.skip(f'{strategy.num_replicas_in_sync} GPUs: the test is of two replicas')
    return strategy


@pytest.fixture(scope='session')
def uninterrupted(tmp_path_factory):
    """The weights that a `Walk` ends with if nothing stops it."""
    from tests.training.test_loop import Walk

    walk = Walk()
    walk.run(tmp_path_factory.mktemp('walk'))
    return walk.weights.numpy()


def randomize(model, seed=0):
    """Gives every weight of a model random values; moments and scales of batch norms stay sane."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        # The last part of the name alone: a model or layer may be called "gamma" too.
        kind = weight.name.split('/')[-1]
        shape = tuple(weight.shape)
        if 'variance' in kind or 'gamma' in kind:
            values = rng.uniform(0.5, 1.5, shape)
        elif 'mean' in kind or 'beta' in kind or 'bias' in kind:
            values = rng.normal(0, 0.3, shape)
        elif 'kernel' in kind or 'embeddings' in kind:
            fan_in = max(1, int(np.prod(shape[:-1])))
            values = rng.normal(0, fan_in**-0.5, shape)
        else:
            continue
        weight.assign(values.astype('float32'))
    return model
