"""The text of `--help` and `--helpfull`: usage, examples, and flags in groups, for 80 columns."""

import os
import re
import sys
import textwrap

from absl import flags

from zscgan_tf.commands import flag_words, groups

WIDTH = 80
INDENT = 27


def text(docstring: str, usage: str, shown: list[flags.Flag], full: bool) -> str:
    """The help of a program.

    Args:
        docstring: of its module: what the program does in one line; paragraphs; examples, which are
            indented.
        usage: what stands behind the program's name.
        shown: its flags.
        full: whether all flags are shown, not only the most used ones.
    """
    first, *paragraphs = re.split(r'\n\s*\n', docstring.strip())
    examples = [p for p in paragraphs if p.startswith(' ')]
    prose = [p for p in paragraphs if not p.startswith(' ')]
    parts = [
        ' '.join(filter(None, ('usage:', program_name(sys.argv[0]), usage, '[--flag=value ...]'))),
        _filled(first),
        *map(_examples, examples),
        *map(_filled, prose),
    ]
    for group, members in in_groups(shown, full):
        lines = [f'{group}:', *(line for flag in members for line in _entry(flag))]
        parts.append('\n'.join(lines))
    return '\n\n'.join(parts)


def in_groups(shown: list[flags.Flag], full: bool) -> list[tuple[str, list[flags.Flag]]]:
    """The groups that are not empty, in their order, each with its flags in theirs."""
    members = {group: [] for group in groups.ORDER}
    for flag in shown:
        where = groups.place(flag.name)
        if full or where.basic:
            members[where.group].append(flag)
    return [
        (group, sorted(found, key=lambda flag: groups.place(flag.name).rank))
        for group, found in members.items()
        if found
    ]


def program_name(path: str) -> str:
    """What a program is called in its help: as the user started it."""
    name = os.path.basename(path)
    folder = os.path.basename(os.path.dirname(path))
    if folder == 'commands':
        return f'python -m zscgan_tf.commands.{name.removesuffix(".py")}'
    return f'bin/{name}' if name.endswith('.py') else name


def _filled(paragraph):
    return '\n'.join(_wrapped(_started(' '.join(paragraph.split())), WIDTH))


def _wrapped(words, width):
    return textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False)


def _examples(paragraph):
    lines = [f'  {line.strip()}' for line in paragraph.splitlines()]
    for i in range(1, len(lines)):
        if lines[i - 1].endswith('\\'):
            lines[i] = f'    {lines[i]}'
    return _started('\n'.join(lines))


def _started(words):
    """Programs in a text as they are called where they are installed."""
    if sys.argv[0].endswith('.py'):
        return words
    return re.sub(r'bin/(\w+)\.py', lambda m: 'zscgan-' + m[1].replace('_', '-'), words)


def _entry(flag):
    form = f'  {flag_words.form(flag)}'
    lines = _wrapped(flag_words.text(flag), WIDTH - INDENT)
    if len(form) > INDENT - 2:
        yield form
    else:
        yield f'{form:<{INDENT}}{lines.pop(0)}' if lines else form
    yield from (f'{"":<{INDENT}}{line}' for line in lines)
