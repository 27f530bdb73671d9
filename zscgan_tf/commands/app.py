"""What every program does: parse flags, run, and turn errors into one line and an exit status.

Exit status 0: done; 1: a mistake that the user can mend; 2: done, but the file does not agree with
its teacher; 130: interrupted by Ctrl-C; 141: nobody reads any more what it prints.
"""

import collections.abc
import errno
import functools
import io
import logging as python_logging
import os
import sys
import unicodedata

from absl import app, flags, logging

from zscgan_tf import __version__
from zscgan_tf.atomic_files import check_local
from zscgan_tf.commands import help, parsing
from zscgan_tf.errors import UserError
from zscgan_tf.quiet import import_tensorflow

FLAGS = flags.FLAGS
# None, not False: a flag that was not passed is not kept among the flags of a run.
flags.DEFINE_boolean('version', None, 'Print the version, and nothing else.')
INTERRUPTED = (
    'interrupted: no output was written; the same command starts again, and continues a training'
)


def run(
    module: str,
    main: collections.abc.Callable[[], int | None],
    *,
    usage: str = '',
    check: collections.abc.Callable[[], None] | None = None,
) -> None:
    """Runs a program.

    Args:
        module: the name of the program's module; its docstring and flags are its help.
        main: the program; returns its exit status, None for 0.
        usage: what stands behind the program's name, for its help.
        check: refuses, before TensorFlow is imported, what is wrong with the flags.

    Raises:
        SystemExit: always, with the exit status.
    """
    collect_flags(module)
    app.run(
        functools.partial(_guarded, main, check),
        flags_parser=functools.partial(_parse, sys.modules[module].__doc__, usage),
    )


def collect_flags(module: str) -> None:
    """Makes all flags of this package, and of the program's, key flags of what was started."""
    packages = {name.split('.')[0] for name in (__name__, module)}
    for owner, found in FLAGS.flags_by_module_dict().items():
        if owner.split('.')[0] in packages:
            for flag in found:
                FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _parse(docstring, usage, arguments):
    if asked := parsing.help_asked(arguments):
        _print(help.text(docstring, usage, parsing.shown_flags(), asked == 'full'))
        sys.exit(0)
    try:
        parsing.parse(arguments)
    except UserError as error:
        _fail(error)
    if FLAGS.version:
        print(f'zscgan_tf {__version__}')
        sys.exit(0)
    return arguments[:1]


def _print(text):
    try:
        print(text, flush=True)
    except BrokenPipeError:  # such as of `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message):
    print(f'error: {_visible(str(message))}', file=sys.stderr)
    sys.exit(1)


def _visible(text):
    """A text, perhaps of a stranger's file, without characters that control the terminal."""
    controls = ('Cc', 'Cf')
    return ''.join(
        character.encode('unicode_escape').decode()
        if unicodedata.category(character) in controls and character != '\n'
        else character
        for character in text
    )


def _guarded(main, check, _):
    _make_printable()
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(_Visible('%(message)s'))
    logging.set_verbosity(logging.WARNING)  # of TensorFlow and tfds
    python_logging.getLogger('zscgan_tf').setLevel(python_logging.INFO)
    try:
        _check_paths()
        if check is not None:
            check()
        import_tensorflow()
        status = main()
        sys.stdout.flush()  # while a closed pipe is still caught
        return status
    except UserError as error:
        _fail(error)
    except BrokenPipeError:  # such as of `--check | head`
        _close_outputs()
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _fail(f'{error.filename or "a file"}: {error.strerror}: make room and run it again.')
    except KeyboardInterrupt as interrupt:
        try:
            print(f'\n{str(interrupt) or INTERRUPTED}', file=sys.stderr, flush=True)
            sys.stdout.flush()
        except OSError:  # what read the output got the signal too
            _close_outputs()
        return 130


class _Visible(python_logging.Formatter):
    """Formats records so that no text in them controls the terminal."""

    def format(self, record):
        return _visible(super().format(record))


def _close_outputs():
    """What is still buffered goes nowhere: Python would fail to write it at its end."""
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _make_printable():
    """Opens standard streams that were closed, and lets them print any file's name."""
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        if getattr(sys, name) is None:  # as of `>&-`
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, open(number, 'w', encoding='utf-8'))
        if isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors='backslashreplace')


def _check_paths():
    """Refuses remote paths before any work, and expands ~; no other text looks like these."""
    for flag in FLAGS.get_key_flags_for_module(sys.argv[0]):
        if isinstance(flag.value, str):
            check_local(flag.value, f'--{flag.name}={flag.value}')
            if flag.value.startswith('~'):  # a shell does not, behind a =
                flag.value = os.path.expanduser(flag.value)
