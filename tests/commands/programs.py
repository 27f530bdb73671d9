"""Runs the programs as processes of their own, forked from one that has imported TensorFlow.

    result = Programs(...).run('quantize', '--teacher=tiny.h5', '--output=tiny.tflite')
    result.status, result.stdout, result.stderr

`during` is a function that is called in the process before the program starts, such as
`interrupt_in('zscgan_tf.evaluation', 'evaluate')`, which presses Ctrl-C in a stage of its work.
"""

import dataclasses
import functools
import importlib
import multiprocessing
import os
import pathlib
import resource
import runpy
import signal
import sys
import threading

import numpy as np
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Result:
    """What a program left: its exit status and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def error(self):
        """The message of a refusal: exit status 1, and one line, the last, on stderr."""
        assert self.status == 1, self
        assert 'Traceback' not in self.stderr + self.stdout, self.stderr
        *_, last = self.stderr.strip().split('\n')
        assert last.startswith('error: '), self.stderr
        assert self.stderr.count('error: ') == 1, self.stderr
        return last


class Programs:
    """Starts programs in a folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._context = multiprocessing.get_context('forkserver')
        self._context.set_forkserver_preload(
            ['tensorflow', 'tf_keras', 'zscgan_tf.pipeline', 'zscgan_tf.methods.zscgan']
        )
        self._count = 0

    def run(self, name, *flags, during=None, timeout=1800):
        self._count += 1
        if name == 'quantize' and '--page' not in flags:  # seconds that few tests need
            flags = ('--nopage', *flags)
        printed = [self.folder / f'.{stream}{self._count}' for stream in ('stdout', 'stderr')]
        process = self._context.Process(
            target=_program, args=(name, [str(f) for f in flags], self.folder, printed, during)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f'{name} hangs: {printed[1].read_text()}')
        return Result(process.exitcode, *(path.read_text() for path in printed))


def weights(workdir):
    """Everything that the newest checkpoint holds: weights, moments of Adam, step."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(workdir / 'checkpoints'))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if 'OBJECT_GRAPH' not in name and 'save_counter' not in name
    }


def assert_same_weights(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def _program(name, arguments, folder, printed, during):
    os.chdir(folder)
    for descriptor, path in zip((1, 2), printed, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    script = str(ROOT / 'bin' / f'{name}.py')
    sys.argv = [script, *arguments]
    sys.path[0] = str(ROOT / 'bin')
    if during is not None:
        during()
    runpy.run_path(script, run_name='__main__')


def _patch(action, module, name, call):
    """Has `action` called when a function is called for the `call`-th time, before it runs."""
    owner = importlib.import_module(module)
    *classes, name = name.split('.')
    for part in classes:
        owner = getattr(owner, part)
    function = getattr(owner, name)
    calls = 0

    @functools.wraps(function)
    def patched(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            action()
        return function(*args, **kwargs)

    setattr(owner, name, patched)


def replace_in(module, name, other):
    """Another function in the place of a module's."""
    return functools.partial(_replace, module, name, other)


def _replace(module, name, other):
    setattr(importlib.import_module(module), name, other)


def interrupt_in(module, name, call=1):
    """Ctrl-C in a function."""
    return functools.partial(_patch, _interrupt, module, name, call)


def interrupt_soon_after(module, name, call=1):
    """Ctrl-C a moment after a function began, in whatever C++ it is then."""
    return functools.partial(_patch, _interrupt_soon, module, name, call)


def kill_in(module, name, call=1):
    """SIGKILL in a function."""
    return functools.partial(_patch, _kill, module, name, call)


def full_disk_from(module, name, call=1, room=100):
    """A stand-in for a full disk from a function on: no file, nor stderr, grows over `room`."""
    return functools.partial(_patch, functools.partial(_fill_disk, room), module, name, call)


def _interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def _interrupt_soon():
    threading.Timer(0.05, _interrupt).start()


def _kill():
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_disk(room):
    sys.stderr.flush()
    os.ftruncate(2, 0)  # what was logged before takes none of the room
    os.lseek(2, 0, os.SEEK_SET)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
