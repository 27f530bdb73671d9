"""Reads a program's command line into absl's flags; messages name the flag and what is legal."""

import difflib
import os
import re
import sys

from absl import flags

from zscgan_tf.commands import flag_words
from zscgan_tf.errors import UserError

FLAGS = flags.FLAGS
# Flags that absl knows, for the help of a program; all others of absl stay unseen.
OF_ABSL = (
    flags.BooleanFlag('help', False, 'The most used flags.'),
    flags.BooleanFlag('helpfull', False, 'All flags.'),
    flags.Flag(
        flags.ArgumentParser(),
        None,
        'flagfile',
        None,
        'A file of flags, one a line; flags that are passed behind it count more.',
    ),
)
HELP = ('--help', '-help', '-h', '-?', '--helpshort')
HELP_FULL = ('--helpfull', '-helpfull')


def help_asked(arguments: list[str]) -> str | None:
    """Which help a command line asks for: 'full', 'short' or None."""
    ours = arguments[: arguments.index('--')] if '--' in arguments else arguments
    if any(argument in HELP_FULL for argument in ours):
        return 'full'
    return 'short' if any(argument in HELP for argument in ours) else None


def shown_flags() -> list[flags.Flag]:
    """The flags of the program that runs, and those of absl that are of use."""
    return [*FLAGS.get_key_flags_for_module(sys.argv[0]), *OF_ABSL]


def parse(arguments: list[str]) -> None:
    """Parses a command line; an argument without a flag is --teacher, where there is such a flag.

    Args:
        arguments: the program's name, and what stands behind it.

    Raises:
        UserError: an unknown flag, an illegal value, more than one argument without a flag.
    """
    FLAGS.set_gnu_getopt(True)  # flags may stand behind the model too
    try:
        rest = FLAGS(arguments)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname)) from error
    except UnicodeDecodeError as error:
        raise UserError('--flagfile names a file that is no text: pass a file of flags.') from error
    except (flags.Error, ValueError, OSError) as error:
        raise UserError(_explained(str(error))) from error
    for flag in shown_flags():
        if isinstance(flag.value, str) and flag.value.startswith('--'):
            raise UserError(_without_value(flag.name))
    _take_teacher(rest)


def _take_teacher(rest):
    if not rest:
        return
    if 'teacher' not in FLAGS:
        raise UserError(
            f'unexpected argument {rest[0]!r}: every value belongs to a --flag; see --help.'
        )
    if len(rest) > 1:
        name = 'model' if 'model' in FLAGS else 'output'
        forgotten = name in FLAGS and not FLAGS[name].value
        advice = f'did you mean --{name}={rest[1]}?' if forgotten else 'see --help.'
        raise UserError(
            f'unexpected argument {rest[1]!r}: only the model, {rest[0]!r} here, stands without a '
            f'--flag; {advice}'
        )
    teacher = FLAGS.teacher
    if teacher and os.path.realpath(teacher) != os.path.realpath(rest[0]):
        raise UserError(
            f'unexpected argument {rest[0]!r}: the model is --teacher={teacher} already: pass one '
            f'of them; see --help.'
        )
    FLAGS.teacher = rest[0]


def _without_value(name):
    return f'--{name} is without its value: pass --{name}=VALUE; see --help.'


def _unknown(name):
    names = [flag.name for flag in shown_flags()]
    names += [f'no{flag.name}' for flag in shown_flags() if flag.boolean]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    advice = f'did you mean --{near[0]}?' if near else 'see --help, or --helpfull for all flags.'
    return f'--{name} is no flag of this program: {advice}'


def _explained(message):
    """absl's message, in the words of this program where it is of a flag's value."""
    words = ' '.join(message.split()).removeprefix('ERROR:: ')
    if illegal := re.match(r'flag --(\w+)=', words):
        flag = FLAGS[illegal[1]]
        value = _refused_value(flag, words[illegal.end() :])
        return f'--{flag.name}={value} must be {flag_words.legal(flag)}.'
    if missing := re.match(r'Missing value for flag -*(\w+)', words):
        return _without_value(missing[1])
    return words


def _refused_value(flag, words):
    """The value in 'value: why', where either may hold a colon."""
    for colon in re.finditer(': ', words):
        value, why = words[: colon.start()], words[colon.end() :]
        try:
            flag.parser.parse(value)
        except (TypeError, ValueError) as error:
            if str(error) == why:
                return value
    return words
